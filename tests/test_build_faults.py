"""Plant each fault in a copy of a chapter and see the build stop with a message that a newcomer understands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NAME = "2003_next_word"

LEDGER = """
[papers]
p2000 = "Author 2000"
[[claim]]
id = "toy.sum"
chapter = "2003_next_word"
paper = "p2000"
where = "Table 1"
statement = "The sum is large."
kind = "measurement"
quantity = "sum"
op = ">="
threshold = 100.0
predicted = "holds"
expected = "holds"
"""
CALIBRATION = {"cpu": {"toy.sum": {"mean": 120.0, "sd": 1.0, "n": 5, "runs": [{"verdict": "holds"}] * 5}}}


@pytest.fixture
def book(tmp_path):
    """A copy of the library and tools around a small chapter; returns a function that builds it up to the claims."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    (tmp_path / "chapters").mkdir()

    def build(
        prose="The sum is {claim}`toy.sum`.", code='claims.record("toy.sum", sum(range(16)))', ledger=LEDGER, ci="true"
    ):
        cells = [
            nbformat.v4.new_markdown_cell(f"# Toy\n\n{prose}"),
            nbformat.v4.new_code_cell(f"from nextword import claims\n{code}"),
        ]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / "chapters" / f"{NAME}.ipynb")
        (tmp_path / "lib/nextword/claims.toml").write_text(ledger)
        (tmp_path / "lib/nextword/calibration.json").write_text(json.dumps(CALIBRATION))
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib"), "NEXTWORD_PRESET": "cpu", "CI": ci}
        run = {"env": environment, "capture_output": True, "text": True, "cwd": tmp_path}
        executed = subprocess.run([sys.executable, "tools/execute.py"], **run)
        collected = subprocess.run([sys.executable, "tools/collect.py"], **run)
        return executed, collected

    return build


def test_a_sound_chapter_passes_and_leaves_the_ledger(book, tmp_path):
    executed, collected = book()
    assert executed.returncode == 0, executed.stdout
    assert collected.returncode == 0, collected.stdout
    content = json.loads((tmp_path / "build/claims.json").read_text())
    (row,) = content["claims"]
    assert row["measured"] == 120 and row["verdict"] == "holds" and row["band"] == [116, 124]
    assert content["meta"]["preset"] == "cpu" and NAME in content["meta"]["seconds"]


FAULTS = {
    "claim not recorded": (
        {"code": "print('nothing measured')"},
        ["toy.sum", "was not recorded", 'claims.record("toy.sum", measured)'],
    ),
    "verdict differs from expected": (
        {"ledger": LEDGER.replace("threshold = 100.0", "threshold = 121.0")},
        ["toy.sum", "expected to be 'holds' and is 'fails'", "measured 120", "≥ 121"],
    ),
    "value outside its band": (
        {"code": 'claims.record("toy.sum", 131)'},
        ["toy.sum", "outside the band of healthy runs 116 … 124", "make calibrate"],
    ),
    "number typed in prose": (
        {"prose": "The sum is 120, as {claim}`toy.sum` says."},
        ["the text types 120", "{claim}`toy.sum` instead"],
    ),
    "negative number typed in prose": (
        {
            "prose": "The slope is −120.1.",
            "code": 'claims.record("toy.sum", -120)',
            "ledger": LEDGER.replace('op = ">="\nthreshold = 100.0\n', "").replace("measurement", "report"),
        },
        ["the text types 120.1"],
    ),
    "claim recorded twice": (
        {"code": 'claims.record("toy.sum", 120); claims.record("toy.sum", 120)'},
        ["toy.sum", "was recorded 2 times"],
    ),
    "no expectation yet": (
        {"ledger": LEDGER.replace('expected = "holds"\n', "")},
        ["toy.sum", "has no `expected` yet", "make calibrate"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_stops_the_build(book, fault):
    changes, says = FAULTS[fault]
    _, collected = book(**changes)
    assert collected.returncode == 1, f"{fault} went unnoticed:\n{collected.stdout}"
    for text in says:
        assert text in collected.stdout, f"{text!r} is not in the message:\n{collected.stdout}"


def test_a_reader_without_ci_is_told_and_gets_the_book(book):
    _, collected = book(prose="The sum is 120.", ci="")
    assert collected.returncode == 0
    assert "the text types 120" in collected.stdout and "built all the same" in collected.stdout


def test_a_copy_older_than_the_library_is_not_taken_for_a_result(book, tmp_path):
    book()
    with open(tmp_path / "lib/nextword/runtime.py", "a") as module:
        module.write("\n# changed\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib"), "NEXTWORD_PRESET": "cpu", "CI": "true"}
    run = {"env": environment, "capture_output": True, "text": True, "cwd": tmp_path}
    collected = subprocess.run([sys.executable, "tools/collect.py"], **run)
    assert collected.returncode == 1 and "is older than its source" in collected.stdout


def test_a_failing_cell_stops_the_build_and_shows_the_cell(book):
    executed, _ = book(code="1 / 0")
    assert executed.returncode != 0
    assert "ZeroDivisionError" in executed.stdout
