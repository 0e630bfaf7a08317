"""The machine a chapter runs on: device, preset, precision, threads, seeds and progress bars.

Everything that may differ between a laptop, a free Colab GPU and a continuous-integration machine is decided here, once,
so that chapters can say *what* they compute and not *where*.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

T = TypeVar("T")

PRESETS = ("smoke", "cpu", "gpu")
"""``smoke``: seconds, nothing is judged. ``cpu``: the book's numbers. ``gpu``: larger, chosen when CUDA is there."""


def device() -> torch.device:
    """Return the device that chapters use: CUDA under the ``gpu`` preset, else the CPU."""
    return torch.device("cuda" if preset() == "gpu" and torch.cuda.is_available() else "cpu")


def preset() -> str:
    """Return the size of this run: ``smoke``, ``cpu`` or ``gpu``.

    ``NEXTWORD_PRESET`` decides; without it, ``gpu`` where CUDA is available and ``cpu`` elsewhere.

    Raises:
        ValueError: ``NEXTWORD_PRESET`` names no preset, or asks for ``gpu`` where there is none.
    """
    default = "gpu" if torch.cuda.is_available() else "cpu"
    name = os.environ.get("NEXTWORD_PRESET") or default
    if name not in PRESETS:
        raise ValueError(f"NEXTWORD_PRESET={name!r} is no preset; choose one of {', '.join(PRESETS)}")
    if name == "gpu" and not torch.cuda.is_available():
        raise ValueError("NEXTWORD_PRESET='gpu' needs a CUDA device, and torch sees none; use 'cpu' or 'smoke'")
    return name


def by_preset(*, smoke: T, cpu: T, gpu: T) -> T:
    """Return the value that belongs to the present preset. Each chapter holds all its sizes in one such call.

    Example:
        >>> by_preset(smoke=10, cpu=1000, gpu=100_000) in (10, 1000, 100_000)
        True
    """
    return {"smoke": smoke, "cpu": cpu, "gpu": gpu}[preset()]


def seed() -> int:
    """Return the seed of this run: ``NEXTWORD_SEED``, or 0. Calibration runs a chapter under several."""
    text = os.environ.get("NEXTWORD_SEED") or "0"
    if not text.isdigit():
        raise ValueError(f"NEXTWORD_SEED={text!r} is not a whole number of at least 0")
    return int(text)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch. Only chapters and tests call this; the library takes a ``generator`` instead.

    Args:
        seed: a whole number from 0 to 2**32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} is outside 0 … 2**32 - 1")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def fork_rng(seed: int) -> Iterator[None]:
    """Run a block on random numbers that start at ``seed``; those outside go on as if there had been no block.

    This is ``torch.random.fork_rng`` for the generators of Python and NumPy, too.
    """
    outside = rng_state()
    seed_everything(seed)
    try:
        yield
    finally:
        set_rng_state(outside)


def rng_state() -> dict[str, Any]:
    """Return the state of all generators in types that ``torch.load(weights_only=True)`` admits."""
    name, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    legacy = (name, torch.tensor(np.asarray(keys, dtype=np.int64)), *rest)
    return {"python": random.getstate(), "numpy": legacy, "torch": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Put all generators where :func:`rng_state` found them."""
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy(), *rest))
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():  # another machine may have other cards
        torch.cuda.set_rng_state_all(state["cuda"])


def bf16() -> bool:
    """Return whether bfloat16 makes this machine faster.

    True on CPUs with AVX512-BF16 or AMX, and on GPUs of compute capability 8 or more. On other CPUs bfloat16 is emulated
    and slower than float32. ``NEXTWORD_BF16=0`` or ``1`` overrides what was found.
    """
    override = os.environ.get("NEXTWORD_BF16")
    if override in ("0", "1"):
        return override == "1"
    if device().type == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    return _cpu_has_bf16()


@functools.cache
def _cpu_has_bf16() -> bool:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        probe = getattr(torch.cpu, name, None)
        if probe is not None and probe():
            return True
    return False


def autocast() -> contextlib.AbstractContextManager[Any]:
    """Return the context in which forward passes run: bfloat16 autocast where it is faster, else nothing."""
    if bf16():
        return torch.autocast(device().type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def set_threads(n: int | None = None) -> int:
    """Set torch's thread count once, to ``n``, ``NEXTWORD_THREADS``, ``OMP_NUM_THREADS`` or what torch chose; return it."""
    wanted = (
        n
        if n is not None
        else int(os.environ.get("NEXTWORD_THREADS") or os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads())
    )
    if wanted < 1:
        raise ValueError(f"n={wanted} threads: at least 1 is needed")
    torch.set_num_threads(wanted)
    return wanted


def replace_file(path: str | os.PathLike[str], write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a file under a temporary name, then rename it to ``path``; missing folders are made.

    Whoever reads ``path`` at any moment, even after a crash, finds the whole old file or the whole new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # on the disk before it gets its name
        os.replace(temporary, path)  # within one folder, so that nothing is copied
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def busy() -> bool:
    """Return whether other processes hold this machine's cores, so that a measured speed would mean little.

    Windows does not tell its load; there the answer is always False.
    """
    cores = os.cpu_count() or 1
    return os.getloadavg()[0] > cores + 0.5 if hasattr(os, "getloadavg") else False


def progress(iterable: Iterable[Any], *, total: int | None = None, desc: str = "", unit: str = "it") -> tqdm:
    """Return ``iterable`` behind a bar on standard output that tells how far it is and how long it will take.

    The bar is plain text, so it needs no widget and no network. Where nobody watches (``NEXTWORD_PROGRESS=0``, as in the
    book's own build) only its last state is printed.
    """
    live = os.environ.get("NEXTWORD_PROGRESS", "1") != "0"
    # tqdm draws when it starts, every mininterval, and when it ends; any delay above 0 takes the first away
    pace = {"mininterval": 0.5} if live else {"mininterval": float("inf"), "delay": 1e-9}
    return tqdm(iterable, total=total, desc=desc, unit=unit, file=sys.stdout, ncols=88, **pace)


@functools.cache
def processor() -> str:
    """Return the processor's model, as far as the system says it."""
    name = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        text = listed.read_text(encoding="utf8", errors="replace")
        facts = {k: re.search(rf"^{k}\s*: (.*)$", text, re.M) for k in ("model name", "cpu family", "model")}
        name = " ".join(f"{k} {m[1]}" if k != "model name" else m[1] for k, m in facts.items() if m) or name
    return name


def describe() -> dict[str, str]:
    """Return device, processor, preset, precision, threads and versions, as executed chapters and recorded runs keep them."""
    name = torch.cuda.get_device_name() if device().type == "cuda" else "CPU"
    return {
        "device": name,
        "processor": processor(),
        "preset": preset(),
        "precision": "bfloat16 autocast" if bf16() else "float32",
        "threads": str(torch.get_num_threads()),
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
