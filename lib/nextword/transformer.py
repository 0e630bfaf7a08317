"""The Transformer: an encoder and a decoder made of attention (Vaswani et al. 2017).

The encoder turns a sentence into one vector a token. The decoder writes the translation word by word, attending to what
it has written and to the encoder's vectors. In training all words are predicted at once, since the mask hides what
comes later.

Used in: 2017_transformer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from nextword.attention import KVCache, capture_attention
from nextword.encoder_decoder import EncoderDecoder
from nextword.layers import (
    Activation,
    Block,
    NormPosition,
    check_choices,
    check_fraction,
    check_heads,
    check_ids,
    check_sizes,
    check_vocabularies,
    sinusoidal_positions,
)

Positions = Literal["sinusoidal", "learned"]
Cache = Sequence[tuple[KVCache, KVCache]]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The sizes of a Transformer; the defaults are the paper's base model (Vaswani et al. 2017, table 3).

    Example:
        >>> TransformerConfig(source_vocab=100, target_vocab=100, d_model=510)
        Traceback (most recent call last):
        ...
        ValueError: d_model=510 is not divisible by n_heads=8; d_model=512 is
    """

    source_vocab: int  #: Ids of the source language.
    target_vocab: int  #: Ids of the target language.
    d_model: int = 512
    """Width C of every vector between the layers."""
    n_heads: int = 8  #: Heads of attention, each ``d_key`` wide.
    n_layers: int = 6
    """Layers of the encoder, and as many again of the decoder."""
    d_ff: int = 2048
    """Width of the hidden layer of the feed-forward networks."""
    dropout: float = 0.1
    """Share dropped from each sublayer's output and from the sum of embedding and position."""
    norm_position: NormPosition = "post"
    """``post``: the paper. ``pre``: its code since the second version, with one more norm at the end of each stack."""
    positions: Positions = "sinusoidal"
    """``learned`` is row (E) of table 3."""
    max_length: int = 512
    """Tokens that learned positions can count. Sinusoids have no limit."""
    activation: Activation = "relu"  #: See :class:`~nextword.layers.FeedForward`.
    share_embeddings: bool = True
    """One matrix for source, target and softmax (section 3.4); needs one vocabulary. Otherwise three."""
    bias: bool = True
    """Biases of the feed-forward networks."""
    attention_bias: bool = False
    """Biases of the attention's projections. Neither the paper's formulas nor its code have them."""
    d_key: int | None = None
    """Width of a head's queries and keys; None for d_model / n_heads. Row (B) of table 3 makes it smaller."""
    label_smoothing: float = 0.1  #: ε of :func:`~nextword.layers.next_token_loss`.
    pad_id: int = 0
    """The id that fills up the shorter sentences of a batch; nobody attends to it."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no model, and say which would."""
        sizes = ["source_vocab", "target_vocab", "d_model", "n_heads", "n_layers", "d_ff", "max_length"]
        check_sizes(self, *sizes, *(["d_key"] if self.d_key is not None else []))
        check_heads(self)
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"d_model={self.d_model} is odd; sinusoids come in pairs")
        check_choices(self, norm_position=NormPosition, positions=Positions, activation=Activation)
        check_fraction(self, "dropout", "label_smoothing")
        check_vocabularies(self)


class Memory(NamedTuple):
    """What the encoder hands to the decoder."""

    states: Float[Tensor, "B S C"]  #: A vector for every source token.
    mask: Bool[Tensor, "B S"]  #: True at real tokens.


class Transformer(EncoderDecoder):
    """The encoder-decoder of Vaswani et al. 2017, sections 3.1 to 3.5.

    The paper does not say how weights begin. Here the tables of words have a standard deviation of 1/√C, learned
    positions one of 1, and the other matrices are
    uniform within ±1/√(their input's width), as torch's linear layers are.
    """

    config_class = TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        C = config.d_model
        self.target_embedding = nn.Embedding(config.target_vocab, C)
        self.source_embedding = self.target_embedding
        if not config.share_embeddings:
            self.source_embedding = nn.Embedding(config.source_vocab, C)
        self.output = nn.Linear(C, config.target_vocab, bias=False)
        if config.share_embeddings:  # one matrix reads words on both sides and scores them (section 3.4)
            self.output.weight = self.target_embedding.weight
        if config.positions == "learned":
            self.source_positions = nn.Embedding(config.max_length, C)
            self.target_positions = nn.Embedding(config.max_length, C)
        sizes: dict[str, Any] = {"d_key": config.d_key, "bias": config.bias, "attention_bias": config.attention_bias}
        sizes |= {"norm_position": config.norm_position, "activation": config.activation, "dropout": config.dropout}

        # Two stacks of the same layers, but for one sublayer: the decoder's also attend to what the encoder found.
        def stack(cross_attention: bool) -> nn.ModuleList:
            shape = C, config.n_heads, config.d_ff
            return nn.ModuleList(
                Block(*shape, cross_attention=cross_attention, **sizes) for _ in range(config.n_layers)
            )

        self.encoder, self.decoder = stack(cross_attention=False), stack(cross_attention=True)
        pre = config.norm_position == "pre"  # then nothing has normalised the sum that leaves the last layer
        self.encoder_norm = nn.LayerNorm(C) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(C) if pre else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self._sinusoids = torch.empty(0)  # computed by _embed, as long as is needed
        tables = self.target_embedding.weight, self.source_embedding.weight, self.output.weight
        for table in dict.fromkeys(tables):  # a shared one once; in the order of parameters(), so that a seed says all
            nn.init.normal_(table, std=C**-0.5)  # times √C in _embed: a variance of 1

    def encode(self, source: Int64[Tensor, "B S"]) -> Memory:
        """Return the encoder's vector for every token of ``source``, the memory that the decoder attends to."""
        check_ids("source", source)
        mask = source != self.config.pad_id  # (B, S): nobody attends to padding
        x = self._embed(source, "source")  # (B, S, C)
        for layer in self.encoder:
            x = layer(x, mask=mask)  # every word looks at every word
        return Memory(self.encoder_norm(x), mask)

    def decode(
        self, target: Int64[Tensor, "B T"], memory: Memory, cache: Cache | None = None
    ) -> Float[Tensor, "B T C"]:
        """Return the decoder's vector at every position; see :meth:`~nextword.encoder_decoder.EncoderDecoder.decode`."""
        check_ids("target", target)
        if len(memory.mask) != len(target):
            raise ValueError(f"target is a batch of {len(target)}, and the source of {len(memory.mask)}")
        start = cache[0][0].length if cache is not None else 0  # words read before
        x = self._embed(target, "target", start)  # (B, T, C)
        for i, layer in enumerate(self.decoder):
            seen = None if cache is None else cache[i]
            # Each word looks at those before it (causal), as it will in writing, and then at the source. Padding stands
            # behind all words, so the target needs no mask for it.
            x = layer(x, memory.states, memory_mask=memory.mask, causal=True, cache=seen)
        hidden: Tensor = self.decoder_norm(x)
        return hidden

    def decode_with_attention(
        self, target: Int64[Tensor, "B T"], memory: Memory, cache: Cache | None = None
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T S"]]:
        """Return what :meth:`decode` does, and the attention to the source, as a mean over layers and heads."""
        layers = [module for name, module in self.decoder.named_modules() if name.endswith("cross_attention")]
        # The fused kernel never stores the weights: to be seen they are computed line by line, which takes longer.
        with capture_attention(layers) as maps:
            hidden = self.decode(target, memory, cache)
        return hidden, torch.stack(maps).mean((0, 2))  # (B, T, S) from (L, B, H, T, S)

    def new_cache(self, max_length: int | None = None) -> Cache:
        """Return an empty cache for :meth:`decode`."""
        # One for the text, which grows, and one for the memory, whose keys and values the first call computes for all.
        return [(KVCache(max_length), KVCache()) for _ in self.decoder]

    def reorder_cache(self, cache: Cache, rows: Int64[Tensor, " N"]) -> None:
        """Keep these rows of the texts, in this order; their memories stay."""
        for text, _ in cache:
            text.reorder(rows)  # rows change places within their sentence, which has one memory

    def _embed(self, ids: Tensor, side: Literal["source", "target"], start: int = 0) -> Tensor:
        """Return embedding · √C + position, with dropout on the sum (sections 3.4, 3.5 and 5.4)."""
        embedding = self.source_embedding if side == "source" else self.target_embedding
        # The table begins with numbers of about 1/√C, as the softmax needs them. Beside the sinusoids, numbers of up to
        # 1, a word would be drowned; times √C it is as large as its position.
        x = embedding(ids) * math.sqrt(self.config.d_model)  # (B, T, C)
        end = start + ids.shape[1]  # what a cache holds has taken the positions up to start
        if self.config.positions == "learned":
            # No vector was learned for a later position, while a sinusoid can be computed for any.
            if end > self.config.max_length:
                limit = f"learned positions count to {self.config.max_length}"
                raise ValueError(f"{side} is {end} tokens long, and {limit}")
            positions = (self.source_positions if side == "source" else self.target_positions).weight
        else:
            positions = self._sinusoids
            if len(positions) < end or positions.device != x.device or positions.dtype != x.dtype:
                enough = max(end, 64, 2 * len(positions))  # doubled, so that writing word by word computes few tables
                positions = sinusoidal_positions(enough, self.config.d_model, dtype=x.dtype).to(x.device)
                self._sinusoids = positions
        # To attention a sentence is a set of vectors: this sum tells each of them where it stands.
        summed: Tensor = self.dropout(x + positions[start:end])  # (T, C), the same for every row
        return summed
