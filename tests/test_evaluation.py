"""Perplexity and bits per byte against values worked out by hand and against a plain loop."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nextword import evaluation
from nextword.evaluation import bits_per_byte, bootstrap_interval, perplexity


class Bigram(nn.Module):
    """A table of log-probabilities: row = present token, column = next token. It notes what it was asked."""

    def __init__(self, probabilities: list[list[float]], context_length: int | None = None) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(probabilities, dtype=torch.float64).log())
        self.asked: list[Tensor] = []
        self.modes: list[bool] = []
        if context_length is not None:
            self.config = SimpleNamespace(context_length=context_length, vocab_size=len(probabilities))

    def forward(self, ids: Tensor) -> SimpleNamespace:
        self.asked += list(ids)
        self.modes.append(self.training or not torch.is_inference_mode_enabled())
        return SimpleNamespace(logits=self.table[ids], loss=None)


class Prefix(nn.Module):
    """Scores the next token from *all* tokens of the window, so that a wrong window changes the result."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.table = nn.Parameter(torch.randn(vocab_size, vocab_size, generator=generator, dtype=torch.float64))

    def forward(self, ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[ids].cumsum(1))


class Bytes:
    """One token a byte."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class BytesWithStart(Bytes):
    vocab_size = 257
    bos_id = 256


def uniform(vocab_size: int, **keywords: int) -> Bigram:
    return Bigram([[1 / vocab_size] * vocab_size] * vocab_size, **keywords)


@pytest.mark.parametrize("vocab_size", [2, 7, 100])
@pytest.mark.parametrize("context_length", [1, 4, 1000])
def test_a_uniform_model_has_perplexity_v(vocab_size: int, context_length: int) -> None:
    ids = torch.arange(50) % vocab_size
    assert perplexity(uniform(vocab_size), ids, context_length=context_length) == pytest.approx(vocab_size, rel=1e-12)


def test_a_model_that_is_sure_and_right_has_perplexity_one_and_one_that_is_sure_and_wrong_infinity() -> None:
    counts_up = Bigram([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert perplexity(counts_up, torch.tensor([0, 1, 2, 0, 1]), context_length=2) == 1.0
    assert perplexity(counts_up, torch.tensor([0, 1, 2, 1]), context_length=2) == math.inf
    nearly = Bigram([[1.0, 0.0], [0.0, 1.0]])
    nearly.table.data = torch.tensor([[0.0, -800.0], [-800.0, 0.0]], dtype=torch.float64)
    assert perplexity(nearly, torch.tensor([0, 1, 0]), context_length=2) == math.inf  # exp(800) has no float64


def test_a_bigram_table_worked_by_hand() -> None:
    # P(0|0) = 1/4, P(1|0) = 3/4, P(0|1) = P(1|1) = 1/2; the text 0 1 1 0 0 costs 3/4 · 1/2 · 1/2 · 1/4 = 3/64.
    model = Bigram([[0.25, 0.75], [0.5, 0.5]])
    assert perplexity(model, torch.tensor([0, 1, 1, 0, 0]), context_length=3) == pytest.approx(
        (64 / 3) ** 0.25, rel=1e-12
    )


@given(st.integers(2, 40), st.integers(1, 45))
@settings(deadline=None, max_examples=60)
def test_every_token_but_the_first_is_scored_once_and_windows_share_one_token(length: int, context_length: int) -> None:
    model = uniform(length)
    perplexity(model, torch.arange(length), context_length=context_length)  # a token's id is its position
    windows = sorted((window.tolist() for window in model.asked), key=lambda window: window[0])
    scored = [position + 1 for window in windows for position in window]
    assert scored == list(range(1, length))
    assert [window[0] for window in windows] == list(range(0, length - 1, context_length))
    assert all(len(window) == context_length for window in windows[:-1])
    assert not any(model.modes), "the model must run in evaluation mode, without gradients"


@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_perplexity_equals_a_plain_loop(length: int, context_length: int, seed: int) -> None:
    model = Prefix(5)
    ids = torch.randint(5, (length,), generator=torch.Generator().manual_seed(seed))
    total = 0.0
    for position in range(1, length):
        start = (position - 1) // context_length * context_length
        logits = model.table[ids[start:position]].sum(0)
        total -= (logits - logits.logsumexp(0))[ids[position]].item()
    assert perplexity(model, ids, context_length=context_length) == pytest.approx(
        math.exp(total / (length - 1)), rel=1e-9
    )


def test_more_windows_than_fit_in_one_batch() -> None:
    model, ids = Bigram([[0.25, 0.75], [0.5, 0.5]]), torch.arange(9001) % 2  # 0 1 0 1 …: 3/4 · 1/2 a pair
    assert perplexity(model, ids, context_length=2) == pytest.approx((8 / 3) ** 0.5, rel=1e-12)
    assert len(model.modes) > 2


def test_sums_of_float32_losses_do_not_drift() -> None:
    model = uniform(3).float()
    once = perplexity(model, torch.zeros(2, dtype=torch.long), context_length=2048)
    assert perplexity(model, torch.zeros(300_001, dtype=torch.long), context_length=2048) == pytest.approx(
        once, rel=1e-12
    )


def test_ids_may_be_stored_as_uint16() -> None:
    ids = torch.tensor([0, 1, 1, 0, 0])
    model = Bigram([[0.25, 0.75], [0.5, 0.5]], context_length=3)
    assert perplexity(model, ids.to(torch.uint16), context_length=3) == perplexity(model, ids, context_length=3)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_every_module_is_put_back(training: bool) -> None:
    model = uniform(3)
    model.frozen = nn.Dropout()
    model.train(training)
    model.frozen.eval()
    perplexity(model, torch.tensor([0, 1]), context_length=1)
    assert (model.training, model.frozen.training) == (training, False)
    with pytest.raises(IndexError):
        perplexity(model, torch.tensor([0, 9, 1]), context_length=1)
    assert model.training == training


def test_bits_per_byte_with_a_start_token_scores_the_first_token_after_it() -> None:
    table = [[1 / 257] * 257 for _ in range(257)]
    table[256] = [1 / 514 if token != ord("a") else 1 - 256 / 514 for token in range(257)]  # "a" likes to come first
    # "aé" is three bytes: the first token costs -log2(258/514), the two others log2(257) each.
    expected = (-math.log2(258 / 514) + 2 * math.log2(257)) / 3
    model = Bigram(table, context_length=8)
    assert bits_per_byte(model, BytesWithStart(), "aé") == pytest.approx(expected, rel=1e-12)
    assert bits_per_byte(model, BytesWithStart(), "a") == pytest.approx(-math.log2(258 / 514), rel=1e-12)


def test_bits_per_byte_without_a_start_token_pays_log2_v_for_the_first_token() -> None:
    sure = Bigram([[1.0 if column == (row + 1) % 256 else 0.0 for column in range(256)] for row in range(256)])
    assert bits_per_byte(sure, Bytes(), "abcd", context_length=2) == pytest.approx(8 / 4, rel=1e-12)
    assert bits_per_byte(sure, Bytes(), "a", context_length=2) == pytest.approx(8.0, rel=1e-12)


def test_bits_per_byte_does_not_depend_on_how_the_text_is_cut_into_tokens() -> None:
    class Pairs(Bytes):
        vocab_size = 65_536

        def encode(self, text: str) -> list[int]:
            data = text.encode()
            return [256 * first + second for first, second in zip(data[::2], data[1::2], strict=True)]

    class Uniform(nn.Module):
        def forward(self, ids: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.zeros(*ids.shape, 65_536))

    text = "über das nächste"  # 18 bytes
    assert bits_per_byte(Uniform(), Pairs(), text, context_length=4) == pytest.approx(8, rel=1e-6)
    assert bits_per_byte(uniform(256), Bytes(), text, context_length=4) == pytest.approx(8, rel=1e-12)


def test_bits_per_byte_takes_the_context_length_from_the_model() -> None:
    model = uniform(256, context_length=5)
    bits_per_byte(model, Bytes(), "a longer text")
    assert max(len(window) for window in model.asked) == 5
    model.asked.clear()
    bits_per_byte(model, Bytes(), "a longer text", context_length=3)
    assert max(len(window) for window in model.asked) == 3


def test_bad_input_is_named() -> None:
    model, ids = uniform(4, context_length=6), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="context_length=0"):
        perplexity(model, ids, context_length=0)
    with pytest.raises(ValueError, match=r"context_length=7 is outside 1 … 6"):
        perplexity(model, ids, context_length=7)
    with pytest.raises(ValueError, match=r"ids has shape \(1,\)"):
        perplexity(model, ids[:1], context_length=2)
    with pytest.raises(ValueError, match=r"0 to 4; they must lie in 0 … 4 - 1"):
        perplexity(model, torch.tensor([0, 4]), context_length=2)
    with pytest.raises(ValueError, match="-100"):
        perplexity(model, torch.tensor([0, -100, 1]), context_length=2)
    with pytest.raises(TypeError, match="ids"):
        perplexity(model, torch.tensor([0.0, 1.0]), context_length=2)
    with pytest.raises(TypeError, match="gave no logits"):
        perplexity(nn.Identity(), ids, context_length=2)
    with pytest.raises(ValueError, match="text is empty"):
        bits_per_byte(model, Bytes(), "")
    with pytest.raises(ValueError, match="context_length is missing"):
        bits_per_byte(uniform(256), Bytes(), "text")


def test_bootstrap_interval_is_the_textbook_one_for_a_mean() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 4000)
    low, high = bootstrap_interval(np.mean, values, resamples=4000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_blocks_widen_the_interval_of_a_text_that_repeats_itself() -> None:
    values = np.repeat(np.random.default_rng(2).normal(size=400), 10)  # ten words in a row are the same
    single, blocks = bootstrap_interval(np.mean, values), bootstrap_interval(np.mean, values, block=10)
    assert (blocks[1] - blocks[0]) / (single[1] - single[0]) == pytest.approx(math.sqrt(10), rel=0.15)


def test_arrays_are_resampled_together() -> None:
    a = np.random.default_rng(3).normal(size=300)
    low, high = bootstrap_interval(lambda x, y: float(np.max(np.abs(x - y))), a, a.copy())
    assert (low, high) == (0.0, 0.0)
    assert (
        bootstrap_interval(np.mean, a, seed=1)
        == bootstrap_interval(np.mean, a, seed=1)
        != bootstrap_interval(np.mean, a)
    )


def test_bootstrap_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"lengths \[3, 4\]"):
        bootstrap_interval(lambda x, y: 0.0, np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="block=6 leaves 1 blocks"):
        bootstrap_interval(np.mean, np.ones(10), block=6)


# --- Likelihood of continuations ---


class Letters:
    """A tokenizer of single letters, in which a space belongs to the letter behind it, as in byte-level vocabularies."""

    vocab_size = 54

    def encode(self, text: str) -> list[int]:
        ids, space = [], False
        for letter in text:
            if letter == " ":
                space = True
            else:
                ids.append(2 * (ord(letter) - ord("a")) + space)
                space = False
        return ids


class Chain(nn.Module):
    """A model whose next token depends on the last one alone, by a table; it notes what it was asked."""

    def __init__(self, context_length: int | None = None) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(54, 54, generator=torch.Generator().manual_seed(0)).double())
        self.asked: list[Tensor] = []
        self.config = SimpleNamespace(context_length=context_length)

    def forward(self, ids: Tensor, *, mask: Tensor) -> Any:
        self.asked.append(torch.where(mask, ids, -1))
        return SimpleNamespace(logits=self.table[ids])


def by_hand(model: Chain, ids: list[int]) -> float:
    logs = model.table.log_softmax(-1)
    return sum(logs[a, b].item() for a, b in zip(ids, ids[1:], strict=False))


def test_a_continuation_is_scored_after_its_context_and_spaces_go_with_the_word() -> None:
    model, letters = Chain(), Letters()
    a, b, c, _c = 0, 2, 4, 5
    pairs = [("ab", "c"), ("ab", " c"), ("ab ", "c"), ("a", "bc"), ("aaaaaaaab", "c"), ("", "abc")]
    found = evaluation.loglikelihood(model, letters, pairs, start=50)
    expected = [[b, c], [b, _c], [b, _c], [a, b, c], [b, c], [50, a, b, c]]
    for score, ids in zip(found, expected, strict=True):
        assert score.log_prob == pytest.approx(by_hand(model, ids), abs=1e-12)


def test_greedy_means_every_token_is_the_first_choice() -> None:
    model, letters = Chain(), Letters()
    with torch.no_grad():
        model.table[0, 2] = model.table[2, 4] = 50.0  # after a comes b, after b comes c
    scores = evaluation.loglikelihood(model, letters, [("a", "bc"), ("a", "bb"), ("a", "b")])
    assert [s.is_greedy for s in scores] == [True, False, True]
    assert scores[0].log_prob == pytest.approx(0, abs=1e-9)


def test_a_text_too_long_loses_its_beginning_and_batches_change_nothing() -> None:
    model, letters = Chain(context_length=3), Letters()
    score = evaluation.loglikelihood(model, letters, [("abcde", "f")])[0]
    assert model.asked[0].tolist() == [[4, 6, 8]] and score.log_prob == pytest.approx(by_hand(model, [8, 10]))
    with pytest.raises(ValueError, match="continuation of 4 tokens, and the model sees context_length=3"):
        evaluation.loglikelihood(model, letters, [("a", "bcde")])
    draw = random.Random(0)
    pairs = [("".join(draw.choices("abc", k=draw.randint(1, 90))), "cab") for _ in range(200)]
    model = Chain()
    together = evaluation.loglikelihood(model, letters, pairs)
    assert 1 < len(model.asked) < 200
    alone = [evaluation.loglikelihood(model, letters, [pair])[0] for pair in pairs]
    assert [s.log_prob for s in together] == pytest.approx([s.log_prob for s in alone], abs=1e-12)


@pytest.mark.parametrize(
    ("pair", "message"),
    [(("ab", ""), "continuation '', which adds no token to 'ab'"), (("", "ab"), "empty context; give start=")],
)
def test_nothing_to_score_is_refused(pair: tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation.loglikelihood(Chain(), Letters(), [pair])
