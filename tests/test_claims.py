"""The ledger decides: criteria, verdicts, bands, cards."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nextword import claims

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
    assert claims.record("x.a", measured).verdict == verdict


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
    assert claims.record_seeds("x.a", [1.0, 2.0], recorded=(5.0, 1.0, 2.0)).verdict == "fails"
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
    ledger(variant(kind='"report"', op=None, threshold=None))
    assert claims.record("x.a", 5.0).verdict == "reported"


def test_a_live_point_outside_the_recorded_band_fails_the_claim(ledger):
    ledger()
    assert claims.record("x.a", 2.0, recorded=(1.0, 0.9, 1.1)).verdict == "holds"
    outside = claims.record("x.a", 2.0, recorded=(1.2, 0.9, 1.1))
    assert outside.verdict == "fails" and "recorded band" in outside.note


def test_a_report_stays_a_report_whatever_the_live_point(ledger):
    ledger(variant(kind='"report"', op=None, threshold=None))
    assert claims.record("x.a", 2.0, recorded=(5.0, 0.9, 1.1)).verdict == "reported"


def test_a_claim_is_judged_only_under_the_presets_it_names(ledger, monkeypatch):
    ledger()
    monkeypatch.setattr(claims.runtime, "preset", lambda: "gpu")
    assert claims.record("x.a", 2.0).verdict == "not judged"
    ledger(variant(presets='["cpu", "gpu"]'))
    assert claims.record("x.a", 2.0).verdict == "holds"


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"interval": (2.1, 1.9)}, "does not hold measured"),
        ({"interval": (2.1, 2.3)}, "does not hold measured"),
        ({"std": math.nan}, "std=nan"),
        ({"recorded": (1.5, 2.0, 1.0)}, "low is above high"),
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
        ({"kind": '"report"'}, "a report has no op and no threshold"),
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


def test_band_is_four_standard_deviations_with_a_floor(ledger, monkeypatch):
    ledger()
    monkeypatch.setattr(claims, "calibration", lambda: {"cpu": {"x.a": {"mean": 10.0, "sd": 0.5, "n": 5}}})
    assert claims.band("x.a") == (8.0, 12.0)
    assert claims.record("x.a", 12.1).in_band is False
    monkeypatch.setattr(claims, "calibration", lambda: {"cpu": {"x.a": {"mean": 10.0, "sd": 0.0, "n": 5}}})
    low, high = claims.band("x.a")
    assert low < 10.0 < high and high - low < 1e-4


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
    ledger(variant(paper_value="1.5", statement='"A < B & C"'))
    monkeypatch.setattr(claims, "calibration", lambda: {"cpu": {"x.a": {"mean": 1.2, "sd": 0.1, "n": 5}}})
    card = claims.card(claims.record("x.a", 1.25, std=0.03, note="Because.").to_dict())
    for text in ("1.5", "1.25 ± 0.03", "-0.25", "0.8 … 1.6", "A &lt; B &amp; C", "Because.", "Author 2000", "holds"):
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


def test_the_card_of_a_count_prints_the_gap_in_full():
    row = claims.Verdict(claims.get("bert.base"), 110_106_428.0, "holds").to_dict()
    card = claims.card(row)
    assert ">110,106,428<" in card and " +106,428<" in card


def test_the_books_own_ledger_is_sound():
    """Ids are `chapter-word.claim`, and nothing is expected to hold that calibration does not bear out."""
    rows = claims.read_ledger(claims._PACKAGE / "claims.toml")
    stored = claims.calibration().get("cpu", {})
    for claim in rows.values():
        assert claim.id.count(".") == 1 and claim.id == claim.id.lower(), claim.id
        if claim.expected == "holds" and claim.kind in ("measurement", "exact"):
            assert claim.id in stored, f"{claim.id}: expected = 'holds' without a calibration"
            assert claims.supports_holds(claim, stored[claim.id]), f"{claim.id}: calibration does not support 'holds'"
        if claim.since:
            assert claim.reason, f"{claim.id}: since without reason"
