"""Gather the verdicts of all executed chapters into build/claims.json and check them against the ledger.

A chapter's numbers are taken, its verdicts are not: each is judged here once more by the criterion of claims.toml, with
the state of the recorded runs behind it. Every claim of an existing chapter must have been recorded, its verdict must be
the expected one, its number must lie in the band of the calibration, no recorded run may be stale and no live point may
contradict the recorded one that it repeats, what is frozen of a claim must be what its history says, the chapter must
keep its budget, and no sentence may type a number that a claim measures. With CI=true any fault stops the build;
elsewhere they are printed and the book is built all the same, since another machine or another size may rightly give
other numbers.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema

import chapters
import evidence
import provenance
import registration
from nextword.book import claims, outcomes
from nextword.book.claims import Claim, Repeat, Verdict

EPILOGUE = "2023_epilogue"
"""The page that shows the verdicts of all others, from a copy that comes with the package."""
FORMAT = 3
"""Version of build/claims.json; chapters/_static/claims.schema.json describes it."""


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
        if claim.chapter == chapter and counts[claim.id] == 0 and not claim.withdrawn
    ]
    faults += [f"{chapter}: claim {id} was recorded {n} times; once is right." for id, n in counts.items() if n > 1]
    foreign = [id for id in counts if ledger.get(id) and ledger[id].chapter != chapter]
    return faults + [f"{chapter}: claim {id} belongs to chapter {ledger[id].chapter}." for id in foreign]


def judged(row: dict[str, Any], claim: Claim) -> dict[str, Any]:
    """Return the row of build/claims.json for what a chapter measured: the numbers are its own, the rest the ledger's."""
    pair = row["interval"] and (float(row["interval"][0]), float(row["interval"][1]))
    again = row["repeat"] and Repeat(
        row["repeat"]["quantity"],
        row["repeat"]["live"],
        row["repeat"]["recorded"],
        claims.tolerances().get(row["repeat"]["quantity"], 0.0),
        claims.recorded_arithmetic(row["repeat"]["quantity"]),
        row["repeat"]["here"],
    )
    busy = bool(row["busy"]) and claim.kind == "timing"
    verdict = claims.judge(claim, row["measured"], interval=pair, repeat=again, preset=row["preset"], busy=busy)
    values = row["values"] and tuple(row["values"])
    given = {"std": row["std"], "interval": pair, "seeds": row["seeds"], "values": values, "note": row["note"]}
    given |= {"band": claims.band(claim.id), "spread": claims.spread(claim.id), "repeat": again}
    made = Verdict(claim, row["measured"], verdict, **given, preset=row["preset"], busy=busy)
    result: dict[str, Any] = json.loads(json.dumps(made.to_dict()))
    return result


def check_honesty(
    chapter: str, said: list[dict[str, Any]], rows: list[dict[str, Any]], preset: str, arithmetic: str
) -> list[str]:
    """Return a message where a chapter's own verdict, preset, precision or processor is not what its numbers and its run give."""
    faults = []
    for before, row in zip(said, rows, strict=True):
        if before["verdict"] != row["verdict"]:
            faults.append(
                f"{chapter}: claim {row['id']} says '{before['verdict']}', but {claims.number(row['measured'])} judged by "
                f"the ledger ({row['criterion']}) is '{row['verdict']}'. The criterion stands in claims.toml alone: take "
                "what replaces it out of the chapter."
            )
        if row["preset"] != preset:
            faults.append(
                f"{chapter}: claim {row['id']} was recorded under the preset {row['preset']!r} in a run under {preset!r}. "
                "A chapter never sets its own preset."
            )
        if row["repeat"] and row["repeat"]["here"] != arithmetic:
            faults.append(
                f"{chapter}: claim {row['id']} says that its live point was made in {row['repeat']['here']}, and the "
                f"chapter ran in {arithmetic}. A chapter never sets its own precision."
            )
    return faults


def check_states(chapter: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return a message for each claim that a stale run decides, or that a live point contradicts, and each stale run shown."""
    named = {name for row in rows for name in row["runs"]}
    faults = [
        f"{chapter} shows the recorded run {name}, which is {provenance.STALE}: {run_state(name)[1]}. Run `make verify "
        f"NAME={name}`; if it gives other numbers, `make runs NAME={name}`."
        for name in chapters.runs_in(chapters.code_of(chapters.read(chapter)))
        if name not in named and run_state(name)[0] == provenance.STALE
    ]
    for row in rows:
        for name, (state, why) in row["runs_state"].items():
            if state == provenance.STALE:
                faults.append(
                    f"{chapter}: claim {row['id']} rests on the recorded run {name}, which is {state}: {why}. Run `make "
                    f"verify NAME={name}`; if it gives other numbers, `make runs NAME={name}`."
                )
        if row["repeat"] and row["repeat"]["agrees"] is False:
            again = row["repeat"]
            faults.append(
                f"{chapter}: claim {row['id']} is contradicted: {again['quantity']} was {claims.number(again['live'])} just "
                f"now and {claims.number(again['recorded'])} when it was recorded with the same seed; the tolerance is "
                f"{claims.number(again['tolerance'])}. Find out what changed."
            )
    return faults


@functools.cache
def run_state(name: str) -> tuple[str, str]:
    """Return the state of a recorded run, and the reason where it does not fit today's code."""
    from record import RUNS

    if name not in RUNS:
        return provenance.STALE, "tools/record.py does not know it"
    return provenance.state(name, RUNS[name].chapter, RUNS[name].function)


def complete(rows: list[dict[str, Any]], known: dict[str, Any]) -> None:
    """Add to each row when its claim was registered and the state of its runs; a stale run makes the claim stale."""
    for row in rows:
        row["registered"] = known[row["id"]].to_dict() if row["id"] in known else {"when": "unknown"}
        row["runs_state"] = {name: list(run_state(name)) for name in row["runs"]}
        if any(state == provenance.STALE for state, _ in row["runs_state"].values()):
            row["verdict"] = claims.STALE
        row["bet"] = claims.bet(row)
        row["text"] = claims.measured_text(row)


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
        elif row["verdict"] in (claims.STALE, claims.CONTRADICTED):
            continue  # check_states says so
        elif row["verdict"] == "not judged" and not (claim.kind == "timing" and row["busy"]):
            faults.append(
                f"{chapter}: claim {claim.id} was not judged. Only a speed on a busy machine may stay without verdict."
            )
        elif expected in (claims.BY_MACHINE, claims.UNCALIBRATED):
            continue
        elif row["verdict"] not in (expected, "not judged"):
            faults.append(
                f"{chapter}: claim {claim.id} was expected to be '{expected}' and is '{row['verdict']}' "
                f"(measured {claims.number(row['measured'])}; criterion: {claim.criterion}). Either the library or the "
                "chapter broke, or the finding changed: then say so in claims.toml with `reason` and `since`."
            )
    return faults


def check_repeats(rows: list[dict[str, Any]], all_of_it: bool) -> list[str]:
    """Return a message for each registered tolerance by which no claim compared a live point with a recorded one."""
    used = {row["repeat"]["quantity"] for row in rows if row["repeat"]}
    return [
        f"claims.toml: no chapter compared anything by the tolerance {name!r}. Hand claims.repeat({name!r}, now, recorded) "
        "to claims.record as `live`; the recorded run needs a point with this page's seed and settings."
        for name in sorted(set(claims.tolerances()) - used)
        if all_of_it
    ]


def check_places(ledger: dict[str, Claim], known: dict[str, Any]) -> list[str]:
    """Return a message for each claim with data whose chapter does not exist: it would be shown nowhere."""
    existing = set(chapters.names())
    return [
        f"claim {claim.id} has data, and its chapter {claim.chapter} has no notebook, so no page shows it. Put it back."
        for claim in ledger.values()
        if claim.chapter not in existing and claim.id in known and known[claim.id].data
    ]


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

    Numbers of at least three digits are compared with each measurement, within its band or half a percent; those of
    captions and descriptions of figures, which speak of settings as well, within half a percent and with decimals only.
    Code, formulas and the paper's own numbers are left alone.
    """
    printed = {row["paper_value"] for row in rows if row["paper_value"] is not None}
    faults = []
    for prose, is_text in _prose_of(notebook):
        for text in _NUMBER.findall(_NOT_PROSE.sub(" ", prose)):
            value = float(text.replace(",", ""))
            if len(text.replace(",", "").replace(".", "").lstrip("0")) < 3 or value in printed:
                continue
            if not is_text and "." not in text:
                continue
            for row in rows:
                size = abs(row["measured"])  # a sign is part of the sentence: −1.02 is read as 1.02
                low, high = sorted(map(abs, (is_text and row["band"]) or (size, size)))
                if min(low, 0.995 * size) <= value <= max(high, 1.005 * size):
                    faults.append(
                        f"{chapter}: the text types {text}, which claim {row['id']} measures "
                        f"({claims.number(row['measured'])}). Write {{claim}}`{row['id']}` instead, so that the number is "
                        "always the one the run gave."
                    )
    return faults


def _prose_of(notebook: Any) -> list[tuple[str, bool]]:
    """Return all that people read: markdown (True), captions and descriptions of figures (False)."""
    found = [(cell.source, True) for cell in notebook.cells if cell.cell_type == "markdown"]
    for cell in notebook.cells:
        shown = cell.metadata.get("mystnb", {})
        found += [(shown.get("figure", {}).get("caption", ""), False), (shown.get("image", {}).get("alt", ""), False)]
    return found


def check_budget(chapter: str, run: dict[str, Any]) -> list[str]:
    """Return a message when a chapter took more than 1.6 times what was planned for it on this machine, as loaded as it was."""
    limit = 1.6 * chapters.planned_seconds(run) * max(1.0, run.get("load", 1.0))
    if run["seconds"] <= limit:
        return []
    return [
        f"{chapter}: took {run['seconds']:.0f} s; {limit:.0f} s is the limit here. Make it smaller, or raise its budget."
    ]


_DIRECTION = re.compile(
    r"\b(gains?|gained|loses?|lost|(?:lower|higher|falls?|fell|rises?|rose|ahead|behind|short|differs?|differed) by)\s+"
    r"\{claim\}`([^`:]+)`"
)


def check_signs(chapter: str, text: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return a message where a sentence gives a direction in words and a minus sign besides."""
    return [
        f"{chapter}: the text says '{word} {{claim}}`{id}`', and the number has a minus sign. Write {{claim}}`{id}:size`."
        for word, id in _DIRECTION.findall(text)
        if id in rows and rows[id]["measured"] < 0
    ]


_README = re.compile(r"([−\d][−\d.,]*)<!-- claim (\S+) -->(?: \((\w+)\))?")
_MARKS = {"holds": "", "reported": "", "fails": "failed"}


def check_readme(text: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return a message for each number of the README that is not the measured one, or hides that it did not hold.

    The README is written by hand and read on many machines, so a number may lie anywhere within its 95 % interval.
    """
    faults = []
    for number, id, mark in _README.findall(text):
        if id not in rows:
            faults.append(f"README.md: claim {id} was not recorded.")
            continue
        row, value = rows[id], float(number.replace(",", "").replace("−", "-"))
        allowed = max(0.5 * 10 ** -len(number.partition(".")[2]), claims.half_width(row) or 0.0)
        if abs(value - row["measured"]) > allowed:
            faults.append(f"README.md: the text says {number} for {id}, and the run gave {claims.measured_text(row)}.")
        says = _MARKS.get(row["verdict"], row["verdict"])
        if mark != says:
            remedy = f"write ({says}) behind its comment" if says else f"take ({mark}) away behind its comment"
            faults.append(f"README.md: {id} is '{row['verdict']}'; {remedy}.")
    return faults


def history() -> tuple[dict[str, Any], list[str]]:
    """Return what the history says of each claim, and what is wrong with the ledger beside it."""
    try:
        known = registration.of_this_book()
    except registration.NoHistory as error:
        return {}, [f"claims.toml: when claims were registered cannot be said: {error}."]
    faults = registration.faults(claims.ledger(), known) + registration.loosened() + provenance.rewritten()
    faults += evidence.repinned()
    return dict(known), faults + check_places(claims.ledger(), known)


def collect(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the contents of build/claims.json and all faults."""
    ledger = claims.ledger()
    unplaced = {claim.chapter for claim in ledger.values()} - set(chapters.ABOUT)
    rows: list[dict[str, Any]] = []
    known, faults = history()
    faults += [
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
        if run["outputs"] != chapters.outputs_hash(notebook):
            faults.append(f"{chapter}: its executed copy was edited after it ran; run `make chapter NAME={chapter}`.")
        said = [row for row in records(notebook) if row["id"] in ledger]
        found = [judged(row, ledger[row["id"]]) for row in said]
        runs[chapter] = run
        faults += check_recorded(chapter, found, ledger) + check_honesty(
            chapter, said, found, run["preset"], claims.arithmetic(run)
        )
        complete(found, known)
        if run["preset"] != "smoke":
            faults += check_states(chapter, found) + check_verdicts(chapter, found, ledger)
            faults += check_bands(chapter, found) + check_budget(chapter, run)
            faults += check_prose(chapter, notebook, found) + evidence.check_values(chapter, found)
        if run["preset"] == "cpu":
            faults += evidence.check_pins(chapter, found)
        rows += found
    by_id = {row["id"]: row for row in rows}
    for page in sorted([*chapters.CHAPTERS.glob("*.md"), *chapters.CHAPTERS.glob("*.ipynb")]):
        faults += check_signs(page.stem, page.read_text(encoding="utf8"), by_id)
    everything = len(runs) == len(chapters.names())
    presets = {(run["preset"], run["seed"]) for run in runs.values()}
    faults += check_repeats(rows, everything and presets == {("cpu", "0")})
    readme = chapters.ROOT / "README.md"
    if readme.is_file() and everything:
        faults += check_readme(readme.read_text(encoding="utf8"), by_id)
    meta: dict[str, Any] = {"date": datetime.date.today().isoformat(), "chapters": runs}
    if runs:
        first = next(iter(runs.values()))
        meta |= {k: first[k] for k in ("device", "preset", "precision", "threads", "python", "torch", "numpy")}
        meta["seconds"] = {name: run["seconds"] for name, run in runs.items()}
    gone = [_withdrawn(claim, known) for claim in ledger.values() if claim.withdrawn]
    return {"format": FORMAT, "meta": meta, "claims": rows, "withdrawn": gone}, faults


def _withdrawn(claim: Claim, known: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a claim that is judged no longer."""
    row = {key: getattr(claim, key) for key in ("id", "chapter", "citation", "where", "statement", "quantity", "badge")}
    row |= {key: getattr(claim, key) for key in ("criterion", "predicted", "expected", "withdrawn")}
    row["registered"] = known[claim.id].to_dict() if claim.id in known else {"when": "unknown"}
    return row


def check_schema(content: dict[str, Any]) -> list[str]:
    """Return a message where build/claims.json is not what its schema promises to those who read it."""
    path = chapters.CHAPTERS / "_static" / "claims.schema.json"
    if not path.is_file():
        return []
    plain = json.loads(json.dumps(content))
    errors = jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf8"))).iter_errors(plain)
    return [f"build/claims.json, {error.json_path}: {error.message[:200]}" for error in list(errors)[:5]]


def check_copy(rows: list[dict[str, Any]]) -> list[str]:
    """Return a message for each verdict that the epilogue's copy tells otherwise, where all chapters were run at full size."""
    complete = {row["chapter"] for row in rows} == {name for name in chapters.names() if name != EPILOGUE}
    if not complete or EPILOGUE not in chapters.names() or any(row["preset"] != "cpu" for row in rows):
        return []
    return outcomes.changed(rows)


def main() -> int:
    """Write build/claims.json and report the faults; they stop the build in continuous integration only."""
    parser = argparse.ArgumentParser(description="Gather and check the verdicts of the executed chapters.")
    parser.add_argument("--folder", type=Path, default=chapters.EXECUTED)
    parser.add_argument("--out", type=Path, default=chapters.ROOT / "build" / "claims.json")
    arguments = parser.parse_args()
    ledger, faults = collect(arguments.folder)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(ledger, indent=1, ensure_ascii=False), encoding="utf8")
    faults += check_schema(ledger)
    faults += check_copy(ledger["claims"])
    tally = Counter(row["verdict"] for row in ledger["claims"])
    print("claims:", ", ".join(f"{n} {verdict}" for verdict, n in tally.items()) or "none")
    repeats = [row["repeat"] for row in ledger["claims"] if row["repeat"]]
    apart = {f"{pair['quantity']} ({pair['precision']})" for pair in repeats if pair["agrees"] is None}
    if apart:
        print(
            "not compared, since they were recorded in another precision or on another processor than the live point's:",
            *sorted(apart),
            sep="\n  ",
        )
    for fault in faults:
        print(f"  ! {fault}")
    strict = os.environ.get("CI") == "true"
    if faults and not strict:
        print("The book is built all the same; with CI=true these would stop it.")
    return 1 if faults and strict else 0


if __name__ == "__main__":
    sys.exit(main())
