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
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from nextword import checkpoints
from nextword.attention import KVCache, capture_attention
from nextword.layers import (
    Activation,
    Block,
    NormPosition,
    Output,
    check_choices,
    check_evaluating,
    check_heads,
    check_ids,
    check_shares,
    check_sizes,
    check_vocabularies,
    count_parameters,
    next_token_loss,
    sinusoidal_positions,
)

__all__ = ["Output", "Transformer", "TransformerConfig", "TransformerStep", "sinusoidal_positions"]

Positions = Literal["sinusoidal", "learned"]
Cache = Sequence[tuple[KVCache, KVCache]]


@dataclass(frozen=True)
class TransformerConfig:
    """The sizes of a Transformer; the defaults are the paper's base model (Vaswani et al. 2017, table 3).

    Example:
        >>> TransformerConfig(source_vocab=100, target_vocab=100, d_model=510)
        Traceback (most recent call last):
        ...
        ValueError: d_model=510 is not divisible by n_heads=8; d_model=512 is
    """

    source_vocab: int
    target_vocab: int
    d_model: int = 512
    """Width C of every vector between the layers."""
    n_heads: int = 8
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
    activation: Activation = "relu"
    share_embeddings: bool = True
    """One matrix for source, target and softmax (section 3.4); needs one vocabulary. Otherwise three."""
    bias: bool = True
    """Biases of the feed-forward networks."""
    attention_bias: bool = False
    """Biases of the attention's projections. Neither the paper's formulas nor its code have them."""
    d_key: int | None = None
    """Width of a head's queries and keys; None for d_model / n_heads. Row (B) of table 3 makes it smaller."""
    label_smoothing: float = 0.1
    pad_id: int = 0
    """The id that fills up the shorter sentences of a batch; nobody attends to it."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no model, and say which would."""
        check_sizes(self, "source_vocab", "target_vocab", "d_model", "n_heads", "n_layers", "d_ff", "max_length")
        check_sizes(self, *(["d_key"] if self.d_key is not None else []))
        check_heads(self)
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"d_model={self.d_model} is odd; sinusoids come in pairs")
        check_choices(self, norm_position=NormPosition, positions=Positions, activation=Activation)
        check_shares(self, "dropout", "label_smoothing")
        check_vocabularies(self)


class Transformer(nn.Module):
    """The encoder-decoder of Vaswani et al. 2017, sections 3.1 to 3.5.

    The paper does not say how weights begin. Here the tables have a standard deviation of 1/√C, and the other matrices are
    uniform within ±1/√(their input's width), as torch's linear layers are.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        C = config.d_model
        self.target_embedding = nn.Embedding(config.target_vocab, C)
        self.source_embedding = self.target_embedding
        if not config.share_embeddings:
            self.source_embedding = nn.Embedding(config.source_vocab, C)
        self.output = nn.Linear(C, config.target_vocab, bias=False)
        if config.share_embeddings:
            self.output.weight = self.target_embedding.weight
        if config.positions == "learned":
            self.source_positions = nn.Embedding(config.max_length, C)
            self.target_positions = nn.Embedding(config.max_length, C)
        self.encoder = nn.ModuleList(self._block(cross_attention=False) for _ in range(config.n_layers))
        self.decoder = nn.ModuleList(self._block(cross_attention=True) for _ in range(config.n_layers))
        pre = config.norm_position == "pre"
        self.encoder_norm = nn.LayerNorm(C) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(C) if pre else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self._positions = torch.empty(0)
        self._initialise()

    def forward(
        self,
        source: Int64[Tensor, "B S"],
        target: Int64[Tensor, "B T"],
        labels: Int64[Tensor, "B T"] | None = None,
    ) -> Output:
        """Score every next word of ``target``.

        Args:
            source: the sentence to translate, filled up with ``pad_id``.
            target: the translation as the decoder reads it: the start token first, then what has been written.
            labels: the word that follows each of ``target``; -100 where there is none.

        Raises:
            TypeError, ValueError: ids that are no int64, outside the vocabulary, or too many for learned positions.
        """
        logits = self.output(self.decode(target, self.encode(source), source_mask=source != self.config.pad_id))
        if labels is None:
            return Output(logits, None)
        return Output(logits, next_token_loss(logits, labels, label_smoothing=self._smoothing()))

    def encode(self, source: Int64[Tensor, "B S"]) -> Float[Tensor, "B S C"]:
        """Return the encoder's vector for every token of ``source``, the memory that the decoder attends to."""
        check_ids("source", source)
        mask = source != self.config.pad_id  # (B, S)
        x = self._embed(self.source_embedding, source, 0, "source")
        for block in self.encoder:
            x = block(x, mask=mask)
        memory: Tensor = self.encoder_norm(x)
        return memory

    def decode(
        self,
        target: Int64[Tensor, "B T"],
        memory: Float[Tensor, "B S C"],
        *,
        source_mask: Bool[Tensor, "B S"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """Return the decoder's vector at every position of ``target``; ``output`` turns it into scores.

        Args:
            target: what has been written. With a cache, only what is new since the last call.
            memory: what :meth:`encode` returned.
            source_mask: True at the real tokens of the source.
            cache: from :meth:`new_cache`; it grows by the length of ``target``.
        """
        check_ids("target", target)
        if len(memory) != len(target):
            raise ValueError(f"target is a batch of {len(target)}, and the source of {len(memory)}")
        start = cache[0][0].length if cache is not None else 0
        x = self._embed(self.target_embedding, target, start, "target")
        for i, block in enumerate(self.decoder):
            own = cache[i] if cache is not None else None
            x = block(x, memory, memory_mask=source_mask, causal=True, cache=own)
        hidden: Tensor = self.decoder_norm(x)
        return hidden

    def new_cache(self, max_length: int | None = None) -> Cache:
        """Return an empty cache for :meth:`decode`: one for the text and one for the memory, in every layer."""
        return [(KVCache(max_length), KVCache()) for _ in range(self.config.n_layers)]

    def step(self, source: Int64[Tensor, "B S"], *, beam: int = 1) -> TransformerStep:
        """Return the function that :func:`~nextword.generation.beam_search` calls for each next word."""
        return TransformerStep(self, source, beam)

    @classmethod
    def from_pretrained(cls, path: str) -> Transformer:
        """Return a model that :func:`~nextword.checkpoints.save` wrote, in evaluation mode; its tokenizer lies beside it.

        Raises:
            ValueError: there is no such model, or it is of another kind.
        """
        return checkpoints.from_folder(cls, TransformerConfig, path)

    def num_parameters(self, embedding: bool = True) -> int:
        """Return the number of parameters, each shared matrix once; without ``embedding``, those between the tables."""
        return count_parameters(self, embedding=embedding)

    def _block(self, *, cross_attention: bool) -> Block:
        c = self.config
        return Block(
            c.d_model,
            c.n_heads,
            c.d_ff,
            cross_attention=cross_attention,
            norm_position=c.norm_position,
            activation=c.activation,
            bias=c.bias,
            attention_bias=c.attention_bias,
            dropout=c.dropout,
            d_key=c.d_key,
        )

    def _initialise(self) -> None:
        for weight in {self.source_embedding.weight, self.target_embedding.weight, self.output.weight}:
            nn.init.normal_(weight, std=self.config.d_model**-0.5)  # times √C in _embed: unit variance

    def _embed(self, table: nn.Embedding, ids: Tensor, start: int, side: str) -> Tensor:
        """Return embedding · √C + position, with dropout on the sum (sections 3.4 and 5.4)."""
        x: Tensor = table(ids) * math.sqrt(self.config.d_model)
        y: Tensor = self.dropout(x + self._position(start, ids.shape[1], side, x))
        return y

    def _position(self, start: int, T: int, side: str, like: Tensor) -> Tensor:
        end = start + T
        if self.config.positions == "learned":
            if end > self.config.max_length:
                raise ValueError(
                    f"{side} is {end} tokens long, and learned positions count to {self.config.max_length}"
                )
            table = self.source_positions if side == "source" else self.target_positions
            weight: Tensor = table.weight
            return weight[start:end]
        if len(self._positions) < end or self._positions.device != like.device or self._positions.dtype != like.dtype:
            self._positions = sinusoidal_positions(max(end, 64), self.config.d_model, dtype=like.dtype).to(like.device)
        return self._positions[start:end]

    def _smoothing(self) -> float:
        return self.config.label_smoothing if self.training else 0.0


class TransformerStep:
    """The next word of N half-written translations; called by :func:`~nextword.generation.beam_search`.

    Keys and values of earlier words are kept, so a call computes only the newest.

    Args:
        model: the Transformer.
        source: sentences (B, S); each gets ``beam`` neighbouring rows, so that N = B · beam.
        beam: hypotheses a sentence.
    """

    def __init__(self, model: Transformer, source: Int64[Tensor, "B S"], beam: int = 1) -> None:
        check_evaluating(model, model.config.dropout)
        self.model = model
        self.source_mask = (source != model.config.pad_id).repeat_interleave(beam, 0)  # (N, S)
        with torch.inference_mode():
            self.memory = model.encode(source).repeat_interleave(beam, 0)  # (N, S, C)
        self.cache = model.new_cache()
        self.cross_attention = [m for name, m in model.named_modules() if name.endswith(".cross_attention")]

    @torch.inference_mode()
    def __call__(self, ids: Int64[Tensor, "N T"]) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N S"]]:
        """Return the log-probabilities of the next word, and where the last one looked (mean over layers and heads)."""
        new = ids[:, self.cache[0][0].length :]
        with capture_attention(self.cross_attention) as maps:
            hidden = self.model.decode(new, self.memory, source_mask=self.source_mask, cache=self.cache)
        attention = torch.stack([m[:, :, -1] for m in maps]).mean((0, 2))  # (N, S)
        return self.model.output(hidden[:, -1]).log_softmax(-1), attention

    def reorder(self, rows: Int64[Tensor, " N"]) -> None:
        """Keep these hypotheses, in this order. Rows of one sentence share their memory, so only the text moves."""
        for own, _ in self.cache:
            own.reorder(rows)
