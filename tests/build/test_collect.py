"""What the build says when a verdict is not the expected one."""

import dataclasses
import sys
from pathlib import Path

import nbformat
import pytest

from nextword.book import claims

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import collect

SPEED = claims.get("sparse.growth-strided")


def faults(verdict, busy=False, **changes):
    claim = dataclasses.replace(SPEED, **changes)
    row = {"id": claim.id, "verdict": verdict, "measured": 1.0, "busy": busy}
    return collect.check_verdicts("2019_sparse_transformer", [row], {claim.id: claim})


def test_another_verdict_than_the_expected_one_is_a_fault():
    assert not faults("holds", expected="holds")
    [message] = faults("fails", expected="holds")
    assert "was expected to be 'holds' and is 'fails'" in message


def test_what_is_not_judged_on_a_busy_machine_is_no_fault():
    assert not faults("not judged", kind="timing", busy=True, expected="holds")
    assert faults("not judged", kind="timing", busy=False, expected="holds")
    assert faults("not judged", kind="measurement", test="bet", busy=True, expected="holds")


@pytest.mark.parametrize("verdict", ["holds", "fails"])
def test_a_speed_that_goes_by_the_processor_may_fall_on_either_side(verdict):
    assert not faults(verdict, expected=claims.BY_MACHINE, reason="it depends")


def test_a_claim_without_expectation_asks_for_a_calibration():
    [message] = faults("holds", expected="")
    assert "make calibrate" in message


def row(**changes):
    base = {"measured": 7.781, "std": 2.4, "seeds": 5, "kind": "measurement", "unit": "", "verdict": "holds"}
    return {"toy.gain": base | {"interval": None, "spread": None} | changes}


@pytest.mark.parametrize(
    "text, changes, says",
    [
        ("gains 8<!-- claim toy.gain --> points", {}, []),
        ("gains 8<!-- claim toy.gain --> (failed) points", {"verdict": "fails"}, []),
        ("gains 7.8<!-- claim toy.gain --> points", {}, []),
        ("gains 12<!-- claim toy.gain --> points", {}, ["the run gave 8 ± 3"]),
        ("gains 8<!-- claim toy.gain --> points", {"verdict": "unresolved"}, ["write (unresolved)"]),
        ("gains 8<!-- claim toy.gain --> points", {"verdict": "fails"}, ["write (failed)"]),
        ("gains 8<!-- claim toy.gain --> (failed) points", {}, ["take (failed) away"]),
        ("gains 8<!-- claim toy.loss --> points", {}, ["toy.loss was not recorded"]),
    ],
)
def test_the_readme_shows_the_measured_number_and_what_did_not_hold(text, changes, says):
    faults = collect.check_readme(text, row(**changes))
    assert len(faults) == len(says)
    for fault, words in zip(faults, says, strict=True):
        assert words in fault


def test_a_sign_behind_a_word_of_direction_is_a_fault():
    assert collect.check_signs("toy", "It loses {claim}`toy.gain` points.", row(measured=-3.0))
    assert not collect.check_signs("toy", "It loses {claim}`toy.gain:size` points.", row(measured=-3.0))
    assert not collect.check_signs("toy", "It loses {claim}`toy.gain` points.", row())


def test_numbers_in_captions_and_descriptions_of_figures_are_prose_too():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("plot()"), nbformat.v4.new_markdown_cell("")])
    row = {"id": "toy.sum", "measured": 120.4, "paper_value": None, "band": None}
    assert not collect.check_prose("toy", notebook, [row])
    for shown in ({"figure": {"caption": "It ends at 120.4."}}, {"image": {"alt": "A line that ends at 120.4."}}):
        notebook.cells[0].metadata["mystnb"] = shown
        [message] = collect.check_prose("toy", notebook, [row])
        assert "the text types 120.4" in message
