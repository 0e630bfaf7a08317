"""What the two translation chapters share: a tokenizer, batches of similar length, training, and translating.

Used in: 2016_gnmt, 2017_transformer.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import regex
import torch
from torch import Tensor, nn

from nextword import runtime
from nextword.attention import pad
from nextword.data import Pair
from nextword.generation import Hypothesis, beam_search
from nextword.layers import IGNORE_INDEX, eval_mode
from nextword.metrics import bleu
from nextword.tokenizers import ByteBPE

PAD, BOS, EOS = SPECIAL_TOKENS = ("<pad>", "<start>", "<end>")
"""Filling of shorter sentences, the first token of every translation, and the last."""

IdPair = tuple[list[int], list[int]]
"""A sentence and its translation as ids, without the first and last token of a translation."""


@dataclass(frozen=True)
class TranslationTokenizer:
    """A tokenizer for both languages, and the ids of its special tokens."""

    base: Any
    """Has ``encode_ordinary``, ``decode`` and ``vocab_size``: a ``ByteBPE`` or a ``WordTokenizer``."""
    pad_id: int  #: Fills up the shorter sentences of a batch.
    bos_id: int  #: Stands before the first word of a translation.
    eos_id: int  #: Ends a sentence.

    @property
    def vocab_size(self) -> int:
        """Return the number of ids V."""
        size: int = self.base.vocab_size
        return size

    @classmethod
    def subwords(cls, texts: Iterable[str], vocab_size: int) -> TranslationTokenizer:
        """Learn byte-level subwords (Sennrich et al. 2016) from texts; with 259 there is no merge: one id a byte."""
        _check_texts("texts", texts)
        return cls.from_bpe(ByteBPE.train(texts, vocab_size, special_tokens=SPECIAL_TOKENS))

    @classmethod
    def from_bpe(cls, bpe: ByteBPE) -> TranslationTokenizer:
        """Take a trained tokenizer that has the special tokens, such as that of a checkpoint."""
        missing = [token for token in SPECIAL_TOKENS if token not in bpe.special_tokens]
        if missing:
            raise ValueError(f"bpe lacks {', '.join(missing)}; train it with special_tokens=SPECIAL_TOKENS")
        return cls(bpe, *(bpe.special_tokens[token] for token in SPECIAL_TOKENS))

    @classmethod
    def words(cls, texts: Iterable[str], vocab_size: int) -> TranslationTokenizer:
        """Take the most frequent words and punctuation marks; every other is ``<unk>``."""
        return cls(WordTokenizer(texts, vocab_size), 0, 1, 2)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a sentence."""
        if not isinstance(text, str):
            raise TypeError(f"text is a {type(text).__name__}; give one sentence, and encode several in a loop")
        # A sentence is text, even if it says "<end>"; and its first word is then the same token as later in a sentence.
        ids: list[int] = self.base.encode_ordinary(" " + text)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the sentence of these ids up to the end token."""
        sentence = itertools.takewhile(lambda i: i != self.eos_id, ids)
        text: str = self.base.decode([i for i in sentence if i not in (self.pad_id, self.bos_id)])
        return text.strip()

    def encode_pairs(self, pairs: Iterable[Any]) -> list[IdPair]:
        """Return (English, Spanish) pairs as ids."""
        return [(self.encode(pair[0]), self.encode(pair[1])) for pair in pairs]


class WordTokenizer:
    """A tokenizer that knows whole words.

    Example:
        >>> words = WordTokenizer(["a cat, a dog"], 7)
        >>> words.decode(words.encode("a cat, a bird"))
        'a cat, a <unk>'
    """

    PATTERN = regex.compile(r"\p{L}+|\p{N}+|[^\s\p{L}\p{N}]")

    def __init__(self, texts: Iterable[str], vocab_size: int) -> None:
        _check_texts("texts", texts)
        if vocab_size < 4:
            special = ", ".join(SPECIAL_TOKENS)
            raise ValueError(f"vocab_size={vocab_size} leaves no room for {special} and <unk>; give 4 or more")
        counts = Counter(word for text in texts for word in self.PATTERN.findall(text))
        common = [word for word, _ in counts.most_common(vocab_size - 4)]
        self.tokens = [*SPECIAL_TOKENS, "<unk>", *common]  # 0 to 2 are special, 3 is every word that it does not know
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    @property
    def vocab_size(self) -> int:
        """Return the number of different ids."""
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Return the id of every word and punctuation mark."""
        return [self.ids.get(word, 3) for word in self.PATTERN.findall(text)]

    encode_ordinary = encode  # no text becomes a special token here

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words with spaces between them, and none before a mark or after an opening one."""
        unknown = [i for i in ids if i not in range(len(self.tokens))]
        if unknown:
            raise ValueError(f"ids holds {unknown[0]}; give whole numbers from 0 to {len(self.tokens) - 1}")
        text = " ".join(self.tokens[i] for i in ids)
        closed: str = regex.sub(r" ([.,;:!?%)\]])", r"\1", text)
        return str(regex.sub(r"([¿¡(\[]) ", r"\1", closed))


class BucketedBatches:
    """Batches of sentence pairs of similar length from :func:`collate`, without end, the same ones for a seed.

    Args:
        pairs: sentences as ids.
        tokenizer: says which ids fill up, begin and end a sentence.
        max_tokens: target tokens in a batch at most, padding included.
        seed: of the shuffling.
    """

    POOL = 100  # batches whose pairs are sorted together

    def __init__(self, pairs: Sequence[IdPair], tokenizer: TranslationTokenizer, *, max_tokens: int, seed: int) -> None:
        if not pairs:
            raise ValueError("pairs is empty; a batch needs a sentence")
        if any(isinstance(sentence, str) for sentence in pairs[0]):
            raise TypeError("pairs holds text; give ids, such as tokenizer.encode_pairs(pairs)")
        self.pairs, self.tokenizer, self.max_tokens, self.seed = pairs, tokenizer, max_tokens, seed
        self.lengths = [len(target) for _, target in pairs]
        longest = max(self.lengths) + 1
        if max_tokens < longest:
            raise ValueError(f"max_tokens={max_tokens} is less than the longest target, {longest}")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield batches for ever."""
        rng = random.Random(self.seed)
        n = len(self.pairs)
        mean_length = (sum(self.lengths) + n) / n  # with the end token
        pool_size = max(1, int(self.POOL * self.max_tokens / mean_length))
        while True:
            order = list(range(n))
            rng.shuffle(order)
            for start in range(0, n, pool_size):
                # Sorting all pairs would give the same batches in every epoch; sorting a pool of them leaves little
                # padding, too. The batches are shuffled again, else each pool would go from short to long sentences.
                pool = order[start : start + pool_size]
                pool.sort(key=lambda i: (self.lengths[i], len(self.pairs[i][0])))
                batches = list(_batches(pool, self.lengths, self.max_tokens))
                rng.shuffle(batches)
                for numbers in batches:
                    yield collate([self.pairs[i] for i in numbers], self.tokenizer)


def collate(pairs: Sequence[IdPair], tokenizer: TranslationTokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """Return pairs as (source (B, S), target (B, T), labels (B, T)), as the models take them."""
    source = pad([source for source, _ in pairs], tokenizer.pad_id)[0]
    # The decoder reads the target from the start token on; at each position the label is the word that comes next.
    target = pad([[tokenizer.bos_id, *target] for _, target in pairs], tokenizer.pad_id)[0]
    labels = pad([[*target, tokenizer.eos_id] for _, target in pairs], IGNORE_INDEX)[0]
    return source, target, labels


def translate_texts(
    model: nn.Module, texts: Sequence[str], tokenizer: TranslationTokenizer, **search: Any
) -> list[str]:
    """Return the translation of every sentence; ``search`` are the settings of :func:`translate`."""
    _check_texts("texts", texts)
    found = translate(model, [tokenizer.encode(text) for text in texts], tokenizer, **search)
    return [tokenizer.decode(best.ids) for best in found]


def bleu_by_length(
    texts: Sequence[str], pairs: Sequence[Pair], edges: Sequence[int] = (4, 7, 10, 14)
) -> dict[str, float]:
    """Return ``{"1-4": …, "5-7": …, …, "15+": …}``, the BLEU of translations by the number of English words.

    Args:
        texts: a translation of every pair's English.
        pairs: sentences and their references.
        edges: the largest number of words in each group but the last, ascending.

    Raises:
        ValueError: another number of texts than pairs, edges that do not ascend, or a group without a sentence.
    """
    if len(texts) != len(pairs):
        raise ValueError(f"texts has {len(texts)} translations, and pairs {len(pairs)} sentences")
    if list(edges) != sorted(set(edges)) or not edges or edges[0] < 1:
        raise ValueError(f"edges={tuple(edges)} must ascend from 1 or more")
    labels = [f"{low + 1}-{high}" for low, high in zip((0, *edges), edges, strict=False)] + [f"{edges[-1] + 1}+"]
    groups: dict[str, tuple[list[str], list[str]]] = {label: ([], []) for label in labels}
    for text, pair in zip(texts, pairs, strict=True):
        hypotheses, references = groups[labels[bisect.bisect_left(edges, len(pair.english.split()))]]
        hypotheses.append(text)
        references.append(pair.spanish)
    empty = [label for label, (hypotheses, _) in groups.items() if not hypotheses]
    if empty:
        raise ValueError(f"no sentence of {', '.join(empty)} words; choose other edges")
    return {label: bleu(*group).score for label, group in groups.items()}


def cross_entropy(
    model: nn.Module, pairs: Sequence[IdPair], tokenizer: TranslationTokenizer, *, max_tokens: int = 4000
) -> float:
    """Return the mean negative log-likelihood of the target tokens (end token included) in nats; exp is perplexity."""
    if not pairs:
        raise ValueError("pairs is empty; there is nothing to measure")
    total, count = 0.0, 0
    device = next(model.parameters()).device
    with torch.inference_mode(), eval_mode(model), runtime.autocast():  # no dropout, no smoothed labels
        for numbers in _sorted_batches([target for _, target in pairs], max_tokens):
            batch = collate([pairs[i] for i in numbers], tokenizer)
            source, target, labels = (x.to(device) for x in batch)
            n = int((labels != IGNORE_INDEX).sum())  # a batch counts by its tokens, else those of few would count more
            total, count = total + model(source, target, labels).loss.item() * n, count + n
    return total / count


def translate(
    model: nn.Module,
    sources: Sequence[Sequence[int]],
    tokenizer: TranslationTokenizer,
    *,
    beam: int = 1,
    alpha: float = 0.0,
    beta: float = 0.0,
    extra: int = 20,
    max_tokens: int = 4000,
) -> list[Hypothesis]:
    """Return the best translation of every sentence, in the order of ``sources``, with its attention (T, S) to it.

    Args:
        model: has ``step(source, beam=…)``, as every :class:`~nextword.encoder_decoder.EncoderDecoder` does.
        sources: sentences as ids; :func:`translate_texts` takes text.
        tokenizer: says which ids fill up, begin and end a sentence.
        beam, alpha, beta: see :func:`~nextword.generation.beam_search`; ``beam=1`` takes the likeliest word each time.
        extra: a translation ends at the longest source of its batch and this many tokens more (50 in the Transformer
            paper).
        max_tokens: source tokens searched at once, padding included.

    Raises:
        TypeError, ValueError: a source that is text, or has no ids.
    """
    for i, sentence in enumerate(sources):
        if isinstance(sentence, str):
            raise TypeError(f"sources[{i}] is text; give ids, or texts to translate_texts")
        if not len(sentence):
            raise ValueError(f"sources[{i}] is empty; a sentence needs a word")
    best: dict[int, Hypothesis] = {}
    device = next(model.parameters()).device
    with eval_mode(model), runtime.autocast():
        for numbers in _sorted_batches(sources, max_tokens):  # sentences of similar length: little padding is searched
            source, mask = pad([sources[i] for i in numbers], tokenizer.pad_id, device=device)
            hypotheses = beam_search(
                model.step(source, beam=beam),  # type: ignore[operator]
                torch.full((len(numbers),), tokenizer.bos_id, device=device),
                tokenizer.eos_id,
                beam=beam,
                max_length=source.shape[1] + extra,
                alpha=alpha,
                beta=beta,
                source_mask=mask,
            )
            for i, (first, *_) in zip(numbers, hypotheses, strict=True):
                attention = None if first.attention is None else first.attention[:, : len(sources[i])]
                best[i] = first._replace(attention=attention)
    return [best[i] for i in range(len(sources))]


def _sorted_batches(sentences: Sequence[Sequence[int]], max_tokens: int) -> Iterator[list[int]]:
    """Yield the numbers of sentences, the longest last, in batches of at most ``max_tokens`` with padding."""
    lengths = [len(sentence) for sentence in sentences]
    return _batches(sorted(range(len(lengths)), key=lambda i: lengths[i]), lengths, max_tokens)


def _batches(order: Iterable[int], lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Cut numbers in order of their length where the longest, with its end token, times their number exceeds the limit."""
    batch: list[int] = []
    for i in order:
        if batch and (lengths[i] + 1) * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _check_texts(name: str, texts: Iterable[str]) -> None:
    if isinstance(texts, str):
        raise TypeError(f"{name} is one text, whose letters would count as texts; give a list of sentences")
