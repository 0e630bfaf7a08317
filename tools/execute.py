"""Execute the chapters with nbmake, two at a time, and keep the executed copies in build/executed/chapters.

    python tools/execute.py                 every chapter whose source, library or preset has changed
    python tools/execute.py 2003_next_word  one chapter
    python tools/execute.py --all           every chapter, whatever the cache says

A chapter is run again only when its cells, a library module they import, its claims, their calibration, a recorded run
it loads, or the environment has changed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import sys
from pathlib import Path

import chapters


def stale(names: list[str], folder: Path) -> list[str]:
    """Return the chapters whose executed copy is missing or belongs to another source or environment."""
    return [n for n in names if not _is_fresh(folder / f"{n}.ipynb", folder / f"{n}.run.json", chapters.key(n))]


def _is_fresh(notebook: Path, run: Path, key: str) -> bool:
    return notebook.exists() and run.exists() and json.loads(run.read_text(encoding="utf8"))["key"] == key


def execute(names: list[str], folder: Path) -> int:
    """Run nbmake on fresh copies of the named chapters; return its exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {name: chapters.key(name) for name in names}  # before the run: a later edit must not pass for what was run
    for name in names:
        (folder / f"{name}.run.json").unlink(missing_ok=True)
        shutil.copy(chapters.CHAPTERS / f"{name}.ipynb", folder / f"{name}.ipynb")
    exclusive = [name for name in names if chapters.is_exclusive(name)]
    shared = [name for name in names if name not in exclusive]
    status = 0
    for group in [shared, *([name] for name in exclusive)]:
        if group:
            paths = [folder / f"{name}.ipynb" for name in group]
            threads = {"OMP_NUM_THREADS": os.environ["NEXTWORD_THREADS"]}
            parallel = min(2, len(group))
            status |= chapters.nbmake(folder, kernel="python3", environment=threads, paths=paths, parallel=parallel)
    for name in names:
        if passed(name, folder):
            _write_run(name, folder, keys[name])
    return status


def passed(name: str, folder: Path) -> bool:
    """Return whether every cell of the executed copy ran, and none raised."""
    cells = [cell for cell in chapters.read(name, folder).cells if cell.cell_type == "code" and cell.source]
    outputs = (output for cell in cells for output in cell.outputs)
    return all(cell.execution_count for cell in cells) and all(o.output_type != "error" for o in outputs)


def _write_run(name: str, folder: Path, key: str) -> None:
    run = {
        "key": key,
        "outputs": chapters.outputs_hash(chapters.read(name, folder)),
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds(name, folder), 1),
        "budget_seconds": chapters.ABOUT[name]["budget_seconds"],
        "load": round(os.getloadavg()[1] / (os.cpu_count() or 1), 2) if hasattr(os, "getloadavg") else 1.0,
        **chapters.environment(),
    }
    (folder / f"{name}.run.json").write_text(json.dumps(run, indent=1), encoding="utf8")


def seconds(name: str, folder: Path) -> float:
    """Return the wall-clock seconds between the first cell's start and the last cell's end."""
    times = [cell.metadata.get("execution", {}) for cell in chapters.read(name, folder).cells]
    stamps = [t[k] for t in times for k in ("iopub.execute_input", "shell.execute_reply") if k in t]
    parsed = [datetime.datetime.fromisoformat(s.replace("Z", "+00:00")) for s in stamps]
    return (max(parsed) - min(parsed)).total_seconds() if parsed else 0.0


def main() -> int:
    """Parse the command line and run what is stale."""
    parser = argparse.ArgumentParser(description="Execute the chapters of the book.")
    parser.add_argument("names", nargs="*", help="chapters to run, without .ipynb; all when empty")
    parser.add_argument("--all", action="store_true", help="run even what has not changed")
    parser.add_argument("--folder", type=Path, default=chapters.EXECUTED, help="where the executed copies go")
    arguments = parser.parse_args()
    os.environ.setdefault("NEXTWORD_THREADS", "1")  # two chapters at a time, one core each
    known = chapters.names()
    unknown = sorted(set(arguments.names) - set(known))
    if unknown:
        parser.error(f"no chapter called {', '.join(unknown)}; there are: {', '.join(known)}")
    wanted = arguments.names or known
    due = wanted if arguments.all else stale(wanted, arguments.folder)
    print(
        f"{len(wanted) - len(due)} chapter(s) unchanged; executing {len(due)}: {', '.join(due) or 'none'}", flush=True
    )
    return execute(due, arguments.folder)


if __name__ == "__main__":
    sys.exit(main())
