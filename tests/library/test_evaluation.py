"""Perplexity, bits per byte, likelihoods and answers against values worked out by hand and against plain loops."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import as_a_reader_sees_it, randomised
from torch import Tensor, nn

from nextword import evaluation
from nextword.decoder import Decoder, DecoderConfig
from nextword.evaluation import (
    Choice,
    bits_per_byte,
    few_shot_prompt,
    generate_until,
    multiple_choice,
    perplexity,
)
from nextword.tokenizers import ByteBPE


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
    ids = torch.arange(20)
    assert perplexity(model, ids) == perplexity(model, ids, context_length=model.config.context_length)


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
    for measure in (lambda m: bits_per_byte(m, Bytes(), "text"), lambda m: perplexity(m, ids)):
        with pytest.raises(ValueError, match="context_length is missing"):
            measure(uniform(256))


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
    found = evaluation.loglikelihood(model, letters, pairs, bos_id=50)
    expected = [[b, c], [b, _c], [b, _c], [a, b, c], [b, c], [50, a, b, c]]
    for score, ids in zip(found, expected, strict=True):
        assert score.log_prob == pytest.approx(by_hand(model, ids), abs=1e-12)


def test_a_context_may_be_ids_which_are_taken_as_they_are() -> None:
    model, letters = Chain(), Letters()
    for context in ([9, 7], (9, 7)):
        [score] = evaluation.loglikelihood(model, letters, [(context, " c")])
        assert score.log_prob == pytest.approx(by_hand(model, [7, 5]), abs=1e-12)
    texts = [("ab", "c"), ([0, 2], "c"), ([0, 2], "c"), ([], "c")]
    found = [score.log_prob for score in evaluation.loglikelihood(model, letters, texts, bos_id=50)]
    assert found == pytest.approx([by_hand(model, [2, 4])] * 3 + [by_hand(model, [50, 4])], abs=1e-12)
    refused: tuple[tuple[Any, type[Exception], str], ...] = (
        (([], "c"), ValueError, "pairs holds an empty context; give bos_id="),
        (([3, 4], ""), ValueError, r"continuation '', which adds no token to \[3, 4\]"),
        (([3, 4.5], "c"), TypeError, r"a context in pairs must be one row of whole numbers, .* got \[3, 4.5\]"),
        (
            (torch.ones(1, 2, dtype=torch.int64), "c"),
            ValueError,
            r"a context in pairs must have shape \(T,\), got \(1, 2\)",
        ),
    )
    for pair, error, message in refused:
        with as_a_reader_sees_it(), pytest.raises(error, match=message):
            evaluation.loglikelihood(model, letters, [pair])


def test_a_continuation_may_be_ids_which_are_taken_as_they_are() -> None:
    model, letters = Chain(), Letters()
    pairs = [("ab", [4]), ([0, 2], (4,)), ("ab ", [9, 7]), ([], [4])]
    found = [score.log_prob for score in evaluation.loglikelihood(model, letters, pairs, bos_id=50)]
    expected = [[2, 4], [2, 4], [2, 9, 7], [50, 4]]
    assert found == pytest.approx([by_hand(model, ids) for ids in expected], abs=1e-12)
    for pair, error, message in (
        (("a", []), ValueError, r"continuation \[\], which adds no token to 'a'"),
        (("a", 4), TypeError, "a continuation in pairs must be one row of whole numbers"),
    ):
        with as_a_reader_sees_it(), pytest.raises(error, match=message):
            evaluation.loglikelihood(model, letters, [pair])
    with (
        as_a_reader_sees_it(),
        pytest.raises(ValueError, match="the ids of pairs run from 1 to 40; they must lie in 0 … 30 - 1"),
    ):
        evaluation.loglikelihood(tiny(vocab_size=30), letters, [([1, 40], [2])])


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
    [(("ab", ""), "continuation '', which adds no token to 'ab'"), (("", "ab"), "empty context; give bos_id=")],
)
def test_nothing_to_score_is_refused(pair: tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation.loglikelihood(Chain(), Letters(), [pair])


# --- What all contexts begin with ---


SIZES: dict[str, Any] = {"d_model": 12, "n_layers": 2, "n_heads": 3}
LLAMA: dict[str, Any] = {"norm": "rms", "activation": "swiglu", "positions": "rotary", "bias": False, "n_kv_heads": 1}
EXAMPLES = "the cat sat on a mat and the dog lay in the sun all day long"  # 45 letters
SHARED = {
    "queries": [(f"{EXAMPLES} {query}", answer) for query, answer in (("owl", " hoots"), ("hen", " a"), ("ox", " b"))],
    "one context": [(EXAMPLES, " a"), (EXAMPLES, " bb"), (EXAMPLES, " c"), (EXAMPLES + " ", "c")],
    "one context begins the other": [(EXAMPLES, " ox"), (f"{EXAMPLES} ox", " eats"), (f"{EXAMPLES} ox eats", " hay")],
    "too long": [(EXAMPLES * 3, " at"), (EXAMPLES * 3, " it"), (EXAMPLES * 3, " on")],
    "some too long": [("ab" * 20, "ca"), ("ab" * 45 + "a", "cb"), ("ab" * 30, "cc")],  # what is left begins alike
    "one goes another way": [("a" * 40 + end, "z") for end in ("bbbbbc", "xxxxxxxxx", "bbbbbd")],
    "twice the same": [(EXAMPLES, " ox")] * 3,
}


def tiny(context_length: int = 80, vocab_size: int = 54, **changes: Any) -> Decoder:
    return randomised(Decoder(DecoderConfig(vocab_size=vocab_size, context_length=context_length, **SIZES, **changes)))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of ids in each batch that a decoder reads."""
    read, hidden = [], Decoder.hidden

    def spy(self: Decoder, ids: Tensor, **settings: Any) -> Tensor:
        read.append(ids.numel())
        return hidden(self, ids, **settings)

    monkeypatch.setattr(Decoder, "hidden", spy)
    return read


def in_one_piece(model: Decoder, context: str, continuation: str) -> tuple[float, bool]:
    """Score a single text by a plain forward pass; the space at the end of a context goes with the continuation."""
    known = Letters().encode(context.rstrip(" "))
    ids = Letters().encode(context + continuation)
    n = len(ids) - len(known)
    ids = ids[-(model.config.context_length + 1) :]
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0, -n:]
    chosen = logits.log_softmax(-1)[torch.arange(n), ids[-n:]]
    return chosen.sum().item(), logits.argmax(-1).tolist() == ids[-n:]


@pytest.mark.parametrize("changes", [{}, LLAMA, {"positions": "sinusoidal"}], ids=["gpt2", "llama", "sinusoidal"])
@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("at_once", [2048, 20])
def test_a_shared_beginning_is_read_once_and_changes_no_score(
    kind: str, changes: dict[str, Any], at_once: int, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_TOKENS_AT_ONCE", at_once)  # 20: a text in each batch
    model, pairs = tiny(**changes), SHARED[kind]
    found = evaluation.loglikelihood(model, Letters(), pairs)
    together, _ = sum(read), read.clear()
    whole = evaluation.loglikelihood(model, Letters(), pairs, share_prefix=False)
    assert together < sum(read) or kind == "twice the same" or at_once == 20
    for a, b, pair in zip(found, whole, pairs, strict=True):
        log_prob, is_greedy = in_one_piece(model, *pair)
        assert a.log_prob == pytest.approx(log_prob, abs=1e-10) and a.is_greedy == is_greedy
        assert b.log_prob == pytest.approx(log_prob, abs=1e-10) and b.is_greedy == is_greedy


def test_the_likeliest_continuation_is_greedy_also_after_a_shared_beginning() -> None:
    model, spelt = (
        tiny(vocab_size=52),
        [f" {a}" if space else a for a in "abcdefghijklmnopqrstuvwxyz" for space in (0, 1)],
    )
    contexts = [f"{EXAMPLES} {query}" for query in ("owl", "hen", "ox")]
    pairs = [(context, a) for context in contexts for a in spelt]
    found = evaluation.loglikelihood(model, Letters(), pairs)
    for i in range(3):
        some = found[52 * i : 52 * i + 52]
        with torch.no_grad():
            best = int(model(torch.tensor([Letters().encode(contexts[i])])).logits[0, -1].argmax())
        assert max(range(52), key=lambda j: some[j].log_prob) == best
        assert [s.is_greedy for s in some] == [j == best for j in range(52)]


def test_what_is_read_is_the_beginning_once_and_the_rest_of_each_text(read: list[int]) -> None:
    pairs = [("a" * 40 + letter, "z") for letter in "bcdefg"]  # 41 letters each, of which 40 are the same
    evaluation.loglikelihood(tiny(), Letters(), pairs)
    assert read == [40, 6]
    read.clear()
    evaluation.loglikelihood(tiny(), Letters(), pairs, share_prefix=False)
    assert read == [6 * 41]
    read.clear()
    evaluation.loglikelihood(tiny(), Letters(), [("abc", letter) for letter in "defgh"])  # one question, five answers
    assert read == [3]
    read.clear()
    evaluation.loglikelihood(tiny(), Letters(), [("abc", "d"), ("abd", "d")])  # so little is not read apart
    assert read == [6]


def test_scoring_drops_nothing_and_leaves_the_mode_as_it_was() -> None:
    model = tiny(dropout=0.5)
    expected = evaluation.loglikelihood(model.eval(), Letters(), SHARED["queries"])
    model.train()
    assert evaluation.loglikelihood(model, Letters(), SHARED["queries"]) == expected and model.training


def test_a_start_token_is_part_of_what_is_shared(read: list[int]) -> None:
    pairs = [("", "a"), ("b", "a"), ("bc", "a")]
    found = evaluation.loglikelihood(tiny(), Letters(), pairs, bos_id=53)
    for score, ids in zip(found, ([53], [53, 2], [53, 2, 4]), strict=True):
        with torch.no_grad():
            assert score.log_prob == pytest.approx(
                tiny()(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[0].item(), abs=1e-10
            )
    read.clear()
    pairs = [(EXAMPLES + letter, "z") for letter in "abcd"]
    evaluation.loglikelihood(tiny(), Letters(), pairs, bos_id=53)
    assert read == [1 + 45, 4]


# --- Prompts with examples ---


PLURALS = [("dog", "dogs"), ("ox", "oxen"), ("hen", "hens"), ("mouse", "mice")]


def test_prompts_written_by_hand() -> None:
    assert few_shot_prompt(PLURALS, 0, query="cat") == "cat ->"
    assert few_shot_prompt([], 0, query="cat", instruction="Give the plural.") == "Give the plural.\ncat ->"
    assert few_shot_prompt(PLURALS[:1], 1, query="cat") == "dog -> dogs\ncat ->"
    questions = {"template": "Q: {query}\nA: {answer}", "separator": "\n\n", "instruction": "Plurals:"}
    expected = "Plurals:\n\nQ: dog\nA: dogs\n\nQ: cat\nA:"
    assert few_shot_prompt(PLURALS[:1], 1, query="cat", **questions) == expected
    assert few_shot_prompt(PLURALS[:1], 1, query="cat", template="{query}={answer}") == "dog=dogs\ncat="
    below = few_shot_prompt(PLURALS[:1], 1, query="cat", template="{query}:\n{answer}")
    assert below == "dog:\ndogs\ncat:\n"
    twice = few_shot_prompt(PLURALS[:1], 1, query="cat", template="{query}, {query}: {answer}")
    assert twice == "dog, dog: dogs\ncat, cat:"
    braces = few_shot_prompt([("{query}", "{answer} {0}")], 1, query="{x}")
    assert braces == "{query} -> {answer} {0}\n{x} ->"
    both = {f"{a} -> {x}\n{b} -> {y}\ncat ->" for (a, x), (b, y) in itertools.permutations(PLURALS[:2])}
    assert few_shot_prompt(PLURALS[:2], 2, query="cat") in both


def test_one_seed_draws_the_same_examples_for_every_query_and_others_others() -> None:
    pool = [(f"q{i}", f"a{i}") for i in range(20)]

    def shown(query: str, seed: int, k: int = 5) -> list[str]:
        prompt = few_shot_prompt(pool, k, query=query, generator=torch.Generator().manual_seed(seed))
        lines = prompt.split("\n")
        assert lines.pop() == f"{query} ->" and len(lines) == k
        return lines

    assert len({tuple(shown(query, seed=3)) for query in ("cat", "dog", "ox")}) == 1
    assert len({tuple(shown("cat", seed)) for seed in range(20)}) == 20
    assert len({frozenset(shown("cat", seed)) for seed in range(20)}) > 15  # and not only in another order
    torch.manual_seed(4)
    first = few_shot_prompt(pool, 5, query="cat")
    assert few_shot_prompt(pool, 5, query="cat") != first  # torch's own numbers go on
    torch.manual_seed(4)
    assert few_shot_prompt(pool, 5, query="cat") == first


def test_examples_differ_and_each_is_as_likely_to_come_first() -> None:
    generator, firsts = torch.Generator().manual_seed(0), Counter()
    for _ in range(400):
        *shown, _ = few_shot_prompt(PLURALS, 3, query="cat", generator=generator).split("\n")
        assert len(set(shown)) == 3 and set(shown) < {f"{q} -> {a}" for q, a in PLURALS}
        firsts[shown[0]] += 1
    assert len(firsts) == 4 and all(70 <= n <= 130 for n in firsts.values())  # 100 ± 3.5 standard deviations


def test_the_query_is_never_among_its_own_examples() -> None:
    pool = [*PLURALS, ("ox", "oxes")]  # with another answer it would still be the query
    for seed, (query, _) in itertools.product(range(10), PLURALS):
        generator = torch.Generator().manual_seed(seed)
        k = sum(q != query for q, _ in pool)
        *shown, last = few_shot_prompt(pool, k, query=query, generator=generator).split("\n")
        assert last == f"{query} ->"
        assert sorted(shown) == sorted(f"{q} -> {a}" for q, a in pool if q != query)


def test_a_query_of_the_pool_gives_up_its_place_and_moves_no_other_example() -> None:
    pool = [(f"q{i}", f"a{i}") for i in range(12)]
    *order, _ = few_shot_prompt(pool, 12, query="cat", generator=torch.Generator().manual_seed(0)).split("\n")
    for query, answer in pool:
        *shown, _ = few_shot_prompt(pool, 4, query=query, generator=torch.Generator().manual_seed(0)).split("\n")
        assert shown == [line for line in order if line != f"{query} -> {answer}"][:4]


@pytest.mark.parametrize(
    ("k", "settings", "message"),
    [
        (-1, {}, "k=-1 is outside 0 … 4, the examples other than the query"),
        (5, {}, "k=5 is outside 0 … 4"),
        (4, {"query": "ox"}, "k=4 is outside 0 … 3"),
        (1, {"template": "answer: {answer}"}, r"template='answer: \{answer\}': it needs \{query\}"),
        (1, {"template": "{query} -> {answer}."}, r"and \{answer\} at its end"),
        (1, {"template": "{answer} <- {query}"}, r"and \{answer\} at its end"),
    ],
)
def test_impossible_prompts_are_refused(k: int, settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        few_shot_prompt(PLURALS, k, **{"query": "cat", **settings})


# --- Answers to choose from ---


class Words:
    """One token a word, with the space before it."""

    vocab_size = 54

    def __init__(self, *words: str) -> None:
        self.ids = {word: i for i, word in enumerate(words)}

    def encode(self, text: str) -> list[int]:
        return [self.ids[word] for word in re.findall(" *[^ ]+", text)]


def table_of(words: Words, probabilities: dict[str, dict[str, float]]) -> Chain:
    """Return a model that gives these words these probabilities after a word; the other words share the rest."""
    model = Chain()
    with torch.no_grad():
        for word, after in probabilities.items():
            row = model.table[words.ids[word]]
            row.fill_((1 - sum(after.values())) / (54 - len(after)))
            for other, p in after.items():
                row[words.ids[other]] = p
            row.log_()
    return model


WORDS = Words("Q", "A", " é", " four", " c", " four four", "S")
RULES = table_of(
    WORDS,
    {
        "Q": {" é": 0.5, " four": 0.1, " c": 0.25},
        # after the question é is the likeliest: 0.5. By letters it is four: ln 0.1 / 4 = -0.576, against ln 0.5 = -0.693
        # and ln 0.25 = -1.386. (With the space counted: -0.461 against -0.347; by bytes, é being two of them: -0.347.)
        # Without the question c is the rarest: 0.5 / 0.8, 0.1 / 0.1 and 0.25 / 0.05 are 0.625, 1 and 5.
        "A": {" é": 0.8, " four": 0.1, " c": 0.05},
        "S": {" é": 0.2, " four": 0.1, " c": 0.6},
    },
)
QUESTION = Choice("Q", (" é", " four", " c"), 0)


@pytest.mark.parametrize(
    ("answer", "expected"), [(0, (1.0, 0.0, 0.0)), (1, (0.0, 1.0, 0.0)), (2, (0.0, 0.0, 1.0))], ids=["é", "four", "c"]
)
def test_three_rules_choose_three_answers(answer: int, expected: tuple[float, ...]) -> None:
    items = [QUESTION._replace(answer=answer)] * 2
    found = multiple_choice(RULES, WORDS, items, answer_context="A")
    assert found[:3] == expected and found.right == (bool(expected[0]),) * 2 and found.stderr == 0
    assert multiple_choice(RULES, WORDS, items)[:3] == (*expected[:2], None)


def test_the_share_and_its_standard_error_by_hand() -> None:
    # of 1 1 0 1 the mean is 3/4, the sample variance (3 · 1/16 + 9/16) / 3 = 1/4, and √(1/4) / √4 = 1/4
    answers = (0, 0, 2, 0)
    found = multiple_choice(RULES, WORDS, [QUESTION._replace(answer=a) for a in answers], answer_context="A")
    assert found.acc == 0.75 and found.right == (True, True, False, True)
    assert found.stderr == pytest.approx(0.25, abs=1e-15)
    assert (found.acc_per_char, found.acc_answer_context) == (0.0, 0.25)


def test_questions_may_have_different_numbers_of_choices() -> None:
    items = [
        Choice("Q", (" four", " c"), 1),
        Choice("Q", (" four",), 0),
        Choice("S", (" é", " four", " c"), 2),
        Choice("Q", (" c", " four", " é"), 0),
    ]
    assert multiple_choice(RULES, WORDS, items).right == (True, True, True, False)


def test_of_equals_the_first_is_chosen() -> None:
    model = table_of(WORDS, {word: {" é": 0.3, " c": 0.3, " four": 0.1} for word in ("Q", "A")})
    first, last = Choice("Q", (" four", " é", " c"), 1), Choice("Q", (" four", " c", " é"), 2)
    found = multiple_choice(model, WORDS, [first, last, last, last], answer_context="A")
    assert found.right == (True, False, False, False) and found.acc == 0.25
    same = Choice("Q", (" c", " c"), 1)
    assert multiple_choice(model, WORDS, [same, same._replace(answer=0)], answer_context="A")[:3] == (0.5, 0.5, 0.5)


def test_a_start_token_stands_before_questions_and_answers() -> None:
    items, start = [QUESTION._replace(context="", answer=a) for a in (0, 2)], WORDS.ids["S"]
    found = multiple_choice(RULES, WORDS, items, bos_id=start, answer_context="")
    # after S c is the likeliest, by letters too (-0.511 against -0.576); without a question nothing changes: all are equal
    assert found.right == (False, True) and found.acc_per_char == 0.5 and found.acc_answer_context == 0.5
    with pytest.raises(ValueError, match="empty context; give bos_id="):
        multiple_choice(RULES, WORDS, items)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "items holds 0; at least 2 are needed for a standard error"),
        ([QUESTION], "items holds 1; at least 2"),
        ([QUESTION, QUESTION._replace(answer=3)], r"items holds the answer 3 to 3 choices: Choice\(context='Q'"),
        ([QUESTION._replace(answer=-1), QUESTION], "items holds the answer -1 to 3 choices"),
        ([QUESTION, Choice("Q", (), 0)], "items holds the answer 0 to 0 choices"),
    ],
)
def test_questions_without_an_answer_are_refused(items: list[Choice], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multiple_choice(RULES, WORDS, items)


class Spaced(Letters):
    """A space at the end of a text is a token too, as it is for bytes."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text) + [52] * text.endswith(" ")


def test_an_answer_of_nothing_but_a_space_is_refused() -> None:
    with pytest.raises(ValueError, match="items"):
        multiple_choice(Chain(), Spaced(), [Choice("a", (" b", " "), 0)] * 2)


# --- Completions ---


ALPHABET = b"abcdefghijklmnopqrstuvwxyz ->!\n"
MERGED = (b" x", b"!\n", b"aa")


def letters_and_end() -> ByteBPE:
    """Return a vocabulary of a few bytes, three longer tokens and two special ones."""
    tokens = [bytes([byte]) for byte in ALPHABET] + list(MERGED)
    special = {"<|end|>": len(tokens), "<|pad|>": len(tokens) + 1}
    absent = bytes(set(range(256)) - set(ALPHABET))
    ranks = {token: i for i, token in enumerate(tokens)}
    return ByteBPE(ranks, special_tokens=special, absent=absent, pattern=r"[^!]|!\n?| x")


def writer_of(bpe: ByteBPE, *chains: list[str]) -> Decoder:
    """Return a decoder that looks at the last token alone, and writes what follows it in one of these chains."""
    size = bpe.vocab_size
    sizes = {"vocab_size": size, "context_length": 40, "d_model": size, "n_layers": 1, "n_heads": 1, "d_ff": 1}
    model = Decoder(DecoderConfig(**sizes, tie_embeddings=False)).double()
    known = {bpe.token_bytes(i): i for i in range(size)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.norm.weight.fill_(1.0)
        model.embedding.weight.copy_(torch.eye(size))
        for chain in chains:
            for token, after in itertools.pairwise(chain):
                model.output.weight[known[after.encode()], known[token.encode()]] = 1.0
    return model


def test_an_answer_ends_before_a_stop_and_before_a_special_token() -> None:
    bpe = letters_and_end()
    chains = {
        "a": ["a", " ", "c", "d", "\n", "e", "e"],
        "f": ["f", "g", "!\n", "h", "h"],  # the stop is the end of a longer token
        "i": ["i", " x", "j", "<|end|>", "k"],
        "l": ["l", "m", "n", "l"],  # never ends
        "o": ["o", "<|pad|>", "p"],
        "q": ["q", "\n"],
    }
    model = writer_of(bpe, *chains.values())
    together = generate_until(model, bpe, list(chains), max_new_tokens=7)
    assert together == ["cd", "g!", "xj", "mnlmnlm", "", ""]
    assert [generate_until(model, bpe, [prompt], max_new_tokens=7)[0] for prompt in chains] == together
    assert generate_until(model, bpe, ["l", "a"], max_new_tokens=2) == ["mn", "c"]
    assert generate_until(model, bpe, ["l", "a", "f"], max_new_tokens=5, stop="n") == ["m", "cd\ne", "g!\nhhh"]
    assert generate_until(model, bpe, ["l", "a"], max_new_tokens=7, stop="lm") == [
        "mn",
        "cd\neee",
    ]  # a stop of two tokens
    assert generate_until(model, bpe, []) == []


def test_nothing_is_written_past_the_last_stop(read: list[int]) -> None:
    bpe = letters_and_end()
    model = writer_of(bpe, ["f", "g", "!\n", "h"], ["i", "<|end|>"], ["q", "\n"])
    for prompts, expected in ((["f"], [1, 1]), (["i"], [1]), (["q"], [1]), (["i", "q"], [2]), (["i", "f"], [2, 2])):
        read.clear()
        generate_until(model, bpe, prompts, max_new_tokens=7)
        assert read == expected


def test_spaces_around_an_answer_are_cut_and_those_after_a_prompt_left_out(read: list[int]) -> None:
    bpe = letters_and_end()
    model = writer_of(bpe, ["a", " ", "c", " ", "\n"], ["b", "d", "\n"])
    model.output.weight.data[bpe.encode("e")[0], bpe.encode(" ")[0]] = 0.5  # c is likelier after a space
    assert generate_until(model, bpe, ["b", "b   ", "ba "], max_new_tokens=3) == ["d", "d", "c"]
    assert read[0] == 4  # b and ba, filled up
    model = writer_of(bpe, ["a", " ", "<|end|>"])
    assert generate_until(model, bpe, ["a"]) == [""]


def test_an_empty_prompt_needs_a_start_token() -> None:
    bpe = letters_and_end()
    model = writer_of(bpe, ["<|end|>", "a", "b", "\n"])
    for prompt in ("", "  "):
        with pytest.raises(ValueError, match="prompts holds an empty text; give bos_id="):
            generate_until(model, bpe, ["a", prompt])
    assert generate_until(model, bpe, ["", "a"], bos_id=bpe.special_tokens["<|end|>"]) == ["ab", "b"]


@pytest.mark.parametrize(
    "prompts",
    [["ab" * 19], ["a", "ab" * 19], ["ab" * 18 + end for end in "cdef"]],
    ids=["one", "one of two", "with a shared beginning"],
)
def test_prompt_and_answer_must_fit_the_context(prompts: list[str]) -> None:
    bpe = letters_and_end()
    model = writer_of(bpe, ["a", "b"], ["b", "a"])
    assert generate_until(model, bpe, ["ab" * 18], max_new_tokens=4) == ["abab"]  # 36 + 4 fill it
    with pytest.raises(ValueError, match="context_length=40"):
        generate_until(model, bpe, prompts, max_new_tokens=4)


@pytest.mark.parametrize("changes", [{}, LLAMA, {"positions": "sinusoidal"}], ids=["gpt2", "llama", "sinusoidal"])
@pytest.mark.parametrize("shared", ["", EXAMPLES.replace(" ", "")])
@pytest.mark.parametrize("at_once", [2048, 60])
def test_prompts_are_completed_as_if_each_were_alone(
    changes: dict[str, Any], shared: str, at_once: int, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_TOKENS_AT_ONCE", at_once)  # 60: several batches
    bpe = letters_and_end()
    model, special = tiny(vocab_size=bpe.vocab_size, **changes), set(bpe.special_tokens.values())
    prompts = [shared + end for end in ("ox ->", "a hen ->", "b", "the quick fox ->", "dog ->", "ox ->", "c x !")]
    answers = generate_until(model, bpe, prompts, max_new_tokens=8)
    first, together, _ = read[0], sum(read), read.clear()
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = bpe.encode(prompt)
        written = model.generate(torch.tensor([ids]), 8, temperature=0)[0, len(ids) :].tolist()
        ordinary = itertools.takewhile(lambda i: i not in special, written)
        assert answer == bpe.decode(ordinary).split("\n")[0].strip(" ")
    assert answers[0] == answers[5] and len(set(answers)) > 2
    if shared:
        assert first == len(shared) and (together < sum(read) / 2 or at_once < 2048)


def test_prompts_may_be_ids_and_a_stop_is_a_text() -> None:
    bpe = letters_and_end()
    model = writer_of(bpe, ["a", "b", "<|end|>"], ["c", "d", "\n"])
    texts = ["a", "c", "ca"]
    as_ids = [bpe.encode("a"), tuple(bpe.encode("c")), bpe.encode("ca")]
    assert generate_until(model, bpe, as_ids) == generate_until(model, bpe, texts) == ["b", "d", "b"]
    refused: tuple[tuple[Any, type[Exception], str], ...] = (
        ({"stop": 5}, TypeError, r"stop=5 is a int; give one text, such as '\\n'; special tokens end an answer by"),
        ({"stop": ["\n", "."]}, TypeError, r"stop=\['\\n', '.'\] is a list; give one text"),
        ({"stop": ""}, ValueError, "stop is an empty text"),
        ({"prompts": [5, 6]}, TypeError, "an entry of prompts must be one row of whole numbers, .* got 5"),
    )
    for change, error, message in refused:
        with as_a_reader_sees_it(), pytest.raises(error, match=message):
            generate_until(model, bpe, **{"prompts": texts, **change})


def test_writing_answers_leaves_the_mode_as_it_was() -> None:
    bpe = letters_and_end()
    model = tiny(vocab_size=bpe.vocab_size, dropout=0.5)
    expected = generate_until(model.eval(), bpe, ["ox", "a hen"], max_new_tokens=6)
    assert generate_until(model.train(), bpe, ["ox", "a hen"], max_new_tokens=6) == expected and model.training


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: evaluation.loglikelihood(Chain(), Letters(), ("ab", "c")),
            "pairs is .'ab', 'c'.; give a list of pairs",
        ),
        (lambda: few_shot_prompt(("dog", "dogs"), 1, query="cat"), "examples is .*; give a list of pairs"),
        (lambda: few_shot_prompt("dog -> dogs", 1, query="cat"), "examples is 'dog -> dogs'; give a list of pairs"),
        (lambda: generate_until(tiny(), letters_and_end(), "ox ->"), "prompts is 'ox ->'; give a list of texts"),
        (
            lambda: perplexity(Chain(), [1, 2, 3], context_length=2),
            r"ids is a list; give .* such as torch.tensor\(ids\)$",
        ),
        (
            lambda: perplexity(Chain(), "text"),
            r"ids is a str; give .* such as torch.tensor\(tokenizer.encode\(text\)\)",
        ),
        (
            lambda: bits_per_byte(Chain(), "text", Letters()),
            r"text is a Letters; the order is .*model, tokenizer, text",
        ),
        (lambda: perplexity(Chain(), np.arange(3), context_length=2), "ids is a ndarray; give a tensor"),
        (lambda: perplexity(Chain(), torch.ones(3), context_length=2), "ids is a tensor of torch.float32; give"),
    ],
)
def test_one_text_in_place_of_a_list_is_refused(call: Callable[[], Any], message: str) -> None:
    """Else its letters would be taken for texts, without a word."""
    with as_a_reader_sees_it(), pytest.raises(TypeError, match=message):
        call()


# --- Labels ---


class SaysTheLast(nn.Module):
    """Finds the label that the last real id names."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.modes: list[bool] = []

    def forward(self, ids: Tensor, mask: Tensor) -> Any:
        self.modes.append(self.training)
        last = ids.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]
        return SimpleNamespace(logits=nn.functional.one_hot(last, 9).float())


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_accuracy_counts_right_labels_whatever_the_lengths(batch_size: int) -> None:
    examples = [([1, 2, 3], 3), ([4], 4), ([5, 5, 5, 5, 6], 5), ([8, 1], 1), ([0, 2], 0)]
    model = SaysTheLast().train()
    assert evaluation.accuracy(model, examples, fill=8, batch_size=batch_size) == 3 / 5
    assert not any(model.modes) and model.training
    with pytest.raises(ValueError, match="examples is empty"):
        evaluation.accuracy(model, [])
