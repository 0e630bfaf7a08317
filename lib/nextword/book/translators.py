"""How the translators of two chapters are trained: the same sentences, the same batches, the same schedule.

Used in: 2016_gnmt, 2017_transformer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from nextword import data
from nextword.data import Pair
from nextword.metrics import bleu
from nextword.training import History, TrainConfig, fit
from nextword.translation import BucketedBatches, IdPair, TranslationTokenizer, cross_entropy, translate_texts


@dataclass(frozen=True)
class Corpus:
    """Tatoeba's English-Spanish pairs: ids to learn from, one set to choose settings with, and two to report on."""

    tokenizer: TranslationTokenizer
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
        cls,
        make_tokenizer: Callable[[Iterable[str], int], TranslationTokenizer] = TranslationTokenizer.subwords,
        vocab_size: int = 2000,
    ) -> Corpus:
        """Read the pairs, learn a tokenizer from 20,000 of those for training, and turn those into ids.

        Pairs of more than 120 characters on a side, under one in a hundred, are left out of training.
        """
        train: list[Pair] = []
        held_out: list[Pair] = []
        for pair in data.load_tatoeba("train"):
            is_long = len(pair.english.split()) >= 11
            is_held_out = is_long and data.split_of(pair.english, test=0.1) == "test"
            (held_out if is_held_out else train).append(pair)
        sample = random.Random(0).sample(train, 20_000)
        tokenizer = make_tokenizer((f" {text}" for pair in sample for text in pair[:2]), vocab_size)
        ids = tokenizer.encode_pairs(pair for pair in train if max(map(len, pair[:2])) <= 120)
        return cls(tokenizer, ids, data.load_tatoeba("valid"), data.load_tatoeba("test"), held_out)


def evaluation_subset(pairs: Sequence[Pair], n: int) -> Sequence[Pair]:
    """Return at least ``n`` of ``pairs``, all if there are fewer: evenly spaced, since Tatoeba's are sorted by length."""
    if n < 1:
        raise ValueError(f"n={n} is below 1")
    return pairs[:: max(1, len(pairs) // n)]


def train_translator(
    model: nn.Module,
    corpus: Corpus,
    *,
    steps: int,
    seed: int,
    learning_rate: float = 3e-3,
    warmup: int = 300,
    skip_warmup: bool = False,
    max_tokens: int = 1200,
    evaluate_every: int = 300,
    n_evaluated: int = 500,
) -> History:
    """Train a translator on batches of ``max_tokens`` target tokens; measure it every ``evaluate_every`` steps.

    Returns:
        The history. Its ``evaluations`` hold ``perplexity`` (per target token) and ``bleu`` (greedy) of about
        ``n_evaluated`` validation sentences.

    Raises:
        ValueError: ``warmup`` below 1, or another setting that :class:`~nextword.training.TrainConfig` refuses.
    """
    if warmup < 1:
        raise ValueError(f"warmup={warmup} is below 1; skip_warmup=True starts at the full rate")
    sentences = evaluation_subset(corpus.valid, n_evaluated)  # the test set stays unread
    pairs = corpus.tokenizer.encode_pairs(sentences)
    references = [pair.spanish for pair in sentences]

    def measure(model: nn.Module) -> dict[str, float]:
        texts = translate_texts(model, [pair.english for pair in sentences], corpus.tokenizer)
        loss = cross_entropy(model, pairs, corpus.tokenizer)
        return {"perplexity": math.exp(loss), "bleu": bleu(texts, references).score}

    def rate(step: int) -> float:
        # Equation 3 of Vaswani et al. 2017: it rises for the warm-up, and then falls with the root of the step. It does not
        # know when training will end, so the first part of a long run is a short run.
        rise = 1.0 if skip_warmup else step / warmup
        return learning_rate * min(rise, math.sqrt(warmup / step))

    settings: dict[str, Any] = {"weight_decay": 0.0, "betas": (0.9, 0.98), "evaluate_every": evaluate_every}
    config = TrainConfig(steps=steps, schedule=rate, seed=seed, **settings)
    batches = BucketedBatches(corpus.train, corpus.tokenizer, max_tokens=max_tokens, seed=seed)
    return fit(model, batches, config, evaluate=measure)
