"""Run every chapter's edition as Colab would: a bare environment, an empty folder, and its own first cell to install.

The editions are those of the built book, which is what the rocket opens.

The environment has torch, numpy and matplotlib (and the kernel, which Colab has too). First the library alone is
installed into it, and the programs of the API page run. A module ``google.colab`` is there from the start, so a
chapter's first cell installs what it needs; its address is pointed at a copy of this checkout. Each chapter then runs
to its end under the ``smoke`` preset, and torch must still be the version that was there before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import nbformat

import chapters
import edition

FOLDER = chapters.ROOT / "build" / "colab"
PYTHON = FOLDER / "venv" / "bin" / "python"
ADDRESS = re.compile(r'(?<=book = ")git\+[^"]*(?=")')
FAKE = 'import sys, types\nsys.modules["google.colab"] = types.ModuleType("google.colab")\n'
PACKAGE_FILES = ("pyproject.toml", "README.md", "LICENSE", "lib")


def bare_environment() -> None:
    """Make the environment from nothing, with the fake module and a kernel named ``colab``."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", str(FOLDER / "venv")], check=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "-q", "-U", "pip"], check=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "-q", "torch", "numpy", "matplotlib", "ipykernel"], check=True)
    (next((FOLDER / "venv" / "lib").glob("python*")) / "site-packages" / "sitecustomize.py").write_text(FAKE)
    kernel = FOLDER / "share" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    argv = [str(PYTHON), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "colab", "language": "python"}))


def checkout() -> None:
    """Copy what pip needs of this checkout, so that building the package leaves no trace in it."""
    for name in PACKAGE_FILES:
        source, target = chapters.ROOT / name, FOLDER / "checkout" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
        else:
            shutil.copy(source, target)


def unbuilt(names: list[str]) -> list[str]:
    """Return the chapters whose edition is missing, or older than the notebook that it is made from."""
    made = {name: edition.OUT / f"{name}.ipynb" for name in names}
    sources = {name: chapters.CHAPTERS / f"{name}.ipynb" for name in names}
    return [
        name for name, path in made.items() if not path.exists() or path.stat().st_mtime < sources[name].stat().st_mtime
    ]


def prepare(name: str) -> None:
    """Put the edition alone into an empty folder, its install cell pointed at the checkout's copy."""
    notebook = chapters.read(name, edition.OUT)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source, changed = ADDRESS.subn(f"file://{FOLDER / 'checkout'}", first.source)
    if changed != 1:
        raise SystemExit(f"{name}: the first code cell installs nothing; copy it from another chapter")
    (FOLDER / "run" / name).mkdir(parents=True)
    nbformat.write(notebook, FOLDER / "run" / name / f"{name}.ipynb")


def run_programs() -> None:
    """Install the library without any extra, and run the programs of the API page as they stand."""
    subprocess.run([PYTHON, "-m", "pip", "install", "-q", str(FOLDER / "checkout")], check=True)
    folder = FOLDER / "programs"
    folder.mkdir()
    (folder / "book.txt").write_text("And he said to them, The sea is wide. " * 2000, encoding="utf8")
    page = (chapters.CHAPTERS / "api.md").read_text(encoding="utf8")
    for code in re.findall(r"```python\n(.*?)```", page, re.S)[:3]:
        subprocess.run([PYTHON, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": ""}, check=True)


def torch_version() -> str:
    """Return the version of torch in the bare environment."""
    command = [PYTHON, "-c", "import torch; print(torch.__version__)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Run the journey; return nbmake's exit status."""
    names = sys.argv[1:] or chapters.names()
    if missing := unbuilt(names):
        remedy = "run 'make book', or 'make chapter NAME=…' and 'python tools/edition.py …' for a single one"
        raise SystemExit(f"no edition of today's {', '.join(missing)} is built: {remedy}")
    bare_environment()
    checkout()
    before = torch_version()
    run_programs()
    for name in names:
        prepare(name)
    environment = {"JUPYTER_PATH": str(FOLDER / "share"), "NEXTWORD_PRESET": "smoke", "PYTHONPATH": ""}
    status = chapters.nbmake(FOLDER / "run", kernel="colab", environment=environment)
    if torch_version() != before:
        print(f"installing the book replaced torch {before} by {torch_version()}; lower the bound in pyproject.toml")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
