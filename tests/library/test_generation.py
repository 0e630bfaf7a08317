"""Filters against transformers, sampling against its own distribution, beam search against full enumeration."""

from __future__ import annotations

import itertools
import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import as_a_reader_sees_it
from torch import Tensor

from nextword.generation import (
    UNATTENDED,
    Hypothesis,
    beam_search,
    coverage_penalty,
    filter_logits,
    length_penalty,
    sample,
)

EOS, BOS = 0, 1


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Toy:
    """A random language model in which every prefix has its own distribution and its own attention (float64)."""

    def __init__(self, vocab_size: int, seed: int, *, sources: int = 3, sharpness: float = 1.5) -> None:
        g = seeded(seed)
        self.words = torch.randn(64, vocab_size, generator=g, dtype=torch.float64) * sharpness
        self.looks = torch.randn(64, sources, generator=g, dtype=torch.float64) * 3
        self.salt = torch.randint(1, 1000, (64,), generator=g)
        self.calls: list[tuple[int, ...]] = []

    def prefix(self, ids: Tensor) -> Tensor:
        """A number from 0 to 63 that depends on every id and its position."""
        return ((ids + 1) * self.salt[: ids.shape[1]]).sum(1) % 64

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(tuple(ids.shape))
        key = self.prefix(ids)
        return self.words[key].log_softmax(-1), self.looks[key].softmax(-1)


class CachedToy(Toy):
    """The same model, which keeps the sum over the prefix of each row and reads only the newest id."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.sums: Tensor | None = None
        self.moves: list[Tensor] = []

    def prefix(self, ids: Tensor) -> Tensor:
        newest = (ids[:, -1] + 1) * self.salt[ids.shape[1] - 1]
        self.sums = newest if self.sums is None else self.sums + newest
        return self.sums % 64

    def reorder(self, rows: Tensor) -> None:
        assert self.sums is not None and rows.dtype == torch.int64
        self.moves.append(rows)
        self.sums = self.sums[rows]


def rescored(toy: Toy, ids: list[int], alpha: float, beta: float, mask: Tensor | None = None) -> Hypothesis:
    """What a hypothesis is worth, word by word and in plain Python."""
    log_prob, rows = 0.0, []
    for t, word in enumerate(ids):
        log_probs, attention = toy(torch.tensor([[BOS, *ids[:t]]]))
        log_prob += log_probs[0, word].item()
        rows.append(attention[0])
    attention = torch.stack(rows)
    real = range(attention.shape[1]) if mask is None else mask.nonzero().flatten().tolist()
    coverage = beta * sum(math.log(min(max(attention[:, i].sum().item(), 1e-10), 1.0)) for i in real)
    return Hypothesis(ids, log_prob, log_prob / ((5 + len(ids)) / 6) ** alpha + coverage, attention)


def every_sentence(vocab_size: int, max_length: int) -> list[list[int]]:
    others = [w for w in range(vocab_size) if w != EOS]
    ended = [[*p, EOS] for n in range(max_length) for p in itertools.product(others, repeat=n)]
    return ended + [list(p) for p in itertools.product(others, repeat=max_length)]


# --- filter_logits ---------------------------------------------------------------------------------------------------


def test_the_token_that_crosses_p_is_kept() -> None:
    """OpenAI's code keeps one token here, Holtzman's definition and transformers two."""
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64).log()
    assert filter_logits(logits, top_p=0.6).isfinite().tolist() == [[False, True, False, True]]
    assert filter_logits(logits, top_p=0.39).isfinite().sum() == 1
    assert filter_logits(logits, top_p=1e-9).isfinite().sum() == 1


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 7, 50, 1000])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.5, 0.9, 0.999])
def test_filters_equal_those_of_transformers(temperature: float, top_k: int | None, top_p: float | None) -> None:
    from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(20, 60, generator=seeded(1), dtype=torch.float64) * 3
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k is not None:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p is not None:
        expected = TopPLogitsWarper(top_p)(None, expected)
    found = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_temperature_divides_first_then_top_k_then_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    # At temperature 1/2 the shares are 25, 9, 4 of 38: the best alone has 0.66. Without the temperature it has 0.5.
    assert filter_logits(logits, temperature=0.5, top_p=0.6).isfinite().sum() == 1
    assert filter_logits(logits, top_p=0.6).isfinite().sum() == 2
    # After top_k=2 the best has 5/8 of what is left; before it had only 1/2.
    assert filter_logits(logits, top_k=2, top_p=0.6).isfinite().sum() == 1


def test_ties_with_the_kth_are_kept_and_temperature_zero_keeps_the_first_of_the_best() -> None:
    logits = torch.tensor([[1.0, 3.0, 1.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0, 2.0]])
    assert filter_logits(logits, top_k=3).isfinite().tolist() == [[True, True, True, True, False], [True] * 5]
    assert filter_logits(logits, temperature=0).isfinite().tolist() == [
        [False, True, False, False, False],
        [True] + [False] * 4,
    ]
    assert filter_logits(logits, temperature=0, top_k=2, top_p=0.5)[0, 1] == 3.0


def test_what_was_impossible_stays_impossible() -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.0, -math.inf]])
    for options in ({}, {"top_k": 3}, {"top_p": 0.9999}, {"temperature": 0.1}, {"temperature": 0}):
        assert not filter_logits(logits, **options).isfinite()[0, [1, 3]].any()


@given(st.integers(2, 40), st.floats(0.01, 1.0), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100)
def test_top_p_keeps_the_smallest_set_of_at_least_p(vocab_size: int, p: float, seed: int) -> None:
    logits = torch.randn(1, vocab_size, generator=seeded(seed), dtype=torch.float64) * 3
    shares = logits.softmax(-1)[0]
    kept = filter_logits(logits, top_p=p)[0].isfinite()
    assert shares[kept].sum() >= p - 1e-12
    assert shares[kept].sum() - shares[kept].min() < p + 1e-12  # without its least likely token it has less
    assert not (~kept).any() or shares[kept].min() >= shares[~kept].max()


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_top_k_keeps_k_and_leaves_their_values(vocab_size: int, k: int, seed: int) -> None:
    logits = torch.randn(3, vocab_size, generator=seeded(seed), dtype=torch.float64)
    found = filter_logits(logits, top_k=k)
    kept = found.isfinite()
    assert (kept.sum(-1) == min(k, vocab_size)).all()
    assert (found[kept] == logits[kept]).all()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"top_p": math.nan}, "top_p=nan"),
    ],
)
def test_filters_name_the_setting_that_is_out_of_range(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        filter_logits(torch.zeros(1, 3), **options)
    with pytest.raises(ValueError, match=name):
        sample(lambda ids: torch.zeros(len(ids), 3), torch.zeros(1, 1, dtype=torch.int64), 2, **options)


def test_logits_that_nothing_can_be_drawn_from_are_refused() -> None:
    for row in ([0.0, math.nan], [-math.inf, -math.inf], [0.0, math.inf]):
        with pytest.raises(ValueError, match="logits has a row"):
            filter_logits(torch.tensor([row]))
    with pytest.raises((ValueError, TypeError), match="logits"):
        filter_logits(torch.zeros(3))
    with pytest.raises(ValueError, match="logits has shape"):
        filter_logits(torch.zeros(3, 0))


# --- sample ----------------------------------------------------------------------------------------------------------


def starts(n: int) -> Tensor:
    return torch.full((n, 1), BOS)


def test_frequencies_are_those_of_the_filtered_distribution() -> None:
    from scipy.stats import chisquare

    shares = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04], dtype=torch.float64)
    for options, expected in (
        ({}, shares),
        ({"top_p": 0.6}, torch.tensor([4 / 7, 3 / 7, 0, 0, 0], dtype=torch.float64)),
        ({"top_k": 3}, torch.tensor([4 / 9, 3 / 9, 2 / 9, 0, 0], dtype=torch.float64)),
        ({"temperature": 0.5}, shares**2 / (shares**2).sum()),
    ):
        drawn = sample(lambda ids: shares.log().expand(len(ids), 5), starts(20_000), 1, generator=seeded(3), **options)
        counts = torch.bincount(drawn[:, 1], minlength=5)
        assert (counts[expected == 0] == 0).all()
        possible = expected > 0
        assert chisquare(counts[possible], (expected * 20_000)[possible]).pvalue > 1e-3, options


def test_every_token_depends_on_the_whole_row() -> None:
    toy = Toy(6, 0)
    drawn = sample(toy, starts(4), 5, temperature=0)
    assert toy.calls == [(4, t) for t in range(1, 6)]
    for t in range(1, 6):
        assert (drawn[:, t] == toy(drawn[:, :t])[0].argmax(-1)).all()


def test_the_same_generator_draws_the_same_text_and_greedy_draws_none() -> None:
    toy, ids = Toy(6, 0), starts(50)
    first, second = (sample(toy, ids, 8, generator=seeded(7)) for _ in range(2))
    assert (first == second).all() and first.shape == (50, 9) and (first[:, :1] == ids).all()
    assert (first != sample(toy, ids, 8, generator=seeded(8))).any()
    generator = seeded(7)
    state = generator.get_state()
    sample(toy, ids, 8, temperature=0, generator=generator)
    assert (generator.get_state() == state).all()
    before = torch.get_rng_state()
    sample(toy, ids, 8, generator=generator)
    assert (torch.get_rng_state() == before).all(), "a generator was given; torch's own must not be used"


def test_a_row_that_stops_repeats_its_stop_token_and_all_stop_early() -> None:
    script = torch.tensor([[2, 5, 3, 2, 2], [2, 2, 2, 4, 2], [5, 2, 2, 2, 2]])  # what the rows say, one column a step

    def step(ids: Tensor) -> Tensor:
        wanted = script[:, ids.shape[1] - 1]
        return torch.nn.functional.one_hot(wanted, 6).double() * 50

    both = sample(step, starts(3), 5, temperature=0, stop={4, 5})
    assert both[:, 1:].tolist() == [[2, 5, 5, 5], [2, 2, 2, 4], [5, 5, 5, 5]]  # four of at most five
    assert sample(step, starts(3), 5, temperature=0, stop=5)[:, 1:].tolist() == [
        [2, 5, 5, 5, 5],
        [2, 2, 2, 4, 2],
        [5] * 5,
    ]
    assert sample(step, starts(3), 5, temperature=0)[:, 1:].tolist() == script.tolist()
    assert sample(step, starts(3), 5, temperature=0, stop=[])[:, 1:].tolist() == script.tolist()
    assert sample(step, starts(3), 0).tolist() == starts(3).tolist()


def test_a_stop_token_in_the_prompt_stops_nothing() -> None:
    assert sample(Toy(6, 0), torch.tensor([[2, 2]]), 3, temperature=0, stop=2).shape[1] > 2


def test_sample_takes_logits_half_precision_and_a_step_that_returns_attention() -> None:
    toy = Toy(6, 0)
    plain = sample(toy, starts(9), 4, generator=seeded(0))
    shifted = sample(lambda ids: toy(ids)[0] + 10, starts(9), 4, generator=seeded(0))
    assert (plain == shifted).all()
    assert sample(lambda ids: toy(ids)[0].bfloat16(), starts(9), 4, generator=seeded(0)).shape == (9, 5)


def test_sampling_needs_no_gradients() -> None:
    weight = torch.zeros(4, requires_grad=True)
    seen = []

    def step(ids: Tensor) -> Tensor:
        seen.append(weight.expand(len(ids), 4) * 2)
        return seen[-1].log_softmax(-1)

    sample(step, starts(2), 2)
    beam_search(step, BOS, EOS, max_length=2)
    assert not any(s.requires_grad for s in seen)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (torch.zeros(1, 4), ValueError, r"step gave log-probabilities of shape \(1, 4\); for \d rows"),
        (torch.zeros(4), ValueError, r"log-probabilities of shape \(4,\)"),
        (torch.full((2, 4), math.nan), ValueError, "(log-probabilities with|largest entry is) NaN"),
        (torch.zeros(2, 4, dtype=torch.int64), TypeError, "log-probabilities of type torch.int64"),
        ([0.0], TypeError, "log-probabilities of type list"),
        ((torch.zeros(2, 4) - 9, torch.zeros(1, 3)), ValueError, r"attention of shape \(1, 3\)"),
        ((torch.zeros(2, 4) - 9, "map"), TypeError, "attention of type str"),
    ],
)
def test_what_a_step_may_not_return(answer: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sample(lambda ids: answer, starts(2), 1)
    with pytest.raises(error, match=message):
        beam_search(lambda ids: answer, BOS, EOS, beam=2, max_length=2)


def test_an_attention_of_nan_is_no_coverage() -> None:
    with pytest.raises(ValueError, match="attention with NaN"):
        beam_search(lambda ids: (torch.zeros(2, 4) - 9, torch.full((2, 3), math.nan)), BOS, EOS, beam=2, max_length=2)


@pytest.mark.parametrize(
    ("ids", "n", "options", "message"),
    [
        (torch.ones(1, 1), 1, {}, "^ids is torch.float32"),
        (torch.tensor([1]), 1, {}, r"^ids is torch.int64 of shape \(1,\); give .* \(N, t\)"),
        (torch.zeros(2, 0, dtype=torch.int64), 1, {}, "^ids is torch.int64 of shape"),
        ([1, 2, 3], 1, {}, "^ids is a list; give a tensor"),
        (starts(1), -1, {}, "^max_new_tokens=-1"),
        (starts(1), 2.5, {}, "^max_new_tokens=2.5; give a whole number"),
        (starts(1), 1, {"stop": "\n"}, r"^stop='\\n'; give the id of a token"),
        (starts(1), 1, {"stop": ["."]}, r"^stop=\['.'\]; give the id"),
        (starts(1), 1, {"stop": [1.5]}, r"^stop=\[1.5\]"),
    ],
)
def test_sample_names_bad_ids_and_counts(ids: object, n: object, options: dict, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        sample(Toy(4, 0), ids, n, **options)


# --- The two penalties -----------------------------------------------------------------------------------------------


def test_length_penalty_by_hand() -> None:
    assert [length_penalty(1, a) for a in (0, 0.6, 1)] == [1, 1, 1]
    assert length_penalty(7, 1) == 2 and length_penalty(7, 0) == 1
    assert length_penalty(19, 0.5) == 2
    assert length_penalty(10, 0.2) == pytest.approx(15**0.2 / 6**0.2, rel=1e-15)
    with pytest.raises(ValueError, match="n=0"):
        length_penalty(0, 0.6)


def test_coverage_penalty_by_hand() -> None:
    attention = torch.tensor([[0.5, 0.25, 0.25], [0.7, 0.25, 0.05]], dtype=torch.float64)  # sums 1.2, 0.5, 0.3
    assert coverage_penalty(attention, 0.2).item() == pytest.approx(0.2 * math.log(0.5 * 0.3), rel=1e-12)
    mask = torch.tensor([True, True, False])
    assert coverage_penalty(attention, 0.2, mask).item() == pytest.approx(0.2 * math.log(0.5), rel=1e-12)
    assert coverage_penalty(attention, 0.0).item() == 0
    assert coverage_penalty(torch.eye(3), 1.0).item() == 0, "all words read once: nothing to pay"
    unread = torch.tensor([[1.0, 0.0]])
    assert coverage_penalty(unread, 0.2).item() == pytest.approx(0.2 * math.log(UNATTENDED))
    assert coverage_penalty(unread, 0.2, torch.tensor([True, False])).item() == 0


def test_coverage_penalty_of_a_batch_is_that_of_its_members() -> None:
    attention = torch.rand(4, 2, 3, generator=seeded(0)).softmax(-1)
    mask = torch.rand(4, 3, generator=seeded(1)) < 0.6
    together = coverage_penalty(attention, 0.3, mask)
    assert together.shape == (4,)
    torch.testing.assert_close(
        together, torch.stack([coverage_penalty(a, 0.3, m) for a, m in zip(attention, mask, strict=True)])
    )


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)])
def test_a_mask_that_does_not_fit_is_named(mask: Tensor) -> None:
    with pytest.raises((ValueError, TypeError), match="source_mask"):
        coverage_penalty(torch.ones(2, 3), 0.2, mask)


# --- beam_search -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vocab_size", "max_length"), [(3, 6), (4, 5), (5, 5)])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_a_wide_beam_finds_the_best_of_all_sentences(
    vocab_size: int, max_length: int, alpha: float, beta: float
) -> None:
    """As wide as there are sentences, the search ranks exactly as the score of every sentence does."""
    beam = vocab_size**max_length
    for seed in range(2):
        toy = Toy(vocab_size, seed)
        found = beam_search(toy, BOS, EOS, beam=beam, max_length=max_length, alpha=alpha, beta=beta)
        sentences = every_sentence(vocab_size, max_length)
        ranked = sorted((rescored(toy, s, alpha, beta) for s in sentences), key=lambda h: -h.score)
        assert len(found) == len(sentences)
        assert [h.ids for h in found[:10]] == [h.ids for h in ranked[:10]]
        for hypothesis, expected in zip(found, ranked, strict=True):
            assert hypothesis.score == pytest.approx(expected.score, rel=1e-10)


def test_a_wide_beam_of_the_largest_toy() -> None:
    toy = Toy(5, 11)
    [best, *_] = beam_search(toy, BOS, EOS, beam=5**6, max_length=6, alpha=1.0, beta=0.2)
    expected = max((rescored(toy, s, 1.0, 0.2) for s in every_sentence(5, 6)), key=lambda h: h.score)
    assert best.ids == expected.ids and best.score == pytest.approx(expected.score, rel=1e-10)


@given(
    st.integers(2, 6),
    st.integers(1, 6),
    st.integers(1, 7),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.sampled_from([0.0, 0.2]),
    st.integers(0, 2**20),
)
@settings(deadline=None, max_examples=150)
def test_what_holds_at_any_width(
    vocab_size: int, max_length: int, beam: int, alpha: float, beta: float, seed: int
) -> None:
    toy = Toy(vocab_size, seed)
    mask = torch.tensor([True, True, False]) if seed % 2 else None
    found = beam_search(toy, BOS, EOS, beam=beam, max_length=max_length, alpha=alpha, beta=beta, source_mask=mask)
    assert 1 <= len(found) <= beam
    assert all(a.score >= b.score for a, b in itertools.pairwise(found))
    assert len({tuple(h.ids) for h in found}) == len(found)
    for hypothesis in found:
        assert EOS not in hypothesis.ids[:-1] and 1 <= len(hypothesis.ids) <= max_length
        assert hypothesis.ids[-1] == EOS or len(hypothesis.ids) == max_length
        expected = rescored(toy, hypothesis.ids, alpha, beta, mask)
        assert hypothesis.log_prob == pytest.approx(expected.log_prob, rel=1e-10)
        assert hypothesis.score == pytest.approx(expected.score, rel=1e-10)
        torch.testing.assert_close(hypothesis.attention, expected.attention)
    if vocab_size**max_length <= 300:  # no width finds more than there is
        best = max(rescored(toy, s, alpha, beta, mask).score for s in every_sentence(vocab_size, max_length))
        assert found[0].score <= best + 1e-10


@given(st.integers(2, 7), st.integers(1, 8), st.integers(0, 2**20))
@settings(deadline=None, max_examples=80)
def test_width_one_without_penalties_is_greedy(vocab_size: int, max_length: int, seed: int) -> None:
    toy = Toy(vocab_size, seed)
    [found] = beam_search(toy, BOS, EOS, beam=1, max_length=max_length, alpha=0)
    assert found.ids == sample(toy, starts(1), max_length, temperature=0, stop=EOS)[0, 1:].tolist()


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_sentences_searched_at_once_are_found_as_alone(beta: float) -> None:
    """The toy's start tokens stand for different sentences; a mask for each hides other source words."""
    toy, beam = Toy(6, 3), 4
    bos = torch.tensor([1, 2, 3, 4, 5])
    masks = torch.tensor(
        [[True, True, True], [True, True, False], [True, False, False], [False, True, True], [True] * 3]
    )
    together = beam_search(toy, bos, EOS, beam=beam, max_length=7, beta=beta, source_mask=masks)
    assert all(shape == (20, t) for t, shape in enumerate(toy.calls, 1)), "all rows are passed at every step"
    assert len(together) == 5
    for start, mask, found in zip(bos.tolist(), masks, together, strict=True):
        alone = beam_search(toy, start, EOS, beam=beam, max_length=7, beta=beta, source_mask=mask)
        assert [h.ids for h in found] == [h.ids for h in alone]
        assert [h.score for h in found] == pytest.approx([h.score for h in alone], rel=1e-12)


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**20))
@settings(deadline=None, max_examples=60)
def test_a_step_with_a_cache_is_told_where_its_rows_went(vocab_size: int, beam: int, seed: int) -> None:
    plain, cached = Toy(vocab_size, seed), CachedToy(vocab_size, seed)
    bos = torch.tensor([0, 1, 0])
    expected = beam_search(plain, bos, EOS, beam=beam, max_length=6)
    found = beam_search(cached, bos, EOS, beam=beam, max_length=6)
    assert [[(h.ids, h.score) for h in s] for s in found] == [[(h.ids, h.score) for h in s] for s in expected]
    in_place = torch.arange(3 * beam)
    for rows in cached.moves:
        assert not torch.equal(rows, in_place), "rows that stay need no call"
        assert (rows // beam == in_place // beam).all(), "a row never moves to another sentence"


def test_rows_that_stay_in_place_cause_no_call() -> None:
    cached = CachedToy(4, 0)
    beam_search(cached, BOS, EOS, beam=1, max_length=6)
    assert cached.moves == []


def test_at_first_all_rows_are_equal_and_only_one_grows() -> None:
    found = beam_search(Toy(9, 0), BOS, EOS, beam=4, max_length=1)
    assert len(found) == 4 and len({h.ids[0] for h in found}) == 4


def test_end_tokens_cannot_crowd_out_what_goes_on() -> None:
    """In round 2 both hypotheses like to end best of all; the search still reaches the long sentence that wins."""
    first, second, later = torch.tensor([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1], [0.001, 0.998, 0.001]]).double().log()

    def step(ids: Tensor) -> Tensor:
        return (first, second, later)[min(ids.shape[1], 3) - 1].expand(len(ids), 3)

    best, *_ = beam_search(step, 1, 0, beam=2, max_length=4, alpha=1.0)
    assert best.ids == [1, 0]  # log 0.3 over 7/6: -1.03; log 0.15 and what follows over 9/6: -1.27
    best, *_ = beam_search(step, 1, 0, beam=2, max_length=40, alpha=1.0)
    assert best.ids == [1] * 40  # log 0.15 + 38 log 0.998 over 45/6: -0.26


def test_the_length_penalty_prefers_the_longer_sentence() -> None:
    table = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=torch.float64).log()

    def step(ids: Tensor) -> Tensor:
        first = torch.tensor([0.45, 0.55], dtype=torch.float64).log()
        return first.expand(len(ids), 2) if ids.shape[1] == 1 else table[0].expand(len(ids), 2)

    short, *_ = beam_search(step, 1, 0, beam=2, max_length=2, alpha=0)
    assert short.ids == [0] and short.log_prob == pytest.approx(math.log(0.45))
    long, *_ = beam_search(step, 1, 0, beam=4, max_length=2, alpha=6)
    assert long.score == pytest.approx(math.log(0.275) / (7 / 6) ** 6) and len(long.ids) == 2


def test_the_coverage_penalty_prefers_the_sentence_that_reads_its_source() -> None:
    """Word 1 is a little likelier at first, but after it the source's second half is never read."""

    def step(ids: Tensor) -> tuple[Tensor, Tensor]:
        if ids.shape[1] == 1:
            return torch.tensor([[0.0, 0.55, 0.45]]).log().expand(len(ids), 3), torch.tensor([[1.0, 0.0]]).expand(
                len(ids), 2
            )
        attention = torch.where(ids[:, 1:2] == 1, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        return torch.tensor([[1.0, 0.0, 0.0]]).log().expand(len(ids), 3), attention

    lists = [beam_search(step, 1, 0, beam=2, max_length=3, beta=beta)[0].ids for beta in (0.0, 0.2)]
    assert lists == [[1, 0], [2, 0]]
    hidden = torch.tensor([True, False])  # where the second half is padding there is nothing to read
    assert beam_search(step, 1, 0, beam=2, max_length=3, beta=0.2, source_mask=hidden)[0].ids == [1, 0]


def test_impossible_words_make_no_hypothesis() -> None:
    table = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]).log()  # from 1 only 2, from 2 only 0
    found = beam_search(lambda ids: table[ids[:, -1]], 1, 0, beam=4, max_length=5)
    assert [(h.ids, h.log_prob, h.attention) for h in found] == [([2, 0], 0.0, None)]
    nothing = torch.full((4, 3), -math.inf)
    assert beam_search(lambda ids: nothing, 1, 0, beam=4, max_length=5) == []


def test_a_vocabulary_of_the_end_token_alone() -> None:
    for beam in (1, 3):
        assert [h.ids for h in beam_search(lambda ids: torch.zeros(len(ids), 1), 0, 0, beam=beam, max_length=3)] == [
            [0]
        ]


def test_the_search_stops_when_nothing_can_improve() -> None:
    calls = []

    def step(ids: Tensor) -> Tensor:
        calls.append(ids.shape[1])
        return torch.tensor([0.98, 0.01, 0.01]).log().expand(len(ids), 3)

    beam_search(step, 1, 0, beam=1, max_length=1000, alpha=0.6)
    assert len(calls) == 1
    calls.clear()
    beam_search(step, 1, 0, beam=3, max_length=1000, alpha=0)
    assert len(calls) < 5
    calls.clear()
    beam_search(step, 1, 0, beam=3, max_length=1000, alpha=0.6)  # a sentence of 1,000 words is divided by 22
    assert len(calls) < 30


def test_a_step_on_bfloat16_is_summed_in_float32() -> None:
    log_probs = torch.randn(1, 50, generator=seeded(0)).log_softmax(-1).bfloat16()
    [best, *_] = beam_search(lambda ids: log_probs.expand(len(ids), 50), BOS, EOS, max_length=30, alpha=0)
    assert best.log_prob == pytest.approx(sum(log_probs[0, w].item() for w in best.ids), rel=1e-5)


def test_beam_search_costs_little_beside_the_model() -> None:
    """100 sentences × beam 4 × 4,000 words × 15 rounds took 0.09 s on one thread; the bar is wide for slow machines."""
    answers = torch.randn(15, 400, 4000, generator=seeded(0)).mul(3).log_softmax(-1)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        found = beam_search(lambda ids: answers[ids.shape[1] - 1], torch.ones(100, dtype=torch.int64), 0, max_length=15)
        seconds.append(time.perf_counter() - start)
    assert len(found) == 100
    assert min(seconds) < 2


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"beam": 0}, "beam=0"),
        ({"max_length": 0}, "max_length=0"),
        ({"beam": 2.5}, "beam=2.5; give a whole number"),
        ({"max_length": "9"}, "max_length='9'; give a whole number"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"alpha": math.nan}, "alpha=nan"),
        ({"beta": -0.2}, "beta=-0.2"),
        ({"beta": math.inf}, "beta=inf"),
        ({"eos": 4}, "eos=4 is outside 0 … 3"),
        ({"eos": -1}, "eos=-1"),
        ({"beta": 0.2, "source_mask": torch.ones(2, dtype=torch.bool)}, "source_mask"),
        ({"beta": 0.2, "source_mask": torch.ones(2, 3, dtype=torch.bool)}, "source_mask"),
        ({"beta": 0.2, "source_mask": torch.ones(3)}, "source_mask"),
        ({"bos": torch.ones(2, 1, dtype=torch.int64)}, "bos"),
        ({"bos": torch.ones(2)}, "bos"),
        ({"bos": "start"}, "bos"),
    ],
)
def test_beam_search_names_what_does_not_fit(options: dict, name: str) -> None:
    arguments = {"bos": BOS, "eos": EOS, "max_length": 3} | options
    with as_a_reader_sees_it(), pytest.raises((ValueError, TypeError), match=name):
        beam_search(Toy(4, 0), **arguments)


def test_logits_and_a_missing_attention_are_told_apart() -> None:
    with pytest.raises(ValueError, match="beta=0.2 needs the attention"):
        beam_search(lambda ids: torch.zeros(len(ids), 3) - 2, BOS, EOS, max_length=3, beta=0.2)
    with pytest.raises(ValueError, match=r"above 0: give log-probabilities \(log_softmax\), not logits"):
        beam_search(lambda ids: torch.ones(len(ids), 3), BOS, EOS, max_length=3)
