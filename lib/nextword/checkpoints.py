"""Trained models as folders: weights, sizes, tokenizer and a card that says where they come from.

A folder holds ``model.safetensors`` (half precision, or 8 bits a weight), ``config.json``, ``card.json`` and, where there
is one, ``tokenizer.json``. Nothing in it is code: safetensors and JSON cannot run anything.

Models that others published are read too, under our names: GPT-1, GPT-2 and BERT as on the Hugging Face hub, and models
of Llama's shape in a GGUF file.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from nextword.data import fetch_folder
from nextword.tokenizers import ByteBPE, open_gguf

BUNDLED = Path(__file__).parent / "bundled" / "models"
"""Where the models that come with the library lie; ``make checkpoints`` trains them again."""

_FORMAT = 1
T = TypeVar("T", bound=nn.Module)


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds, before it is put into a model."""

    weights: dict[str, torch.Tensor]
    """In float32, by the names of the model's ``state_dict``; shared matrices once."""
    config: dict[str, Any]
    card: dict[str, Any]
    """Data, seed, steps, seconds, loss and licence."""
    tokenizer: ByteBPE | None

    def config_of(self, model: str) -> dict[str, Any]:
        """Return the sizes for a model of this class.

        Raises:
            ValueError: the weights belong to a model of another class.
        """
        if self.config.get("model") != model:
            raise ValueError(f"the checkpoint holds a {self.config.get('model')}, not a {model}")
        return {name: value for name, value in self.config.items() if name != "model"}


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    card: dict[str, Any],
    tokenizer: ByteBPE | None = None,
    bits: Literal[8, 16] = 16,
) -> None:
    """Write a model with a ``config`` dataclass into a folder; a crash leaves the old folder whole.

    Args:
        model: its ``config`` is written beside its weights.
        path: the folder; an older one of that name is replaced.
        card: what a reader should know: data, seed, steps, seconds, loss, licence.
        tokenizer: what turned text into the model's ids.
        bits: 16 for half precision. 8 writes each row of a matrix as whole numbers from -127 to 127 and one scale, which
            halves the file and moves a weight by at most 1/254 of the largest in its row.

    Raises:
        ValueError: ``bits`` is neither.
    """
    if bits not in (8, 16):
        raise ValueError(f"bits={bits}: choose 8 or 16")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        save_file(_packed(model, bits), work / "model.safetensors", metadata={"format": "pt"})
        content = {"format": _FORMAT, "model": type(model).__name__, **asdict(model.config)}  # type: ignore[call-overload]
        (work / "config.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
        (work / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
        if tokenizer is not None:
            tokenizer.save(work / "tokenizer.json")
        os.chmod(work, 0o755)
        _exchange(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a folder that :func:`save` wrote; a plain name such as ``"gnmt"`` means a model that comes with the library.

    Raises:
        ValueError: there is no such model, or its files cannot be read.
    """
    folder = _folder(path)
    if not (folder / "config.json").is_file():
        known = ", ".join(sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))) or "none"
        raise ValueError(f"path={str(path)!r} holds no model; those that come with the library: {known}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf8"))
        card = json.loads((folder / "card.json").read_text(encoding="utf8"))
        weights = _unpacked(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"path={str(path)!r} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.pop("format", None) != _FORMAT:
        raise ValueError(f"path={str(path)!r} is not of format {_FORMAT}, the one this version of nextword reads")
    file = folder / "tokenizer.json"
    return Checkpoint(weights, config, card, ByteBPE.load(file) if file.is_file() else None)


def restore(model: type[T], config: type[Any], path: str | os.PathLike[str]) -> T:
    """Return a model of this class, with sizes of this class, from a folder or a bundled name; in evaluation mode.

    Raises:
        ValueError: there is no such model, or it is of another class.
    """
    checkpoint = load(path)
    stored = checkpoint.config_of(model.__name__).items()
    sizes = {name: tuple(x) if isinstance(x, list) else x for name, x in stored}  # JSON has no tuples
    return filled(model(config(**sizes)), checkpoint.weights)


def filled(model: T, weights: dict[str, torch.Tensor]) -> T:
    """Return the model in evaluation mode with these weights, named as its parameters; see :func:`load_into`."""
    load_into(model, Checkpoint(weights, {}, {}, None))
    return model.eval()


def load_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put the weights of a checkpoint into a model of the same sizes.

    Raises:
        ValueError: the names or shapes differ; the message says where.
    """
    shared = {id(p): name for name, p in model.named_parameters()}  # the first name of each shared matrix
    wanted = {name for name in model.state_dict() if name in shared.values()}
    missing, unknown = sorted(wanted - set(checkpoint.weights)), sorted(set(checkpoint.weights) - wanted)
    if missing or unknown:
        raise ValueError(
            f"checkpoint lacks {missing or 'nothing'} and has {unknown or 'nothing'} that the model has not"
        )
    for name, parameter in model.named_parameters():
        value = checkpoint.weights[name]
        if value.shape != parameter.shape:
            raise ValueError(f"checkpoint holds {name} as {tuple(value.shape)}, the model as {tuple(parameter.shape)}")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.weights[name])


def _exchange(work: Path, target: Path) -> None:
    """Put ``work`` in the place of ``target``; if that fails, the old folder is put back."""
    old = work.with_name(work.name + ".old")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(work, target)
    except BaseException:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


_SCALE = ".scale"  # ends the name of the scales of a matrix in 8 bits


def _packed(model: nn.Module, bits: int) -> dict[str, torch.Tensor]:
    """Return every parameter once, in few bits: safetensors refuses two names for one matrix."""
    packed: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().to("cpu", torch.float32)
        if bits == 8 and weight.ndim == 2:
            scale = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)  # (rows, 1)
            packed |= {name: (weight / scale).round().to(torch.int8), name + _SCALE: scale}
        else:
            packed[name] = weight.half().contiguous()
    return packed


def _unpacked(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the parameters of a file in float32."""
    weights = {name: w.float() for name, w in tensors.items() if not name.endswith(_SCALE)}
    for name, scale in tensors.items():
        if name.endswith(_SCALE):
            weights[name.removesuffix(_SCALE)] *= scale
    return weights


# --- Models that others published ------------------------------------------------------------------------------------


def find(path: str | os.PathLike[str]) -> Path:
    """Return the folder of a model: ``path`` itself, a model that comes with the library, one in a package, or on the hub.

    ``"minilm"`` lies in a package (see :func:`nextword.data.fetch_folder`). ``"gpt2"``, ``"gpt2-medium"``,
    ``"gpt2-large"``, ``"gpt2-xl"``, ``"openai-gpt"``, ``"bert-base-uncased"``, ``"bert-large-uncased"`` and names such as
    ``"owner/model"`` are looked up on the Hugging Face hub, once; its package ``huggingface_hub`` keeps the files.

    Raises:
        ValueError: there is no such model.
        DataError: the package cannot be had.
        ConnectionError: the hub cannot be reached, and its files were never fetched.
        ImportError: the hub is asked for and ``huggingface_hub`` is not installed.
    """
    folder, name = _folder(path), str(path)
    if name == "minilm" and not folder.exists():
        return fetch_folder(name)
    on_hub = name in _ON_HUB or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
    return _from_hub(name) if on_hub and not folder.exists() else folder


def _folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder of that path, or of the model of that name that comes with the library."""
    folder = Path(path)
    return BUNDLED / folder if not folder.is_dir() and (BUNDLED / folder).is_dir() else folder


_ON_HUB = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "openai-gpt")}
_ON_HUB |= {name: f"google-bert/{name}" for name in ("bert-base-uncased", "bert-large-uncased")}


def _from_hub(name: str) -> Path:
    try:
        hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise ImportError(f'{name!r} lies on a hub. Run: pip install "nextword[chapters]"') from error
    wanted = ["config.json", "model.safetensors"]
    try:
        return Path(hub.snapshot_download(_ON_HUB.get(name, name), allow_patterns=wanted))
    except Exception as error:  # its own kinds of errors differ from version to version
        if "RepositoryNotFound" in type(error).__name__ or "HFValidation" in type(error).__name__:
            raise ValueError(f"path={name!r} is no folder, no model of the library, and not on the hub") from error
        what = f"path={name!r} is no folder and no model of the library, and the hub cannot be reached"
        raise ConnectionError(f"{what}. Go online, or give a folder with {' and '.join(wanted)}") from error


def read_public(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """Read a GPT-1 or GPT-2 as published: ``config.json`` and ``model.safetensors``.

    Returns:
        The arguments of a :class:`~nextword.decoder.DecoderConfig` and the weights under our names, in float32. None
        where the folder holds no such model.

    Raises:
        ValueError: the model does what our decoder cannot, or its file cannot be read.
    """
    public = _facts(folder, "gpt2", "openai-gpt")
    if public is None:
        return None
    config = _public_config(folder, public)
    theirs = {key.removeprefix("transformer."): value for key, value in _tensors(folder).items()}
    ours = [_in_our_words(key, value) for key, value in theirs.items() if not _MASKS.fullmatch(key)]
    weights = {name: value for pairs in ours for name, value in pairs}
    again = weights.pop("output.weight", None) if config["tie_embeddings"] else None  # some files hold it twice
    if again is not None and not torch.equal(again, weights["embedding.weight"]):
        raise ValueError(f"path={str(folder)!r}: lm_head.weight differs from the embedding that it should be")
    return config, weights


def _facts(folder: Path, *kinds: str) -> dict[str, Any] | None:
    """Return what ``config.json`` says, None where it is not of one of these kinds of model."""
    try:
        public = json.loads((folder / "config.json").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    return public if isinstance(public, dict) and public.get("model_type") in kinds else None


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a published model under their own names, in float32."""
    try:
        return {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"path={str(folder)!r} cannot be read: {error}") from error


_ACTIVATIONS = {
    ("openai-gpt", "gelu"): "gelu_tanh",  # what that file calls gelu is its tanh approximation
    ("gpt2", "gelu_new"): "gelu_tanh",
    ("gpt2", "gelu"): "gelu",
    ("gpt2", "relu"): "relu",
}
_NOT_OURS = {"scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "add_cross_attention": False}
_MASKS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # the causal mask, which old files carry along
_TABLES = {"wte": "embedding", "wpe": "positions", "tokens_embed": "embedding", "positions_embed": "positions"}
_TABLES |= {"ln_f": "norm", "lm_head": "output"}
_PARTS = {"ln_1": "attention_norm", "ln_2": "feed_forward_norm", "attn.c_proj": "attention.out"}
_PARTS |= {"mlp.c_fc": "feed_forward.up", "mlp.c_proj": "feed_forward.down"}


def _public_config(folder: Path, public: dict[str, Any]) -> dict[str, Any]:
    kind, name = public["model_type"], str(public.get("activation_function", public.get("afn")))
    if (kind, name) not in _ACTIVATIONS:
        raise ValueError(f"path={str(folder)!r}: activation {name!r} is none of this decoder")
    for field, usual in _NOT_OURS.items():
        if public.get(field, usual) != usual:
            raise ValueError(f"path={str(folder)!r}: {field}={public[field]} is not of this decoder")
    return {
        "vocab_size": public["vocab_size"],
        "context_length": public["n_positions"],
        "d_model": public["n_embd"],
        "n_layers": public["n_layer"],
        "n_heads": public["n_head"],
        "d_ff": public.get("n_inner"),
        "norm_position": "pre" if kind == "gpt2" else "post",
        "norm_eps": public.get("layer_norm_epsilon", 1e-5),
        "activation": _ACTIVATIONS[kind, name],
        "tie_embeddings": public.get("tie_word_embeddings", True),
    }


def _in_our_words(key: str, value: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return a public weight under our names. Its matrices are stored (in, out), ours (out, in); q, k and v are one."""
    part, _, end = key.rpartition(".")
    if part in _TABLES:
        return [(f"{_TABLES[part]}.{end}", value)]
    found = re.fullmatch(r"h\.(\d+)\.(.+)", part)
    if not found:
        return [(key, value)]  # unknown; load_into will say so
    block, name = f"blocks.{found[1]}", found[2]
    value = value.T if value.ndim == 2 else value
    if name == "attn.c_attn":
        names = ("query", "key", "value")
        return [(f"{block}.attention.{n}.{end}", x) for n, x in zip(names, value.chunk(3), strict=True)]
    return [(f"{block}.{_PARTS.get(name, name)}.{end}", value)]


def read_bert(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """Read a BERT as published: ``config.json`` and ``model.safetensors``, with or without its heads.

    Returns:
        The arguments of an :class:`~nextword.encoder.EncoderConfig` and the weights under the names of our
        :class:`~nextword.encoder.MaskedLM`, in float32. None where the folder holds no such model.

    Raises:
        ValueError: the model does what our encoder cannot, or its file cannot be read.
    """
    public = _facts(folder, "bert")
    if public is None:
        return None
    activation, positions = public.get("hidden_act"), public.get("position_embedding_type", "absolute")
    if activation not in _BERT_ACTIVATIONS or positions != "absolute":
        what = f"hidden_act={activation!r} with position_embedding_type={positions!r}"
        raise ValueError(f"path={str(folder)!r}: {what} is none of this encoder")
    config = {ours: public[theirs] for ours, theirs in _BERT_SIZES.items()}
    config |= {"activation": _BERT_ACTIVATIONS[activation], "norm_eps": public.get("layer_norm_eps", 1e-12)}
    keys = {key: value for key, value in _tensors(folder).items() if key.removeprefix("bert.") not in _BERT_AGAIN}
    return config, {_from_bert_name(key): value for key, value in keys.items()}


_BERT_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu"}
_BERT_SIZES = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "n_segments": "type_vocab_size",
}
_BERT_AGAIN = {"embeddings.position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
"""What some files hold although it is no weight, or a second time."""
_BERT_BODY = {
    "embeddings.word_embeddings": "embedding",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "segments",
    "embeddings.LayerNorm": "embedding_norm",
    "pooler.dense": "pooler",
}
_BERT_HEADS = {
    "cls.predictions": "output",
    "cls.predictions.transform.dense": "transform",
    "cls.predictions.transform.LayerNorm": "transform_norm",
    "cls.seq_relationship": "next_sentence",
}
_BERT_PARTS = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "feed_forward.up",
    "output.dense": "feed_forward.down",
    "output.LayerNorm": "feed_forward_norm",
}


def _from_bert_name(key: str) -> str:
    """Return the name in our MaskedLM. Matrices are (out, in) in both; old files say gamma and beta for a norm's own."""
    part, _, end = key.removeprefix("bert.").rpartition(".")
    end = {"gamma": "weight", "beta": "bias"}.get(end, end)
    if part in _BERT_HEADS:
        return f"{_BERT_HEADS[part]}.{end}"
    if found := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", part):
        return f"encoder.blocks.{found[1]}.{_BERT_PARTS.get(found[2], found[2])}.{end}"
    return f"encoder.{_BERT_BODY[part]}.{end}" if part in _BERT_BODY else key  # unknown; load_into will say so


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read a model of Llama's shape from a GGUF file, its packed weights unpacked to float32.

    The file stores the rows of queries and keys so that neighbours are the pairs that rotary positions turn, as in Su et
    al. 2021 and in :class:`~nextword.layers.Rotary`.

    Returns:
        The arguments of a :class:`~nextword.decoder.DecoderConfig` and the weights under our names.

    Raises:
        ValueError: the file cannot be read, or holds a model of another shape.
        ImportError: the package ``gguf`` is not installed.
    """
    try:
        reader = open_gguf(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"path={str(path)!r} cannot be read as GGUF: {error}") from error
    facts = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    if facts.get("general.architecture") != "llama":
        raise ValueError(
            f"path={str(path)!r} holds a {facts.get('general.architecture')}; this reads the shape of Llama"
        )
    packed = {t.name: t for t in reader.tensors}
    d_head = facts["llama.embedding_length"] // facts["llama.attention.head_count"]
    rotated = facts.get("llama.rope.dimension_count")
    if rotated not in (None, d_head) or any(name.startswith("llama.rope.scaling") for name in facts):
        raise ValueError(
            f"path={str(path)!r} turns {rotated} numbers of {d_head} or scales its positions; this decoder does not"
        )
    config = {
        "vocab_size": len(packed["token_embd.weight"].data),
        "context_length": facts["llama.context_length"],
        "d_model": facts["llama.embedding_length"],
        "n_layers": facts["llama.block_count"],
        "n_heads": facts["llama.attention.head_count"],
        "n_kv_heads": facts["llama.attention.head_count_kv"],
        "d_ff": facts["llama.feed_forward_length"],
        "norm": "rms",
        "norm_eps": facts["llama.attention.layer_norm_rms_epsilon"],
        "activation": "swiglu",
        "positions": "rotary",
        "rope_base": facts.get("llama.rope.freq_base", 10_000.0),
        "tie_embeddings": "output.weight" not in packed,
        "bias": False,
    }
    unpack = importlib.import_module("gguf").dequantize
    return config, {_from_gguf_name(name): torch.tensor(unpack(t.data, t.tensor_type)) for name, t in packed.items()}


_GGUF = {"token_embd": "embedding", "output_norm": "norm", "output": "output"}
_GGUF_PARTS = {"attn_norm": "attention_norm", "attn_q": "attention.query", "attn_k": "attention.key"}
_GGUF_PARTS |= {"attn_v": "attention.value", "attn_output": "attention.out", "ffn_norm": "feed_forward_norm"}
_GGUF_PARTS |= {"ffn_up": "feed_forward.up", "ffn_gate": "feed_forward.gate", "ffn_down": "feed_forward.down"}


def _from_gguf_name(name: str) -> str:
    part, _, end = name.rpartition(".")
    found = re.fullmatch(r"blk\.(\d+)\.(.+)", part)
    if found and found[2] in _GGUF_PARTS:
        return f"blocks.{found[1]}.{_GGUF_PARTS[found[2]]}.{end}"
    return f"{_GGUF[part]}.{end}" if part in _GGUF else name  # unknown; load_into will say so
