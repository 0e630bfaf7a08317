"""When each claim was registered, worked out from the history of this repository, and whether it was before its data.

A claim is registered by the first commit that holds it as it is judged today. Its data are there from the first commit
that holds a calibration of it, or all the recorded runs that decide it or ever did, and a point that says when it was
begun is data from then on; a claim whose data had been seen without leaving a file says ``seen = true``. What is frozen
of a claim (chapter, quantity, op, threshold, bet, kind, test, the paper's number) may change only with an ``amended``
entry that says what it was, and after its data such a claim counts as registered after them. None may disappear.

    python tools/registration.py    say for each claim when it was registered, and what is wrong
"""

from __future__ import annotations

import datetime
import functools
import gzip
import json
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chapters
from nextword.book import claims
from nextword.book.claims import Claim

LEDGER = "lib/nextword/book/claims.toml"
CALIBRATION = "lib/nextword/book/calibration.json"
RUNS = "lib/nextword/book/recorded"
MOVED = {  # where the history holds the older versions of these
    LEDGER: "lib/nextword/claims.toml",
    CALIBRATION: "lib/nextword/calibration.json",
    RUNS: "lib/nextword/bundled/runs",
}
SINCE = "8514c34a58501360fd6cf3ee7f4517fdfc6ca59c"
"""The commit from which on ``LATE`` is frozen, too: the badges and two of the paper's numbers were corrected before it."""
LATE = ("chapter", "test", "paper_value")


class NoHistory(RuntimeError):
    """The history of the repository is missing or cut off, so nothing can be said of when a claim was registered."""


@dataclass
class Registered:
    """What the history says of one claim."""

    commit: str
    date: str
    states: list[dict[str, Any]] = field(default_factory=list)  # the frozen fields, each time they changed
    changed: list[str] = field(default_factory=list)  # the commit of each state
    runs: list[tuple[str, ...]] = field(default_factory=list)  # all that ever were to decide it
    seen: bool = False  # whether any version said so
    expected: str = ""  # the verdict that was expected, before a withdrawal
    data: str = ""  # date of the first commit with data that decide it
    before: bool = True

    def to_dict(self) -> dict[str, str]:
        """Return what goes into ``build/claims.json``."""
        when = "before" if self.before else "after"
        return {"when": when, "commit": self.commit, "date": self.date, "data": self.data}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        raise NoHistory(f"git {' '.join(arguments[:2])} failed here ({done.stderr.strip().splitlines()[:1]})")
    return done.stdout


def check_history(root: Path) -> None:
    """Refuse a copy without its history, and one whose history was cut off.

    Raises:
        NoHistory: the message says what to do.
    """
    if not (root / ".git").exists():
        raise NoHistory(
            "this copy has no history (.git is missing): clone the repository instead of unpacking an archive"
        )
    if _git(root, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise NoHistory("this clone is shallow: run `git fetch --unshallow`, or set fetch-depth: 0 in the workflow")


def frozen(row: dict[str, Any]) -> dict[str, Any]:
    """Return what is frozen of a claim of ``claims.toml``."""
    return {key: list(row[key]) if isinstance(row[key], list) else row[key] for key in claims.FROZEN if key in row}


def places(path: str) -> list[str]:
    """Return where a file or folder of this repository is, and where it was before it moved."""
    return [
        path,
        *(path.replace(new, old, 1) for new, old in MOVED.items() if path == new or path.startswith(f"{new}/")),
    ]


def content(root: Path, commit: str, path: str) -> bytes | None:
    """Return a file as a commit holds it, at its place of that time; None where there was none."""
    for place in places(path):
        shown = subprocess.run(["git", "show", f"{commit}:{place}"], cwd=root, capture_output=True)
        if shown.returncode == 0:
            return shown.stdout
    return None


def versions(root: Path, path: str) -> list[tuple[str, str, str]]:
    """Return all versions of a file on the main line, oldest first: commit, date, content."""
    lines = _git(root, "log", "--first-parent", "--reverse", "--format=%H %cI", "--", *places(path)).splitlines()
    found = []
    for line in lines:
        commit, date = line.split(" ")
        found.append((commit, date, (content(root, commit, path) or b"").decode()))
    return found


def commits_of(root: Path, path: str, since: str, order: dict[str, int]) -> list[str]:
    """Return the commits of the main line that touch a file, oldest first, from ``since`` on if the history holds it."""
    touching = _git(root, "log", "--first-parent", "--reverse", "--format=%H", "--", *places(path)).split()
    return [since] * (since in order) + [c for c in touching if order[c] > order.get(since, -1)]


def order_of(root: Path) -> dict[str, int]:
    """Return the place of each commit of the main line in its history."""
    return {c: i for i, c in enumerate(_git(root, "log", "--first-parent", "--reverse", "--format=%H").split())}


def _first_calibrated(root: Path) -> dict[str, tuple[str, str]]:
    """Return the first commit that holds a calibration of each claim, and its date."""
    found: dict[str, tuple[str, str]] = {}
    for commit, date, text in versions(root, CALIBRATION):
        for rows in json.loads(text).values() if text else ():
            for id in rows:
                found.setdefault(id, (commit, date))
    return found


def _first_recorded(root: Path) -> dict[str, tuple[str, str]]:
    """Return the first commit that holds each recorded run, and its date."""
    found: dict[str, tuple[str, str]] = {}
    commit = date = ""
    listing = _git(
        root,
        *("log", "--first-parent", "--reverse", "--no-renames", "--diff-filter=A", "--name-only", "--format=> %H %cI"),
        *("--", *places(RUNS)),
    )
    for line in listing.splitlines():
        if line.startswith("> "):
            _, commit, date = line.split(" ")
        elif line.strip():
            found.setdefault(Path(line).name.split(".")[0], (commit, date))
    return found


def history(root: Path = chapters.ROOT) -> dict[str, Registered]:
    """Return what the history says of each claim that ``claims.toml`` ever held.

    Raises:
        NoHistory: there is none, or only a part.
    """
    check_history(root)
    found: dict[str, Registered] = {}
    ledgers = [(commit, date, tomllib.loads(text).get("claim", [])) for commit, date, text in versions(root, LEDGER)]
    late = _late_fields(root, ledgers)
    for commit, date, rows in ledgers:
        for row in rows:
            claim, state = found.setdefault(row["id"], Registered(commit, date)), frozen(row)
            if commit in late:
                state = {k: v for k, v in state.items() if k not in LATE} | late[commit].get(row["id"], {})
            if not claim.states or claim.states[-1] != state:
                claim.states.append(state)
                claim.changed.append(commit)
            claim.runs.append(tuple(row.get("runs", ())))
            claim.seen |= row.get("seen", False)
            if not row.get("withdrawn"):
                claim.expected = row.get("expected", "")
    _date_data(root, found)
    return found


def _late_fields(root: Path, ledgers: list[tuple[str, str, list[dict[str, Any]]]]) -> dict[str, dict[str, Any]]:
    """Return for each version before ``SINCE`` what the fields of ``LATE`` were at that commit."""
    order = order_of(root)
    if SINCE not in order:
        return {}
    before = [(commit, rows) for commit, _, rows in ledgers if order[commit] <= order[SINCE]]
    then = {row["id"]: {k: row[k] for k in LATE if k in row} for row in before[-1][1]}
    return {commit: then for commit, _ in before}


def _date_data(root: Path, found: dict[str, Registered]) -> None:
    """Say for each claim when its data came, and whether it was there before them."""
    order, calibrated, recorded = order_of(root), _first_calibrated(root), _first_recorded(root)
    current = {row["id"]: row for row in tomllib.loads((root / LEDGER).read_text(encoding="utf8")).get("claim", [])}
    for id, claim in found.items():
        decided = [calibrated[id]] if id in calibrated else []
        for names in {*claim.runs, tuple(current.get(id, {}).get("runs", ()))}:
            runs = [recorded[name] for name in names if name in recorded]
            decided += [max(runs, key=lambda run: order[run[0]])] if runs else []  # it takes all of them
        if decided:
            commit, claim.data = min(decided, key=lambda run: order[run[0]])
            claim.before = max(order[c] for c in claim.changed) < order[commit]
        begun = [_moment(start) for name in current.get(id, {}).get("runs", ()) if (start := _begun(root, name))]
        claim.before &= not begun or _moment(claim.date) < max(begun)  # the last run decides, as above
        claim.before &= not (claim.seen or current.get(id, {}).get("seen", False))


@functools.cache
def _begun(root: Path, name: str) -> str:
    """Return when the first point of a recorded run was begun, as far as its points say so."""
    path = root / RUNS / f"{name}.json.gz"
    points = json.loads(gzip.decompress(path.read_bytes()))["points"] if path.is_file() else []
    return min((p["made"]["started"] for p in points if "made" in p), key=_moment, default="")


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


@functools.cache
def of_this_book() -> dict[str, Registered]:
    """Return :func:`history` of this repository, read once."""
    return history()


def faults(ledger: dict[str, Claim], known: dict[str, Registered]) -> list[str]:
    """Return a message for each claim whose frozen fields changed silently, and each that disappeared."""
    found = [
        f"claim {id} was registered on {row.date[:10]} and has disappeared from claims.toml. Put it back and set "
        '`withdrawn = "why"`: a claim is never deleted.'
        for id, row in known.items()
        if id not in ledger
    ]
    for id, claim in ledger.items():
        said, states = _said(claim), known[id].states if id in known else [_now(claim)]
        if states[-1] != _now(claim):
            states = [*states, _now(claim)]  # a change that is not committed yet
        if said != states:
            found.append(_explain(id, said, states))
        if claim.withdrawn and id in known and known[id].expected != claim.expected:
            found.append(
                f"claim {id} is withdrawn and expected to be {claim.expected!r}; before it was withdrawn that was "
                f"{known[id].expected!r}. What it was stays."
            )
    return found


def loosened(root: Path = chapters.ROOT) -> list[str]:
    """Return a message for each tolerance of a live point that is wider than it was when it was registered."""
    first: dict[str, float] = {}
    for _, _, text in versions(root, LEDGER):
        for name, value in tomllib.loads(text).get("tolerances", {}).items():
            first.setdefault(name, value)
    now = tomllib.loads((root / LEDGER).read_text(encoding="utf8")).get("tolerances", {})
    return [
        f"claims.toml: the tolerance {name!r} is {value}, and {first[name]} was registered. A tolerance may only shrink."
        for name, value in now.items()
        if value > first.get(name, value)
    ]


def _now(claim: Claim) -> dict[str, Any]:
    row = {key: getattr(claim, key) for key in claims.FROZEN if getattr(claim, key) not in ("", None)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


def uncommitted(run: str, root: Path = chapters.ROOT) -> list[str]:
    """Return the claims decided by a recorded run whose frozen fields HEAD does not hold as they are now.

    Raises:
        NoHistory: there is no repository to compare with.
    """
    text = _git(root, "show", f"HEAD:{LEDGER}")
    committed = {row["id"]: frozen(row) for row in tomllib.loads(text).get("claim", [])}
    now = tomllib.loads((root / LEDGER).read_text(encoding="utf8")).get("claim", [])
    return [row["id"] for row in now if run in row.get("runs", []) and committed.get(row["id"]) != frozen(row)]


def _said(claim: Claim) -> list[dict[str, Any]]:
    """Return the states of a claim that its ``amended`` entries tell, oldest first."""
    states = [_now(claim)]
    for entry in reversed(claim.amended):
        before = {**states[0], **entry.was}
        states.insert(0, {key: value for key, value in before.items() if value != ""})
    return states


def _explain(id: str, said: list[dict[str, Any]], states: list[dict[str, Any]]) -> str:
    changes = [
        ", ".join(f"{k}: {a.get(k)!r} → {b.get(k)!r}" for k in claims.FROZEN if a.get(k) != b.get(k))
        for a, b in zip(states, states[1:], strict=False)
    ]
    listed = "; ".join(changes) or "nothing"
    return (
        f"claim {id}: the history of claims.toml has changed {listed}, and its `amended` entries tell {len(said) - 1} "
        "change(s) that do not amount to that. What is frozen changes only with an entry [[claim.amended]] (date, was, "
        "why, verdict)."
    )


def sentence(rows: list[dict[str, Any]]) -> str:
    """Return the sentence of a chapter's Claims section that says when its claims were registered.

    Example:
        >>> row = {"registered": {"when": "before"}, "kind": "measurement", "amended": [], "withdrawn": ""}
        >>> sentence([row, row | {"registered": {"when": "after"}}])
        'Of these 2 claims, 1 was registered, with criterion and bet, before its data were there and 1 after (†).'
    """
    judged = [row for row in rows if row["kind"] != "report"]
    if any(row["registered"]["when"] == "unknown" for row in judged):
        return f"When these {len(judged)} claims were registered is not known: this copy of the book has no history."
    count = Counter(row["registered"]["when"] for row in judged)
    before, after = count["before"], count["after"]
    text = f"Of these {len(judged)} claims, {before} {_were(before)} registered, with criterion and bet, before "
    text += f"{'its' if before == 1 else 'their'} data were there"
    text += f" and {after} after (†)." if after else "."
    amended = sum(bool(row["amended"]) for row in judged)
    if amended:
        text += f" {'One' if amended == 1 else amended} of them {_were(amended)} changed later; "
        text += "its entry says how and why." if amended == 1 else "their entries say how and why."
    return text


def _were(n: int) -> str:
    return "was" if n == 1 else "were"


def main() -> int:
    """Print when each claim was registered."""
    known = of_this_book()
    for id, claim in claims.ledger().items():
        row = known.get(id)
        says = f"{row.to_dict()['when']:6s} {row.date[:16]} data {row.data[:16]}" if row else "not committed yet"
        print(f"{id:32s} {says}{'  amended' if claim.amended else ''}")
    wrong = faults(claims.ledger(), known)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
