"""What stands around attention in a Transformer: positions, norms, the feed-forward network, the block, and the loss.

Used in: 2017_transformer, and every model after it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from nextword.attention import KVCache, MultiHeadAttention
from nextword.sparse_attention import SparseAttention, SparsePattern

Activation = Literal["relu", "gelu", "gelu_tanh", "swiglu"]
Norm = Literal["layer", "rms"]
NormPosition = Literal["post", "pre"]

Sublayer = Callable[[Tensor], Tensor]

IGNORE_INDEX = -100
"""The label of a position where nothing is to be learned; torch's cross-entropy leaves it out."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,  # the Transformer
    "gelu": F.gelu,  # BERT
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),  # GPT
    "swiglu": F.silu,  # Llama: x·sigmoid(x), with a second matrix whose output it is multiplied by
}
"""The non-linear functions of :class:`FeedForward` by name."""


def sinusoidal_positions(T: int, C: int, *, dtype: torch.dtype | None = None) -> Float[Tensor, "T C"]:
    """Return the sinusoids that tell a Transformer where a token stands (Vaswani et al. 2017, section 3.5).

    PE(pos, 2i) = sin(pos / 10000^(2i/C)), and PE(pos, 2i+1) is the cosine of the same.

    Example:
        >>> sinusoidal_positions(2, 4)[0]
        tensor([0., 1., 0., 1.])
    """
    if T < 1:
        raise ValueError(f"T={T} is below 1")
    if C < 2 or C % 2:
        raise ValueError(f"C={C} must be even: each frequency takes a sine and a cosine")
    # A sine and its cosine are the hand of a clock. Moving by k positions turns every hand by a fixed angle, so that
    # PE(pos + k) is a linear function of PE(pos).
    # In double precision: in single, the angle of a late position would lose digits, since it is a large number.
    frequencies = 10_000.0 ** (-torch.arange(0, C, 2, dtype=torch.float64) / C)  # (C/2,), radians a position
    angles = torch.arange(T, dtype=torch.float64)[:, None] * frequencies  # (T, C/2)
    # rearrange([sines, cosines], "two T half -> T (half two)"): each sine beside its cosine
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(dtype or torch.get_default_dtype())  # (T, C)


def positions_of(mask: Bool[Tensor, "B S"]) -> Int64[Tensor, "B S"]:
    """Return where each token stands among those of its row: what the mask hides is padding and takes no position.

    Example:
        >>> positions_of(torch.tensor([[False, True, True], [True, True, True]]))
        tensor([[0, 0, 1],
                [0, 1, 2]])
    """
    return (mask.cumsum(1) - 1).clamp(min=0)  # padding on the left would be at -1; nobody looks at it


def rotation(positions: Int64[Tensor, "*B T"], d_head: int, base: float = 10_000.0) -> Complex[Tensor, "*B T D_half"]:
    """Return how far each position turns each pair of a head's numbers (rotary positions, Su et al. 2021, section 3.2.2).

    Position t turns the i-th pair of queries and keys by t · base^(-2i/D); see :func:`~nextword.attention.rotate`.

    Args:
        positions: where the tokens stand.
        d_head: width D of a head, even.
        base: the first hand turns by 1 radian a position, the last by little more than 1/base; 10,000 in the paper.

    Returns:
        Unit complex numbers exp(i·angle), one for each pair.

    Used in: 2019_gpt2, for the real SmolLM2.
    """
    if d_head < 2 or d_head % 2:
        raise ValueError(f"d_head={d_head} must be even: rotary positions turn pairs of numbers")
    # Each pair is the hand of a clock. A query at t and a key at s meet at an angle that depends on t - s alone: the
    # product of the two knows how far apart they stand, and not where.
    # In double precision: in single, the angle of a far position would lose digits, since it is a large number.
    even = torch.arange(0, d_head, 2, dtype=torch.float64, device=positions.device)  # (D/2,), twice the pair's number
    angles = positions[..., None] * base ** (-even / d_head)  # (…, T, D/2), radians
    return torch.polar(torch.ones_like(angles), angles)  # exp(i·angle)


def make_norm(kind: Norm, d_model: int, eps: float = 1e-5) -> nn.LayerNorm | nn.RMSNorm:
    """Return a norm: ``layer`` (Ba et al. 2016), or ``rms``, which has neither mean nor bias (Zhang & Sennrich 2019)."""
    if kind not in get_args(Norm):
        raise ValueError(f"kind={kind!r}: choose {', '.join(get_args(Norm))}")
    return nn.LayerNorm(d_model, eps=eps) if kind == "layer" else nn.RMSNorm(d_model, eps=eps)


class FeedForward(nn.Module):
    """A network applied to every position alike, max(0, xW₁ + b₁)W₂ + b₂ (Vaswani et al. 2017, equation 2).

    With ``swiglu`` it is (silu(xW_g) ⊙ xW₁)W₂ (Shazeer 2020, equation 6).

    Args:
        d_model: width C of what comes in and goes out.
        d_ff: width of the hidden layer, usually four times as much.
        activation: ``relu`` (the paper), ``gelu`` (BERT), ``gelu_tanh`` (GPT) or ``swiglu`` (Llama).
        bias: add b₁ and b₂.
    """

    def __init__(self, d_model: int, d_ff: int, *, activation: Activation = "relu", bias: bool = True) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r}: choose {', '.join(ACTIVATIONS)}")
        self.activation = activation
        self.up = nn.Linear(d_model, d_ff, bias=bias)  # W₁, b₁
        self.gate = nn.Linear(d_model, d_ff, bias=bias) if activation == "swiglu" else None
        self.down = nn.Linear(d_ff, d_model, bias=bias)  # W₂, b₂

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Apply the network to every position."""
        activate = ACTIVATIONS[self.activation]
        if self.gate is None:
            h = activate(self.up(x))  # (B, T, d_ff), max(0, xW₁ + b₁) in the paper
        else:
            h = activate(self.gate(x)) * self.up(x)  # a gate scales each unit
        y: Tensor = self.down(h)  # (B, T, C), hW₂ + b₂
        return y


class Block(nn.Module):
    """One layer of a Transformer: attention, perhaps attention to an encoder, and the feed-forward network.

    Args:
        d_model, n_heads, d_ff: width C, number of heads, width of the feed-forward network's hidden layer.
        cross_attention: also attend to ``memory``, as a decoder does to its encoder.
        norm_position: ``post`` normalises after the sum (the paper), ``pre`` before the sublayer (the paper's own code from
            its second version on, and GPT-2). Post-norm needs a learning rate that warms up.
        norm, norm_eps: see :func:`make_norm`.
        activation: see :class:`FeedForward`.
        bias, attention_bias: biases of the feed-forward network and of the attention's projections.
        dropout: share of a sublayer's output dropped in training, before it is added (section 5.4).
        d_key, n_kv_heads: see :class:`~nextword.attention.MultiHeadAttention`.
        pattern: which earlier positions each sees in attention to ``x`` itself; None for all of them.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        *,
        cross_attention: bool = False,
        norm_position: NormPosition = "post",
        norm: Norm = "layer",
        norm_eps: float = 1e-5,
        activation: Activation = "relu",
        bias: bool = True,
        attention_bias: bool = True,
        dropout: float = 0.0,
        d_key: int | None = None,
        n_kv_heads: int | None = None,
        pattern: SparsePattern | None = None,
    ) -> None:
        super().__init__()
        if norm_position not in get_args(NormPosition):
            raise ValueError(f"norm_position={norm_position!r}: choose 'post' or 'pre'")
        self.norm_position = norm_position
        shape: dict[str, Any] = {"d_key": d_key, "bias": attention_bias}
        # Attention to the text itself. Only there may heads share keys, or look at a part of the text.
        if pattern is None:
            self.attention = MultiHeadAttention(d_model, n_heads, n_kv_heads=n_kv_heads, **shape)
        else:
            self.attention = SparseAttention(d_model, n_heads, pattern, n_kv_heads=n_kv_heads, **shape)
        self.attention_norm = make_norm(norm, d_model, norm_eps)
        self.cross_attention: MultiHeadAttention | None = None
        if cross_attention:  # to an encoder's output
            self.cross_attention = MultiHeadAttention(d_model, n_heads, **shape)
            self.cross_norm = make_norm(norm, d_model, norm_eps)
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation, bias=bias)
        self.feed_forward_norm = make_norm(norm, d_model, norm_eps)
        self.dropout = nn.Dropout(dropout)  # of what a sublayer adds, and of nothing else

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        memory: Float[Tensor, "B S C"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
        causal: bool = False,
        rotation: Complex[Tensor, "..."] | None = None,
        cache: tuple[KVCache, KVCache] | KVCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """Return the layer's output.

        Args:
            memory: the encoder's output, for a block with cross-attention.
            mask, causal, rotation: for attention to ``x`` itself; see :class:`~nextword.attention.MultiHeadAttention`.
            memory_mask: which positions of ``memory`` each may attend to.
            cache: keys and values of earlier positions; with cross-attention a second one for those of the memory.
        """
        if (memory is None) != (self.cross_attention is None):
            needs = "needs" if memory is None else "has no cross-attention and takes no"
            raise ValueError(f"memory: this block {needs} encoder output")
        own, other = cache if isinstance(cache, tuple) else (cache, None)  # text, memory
        settings: dict[str, Any] = {"mask": mask, "causal": causal, "rotation": rotation, "cache": own}
        # Each sublayer is added to what came in: (B, T, C) throughout.
        x = self._add(x, self.attention_norm, lambda y: self.attention(y, **settings))
        if self.cross_attention is not None:
            look_up = self.cross_attention  # queries from x, keys and values from memory
            x = self._add(x, self.cross_norm, lambda y: look_up(y, memory, mask=memory_mask, cache=other))
        return self._add(x, self.feed_forward_norm, self.feed_forward)

    def _add(self, x: Tensor, norm: Sublayer, sublayer: Sublayer) -> Tensor:
        """Return LayerNorm(x + Sublayer(x)) (section 3.1), or x + Sublayer(LayerNorm(x)) with pre-norm."""
        if self.norm_position == "pre":
            dropped: Tensor = self.dropout(sublayer(norm(x)))
            return x + dropped  # x itself passes untouched through all layers
        return norm(x + self.dropout(sublayer(x)))


class ModelOutput(NamedTuple):
    """What a model returns: a score for every next word, and the mean loss in nats where labels were given."""

    logits: Float[Tensor, "B T V"]  #: The score of each word as the next one: a softmax makes probabilities of them.
    loss: Float[Tensor, ""] | None  #: Mean over the labels, nats a token. None without labels.


def next_token_loss(
    logits: Float[Tensor, "B T V"], labels: Int64[Tensor, "B T"], *, label_smoothing: float = 0.0, name: str = "labels"
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy in nats over the labels other than :data:`IGNORE_INDEX`.

    With ``label_smoothing`` ε the loss never reaches 0 (Vaswani et al. 2017, section 5.4).
    """
    check_labels(name, labels, logits.shape[:2])
    # The target is 1 - ε on the label plus ε/V on every word, the label included. (The paper's own code puts ε/(V - 1) on
    # the others.) All positions stand in one row, as torch wants them: rearrange(logits, "B T V -> (B T) V")
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing)


def check_labels(name: str, labels: Tensor, shape: torch.Size) -> None:
    """Raise an error that names the argument where ``labels`` does not fit ``shape``, the (B, T) of what is scored."""
    if labels.dtype != torch.int64:
        raise TypeError(f"{name} is of type {labels.dtype}; ids are int64")
    if labels.shape != shape:
        raise ValueError(f"{name} has shape {tuple(labels.shape)}; logits of {tuple(shape)} positions came")


def chunked_cross_entropy(
    hidden: Float[Tensor, "B T C"], weight: Float[Tensor, "V C"], labels: Int64[Tensor, "B T"], *, name: str = "labels"
) -> Float[Tensor, ""]:
    """Return ``next_token_loss(hidden @ weight.T, labels)`` without ever holding all the logits.

    Second derivatives cannot be had. Where every label is -100 there is nothing to average, and the loss is NaN.

    Raises:
        TypeError, ValueError: labels that are no int64, or of another shape (B, T) than ``hidden``.
    """
    check_labels(name, labels, hidden.shape[:2])
    kind = hidden.device.type
    # Under autocast the products are computed in half precision, sums and loss in that of the weights. As everywhere in
    # torch, autocast leaves double precision alone.
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        hidden = hidden.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):
        loss: Tensor = _ChunkedCrossEntropy.apply(hidden.flatten(0, 1), weight, labels.flatten())  # type: ignore[no-untyped-call]
    return loss


CHUNK = 256
"""Positions that :func:`chunked_cross_entropy` scores at once: over 4,096 words they are 4 MB in float32."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The mean cross-entropy of a linear layer's output; loss and gradient come from one pass over chunks of N positions."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        # The logits of a batch are its largest tensor by far, N·V numbers, and a processor spends more time moving them to
        # and from memory than computing them. So score a few positions at a time, and take their gradient while their
        # logits still lie in the processor's cache.
        w, counted = weight.to(hidden.dtype), (labels != IGNORE_INDEX).to(weight.dtype)
        share = counted / counted.sum()  # (N,): each label's part of the mean, 0 where there is none
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        loss = weight.new_zeros(())
        for i in range(0, len(hidden), CHUNK):
            chunk = slice(i, i + CHUNK)
            x, label, p = hidden[chunk], labels[chunk, None], share[chunk, None]
            label = label.masked_fill(label == IGNORE_INDEX, 0)  # any word will do, since its share is 0
            logits = (x @ w.T).to(weight.dtype)  # (CHUNK, V)
            largest, right = logits.amax(-1, keepdim=True), logits.gather(-1, label)
            exp = logits.sub_(largest).exp_()  # in place: the chunk's logits are needed no more
            total = exp.sum(-1, keepdim=True)
            loss += ((total.log() + largest - right) * p).sum()  # -log softmax(logits)[label]
            d_logits = exp.mul_(p / total).scatter_add_(-1, label, -p)  # (softmax - one-hot) · share
            d_logits = d_logits.to(hidden.dtype)
            d_hidden[chunk] = d_logits @ w
            d_weight += d_logits.T @ x
        ctx.save_for_backward(d_hidden, d_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *d_loss: Tensor) -> tuple[Tensor, Tensor, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * d_loss[0], d_weight * d_loss[0], None  # both were taken on the way forward


def check_ids(name: str, ids: Tensor) -> None:
    """Raise an error that names the argument where ``ids`` is no batch (B, T) of int64."""
    # Only what is known without reading the numbers: a model's forward must not wait for its device. The embedding itself
    # refuses an id that it has no row for, and check_vocabulary, at the doors, reads them.
    if not isinstance(ids, Tensor):
        raise TypeError(f"{name} is a {type(ids).__name__}; give a tensor (B, T), such as torch.tensor([[5, 6]])")
    if ids.dtype != torch.int64:
        raise TypeError(f"{name} is of type {ids.dtype}; ids are int64")
    if ids.ndim != 2 or not ids.numel():
        hint = f"; {name}[None] is a batch of one" if ids.ndim == 1 and ids.numel() else ""
        raise ValueError(f"{name} has shape {tuple(ids.shape)}; give a batch (B, T) of at least one token{hint}")


def check_vocabulary(name: str, ids: Tensor, vocab_size: int) -> None:
    """Raise an error that names the argument where one of ``ids`` has no row in an embedding of that size."""
    check_ids(name, ids)
    low, high = int(ids.min()), int(ids.max())  # waits for the device
    if low < 0 or high >= vocab_size:
        raise ValueError(f"{name} holds ids from {low} to {high}; they must lie in 0 … {vocab_size - 1}")


def check_mask(mask: Tensor | None, shape: tuple[int, ...], *, name: str = "mask") -> None:
    """Raise an error where ``mask`` has not one boolean for each token."""
    if mask is not None and (mask.dtype != torch.bool or mask.shape != shape):
        fits = f"bool of shape {tuple(shape)}, one for each token"
        raise ValueError(f"{name} is {mask.dtype} of shape {tuple(mask.shape)}; give {fits}")


@contextmanager
def train_mode(model: nn.Module, mode: bool = True) -> Iterator[None]:
    """Put ``model`` into training mode for a block, and each of its modules back as it was found."""
    before = [(module, module.training) for module in model.modules()]
    model.train(mode)
    try:
        yield
    finally:
        for module, was in before:  # one by one: a part may have been in another mode than the whole
            module.training = was


def eval_mode(model: nn.Module) -> AbstractContextManager[None]:
    """Put ``model`` into evaluation mode for a block: nothing is dropped."""
    return train_mode(model, False)


def count_parameters(model: nn.Module, *, embedding: bool = True) -> int:
    """Return the number of parameters, each shared matrix once; without ``embedding``, the non-embedding parameters."""
    # Tables are all embeddings, and the matrix that scores the words.
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)} | {model.get_parameter("output.weight")}
    all_of_them = sum(p.numel() for p in model.parameters())
    return all_of_them if embedding else all_of_them - sum(p.numel() for p in tables)


def check_config(config: Any, kind: type[Any]) -> None:
    """Raise an error where ``config`` is not of this class, such as a dictionary that was to be one."""
    if not isinstance(config, kind):
        fits = f"{kind.__name__}(**config)" if isinstance(config, Mapping) else f"a {kind.__name__}"
        raise TypeError(f"config is of type {type(config).__name__}; give {fits}")


def check_sizes(config: Any, *names: str) -> None:
    """Raise an error that names the first of these fields that is no whole number of at least 1."""
    for name in names:
        size = getattr(config, name)
        if size is None and getattr(type(config), name, 0) is None:  # its default, which stands for a size
            continue
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise TypeError(f"{name}={size!r} is a {type(size).__name__}; give a whole number")
        if size < 1:
            raise ValueError(f"{name}={size} is below 1")


def check_heads(config: Any) -> None:
    """Raise an error where the heads do not divide the width, and say which width would do."""
    d_model, n_heads = config.d_model, config.n_heads
    if d_model % n_heads:
        fits = -(-d_model // n_heads) * n_heads  # the next multiple
        raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}; d_model={fits} is")


def preset_of(presets: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the sizes of that name; raise an error that suggests the nearest one where there are none."""
    if name not in presets:
        near = difflib.get_close_matches(name, presets, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"name={name!r} is no preset: choose {', '.join(presets)}{hint}")
    return presets[name]


def check_choices(config: Any, **kinds: Any) -> None:
    """Raise an error that names the first of these fields whose value is none of its ``Literal`` type."""
    for name, kind in kinds.items():
        if getattr(config, name) not in get_args(kind):
            raise ValueError(f"{name}={getattr(config, name)!r}: choose {', '.join(get_args(kind))}")


def check_fraction(config: Any, *names: str) -> None:
    """Raise an error that names the first of these fields that is no number from 0 up to, not including, 1."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ValueError(f"{name}={value!r} is outside 0 … 1; give a number from 0 up to, not including, 1")


def check_vocabularies(config: Any) -> None:
    """Raise an error where the two vocabularies of an encoder-decoder do not fit ``share_embeddings`` or ``pad_id``."""
    if config.share_embeddings and config.source_vocab != config.target_vocab:
        sizes = f"source_vocab={config.source_vocab} and target_vocab={config.target_vocab}"
        raise ValueError(f"share_embeddings=True needs one vocabulary, not {sizes}")
    if not 0 <= config.pad_id < min(config.source_vocab, config.target_vocab):
        raise ValueError(f"pad_id={config.pad_id} is no id of both vocabularies")
