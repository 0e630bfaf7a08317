"""The ledger decides: criteria, verdicts, bands, cards."""

import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nextword import runtime
from nextword.book import claims

GOOD = """
[papers]
p2000 = "Author 2000"

[[claim]]
id = "x.a"
chapter = "c"
paper = "p2000"
where = "Table 1"
statement = "A is larger than one."
kind = "measurement"
test = "bet"
quantity = "A"
op = ">="
threshold = 1.0
predicted = "holds"
"""


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """Replace the book's ledger by a small one; returns a function that makes it from text."""

    def make(text=GOOD):
        path = tmp_path / "claims.toml"
        path.write_text(text)
        rows = claims.read_ledger(path)
        monkeypatch.setattr(claims, "ledger", lambda: rows)
        monkeypatch.setattr(claims, "calibration", lambda: {})
        monkeypatch.setattr(claims, "tolerances", lambda: {"x_run.a": 0.5})
        monkeypatch.setattr(claims, "recorded_arithmetic", lambda quantity: claims.arithmetic(runtime.describe()))
        return rows

    return make


def variant(**changes):
    lines = []
    for line in GOOD.strip().split("\n"):
        key = line.split(" = ")[0]
        if key in changes:
            value = changes.pop(key)
            if value is None:
                continue
            line = f"{key} = {value}"
        lines.append(line)
    return "\n".join(lines + [f"{k} = {v}" for k, v in changes.items()])


@pytest.mark.parametrize(
    "op, threshold, measured, verdict",
    [
        ('">="', "1.0", 1.0, "holds"),
        ('">"', "1.0", 1.0, "fails"),
        ('"<"', "1.0", 0.5, "holds"),
        ('"<="', "1.0", 1.1, "fails"),
        ('"within"', "[1.0, 2.0]", 2.0, "holds"),
        ('"within"', "[1.0, 2.0]", 2.1, "fails"),
    ],
)
def test_the_criterion_decides(ledger, op, threshold, measured, verdict):
    ledger(variant(op=op, threshold=threshold))
    assert claims.record("x.a", measured, std=0.1).verdict == verdict


@pytest.mark.parametrize(
    "op, threshold, interval, verdict",
    [
        ('"ci_low>"', "0.0", (0.1, 0.3), "holds"),
        ('"ci_low>"', "0.0", (-0.1, 0.3), "unresolved"),
        ('"ci_low>"', "0.0", (-0.3, -0.1), "fails"),
        ('"ci_high<"', "0.0", (-0.3, -0.1), "holds"),
        ('"ci_high<"', "0.0", (0.1, 0.2), "fails"),
        ('"equivalent"', "[-0.1, 0.1]", (-0.05, 0.05), "holds"),
        ('"equivalent"', "[-0.1, 0.1]", (-0.05, 0.2), "unresolved"),
        ('"equivalent"', "[-0.1, 0.1]", (0.2, 0.3), "fails"),
    ],
)
def test_intervals_resolve_or_do_not(ledger, op, threshold, interval, verdict):
    ledger(variant(op=op, threshold=threshold))
    assert claims.record("x.a", sum(interval) / 2, interval=interval).verdict == verdict


def test_a_criterion_on_an_interval_refuses_a_bare_number(ledger):
    ledger(variant(op='"ci_low>"'))
    with pytest.raises(ValueError, match="needs interval="):
        claims.record("x.a", 2.0)


def test_smoke_judges_nothing(ledger, monkeypatch):
    ledger()
    monkeypatch.setenv("NEXTWORD_PRESET", "smoke")
    assert claims.record("x.a", 0.0).verdict == "not judged"


def test_speeds_are_not_judged_on_a_busy_machine(ledger, monkeypatch):
    ledger(variant(kind='"timing"'))
    monkeypatch.setattr(claims.runtime, "busy", lambda: True)
    assert claims.record("x.a", 5.0).verdict == "not judged"
    monkeypatch.setattr(claims.runtime, "busy", lambda: False)
    assert claims.record("x.a", 5.0).verdict == "holds"


def test_seeds_are_judged_by_their_mean(ledger):
    ledger()
    result = claims.record_seeds("x.a", [1.0, 2.0, 6.0], note="Three.")
    assert (result.measured, result.seeds, result.note) == (3.0, 3, "Three.")
    assert result.std == pytest.approx(math.sqrt(7))
    assert result.values == (1.0, 2.0, 6.0)
    for values, message in (([1.0], "values has 1 runs"), ([1.0, math.nan], "values=nan")):
        with pytest.raises(ValueError, match=message):
            claims.record_seeds("x.a", values)


def test_seeds_make_the_interval_that_a_criterion_needs(ledger):
    ledger(variant(op='"ci_low>"', threshold="0.0"))
    values = [1.0, 2.0, 6.0]
    result = claims.record_seeds("x.a", values)
    assert result.interval == pytest.approx(tuple(stats.ttest_1samp(values, 0).confidence_interval()))
    assert result.verdict == "unresolved"
    assert claims.record_seeds("x.a", [2.0, 2.1, 2.2]).verdict == "holds"
    assert claims.record_seeds("x.a", values, interval=(0.5, 3.0)).verdict == "holds"
    assert claims.record_seeds("x.a", [2.0, 2.0]).interval == (2.0, 2.0)


def test_reports_have_no_verdict(ledger):
    ledger(variant(kind='"report"', test=None, op=None, threshold=None))
    assert claims.record("x.a", 5.0).verdict == "reported"


def test_a_live_point_that_does_not_repeat_the_recorded_one_contradicts_the_claim(ledger):
    for expected in ("holds", "fails"):
        ledger(variant(expected=f'"{expected}"'))
        assert claims.record("x.a", 2.0, std=0.1, live=claims.repeat("x_run.a", 1.4, [1.0])).verdict == "holds"
        for measured in (2.0, 0.0):
            apart = claims.record("x.a", measured, std=0.1, live=claims.repeat("x_run.a", 1.6, [1.0]))
            assert apart.verdict == "contradicted" and apart.to_dict()["repeat"]["agrees"] is False


def test_a_live_point_of_another_arithmetic_is_shown_and_not_compared(ledger, monkeypatch):
    ledger()
    monkeypatch.setattr(claims, "recorded_arithmetic", lambda quantity: "float8 on an abacus")
    apart = claims.record("x.a", 2.0, std=0.1, live=claims.repeat("x_run.a", 9.0, [1.0]))
    assert apart.verdict == "holds" and apart.to_dict()["repeat"]["agrees"] is None
    told = dict(claims.facts(apart.to_dict()))["the same seed again (x_run.a)"]
    assert told.startswith("9 just now, 1 recorded") and "not compared" in told and "float8 on an abacus" in told


def test_every_recorded_run_says_its_precision_and_its_processor():
    for quantity in claims.tolerances():
        precision, _, processor = claims.recorded_arithmetic(quantity).partition(" on ")
        assert precision in ("bfloat16 autocast", "float32") and " model " in processor


def test_a_repetition_needs_a_registered_tolerance_and_one_recorded_point(ledger, monkeypatch):
    ledger()
    assert claims.repeat("x_run.a", 1.0, []) is None
    with pytest.raises(ValueError, match="no registered tolerance"):
        claims.repeat("x_run.b", 1.0, [1.0])
    with pytest.raises(ValueError, match="2 values"):
        claims.repeat("x_run.a", 1.0, [1.0, 2.0])
    monkeypatch.setenv("NEXTWORD_PRESET", "smoke")
    assert claims.repeat("x_run.a", 9.0, [1.0]) is None


def test_a_measurement_without_spread_is_refused(ledger, monkeypatch):
    ledger()
    for nothing in ({}, {"std": 0.0}, {"interval": (2.0, 2.0)}, {"values": [2.0]}):
        with pytest.raises(ValueError, match="needs a spread"):
            claims.record("x.a", 2.0, **nothing)
    for spread in ({"std": 0.1}, {"interval": (1.0, 3.0)}, {"values": [2.0, 2.0, 2.0]}):
        assert claims.record("x.a", 2.0, **spread).verdict == "holds"
    row = {"mean": 2.0, "sd": 0.1, "n": 6}
    monkeypatch.setattr(claims, "calibration", lambda: {"cpu": {"x.a": row}})
    assert claims.record("x.a", 2.0).verdict == "holds", "other live runs are a spread"
    ledger(variant(runs='["x_run"]'))
    monkeypatch.setattr(claims, "calibration", lambda: {"cpu": {"x.a": row}})
    with pytest.raises(ValueError, match="needs a spread"):
        claims.record("x.a", 2.0)


def test_exact_claims_speeds_and_reports_need_none(ledger):
    for kind in ('"exact"', '"report"'):
        rest = {"op": None, "threshold": None} if kind == '"report"' else {}
        ledger(variant(kind=kind, test=None, **rest))
        claims.record("x.a", 2.0)


def test_a_withdrawn_claim_is_recorded_no_longer(ledger):
    ledger(variant(withdrawn='"It could not fail."'))
    with pytest.raises(ValueError, match="withdrawn"):
        claims.record("x.a", 2.0, std=0.1)


@pytest.mark.parametrize(
    "op, predicted, values, says",
    [
        ("ci_low>", "holds", [-1.0, -2.0, -9.0], "against the bet"),
        ("ci_low>", "holds", [1.0, -2.0, -9.0], ""),
        ("ci_low>", "fails", [1.0, 2.0, 9.0], "against the bet"),
        ("ci_high<", "holds", [1.0, 2.0, 9.0], "against the bet"),
        ("ci_high<", "unsure", [1.0, 2.0, 9.0], ""),
    ],
)
def test_an_unresolved_bet_says_when_every_seed_is_against_it(ledger, op, predicted, values, says):
    ledger(variant(op=f'"{op}"', threshold="0.0", predicted=f'"{predicted}"'))
    row = claims.record_seeds("x.a", values).to_dict()
    assert row["verdict"] == "unresolved" and row["leaning"] == says


def test_bets_are_won_lost_or_unresolved():
    def bet(predicted, verdict):
        return claims.bet({"predicted": predicted, "verdict": verdict})

    assert bet("holds", "holds") == bet("fails", "fails") == "won"
    assert bet("holds", "fails") == bet("fails", "holds") == "lost"
    assert bet("holds", "unresolved") == bet("holds", "contradicted") == bet("fails", "stale") == "unresolved"
    assert bet("unsure", "holds") == bet("holds", "not judged") == "none"


def test_a_claim_is_judged_only_under_the_presets_it_names(ledger, monkeypatch):
    ledger()
    monkeypatch.setattr(claims.runtime, "preset", lambda: "gpu")
    assert claims.record("x.a", 2.0).verdict == "not judged"
    ledger(variant(presets='["cpu", "gpu"]'))
    assert claims.record("x.a", 2.0, std=0.1).verdict == "holds"


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"interval": (2.1, 1.9)}, "does not hold measured"),
        ({"interval": (2.1, 2.3)}, "does not hold measured"),
        ({"std": math.nan}, "std=nan"),
        ({"values": [1.0, math.inf]}, "values=inf"),
    ],
)
def test_nonsense_beside_the_number_is_refused(ledger, changes, says):
    ledger()
    with pytest.raises(ValueError, match=says):
        claims.record("x.a", 2.0, **changes)


def test_unknown_ids_name_the_nearest(ledger):
    ledger()
    with pytest.raises(ValueError, match=r"did you mean 'x\.a'"):
        claims.record("x.b", 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_must_be_finite(ledger, value):
    ledger()
    with pytest.raises(ValueError, match="not a finite number"):
        claims.record("x.a", value)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"kind": '"feeling"'}, "kind='feeling'"),
        ({"op": '"~"'}, "op='~'"),
        ({"predicted": '"maybe"'}, "predicted='maybe'"),
        ({"op": '"within"'}, "does not fit threshold"),
        ({"op": '"within"', "threshold": "[2.0, 1.0]"}, "does not fit threshold"),
        ({"kind": '"report"', "test": None}, "a report has no op and no threshold"),
        ({"kind": '"report"'}, "others have none"),
        ({"test": None}, "is one of replication, bet"),
        ({"test": '"hunch"'}, "test='hunch'"),
        ({"half_width": "0.1"}, "half_width=0.1 is for criteria on an interval"),
        ({"amended": '[{date = "2026-01-01", was = {unit = "s"}, why = "x"}]'}, r"names \['unit'\]"),
        ({"amended": '[{date = "2026-01-01", was = {op = ">"}, why = ""}]'}, "say why"),
        ({"paper": '"q1999"'}, "no short citation"),
        ({"colour": '"red"'}, "colour"),
        ({"statement": None}, "statement"),
        ({"expected": '"yes"'}, "expected='yes'"),
        ({"expected": '"by machine"', "reason": '"so it is"'}, "is for speeds, with the reason"),
        ({"expected": '"by machine"', "kind": '"timing"'}, "is for speeds, with the reason"),
    ],
)
def test_faults_in_the_ledger_are_named(ledger, changes, says):
    with pytest.raises(ValueError, match=says):
        ledger(variant(**changes))


def test_the_same_id_twice_is_refused(ledger):
    with pytest.raises(ValueError, match="stands twice"):
        ledger(GOOD + GOOD.split("\n\n", 1)[1])


def test_a_band_is_four_standard_deviations_cut_to_what_is_possible_and_to_the_criterion(ledger, monkeypatch):
    def band(mean=10.0, sd=0.5, **changes):
        ledger(variant(**changes))
        monkeypatch.setattr(claims, "calibration", lambda: {"cpu": {"x.a": {"mean": mean, "sd": sd, "n": 5}}})
        return claims.band("x.a")

    assert band() == (8.0, 12.0)
    assert claims.record("x.a", 12.1).in_band is False
    assert band(bounds="[0.0, 11.0]") == (8.0, 11.0)
    assert band(sd=4.0, expected='"holds"') == (1.0, 26.0), "below 1 the claim would not hold"
    assert band(mean=0.5, sd=1.0, expected='"fails"') == (-3.5, 1.0)
    assert band(sd=0.0) is None, "the same number read six times is no band"
    assert band(runs='["x_run"]') is None, "a recorded run is read, not repeated"


def runs(*values, std=None, interval=None):
    return {
        **claims.summarise(values),
        "criterion": "≥ 1",
        "runs": [{"measured": v, "std": std, "interval": interval, "verdict": "holds"} for v in values],
    }


def test_expected_holds_needs_calibration_behind_it(ledger):
    claim = ledger()["x.a"]
    assert claims.supports_holds(claim, runs(1.1, 1.5, 2.0, 3.0, 1.2)), "every run meets the criterion"
    assert claims.supports_holds(claim, runs(*[1.5] * 9, 0.99)), "one misses, but the mean is two deviations clear"
    assert not claims.supports_holds(claim, runs(1.1, 1.2, 0.9, 1.1, 1.0)), "neither all nor the mean"
    assert not claims.supports_holds(claim, runs(9.0, 9.0, 9.0, 9.0)), "four runs are too few"
    assert not claims.supports_holds(claim, runs(*[1.1] * 6, std=0.2)), "the spread over a run's own seeds counts"


def test_a_calibration_of_another_criterion_supports_nothing(ledger):
    row = runs(1.1, 1.5, 2.0, 3.0, 1.2)
    assert not claims.supports_holds(ledger(variant(threshold="1.05"))["x.a"], row)
    interval = ledger(variant(op='"ci_low>"', threshold="0.0"))["x.a"]
    for low, supported in ((0.1, True), (-0.1, False)):
        row = runs(*[1.0] * 5, interval=(low, 2.0)) | {"criterion": interval.criterion}
        assert claims.supports_holds(interval, row) is supported


def test_the_card_shows_paper_ours_gap_band_and_escapes(ledger, monkeypatch):
    ledger(variant(expected='"holds"', paper_value="1.5", statement='"A < B & C"'))
    monkeypatch.setattr(claims, "calibration", lambda: {"cpu": {"x.a": {"mean": 1.2, "sd": 0.1, "n": 5}}})
    card = claims.card(claims.record("x.a", 1.25, std=0.03, seeds=4, note="Because.").to_dict())
    for text in ("1.5", "1.25 ± 0.05", "1 … 1.6", "A &lt; B &amp; C", "Because.", "Author 2000", "holds", "our bet"):
        assert text in card, f"{text!r} is missing from the card"


def test_the_record_travels_in_the_output_of_a_notebook(ledger, monkeypatch):
    ledger()
    shown = []
    import IPython.core.getipython
    import IPython.display

    monkeypatch.setattr(IPython.core.getipython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw: shown.append(bundle))
    claims.record("x.a", 2.0, interval=(1.9, 2.1))
    row = json.loads(json.dumps(shown[0][claims.MIME]))
    assert row["id"] == "x.a" and row["verdict"] == "holds" and row["interval"] == [1.9, 2.1]
    assert "text/html" in shown[0] and "text/plain" in shown[0]


@given(st.floats(min_value=-1e9, max_value=1e9, allow_nan=False))
def test_numbers_are_printed_to_four_digits_and_counts_in_full(x):
    text = claims.number(x)
    assert float(text.replace(",", "")) == pytest.approx(x, rel=0.05 if abs(x) < 1e-4 else 5e-4)
    assert abs(x) < 1e4 or "e" not in text


@pytest.mark.parametrize(
    "row, text",
    [
        ({"measured": 7.781, "std": 2.4, "seeds": 5}, "8 ± 3"),
        ({"measured": 376.17, "interval": [206.0, 546.0]}, "380 ± 170"),
        ({"measured": -0.0123, "interval": [-0.0324, 0.0078]}, "−0.012 ± 0.020"),
        ({"measured": 1.2401}, "1.24"),
        ({"measured": 0.4401}, "0.44"),
        ({"measured": 99.87, "unit": "percent"}, "99.9"),
        ({"measured": 110_106_428.0, "kind": "exact"}, "110,106,428"),
        ({"measured": 10.1, "spread": {"mean": 10.0, "sd": 0.5, "n": 6}}, "10.1 ± 1.4"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_allows(row, text):
    whole = {"kind": "measurement", "unit": "", "std": None, "interval": None, "seeds": None, "spread": None} | row
    assert claims.measured_text(whole) == text
    assert not claims.measured_text(whole, size=True).startswith("−")


@given(st.floats(min_value=-1e9, max_value=1e9, allow_nan=False), st.floats(min_value=1e-9, max_value=1e9))
def test_a_rendered_number_is_no_further_off_than_its_interval(x, half):
    row = {"kind": "measurement", "unit": "", "measured": x, "interval": [x - half, x + half]}
    text = claims.measured_text(row, plus_minus=False).replace(",", "").replace("−", "-")
    assert abs(float(text) - x) <= max(half, 0.06 * abs(x))


def test_the_books_own_ledger_is_sound():
    """Ids are `chapter-word.claim`, and nothing is expected to hold that calibration or data do not bear out."""
    rows = claims.read_ledger(claims._PACKAGE / "claims.toml")
    stored = claims.calibration().get("cpu", {})
    for claim in rows.values():
        assert claim.id.count(".") == 1 and claim.id == claim.id.lower(), claim.id
        if claim.expected == claims.UNCALIBRATED:
            assert claim.id not in stored, f"{claim.id}: a calibration is there; say in `expected` what it found"
        live = claim.kind == "measurement" and not claim.runs and not claim.withdrawn
        if claim.expected == "holds" and live:
            assert claim.id in stored, f"{claim.id}: expected = 'holds' without a calibration"
            assert claims.supports_holds(claim, stored[claim.id]), f"{claim.id}: calibration does not support 'holds'"
        if claim.since:
            assert claim.reason, f"{claim.id}: since without reason"


def test_every_run_of_the_ledger_exists_and_every_tolerance_belongs_to_one():
    folder = claims._PACKAGE / "recorded"
    known = {path.name.removesuffix(".json.gz") for path in folder.glob("*.json.gz")}
    assert {run for claim in claims.ledger().values() for run in claim.runs} <= known
    assert {quantity.split(".")[0] for quantity in claims.tolerances()} <= known


def test_withdrawn_claims_give_their_reason_and_replications_their_place():
    for claim in claims.ledger().values():
        assert not claim.withdrawn or len(claim.withdrawn) > 40, claim.id
        assert claim.test != "replication" or not claim.where.startswith("ours"), claim.id


def printed_replications(rows):
    """Return by chapter how many replications that stand set a printed number beside ours."""
    chapters = dict.fromkeys((claim.chapter for claim in rows), 0)
    for claim in rows:
        measured = claim.kind in ("measurement", "timing")
        chapters[claim.chapter] += measured and claim.test == "replication" and claim.paper_value is not None
    return chapters


def test_every_chapter_sets_at_least_five_printed_numbers_beside_its_own():
    rows = [claim for claim in claims.ledger().values() if not claim.withdrawn and claim.chapter != "live"]  # no paper
    assert min(printed_replications(rows).values()) >= 5, printed_replications(rows)
    fewer = [claim for claim in rows if claim.id not in ("scaling.data-slower", "ppo.peak-near")]
    assert {name for name, n in printed_replications(fewer).items() if n < 5} == {"2020_scaling_laws", "2017_ppo"}


def test_interval_claims_registered_since_the_rule_say_the_half_width_they_need():
    path = str(Path(__file__).parents[2] / "tools")
    sys.path.insert(0, path)
    import registration

    known = registration.of_this_book()
    for claim in claims.ledger().values():
        new = claim.id not in known or known[claim.id].date >= "2026-11-27"
        if new and claim.op in ("ci_low>", "ci_high<", "equivalent") and claim.kind == "measurement":
            assert claim.half_width, f"{claim.id}: an interval claim registers the half-width it needs"


def test_every_calibration_is_the_summary_of_its_runs():
    for rows in claims.calibration().values():
        for id, row in rows.items():
            found = claims.summarise([r["measured"] for r in row["runs"]])
            assert found == pytest.approx({k: row[k] for k in found}, rel=1e-9, abs=1e-12), id
