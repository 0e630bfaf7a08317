"""What the build says when a verdict is not the expected one."""

import dataclasses
import sys
from pathlib import Path

import pytest

from nextword import claims

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import collect

SPEED = claims.get("sparse.growth-strided")


def faults(verdict, **changes):
    claim = dataclasses.replace(SPEED, **changes)
    row = {"id": claim.id, "verdict": verdict, "measured": 1.0}
    return collect.check_verdicts("2019_sparse_transformer", [row], {claim.id: claim})


def test_another_verdict_than_the_expected_one_is_a_fault():
    assert not faults("holds", expected="holds")
    [message] = faults("fails", expected="holds")
    assert "was expected to be 'holds' and is 'fails'" in message


def test_what_is_not_judged_on_a_busy_machine_is_no_fault():
    assert not faults("not judged", expected="holds")


@pytest.mark.parametrize("verdict", ["holds", "fails"])
def test_a_speed_that_goes_by_the_processor_may_fall_on_either_side(verdict):
    assert not faults(verdict, expected=claims.BY_MACHINE, reason="it depends")


def test_a_claim_without_expectation_asks_for_a_calibration():
    [message] = faults("holds", expected="")
    assert "make calibrate" in message
