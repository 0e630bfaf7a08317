"""The claims ledger: every claim the book tests, its criterion, and the verdict on each measurement.

``claims.toml`` lists the claims. A chapter measures and calls ``record``; the criterion written in the list decides the
verdict, never the chapter, and ``tools/collect.py`` judges once more from the numbers alone. ``calibration.json`` holds
what runs of a chapter with other seeds, precisions and thread counts gave: the band in which a healthy live run lies.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from nextword import runtime
from nextword.book import runs

MIME = "application/vnd.nextword.claim+json"
"""The output type under which a verdict travels inside an executed notebook."""

KINDS = ("measurement", "timing", "exact", "report")
TESTS = ("replication", "bet")
"""``replication``: the paper's own printed number or statement, with a criterion that the paper itself passes. ``bet``: a
question, a threshold or a setting of this book."""
VERDICTS = ("holds", "fails", "unresolved", "not judged", "reported")
CONTRADICTED, STALE = "contradicted", "stale"
"""What the build says instead of a verdict: a live point disagrees with the recorded one that it repeats; a recorded run
was made by other code than today's."""
BY_MACHINE = "by machine"
"""What ``expected`` says of a speed that meets its bar on one processor and misses it on another, with the reason."""
UNCALIBRATED = "not calibrated"
"""What ``expected`` says of a claim that was measured, but not yet with other seeds: any verdict will do."""
_POINT_OPS: dict[str, Callable[[float, Any], bool]] = {
    ">": lambda x, t: x > t,
    ">=": lambda x, t: x >= t,
    "<": lambda x, t: x < t,
    "<=": lambda x, t: x <= t,
    "within": lambda x, t: t[0] <= x <= t[1],
}
_SIGNS = {">=": "≥", "<=": "≤"}
FROZEN = ("chapter", "quantity", "op", "threshold", "predicted", "kind", "test", "paper_value")
"""What no later edit of a claim may change without an entry under ``amended``."""
_INTERVAL_OPS = ("ci_low>", "ci_high<", "equivalent")
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Amendment:
    """A change of a claim after it was registered: what it said before, why it was changed, how it was judged before."""

    date: str
    was: dict[str, Any]
    why: str
    verdict: str = "not judged yet"

    def __post_init__(self) -> None:
        """Refuse a change of something that is not frozen, and a change without a reason."""
        odd = sorted(set(self.was) - set(FROZEN))
        if odd or not self.was:
            raise ValueError(f"amended: was={self.was} names {odd or 'nothing'}; what is frozen: {', '.join(FROZEN)}")
        if not self.why:
            raise ValueError("amended: why is empty; say why the claim was changed")


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
    test: str = ""
    op: str = ""
    threshold: float | tuple[float, float] | None = None
    paper_value: float | None = None
    unit: str = ""
    runs: tuple[str, ...] = ()  # the recorded runs that decide it; none: it is measured live in every build
    bounds: tuple[float, float] = (-math.inf, math.inf)  # what the quantity can be
    half_width: float | None = None  # of the 95 % interval that the criterion needs
    expected: str = ""
    reason: str = ""
    since: str = ""
    presets: tuple[str, ...] = ("cpu",)  # where it is judged; a larger GPU run is another experiment
    amended: tuple[Amendment, ...] = ()
    seen: bool = False  # its data had been seen when it was registered, although no file of the history holds them
    withdrawn: str = ""  # why it is judged no longer; it stays on the Claims page

    def __post_init__(self) -> None:
        """Refuse a claim that cannot be judged, naming the field."""
        if not self.citation:
            raise ValueError(f"claim {self.id}: paper={self.paper!r} has no short citation under [papers]")
        if self.kind not in KINDS:
            raise ValueError(f"claim {self.id}: kind={self.kind!r} is none of {', '.join(KINDS)}")
        if (self.kind in ("measurement", "timing")) != (self.test in TESTS):
            raise ValueError(
                f"claim {self.id}: test={self.test!r}; a measurement or timing is one of {', '.join(TESTS)}, others have none"
            )
        if self.half_width is not None and self.op not in _INTERVAL_OPS:
            raise ValueError(f"claim {self.id}: half_width={self.half_width} is for criteria on an interval")
        if self.predicted not in ("holds", "fails", "unsure"):
            raise ValueError(f"claim {self.id}: predicted={self.predicted!r} is none of holds, fails, unsure")
        if self.expected not in ("", BY_MACHINE, UNCALIBRATED, *VERDICTS):
            choices = ", ".join((*VERDICTS, BY_MACHINE, UNCALIBRATED))
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
    def badge(self) -> str:
        """What kind of claim readers are told it is: ``replication``, ``our bet``, ``exact`` or ``report``."""
        return {"replication": "replication", "bet": "our bet"}.get(self.test, self.kind)

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
class Repeat:
    """A point of a recorded run that a chapter has just measured again, with the same seed and settings."""

    quantity: str  # a key of [tolerances] in claims.toml
    live: float
    recorded: float
    tolerance: float
    precision: str  # of the recorded point, and its processor: see arithmetic()
    here: str  # those of the live one

    @property
    def agrees(self) -> bool | None:
        """Whether the two lie no further apart than the tolerance that was registered for the quantity.

        None where they were made in different precisions or on different kinds of processors, which round differently:
        training carries the last digit into the first ones, so that these are two experiments. In bfloat16 one processor's
        perplexity after 300 steps lies a percent from another's. The two are shown beside each other and not compared.
        """
        return abs(self.live - self.recorded) <= self.tolerance if self.precision == self.here else None


@dataclass(frozen=True)
class Verdict:
    """What ``record`` returns: the verdict on one measurement, with all that it was judged by."""

    claim: Claim
    measured: float
    verdict: str
    std: float | None = None
    interval: tuple[float, float] | None = None
    seeds: int | None = None
    values: tuple[float, ...] | None = None
    note: str = ""
    band: tuple[float, float] | None = None
    spread: dict[str, float] | None = None
    repeat: Repeat | None = None
    preset: str = "cpu"
    busy: bool = False

    @property
    def in_band(self) -> bool:
        """Whether the measurement lies in the band of the calibration (true where there is none)."""
        return self.band is None or self.band[0] <= self.measured <= self.band[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the row of ``build/claims.json``."""
        row = asdict(self.claim)
        row.update({k: v for k, v in asdict(self).items() if k != "claim"})
        row["bounds"] = [x if math.isfinite(x) else None for x in self.claim.bounds]
        row |= {"criterion": self.claim.criterion, "badge": self.claim.badge}
        row["leaning"] = leaning(self.claim, self.verdict, self.values)
        if self.repeat is not None:
            row["repeat"]["agrees"] = self.repeat.agrees
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
        for name in ("threshold", "presets", "runs", "bounds"):
            if isinstance(row.get(name), list):
                row[name] = tuple(row[name])
        try:
            row["amended"] = tuple(Amendment(**entry) for entry in row.get("amended", []))
            claims[row["id"]] = Claim(**row)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"claim {row.get('id', '(without id)')} in {path.name}: {error}") from error
    return claims


@functools.cache
def tolerances() -> dict[str, float]:
    """Return how far a live point may lie from the recorded one that it repeats, by ``run.quantity``."""
    with open(_PACKAGE / "claims.toml", "rb") as file:
        found: dict[str, float] = tomllib.load(file).get("tolerances", {})
    return found


def repeat(quantity: str, live: float, recorded: Sequence[float]) -> Repeat | None:
    """Compare a live point with the recorded one of the same seed and settings.

    Args:
        quantity: ``run.quantity``, a key of ``[tolerances]`` in ``claims.toml``.
        live: what was just measured.
        recorded: the recorded value; empty where no recorded point has these settings, as under another preset.

    Returns:
        The comparison, for ``record``; None where there is nothing to compare.

    Raises:
        ValueError: no tolerance was registered for ``quantity``, or there are several recorded values.
    """
    if quantity not in tolerances():
        raise ValueError(f"quantity={quantity!r} has no registered tolerance; add it to [tolerances] in claims.toml")
    if len(recorded) > 1:
        raise ValueError(f"recorded has {len(recorded)} values; the live point repeats one, of the same seed")
    if not recorded or runtime.preset() == "smoke":
        return None
    pair = _finite("live", live), _finite("recorded", recorded[0])
    return Repeat(
        quantity, *pair, tolerances()[quantity], recorded_arithmetic(quantity), arithmetic(runtime.describe())
    )


def arithmetic(described: Mapping[str, str]) -> str:
    """Return precision and processor of what :func:`nextword.runtime.describe` described: they decide the last digits."""
    return f"{described['precision']} on {described['processor']}"


def recorded_arithmetic(quantity: str) -> str:
    """Return the precision and the processor with which a quantity's run was recorded."""
    run = runs.load_run(quantity.partition(".")[0])
    # The earliest files say no more than x86_64. All of their runs were repeated on this processor, to the last digit.
    known = {"x86_64": "AMD EPYC cpu family 25 model 17"}
    return arithmetic({**run["versions"], "processor": known.get(run["processor"], run["processor"])})


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
    values: Sequence[float] | None = None,
    note: str = "",
    live: Repeat | None = None,
) -> Verdict:
    """Judge a measurement by the criterion of its claim, show it, and leave the record in the notebook's output.

    Args:
        id: the claim's id in ``claims.toml``.
        measured: the number just measured, in the claim's unit.
        std: its standard deviation over ``seeds`` runs, where there were several.
        interval: its 95 % interval, which the criteria ``ci_low>``, ``ci_high<`` and ``equivalent`` need.
        seeds: how many seeds ``measured`` is the mean of.
        values: one value a seed, where ``measured`` was made of several runs.
        note: one sentence: why the number differs from the paper's.
        live: where ``measured`` comes from a recorded run: one of its points repeated just now, see :func:`repeat`. One
            that does not agree makes the verdict *contradicted*, whatever was expected.

    Returns:
        The verdict. Under the ``smoke`` preset nothing is judged.

    Raises:
        ValueError: unknown or withdrawn id, a number that is not finite, a criterion that lacks its interval, or a
            measurement without any spread.
    """
    claim = get(id)
    if claim.withdrawn:
        raise ValueError(f"claim {id} is withdrawn ({claim.withdrawn}); it is recorded no longer")
    measured = _finite("measured", measured)
    kept = None if values is None else tuple(_finite("values", value) for value in values)
    if claim.op in _INTERVAL_OPS and interval is None:
        raise ValueError(f"claim {id}: its criterion is {claim.criterion!r}, so record needs interval=(low, high)")
    if interval is not None:
        interval = (_finite("interval[0]", interval[0]), _finite("interval[1]", interval[1]))
        if not interval[0] <= measured <= interval[1]:
            raise ValueError(f"interval={interval} does not hold measured={measured}; it is (low, high) around it")
    std = None if std is None else _finite("std", std)
    seeds = (len(kept) if kept else None) if seeds is None else int(seeds)
    if runtime.preset() in claim.presets:
        _check_spread(claim, std, interval, kept)
    busy = claim.kind == "timing" and runtime.busy()
    made: dict[str, Any] = {
        "std": std,
        "interval": interval,
        "seeds": seeds,
        "values": kept,
        "note": note,
        "repeat": live,
    }
    made |= {"band": band(id), "spread": spread(id), "preset": runtime.preset(), "busy": busy}
    verdict = judge(claim, measured, interval=interval, repeat=live, preset=runtime.preset(), busy=busy)
    result = Verdict(claim, measured, verdict, **made)
    _show(result)
    return result


def _check_spread(
    claim: Claim, std: float | None, interval: tuple[float, float] | None, values: tuple[float, ...] | None
) -> None:
    """Refuse a measurement that says nothing of how far another run would come out."""
    if claim.kind != "measurement" or spread(claim.id):
        return
    if (values and len(values) > 1) or std or (interval and interval[0] < interval[1]):
        return
    raise ValueError(
        f"claim {claim.id}: a measurement needs a spread. Give values=, one a seed, or interval=, from resampling the test "
        "items. One number, or the same number read several times, tells nobody how far it could have come out otherwise"
    )


def record_seeds(id: str, values: Sequence[float], **rest: Any) -> Verdict:
    """Judge the mean of several runs, one value a seed; otherwise as :func:`record`.

    The interval is that of Student's t for the mean, unless one is given.

    Raises:
        ValueError: fewer than two values, which have no spread.
    """
    kept = [_finite("values", value) for value in values]
    if len(kept) < 2:
        raise ValueError(f"values has {len(kept)} runs; their spread needs 2 or more")
    mean, std = statistics.mean(kept), statistics.stdev(kept)
    half = float(stdtrit(len(kept) - 1, 0.975)) * std / math.sqrt(len(kept))
    rest = {"interval": (mean - half, mean + half), **rest}
    return record(id, mean, std=std, values=kept, **rest)


def _finite(name: str, value: float) -> float:
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{name}={value} is not a finite number")
    return value


def judge(
    claim: Claim,
    measured: float,
    *,
    interval: tuple[float, float] | None = None,
    repeat: Repeat | None = None,
    preset: str = "cpu",
    busy: bool = False,
) -> str:
    """Return the verdict on a measurement; the chapter and ``tools/collect.py`` both come here."""
    if repeat is not None and repeat.agrees is False:
        return CONTRADICTED
    if claim.kind == "report":
        return "reported"
    if preset not in claim.presets or (claim.kind == "timing" and busy):
        return "not judged"
    if claim.op in _INTERVAL_OPS and interval is not None:
        return judge_interval(claim.op, interval, claim.threshold)
    return "holds" if _POINT_OPS[claim.op](measured, claim.threshold) else "fails"


def leaning(claim: Claim, verdict: str, values: Sequence[float] | None) -> str:
    """Return "against the bet" where a claim is unresolved and yet every seed came out on the other side of the bet."""
    if verdict != "unresolved" or not values or claim.predicted == "unsure" or isinstance(claim.threshold, tuple):
        return ""
    above = claim.op == "ci_low>"
    beyond = [(value > (claim.threshold or 0.0)) == above for value in values]
    lost = not any(beyond) if claim.predicted == "holds" else all(beyond)
    return "against the bet" if lost else ""


def bet(row: dict[str, Any]) -> str:
    """Return what became of the bet on a row of ``build/claims.json``: won, lost, unresolved, or none where we were unsure.

    Example:
        >>> bet({"predicted": "fails", "verdict": "fails"}), bet({"predicted": "holds", "verdict": "unresolved"})
        ('won', 'unresolved')
    """
    if row["predicted"] == "unsure" or row["verdict"] in ("reported", "not judged"):
        return "none"
    if row["verdict"] not in ("holds", "fails"):
        return "unresolved"
    return "won" if row["verdict"] == row["predicted"] else "lost"


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


def spread(id: str) -> dict[str, float] | None:
    """Return mean, standard deviation and count of the live runs of a claim's calibration, or None.

    Only a number that every run measures anew has one: a recorded run, read six times, gives the same six numbers.
    """
    row = calibration().get("cpu", {}).get(id)
    if row is None or get(id).runs or row["n"] < 5 or not row["sd"] > 1e-9 * abs(row["mean"]):
        return None
    return {"mean": row["mean"], "sd": row["sd"], "n": row["n"]}


def band(id: str) -> tuple[float, float] | None:
    """Return the band in which a healthy live run of a claim lies, or None.

    It is mean ± 4 standard deviations of the calibration, cut to what the quantity can be and, where the claim is
    expected to hold or to fail on a point criterion, to that side of the criterion: a run beyond either is not healthy.
    Exact claims, speeds and recorded runs have none.
    """
    row, claim = calibration().get(runtime.preset(), {}).get(id), get(id)
    if row is None or claim.kind in ("exact", "timing") or claim.runs or not row["sd"] > 1e-9 * abs(row["mean"]):
        return None
    low, high = row["mean"] - 4 * row["sd"], row["mean"] + 4 * row["sd"]
    low, high = max(low, claim.bounds[0]), min(high, claim.bounds[1])
    if claim.op in _POINT_OPS and claim.op != "within":
        limit = float(claim.threshold)  # type: ignore[arg-type]  # a point criterion has one number
        above = (claim.op in (">", ">=")) == (claim.expected == "holds")
        if claim.expected in ("holds", "fails") and low < limit < high:
            low, high = (limit, high) if above else (low, limit)
    return low, high


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


def half_width(row: dict[str, Any]) -> float | None:
    """Return half the 95 % interval of a row of ``build/claims.json``: of the mean over seeds, else of a single live run.

    A given interval counts first, then the spread over the row's own seeds, then that of the calibration's live runs.
    """
    if row.get("interval"):
        return float(row["interval"][1] - row["interval"][0]) / 2 or None
    if row.get("std") and (row.get("seeds") or 0) > 1:
        return float(stdtrit(row["seeds"] - 1, 0.975)) * float(row["std"]) / math.sqrt(row["seeds"])
    if row.get("spread"):
        n = row["spread"]["n"]
        return float(stdtrit(n - 1, 0.975)) * float(row["spread"]["sd"]) * math.sqrt(1 + 1 / n)
    return None


def measured_text(row: dict[str, Any], *, plus_minus: bool = True, size: bool = False) -> str:
    """Return the measured number as readers see it: as many digits as its 95 % interval allows, and ± where there is one.

    Args:
        row: a row of ``build/claims.json``.
        plus_minus: whether to add " ± " and half the 95 % interval.
        size: whether to leave out the sign, for sentences that say "loses" or "lower by" themselves.

    Example:
        >>> row = {"measured": 7.781, "std": 2.4, "seeds": 5, "kind": "measurement", "unit": "points"}
        >>> measured_text(row), measured_text(row | {"std": None}), measured_text(row | {"measured": -0.1234, "std": None})
        ('8 ± 3', '7.8', '−0.123')
    """
    value = abs(row["measured"]) if size else row["measured"]
    if value == 0 or (row["kind"] == "exact" and value == round(value)):
        return number(value).replace("-", "−")  # a count is given whole
    half = half_width(row)
    if half is None or half < 5e-4 * abs(value):
        return two_digits(value, row["unit"])
    place = math.floor(math.log10(half))
    place -= f"{half:.1e}"[0] in "12"  # ± 12 and ± 26 rather than ± 10 and ± 30
    text = f"{round(value, -place) + 0.0:,.{max(0, -place)}f}"  # + 0.0: no minus before a zero
    around = f" ± {round(half, -place):,.{max(0, -place)}f}" if plus_minus else ""
    return (text + around).replace("-", "−")


def two_digits(value: float, unit: str = "") -> str:
    """Return a number with two significant digits, three where it begins with 1; counts below 1,000 as they are.

    A percentage near a hundred keeps the digits of what is missing.

    Example:
        >>> two_digits(119.876), two_digits(0.000456), two_digits(99.87, "percent"), two_digits(376.2), two_digits(1.2345)
        ('120', '0.00046', '99.9', '380', '1.23')
    """
    if value == 0 or not math.isfinite(value):
        return number(value)
    if unit == "percent" and 90 < value < 100:
        return f"{value:.1f}".removesuffix(".0") if value < 99.95 else f"{value:.3g}"
    if value == round(value) and abs(value) < 1000:
        return f"{value:.0f}".replace("-", "−")
    digits = 3 if f"{abs(value):.1e}"[0] == "1" else 2
    place = math.floor(math.log10(abs(value))) - digits + 1
    text = f"{round(value, -place):,.{max(0, -place)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return (text if 1e-6 < abs(value) < 1e12 else f"{value:.1e}").replace("-", "−")


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
    CONTRADICTED: "#D55E00",
    STALE: "#D55E00",
    "unresolved": "#888888",
    "not judged": "#888888",
    "reported": "#009E73",
}


def facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what there is to say of a row of ``build/claims.json``, as pairs of a word and a text."""
    unit = f" {row['unit']}" if row["unit"] else ""
    cells = [("here", measured_text(row) + unit), ("criterion", row["criterion"]), ("our bet", row["predicted"])]
    if row["paper_value"] is not None:
        cells.insert(0, ("paper", number(row["paper_value"]) + unit))
    if row["leaning"]:
        cells.append(("every seed", row["leaning"]))
    if row["interval"]:
        cells.append(("95 % interval", range_text(row["interval"])))
    if row["values"]:
        cells.append(("seeds", ", ".join(number(value) for value in row["values"])))
    if row["band"]:
        cells.append(("live runs with other seeds", range_text(row["band"])))
    if row["repeat"]:
        same = row["repeat"]
        text = f"{number(same['live'])} just now, {number(same['recorded'])} recorded, "
        text += f"tolerance {number(same['tolerance'])}"
        if same["agrees"] is None:
            text += f"; not compared, since one was made in {same['here']} and the other in {same['precision']}"
        cells.append((f"the same seed again ({same['quantity']})", text))
    return cells


def card(row: dict[str, Any]) -> str:
    """Return a row of ``build/claims.json`` as one line of HTML that opens on a click: verdict, claim, paper, ours."""
    esc, verdict = html.escape, row["verdict"]
    listed = "".join(f"<dt>{esc(name)}</dt><dd>{esc(text)}</dd>" for name, text in facts(row))
    note = f"<p>{esc(row['note'])}</p>" if row["note"] else ""
    ours = f"{measured_text(row)} {row['unit']}".strip()
    paper = f"paper {number(row['paper_value'])}, " if row["paper_value"] is not None else ""
    return (
        f'<details class="nw-claim nw-claim-{verdict.replace(" ", "")}" id="claim-{esc(row["id"])}" '
        f'style="border-left:4px solid {_COLOURS[verdict]};padding:.1em .7em;margin:.3em 0">'
        f'<summary><span class="nw-verdict" style="color:{_COLOURS[verdict]};font-weight:700">{esc(verdict)}</span> '
        f"{esc(row['statement'])} <small>{esc(row['badge'])}: {paper}here {esc(ours)}</small></summary>"
        f"<p><small>{esc(row['citation'])}, {esc(row['where'])}: {esc(row['quantity'])}</small></p>"
        f'<dl class="nw-facts">{listed}</dl>{note}</details>'
    )
