"""Run all races against peers and the machine's own ceilings: a table, and build/benchmarks.json.

Both sides run in one process, interleaved, on the same data and one thread; a busy machine is refused.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import bpe
import control
import decoder
import few_shot
import sparse
import translation
from racing import begin, ceilings, table

from nextword import runtime

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Race, print, write."""
    begin()
    print("All races take about ten minutes of one core.", flush=True)
    machine: dict[str, Any] = {**runtime.describe(), "cores": os.cpu_count(), "processor": platform.machine()}
    limits = ceilings()
    rows = bpe.races() + translation.races() + decoder.races(limits["gemm_float32_gflops"])
    rows += few_shot.races() + sparse.races() + control.races()
    report = {"date": datetime.date.today().isoformat(), "machine": machine, "ceilings": limits, "races": rows}
    path = ROOT / "build" / "benchmarks.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf8")
    print(table(rows))
    print("ceilings:", limits)
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
