"""What stands around attention in a Transformer: positions, the feed-forward network, the block, and the loss.

Used in: 2017_transformer, and every model after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from nextword.attention import KVCache, MultiHeadAttention

Activation = Literal["relu", "gelu", "gelu_tanh"]
NormPosition = Literal["post", "pre"]

Sublayer = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
"""The non-linear functions by name: the Transformer has ReLU, BERT the exact GELU, GPT its tanh approximation."""


def sinusoidal_positions(T: int, C: int, *, dtype: torch.dtype | None = None) -> Float[Tensor, "T C"]:
    """Return the sinusoids that tell a Transformer where a token stands (Vaswani et al. 2017, section 3.5).

    PE(pos, 2i) = sin(pos / 10000^(2i/C)) and PE(pos, 2i+1) is the cosine, so that a pair of dimensions is the hand of a
    clock. Moving by k positions turns every hand by a fixed angle: PE(pos + k) is linear in PE(pos).

    Raises:
        ValueError: ``T`` below 1, or ``C`` odd or below 2.

    Example:
        >>> sinusoidal_positions(2, 4)[0]
        tensor([0., 1., 0., 1.])
    """
    if T < 1:
        raise ValueError(f"T={T} is below 1")
    if C < 2 or C % 2:
        raise ValueError(f"C={C} must be even: each frequency takes a sine and a cosine")
    frequencies = 10_000.0 ** (-torch.arange(0, C, 2, dtype=torch.float64) / C)  # (C/2,), radians a position
    angles = torch.arange(T, dtype=torch.float64)[:, None] * frequencies  # (T, C/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(dtype or torch.get_default_dtype())  # (T, C)


class FeedForward(nn.Module):
    """A network applied to every position alike, max(0, xW₁ + b₁)W₂ + b₂ (Vaswani et al. 2017, equation 2).

    Args:
        d_model: width C of what comes in and goes out.
        d_ff: width of the hidden layer, usually four times as much.
        activation: ``relu`` (the paper), ``gelu`` (BERT) or ``gelu_tanh`` (GPT).
        bias: add b₁ and b₂.
        dropout: share of the hidden units dropped in training; the paper drops none.
    """

    def __init__(
        self, d_model: int, d_ff: int, *, activation: Activation = "relu", bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r}: choose {', '.join(ACTIVATIONS)}")
        self.activation = activation
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Apply the network to every position."""
        y: Tensor = self.down(self.dropout(ACTIVATIONS[self.activation](self.up(x))))
        return y


class Block(nn.Module):
    """One layer of a Transformer: attention, perhaps attention to an encoder, and the feed-forward network.

    Each is added to what came in, and normalised: after the sum (``post``, the paper) or before the sublayer (``pre``,
    the paper's own code from its second version on, and GPT-2). Post-norm needs a learning rate that warms up.

    Args:
        d_model, n_heads, d_ff: width C, number of heads, width of the feed-forward network's hidden layer.
        cross_attention: also attend to ``memory``, as a decoder does to its encoder.
        norm_position: ``post`` or ``pre``.
        activation: see :class:`FeedForward`.
        bias, attention_bias: biases of the feed-forward network and of the attention's projections.
        dropout: share of a sublayer's output dropped in training, before it is added (section 5.4).
        d_key: width of a head's queries and keys; None for d_model / n_heads.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        *,
        cross_attention: bool = False,
        norm_position: NormPosition = "post",
        activation: Activation = "relu",
        bias: bool = True,
        attention_bias: bool = True,
        dropout: float = 0.0,
        d_key: int | None = None,
    ) -> None:
        super().__init__()
        if norm_position not in get_args(NormPosition):
            raise ValueError(f"norm_position={norm_position!r}: choose 'post' or 'pre'")
        self.norm_position = norm_position
        self.attention = MultiHeadAttention(d_model, n_heads, d_key=d_key, bias=attention_bias)
        self.attention_norm = nn.LayerNorm(d_model)
        self.cross_attention: MultiHeadAttention | None = None
        if cross_attention:
            self.cross_attention = MultiHeadAttention(d_model, n_heads, d_key=d_key, bias=attention_bias)
            self.cross_norm = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation, bias=bias)
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        memory: Float[Tensor, "B S C"] | None = None,
        *,
        mask: Bool[Tensor, ...] | None = None,
        memory_mask: Bool[Tensor, ...] | None = None,
        causal: bool = False,
        cache: tuple[KVCache, KVCache] | None = None,
    ) -> Float[Tensor, "B T C"]:
        """Return the layer's output.

        Args:
            x: the positions' vectors.
            memory: the encoder's output, for a block with cross-attention.
            mask, causal: which positions of ``x`` each may attend to; see :class:`~nextword.attention.MultiHeadAttention`.
            memory_mask: which positions of ``memory`` each may attend to.
            cache: keys and values of earlier positions, and of the memory.

        Raises:
            ValueError: ``memory`` is missing, or there is no cross-attention to read it.
        """
        if (memory is None) != (self.cross_attention is None):
            needs = "needs" if memory is None else "has no cross-attention and takes no"
            raise ValueError(f"memory: this block {needs} encoder output")
        own, other = cache if cache is not None else (None, None)
        x = self._add(x, self.attention_norm, lambda y: self.attention(y, mask=mask, causal=causal, cache=own))
        if self.cross_attention is not None:
            attend = self.cross_attention
            x = self._add(x, self.cross_norm, lambda y: attend(y, memory, mask=memory_mask, cache=other))
        return self._add(x, self.feed_forward_norm, self.feed_forward)

    def _add(self, x: Tensor, norm: Sublayer, sublayer: Sublayer) -> Tensor:
        """Return LayerNorm(x + Sublayer(x)), or x + Sublayer(LayerNorm(x)) with pre-norm (section 3.1)."""
        if self.norm_position == "pre":
            dropped: Tensor = self.dropout(sublayer(norm(x)))
            return x + dropped
        return norm(x + self.dropout(sublayer(x)))


class Output(NamedTuple):
    """What a model returns: a score for every next word, and the mean loss in nats where labels were given."""

    logits: Float[Tensor, "B T V"]
    loss: Float[Tensor, ""] | None


def next_token_loss(
    logits: Float[Tensor, "B T V"], labels: Int64[Tensor, "B T"], *, label_smoothing: float = 0.0, name: str = "labels"
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy in nats over the labels other than -100.

    With ``label_smoothing`` ε the target is 1 - ε on the label plus ε/V on every word, the label included (torch's
    form; the paper's own code puts ε/(V-1) on the others). The reported loss then never reaches 0.

    Source: Vaswani et al. 2017, section 5.4.

    Raises:
        ValueError: ``labels`` has another shape than the logits, or holds an id outside the vocabulary.
    """
    V = logits.shape[-1]
    if labels.dtype != torch.int64:
        raise TypeError(f"{name} is of type {labels.dtype}; ids are int64")
    if labels.shape != logits.shape[:2]:
        raise ValueError(f"{name} has shape {tuple(labels.shape)}; logits of {tuple(logits.shape[:2])} positions came")
    if labels.numel() and (int(labels.max()) >= V or bool(((labels < 0) & (labels != -100)).any())):
        raise ValueError(f"{name} holds an id outside 0 … {V - 1}; -100 marks a position without a label")
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing)


def check_ids(name: str, ids: Tensor, vocab_size: int) -> None:
    """Raise an error that names the argument where ``ids`` (B, T) cannot be looked up in an embedding of that size."""
    if ids.dtype != torch.int64:
        raise TypeError(f"{name} is of type {ids.dtype}; ids are int64")
    if ids.ndim != 2 or not ids.numel():
        raise ValueError(f"{name} has shape {tuple(ids.shape)}; give a batch (B, T) of at least one token")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(f"{name} holds ids from {low} to {high}; they must lie in 0 … {vocab_size - 1}")


def count_parameters(model: nn.Module, *, embedding: bool = True) -> int:
    """Return the number of parameters, each shared matrix once; without ``embedding``, those between the tables.

    Tables are all embeddings, and the matrix of ``model.output`` that scores the words.
    """
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)} | {model.get_parameter("output.weight")}
    all_of_them = sum(p.numel() for p in model.parameters())
    return all_of_them if embedding else all_of_them - sum(p.numel() for p in tables)


def check_sizes(config: Any, *names: str) -> None:
    """Raise an error that names the first of these fields that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} is below 1")


def check_heads(config: Any) -> None:
    """Raise an error where the heads do not divide the width, and say which width would do."""
    d_model, n_heads = config.d_model, config.n_heads
    if d_model % n_heads:
        fits = -(-d_model // n_heads) * n_heads
        raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}; d_model={fits} is")


def check_choices(config: Any, **kinds: Any) -> None:
    """Raise an error that names the first of these fields whose value is none of its ``Literal`` type."""
    for name, kind in kinds.items():
        if getattr(config, name) not in get_args(kind):
            raise ValueError(f"{name}={getattr(config, name)!r}: choose {', '.join(get_args(kind))}")


def check_shares(config: Any, *names: str) -> None:
    """Raise an error that names the first of these fields that is no share from 0 up to, not including, 1."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)} is outside 0 … 1")


def check_vocabularies(config: Any) -> None:
    """Raise an error where the two vocabularies of an encoder-decoder do not fit ``share_embeddings`` or ``pad_id``."""
    if config.share_embeddings and config.source_vocab != config.target_vocab:
        sizes = f"source_vocab={config.source_vocab} and target_vocab={config.target_vocab}"
        raise ValueError(f"share_embeddings=True needs one vocabulary, not {sizes}")
    if not 0 <= config.pad_id < min(config.source_vocab, config.target_vocab):
        raise ValueError(f"pad_id={config.pad_id} is no id of both vocabularies")


def check_evaluating(model: nn.Module, dropout: float) -> None:
    """Raise an error where a model that is to write words would still drop some of its units."""
    if model.training and dropout:
        raise ValueError("model is in training mode, where dropout would change every word; call model.eval() first")
