"""What every encoder-decoder promises, be it made of LSTMs or of attention: one contract, all kinds of both."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import as_a_reader_sees_it, assert_close, assert_every_gradient, assert_trains_after_translating, randomised
from torch import Tensor, nn
from torch.nn import functional as F
from translators import LSTM, LSTMS, PAD, TRANSFORMER, TRANSFORMERS, V, batch, fresh, lstm, real, transformer

from nextword import runtime
from nextword.encoder_decoder import EncoderDecoder
from nextword.recurrent import Seq2SeqConfig
from nextword.transformer import TransformerConfig

VARIANTS: dict[str, Callable[[], EncoderDecoder]] = {
    **{f"lstm, {name}": (lambda c=changes: lstm(**c)) for name, changes in LSTMS.items()},
    **{f"transformer, {name}": (lambda c=changes: transformer(**c)) for name, changes in TRANSFORMERS.items()},
}
MAKERS: dict[str, Callable[..., EncoderDecoder]] = {"lstm": lstm, "transformer": transformer}


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> EncoderDecoder:
    return VARIANTS[request.param]()


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- What may see what ---


def test_no_position_sees_a_later_one(model: EncoderDecoder) -> None:
    source, target, _ = batch()
    before = model(source, target).logits
    for t in range(target.shape[1]):
        changed = target.clone()
        changed[:, t] = (target[:, t] + 1) % V
        after = model(source, changed).logits
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).any(-1).all()


def test_every_word_of_the_source_matters_and_so_does_their_order(model: EncoderDecoder) -> None:
    source, target, _ = batch()
    before, states = model(source, target).logits, model.encode(source).states
    for s in range(2):  # real in all rows
        changed = source.clone()
        changed[:, s] = 3 + (source[:, s] - 2) % 18
        assert (model(changed, target).logits != before).any(-1).all()
        assert (model.encode(changed).states[:, :2] != states[:, :2]).any(-1).all(), "a word knows those behind it"
    exchanged = source[:, [1, 0, *range(2, 7)]]
    assert (model(exchanged, target).logits - before).abs().max() > 1e-4


def test_longer_padding_changes_nothing(model: EncoderDecoder) -> None:
    source, target, labels = batch()
    logits, loss = model(source, target, labels)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    wider = F.pad(source, (0, 4), value=PAD), F.pad(target, (0, 3), value=PAD), F.pad(labels, (0, 3), value=-100)
    assert_close(model.encode(wider[0]).states[:, :7], model.encode(source).states, atol=1e-12)
    wider_logits, wider_loss = model(*wider)
    assert_close(wider_logits[:, :-3], logits, atol=1e-12)
    assert_close(wider_loss, loss, atol=1e-12)
    wider_loss.backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, gradients[name], atol=1e-12)


def test_a_batch_equals_its_sentences_alone(model: EncoderDecoder) -> None:
    source, target, labels = batch()
    logits = model(source, target).logits
    for row in range(3):
        s, t = int((source[row] != PAD).sum()), int(real(labels[row]).sum())
        alone = model(source[row : row + 1, :s], target[row : row + 1, :t]).logits
        assert_close(logits[row, :t], alone[0], atol=1e-12)
    order = torch.tensor([2, 0, 1])
    assert_close(model(source[order], target[order]).logits, logits[order], atol=1e-12)


def test_what_the_encoder_says_at_padding_is_never_read(model: EncoderDecoder) -> None:
    source, target, _ = batch()
    memory = model.encode(source)

    def at_padding(x: Tensor) -> Tensor:
        return torch.where(memory.mask[:, :, None], x, 1000.0) if x.ndim == 3 else x

    assert torch.equal(model.decode(target, type(memory)(*map(at_padding, memory))), model.decode(target, memory))


def test_padding_is_told_by_its_id(kind: str) -> None:
    """The same sentences with another pad id, whose row of the table then must not matter."""
    source, target, _ = batch()
    zero, ten = MAKERS[kind](), MAKERS[kind](pad_id=10)
    swap = torch.arange(V)
    swap[[0, 10]] = swap[[10, 0]]
    with torch.no_grad():
        ten.target_embedding.weight.copy_(zero.target_embedding.weight[swap])
        if ten.output.bias is not None:
            ten.output.bias.copy_(zero.output.bias[swap])
    assert_close(ten(swap[source], swap[target]).logits[..., swap], zero(source, target).logits)


# --- Word by word ---


@pytest.mark.parametrize("parts", [[1] * 5, [2, 1, 2], [5]])
def test_a_cache_changes_nothing(model: EncoderDecoder, parts: list[int]) -> None:
    source, target, _ = batch()
    memory, cache, other = model.encode(source), model.new_cache(), model.new_cache()
    hidden = [model.decode(part, memory, cache) for part in target.split(parts, 1)]
    looking = [model.decode_with_attention(part, memory, other) for part in target.split(parts, 1)]
    whole, attention = model.decode_with_attention(target, memory)
    for part in (torch.cat(hidden, 1), torch.cat([h for h, _ in looking], 1), model.decode(target, memory)):
        assert_close(part, whole, atol=1e-12)
    assert_close(torch.cat([weights for _, weights in looking], 1), attention, atol=1e-12)
    assert_close(model.output(whole), model(source, target).logits, atol=1e-12)


def test_attention_is_a_distribution_over_the_real_source(model: EncoderDecoder) -> None:
    source, target, _ = batch()
    _, attention = model.decode_with_attention(target, model.encode(source))
    assert attention.shape == (3, 5, 7)
    padding = (source == PAD)[:, None].expand_as(attention)
    assert attention[padding].eq(0).all() and (attention[~padding] > 0).all()
    assert_close(attention.double().sum(-1), torch.ones(3, 5, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("beam", [1, 2])
def test_steps_equal_the_forward_pass(model: EncoderDecoder, beam: int) -> None:
    """Hypotheses are lengthened by one and by two words, and change places within their sentence."""
    source, _, _ = batch()
    repeated = source.repeat_interleave(beam, 0)
    step, N = model.step(source, beam=beam), 3 * beam
    ids = torch.ones(N, 1, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for new in (1, 1, 2, 1):
        log_probs, attention = step(ids)
        assert_close(log_probs, model(repeated, ids).logits[:, -1].log_softmax(-1), atol=1e-12)
        assert_close(attention, model.decode_with_attention(ids, model.encode(repeated))[1][:, -1], atol=1e-12)
        kept = (torch.arange(3)[:, None] * beam + torch.randint(beam, (3, beam), generator=generator)).flatten()
        step.reorder(kept)
        ids = torch.cat([ids[kept], torch.randint(3, V, (N, new), generator=generator)], 1)


def test_steps_drop_nothing_and_leave_the_model_in_its_mode(kind: str) -> None:
    source, target, _ = batch()
    model = MAKERS[kind](dropout=0.5).train()
    model.output.eval()
    log_probs, _ = model.step(source)(target[:, :1])
    assert model.training and model.dropout.training and not model.output.training
    assert_close(log_probs, model.eval()(source, target[:, :1]).logits[:, -1].log_softmax(-1))


def test_a_model_may_translate_and_then_be_trained(kind: str) -> None:
    assert_trains_after_translating(MAKERS[kind](), MAKERS[kind](), batch())


# --- Learning ---


def test_loss_counts_real_labels_only_and_smoothing_is_for_training(kind: str) -> None:
    source, target, labels = batch()
    model = MAKERS[kind](label_smoothing=0.1)
    logits, loss = model(source, target, labels)
    flat = logits[real(labels)], labels[real(labels)]
    assert_close(loss, F.cross_entropy(*flat, label_smoothing=0.1))
    assert model(source, target).loss is None
    assert_close(model.eval()(source, target, labels).loss, F.cross_entropy(*flat))


LARGE = {"source_vocab": 1000, "target_vocab": 1000, "d_model": 64}


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_begins_near_ln_v(name: str) -> None:
    """Normalised scores have a variance near 1 at first, which costs half a nat more than equal scores would.

    A pre-norm Transformer pays another half: each word's own embedding reaches the output, where the shared matrix scores
    it high.
    """
    made, _, variant = name.partition(", ")
    changes = (LSTMS if made == "lstm" else TRANSFORMERS)[variant]
    ids, labels = torch.randint(3, 1000, (8, 20)), torch.randint(3, 1000, (8, 20))
    loss = fresh(made, **{**changes, **LARGE})(ids, ids, labels).loss.item()
    assert math.log(1000) - 0.1 < loss < math.log(1000) + (1.2 if "norm_position" in changes else 0.8)


@pytest.mark.parametrize(
    ("made", "changes"),
    [
        *(("lstm", {"attention": attention, "d_model": 32}) for attention in ("none", "bahdanau", "bottom")),
        *(("transformer", {"norm_position": norm, "n_layers": 1}) for norm in ("post", "pre")),
    ],
)
def test_one_batch_is_learned_by_heart(made: str, changes: dict[str, Any]) -> None:
    model, (source, target, labels) = fresh(made, **changes), batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02 if made == "lstm" else 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(source, target, labels).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert torch.equal(model(source, target).logits.argmax(-1)[real(labels)], labels[real(labels)])


def test_every_parameter_learns(model: EncoderDecoder) -> None:
    model(*batch()).loss.backward()
    # A Transformer's softmax does not change when the same is added to the scores of all keys.
    assert_every_gradient(model, skip=lambda name: name.endswith("attention.key.bias") and "coder" in name)


@pytest.mark.parametrize("share", [True, False])
def test_tables_are_drawn_in_the_order_of_the_parameters(
    kind: str, share: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another order the same seed would give other weights, from one process to the next."""
    drawn: list[nn.Parameter] = []
    original = nn.init.normal_
    monkeypatch.setattr(nn.init, "normal_", lambda x, **settings: (drawn.append(x), original(x, **settings))[1])
    model = fresh(kind, share_embeddings=share)
    names = {id(p): name for name, p in model.named_parameters()}
    tables = ["target_embedding.weight"] + ([] if share else ["source_embedding.weight", "output.weight"])
    assert [names[id(p)] for p in drawn if id(p) in names][-len(tables) :] == tables
    assert [name for name in names.values() if name in tables] == tables


def test_state_survives_the_disk_and_copies_keep_what_is_shared(model: EncoderDecoder) -> None:
    source, target, _ = batch()
    expected = model(source, target).logits
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = randomised(type(model)(model.config), seed=5)
    assert not torch.equal(other(source, target).logits, expected)
    other.load_state_dict(torch.load(file, weights_only=True))
    for same in (other, copy.deepcopy(model)):
        assert torch.equal(same(source, target).logits, expected)
        tied = same.output.weight is same.target_embedding.weight and same.source_embedding is same.target_embedding
        assert tied == model.config.share_embeddings
        assert same.num_parameters() == model.num_parameters()


@pytest.mark.skipif(not runtime._cpu_has_bf16(), reason="torch has LSTMs in bfloat16 on such CPUs only")
@pytest.mark.parametrize("name", ["lstm, one vector", "lstm, attention", "lstm, bottom", "transformer, post"])
def test_bfloat16_comes_near(name: str) -> None:
    model, (source, target, _) = VARIANTS[name]().float(), batch()
    expected = model(source, target).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits, step = model(source, target).logits, model.step(source)
        log_probs, _ = [step(target[:, : t + 1]) for t in range(3)][-1]
    assert (logits - expected).abs().max() < 0.15 * expected.abs().max()
    assert (log_probs - expected[:, 2].log_softmax(-1)).abs().max() < 0.5


def test_forward_reads_no_value_of_a_tensor(model: EncoderDecoder) -> None:
    """On the meta device there are none: a forward that asks for one waits for its device, and cannot be compiled."""
    output = model.to("meta")(*(x.to("meta") for x in batch()))
    assert output.logits.shape == (3, 5, V) and output.loss.shape == ()


# --- What is refused ---


@pytest.mark.parametrize("config", [LSTM, TRANSFORMER])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_vocab": 21}, "^share_embeddings=True .*source_vocab=21.*target_vocab=29"),
        ({"target_vocab": 21}, "^share_embeddings=True"),
        ({"dropout": 1.0}, r"^dropout=1\.0"),
        ({"dropout": -0.1}, r"^dropout=-0\.1"),
        ({"label_smoothing": 1.5}, r"^label_smoothing=1\.5"),
        ({"label_smoothing": -0.5}, r"^label_smoothing=-0\.5"),
        ({"pad_id": 29}, "^pad_id=29"),
        ({"pad_id": -1}, "^pad_id=-1"),
        ({"pad_id": 25, "source_vocab": 21, "share_embeddings": False}, "^pad_id=25"),
        *(({name: 0}, f"^{name}=0") for name in ("source_vocab", "target_vocab", "d_model", "n_layers")),
    ],
)
def test_sizes_that_make_no_model_are_refused_by_name(config: Any, changes: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **changes)


def test_sizes_are_given_by_name() -> None:
    for config in (Seq2SeqConfig, TransformerConfig):
        with as_a_reader_sees_it(), pytest.raises(TypeError, match="positional"):
            config(29, 29)


SOURCE, TARGET, LABELS = batch()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((SOURCE.tolist(), TARGET), TypeError, "^source is a list"),
        ((SOURCE.float(), TARGET), TypeError, "^source is of type torch.float32"),
        ((SOURCE, TARGET.int()), TypeError, "^target is of type torch.int32"),
        ((SOURCE, TARGET, LABELS.float()), TypeError, "^labels is of type"),
        ((SOURCE + V, TARGET), IndexError, "out of range"),
        ((SOURCE, TARGET - 2), IndexError, "out of range"),
        ((SOURCE, TARGET, LABELS.clamp(min=0) + V), IndexError, "out of bounds"),
        ((SOURCE, TARGET, LABELS[:, 1:]), ValueError, r"^labels has shape \(3, 4\)"),
        ((SOURCE[0], TARGET), ValueError, r"^source has shape \(7,\)"),
        ((SOURCE[:, :0], TARGET), ValueError, r"^source has shape \(3, 0\)"),
        ((SOURCE, TARGET[0]), ValueError, r"^target has shape \(5,\)"),
        ((SOURCE, TARGET[:, :0]), ValueError, r"^target has shape \(3, 0\)"),
        ((SOURCE[:2], TARGET), ValueError, "^target is a batch of 3, and the source of 2"),
    ],
)
def test_ids_that_make_no_batch_are_refused_by_name(
    kind: str, arguments: tuple[Any, ...], error: type, message: str
) -> None:
    with as_a_reader_sees_it(), pytest.raises(error, match=message):
        fresh(kind)(*arguments)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (SOURCE.tolist(), TypeError, "^source is a list"),
        (SOURCE[0], ValueError, r"^source has shape \(7,\)"),
        (SOURCE + V, ValueError, "^source holds ids .* 0 … 28"),
        (SOURCE - 9, ValueError, "^source holds ids from -9"),
    ],
)
def test_a_source_that_cannot_be_translated_is_named(kind: str, source: Any, error: type, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(error, match=message):
        fresh(kind).step(source)
