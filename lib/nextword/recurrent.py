"""Translation and language models made of LSTMs: what the Transformer replaced.

``Seq2SeqLSTM`` is three models in one: an encoder-decoder whose encoder hands over a single vector, the same with
attention (Bahdanau et al. 2015), and with more layers and residual connections GNMT (Wu et al. 2016).

Used in: 2016_gnmt, 2017_transformer, 2020_scaling_laws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from nextword.encoder_decoder import EncoderDecoder
from nextword.layers import (
    ModelOutput,
    check_fraction,
    check_ids,
    check_sizes,
    check_vocabularies,
    count_parameters,
    next_token_loss,
)

AttentionKind = Literal["none", "bahdanau", "bottom"]


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """The sizes of an LSTM encoder-decoder.

    Example:
        >>> sizes = {"source_vocab": 32_000, "target_vocab": 32_000, "d_model": 1024, "n_layers": 8}
        >>> gnmt = Seq2SeqConfig(**sizes, attention="bahdanau", residual_from=3)
    """

    source_vocab: int  #: Ids of the source language.
    target_vocab: int  #: Ids of the target language.
    d_model: int = 256
    """Width C of embeddings and LSTM states. The two directions of the first encoder layer have half of it each."""
    n_layers: int = 2
    """LSTM layers of the encoder, and as many of the decoder."""
    attention: AttentionKind = "bahdanau"
    """``none``: one vector, the encoder's last, stands for the whole sentence.
    ``bahdanau``: the context of step i comes from the bottom decoder layer's output at i - 1 and enters every layer, as
    in the papers. The bottom layer must wait for it, word by word.
    ``bottom``: the context comes from the bottom layer's output at i and enters the layers above. The bottom layer
    reads only words, so that in training every layer runs over the whole sentence in one fused call."""
    residual_from: int | None = None
    """From this layer on (the first is 1) a layer adds its input to its output; 3 in GNMT, None for never."""
    dropout: float = 0.0
    """Share of each layer's input dropped in training."""
    share_embeddings: bool = True
    """One matrix for source, target and softmax; needs one vocabulary. Otherwise three."""
    output_norm: bool = True
    """Normalise the last layer's output before the softmax, as the Transformer does. The papers, older than layer
    normalisation, do not; a shared matrix then takes several times as long to learn."""
    label_smoothing: float = 0.0  #: ε of :func:`~nextword.layers.next_token_loss`.
    pad_id: int = 0
    """The id that fills up the shorter sentences of a batch; nobody attends to it."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no model, and say which would."""
        check_sizes(self, "source_vocab", "target_vocab", "d_model", "n_layers")
        if self.d_model % 2:
            raise ValueError(f"d_model={self.d_model} is odd; each direction of the first encoder layer takes half")
        if self.attention not in get_args(AttentionKind):
            raise ValueError(f"attention={self.attention!r}: choose {', '.join(get_args(AttentionKind))}")
        if self.attention == "bottom" and self.n_layers < 2:
            raise ValueError("n_layers=1 leaves no layer above the bottom one to read the context; 2 or more do")
        if self.residual_from is not None and self.residual_from < 2:
            raise ValueError(f"residual_from={self.residual_from}: the first layer's input is no state; 2 or more fit")
        check_fraction(self, "dropout", "label_smoothing")
        check_vocabularies(self)


class Memory(NamedTuple):
    """What the encoder hands to the decoder."""

    states: Float[Tensor, "B S C"]  #: h_j, the top layer's output at every source token.
    keys: Float[Tensor, "B S C"]  #: W_m h_j, computed once for all steps of the decoder.
    last: Float[Tensor, "B C"]  #: The top layer's output at the last real token: the sentence in one vector.
    mask: Bool[Tensor, "B S"]  #: True at real tokens.


class AdditiveAttention(nn.Module):
    """The attention of Bahdanau et al. 2015: a small network scores each source position against the query.

    e_j = vᵀ tanh(W_q q + W_m h_j), α = softmax(e), context = Σ_j α_j h_j (equations 5 and 6, and A.1.2).
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.query = nn.Linear(d_model, d_model, bias=False)  # W_q; the sum needs one bias only, that of W_m
        self.key = nn.Linear(d_model, d_model)  # W_m
        self.score = nn.Linear(d_model, 1, bias=False)  # v; a bias would raise all e_j alike, which softmax ignores

    def forward(
        self, query: Float[Tensor, "B T C"], memory: Memory
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T S"]]:
        """Return the context of every query, and the weights over the source; those of padding are 0."""
        q = self.query(query)[:, :, None]  # (B, T, 1, C): W_q q
        m = memory.keys[:, None]  # (B, 1, S, C): W_m h_j, which the encoder computed once for all queries
        # Every query meets every h_j in a network of its own: B·T·S·C numbers. The Transformer's inner product needs none.
        # Without tanh the query would add the same number to all e_j, and softmax would not see it: every query would
        # look at the same words.
        e = self.score(torch.tanh(q + m)).squeeze(-1)  # (B, T, S)
        e = e.masked_fill(~memory.mask[:, None], -torch.inf)  # nothing is to be learned from padding
        alpha = e.softmax(-1)  # (B, T, S): each query spends a weight of 1 on the source
        return alpha @ memory.states, alpha  # the mean of the h_j, weighted by how well they fit


State = tuple[Tensor, Tensor]
"""An LSTM's output and its cell, each (1, B, C)."""


class Seq2SeqLSTM(EncoderDecoder):
    """An LSTM encoder-decoder (Sutskever et al. 2014), with attention where the configuration says so.

    The bottom layer of the encoder reads in both directions (Wu et al. 2016, section 3.2). Every decoder layer gets the
    context beside its input, except the bottom one where ``attention`` is ``bottom``, since it computes the context;
    without attention the context is always the encoder's last state.
    """

    config_class = Seq2SeqConfig

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        C, n = config.d_model, config.n_layers
        self.target_embedding = nn.Embedding(config.target_vocab, C)
        self.source_embedding = self.target_embedding
        if not config.share_embeddings:
            self.source_embedding = nn.Embedding(config.source_vocab, C)
        # Two LSTMs and not torch's bidirectional one: on its way back that would read the padding of a batch first.
        self.forward_lstm = nn.LSTM(C, C // 2, batch_first=True)
        self.backward_lstm = nn.LSTM(C, C // 2, batch_first=True)
        self.encoder = nn.ModuleList(nn.LSTM(C, C, batch_first=True) for _ in range(n - 1))
        bottom = C if config.attention == "bottom" else 2 * C  # its input: the word, and the context unless it waits
        self.decoder = nn.ModuleList(nn.LSTM(2 * C if i else bottom, C, batch_first=True) for i in range(n))
        self.attention = None if config.attention == "none" else AdditiveAttention(C)
        self.output_norm = nn.LayerNorm(C) if config.output_norm else nn.Identity()
        self.output = nn.Linear(C, config.target_vocab)
        if config.share_embeddings:  # the matrix that reads words also scores them
            self.output.weight = self.target_embedding.weight
        self.dropout = nn.Dropout(config.dropout)
        for module in self.modules():
            if isinstance(module, nn.LSTM):
                _initialise_lstm(module)
        tables = self.target_embedding.weight, self.source_embedding.weight, self.output.weight
        for table in dict.fromkeys(tables):  # a shared one once; in the order of parameters(), so that a seed says all
            nn.init.normal_(table, std=C**-0.5)  # times √C in _embed: a variance of 1
        nn.init.zeros_(self.output.bias)

    def encode(self, source: Int64[Tensor, "B S"]) -> Memory:
        """Return the encoder's view of ``source``, whose padding stands at the end; NaN in ``last`` where it does not."""
        check_ids("source", source)
        mask = source != self.config.pad_id  # (B, S)
        lengths = mask.sum(1)
        x = self._embed(self.source_embedding, source)  # (B, S, C)
        # The bottom layer reads each sentence in both directions, so that the vector of a word knows its neighbours.
        forwards, _ = self.forward_lstm(x)  # (B, S, C/2): each word and what stands before it
        backwards, _ = self.backward_lstm(_reverse(x, lengths))  # (B, S, C/2), last word first
        x = torch.cat([forwards, _reverse(backwards, lengths)], -1)  # (B, S, C)
        for number, lstm in enumerate(self.encoder, start=2):
            y, _ = lstm(self.dropout(x))
            x = self._residual(number, x, y)
        last = x[torch.arange(len(x), device=x.device), lengths - 1]  # (B, C), of the last real token
        # An LSTM reads padding as if it were words, so a row with padding before a word would be wrong. NaN says so
        # without reading a value here, for the decoder begins with it; check_source says it in words.
        misplaced = (mask[:, 1:] & ~mask[:, :-1]).any(1) | ~mask[:, 0]  # (B,)
        last = last.masked_fill(misplaced[:, None], torch.nan)
        # W_m h_j does not depend on the query: computed here it is not computed again for every word that is written.
        return Memory(x, self.attention.key(x) if self.attention else x, last, mask)

    def decode_with_attention(
        self, target: Int64[Tensor, "B T"], memory: Memory, cache: list[State] | None = None
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T S"]]:
        """Return what ``decode`` does, and where each position looked: everywhere alike, without attention."""
        check_ids("target", target)
        if len(memory.last) != len(target):
            raise ValueError(f"target is a batch of {len(target)}, and the source of {len(memory.last)}")
        # A sentence begins from the source in one vector, with empty cells.
        h = memory.last[None].contiguous()  # (1, B, C)
        states = cache or [(h, torch.zeros_like(h)) for _ in self.decoder]  # an empty cache has not begun yet
        words = self._embed(self.target_embedding, target)  # (B, T, C)
        if self.attention is None:
            # Nothing is attended to: these weights are only for whoever asks where the decoder looked.
            weights = (memory.mask / memory.mask.sum(1, keepdim=True))[:, None].expand(-1, target.shape[1], -1)
            context = memory.last[:, None].expand_as(words)  # one vector, however long the sentence
            x, bottom = self.decoder[0](torch.cat([words, context], -1), states[0])
        elif self.config.attention == "bahdanau":
            x, context, weights, bottom = self._word_by_word(words, memory, states[0])
        else:  # the bottom layer reads no context, so that it runs over all words in one call
            x, bottom = self.decoder[0](words, states[0])
            context, weights = self.attention(x, memory)
        new = [bottom]
        for number, (lstm, state) in enumerate(zip(self.decoder[1:], states[1:], strict=True), start=2):
            # Only the bottom layer asks the source; those above read the same context beside their input.
            y, state = lstm(torch.cat([self.dropout(x), context], -1), state)  # (B, T, C)
            x = self._residual(number, x, y)
            new.append(state)
        if cache is not None:
            cache[:] = new  # in place: the caller holds this very list
        return self.output_norm(self.dropout(x)), weights

    def new_cache(self) -> list[State]:
        """Return an empty cache for :meth:`decode_with_attention`, which fills it with one state a layer."""
        return []

    def reorder_cache(self, cache: list[State], rows: Int64[Tensor, " N"]) -> None:
        """Keep these rows of the batch, in this order."""
        cache[:] = [(h[:, rows], c[:, rows]) for h, c in cache]

    def check_source(self, source: Int64[Tensor, "B S"]) -> None:
        """Raise an error where ``source`` is no batch of ids, or has padding elsewhere than behind a sentence."""
        super().check_source(source)
        mask = source != self.config.pad_id
        if not bool(mask.any(1).all()):
            raise ValueError("source has a row of padding alone; a sentence needs a word")
        if bool((mask[:, 1:] & ~mask[:, :-1]).any()):  # a word behind padding
            raise ValueError("source has padding before a word; sentences stand at the start of their row")

    def _embed(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        """Return embedding · √C, whose components have unit variance at the start."""
        x: Tensor = self.dropout(table(ids) * math.sqrt(self.config.d_model))
        return x

    def _word_by_word(self, words: Tensor, memory: Memory, state: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """Run the bottom layer as the papers do: c_i = attend(s_{i-1}), s_i = LSTM([y_{i-1}; c_i], s_{i-1})."""
        assert self.attention is not None
        outputs, contexts, weights = [], [], []
        # The context needs the state of the word before, and the state needs the context: not even in training, where
        # all words are known, can one call read them all.
        for word in torch.split(words, 1, dim=1):  # (B, 1, C): the next waits for this one's state
            context, weight = self.attention(state[0].transpose(0, 1), memory)  # (B, 1, C), (B, 1, S)
            x, state = self.decoder[0](torch.cat([word, context], -1), state)
            outputs.append(x)
            contexts.append(context)
            weights.append(weight)
        return torch.cat(outputs, 1), torch.cat(contexts, 1), torch.cat(weights, 1), state

    def _residual(self, number: int, x: Tensor, y: Tensor) -> Tensor:
        """Return the output of layer ``number``: x + y from ``residual_from`` on (Wu et al. 2016, equation 6)."""
        start = self.config.residual_from
        # The sum gives the gradient a way past the layer, so that a tall stack of them still learns.
        return x + y if start is not None and number >= start else y


# --- A language model --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """The sizes of an LSTM language model."""

    vocab_size: int  #: V, the number of different ids.
    d_model: int = 256
    """Width C of embeddings and states."""
    n_layers: int = 2  #: LSTM layers, one above the other.
    dropout: float = 0.0
    """Share of each layer's input, and of the last output, dropped in training (Zaremba et al. 2014)."""
    tie_embeddings: bool = True
    """One matrix for the words that come in and those that go out (Press & Wolf 2017)."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no model."""
        check_sizes(self, "vocab_size", "d_model", "n_layers")
        check_fraction(self, "dropout")


class LSTMLanguageModel(nn.Module):
    """A stack of LSTMs that predicts the next word from all before it (Mikolov et al. 2010; Zaremba et al. 2014)."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        C = config.d_model
        self.embedding = nn.Embedding(config.vocab_size, C)
        self.layers = nn.ModuleList(nn.LSTM(C, C, batch_first=True) for _ in range(config.n_layers))
        self.output_norm = nn.LayerNorm(C)
        self.output = nn.Linear(C, config.vocab_size)
        if config.tie_embeddings:
            self.output.weight = self.embedding.weight
        self.dropout = nn.Dropout(config.dropout)
        for lstm in self.layers:
            _initialise_lstm(lstm)
        nn.init.normal_(self.embedding.weight, std=C**-0.5)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        ids: Int64[Tensor, "B T"],
        targets: Int64[Tensor, "B T"] | None = None,
        *,
        mask: Bool[Tensor, "B T"] | None = None,
    ) -> ModelOutput:
        """Score every next word.

        Args:
            ids: the text.
            targets: ``targets[:, t]`` is the word at t + 1, -100 where there is none.
            mask: True at real tokens. Filling stands behind a text, where nothing that counts comes after it. An LSTM
                reads padding as if it were words: a row with a real token behind padding gets NaN.

        Raises:
            TypeError, ValueError: ids or targets that are no batch of int64, or of two shapes.
            IndexError: an id outside the vocabulary, from the embedding.
        """
        hidden = self.hidden(ids)  # (B, T, C)
        if mask is not None:
            misplaced = (mask[:, 1:] & ~mask[:, :-1]).any(1)  # (B,)
            hidden = hidden.masked_fill(misplaced[:, None, None], torch.nan)
        logits = self.output(hidden)  # (B, T, V)
        return ModelOutput(logits, None if targets is None else next_token_loss(logits, targets, name="targets"))

    def hidden(self, ids: Int64[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """Return the top layer's output at every position, normalised."""
        check_ids("ids", ids)
        # The table begins with a standard deviation of 1/√C, as its scores need it; times √C it has one of 1 for the LSTM.
        x = self.embedding(ids) * math.sqrt(self.config.d_model)
        for lstm in self.layers:
            # From layer to layer only: dropped from word to word, the state would lose what the cell is to remember.
            x, _ = lstm(self.dropout(x))
        y: Tensor = self.output_norm(self.dropout(x))
        return y

    def num_parameters(self, embedding: bool = True) -> int:
        """Return the number of parameters; without ``embedding``, the non-embedding ones."""
        return count_parameters(self, embedding=embedding)


def _initialise_lstm(lstm: nn.Module) -> None:
    """Open the forget gate at the start, so that the cell remembers before it has learned what to forget."""
    assert isinstance(lstm, nn.LSTM)
    C = lstm.hidden_size
    for name, parameter in lstm.named_parameters():
        if "weight" in name:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    # torch adds up two biases, so that 1 in one of them is enough: at first σ(1) = 0.73 of the cell outlives a word.
    with torch.no_grad():
        lstm.get_parameter("bias_ih_l0")[C : 2 * C] = 1.0  # gates are stored as input, forget, cell, output


def _reverse(x: Float[Tensor, "B S C"], lengths: Int64[Tensor, " B"]) -> Float[Tensor, "B S C"]:
    """Return every row's first ``lengths[b]`` vectors backwards; its padding stays at the end."""
    # Turned round twice, a row stands as before: so what the backward LSTM wrote comes back into reading order.
    positions = torch.arange(x.shape[1], device=x.device)
    backwards = torch.where(positions < lengths[:, None], lengths[:, None] - 1 - positions, positions)  # (B, S)
    return x.gather(1, backwards[:, :, None].expand_as(x))
