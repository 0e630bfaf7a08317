"""Which runs of words of a test text also stand in a training text: exactly with a set, or in little memory with a Bloom filter.

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
        ValueError: ``n`` is below 1.

    Example:
        >>> list(ngrams(["to", "be", "or", "not"], 3))
        ['to be or', 'be or not']
    """
    if n < 1:
        raise ValueError(f"n={n} is below 1")
    return (" ".join(words[i : i + n]) for i in range(len(words) - n + 1))


def overlap(test: str, train: set[str] | BloomFilter, n: int = 8) -> float:
    """Return the share of the test text's runs of ``n`` words that ``train`` holds; 0 for a text that has none.

    Args:
        test: the text.
        train: a set of runs of words, or a :class:`BloomFilter` with them.
        n: words in a run.

    Source: Radford et al. 2019, section 4. Used in: 2019_gpt2.

    Example:
        >>> overlap("to be or not to see", {"to be or", "be or not"}, n=3)
        0.5
    """
    runs = list(ngrams(words(test), n))
    found = train.contains(runs) if isinstance(train, BloomFilter) else [run in train for run in runs]
    return float(np.mean(found)) if runs else 0.0


class BloomFilter:
    """A set of strings that remembers a few bits of each and may say "yes" wrongly, never "no" (Bloom 1970).

    Each string sets k bits, at places that its hash names. A string all of whose bits are set is taken for a member.

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

    def _places(self, strings: Collection[str]) -> np.ndarray:
        """Return k places a string, (N, k), from k numbers of 64 bits.

        Two numbers could stand in for all, h₁ + i·h₂, but where h₂ is 0 a single place is left: one string in m. At a wanted
        error of 1e-8 that would be most of the errors.
        """
        digests = b"".join(hashlib.shake_128(s.encode()).digest(8 * self.hashes) for s in strings)
        numbers = np.frombuffer(digests, dtype=np.uint64).reshape(-1, self.hashes)
        return (numbers % np.uint64(self.bits)).astype(np.int64)

    def update(self, strings: Iterable[str]) -> None:
        """Add strings."""
        rest = iter(strings)
        while some := list(islice(rest, 50_000)):
            self._set[self._places(some)] = True

    def contains(self, strings: Iterable[str]) -> np.ndarray:
        """Return for each string whether it may have been added."""
        rest, found = iter(strings), [np.zeros(0, dtype=bool)]
        while some := list(islice(rest, 50_000)):
            found.append(self._set[self._places(some)].all(1))
        return np.concatenate(found)

    def __contains__(self, string: object) -> bool:
        return isinstance(string, str) and bool(self.contains([string])[0])
