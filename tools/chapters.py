"""The chapters as files: where they lie, what they import, and how long each may take."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from nextword import runtime
from nextword.book import claims

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ROOT / "chapters"
LIBRARY = ROOT / "lib" / "nextword"
RUNS = LIBRARY / "book" / "recorded"
EXECUTED = ROOT / "build" / "executed" / "chapters"
CELL_TIMEOUT = 1200  # seconds

ABOUT: dict[str, dict[str, Any]] = tomllib.loads((CHAPTERS / "chapters.toml").read_text(encoding="utf8"))
"""What chapters/chapters.toml says of each chapter: title, papers, budget, needs and recorded runs, in reading order."""


def planned_seconds(run: dict[str, Any]) -> float:
    """Return what an executed chapter may take on its machine: its budget, 1.6 times that without bfloat16."""
    return float(run["budget_seconds"]) * (1.0 if run["precision"].startswith("bfloat16") else 1.6)


def names(folder: Path = CHAPTERS) -> list[str]:
    """Return the names of all chapters that exist, longest budget first."""
    found = [path.stem for path in folder.glob("*.ipynb")]
    unknown = sorted(set(found) - set(ABOUT))
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: register each new chapter in chapters/chapters.toml")
    return sorted(found, key=lambda name: (-ABOUT[name]["budget_seconds"], name))


def read(name: str, folder: Path = CHAPTERS) -> nbformat.NotebookNode:
    """Return a chapter's notebook."""
    return nbformat.read(folder / f"{name}.ipynb", as_version=4)


def is_exclusive(name: str) -> bool:
    """Return whether the chapter times things and must run alone."""
    return bool(ABOUT[name].get("exclusive", False))


def code_of(notebook: nbformat.NotebookNode) -> str:
    """Return the notebook's code as one Python source; lines for IPython alone, such as %pip, become calls."""
    transform = TransformerManager().transform_cell
    return "\n".join(transform(cell.source) for cell in notebook.cells if cell.cell_type == "code")


def library(folder: Path = LIBRARY) -> dict[str, Path]:
    """Return the library's modules by their names below ``nextword``, such as ``book.claims``, and their files."""
    paths = [path for path in folder.rglob("*.py") if path.name != "__init__.py"]
    return {".".join(path.relative_to(folder).with_suffix("").parts): path for path in sorted(paths)}


def imports_of(node: ast.Import | ast.ImportFrom, known: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return what an import brings in from the modules ``known``: its name here, the module, its name there or ``""``."""
    found = {}
    for alias in node.names:
        parent = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        full = f"{parent}.{alias.name}".strip(".").removeprefix("nextword.")
        if not f"{parent}.{alias.name}".strip(".").startswith("nextword."):
            continue
        if full in known:
            found[alias.asname or alias.name] = full, ""
        elif full.rpartition(".")[0] in known:
            found[alias.asname or alias.name] = full.rpartition(".")[0], alias.name
    return found


def modules_of(code: str) -> set[str]:
    """Return the names of the ``nextword`` modules that a source imports, with all that those import in turn."""
    known = library()
    found: set[str] = set()
    waiting = _imports(code, known)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting |= _imports(known[module].read_text(encoding="utf8"), known)
    return found


def _imports(code: str, known: Collection[str]) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {module for node in nodes for module, _ in imports_of(node, known).values()}


def nbmake(
    folder: Path, *, kernel: str, environment: dict[str, str], paths: Sequence[Path] = (), parallel: int = 1
) -> int:
    """Execute the notebooks ``paths`` (all of ``folder`` when empty) in place with nbmake; return its exit status."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    command += ["--nbmake", "--overwrite", f"--nbmake-kernel={kernel}", f"--nbmake-timeout={CELL_TIMEOUT}"]
    if parallel > 1:
        command += ["-n", str(parallel), "--dist=load", "--maxschedchunk=1"]
    command += [str(path) for path in paths] or [str(folder)]
    quiet = {"NEXTWORD_PROGRESS": "0"}  # a bar prints its last state only
    return subprocess.run(command, env={**os.environ, **quiet, **environment}).returncode


def environment() -> dict[str, str]:
    """Return what the numbers of a run depend on besides the source: device, preset, seed, threads, versions."""
    return {**runtime.describe(), "threads": os.environ.get("NEXTWORD_THREADS", "1"), "seed": str(runtime.seed())}


def outputs_hash(notebook: nbformat.NotebookNode) -> str:
    """Return a hash over what a notebook's cells gave, so that an executed copy edited by hand is noticed."""
    given = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write a file that people read in diffs, at once or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    os.replace(temporary, path)


def runs_in(code: str) -> list[str]:
    """Return the recorded runs that a source names."""
    found = (path.name.removesuffix(".json.gz") for path in RUNS.glob("*.json.gz"))
    return sorted(run for run in found if re.search(rf"\b{run}\b", code))


def key(name: str) -> str:
    """Return the key under which an executed chapter may be used again.

    It covers the notebook's cells, the library modules they import, the chapter's claims and their calibration, the
    recorded runs it loads, and the environment.
    """
    notebook = read(name)
    digest = hashlib.sha256(json.dumps([[c.cell_type, c.source, c.metadata] for c in notebook.cells]).encode())
    code = code_of(notebook)
    files = library()
    for module in sorted(modules_of(code)):
        digest.update(files[module].read_bytes())
    for claim in claims.ledger().values():
        if claim.chapter == name:
            digest.update(repr(claim).encode())
            digest.update(repr([rows.get(claim.id) for rows in claims.calibration().values()]).encode())
    if "book.outcomes" in modules_of(code):
        digest.update((LIBRARY / "book" / "outcomes.json").read_bytes())
    for run in runs_in(code):
        digest.update((RUNS / f"{run}.json.gz").read_bytes())
    digest.update(json.dumps(environment(), sort_keys=True).encode())
    return digest.hexdigest()
