"""Plant each fault in a copy of a chapter and see the build stop with a message that a newcomer understands."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from toy_ledger import ledger

from nextword import runtime
from nextword.book import claims

ROOT = Path(__file__).resolve().parents[2]
NAME = "2003_next_word"
HERE = runtime.describe()
ARITHMETIC = claims.arithmetic(HERE)

LEDGER = ledger(NAME) + 'expected = "holds"\n'
REPORT = LEDGER.replace('op = ">="\nthreshold = 100.0\n', "").replace("measurement", "report")
REPORT = REPORT.replace('test = "bet"\n', "")
CALIBRATION = {"cpu": {"toy.sum": {"mean": 120.0, "sd": 1.0, "n": 5, "runs": [{"verdict": "holds"}] * 5}}}


RECORDED = LEDGER + 'runs = ["next_word_neural"]\n'
ADOPT = "import provenance as p; p.adopt('next_word_neural', '2003_next_word', 'train_network', 'recorded', [])"
CELL = "from nextword import runtime\ndef train_network(seed):\n    return runtime.seed() + seed"
SEEDS = 'claims.record_seeds("toy.sum", [118.0, 119.0, 120.0, 121.0, 122.0])'


class Book:
    """A copy of the library and tools around a small chapter, with a history of its own."""

    def __init__(self, root):
        self.root = root
        shutil.copytree(ROOT / "tools", root / "tools")
        shutil.copytree(ROOT / "lib", root / "lib", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
        (root / "chapters").mkdir()
        shutil.copy(ROOT / "chapters/chapters.toml", root / "chapters")
        (root / "lib/nextword/book/calibration.json").write_text(json.dumps(CALIBRATION))
        # As if the run had been recorded on this machine: only then is a live point compared with it.
        path = root / "lib/nextword/book/recorded/next_word_neural.json.gz"
        run = json.loads(gzip.decompress(path.read_bytes()))
        run["versions"]["precision"], run["processor"] = HERE["precision"], HERE["processor"]
        path.write_bytes(gzip.compress(json.dumps(run).encode()))

    def git(self, *arguments):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True)

    def run(self, *command, ci="true"):
        environment = {**os.environ, "PYTHONPATH": str(self.root / "lib"), "NEXTWORD_PRESET": "cpu", "CI": ci}
        return subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, cwd=self.root
        )

    def change(self, path, old, new):
        text = (self.root / path).read_text()
        assert old in text
        (self.root / path).write_text(text.replace(old, new, 1))

    def write(self, prose, code, ledger, recorded=None):
        cells = [nbformat.v4.new_markdown_cell(f"# Toy\n\n{prose}")]
        if recorded:
            cells.append(nbformat.v4.new_code_cell(recorded, metadata={"tags": ["recorded"]}))
        cells.append(nbformat.v4.new_code_cell(f"from nextword.book import claims\n{code}"))
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.root / "chapters" / f"{NAME}.ipynb")
        (self.root / "lib/nextword/book/claims.toml").write_text(ledger)

    def __call__(
        self,
        prose="The sum is {claim}`toy.sum`.",
        code='claims.record("toy.sum", sum(range(16)))',
        ledger=LEDGER,
        before=None,
        recorded=None,
        then=None,
        after=None,
        ci="true",
    ):
        """Commit ``before`` (or the ledger), build up to the claims, and return what both steps said.

        ``recorded`` is the source of a recorded cell, whose run is taken for recorded by it; ``then`` changes the tree
        before the chapter runs, and ``after`` once its numbers are pinned.
        """
        self.write(prose, code, before or ledger, recorded)
        if not (self.root / ".git").exists():
            self.git("init", "-q", "-b", "main")
        self.git("add", "lib/nextword/book/claims.toml")
        self.git("commit", "-q", "-m", "Register")
        self.git("add", "lib/nextword/book/calibration.json")
        self.git("commit", "-q", "-m", "Calibrate")
        if recorded:
            adopted = self.run("-c", f"import sys; sys.path.insert(0, 'tools'); {ADOPT}")
            assert adopted.returncode == 0, adopted.stderr
        (self.root / "lib/nextword/book/claims.toml").write_text(ledger)
        if then:
            then(self)
        executed = self.run("tools/execute.py", ci=ci)
        if recorded:
            self.run("tools/collect.py", ci="")
            self.run("tools/evidence.py")
        if after:
            after(self)
        return executed, self.run("tools/collect.py", ci=ci)


@pytest.fixture
def book(tmp_path):
    return Book(tmp_path)


def test_a_sound_chapter_passes_and_leaves_the_ledger(book, tmp_path):
    executed, collected = book()
    assert executed.returncode == 0, executed.stdout
    assert collected.returncode == 0, collected.stdout
    content = json.loads((tmp_path / "build/claims.json").read_text())
    (row,) = content["claims"]
    assert row["measured"] == 120 and row["verdict"] == "holds" and row["band"] == [116, 124]
    assert row["registered"]["when"] == "before" and row["bet"] == "won" and row["text"] == "120 ± 3"
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
            "ledger": REPORT,
        },
        ["the text types 120.1"],
    ),
    "claim recorded twice": (
        {"code": 'claims.record("toy.sum", 120); claims.record("toy.sum", 120)'},
        ["toy.sum", "was recorded 2 times"],
    ),
    "a preset set inside the chapter, so that nothing is judged": (
        {"code": 'import os\nos.environ["NEXTWORD_PRESET"] = "smoke"\nclaims.record("toy.sum", 90)'},
        ["was recorded under the preset 'smoke' in a run under 'cpu'", "was not judged"],
    ),
    "a criterion replaced inside the chapter": (
        {
            "ledger": LEDGER.replace("threshold = 100.0", "threshold = 121.0"),
            "code": "import dataclasses\nsoft = dataclasses.replace(claims.get('toy.sum'), threshold=1.0)\n"
            "claims.get = lambda id: soft\nclaims.record('toy.sum', 120)",
        },
        ["says 'holds', but 120 judged by the ledger (≥ 121) is 'fails'"],
    ),
    "a machine said to be busy, so that a measurement is not judged": (
        {"code": "claims.judge = lambda *a, **k: 'not judged'\nclaims.record('toy.sum', 90)"},
        ["says 'not judged', but 90", "expected to be 'holds' and is 'fails'"],
    ),
    "a bet changed after its data": (
        {"ledger": LEDGER.replace('predicted = "holds"', 'predicted = "unsure"'), "before": LEDGER},
        ["toy.sum", "predicted: 'holds' → 'unsure'", "[[claim.amended]]"],
    ),
    "a criterion changed after its data": (
        {"ledger": LEDGER.replace("threshold = 100.0", "threshold = 110.0"), "before": LEDGER},
        ["toy.sum", "threshold: 100.0 → 110.0"],
    ),
    "a claim that fails taken out": (
        {
            "ledger": LEDGER,
            "before": LEDGER + LEDGER[LEDGER.index("[[claim]]") :].replace("toy.sum", "toy.mean"),
        },
        ["toy.mean", "has disappeared", "withdrawn"],
    ),
    "a measurement without spread": (
        {"code": "claims.spread = lambda id: None\nclaims.record('toy.sum', 120)"},
        ["its executed copy is missing"],
        "a measurement needs a spread",
    ),
    "a withdrawn claim still recorded": (
        {"ledger": LEDGER + 'withdrawn = "It could not fail."\n'},
        ["its executed copy is missing"],
        "is withdrawn (It could not fail.)",
    ),
    "a mean that its seeds do not have": (
        {
            "code": 'claims.record_seeds("toy.sum", [119.0, 120.0]); '
            'claims.record("toy.sum", 121, std=1.0, values=[119, 120])'
        },
        ["gives 121 for values whose mean is 119.5"],
    ),
    "seeds that the run does not have": (
        {"ledger": RECORDED, "code": 'claims.record_seeds("toy.sum", [119.0, 120.0, 121.0, 120.5])', "recorded": CELL},
        ["is the mean of 4 values, and the arms of next_word_neural have [5] seeds"],
    ),
    "every seed twice, for a narrower interval": (
        {
            "ledger": RECORDED,
            "code": 'claims.record_seeds("toy.sum", 2 * [118.0, 119.0, 120.0, 121.0, 122.0])',
            "recorded": CELL,
        },
        ["is the mean of 10 values", "Record every seed, once"],
    ),
    "an interval narrower than its seeds": (
        {"code": 'claims.record_seeds("toy.sum", [110.0, 120.0, 130.0], interval=(119.0, 121.0))'},
        ["has the interval 119 … 121", "allow no narrower one than ± 24.8"],
    ),
    "a number counted in another way while its run stays": (
        {
            "ledger": RECORDED,
            "code": SEEDS,
            "recorded": CELL,
            "after": lambda book: book.change("tools/pins.json", '"measured": 120.0', '"measured": 110.0'),
        },
        ["toy.sum was 110 by the same recorded runs and is 120 now", "--recount"],
    ),
    "an executed copy edited by hand": (
        {
            "after": lambda book: book.change(
                f"build/executed/chapters/{NAME}.ipynb", '"measured": 120', '"measured": 125'
            )
        },
        ["its executed copy was edited after it ran"],
    ),
    "a claim moved to a chapter that does not exist": (
        {
            "ledger": LEDGER.replace(NAME, "2023_dolly"),
            "before": LEDGER,
            "code": "print('nothing measured')",
        },
        ["its chapter 2023_dolly has no notebook", "chapter: '2003_next_word' → '2023_dolly'"],
    ),
    "a paper's number changed": (
        {"ledger": LEDGER + "paper_value = 119.0\n", "before": LEDGER + "paper_value = 90.0\n"},
        ["toy.sum", "paper_value: 90.0 → 119.0"],
    ),
    "a tolerance widened after it was registered": (
        {
            "before": LEDGER + '[tolerances]\n"next_word_neural.sum" = 0.5\n',
            "ledger": LEDGER + '[tolerances]\n"next_word_neural.sum" = 5.0\n',
            "code": 'claims.record("toy.sum", 120, live=claims.repeat("next_word_neural.sum", 3.0, [2.0]))',
        },
        ["the tolerance 'next_word_neural.sum' is 5.0, and 0.5 was registered"],
    ),
    "a live point compared with nothing": (
        {
            "ledger": LEDGER + '[tolerances]\n"next_word_neural.sum" = 0.5\n',
            "code": 'claims.record("toy.sum", 120, live=claims.repeat("next_word_neural.sum", 3.0, []))',
        },
        ["no chapter compared anything by the tolerance 'next_word_neural.sum'"],
    ),
    "a lost claim withdrawn and called a success": (
        {
            "before": LEDGER.replace('expected = "holds"', 'expected = "fails"'),
            "ledger": LEDGER + 'withdrawn = "It could not be decided."\n',
            "code": "print('nothing measured')",
        },
        ["is withdrawn and expected to be 'holds'; before it was withdrawn that was 'fails'"],
    ),
    "a live point beyond its tolerance": (
        {
            "ledger": LEDGER + '[tolerances]\n"next_word_neural.sum" = 0.5\n',
            "code": 'claims.record("toy.sum", 120, live=claims.repeat("next_word_neural.sum", 3.0, [2.0]))',
        },
        ["toy.sum is contradicted", "was 3 just now and 2 when it was recorded", "the tolerance is 0.5"],
    ),
    "a live point beyond its tolerance, of a claim that fails anyway": (
        {
            "ledger": LEDGER.replace('expected = "holds"', 'expected = "fails"').replace("100.0", "200.0")
            + '[tolerances]\n"next_word_neural.sum" = 0.5\n',
            "code": 'claims.record("toy.sum", 120, live=claims.repeat("next_word_neural.sum", 3.0, [2.0]))',
        },
        ["toy.sum is contradicted"],
    ),
    "a tolerance widened inside the chapter": (
        {
            "ledger": LEDGER + '[tolerances]\n"next_word_neural.sum" = 0.5\n',
            "code": f"claims.record('toy.sum', 120, live=claims.Repeat('next_word_neural.sum', 3.0, 2.0, 99.0, *2 * ({ARITHMETIC!r},)))",
        },
        ["toy.sum is contradicted", "the tolerance is 0.5"],
    ),
    "a live point that is said to be of another precision": (
        {
            "ledger": LEDGER + '[tolerances]\n"next_word_neural.sum" = 0.5\n',
            "code": "claims.record('toy.sum', 120, live=claims.Repeat('next_word_neural.sum', 3.0, 2.0, 0.5, 'x', 'float64'))",
        },
        ["toy.sum says that its live point was made in float64", "A chapter never sets its own precision"],
    ),
    "a live point that is said to be of another processor": (
        {
            "ledger": LEDGER + '[tolerances]\n"next_word_neural.sum" = 0.5\n',
            "code": "claims.record('toy.sum', 120, live=claims.Repeat('next_word_neural.sum', 3.0, 2.0, 0.5, 'x', "
            f"{HERE['precision']!r} + ' on an abacus'))",
        },
        ["toy.sum says that its live point was made in", "on an abacus", "A chapter never sets its own precision"],
    ),
    "a recorded run that nobody has tied to its code": (
        {"ledger": RECORDED, "code": SEEDS},
        ["rests on the recorded run next_word_neural, which is stale"],
    ),
    "a recorded run whose cell has changed": (
        {
            "ledger": RECORDED,
            "code": SEEDS,
            "recorded": CELL,
            "then": lambda book: book.change(
                f"chapters/{NAME}.ipynb", "runtime.seed() + seed", "runtime.seed() - seed"
            ),
        },
        ["which is stale", "cells.train_network", "make verify NAME=next_word_neural"],
    ),
    "a recorded run whose library has changed in one operator": (
        {
            "ledger": RECORDED,
            "code": SEEDS,
            "recorded": CELL,
            "then": lambda book: book.change("lib/nextword/runtime.py", "return int(text)", "return -int(text)"),
        },
        ["which is stale", "runtime.seed"],
    ),
    "a number edited in the file of a recorded run": (
        {"ledger": RECORDED, "code": SEEDS, "recorded": CELL, "then": lambda book: edit_a_number(book.root)},
        ["which is stale", "its file has been changed"],
    ),
    "a minus sign behind a word that says it": (
        {
            "prose": "It loses {claim}`toy.sum` points.",
            "code": 'claims.record("toy.sum", -120)',
            "ledger": REPORT,
        },
        ["loses {claim}`toy.sum`", "{claim}`toy.sum:size`"],
    ),
    "no expectation yet": (
        {"ledger": LEDGER.replace('expected = "holds"\n', "")},
        ["toy.sum", "has no `expected` yet", "make calibrate"],
    ),
}


def edit_a_number(root):
    """Make the first result of a recorded run a little better."""
    path = root / "lib/nextword/book/recorded/next_word_neural.json.gz"
    run = json.loads(gzip.decompress(path.read_bytes()))
    run["points"][0]["result"]["network"] -= 1.0
    path.write_bytes(gzip.compress(json.dumps(run).encode()))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_stops_the_build(book, fault):
    changes, says, *raised = FAULTS[fault]  # where the chapter itself raises: why
    executed, collected = book(**changes)
    assert collected.returncode == 1, f"{fault} went unnoticed:\n{collected.stdout}"
    for text in says:
        assert text in collected.stdout, f"{text!r} is not in the message:\n{collected.stdout}"
    for text in raised:
        assert text in executed.stdout, f"{text!r} is not what the chapter raises:\n{executed.stdout}"


def test_a_comment_or_a_docstring_in_the_library_makes_nothing_stale(book):
    def remark(book):
        book.change("lib/nextword/runtime.py", "return int(text)", "return int(text)  # a remark")
        book.change("lib/nextword/runtime.py", 'T = TypeVar("T")', 'T = TypeVar("T")\n"""What each preset gives."""')

    _, collected = book(ledger=RECORDED, code=SEEDS, recorded=CELL, then=remark)
    assert collected.returncode == 0, collected.stdout


def test_a_copy_without_history_is_told_so(book, tmp_path):
    book()
    shutil.rmtree(tmp_path / ".git")
    collected = book.run("tools/collect.py")
    assert collected.returncode == 1 and "no history" in collected.stdout
    content = json.loads((tmp_path / "build/claims.json").read_text())
    assert content["claims"][0]["registered"] == {"when": "unknown"}


def test_a_reader_without_ci_is_told_and_gets_the_book(book):
    _, collected = book(prose="The sum is 120.", ci="")
    assert collected.returncode == 0
    assert "the text types 120" in collected.stdout and "built all the same" in collected.stdout


def test_a_copy_older_than_the_library_is_not_taken_for_a_result(book, tmp_path):
    book()
    with open(tmp_path / "lib/nextword/runtime.py", "a") as module:
        module.write("\n# changed\n")
    collected = book.run("tools/collect.py")
    assert collected.returncode == 1 and "is older than its source" in collected.stdout


def test_a_failing_cell_stops_the_build_and_shows_the_cell(book):
    executed, _ = book(code="1 / 0")
    assert executed.returncode != 0
    assert "ZeroDivisionError" in executed.stdout
