"""Run a chapter's measurements under several seeds, thread counts and precisions, and store mean and spread.

    python tools/calibrate.py 2003_next_word

The bands in which healthy runs lie, and what ``expected`` may say in claims.toml, come from here. The runs are those of
the chapter itself, executed by the same tool as the book; about five times the chapter's budget, two at a time.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import chapters
import collect
from nextword import runtime
from nextword.book import claims

SETTINGS = [
    {"NEXTWORD_SEED": "0", "NEXTWORD_THREADS": "1", "NEXTWORD_BF16": "1"},
    {"NEXTWORD_SEED": "1", "NEXTWORD_THREADS": "1"},
    {"NEXTWORD_SEED": "2", "NEXTWORD_THREADS": "1", "NEXTWORD_BF16": "0"},
    {"NEXTWORD_SEED": "3", "NEXTWORD_THREADS": "1"},
    {"NEXTWORD_SEED": "4", "NEXTWORD_THREADS": "1"},
    {"NEXTWORD_SEED": "5", "NEXTWORD_THREADS": "2"},
]
"""Six seeds. Precision and thread count change how sums round, so one run is made in bfloat16 where the processor has it
(torch cannot train an LSTM in emulated bfloat16), one without it, and one with two threads."""


def run(name: str, setting: dict[str, str]) -> list[dict[str, Any]]:
    """Execute the chapter once under a setting and return what it recorded."""
    if not runtime.bf16():
        setting = {key: value for key, value in setting.items() if key != "NEXTWORD_BF16"}
    folder = chapters.ROOT / "build" / "calibrate" / "-".join(setting.values())
    command = [sys.executable, str(Path(__file__).parent / "execute.py"), name, "--all", "--folder", str(folder)]
    done = subprocess.run(command, env={**os.environ, **setting}, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed under {setting}:\n{(done.stdout + done.stderr)[-3000:]}")
    meta = json.loads((folder / f"{name}.run.json").read_text(encoding="utf8"))
    print(
        f"  seed {meta['seed']}, {meta['threads']} thread(s), {meta['precision']}: {meta['seconds']:.0f} s", flush=True
    )
    facts = {key: meta[key] for key in ("seed", "threads", "precision", "seconds")}
    rows = collect.records(chapters.read(name, folder))
    kept = ("id", "measured", "std", "interval", "verdict")
    return [{**{key: row[key] for key in kept}, **facts} for row in rows]


def calibrate(name: str) -> dict[str, Any]:
    """Return the calibration of all claims of a chapter."""
    single = [s for s in SETTINGS if s["NEXTWORD_THREADS"] == "1"]
    with ThreadPoolExecutor(1 if chapters.is_exclusive(name) else 2) as pool:
        rows = [row for rows in pool.map(lambda s: run(name, s), single) for row in rows]
    for setting in SETTINGS:
        if setting not in single:
            rows += run(name, setting)
    made = {"date": datetime.date.today().isoformat(), "torch": torch.__version__}
    table = {}
    for id in dict.fromkeys(row["id"] for row in rows):
        runs = [{k: v for k, v in row.items() if k != "id"} for row in rows if row["id"] == id]
        criterion = claims.get(id).criterion
        table[id] = {**claims.summarise([r["measured"] for r in runs]), "criterion": criterion, **made, "runs": runs}
    return table


def main() -> None:
    """Calibrate the named chapters and write calibration.json."""
    if runtime.preset() == "smoke":
        raise SystemExit("the smoke preset is not judged, so it is not calibrated; use NEXTWORD_PRESET=cpu or gpu")
    path = chapters.LIBRARY / "book" / "calibration.json"
    for name in sys.argv[1:] or chapters.names():
        print(f"{name}: {len(SETTINGS)} runs", flush=True)
        table = calibrate(name)
        stored = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
        stored.setdefault(runtime.preset(), {}).update(table)
        path.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
        for id, row in table.items():
            verdicts = sorted({r["verdict"] for r in row["runs"]})
            says = claims.supports_holds(claims.get(id), row) if claims.get(id).op else "report"
            print(
                f"  {id}: {claims.number(row['mean'])} ± {row['sd']:.2g}; {', '.join(verdicts)}; 'holds' allowed: {says}"
            )


if __name__ == "__main__":
    main()
