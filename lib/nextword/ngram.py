"""Next-word models with a short memory: counted n-grams, and the network of Bengio et al. 2003.

``NGram`` counts, ``NeuralNGram`` learns. Both answer the same questions, ``distribution``, ``log_prob``, ``perplexity``
and ``sample``, and return NumPy arrays, so that they can be compared and mixed word by word.

Used in: 2003_next_word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from nextword.layers import ModelOutput, check_fraction, check_ids, check_sizes, eval_mode

Ids: TypeAlias = Sequence[int] | np.ndarray | Tensor
Smoothing = Literal["mle", "add_k", "kneser_ney"]

UNINFORMED_DISCOUNT = 0.5
"""The discount where a text is too small to estimate one (no k-gram counted once, or none counted twice)."""


# --- Counting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KGrams:
    """Every different k-gram hw of a text for one k: a context h of k-1 words, and the word w behind it."""

    # The number of h among the (k-1)-grams and w make one key. Keys are sorted, and a k-gram's number is its rank among
    # them: finding it is a binary search, and the words that followed h are one slice.
    keys: Int64[np.ndarray, " N"]  #: Number of h · V + w, ascending.
    counts: Int64[np.ndarray, " N"]  #: c(hw): how often it occurred.
    suffixes: Int64[np.ndarray, " N"]  #: Its number among the (k-1)-grams once the first word is dropped.
    vocab_size: int  #: V.

    @property
    def contexts(self) -> Int64[np.ndarray, " N"]:
        """The number of h for every hw."""
        return self.keys // self.vocab_size

    def find(self, contexts: Int64[np.ndarray, " T"], words: Int64[np.ndarray, " T"]) -> Int64[np.ndarray, " T"]:
        """Return the number of every hw, -1 where it never occurred."""
        keys = contexts * self.vocab_size + words  # negative for a context -1, so that it is never found
        # Where each would have to stand; one above all others would go behind the last, where there is none.
        numbers = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[numbers] == keys, numbers, -1)

    def followers(self, context: int) -> slice:
        """Return where the k-grams that begin with h lie."""
        # Whatever word follows h, the key lies between h·V and h·V + V - 1.
        first, last = np.searchsorted(self.keys, [context * self.vocab_size, (context + 1) * self.vocab_size])
        return slice(int(first), int(last))


def count_kgrams(ids: Int64[np.ndarray, " T"], order: int, vocab_size: int) -> list[KGrams]:
    """Return the 1-grams, 2-grams, …, ``order``-grams of a text."""
    # numbers[i] is the number of the (k-1)-gram that ends before position i + k - 1. Joined with the word at that position
    # it gives the k-gram's key, and the key's rank among all different keys is the k-gram's number.
    numbers = np.zeros(len(ids) + 1, np.int64)  # the empty 0-gram stands before every word and after the last
    table = []
    for k in range(1, order + 1):
        # A rank instead of the whole context: V^k would soon be more than 64 bits hold, a rank times V is not.
        keys = numbers[:-1] * vocab_size + ids[k - 1 :]  # (T - k + 1,), one for each k-gram of the text
        unique, first, ranks, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        # The k-gram that begins at i, less its first word, is the (k-1)-gram that begins at i + 1.
        table.append(KGrams(unique, counts, numbers[1:][first], vocab_size))
        numbers = ranks
    return table


# --- Smoothing: p(w|h) = α(hw) + λ(h) · p(w|h'), h' being h without its first word ------------------------------------

Weights: TypeAlias = tuple[Float[np.ndarray, " N"], Float[np.ndarray, " M"]]
"""α, what each of N k-grams hw has of its own, and λ, the weight of the shorter context for each of M contexts h."""


def maximum_likelihood(grams: KGrams, n_contexts: int, backoff: float) -> Weights:
    """Return (1-b) c(hw) / c(h) and b, which is 1 where h was never seen (Jelinek & Mercer 1980, with one weight)."""
    h = grams.contexts
    c_h = np.bincount(h, weights=grams.counts, minlength=n_contexts)  # c(h) = Σ_w c(hw)
    # A share b for the shorter context: without it one follower that was never counted makes the perplexity infinite.
    return (1 - backoff) * grams.counts / c_h[h], np.where(c_h > 0, backoff, 1.0)


def add_k(grams: KGrams, n_contexts: int, k: float) -> Weights:
    """Return c(hw) / (c(h) + kV) and kV / (c(h) + kV): k is added to the count of every word."""
    h, kV = grams.contexts, k * grams.vocab_size
    total = np.bincount(h, weights=grams.counts, minlength=n_contexts) + kV  # (M,); kV alone for an unseen h
    return grams.counts / total[h], kV / total  # with 1/V for p(w|h') their sum is the usual (c(hw) + k) / (c(h) + kV)


def discount(counts: np.ndarray) -> float:
    """Return D = n₁ / (n₁ + 2 n₂), n₁ and n₂ being the numbers of k-grams counted once and twice (Ney et al. 1994).

    Example:
        >>> discount(np.array([1, 1, 2, 7]))
        0.5
        >>> discount(np.array([1, 1, 1, 2]))
        0.6
    """
    n1, n2 = int(np.sum(counts == 1)), int(np.sum(counts == 2))
    if not n1 or not n2:
        return UNINFORMED_DISCOUNT  # 0, 1 or 0/0 would say only that the text is too small
    return n1 / (n1 + 2 * n2)


def kneser_ney(grams: KGrams, longer: KGrams | None, n_contexts: int) -> Weights:
    """Return α = max(c(hw) - D, 0) / c(h) and λ(h) = D · N₁₊(h •) / c(h) (Kneser & Ney 1995; Chen & Goodman 1999).

    This is interpolated Kneser-Ney: every order contributes, p(w|h) = α(hw) + λ(h) p(w|h').

    Args:
        grams: the k-grams hw.
        longer: the (k+1)-grams; None where there are none, at the longest order.
        n_contexts: how many contexts h there are, those without a follower among them.
    """
    c = grams.counts
    if longer is not None:
        # A shorter context weighs most where the longer one was hardly seen. There it does not matter how often hw occurred
        # but after how many different words v: N₁₊(• hw). Each different vhw has one hw as its suffix.
        c = np.bincount(longer.suffixes, minlength=len(c))
    D = discount(c)
    h = grams.contexts  # (N,)
    # c(h) = Σ_w c(hw). It is 0, as if h had never been seen, for a context that ends the text, and in the shorter orders
    # for one that was followed at the very beginning only, where no word stands before it.
    c_h = np.bincount(h, weights=c, minlength=n_contexts)  # (M,)
    followers = np.bincount(h, weights=c > 0, minlength=n_contexts)  # N₁₊(h •): how many different words followed h
    divisor = np.maximum(c_h, 1)  # c(h) is a whole number: this only avoids 0/0
    alpha = np.maximum(c - D, 0) / divisor[h]  # absolute discounting: everything seen gives up the same D
    # Each different follower gave up D. The shorter context shares that out, so that Σ_w α(hw) + λ(h) = 1.
    lam = np.where(c_h > 0, D * followers / divisor, 1.0)  # an unseen context passes everything on
    return alpha, lam


class NGram:
    """The probability of a word given the ``order`` - 1 words before it, from counts.

    With h the context, h' the context without its first word, c the counts and V the vocabulary size:

    - ``"mle"``: p(w|h) = (1-b) c(hw)/c(h) + b p(w|h'), b = ``backoff``. ``backoff=0`` is the bare maximum likelihood,
      which gives probability 0 to every follower that a seen context never had.
    - ``"add_k"``: p(w|h) = (c(hw) + k) / (c(h) + kV), without shorter contexts.
    - ``"kneser_ney"``: p(w|h) = max(c(hw) - D, 0)/c(h) + λ(h) p(w|h'); see :func:`kneser_ney`.

    With ``mle`` and ``kneser_ney`` an unseen context passes everything on to the shorter one; below the single words lies
    the uniform 1/V. With ``add_k`` an unseen context gives 1/V at once.

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
        _check_whole("order", order, 1)
        _check_whole("vocab_size", vocab_size, 1)
        _require(smoothing in get_args(Smoothing), f"smoothing={smoothing!r}: choose one of {get_args(Smoothing)}")
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

    def variant(self, **changes: Any) -> NGram:
        """Return a model with another ``smoothing``, ``k``, ``backoff`` or a shorter ``order`` on the counts of this one."""
        settings = {"order": self.order, "smoothing": self.smoothing, "k": self.k, "backoff": self.backoff, **changes}
        other = NGram(vocab_size=self.vocab_size, **settings)
        _require(other.order <= self.order, f"order={other.order}: this model counted up to {self.order} words")
        other.table = self.table[: other.order]  # counting is what takes time
        return other._weigh()

    def _weigh(self) -> NGram:
        """Turn the counts of each order into α and λ."""
        self.weights = []
        for k, grams in enumerate(self.table):
            n_contexts = len(self.table[k - 1].keys) if k else 1  # a single word has one context, the empty one
            alpha, lam = self.smooth(k, grams, n_contexts)
            self.weights.append((np.append(alpha, 0.0), np.append(lam, 1.0)))  # read by the number -1: unseen
        return self

    def smooth(self, k: int, grams: KGrams, n_contexts: int) -> Weights:
        """Return α and λ of the (k+1)-grams ``grams``, which have k words of context, by the smoothing that was chosen."""
        if self.smoothing == "mle":
            return maximum_likelihood(grams, n_contexts, self.backoff)
        if self.smoothing == "add_k":
            return add_k(grams, n_contexts, self.k)
        return kneser_ney(grams, self.table[k + 1] if k + 1 < self.order else None, n_contexts)

    def _numbers(self, ids: Int64[np.ndarray, " T"]) -> list[Int64[np.ndarray, " _"]]:
        """Return the numbers of the 0-grams, 1-grams, … that end at each position of ``ids``; -1 where unseen."""
        if not self.table:
            raise RuntimeError("this NGram has counted nothing yet; call fit(ids) first")
        numbers = [np.zeros(len(ids) + 1, np.int64)]
        for k, grams in enumerate(self.table):
            numbers.append(grams.find(numbers[k][:-1], ids[k:]))
        return numbers

    def log_prob(self, ids: Ids) -> Float[np.ndarray, " T"]:
        """Return ln p of every word of ``ids`` given the words before it *within* ``ids``; -inf where p is 0."""
        words = _as_ids(ids, self.vocab_size)
        numbers = self._numbers(words)
        uniform = 1 / self.vocab_size
        p = np.full(len(words), uniform)  # (T,)
        # From no context to the longest. The first words of a text have fewer words before them: theirs stays what the
        # longest context gave that they have. No start symbol is made up.
        for k, (alpha, lam) in enumerate(self.weights):
            hw, h = numbers[k + 1], numbers[k][:-1]  # of each word that has k words before it
            shorter = uniform if self.smoothing == "add_k" else p[k:]  # p(w|h')
            p[k:] = alpha[hw] + lam[h] * shorter
        # In nats. Without smoothing p may be 0, and then -inf is the right answer.
        with np.errstate(divide="ignore"):
            logs: np.ndarray = np.log(p)
        return logs

    def distribution(self, context: Ids) -> Float[np.ndarray, " V"]:
        """Return p(w | ``context``) for all V words. Only the last ``order`` - 1 words of ``context`` count."""
        words = _as_ids(context, self.vocab_size)
        words = words[max(len(words) - self.order + 1, 0) :]
        numbers = self._numbers(words)[: len(words) + 1]
        p = uniform = np.full(self.vocab_size, 1 / self.vocab_size)
        for grams, (alpha, lam), ending in zip(self.table, self.weights, numbers, strict=False):
            h = int(ending[-1])  # the last k words
            p = lam[h] * (uniform if self.smoothing == "add_k" else p)
            followers = grams.followers(h)  # none for an unseen h = -1
            p[grams.keys[followers] % self.vocab_size] += alpha[followers]  # h·V + w mod V is w
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
        _check_whole("n", n, 1, self.order)
        words = _as_ids(ids, self.vocab_size)
        seen = np.zeros(len(words), bool)
        seen[n:] = self._numbers(words)[n][:-1] >= 0
        return seen


# --- Bengio's network -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NeuralNGramConfig:
    """The sizes of a ``NeuralNGram``.

    Raises:
        ValueError: a field is out of its range.
    """

    vocab_size: int  #: V, the number of different words.
    order: int = 5  #: n: the context is n - 1 words.
    d_model: int = 60  #: m: features of a word, the rows of C.
    d_hidden: int = 100  #: h: tanh units.
    direct: bool = True  #: Connections W from the word features straight to the output.
    tie_embeddings: bool = False  #: The output shares C, [U W] = C [P Q]; not in the paper, and far fewer weights.
    dropout: float = 0.0  #: Share dropped from the word features and from the tanh units; not in the paper.
    pad_id: int = 0  #: The word that is taken to stand before a text begins, such as the end of a line.

    def __post_init__(self) -> None:
        """Check every field."""
        check_sizes(self, "vocab_size", "d_model", "d_hidden")
        _check_whole("order", self.order, 2)
        check_fraction(self, "dropout")
        _require(0 <= self.pad_id < self.vocab_size, f"pad_id={self.pad_id} is no id of 0 … {self.vocab_size - 1}")


class NeuralNGram(nn.Module):
    """The neural probabilistic language model (Bengio et al. 2003, section 2, equation 1).

    The paper writes x from the latest word backwards; here x is in reading order, which only permutes the columns of H
    and W.

    Used in: 2003_next_word.

    Example:
        >>> net = NeuralNGram(NeuralNGramConfig(vocab_size=50, order=3))
        >>> net(torch.tensor([[4, 7], [7, 4]])).logits.shape
        torch.Size([2, 50])
    """

    def __init__(self, config: NeuralNGramConfig) -> None:
        super().__init__()
        self.config = config
        d_input = (config.order - 1) * config.d_model
        d_joined = config.d_hidden + (d_input if config.direct else 0)
        self.C = nn.Embedding(config.vocab_size, config.d_model)
        self.H = nn.Linear(d_input, config.d_hidden)  # its bias is d
        self.UW = nn.Linear(d_joined, config.d_model if config.tie_embeddings else config.vocab_size, bias=False)
        self.b = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.C.weight, std=0.1)  # the others begin uniform within ±1/√(their inputs), as torch's do

    def forward(
        self,
        contexts: Int64[Tensor, "B N"],
        targets: Int64[Tensor, " B"] | None = None,
        negatives: Int64[Tensor, " K"] | None = None,
        log_expected: Float[Tensor, " K"] | None = None,
    ) -> ModelOutput:
        """Score the word after each of B contexts: y = b + Wx + U tanh(d + Hx).

        Args:
            contexts: rows of ``order`` - 1 ids, in reading order.
            targets: the words that came. The loss is their mean cross-entropy in nats; without negatives, -100 is left out.
            negatives, log_expected: from :class:`NegativeSampler`. Then only these K words and the target are scored, and
                the logits are (B, 1 + K), the target's first.

        Raises:
            ValueError: ``contexts`` are not ``order`` - 1 words wide; ``negatives`` without targets or ``log_expected``.
        """
        check_ids("contexts", contexts)
        n_words = self.config.order - 1
        _require(contexts.shape[1] == n_words, f"contexts has rows of {contexts.shape[1]} words; {n_words} are needed")
        # One table C for all places: what is learned of a word in one place of the context is known of it in the
        # others. The order is kept, since each place has its own columns of H and W.
        x = self.dropout(self.C(contexts).flatten(1))  # (B, (n-1)·m): the words' features, side by side
        a = self.dropout(torch.tanh(self.H(x)))  # (B, h): tanh(d + Hx)
        # One matrix [U W] over both joined is Ua + Wx. Without direct connections there is no W.
        joined = torch.cat([a, x], dim=1) if self.config.direct else a
        output_weight = self.UW.weight  # (V, F): a row for each word
        if self.config.tie_embeddings:
            # [U W] = C [P Q]: a word's score is the product of its own features with those that [P Q] expects.
            joined, output_weight = self.UW(joined), self.C.weight
        if negatives is not None:
            # The softmax sums over V words for each word of the text. In training an estimate from K of them will do.
            if targets is None or log_expected is None:
                raise ValueError("negatives come with targets and log_expected; one of them is None")
            y = self._sampled_logits(joined, output_weight, targets, negatives, log_expected)  # (B, 1 + K)
            return ModelOutput(y, F.cross_entropy(y, torch.zeros_like(targets)))  # the right answer is column 0
        y = F.linear(joined, output_weight, self.b)  # (B, V): b + Wx + U tanh(d + Hx)
        return ModelOutput(y, None if targets is None else F.cross_entropy(y, targets))

    def _sampled_logits(
        self, x: Tensor, output_weight: Tensor, targets: Tensor, negatives: Tensor, log_expected: Tensor
    ) -> Float[Tensor, "B K_plus_1"]:
        """Return scores of the target and of the negatives whose softmax estimates that over all V (Bengio & Senécal 2003).

        The sum over V words is estimated by importance sampling: a word that was to be expected r times among the negatives
        counts 1/r, so that the sum is right on average.
        """
        # One look-up for both, so that there is one gradient of the size of the table.
        weights = F.embedding(torch.cat([targets, negatives]), output_weight)
        target_weights, negative_weights = torch.split(weights, [len(targets), len(negatives)])
        target = (x * target_weights).sum(1) + self.b[targets]  # (B,), not divided: it is there for certain, r = 1
        others = F.linear(x, negative_weights, self.b[negatives] - log_expected)  # (B, K): ln(e^y / r)
        others = others.masked_fill(negatives == targets[:, None], -math.inf)  # the target is in the sum already
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
        losses = []
        with eval_mode(self):
            for windows in torch.split(self._windows(words), batch_size):
                windows = windows.to(self.b.device)
                logits = self(windows[:, :-1]).logits
                exact = torch.promote_types(logits.dtype, torch.float32)  # never sum V terms in half precision
                logits = logits.to(exact)
                losses.append(F.cross_entropy(logits, windows[:, -1], reduction="none"))
        return -torch.cat(losses).double().cpu().numpy()

    def _windows(self, ids: np.ndarray) -> Int64[Tensor, "T order"]:
        """Return a row for each word: its context, then the word itself."""
        padding = torch.full((self.config.order - 1,), self.config.pad_id)
        return torch.cat([padding, torch.from_numpy(ids)]).unfold(0, self.config.order, 1)

    def perplexity(self, ids: Ids, *, batch_size: int = 256) -> float:
        """Return exp of the mean of -ln p over the words of ``ids``."""
        return _perplexity(self.log_prob(ids, batch_size=batch_size))

    @torch.inference_mode()
    def distribution(self, context: Ids) -> Float[np.ndarray, " V"]:
        """Return p(w | ``context``) for all V words. Only the last ``order`` - 1 words of ``context`` count."""
        words = _as_ids(context, self.config.vocab_size)
        latest = self._windows(np.append(words, 0))[-1:, :-1]  # the context of a word still to come
        with eval_mode(self):
            logits: Tensor = self(latest.to(self.b.device)).logits[0]
        return logits.double().softmax(-1).cpu().numpy()

    def sample(self, n: int, *, context: Ids = (), generator: torch.Generator | None = None) -> Int64[np.ndarray, " n"]:
        """Return n words drawn one after the other, each given ``context`` and those before it."""
        words = _as_ids(context, self.config.vocab_size)
        return _sample(self.distribution, n, words, self.config.order, generator)


class NegativeSampler:
    """Draws the words that the target is compared with in training, in place of all V (sampled softmax).

    The ``n_frequent`` most frequent words are always among them, and ``n_drawn`` others by chance, with replacement, as
    often as they occur in the text ``ids``.

    Raises:
        ValueError: more frequent words than the vocabulary has, or nothing to draw.
    """

    def __init__(self, ids: Ids, vocab_size: int, *, n_frequent: int, n_drawn: int) -> None:
        _check_whole("n_frequent", n_frequent, 0, vocab_size - 1)
        _check_whole("n_drawn", n_drawn, 1)
        counts = torch.from_numpy(np.bincount(_as_ids(ids, vocab_size), minlength=vocab_size)).double()
        counts = counts.clamp(min=1)  # so that a word that never occurs can be drawn, too
        # The frequent words hold most of the probability: to leave them to chance would make the estimate noisy.
        by_frequency = counts.argsort(descending=True, stable=True)
        self.frequent, self.others = by_frequency[:n_frequent], by_frequency[n_frequent:]
        self.q = counts[self.others] / counts[self.others].sum()
        self.n_drawn = n_drawn

    def draw(self, generator: torch.Generator | None = None) -> tuple[Int64[Tensor, " K"], Float[Tensor, " K"]]:
        """Return K = n_frequent + n_drawn words and ln of the expected number of times each is among them."""
        drawn = torch.multinomial(self.q, self.n_drawn, replacement=True, generator=generator)
        log_expected = (self.n_drawn * self.q[drawn]).log().float()
        always = torch.zeros(len(self.frequent))  # ln 1
        return torch.cat([self.frequent, self.others[drawn]]), torch.cat([always, log_expected])


def context_batches(
    ids: Ids,
    order: int,
    batch_size: int,
    *,
    negatives: NegativeSampler | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """Yield random (contexts of ``order`` - 1 ids, next ids) of a text, without end: the arguments of ``NeuralNGram``.

    Each pass over the text visits its positions in a new random order, each at most once: the last few that fill no batch
    are left out. The same generator state gives the same batches. With ``negatives`` each batch brings its own draw.

    Raises:
        ValueError: the text has fewer than ``batch_size`` positions with a full context.

    Example:
        >>> contexts, targets = next(context_batches(range(100), order=4, batch_size=8))
        >>> bool((contexts[:, -1] + 1 == targets).all())
        True
    """
    _check_whole("order", order, 2)
    words = torch.from_numpy(_as_ids(ids))
    n_windows = len(words) - order + 1
    _require(1 <= batch_size <= n_windows, f"batch_size={batch_size}: the text has {max(n_windows, 0)} full contexts")

    def batches() -> Iterator[tuple[Tensor, ...]]:
        windows = words.unfold(0, order, 1)
        while True:
            shuffled = torch.randperm(n_windows, generator=generator)
            for i in range(0, n_windows - batch_size + 1, batch_size):
                batch = windows[shuffled[i : i + batch_size]]  # (B, order)
                yield batch[:, :-1], batch[:, -1], *(negatives.draw(generator) if negatives else ())

    return batches()


# --- Shared -----------------------------------------------------------------------------------------------------------


def _require(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_whole(name: str, value: Any, least: int, most: float = math.inf) -> None:
    if not isinstance(value, (int, np.integer)) or not least <= value <= most:
        fits = f"from {least} up" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name}={value!r}: give a whole number {fits}")


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
        return float(np.exp(-log_prob.mean()))  # from nats a word to a number of equally likely words


def _sample(
    distribution: Callable[[Ids], np.ndarray],
    n: int,
    context: np.ndarray,
    order: int,
    generator: torch.Generator | None,
) -> Int64[np.ndarray, " n"]:
    _check_whole("n", n, 0)
    words = np.append(context, np.zeros(n, np.int64))
    for t in range(len(context), len(words)):
        p = torch.from_numpy(distribution(words[max(t - order + 1, 0) : t]))
        words[t] = int(torch.multinomial(p, 1, generator=generator))
    return words[len(context) :]
