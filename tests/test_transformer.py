"""The Transformer against Marian and against torch's stacks, and what causality, padding and caches promise."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import (
    KINDS,
    Mapping,
    as_a_reader_sees_it,
    assert_close,
    assert_every_gradient,
    assert_same_gradients,
    assert_trains_after_translating,
    block_in_torch,
    give_ours,
    normal,
    randomised,
    under,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MarianConfig, MarianMTModel

from nextword.attention import capture_attention
from nextword.layers import sinusoidal_positions
from nextword.transformer import Transformer, TransformerConfig

V, C, H, L, D_FF, PAD = 97, 32, 4, 2, 48, 0
TINY = TransformerConfig(V, V, d_model=C, n_heads=H, n_layers=L, d_ff=D_FF, dropout=0.0, label_smoothing=0.0)
VARIANTS = {
    "post": {},
    "pre": {"norm_position": "pre"},
    "learned, biases": {"positions": "learned", "max_length": 20, "attention_bias": True},
    "three tables, gelu, no biases": {
        "share_embeddings": False,
        "source_vocab": 41,
        "activation": "gelu",
        "bias": False,
    },
    "narrow heads": {"d_key": 3, "norm_position": "pre"},
}


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> Transformer:
    return make(**VARIANTS[request.param])


def make(seed: int = 0, **settings: Any) -> Transformer:
    return randomised(Transformer(dataclasses.replace(TINY, **settings)), seed)


def batch(source_vocab: int = 41, target_vocab: int = V) -> tuple[Tensor, Tensor, Tensor]:
    """Return three sentence pairs of different lengths, padded."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(3, source_vocab, (3, 8), generator=generator)
    text = torch.randint(3, target_vocab, (3, 7), generator=generator)
    target, labels = text[:, :-1].clone(), text[:, 1:].clone()
    target[:, 0] = 1
    for row, (s, t) in enumerate(((8, 3), (5, 6), (2, 4))):
        source[row, s:], target[row, t:], labels[row, t:] = PAD, PAD, -100
    return source, target, labels


def real(labels: Tensor) -> Tensor:
    return labels != -100


# --- The same as others' ---


def marian(shared: bool) -> tuple[Transformer, MarianMTModel, Mapping]:
    source_vocab = V if shared else 41
    ours = make(attention_bias=True, share_embeddings=shared, source_vocab=source_vocab)
    config = MarianConfig(
        vocab_size=source_vocab,
        decoder_vocab_size=V,
        d_model=C,
        encoder_layers=L,
        decoder_layers=L,
        encoder_attention_heads=H,
        decoder_attention_heads=H,
        encoder_ffn_dim=D_FF,
        decoder_ffn_dim=D_FF,
        activation_function="relu",
        scale_embedding=True,
        max_position_embeddings=20,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        pad_token_id=PAD,
        eos_token_id=2,
        decoder_start_token_id=1,
        share_encoder_decoder_embeddings=shared,
        tie_word_embeddings=shared,
        attn_implementation="eager",
    )
    theirs = MarianMTModel(config).train()
    attention = {
        f"{a}.{k}": f"{b}.{k}"
        for a, b in zip(("query", "key", "value", "out"), ("q_proj", "k_proj", "v_proj", "out_proj"), strict=True)
        for k in KINDS
    }
    rest = {"attention_norm": "self_attn_layer_norm", "feed_forward_norm": "final_layer_norm"}
    rest |= {"feed_forward.up": "fc1", "feed_forward.down": "fc2"}
    encoder: Mapping = under(attention, "attention.", "self_attn.")
    encoder |= {f"{a}.{k}": f"{b}.{k}" for a, b in rest.items() for k in KINDS}
    decoder: Mapping = encoder | under(attention, "cross_attention.", "encoder_attn.")
    decoder |= {f"cross_norm.{k}": f"encoder_attn_layer_norm.{k}" for k in KINDS}
    mapping: Mapping = {"target_embedding.weight": "model.shared.weight"}
    if not shared:
        mapping = {"target_embedding.weight": "model.decoder.embed_tokens.weight", "output.weight": "lm_head.weight"}
        mapping |= {"source_embedding.weight": "model.encoder.embed_tokens.weight"}
    for i in range(L):
        mapping |= under(encoder, f"encoder.{i}.", f"model.encoder.layers.{i}.")
        mapping |= under(decoder, f"decoder.{i}.", f"model.decoder.layers.{i}.")
    positions = [f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")]
    give_ours(ours, theirs, mapping, spare=positions)
    table = sinusoidal_positions(20, C, dtype=torch.float64)  # theirs has all sines first: a matter of order
    for name in positions:
        theirs.get_parameter(name).data.copy_(table)
    return ours, theirs, mapping


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_post_norm_equals_marian(shared: bool, smoothing: float) -> None:
    ours, theirs, mapping = marian(shared)
    ours.config = dataclasses.replace(ours.config, label_smoothing=smoothing)
    source, target, labels = batch()
    logits, loss = ours(source, target, labels)
    expected = theirs(
        input_ids=source,
        attention_mask=(source != PAD).long(),
        decoder_input_ids=target,
        decoder_attention_mask=(target != PAD).long(),
    ).logits
    assert_close(logits[real(labels)], expected[real(labels)])
    expected_loss = F.cross_entropy(expected.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
    assert_close(loss, expected_loss)
    loss.backward()
    expected_loss.backward()
    assert_same_gradients(ours, theirs, mapping)


class TorchStacks(nn.Module):
    """torch's encoder and decoder between our embeddings: nn.Transformer, but with final norms for pre-norm only."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        pre = config.norm_position == "pre"
        layers = {
            "d_model": C,
            "nhead": H,
            "dim_feedforward": D_FF,
            "dropout": 0.0,
            "activation": config.activation,
            "batch_first": True,
            "norm_first": pre,
        }
        norm = (lambda: nn.LayerNorm(C)) if pre else (lambda: None)
        encoder_layer, decoder_layer = nn.TransformerEncoderLayer(**layers), nn.TransformerDecoderLayer(**layers)
        self.encoder = nn.TransformerEncoder(encoder_layer, L, norm(), enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder_layer, L, norm())
        self.embedding = nn.Embedding(V, C)
        self.learned = config.positions == "learned"
        if self.learned:
            self.source_positions, self.target_positions = nn.Embedding(20, C), nn.Embedding(20, C)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        x, y = (self.embedding(ids) * math.sqrt(C) for ids in (source, target))
        if self.learned:
            x = x + self.source_positions.weight[: source.shape[1]]
            y = y + self.target_positions.weight[: target.shape[1]]
        else:
            x, y = (z + sinusoidal_positions(z.shape[1], C, dtype=torch.float64) for z in (x, y))
        padding = source == PAD
        memory = self.encoder(x, src_key_padding_mask=padding)
        masked = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        hidden = self.decoder(y, memory, tgt_mask=masked, memory_key_padding_mask=padding)
        return hidden @ self.embedding.weight.T


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_stacks_equal_torch(norm_position: str, positions: str, activation: str) -> None:
    settings = {"norm_position": norm_position, "positions": positions, "activation": activation}
    ours = make(attention_bias=True, max_length=20, **settings)
    theirs = TorchStacks(ours.config)
    mapping: Mapping = {"target_embedding.weight": "embedding.weight"}
    if positions == "learned":
        mapping |= {f"{side}_positions.weight": f"{side}_positions.weight" for side in ("source", "target")}
    if norm_position == "pre":
        mapping |= {f"{side}_norm.{k}": f"{side}.norm.{k}" for side in ("encoder", "decoder") for k in KINDS}
    for i in range(L):
        mapping |= under(block_in_torch(C, cross=False), f"encoder.{i}.", f"encoder.layers.{i}.")
        mapping |= under(block_in_torch(C, cross=True), f"decoder.{i}.", f"decoder.layers.{i}.")
    give_ours(ours, theirs, mapping)
    source, target, labels = batch()
    logits, loss = ours(source, target, labels)
    expected = theirs(source, target)
    assert_close(logits, expected)
    loss.backward()
    F.cross_entropy(expected.flatten(0, 1), labels.flatten()).backward()
    assert_same_gradients(ours, theirs, mapping)


PAPER = {"base": (512, 2048, 8), "big": (1024, 4096, 16)}


@pytest.mark.parametrize(
    ("size", "attention_bias", "expected"),
    [
        ("base", False, 63_045_632),
        ("base", True, 63_082_496),
        ("big", False, 214_171_648),
        ("big", True, 214_245_376),
    ],
)
def test_parameters_of_the_paper(size: str, attention_bias: bool, expected: int) -> None:
    d, d_ff, h = PAPER[size]
    with torch.device("meta"):
        config = TransformerConfig(37_000, 37_000, d_model=d, d_ff=d_ff, n_heads=h, attention_bias=attention_bias)
        model = Transformer(config)
    assert model.num_parameters() == expected
    assert model.num_parameters(embedding=False) == expected - 37_000 * d
    if not attention_bias:
        encoder = 4 * d**2 + 2 * d * d_ff + d_ff + d + 4 * d
        decoder = 8 * d**2 + 2 * d * d_ff + d_ff + d + 6 * d
        assert expected == 37_000 * d + 6 * (encoder + decoder)


@pytest.mark.parametrize(
    ("settings", "millions"),  # one vocabulary of 41,100 explains all rows of the base family (papers.md)
    [
        ({}, 65),
        ({"n_heads": 1}, 65),
        ({"n_heads": 32}, 65),
        ({"n_layers": 2}, 36),
        ({"n_layers": 4}, 50),
        ({"n_layers": 8}, 80),
        ({"d_model": 256}, 28),
        ({"d_model": 1024}, 168),
        ({"d_ff": 1024}, 53),
        ({"d_ff": 4096}, 90),
    ],
)
def test_parameters_of_table_3(settings: dict[str, int], millions: int) -> None:
    with torch.device("meta"):
        n = Transformer(TransformerConfig(41_100, 41_100, **settings)).num_parameters()
    assert round(n / 1e6) == millions


@pytest.mark.parametrize(("d_k", "millions"), [(16, 58), (32, 60)])
def test_row_b_of_table_3_narrows_queries_and_keys_alone(d_k: int, millions: int) -> None:
    with torch.device("meta"):
        n = Transformer(TransformerConfig(41_100, 41_100, d_key=d_k)).num_parameters()
    assert round(n / 1e6) == millions


def test_parameters_by_hand() -> None:
    kinds = {"plain": {}, "pre": {"norm_position": "pre"}, "learned": {"positions": "learned", "max_length": 20}}
    kinds["three tables"] = {"share_embeddings": False, "source_vocab": 41}
    counts = {
        name: (make(**k).num_parameters(), make(**k).num_parameters(embedding=False)) for name, k in kinds.items()
    }
    inner = L * (12 * C**2 + 4 * C * D_FF + 2 * (D_FF + C) + 10 * C)
    assert counts["plain"] == (V * C + inner, inner)
    assert counts["pre"] == (V * C + inner + 4 * C, inner + 4 * C)
    assert counts["learned"] == (V * C + 40 * C + inner, inner)
    assert counts["three tables"] == (2 * V * C + 41 * C + inner, inner)


# --- What may see what ---


def test_no_position_sees_a_later_one(model: Transformer) -> None:
    source, target, _ = batch()
    before = model(source, target).logits
    for t in range(target.shape[1]):
        changed = target.clone()
        changed[:, t] = (target[:, t] + 1) % V
        after = model(source, changed).logits
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).any(-1).all()


def test_every_word_of_the_source_is_seen_from_everywhere(model: Transformer) -> None:
    source, target, _ = batch()
    before, memory = model(source, target).logits, model.encode(source)
    for s in range(2):  # real in all rows
        changed = source.clone()
        changed[:, s] = 3 + (source[:, s] - 2) % 38
        assert (model(changed, target).logits != before).any(-1).all()
        assert (model.encode(changed) != memory).any(-1).all()


def test_longer_padding_changes_nothing(model: Transformer) -> None:
    source, target, labels = batch()
    logits, loss = model(source, target, labels)
    model.zero_grad()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    wider = F.pad(source, (0, 4), value=PAD), F.pad(target, (0, 3), value=PAD), F.pad(labels, (0, 3), value=-100)
    assert_close(model.encode(wider[0])[:, :8], model.encode(source), atol=1e-12)
    padded_logits, padded_loss = model(*wider)
    assert_close(padded_logits[:, :-3], logits, atol=1e-12)
    assert_close(padded_loss, loss, atol=1e-12)
    model.zero_grad()
    padded_loss.backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, gradients[name], atol=1e-12)


def test_a_batch_equals_its_sentences_alone(model: Transformer) -> None:
    source, target, labels = batch()
    logits = model(source, target).logits
    for row in range(3):
        s, t = int((source[row] != PAD).sum()), int(real(labels[row]).sum())
        alone = model(source[row : row + 1, :s], target[row : row + 1, :t]).logits
        assert_close(logits[row, :t], alone[0], atol=1e-12)
    order = torch.tensor([2, 0, 1])
    assert_close(model(source[order], target[order]).logits, logits[order], atol=1e-12)


def test_padding_is_told_by_its_id() -> None:
    """The same sentences with another pad id, whose row of the table then must not matter."""
    source, target, labels = batch()
    zero, ten = make(), make(pad_id=10)
    swap = torch.arange(V)
    swap[[0, 10]] = swap[[10, 0]]
    with torch.no_grad():
        ten.target_embedding.weight.copy_(zero.target_embedding.weight[swap])
    assert_close(ten(swap[source], swap[target]).logits[..., swap], zero(source, target).logits)


def test_what_the_encoder_says_at_padding_is_never_read(model: Transformer) -> None:
    source, target, _ = batch()
    memory, mask = model.encode(source), source != PAD
    hidden = model.decode(target, memory, source_mask=mask)
    junk = torch.where(mask[:, :, None], memory, 1000.0)
    assert torch.equal(model.decode(target, junk, source_mask=mask), hidden)
    assert (model.decode(target, junk) - hidden)[1:].abs().max() > 0.1, "without a mask all is read"


def test_a_source_of_nothing_but_padding_gives_finite_scores() -> None:
    model, (source, target, labels) = make(), batch()
    source[1] = PAD
    logits, loss = model(source, target, labels)
    loss.backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


def test_positions_are_seen(model: Transformer) -> None:
    source, target, _ = batch()
    exchanged = source[:, [1, 0, *range(2, 8)]]
    assert (model(exchanged, target).logits - model(source, target).logits).abs().max() > 1e-3


def test_sinusoids_go_on_as_far_as_needed() -> None:
    model = make()
    short = model(torch.full((1, 3), 5), torch.full((1, 2), 5)).logits
    long = torch.randint(3, V, (1, 150))
    assert model(long, long[:, :100]).logits.isfinite().all()  # the stored table grows
    assert_close(model(torch.full((1, 3), 5), torch.full((1, 2), 5)).logits, short)
    assert not any("position" in name for name in model.state_dict())


def test_sinusoids_follow_the_type_of_the_model() -> None:
    used, fresh = make().float(), make().float()
    source, target, _ = batch()
    used(source, target)
    used, fresh = used.double(), fresh.double()
    assert_close(used(source, target).logits, fresh(source, target).logits)


# --- Word by word ---


@pytest.mark.parametrize("parts", [[1] * 6, [2, 1, 3], [6]])
@pytest.mark.parametrize("max_length", [None, 6])
def test_a_cache_changes_nothing(model: Transformer, parts: list[int], max_length: int | None) -> None:
    source, target, _ = batch()
    memory, mask = model.encode(source), source != PAD
    cache = model.new_cache(max_length)
    hidden = [model.decode(part, memory, source_mask=mask, cache=cache) for part in target.split(parts, 1)]
    assert_close(torch.cat(hidden, 1), model.decode(target, memory, source_mask=mask), atol=1e-12)
    assert_close(model.output(torch.cat(hidden, 1)), model(source, target).logits, atol=1e-12)
    assert len(cache) == L and all((own.length, other.length) == (6, 8) for own, other in cache)


@pytest.mark.parametrize("beam", [1, 2])
def test_steps_equal_the_forward_pass(model: Transformer, beam: int) -> None:
    """Hypotheses are lengthened by one and by two words, and change places within their sentence."""
    source, _, _ = batch()
    step, N = model.step(source, beam=beam), 3 * beam
    ids = torch.ones(N, 1, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for new in (1, 1, 2, 1):
        log_probs, attention = step(ids)
        with capture_attention(block.cross_attention for block in model.decoder) as maps:
            logits = model(source.repeat_interleave(beam, 0), ids).logits
        assert_close(log_probs, logits[:, -1].log_softmax(-1), atol=1e-12)
        assert_close(attention, sum(m[:, :, -1].mean(1) for m in maps) / L, atol=1e-12)
        assert attention[source.repeat_interleave(beam, 0) == PAD].eq(0).all()
        kept = (torch.arange(3)[:, None] * beam + torch.randint(beam, (3, beam), generator=generator)).flatten()
        step.reorder(kept)
        ids = torch.cat([ids[kept], torch.randint(3, V, (N, new), generator=generator)], 1)


def test_a_model_may_translate_and_then_be_trained() -> None:
    assert_trains_after_translating(make(), make(), batch())


def test_attention_of_every_layer_can_be_recorded() -> None:
    model, (source, target, _) = make(), batch()
    before = model(source, target).logits
    with capture_attention(model.modules()) as maps:
        recorded = model(source, target).logits
    assert_close(recorded, before, atol=1e-12)
    S, T = 8, 6
    shapes = [(3, H, S, S)] * L + [(3, H, T, T), (3, H, T, S)] * L  # in the order of the calls
    assert [tuple(m.shape) for m in maps] == shapes
    for weights in maps:
        assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=torch.float64))
        assert not weights.requires_grad
    assert torch.equal(maps[2] > 0, torch.ones(T, T).tril().bool().expand(3, H, T, T))
    with pytest.raises(ZeroDivisionError), capture_attention(model.modules()) as maps:
        raise ZeroDivisionError
    model(source, target)
    assert maps == [] and not isinstance(model.encoder[0].attention(normal(1, 2, C)), tuple)


# --- Learning ---


def test_loss_counts_real_labels_only_and_smoothing_is_for_training() -> None:
    source, target, labels = batch()
    model = make(label_smoothing=0.1)
    logits, loss = model(source, target, labels)
    flat = logits[real(labels)], labels[real(labels)]
    assert_close(loss, F.cross_entropy(*flat, label_smoothing=0.1))
    assert model(source, target).loss is None
    model.eval()
    assert_close(model(source, target, labels).loss, F.cross_entropy(*flat))


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("share", [True, False])
def test_loss_begins_near_ln_v(norm_position: str, share: bool) -> None:
    """Scores have a variance near 1 at first, which costs half a nat more than equal scores would.

    Pre-norm costs another half: each word's own embedding reaches the output, where the shared matrix scores it high.
    """
    config = TransformerConfig(1000, 1000, d_model=64, n_layers=2, d_ff=128, dropout=0.0, norm_position=norm_position)
    model = Transformer(dataclasses.replace(config, share_embeddings=share))
    ids = torch.randint(3, 1000, (8, 21))
    loss = model(ids, ids[:, :-1], torch.randint(3, 1000, (8, 20))).loss.item()
    assert math.log(1000) - 0.1 < loss < math.log(1000) + (0.8 if norm_position == "post" else 1.2)


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_one_batch_is_learned_by_heart(norm_position: str) -> None:
    model = Transformer(dataclasses.replace(TINY, norm_position=norm_position, n_layers=1))
    source, target, labels = batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(source, target, labels).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert torch.equal(model(source, target).logits.argmax(-1)[real(labels)], labels[real(labels)])


def test_every_parameter_learns(model: Transformer) -> None:
    model(*batch()).loss.backward()
    # the softmax does not change when the same is added to the scores of all keys
    assert_every_gradient(model, skip=lambda name: name.endswith("key.bias"))


def test_dropout_acts_on_embeddings_and_sublayers_in_training_only() -> None:
    source, target, _ = batch()
    model, plain = make(dropout=0.3), make()
    assert not torch.equal(model(source, target).logits, model(source, target).logits)
    assert_close(model.eval()(source, target).logits, plain(source, target).logits)
    for number, dropout in enumerate([m for m in model.modules() if isinstance(m, nn.Dropout) and m.p]):
        dropout.train()  # each alone must make a difference
        assert not torch.equal(model(source, target).logits, model(source, target).logits), number
        dropout.eval()
    assert number + 1 == 1 + 2 * L, "one for the sum with the positions, one a block"


def test_dropout_falls_on_the_sum_of_word_and_position() -> None:
    model, (source, target, _) = make(dropout=0.3), batch()
    seen: list[Tensor] = []
    for block in (model.encoder[0], model.decoder[0]):
        block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(source, target)
    model.eval()(source, target)
    for dropped, whole in zip(seen[:2], seen[2:], strict=True):
        kept = dropped != 0
        assert 0.6 < kept.double().mean() < 0.8
        assert_close(dropped[kept], whole[kept] / 0.7)


def test_state_survives_the_disk_and_copies_keep_what_is_shared(model: Transformer) -> None:
    source, target, _ = batch()
    expected = model(source, target).logits
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = Transformer(model.config).double()
    assert not torch.equal(other(source, target).logits, expected)
    other.load_state_dict(torch.load(file, weights_only=True))
    for same in (other, copy.deepcopy(model)):
        assert torch.equal(same(source, target).logits, expected)
        tied = same.output.weight is same.target_embedding.weight and same.source_embedding is same.target_embedding
        assert tied == model.config.share_embeddings
        assert same.num_parameters() == model.num_parameters()


def test_bfloat16_comes_near() -> None:
    model, (source, target, _) = make().float(), batch()
    expected = model(source, target).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits, (log_probs, _) = model(source, target).logits, model.step(source)(target[:, :1])
    assert (logits - expected).abs().max() < 0.15 * expected.abs().max()
    assert log_probs.isfinite().all()


# --- What is refused ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 30}, "^d_model=30 .*n_heads=4.*32"),
        ({"d_model": 33, "n_heads": 3}, "^d_model=33 is odd"),
        ({"norm_position": "middle"}, "^norm_position='middle'.*post.*pre"),
        ({"positions": "rotary"}, "^positions='rotary'.*sinusoidal.*learned"),
        ({"activation": "swish"}, "^activation='swish'.*relu"),
        ({"source_vocab": 41}, "^share_embeddings=True .*source_vocab=41.*target_vocab=97"),
        ({"target_vocab": 41}, "^share_embeddings=True"),
        ({"dropout": 1.0}, r"^dropout=1\.0"),
        ({"dropout": -0.1}, r"^dropout=-0\.1"),
        ({"label_smoothing": 1.5}, r"^label_smoothing=1\.5"),
        ({"pad_id": 97}, "^pad_id=97"),
        ({"pad_id": -1}, "^pad_id=-1"),
        ({"pad_id": 50, "source_vocab": 41, "share_embeddings": False}, "^pad_id=50"),
        ({"d_key": 0}, "^d_key=0"),
        *(({name: 0}, f"^{name}=0") for name in ("source_vocab", "target_vocab", "d_model", "n_heads", "n_layers")),
        *(({name: 0}, f"^{name}=0") for name in ("d_ff", "max_length")),
    ],
)
def test_sizes_that_make_no_model_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **settings)


SOURCE, TARGET, LABELS = batch()
LEARNED = {"positions": "learned", "max_length": 7}


def run(*arguments: Any, **settings: Any) -> Any:
    return Transformer(dataclasses.replace(TINY, **settings))(*arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: run(SOURCE.float(), TARGET), TypeError, "^source is of type torch.float32"),
        (lambda: run(SOURCE, TARGET.int()), TypeError, "^target is of type torch.int32"),
        (lambda: run(SOURCE, TARGET, LABELS.float()), TypeError, "labels"),
        (lambda: run(SOURCE + V, TARGET), IndexError, "out of range"),
        (lambda: run(SOURCE, TARGET - 2), IndexError, "out of range"),
        (lambda: run(SOURCE, TARGET, LABELS.clamp(min=0) + V), IndexError, "out of bounds"),
        (lambda: run(SOURCE, TARGET, LABELS[:, 1:]), ValueError, r"^labels has shape \(3, 5\)"),
        (lambda: run(SOURCE[0], TARGET), ValueError, r"^source has shape \(8,\)"),
        (lambda: run(SOURCE, TARGET[:, :0]), ValueError, r"^target has shape \(3, 0\)"),
        (lambda: run(SOURCE, TARGET, **LEARNED), ValueError, "^source is 8 tokens long.*7"),
        (lambda: run(SOURCE[:, :7], TARGET[:, [0] * 8], **LEARNED), ValueError, "^target is 8 tokens long.*7"),
        (lambda: run(SOURCE[:2], TARGET), ValueError, "source|target|memory"),
    ],
)
def test_ids_that_make_no_batch_are_refused_by_name(call: Callable[[], Any], error: type, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(error, match=message):
        call()


def test_learned_positions_end_with_a_cache_too() -> None:
    model = make(**LEARNED)
    memory, cache = model.encode(SOURCE[:, :7]), model.new_cache()
    model.decode(TARGET, memory, cache=cache)
    model.decode(TARGET[:, :1], memory, cache=cache)
    with pytest.raises(ValueError, match="^target is 8 tokens long"):
        model.decode(TARGET[:, :1], memory, cache=cache)
