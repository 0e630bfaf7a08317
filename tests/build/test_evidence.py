"""Numbers of recorded runs are pinned, and a pin moves only with its runs or with a reason."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import evidence

PIN = {"runs": {"toy": "1"}, "measured": 10.0, "interval": [9.0, 11.0]}
WHY = [{"date": "2026-01-01", "was": 10.0, "why": "by another mean"}]


@pytest.fixture
def commit(monkeypatch, tmp_path):
    """A function that commits these pins in a small repository."""
    monkeypatch.setattr(evidence, "PINS", tmp_path / "tools" / "pins.json")
    (tmp_path / "tools").mkdir()
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=tmp_path, check=True)

    def write(pins):
        evidence.PINS.write_text(json.dumps(pins))
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
        subprocess.run(["git", *identity, "commit", "-q", "-m", "x"], cwd=tmp_path, check=True)
        return evidence.repinned(tmp_path)

    return write


@pytest.mark.parametrize(
    "later",
    [
        {"x": {**PIN, "runs": {"toy": "2"}, "measured": 12.0}},
        {"x": {**PIN, "measured": 12.0, "recounted": WHY}},
        {"x": {**PIN, "measured": 10.01}},
        {"x": PIN, "y": PIN},
    ],
    ids=["another run", "a reason", "a fiftieth of the half-width", "one more"],
)
def test_a_pin_may_move_with_its_runs_or_with_a_reason(commit, later):
    assert commit({"x": PIN}) == [] and commit(later) == []


@pytest.mark.parametrize("later", [{"x": {**PIN, "measured": 12.0}}, {"x": {**PIN, "interval": [9.5, 10.5]}}, {}])
def test_a_pin_moved_or_taken_out_by_hand_is_noticed_for_ever(commit, later):
    commit({"x": PIN})
    assert len(commit(later)) == 1
    assert commit({"x": PIN}), "the history remembers"
