"""Pruned n-grams: what is kept is Kneser-Ney's, what is left out goes to the shorter context, and nothing is lost on disk."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextword.book import counts
from nextword.ngram import NGram

V = 7


def text(seed=0, n=400):
    """Return ids in which some words follow others far more often than by chance."""
    rng = np.random.default_rng(seed)
    ids = [0]
    for _ in range(n - 1):
        ids.append(int((2 * ids[-1] + 1) % V if rng.random() < 0.6 else rng.integers(V)))
    return ids


def trained(order=3, seed=0):
    return NGram(order, "kneser_ney", vocab_size=V).fit(text(seed))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_without_a_threshold_it_is_the_model_itself(order):
    model, held = trained(order), text(1)
    whole = counts.prune(model, [1] * order)
    np.testing.assert_allclose(whole.log_prob(held), model.log_prob(held), atol=1e-5)  # D in whole millionths


@pytest.mark.parametrize("at_least", [(1, 1, 1), (1, 2, 3), (2, 3, 4), (1, 9, 1), (1, 10_000, 2)])
def test_every_context_has_a_distribution_and_log_prob_reads_it(at_least):
    small, held = counts.prune(trained(), at_least), text(2, 60)
    logs = small.log_prob(held)
    for t in range(len(held)):
        p = small.distribution(held[:t])
        assert p.sum() == pytest.approx(1) and (p > 0).all()
        assert np.log(p[held[t]]) == pytest.approx(logs[t])


def test_what_is_left_out_is_told_by_the_shorter_context():
    """By hand: with every 2-gram of a context gone, its distribution is that of the 1-grams."""
    small = counts.prune(trained(2), (1, 10_000))
    assert len(small.orders[1].words) == 0
    np.testing.assert_allclose(small.distribution([3]), small.distribution([]))


def test_a_kept_ngram_keeps_its_own_share():
    model = trained(2)
    small = counts.prune(model, (1, 5))
    alpha = model.weights[1][0]
    share, rest = small.orders[1].weights()
    kept = model.table[1].counts >= 5
    np.testing.assert_allclose(share, alpha[:-1][kept], atol=1e-6)
    h = np.repeat(np.arange(len(rest)), small.orders[1].sizes)
    np.testing.assert_allclose(rest + np.bincount(h, weights=share), 1)


@given(st.lists(st.integers(0, 2**48), min_size=1, max_size=50))
def test_numbers_come_back_from_bytes(numbers):
    assert counts._as_numbers(counts._as_bytes(np.array(numbers))).tolist() == numbers


def test_a_number_below_128_takes_one_byte():
    assert counts._as_bytes(np.array([0, 127, 128, 300])) == bytes([0, 127, 128, 1, 172, 2])


def test_a_model_comes_back_from_disk_to_the_last_bit():
    small = counts.prune(trained(4, seed=3), (1, 2, 2, 2))
    content = small.to_bytes()
    again = counts.PrunedNGram.from_bytes(content)
    assert content == small.to_bytes() == again.to_bytes()
    assert (again.log_prob(text(4)) == small.log_prob(text(4))).all()


@pytest.mark.parametrize(
    ("smoothing", "at_least", "message"),
    [("mle", (1, 1), "smoothing 'mle'; only 'kneser_ney'"), ("kneser_ney", (1,), "at_least has 1 numbers; .* order 2")],
)
def test_what_cannot_be_pruned_is_refused(smoothing, at_least, message):
    model = NGram(2, smoothing, vocab_size=V).fit(text())
    with pytest.raises(ValueError, match=message):
        counts.prune(model, at_least)


def test_columns_that_do_not_fit_are_refused():
    ones = np.ones(2, np.int64)
    with pytest.raises(ValueError, match="order 1 has 2 words by its sizes and 3"):
        counts.PrunedNGram(V, [counts.Order(0.5, ones, ones, ones, np.ones(3, np.int64), np.ones(3, np.int64))])


def test_the_file_that_the_page_shows_is_small_and_forgets_what_stands_far_back():
    small = counts.load()
    assert small.vocab_size == 4096 and len(small.orders) == len(counts.AT_LEAST) == 4
    assert counts.COUNTS.stat().st_size < 1.5e6 and len(gzip.decompress(counts.COUNTS.read_bytes())) > 2e6
    for order, least in zip(small.orders, counts.AT_LEAST, strict=True):
        assert order.counts.min() >= least
    rng = np.random.default_rng(0)
    for _ in range(30):
        context = rng.integers(0, 4095, 6)
        other = np.r_[rng.integers(0, 4095, 3), context[3:]]
        assert (small.distribution(context) == small.distribution(other)).all()
