"""Next-word models with a short memory: counted n-grams, and the network of Bengio et al. 2003.

``NGram`` counts (maximum likelihood, add-k, interpolated Kneser-Ney). ``NeuralNGram`` is the network of Bengio et al.
2003. Both answer the same questions, ``distribution``, ``log_prob``, ``perplexity`` and ``sample``, and return NumPy
arrays, so that they can be compared and mixed word by word.

Used in: 2003_next_word.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

Ids: TypeAlias = Sequence[int] | np.ndarray | Tensor
Smoothing = Literal["mle", "add_k", "kneser_ney"]

UNINFORMED_DISCOUNT = 0.5
"""The discount where a text is too small to estimate one (no k-gram counted once, or none counted twice)."""


# --- Counting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KGrams:
    """Every different k-gram of a text for one k, numbered from 0 in the order of ``keys``.

    A k-gram hw is its context h (k-1 words) and its last word w. The number of h among the (k-1)-grams and w make one
    sorted key, so finding a k-gram is a binary search, and the words that followed h are one slice.
    """

    keys: Int64[np.ndarray, " N"]  # number of h · V + w, ascending
    counts: Int64[np.ndarray, " N"]  # c(hw): how often it occurred
    suffixes: Int64[np.ndarray, " N"]  # its number among the (k-1)-grams once the first word is dropped
    vocab_size: int

    @property
    def contexts(self) -> Int64[np.ndarray, " N"]:
        """The number of h for every hw."""
        return self.keys // self.vocab_size

    def find(self, contexts: Int64[np.ndarray, " T"], words: Int64[np.ndarray, " T"]) -> Int64[np.ndarray, " T"]:
        """Return the number of every hw, -1 where it never occurred. A context -1 has a negative key: never found."""
        keys = contexts * self.vocab_size + words
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)

    def followers(self, context: int) -> slice:
        """Return where the k-grams that begin with h lie."""
        first, last = np.searchsorted(self.keys, [context * self.vocab_size, (context + 1) * self.vocab_size])
        return slice(int(first), int(last))


def count_kgrams(ids: Int64[np.ndarray, " T"], order: int, vocab_size: int) -> list[KGrams]:
    """Return the 1-grams, 2-grams, …, ``order``-grams of a text.

    ``numbers[i]`` is the number of the (k-1)-gram that ends before position i + k - 1 of the text. Joined with the word
    at that position it gives the k-gram's key, whose rank among the different keys is the k-gram's number.
    """
    numbers = np.zeros(len(ids) + 1, np.int64)  # the empty 0-gram stands before every word and after the last
    table = []
    for k in range(1, order + 1):
        keys = numbers[:-1] * vocab_size + ids[k - 1 :]
        unique, first, ranks, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        table.append(KGrams(unique, counts, numbers[1:][first], vocab_size))
        numbers = ranks
    return table


def continuation_counts(grams: KGrams, longer: KGrams) -> Int64[np.ndarray, " N"]:
    """Return for every k-gram how many different words stood before it (Kneser & Ney 1995).

    Every different (k+1)-gram has one k-gram as its suffix, so counting suffixes counts different first words.
    """
    return np.bincount(longer.suffixes, minlength=len(grams.keys))


# --- Smoothing: p(w|h) = seen(hw) + rest(h) · p(w|h'), h' being h without its first word ------------------------------

Weights: TypeAlias = tuple[Float[np.ndarray, " N"], Float[np.ndarray, " M"]]
"""``seen``, a share for each of N k-grams hw, and ``rest``, a share for each of M contexts h (1 where h was unseen)."""


def context_totals(counts: np.ndarray, contexts: np.ndarray, n_contexts: int) -> Float[np.ndarray, " M"]:
    """Return c(h) = Σ_w c(hw) for every context."""
    return np.bincount(contexts, weights=counts, minlength=n_contexts)


def discount(counts: np.ndarray) -> float:
    """Return D = n₁ / (n₁ + 2 n₂), n₁ and n₂ being the numbers of k-grams counted once and twice (Ney et al. 1994).

    Without any k-gram counted once, or any counted twice, the estimate says nothing (0, 1 or 0/0); then D = ½.

    Example:
        >>> discount(np.array([1, 1, 2, 7]))
        0.5
        >>> discount(np.array([1, 1, 1, 2]))
        0.6
    """
    n1, n2 = int(np.sum(counts == 1)), int(np.sum(counts == 2))
    return n1 / (n1 + 2 * n2) if n1 and n2 else UNINFORMED_DISCOUNT


def maximum_likelihood(counts: np.ndarray, contexts: np.ndarray, n_contexts: int, backoff: float) -> Weights:
    """Return (1-b) c(hw) / c(h) and b: counted shares, of which the fraction b goes to the shorter context."""
    total = context_totals(counts, contexts, n_contexts)
    return (1 - backoff) * counts / total[contexts], np.where(total > 0, backoff, 1.0)


def add_k(counts: np.ndarray, contexts: np.ndarray, n_contexts: int, k: float, vocab_size: int) -> Weights:
    """Return c(hw) / (c(h) + kV) and kV / (c(h) + kV): each word seen k times more often than it was.

    Their sum over the uniform 1/V is the usual (c(hw) + k) / (c(h) + kV).
    """
    total = context_totals(counts, contexts, n_contexts) + k * vocab_size
    return counts / total[contexts], k * vocab_size / total


def kneser_ney(counts: np.ndarray, contexts: np.ndarray, n_contexts: int) -> Weights:
    """Return max(c(hw) - D, 0) / c(h) and λ(h) = D · ``|{w : c(hw) > 0}|`` / c(h) (Chen & Goodman 1999)."""
    D = discount(counts)
    total = context_totals(counts, contexts, n_contexts)
    n_followers = np.bincount(contexts, weights=counts > 0, minlength=n_contexts)
    divisor = np.maximum(total, 1)  # c(h) is a whole number: this only avoids 0/0
    discounted = np.maximum(counts - D, 0) / divisor[contexts]
    lam = np.where(total > 0, D * n_followers / divisor, 1.0)
    return discounted, lam


class NGram:
    """The probability of a word given the ``order`` - 1 words before it, from counts.

    With h the context, h' the context without its first word, c the counts and V the vocabulary size:

    - ``"mle"``: p(w|h) = (1-b) c(hw)/c(h) + b p(w|h'), b = ``backoff``. An unseen context passes straight on to the
      shorter one; below the single words lies the uniform 1/V. ``backoff=0`` is the bare maximum likelihood, which
      gives probability 0 to every follower that a seen context never had.
    - ``"add_k"``: p(w|h) = (c(hw) + k) / (c(h) + kV), without shorter contexts.
    - ``"kneser_ney"``: p(w|h) = max(c(hw) - D, 0)/c(h) + λ(h) p(w|h'), with one discount D an order. The longest order
      counts occurrences; the shorter ones count the different words before hw; below the single words lies 1/V.

    Decisions where sources differ:

    - The first words of a text have fewer than ``order`` - 1 words before them. They are predicted by the same chain,
      entered at the order they have, so by Kneser-Ney with *continuation* counts. No start symbol is made up.
    - c(h) = Σ_w c(hw) of the counts in use. A context that ends the training text, or whose followers have no
      continuation count (only the first words of the training text can), counts as unseen.

    Args:
        order: n, at least 1; a word and the n - 1 before it.
        smoothing: ``"mle"``, ``"add_k"`` or ``"kneser_ney"``.
        vocab_size: V; ids are 0 … V-1.
        k: what ``"add_k"`` adds, above 0.
        backoff: the weight of the shorter context in ``"mle"``, from 0 to below 1.

    Raises:
        ValueError: an argument is out of its range. Methods: ids that are not one row of 0 … V-1; too few of them.
        TypeError: ids that are not whole numbers.
        RuntimeError: a question before ``fit``.

    Source: Kneser & Ney 1995; Chen & Goodman 1999. Used in: 2003_next_word.

    Example:
        >>> model = NGram(2, "mle", vocab_size=3, backoff=0.0).fit([0, 1, 0, 2, 0, 1])
        >>> model.distribution([0]).round(3).tolist()
        [0.0, 0.667, 0.333]
    """

    def __init__(
        self, order: int, smoothing: Smoothing = "mle", *, vocab_size: int, k: float = 0.01, backoff: float = 0.4
    ) -> None:
        """Check the arguments. Nothing is counted yet."""
        _require(order >= 1, f"order={order}: an n-gram has at least 1 word")
        _require(smoothing in get_args(Smoothing), f"smoothing={smoothing!r}: choose one of {get_args(Smoothing)}")
        _require(vocab_size >= 1, f"vocab_size={vocab_size}: at least 1 word is needed")
        _require(0 < k < math.inf, f"k={k}: add_k needs a number above 0; for bare counts take 'mle' with backoff=0")
        _require(0 <= backoff < 1, f"backoff={backoff} is outside 0 ≤ backoff < 1")
        self.order, self.smoothing, self.vocab_size = order, smoothing, vocab_size
        self.k, self.backoff = k, backoff
        self.table: list[KGrams] = []
        self.weights: list[Weights] = []

    def fit(self, ids: Ids) -> NGram:
        """Count the n-grams of a text, one row of T ≥ ``order`` ids, and return the model."""
        words = _as_ids(ids, self.vocab_size)
        _require(len(words) >= self.order, f"ids has {len(words)} words: order {self.order} needs at least as many")
        self.table = count_kgrams(words, self.order, self.vocab_size)
        return self._weigh()

    def variant(
        self,
        *,
        order: int | None = None,
        smoothing: Smoothing | None = None,
        k: float | None = None,
        backoff: float | None = None,
    ) -> NGram:
        """Return a model of another smoothing, or of a shorter order, on the counts of this one, which are not made again.

        What is not given stays as it is.
        """
        order = self.order if order is None else order
        k, backoff = self.k if k is None else k, self.backoff if backoff is None else backoff
        _require(order <= self.order, f"order={order}: this model counted sequences of up to {self.order} words")
        other = NGram(order, smoothing or self.smoothing, vocab_size=self.vocab_size, k=k, backoff=backoff)
        other.table = self.table[:order]
        return other._weigh()

    def _weigh(self) -> NGram:
        """Turn the counts of each order into the two shares of its sum."""
        self.weights = []
        for k, grams in enumerate(self.table):
            n_contexts = len(self.table[k - 1].keys) if k else 1
            seen, rest = self._smooth(k, grams, n_contexts)
            self.weights.append((np.append(seen, 0.0), np.append(rest, 1.0)))  # read by the number -1: unseen
        return self

    def _smooth(self, k: int, grams: KGrams, n_contexts: int) -> Weights:
        """Return the weights of the k-grams with k words of context."""
        if self.smoothing == "mle":
            return maximum_likelihood(grams.counts, grams.contexts, n_contexts, self.backoff)
        if self.smoothing == "add_k":
            return add_k(grams.counts, grams.contexts, n_contexts, self.k, self.vocab_size)
        longest = k == self.order - 1
        counts = grams.counts if longest else continuation_counts(grams, self.table[k + 1])
        return kneser_ney(counts, grams.contexts, n_contexts)

    def _numbers(self, ids: Int64[np.ndarray, " T"]) -> list[Int64[np.ndarray, " _"]]:
        """Return the numbers of the 0-grams, 1-grams, … that end at each place of ``ids``; -1 where unseen."""
        if not self.table:
            raise RuntimeError("this NGram has counted nothing yet; call fit(ids) first")
        numbers = [np.zeros(len(ids) + 1, np.int64)]
        for k, grams in enumerate(self.table):
            numbers.append(grams.find(numbers[k][:-1], ids[k:]))
        return numbers

    def _shorter(self, p: np.ndarray) -> np.ndarray | float:
        """Return what a context shares its rest with: the shorter contexts' ``p``, for add-k the uniform 1/V."""
        return 1 / self.vocab_size if self.smoothing == "add_k" else p

    def log_prob(self, ids: Ids) -> Float[np.ndarray, " T"]:
        """Return ln p of every word of ``ids`` given the words before it *within* ``ids``; -inf where p is 0."""
        words = _as_ids(ids, self.vocab_size)
        numbers = self._numbers(words)
        p = np.full(len(words), 1 / self.vocab_size)
        for k, (seen, rest) in enumerate(self.weights):  # k words of context: there from position k on
            p[k:] = seen[numbers[k + 1]] + rest[numbers[k][:-1]] * self._shorter(p[k:])
        with np.errstate(divide="ignore"):
            logs: np.ndarray = np.log(p)
        return logs

    def distribution(self, context: Ids) -> Float[np.ndarray, " V"]:
        """Return p(w | ``context``) for all V words. Only the last ``order`` - 1 words of ``context`` count."""
        words = _as_ids(context, self.vocab_size)
        words = words[max(len(words) - self.order + 1, 0) :]
        numbers = self._numbers(words)
        p = np.full(self.vocab_size, 1 / self.vocab_size)
        for grams, (seen, rest), ends in zip(self.table, self.weights, numbers[: len(words) + 1], strict=False):
            p = np.full(self.vocab_size, rest[ends[-1]]) * self._shorter(p)
            where = grams.followers(int(ends[-1]))
            p[grams.keys[where] % self.vocab_size] += seen[where]
        return p

    def perplexity(self, ids: Ids) -> float:
        """Return exp of the mean of -ln p over the words of ``ids``; inf where a word has probability 0."""
        return _perplexity(self.log_prob(ids))

    def sample(self, n: int, *, context: Ids = (), generator: torch.Generator | None = None) -> Int64[np.ndarray, " n"]:
        """Return n words drawn one after the other, each given ``context`` and those before it."""
        return _sample(self.distribution, n, _as_ids(context, self.vocab_size), self.order, generator)

    def seen_context(self, ids: Ids, n: int) -> Bool[np.ndarray, " T"]:
        """Return for every word of ``ids`` whether the n words before it stood in the training text, in that order.

        False for the first n words, which have no n words before them. 1 ≤ n ≤ ``order``.
        """
        _require(1 <= n <= self.order, f"n={n}: this model counted contexts of 1 to {self.order} words")
        words = _as_ids(ids, self.vocab_size)
        seen = np.zeros(len(words), bool)
        seen[n:] = self._numbers(words)[n][:-1] >= 0
        return seen


# --- Bengio's network -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NeuralNGramConfig:
    """The sizes of a ``NeuralNGram``.

    Raises:
        ValueError: a field is out of its range.
    """

    vocab_size: int  # V
    order: int = 5  # n: the context is n - 1 words
    d_model: int = 60  # m: features of a word, the rows of C
    d_hidden: int = 100  # h: tanh units
    direct: bool = True  # connections W from the word features straight to the output
    tie_embeddings: bool = False  # the output shares C, [U W] = C [P Q] (not in the paper; far fewer weights)
    dropout: float = 0.0  # on the word features and on the tanh units (not in the paper)
    pad_id: int = 0  # the word that is taken to stand before a text begins, such as the end of a line

    def __post_init__(self) -> None:
        """Check every field."""
        for name, least in (("vocab_size", 1), ("order", 2), ("d_model", 1), ("d_hidden", 1)):
            value = getattr(self, name)
            _require(value >= least, f"{name}={value}: at least {least} is needed")
        _require(0 <= self.dropout < 1, f"dropout={self.dropout} is outside 0 ≤ dropout < 1")
        _require(0 <= self.pad_id < self.vocab_size, f"pad_id={self.pad_id} is no id of 0 … {self.vocab_size - 1}")


@dataclass(frozen=True)
class NeuralNGramOutput:
    """What a forward pass gives: y, so log-probabilities up to a constant a row, and the mean loss over the targets."""

    logits: Float[Tensor, "B V"]  # (B, 1 + K) with K rivals
    loss: Float[Tensor, ""] | None = None


class NeuralNGram(nn.Module):
    """The neural probabilistic language model (Bengio et al. 2003, section 2, equation 1).

    y = b + Wx + U tanh(d + Hx), where x joins the feature vectors C of the ``order`` - 1 words before, and the softmax
    of y is the distribution of the next word. The paper writes x from the latest word backwards; here x is in reading
    order, which only permutes the columns of H and W.

    Used in: 2003_next_word.

    Example:
        >>> net = NeuralNGram(NeuralNGramConfig(vocab_size=50, order=3))
        >>> net(torch.tensor([[4, 7], [7, 4]])).logits.shape
        torch.Size([2, 50])
    """

    def __init__(self, config: NeuralNGramConfig) -> None:
        """Draw the weights: C small, H and [U W] uniform within ±1/sqrt(inputs), b zero."""
        super().__init__()
        self.config = config
        d_input = (config.order - 1) * config.d_model
        d_joined = config.d_hidden + (d_input if config.direct else 0)
        self.C = nn.Embedding(config.vocab_size, config.d_model)
        self.H = nn.Linear(d_input, config.d_hidden)  # its bias is d
        self.UW = nn.Linear(d_joined, config.d_model if config.tie_embeddings else config.vocab_size, bias=False)
        self.b = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.C.weight, std=0.1)

    def features(self, contexts: Int64[Tensor, "B N"]) -> Float[Tensor, "B F"]:
        """Return what the output layer sees: tanh(d + Hx) joined with x, or P and Q times these where C is shared."""
        x = self.dropout(self.C(contexts).flatten(1))  # (B, (order-1)·m)
        z = self.dropout(torch.tanh(self.H(x)))  # (B, h)
        if self.config.direct:
            z = torch.cat([z, x], dim=1)
        return F.linear(z, self.UW.weight) if self.config.tie_embeddings else z

    @property
    def output_weight(self) -> Float[Tensor, "V F"]:
        """One row a word: [U W], or C where it is shared."""
        return self.C.weight if self.config.tie_embeddings else self.UW.weight

    def forward(
        self,
        contexts: Int64[Tensor, "B N"],
        targets: Int64[Tensor, " B"] | None = None,
        rivals: Int64[Tensor, " K"] | None = None,
        log_expected: Float[Tensor, " K"] | None = None,
    ) -> NeuralNGramOutput:
        """Predict the word after each of B contexts of ``order`` - 1 ids, in reading order.

        The loss is the mean cross-entropy in nats; without rivals, targets of -100 are left out.

        With ``rivals`` (see ``Rivals``) only these K words and the target are scored, not all V: the sum in the softmax
        is estimated by importance sampling (Bengio & Senécal 2003). Each rival counts 1 / expected number of times it
        was drawn, so that the sum is right on average. The logits are then (B, 1 + K), the target's first.

        Raises:
            ValueError: ``contexts`` are not ``order`` - 1 words wide; ``rivals`` without targets or ``log_expected``.
        """
        n_words = self.config.order - 1
        width = contexts.shape[1]
        _require(width == n_words, f"contexts has rows of {width} words; {n_words} are needed")
        z = self.features(contexts)
        if rivals is not None:
            if targets is None or log_expected is None:
                raise ValueError("rivals come with targets and log_expected; one of them is None")
            logits = self._rival_logits(z, targets, rivals, log_expected)
            return NeuralNGramOutput(logits, F.cross_entropy(logits, torch.zeros_like(targets)))
        logits = F.linear(z, self.output_weight, self.b)  # (B, V)
        return NeuralNGramOutput(logits, None if targets is None else F.cross_entropy(logits, targets))

    def _rival_logits(self, z: Tensor, targets: Tensor, rivals: Tensor, log_expected: Tensor) -> Tensor:
        """Return y of the target and, divided by how often each was to be expected, of the rivals: (B, 1 + K)."""
        rows = F.embedding(torch.cat([targets, rivals]), self.output_weight)  # one look-up, so one gradient of size V
        target_rows, rival_rows = torch.split(rows, [len(targets), len(rivals)])
        target = (z * target_rows).sum(1) + self.b[targets]
        others = F.linear(z, rival_rows, self.b[rivals] - log_expected)  # (B, K)
        others = others.masked_fill(rivals == targets[:, None], -math.inf)  # the target is in the sum already
        return torch.cat([target[:, None], others], dim=1)

    def num_parameters(self) -> int:
        """Return the number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.inference_mode()
    def log_prob(self, ids: Ids, *, batch_size: int = 256) -> Float[np.ndarray, " T"]:
        """Return ln p of every word of ``ids`` given the words before it *within* ``ids``.

        The first words have fewer than ``order`` - 1 words before them; ``config.pad_id`` stands for those missing.
        """
        words = _as_ids(ids, self.config.vocab_size)
        if not len(words):
            return np.zeros(0)
        windows = self._windows(words)
        with _evaluating(self):
            losses = [self._losses(rows) for rows in torch.split(windows, batch_size)]
        return -torch.cat(losses).double().cpu().numpy()

    def _windows(self, ids: np.ndarray) -> Int64[Tensor, "T order"]:
        padding = torch.full((self.config.order - 1,), self.config.pad_id)
        padded = torch.cat([padding, torch.from_numpy(ids)])
        return padded.unfold(0, self.config.order, 1)  # row t: the context of word t, then word t

    def _losses(self, windows: Int64[Tensor, "B order"]) -> Float[Tensor, " B"]:
        windows = windows.to(self.b.device)
        logits = self(windows[:, :-1]).logits
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))  # never sum V terms in half precision
        return F.cross_entropy(exact, windows[:, -1], reduction="none")

    def perplexity(self, ids: Ids, *, batch_size: int = 256) -> float:
        """Return exp of the mean of -ln p over the words of ``ids``."""
        return _perplexity(self.log_prob(ids, batch_size=batch_size))

    @torch.inference_mode()
    def distribution(self, context: Ids) -> Float[np.ndarray, " V"]:
        """Return p(w | ``context``) for all V words. Only the last ``order`` - 1 words of ``context`` count."""
        words = _as_ids(context, self.config.vocab_size)
        latest = self._windows(np.append(words, 0))[-1:, :-1]  # the context of a word still to come
        with _evaluating(self):
            logits: Tensor = self(latest.to(self.b.device)).logits[0]
        return logits.double().softmax(-1).cpu().numpy()

    def sample(self, n: int, *, context: Ids = (), generator: torch.Generator | None = None) -> Int64[np.ndarray, " n"]:
        """Return n words drawn one after the other, each given ``context`` and those before it."""
        words = _as_ids(context, self.config.vocab_size)
        return _sample(self.distribution, n, words, self.config.order, generator)


class Rivals:
    """Draws the words that the target is compared with in training, in place of all V.

    The ``n_frequent`` most frequent words are always among them: they hold most of the probability, so leaving them to
    chance would make the estimate noisy. ``n_drawn`` more are drawn from the others, with replacement, as often as they
    occur in the text (a word that never occurs counts as occurring once).

    Raises:
        ValueError: more frequent words than the vocabulary has, or nothing to draw.
    """

    def __init__(self, ids: Ids, vocab_size: int, *, n_frequent: int, n_drawn: int) -> None:
        """Count the words of the training text ``ids``."""
        _require(0 <= n_frequent < vocab_size, f"n_frequent={n_frequent} is outside 0 … {vocab_size - 1}")
        _require(n_drawn >= 1, f"n_drawn={n_drawn}: at least 1 word is drawn")
        counts = torch.from_numpy(np.bincount(_as_ids(ids, vocab_size), minlength=vocab_size)).double().clamp(min=1)
        by_frequency = counts.argsort(descending=True, stable=True)
        self.frequent, self.others = by_frequency[:n_frequent], by_frequency[n_frequent:]
        self.q = counts[self.others] / counts[self.others].sum()
        self.n_drawn = n_drawn

    def draw(self, generator: torch.Generator | None = None) -> tuple[Int64[Tensor, " K"], Float[Tensor, " K"]]:
        """Return K = n_frequent + n_drawn words and ln of the expected number of times each is among them."""
        drawn = torch.multinomial(self.q, self.n_drawn, replacement=True, generator=generator)
        log_expected = (self.n_drawn * self.q[drawn]).log().float()
        always = torch.zeros(len(self.frequent))
        return torch.cat([self.frequent, self.others[drawn]]), torch.cat([always, log_expected])


def context_batches(
    ids: Ids, order: int, batch_size: int, *, rivals: Rivals | None = None, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """Yield random (contexts of ``order`` - 1 ids, next ids) of a text, without end: the arguments of ``NeuralNGram``.

    Each pass over the text visits its places in a new random order, each at most once: the last few that fill no batch
    are left out. The same generator state gives the same batches. With ``rivals`` each batch brings its own draw.

    Raises:
        ValueError: the text has fewer than ``batch_size`` places with a full context.

    Example:
        >>> contexts, targets = next(context_batches(range(100), order=4, batch_size=8))
        >>> bool((contexts[:, -1] + 1 == targets).all())
        True
    """
    words = torch.from_numpy(_as_ids(ids))
    n_windows = len(words) - order + 1
    _require(order >= 2, f"order={order}: a context needs at least one word, so order at least 2")
    _require(1 <= batch_size <= n_windows, f"batch_size={batch_size}: the text has {max(n_windows, 0)} full contexts")
    return _shuffled(words.unfold(0, order, 1), batch_size, rivals, generator)


def _shuffled(
    windows: Tensor, batch_size: int, rivals: Rivals | None, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, ...]]:
    while True:
        places = torch.randperm(len(windows), generator=generator)
        for i in range(0, len(places) - batch_size + 1, batch_size):
            rows = windows[places[i : i + batch_size]]  # (B, order)
            yield rows[:, :-1], rows[:, -1], *(rivals.draw(generator) if rivals else ())


# --- Shared -----------------------------------------------------------------------------------------------------------


def _require(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _as_ids(ids: Ids, vocab_size: int | None = None) -> Int64[np.ndarray, " T"]:
    """Return ids as one row of int64, checked."""
    row = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    _require(row.ndim == 1, f"ids has shape {row.shape}; one row of ids, shape (T,), is needed")
    if row.size and row.dtype.kind not in "iu":
        raise TypeError(f"ids holds {row.dtype}; whole numbers are needed")
    if row.size and vocab_size is not None:
        _require(row.min() >= 0, f"ids holds {row.min()}; ids start at 0")
        _require(
            row.max() < vocab_size, f"ids holds {row.max()}; the largest id of vocab_size={vocab_size} is one less"
        )
    return np.ascontiguousarray(row, dtype=np.int64)


def _perplexity(log_prob: np.ndarray) -> float:
    _require(len(log_prob) > 0, "ids is empty: a perplexity needs at least one word")
    with np.errstate(over="ignore"):
        return float(np.exp(-log_prob.mean()))


def _sample(
    distribution: Callable[[Ids], np.ndarray],
    n: int,
    context: np.ndarray,
    order: int,
    generator: torch.Generator | None,
) -> Int64[np.ndarray, " n"]:
    _require(n >= 0, f"n={n}: a number of words, 0 or more, is needed")
    words = np.append(context, np.zeros(n, np.int64))
    for t in range(len(context), len(words)):
        p = torch.from_numpy(distribution(words[max(t - order + 1, 0) : t]))
        words[t] = int(torch.multinomial(p, 1, generator=generator))
    return words[len(context) :]


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off, and put the model back as it was found."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
