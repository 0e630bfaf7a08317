"""Trained models as folders: weights, sizes, tokenizer and a card that says where they come from.

A folder holds ``model.safetensors``, ``config.json``, ``card.json`` and, where there is one, ``tokenizer.json``. Nothing
in it is code: safetensors and JSON cannot run anything.

Example:
    >>> model, tokenizer, card = load("nextword-small")
    >>> card["data"].split(",")[0]
    'BoolQ'
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from nextword import pretrained
from nextword.fetching import fetch_file, fetch_folder
from nextword.files import atomic_folder
from nextword.tokenizers import ByteBPE

BUNDLED = Path(__file__).parent / "bundled" / "models"
"""Where the models that come with the library lie; ``make checkpoints`` trains them again."""

T = TypeVar("T", bound=nn.Module)

_FORMAT = 1
_ALWAYS, _PERHAPS = {"model.safetensors", "config.json", "card.json"}, {"tokenizer.json"}  # what save writes
_SCALE = ".scale"  # ends the name of the scales of a matrix in 8 bits


class LoadedModel(NamedTuple):
    """A trained model with what belongs to it."""

    model: Any
    """In evaluation mode, of the class that was saved."""
    tokenizer: ByteBPE | None
    """What turns text into its ids; None where none was saved."""
    card: dict[str, Any]
    """Data, seed, steps, seconds, loss and licence."""


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds, before it is put into a model."""

    architecture: str
    """The name of the model's class."""
    config: dict[str, Any]
    """The fields of the model's config."""
    weights: dict[str, Tensor]
    """In float32, by the names of the model's ``state_dict``; shared matrices once."""
    tokenizer: ByteBPE | None
    """What turns text into its ids; None where none was saved."""
    card: dict[str, Any]
    """Data, seed, steps, seconds, loss and licence."""


# --- Writing ----------------------------------------------------------------------------------------------------------


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    card: dict[str, Any],
    tokenizer: ByteBPE | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model with a ``config`` dataclass into a folder; a crash leaves the old folder whole.

    Args:
        model: its ``config`` is written beside its weights.
        path: a new or empty folder, or one that an earlier save made, which is replaced.
        card: what a reader should know: data, seed, steps, seconds, loss, licence.
        tokenizer: what turned text into the model's ids; it has no more of them than the model.
        dtype: how the parameters are rounded. ``float32`` keeps them as they are. ``float16`` halves the file and keeps 11
            binary digits of each, ``bfloat16`` 8. ``int8`` writes each row of a matrix as whole numbers from -127 to 127
            and one scale, which moves a weight by at most 1/254 of the largest in its row, and the rest in ``float16``.

    Raises:
        TypeError: ``tokenizer`` is no :class:`~nextword.tokenizers.ByteBPE`.
        ValueError: ``tokenizer`` has ids that the model has not; ``path`` is a file, or a folder with
            something that ``save`` does not write, such as the checkpoint of a training; ``dtype`` is none of these, or a weight is too large for it. Nothing was written or deleted.
    """
    _check_replaceable(Path(path))
    _check_tokenizer(tokenizer, getattr(model.config, "vocab_size", None))
    if dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.int8):
        raise ValueError(f"dtype={dtype}: choose torch.float32, float16, bfloat16 or int8")
    tensors: dict[str, Tensor] = {}
    for name, weight in _unique_state(model).items():
        is_parameter = isinstance(weight, nn.Parameter)  # a buffer is small and stays as it is
        tensors |= _rounded(name, weight.detach().cpu(), dtype) if is_parameter else {name: weight.cpu().contiguous()}
    with atomic_folder(path) as folder:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = {"format": _FORMAT, "model": type(model).__name__, **asdict(model.config)}  # type: ignore[call-overload]
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf8")
        (folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
        if tokenizer is not None:
            tokenizer.save(folder / "tokenizer.json")
        shutil.copymode(folder / "card.json", folder / "model.safetensors")  # safetensors closes its file to all others


def _check_tokenizer(tokenizer: Any, vocab_size: Any) -> None:
    """Refuse what is no tokenizer, and one whose ids the model does not know."""
    if tokenizer is not None and not isinstance(tokenizer, ByteBPE):
        raise TypeError(f"tokenizer={tokenizer!r:.60}; give the ByteBPE that made the model's ids")
    # The other way round is common: a vocabulary that is filled up to a round number is faster, and nothing is lost.
    if tokenizer is not None and isinstance(vocab_size, int) and tokenizer.vocab_size > vocab_size:
        sizes = f"tokenizer has {tokenizer.vocab_size} ids, and the model vocab_size={vocab_size}"
        raise ValueError(f"{sizes}; give the one that made the model's ids")


def _check_replaceable(path: Path) -> None:
    """Refuse a path where saving would delete what no earlier save wrote."""
    fits = "give a new folder, or one that an earlier save made"
    if path.exists() and not path.is_dir():
        raise ValueError(f"path={str(path)!r} is a file, which save would delete; {fits}")
    held = {entry.name for entry in path.iterdir()} if path.exists() else set()
    # A folder that holds some of save's names only, such as a config.json of one's own, is none of save's either.
    foreign = sorted(held - _ALWAYS - _PERHAPS if held >= _ALWAYS else held)
    if foreign:
        what = "the state of a training by fit(checkpoint=…)" if "training.pt" in foreign else "no earlier save's"
        name = "training.pt" if "training.pt" in foreign else foreign[0]
        raise ValueError(f"path={str(path)!r} holds {name}, {what}, which save would delete; {fits}")


def _unique_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's ``state_dict`` with shared matrices once, under their first name, as safetensors demands."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())


def _rounded(name: str, weight: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a parameter as the file holds it: in fewer digits, or as whole numbers and the scale of each row."""
    if dtype == torch.int8 and weight.ndim == 2:
        matrix = weight.float()
        scale = (matrix.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)  # (rows, 1)
        tensors, fits = {name: (matrix / scale).round().to(dtype), name + _SCALE: scale}, bool(matrix.isfinite().all())
    else:
        tensors = {name: weight.to(torch.float16 if dtype == torch.int8 else dtype).contiguous()}
        fits = torch.equal(tensors[name].isfinite(), weight.isfinite())
    if not fits:
        raise ValueError(
            f"{name} holds {float(weight.abs().max()):g}, which does not fit dtype={dtype}; dtype=torch.float32 keeps it"
        )
    return tensors


# --- Reading ----------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> LoadedModel:
    """Return a trained model, in evaluation mode, with its tokenizer and its card.

    With the library come ``"nextword-small"``, ``"nextword-medium"`` and ``"nextword-large"``, GPTs of 0.6, 1.5 and 3.5 million
    parameters with a context of 256 tokens, trained on questions, on passages of Wikipedia and on simple sentences; a text
    of theirs ends with ``<|endoftext|>``. ``"gnmt_en_es"`` and ``"transformer_en_es"`` translate from English to Spanish.

    Args:
        path: a folder that :func:`save` wrote; the name of a model that comes with the library; a GGUF file
            with a model of Llama's shape; or ``"smollm2"`` for SmolLM2-135M-Instruct, fetched once through the package
            index (93 MB).

    Raises:
        ValueError: there is no such model, or its files cannot be read.
        DataError: ``"smollm2"`` is neither in the cache nor to be had.

    Example:
        >>> model, tokenizer, card = load("nextword-small")
        >>> ids = torch.tensor([tokenizer.encode("The sea is")])
        >>> model.generate(ids, 5, temperature=0).shape[1] - ids.shape[1]
        5
    """
    location = resolve(path)
    if location.is_file():
        card = {"data": f"read from {location.name}"}
        return LoadedModel(_class_of("Decoder", location).from_gguf(location), ByteBPE.from_gguf(location), card)
    checkpoint = read(location)
    model = _class_of(checkpoint.architecture, location).from_pretrained(str(location))
    return LoadedModel(model, checkpoint.tokenizer, checkpoint.card)


MODULES = {"Decoder": "decoder", "Encoder": "encoder", "MaskedLM": "encoder", "Transformer": "transformer"}
MODULES |= {"Seq2SeqLSTM": "recurrent", "RewardModel": "reward_model"}
"""Where the classes are that :func:`load` knows. They import this module, so it imports them when it needs one."""


def _class_of(architecture: str, folder: Path) -> Any:
    if architecture not in MODULES:
        raise ValueError(f"path={str(folder)!r} holds a {architecture}; load knows {', '.join(MODULES)}")
    return getattr(importlib.import_module(f"nextword.{MODULES[architecture]}"), architecture)


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return where a model lies: ``path`` itself, a model that comes with the library, one in a package, or on the hub.

    ``"minilm"`` and ``"smollm2"`` lie in packages (see :mod:`nextword.fetching`). ``"gpt2"``, ``"gpt2-medium"``,
    ``"gpt2-large"``, ``"gpt2-xl"``, ``"openai-gpt"``, ``"bert-base-uncased"``, ``"bert-large-uncased"`` and names such as
    ``"owner/model"`` are looked up on the Hugging Face hub, once; its package ``huggingface_hub`` keeps the files.

    Raises:
        ValueError: there is no such model.
        DataError: the package cannot be had.
        ConnectionError: the hub cannot be reached, and its files were never fetched.
        ImportError: the hub is asked for and ``huggingface_hub`` is not installed.
    """
    name, folder = str(path), _folder(path)
    if folder.exists():
        return folder
    if name in ("minilm", "smollm2"):
        return fetch_folder(name) if name == "minilm" else fetch_file(name)
    on_hub = name in pretrained.HUB or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
    return pretrained.download(name) if on_hub else folder


def _folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder of that path, or of the model of that name that comes with the library."""
    bundled, own = BUNDLED / path, Path(path)
    is_state = own.name == "training.pt" and own.is_file()
    if is_state or ((own / "training.pt").is_file() and not (own / "config.json").is_file()):
        fits = "fit(…, checkpoint=…, resume=True) goes on from it, and model.save writes what can be loaded"
        raise ValueError(f"path={str(path)!r} holds the state of a training; {fits}")
    return bundled if bundled.is_dir() and not own.is_dir() else own


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a folder that :func:`save` wrote; a plain name means a model that comes with the library.

    Raises:
        ValueError: there is no such model, or its files cannot be read.
    """
    folder, where = _folder(path), f"path={str(path)!r}"
    if not (folder / "config.json").is_file():
        known = ", ".join(sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))) or "none"
        raise ValueError(f"{where} holds no model; those that come with the library: {known}")
    pretrained.hf_config(folder)  # of a published model it says what reads it
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf8"))
        if not isinstance(config, dict) or config.pop("format", None) != _FORMAT:
            raise ValueError(f"it is not of format {_FORMAT}, the one this version of nextword reads")
        card = json.loads((folder / "card.json").read_text(encoding="utf8"))
        if not isinstance(card, dict):
            raise ValueError("card.json holds no JSON object")
        weights = _unrounded(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from error
    file = folder / "tokenizer.json"
    tokenizer = ByteBPE.load(file) if file.is_file() else None
    return Checkpoint(str(config.pop("model", None)), config, weights, tokenizer, card)


def _unrounded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a file in float32, matrices in 8 bits times the scales of their rows."""
    matrices = {name for name, tensor in tensors.items() if tensor.dtype == torch.int8}
    scales = {name + _SCALE for name in matrices}
    weights = {name: w.float() if w.is_floating_point() else w for name, w in tensors.items() if name not in scales}
    for name in matrices:
        scale = tensors.get(name + _SCALE)
        if scale is None or scale.shape != (len(tensors[name]), 1):
            raise ValueError(f"{name} is in 8 bits, and there is no {name}{_SCALE} with a number for each of its rows")
        weights[name] = tensors[name].float() * scale
    return weights


# --- Weights into models ----------------------------------------------------------------------------------------------


def from_folder(
    model: type[T], config: type[Any], path: str | os.PathLike[str], *, build: Callable[[Any], T] | None = None
) -> T:
    """Return a model of this class from a folder that :func:`save` wrote, or a bundled name; in evaluation mode.

    Args:
        model: its class.
        config: the class of its config.
        path: as for :func:`read`.
        build: makes the model from its config, if calling the class does not.

    Raises:
        ValueError: there is no such model, it is of another class, or its files are damaged.
    """
    checkpoint, where = read(path), f"path={str(path)!r}"
    holds, wanted = checkpoint.architecture, model.__name__
    if holds != wanted:
        raise ValueError(f"{where} holds a {holds}, not a {wanted}; {holds}.from_pretrained reads it")
    sizes = {
        name: tuple(x) if isinstance(x, list) else x for name, x in checkpoint.config.items()
    }  # JSON has no tuples
    try:
        settings = config(**sizes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: its config.json makes no {config.__name__}: {error}") from error
    return from_state_dict(lambda: (build or model)(settings), checkpoint.weights)


def from_state_dict(build: Callable[[], T], weights: Mapping[str, Tensor]) -> T:
    """Return the model that ``build`` makes, with these weights, in evaluation mode.

    It begins without any: no random number is drawn, and no time is spent on weights that are thrown away.

    Raises:
        ValueError: the weights are not those of this model; see :func:`load_state_dict`.
    """

    def leave_empty(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        # On the device "meta" a tensor has a shape and no numbers. One that is there is shared, and stays the same one.
        return None if parameter.is_meta else nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(leave_empty)  # type: ignore[arg-type]  # torch says: None only
    try:
        model = build()
    finally:
        hook.remove()
    real: dict[Tensor, Tensor] = {}  # what takes the place of each tensor without numbers, a shared one once
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_meta:
            empty = torch.empty_like(tensor, device=torch.get_default_device())
            real[tensor] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor in real:
                setattr(module, name, real[tensor])
    load_state_dict(model, weights)
    return model.eval()


def load_state_dict(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a model of the same sizes, shared matrices from their first name.

    Raises:
        ValueError: the names or shapes differ; the message says where. The model is left as it was.
    """
    state = _unique_state(model)
    missing, unknown = sorted(state.keys() - weights.keys()), sorted(weights.keys() - state.keys())
    if missing or unknown:
        raise ValueError(
            f"checkpoint lacks {missing or 'nothing'} and has {unknown or 'nothing'} that the model has not"
        )
    for name, tensor in state.items():
        if weights[name].shape != tensor.shape:
            shapes = f"{name} as {tuple(weights[name].shape)}, the model as {tuple(tensor.shape)}"
            raise ValueError(f"checkpoint holds {shapes}")
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(weights[name])
