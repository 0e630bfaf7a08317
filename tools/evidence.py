"""Whether what a chapter hands over is all that its runs give: every seed once, the whole interval, the same number.

A recorded run gives one and the same number to each build. ``tools/pins.json`` keeps that number for each claim that
recorded runs decide, with the digests of these runs. A number that moves while its runs stay was counted in another way;
that may be right, and then an entry says why:

    python tools/evidence.py                 pin the numbers of new or newly recorded runs
    python tools/evidence.py --recount WHY   pin also those that were counted in another way
"""

from __future__ import annotations

import argparse
import collections
import datetime
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import chapters
import provenance
import registration
from nextword.book import claims

PINS = Path(__file__).with_name("pins.json")
OTHER_STATISTICS = {
    "gnmt.deep-gradient": "a geometric mean",
    "ppo.kl": "where the mean of many curves peaks",
    "ppo.cartpole-worst": "the worst of several arms",
    "gpt2.size-held-out": "the smallest of several gains",
    "gpt2.size-unseen": "the smallest of several gains",
}
"""Claims whose number is no mean of the values beside it."""
MOVED = 0.02  # of the half-width


def seed_counts(run: dict[str, Any]) -> set[int]:
    """Return how many points the arms of a run have that differ in their seed alone."""
    arms = collections.Counter(
        json.dumps({k: v for k, v in point["settings"].items() if k != "seed"}, sort_keys=True)
        for point in run["points"]
    )
    return set(arms.values())


def check_values(chapter: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return a message where seeds were left out or counted twice, or an interval is narrower than they allow."""
    faults = []
    for row in rows:
        values = row["values"]
        if not values:
            continue
        who, n = f"{chapter}: claim {row['id']}", len(values)
        if row["runs"]:
            counts = set.union(*(seed_counts(provenance.read_run(name)) for name in row["runs"]))
            if n not in counts:
                faults.append(
                    f"{who} is the mean of {n} values, and the arms of {', '.join(row['runs'])} have {sorted(counts)} "
                    "seeds. Record every seed, once."
                )
        if row["seeds"] not in (None, n):
            faults.append(f"{who} says {row['seeds']} seeds and gives {n} values.")
        if row["id"] in OTHER_STATISTICS or n < 2:
            continue
        mean = statistics.mean(values)
        if abs(mean - row["measured"]) > 1e-6 * max(1.0, abs(mean)):
            faults.append(
                f"{who} gives {claims.number(row['measured'])} for values whose mean is {claims.number(mean)}."
            )
        half = claims.half_width({"seeds": n, "std": statistics.stdev(values)}) or 0.0
        if row["interval"] and row["interval"][1] - row["interval"][0] < 2 * 0.85 * half:
            faults.append(
                f"{who} has the interval {claims.range_text(row['interval'])}; its {n} values allow no narrower one than ± "
                f"{claims.number(half)} (Student). Call claims.record_seeds without an interval."
            )
    return faults


# Pinned numbers -------------------------------------------------------------------------------------------------------


def _pinned(row: dict[str, Any]) -> dict[str, Any]:
    digests = {name: provenance.digest(provenance.read_run(name)) for name in row["runs"]}
    return {"runs": digests, "measured": row["measured"], "interval": row["interval"]}


def _moved(now: dict[str, Any], pin: dict[str, Any]) -> bool:
    """Return whether a number, or an end of its interval, is no longer where it was."""
    allowed = max(MOVED * (claims.half_width(pin) or 0.0), 1e-6 * max(1.0, abs(pin["measured"])))
    ends = zip(now["interval"] or (), pin["interval"] or (), strict=False)
    return any(abs(a - b) > allowed for a, b in [(now["measured"], pin["measured"]), *ends])


def read_pins() -> dict[str, Any]:
    """Return what is pinned, by claim."""
    pins: dict[str, Any] = json.loads(PINS.read_text(encoding="utf8")) if PINS.is_file() else {}
    return pins


def check_pins(chapter: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return a message for each claim whose number changed although its recorded runs did not, or that has no pin."""
    faults, pins = [], read_pins()
    for row in rows:
        if not row["runs"] or row["kind"] == "timing":
            continue
        now, pin = _pinned(row), pins.get(row["id"])
        if pin is None or pin["runs"] != now["runs"]:
            faults.append(f"{chapter}: claim {row['id']} is not pinned to its runs yet: python tools/evidence.py")
        elif _moved(now, pin):
            faults.append(
                f"{chapter}: claim {row['id']} was {claims.number(pin['measured'])} by the same recorded runs and is "
                f"{claims.number(row['measured'])} now, so it is counted in another way. If that is right, say why: python "
                'tools/evidence.py --recount "why"'
            )
    return faults


def repinned(root: Path = chapters.ROOT) -> list[str]:
    """Return a message for each pin of the history that was taken out, or moved while its runs stayed, without a why."""
    stored = [text for _, _, text in registration.versions(root, "tools/pins.json")]
    states = [json.loads(text) for text in stored if text] + [read_pins()]
    faults = []
    for before, after in itertools.pairwise(states):
        for id, old in before.items():
            new = after.get(id)
            told = new is not None and len(new.get("recounted", [])) > len(old.get("recounted", []))
            if new is None or (new["runs"] == old["runs"] and _moved(new, old) and not told):
                faults.append(f"tools/pins.json: the pin of claim {id} was changed by hand; give --recount WHY instead")
    return faults


def pin(rows: list[dict[str, Any]], why: str = "") -> int:
    """Pin all numbers of recorded runs; return how many were counted in another way and stay as they were for want of a why."""
    pins, left = read_pins(), 0
    for row in rows:
        if not row["runs"] or row["kind"] == "timing":
            continue
        now, before = _pinned(row), pins.get(row["id"])
        if before and before["runs"] == now["runs"]:
            if not _moved(now, before):
                continue
            if not why:
                left += 1
                continue
            entry = {"date": datetime.date.today().isoformat(), "was": before["measured"], "why": why}
            now["recounted"] = [*before.get("recounted", []), entry]
        pins[row["id"]] = now
    chapters.write_json(PINS, dict(sorted(pins.items())))
    return left


def main() -> int:
    """Pin the numbers of build/claims.json."""
    parser = argparse.ArgumentParser(description="Pin the numbers that recorded runs give.")
    parser.add_argument("--recount", default="", metavar="WHY", help="why numbers are counted in another way now")
    parser.add_argument("--claims", type=Path, default=chapters.ROOT / "build" / "claims.json")
    arguments = parser.parse_args()
    rows = json.loads(arguments.claims.read_text(encoding="utf8"))["claims"]
    left = pin(rows, arguments.recount)
    if left:
        print(f"{left} numbers are counted in another way now; they stay as they were: give --recount WHY")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
