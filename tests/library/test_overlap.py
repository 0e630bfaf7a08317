"""Shared runs of words: by a set exactly, by a Bloom filter with as few wrong answers as it was built for."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from parity import as_a_reader_sees_it

from nextword.overlap import BloomFilter, ngrams, overlap, words


def strings(n: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [f"{draw.getrandbits(60)} {draw.getrandbits(60)}" for _ in range(n)]


@pytest.mark.parametrize("error", [0.3, 0.05, 0.01, 0.001])
def test_a_full_filter_errs_as_often_as_it_was_built_for_and_never_says_no_wrongly(error: float) -> None:
    inside, outside = strings(20_000, 0), strings(100_000, 1)
    seen = BloomFilter(len(inside), error)
    seen.update(inside)
    assert seen.contains(inside).all()
    wrong = seen.contains(outside).mean()
    spread = (error / len(outside)) ** 0.5
    assert 0.7 * error - 4 * spread < wrong < 1.1 * error + 4 * spread


def test_the_strict_filter_of_the_paper_errs_in_none_of_a_million() -> None:
    seen = BloomFilter(50_000, 1e-8)
    seen.update(strings(50_000, 0))
    assert not seen.contains(strings(1_000_000, 1)).any()


def test_adding_in_parts_and_asking_one_by_one_is_the_same() -> None:
    one, other = BloomFilter(300, 0.01), BloomFilter(300, 0.01)
    one.update(strings(300, 0))
    for string in strings(300, 0):
        other.update([string])
    asked = strings(3000, 1)
    assert one.contains(asked).tolist() == other.contains(iter(asked)).tolist() == [s in one for s in asked]
    assert 7 not in one and one.contains([]).tolist() == []


@pytest.mark.parametrize(
    "capacity, error, name", [(0, 0.1, "capacity=0"), (5, 0.0, "error=0.0"), (5, 1.0, "error=1.0")]
)
def test_impossible_filters_are_refused(capacity: int, error: float, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        BloomFilter(capacity, error)


def test_words_are_small_letters_and_digits_of_any_script() -> None:
    assert words("Straße_12, ÉTÉ—«Пётр»\n東京!") == ["straße", "12", "été", "пётр", "東京"]
    assert list(ngrams(["a", "b"], 3)) == [] and list(ngrams(["a", "b"], 1)) == ["a", "b"]
    with pytest.raises(ValueError, match="n=0 is below 1"):
        ngrams(["a"], 0)


def test_overlap_by_set_and_by_filter_agree() -> None:
    train = "the cat sat on the mat and the dog sat on the rug " * 3
    test = "Yesterday the cat sat on the mat, and nobody saw it sit on the rug."
    runs = set(ngrams(words(train), 4))
    seen = BloomFilter(len(runs), 1e-8)
    seen.update(runs)
    # of twelve runs four stand in the training text: the cat sat on, cat sat on the, sat on the mat, on the mat and
    assert overlap(test, runs, 4) == overlap(test, seen, 4) == pytest.approx(4 / 12)
    assert overlap(train, runs, 4) == 1.0 and overlap("too short", runs, 4) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ngrams("to be or not", 3), "words is the text 'to be or not'; give a list of words"),
        (
            lambda: overlap("to be or not", "to be or not to be", 3),
            "train is the text 'to be or not to be'; give its n-g",
        ),
        (lambda: overlap(["to", "be"], {"to be"}, 2), "test is a list; give a text"),
        (lambda: BloomFilter(5, 0.1).update("to be"), "strings is the text 'to be'; give a list of strings"),
        (lambda: BloomFilter(5, 0.1).contains("to be"), "strings is the text 'to be'"),
    ],
)
def test_a_text_in_place_of_its_words_is_refused(call: Callable[[], Any], message: str) -> None:
    """Else its letters would be compared, and nobody would notice."""
    with as_a_reader_sees_it(), pytest.raises(TypeError, match=message):
        call()
