"""The scripts in which data reaches a live part, and the tables that stand there before any script runs.

A page that was opened from a folder may load scripts and nothing else. So each file of data is one call,
``NEXTWORD.model("NAME", {…})``, with bytes in base64.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nextword import checkpoints

STORED = "These numbers are stored; with JavaScript the models answer to any text."


def model(folder: Path, name: str, bundled: str, *, tokenizer: bool = False) -> None:
    """Write ``weights_NAME.js``: a bundled model's own bytes with its config and card, and its tokenizer if asked for."""
    source = checkpoints.BUNDLED / bundled
    parts = ("config", "card", "tokenizer") if tokenizer else ("config", "card")
    content = {part: json.loads((source / f"{part}.json").read_text(encoding="utf8")) for part in parts}
    script(folder / f"weights_{name}.js", name, {**content, **packed((source / "model.safetensors").read_bytes())})


def packed(raw: bytes) -> dict[str, str]:
    """Return bytes as a script holds them, with their hash."""
    return {"sha256": hashlib.sha256(raw).hexdigest(), "base64": base64.b64encode(raw).decode()}


def script(path: Path, name: str, content: dict[str, Any]) -> None:
    """Write a script that hands content over."""
    path.write_text(f"NEXTWORD.model({json.dumps(name)}, {json.dumps(content)});\n", encoding="utf8")


def table(caption: str, head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a table in HTML: a caption, the heads of the columns, and rows of a head and its cells; all are escaped."""
    heads = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>{"".join(f"<td>{html.escape(cell)}</td>" for cell in cells)}</tr>'
        for first, cells in rows
    )
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    )
