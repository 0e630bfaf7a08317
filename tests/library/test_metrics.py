"""ROUGE, BLEU and chrF against hand-worked examples and against their usual packages; intervals, preferences, variety."""

from __future__ import annotations

import itertools
import math
import random
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import as_a_reader_sees_it
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from nextword import metrics
from nextword.metrics import (
    bleu,
    bootstrap_interval,
    chrf,
    distinct_n,
    paired_bootstrap,
    pairwise_accuracy,
    rouge,
    win_rate,
)

METRICS = {"bleu": (bleu, BLEU), "chrf": (chrf, CHRF)}


def corpus(n: int, seed: int = 0, kept: float = 0.8) -> tuple[list[str], list[str]]:
    """References of random words, and hypotheses that lack some of the words."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcde", k=rng.randint(1, 7))) for _ in range(60)]
    references = [" ".join(rng.choices(words, k=rng.randint(2, 15))) + "." for _ in range(n)]
    return [" ".join(w for w in r.split() if rng.random() < kept) for r in references], references


def test_bleu_by_hand() -> None:
    # Of 7 tokens 6 match, of 6 pairs 4, of 5 triples 2, of 4 quadruples 1; lengths are equal, so there is no penalty.
    result = bleu(["The cat sat on the mat."], ["The cat sat on a mat."])
    assert result.score == pytest.approx(100 * (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25, rel=1e-12)
    assert result.bp == 1.0
    # The first 6 of 9 tokens: all n-grams match, and the brevity penalty is exp(1 - 9/6).
    short = bleu(["one two three four five six"], ["one two three four five six seven eight nine"])
    assert short.score == pytest.approx(100 * math.exp(-0.5), rel=1e-12)


def test_bleu_adds_up_counts_over_the_corpus_and_does_not_average_sentences() -> None:
    hypotheses, references = ["a b c d", "x"], ["a b c d", "y"]
    # Unigrams 4 of 5, and 3 of 3, 2 of 2, 1 of 1 above; the mean of the sentences would be 50.
    assert bleu(hypotheses, references).score == pytest.approx(100 * 0.8**0.25, rel=1e-12)


def test_chrf_by_hand() -> None:
    # gato in gatos: precision 1 at n = 1 to 4; recall 4/5, 3/4, 2/3, 1/2; there are no 5-grams to have.
    recall = (4 / 5 + 3 / 4 + 2 / 3 + 1 / 2) / 4
    assert chrf(["gato"], ["gatos"]).score == pytest.approx(100 * 5 * recall / (4 + recall), rel=1e-12)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_scores_and_signatures_are_those_of_sacrebleu(metric: str) -> None:
    ours, theirs = METRICS[metric]
    hypotheses, references = corpus(50)
    assert ours(hypotheses, references).score == theirs().corpus_score(hypotheses, [references]).score
    assert ours(tuple(hypotheses), tuple(references)).score == ours(hypotheses, references).score
    assert ours(references, references).score == pytest.approx(100, rel=1e-12)


def test_signatures_say_how_the_text_was_read() -> None:
    assert bleu(["a"], ["a"]).signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert chrf(["a"], ["a"]).signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_accents_and_punctuation_are_kept() -> None:
    assert bleu(["¿Dónde está el baño?"], ["¿Dónde está el baño?"]).score == pytest.approx(100)
    assert chrf(["el niño"], ["el nino"]).score < 100


sentences = st.text(alphabet="ab c.é", max_size=12)


def test_rouge_by_hand() -> None:
    # Of 4 and 5 words 3 are shared; of 3 and 4 pairs only "b a"; "b a c" is the longest common row.
    found = rouge("b a c c", "a b a x c")
    assert found == pytest.approx((200 * 3 / 9, 200 * 1 / 7, 200 * 3 / 9))
    assert found.mean == pytest.approx(sum(found) / 3)
    assert rouge("same words", "Same: WORDS!") == (100, 100, 100)
    assert rouge("", "x") == rouge("x", "") == rouge("", "") == rouge("x", "y") == (0, 0, 0)
    assert rouge("a a a a", "a b").one == pytest.approx(200 * 1 / 6), "repeating a word gains nothing"


@given(sentences, sentences)
@settings(deadline=None, max_examples=300)
def test_rouge_is_that_of_the_usual_package(summary: str, reference: str) -> None:
    kinds = ["rouge1", "rouge2", "rougeL"]
    theirs = RougeScorer(kinds).score(reference, summary)
    assert rouge(summary, reference) == pytest.approx([100 * theirs[kind].fmeasure for kind in kinds], abs=1e-9)


def test_rouge_refuses_what_is_no_text() -> None:
    with as_a_reader_sees_it(), pytest.raises(TypeError, match=r"summary=\['a'\] is a list; give one text"):
        rouge(["a"], "a")  # type: ignore[arg-type]
    with as_a_reader_sees_it(), pytest.raises(TypeError, match="reference=None is a NoneType; give one text"):
        rouge("a", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=8))
@settings(deadline=None, max_examples=150)
def test_counts_of_sentences_add_up_to_the_corpus_score(metric: str, pairs: list[tuple[str, str]]) -> None:
    """Empty sentences included: what the bootstrap computes is sacrebleu's score. (From Python 3.12 on sums round otherwise.)"""
    count, score = metrics._FROM_COUNTS[metric]
    hypotheses, references = [h for h, _ in pairs], [r for _, r in pairs]
    sums = np.array([count(h, r) for h, r in pairs]).sum(0).tolist()
    assert score(sums) == pytest.approx(METRICS[metric][1]().corpus_score(hypotheses, [references]).score, rel=1e-12)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_the_interval_holds_the_score_and_narrows_with_more_sentences(metric: str) -> None:
    widths = []
    for n in (50, 800):
        hypotheses, references = corpus(n)
        low, high = paired_bootstrap(metric, hypotheses, references, resamples=300)
        assert low < METRICS[metric][0](hypotheses, references).score < high
        widths.append(high - low)
    assert 2 < widths[0] / widths[1] < 8  # the square root of 16 is 4


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_the_interval_is_that_of_resampled_sentences(metric: str) -> None:
    """The long way round: draw the sentences, and let sacrebleu score each drawn corpus."""
    hypotheses, references = corpus(20)
    rng, scores = np.random.default_rng(5), []
    for _ in range(40):
        draw = rng.integers(20, size=20)
        scores.append(
            METRICS[metric][1]().corpus_score([hypotheses[i] for i in draw], [[references[i] for i in draw]]).score
        )
    expected = np.percentile(scores, [2.5, 97.5])
    found = paired_bootstrap(metric, hypotheses, references, resamples=40, seed=5)
    assert found == pytest.approx(tuple(expected), rel=1e-12)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_difference_is_taken_on_the_same_sentences(metric: str) -> None:
    hypotheses, references = corpus(200)
    worse = [" ".join(h.split()[:-1]) for h in hypotheses]
    assert paired_bootstrap(metric, hypotheses, references, baseline=hypotheses, resamples=100) == (0.0, 0.0)
    low, high = paired_bootstrap(metric, hypotheses, references, baseline=worse, resamples=200)
    score = METRICS[metric][0]
    assert 0 < low < score(hypotheses, references).score - score(worse, references).score < high
    mirrored = paired_bootstrap(metric, worse, references, baseline=hypotheses, resamples=200)
    assert mirrored == pytest.approx((-high, -low), rel=1e-12)
    apart = [paired_bootstrap(metric, system, references, resamples=200) for system in (hypotheses, worse)]
    assert high - low < sum(b - a for a, b in apart) / 2, "paired intervals are narrower than two single ones"


def test_seeds_draw_the_same_sentences_again() -> None:
    hypotheses, references = corpus(30)
    once = paired_bootstrap("chrf", hypotheses, references, resamples=50)
    assert once == paired_bootstrap("chrf", hypotheses, references, resamples=50, seed=0)
    assert once != paired_bootstrap("chrf", hypotheses, references, resamples=50, seed=1)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_thousand_sentences_are_resampled_in_seconds(metric: str) -> None:
    """0.8 s for two systems on one thread; scoring each drawn corpus anew would take minutes."""
    hypotheses, references = corpus(1000)
    start = time.perf_counter()
    paired_bootstrap(metric, hypotheses, references, baseline=references)
    assert time.perf_counter() - start < 10


def test_sacrebleu_does_not_complain_about_single_sentences(caplog: pytest.LogCaptureFixture) -> None:
    hypotheses, references = corpus(10)
    paired_bootstrap("bleu", hypotheses, references, resamples=5)
    assert not caplog.records


@pytest.mark.parametrize("score", [bleu, chrf, lambda h, r: paired_bootstrap("bleu", h, r)])
@pytest.mark.parametrize(
    ("hypotheses", "references", "error", "message"),
    [
        ([], [], ValueError, "hypotheses has 0 sentences"),
        (["a", "b"], ["a"], ValueError, "hypotheses has 2 sentences and references 1"),
        ("a text", ["a text"], TypeError, "hypotheses"),
        (["a"], "a", TypeError, "references"),
        (["a", None], ["a", "b"], TypeError, "hypotheses"),
        (["a", "b"], [["a"], ["b"]], TypeError, "references"),
    ],
)
def test_what_cannot_be_scored_is_named(score, hypotheses, references, error, message) -> None:
    with pytest.raises(error, match=message):
        score(hypotheses, references)


def test_what_cannot_be_resampled_is_named() -> None:
    with pytest.raises((ValueError, TypeError), match="metric"):
        paired_bootstrap("meteor", ["a", "b"], ["a", "b"])
    with pytest.raises(ValueError, match="at least 2 are needed"):
        paired_bootstrap("bleu", ["a"], ["a"])
    with pytest.raises(ValueError, match="baseline has 1 sentences and references 2"):
        paired_bootstrap("bleu", ["a", "b"], ["a", "b"], baseline=["a"])
    with pytest.raises(TypeError, match="baseline"):
        paired_bootstrap("bleu", ["a", "b"], ["a", "b"], baseline=["a", 1])


def test_without_sacrebleu_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "sacrebleu"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for use in (bleu, chrf):
        with pytest.raises(ImportError, match=r'pip install "nextword\[chapters\]"'):
            use(["a"], ["a"])


# --- How sure is a number ---


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


# --- What people prefer ---


def test_pairwise_accuracy_by_hand() -> None:
    ratings = [[4], [-2], [1], [1]]  # five pairs; the last two texts make none
    assert pairwise_accuracy(np.array([9.0, 1.0, 2.0, 3.0]), ratings) == 1
    assert pairwise_accuracy(np.array([1.0, 9.0, 3.0, 2.0]), ratings) == 0
    assert pairwise_accuracy(np.zeros(4), ratings) == 0.5, "who says nothing gets a half"
    assert pairwise_accuracy(np.array([9.0, 1.0, 1.0, 0.0]), ratings) == pytest.approx((3 + 0.5) / 5)


def test_only_texts_of_one_group_are_compared() -> None:
    values, ratings = np.array([1.0, 2.0, 3.0, 4.0]), [[1], [2], [-3], [-4]]
    assert pairwise_accuracy(values, ratings, groups=["a", "a", "b", "b"]) == 0.5
    assert pairwise_accuracy(values, ratings) == pytest.approx(1 / 6)
    order = [3, 1, 0, 2]
    moved = pairwise_accuracy(values[order], [ratings[i] for i in order], groups=["b", "a", "a", "b"])
    assert moved == 0.5


def test_a_rater_is_drawn_for_each_text_and_each_draw() -> None:
    ratings, values = [[1, 3], [2]], np.array([1.0, 0.0])
    found = [pairwise_accuracy(values, ratings, draws=1, seed=seed) for seed in range(50)]
    assert set(found) == {0.0, 1.0}
    assert pairwise_accuracy(values, ratings, draws=2000) == pytest.approx(0.5, abs=0.05)
    by_draw = np.array([[1.0, 0.0], [0.0, 1.0]] * 10)  # a row of values for each draw
    assert pairwise_accuracy(by_draw, [[3], [2]]) == 0.5


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 5)), min_size=2, max_size=9))
def test_pairwise_accuracy_counts_pairs(texts: list[tuple[int, int]]) -> None:
    pairs = [(a, b) for a, b in itertools.combinations(texts, 2) if a[0] != b[0]]
    values, ratings = np.array([float(v) for _, v in texts]), [[r] for r, _ in texts]
    if not pairs:
        with pytest.raises(ValueError, match="no pair to order"):
            pairwise_accuracy(values, ratings)
        return
    right = [0.5 if a[1] == b[1] else float((a[0] > b[0]) == (a[1] > b[1])) for a, b in pairs]
    assert pairwise_accuracy(values, ratings) == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    ("values", "ratings", "groups", "message"),
    [
        (np.zeros(3), [[1], [2]], None, r"ratings has 2 texts, values is \(3,\)"),
        (np.zeros(2), [[1], [2]], ["a"], "groups has 1 names"),
        (np.zeros(2), [[1], []], None, "ratings holds nothing for text 1"),
        (
            np.zeros((3, 2)),
            [[1], [2]],
            None,
            r"values is \(3, 2\); give one number a text, or a row for each of draws=20",
        ),
    ],
)
def test_ratings_that_fit_nothing_are_refused(values: Any, ratings: Any, groups: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairwise_accuracy(values, ratings, groups=groups)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_win_rates_of_two_sides_add_up_to_one(scores: list[tuple[int, int]]) -> None:
    ours, theirs = (np.array(side, dtype=np.float64) for side in zip(*scores, strict=True))
    won, tied = sum(a > b for a, b in scores), sum(a == b for a, b in scores)
    assert win_rate(ours, theirs) == pytest.approx((won + tied / 2) / len(scores))
    assert win_rate(ours, theirs) + win_rate(theirs, ours) == pytest.approx(1)


def test_win_rates_need_two_scores_each() -> None:
    for ours, theirs in ((np.zeros(2), np.zeros(3)), (np.zeros(0), np.zeros(0))):
        with as_a_reader_sees_it(), pytest.raises(ValueError, match="ours is .* give as many scores of each"):
            win_rate(ours, theirs)


def test_distinct_runs_by_hand() -> None:
    texts = [["the", "cat", "and", "the", "cat"], ["the", "cat", "sat"], ["alone"]]
    assert distinct_n(texts) == 4 / 6, "the cat, cat and, and the, cat sat"
    assert distinct_n(texts, n=1) == 5 / 9
    assert distinct_n(texts, n=3) == 1, "no run goes from one text into the next"
    assert distinct_n([["good"] * 101]) == 1 / 100
    with pytest.raises(ValueError, match="texts holds none of n=6 words"):
        distinct_n(texts, n=6)
    with pytest.raises(ValueError, match="n=0 is below 1"):
        distinct_n(texts, n=0)
    for raw in (["the cat sat"], "the cat sat"):
        with as_a_reader_sees_it(), pytest.raises(TypeError, match="words is the text 't.*give a list of words"):
            distinct_n(raw)
