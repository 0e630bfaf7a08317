"""Execute the chapters with nbmake, two at a time, and keep the executed copies in build/executed/chapters.

    python tools/execute.py                 every chapter whose source, library or preset has changed
    python tools/execute.py 2003_next_word  one chapter
    python tools/execute.py --all           every chapter, whatever the cache says

A chapter is run again only when its own source, a library module it imports, its claims or the environment has changed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import chapters
from nextword import runtime

TIMEOUT = 1200  # seconds for one cell


def environment() -> dict[str, str]:
    """Return what the numbers of a run depend on besides the source."""
    return {**runtime.describe(), "seed": str(runtime.seed())}


def stale(names: list[str], folder: Path) -> list[str]:
    """Return the chapters whose executed copy is missing or belongs to another source or environment."""
    now = environment()
    return [n for n in names if not _is_fresh(folder / f"{n}.ipynb", folder / f"{n}.run.json", chapters.key(n, now))]


def _is_fresh(notebook: Path, run: Path, key: str) -> bool:
    return notebook.exists() and run.exists() and json.loads(run.read_text(encoding="utf8"))["key"] == key


def execute(names: list[str], folder: Path) -> int:
    """Run nbmake on fresh copies of the named chapters; return its exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.run.json").unlink(missing_ok=True)
        shutil.copy(chapters.CHAPTERS / f"{name}.ipynb", folder / f"{name}.ipynb")
    exclusive = [name for name in names if chapters.is_exclusive(name)]
    shared = [name for name in names if name not in exclusive]
    status = _nbmake(shared, folder, parallel=min(2, len(shared)))
    for name in exclusive:
        status = _nbmake([name], folder, parallel=1) or status
    for name in names if status == 0 else []:
        _write_run(name, folder)
    return status


def _nbmake(names: list[str], folder: Path, *, parallel: int) -> int:
    if not names:
        return 0
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
        "-q",
        "--nbmake",
        "--overwrite",
    ]
    command += [f"--nbmake-timeout={TIMEOUT}", "--nbmake-kernel=python3", "-p", "no:cacheprovider"]
    if parallel > 1:
        command += ["-n", str(parallel), "--dist=load", "--maxschedchunk=1"]
    command += [str(folder / f"{name}.ipynb") for name in names]
    quiet = {"OMP_NUM_THREADS": os.environ["NEXTWORD_THREADS"], "NEXTWORD_PROGRESS": "0"}
    return subprocess.run(command, env={**os.environ, **quiet}).returncode


def _write_run(name: str, folder: Path) -> None:
    run = {
        "key": chapters.key(name, environment()),
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds(name, folder), 1),
        "budget_seconds": chapters.BUDGET_SECONDS[name],
        **environment(),
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
    runtime.set_threads()
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
