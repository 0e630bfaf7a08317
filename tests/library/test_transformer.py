"""The Transformer against Marian and against torch's stacks, its sizes in the paper, and its positions and dropout."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from parity import (
    KINDS,
    Mapping,
    as_a_reader_sees_it,
    assert_close,
    assert_same_gradients,
    block_in_torch,
    give_ours,
    normal,
    under,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MarianConfig, MarianMTModel
from translators import PAD, SOURCE_V, TRANSFORMER, TRANSFORMERS, V, batch, fresh, real, transformer

from nextword.attention import capture_attention
from nextword.layers import sinusoidal_positions
from nextword.transformer import Transformer, TransformerConfig

C, H, L, D_FF = TRANSFORMER.d_model, TRANSFORMER.n_heads, TRANSFORMER.n_layers, TRANSFORMER.d_ff


@pytest.fixture(params=TRANSFORMERS)
def model(request: pytest.FixtureRequest) -> Transformer:
    return transformer(**TRANSFORMERS[request.param])


# --- The same as others' ---


def marian(shared: bool) -> tuple[Transformer, MarianMTModel, Mapping]:
    source_vocab = V if shared else SOURCE_V
    ours = transformer(attention_bias=True, share_embeddings=shared, source_vocab=source_vocab)
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
    ours = transformer(attention_bias=True, max_length=20, **settings)
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
        sizes = {"source_vocab": 37_000, "target_vocab": 37_000, "d_model": d, "d_ff": d_ff, "n_heads": h}
        model = Transformer(TransformerConfig(**sizes, attention_bias=attention_bias))
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
        n = Transformer(TransformerConfig(source_vocab=41_100, target_vocab=41_100, **settings)).num_parameters()
    assert round(n / 1e6) == millions


@pytest.mark.parametrize(("d_k", "millions"), [(16, 58), (32, 60)])
def test_row_b_of_table_3_narrows_queries_and_keys_alone(d_k: int, millions: int) -> None:
    with torch.device("meta"):
        n = Transformer(TransformerConfig(source_vocab=41_100, target_vocab=41_100, d_key=d_k)).num_parameters()
    assert round(n / 1e6) == millions


def test_parameters_by_hand() -> None:
    kinds = {"plain": {}, "pre": {"norm_position": "pre"}, "learned": {"positions": "learned", "max_length": 20}}
    kinds["three tables"] = {"share_embeddings": False, "source_vocab": SOURCE_V}
    counts = {
        name: (transformer(**k).num_parameters(), transformer(**k).num_parameters(embedding=False))
        for name, k in kinds.items()
    }
    inner = L * (12 * C**2 + 4 * C * D_FF + 2 * (D_FF + C) + 10 * C)
    assert counts["plain"] == (V * C + inner, inner)
    assert counts["pre"] == (V * C + inner + 4 * C, inner + 4 * C)
    assert counts["learned"] == (V * C + 40 * C + inner, inner)
    assert counts["three tables"] == (2 * V * C + SOURCE_V * C + inner, inner)


# --- What may see what ---


def test_without_its_mask_the_decoder_would_read_the_padding(model: Transformer) -> None:
    source, target, _ = batch()
    memory = model.encode(source)
    unmasked = memory._replace(mask=torch.ones_like(memory.mask))
    assert (model.decode(target, unmasked) - model.decode(target, memory))[0].abs().max() > 1e-3


def test_a_source_of_nothing_but_padding_gives_finite_scores() -> None:
    model, (source, target, labels) = transformer(), batch()
    source[1] = PAD
    logits, loss = model(source, target, labels)
    loss.backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


def test_sinusoids_go_on_as_far_as_needed() -> None:
    model = transformer()
    short = model(torch.full((1, 3), 5), torch.full((1, 2), 5)).logits
    long = torch.randint(3, V, (1, 150))
    assert model(long, long[:, :100]).logits.isfinite().all()  # the stored table grows
    assert_close(model(torch.full((1, 3), 5), torch.full((1, 2), 5)).logits, short)
    assert not any("position" in name for name in model.state_dict())


def test_sinusoids_follow_the_type_of_the_model() -> None:
    used, unused = transformer().float(), transformer().float()
    source, target, _ = batch()
    used(source, target)
    used, unused = used.double(), unused.double()
    assert_close(used(source, target).logits, unused(source, target).logits)


# --- Word by word ---


@pytest.mark.parametrize("max_length", [None, 5])
def test_a_cache_holds_the_text_and_the_source_of_each_layer(model: Transformer, max_length: int | None) -> None:
    source, target, _ = batch()
    memory, cache = model.encode(source), model.new_cache(max_length)
    hidden = [model.decode(part, memory, cache) for part in target.split([2, 1, 2], 1)]
    assert_close(torch.cat(hidden, 1), model.decode(target, memory), atol=1e-12)
    assert len(cache) == L and all((text.length, other.length) == (5, 7) for text, other in cache)


def test_attention_to_the_source_is_the_mean_over_layers_and_heads(model: Transformer) -> None:
    source, target, _ = batch()
    with capture_attention(block.cross_attention for block in model.decoder) as maps:
        model(source, target)
    _, attention = model.decode_with_attention(target, model.encode(source))
    assert_close(attention, sum(m.mean(1) for m in maps) / L, atol=1e-12)


def test_attention_of_every_layer_can_be_captured() -> None:
    model, (source, target, _) = transformer(), batch()
    before = model(source, target).logits
    with capture_attention(model.modules()) as maps:
        captured = model(source, target).logits
    assert_close(captured, before, atol=1e-12)
    S, T = 7, 5
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


# --- Dropout ---


def test_dropout_acts_on_embeddings_and_sublayers_in_training_only() -> None:
    source, target, _ = batch()
    model, plain = transformer(dropout=0.3), transformer()
    assert not torch.equal(model(source, target).logits, model(source, target).logits)
    assert_close(model.eval()(source, target).logits, plain(source, target).logits)
    for number, dropout in enumerate([m for m in model.modules() if isinstance(m, nn.Dropout) and m.p]):
        dropout.train()  # each alone must make a difference
        assert not torch.equal(model(source, target).logits, model(source, target).logits), number
        dropout.eval()
    assert number + 1 == 1 + 2 * L, "one for the sum with the positions, one a block"


def test_dropout_falls_on_the_sum_of_word_and_position() -> None:
    model, (source, target, _) = transformer(dropout=0.3), batch()
    seen: list[Tensor] = []
    for block in (model.encoder[0], model.decoder[0]):
        block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(source, target)
    model.eval()(source, target)
    for dropped, whole in zip(seen[:2], seen[2:], strict=True):
        kept = dropped != 0
        assert 0.6 < kept.double().mean() < 0.8
        assert_close(dropped[kept], whole[kept] / 0.7)


# --- What is refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 30}, "^d_model=30 .*n_heads=4.*32"),
        ({"d_model": 33, "n_heads": 3}, "^d_model=33 is odd"),
        ({"norm_position": "middle"}, "^norm_position='middle'.*post.*pre"),
        ({"positions": "rotary"}, "^positions='rotary'.*sinusoidal.*learned"),
        ({"activation": "swish"}, "^activation='swish'.*relu"),
        *(({name: 0}, f"^{name}=0") for name in ("n_heads", "d_ff", "d_key", "max_length")),
    ],
)
def test_sizes_that_make_no_model_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        fresh("transformer", **changes)


LEARNED = {"positions": "learned", "max_length": 6}


def test_learned_positions_end_with_a_cache_too() -> None:
    source, target, _ = batch()
    model = transformer(**LEARNED)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="^source is 7 tokens long.*6"):
        model(source, target)
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="^target is 7 tokens long.*6"):
        model(source[:, :6], target[:, [0] * 7])
    memory, cache = model.encode(source[:, :6]), model.new_cache()
    model.decode(target, memory, cache)
    model.decode(target[:, :1], memory, cache)
    with pytest.raises(ValueError, match="^target is 7 tokens long"):
        model.decode(target[:, :1], memory, cache)
