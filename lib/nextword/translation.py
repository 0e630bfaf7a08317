"""What the two translation chapters share: pairs of sentences as ids, batches of similar length, and translating.

Used in: 2016_gnmt, 2017_transformer.
"""

from __future__ import annotations

import bisect
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import regex
import torch
from torch import Tensor, nn

from nextword import data, runtime
from nextword.attention import pad
from nextword.data import Pair
from nextword.generation import Hypothesis, beam_search
from nextword.layers import IGNORE_INDEX, eval_mode
from nextword.metrics import bleu
from nextword.tokenizers import ByteBPE
from nextword.training import History, TrainConfig, fit

PAD, START, END = SPECIAL = ("<pad>", "<start>", "<end>")
"""Filling of shorter sentences, the first token of every translation, and the last."""

IdPair = tuple[list[int], list[int]]
"""A sentence and its translation as ids, without start and end tokens."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and where its special tokens are. The same one serves both languages."""

    tokenizer: Any
    """Has ``encode``, ``decode`` and ``vocab_size``: a ``ByteBPE`` or ``Words``."""
    pad: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Return the number of ids V."""
        size: int = self.tokenizer.vocab_size
        return size

    @classmethod
    def subwords(cls, texts: Iterable[str], size: int) -> Vocabulary:
        """Learn byte-level subwords (Sennrich et al. 2016) from texts; ``size=259`` has no merge: one id a byte."""
        return cls.of(ByteBPE.train(texts, size, special_tokens=SPECIAL))

    @classmethod
    def of(cls, bpe: ByteBPE) -> Vocabulary:
        """Take a trained tokenizer that has the special tokens, such as that of a checkpoint."""
        missing = [token for token in SPECIAL if token not in bpe.special_tokens]
        if missing:
            raise ValueError(f"bpe lacks the special tokens {', '.join(missing)}; train it with special_tokens=SPECIAL")
        return cls(bpe, *(bpe.special_tokens[token] for token in SPECIAL))

    @classmethod
    def words(cls, texts: Iterable[str], size: int) -> Vocabulary:
        """Take the ``size`` most frequent words and punctuation marks; every other is ``<unk>``."""
        return cls(Words(texts, size), 0, 1, 2)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a sentence; a space before the first word makes it the same token as elsewhere."""
        ids: list[int] = self.tokenizer.encode(" " + text)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the sentence of these ids up to the end token."""
        kept = []
        for i in ids:
            if i == self.end:
                break
            if i not in (self.pad, self.start):
                kept.append(i)
        text: str = self.tokenizer.decode(kept)
        return text.strip()

    def pairs(self, pairs: Iterable[Any]) -> list[IdPair]:
        """Return (English, Spanish) pairs as ids."""
        return [(self.encode(pair[0]), self.encode(pair[1])) for pair in pairs]


class Words:
    """A tokenizer that knows whole words: ids 0 to 2 are special, 3 is every word it does not know.

    Example:
        >>> words = Words(["a cat, a dog"], 7)
        >>> words.decode(words.encode("a cat, a bird"))
        'a cat, a <unk>'
    """

    PATTERN = regex.compile(r"\p{L}+|\p{N}+|[^\s\p{L}\p{N}]")

    def __init__(self, texts: Iterable[str], size: int) -> None:
        if size < 4:
            raise ValueError(f"size={size} leaves no room for {', '.join(SPECIAL)} and <unk>; give 4 or more")
        counts = Counter(word for text in texts for word in self.PATTERN.findall(text))
        common = [word for word, _ in counts.most_common(size - 4)]
        self.names = [*SPECIAL, "<unk>", *common]
        self.ids = {word: i for i, word in enumerate(self.names)}

    @property
    def vocab_size(self) -> int:
        """Return the number of different ids."""
        return len(self.names)

    def encode(self, text: str) -> list[int]:
        """Return the id of every word and punctuation mark."""
        return [self.ids.get(word, 3) for word in self.PATTERN.findall(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words with spaces between them, and none before a mark or after an opening one."""
        text = " ".join(self.names[i] for i in ids)
        closed: str = regex.sub(r" ([.,;:!?%)\]])", r"\1", text)
        return str(regex.sub(r"([¿¡(\[]) ", r"\1", closed))


class PairBatches:
    """Batches of sentence pairs of similar length, without end, always the same ones for a seed.

    Every pass shuffles the pairs, sorts neighbourhoods of them by length, so that little is padding, and shuffles the
    batches. Yields (source (B, S), target (B, T), labels (B, T)): the target begins with the start token, the labels
    end with the end token, and -100 fills up.

    Args:
        pairs: sentences as ids.
        vocabulary: where pad, start and end are.
        tokens: target tokens in a batch, padding included.
        seed: of the shuffling.
    """

    NEIGHBOURHOOD = 100  # batches that are sorted together

    def __init__(self, pairs: Sequence[IdPair], vocabulary: Vocabulary, *, tokens: int, seed: int) -> None:
        if not pairs:
            raise ValueError("pairs is empty; a batch needs a sentence")
        longest = max(len(target) for _, target in pairs) + 1
        if tokens < longest:
            raise ValueError(f"tokens={tokens} is less than the longest target, {longest}")
        self.pairs, self.vocabulary, self.tokens, self.seed = pairs, vocabulary, tokens, seed
        self.lengths = [len(target) for _, target in pairs]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield batches for ever."""
        rng = random.Random(self.seed)
        while True:
            for rows in self._epoch(rng):
                yield as_batch([self.pairs[i] for i in rows], self.vocabulary)

    def _epoch(self, rng: random.Random) -> Iterator[list[int]]:
        order = list(range(len(self.pairs)))
        rng.shuffle(order)
        mean = (sum(self.lengths) + len(self.lengths)) / len(self.lengths)  # with the end token
        size = max(1, int(self.NEIGHBOURHOOD * self.tokens / mean))
        for start in range(0, len(order), size):
            near = sorted(order[start : start + size], key=lambda i: (self.lengths[i], len(self.pairs[i][0])))
            batches = list(_cut(near, self.lengths, self.tokens))
            rng.shuffle(batches)
            yield from batches


def as_batch(pairs: Sequence[IdPair], vocabulary: Vocabulary) -> tuple[Tensor, Tensor, Tensor]:
    """Return pairs as (source (B, S), target (B, T), labels (B, T)), as the models take them."""
    source = pad([source for source, _ in pairs], vocabulary.pad)[0]
    target = pad([[vocabulary.start, *target] for _, target in pairs], vocabulary.pad)[0]
    labels = pad([[*target, vocabulary.end] for _, target in pairs], IGNORE_INDEX)[0]
    return source, target, labels


@dataclass(frozen=True)
class Corpus:
    """Tatoeba's English-Spanish pairs: ids to learn from, one set to choose settings with, and two to report on."""

    vocabulary: Vocabulary
    train: list[IdPair]
    valid: list[Pair]
    """About 1,400 pairs: what is measured while training, and what settings are chosen by."""
    test: list[Pair]
    """About 1,400 other pairs: the common test set, mostly short sentences."""
    long: list[Pair]
    """742 more of at least 11 English words, to measure by length: a tenth of all such sentences, less those in the common
    test and validation sets."""

    @classmethod
    def tatoeba(
        cls, make: Callable[[Iterable[str], int], Vocabulary] = Vocabulary.subwords, size: int = 2000
    ) -> Corpus:
        """Read the pairs, learn a vocabulary of ``size`` from 20,000 of those for training, and turn those into ids.

        Pairs of more than 120 characters on a side, under one in a hundred, are left out of training.
        """
        kept: list[Pair] = []
        held_out: list[Pair] = []
        for pair in data.load_tatoeba("train"):
            is_long = len(pair.english.split()) >= 11
            hold = is_long and data.split_of(pair.english, test=0.1) == "test"
            (held_out if hold else kept).append(pair)
        sample = random.Random(0).sample(kept, 20_000)
        vocabulary = make((f" {text}" for pair in sample for text in pair[:2]), size)
        train = vocabulary.pairs(pair for pair in kept if max(map(len, pair[:2])) <= 120)
        return cls(vocabulary, train, data.load_tatoeba("valid"), data.load_tatoeba("test"), held_out)


def spread(pairs: Sequence[Pair], n: int) -> Sequence[Pair]:
    """Return at least ``n`` of ``pairs``, all if there are fewer: evenly spaced, since Tatoeba's are sorted by length."""
    if n < 1:
        raise ValueError(f"n={n} is below 1")
    return pairs[:: max(1, len(pairs) // n)]


def learn(
    model: nn.Module,
    corpus: Corpus,
    *,
    steps: int,
    seed: int,
    peak: float = 3e-3,
    warmup: int = 300,
    warm: bool = True,
    tokens: int = 1200,
    every: int = 300,
    sentences: int = 500,
) -> History:
    """Train a translator on batches of ``tokens`` target tokens; measure it every ``every`` steps.

    The learning rate rises for ``warmup`` steps to ``peak`` and then falls with the root of the step, as in equation 3
    of Vaswani et al. 2017. It does not know when training will end, so the first part of a long run is a short run. With
    ``warm=False`` it starts at ``peak``, and is the same after the warm-up.

    Returns:
        The history. Its ``evaluations`` hold ``perplexity`` (per target token) and ``bleu`` (greedy) of ``sentences``
        validation sentences. The test set stays unread.
    """
    chosen = spread(corpus.valid, sentences)
    pairs = corpus.vocabulary.pairs(chosen)
    references = [pair.spanish for pair in chosen]

    def measure(model: nn.Module) -> dict[str, float]:
        written = write(model, [source for source, _ in pairs], corpus.vocabulary)
        loss = cross_entropy(model, pairs, corpus.vocabulary)
        return {"perplexity": math.exp(loss), "bleu": bleu(written, references).score}

    config = TrainConfig(
        steps=steps,
        schedule=lambda step: peak * min(step / warmup if warm else 1.0, math.sqrt(warmup / step)),
        weight_decay=0.0,
        betas=(0.9, 0.98),
        seed=seed,
        evaluate_every=every,
    )
    return fit(model, PairBatches(corpus.train, corpus.vocabulary, tokens=tokens, seed=seed), config, evaluate=measure)


def write(model: nn.Module, sources: Sequence[Sequence[int]], vocabulary: Vocabulary, **search: Any) -> list[str]:
    """Return the translations that :func:`translate` finds, as text."""
    return [vocabulary.decode(best.ids) for best in translate(model, sources, vocabulary, **search)]


def bleu_by_length(
    texts: Sequence[str], pairs: Sequence[Pair], edges: Sequence[int] = (4, 7, 10, 14)
) -> dict[str, float]:
    """Return the BLEU of translations in groups by the number of words of the English sentence.

    Args:
        texts: a translation of every pair's English.
        pairs: sentences and their references.
        edges: the largest number of words in each group but the last, ascending.

    Returns:
        ``{"1-4": …, "5-7": …, …, "15+": …}``

    Raises:
        ValueError: another number of texts than pairs, edges that do not ascend, or a group without a sentence.
    """
    if len(texts) != len(pairs):
        raise ValueError(f"texts has {len(texts)} translations, and pairs {len(pairs)} sentences")
    if list(edges) != sorted(set(edges)) or not edges or edges[0] < 1:
        raise ValueError(f"edges={tuple(edges)} must ascend from 1 or more")
    names = [f"{low + 1}-{high}" for low, high in zip((0, *edges), edges, strict=False)] + [f"{edges[-1] + 1}+"]
    groups: dict[str, tuple[list[str], list[str]]] = {name: ([], []) for name in names}
    for text, pair in zip(texts, pairs, strict=True):
        group = groups[names[bisect.bisect_left(edges, len(pair.english.split()))]]
        group[0].append(text)
        group[1].append(pair.spanish)
    empty = [name for name, (written, _) in groups.items() if not written]
    if empty:
        raise ValueError(f"no sentence of {', '.join(empty)} words; choose other edges")
    return {name: bleu(*group).score for name, group in groups.items()}


def cross_entropy(model: nn.Module, pairs: Sequence[IdPair], vocabulary: Vocabulary, *, tokens: int = 4000) -> float:
    """Return the mean negative log-likelihood of the target tokens (end token included) in nats; exp is perplexity.

    The model sees the right words before each target token. It runs in evaluation mode: no dropout, no smoothing.
    """
    if not pairs:
        raise ValueError("pairs is empty; there is nothing to measure")
    total, count = 0.0, 0
    with torch.inference_mode(), eval_mode(model), runtime.autocast():
        for rows in _by_length([target for _, target in pairs], tokens):
            source, target, labels = (x.to(_device(model)) for x in as_batch([pairs[i] for i in rows], vocabulary))
            n = int((labels != IGNORE_INDEX).sum())
            total, count = total + model(source, target, labels).loss.item() * n, count + n
    return total / count


def translate(
    model: nn.Module,
    sources: Sequence[Sequence[int]],
    vocabulary: Vocabulary,
    *,
    beam: int = 1,
    alpha: float = 0.0,
    beta: float = 0.0,
    extra: int = 20,
    tokens: int = 4000,
) -> list[Hypothesis]:
    """Return the best translation of every sentence, in the order of ``sources``, with its attention (T, S) to it.

    Args:
        model: has ``step(source, beam=…)``, as ``Transformer`` and ``Seq2SeqLSTM`` do.
        sources: sentences as ids.
        vocabulary: where pad, start and end are.
        beam, alpha, beta: see :func:`~nextword.generation.beam_search`; ``beam=1`` takes the likeliest word each time.
        extra: a translation ends at the longest source of its batch and this many tokens more (50 in the Transformer
            paper). Batches hold sentences of similar length.
        tokens: source tokens searched at once.
    """
    found: list[Hypothesis | None] = [None] * len(sources)
    device = _device(model)
    with eval_mode(model), runtime.autocast():
        for rows in _by_length(sources, tokens):
            source = pad([sources[i] for i in rows], vocabulary.pad, device=device)[0]
            best = beam_search(
                model.step(source, beam=beam),  # type: ignore[operator]
                torch.full((len(rows),), vocabulary.start, device=device),
                vocabulary.end,
                beam=beam,
                max_length=source.shape[1] + extra,
                alpha=alpha,
                beta=beta,
                source_mask=source != vocabulary.pad,
            )
            for row, (first, *_) in zip(rows, best, strict=True):
                looks = None if first.attention is None else first.attention[:, : len(sources[row])]
                found[row] = first._replace(attention=looks)
    return [h for h in found if h is not None]


def _by_length(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Yield the numbers of rows, longest last, in batches of at most ``tokens`` with padding."""
    lengths = [len(row) for row in rows]
    return _cut(sorted(range(len(rows)), key=lambda i: lengths[i]), lengths, tokens)


def _cut(order: Iterable[int], lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Cut rows that are sorted by length where the longest, with its end token, times their number exceeds ``tokens``."""
    batch: list[int] = []
    for i in order:
        if batch and (lengths[i] + 1) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
