"""A recorded run is bound to what it computes: cells, library, data. Words may change; an operator may not."""

import gzip
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import provenance
import record

ROOT = Path(__file__).parents[2]

MADE = ("device", "precision", "threads", "python", "torch", "numpy")
CELLS = '''
import math
from nextword import small
from nextword.book import plots
from nextword.small import Model, unused

width = 3
other = 4

def helper(x):
    """Words."""
    return math.pi * x  # a remark

def f(seed):
    model = Model(width)
    plots.draw(model)
    return helper(model.score(seed)) + small.scale(seed)

def g(seed):
    return f(seed) + other
'''
SMALL = '''
"""A module."""
from nextword import ground
SIZE: int = 7

def scale(x: int) -> int:
    """Words."""
    if x < 0:
        raise ValueError(f"x={x} is below 0")
    return ground.twice(x)  # why

class Model:
    def __init__(self, width):
        self.width = width

    def score(self, x):
        return self.inner(x) + SIZE

    def inner(self, x):
        return x + self.width

    def never(self):
        return 1

def unused():
    return 2
'''
GROUND = "def twice(x):\n    return 2 * x\n\ndef thrice(x):\n    return 3 * x\n"


@pytest.fixture
def made_by(tmp_path):
    """A function that gives the fingerprint of ``f`` for these three sources."""
    number = itertools.count()

    def parts(cells=CELLS, small=SMALL, ground=GROUND, function="f"):
        folder = tmp_path / str(next(number))  # a library is read once
        folder.mkdir()
        for name, source in {"plots": "def draw(x):\n    pass\n", "small": small, "ground": ground}.items():
            (folder / f"{name}.py").write_text(source)
        return provenance.reached(cells, function, folder)

    return parts


@pytest.mark.parametrize(
    "changed",
    [
        {"small": SMALL.replace("# why", "# another remark")},
        {"small": SMALL.replace('"""Words."""', '"""Other words."""')},
        {"small": SMALL.replace("x: int) -> int", "x)").replace("SIZE: int", "SIZE: float")},
        {"small": SMALL.replace("is below 0", "is too small")},
        {"small": SMALL.replace("return 1", "return 5").replace("return 2", "return 6")},
        {"ground": GROUND.replace("3 * x", "x * 3")},
        {"cells": CELLS.replace("other = 4", "other = 5")},
        {"cells": CELLS.replace("# a remark", "").replace('    """Words."""\n', "")},
    ],
)
def test_what_no_result_depends_on_leaves_the_fingerprint(made_by, changed):
    assert made_by(**changed) == made_by()


@pytest.mark.parametrize(
    "changed, where",
    [
        ({"cells": CELLS.replace("width = 3", "width = 5")}, "cells.width"),
        ({"cells": CELLS.replace("pi * x", "pi + x")}, "cells.helper"),
        ({"cells": CELLS.replace("import math", "import cmath as math")}, "cells.math"),
        ({"small": SMALL.replace("x + self.width", "x - self.width")}, "small.Model.inner"),
        ({"small": SMALL.replace("SIZE: int = 7", "SIZE: int = 8")}, "small.SIZE"),
        ({"small": SMALL.replace("x < 0", "x <= 0")}, "small.scale"),
        ({"small": SMALL + "\nSIZE += 1\n"}, "small"),
        ({"ground": GROUND.replace("2 * x", "2 + x")}, "ground.twice"),
    ],
)
def test_one_operator_changes_it_and_is_named(made_by, changed, where):
    before, after = made_by(), made_by(**changed)
    assert {k for k in {*before, *after} if before.get(k) != after.get(k)} == {where}


def test_a_method_counts_once_somebody_speaks_of_it(made_by):
    assert "small.Model.never" not in made_by()
    assert "small.Model.never" in made_by(cells=CELLS.replace("return helper", "model.never()\n    return helper"))


def test_data_sets_and_bundled_models_count_where_they_are_named():
    parts = provenance.parts_of("2018_gpt1", "record")
    assert {"data set trec", "data set boolq", "model nextword-medium"} <= set(parts)
    assert "data set web_bible" not in parts and "model gnmt_en_es" not in parts


def test_the_fingerprint_reaches_what_the_recorded_functions_compute():
    parts = provenance.parts_of("2022_instructgpt", "record")
    for name in (
        "ppo.ppo_loss",
        "rlhf.shape_rewards",
        "decoder.Decoder",
        "attention.MultiHeadAttention",
        "training.fit",
    ):
        assert name in parts, name
    with pytest.raises(ValueError, match="no cell tagged recorded defines nothing"):
        provenance.parts_of("2022_instructgpt", "nothing")


def test_other_versions_of_python_give_the_same_fingerprint(made_by):
    newer = shutil.which("python3.13") or "/usr/bin/python3"
    if not Path(newer).exists() or newer == sys.executable:
        pytest.skip("no second Python here")
    script = (
        "import ast, inspect, sys\n"
        f"source = open({str(ROOT / 'tools/provenance.py')!r}).read()\n"
        "tree = ast.parse(source)\n"
        "names = ('_Bare', '_bare', '_dump')\n"
        "kept = [n for n in tree.body if getattr(n, 'name', '') in names]\n"
        "space = {'ast': ast}\n"
        "exec(compile(ast.Module([ast.parse('from __future__ import annotations').body[0], *kept], []), 'x', 'exec'), space)\n"
        "print(space['_dump'](space['_bare'](sys.stdin.read())))\n"
    )
    for path in ("attention.py", "tokenizers.py", "rlhf.py"):
        source = (ROOT / "lib/nextword" / path).read_text()
        run = {"input": source, "capture_output": True, "text": True}
        done = subprocess.run([newer, "-c", script], **run)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == provenance._dump(provenance._bare(source)), path


# Repeating ---------------------------------------------------------------------------------------------------------


def run(*values, arms=("a", "b")):
    points = [
        {"settings": {"kind": arm, "seed": seed}, "seconds": 9.0 - seed, "result": {"score": value, "seconds": seed}}
        for arm, row in zip(arms, values, strict=True)
        for seed, value in enumerate(row)
    ]
    return {"points": points}


def test_the_cheapest_point_of_every_arm_is_repeated():
    rows = [{"settings": {"kind": k, "steps": s, "seed": 0}, "seconds": s} for k in "ab" for s in (30, 10, 20)]
    assert [p["settings"]["steps"] for _, p in provenance.cheapest({"x": {"points": rows}})] == [10, 10]


def test_runs_of_the_same_code_share_their_arms():
    long = [{"settings": {"kind": k, "steps": 900, "seed": 0}, "seconds": 900} for k in "ab"]
    short = [{"settings": {"kind": k, "steps": 9, "seed": 0}, "seconds": 9} for k in "ac"]
    found = provenance.cheapest({"long": {"points": long}, "short": {"points": short}})
    assert [(name, p["settings"]["kind"]) for name, p in found] == [("short", "a"), ("long", "b"), ("short", "c")]


def test_a_tolerance_sees_a_tenth_of_the_effect_and_never_more_than_the_seeds_spread():
    wide = run([10.0, 14.0, 18.0], [50.0, 54.0, 58.0])
    assert provenance.tolerances(wide, {".score"}) == {".score": pytest.approx(4.0)}  # a tenth of 40, the spread is 4
    narrow = run([10.0, 10.1, 10.2], [50.0, 50.1, 50.2])
    assert provenance.tolerances(narrow, {".score"}) == {".score": pytest.approx(0.1)}
    assert provenance.tolerances(run([2.0], arms=("a",)), {".score"}) == {".score": pytest.approx(2e-3)}


def test_a_repetition_beyond_the_tolerance_does_not_agree():
    whole = run([10.0, 14.0, 18.0], [50.0, 54.0, 58.0])
    point = whole["points"][0]
    assert provenance.compare(whole, point, {"score": 10.0, "seconds": 99})["agrees"]
    assert provenance.compare(whole, point, {"score": 13.9, "seconds": 99})["agrees"]
    says = provenance.compare(whole, point, {"score": 14.1, "seconds": 99})
    assert not says["agrees"] and says["worst"]["where"] == ".score"
    assert not provenance.compare(whole, point, {"other": 10.0})["agrees"]
    assert not provenance.compare(whole, point, {"score": float("nan")})["agrees"]


def test_a_run_file_edited_by_hand_is_stale(tmp_path, monkeypatch):
    whole = run([1.0, 2.0], [3.0, 4.0])
    monkeypatch.setattr(provenance, "read_run", lambda name: whole)
    monkeypatch.setattr(provenance, "LEDGER", tmp_path / "provenance.json")
    monkeypatch.setattr(provenance, "parts_of", lambda chapter, function: {"cells.f": "1"})
    assert provenance.state("x", "c", "f") == ("stale", "nothing says what made it")
    provenance.adopt("x", "c", "f", "recorded", [])
    assert provenance.state("x", "c", "f") == ("fits", "")
    whole["points"][0]["result"]["score"] = 1.5
    assert provenance.state("x", "c", "f")[0] == "stale"
    whole["points"][0]["result"]["score"] = 1.0
    monkeypatch.setattr(provenance, "parts_of", lambda chapter, function: {"cells.f": "2"})
    what, why = provenance.state("x", "c", "f")
    assert what == "stale" and "cells.f" in why
    provenance.adopt("x", "c", "f", "verified", [{"agrees": True}])
    assert provenance.state("x", "c", "f")[0] == "fits"
    monkeypatch.setattr(provenance, "parts_of", lambda chapter, function: {"cells.f": "3"})
    assert provenance.state("x", "c", "f")[0] == "stale", "its code changed again"
    stored = provenance.read_ledger()["x"]["fits"]
    assert [fit["how"] for fit in stored] == ["recorded", "verified"]


LIBRARY = """
LIMIT = 3
OTHER = 4
WIDTHS = 1, 2

def twice(x):
    return 2 * x

DOUBLED = twice(OTHER)

def used(x):
    def inner():
        return x + LIMIT
    return inner()

def never(x):
    return x * OTHER

class Model:
    def __init__(self, width):
        self.width = width

    def score(self, x):
        return used(x) if x < 1000 else never(x)

    def other(self, x):
        return never(x)

class Never:
    def forward(self, x):
        return x
"""


def test_what_counts_as_called(tmp_path, monkeypatch):
    path = tmp_path / "small.py"
    path.write_text(LIBRARY, encoding="utf8")
    space = {"__name__": "small"}
    exec(compile(LIBRARY, str(path), "exec"), space)
    exec(compile("def f(x):\n    return Model(WIDTHS[0]).score(x)", "a cell", "exec"), space)
    monkeypatch.setattr(provenance, "_library", lambda folder: {"small": provenance._Module(LIBRARY, set())})
    with provenance._called() as called:
        exec(compile(LIBRARY, str(path), "exec"), {"__name__": "small"})  # importing names everything, and calls little
        for x in provenance.runtime.progress(range(100)):
            space["f"](x)
        # Another package's name of the same spelling.
        exec(compile("DOUBLED = 1\nDOUBLED", f"{sys.prefix}/a package.py", "exec"), {})
    functions = ["used", "never", "Model.score", "Model.other", "Never.forward", "twice"]
    parts = [f"small.{name}" for name in (*functions, "LIMIT", "OTHER", "WIDTHS", "DOUBLED", "Model", "Never")]
    parts += ["small", "cells.f", "data set x"]
    # OTHER and twice are read while importing, WIDTHS by a cell; what is not of the library counts always.
    rest = ["small.never", "small.Model.other", "small.Never", "small.Never.forward", "small.DOUBLED"]
    assert provenance.touched(parts, called, tmp_path) == [part for part in parts if part not in rest]


def test_a_run_is_cut_short_but_not_its_end():
    with provenance._called():
        assert [*provenance.runtime.progress(range(100))] == [*range(9), 99]
        assert [*provenance.runtime.progress(range(5))] == [*range(5)]
        assert [*provenance.runtime.progress(iter(range(100)))] == [*range(10)]
    assert len([*provenance.runtime.progress(range(100))]) == 100, "and afterwards no longer"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A recorded run whose library function ``a.f`` has changed, and what clearing it calls."""
    whole, calls = run([1.0, 2.0], [3.0, 4.0]), []
    monkeypatch.setattr(provenance, "read_run", lambda name: whole)
    monkeypatch.setattr(provenance, "LEDGER", tmp_path / "provenance.json")
    monkeypatch.setattr(provenance, "parts_of", lambda chapter, function: {"a.f": "1"})
    monkeypatch.setattr(record, "RUNS", {"toy": record.Run("toy", "f")})
    monkeypatch.setattr(record, "namespace", lambda chapter: {"f": lambda **settings: calls.append(settings)})
    provenance.adopt("toy", "toy", "f", "recorded", [])
    monkeypatch.setattr(provenance, "parts_of", lambda chapter, function: {"a.f": "2"})
    assert provenance.state("toy", "toy", "f")[0] == "stale"
    return whole, calls


def test_a_run_that_calls_nothing_of_a_change_fits_and_one_that_does_stays_stale(toy, monkeypatch, capsys):
    monkeypatch.setattr(provenance, "touched", lambda changed, called: changed)
    assert provenance.clear(["toy"]) == 1 and "calls a.f" in capsys.readouterr().out
    assert provenance.state("toy", "toy", "f")[0] == "stale"
    monkeypatch.setattr(provenance, "touched", lambda changed, called: [])
    assert provenance.clear(["toy"]) == 0 and provenance.state("toy", "toy", "f") == ("fits", "")
    *_, fit = provenance.read_ledger()["toy"]["fits"]
    assert fit["how"] == "not called" and len(fit["repeated"]) == len(provenance.cheapest({"toy": toy[0]}))


def test_a_run_file_edited_by_hand_is_not_cleared(toy, monkeypatch, capsys):
    whole, calls = toy
    monkeypatch.setattr(provenance, "touched", lambda changed, called: [])
    whole["points"][0]["result"]["score"] += 1
    assert provenance.clear(["toy"]) == 1 and "has been changed since" in capsys.readouterr().out
    assert not calls and provenance.state("toy", "toy", "f")[0] == "stale"


def test_a_run_that_cannot_be_cut_short_stays_stale(toy, monkeypatch, capsys):
    monkeypatch.setattr(record, "namespace", lambda chapter: {"f": lambda **settings: 1 / 0})
    assert provenance.clear(["toy"]) == 1 and "ZeroDivisionError" in capsys.readouterr().out
    assert provenance.state("toy", "toy", "f")[0] == "stale"


def test_each_commit_repeats_one_cheap_point_and_sees_a_wrong_number(monkeypatch, capsys):
    monkeypatch.setattr(provenance.runtime, "describe", lambda: dict.fromkeys(MADE, "x"))
    monkeypatch.setattr(provenance.runtime, "processor", lambda: "this one")
    rows = [{"settings": {"seed": s}, "result": {"score": 2.0 * s}, "seconds": 9.0 + 9 * s} for s in range(6)]
    ledger = {"toy": {"fits": [{**dict.fromkeys(MADE, "x"), "processor": "this one"}]}}
    monkeypatch.setattr(provenance, "read_ledger", lambda: ledger)
    monkeypatch.setattr(provenance, "read_run", lambda name: {"points": rows})
    monkeypatch.setattr(record, "RUNS", {"toy": record.Run("toy", "f")})
    measured = []

    def f(seed):
        measured.append(seed)
        return {"score": 2.0 * seed}

    monkeypatch.setattr(record, "namespace", lambda chapter: {"f": f})
    for commit in range(40):
        monkeypatch.setattr(
            provenance, "here", lambda commit=commit: {**ledger["toy"]["fits"][0], "commit": str(commit)}
        )
        assert provenance.spot_check() == 0
    assert set(measured) == {0, 1, 2}, "those of at most thirty seconds"
    for row in rows:
        row["result"]["score"] += 10.0
    assert provenance.spot_check() == 1 and "no longer gives its recorded numbers" in capsys.readouterr().out
    ledger["toy"]["fits"][0] = {**ledger["toy"]["fits"][0], "processor": "another"}
    monkeypatch.setattr(provenance, "here", lambda: {**dict.fromkeys(MADE, "x"), "processor": "this one"})
    assert provenance.spot_check() == 0 and "nothing to compare" in capsys.readouterr().out


def test_a_verification_that_repeated_nothing_or_disagreed_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "read_run", lambda name: run([1.0], arms=("a",)))
    monkeypatch.setattr(provenance, "LEDGER", tmp_path / "provenance.json")
    for repeated in ([], [{"agrees": True}, {"agrees": False}]):
        with pytest.raises(ValueError, match="verifies nothing"):
            provenance.adopt("x", "c", "f", "verified", repeated)
    assert not (tmp_path / "provenance.json").exists()


def test_points_change_or_go_only_where_the_run_was_recorded_again(monkeypatch, tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setattr(provenance, "RUNS_FOLDER", folder)
    monkeypatch.setattr(provenance.chapters, "ROOT", tmp_path)
    known: dict = {"x": {"recorded": []}}
    monkeypatch.setattr(provenance, "read_ledger", lambda: known)

    def write(content):
        (folder / "x.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))

    def git(*arguments):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    whole = run([1.0, 2.0, 3.0], arms=("a",))
    git("init", "-q", "-b", "main")
    write(whole)
    git("add", "runs")
    git("commit", "-q", "-m", "Record")
    assert provenance.rewritten(tmp_path) == []
    longer = {"points": [*whole["points"], *run([5.0], arms=("c",))["points"]]}
    write(longer)
    assert provenance.rewritten(tmp_path) == [], "a run may grow"
    shorter = {"points": longer["points"][1:]}
    better = {"points": [{**longer["points"][0], "result": {"score": 9.0}}, *longer["points"][1:]]}
    for forged in (shorter, better):
        write(forged)
        git("commit", "-q", "-a", "-m", "Forge")
        assert len(provenance.rewritten(tmp_path)) == 1
        write(longer)  # the history remembers
        assert len(provenance.rewritten(tmp_path)) >= 1
        known["x"]["recorded"] = [provenance.digest(x) for x in (whole, longer, shorter, better)]
        assert provenance.rewritten(tmp_path) == [], "each was recorded"
        known["x"]["recorded"] = []


def test_recorded_runs_are_complete_and_belong_to_a_function_that_a_chapter_shows():
    from nextword.book import runs

    for name, plan in record.RUNS.items():
        stored = runs.load_run(name)
        assert stored["versions"]["preset"] == "cpu"
        assert [p["settings"] for p in stored["points"]] == plan.settings, f"{name} is incomplete: make runs"
        assert provenance.parts_of(plan.chapter, plan.function)


def test_a_seed_added_later_stands_in_its_place_and_a_point_that_is_not_planned_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "check_registered", lambda name: None)
    monkeypatch.setattr(record, "namespace", lambda chapter: {"f": lambda **settings: settings["seed"]})
    monkeypatch.setattr(provenance, "fingerprint", lambda chapter, function: "same")
    monkeypatch.setattr(provenance, "adopt", lambda *row: None)
    path, arms = tmp_path / "x.json.gz", ("a", "b")

    def plan(*seeds):
        return record.Run("c", "f", [{"arm": arm, "seed": seed} for arm in arms for seed in seeds])

    record.record("x", plan(0), path)
    record.record("x", plan(0, 1), path)
    stored = json.loads(gzip.decompress(path.read_bytes()))["points"]
    assert [(p["settings"]["arm"], p["settings"]["seed"]) for p in stored] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert [p["result"] for p in stored] == [0, 1, 0, 1]
    with pytest.raises(SystemExit, match="holds .*'seed': 0.*, which is not planned; make it again"):
        record.record("x", plan(1, 2), path)


def test_provenance_is_kept_of_every_recorded_run_and_of_no_other():
    assert set(provenance.read_ledger()) == set(record.RUNS)
