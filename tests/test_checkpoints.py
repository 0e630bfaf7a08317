"""Folders with models: what is written comes back, what is broken is named, and a crash leaves the old one whole."""

from __future__ import annotations

import copy
import dataclasses
import functools
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
from safetensors.torch import load_file
from torch import Tensor, nn

from nextword import checkpoints, data
from nextword.decoder import Decoder
from nextword.evaluation import perplexity
from nextword.recurrent import Seq2SeqConfig, Seq2SeqLSTM
from nextword.tokenizers import ByteBPE
from nextword.transformer import Transformer, TransformerConfig
from nextword.translation import SPECIAL_TOKENS, TranslationTokenizer, cross_entropy

V, C = 13, 8
CARD = {"made by": "nobody: «prueba»", "steps": 3, "licence": "CC0"}
TRANSFORMER = TransformerConfig(source_vocab=V, target_vocab=V, d_model=C, n_heads=2, n_layers=1, d_ff=16, dropout=0.4)
LSTM = Seq2SeqConfig(source_vocab=V, target_vocab=V, d_model=C, dropout=0.4)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: Transformer(TRANSFORMER),
    "transformer, learned": lambda: Transformer(dataclasses.replace(TRANSFORMER, positions="learned", max_length=9)),
    "transformer, untied": lambda: Transformer(dataclasses.replace(TRANSFORMER, share_embeddings=False)),
    "lstm": lambda: Seq2SeqLSTM(LSTM),
    "lstm, untied": lambda: Seq2SeqLSTM(dataclasses.replace(LSTM, share_embeddings=False, source_vocab=17)),
    "lstm, one vector": lambda: Seq2SeqLSTM(dataclasses.replace(LSTM, attention="none", n_layers=3, residual_from=2)),
}
CLASSES: dict[str, Any] = {"Transformer": Transformer, "Seq2SeqLSTM": Seq2SeqLSTM, "Decoder": Decoder}


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
    found = checkpoints.load(str(tmp_path / "new" / "tiny"))
    assert found.card == CARD
    assert found.config == {"model": type(model).__name__, **dataclasses.asdict(model.config)}
    assert found.config_of(type(model).__name__) == dataclasses.asdict(model.config)
    assert found.tokenizer is not None and found.tokenizer.special_tokens == bpe.special_tokens
    assert found.tokenizer.merges() == bpe.merges()
    assert found.tokenizer.encode(" el gato ñandú") == bpe.encode(" el gato ñandú")
    wanted = dict(rounded(model).named_parameters())
    assert found.weights.keys() == wanted.keys()
    for name, weight in found.weights.items():
        assert weight.dtype == torch.float32 and torch.equal(weight, wanted[name]), name
    other = type(model)(model.config)
    checkpoints.load_into(other, found)
    for name, weight in other.state_dict().items():  # here shared matrices have both their names
        assert torch.equal(weight, rounded(model).state_dict()[name]), name


def test_the_file_holds_half_precision_and_shared_matrices_once(model: Any, tmp_path: Path) -> None:
    checkpoints.save(model, tmp_path / "tiny", card=CARD)
    tensors = load_file(tmp_path / "tiny" / "model.safetensors")
    assert {w.dtype for w in tensors.values()} == {torch.float16}
    assert sum(w.numel() for w in tensors.values()) == model.num_parameters()
    assert ("output.weight" in tensors) != model.config.share_embeddings
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["card.json", "config.json", "model.safetensors", "tiny"]


def test_from_pretrained_is_the_same_model_without_dropout(model: Any, tmp_path: Path) -> None:
    model.train()
    checkpoints.save(model, tmp_path / "tiny", card=CARD)
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
    assert found.config["model"] == "Seq2SeqLSTM" and found.card == {} and found.tokenizer is None
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
    with pytest.raises(ValueError, match="Seq2SeqLSTM, not a Transformer"):
        Transformer.from_pretrained(str(tmp_path / "tiny"))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = Seq2SeqLSTM(LSTM)
    checkpoints.save(model, tmp_path / "tiny", card=CARD)
    whole = checkpoints.load(tmp_path / "tiny")
    name = "decoder.1.bias_hh_l0"
    short = {n: w for n, w in whole.weights.items() if n != name}
    wrong = {
        rf"lacks \['{name}'\]": short,
        r"has \['spare'\]": {**whole.weights, "spare": torch.zeros(2)},
        r"has \['output.weight'\]": {**whole.weights, "output.weight": torch.zeros(V, C)},
        rf"{name} as \(3, 2\), the model as \({4 * C},\)": {**whole.weights, name: torch.zeros(3, 2)},
    }
    for message, weights in wrong.items():
        with pytest.raises(ValueError, match=message):
            checkpoints.load_into(model, dataclasses.replace(whole, weights=weights))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def _other_format(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))


BROKEN: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "weights cut off": ("model.safetensors", _cut),
    "weights empty": ("model.safetensors", lambda file: file.write_bytes(b"")),
    "weights missing": ("model.safetensors", Path.unlink),
    "config cut off": ("config.json", _cut),
    "config not UTF-8": ("config.json", lambda file: file.write_bytes(b'{"model": "\xff"}')),
    "config a list": ("config.json", lambda file: file.write_text("[]")),
    "card cut off": ("card.json", _cut),
    "card missing": ("card.json", Path.unlink),
    "tokenizer cut off": ("tokenizer.json", _cut),
    "other format": ("config.json", _other_format),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_named(case: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny"
    checkpoints.save(
        Seq2SeqLSTM(LSTM), path, card=CARD, tokenizer=ByteBPE.train([], 259, special_tokens=SPECIAL_TOKENS)
    )
    file, damage = BROKEN[case]
    damage(path / file)
    with pytest.raises(ValueError) as caught:
        checkpoints.load(path)
    assert str(path) in str(caught.value)
    if case == "other format":
        assert "format 1" in str(caught.value)


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
    sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
    import record

    return record.namespace("2019_gpt2")


BUNDLED = sorted(p.parent.name for p in checkpoints.BUNDLED.glob("*/config.json"))


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models_are_as_good_as_their_cards_say(name: str) -> None:
    checkpoint = checkpoints.load(name)
    assert checkpoint.card["made by"] and checkpoint.card["data"] and checkpoint.card["licence"]
    model = CLASSES[checkpoint.config["model"]].from_pretrained(name)
    assert model.num_parameters() == checkpoint.card["parameters"]
    assert checkpoint.tokenizer is not None
    if checkpoint.config["model"] == "Decoder":
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
    assert sum(p.stat().st_size for p in checkpoints.BUNDLED.parent.rglob("*") if p.is_file()) < 12e6


# --- Eight bits ---


def test_eight_bits_halve_the_file_and_move_each_weight_by_less_than_half_a_step(model: Any, tmp_path: Path) -> None:
    for bits in (8, 16):
        checkpoints.save(model, tmp_path / str(bits), card=CARD, bits=bits)  # type: ignore[arg-type]
    found = checkpoints.load(tmp_path / "8").weights
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            step = weight.detach().abs().amax(1, keepdim=True) / 127
            assert bool(((found[name] - weight).abs() <= 0.501 * step + 1e-9).all()), name
        else:
            assert torch.equal(found[name], weight.half().float()), name
    tensors = load_file(tmp_path / "8" / "model.safetensors")
    assert {tensors[n].dtype for n, p in model.named_parameters() if p.ndim == 2} == {torch.int8}
    checkpoints.load_into(type(model)(model.config), checkpoints.load(tmp_path / "8"))


def test_a_row_of_zeros_survives_eight_bits(tmp_path: Path) -> None:
    model = Transformer(TRANSFORMER)
    name, weight = next((n, p) for n, p in model.named_parameters() if p.ndim == 2)
    with torch.no_grad():
        weight[0] = 0
    checkpoints.save(model, tmp_path / "tiny", card=CARD, bits=8)
    assert checkpoints.load(tmp_path / "tiny").weights[name][0].eq(0).all()
    with as_a_reader_sees_it(), pytest.raises(ValueError, match="bits=4: choose 8 or 16"):
        checkpoints.save(model, tmp_path / "tiny", card=CARD, bits=4)  # type: ignore[arg-type]
