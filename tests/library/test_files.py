"""Files and folders that are whole or not there: crashes, full disks, two at once."""

import os
from pathlib import Path

import pytest

from nextword.files import atomic_file, atomic_folder


class Crash(BaseException):
    """As an interrupt, no Exception."""


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_a_crash_leaves_the_old_file_and_nothing_else(old, when, tmp_path, monkeypatch):
    if old:
        (tmp_path / "a.txt").write_text("old")

    def crash(*_):
        raise Crash

    with pytest.raises(Crash), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        if when == "writing":
            raise Crash
        monkeypatch.setattr(os, "replace", crash)
    assert content(tmp_path) == ({"a.txt": "old"} if old else {})


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_what_is_written_is_renamed_into_place_from_its_own_folder(make, tmp_path, monkeypatch):
    """A copy could be seen half done, and a rename across file systems is a copy."""
    renamed = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (renamed.append((Path(a), Path(b))), real(a, b)))
    target = tmp_path / "new" / "a"
    with make(target) as temporary:
        (temporary if make is atomic_file else temporary / "b.txt").write_text("all")
        assert not target.exists() and temporary.parent == target.parent
    assert renamed == [(temporary, target)] and list(content(tmp_path).values()) == ["all"]


@pytest.mark.parametrize("nth", [0, 1])
def test_a_folder_comes_back_when_either_rename_fails(nth, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("old")
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == nth + 1:
            raise OSError("disk on fire")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="on fire"), atomic_folder(tmp_path / "a") as work:
        (work / "b.txt").write_text("new")
    assert content(tmp_path) == {"a/b.txt": "old"} and os.listdir(tmp_path) == ["a"]


def test_a_folder_replaces_all_of_the_old_one_unless_it_is_to_stay(tmp_path):
    for name, replace, left in (("b", True, "b"), ("c", True, "c"), ("d", False, "c")):
        with atomic_folder(tmp_path / "a", replace=replace) as work:
            (work / name).write_text(name)
        assert content(tmp_path) == {f"a/{left}": left} and os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("replace", [True, False])
def test_a_folder_never_takes_the_place_of_a_file(replace, tmp_path):
    (tmp_path / "a").write_text("thesis")
    with (
        pytest.raises(FileExistsError, match="a' is a file; give a folder"),
        atomic_folder(tmp_path / "a", replace=replace),
    ):
        pass
    assert content(tmp_path) == {"a": "thesis"}
