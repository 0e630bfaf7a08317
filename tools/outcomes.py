"""Copy what the epilogue shows of build/claims.json to lib/nextword/book/outcomes.json.

Run after tools/collect.py, by hand (make outcomes): the copy is committed, so that the epilogue runs without a build.
tools/collect.py reports each verdict that has changed since.
"""

from __future__ import annotations

import json

import chapters
from nextword.book import outcomes


def main() -> None:
    """Make the copy."""
    content = json.loads((chapters.ROOT / "build" / "claims.json").read_text(encoding="utf8"))
    short = {name: about["short"] for name, about in chapters.ABOUT.items()}
    rows = outcomes.select(content, short)
    chapters.write_json(outcomes.PATH, {"format": outcomes.FORMAT, "claims": rows})
    print(f"{len(rows)} claims in {outcomes.PATH.name}")


if __name__ == "__main__":
    main()
