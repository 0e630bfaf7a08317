"""Files and folders that are there as a whole or not at all.

A program may be killed at any moment, and a disk may fill up. So what is written lies beside its place first, under
another name, and is renamed when it is complete: a rename is one step, and nobody ever sees half of it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path; what is written there takes the place of ``path`` when the block ends without an error.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_file(f"{folder}/notes.txt") as temporary:
        ...         _ = temporary.write_text("all of it")
        ...     os.listdir(folder)
        ['notes.txt']
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut could leave the new name with nothing under it
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of ``path`` when the block ends without an error.

    Args:
        path: the folder to be.
        replace: an older folder of that name goes, with all that it holds; the caller has looked at it. False: it stays,
            because another process was quicker, and what the block wrote is thrown away.

    Raises:
        FileExistsError: there is a file of that name. It stays.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"path={str(path)!r} is a file; give a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    old = work.with_name(work.name + ".old")
    try:
        yield work
        os.chmod(work, 0o755)  # a temporary folder is closed to everybody else
        try:
            if replace and target.exists():
                os.replace(target, old)  # a full folder cannot be overwritten, so it steps aside …
            os.replace(work, target)
        except BaseException as error:
            if old.exists() and not target.exists():
                os.replace(old, target)  # … and comes back where the new one cannot take its place
            quicker = not replace and isinstance(error, OSError) and target.is_dir()
            if not quicker:
                raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
