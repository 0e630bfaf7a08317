"""Run all races against peers and the machine's own ceilings: a table, and build/benchmarks.json.

Both sides run in one process, interleaved, on the same data and one thread; a busy machine is refused.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpe
import torch
import translation

from nextword import runtime

ROOT = Path(__file__).resolve().parents[1]


def median_seconds(run: Callable[[], object], rounds: int = 20) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """Measure what this machine can do at all: matrix products in GFLOP/s, copying in GB/s, one thread."""
    n = 1024
    a, b, big = torch.randn(n, n), torch.randn(n, n), torch.randn(32 * 2**20)
    target = torch.empty_like(big)
    return {
        "gemm_float32_gflops": round(2 * n**3 / median_seconds(lambda: a @ b) / 1e9, 1),
        "copy_gb_per_s": round(2 * big.numel() * 4 / median_seconds(lambda: target.copy_(big)) / 1e9, 1),
    }


def main() -> None:
    """Race, print, write."""
    torch.set_num_threads(1)
    if runtime.busy():
        sys.exit("The machine is busy, so speeds would mean little. Wait until its load is below the number of cores.")
    machine: dict[str, Any] = {**runtime.describe(), "cores": os.cpu_count(), "processor": platform.machine()}
    rows = bpe.races() + translation.races()
    report = {"date": datetime.date.today().isoformat(), "machine": machine, "ceilings": ceilings(), "races": rows}
    path = ROOT / "build" / "benchmarks.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf8")
    print(bpe.table(rows))
    print("ceilings:", report["ceilings"])
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
