"""The decoder against transformers' GPT-1, GPT-2 and Llama, its published sizes, and what caches, masks and windows promise."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from parity import as_a_reader_sees_it, assert_close, normal, randomised
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
)
from transformers.models.llama import modeling_llama

from nextword import checkpoints
from nextword.attention import capture_attention, rotate
from nextword.decoder import PRESETS, Decoder, DecoderConfig
from nextword.layers import rotation

V, L = 23, 2
TINY = DecoderConfig(vocab_size=V, context_length=9, d_model=12, n_layers=L, n_heads=3)

COUNTS = {  # the formula of the model and, for GPT-2, the published files
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-125m": 125_226_240,
    "gpt3-350m": 355_871_744,
    "gpt3-760m": 760_300_032,
    "gpt3-1.3b": 1_315_723_264,
    "gpt3-2.7b": 2_651_553_280,
    "gpt3-6.7b": 6_658_404_352,
    "gpt3-13b": 12_853_386_240,
    "gpt3-175b": 174_604_259_328,
    "smollm2-135m": 134_515_008,
}
LLAMA: dict[str, Any] = {"norm": "rms", "activation": "swiglu", "positions": "rotary", "bias": False, "n_kv_heads": 1}
KINDS: dict[str, dict[str, Any]] = {
    "gpt1": {"norm_position": "post"},
    "gpt2": {},
    "llama": {**LLAMA, "d_ff": 20, "rope_base": 100.0},
    "sinusoidal": {"positions": "sinusoidal", "tie_embeddings": False},
}


def ids(B: int = 3, T: int = 7, seed: int = 0) -> Tensor:
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(seed: int = 0, **changes: Any) -> Decoder:
    return randomised(Decoder(dataclasses.replace(TINY, **changes)), seed)


# --- Published sizes ---


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = Decoder(DecoderConfig.preset(name))
    assert model.num_parameters() == COUNTS[name]
    c = model.config
    rows = c.vocab_size + (c.context_length if c.positions == "learned" else 0)
    assert COUNTS[name] - model.num_parameters(embedding=False) == rows * c.d_model


def test_a_preset_can_be_changed_and_a_wrong_name_suggests_the_right_one() -> None:
    assert DecoderConfig.preset("gpt2", n_layers=2).n_layers == 2
    with pytest.raises(ValueError, match=r"name='gpt2-medum' is no preset.*did you mean 'gpt2-medium'"):
        DecoderConfig.preset("gpt2-medum")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 770}, "d_model=770 is not divisible by n_heads=3; d_model=771 is"),
        ({"n_layers": 0}, "n_layers=0 is below 1"),
        ({"d_ff": 0}, "d_ff=0 is below 1"),
        ({"norm_position": "middle"}, "norm_position='middle': choose post, pre"),
        ({"activation": "swish"}, "activation='swish': choose"),
        ({"dropout": 1.0}, "dropout=1.0 is outside 0 … 1"),
        ({"norm": "batch"}, "norm='batch': choose layer, rms"),
        ({"positions": "none"}, "positions='none': choose learned, sinusoidal, rotary"),
        ({"n_kv_heads": 2}, "n_heads=3 is not divisible by n_kv_heads=2"),
        ({"n_kv_heads": 0}, "n_kv_heads=0 is below 1"),
        ({"d_model": 15, "positions": "rotary"}, "d_model=15 over n_heads=3 is odd; rotary positions turn pairs"),
        ({"d_model": 15, "positions": "sinusoidal"}, "d_model=15 is odd; sinusoidal positions come in pairs"),
        ({"dropout": "0.1"}, "dropout='0.1' is outside 0 … 1; give a number"),
        ({"dropout": math.nan}, "dropout=nan is outside 0 … 1"),
        ({"attention": "dense"}, "attention='dense': name one or more of .*, in a tuple"),
        ({"attention": ("local",), "window": 2.5}, "window=2.5: kind='local' needs a whole number"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize(
    "name", ["vocab_size", "context_length", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff"]
)
@pytest.mark.parametrize(("size", "kind"), [("24", "str"), (24.0, "float"), (True, "bool"), ([24], "list")])
def test_sizes_are_whole_numbers(name: str, size: Any, kind: str) -> None:
    message = re.escape(f"{name}={size!r} is a {kind}; give a whole number")
    with as_a_reader_sees_it(), pytest.raises(TypeError, match=message):
        dataclasses.replace(TINY, **{name: size})


def test_sizes_are_given_by_name_and_only_some_may_be_left_open() -> None:
    with pytest.raises(TypeError, match="positional"):
        DecoderConfig(V, 9, 12, L, 3)
    assert dataclasses.replace(TINY, d_ff=None, n_kv_heads=None) == TINY
    with as_a_reader_sees_it(), pytest.raises(TypeError, match="n_layers=None is a NoneType; give a whole number"):
        dataclasses.replace(TINY, n_layers=None)


# --- Parity ---


def as_theirs(ours: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return our parameters, or their gradients, under transformers' names; its Conv1D stores matrices transposed."""
    table, places = ("tokens_embed", "positions_embed") if kind == "gpt1" else ("wte", "wpe")
    theirs = {f"{table}.weight": ours["embedding.weight"], f"{places}.weight": ours["positions.weight"]}
    if kind == "gpt2":
        theirs |= {f"ln_f.{k}": ours[f"norm.{k}"] for k in ("weight", "bias")}
    for i in range(layers_of(ours)):
        b, h = f"blocks.{i}.", f"h.{i}."
        for k in ("weight", "bias"):
            rows = {"attn.c_proj": ours[f"{b}attention.out.{k}"], "mlp.c_fc": ours[f"{b}feed_forward.up.{k}"]}
            rows["mlp.c_proj"] = ours[f"{b}feed_forward.down.{k}"]
            rows["attn.c_attn"] = torch.cat([ours[f"{b}attention.{m}.{k}"] for m in ("query", "key", "value")])
            theirs |= {f"{h}{name}.{k}": x.T if k == "weight" else x for name, x in rows.items()}
            theirs |= {
                f"{h}ln_1.{k}": ours[f"{b}attention_norm.{k}"],
                f"{h}ln_2.{k}": ours[f"{b}feed_forward_norm.{k}"],
            }
    return {f"transformer.{name}": x for name, x in theirs.items()}


def as_llama(ours: dict[str, Tensor], config: DecoderConfig) -> dict[str, Tensor]:
    """Return the same under the names of transformers' Llama, which turns number i of a head with number i + D/2."""
    half = config.d_model // config.n_heads // 2

    def reordered(x: Tensor) -> Tensor:  # (heads · D, C): the pairs (0, 1), (2, 3), … become (0, D/2), (1, D/2 + 1), …
        return rearrange(x, "(H half two) C -> (H two half) C", half=half, two=2)

    theirs = {"model.embed_tokens.weight": ours["embedding.weight"], "model.norm.weight": ours["norm.weight"]}
    if not config.tie_embeddings:
        theirs["lm_head.weight"] = ours["output.weight"]
    for i in range(config.n_layers):
        b, h = f"blocks.{i}.", f"model.layers.{i}."
        own = {name: ours[f"{b}attention.{name}.weight"] for name in ("query", "key", "value", "out")}
        theirs[f"{h}self_attn.q_proj.weight"] = reordered(own["query"])
        theirs[f"{h}self_attn.k_proj.weight"] = reordered(own["key"])
        theirs |= {f"{h}self_attn.v_proj.weight": own["value"], f"{h}self_attn.o_proj.weight": own["out"]}
        theirs |= {
            f"{h}mlp.{name}_proj.weight": ours[f"{b}feed_forward.{name}.weight"] for name in ("up", "gate", "down")
        }
        theirs[f"{h}input_layernorm.weight"] = ours[f"{b}attention_norm.weight"]
        theirs[f"{h}post_attention_layernorm.weight"] = ours[f"{b}feed_forward_norm.weight"]
    return theirs


class InDouble:
    """Stands for the module torch where float32 means float64: transformers' Llama computes in float32, come what may."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def layers_of(weights: dict[str, Tensor]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))


def random_config(kind: str, seed: int) -> DecoderConfig:
    """Return a model of that kind with sizes drawn at random."""
    draw = random.Random(f"{kind} {seed}")
    n_heads, d_head = draw.choice([1, 2, 3, 6]), 2 * draw.randint(3, 5)
    sizes = {
        "d_model": n_heads * d_head,
        "n_layers": draw.randint(1, 3),
        "n_heads": n_heads,
        "d_ff": draw.randint(3, 30),
    }
    changes = {"vocab_size": draw.randint(5, 40), "context_length": draw.randint(7, 12), **KINDS[kind], **sizes}
    if kind == "llama":
        shared = [n for n in range(1, n_heads + 1) if n_heads % n == 0]
        changes |= {"n_kv_heads": draw.choice(shared), "rope_base": draw.choice([50.0, 1e4]), "norm_eps": 1e-3}
        changes["tie_embeddings"] = draw.random() < 0.5
    elif kind == "gpt1":
        changes["d_ff"] = 4 * changes["d_model"]  # transformers' has no other
    return DecoderConfig(**changes)


def public_model(kind: str, c: DecoderConfig = TINY) -> Any:
    if kind == "llama":
        sizes = {"hidden_size": c.d_model, "intermediate_size": c.d_ff, "num_hidden_layers": c.n_layers}
        sizes |= {"num_attention_heads": c.n_heads, "num_key_value_heads": c.n_kv_heads, "vocab_size": c.vocab_size}
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": c.rope_base}, "rms_norm_eps": c.norm_eps}
        return LlamaForCausalLM(LlamaConfig(**sizes, **rope, tie_word_embeddings=c.tie_embeddings))
    sizes = {"vocab_size": c.vocab_size, "n_positions": c.context_length, "n_embd": c.d_model, "n_layer": c.n_layers}
    sizes |= {"n_head": c.n_heads, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if kind == "gpt1":
        return OpenAIGPTLMHeadModel(OpenAIGPTConfig(**sizes))
    return GPT2LMHeadModel(GPT2Config(**sizes, n_inner=c.d_ff))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["gpt1", "gpt2", "llama"])
def test_outputs_and_gradients_are_those_of_transformers(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_llama, "torch", InDouble())
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    config = random_config(kind, seed)
    ours, theirs = randomised(Decoder(config), seed), public_model(kind, config).double()

    def translate(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return as_llama(values, config) if kind == "llama" else as_theirs(values, kind)

    mapped = translate({name: p.detach() for name, p in ours.named_parameters()})
    other = dict(theirs.named_parameters())
    assert set(mapped) == set(other)
    with torch.no_grad():
        for name, parameter in other.items():
            parameter.copy_(mapped[name])
    text = torch.randint(0, config.vocab_size, (3, config.context_length))
    logits, expected = ours(text).logits, theirs(text).logits
    assert_close(logits, expected)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = translate({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    for name, parameter in other.items():
        assert_close(gradients[name], parameter.grad)
        assert parameter.grad.abs().max() > 1e-6, name


def turn(x: Tensor, first: int | Tensor) -> Tensor:
    """Turn heads of width 6 that stand at ``first`` and behind it, or at positions (B, T)."""
    positions = torch.arange(first, first + x.shape[2])[None] if isinstance(first, int) else first
    return rotate(x, rotation(positions, 6, base=50.0)[:, None])


def test_rotary_positions_turn_each_pair_by_its_angle_and_keep_relative_places() -> None:
    x = normal(1, 1, 1, 6)
    for t in (0, 1, 7):
        for i, angle in enumerate(t * 50.0 ** (-2 * k / 6) for k in range(3)):
            a, b = x[..., 2 * i], x[..., 2 * i + 1]
            turned = turn(x, t)[..., 2 * i : 2 * i + 2].squeeze()
            assert_close(
                turned,
                torch.cat(
                    [a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)], -1
                ).squeeze(),
            )
    q, k = normal(1, 2, 1, 6, seed=1), normal(1, 2, 1, 6, seed=2)
    products = [(turn(q, s + 3) * turn(k, s)).sum() for s in range(10)]
    assert_close(torch.stack(products), products[0].expand(10))
    assert_close(turn(normal(2, 3, 5, 6), 4)[:, :, 2:3], turn(normal(2, 3, 5, 6)[:, :, 2:3], 6))


def test_rotary_positions_may_be_given_one_by_one() -> None:
    x = normal(2, 3, 5, 6)
    places = torch.tensor([[0, 0, 1, 2, 3], [7, 3, 3, 11, 19]])
    turned = turn(x, places)
    for b, t in itertools.product(range(2), range(5)):
        assert_close(turned[b, :, t], turn(x[b : b + 1, :, t : t + 1], int(places[b, t]))[0, :, 0])


def test_far_rotary_positions_stay_exact_in_every_type() -> None:
    x = normal(2, 3, 5, 6)
    expected = turn(x, 1_000_000)
    for dtype, allowed in ((torch.float32, 1e-6), (torch.bfloat16, 0.05)):
        found = turn(x.to(dtype), 1_000_000)
        assert found.dtype == dtype
        assert_close(found.double(), expected, atol=allowed, rtol=0.02)


def test_the_training_loss_is_the_same_with_its_gradients_and_keeps_no_logits() -> None:
    model, targets = make(), ids(seed=1)
    targets[0, 3:] = -100
    gradients = []
    for loss in (model.training_loss(ids(), targets), model(ids(), targets).loss):
        model.zero_grad()
        loss.backward()
        gradients.append((loss.detach(), *(p.grad.clone() for p in model.parameters())))
    assert_close(*gradients)


def test_the_loss_is_the_mean_over_real_targets() -> None:
    model, targets = make().eval(), ids(seed=1)
    targets[0, 3:] = -100
    logits, loss = model(ids(), targets)
    kept = targets != -100
    assert_close(loss, F.cross_entropy(logits[kept], targets[kept]))
    assert model(ids()).loss is None


# --- Promises ---


def test_no_position_sees_a_later_one() -> None:
    model, text = make(), ids()
    other = text.clone()
    other[:, 4:] = (other[:, 4:] + 1) % V
    a, b = model(text).logits, model(other).logits
    assert torch.equal(a[:, :4], b[:, :4]) and not torch.equal(a[:, 4:], b[:, 4:])


@pytest.mark.parametrize("kind", KINDS)
def test_filling_behind_or_before_a_text_changes_nothing(kind: str) -> None:
    model, text = make(**KINDS[kind]), ids(2, 7)
    alone = model(text[1:, :4]).logits
    behind = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    assert_close(model(text, mask=behind).logits[1, :4], alone[0])
    moved = torch.cat([text[1:, 4:], text[1:, :4]], 1)  # the same four words after three of filling
    logits = model(torch.cat([text[:1], moved]), mask=behind.flip(1)).logits
    assert_close(logits[1, 3:], alone[0])
    assert_close(logits[0], model(text[:1]).logits[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [(7,), (1,) * 7, (3, 1, 3)])
def test_a_cache_changes_nothing(parts: tuple[int, ...], kind: str) -> None:
    model, text = make(**KINDS[kind]), ids()
    cache, start, logits = model.new_cache(7), 0, []
    with torch.no_grad():
        for n in parts:
            logits.append(model(text[:, start : start + n], cache=cache).logits)
            start += n
        assert_close(torch.cat(logits, 1), model(text).logits)
    assert cache[0].length == 7


@pytest.mark.parametrize("kind", KINDS)
def test_beginnings_of_different_lengths_are_continued_as_if_alone(kind: str) -> None:
    model, lengths = make(**KINDS[kind]), (5, 1, 3)
    text = ids(3, 5)
    mask = torch.stack([torch.arange(5) >= 5 - n for n in lengths])
    together = model.generate(text, 9, mask=mask, temperature=0)  # on past the context of nine
    for row, n, begins in zip(together, lengths, text, strict=True):
        alone = model.generate(begins[None, 5 - n :], 9, temperature=0)[0]
        assert torch.equal(row[5 - n :], alone)
    assert torch.equal(together[:, :5], text)


HOLES = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 0, 0, 1, 0, 1], [1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0]], dtype=torch.bool)


@pytest.mark.parametrize("kind", KINDS)
def test_filling_anywhere_changes_nothing(kind: str) -> None:
    """Left, in the middle, right, and all three; with a cache the same filling may come in parts."""
    model, text = make(**KINDS[kind]), ids(4, 6)
    with torch.no_grad():
        logits = model(text, mask=HOLES).logits
        other = model(torch.where(HOLES, text, (text + 5) % V), mask=HOLES).logits
        assert_close(other[HOLES], logits[HOLES])
        cache = model.new_cache()
        parts = [model(text[:, a:b], mask=HOLES[:, :b], cache=cache).logits for a, b in ((0, 2), (2, 3), (3, 6))]
        assert_close(torch.cat(parts, 1)[HOLES], logits[HOLES])
        for row, real, found in zip(text, HOLES, logits, strict=True):
            assert_close(found[real], model(row[real][None]).logits[0])


# --- A beginning that all rows share ---


LONGER: dict[str, dict[str, Any]] = {kind: {**KINDS[kind], "context_length": 16} for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_prefix_read_once_the_scores_are_those_of_the_whole_texts(kind: str) -> None:
    model, prefix, text = make(**LONGER[kind]), ids(1, 5, seed=1)[0], ids(4, 6)
    with torch.no_grad():
        cache = [layer.expand(4) for layer in model.prefill(prefix)]
        assert [layer.length for layer in cache] == [5] * L
        for start, end in ((0, 4), (4, 6)):  # a first part, and what comes after it
            real = HOLES[:, start:end]
            mask = F.pad(HOLES[:, :end], (5, 0), value=True)
            logits = model(text[:, start:end], mask=mask, cache=cache).logits
            for row, keep, known, found in zip(text, HOLES, real, logits, strict=True):
                whole = model(torch.cat([prefix, row[keep]])[None]).logits[0]
                before = 5 + int(keep[:start].sum())
                assert_close(found[known], whole[before : before + int(known.sum())])
        plain = [layer.expand(4, 11) for layer in model.prefill(prefix)]  # without filling no mask is needed
        whole = model(torch.cat([prefix.expand(4, 5), text], 1)).logits
        assert_close(model(text, cache=plain).logits, whole[:, 5:])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_after_a_prefix_are_continued_as_if_each_began_with_it(kind: str) -> None:
    model, lengths, prefix, text = make(**LONGER[kind]), (4, 1, 3), ids(1, 5, seed=1)[0], ids(3, 4)
    mask = torch.stack([torch.arange(4) >= 4 - n for n in lengths])
    together = model.generate(
        text, 7, mask=mask, prompt_cache=model.prefill(prefix), temperature=0
    )  # 5 + 4 + 7 fill the context
    assert together.shape == (3, 11) and torch.equal(together[:, :4], text)
    for row, n, begins in zip(together, lengths, text, strict=True):
        whole = torch.cat([prefix, begins[4 - n :]])[None]
        assert torch.equal(torch.cat([prefix, row[4 - n :]]), model.generate(whole, 7, temperature=0)[0])
    assert not torch.equal(together, model.generate(text, 7, mask=mask, temperature=0))
    same = [
        torch.cat([prefix, model.generate(text[:1], 5, prompt_cache=model.prefill(prefix), generator=seeded(2))[0]])
    ]
    same.append(model.generate(torch.cat([prefix, text[0]])[None], 5, generator=seeded(2))[0])
    assert torch.equal(*same)


def test_a_stop_ends_rows_after_a_prefix_too() -> None:
    model, prefix, text = make(**LONGER["llama"]), ids(1, 5, seed=1)[0], ids(2, 3)
    free = model.generate(text, 6, prompt_cache=model.prefill(prefix), temperature=0)
    stop = int(free[0, 4])
    stopped = model.generate(text, 6, prompt_cache=model.prefill(prefix), temperature=0, stop=stop)
    for row, other in zip(stopped, free, strict=True):
        written = other[3:].tolist()
        n = written.index(stop) + 1 if stop in written else 6
        assert row[3:].tolist() == (written[:n] + [stop] * 6)[: stopped.shape[1] - 3]


def test_a_prefix_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = make(**LONGER["gpt2"]), []
    hidden = Decoder.hidden

    def spy(self: Decoder, ids: Tensor, **settings: Any) -> Tensor:
        read.append(tuple(ids.shape))
        return hidden(self, ids, **settings)

    monkeypatch.setattr(Decoder, "hidden", spy)
    model.generate(ids(3, 4), 3, prompt_cache=model.prefill(ids(1, 5)[0]), temperature=0)
    assert read == [(1, 5), (3, 4), (3, 1), (3, 1)]


def test_a_prefix_that_leaves_no_room_is_refused() -> None:
    model = make(**LONGER["llama"])
    message = "prompt_cache of 5, ids of 4, and max_new_tokens=8 make 17 tokens; context_length=16"
    with pytest.raises(ValueError, match=message):
        model.generate(ids(2, 4), 8, prompt_cache=model.prefill(ids(1, 5)[0]))
    assert model.generate(ids(2, 4), 7, prompt_cache=model.prefill(ids(1, 5)[0])).shape == (2, 11)
    with pytest.raises(ValueError, match="fill up on the left"):
        model.generate(ids(4, 6), 1, prompt_cache=model.prefill(ids(1, 5)[0]), mask=HOLES)


def test_writing_drops_nothing_and_leaves_the_mode_as_it_was() -> None:
    model, text, prefix = make(**LONGER["llama"], dropout=0.5), ids(2, 4), ids(1, 5)[0]
    expected = model.eval().generate(text, 7, prompt_cache=model.prefill(prefix), temperature=0)
    assert not model.training
    model.train()
    assert (
        torch.equal(model.generate(text, 7, prompt_cache=model.prefill(prefix), temperature=0), expected)
        and model.training
    )
    with pytest.raises(ValueError, match="ids holds ids from"):
        model.generate(torch.full((1, 2), V), 1, prompt_cache=model.prefill(prefix))
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_that_has_written_is_trained_like_a_fresh_one(dtype: torch.dtype, kind: str) -> None:
    """What inference mode leaves behind, such as a table of positions, must not disturb the backward pass."""
    used, fresh = (make(**LONGER[kind]).to(dtype) for _ in range(2))
    used.generate(ids(2, 4), 2, prompt_cache=used.prefill(ids(1, 5)[0]))
    for model in (used, fresh):
        model.train()(ids(), ids(seed=1)).loss.backward()
    for mine, other in zip(used.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)


# --- In half the bits ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_model_in_bfloat16_comes_near(kind: str) -> None:
    model, text = make(**KINDS[kind]).float(), ids(4, 6)
    with torch.no_grad():
        exact, masked = model(text).logits, model(text, mask=HOLES).logits
        model.bfloat16()
        for found, wanted in ((model(text).logits, exact), (model(text, mask=HOLES).logits[HOLES], masked[HOLES])):
            assert found.dtype == torch.bfloat16
            assert 0 < (found.float() - wanted).abs().max() < 0.05 * wanted.abs().max()
        cache = [layer.expand(2) for layer in model.prefill(text[0, :3])]
        whole = model(text[:1]).logits[:, 3:].expand(2, -1, -1)
        again = model(text[:1, 3:].expand(2, -1), cache=cache).logits
        assert (again - whole).abs().max() < 0.05 * whole.abs().max()
    assert model.generate(text[:, :3], 3, prompt_cache=model.prefill(text[0, :2]), temperature=0).shape == (4, 6)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 4, dtype=torch.bool), r"mask is torch.bool of shape \(2, 4\); give bool of shape \(2, 5\)"),
        (torch.ones(2, 5), "mask is torch.float32"),
        (torch.tensor([[True] * 5, [True] * 3 + [False] * 2]), "fill up on the left"),
        (torch.tensor([[True] * 5, [True, False, True, True, True]]), "fill up on the left"),
    ],
)
def test_other_masks_cannot_be_continued(mask: Tensor, message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        make().generate(ids(2, 5), 1, mask=mask)
    for wrong in (torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 5)):
        message = rf"mask is {wrong.dtype} of shape \(2, {wrong.shape[1]}\); give bool of shape \(2, 5\)"
        with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
            make(positions="rotary", d_model=12)(ids(2, 5), mask=wrong)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"ids": ids()[0]},
            ValueError,
            r"ids has shape \(7,\); give a batch \(B, T\) .*; ids\[None\] is a batch of one",
        ),
        ({"ids": [1, 2, 3]}, TypeError, r"ids is a list; give a tensor \(B, T\), such as torch.tensor\(\[\[5, 6\]\]\)"),
        ({"ids": ids().float()}, TypeError, "ids is of type torch.float32; ids are int64"),
        ({"stop": "\n"}, ValueError, r"stop='\\n'; give the id of a token, or several: a tokenizer's encode"),
        ({"stop": 9999}, ValueError, r"stop holds 9999, which is no token's id; the ids of this model are 0 … "),
        ({"stop": [3, -1]}, ValueError, "stop holds -1, which is no token's id"),
        ({"stop": [3, "\n"]}, ValueError, r"stop=\[3, '\\n'\]; give the id of a token, or several"),
    ],
)
def test_what_cannot_be_continued_is_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(error, match=message):
        make().generate(**{"ids": ids(), "max_new_tokens": 1, **arguments})


@pytest.mark.parametrize("prompt", [[1, 2], torch.tensor([[1, 2]])])
def test_a_prompt_is_a_single_text(prompt: Any) -> None:
    with (
        as_a_reader_sees_it(),
        pytest.raises(ValueError, match=r"prompt=.*: give a single text, a tensor \(P,\) of ids"),
    ):
        make().prefill(prompt)


def test_what_was_written_can_be_learned_from() -> None:
    """No tensor of inference mode leaves the model: autograd would refuse to save it."""
    model, prompt = make(**LONGER["llama"]).train(), ids(1, 5, seed=1)[0]
    cache = model.prefill(prompt)
    for written in (model.generate(ids(), 2), model.generate(ids(), 2, prompt_cache=cache), model.generate(ids(), 0)):
        assert not written.is_inference()
        model(written[:, :-1], written[:, 1:]).loss.backward()
    assert not any(x.is_inference() for layer in cache for x in (layer.keys, layer.values))
    after = model(ids(), ids(seed=1), cache=[layer.expand(3) for layer in cache])
    after.loss.backward()


def test_writing_goes_on_past_the_context() -> None:
    model, text = make(dropout=0.5).train(), ids(2, 5)
    written = model.generate(text, 9, temperature=0)
    assert written.shape == (2, 14) and torch.equal(written[:, :5], text)
    assert model.training
    model.eval()
    with torch.no_grad():
        for t in range(5, 14):  # each token is the likeliest one after the newest nine
            assert torch.equal(written[:, t], model(written[:, max(0, t - 9) : t]).logits[:, -1].argmax(-1))


def test_sampling_depends_on_the_generator_alone() -> None:
    def draw(seed: int) -> Tensor:
        return make().generate(ids(), 4, top_k=5, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


def test_too_long_and_foreign_texts_are_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match="ids reach to position 10, and context_length=9"):
        model(ids(1, 10))
    cache = model.new_cache()
    model(ids(1, 6), cache=cache)
    with pytest.raises(ValueError, match="ids reach to position 10"):
        model(ids(1, 4), cache=cache)
    with pytest.raises(IndexError, match="index out of range"):
        model(torch.full((1, 2), V))
    with as_a_reader_sees_it(), pytest.raises(TypeError, match="ids is of type torch.int32"):
        model(ids().int())


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_training_begins_near_ln_v_and_a_batch_is_learned_by_heart(norm_position: str) -> None:
    torch.manual_seed(0)
    model = Decoder(dataclasses.replace(TINY, norm_position=norm_position))
    text, targets = ids(), ids(seed=1)
    assert model(text, targets).loss.item() == pytest.approx(math.log(V), abs=0.15)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(text, targets).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_residual_outputs_start_smaller_the_deeper_the_model() -> None:
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(vocab_size=100, context_length=8, d_model=128, n_layers=8, n_heads=4))
    block = model.blocks[0]
    for added in (block.attention.out, block.feed_forward.down):
        assert added.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05) and added.bias.eq(0).all()
    for other in (block.attention.query, block.feed_forward.up, model.embedding):
        assert other.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attention_norm.weight.eq(1).all()


@pytest.mark.parametrize("tie", [True, False])
def test_what_is_saved_comes_back(tie: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Decoder(dataclasses.replace(TINY, tie_embeddings=tie, dropout=0.1))
    checkpoints.save(model, tmp_path / "model", card={}, dtype=torch.float16)
    model.half().float()  # as it is stored
    same = Decoder.from_pretrained(str(tmp_path / "model"))
    assert same.config == model.config and not same.training
    assert (same.output.weight is same.embedding.weight) == tie
    assert torch.equal(same(ids()).logits, model.eval()(ids()).logits)


def test_save_writes_a_model_that_comes_back(tmp_path: Path) -> None:
    model = Decoder(TINY)
    model.save(tmp_path / "model")
    assert Decoder.from_pretrained(tmp_path / "model").config == TINY
    assert checkpoints.load(tmp_path / "model").card == {}


@pytest.mark.parametrize("kind", KINDS)
def test_the_operations_are_those_that_torch_counts(kind: str) -> None:
    model, text = make(**KINDS[kind]), ids()
    with torch.no_grad(), capture_attention(model.modules()), FlopCounterMode(display=False) as counter:
        model(text)
    B, T, half = (
        *text.shape,
        2 * L * text.shape[1] * TINY.d_model,
    )  # torch counts all T keys of a query, not those up to it
    assert counter.get_total_flops() == B * T * (model.flops_per_token(T) + half)
    assert model.flops_per_token() == model.flops_per_token(TINY.context_length)


# --- Public files ---


@pytest.fixture(params=["gpt1", "gpt2"])
def public(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    """Return a model of transformers with random weights, and the folder that it was saved to."""
    model = randomised(public_model(request.param)).float().eval()
    model.save_pretrained(tmp_path)
    return model, tmp_path


def rewrite(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({k: v.contiguous().clone() for k, v in change(weights).items()}, folder / "model.safetensors")


def test_public_files_load_under_both_styles_of_names(public: tuple[Any, Path]) -> None:
    theirs, folder = public
    expected = theirs(ids()).logits
    ours = Decoder.from_pretrained(str(folder))
    assert not ours.training and ours.output.weight is ours.embedding.weight
    assert_close(ours(ids()).logits, expected, rtol=1e-4, atol=1e-4)

    def as_on_the_hub(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        bare = {name.removeprefix("transformer."): w for name, w in weights.items()}
        return {**bare, "h.0.attn.bias": torch.ones(1, 1, 9, 9), "h.1.attn.masked_bias": torch.tensor(-1e4)}

    rewrite(folder, as_on_the_hub)
    assert torch.equal(Decoder.from_pretrained(str(folder))(ids()).logits, ours(ids()).logits)


def test_a_public_file_must_hold_every_weight_and_no_other(public: tuple[Any, Path]) -> None:
    _, folder = public
    name = "transformer.h.1.mlp.c_fc.bias"
    rewrite(folder, lambda weights: {k: w for k, w in weights.items() if k != name})
    with pytest.raises(ValueError, match=r"checkpoint lacks \['blocks.1.feed_forward.up.bias'\]"):
        Decoder.from_pretrained(str(folder))
    rewrite(folder, lambda weights: {**weights, name: torch.zeros(48), "h.2.attn.rotary": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"has \['blocks\.2\.attn\.rotary'\]"):
        Decoder.from_pretrained(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "swish", "afn": "swish"}, "='swish' is none of this library's activations"),
        (
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx=True is not of this library's networks",
        ),
        ({"scale_attn_weights": False}, "scale_attn_weights=False is not of this library's networks"),
        ({"tie_word_embeddings": False}, r"checkpoint lacks \['output.weight'\]"),
    ],
)
def test_a_public_model_of_another_make_is_refused(
    public: tuple[Any, Path], changes: dict[str, Any], message: str
) -> None:
    _, folder = public
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=message):
        Decoder.from_pretrained(str(folder))
    file.write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read"):
        Decoder.from_pretrained(str(folder))


def test_an_output_matrix_of_its_own_is_read_where_the_config_says_so(public: tuple[Any, Path]) -> None:
    _, folder = public
    own = torch.randn(V, 12)
    rewrite(folder, lambda weights: {**weights, "lm_head.weight": own})
    with pytest.raises(ValueError, match="lm_head.weight differs from the embedding"):
        Decoder.from_pretrained(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert torch.equal(Decoder.from_pretrained(str(folder)).output.weight, own)


# --- The hub, by name ---


def fake_hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    """Put a module in the place of huggingface_hub that notes which model it was asked for."""
    asked: list[str] = []

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append(name)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    return asked


def test_a_name_is_looked_up_on_the_hub(public: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, folder = public
    asked = fake_hub(monkeypatch, folder)
    for name in ("gpt2", "openai-gpt", "somebody/small-gpt2"):
        assert_close(Decoder.from_pretrained(name)(ids()).logits, theirs(ids()).logits, rtol=1e-4, atol=1e-4)
    assert asked == ["openai-community/gpt2", "openai-community/openai-gpt", "somebody/small-gpt2"]


def test_without_a_network_the_hub_gives_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, OSError("no route to host"))
    with pytest.raises(
        ConnectionError, match=r"path='gpt2' is no folder and no model of the library, and the hub cannot"
    ):
        Decoder.from_pretrained("gpt2")
    fake_hub(monkeypatch, type("RepositoryNotFoundError", (Exception,), {})())
    with pytest.raises(ValueError, match="not on the hub"):
        Decoder.from_pretrained("nobody/nothing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"nextword\[chapters\]"):
        Decoder.from_pretrained("gpt2")
    with pytest.raises(ValueError, match="path='gtp2' holds no model"):
        Decoder.from_pretrained("gtp2")  # a plain unknown name never asks the hub


# Sparse layers


SMALL: dict[str, Any] = {"vocab_size": 50, "context_length": 24, "d_model": 8, "n_heads": 2}
SPARSE = {
    "alternating": {"attention": ("dense", "local"), "window": 3},
    "strided": {"attention": ("strided",), "stride": 3},
    "fixed, heads split": {"attention": ("fixed",), "stride": 4, "summary": 2, "sparse_heads": "split"},
}


@pytest.mark.parametrize("settings", SPARSE.values(), ids=SPARSE)
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_sparse_layers_write_with_a_cache_what_they_write_without(settings, positions):
    model = randomised(Decoder(DecoderConfig(**SMALL, n_layers=3, positions=positions, **settings))).eval()
    ids = torch.randint(50, (2, 17))
    whole, cache = model(ids).logits, model.new_cache()
    parts = [model(part, cache=cache).logits for part in torch.split(ids, [9, 1, 4, 1, 1, 1], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize("settings", SPARSE.values(), ids=SPARSE)
def test_sparse_layers_equal_dense_ones_with_the_same_mask(settings):
    model = randomised(Decoder(DecoderConfig(**SMALL, n_layers=3, **settings))).eval()
    ids = torch.randint(50, (2, 17))
    found = model(ids).logits
    with capture_attention(model.modules()) as weights:  # this path computes all pairs
        torch.testing.assert_close(model(ids).logits, found, atol=1e-10, rtol=0)
    for pattern, seen in zip(model.config.patterns(), weights, strict=True):
        for head in range(2):
            allowed = torch.ones(17, 17).tril().bool() if pattern is None else pattern.mask(17, head)
            assert torch.equal(seen[:, head] > 0, allowed.expand(2, 17, 17))


@pytest.mark.parametrize("settings", SPARSE.values(), ids=SPARSE)
def test_filling_on_the_left_changes_nothing_in_sparse_layers(settings):
    model = randomised(Decoder(DecoderConfig(**SMALL, n_layers=3, **settings))).eval()
    ids = torch.randint(50, (1, 11))
    filled = torch.cat([torch.zeros(1, 5, dtype=torch.int64), ids], 1)
    mask = torch.arange(16)[None] >= 5
    torch.testing.assert_close(model(filled, mask=mask).logits[:, 5:], model(ids).logits, atol=1e-10, rtol=0)
    written = model.generate(ids, 6, temperature=0)
    assert torch.equal(model.generate(filled, 6, temperature=0, mask=mask)[:, 5:], written)


def test_a_model_with_sparse_layers_comes_back_from_its_folder(tmp_path):
    model = Decoder(DecoderConfig(**SMALL, n_layers=2, attention=("dense", "local"), window=3)).eval()
    model.save(tmp_path)
    restored = Decoder.from_pretrained(tmp_path)
    assert restored.config == model.config
    ids = torch.randint(50, (1, 9))
    assert torch.equal(restored(ids).logits, model(ids).logits)


def test_sparse_layers_compute_less():
    dense, sparse = (
        Decoder(DecoderConfig(**{**SMALL, "context_length": 1024}, n_layers=2, attention=kinds, window=32))
        for kinds in (("dense",), ("dense", "local"))
    )
    assert dense.flops_per_token() - sparse.flops_per_token() == pytest.approx(4 * 8 * (1024 / 2 - 32), rel=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": ()}, r"attention=\(\): name one or more of dense, local"),
        ({"attention": ("dense", "banded")}, "banded'.*: name one or more of"),
        ({"attention": ("local",)}, "window=None: kind='local' needs"),
    ],
)
def test_a_kind_of_attention_that_cannot_be_is_named(settings, message):
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        DecoderConfig(**SMALL, n_layers=2, **settings)


def test_sizes_that_nobody_has_made_a_config_of_are_refused() -> None:
    with (
        as_a_reader_sees_it(),
        pytest.raises(TypeError, match=r"config is of type dict; give DecoderConfig\(\*\*config\)"),
    ):
        Decoder({"vocab_size": 5})  # type: ignore[arg-type]
