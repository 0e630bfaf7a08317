"""Write the book's public address everywhere it stands: python tools/set_repository.py https://github.com/owner/name

The address lives in _config.yml; README.md, CITATION.cff, the links of plots.show and each chapter's install cell repeat it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Replace the old address by the one on the command line."""
    new = sys.argv[1].rstrip("/") if len(sys.argv) == 2 else ""
    if not re.fullmatch(r"https://[\w.-]+/[\w.-]+/[\w.-]+", new):
        sys.exit(f"URL={new!r} is no address of a repository; it should look like https://github.com/owner/name")
    old = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))["repository"]["url"]
    pages = [*(ROOT / "chapters").glob("*.ipynb"), *(ROOT / "chapters").glob("*.md")]
    names = ("_config.yml", "README.md", "CITATION.cff", "lib/nextword/book/plots.py")
    files = [*(ROOT / name for name in names), *sorted(pages)]
    for path in files:
        text = path.read_text(encoding="utf8")
        if old in text:
            path.write_text(text.replace(old, new), encoding="utf8")
            print(f"{path.relative_to(ROOT)}: {text.count(old)} changed")


if __name__ == "__main__":
    main()
