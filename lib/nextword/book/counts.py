"""A Kneser-Ney model small enough for a web page: n-grams that were counted a few times only are left out.

``prune`` takes them out of an :class:`~nextword.ngram.NGram`, ``PrunedNGram.to_bytes`` writes what is left, and the page's
engine reads it. What was left out still counts: its probability goes to the shorter context.

Used in: live.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from nextword.ngram import Ids, NGram, discount

COUNTS = Path(__file__).parent / "counts.gz"
"""The counts of the page ``live``; ``make checkpoints NAME=counts`` makes them again."""

AT_LEAST = (1, 2, 3, 3)
"""How often the 1-, 2-, 3- and 4-grams of that file were counted at least."""

UNIT = 1_000_000
"""Discounts are stored as whole numbers of millionths."""


@dataclass(frozen=True)
class Order:
    """The n-grams hw of one length that were kept: M contexts h, and N words that follow them."""

    discount: float  #: D, in whole millionths.
    contexts: Int64[np.ndarray, " M"]  #: The words of h as digits of one number to the base V; ascending.
    sizes: Int64[np.ndarray, " M"]  #: How many words were kept behind h.
    left_out: Int64[np.ndarray, " M"]  #: The counts behind h that were not kept, in sum.
    words: Int64[np.ndarray, " N"]  #: The words w, ascending for each h.
    counts: Int64[np.ndarray, " N"]  #: c(hw); for all but the longest order after how many different words hw came.

    def weights(self) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " M"]]:
        """Return (c(hw) - D) / c(h) of every n-gram, and what they leave of 1 for the shorter context."""
        h = np.repeat(np.arange(len(self.contexts)), self.sizes)
        total = np.bincount(h, weights=self.counts, minlength=len(self.contexts)) + self.left_out  # c(h)
        share = (self.counts - self.discount) / total[h]
        rest = np.ones(len(self.contexts))
        np.subtract.at(rest, h, share)
        return share, rest


class PrunedNGram:
    """p(w|h) = (c(hw) - D) / c(h) + λ(h) p(w|h') for the n-grams that were kept, λ(h) p(w|h') for all others.

    h' is h without its first word, and λ(h) is what the words kept behind h leave over of 1. A context of which nothing was
    kept passes everything on, as one that was never seen.

    Raises:
        ValueError: an order whose columns do not fit each other.

    Source: Kneser & Ney 1995; Chen & Goodman 1999, section 3.
    """

    def __init__(self, vocab_size: int, orders: Sequence[Order]) -> None:
        self.vocab_size, self.orders = vocab_size, list(orders)
        for n, order in enumerate(self.orders, 1):
            if order.sizes.sum() != len(order.words) or len(order.words) != len(order.counts):
                raise ValueError(
                    f"order {n} has {order.sizes.sum()} words by its sizes and {len(order.words)} in its column"
                )
        self._keys = [np.repeat(o.contexts, o.sizes) * vocab_size + o.words for o in self.orders]
        self._weights = []
        for share, rest in (order.weights() for order in self.orders):
            self._weights.append((np.append(share, 0.0), np.append(rest, 1.0)))  # read by the number -1: not kept

    def __len__(self) -> int:
        """Return how many n-grams were kept."""
        return sum(len(order.words) for order in self.orders)

    def log_prob(self, ids: Ids) -> Float[np.ndarray, " T"]:
        """Return ln p of every word of ``ids`` given the words before it within ``ids``."""
        words = np.asarray(ids, np.int64)
        p = np.full(len(words), 1 / self.vocab_size)
        context = np.zeros(len(words) + 1, np.int64)  # the k words before each position, as one number
        for k, (order, keys, (share, rest)) in enumerate(zip(self.orders, self._keys, self._weights, strict=True)):
            h = context[: len(words) - k]
            hw = h * self.vocab_size + words[k:]
            p[k:] = share[_find(keys, hw)] + rest[_find(order.contexts, h)] * p[k:]
            context = hw  # without their last word: the k + 1 words before the next position
        logs: Float[np.ndarray, " T"] = np.log(p)
        return logs

    def perplexity(self, ids: Ids) -> float:
        """Return exp of the mean of -ln p over the words of ``ids``."""
        return float(np.exp(-self.log_prob(ids).mean()))

    def distribution(self, context: Ids) -> Float[np.ndarray, " V"]:
        """Return p(w | ``context``) for all V words. Only the last n - 1 words of ``context`` count."""
        words = np.asarray(context, np.int64)
        p = np.full(self.vocab_size, 1 / self.vocab_size)
        for k, (order, (share, rest)) in enumerate(zip(self.orders, self._weights, strict=True)):
            if k > len(words):
                break
            key = functools.reduce(
                lambda number, word: number * self.vocab_size + word, words[len(words) - k :].tolist(), 0
            )
            h = int(_find(order.contexts, np.array([key]))[0])
            p *= rest[h]
            if h >= 0:
                start = int(order.sizes[:h].sum())
                followers = slice(start, start + int(order.sizes[h]))
                p[order.words[followers]] += share[followers]
        return p

    def to_bytes(self) -> bytes:
        """Return all of it as whole numbers of seven bits a byte, column after column, gzipped."""
        numbers = [np.array([self.vocab_size, len(self.orders)])]
        for order in self.orders:
            starts = np.cumsum(order.sizes) - order.sizes
            steps = np.diff(order.words, prepend=0)
            steps[starts] = order.words[starts]  # a context's first word is stored as it is, its next ones as steps
            head = np.array([round(order.discount * UNIT), len(order.contexts), len(order.words)])
            numbers += [head, np.diff(order.contexts, prepend=0), order.sizes, order.left_out, steps, order.counts]
        return gzip.compress(_as_bytes(np.concatenate(numbers)), mtime=0)

    @classmethod
    def from_bytes(cls, content: bytes) -> PrunedNGram:
        """Return the model that ``to_bytes`` wrote."""
        numbers = _as_numbers(gzip.decompress(content))
        at = 2

        def take(n: int) -> Int64[np.ndarray, " n"]:
            nonlocal at
            at += n
            column: Int64[np.ndarray, " n"] = numbers[at - n : at]
            return column

        orders = []
        for _ in range(int(numbers[1])):
            D, M, N = (int(number) for number in take(3))
            contexts, sizes, left_out, steps, counts = take(M), take(M), take(M), take(N), take(N)
            words, starts = np.cumsum(steps), np.cumsum(sizes) - sizes
            words -= np.repeat(words[starts] - steps[starts], sizes)  # begin anew in each context
            orders.append(Order(D / UNIT, np.cumsum(contexts), sizes, left_out, words, counts))
        return cls(int(numbers[0]), orders)


def prune(model: NGram, at_least: Sequence[int]) -> PrunedNGram:
    """Return a Kneser-Ney model without the n-grams whose count is below ``at_least``, one number for each length.

    Raises:
        ValueError: the smoothing is another one, or there is not one number for each length.

    Example:
        >>> model = NGram(2, "kneser_ney", vocab_size=3).fit([0, 1, 0, 2, 0, 1])
        >>> len(prune(model, [1, 1])), len(prune(model, [1, 2]))
        (7, 4)
    """
    if model.smoothing != "kneser_ney":
        raise ValueError(f"model has smoothing {model.smoothing!r}; only 'kneser_ney' can be pruned")
    if len(at_least) != model.order:
        raise ValueError(f"at_least has {len(at_least)} numbers; a model of order {model.order} needs as many")
    orders, spelled = [], np.zeros(1, np.int64)  # the words of every k-gram as one number
    for k, grams in enumerate(model.table):
        counts = grams.counts
        if k + 1 < model.order:  # what Kneser and Ney count in the shorter ones: N₁₊(• hw)
            counts = np.bincount(model.table[k + 1].suffixes, minlength=len(counts))
        total = np.bincount(grams.contexts, weights=counts, minlength=len(spelled)).astype(np.int64)  # c(h)
        words, keep = grams.keys % model.vocab_size, counts >= max(at_least[k], 1)
        contexts = spelled[grams.contexts]
        spelled = contexts * model.vocab_size + words
        row = np.flatnonzero(keep)[np.argsort(spelled[keep], kind="stable")]
        kept, first, sizes = np.unique(contexts[row], return_index=True, return_counts=True)
        inside = np.add.reduceat(counts[row], first)
        left_out = total[grams.contexts[row[first]]] - inside
        D = round(discount(counts) * UNIT) / UNIT
        orders.append(Order(D, kept, sizes, left_out, words[row], counts[row]))
    return PrunedNGram(model.vocab_size, orders)


@functools.cache
def load() -> PrunedNGram:
    """Return the counts that the page ``live`` shows beside the GPTs."""
    return PrunedNGram.from_bytes(COUNTS.read_bytes())


def _find(sorted_keys: Int64[np.ndarray, " N"], keys: Int64[np.ndarray, " K"]) -> Int64[np.ndarray, " K"]:
    """Return where each key stands, -1 where it does not."""
    if not len(sorted_keys):
        return np.full(len(keys), -1)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.where(sorted_keys[at] == keys, at, -1)


def _as_bytes(numbers: Int64[np.ndarray, " N"]) -> bytes:
    """Write whole numbers from 0 on in seven bits a byte, the lowest first; the eighth bit says that more follow."""
    groups = np.stack([(numbers >> shift) & 127 for shift in range(0, 56, 7)], axis=1)  # (N, 8)
    length = np.maximum((groups > 0).cumsum(1).argmax(1) + 1, 1)  # up to the last group that is not 0
    place = np.arange(groups.shape[1])
    more = np.where(place < length[:, None] - 1, 128, 0)
    return bytes((groups + more).astype(np.uint8)[place < length[:, None]])


def _as_numbers(content: bytes) -> Int64[np.ndarray, " N"]:
    """Read what ``_as_bytes`` wrote."""
    raw = np.frombuffer(content, np.uint8).astype(np.int64)
    starts = np.flatnonzero(np.concatenate([[True], raw[:-1] < 128]))
    place = np.arange(len(raw)) - np.repeat(starts, np.diff(starts, append=len(raw)))
    numbers: Int64[np.ndarray, " N"] = np.add.reduceat((raw & 127) << (7 * place), starts)
    return numbers
