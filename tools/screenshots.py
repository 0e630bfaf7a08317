"""Photograph every page of the built book, to be looked at: light, dark and on a telephone, into build/screenshots."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "build" / "html" / "_build" / "html"
TARGET = ROOT / "build" / "screenshots"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VIEWS = {  # name: (width, height, colour scheme)
    "light": (1280, 900, "light"),
    "dark": (1280, 900, "dark"),
    "phone": (390, 844, "light"),
}
PART = 5_000  # pixels; a longer page comes in several pictures, since a browser draws very tall ones unreliably


def photograph(page: Page, source: Path, name: str) -> int:
    """Write the pictures of one page and return how many they are."""
    page.goto(source.as_uri())
    page.evaluate("() => window.MathJax?.startup?.promise")  # until the maths is drawn
    width, height = page.evaluate("[innerWidth, document.documentElement.scrollHeight]")
    tops = range(0, height, PART)
    for number, top in enumerate(tops, start=1):
        part = f".{number}" if len(tops) > 1 else ""
        clip = {"x": 0, "y": top, "width": width, "height": min(PART, height - top)}
        page.screenshot(path=TARGET / f"{source.stem}.{name}{part}.png", full_page=True, clip=clip)
    return len(tops)


def main() -> int:
    wanted = sys.argv[1:]  # names of pages; none means all
    sources = [p for p in sorted(BOOK.glob("chapters/*.html")) if not wanted or p.stem in wanted]
    if not sources:
        print(f"no page to photograph in {BOOK}; run 'make book' first", file=sys.stderr)
        return 1
    TARGET.mkdir(parents=True, exist_ok=True)
    taken = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, (width, height, scheme) in VIEWS.items():
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            for source in sources:
                taken += photograph(page, source, name)
            context.close()
        browser.close()
    print(f"{taken} pictures in {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
