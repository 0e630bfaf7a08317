"""What all races share: the clock, the rows of the table, and the ceilings of the machine."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from nextword import runtime

Row = dict[str, Any]


def begin() -> None:
    """Take one thread, and refuse a busy machine."""
    torch.set_num_threads(1)
    if runtime.busy():
        sys.exit("The machine is busy, so speeds would mean little. Wait until its load is below the number of cores.")


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


def interleave(runners: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each runner; in every round each one runs once."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in runtime.progress(range(rounds), total=rounds, desc=" / ".join(runners), unit="round"):
        for name, run in runners.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each, after one round of warming up."""
    interleave(runs, 1)
    return interleave(runs, rounds)


def rows(
    name: str, unit: str, amount: float, seconds: dict[str, float], bars: dict[str, float] | None = None
) -> list[Row]:
    """Return one row for each peer; values are amounts a second, so a ratio above 1 says that we are faster.

    ``bars`` says which ratio is wanted against which peer.
    """
    speed = {side: amount / s for side, s in seconds.items()}
    mine = speed.pop("ours")
    facts = {"name": name, "ours": round(mine, 2), "unit": unit}
    return [
        {**facts, "peer": side, "peer_value": round(s, 2), "ratio": round(mine / s, 3), "bar": (bars or {}).get(side)}
        for side, s in speed.items()
    ]


def table(rows: list[Row]) -> str:
    lines = [f"{'race':<46}{'ours':>8}  {'peer':<12}{'its':>8}  {'unit':<8}{'ratio':>6}{'bar':>6}"]
    for r in rows:
        bar = "-" if r["bar"] is None else f"{r['bar']:.2f}"
        lines.append(
            f"{r['name']:<46}{r['ours']:>8.2f}  {r['peer']:<12}{r['peer_value']:>8.2f}  "
            f"{r['unit']:<8}{r['ratio']:>6.2f}{bar:>6}"
        )
    return "\n".join(lines)
