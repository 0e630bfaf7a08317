"""Models that others published, under our names: GPT-1, GPT-2 and BERT in Hugging Face's folders, Llama's shape in GGUF files.

A reader returns the arguments of our config and the weights by the names of our ``state_dict``, in float32. Nothing in
these files is code. What a file says and our networks cannot do is refused, because a model with one small difference
still writes text, only worse.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

Weights = dict[str, Tensor]

READERS = {
    "gpt2": "Decoder.from_pretrained",
    "openai-gpt": "Decoder.from_pretrained",
    "bert": "Encoder.from_pretrained or MaskedLM.from_pretrained",
    "llama": "Decoder.from_gguf, from a GGUF file",
}
"""What reads each kind of published model, by the ``model_type`` of its ``config.json``."""

HUB = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "openai-gpt")}
HUB |= {name: f"google-bert/{name}" for name in ("bert-base-uncased", "bert-large-uncased")}
"""Names of the Hugging Face hub that stand without their owner."""


def download(name: str) -> Path:
    """Return the folder of a model on the Hugging Face hub, whose package keeps the files.

    Raises:
        ValueError: the hub has no such model.
        ConnectionError: the hub cannot be reached, and the files were never fetched.
        ImportError: ``huggingface_hub`` is not installed.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise ImportError(f'{name!r} lies on a hub. Run: pip install "nextword[chapters]"') from error
    files = ["config.json", "model.safetensors"]
    try:
        return Path(hub.snapshot_download(HUB.get(name, name), allow_patterns=files))
    except Exception as error:  # its own kinds of errors differ from version to version
        if "RepositoryNotFound" in type(error).__name__ or "HFValidation" in type(error).__name__:
            raise ValueError(f"path={name!r} is no folder, no model of the library, and not on the hub") from error
        what = f"path={name!r} is no folder and no model of the library, and the hub cannot be reached"
        raise ConnectionError(f"{what}. Go online, or give a folder with {' and '.join(files)}") from error


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def hf_config(folder: Path, *model_types: str) -> dict[str, Any] | None:
    """Return the ``config.json`` of a published model, None where the folder holds none.

    Raises:
        ValueError: the model is of another type than these; the message says what reads it.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or "model_type" not in config:
        return None
    kind = config["model_type"]
    if kind not in model_types:
        reader = READERS.get(str(kind))
        known = f"{reader} reads it" if reader else f"this library reads {', '.join(READERS)}"
        raise ValueError(f"path={str(folder)!r} holds a published model of type {kind!r}; {known}")
    return config


def read_hf(folder: Path, *model_types: str) -> tuple[dict[str, Any], Weights] | None:
    """Read a published model of one of these types: ``config.json`` and ``model.safetensors``.

    Returns:
        For ``gpt2`` and ``openai-gpt`` the arguments of a :class:`~nextword.decoder.DecoderConfig` and the weights of a
        :class:`~nextword.decoder.Decoder`; for ``bert`` those of an :class:`~nextword.encoder.EncoderConfig` and of a
        :class:`~nextword.encoder.MaskedLM`, whose heads a file may lack. None where the folder holds no published model.

    Raises:
        ValueError: the model is of another type, does what our network cannot, or its files are damaged.
    """
    public = hf_config(folder, *model_types)
    if public is None:
        return None
    where, bert = f"path={str(folder)!r}", public["model_type"] == "bert"
    config = _config(where, public)
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from error
    weights: Weights = {}
    for key, tensor in tensors.items():
        pairs = map_bert_name(key, tensor.float()) if bert else map_hf_name(key, tensor.float())
        for name, weight in pairs:
            known = weights.setdefault(name, weight)
            if known is not weight and not torch.equal(known, weight):
                weights[key] = weight  # a second one that is another; under this name the model refuses it
    output = weights.get("output.weight")
    if output is not None and (bert or config["tie_embeddings"]):
        # The table of the words scores them, too. Files hold it under one name, under the other, or under both.
        table = weights.setdefault("encoder.embedding.weight" if bert else "embedding.weight", output)
        if torch.equal(table, output):
            del weights["output.weight"]
        elif not bert:  # of BERT's heads only a MaskedLM makes use
            raise ValueError(f"{where}: lm_head.weight differs from the embedding that it should be")
    return config, weights


_GPT_SIZES = {"vocab_size": "vocab_size", "context_length": "n_positions", "d_model": "n_embd", "n_layers": "n_layer"}
_GPT_SIZES |= {"n_heads": "n_head"}
_BERT_SIZES = {"vocab_size": "vocab_size", "context_length": "max_position_embeddings", "d_model": "hidden_size"}
_BERT_SIZES |= {"n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "d_ff": "intermediate_size"}
_BERT_SIZES |= {"n_segments": "type_vocab_size"}
_ACTIVATION_FIELD = {"gpt2": "activation_function", "openai-gpt": "afn", "bert": "hidden_act"}
_ACTIVATIONS = {("bert", "gelu"): "gelu", ("bert", "gelu_new"): "gelu_tanh", ("bert", "relu"): "relu"}
_ACTIVATIONS |= {("gpt2", "gelu"): "gelu", ("gpt2", "gelu_new"): "gelu_tanh", ("gpt2", "relu"): "relu"}
_ACTIVATIONS |= {("openai-gpt", "gelu"): "gelu_tanh"}  # what that file calls gelu is its tanh approximation
# Settings that change what a network computes, and the one value of each that ours can do.
_USUAL: dict[str, Any] = {
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
}


def _config(where: str, public: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of our config; refuse what our networks do not do."""
    for name, usual in _USUAL.items():
        if public.get(name, usual) != usual:
            raise ValueError(f"{where}: {name}={public[name]!r} is not of this library's networks")
    kind, field = public["model_type"], _ACTIVATION_FIELD[public["model_type"]]
    activation = str(public.get(field))
    if (kind, activation) not in _ACTIVATIONS:
        raise ValueError(f"{where}: {field}={activation!r} is none of this library's activations")
    sizes = _BERT_SIZES if kind == "bert" else _GPT_SIZES
    config: dict[str, Any] = {ours: _size(where, public, theirs) for ours, theirs in sizes.items()}
    config["activation"] = _ACTIVATIONS[kind, activation]
    if kind == "bert":
        norm_eps = _number(where, public, "layer_norm_eps", 1e-12)
        return {**config, "norm_eps": norm_eps, "causal": public.get("is_decoder", False) is True}
    return config | {
        "d_ff": None if public.get("n_inner") is None else _size(where, public, "n_inner"),
        "norm_position": "pre" if kind == "gpt2" else "post",
        "norm_eps": _number(where, public, "layer_norm_epsilon", 1e-5),
        "tie_embeddings": public.get("tie_word_embeddings", True) is not False,
    }


def _size(where: str, facts: Mapping[str, Any], name: str) -> int:
    value = facts.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"{where} says {name}={value!r}; a whole number from 1 belongs there")
    return value


def _number(where: str, facts: Mapping[str, Any], name: str, usual: float) -> float:
    value = facts.get(name, usual)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{where} says {name}={value!r}; a number above 0 belongs there")
    return float(value)


# The causal mask and the positions, which old files carry along, and the second head of GPT's double-headed form.
_LEFT_ASIDE = re.compile(r"(h\.\d+\.attn\.(masked_)?bias|(bert\.)?embeddings\.position_ids|multiple_choice_head\..*)")
_GPT_NAMES = {"wte": "embedding", "wpe": "positions", "tokens_embed": "embedding", "positions_embed": "positions"}
_GPT_NAMES |= {"ln_f": "norm", "lm_head": "output"}
_GPT_BLOCK = {"ln_1": "attention_norm", "ln_2": "feed_forward_norm", "attn.c_proj": "attention.out"}
_GPT_BLOCK |= {"mlp.c_fc": "feed_forward.up", "mlp.c_proj": "feed_forward.down"}


def map_hf_name(key: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Return a weight of GPT-1 or GPT-2 under our names, none where it is no weight.

    The published matrices of a block are stored (in, out), ours (out, in); and those of q, k and v are one there.
    """
    key = key.removeprefix("transformer.")
    if _LEFT_ASIDE.fullmatch(key):
        return []
    module, _, kind = key.rpartition(".")  # kind: "weight" or "bias"
    if module in _GPT_NAMES:
        return [(f"{_GPT_NAMES[module]}.{kind}", tensor)]
    inside = re.fullmatch(r"h\.(\d+)\.(.+)", module)
    if not inside:
        return [(key, tensor)]  # unknown; load_state_dict will say so
    block, name = f"blocks.{inside[1]}", inside[2]
    tensor = tensor.T if tensor.ndim == 2 else tensor
    if name == "attn.c_attn":
        three = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        return [(f"{block}.attention.{projection}.{kind}", third) for projection, third in three]
    return [(f"{block}.{_GPT_BLOCK.get(name, name)}.{kind}", tensor)]


_BERT_NAMES = {
    "embeddings.word_embeddings": "encoder.embedding",
    "embeddings.position_embeddings": "encoder.positions",
    "embeddings.token_type_embeddings": "encoder.segments",
    "embeddings.LayerNorm": "encoder.embedding_norm",
    "pooler.dense": "encoder.pooler",
    "cls.predictions": "output",  # its bias
    "cls.predictions.decoder": "output",
    "cls.predictions.transform.dense": "transform",
    "cls.predictions.transform.LayerNorm": "transform_norm",
    "cls.seq_relationship": "next_sentence",
}
_BERT_BLOCK = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "feed_forward.up",
    "output.dense": "feed_forward.down",
    "output.LayerNorm": "feed_forward_norm",
}


def map_bert_name(key: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Return a weight of BERT under the name in our MaskedLM, none where it is no weight. Matrices are (out, in) in both."""
    if _LEFT_ASIDE.fullmatch(key):
        return []
    module, _, kind = key.removeprefix("bert.").rpartition(".")
    kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)  # what old files call a norm's
    if inside := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", module):
        name = f"encoder.blocks.{inside[1]}.{_BERT_BLOCK.get(inside[2], inside[2])}.{kind}"
    else:
        name = f"{_BERT_NAMES[module]}.{kind}" if module in _BERT_NAMES else key  # unknown; load_state_dict will say so
    return [(name, tensor)]


# --- GGUF -------------------------------------------------------------------------------------------------------------


def open_gguf(path: str | os.PathLike[str]) -> Any:
    """Return the package ``gguf``'s reader of a file.

    Raises:
        ValueError: the file cannot be read.
        ImportError: the package is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError('a GGUF file needs the package gguf. Run: pip install "nextword[chapters]"') from error

    class Reader(gguf.GGUFReader):
        def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            # A damaged header promises more entries than the file has bytes; the package would count to 2^64.
            if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError(f"it ends at byte {len(self.data)}, in the middle of what its header promises")
            return super()._get(offset, dtype, count, override_order)

    try:
        return Reader(path)
    except Exception as error:  # on damaged bytes the package stumbles in many ways
        raise ValueError(f"path={str(path)!r} cannot be read as GGUF: {error!r}") from error


# What a file may say of its model, because our decoder does it; and widths that are those of a head there.
_LLAMA = {"vocab_size", "context_length", "embedding_length", "block_count", "feed_forward_length", "rope.freq_base"}
_LLAMA |= {"attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"}
_HEAD_WIDTHS = {"rope.dimension_count", "attention.key_length", "attention.value_length"}


def read_gguf(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Weights]:
    """Read a model of Llama's shape from a GGUF file, its packed weights unpacked to float32.

    The file stores the rows of queries and keys so that neighbours are the pairs that rotary positions turn, as in Su et
    al. 2021 and in :func:`~nextword.layers.rotation`.

    Returns:
        The arguments of a :class:`~nextword.decoder.DecoderConfig` and the weights under our names.

    Raises:
        ValueError: the file cannot be read, or holds a model of another shape.
        ImportError: the package ``gguf`` is not installed.
    """
    reader, where = open_gguf(path), f"path={str(path)!r}"
    facts = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    if facts.get("general.architecture") != "llama":
        raise ValueError(f"{where} holds a {facts.get('general.architecture')}; this reads the shape of Llama")
    facts = {name.removeprefix("llama."): value for name, value in facts.items() if name.startswith("llama.")}
    d_model, n_heads = _size(where, facts, "embedding_length"), _size(where, facts, "attention.head_count")
    for name, value in facts.items():
        does = value == d_model // n_heads if name in _HEAD_WIDTHS else name in _LLAMA
        if not does and value not in (0, False, "none"):  # which switch something off
            raise ValueError(f"{where} says llama.{name}={value!r}, which this decoder does not do")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{where} lacks token_embd.weight, the embedding")
    n_layers = len({name.split(".")[1] for name in tensors if name.startswith("blk.")})
    if _size(where, facts, "block_count") != n_layers:
        raise ValueError(f"{where} says llama.block_count={facts['block_count']} and holds {n_layers} blocks")
    config = {
        "vocab_size": int(tensors["token_embd.weight"].shape[-1]),
        "context_length": _size(where, facts, "context_length"),
        "d_model": d_model,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_kv_heads": _size(where, {"attention.head_count_kv": n_heads} | facts, "attention.head_count_kv"),
        "d_ff": _size(where, facts, "feed_forward_length"),
        "norm": "rms",
        "norm_eps": _number(where, facts, "attention.layer_norm_rms_epsilon", 1e-5),
        "activation": "swiglu",
        "positions": "rotary",
        "rope_base": _number(where, facts, "rope.freq_base", 10_000.0),
        "tie_embeddings": "output.weight" not in tensors,
        "bias": False,
    }
    unpack = importlib.import_module("gguf").dequantize
    try:
        weights = {map_gguf_name(name): torch.tensor(unpack(t.data, t.tensor_type)) for name, t in tensors.items()}
    except (NotImplementedError, ValueError) as error:
        raise ValueError(f"{where} packs its weights in a way that cannot be unpacked: {error}") from error
    return config, weights


_GGUF_NAMES = {"token_embd": "embedding", "output_norm": "norm", "output": "output"}
_GGUF_BLOCK = {"attn_norm": "attention_norm", "attn_q": "attention.query", "attn_k": "attention.key"}
_GGUF_BLOCK |= {"attn_v": "attention.value", "attn_output": "attention.out", "ffn_norm": "feed_forward_norm"}
_GGUF_BLOCK |= {"ffn_up": "feed_forward.up", "ffn_gate": "feed_forward.gate", "ffn_down": "feed_forward.down"}


def map_gguf_name(name: str) -> str:
    """Return the name in our decoder of a tensor in a GGUF file."""
    module, _, kind = name.rpartition(".")
    inside = re.fullmatch(r"blk\.(\d+)\.(.+)", module)
    if inside and inside[2] in _GGUF_BLOCK:
        return f"blocks.{inside[1]}.{_GGUF_BLOCK[inside[2]]}.{kind}"
    return f"{_GGUF_NAMES[module]}.{kind}" if module in _GGUF_NAMES else name  # unknown; load_state_dict will say so
