"""Which n-grams of words of a test text also stand in a training text: exactly with a set, or in little memory with a filter.

A model that has seen the test has learnt nothing by doing well on it. GPT-2's authors counted shared runs of eight words
(Radford et al. 2019, section 4), GPT-3's runs of thirteen (Brown et al. 2020, appendix C).

Used in: 2019_gpt2, 2020_gpt3.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np


def words(text: str) -> list[str]:
    """Return the words of a text in small letters, without anything that is no letter and no digit.

    Example:
        >>> words("It's 1492: Columbus sails.")
        ['it', 's', '1492', 'columbus', 'sails']
    """
    return re.findall(r"[^\W_]+", text.lower())


def ngrams(words: Sequence[str], n: int) -> Iterator[str]:
    """Yield every run of ``n`` words, with one space between them.

    Raises:
        TypeError: ``words`` is a text that is not cut into words; its letters would be taken for them.
        ValueError: ``n`` is below 1.

    Example:
        >>> list(ngrams(["to", "be", "or", "not"], 3))
        ['to be or', 'be or not']
    """
    if isinstance(words, str):
        raise TypeError(f"words is the text {words!r:.60}; give a list of words, such as overlap.words(text)")
    if n < 1:
        raise ValueError(f"n={n} is below 1")
    return (" ".join(words[i : i + n]) for i in range(len(words) - n + 1))


def overlap(test: str, train: set[str] | BloomFilter, n: int = 8) -> float:
    """Return the share of the test text's n-grams of words that ``train`` holds; 0 for a text that has none.

    Args:
        test: the text.
        train: the n-grams of the training text, as a set or in a :class:`BloomFilter`.
        n: words in an n-gram.

    Raises:
        TypeError: ``test`` is no text, or ``train`` is one.

    Source: Radford et al. 2019, section 4. Used in: 2019_gpt2.

    Example:
        >>> overlap("to be or not to see", {"to be or", "be or not"}, n=3)
        0.5
    """
    if not isinstance(test, str):
        raise TypeError(f"test is a {type(test).__name__}; give a text, as a string")
    if isinstance(train, str):
        raise TypeError(f"train is the text {train!r:.60}; give its n-grams, set(ngrams(words(text), n))")
    grams = list(ngrams(words(test), n))
    held = train.contains(grams) if isinstance(train, BloomFilter) else [gram in train for gram in grams]
    return float(np.mean(held)) if grams else 0.0


class BloomFilter:
    """A set of strings that remembers a few bits of each and may say "yes" wrongly, never "no" (Bloom 1970).

    Each string sets k bits, at positions that its hash names. A string all of whose bits are set is taken for a member.

    Args:
        capacity: strings to be added.
        error: wanted share of wrong yeses once so many are in.

    Raises:
        ValueError: ``capacity`` below 1, or ``error`` not between 0 and 1.

    Used in: 2019_gpt2.

    Example:
        >>> seen = BloomFilter(1000, error=1e-8)
        >>> seen.update(["to be or", "be or not"])
        >>> "to be or" in seen, "or not to" in seen
        (True, False)
        >>> seen.bits, seen.hashes  # 38 bits a string, whatever its length
        (38341, 27)
    """

    def __init__(self, capacity: int, error: float) -> None:
        if capacity < 1:
            raise ValueError(f"capacity={capacity} is below 1")
        if not 0 < error < 1:
            raise ValueError(f"error={error} must lie between 0 and 1")
        self.capacity, self.error = capacity, error
        self.bits = math.ceil(-capacity * math.log(error) / math.log(2) ** 2)  # m = -n ln p / (ln 2)²
        self.hashes = max(1, round(self.bits / capacity * math.log(2)))  # k = m/n · ln 2
        self._set = np.zeros(self.bits, dtype=bool)  # a byte a bit here, eight times what is needed, for plain indexing

    def _positions(self, strings: Collection[str]) -> np.ndarray:
        """Return k positions a string, (N, k)."""
        # A hash of its own for each of the k. Two numbers could stand in for all, h₁ + i·h₂, but where h₂ is 0 a single
        # position is left: one string in m. At a wanted error of 1e-8 that would be most of the errors.
        digests = b"".join(hashlib.shake_128(s.encode()).digest(8 * self.hashes) for s in strings)
        hashes = np.frombuffer(digests, dtype=np.uint64).reshape(-1, self.hashes)
        return (hashes % np.uint64(self.bits)).astype(np.int64)

    def update(self, strings: Iterable[str]) -> None:
        """Add strings."""
        for batch in _batches(strings):
            self._set[self._positions(batch)] = True

    def contains(self, strings: Iterable[str]) -> np.ndarray:
        """Return for each string whether it may have been added."""
        batches = [self._set[self._positions(batch)].all(1) for batch in _batches(strings)]
        return np.concatenate([np.zeros(0, dtype=bool), *batches])

    def __contains__(self, string: object) -> bool:
        return isinstance(string, str) and bool(self.contains([string])[0])


def _batches(strings: Iterable[str]) -> Iterator[list[str]]:
    if isinstance(strings, str):
        raise TypeError(f"strings is the text {strings!r:.60}; give a list of strings, or ask: text in bloom")
    rest = iter(strings)
    while batch := list(islice(rest, 50_000)):  # bounds the memory that hashes take
        yield batch
