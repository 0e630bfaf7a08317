"""The recorded runs: results of experiments that are too long for a chapter.

``make runs`` makes them with the very functions that the chapters show, with the settings in ``chapters/chapters.toml``.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("recorded")


def load_run(name: str) -> dict[str, Any]:
    """Return a recorded run: settings, seeds, versions, seconds and results, point by point.

    Raises:
        ValueError: there is no run of that name.
    """
    path = FOLDER / f"{name}.json.gz"
    if not path.is_file():
        known = ", ".join(sorted(p.name.removesuffix(".json.gz") for p in FOLDER.glob("*.json.gz"))) or "none"
        raise ValueError(f"name={name!r} is no recorded run; known: {known}. `make runs` makes them")
    run: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return run


def load_results(name: str, /, **settings: Any) -> list[Any]:
    """Return the results of a recorded run's points that have these settings, in the order they were made.

    A setting of None stands for points that were made without it.

    Raises:
        ValueError: no recorded run of that name, or no point with these settings.
    """
    points = load_run(name)["points"]
    results = [p["result"] for p in points if all(p["settings"].get(k) == v for k, v in settings.items())]
    if not results:
        raise ValueError(f"settings={settings} are those of no point of {name}; such are: {points[0]['settings']}")
    return results
