"""What made a recorded run: its fingerprint over cells and library, who repeated it, and whether today's code still fits.

A run's fingerprint covers what the recorded function computes and nothing else: every function, class, constant and
statement of the chapter's cells tagged ``recorded`` and of ``nextword`` that it reaches, the hashes of the data sets and
of the bundled models that those name. Comments, docstrings, annotations and the words of error messages do not count; an
operator does. Figures and verdicts (``plots``, ``claims``) are made of results, so they do not count either.

    python tools/provenance.py                    say which runs no longer fit, and why
    python tools/provenance.py --verify           repeat the cheapest point of every arm of those, with the same seed
    python tools/provenance.py --verify NAME ...  of these runs, whether they fit or not
    python tools/provenance.py --called           of those, clear the runs that never call what has changed
    python tools/provenance.py --spot             repeat one cheap point, another one at each commit

Runs that one function made with one and the same code are repeated together: the cheapest point of an arm stands for that
arm in all of them. Points that agree give these runs the new fingerprint, with date, commit and processor, in
``tools/provenance.json``. One that differs leaves them stale: record them again.

What a run reaches is read from the source, and so it is too much: every decoder could attend sparsely, few do. As long as
all that a run executes stays as it was, it goes the same way and gives the same numbers, whatever happens to the rest. So
``--called`` starts the cheapest points again, with nine rounds and the last of every training loop, and notes which functions
run. If none that has changed is among them, the run fits today's code. Each group of runs has a process of its own, for what
one run has cached another would not call; and what is named outside of functions counts as called, since importing calls it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import datetime
import functools
import gzip
import hashlib
import inspect
import itertools
import json
import math
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from torch import nn

import chapters
import registration
from nextword import fetching, runtime

RUNS_FOLDER = chapters.RUNS
LEDGER = Path(__file__).with_name("provenance.json")
STALE = "stale"
NO_RESULTS = ("book.claims", "book.plots", "book.runs")
"""Modules that are made of results and make none."""
TIMES = ("seconds", "cpu_seconds")
"""Results that no repetition can equal."""
CHEAP = 30.0
"""Seconds that a point may have taken to be repeated at every build."""


# The fingerprint ------------------------------------------------------------------------------------------------------


class _Bare(ast.NodeTransformer):
    """Takes out of a syntax tree what no result depends on: docstrings, annotations, the words of errors."""

    def _body(self, node: Any) -> Any:
        self.generic_visit(node)
        # A docstring stands first, that of an attribute or a constant behind it: a bare constant computes nothing anywhere.
        idle = [s for s in node.body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)]
        node.body = [s for s in node.body if s not in idle] or [ast.Pass()]
        return node

    visit_ClassDef = visit_Module = _body

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.returns = None
        return self._body(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        self.generic_visit(node)
        node.annotation = ast.Constant(None)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(kind, None)


def _bare(source: str) -> ast.Module:
    tree: ast.Module = _Bare().visit(ast.parse(source))
    return tree


class _Module:
    """One module of the library, taken apart: its definitions by name, what its imports stand for, and the rest."""

    def __init__(self, source: str, known: set[str]) -> None:
        self.names: dict[str, list[ast.stmt]] = {}
        self.loose: list[ast.stmt] = []
        self.imports: dict[str, tuple[str, str]] = {}
        tree = _bare(source)
        for statement in tree.body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)) or _is_main(statement):
                continue
            for name in _defined(statement) or [""]:
                (self.names.setdefault(name, []) if name else self.loose).append(statement)
        for node in ast.walk(tree):  # also those inside functions
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    origin = f"{getattr(node, 'module', None) or ''}.{alias.name}"
                    self.names.setdefault(alias.asname or alias.name.split(".")[0], []).append(
                        ast.Expr(ast.Constant(origin))
                    )
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.imports |= chapters.imports_of(node, known)


def _is_main(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.dump(statement.test)


def _defined(statement: ast.stmt) -> list[str]:
    """Return the names that a statement at the top of a module defines, none where it does anything else."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    flat = [t for target in targets for t in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [t.id for t in flat if isinstance(t, ast.Name)] if all(isinstance(t, ast.Name) for t in flat) else []


@functools.cache
def _library(folder: Path) -> dict[str, _Module]:
    """Return the modules of the library that make results, read once: many functions reach into the same ones."""
    paths = {name: path for name, path in chapters.library(folder).items() if name not in NO_RESULTS}
    return {name: _Module(path.read_text(encoding="utf8"), {*paths}) for name, path in paths.items()}


class _Reach:
    """Everything that a source reaches in the library: definitions by (module, name), and the names it speaks of."""

    def __init__(self, modules: dict[str, _Module]) -> None:
        self.modules = modules
        self.found: dict[tuple[str, str], list[ast.stmt]] = {}
        self.spoken: set[str] = set()  # attributes and strings: methods are looked up by them
        self.strings: set[str] = set()
        self.waiting: list[tuple[str, str, ast.FunctionDef]] = []  # methods nobody has spoken of yet

    def add(self, tree: ast.AST, imports: dict[str, tuple[str, str]], home: str) -> None:
        """Follow the names of a tree that stands in module ``home``."""
        within_attribute: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                self._speak(node.attr)
                if isinstance(node.value, ast.Name) and imports.get(node.value.id, ("", "x"))[1] == "":
                    within_attribute.add(id(node.value))
                    self.define(imports[node.value.id][0], node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.strings.add(node.value)
                self._speak(node.value)
            elif isinstance(node, ast.keyword) and node.arg:
                self._speak(node.arg)
            elif isinstance(node, ast.Name) and id(node) not in within_attribute:
                if node.id in imports:
                    module, name = imports[node.id]
                    self.define(module, name) if name else self._whole(module)
                else:
                    self.define(home, node.id)

    def define(self, module: str, name: str) -> None:
        """Reach one definition of a module, and what its own statements do when it is imported."""
        if module not in self.modules:
            return
        this = self.modules[module]
        if (module, "") not in self.found:
            self.found[module, ""] = this.loose
            for statement in this.loose:
                self.add(statement, this.imports, module)
        if name in this.imports:
            self.define(*this.imports[name]) if this.imports[name][1] else self._whole(this.imports[name][0])
        if name not in this.names or (module, name) in self.found:
            return
        self.found[module, name] = this.names[name]
        if (module, name) == ("fetching", "SOURCES"):
            return  # each data set counts by itself, where it is named
        for statement in this.names[name]:
            if isinstance(statement, ast.ClassDef):
                self._class(module, statement)
            else:
                self.add(statement, this.imports, module)

    def _class(self, module: str, statement: ast.ClassDef) -> None:
        kept = []
        for part in statement.body:
            if isinstance(part, ast.FunctionDef) and not _called_unseen(part.name) and part.name not in self.spoken:
                self.waiting.append((module, statement.name, part))
            else:
                kept.append(part)
        shell = ast.ClassDef(statement.name, statement.bases, statement.keywords, kept, statement.decorator_list)
        self.found[module, statement.name] = [shell]
        self.add(shell, self.modules[module].imports, module)

    def _speak(self, name: str) -> None:
        if name in self.spoken:
            return
        self.spoken.add(name)
        due = [row for row in self.waiting if row[2].name == name]
        self.waiting = [row for row in self.waiting if row not in due]
        for module, owner, part in due:
            self.found[module, f"{owner}.{name}"] = [part]
            self.add(part, self.modules[module].imports, module)

    def _whole(self, module: str) -> None:
        for name in list(self.modules[module].names) if module in self.modules else ():
            self.define(module, name)


def _called_unseen(name: str) -> bool:
    """Return whether Python or torch may call a method that no code of ours names."""
    return (name.startswith("__") and name.endswith("__")) or name == "forward" or hasattr(nn.Module, name)


def recorded_code(chapter: str) -> list[str]:
    """Return the sources of the chapter's cells tagged ``recorded``."""
    cells = chapters.read(chapter).cells
    return [c.source for c in cells if c.cell_type == "code" and "recorded" in c.metadata.get("tags", [])]


def reached(code: str, function: str, folder: Path = chapters.LIBRARY) -> dict[str, str]:
    """Return a hash for each thing that ``function``, defined in ``code``, reaches.

    These are definitions of the code itself (``cells.``) and of the library, data sets and bundled models.
    """
    library = _library(folder)
    reach = _Reach({**library, "cells": _Module(code, set(library))})
    reach.define("cells", function)
    parts = {}
    for (module, name), statements in reach.found.items():
        if statements and (module, name) != ("fetching", "SOURCES"):
            parts[f"{module}.{name}" if name else module] = _hash("\n".join(map(_dump, statements)))
    for name, source in fetching.SOURCES.items():
        if name in reach.strings:
            parts[f"data set {name}"] = _hash(f"{source.archive.sha256} {source.members}")
    for path in sorted((folder / "bundled" / "models").glob("*/model.safetensors")):
        model = path.parent.name
        if any(s == model or (s.endswith(("_", "-")) and model.startswith(s)) for s in reach.strings):
            parts[f"model {model}"] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return dict(sorted(parts.items()))


def _dump(node: Any) -> str:
    """Return a syntax tree as text that is the same under every version of Python, which ``ast.dump`` is not."""
    if isinstance(node, ast.AST):
        kept = {k: v for k, v in ast.iter_fields(node) if v not in (None, []) and k not in ("ctx", "kind")}
        return f"{type(node).__name__}({', '.join(f'{k}={_dump(v)}' for k, v in kept.items())})"
    return f"[{', '.join(map(_dump, node))}]" if isinstance(node, list) else repr(node)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def parts_of(chapter: str, function: str) -> dict[str, str]:
    """Return the parts of the fingerprint of a recorded function.

    Raises:
        ValueError: no cell tagged ``recorded`` defines it.
    """
    parts = reached("\n".join(recorded_code(chapter)), function)
    if f"cells.{function}" not in parts:
        raise ValueError(f"{chapter}: no cell tagged recorded defines {function}")
    return parts


def fingerprint(chapter: str, function: str) -> str:
    """Return one hash over all that a recorded function computes."""
    return _hash(json.dumps(parts_of(chapter, function)))


# What is on file -------------------------------------------------------------------------------------------------------


def read_ledger() -> dict[str, Any]:
    """Return the provenance of all recorded runs by name."""
    return _stored()["runs"]


def read_parts(made_by: str) -> dict[str, str]:
    """Return what went into a fingerprint, as far as it was kept."""
    parts: dict[str, str] = _stored()["parts"].get(made_by, {})
    return parts


def _stored() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(LEDGER.read_text(encoding="utf8")) if LEDGER.is_file() else {}
    return {"runs": {}, "parts": {}} | stored


def write_ledger(runs: dict[str, Any], parts: dict[str, dict[str, str]] | None = None) -> None:
    """Write the provenance of all recorded runs, at once or not at all; of each run's latest fingerprint the parts stay."""
    latest = {row["fits"][-1]["fingerprint"] for row in runs.values()}
    kept = {made_by: known for made_by, known in (_stored()["parts"] | (parts or {})).items() if made_by in latest}
    content = {"runs": dict(sorted(runs.items())), "parts": dict(sorted(kept.items()))}
    chapters.write_json(LEDGER, content)


def read_run(name: str) -> dict[str, Any]:
    """Return a recorded run from this checkout."""
    run: dict[str, Any] = json.loads(gzip.decompress((RUNS_FOLDER / f"{name}.json.gz").read_bytes()))
    return run


def digest(run: dict[str, Any]) -> str:
    """Return a hash of a run's settings and results, so that a number edited by hand is noticed."""
    return _hash(json.dumps([[p["settings"], p["result"]] for p in run["points"]], sort_keys=True))


def here() -> dict[str, Any]:
    """Return what made a point besides its settings: commit, changes not committed, time, processor, versions."""
    git = {"cwd": chapters.ROOT, "capture_output": True, "text": True}
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **git).stdout.strip()  # type: ignore[call-overload]
    paths = ("lib", "chapters", f":!{RUNS_FOLDER.relative_to(chapters.ROOT).as_posix()}")
    changed = subprocess.run(["git", "status", "--porcelain", "-uno", "--", *paths], **git).stdout  # type: ignore[call-overload]
    versions = runtime.describe()
    return {
        "commit": commit or "no history",
        "dirty": bool(changed.strip()),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": runtime.processor(),
        **({k: versions[k] for k in ("device", "precision", "threads", "python", "torch", "numpy")}),
    }


def rewritten(root: Path = chapters.ROOT, since: str = registration.SINCE) -> list[str]:
    """Return a message for each run whose file lost a point or changed a result without having been recorded again.

    Raises:
        NoHistory: the repository has none, or only a part.
    """
    registration.check_history(root)
    faults, order = [], registration.order_of(root)
    for name, row in read_ledger().items():
        path = f"{RUNS_FOLDER.relative_to(chapters.ROOT).as_posix()}/{name}.json.gz"
        commits = registration.commits_of(root, path, since, order)
        found = [registration.content(root, commit, path) for commit in commits]
        versions = [json.loads(gzip.decompress(content)) for content in found if content is not None]
        versions.append(json.loads(gzip.decompress((root / path).read_bytes())))
        for old, new in itertools.pairwise(versions):
            points = {json.dumps(p["settings"], sort_keys=True): p["result"] for p in new["points"]}
            kept = all(points.get(json.dumps(p["settings"], sort_keys=True)) == p["result"] for p in old["points"])
            if not kept and digest(new) not in row.get("recorded", []):
                faults.append(f"{name}: points were changed or taken out and the run was not recorded again")
    return faults


def edited(name: str) -> str:
    """Return why the file of a run is not the one that was recorded or verified, or nothing."""
    row = read_ledger().get(name)
    if row is None:
        return "nothing says what made it"
    known = row["digest"] == digest(read_run(name))
    return "" if known else "its file has been changed since it was recorded or verified"


def changed_since(made_by: str, now: dict[str, str]) -> list[str]:
    """Return what is another thing than in an earlier fingerprint."""
    before = read_parts(made_by)
    return sorted(k for k in {*now, *before} if now.get(k) != before.get(k))


def state(name: str, chapter: str, function: str) -> tuple[str, str]:
    """Return ``fits`` or ``stale`` for a recorded run, with the reason where it does not fit."""
    if fault := edited(name):
        return STALE, fault
    try:
        now, known = parts_of(chapter, function), read_ledger()[name]["fits"]
    except (ValueError, FileNotFoundError) as error:
        return STALE, f"its code is gone ({error})"
    if any(fit["fingerprint"] == fingerprint(chapter, function) for fit in known):
        return "fits", ""
    changed = changed_since(known[-1]["fingerprint"], now)
    return STALE, f"since {known[-1]['date']} these have changed: {', '.join(changed[:8])}{' …' if changed[8:] else ''}"


# Repeating -------------------------------------------------------------------------------------------------------------


def arm(settings: dict[str, Any]) -> str:
    """Return which arm of an experiment a point belongs to: its settings without their numbers, which are sizes.

    Example:
        >>> arm({"kind": "masked", "steps": 3000, "seed": 0, "warm": False})
        'kind=masked, seed, steps, warm=False'
    """
    kept = {k: "" if isinstance(v, (int, float)) and not isinstance(v, bool) else f"={v}" for k, v in settings.items()}
    return ", ".join(f"{k}{kept[k]}" for k in sorted(kept))


def cheapest(runs: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return of each arm of these runs the point that took the least time, with the name of its run."""
    arms: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name, run in runs.items():
        for point in run["points"]:
            arms.setdefault(arm(point["settings"]), []).append((name, point))
    return [min(row, key=lambda r: r[1].get("process_seconds", r[1]["seconds"])) for row in arms.values()]


def numbers(result: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Return all numbers of a result with their place in it; times and texts are left out."""
    if isinstance(result, dict):
        for key, value in result.items():
            if key not in TIMES:
                yield from numbers(value, f"{path}.{key}")
    elif isinstance(result, list):
        for i, value in enumerate(result):
            yield from numbers(value, f"{path}[{i}]")
    elif isinstance(result, (int, float)) and result is not None:
        yield path or ".", float(result)


def tolerances(run: dict[str, Any], paths: set[str]) -> dict[str, float]:
    """Return how far each number of a run may move when another machine repeats its point with the same seed.

    A tenth of the effect, taken as the range of the arms' means, and never more than one standard deviation over seeds;
    where a run has neither arms nor seeds, a thousandth of the number. Rounding to six digits is always allowed.
    """
    rows: dict[str, dict[str, list[float]]] = {}
    for point in run["points"]:
        same = json.dumps({k: v for k, v in point["settings"].items() if k != "seed"}, sort_keys=True)
        for path, value in numbers(point["result"]):
            if path in paths:
                rows.setdefault(path, {}).setdefault(same, []).append(value)
    found = {}
    for path in paths:
        arms = list(rows[path].values())
        means = [statistics.mean(values) for values in arms]
        spreads = [statistics.stdev(values) for values in arms if len(values) > 1]
        limits = [(max(means) - min(means)) / 10] if len(means) > 1 else []
        limits += [math.sqrt(statistics.mean([s * s for s in spreads]))] if spreads else []
        size = max(abs(x) for values in arms for x in values)
        found[path] = max(min(limits) if limits else 1e-3 * size, 1e-6 * size)
    return found


def compare(run: dict[str, Any], point: dict[str, Any], result: Any) -> dict[str, Any]:
    """Return how a repeated result differs from the recorded one, number by number.

    ``agrees`` says that every number lies within its tolerance, and that there are as many of them.
    """
    old, new = dict(numbers(point["result"])), dict(numbers(json.loads(json.dumps(result))))
    allowed = tolerances(run, set(old))
    outside = [k for k in old if k in new and not abs(new[k] - old[k]) <= allowed[k]]
    differs = [k for k in old if k in new and new[k] != old[k]]
    worst = max(differs, key=lambda k: abs(new[k] - old[k]) / allowed[k], default=None)
    says: dict[str, Any] = {"settings": point["settings"], "agrees": not outside and set(old) == set(new)}
    says |= {"numbers": len(old), "different": len(differs), "outside": len(outside)}
    if worst is not None:
        says["worst"] = {"where": worst, "recorded": old[worst], "repeated": new[worst], "tolerance": allowed[worst]}
    return says


def groups(names: list[str]) -> list[list[str]]:
    """Return the runs in groups that one function made with the same code, as far as is known."""
    from record import RUNS  # tools/record.py imports this module

    ledger = read_ledger()
    found: dict[tuple[str, str, str], list[str]] = {}
    for name in names:
        made_by = ledger[name]["fits"][-1]["fingerprint"] if name in ledger else name
        found.setdefault((RUNS[name].chapter, RUNS[name].function, made_by), []).append(name)
    return list(found.values())


def verify(names: list[str], log: Path) -> int:
    """Repeat the cheapest point of every arm of these runs, group by group; give those that agree today's fingerprint."""
    from record import RUNS, namespace

    failed = 0
    for group in groups(names):
        plan, runs, rows, function = RUNS[group[0]], {name: read_run(name) for name in group}, [], None
        made_by = fingerprint(plan.chapter, plan.function)
        for name, point in cheapest(runs):
            row = _already(log, name, point["settings"], made_by)
            if row is None:
                function = function or namespace(plan.chapter)[plan.function]
                row = {"run": name, "fingerprint": made_by, **_repeat(function, runs[name], point)}
                with open(log, "a", encoding="utf8") as file:
                    file.write(json.dumps(row) + "\n")
            rows.append({k: v for k, v in row.items() if k not in ("result", "fingerprint")})
            print(
                name, {k: row[k] for k in ("settings", "agrees", "numbers", "different", "process_seconds")}, flush=True
            )
            if not row["agrees"]:
                break  # one is enough: the run is recorded again
        if all(row["agrees"] for row in rows):
            for name in group:
                adopt(name, plan.chapter, plan.function, "verified", rows)
        else:
            failed += 1
            print(
                f"{', '.join(group)}: today's code gives other numbers; make runs NAME=… records them again", flush=True
            )
    return failed


@contextlib.contextmanager
def _called(rounds: int = 10) -> Iterator[set[CodeType]]:
    """Gather the functions that run meanwhile; of every loop behind a bar only so many rounds are gone, the last among them."""
    found: set[CodeType] = set()
    whole, before = runtime.progress, sys.getprofile()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            found.add(frame.f_code)

    def short(iterable: Iterable[Any], **settings: Any) -> Any:
        some: Iterable[Any] = itertools.islice(iterable, rounds)
        if isinstance(iterable, Sequence) and len(iterable) > rounds:
            # Some things are done in the last round alone.
            some = [*iterable[: rounds - 1], iterable[-1]]
        return whole(some, **settings | {"total": rounds})

    runtime.progress = short  # type: ignore[assignment]
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
        runtime.progress = whole


def _outside_functions(node: ast.AST) -> Iterator[str]:
    """Yield the names in a statement that importing it reads: all but those in the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and child in node.body):
            yield from _outside_functions(child)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr


def touched(changed: list[str], called: set[CodeType], folder: Path = chapters.LIBRARY) -> list[str]:
    """Return which changed parts these functions are, or name where a part is no function."""
    library = _library(folder)
    statements = [
        (module, statement)
        for module, this in library.items()
        for row in [this.loose, *this.names.values()]
        for statement in row
    ]
    functions = {
        f"{module}.{owner}{part.name}"
        for module, statement in statements
        for owner, body in (
            [(f"{statement.name}.", statement.body)] if isinstance(statement, ast.ClassDef) else [("", [statement])]
        )
        for part in body
        if isinstance(part, ast.FunctionDef)
    }
    imported = {name for _, statement in statements for name in _outside_functions(statement)}
    spoken, ran = set(imported), set[str]()
    for code in called:
        path = Path(code.co_filename)
        ours = path.is_relative_to(folder)
        if ours and code.co_flags & inspect.CO_OPTIMIZED:
            module = ".".join(path.relative_to(folder).with_suffix("").parts)
            ran.add(f"{module}.{code.co_qualname.split('.<locals>')[0]}")
        elif ours or any(path.is_relative_to(prefix) for prefix in (sys.prefix, sys.base_prefix)):
            continue  # the body of a module or a class names all that it defines (see above), and Python's own nothing of ours
        spoken |= {*code.co_names}
    modules = {module.partition(".")[0] for module in library}

    def counts(part: str) -> bool:
        module, _, name = part.partition(".")
        last = name.rpartition(".")[2]
        if part in functions:
            return part in ran or last in imported
        # What is no function: a class by its methods, a constant by its name, and all that is not of the library always.
        methods = any(function.startswith(f"{part}.") for function in ran)
        return module not in modules or not name or methods or last in spoken

    return [part for part in changed if counts(part)]


def clear(group: list[str]) -> int:
    """Give today's fingerprint to runs of one code that call nothing of what has changed; return 1 where they stay stale."""
    from record import RUNS, namespace

    plan, rows, called = RUNS[group[0]], [], set[CodeType]()
    why = next((f"{name}: {fault}" for name in group if (fault := edited(name))), "")
    if not why:
        known = read_ledger()[group[0]]["fits"][-1]["fingerprint"]
        changed = changed_since(known, parts_of(plan.chapter, plan.function))
        try:
            with _called() as ran:
                function = namespace(plan.chapter)[plan.function]
            called |= ran
            for name, point in cheapest({name: read_run(name) for name in group}):
                start = time.process_time()
                with _called() as ran:
                    function(**point["settings"])
                called |= ran
                seconds = round(time.process_time() - start, 1)
                rows.append(
                    {"run": name, "settings": point["settings"], "called": len(ran), "process_seconds": seconds}
                )
                if found := touched(changed, called):
                    why = f"{name} {point['settings']} calls {', '.join(found)}"
                    break
        except Exception as error:  # cut short, a run may miss what it needs: then it has to be repeated whole
            why = f"cut short it ends with {type(error).__name__}: {error}"
    print(", ".join(group), why or f"calls nothing of {', '.join(changed)}", flush=True)
    if not why:
        for name in group:
            adopt(name, plan.chapter, plan.function, "not called", rows)
    return bool(why)


def spot_check() -> int:
    """Repeat one cheap point of all recorded runs, chosen by the commit, and return 1 where it gives other numbers.

    Runs that were last made or repeated on another kind of processor do not take part: it may round differently.
    """
    from record import RUNS, namespace

    made = here()
    points = []
    for name, row in read_ledger().items():
        last, run = row["fits"][-1], read_run(name)
        alike = run.get("versions", made)["precision"] == made["precision"]  # a repetition in another one may differ
        alike &= all(last.get(k) == made[k] for k in ("processor", "precision", "torch"))
        if alike:
            cheap = [p for p in run["points"] if p.get("process_seconds", p["seconds"]) <= CHEAP]
            points += [(name, point) for point in cheap]
    if not points:
        print("no recorded run was last repeated on such a processor; nothing to compare", flush=True)
        return 0
    name, point = points[int(_hash(made["commit"]), 16) % len(points)]
    row = _repeat(namespace(RUNS[name].chapter)[RUNS[name].function], read_run(name), point)
    print(f"one of {len(points)} cheap points: {name} {point['settings']} in {row['process_seconds']} s", flush=True)
    if not row["agrees"]:
        print(f"{name} no longer gives its recorded numbers: {row['outside']} of {row['numbers']}, {row.get('worst')}")
    return 0 if row["agrees"] else 1


def _repeat(function: Any, run: dict[str, Any], point: dict[str, Any]) -> dict[str, Any]:
    """Measure a point again; return how it compares, what made it, and the result."""
    made, start = here(), time.process_time()
    result = function(**point["settings"])
    seconds = round(time.process_time() - start, 1)
    return {**compare(run, point, result), "process_seconds": seconds, **made, "result": result}


def _already(log: Path, name: str, settings: dict[str, Any], made_by: str) -> dict[str, Any] | None:
    """Return a repetition that an interrupted verification has written down."""
    lines = log.read_text(encoding="utf8").splitlines() if log.is_file() else []
    rows = [json.loads(line) for line in lines]
    found = [r for r in rows if (r["run"], r["settings"], r["fingerprint"]) == (name, settings, made_by)]
    return found[-1] if found else None


def adopt(name: str, chapter: str, function: str, how: str, repeated: list[dict[str, Any]]) -> None:
    """Write down that a run fits today's code: it was ``recorded``, ``extended`` or ``verified`` by it.

    Or what has changed is ``not called`` by it.

    Raises:
        ValueError: a verification that repeated nothing, or of which not every point agreed.
    """
    if how == "verified" and not (repeated and all(row["agrees"] for row in repeated)):
        raise ValueError(f"{name}: repeated={repeated} verifies nothing; every repeated point must agree, one at least")
    ledger = read_ledger()
    row = ledger.get(name, {})
    fits = [] if how == "recorded" else row.get("fits", [])
    made_by = fingerprint(chapter, function)
    fits = [fit for fit in fits if fit["fingerprint"] != made_by or fit["how"] == "recorded"]
    fit = {"fingerprint": made_by, "how": how, "date": datetime.date.today().isoformat(), **here()}
    fits.append({**fit, "repeated": repeated})
    now = digest(read_run(name))
    recorded = [*row.get("recorded", []), *([now] if how == "recorded" else [])]
    ledger[name] = {"function": f"{chapter}: {function}", "digest": now, "recorded": recorded, "fits": fits}
    write_ledger(ledger, {made_by: parts_of(chapter, function)})


def main() -> int:
    """Say which runs fit, or repeat what does not."""
    from record import RUNS, prepare

    parser = argparse.ArgumentParser(description="Compare the recorded runs with the code that would make them today.")
    parser.add_argument("names", nargs="*", help="recorded runs; all when empty")
    parser.add_argument("--verify", action="store_true", help="repeat the cheapest point of every arm")
    parser.add_argument("--called", action="store_true", help="clear the runs that never call what has changed")
    parser.add_argument("--spot", action="store_true", help="repeat one cheap point, another one at each commit")
    parser.add_argument("--log", type=Path, default=chapters.ROOT / "build" / "verified.jsonl")
    arguments = parser.parse_args()
    prepare("recorded run", RUNS, arguments.names)
    if arguments.spot:
        return spot_check()
    states = {name: state(name, RUNS[name].chapter, RUNS[name].function) for name in arguments.names or RUNS}
    if arguments.called:
        due = groups([n for n, (what, _) in states.items() if what != "fits"])
        if len(due) == 1:
            return clear(due[0])
        command = [sys.executable, __file__, "--called"]
        return sum(subprocess.run([*command, *group]).returncode for group in due)
    if not arguments.verify:
        for name, (what, why) in states.items():
            print(f"{name:24s} {what:10s} {why}")
        return 0
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    return verify([n for n, (what, _) in states.items() if arguments.names or what != "fits"], arguments.log)


if __name__ == "__main__":
    sys.exit(main())
