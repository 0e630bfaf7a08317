"""Measure a language model: perplexity, bits per byte, and how sure such a number is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from nextword.training import in_mode

_TOKENS_AT_ONCE = 2048  # bounds the logits: 2,048 tokens over GPT-2's 50,257 entries are 0.4 GB in float32


@runtime_checkable
class Tokenizer(Protocol):
    """What ``bits_per_byte`` needs of a tokenizer. Where it has a ``bos_id`` too, texts begin after that token."""

    @property
    def vocab_size(self) -> int:
        """Return the number of different ids."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without a start token."""


def perplexity(model: nn.Module, ids: Integer[Tensor, " T"], *, context_length: int) -> float:
    """Return exp of the mean negative log-likelihood of every token but the first, given what stands before it.

    The text is cut into windows of ``context_length`` inputs. Each begins with the last target of the window before, so
    every token but the very first is scored exactly once, and none sees further back than the start of its window.
    (Windows that overlap would give more context and a lower number.) The sum is kept in float64.

    Args:
        model: ``model(ids)`` of shape (B, T) returns an object with ``.logits`` of shape (B, T, V), where position t
            scores the token at t + 1. It runs in evaluation mode and is put back as it was found.
        ids: the text, at least two tokens.
        context_length: inputs in a window; at most what the model can take.

    Raises:
        ValueError: ``ids`` or ``context_length`` does not fit the model.
        TypeError: ``ids`` is no tensor of whole numbers, or the model returns no logits.

    Source: Bengio et al. 2003, section 2. Used in: 2003_next_word, 2019_gpt2, and wherever a model is measured.
    """
    ids = _checked(model, ids)
    mean = _negative_log_likelihood(model, ids, context_length) / (len(ids) - 1)
    return math.exp(mean) if mean < 709 else mean * math.inf  # exp(710) has no float64


def bits_per_byte(model: nn.Module, tokenizer: Tokenizer, text: str, *, context_length: int | None = None) -> float:
    """Return the bits that the model needs for a text over the text's bytes in UTF-8.

    Perplexities of models with different tokenizers cannot be compared, since their tokens differ. Their bits per byte
    can: both describe the same bytes. For that the first token must be paid for too. Where the tokenizer has a start
    token (``bos_id``), the model scores the first token after it; else the first token costs log2(V) bits, a uniform
    guess, as the model says nothing about it.

    Args:
        model: as for :func:`perplexity`.
        tokenizer: has ``encode(text)`` and ``vocab_size``, perhaps ``bos_id``.
        text: at least one character.
        context_length: inputs in a window; without it, ``model.config.context_length``.

    Raises:
        ValueError: the text is empty, or there is no context length.

    Source: Radford et al. 2019, section 3.1. Used in: 2019_gpt2.
    """
    if not text:
        raise ValueError("text is empty: it has no bytes to divide by")
    length = context_length if context_length is not None else _limit(model, "context_length")
    if length is None:
        raise ValueError("context_length is missing, and the model has no config.context_length to take it from")
    start = getattr(tokenizer, "bos_id", None)
    ids = ([] if start is None else [start]) + list(tokenizer.encode(text))
    nats = math.log(tokenizer.vocab_size) if start is None else 0.0
    if len(ids) > 1:  # a single token without a start token has nothing before it
        nats += _negative_log_likelihood(model, _checked(model, torch.tensor(ids)), length)
    return nats / math.log(2) / len(text.encode("utf-8"))


def _negative_log_likelihood(model: nn.Module, ids: Tensor, context_length: int) -> float:
    """Return the nats of ``ids[1:]``, window by window."""
    limit = _limit(model, "context_length")
    if context_length < 1 or (limit is not None and context_length > limit):
        raise ValueError(f"context_length={context_length} is outside 1 … {limit or 'the length of the text'}")
    parameter = next(model.parameters(), ids)
    ids = ids.to(parameter.device)
    whole = (len(ids) - 1) // context_length * context_length  # targets in windows of full length
    inputs = ids[:whole].view(-1, context_length)  # (windows, T)
    targets = ids[1 : whole + 1].view(-1, context_length)
    at_once = max(1, _TOKENS_AT_ONCE // context_length)
    batches = list(zip(torch.split(inputs, at_once), torch.split(targets, at_once), strict=True)) if whole else []
    if whole < len(ids) - 1:  # the shorter window at the end
        batches.append((ids[None, whole:-1], ids[None, whole + 1 :]))
    with torch.inference_mode(), in_mode(model, training=False):
        return sum(_score(model, x, y) for x, y in batches)


def _score(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    logits = getattr(model(inputs), "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != inputs.shape:
        found = "no logits" if not isinstance(logits, Tensor) else f"logits of shape {tuple(logits.shape)}"
        raise TypeError(f"model(ids) gave {found}; for ids of shape {tuple(inputs.shape)} it must give (B, T, V)")
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").double().sum().item()


def _checked(model: nn.Module, ids: object) -> Tensor:
    """Return ``ids`` as int64, or say why they are no text for this model."""
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
        raise TypeError(f"ids is of type {getattr(ids, 'dtype', type(ids).__name__)}; give a tensor of whole numbers")
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(f"ids has shape {tuple(ids.shape)}; give one text (T,) of at least two tokens")
    ids, size = ids.long(), _limit(model, "vocab_size")  # uint16, as texts are stored, has no min
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (size is not None and high >= size):
        raise ValueError(f"ids run from {low} to {high}; they must lie in 0 … {'V' if size is None else size} - 1")
    return ids


def _limit(model: nn.Module, name: str) -> int | None:
    """Return a number of the model's configuration, or None where it has none."""
    value = getattr(getattr(model, "config", None), name, None)
    return value if isinstance(value, int) else None


# --- How sure is a number --------------------------------------------------------------------------------------------


def bootstrap_interval(
    statistic: Callable[..., float],
    *values: Float[np.ndarray, " _"] | Bool[np.ndarray, " _"],
    block: int = 1,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of ``statistic(*values)`` by resampling the test set (Efron 1979).

    Words of one text are not independent, so whole blocks of neighbouring ones are drawn with replacement. Arrays given
    together stay together: two models are compared on the same resampled words.

    Args:
        statistic: called with the resampled arrays, returns a number, such as ``np.mean``.
        values: arrays of one length N, one entry a word.
        block: words in a block; the last N mod ``block`` words are left out.
        resamples: how many test sets are drawn.
        seed: the same seed draws the same test sets.

    Raises:
        ValueError: arrays of different lengths, or fewer than two blocks.

    Used in: 2003_next_word.

    Example:
        >>> low, high = bootstrap_interval(np.mean, np.arange(100.0))
        >>> low < 49.5 < high
        True
    """
    lengths = {len(v) for v in values}
    if len(lengths) != 1:
        raise ValueError(f"values have lengths {sorted(lengths)}; arrays of one length are needed")
    n_blocks = lengths.pop() // block if block >= 1 else 0
    if n_blocks < 2:
        raise ValueError(f"block={block} leaves {n_blocks} blocks; at least 2 are needed")
    rng = np.random.default_rng(seed)
    rows = [v[: n_blocks * block].reshape(n_blocks, block) for v in values]
    draws = (rng.integers(n_blocks, size=n_blocks) for _ in range(resamples))
    results = [statistic(*(row[draw].ravel() for row in rows)) for draw in draws]
    low, high = np.percentile(results, [2.5, 97.5])
    return float(low), float(high)
