"""Trained models as folders: weights, sizes, tokenizer and a card that says where they come from.

A folder holds ``model.safetensors`` (half precision), ``config.json``, ``card.json`` and, where there is one,
``tokenizer.json``. Nothing in it is code: safetensors and JSON cannot run anything.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from nextword.tokenizers import ByteBPE

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
    model: nn.Module, path: str | os.PathLike[str], *, card: dict[str, Any], tokenizer: ByteBPE | None = None
) -> None:
    """Write a model with a ``config`` dataclass into a folder, in half precision; a crash leaves the old folder whole.

    Args:
        model: its ``config`` is written beside its weights.
        path: the folder; an older one of that name is replaced.
        card: what a reader should know: data, seed, steps, seconds, loss, licence.
        tokenizer: what turned text into the model's ids.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        save_file(_once_each(model), work / "model.safetensors", metadata={"format": "pt"})
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
    folder = Path(path)
    if not folder.is_dir() and (BUNDLED / folder).is_dir():
        folder = BUNDLED / folder
    if not (folder / "config.json").is_file():
        known = ", ".join(sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))) or "none"
        raise ValueError(f"path={str(path)!r} holds no model; those that come with the library: {known}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf8"))
        card = json.loads((folder / "card.json").read_text(encoding="utf8"))
        weights = {name: w.float() for name, w in load_file(folder / "model.safetensors").items()}
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
    restored = model(config(**checkpoint.config_of(model.__name__)))
    load_into(restored, checkpoint)
    return restored.eval()


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


def _once_each(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter once, in half precision: safetensors refuses two names for one matrix."""
    return {name: p.detach().to("cpu", torch.float16).contiguous() for name, p in model.named_parameters()}
