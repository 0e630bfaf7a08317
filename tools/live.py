"""The places of the book in which models answer: what each needs beside its scripts, and what it shows before they run.

    python tools/live.py FOLDER

``tools/assemble.py`` calls ``write`` when it puts the book together. A view is a module ``live_….py``:

PARTS               the names of its places in the chapters, ``{live} PART``
SCRIPTS             what runs there, files of chapters/_static/live in their order
write(folder)       writes the scripts that hold its data, and returns what its places show at first, for JSON
fallback(part, …)   that as HTML, for readers without scripts
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import live_gap
import live_icons
import live_page
import live_taste
import live_translate

VIEWS: tuple[ModuleType, ...] = (live_page, live_gap, live_icons, live_translate, live_taste)
PARTS: dict[str, ModuleType] = {part: view for view in VIEWS for part in view.PARTS}


def write(folder: Path) -> None:
    """Write all scripts that hold data into ``folder``, and for each view what is stored of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for view in VIEWS:
        stored = json.dumps(view.write(folder), ensure_ascii=False)
        _stored(folder, view).write_text(stored, encoding="utf8")


def place(part: str, folder: Path, *, first: bool = True) -> str:
    """Return in HTML what a place holds until its scripts have run; nothing where ``write`` was not called.

    The first place of a view on a page also holds what is stored as JSON, for the scripts.
    """
    path = _stored(folder, PARTS[part])
    if not path.exists():
        return ""
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    shown: str = PARTS[part].fallback(part, stored)
    content = json.dumps(stored, ensure_ascii=False).replace("<", "\\u003c")  # or a text could end the script
    return f'{shown}<script type="application/json">{content}</script>' if first else shown


def _stored(folder: Path, view: ModuleType) -> Path:
    return folder / f"{view.__name__}.json"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
