"""Small encoder-decoders of every kind, and sentence pairs for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from parity import randomised
from torch import Tensor

from nextword.encoder_decoder import EncoderDecoder
from nextword.recurrent import Seq2SeqConfig, Seq2SeqLSTM
from nextword.transformer import Transformer, TransformerConfig

V, SOURCE_V, PAD = 29, 21, 0
LSTM = Seq2SeqConfig(source_vocab=V, target_vocab=V, d_model=8, n_layers=2)
TRANSFORMER = TransformerConfig(
    source_vocab=V, target_vocab=V, d_model=32, n_heads=4, n_layers=2, d_ff=48, dropout=0.0, label_smoothing=0.0
)
LSTMS: dict[str, dict[str, Any]] = {
    "one vector": {"attention": "none"},
    "one vector, deep": {"attention": "none", "n_layers": 4, "residual_from": 3},
    "one layer": {"n_layers": 1},
    "attention": {},
    "deep": {"n_layers": 4, "residual_from": 3},
    "three tables": {"share_embeddings": False, "source_vocab": SOURCE_V},
    "bottom": {"attention": "bottom"},
    "bottom, deep": {"attention": "bottom", "n_layers": 4, "residual_from": 3},
    "as in the papers": {"output_norm": False},
    "bottom, all residual": {"attention": "bottom", "n_layers": 3, "residual_from": 2},
}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "post": {},
    "pre": {"norm_position": "pre"},
    "learned, biases": {"positions": "learned", "max_length": 20, "attention_bias": True},
    "own tables": {"share_embeddings": False, "source_vocab": SOURCE_V, "activation": "gelu", "bias": False},
    "narrow heads": {"d_key": 3, "norm_position": "pre"},
}


def lstm(seed: int = 0, **changes: Any) -> Seq2SeqLSTM:
    return randomised(Seq2SeqLSTM(dataclasses.replace(LSTM, **changes)), seed, std=0.4)


def transformer(seed: int = 0, **changes: Any) -> Transformer:
    return randomised(Transformer(dataclasses.replace(TRANSFORMER, **changes)), seed)


def fresh(kind: str, **changes: Any) -> EncoderDecoder:
    """Return an ``lstm`` or ``transformer`` as its constructor makes it."""
    if kind == "lstm":
        return Seq2SeqLSTM(dataclasses.replace(LSTM, **changes))
    return Transformer(dataclasses.replace(TRANSFORMER, **changes))


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Return three sentence pairs of different lengths, padded."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(3, SOURCE_V, (3, 7), generator=generator)
    text = torch.randint(3, V, (3, 6), generator=generator)
    target, labels = text[:, :-1].clone(), text[:, 1:].clone()
    target[:, 0] = 1
    for row, (s, t) in enumerate(((5, 3), (7, 5), (2, 4))):
        source[row, s:], target[row, t:], labels[row, t:] = PAD, PAD, -100
    return source, target, labels


def real(labels: Tensor) -> Tensor:
    return labels != -100
