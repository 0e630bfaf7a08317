"""Recorded runs say how they were made, and are found by name and settings."""

import pytest

from nextword.book import runs


def test_an_unknown_name_lists_what_there_is():
    for load in (runs.load_run, runs.load_results):
        with pytest.raises(ValueError, match="name='nothing' is no recorded run; known: .*gnmt_attention"):
            load("nothing")


def test_recorded_runs_say_how_they_were_made():
    for path in runs.FOLDER.glob("*.json.gz"):
        run = runs.load_run(path.name.removesuffix(".json.gz"))
        assert {"name", "function", "date", "versions", "points"} <= set(run), path.name
        assert all({"settings", "seconds", "result"} <= set(point) for point in run["points"]), path.name


def test_results_are_chosen_by_their_settings(monkeypatch):
    settings = [{"name": "a", "seed": 0}, {"name": "a", "seed": 1, "ptx": 0.5}, {"name": "b", "seed": 0}]
    points = [{"settings": s, "result": i} for i, s in enumerate(settings)]
    monkeypatch.setattr(runs, "load_run", lambda name: {"points": points})
    assert runs.load_results("toy") == [0, 1, 2]
    assert runs.load_results("toy", name="a") == [0, 1], "a setting may be called name"
    assert runs.load_results("toy", name="a", ptx=None) == [0], "None: made without it"
    assert runs.load_results("toy", ptx=0.5) == [1]
    with pytest.raises(ValueError, match="settings={'seed': 2} are those of no point of toy; such are: {'name': 'a'"):
        runs.load_results("toy", seed=2)
