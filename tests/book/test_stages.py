"""A drawing with stages: all of it without scripts and on paper, one stage after the other by buttons elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsing import ROOT
from playwright.sync_api import Browser, Page

STATIC = ROOT / "chapters" / "_static"


def page_of(drawing: str) -> str:
    """Return a page with one drawing, as the directive puts it there, in the book's style and with its script."""
    svg = (STATIC / "diagrams" / f"{drawing}.svg").read_text(encoding="utf8")
    css, script = ((STATIC / f"next-word.{kind}").read_text(encoding="utf8") for kind in ("css", "js"))
    figure = f'<figure class="nw-diagram">{svg}<figcaption>Beams.</figcaption></figure>'
    return f"<!doctype html><title>x</title><style>{css}</style><article class=bd-article>{figure}</article><script>{script}</script>"


def seen(page: Page) -> list[bool]:
    """Return which stages of the drawing can be seen."""
    page.wait_for_function("() => document.getAnimations().length === 0")
    opacities = page.locator(".nw-d-stage").evaluate_all("all => all.map(stage => +getComputedStyle(stage).opacity)")
    return [opacity > 0.9 for opacity in opacities]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_content(page_of("beam"))
    yield page
    context.close()


def test_all_stages_are_seen_without_scripts(browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(page_of("beam"))
    assert page.locator("button").count() == 0 and page.locator(".nw-d-yet").count() == 0
    context.close()


def test_stages_come_one_after_the_other_by_mouse_and_by_keyboard(page: Page) -> None:
    buttons = page.get_by_role("group", name="Steps of the drawing").get_by_role("button")
    assert seen(page) == [True, True, True, True], "all of it is seen before anybody presses"
    buttons.nth(1).click()
    assert seen(page) == [True, True, False, False]
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert seen(page) == [True, True, True, True]
    buttons.nth(0).focus()
    page.keyboard.press("Space")
    assert seen(page) == [True, False, False, False]


def test_each_button_is_named_by_its_step_and_says_which_is_shown(page: Page) -> None:
    buttons = page.get_by_role("button")
    assert buttons.all_inner_texts() == ["1", "2", "3", "4"]
    name = buttons.nth(1).get_attribute("aria-label")
    assert name == "Step 2: Each is continued; the best two of all are kept."
    buttons.nth(2).click()
    current = [button.get_attribute("aria-current") for button in buttons.all()]
    assert current == ["false", "false", "step", "false"]
    sizes = [button.bounding_box() for button in buttons.all()]
    assert all(box and min(box["width"], box["height"]) >= 24 for box in sizes)  # large enough for a thumb


@pytest.mark.parametrize(("motion", "moves"), [("reduce", False), ("no-preference", True)])
def test_stages_fade_in_only_for_those_who_like_motion(page: Page, motion: str, moves: bool) -> None:
    page.emulate_media(reduced_motion=motion)  # type: ignore[arg-type]  # one of its words
    duration = page.locator(".nw-d-stage").first.evaluate("stage => getComputedStyle(stage).transitionDuration")
    assert (duration != "0s") == moves


def test_paper_shows_all_stages_and_no_buttons(page: Page) -> None:
    page.emulate_media(media="print")
    assert seen(page) == [True, True, True, True]
    assert not page.locator(".nw-stages").is_visible()


def test_other_drawings_have_no_buttons(page: Page) -> None:
    page.set_content(page_of("masking"))
    assert page.locator("button").count() == 0
