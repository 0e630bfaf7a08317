"""The claims ledger: every claim the book tests, its criterion, and the verdict on each measurement.

``claims.toml`` lists the claims. A chapter measures and calls ``record``; the criterion written in the list decides the
verdict, never the chapter. ``calibration.json`` holds what earlier runs with other seeds, precisions and thread counts
gave: the band in which a healthy run lies.
"""

from __future__ import annotations

import difflib
import functools
import html
import json
import math
import statistics
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from nextword import runtime

MIME = "application/vnd.nextword.claim+json"
"""The output type under which a verdict travels inside an executed notebook."""

KINDS = ("measurement", "timing", "exact", "report")
VERDICTS = ("holds", "fails", "unresolved", "not judged", "reported")
BY_MACHINE = "by machine"
"""What ``expected`` says of a speed that meets its bar on one processor and misses it on another, with the reason."""
_POINT_OPS: dict[str, Callable[[float, Any], bool]] = {
    ">": lambda x, t: x > t,
    ">=": lambda x, t: x >= t,
    "<": lambda x, t: x < t,
    "<=": lambda x, t: x <= t,
    "within": lambda x, t: t[0] <= x <= t[1],
}
_SIGNS = {">=": "≥", "<=": "≤"}
_INTERVAL_OPS = ("ci_low>", "ci_high<", "equivalent")
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Claim:
    """One claim of the ledger: what a paper says, how it is judged, and what we bet before the run."""

    id: str
    chapter: str
    paper: str
    citation: str
    where: str
    statement: str
    kind: str
    quantity: str
    predicted: str
    op: str = ""
    threshold: float | tuple[float, float] | None = None
    paper_value: float | None = None
    unit: str = ""
    expected: str = ""
    reason: str = ""
    since: str = ""
    presets: tuple[str, ...] = ("cpu",)  # where it is judged; a larger GPU run is another experiment

    def __post_init__(self) -> None:
        """Refuse a claim that cannot be judged, naming the field."""
        if not self.citation:
            raise ValueError(f"claim {self.id}: paper={self.paper!r} has no short citation under [papers]")
        if self.kind not in KINDS:
            raise ValueError(f"claim {self.id}: kind={self.kind!r} is none of {', '.join(KINDS)}")
        if self.predicted not in ("holds", "fails", "unsure"):
            raise ValueError(f"claim {self.id}: predicted={self.predicted!r} is none of holds, fails, unsure")
        if self.expected not in ("", BY_MACHINE, *VERDICTS):
            choices = ", ".join((*VERDICTS, BY_MACHINE))
            raise ValueError(f"claim {self.id}: expected={self.expected!r} is none of {choices}")
        if self.expected == BY_MACHINE and not (self.kind == "timing" and self.reason):
            raise ValueError(f"claim {self.id}: expected={self.expected!r} is for speeds, with the reason beside it")
        if (self.kind == "report") != (self.op == "") or (self.op == "") != (self.threshold is None):
            raise ValueError(f"claim {self.id}: a report has no op and no threshold, every other kind has both")
        if self.op and self.op not in (*_POINT_OPS, *_INTERVAL_OPS):
            raise ValueError(f"claim {self.id}: op={self.op!r} is none of {', '.join((*_POINT_OPS, *_INTERVAL_OPS))}")
        if self.op and not _fits(self.op, self.threshold):
            raise ValueError(f"claim {self.id}: op={self.op!r} does not fit threshold={self.threshold!r}")

    @property
    def criterion(self) -> str:
        """The criterion as one short phrase."""
        if self.threshold is None:
            return "no pass or fail"
        if isinstance(self.threshold, tuple):
            inside = range_text(self.threshold)
            return f"the 95 % interval lies inside {inside}" if self.op == "equivalent" else f"within {inside}"
        if self.op in _INTERVAL_OPS:
            return f"the whole 95 % interval {self.op[-1]} {number(self.threshold)}"
        return f"{_SIGNS.get(self.op, self.op)} {number(self.threshold)}"


def _fits(op: str, threshold: Any) -> bool:
    """Return whether a threshold is what ``op`` compares with: one number, or two that ascend."""
    if op in ("within", "equivalent"):
        return isinstance(threshold, tuple) and len(threshold) == 2 and threshold[0] < threshold[1]
    return isinstance(threshold, (int, float)) and math.isfinite(threshold)


@dataclass(frozen=True)
class Verdict:
    """What ``record`` returns: the verdict on one measurement, with all that it was judged by."""

    claim: Claim
    measured: float
    verdict: str
    std: float | None = None
    interval: tuple[float, float] | None = None
    seeds: int | None = None
    note: str = ""
    band: tuple[float, float] | None = None

    @property
    def in_band(self) -> bool:
        """Whether the measurement lies in the band of the calibration (true where there is none)."""
        return self.band is None or self.band[0] <= self.measured <= self.band[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the row of ``build/claims.json``."""
        row = asdict(self.claim)
        row.update({k: v for k, v in asdict(self).items() if k != "claim"}, criterion=self.claim.criterion)
        return row

    def _ipython_display_(self) -> None:
        """Show nothing: ``record`` has already shown the card."""


@functools.cache
def ledger() -> dict[str, Claim]:
    """Return all claims of the book by id, in the order of ``claims.toml``."""
    return read_ledger(_PACKAGE / "claims.toml")


def read_ledger(path: Path) -> dict[str, Claim]:
    """Read a list of claims; every fault is an error that names the claim and the field."""
    with open(path, "rb") as file:
        content = tomllib.load(file)
    claims: dict[str, Claim] = {}
    for row in content.get("claim", []):
        row["citation"] = content.get("papers", {}).get(row.get("paper"), "")
        if row.get("id") in claims:
            raise ValueError(f"claim {row['id']} stands twice in {path.name}")
        for name in ("threshold", "presets"):
            if isinstance(row.get(name), list):
                row[name] = tuple(row[name])
        try:
            claims[row["id"]] = Claim(**row)
        except (TypeError, KeyError) as error:
            raise ValueError(f"claim {row.get('id', '(without id)')} in {path.name}: {error}") from error
    return claims


def get(id: str) -> Claim:
    """Return the claim called ``id``; an unknown id is an error that names the nearest."""
    if id not in ledger():
        near = difflib.get_close_matches(id, ledger(), n=1)
        raise ValueError(f"id={id!r} is no claim of claims.toml" + (f"; did you mean {near[0]!r}?" if near else ""))
    return ledger()[id]


def record(
    id: str,
    measured: float,
    *,
    std: float | None = None,
    interval: tuple[float, float] | None = None,
    seeds: int | None = None,
    note: str = "",
    recorded: tuple[float, float, float] | None = None,
) -> Verdict:
    """Judge a measurement by the criterion of its claim, show the card, and leave the record in the notebook's output.

    Args:
        id: the claim's id in ``claims.toml``.
        measured: the number just measured, in the claim's unit.
        std: its standard deviation over ``seeds`` runs, where there were several.
        interval: its 95 % interval, which the criteria ``ci_low>``, ``ci_high<`` and ``equivalent`` need.
        seeds: how many seeds ``measured`` is the mean of.
        note: one sentence: why the number differs from the paper's.
        recorded: ``(live, low, high)`` where ``measured`` comes from a recorded run: one of its points repeated live,
            and the band that the recorded run gives for it. A live point outside fails the claim.

    Returns:
        The verdict. Under the ``smoke`` preset nothing is judged.

    Raises:
        ValueError: unknown id, a number that is not finite, or a criterion that lacks its interval.
    """
    claim = get(id)
    measured = _finite("measured", measured)
    if claim.op in _INTERVAL_OPS and interval is None:
        raise ValueError(f"claim {id}: its criterion is {claim.criterion!r}, so record needs interval=(low, high)")
    if interval is not None:
        interval = (_finite("interval[0]", interval[0]), _finite("interval[1]", interval[1]))
        if not interval[0] <= measured <= interval[1]:
            raise ValueError(f"interval={interval} does not hold measured={measured}; it is (low, high) around it")
    std = None if std is None else _finite("std", std)
    seeds = None if seeds is None else int(seeds)
    verdict = _judge(claim, measured, interval)
    if recorded is not None:
        live, low, high = (_finite("recorded", x) for x in recorded)
        if low > high:
            raise ValueError(f"recorded={recorded} is (live, low, high), and low is above high")
        inside = low <= live <= high
        note += f" Repeated live: {number(live)}, {'inside' if inside else 'outside'} the recorded band {range_text((low, high))}."
        verdict = "fails" if verdict in ("holds", "unresolved") and not inside else verdict
    result = Verdict(claim, measured, verdict, std, interval, seeds, note.strip(), band(id))
    _show(result)
    return result


def record_seeds(id: str, values: Sequence[float], **rest: Any) -> Verdict:
    """Judge the mean of several runs, one value a seed; otherwise as :func:`record`.

    A criterion that needs an interval gets that of Student's t for the mean, unless one is given.

    Raises:
        ValueError: fewer than two values, which have no spread.
    """
    kept = [_finite("values", value) for value in values]
    if len(kept) < 2:
        raise ValueError(f"values has {len(kept)} runs; their spread needs 2 or more")
    mean, std = statistics.mean(kept), statistics.stdev(kept)
    if get(id).op in _INTERVAL_OPS:
        half = float(stdtrit(len(kept) - 1, 0.975)) * std / math.sqrt(len(kept))
        rest = {"interval": (mean - half, mean + half), **rest}
    return record(id, mean, std=std, seeds=len(kept), **rest)


def _finite(name: str, value: float) -> float:
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{name}={value} is not a finite number")
    return value


def _judge(claim: Claim, measured: float, interval: tuple[float, float] | None) -> str:
    if claim.kind == "report":
        return "reported"
    if runtime.preset() not in claim.presets or (claim.kind == "timing" and runtime.busy()):
        return "not judged"
    if claim.op in _INTERVAL_OPS and interval is not None:
        return judge_interval(claim.op, interval, claim.threshold)
    return "holds" if _POINT_OPS[claim.op](measured, claim.threshold) else "fails"


def judge_interval(op: str, interval: tuple[float, float], threshold: float | tuple[float, float] | None) -> str:
    """Return ``holds`` or ``fails`` when the whole interval is on one side of the threshold, else ``unresolved``.

    Example:
        >>> judge_interval("ci_low>", (0.1, 0.3), 0.0), judge_interval("ci_low>", (-0.1, 0.3), 0.0)
        ('holds', 'unresolved')
    """
    low, high = interval
    if threshold is None:
        raise ValueError(f"op={op!r} needs a threshold")
    if isinstance(threshold, tuple):
        inside, outside = threshold[0] <= low and high <= threshold[1], high < threshold[0] or low > threshold[1]
    elif op == "ci_low>":
        inside, outside = low > threshold, high <= threshold
    else:
        inside, outside = high < threshold, low >= threshold
    return "holds" if inside else "fails" if outside else "unresolved"


@functools.cache
def calibration() -> dict[str, Any]:
    """Return the calibration of the book: per preset and claim the mean, spread and single runs."""
    path = _PACKAGE / "calibration.json"
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
    return stored


def band(id: str) -> tuple[float, float] | None:
    """Return mean ± 4 standard deviations of a claim's calibration under the present preset, or None.

    Exact claims and speeds have none. The spread is never taken as less than one part in a million, since two machines
    may round differently.
    """
    row = calibration().get(runtime.preset(), {}).get(id)
    if row is None or get(id).kind in ("exact", "timing"):
        return None
    return _around(row["mean"], row["sd"])


def band_of(values: Sequence[float]) -> tuple[float, float]:
    """Return mean ± 4 standard deviations of the seeds of a recorded run: where the same run, repeated, must fall.

    Example:
        >>> low, high = band_of([99.0, 100.0, 101.0])
        >>> (low, high)
        (96.0, 104.0)
    """
    if len(values) < 3:
        raise ValueError(f"values has {len(values)} runs; a spread needs at least 3")
    row = summarise(values)
    return _around(row["mean"], row["sd"])


def _around(mean: float, sd: float) -> tuple[float, float]:
    half = max(4 * sd, 1e-6 * abs(mean))
    return mean - half, mean + half


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, sample standard deviation and count of calibration runs.

    Example:
        >>> summarise([1.0, 3.0])["mean"]
        2.0
    """
    n = len(values)
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else 0.0
    return {"mean": mean, "sd": sd, "n": n}


def supports_holds(claim: Claim, row: dict[str, Any]) -> bool:
    """Return whether a calibration allows ``expected = "holds"``.

    It takes at least 5 runs, each judged again by the present criterion: either all of them meet it, or the mean does
    with 2 standard deviations to spare. The spread is at least the one that a run itself reported over its seeds.
    """
    runs = row["runs"]
    if len(runs) < 5 or row.get("criterion") != claim.criterion:
        return False
    if claim.op in _INTERVAL_OPS:
        return all(judge_interval(claim.op, tuple(run["interval"]), claim.threshold) == "holds" for run in runs)
    test, spread = _POINT_OPS[claim.op], max([row["sd"], *(run["std"] or 0.0 for run in runs)])
    margin = all(test(row["mean"] + s * spread, claim.threshold) for s in (-2, 2))
    return margin or (spread == row["sd"] and all(test(run["measured"], claim.threshold) for run in runs))


def number(x: float | None) -> str:
    """Return a number as the book prints it: four significant digits, no more than the eye can use; counts in full.

    Example:
        >>> number(119.876), number(0.000123456), number(312), number(1.0), number(2e-13)
        ('119.9', '0.0001235', '312', '1', '2e-13')
        >>> number(116_534_784), number(3.14e23)
        ('116,534,784', '3.1e+23')
    """
    if x is None:
        return "–"
    if 9999.5 <= abs(x) < 1e12:
        return f"{x:,.0f}"
    return f"{x:.4g}" if x == 0 or 1e-4 <= abs(x) < 1e12 else f"{x:.2g}"


def spread_text(std: float | None) -> str:
    """Return " ± " and a standard deviation to two digits, or an empty string."""
    return "" if std is None else f" ± {std:.2g}"


def range_text(pair: tuple[float, float] | Sequence[float] | None) -> str:
    """Return an interval as text, one number where both ends print alike, an empty string where there is none.

    Example:
        >>> range_text((0.5, 1.25)), range_text((1.17099, 1.17101)), range_text(None)
        ('0.5 … 1.25', '1.171', '')
    """
    if not pair:
        return ""
    low, high = number(pair[0]), number(pair[1])
    return low if low == high else f"{low} … {high}"


def _show(result: Verdict) -> None:
    plain = _plain(result)
    bundle = {"text/plain": plain, "text/html": card(result.to_dict()), MIME: result.to_dict()}
    try:
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        live = get_ipython() is not None
    except ImportError:
        live = False
    if live:
        display(bundle, raw=True)  # type: ignore[no-untyped-call]  # IPython leaves display untyped
    else:
        encoding = sys.stdout.encoding or "utf-8"
        print(plain.encode(encoding, "replace").decode(encoding))  # a Windows console may lack the signs


def _plain(r: Verdict) -> str:
    return f"{r.claim.id}: {number(r.measured)}{spread_text(r.std)} ({r.claim.quantity}); {r.claim.criterion} → {r.verdict}"


_COLOURS = {
    "holds": "#0072B2",
    "fails": "#D55E00",
    "unresolved": "#888888",
    "not judged": "#888888",
    "reported": "#009E73",
}


def card(row: dict[str, Any]) -> str:
    """Return the HTML card of a row of ``build/claims.json``: the claim, the paper's number, ours, the band, the verdict."""
    esc = html.escape
    verdict, unit = row["verdict"], f" {esc(row['unit'])}" if row["unit"] else ""
    ours = number(row["measured"]) + spread_text(row["std"]) + unit
    cells = [("measured", f"<strong>{ours}</strong>"), ("criterion", esc(row["criterion"]))]
    if row["paper_value"] is not None:
        gap = row["measured"] - row["paper_value"]
        cells.insert(0, ("paper", number(row["paper_value"]) + unit))
        cells.append(("gap", f"{gap:+,.0f}" if 1e3 <= abs(gap) < 1e12 else f"{gap:+.3g}"))
    if row["interval"]:
        cells.append(("95 % interval", range_text(row["interval"])))
    if row["band"]:
        cells.append(("healthy runs", range_text(row["band"])))
    cells.append(("our bet", esc(row["predicted"])))
    facts = "".join(f'<span class="nw-fact"><small>{k}</small> {v}</span> &ensp;' for k, v in cells)
    name = verdict.replace(" ", "")
    note = f'<div class="nw-note">{esc(row["note"])}</div>' if row["note"] else ""
    return (
        f'<div class="nw-claim nw-claim-{name}" id="claim-{esc(row["id"])}" style="border-left:5px solid {_COLOURS[verdict]};'
        f'padding:.4em .9em;margin:.8em 0">'
        f'<div class="nw-statement"><span class="nw-verdict" style="color:{_COLOURS[verdict]};font-weight:700">{esc(verdict)}</span> '
        f"&ensp;{esc(row['statement'])} <small>({esc(row['citation'])}, {esc(row['where'])})</small></div>"
        f'<div class="nw-quantity"><small>{esc(row["quantity"])}</small></div><div class="nw-facts">{facts}</div>{note}</div>'
    )
