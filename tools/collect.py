"""Gather the verdicts of all executed chapters into build/claims.json and check them against the ledger.

Every claim of an existing chapter must have been recorded, its verdict must be the expected one, its number must lie in
the band of the calibration, the chapter must keep its budget, and no sentence may type a number that a claim measures.
With CI=true any of these stops the build; elsewhere they are printed and the book is built all the same, since another
machine or another size may rightly give other numbers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import chapters
from nextword import claims
from nextword.claims import Claim


def records(notebook: Any) -> list[dict[str, Any]]:
    """Return the verdicts that a notebook's outputs carry, in order."""
    outputs = (o for cell in notebook.cells if cell.cell_type == "code" for o in cell.get("outputs", []))
    return [dict(o["data"][claims.MIME]) for o in outputs if claims.MIME in o.get("data", {})]


def check_recorded(chapter: str, rows: list[dict[str, Any]], ledger: dict[str, Claim]) -> list[str]:
    """Return a message for each claim of the chapter that was recorded never, twice, or in a chapter not its own."""
    counts = Counter(row["id"] for row in rows)
    faults = [
        f"{chapter}: claim {claim.id} stands in claims.toml but was not recorded. "
        f'Call claims.record("{claim.id}", measured) in the chapter, or remove the claim with a reason.'
        for claim in ledger.values()
        if claim.chapter == chapter and counts[claim.id] == 0
    ]
    faults += [f"{chapter}: claim {id} was recorded {n} times; once is right." for id, n in counts.items() if n > 1]
    foreign = [id for id in counts if ledger.get(id) and ledger[id].chapter != chapter]
    return faults + [f"{chapter}: claim {id} belongs to chapter {ledger[id].chapter}." for id in foreign]


def check_verdicts(chapter: str, rows: list[dict[str, Any]], ledger: dict[str, Claim]) -> list[str]:
    """Return a message for each verdict that is not the expected one."""
    faults = []
    for row in rows:
        claim = ledger[row["id"]]
        expected = "reported" if claim.kind == "report" else claim.expected
        if not expected:
            faults.append(
                f"{chapter}: claim {claim.id} has no `expected` yet. Run `make calibrate NAME={chapter}` and write in "
                "claims.toml what it found."
            )
        elif expected != claims.BY_MACHINE and row["verdict"] not in (expected, "not judged"):
            faults.append(
                f"{chapter}: claim {claim.id} was expected to be '{expected}' and is '{row['verdict']}' "
                f"(measured {claims.number(row['measured'])}; criterion: {claim.criterion}). Either the library or the "
                "chapter broke, or the finding changed: then say so in claims.toml with `reason` and `since`."
            )
    return faults


def check_bands(chapter: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return a message for each number outside the band in which the calibration's runs lie."""
    return [
        f"{chapter}: claim {row['id']} measured {claims.number(row['measured'])}, outside the band of healthy runs "
        f"{claims.range_text(row['band'])} (mean ± 4 standard deviations, calibration.json). Something changed: find out "
        f"what, then run `make calibrate NAME={chapter}`."
        for row in rows
        if row["band"] and not row["band"][0] <= row["measured"] <= row["band"][1]
    ]


_NOT_PROSE = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\{[\w:]+\}`[^`]*`|<[^>]*>|\]\([^)]*\)", re.S)
_NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w]|[.,]\d)")


def check_prose(chapter: str, notebook: Any, rows: list[dict[str, Any]]) -> list[str]:
    """Return a message for each number in the text that repeats, from memory, what a claim measures.

    Numbers of at least three digits are compared with each measurement, within its band or half a percent. Code,
    formulas and the paper's own numbers are left alone.
    """
    printed = {row["paper_value"] for row in rows if row["paper_value"] is not None}
    faults = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for text in _NUMBER.findall(_NOT_PROSE.sub(" ", cell.source)):
            value = float(text.replace(",", ""))
            if len(text.replace(",", "").replace(".", "").lstrip("0")) < 3 or value in printed:
                continue
            for row in rows:
                size = abs(row["measured"])  # a sign is part of the sentence: −1.02 is read as 1.02
                low, high = sorted(map(abs, row["band"] or (size, size)))
                if min(low, 0.995 * size) <= value <= max(high, 1.005 * size):
                    faults.append(
                        f"{chapter}: the text types {text}, which claim {row['id']} measures "
                        f"({claims.number(row['measured'])}). Write {{claim}}`{row['id']}` instead, so that the number is "
                        "always the one the run gave."
                    )
    return faults


def check_budget(chapter: str, run: dict[str, Any]) -> list[str]:
    """Return a message when a chapter took more than 1.6 times what was planned for it on this machine."""
    limit = 1.6 * chapters.planned_seconds(run)
    if run["seconds"] <= limit:
        return []
    return [
        f"{chapter}: took {run['seconds']:.0f} s; {limit:.0f} s is the limit here. Make it smaller, or raise its budget."
    ]


def collect(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the contents of build/claims.json and all faults."""
    ledger = claims.ledger()
    unplaced = {claim.chapter for claim in ledger.values()} - set(chapters.BUDGET_SECONDS)
    rows: list[dict[str, Any]] = []
    faults = [
        f"claims.toml names the chapter {name}, which tools/chapters.py does not know." for name in sorted(unplaced)
    ]
    runs: dict[str, Any] = {}
    for chapter in chapters.names():
        path = folder / f"{chapter}.run.json"
        run = json.loads(path.read_text(encoding="utf8")) if path.exists() else {"key": None}
        if run["key"] != chapters.key(chapter):
            how = "is older than its source, the library or the preset" if path.exists() else "is missing"
            faults.append(f"{chapter}: its executed copy {how}; run `make chapter NAME={chapter}`.")
            continue
        notebook = chapters.read(chapter, folder)
        found = records(notebook)
        runs[chapter] = run
        faults += check_recorded(chapter, found, ledger)
        if run["preset"] != "smoke":
            faults += check_verdicts(chapter, found, ledger) + check_bands(chapter, found)
            faults += check_prose(chapter, notebook, found) + check_budget(chapter, run)
        rows += found
    meta = {"date": datetime.date.today().isoformat(), "chapters": runs}
    if runs:
        first = next(iter(runs.values()))
        meta |= {k: first[k] for k in ("device", "preset", "precision", "threads", "python", "torch", "numpy")}
        meta["seconds"] = {name: run["seconds"] for name, run in runs.items()}
    return {"meta": meta, "claims": rows}, faults


def main() -> int:
    """Write build/claims.json and report the faults; they stop the build in continuous integration only."""
    parser = argparse.ArgumentParser(description="Gather and check the verdicts of the executed chapters.")
    parser.add_argument("--folder", type=Path, default=chapters.EXECUTED)
    parser.add_argument("--out", type=Path, default=chapters.ROOT / "build" / "claims.json")
    arguments = parser.parse_args()
    ledger, faults = collect(arguments.folder)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(ledger, indent=1, ensure_ascii=False), encoding="utf8")
    tally = Counter(row["verdict"] for row in ledger["claims"])
    print("claims:", ", ".join(f"{n} {verdict}" for verdict, n in tally.items()) or "none")
    for fault in faults:
        print(f"  ! {fault}")
    strict = os.environ.get("CI") == "true"
    if faults and not strict:
        print("The book is built all the same; with CI=true these would stop it.")
    return 1 if faults and strict else 0


if __name__ == "__main__":
    sys.exit(main())
