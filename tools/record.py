"""Make the recorded runs: experiments too long for a chapter, made with the very function that the chapter shows.

    python tools/record.py                    all that are missing
    python tools/record.py next_word_neural   one, again from its beginning

The chapter's cells tagged ``recorded`` are executed in order, then the function is called with each setting. Every point
is written as soon as it is measured, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import datetime
import gzip
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chapters
import provenance
import registration
from nextword import runtime


@dataclass(frozen=True)
class Run:
    """One recorded run: which function of which chapter is called with which settings."""

    chapter: str
    function: str
    settings: list[dict[str, Any]] = field(default_factory=list)


def combinations(tables: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the settings that tables of chapters.toml stand for: all combinations of their lists, the first slowest.

    Example:
        >>> combinations([{"seed": [0, 1], "each": [{}, {"warm": False}]}])
        [{'seed': 0}, {'seed': 0, 'warm': False}, {'seed': 1}, {'seed': 1, 'warm': False}]
    """
    found = []
    for table in tables:
        lists = [
            [value if name == "each" else {name: value} for value in (values if isinstance(values, list) else [values])]
            for name, values in table.items()
        ]
        found += [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(*lists)]
    return found


RUNS = {
    run: Run(chapter, plan["function"], combinations(plan["settings"]))
    for chapter, about in chapters.ABOUT.items()
    for run, plan in about.get("runs", {}).items()
}


def namespace(chapter: str) -> dict[str, Any]:
    """Execute the chapter's cells tagged ``recorded`` and return their names."""
    names: dict[str, Any] = {}
    for i, source in enumerate(provenance.recorded_code(chapter)):
        exec(compile(source, f"{chapter}, recorded cell {i + 1}", "exec"), names)
    return names


def record(name: str, run: Run, path: Path) -> None:
    """Measure every point of a run that ``path`` does not hold yet; each says what made it."""
    check_registered(name)
    made_by = provenance.fingerprint(run.chapter, run.function)
    done = json.loads(gzip.decompress(path.read_bytes())) if path.exists() else {"points": []}
    begun = bool(done["points"])
    if begun and done["fingerprint"] != made_by and provenance.state(name, run.chapter, run.function)[0] != "fits":
        raise SystemExit(
            f"{path.name} was begun by other code than {run.chapter} and the library hold now; make it again: "
            f"make runs NAME={name}"
        )
    strangers = [point["settings"] for point in done["points"] if point["settings"] not in run.settings]
    if strangers:
        raise SystemExit(
            f"{path.name} holds {strangers[0]}, which is not planned; make it again: make runs NAME={name}"
        )
    function = namespace(run.chapter)[run.function]
    for setting in run.settings:
        if any(point["settings"] == setting for point in done["points"]):
            continue
        made, start, cpu = provenance.here(), time.perf_counter(), time.process_time()
        result = function(**setting)
        seconds = {
            "seconds": round(time.perf_counter() - start, 1),
            "process_seconds": round(time.process_time() - cpu, 1),
        }
        done["points"].append({"settings": setting, **seconds, "made": made, "result": result})
        # A seed added later stands in its place.
        done["points"].sort(key=lambda point: run.settings.index(point["settings"]))
        print(name, setting, seconds, str(result)[:400], flush=True)
        content = {
            "name": name,
            "function": f"{run.chapter}: {run.function}",
            "fingerprint": made_by,
            "date": datetime.date.today().isoformat(),
            "versions": runtime.describe(),
            "processor": runtime.processor(),
            "points": done["points"],
        }
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(gzip.compress(json.dumps(content, indent=1).encode(), mtime=0))
        os.replace(temporary, path)
    provenance.adopt(name, run.chapter, run.function, "extended" if begun else "recorded", [])


def check_registered(name: str) -> None:
    """Refuse to measure what a claim is not yet registered for: criterion and bet are committed first."""
    try:
        waiting = registration.uncommitted(name)
    except registration.NoHistory as error:
        raise SystemExit(f"recorded runs are made in a clone of the repository only: {error}") from error
    if waiting:
        raise SystemExit(
            f"{name} decides {', '.join(waiting)}, and what is frozen of these is not committed. Commit claims.toml first: a "
            "claim is registered before its data."
        )


def prepare(kind: str, known: Iterable[str], names: Sequence[str] | None = None) -> None:
    """Set one thread unless told otherwise; refuse another preset than ``cpu``, and names that are not known."""
    if runtime.preset() != "cpu":
        raise SystemExit(f"{kind}s are made under the cpu preset, not {runtime.preset()}: set NEXTWORD_PRESET=cpu")
    runtime.set_threads(int(os.environ.get("NEXTWORD_THREADS", "1")))
    unknown = sorted(set(sys.argv[1:] if names is None else names) - set(known))
    if unknown:
        raise SystemExit(f"no {kind} called {', '.join(unknown)}; there are: {', '.join(known)}")


def main() -> None:
    """Make the named runs again, or all that are incomplete."""
    prepare("recorded run", RUNS)
    provenance.RUNS_FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or RUNS:
        path = provenance.RUNS_FOLDER / f"{name}.json.gz"
        if name in sys.argv[1:]:
            path.unlink(missing_ok=True)
        record(name, RUNS[name], path)


if __name__ == "__main__":
    main()
