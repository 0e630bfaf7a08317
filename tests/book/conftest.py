"""Opens the built book in a real browser that can reach nothing but the book.

Each page is loaded twice: from the folder, as a reader without a server does, and over http. What a page did and looks
like is noted once, in the light, in the dark and at the width of a telephone; the tests then ask about the notes.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browsing import BOOK, CHROMIUM, DESKTOP, FLAGS, ROOT, SCHEMES, Visits, all_pages
from playwright.sync_api import Browser, BrowserContext, sync_playwright


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "page_name" in metafunc.fixturenames:
        metafunc.parametrize("page_name", all_pages())


def unavailable(what: str) -> None:
    """Fail in continuous integration, where the book must be tested; skip on a machine that cannot."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} With CI=true the browser tests must run.", pytrace=False)
    pytest.skip(f"{what} The browser tests need both.")


@pytest.fixture(scope="session")
def book() -> Path:
    if not (BOOK / "index.html").exists():
        unavailable(f"The built book is missing ({BOOK.relative_to(ROOT)}/index.html): run 'make book'.")
    return BOOK


@pytest.fixture(scope="session")
def browser(book: Path) -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        unavailable("Chromium is missing: 'apt-get install chromium' on Debian.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def bases(book: Path) -> Iterator[dict[str, str]]:
    """Where the book begins, opened from the folder and over http."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(book)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"file": book.as_uri(), "http": f"http://127.0.0.1:{server.server_port}"}
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def contexts(browser: Browser) -> Iterator[dict[str, BrowserContext]]:
    opened = {scheme: browser.new_context(viewport=DESKTOP, color_scheme="light") for scheme in SCHEMES}
    opened["file"].set_offline(True)
    yield opened
    for context in opened.values():
        context.close()


@pytest.fixture(scope="session")
def visits(contexts: dict[str, BrowserContext], bases: dict[str, str]) -> Visits:
    return Visits(contexts, bases)
