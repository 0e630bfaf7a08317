"""Published models: what a file says is done or refused, never left out, and damaged files are named."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from parity import assert_close, randomised
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2LMHeadModel,
    LlamaConfig,
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OPTConfig,
    T5Config,
)

from nextword import checkpoints, pretrained
from nextword.decoder import Decoder
from nextword.encoder import Encoder, MaskedLM
from nextword.recurrent import Seq2SeqLSTM
from nextword.transformer import Transformer

V = 29
GPT: dict[str, Any] = {"vocab_size": V, "n_positions": 8, "n_embd": 12, "n_layer": 2, "n_head": 3}
BERT: dict[str, Any] = {"vocab_size": V, "max_position_embeddings": 8, "hidden_size": 12, "num_hidden_layers": 2}
BERT |= {"num_attention_heads": 3, "intermediate_size": 24, "attn_implementation": "eager"}


def ids() -> Tensor:
    return torch.randint(V, (2, 7), generator=torch.Generator().manual_seed(0))


def published(model: Any, folder: Path) -> Any:
    """Write a model of transformers with random weights, and return it."""
    model = randomised(model).float().eval()
    model.save_pretrained(folder)
    return model


def change_config(folder: Path, **changes: Any) -> None:
    """Change fields of ``config.json``; ``...`` takes one out."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


# --- BERT ---


def test_a_causal_bert_is_read_as_one(tmp_path: Path) -> None:
    theirs = published(BertModel(BertConfig(**BERT, is_decoder=True)), tmp_path)
    body = Encoder.from_pretrained(tmp_path)
    assert body.config.causal
    assert_close(body(ids()).hidden, theirs(ids())[0], rtol=1e-4, atol=1e-5)
    change_config(tmp_path, is_decoder=False)
    assert not torch.allclose(theirs(ids())[0], Encoder.from_pretrained(tmp_path)(ids()).hidden, atol=1e-3)


@pytest.mark.parametrize("tie", [True, False])
def test_an_output_matrix_of_its_own_is_not_lost(tie: bool, tmp_path: Path) -> None:
    published(BertForMaskedLM(BertConfig(**BERT, tie_word_embeddings=tie)), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    heads = {"cls.seq_relationship.weight": torch.zeros(2, 12), "cls.seq_relationship.bias": torch.zeros(2)}
    pooler = {"bert.pooler.dense.weight": torch.zeros(12, 12), "bert.pooler.dense.bias": torch.zeros(12)}
    save_file({**weights, **heads, **pooler}, tmp_path / "model.safetensors")
    assert Encoder.from_pretrained(tmp_path).num_parameters() > 0  # the body has no use for it
    if tie:
        model = MaskedLM.from_pretrained(tmp_path)
        assert model.output.weight is model.encoder.embedding.weight
    else:
        with pytest.raises(ValueError, match="its output matrix is not its embedding, as that of a MaskedLM is"):
            MaskedLM.from_pretrained(tmp_path)


def test_a_weight_that_stands_twice_and_differs_is_refused(tmp_path: Path) -> None:
    published(BertForMaskedLM(BertConfig(**BERT)), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    own = {"cls.predictions.bias": torch.zeros(V), "cls.predictions.decoder.bias": torch.ones(V)}
    save_file({**weights, **own}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"has .*'cls\.predictions\.\S*bias'.* that the model has not"):
        MaskedLM.from_pretrained(tmp_path)


# --- GPT ---


@pytest.mark.parametrize(
    ("model", "config"), [(OpenAIGPTDoubleHeadsModel, OpenAIGPTConfig), (GPT2DoubleHeadsModel, GPT2Config)]
)
def test_of_a_model_with_two_heads_the_language_model_is_read(model: Any, config: Any, tmp_path: Path) -> None:
    theirs = published(model(config(**GPT)), tmp_path)
    ours = Decoder.from_pretrained(tmp_path)
    assert ours.output.weight is ours.embedding.weight
    assert_close(ours(ids()).logits, theirs(ids()).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("left", ["wte", "lm_head", "both"])
def test_the_shared_matrix_may_stand_under_either_name(left: str, tmp_path: Path) -> None:
    theirs = published(GPT2LMHeadModel(GPT2Config(**GPT)), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    table = weights.pop("transformer.wte.weight", weights.pop("lm_head.weight", None))
    names = {"wte": "transformer.wte.weight", "lm_head": "lm_head.weight"}
    shared = {name: table.clone() for kind, name in names.items() if left in (kind, "both")}
    save_file({**weights, **shared}, tmp_path / "model.safetensors")
    assert_close(Decoder.from_pretrained(tmp_path)(ids()).logits, theirs(ids()).logits, rtol=1e-4, atol=1e-4)


# --- Other architectures, and damaged configs ---

READS = {
    "gpt2": (GPT2Config, "Decoder.from_pretrained"),
    "openai-gpt": (OpenAIGPTConfig, "Decoder.from_pretrained"),
    "bert": (BertConfig, "Encoder.from_pretrained or MaskedLM.from_pretrained"),
    "llama": (LlamaConfig, "Decoder.from_gguf, from a GGUF file"),
}


@pytest.mark.parametrize("kind", [*READS, "opt", "t5"])
def test_a_model_of_another_type_is_named_with_what_reads_it(kind: str, tmp_path: Path) -> None:
    config = {**{k: c for k, (c, _) in READS.items()}, "opt": OPTConfig, "t5": T5Config}[kind]
    config().save_pretrained(tmp_path)
    reader = f"{READS[kind][1]} reads it" if kind in READS else "this library reads gpt2, openai-gpt, bert, llama"
    for load in (Decoder, Encoder, MaskedLM, Transformer, Seq2SeqLSTM):
        if load.__name__ not in reader or kind == "llama":
            with pytest.raises(ValueError, match=f"holds a published model of type '{kind}'; {reader}"):
                load.from_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=reader):
        checkpoints.load(tmp_path)


SIZES = {
    "gpt2": ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"],
    "bert": [*BERT][:-1],
}


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("value", [..., None, "12", 12.0, 0, -3, True, [12], {}])
def test_a_size_that_is_missing_or_of_another_type_is_named(kind: str, value: Any, tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(**GPT)) if kind == "gpt2" else BertModel(BertConfig(**BERT))
    for field in SIZES[kind]:
        published(model, tmp_path)
        change_config(tmp_path, **{field: value})
        with pytest.raises(ValueError, match=rf"says {field}=.*; a whole number from 1 belongs there"):
            (Decoder if kind == "gpt2" else Encoder).from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_epsilon": "1e-5"}, "says layer_norm_epsilon='1e-5'; a number above 0 belongs there"),
        ({"layer_norm_epsilon": 0}, "says layer_norm_epsilon=0; a number"),
        ({"activation_function": ["gelu"]}, "is none of this library's activations"),
        ({"activation_function": ...}, "activation_function='None' is none of this library's activations"),
        ({"n_inner": 7.5}, "says n_inner=7.5; a whole number from 1"),
        ({"n_inner": 30}, r"checkpoint holds blocks.0.feed_forward.up.weight as \(48, 12\), the model as \(30, 12\)"),
        ({"n_head": 5}, "d_model=12 is not divisible by n_heads=5"),
        ({"n_layer": 3}, r"checkpoint lacks \['blocks.2.attention.key.bias'"),
        ({"add_cross_attention": True}, "add_cross_attention=True is not of this library's networks"),
        ({"model_type": ["gpt2"]}, r"holds a published model of type \['gpt2'\]"),
    ],
)
def test_a_setting_that_cannot_be_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    published(GPT2LMHeadModel(GPT2Config(**GPT)), tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        Decoder.from_pretrained(tmp_path)


# --- GGUF ---

LLAMA: dict[str, Any] = {
    "context_length": 16,
    "embedding_length": 8,
    "block_count": 1,
    "feed_forward_length": 12,
    "attention.head_count": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
}


def write_gguf(path: Path, *, n_kv_heads: int = 2, **changes: Any) -> Path:
    """Write a small model of Llama's shape; a change to None leaves a key out."""
    writer = GGUFWriter(path, "llama")
    for name, value in {**LLAMA, **changes}.items():
        if value is not None:
            add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, list: writer.add_array}
            add[type(value)](f"llama.{name}", value)
    generator = np.random.default_rng(0)
    shapes = {"attn_norm": (8,), "attn_q": (8, 8), "attn_k": (4 * n_kv_heads, 8), "attn_v": (4 * n_kv_heads, 8)}
    shapes |= {"attn_output": (8, 8), "ffn_norm": (8,), "ffn_up": (12, 8), "ffn_gate": (12, 8), "ffn_down": (8, 12)}
    shapes = {f"blk.0.{name}": shape for name, shape in shapes.items()}
    for name, shape in {"token_embd": (V, 8), "output_norm": (8,), **shapes}.items():
        writer.add_tensor(f"{name}.weight", generator.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_without_a_number_of_shared_heads_each_head_has_its_own_keys(tmp_path: Path) -> None:
    plain = Decoder.from_gguf(write_gguf(tmp_path / "plain.gguf"))
    said = Decoder.from_gguf(write_gguf(tmp_path / "said.gguf", **{"attention.head_count_kv": 2}))
    assert plain.config == said.config and torch.equal(plain(ids()).logits, said(ids()).logits)
    shared = Decoder.from_gguf(write_gguf(tmp_path / "one.gguf", n_kv_heads=1, **{"attention.head_count_kv": 1}))
    assert shared.config.n_kv_heads == 1 and shared(ids()).logits.isfinite().all()


def test_a_gguf_file_is_read_by_every_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    monkeypatch.setattr(checkpoints.ByteBPE, "from_gguf", lambda path: "its tokenizer")
    model, tokenizer, card = checkpoints.load(path)
    assert tokenizer == "its tokenizer" and card == {"data": "read from model.gguf"}
    assert torch.equal(model(ids()).logits, Decoder.from_pretrained(path)(ids()).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: None}, rf"says {name}=None; a whole number from 1") for name in [*LLAMA][:-1]),
        ({"attention.head_count": 0}, r"says attention.head_count=0; a whole number from 1"),
        ({"attention.head_count": [2, 2]}, r"says attention.head_count=\[2, 2\]; a whole number"),
        ({"attention.head_count_kv": 0}, "says attention.head_count_kv=0; a whole number"),
        ({"attention.head_count_kv": 1}, r"blocks.0.attention.key.weight as \(8, 8\), the model as \(4, 8\)"),
        ({"embedding_length": "8"}, "says embedding_length='8'; a whole number"),
        ({"block_count": 2_000_000_000}, "says llama.block_count=2000000000 and holds 1 blocks"),
        ({"rope.dimension_count": 2}, "says llama.rope.dimension_count=2, which this decoder does not do"),
        ({"attention.key_length": 8}, "says llama.attention.key_length=8, which this decoder does not do"),
        ({"rope.scaling.factor": 2.0}, "says llama.rope.scaling.factor=2.0, which this decoder does not do"),
        ({"attention.sliding_window": 4}, "says llama.attention.sliding_window=4, which this decoder does not do"),
        ({"rope.freq_base": -1.0}, r"says rope.freq_base=-1.0; a number above 0"),
    ],
)
def test_what_a_gguf_file_lacks_or_our_decoder_does_not_do_is_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Decoder.from_gguf(write_gguf(tmp_path / "model.gguf", **changes))


def test_settings_that_are_off_or_usual_change_nothing(tmp_path: Path) -> None:
    off = {"expert_count": 0, "rope.scaling.type": "none", "rope.dimension_count": 4, "attention.key_length": 4}
    model = Decoder.from_gguf(write_gguf(tmp_path / "model.gguf", vocab_size=V, **off))
    plain = Decoder.from_gguf(write_gguf(tmp_path / "plain.gguf"))
    assert torch.equal(model(ids()).logits, plain(ids()).logits)


def test_a_gguf_file_that_is_cut_off_or_overwritten_is_a_value_error_and_never_hangs(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    whole, draw = path.read_bytes(), random.Random(0)
    header = whole.index(b"blk.0.ffn_down.weight") + 60
    for end in range(0, header, 7):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="model.gguf' cannot be read as GGUF"):
            Decoder.from_gguf(path)
    refused = 0
    for _ in range(300):
        at = draw.randrange(header - 8)
        path.write_bytes(whole[:at] + draw.randbytes(8) + whole[at + 8 :])
        try:
            Decoder.from_gguf(path)  # noise inside a name or a number may leave a model
        except ValueError:
            refused += 1
    assert refused > 200
    path.write_bytes(whole[: len(whole) - 100])
    with pytest.raises(ValueError, match="it ends at byte"):
        Decoder.from_gguf(path)


def test_a_packing_that_the_package_cannot_undo_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dequantize(data: Any, kind: GGMLQuantizationType) -> Any:
        raise NotImplementedError(f"dequantization of {kind.name}")

    monkeypatch.setattr("gguf.dequantize", dequantize)
    with pytest.raises(ValueError, match="in a way that cannot be unpacked: dequantization of F32"):
        pretrained.read_gguf(write_gguf(tmp_path / "model.gguf"))
