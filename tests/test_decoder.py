"""The decoder against transformers' GPT-2 and GPT-1, its published sizes, and what causality, caches and windows promise."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import as_a_reader_sees_it, assert_close, randomised
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from nextword import checkpoints
from nextword.decoder import PRESETS, Decoder, DecoderConfig

V, L = 23, 2
TINY = DecoderConfig(V, 9, d_model=12, n_layers=L, n_heads=3, dropout=0.0)

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
}


def ids(B: int = 3, T: int = 7, seed: int = 0) -> Tensor:
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(seed))


def make(seed: int = 0, **changes: Any) -> Decoder:
    return randomised(Decoder(dataclasses.replace(TINY, **changes)), seed)


# --- Published sizes ---


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = Decoder(DecoderConfig.preset(name))
    assert model.num_parameters() == COUNTS[name]
    c = model.config
    assert COUNTS[name] - model.num_parameters(embedding=False) == (c.vocab_size + c.context_length) * c.d_model


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
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


# --- Parity ---


def as_theirs(ours: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return our parameters, or their gradients, under transformers' names; its Conv1D stores matrices transposed."""
    table, places = ("tokens_embed", "positions_embed") if kind == "gpt1" else ("wte", "wpe")
    theirs = {f"{table}.weight": ours["embedding.weight"], f"{places}.weight": ours["positions.weight"]}
    if kind == "gpt2":
        theirs |= {f"ln_f.{k}": ours[f"norm.{k}"] for k in ("weight", "bias")}
    for i in range(L):
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


def public_model(kind: str) -> Any:
    sizes = {"vocab_size": V, "n_positions": 9, "n_embd": 12, "n_layer": L, "n_head": 3}
    sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    gpt1 = kind == "gpt1"
    return OpenAIGPTLMHeadModel(OpenAIGPTConfig(**sizes)) if gpt1 else GPT2LMHeadModel(GPT2Config(**sizes))


@pytest.mark.parametrize("kind", ["gpt1", "gpt2"])
def test_outputs_and_gradients_are_those_of_transformers(kind: str) -> None:
    ours = make(norm_position="post" if kind == "gpt1" else "pre")
    theirs = public_model(kind).double()
    mapped = as_theirs({name: p.detach() for name, p in ours.named_parameters()}, kind)
    other = dict(theirs.named_parameters())
    assert set(mapped) == set(other)
    with torch.no_grad():
        for name, parameter in other.items():
            parameter.copy_(mapped[name])
    logits, expected = ours(ids()).logits, theirs(ids()).logits
    assert_close(logits, expected)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = as_theirs({name: p.grad for name, p in ours.named_parameters() if p.grad is not None}, kind)
    for name, parameter in other.items():
        assert_close(gradients[name], parameter.grad)
        assert parameter.grad.abs().max() > 1e-6, name


def test_the_loss_is_the_mean_over_real_targets() -> None:
    model, targets = make(), ids(seed=1)
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


def test_filling_behind_a_text_changes_nothing() -> None:
    model, text = make(), ids(2, 7)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    alone = model(text[1:, :4]).logits
    assert_close(model(text, mask=mask).logits[1, :4], alone[0])


@pytest.mark.parametrize("parts", [(7,), (1,) * 7, (3, 1, 3)])
def test_a_cache_changes_nothing(parts: tuple[int, ...]) -> None:
    model, text = make(), ids()
    cache, start, logits = model.new_cache(), 0, []
    with torch.no_grad():
        for n in parts:
            logits.append(model(text[:, start : start + n], cache=cache).logits)
            start += n
        assert_close(torch.cat(logits, 1), model(text).logits)
    assert cache[0].length == 7


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
    with pytest.raises(ValueError, match="ids holds ids from"):
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
    model = Decoder(DecoderConfig(100, 8, d_model=128, n_layers=8, n_heads=4))
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
    checkpoints.save(model, tmp_path / "model", card={})
    model.half().float()  # as it is stored
    same = Decoder.from_pretrained(str(tmp_path / "model"))
    assert same.config == model.config and not same.training
    assert (same.output.weight is same.embedding.weight) == tie
    assert torch.equal(same(ids()).logits, model.eval()(ids()).logits)


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


def test_a_public_model_of_another_make_is_refused(public: tuple[Any, Path]) -> None:
    _, folder = public
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "layer_norm_epsilon": 1e-6}))
    with pytest.raises(ValueError, match="layer_norm_epsilon=1e-06 is not of this decoder"):
        Decoder.from_pretrained(str(folder))
    file.write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read"):
        Decoder.from_pretrained(str(folder))
