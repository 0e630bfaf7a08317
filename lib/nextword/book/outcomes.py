"""How the claims of the book came out in its last build: what the epilogue counts and draws.

A chapter knows its own verdicts only while it runs, and ``build/claims.json`` exists only where the book is built. So that the
epilogue runs anywhere, ``outcomes.json`` lies beside this file: a copy of the few fields that the page needs, made by
``tools/outcomes.py``.

Used in: 2023_epilogue.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = 1
PATH = Path(__file__).with_name("outcomes.json")
COPIED = ("id", "chapter", "test", "kind", "verdict", "predicted", "paper_value", "measured", "unit", "statement")
"""The fields of a row of ``build/claims.json`` that are copied as they stand."""
DECIDED = ("holds", "fails")
"""The verdicts by which a bet is won or lost."""
UNSOUND = ("stale", "contradicted")
"""What a build says of a claim when something is wrong with the runs behind it."""


class Outcome(NamedTuple):
    """One claim, and what became of it."""

    id: str
    chapter: str  # the name of the notebook that measures it
    short: str  # what cards and figures call that chapter
    test: str  # replication | bet, or nothing for kinds that have no test
    kind: str  # measurement | timing | exact | report
    verdict: str  # holds | fails | unresolved | reported | not judged
    predicted: str  # what we bet: holds | fails | unsure
    registered: str  # before | after its data, or unknown
    paper_value: float | None
    measured: float
    unit: str
    statement: str


def select(content: Mapping[str, Any], chapters: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows of the copy from the contents of ``build/claims.json``, chapter by chapter.

    Args:
        content: what ``tools/collect.py`` wrote.
        chapters: the short name of each chapter, in reading order.

    Raises:
        ValueError: a row comes from a chapter without a name, from another preset than ``cpu``, or is *stale* or
            *contradicted*, which is no verdict on a claim.
    """
    order = list(chapters)
    rows = []
    for row in content["claims"]:
        if row["chapter"] not in chapters:
            raise ValueError(f"claim {row['id']}: chapter {row['chapter']!r} has no short name in chapters.toml")
        if row["preset"] != "cpu" or row["verdict"] in UNSOUND:
            raise ValueError(
                f"claim {row['id']} is {row['verdict']!r} under the preset {row['preset']!r}: no copy of that"
            )
        copy = {name: row[name] for name in COPIED}
        copy |= {"short": chapters[row["chapter"]], "registered": row["registered"]["when"]}
        rows.append({name: copy[name] for name in Outcome._fields})
    return sorted(rows, key=lambda row: order.index(row["chapter"]))


def load_outcomes(path: Path = PATH) -> list[Outcome]:
    """Return how each claim came out in the last build, chapter by chapter in reading order.

    Raises:
        ValueError: the copy has another format than this module reads.
    """
    content = json.loads(path.read_text(encoding="utf8"))
    if content.get("format") != FORMAT:
        raise ValueError(f"format={content.get('format')!r} of {path.name} is not {FORMAT}; run tools/outcomes.py")
    return [Outcome(**row) for row in content["claims"]]


def changed(rows: Iterable[Mapping[str, Any]], path: Path = PATH) -> list[str]:
    """Return a message for each row of ``build/claims.json`` that the copy lacks, or tells otherwise.

    Verdicts are compared where a recorded run decides them. Speeds, and what a build measures anew, may rightly come out
    otherwise on another machine.
    """
    copied = {row.id: row for row in load_outcomes(path)}
    now = {row["id"]: row for row in rows}
    faults = [f"outcomes.json has no claim {id}" for id in now if id not in copied]
    faults += [f"outcomes.json has the claim {id}, which no chapter recorded" for id in copied if id not in now]
    for id in now.keys() & copied.keys():
        old, new = copied[id].verdict, now[id]["verdict"]
        if old != new and now[id]["runs"] and now[id]["kind"] != "timing":
            faults.append(f"outcomes.json says that {id} {old!r}, and this build found {new!r}")
    return [f"{fault}; run `make outcomes`." for fault in sorted(faults)]
