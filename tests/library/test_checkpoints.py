"""Folders with models: what is written comes back, what is broken is named, and a crash leaves the old one whole."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import as_a_reader_sees_it
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nextword import checkpoints, data
from nextword.decoder import Decoder, DecoderConfig
from nextword.encoder import Encoder, EncoderConfig, MaskedLM
from nextword.evaluation import perplexity
from nextword.recurrent import Seq2SeqConfig, Seq2SeqLSTM
from nextword.reward_model import RewardModel
from nextword.tokenizers import ByteBPE
from nextword.training import TrainConfig, fit
from nextword.transformer import Transformer, TransformerConfig
from nextword.translation import SPECIAL_TOKENS, TranslationTokenizer, cross_entropy

V, C = 13, 8
CARD = {"made by": "nobody: «prueba»", "steps": 3, "licence": "CC0"}
TRANSFORMER = TransformerConfig(source_vocab=V, target_vocab=V, d_model=C, n_heads=2, n_layers=1, d_ff=16, dropout=0.4)
LSTM = Seq2SeqConfig(source_vocab=V, target_vocab=V, d_model=C, dropout=0.4)
SIZES = {"vocab_size": 50, "context_length": 8, "d_model": 4, "n_layers": 1, "n_heads": 1}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: Transformer(TRANSFORMER),
    "transformer, learned": lambda: Transformer(dataclasses.replace(TRANSFORMER, positions="learned", max_length=9)),
    "transformer, untied": lambda: Transformer(dataclasses.replace(TRANSFORMER, share_embeddings=False)),
    "lstm": lambda: Seq2SeqLSTM(LSTM),
    "lstm, untied": lambda: Seq2SeqLSTM(dataclasses.replace(LSTM, share_embeddings=False, source_vocab=17)),
    "lstm, one vector": lambda: Seq2SeqLSTM(dataclasses.replace(LSTM, attention="none", n_layers=3, residual_from=2)),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


def batch() -> tuple[Tensor, Tensor]:
    return torch.tensor([[4, 5, 6], [7, 8, 0]]), torch.tensor([[1, 4, 5, 6], [1, 9, 0, 0]])


def rounded(model: nn.Module) -> nn.Module:
    """Return a copy whose weights went through half precision."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(parameter.half())
    return other


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- Round trips ---


def test_what_is_saved_comes_back(model: Any, tmp_path: Path) -> None:
    bpe = ByteBPE.train([" el gato, el perro ñ"], 264, special_tokens=SPECIAL_TOKENS)
    checkpoints.save(model, tmp_path / "new" / "tiny", card=CARD, tokenizer=bpe)
    found = checkpoints.read(str(tmp_path / "new" / "tiny"))
    assert found.card == CARD
    assert (found.architecture, found.config) == (type(model).__name__, dataclasses.asdict(model.config))
    assert found.tokenizer is not None and found.tokenizer.special_tokens == bpe.special_tokens
    assert found.tokenizer.merges() == bpe.merges()
    assert found.tokenizer.encode(" el gato ñandú") == bpe.encode(" el gato ñandú")
    wanted = dict(model.named_parameters())
    assert found.weights.keys() == wanted.keys()
    for name, weight in found.weights.items():
        assert weight.dtype == torch.float32 and torch.equal(weight, wanted[name]), name
    other = type(model)(model.config)
    checkpoints.load_state_dict(other, found.weights)
    for name, weight in other.state_dict().items():  # here shared matrices have both their names
        assert torch.equal(weight, model.state_dict()[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_file_holds_the_dtype_asked_for_and_shared_matrices_once(
    model: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    checkpoints.save(model, tmp_path / "tiny", card=CARD, dtype=dtype)
    tensors = load_file(tmp_path / "tiny" / "model.safetensors")
    assert {w.dtype for w in tensors.values()} == {dtype}
    for name, parameter in type(model).from_pretrained(str(tmp_path / "tiny")).named_parameters():
        assert torch.equal(parameter, model.get_parameter(name).to(dtype).float()), name
    assert sum(w.numel() for w in tensors.values()) == model.num_parameters()
    assert ("output.weight" in tensors) != model.config.share_embeddings
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["card.json", "config.json", "model.safetensors", "tiny"]


def test_from_pretrained_is_the_same_model_without_dropout(model: Any, tmp_path: Path) -> None:
    model.train()
    checkpoints.save(model, tmp_path / "tiny", card=CARD, dtype=torch.float16)
    assert model.training
    other = type(model).from_pretrained(str(tmp_path / "tiny"))
    assert other.config == model.config and not any(m.training for m in other.modules())
    with torch.no_grad():
        assert torch.equal(other(*batch()).logits, rounded(model).eval()(*batch()).logits)
    other(*batch()).logits.sum().backward()  # it can be trained on
    if model.config.share_embeddings:
        assert other.output.weight is other.target_embedding.weight is other.source_embedding.weight


def test_a_new_model_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    bpe = ByteBPE.train([], 259, special_tokens=SPECIAL_TOKENS)
    checkpoints.save(Transformer(TRANSFORMER), tmp_path / "tiny", card=CARD, tokenizer=bpe)
    assert checkpoints.load(tmp_path / "tiny").tokenizer is not None
    checkpoints.save(Seq2SeqLSTM(LSTM), tmp_path / "tiny", card={})
    found = checkpoints.load(tmp_path / "tiny")
    assert isinstance(found.model, Seq2SeqLSTM) and found.card == {} and found.tokenizer is None
    assert os.listdir(tmp_path) == ["tiny"]


def test_a_plain_name_is_a_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path)
    for name in ("tiny", "small"):
        checkpoints.save(Seq2SeqLSTM(LSTM), tmp_path / name, card={"name": name})
    assert checkpoints.load("tiny").card == {"name": "tiny"}
    assert isinstance(Seq2SeqLSTM.from_pretrained("small"), Seq2SeqLSTM)


# --- What is refused ---


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path)
    with pytest.raises(ValueError, match="path='huge' .*: none"):
        checkpoints.load("huge")
    for name in ("tiny", "small"):
        checkpoints.save(Seq2SeqLSTM(LSTM), tmp_path / name, card=CARD)
    (tmp_path / "empty").mkdir()
    for path in ("huge", "empty"):
        with pytest.raises(ValueError, match=f"path='{path}' .*: small, tiny$"):
            Transformer.from_pretrained(path)


def test_a_model_of_another_class_is_refused(tmp_path: Path) -> None:
    checkpoints.save(Seq2SeqLSTM(LSTM), tmp_path / "tiny", card=CARD)
    with pytest.raises(ValueError, match="a Seq2SeqLSTM, not a Transformer; Seq2SeqLSTM.from_pretrained reads it"):
        Transformer.from_pretrained(str(tmp_path / "tiny"))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = Seq2SeqLSTM(LSTM)
    checkpoints.save(model, tmp_path / "tiny", card=CARD)
    whole = checkpoints.read(tmp_path / "tiny").weights
    name = "decoder.1.bias_hh_l0"
    short = {n: w for n, w in whole.items() if n != name}
    wrong = {
        rf"lacks \['{name}'\]": short,
        r"has \['spare'\]": {**whole, "spare": torch.zeros(2)},
        r"has \['output.weight'\]": {**whole, "output.weight": torch.zeros(V, C)},
        rf"{name} as \(3, 2\), the model as \({4 * C},\)": {**whole, name: torch.zeros(3, 2)},
    }
    for message, weights in wrong.items():
        with pytest.raises(ValueError, match=message):
            checkpoints.load_state_dict(model, weights)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def _change(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None takes one out."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


BROKEN: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "weights cut off": ("model.safetensors", _cut),
    "weights empty": ("model.safetensors", lambda file: file.write_bytes(b"")),
    "weights missing": ("model.safetensors", Path.unlink),
    "config cut off": ("config.json", _cut),
    "config not UTF-8": ("config.json", lambda file: file.write_bytes(b'{"model": "\xff"}')),
    "config a list": ("config.json", lambda file: file.write_text("[]")),
    "config null": ("config.json", lambda file: file.write_text("null")),
    "config lacks a field": ("config.json", lambda file: _change(file, source_vocab=None)),
    "config of another type": ("config.json", lambda file: _change(file, d_model="8")),
    "config with a field too many": ("config.json", lambda file: _change(file, spare=1)),
    "config without a model": ("config.json", lambda file: _change(file, model=None)),
    "card a list": ("card.json", lambda file: file.write_text("[]")),
    "card cut off": ("card.json", _cut),
    "card missing": ("card.json", Path.unlink),
    "tokenizer cut off": ("tokenizer.json", _cut),
    "other format": ("config.json", lambda file: _change(file, format=2)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_named(case: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    checkpoints.save(
        Seq2SeqLSTM(LSTM), path, card=CARD, tokenizer=ByteBPE.train([], 259, special_tokens=SPECIAL_TOKENS)
    )
    file, damage = BROKEN[case]
    damage(path / file)
    with as_a_reader_sees_it(), pytest.raises(ValueError) as caught:
        Seq2SeqLSTM.from_pretrained(str(path))
    assert str(path) in str(caught.value)
    if case == "other format":
        assert "format 1" in str(caught.value)


FOREIGN = {
    "notes": (
        ["notes.txt"],
        "holds notes.txt, no earlier save's, which save would delete; give a new folder, or one that",
    ),
    "folder": (["data/text.txt"], "holds data, no earlier save's"),
    "training": (
        ["a.txt", "training.pt"],
        r"holds training.pt, the state of a training by fit\(checkpoint=…\), which save",
    ),
    "own settings": (["config.json"], "holds config.json, no earlier save's"),
    "with a model": (["MODEL", "log.txt"], "holds log.txt, no earlier save's"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_folder_with_anything_that_save_does_not_write_is_left_as_it_is(case: str, tmp_path: Path) -> None:
    names, message = FOREIGN[case]
    path = tmp_path / "tiny"
    for name in names:
        if name == "MODEL":
            checkpoints.save(Seq2SeqLSTM(LSTM), path, card=CARD)
        else:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text("years of work")
    before = content(tmp_path)
    decoder = Decoder(DecoderConfig(**SIZES))
    for save in (decoder.save, RewardModel(decoder).save, functools.partial(checkpoints.save, decoder, card={})):
        with as_a_reader_sees_it(), pytest.raises(ValueError, match=message):
            save(path)
    assert content(tmp_path) == before and os.listdir(tmp_path) == ["tiny"]


def test_a_file_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    with (
        as_a_reader_sees_it(),
        pytest.raises(ValueError, match="thesis' is a file, which save would delete; give a new"),
    ):
        checkpoints.save(Seq2SeqLSTM(LSTM), tmp_path / "thesis", card=CARD)
    assert content(tmp_path) == {"thesis": b"years of work"}


def test_a_training_goes_on_after_its_model_was_to_be_saved_over_it(tmp_path: Path) -> None:
    model, batches = Decoder(DecoderConfig(**SIZES)), [(torch.ones(1, 4, dtype=torch.int64),) * 2]
    fit(model, batches, TrainConfig(steps=2, schedule="constant"), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="training.pt"):
        model.save(tmp_path)
    history = fit(model, batches, TrainConfig(steps=3, schedule="constant"), checkpoint=tmp_path, resume=True)
    assert history.steps == [1, 2, 3]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_all_files_of_a_saved_model_may_be_read_by_the_same_people(tmp_path: Path) -> None:
    bpe = ByteBPE.train([], 259, special_tokens=SPECIAL_TOKENS)
    checkpoints.save(Seq2SeqLSTM(LSTM), tmp_path / "tiny", card=CARD, tokenizer=bpe)
    (tmp_path / "other").write_text("")
    modes = {path.stat().st_mode for path in (tmp_path / "tiny").iterdir()}
    assert modes == {(tmp_path / "other").stat().st_mode} and len(list((tmp_path / "tiny").iterdir())) == 4


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    model = Decoder(DecoderConfig(**SIZES))
    with pytest.raises(ValueError, match="tokenizer has 256 ids, and the model vocab_size=50; give the one that made"):
        model.save(tmp_path / "tiny", tokenizer=ByteBPE.train([], 260))
    with as_a_reader_sees_it(), pytest.raises(TypeError, match="tokenizer='gpt2'; give the ByteBPE that made"):
        model.save(tmp_path / "tiny", tokenizer="gpt2")
    assert os.listdir(tmp_path) == []
    padded = Decoder(DecoderConfig(**{**SIZES, "vocab_size": 320}))
    padded.save(tmp_path / "tiny", tokenizer=ByteBPE.train([], 260))


@pytest.mark.parametrize("name", ["", "training.pt"])
def test_the_state_of_a_training_is_no_model(name: str, tmp_path: Path) -> None:
    model, batches = Decoder(DecoderConfig(**SIZES)), [(torch.ones(1, 4, dtype=torch.int64),) * 2]
    fit(model, batches, TrainConfig(steps=1), checkpoint=tmp_path)
    for load in (checkpoints.load, Decoder.from_pretrained, RewardModel.from_pretrained):
        with pytest.raises(
            ValueError, match=r"holds the state of a training; fit\(…, checkpoint=…, resume=True\) goes on"
        ):
            load(tmp_path / name)


# --- Crashes ---


class Crash(BaseException):
    """As an interrupt, no Exception."""


def _save_file_breaks(monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    def half(tensors: Any, filename: Path, **_: Any) -> None:
        Path(filename).write_bytes(b"half of it")
        raise Crash

    monkeypatch.setattr(checkpoints, "save_file", half)


def _replace_breaks(monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    """The first time that something is to get the folder's name, it does not."""
    real, broken = os.replace, []

    def replace(source: Any, destination: Any) -> None:
        if Path(destination) == target and not broken:
            broken.append(source)
            raise Crash
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("breaks", [_save_file_breaks, _replace_breaks])
@pytest.mark.parametrize("old", [True, False])
def test_a_crash_leaves_the_old_folder_whole_and_nothing_else(
    breaks: Callable[[pytest.MonkeyPatch, Path], None], old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny"
    if old:
        checkpoints.save(Seq2SeqLSTM(LSTM), path, card=CARD)
    before = content(tmp_path)
    breaks(monkeypatch, path)
    with pytest.raises(Crash):
        checkpoints.save(Transformer(TRANSFORMER), path, card={})
    assert content(tmp_path) == before
    assert os.listdir(tmp_path) == (["tiny"] if old else [])


# --- The models that come with the library ---


@functools.cache
def lineage() -> dict[str, Any]:
    """Return the functions that the GPT-2 chapter shows: the bundled decoders are made by them."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
    import record

    return record.namespace("2019_gpt2")


BUNDLED = sorted(p.parent.name for p in checkpoints.BUNDLED.glob("*/config.json"))


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models_are_as_good_as_their_cards_say(name: str) -> None:
    checkpoint = checkpoints.load(name)
    model = checkpoint.model
    assert checkpoint.card["made by"] and checkpoint.card["data"] and checkpoint.card["licence"]
    assert model.num_parameters() == checkpoint.card["parameters"]
    assert checkpoint.tokenizer is not None
    if isinstance(model, Decoder):
        names = lineage()
        held = names["encode"](names["documents"]("valid"), checkpoint.tokenizer)[:20_000]
        value = perplexity(model, held, context_length=256)
        assert value == pytest.approx(checkpoint.card["valid"], rel=0.002)
    else:
        tokenizer, test = TranslationTokenizer.from_bpe(checkpoint.tokenizer), data.load_tatoeba("test")
        pairs = tokenizer.encode_pairs(test[:: max(1, len(test) // 400)])
        value = math.exp(cross_entropy(model, pairs, tokenizer))
        assert value == pytest.approx(checkpoint.card["perplexity"], rel=0.005)


def test_what_is_bundled_is_small() -> None:
    assert sum(p.stat().st_size for p in checkpoints.BUNDLED.parent.rglob("*") if p.is_file()) < 15e6


# --- Rounding ---


def test_eight_bits_quarter_the_file_and_move_each_weight_by_less_than_half_a_step(model: Any, tmp_path: Path) -> None:
    checkpoints.save(model, tmp_path / "tiny", card=CARD, dtype=torch.int8)
    weights = checkpoints.read(tmp_path / "tiny").weights
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            step = weight.detach().abs().amax(1, keepdim=True) / 127
            assert bool(((weights[name] - weight).abs() <= 0.501 * step + 1e-9).all()), name
        else:
            assert torch.equal(weights[name], weight.half().float()), name
    tensors = load_file(tmp_path / "tiny" / "model.safetensors")
    assert {tensors[n].dtype for n, p in model.named_parameters() if p.ndim == 2} == {torch.int8}
    checkpoints.load_state_dict(type(model)(model.config), weights)


def test_a_row_of_zeros_survives_eight_bits(tmp_path: Path) -> None:
    model = Transformer(TRANSFORMER)
    name, weight = next((n, p) for n, p in model.named_parameters() if p.ndim == 2)
    with torch.no_grad():
        weight[0] = 0
    checkpoints.save(model, tmp_path / "tiny", card=CARD, dtype=torch.int8)
    assert checkpoints.read(tmp_path / "tiny").weights[name][0].eq(0).all()


@pytest.mark.parametrize("damage", ["no scales", "no matrix", "a scale for half of the rows"])
def test_eight_bits_without_their_scales_are_named(damage: str, tmp_path: Path) -> None:
    checkpoints.save(Seq2SeqLSTM(LSTM), tmp_path / "tiny", card=CARD, dtype=torch.int8)
    file, name = tmp_path / "tiny" / "model.safetensors", "decoder.1.weight_hh_l0"
    tensors = load_file(file)
    if damage == "a scale for half of the rows":
        tensors[name + ".scale"] = tensors[name + ".scale"][::2].contiguous()
    else:
        del tensors[name if damage == "no matrix" else name + ".scale"]
    save_file(tensors, file)
    lost = damage == "no matrix"
    message = rf"lacks \['{name}'\] and has \['{name}.scale'\]" if lost else f"{name} is in 8 bits, and there is no"
    with pytest.raises(ValueError, match=message):
        Seq2SeqLSTM.from_pretrained(str(tmp_path / "tiny"))


@pytest.mark.parametrize("value", [7e4, -1e39, math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_a_weight_that_does_not_fit_is_refused_and_nothing_is_written(
    dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    model = Decoder(DecoderConfig(**SIZES)).double()
    with torch.no_grad():
        model.blocks[0].feed_forward.up.bias[3] = value
        model.blocks[0].feed_forward.up.weight[3, 2] = value
    largest = 65_504 if dtype in (torch.float16, torch.int8) else 3.4e38
    if (dtype == torch.int8 and not math.isfinite(value)) or (math.isfinite(value) and abs(value) > largest):
        message = rf"blocks\.0\.feed_forward\.up\.\w+ holds \S+, which does not fit dtype={dtype}; dtype=torch.float32"
        with pytest.raises(ValueError, match=message):
            model.save(tmp_path / "tiny", dtype=dtype)
        assert os.listdir(tmp_path) == []
    else:
        model.save(tmp_path / "tiny", dtype=dtype)
        back = Decoder.from_pretrained(tmp_path / "tiny").blocks[0].feed_forward.up.bias[3]
        assert torch.equal(back.isnan(), torch.tensor(math.isnan(value))) and (
            math.isnan(value) or back == value or abs(back - value) < 0.01 * abs(value)
        )


def test_what_a_model_computes_is_the_same_to_the_last_bit_after_saving(tmp_path: Path) -> None:
    for positions in ("learned", "sinusoidal", "rotary"):
        model = Decoder(DecoderConfig(**{**SIZES, "n_layers": 2, "n_heads": 2}, positions=positions)).eval()
        model.save(tmp_path / positions)
        other, ids = Decoder.from_pretrained(tmp_path / positions), torch.randint(50, (2, 8))
        assert torch.equal(model(ids).logits, other(ids).logits)
        for (name, mine), (_, theirs) in zip(model.named_buffers(), other.named_buffers(), strict=True):
            assert torch.equal(mine, theirs), name


def test_an_unknown_dtype_names_those_that_there_are(tmp_path: Path) -> None:
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="dtype=torch.float64: choose torch.float32, float16, "):
        checkpoints.save(Transformer(TRANSFORMER), tmp_path / "tiny", card=CARD, dtype=torch.float64)


# --- Loading ---


class WithBuffers(nn.Module):
    """Has what the library's own models have: shared matrices, buffers that are saved, and others that are computed."""

    config = LSTM

    def __init__(self) -> None:
        super().__init__()
        self.table, self.output = nn.Embedding(5, 3), nn.Linear(3, 5)
        self.output.weight = self.table.weight
        self.lstm = nn.LSTM(3, 3)
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)
        self.register_buffer("gain", torch.tensor(1.0))
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("bias", torch.zeros((), device=self.table.weight.device))
        self.register_buffer("sinusoids", torch.arange(4.0).sin(), persistent=False)
        nn.init.trunc_normal_(self.lstm.weight_hh_l0)


def test_buffers_shared_and_frozen_parameters_come_back_and_what_is_computed_is_computed(tmp_path: Path) -> None:
    model = WithBuffers()
    model.gain.fill_(1 / 3)
    model.steps.fill_(2**24 + 1)
    model.bias.fill_(0.1)
    checkpoints.save(model, tmp_path / "tiny", card={}, dtype=torch.float16)
    weights = checkpoints.read(tmp_path / "tiny").weights
    other = checkpoints.from_state_dict(WithBuffers, weights)
    assert not other.training and other.output.weight is other.table.weight and not other.frozen.requires_grad
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, other.get_buffer(name)), name
    assert not any(tensor.is_meta for tensor in [*other.parameters(), *other.buffers()])
    x = torch.randn(4, 1, 3)
    model.half().float()
    assert torch.equal(model.lstm(x)[0], other.lstm(x)[0])
    other.output(other.lstm(x)[0]).sum().backward()
    assert other.table.weight.grad is not None and other.lstm.weight_hh_l0.grad is not None
    nn.Linear(2, 2)(torch.ones(2))  # other models are made as ever
    other.table.weight.data.zero_()
    assert weights["table.weight"].any(), "the model has numbers of its own"


def saved_models(folder: Path) -> dict[str, Callable[[], Any]]:
    """Return a way to load each class that can be saved, and some published files."""
    encoder = Encoder(EncoderConfig(**SIZES))
    models = {
        "decoder": Decoder(DecoderConfig(**SIZES)),
        "sinusoidal": Decoder(DecoderConfig(**SIZES, positions="sinusoidal")),
        "encoder": encoder,
        "masked": MaskedLM(encoder),
        "transformer": Transformer(TRANSFORMER),
        "lstm": Seq2SeqLSTM(LSTM),
    }
    for name, model in models.items():
        checkpoints.save(model, folder / name, card={})
    ways = {name: functools.partial(checkpoints.load, folder / name) for name in models}
    ways |= {f"{n} itself": functools.partial(type(m).from_pretrained, str(folder / n)) for n, m in models.items()}
    return ways | {
        "minilm": lambda: Encoder.from_pretrained("minilm"),
        "bundled": lambda: checkpoints.load("gnmt_en_es"),
    }


def test_loading_draws_no_random_number(tmp_path: Path) -> None:
    for name, load in saved_models(tmp_path).items():
        torch.manual_seed(3)
        before = torch.get_rng_state()
        load()
        assert torch.equal(torch.get_rng_state(), before), name


def test_load_knows_every_class_that_can_be_read_from_a_folder() -> None:
    names = [path.stem for path in Path(checkpoints.__file__).parent.glob("*.py") if path.stem != "__init__"]
    modules = {name: importlib.import_module(f"nextword.{name}") for name in names}
    classes = {
        kind.__name__: name
        for name, module in modules.items()
        for kind in vars(module).values()
        if hasattr(kind, "from_pretrained") and kind.__module__ == module.__name__
    }
    assert classes.pop("EncoderDecoder") == "encoder_decoder", "what two of them have in common"
    assert classes == checkpoints.MODULES


def test_load_gives_model_tokenizer_and_card() -> None:
    model, bpe, card = checkpoints.load("nextword-small")
    assert isinstance(model, Decoder) and not model.training and model.config.vocab_size == bpe.vocab_size
    assert card["made by"] == "2019_gpt2: train"
    assert torch.equal(Decoder.from_pretrained("nextword-small").output.weight, model.output.weight)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [("Robot", "holds a Robot; load knows Decoder, Encoder, "), (None, "holds a None; load knows")],
)
def test_load_names_a_class_that_it_does_not_know(architecture: str | None, message: str, tmp_path: Path) -> None:
    checkpoints.save(Seq2SeqLSTM(LSTM), tmp_path, card={})
    _change(tmp_path / "config.json", model=architecture)
    with pytest.raises(ValueError, match=message):
        checkpoints.load(tmp_path)
