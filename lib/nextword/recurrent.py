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

from nextword import checkpoints
from nextword.layers import (
    Output,
    check_evaluating,
    check_ids,
    check_shares,
    check_sizes,
    check_vocabularies,
    count_parameters,
    next_token_loss,
)

AttentionKind = Literal["none", "bahdanau", "bottom"]


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The sizes of an LSTM encoder-decoder.

    Example:
        >>> gnmt = Seq2SeqConfig(32_000, 32_000, d_model=1024, n_layers=8, attention="bahdanau", residual_from=3)
    """

    source_vocab: int
    target_vocab: int
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
    label_smoothing: float = 0.0
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
        check_shares(self, "dropout", "label_smoothing")
        check_vocabularies(self)


class Seq2SeqOutput(NamedTuple):
    """Scores for every next word, the mean loss in nats where labels were given, and where each step looked."""

    logits: Float[Tensor, "B T V"]
    loss: Float[Tensor, ""] | None
    attention: Float[Tensor, "B T S"] | None


class Memory(NamedTuple):
    """What the encoder hands to the decoder."""

    states: Float[Tensor, "B S C"]
    """The top layer's output at every source token."""
    keys: Float[Tensor, "B S C"]
    """W_m applied to them once, for all steps of the decoder."""
    last: Float[Tensor, "B C"]
    """The top layer's output at the last real token: the sentence in one vector."""
    mask: Bool[Tensor, "B S"]


class AdditiveAttention(nn.Module):
    """The attention of Bahdanau et al. 2015: a small network scores each source position against the query.

    e_j = vᵀ tanh(W_q q + W_m h_j), weights = softmax(e), context = Σ_j weights_j h_j (equations 5 and 6, and A.1.2).
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model)
        self.score = nn.Linear(d_model, 1, bias=False)

    def forward(
        self, query: Float[Tensor, "B T C"], memory: Memory
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T S"]]:
        """Return the context of every query, and the weights over the source; those of padding are 0."""
        energy = torch.tanh(self.query(query)[:, :, None] + memory.keys[:, None])  # (B, T, S, C)
        scores = self.score(energy).squeeze(-1)  # (B, T, S)
        weights = scores.masked_fill(~memory.mask[:, None], -torch.inf).softmax(-1)
        return weights @ memory.states, weights


State = tuple[Tensor, Tensor]
"""An LSTM's output and its cell, each (1, B, C)."""


class Seq2SeqLSTM(nn.Module):
    """An LSTM encoder-decoder (Sutskever et al. 2014), with attention where the configuration says so.

    The bottom layer of the encoder reads in both directions (Wu et al. 2016, section 3.2). Every decoder layer gets the
    context beside its input; without attention that is always the encoder's last state.
    """

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        C, n = config.d_model, config.n_layers
        self.target_embedding = nn.Embedding(config.target_vocab, C)
        self.source_embedding = self.target_embedding
        if not config.share_embeddings:
            self.source_embedding = nn.Embedding(config.source_vocab, C)
        self.forward_lstm = nn.LSTM(C, C // 2, batch_first=True)
        self.backward_lstm = nn.LSTM(C, C // 2, batch_first=True)
        self.encoder = nn.ModuleList(nn.LSTM(C, C, batch_first=True) for _ in range(n - 1))
        bottom = C if config.attention == "bottom" else 2 * C  # its input: the word, and the context unless it waits
        self.decoder = nn.ModuleList(nn.LSTM(2 * C if i else bottom, C, batch_first=True) for i in range(n))
        self.attention = None if config.attention == "none" else AdditiveAttention(C)
        self.output_norm = nn.LayerNorm(C) if config.output_norm else nn.Identity()
        self.output = nn.Linear(C, config.target_vocab)
        if config.share_embeddings:
            self.output.weight = self.target_embedding.weight
        self.dropout = nn.Dropout(config.dropout)
        self._initialise()

    def forward(
        self,
        source: Int64[Tensor, "B S"],
        target: Int64[Tensor, "B T"],
        labels: Int64[Tensor, "B T"] | None = None,
    ) -> Seq2SeqOutput:
        """Score every next word of ``target``.

        Args:
            source: the sentence to translate, filled up with ``pad_id``.
            target: the translation as the decoder reads it: the start token first, then what has been written.
            labels: the word that follows each of ``target``; -100 where there is none.

        Raises:
            TypeError, ValueError: ids that are no int64 or outside the vocabulary, padding before a word.
        """
        hidden, weights, _ = self.decode(target, self.encode(source))
        logits = self.output(hidden)
        loss = None
        if labels is not None:
            smoothing = self.config.label_smoothing if self.training else 0.0
            loss = next_token_loss(logits, labels, label_smoothing=smoothing)
        return Seq2SeqOutput(logits, loss, weights)

    def encode(self, source: Int64[Tensor, "B S"]) -> Memory:
        """Return the encoder's view of ``source``, whose padding stands at the end."""
        check_ids("source", source)
        mask = source != self.config.pad_id
        lengths = mask.sum(1)
        if not bool((mask == (torch.arange(source.shape[1], device=source.device) < lengths[:, None])).all()):
            raise ValueError("source has padding before a word; sentences stand at the start of their row")
        if not bool(lengths.all()):
            raise ValueError("source has a row of padding alone; a sentence needs a word")
        x = self._embed(self.source_embedding, source)
        forwards, _ = self.forward_lstm(x)
        backwards, _ = self.backward_lstm(_reverse(x, lengths))
        x = torch.cat([forwards, _reverse(backwards, lengths)], -1)  # (B, S, C)
        for number, lstm in enumerate(self.encoder, start=2):
            y, _ = lstm(self.dropout(x))
            x = self._residual(number, x, y)
        last = x[torch.arange(len(x), device=x.device), lengths - 1]
        return Memory(x, self.attention.key(x) if self.attention else x, last, mask)

    def decode(
        self, target: Int64[Tensor, "B T"], memory: Memory, states: list[State] | None = None
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T S"] | None, list[State]]:
        """Return the decoder's vector at every position, where each looked, and the states to go on from.

        Args:
            target: what has been written, or with ``states`` only what is new.
            memory: what :meth:`encode` returned.
            states: one state a layer from an earlier call; None at the start of a sentence.
        """
        check_ids("target", target)
        if len(memory.last) != len(target):
            raise ValueError(f"target is a batch of {len(target)}, and the source of {len(memory.last)}")
        if states is None:
            states = self._first_states(memory)
        words = self._embed(self.target_embedding, target)  # (B, T, C)
        weights = None
        if self.config.attention == "bahdanau":
            x, context, weights, bottom = self._step_by_step(words, memory, states[0])
        elif self.attention is None:
            context = memory.last[:, None].expand_as(words)
            x, bottom = self.decoder[0](torch.cat([words, context], -1), states[0])
        else:
            x, bottom = self.decoder[0](words, states[0])
            context, weights = self.attention(x, memory)
        new = [bottom]
        for number, (lstm, state) in enumerate(zip(self.decoder[1:], states[1:], strict=True), start=2):
            y, state = lstm(torch.cat([self.dropout(x), context], -1), state)
            x = self._residual(number, x, y)
            new.append(state)
        return self.output_norm(self.dropout(x)), weights, new

    def step(self, source: Int64[Tensor, "B S"], *, beam: int = 1) -> Seq2SeqStep:
        """Return the function that :func:`~nextword.generation.beam_search` calls for each next word."""
        return Seq2SeqStep(self, source, beam)

    @classmethod
    def from_pretrained(cls, path: str) -> Seq2SeqLSTM:
        """Return a model that :func:`~nextword.checkpoints.save` wrote, in evaluation mode; its tokenizer lies beside it.

        Raises:
            ValueError: there is no such model, or it is of another kind.
        """
        return checkpoints.from_folder(cls, Seq2SeqConfig, path)

    def num_parameters(self, embedding: bool = True) -> int:
        """Return the number of parameters, each shared matrix once; without ``embedding``, those between the tables."""
        return count_parameters(self, embedding=embedding)

    def _embed(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        """Return embedding · √C, whose components have unit variance at the start."""
        x: Tensor = self.dropout(table(ids) * math.sqrt(self.config.d_model))
        return x

    def _first_states(self, memory: Memory) -> list[State]:
        """Start every decoder layer from the sentence in one vector, with empty cells."""
        h = memory.last[None].contiguous()  # (1, B, C)
        return [(h, torch.zeros_like(h)) for _ in self.decoder]

    def _step_by_step(self, words: Tensor, memory: Memory, state: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """Run the bottom layer word by word: c_i = attend(s_{i-1}), s_i = LSTM([y_{i-1}; c_i], s_{i-1})."""
        assert self.attention is not None
        outputs, contexts, weights = [], [], []
        for word in torch.split(words, 1, dim=1):  # (B, 1, C)
            context, weight = self.attention(state[0].transpose(0, 1), memory)
            x, state = self.decoder[0](torch.cat([word, context], -1), state)
            outputs.append(x)
            contexts.append(context)
            weights.append(weight)
        return torch.cat(outputs, 1), torch.cat(contexts, 1), torch.cat(weights, 1), state

    def _residual(self, number: int, x: Tensor, y: Tensor) -> Tensor:
        """Return the output of layer ``number``: x + y from ``residual_from`` on (Wu et al. 2016, equation 6)."""
        start = self.config.residual_from
        return x + y if start is not None and number >= start else y

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.LSTM):
                _initialise_lstm(module)
        for weight in {self.source_embedding.weight, self.target_embedding.weight, self.output.weight}:
            nn.init.normal_(weight, std=self.config.d_model**-0.5)
        nn.init.zeros_(self.output.bias)


class Seq2SeqStep:
    """The next word of N half-written translations; called by :func:`~nextword.generation.beam_search`.

    Args:
        model: the encoder-decoder.
        source: sentences (B, S); each gets ``beam`` neighbouring rows, so that N = B · beam.
        beam: hypotheses a sentence.
    """

    def __init__(self, model: Seq2SeqLSTM, source: Int64[Tensor, "B S"], beam: int = 1) -> None:
        check_evaluating(model, model.config.dropout)
        self.model = model
        with torch.inference_mode():
            self.memory = Memory(*(x.repeat_interleave(beam, 0) for x in model.encode(source)))
        self.states: list[State] | None = None
        self.length = 0

    @torch.inference_mode()
    def __call__(self, ids: Int64[Tensor, "N T"]) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N S"]]:
        """Return the log-probabilities of the next word, and where the last one looked (everywhere, without attention)."""
        hidden, weights, self.states = self.model.decode(ids[:, self.length :], self.memory, self.states)
        self.length = ids.shape[1]
        mask = self.memory.mask
        attention = mask / mask.sum(1, keepdim=True) if weights is None else weights[:, -1]
        return self.model.output(hidden[:, -1]).log_softmax(-1), attention

    def reorder(self, rows: Int64[Tensor, " N"]) -> None:
        """Keep these hypotheses, in this order. Rows of one sentence share their memory, so only the states move."""
        if self.states is not None:
            self.states = [(h[:, rows], c[:, rows]) for h, c in self.states]


# --- A language model --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LSTMConfig:
    """The sizes of an LSTM language model."""

    vocab_size: int
    d_model: int = 256
    """Width C of embeddings and states."""
    n_layers: int = 2
    dropout: float = 0.0
    """Share of each layer's input, and of the last output, dropped in training (Zaremba et al. 2014)."""
    tie_embeddings: bool = True
    """One matrix for the words that come in and those that go out (Press & Wolf 2017)."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no model."""
        check_sizes(self, "vocab_size", "d_model", "n_layers")
        check_shares(self, "dropout")


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
    ) -> Output:
        """Score every next word.

        Args:
            ids: the text.
            targets: ``targets[:, t]`` is the word at t + 1, -100 where there is none.
            mask: True at real tokens. Filling may only stand behind a text, where nothing that counts comes after it.

        Raises:
            TypeError, ValueError: ids or targets that are no int64 or outside the vocabulary; filling before a text.
        """
        if mask is not None and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise ValueError("mask is True behind a False: an LSTM reads filling, too, so fill up on the right")
        logits = self.output(self.hidden(ids))
        return Output(logits, None if targets is None else next_token_loss(logits, targets, name="targets"))

    def hidden(self, ids: Int64[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """Return the top layer's output at every position, normalised."""
        check_ids("ids", ids)
        x = self.embedding(ids) * math.sqrt(self.config.d_model)
        for lstm in self.layers:
            x, _ = lstm(self.dropout(x))
        y: Tensor = self.output_norm(self.dropout(x))
        return y

    def num_parameters(self, embedding: bool = True) -> int:
        """Return the number of parameters; without ``embedding``, those between the tables."""
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
    with torch.no_grad():
        lstm.get_parameter("bias_ih_l0")[C : 2 * C] = 1.0  # gates are stored as input, forget, cell, output


def _reverse(x: Float[Tensor, "B S C"], lengths: Int64[Tensor, " B"]) -> Float[Tensor, "B S C"]:
    """Return every row's first ``lengths[b]`` vectors backwards; its padding stays at the end."""
    places = torch.arange(x.shape[1], device=x.device)
    backwards = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)  # (B, S)
    return x.gather(1, backwards[:, :, None].expand_as(x))
