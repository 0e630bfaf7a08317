"""LSTM translation and language models against stacks of torch's own, written word by word, and what they promise."""

from __future__ import annotations

import copy
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
    assert_same_gradients,
    give_ours,
    normal,
    randomised,
    same_names,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from translators import LSTM, LSTMS, PAD, V, batch, fresh, lstm, real

from nextword.recurrent import (
    AdditiveAttention,
    LSTMConfig,
    LSTMLanguageModel,
    Memory,
    Seq2SeqConfig,
    Seq2SeqLSTM,
)

C = LSTM.d_model


@pytest.fixture(params=LSTMS)
def model(request: pytest.FixtureRequest) -> Seq2SeqLSTM:
    return lstm(**LSTMS[request.param])


def language_model(**changes: Any) -> LSTMLanguageModel:
    return LSTMLanguageModel(LSTMConfig(**{"vocab_size": V, "d_model": C, **changes}))


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
        for number, layer in enumerate(self.encoder, start=2):
            states = self.residual(number, states, layer(states)[0])
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


WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def mapping_of(config: Seq2SeqConfig) -> Mapping:
    mapping: Mapping = {"target_embedding.weight": "target_embedding.weight", "output.bias": "bias"}
    if not config.share_embeddings:
        mapping |= same_names("source_embedding.weight") | {"output.weight": "softmax.weight"}
    if config.output_norm:
        mapping |= {f"output_norm.{kind}": f"norm.{kind}" for kind in ("weight", "bias")}
    for name in WEIGHTS:
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
    logits, loss = model(source, target, labels)
    expected, expected_attention = theirs(source, target)
    assert_close(logits, expected)
    if expected_attention is not None:
        assert_close(model.decode_with_attention(target, model.encode(source))[1], expected_attention)
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
    ours = randomised(language_model(n_layers=n_layers, tie_embeddings=tie), std=0.4)

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
    mapping |= {f"layers.{i}.{name}_l0": f"lstm.{name}_l{i}" for i in range(n_layers) for name in WEIGHTS}
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


def test_bahdanau_chooses_a_context_before_the_word_is_read_and_bottom_after(model: Seq2SeqLSTM) -> None:
    if model.config.attention == "none":
        return
    source, target, _ = batch()
    memory = model.encode(source)
    _, before = model.decode_with_attention(target, memory)
    for t in range(target.shape[1]):
        changed = target.clone()
        changed[:, t] = (target[:, t] + 1) % V
        _, after = model.decode_with_attention(changed, memory)
        seen = t + (model.config.attention == "bahdanau")
        assert torch.equal(after[:, :seen], before[:, :seen])
        assert (after[:, seen:] != before[:, seen:]).any(-1).all()


def test_without_attention_the_decoder_looks_everywhere_alike() -> None:
    source, target, _ = batch()
    model = lstm(attention="none")
    _, attention = model.decode_with_attention(target, model.encode(source))
    expected = (source != PAD) / (source != PAD).sum(1, keepdim=True)
    assert torch.equal(attention, expected[:, None].expand(3, 5, 7))


def test_only_the_first_layer_of_the_encoder_reads_backwards() -> None:
    model, (source, _, _) = lstm(n_layers=3), batch()
    changed = source.clone()
    changed[1, 6] = 3
    assert (model.encode(changed).states != model.encode(source).states)[1, 0].any()
    for parameter in model.backward_lstm.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(model.encode(changed).states[:, :6], model.encode(source).states[:, :6])


def test_without_attention_one_vector_is_all_that_the_decoder_gets() -> None:
    model, (source, target, _) = lstm(attention="none"), batch()
    memory = model.encode(source)
    junk = Memory(normal(3, 7, C, seed=8), normal(3, 7, C, seed=9), memory.last, ~memory.mask)
    assert torch.equal(model.decode(target, junk), model.decode(target, memory))
    assert_close(memory.last[0], memory.states[0, 4])  # its fifth word is the last
    moved = memory._replace(last=memory.last + 1)
    assert (model.decode(target, moved) - model.decode(target, memory)).abs().max() > 0.01


@pytest.mark.parametrize("attention", ["bahdanau", "bottom", "none"])
@pytest.mark.parametrize("residual_from", [None, 2, 3, 4])
def test_residual_connections_start_where_they_should(attention: str, residual_from: int | None) -> None:
    """A layer of zeros adds nothing: with a residual connection its input passes through, without one nothing does."""
    model = lstm(n_layers=4, attention=attention, residual_from=residual_from, output_norm=False)
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
        hidden = deep.decode(target, deep.encode(source))
        encoded, decoded = inputs.get("encoded", deep.encode(source).states), inputs.get("decoded", hidden)
        assert inputs["zero"].eq(0).all()
        assert torch.equal(encoded, inputs["encoder"] if passes else torch.zeros_like(encoded))
        assert torch.equal(decoded, inputs["decoder"] if passes else torch.zeros_like(decoded))


def test_the_cache_holds_the_state_of_each_layer(model: Seq2SeqLSTM) -> None:
    source, target, _ = batch()
    memory, whole, parts = model.encode(source), model.new_cache(), model.new_cache()
    model.decode(target, memory, whole)
    for word in target.split(1, 1):
        model.decode(word, memory, parts)
    assert len(whole) == model.config.n_layers
    assert_close(parts, whole, atol=1e-12)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([5, 6, 0, 7, 8, 9, 4], "^source has padding before a word"),
        ([0, 6, 7, 7, 8, 9, 4], "^source has padding before a word"),
        ([0] * 7, "^source has a row of padding alone"),
    ],
)
def test_a_source_with_misplaced_padding_is_not_translated(row: list[int], message: str) -> None:
    source, target, _ = batch()
    source[1] = torch.tensor(row)
    for attention in ("none", "bahdanau", "bottom"):
        model = lstm(attention=attention)
        logits = model(source, target).logits
        assert logits[1].isnan().all(), "a forward reads no value, so it cannot refuse"
        assert logits[[0, 2]].isfinite().all(), "the other sentences are as they were"
        with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
            model.step(source)


def test_language_model_sees_no_later_word() -> None:
    model, (_, ids, _) = randomised(language_model(), std=0.4), batch()
    before = model(ids).logits
    for t in range(ids.shape[1]):
        changed = ids.clone()
        changed[:, t] = (ids[:, t] + 1) % V
        after = model(changed).logits
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).any(-1).all()


# --- Learning ---


def test_loss_of_a_language_model_begins_near_ln_v() -> None:
    ids, labels = torch.randint(3, 1000, (8, 20)), torch.randint(3, 1000, (8, 20))
    loss = language_model(vocab_size=1000, d_model=64)(ids, labels).loss.item()
    assert math.log(1000) - 0.1 < loss < math.log(1000) + 0.8


def test_one_text_is_learned_by_heart() -> None:
    _, ids, targets = batch()
    ids[:, 0] = torch.arange(3)  # the first word tells which text it is
    model = language_model(d_model=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(ids, targets).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@pytest.mark.parametrize("attention", ["none", "bahdanau", "bottom"])
def test_dropout_in_training_only(attention: str) -> None:
    source, target, _ = batch()
    model, plain = lstm(dropout=0.4, attention=attention), lstm(attention=attention)
    assert not torch.equal(model(source, target).logits, model(source, target).logits)
    assert_close(model.eval()(source, target).logits, plain(source, target).logits)
    language = randomised(language_model(dropout=0.4))
    assert not torch.equal(language(target).logits, language(target).logits)
    assert torch.equal(language.eval()(target).logits, language(target).logits)


def test_dropout_spares_what_is_remembered() -> None:
    """It falls on inputs of layers and on the last output, never on the states that are handed on (Zaremba et al.)."""
    model, (source, target, _) = lstm(dropout=0.4, n_layers=3), batch()
    seen: list[Tensor] = []
    model.dropout.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    model.train()
    memory = model.encode(source)
    assert len(seen) == 3  # words, and what each of the two upper layers reads
    assert memory.states.ne(0).all()
    cache = model.new_cache()
    model.decode(target, memory, cache)
    assert len(seen) == 3 + 1 + 2 + 1  # words, two upper layers, the last output
    assert all(h.ne(0).all() for h, _ in cache)
    language = randomised(language_model(n_layers=3, dropout=0.4))
    language.dropout.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    del seen[:]
    language(target)
    assert len(seen) == 3 + 1


def test_forget_gates_begin_open() -> None:
    for model in (fresh("lstm"), language_model()):
        for layer in (m for m in model.modules() if isinstance(m, nn.LSTM)):
            n = layer.hidden_size
            gates = (layer.bias_ih_l0 + layer.bias_hh_l0).detach().view(4, n)
            assert gates.tolist() == [[0.0] * n, [1.0] * n, [0.0] * n, [0.0] * n]  # input, forget, cell, output


def test_parameters_by_hand() -> None:
    layer = lambda width, C=C: 4 * C * (width + C + 2)  # noqa: E731
    n = {name: lstm(**LSTMS[name]) for name in ("one vector", "attention", "bottom", "three tables")}
    plain = 2 * layer(C, C // 2) + layer(C) + 2 * layer(2 * C) + 2 * C + V
    attention = 2 * C**2 + 2 * C
    assert n["one vector"].num_parameters(embedding=False) == plain
    assert n["attention"].num_parameters(embedding=False) == plain + attention
    assert n["bottom"].num_parameters(embedding=False) == plain + attention - 4 * C**2
    assert n["attention"].num_parameters() == plain + attention + V * C
    assert n["three tables"].num_parameters() == plain + attention + 2 * V * C + 21 * C


# --- What is refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 9}, "^d_model=9 is odd"),
        ({"attention": "luong"}, "^attention='luong'.*none.*bahdanau.*bottom"),
        ({"attention": "bottom", "n_layers": 1}, "^n_layers=1"),
        ({"residual_from": 1}, "^residual_from=1"),
    ],
)
def test_sizes_that_make_no_model_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        fresh("lstm", **changes)


@pytest.mark.parametrize("field", ["vocab_size", "d_model", "n_layers", "dropout"])
def test_sizes_that_make_no_language_model_are_refused_by_name(field: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=f"^{field}=-1"):
        LSTMConfig(**{"vocab_size": V, field: -1})


_, TARGET, LABELS = batch()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: language_model()(TARGET.float()), TypeError, "^ids is of type"),
        (lambda: language_model()(TARGET[0]), ValueError, r"^ids has shape \(5,\)"),
        (lambda: language_model()(TARGET + V), IndexError, "out of range"),
        (lambda: language_model()(TARGET, LABELS[:, 1:]), ValueError, r"^targets has shape \(3, 4\)"),
        (lambda: language_model()(TARGET, LABELS.clamp(min=0) + V), IndexError, "out of bounds"),
        (lambda: LSTMConfig(V, C), TypeError, "positional"),
    ],
)
def test_ids_that_make_no_text_are_refused_by_name(call: Callable[[], Any], error: type, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(error, match=message):
        call()


def test_a_language_model_takes_filling_behind_a_text_and_gives_nan_where_it_stands_before() -> None:
    model = language_model(vocab_size=11).eval()
    ids, mask = torch.randint(11, (2, 6)), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    assert torch.equal(model(ids, mask=mask).logits[1, :4], model(ids).logits[1, :4])
    assert_close(model(ids, mask=mask).logits[1:, :4], model(ids[1:, :4]).logits, rtol=1e-5, atol=1e-6)
    flipped = model(ids, mask=mask.flip(1)).logits
    assert flipped[1].isnan().all() and torch.equal(flipped[0], model(ids).logits[0])
