"""LSTM translation and language models against stacks of torch's own, written word by word, and what they promise."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from parity import (
    Mapping,
    as_a_reader_sees_it,
    assert_close,
    assert_every_gradient,
    assert_same_gradients,
    assert_trains_after_translating,
    give_ours,
    normal,
    randomised,
    same_names,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nextword import runtime
from nextword.recurrent import (
    AdditiveAttention,
    LSTMConfig,
    LSTMLanguageModel,
    Memory,
    Seq2SeqConfig,
    Seq2SeqLSTM,
)

V, C, PAD = 29, 8, 0
TINY = Seq2SeqConfig(V, V, d_model=C, n_layers=2, label_smoothing=0.0)
VARIANTS: dict[str, dict[str, Any]] = {
    "one vector": {"attention": "none"},
    "one vector, deep": {"attention": "none", "n_layers": 4, "residual_from": 3},
    "one layer": {"n_layers": 1},
    "attention": {},
    "deep": {"n_layers": 4, "residual_from": 3},
    "three tables": {"share_embeddings": False, "source_vocab": 21},
    "bottom": {"attention": "bottom"},
    "bottom, deep": {"attention": "bottom", "n_layers": 4, "residual_from": 3},
    "as in the papers": {"output_norm": False},
    "bottom, all residual": {"attention": "bottom", "n_layers": 3, "residual_from": 2},
}


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> Seq2SeqLSTM:
    return make(**VARIANTS[request.param])


def make(seed: int = 0, **settings: Any) -> Seq2SeqLSTM:
    return randomised(Seq2SeqLSTM(dataclasses.replace(TINY, **settings)), seed, std=0.4)


def batch(source_vocab: int = 21) -> tuple[Tensor, Tensor, Tensor]:
    """Return three sentence pairs of different lengths, padded."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(3, source_vocab, (3, 7), generator=generator)
    text = torch.randint(3, V, (3, 6), generator=generator)
    target, labels = text[:, :-1].clone(), text[:, 1:].clone()
    target[:, 0] = 1
    for row, (s, t) in enumerate(((5, 3), (7, 5), (2, 4))):
        source[row, s:], target[row, t:], labels[row, t:] = PAD, PAD, -100
    return source, target, labels


def real(labels: Tensor) -> Tensor:
    return labels != -100


# --- The same as others' ---


class WordByWord(nn.Module):
    """The three models with torch's bidirectional LSTM, packed sequences and cells, one word at a time."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config, n = config, config.n_layers
        self.target_embedding = nn.Embedding(config.target_vocab, C)
        if not config.share_embeddings:
            self.source_embedding = nn.Embedding(config.source_vocab, C)
            self.softmax = nn.Linear(C, config.target_vocab, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.target_vocab))
        self.norm = nn.LayerNorm(C) if config.output_norm else nn.Identity()
        self.both = nn.LSTM(C, C // 2, bidirectional=True, batch_first=True)
        self.encoder = nn.ModuleList(nn.LSTM(C, C, batch_first=True) for _ in range(n - 1))
        widths = [C if config.attention == "bottom" else 2 * C] + [2 * C] * (n - 1)
        self.cells = nn.ModuleList(nn.LSTMCell(width, C) for width in widths)
        if config.attention != "none":
            self.w_query, self.w_key = nn.Linear(C, C, bias=False), nn.Linear(C, C)
            self.v = nn.Parameter(torch.zeros(1, C))

    def residual(self, number: int, x: Tensor, y: Tensor) -> Tensor:
        start = self.config.residual_from
        return y if start is None or number < start else x + y

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        shared = self.config.share_embeddings
        lengths = (source != PAD).sum(1)
        x = (self.target_embedding if shared else self.source_embedding)(source) * math.sqrt(C)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.both(packed)[0], batch_first=True, total_length=source.shape[1])
        for number, lstm in enumerate(self.encoder, start=2):
            states = self.residual(number, states, lstm(states)[0])
        last = torch.stack([row[n - 1] for row, n in zip(states, lengths, strict=True)])
        h, c = [last] * self.config.n_layers, [torch.zeros_like(last)] * self.config.n_layers
        tops, weights = [], []
        for word in (self.target_embedding(target) * math.sqrt(C)).unbind(1):
            if self.config.attention == "none":
                context = last
                x, h[0], c[0] = self.bottom(torch.cat([word, context], -1), h[0], c[0])
            elif self.config.attention == "bahdanau":
                context, weight = self.attend(h[0], states, lengths)
                weights.append(weight)
                x, h[0], c[0] = self.bottom(torch.cat([word, context], -1), h[0], c[0])
            else:
                x, h[0], c[0] = self.bottom(word, h[0], c[0])
                context, weight = self.attend(x, states, lengths)
                weights.append(weight)
            for i, cell in list(enumerate(self.cells))[1:]:
                h[i], c[i] = cell(torch.cat([x, context], -1), (h[i], c[i]))
                x = self.residual(i + 1, x, h[i])
            tops.append(x)
        table = self.target_embedding.weight if shared else self.softmax.weight
        logits = self.norm(torch.stack(tops, 1)) @ table.T + self.bias
        return logits, torch.stack(weights, 1) if weights else None

    def bottom(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, c = self.cells[0](x, (h, c))
        return h, h, c

    def attend(self, query: Tensor, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        contexts, weights = [], []
        for q, row, n in zip(query, states, lengths, strict=True):
            scores = torch.stack([self.v[0] @ torch.tanh(self.w_query(q) + self.w_key(h)) for h in row[:n]])
            weights.append(F.pad(scores.softmax(0), (0, len(row) - n)))
            contexts.append(scores.softmax(0) @ row[:n])
        return torch.stack(contexts), torch.stack(weights)


LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def mapping_of(config: Seq2SeqConfig) -> Mapping:
    mapping: Mapping = {"target_embedding.weight": "target_embedding.weight", "output.bias": "bias"}
    if not config.share_embeddings:
        mapping |= same_names("source_embedding.weight") | {"output.weight": "softmax.weight"}
    if config.output_norm:
        mapping |= {f"output_norm.{kind}": f"norm.{kind}" for kind in ("weight", "bias")}
    for name in LSTM:
        mapping[f"forward_lstm.{name}_l0"] = f"both.{name}_l0"
        mapping[f"backward_lstm.{name}_l0"] = f"both.{name}_l0_reverse"
        mapping |= same_names(*(f"encoder.{i}.{name}_l0" for i in range(config.n_layers - 1)))
        mapping |= {f"decoder.{i}.{name}_l0": f"cells.{i}.{name}" for i in range(config.n_layers)}
    if config.attention != "none":
        mapping |= {"attention.query.weight": "w_query.weight", "attention.score.weight": "v"}
        mapping |= {f"attention.key.{kind}": f"w_key.{kind}" for kind in ("weight", "bias")}
    return mapping


def test_equals_the_model_written_word_by_word(model: Seq2SeqLSTM) -> None:
    theirs, mapping = WordByWord(model.config), mapping_of(model.config)
    give_ours(model, theirs, mapping)
    source, target, labels = batch()
    logits, loss, attention = model(source, target, labels)
    expected, expected_attention = theirs(source, target)
    assert_close(logits, expected)
    assert_close(attention, expected_attention)
    expected_loss = F.cross_entropy(expected.flatten(0, 1), labels.flatten())
    assert_close(loss, expected_loss)
    loss.backward()
    expected_loss.backward()
    assert_same_gradients(model, theirs, mapping)


def test_attention_by_the_equations_in_numpy() -> None:
    """e_ij = vᵀ tanh(W s_{i-1} + U h_j + b), its softmax over j, and the mean of the h_j (Bahdanau et al., A.1.2)."""
    attend, T, S = randomised(AdditiveAttention(C)), 2, 4
    query, states = normal(1, T, C), normal(1, S, C, seed=1)
    mask = torch.tensor([[True, True, True, False]])
    context, weights = attend(query, Memory(states, attend.key(states), states[:, 2], mask))
    W, U, b, v = (
        p.detach().numpy() for p in (attend.query.weight, attend.key.weight, attend.key.bias, attend.score.weight[0])
    )
    for i in range(T):
        e = np.array([v @ np.tanh(W @ query[0, i].numpy() + U @ states[0, j].numpy() + b) for j in range(3)])
        a = np.exp(e) / np.exp(e).sum()
        np.testing.assert_allclose(weights[0, i].detach(), [*a, 0], rtol=1e-12)
        np.testing.assert_allclose(context[0, i].detach(), a @ states[0, :3].numpy(), rtol=1e-10)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_language_model_equals_one_lstm_of_many_layers(tie: bool, n_layers: int) -> None:
    ours = randomised(LSTMLanguageModel(LSTMConfig(V, C, n_layers, tie_embeddings=tie)), std=0.4)

    class Theirs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.lstm = nn.Embedding(V, C), nn.LSTM(C, C, n_layers, batch_first=True)
            self.norm, self.output = nn.LayerNorm(C), nn.Linear(C, V)
            if tie:
                self.output.weight = self.embedding.weight

    theirs = Theirs()
    mapping = same_names("embedding.weight", "output.bias", *([] if tie else ["output.weight"]))
    mapping |= {f"output_norm.{kind}": f"norm.{kind}" for kind in ("weight", "bias")}
    mapping |= {f"layers.{i}.{name}_l0": f"lstm.{name}_l{i}" for i in range(n_layers) for name in LSTM}
    give_ours(ours, theirs, mapping)
    _, ids, targets = batch()
    logits, loss = ours(ids, targets)
    expected = theirs.output(theirs.norm(theirs.lstm(theirs.embedding(ids) * math.sqrt(C))[0]))
    assert_close(logits, expected)
    assert_close(ours.output(ours.hidden(ids)), expected)
    expected_loss = F.cross_entropy(expected[real(targets)], targets[real(targets)])
    assert_close(loss, expected_loss)
    loss.backward()
    expected_loss.backward()
    assert_same_gradients(ours, theirs, mapping)
    assert ours(ids).loss is None
    assert ours.num_parameters() == sum(p.numel() for p in theirs.parameters())
    assert ours.num_parameters(embedding=False) == n_layers * (8 * C**2 + 8 * C) + 2 * C + V


# --- What may see what ---


def test_weights_are_a_distribution_over_the_real_source(model: Seq2SeqLSTM) -> None:
    source, target, _ = batch()
    weights = model(source, target).attention
    if model.config.attention == "none":
        assert weights is None
        return
    assert weights.shape == (3, 5, 7)
    padding = (source == PAD)[:, None].expand_as(weights)
    assert weights[padding].eq(0).all() and (weights[~padding] > 0).all()
    assert_close(weights.sum(-1), torch.ones(3, 5, dtype=torch.float64))


def test_no_position_sees_a_later_one(model: Seq2SeqLSTM) -> None:
    source, target, _ = batch()
    before = model(source, target)
    for t in range(target.shape[1]):
        changed = target.clone()
        changed[:, t] = (target[:, t] + 1) % V
        after = model(source, changed)
        assert torch.equal(after.logits[:, :t], before.logits[:, :t])
        assert (after.logits[:, t:] != before.logits[:, t:]).any(-1).all()
        if before.attention is not None:  # Bahdanau's context of step t is chosen before word t is read
            seen = t + (model.config.attention == "bahdanau")
            assert torch.equal(after.attention[:, :seen], before.attention[:, :seen])
            assert (after.attention[:, seen:] != before.attention[:, seen:]).any(-1).all()


def test_every_word_of_the_source_matters_and_so_does_their_order(model: Seq2SeqLSTM) -> None:
    source, target, _ = batch()
    before, states = model(source, target).logits, model.encode(source).states
    for s in range(2):  # real in all rows
        changed = source.clone()
        changed[:, s] = 3 + (source[:, s] - 2) % 18
        assert (model(changed, target).logits != before).any(-1).all()
        assert (model.encode(changed).states[:, :2] != states[:, :2]).any(-1).all(), "read in both directions"
    exchanged = source[:, [1, 0, *range(2, 7)]]
    assert (model(exchanged, target).logits - before).abs().max() > 1e-4


def test_only_the_first_layer_of_the_encoder_reads_backwards() -> None:
    model, (source, _, _) = make(n_layers=3), batch()
    changed = source.clone()
    changed[1, 6] = 3
    assert (model.encode(changed).states != model.encode(source).states)[1, 0].any()
    for parameter in model.backward_lstm.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(model.encode(changed).states[:, :6], model.encode(source).states[:, :6])


def test_longer_padding_changes_nothing(model: Seq2SeqLSTM) -> None:
    source, target, labels = batch()
    output = model(source, target, labels)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    padded = model(
        F.pad(source, (0, 4), value=PAD), F.pad(target, (0, 3), value=PAD), F.pad(labels, (0, 3), value=-100)
    )
    assert_close(padded.logits[:, :-3], output.logits, atol=1e-12)
    assert_close(padded.loss, output.loss, atol=1e-12)
    if output.attention is not None:
        assert_close(padded.attention[:, :-3, :-4], output.attention, atol=1e-12)
        assert padded.attention[..., -4:].eq(0).all()
    padded.loss.backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, gradients[name], atol=1e-12)


def test_a_batch_equals_its_sentences_alone(model: Seq2SeqLSTM) -> None:
    source, target, labels = batch()
    logits = model(source, target).logits
    for row in range(3):
        s, t = int((source[row] != PAD).sum()), int(real(labels[row]).sum())
        alone = model(source[row : row + 1, :s], target[row : row + 1, :t]).logits
        assert_close(logits[row, :t], alone[0], atol=1e-12)
    order = torch.tensor([2, 0, 1])
    assert_close(model(source[order], target[order]).logits, logits[order], atol=1e-12)


def test_without_attention_one_vector_is_all_that_the_decoder_gets() -> None:
    model, (source, target, _) = make(attention="none"), batch()
    memory = model.encode(source)
    junk = Memory(normal(3, 7, C, seed=8), normal(3, 7, C, seed=9), memory.last, ~memory.mask)
    assert torch.equal(model.decode(target, junk)[0], model.decode(target, memory)[0])
    assert_close(memory.last[0], memory.states[0, 4])  # its fifth word is the last
    moved = memory._replace(last=memory.last + 1)
    assert (model.decode(target, moved)[0] - model.decode(target, memory)[0]).abs().max() > 0.01


@pytest.mark.parametrize("attention", ["bahdanau", "bottom", "none"])
@pytest.mark.parametrize("residual_from", [None, 2, 3, 4])
def test_residual_connections_start_where_they_should(attention: str, residual_from: int | None) -> None:
    """A layer of zeros adds nothing: with a residual connection its input passes through, without one nothing does."""
    model = make(n_layers=4, attention=attention, residual_from=residual_from, output_norm=False)
    source, target, _ = batch()
    for number in (2, 3, 4):
        deep = copy.deepcopy(model)
        for parameter in [*deep.encoder[number - 2].parameters(), *deep.decoder[number - 1].parameters()]:
            nn.init.zeros_(parameter)
        passes = residual_from is not None and number >= residual_from
        inputs: dict[str, Tensor] = {}
        deep.encoder[number - 2].register_forward_hook(lambda m, x, y, i=inputs: i.update(encoder=x[0], zero=y[0]))
        deep.decoder[number - 1].register_forward_hook(lambda m, x, y, i=inputs: i.update(decoder=x[0][..., :C]))
        if number < 4:
            after = lambda m, x, i=inputs: i.update(encoded=x[0])  # noqa: E731
            deep.encoder[number - 1].register_forward_pre_hook(after)
            deep.decoder[number].register_forward_pre_hook(lambda m, x, i=inputs: i.update(decoded=x[0][..., :C]))
        hidden, *_ = deep.decode(target, deep.encode(source))
        encoded, decoded = inputs.get("encoded", deep.encode(source).states), inputs.get("decoded", hidden)
        assert inputs["zero"].eq(0).all()
        assert torch.equal(encoded, inputs["encoder"] if passes else torch.zeros_like(encoded))
        assert torch.equal(decoded, inputs["decoder"] if passes else torch.zeros_like(decoded))


# --- Word by word ---


@pytest.mark.parametrize("parts", [[1] * 5, [2, 1, 2], [5]])
def test_going_on_from_the_states_changes_nothing(model: Seq2SeqLSTM, parts: list[int]) -> None:
    source, target, _ = batch()
    memory, states = model.encode(source), None
    whole, expected, final = model.decode(target, memory)
    hidden, weights = [], []
    for part in target.split(parts, 1):
        h, w, states = model.decode(part, memory, states)
        hidden.append(h)
        weights.append(w)
    assert_close(torch.cat(hidden, 1), whole, atol=1e-12)
    assert_close(states, final, atol=1e-12)
    if expected is not None:
        assert_close(torch.cat(weights, 1), expected, atol=1e-12)


@pytest.mark.parametrize("beam", [1, 2])
def test_steps_equal_the_forward_pass(model: Seq2SeqLSTM, beam: int) -> None:
    """Hypotheses are lengthened by one and by two words, and change places within their sentence."""
    source, _, _ = batch()
    repeated = source.repeat_interleave(beam, 0)
    step, N = model.step(source, beam=beam), 3 * beam
    ids = torch.ones(N, 1, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for new in (1, 1, 2, 1):
        log_probs, attention = step(ids)
        expected = model(repeated, ids)
        assert_close(log_probs, expected.logits[:, -1].log_softmax(-1), atol=1e-12)
        if expected.attention is not None:
            assert_close(attention, expected.attention[:, -1], atol=1e-12)
        else:
            uniform = (repeated != PAD) / (repeated != PAD).sum(1, keepdim=True)
            assert_close(attention, uniform, check_dtype=False)
        kept = (torch.arange(3)[:, None] * beam + torch.randint(beam, (3, beam), generator=generator)).flatten()
        step.reorder(kept)
        ids = torch.cat([ids[kept], torch.randint(3, V, (N, new), generator=generator)], 1)


def test_a_model_may_translate_and_then_be_trained() -> None:
    assert_trains_after_translating(make(), make(), batch())


def test_language_model_sees_no_later_word() -> None:
    model, (_, ids, _) = randomised(LSTMLanguageModel(LSTMConfig(V, C)), std=0.4), batch()
    before = model(ids).logits
    for t in range(ids.shape[1]):
        changed = ids.clone()
        changed[:, t] = (ids[:, t] + 1) % V
        after = model(changed).logits
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).any(-1).all()


# --- Learning ---


def test_loss_counts_real_labels_only_and_smoothing_is_for_training() -> None:
    source, target, labels = batch()
    model = make(label_smoothing=0.1)
    logits, loss, _ = model(source, target, labels)
    flat = logits[real(labels)], labels[real(labels)]
    assert_close(loss, F.cross_entropy(*flat, label_smoothing=0.1))
    assert model(source, target).loss is None
    model.eval()
    assert_close(model(source, target, labels).loss, F.cross_entropy(*flat))


def test_loss_begins_near_ln_v() -> None:
    """Normalised scores have a variance near 1 at first, which costs up to a half more than equal scores would."""
    ids = torch.randint(3, 1000, (8, 20))
    labels = torch.randint(3, 1000, (8, 20))
    for name, settings in VARIANTS.items():
        sizes = {"source_vocab": 1000, "target_vocab": 1000, "d_model": 64}
        loss = Seq2SeqLSTM(dataclasses.replace(TINY, **settings | sizes))(ids, ids, labels).loss.item()
        assert math.log(1000) - 0.1 < loss < math.log(1000) + 0.8, name
    loss = LSTMLanguageModel(LSTMConfig(1000, 64))(ids, labels).loss.item()
    assert math.log(1000) - 0.1 < loss < math.log(1000) + 0.8


def learn(model: nn.Module, *arguments: Tensor, steps: int = 60) -> float:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(*arguments).loss
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("attention", ["none", "bahdanau", "bottom"])
def test_one_batch_is_learned_by_heart(attention: str) -> None:
    model = Seq2SeqLSTM(dataclasses.replace(TINY, attention=attention, d_model=32))
    source, target, labels = batch()
    assert learn(model, source, target, labels) < 0.05
    assert torch.equal(model(source, target).logits.argmax(-1)[real(labels)], labels[real(labels)])


def test_one_text_is_learned_by_heart() -> None:
    _, ids, targets = batch()
    ids[:, 0] = torch.arange(3)  # the first word tells which text it is
    assert learn(LSTMLanguageModel(LSTMConfig(V, 32)), ids, targets) < 0.05


def test_every_parameter_learns(model: Seq2SeqLSTM) -> None:
    model(*batch()).loss.backward()
    assert_every_gradient(model)


@pytest.mark.parametrize("attention", ["none", "bahdanau", "bottom"])
def test_dropout_in_training_only(attention: str) -> None:
    source, target, _ = batch()
    model, plain = make(dropout=0.4, attention=attention), make(attention=attention)
    assert not torch.equal(model(source, target).logits, model(source, target).logits)
    assert_close(model.eval()(source, target).logits, plain(source, target).logits)
    language = randomised(LSTMLanguageModel(LSTMConfig(V, C, dropout=0.4)))
    assert not torch.equal(language(target).logits, language(target).logits)
    assert torch.equal(language.eval()(target).logits, language(target).logits)


def test_dropout_spares_what_is_remembered() -> None:
    """It falls on inputs of layers and on the last output, never on the states that are handed on (Zaremba et al.)."""
    model, (source, target, _) = make(dropout=0.4, n_layers=3), batch()
    seen: list[Tensor] = []
    model.dropout.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    model.train()
    memory = model.encode(source)
    assert len(seen) == 3  # words, and what each of the two upper layers reads
    assert memory.states.ne(0).all()
    _, _, states = model.decode(target, memory)
    assert len(seen) == 3 + 1 + 2 + 1  # words, two upper layers, the last output
    assert all(h.ne(0).all() for h, _ in states)
    language = randomised(LSTMLanguageModel(LSTMConfig(V, C, 3, dropout=0.4)))
    language.dropout.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    del seen[:]
    language(target)
    assert len(seen) == 3 + 1


def test_forget_gates_begin_open() -> None:
    for model in (Seq2SeqLSTM(TINY), LSTMLanguageModel(LSTMConfig(V, C))):
        for lstm in (m for m in model.modules() if isinstance(m, nn.LSTM)):
            n = lstm.hidden_size
            gates = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().view(4, n)
            assert gates.tolist() == [[0.0] * n, [1.0] * n, [0.0] * n, [0.0] * n]  # input, forget, cell, output


def test_parameters_by_hand() -> None:
    lstm = lambda width, C=C: 4 * C * (width + C + 2)  # noqa: E731
    n = {name: make(**VARIANTS[name]) for name in ("one vector", "attention", "bottom", "three tables")}
    plain = 2 * lstm(C, C // 2) + lstm(C) + 2 * lstm(2 * C) + 2 * C + V
    attention = 2 * C**2 + 2 * C
    assert n["one vector"].num_parameters(embedding=False) == plain
    assert n["attention"].num_parameters(embedding=False) == plain + attention
    assert n["bottom"].num_parameters(embedding=False) == plain + attention - 4 * C**2
    assert n["attention"].num_parameters() == plain + attention + V * C
    assert n["three tables"].num_parameters() == plain + attention + 2 * V * C + 21 * C


def test_state_survives_the_disk_and_copies_keep_what_is_shared(model: Seq2SeqLSTM) -> None:
    source, target, _ = batch()
    expected = model(source, target).logits
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = Seq2SeqLSTM(model.config).double()
    assert not torch.equal(other(source, target).logits, expected)
    other.load_state_dict(torch.load(file, weights_only=True))
    for same in (other, copy.deepcopy(model)):
        assert torch.equal(same(source, target).logits, expected)
        assert (same.output.weight is same.target_embedding.weight) == model.config.share_embeddings
        assert same.num_parameters() == model.num_parameters()


@pytest.mark.skipif(not runtime._cpu_has_bf16(), reason="torch has LSTMs in bfloat16 on such CPUs only")
@pytest.mark.parametrize("attention", ["none", "bahdanau", "bottom"])
def test_bfloat16_comes_near(attention: str) -> None:
    model, (source, target, _) = make(attention=attention).float(), batch()
    expected = model(source, target).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits, step = model(source, target).logits, model.step(source)
        log_probs, _ = [step(target[:, : t + 1]) for t in range(3)][-1]
    assert (logits - expected).abs().max() < 0.15 * expected.abs().max()
    assert (log_probs - expected[:, 2].log_softmax(-1)).abs().max() < 0.5


# --- What is refused ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 9}, "^d_model=9 is odd"),
        ({"attention": "luong"}, "^attention='luong'.*none.*bahdanau.*bottom"),
        ({"attention": "bottom", "n_layers": 1}, "^n_layers=1"),
        ({"residual_from": 1}, "^residual_from=1"),
        ({"source_vocab": 21}, "^share_embeddings=True .*source_vocab=21.*target_vocab=29"),
        ({"dropout": 1.0}, r"^dropout=1\.0"),
        ({"label_smoothing": -0.5}, r"^label_smoothing=-0\.5"),
        ({"pad_id": 29}, "^pad_id=29"),
        *(({name: 0}, f"^{name}=0") for name in ("source_vocab", "target_vocab", "d_model", "n_layers")),
    ],
)
def test_sizes_that_make_no_model_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **settings)


@pytest.mark.parametrize("field", ["vocab_size", "d_model", "n_layers", "dropout"])
def test_sizes_that_make_no_language_model_are_refused_by_name(field: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=f"^{field}=-1"):
        LSTMConfig(**{"vocab_size": V, field: -1})


SOURCE, TARGET, LABELS = batch()


def run(*arguments: Any) -> Any:
    return Seq2SeqLSTM(TINY)(*arguments)


def language(*arguments: Any) -> Any:
    return LSTMLanguageModel(LSTMConfig(V, C))(*arguments)


def with_gap() -> Tensor:
    source = SOURCE.clone()
    source[1, 3] = PAD
    return source


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: run(SOURCE.float(), TARGET), TypeError, "^source is of type torch.float32"),
        (lambda: run(SOURCE, TARGET.int()), TypeError, "^target is of type torch.int32"),
        (lambda: run(SOURCE, TARGET, LABELS.float()), TypeError, "labels"),
        (lambda: run(SOURCE + V, TARGET), ValueError, "^source holds ids .*28"),
        (lambda: run(SOURCE, TARGET - 2), ValueError, "^target holds ids from -2"),
        (lambda: run(SOURCE, TARGET, LABELS.clamp(min=0) + V), ValueError, "^labels"),
        (lambda: run(SOURCE, TARGET, LABELS[:, 1:]), ValueError, r"^labels has shape \(3, 4\)"),
        (lambda: run(SOURCE[:, :0], TARGET), ValueError, r"^source has shape \(3, 0\)"),
        (lambda: run(SOURCE, TARGET[0]), ValueError, r"^target has shape \(5,\)"),
        (lambda: run(with_gap(), TARGET), ValueError, "^source has padding before a word"),
        (lambda: run(SOURCE.flip(1), TARGET), ValueError, "^source has padding before a word"),
        (lambda: run(SOURCE * 0, TARGET), ValueError, "^source has a row of padding"),
        (lambda: run(SOURCE[:2], TARGET), ValueError, "source|target|memory"),
        (lambda: language(SOURCE.float()), TypeError, "^ids is of type"),
        (lambda: language(SOURCE + V), ValueError, "^ids holds ids"),
        (lambda: language(TARGET, LABELS[:, 1:]), ValueError, r"^targets has shape \(3, 4\)"),
        (lambda: language(TARGET, LABELS.clamp(min=0) + V), ValueError, "^targets"),
    ],
)
def test_ids_that_make_no_batch_are_refused_by_name(call: Callable[[], Any], error: type, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(error, match=message):
        call()


def test_a_language_model_takes_filling_behind_a_text_and_refuses_it_before() -> None:
    model = LSTMLanguageModel(LSTMConfig(11, 8, 2)).eval()
    ids, mask = torch.randint(11, (2, 6)), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    assert torch.equal(model(ids, mask=mask).logits[1, :4], model(ids).logits[1, :4])
    assert_close(model(ids, mask=mask).logits[1:, :4], model(ids[1:, :4]).logits, rtol=1e-5, atol=1e-6)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="fill up on the right"):
        model(ids, mask=mask.flip(1))
