"""How the browser tests look at a page: what it does while it is open, and what can be seen of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Locator, Page, Request, expect

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import screenshots

BOOK, CHROMIUM = screenshots.BOOK, screenshots.CHROMIUM
FLAGS = [*screenshots.FLAGS, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # nothing foreign is found
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
FACTS = (Path(__file__).parent / "facts.js").read_text(encoding="utf-8")
NEXT_FRAME = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
SCHEMES = ("file", "http")


def all_pages() -> list[str]:
    """Every page a reader can reach, relative to the book; the theme's own snippets under _static are none."""
    found = sorted(path.relative_to(BOOK).as_posix() for path in BOOK.rglob("*.html"))
    return [page for page in found if not page.startswith("_static/") and page != "index.html"]


@dataclass
class Visit:
    """What a page did while it was open, and what it looked like."""

    problems: list[str] = field(default_factory=list)  # console errors, uncaught errors, failed requests
    requests: list[str] = field(default_factory=list)
    light: dict[str, Any] = field(default_factory=dict)
    dark: dict[str, Any] = field(default_factory=dict)
    phone: dict[str, Any] = field(default_factory=dict)


def watch(page: Page, visit: Callable[[], Visit]) -> None:
    """Note into the present ``visit()`` whatever goes wrong on ``page``, and what it asks for."""

    def failed(request: Request) -> None:
        # The browser fetches a page's icon last, and gives it up when the page is left.
        if not (request.failure == "net::ERR_ABORTED" and request.url.endswith("/favicon.svg")):
            visit().problems.append(f"failed: {request.url} ({request.failure})")

    page.on("console", lambda m: visit().problems.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: visit().problems.append(f"uncaught: {error}"))
    page.on("requestfailed", failed)
    page.on("request", lambda request: visit().requests.append(request.url))


def copy_link(box: Locator) -> str:
    """Press "Copy link" in a live part; what is copied, which also stands there where the browser forbids to copy."""
    box.get_by_role("button", name="Copy link", exact=True).click()
    expect(box).to_contain_text(re.compile("Link copied|here it is"))
    return box.locator("pre").text_content() or ""


def follow_link(page: Page, hash: str) -> None:
    """Follow a link within the page."""
    page.evaluate("(hash) => { history.replaceState(null, '', '#'); location.hash = hash; }", hash)
    for _ in range(2):  # the event comes in one frame, and the answer in the next
        page.evaluate(NEXT_FRAME)


def settle(page: Page) -> None:
    """Wait until the maths is drawn, and the models of the page `live` have answered; others sleep until one comes near."""
    page.evaluate("() => window.MathJax?.startup?.promise")
    page.wait_for_function(
        "() => !document.querySelector('.nw-live[data-live=about]') || "
        "performance.getEntriesByName('nextword large answered').length"
    )


class Visits:
    """Opens each page once by each way, in one tab for each, and remembers."""

    def __init__(self, contexts: dict[str, BrowserContext], bases: dict[str, str]) -> None:
        self.bases = bases
        self.done: dict[tuple[str, str], Visit] = {}
        self.now = Visit()
        self.tabs = {scheme: context.new_page() for scheme, context in contexts.items()}
        for tab in self.tabs.values():
            watch(tab, lambda: self.now)

    def __call__(self, name: str, scheme: str = "file") -> Visit:
        if (name, scheme) not in self.done:
            self.now = self.done[name, scheme] = Visit()
            self.open(name, scheme, self.now, self.tabs[scheme])
        return self.done[name, scheme]

    def open(self, name: str, scheme: str, visit: Visit, page: Page) -> None:
        page.goto(f"{self.bases[scheme]}/{name}")
        settle(page)
        visit.light = page.evaluate(FACTS)
        if scheme == "http":
            return  # looks do not depend on the way a page came
        page.emulate_media(color_scheme="dark")
        page.evaluate(NEXT_FRAME)
        visit.dark = page.evaluate(FACTS)
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(PHONE)
        page.evaluate(NEXT_FRAME)
        visit.phone = page.evaluate(FACTS)
        page.set_viewport_size(DESKTOP)
