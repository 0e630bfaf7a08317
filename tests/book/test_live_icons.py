"""The part `icons`: a reader types words, guesses, chooses icons and lists of names, without a network.

One page is opened for most tests, and a link sets it back before each. That the numbers are the library's is tested
elsewhere; here it is tested that the page shows them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import BOOK, DESKTOP, NEXT_FRAME, PHONE, ROOT, Visit, copy_link, follow_link, watch
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

sys.path.insert(0, str(ROOT / "tools"))
import live_icons

FILE = Path(os.environ.get("NEXTWORD_ICONS_PAGE") or BOOK / "chapters" / "2021_clip.html").resolve()
SCRIPTS = FILE.parent.parent / "_static" / "live"
NAMED = "() => performance.getEntriesByName('nextword icons named').length"
OWN = ("file:", "blob:", "data:", "about:")


class Part:
    """The part as a reader uses it."""

    def __init__(self, page: Page) -> None:
        self.page, self.visit, self.box = page, Visit(), page.locator('.nw-live[data-live="icons"]').first
        watch(page, lambda: self.visit)
        self.found = self.box.locator(".lv-found:not(.lv-all)")
        self.words, self.own = self.box.get_by_label("Words to look up"), self.box.get_by_label("Names, with commas")

    def open(self, url: str) -> Part:
        """Open a page, come near the part, and wait for the model."""
        self.page.goto(url)
        self.box.scroll_into_view_if_needed()
        self.page.wait_for_function(NAMED, timeout=30_000)
        self.painted()
        return self

    def painted(self) -> None:
        self.page.evaluate(NEXT_FRAME)

    def link(self, hash: str) -> None:
        follow_link(self.page, hash)

    def type(self, text: str) -> None:
        self.words.fill(text)
        self.painted()

    def press(self, name: str, role: Any = "button") -> None:
        self.box.get_by_role(role, name=name, exact=True).click()
        self.painted()

    def icons(self) -> list[tuple[str, float]]:
        """The names of the icons that were found, and their cosines."""
        rows = self.found.locator("button[aria-pressed]").all_inner_texts()
        parts = [row.split("\n") for row in rows]
        return [(" ".join(part[:-1]).strip(), number(part[-1])) for part in parts]

    def names(self) -> list[tuple[str, float, float]]:
        """The names for the chosen icon with their shares and cosines; what is small below a name is left out."""
        script = """(rows) => rows.map((row) => [row.cells[0].firstChild.textContent, row.cells[1].textContent,
            row.cells[2].textContent])"""
        rows = self.box.locator(".lv-named tbody tr").evaluate_all(script)
        return [(name, number(share) / 100, number(cosine)) for name, share, cosine in rows]

    def chips(self) -> list[str]:
        """The words that the model reads; unknown ones in brackets."""
        script = "(tokens) => tokens.map((t) => t.localName === 's' ? `(${t.textContent})` : t.textContent)"
        words: list[str] = self.box.locator(".lv-token").evaluate_all(script)
        return words

    def said(self, n: int) -> Locator:
        """The sentence about the text (0) or about the icon (1)."""
        return self.box.locator(".lv-said").nth(n)


def number(text: str) -> float:
    """A number as it is shown."""
    return float(text.replace("−", "-").strip("✓<\xa0% "))


def stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SCRIPTS / "live_icons.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    if not FILE.exists() or 'data-live="icons"' not in FILE.read_text(encoding="utf-8"):
        pytest.fail(f"{FILE} has no part `icons`: build the book, or name another page in NEXTWORD_ICONS_PAGE")
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", reduced_motion="reduce")
    context.set_offline(True)
    yield context
    context.close()


@pytest.fixture(scope="module")
def opened(context: BrowserContext) -> Part:
    return Part(context.new_page()).open(FILE.as_uri())


@pytest.fixture
def part(opened: Part) -> Iterator[Part]:
    """The one page, as it is when it has just been opened; whatever a test does there must go well."""
    opened.link("#icons:text=" + stored()["text"])
    yield opened
    assert not opened.visit.problems, "\n".join(opened.visit.problems)
    foreign = [url for url in opened.visit.requests if not url.startswith(OWN)]
    assert not foreign, "\n".join(foreign)


# At first: what was stored


def test_without_javascript_the_stored_icons_stand_there(browser: Browser, context: BrowserContext) -> None:
    plain = browser.new_context(java_script_enabled=False)
    page = plain.new_page()
    page.goto(FILE.as_uri())
    box = page.locator('.nw-live[data-live="icons"]')
    expect(box).to_contain_text("These numbers are stored; with JavaScript the models answer to any text.")
    assert box.locator("li").count() == 12
    icon = box.locator(".lv-icon").nth(1)
    expect(icon).to_be_visible()
    looks = icon.evaluate("(e) => [getComputedStyle(e).backgroundColor, getComputedStyle(e).maskImage.slice(0, 20)]")
    assert looks[0] != "rgba(0, 0, 0, 0)" and looks[1].startswith('url("data:image/png')
    plain.close()


def test_the_chapter_opens_without_the_model_and_with_the_stored_example(context: BrowserContext) -> None:
    other = Part(context.new_page())
    other.page.goto(FILE.as_uri())
    other.painted()
    assert [[name, cosine] for name, cosine in other.icons()] == [[n, round(c, 2)] for _, n, c in stored()["found"]]
    assert [row[0] for row in other.names()] == [row[0] for row in stored()["named"]]
    assert not any("clip_icons.js" in url for url in other.visit.requests), "nobody has come near yet"
    before = other.icons(), other.names(), other.box.locator(".lv-quiet").all_inner_texts()
    other.words.focus()
    other.page.wait_for_function(NAMED, timeout=30_000)
    other.painted()
    after = other.icons(), other.names(), other.box.locator(".lv-quiet").all_inner_texts()
    assert before[:2] == after[:2], "the page computes what the library computed"
    shares = [re.findall(r"[\d.]+\s%", text) for text in before[2]]
    assert shares == [re.findall(r"[\d.]+\s%", text) for text in after[2]] and sum(map(len, shares)) == 6
    expect(other.box.get_by_role("status").first).to_contain_text("runs in this browser")
    expect(other.box).to_contain_text("MIT (Phosphor)")
    assert not other.visit.problems
    other.page.close()


def mini(folder: Path, without: tuple[str, ...] = (), places: int = 1, damaged: str = "") -> str:
    """A page of its own with the part, beside which some scripts are missing."""
    for script in SCRIPTS.iterdir():
        if script.name == damaged:
            (folder / script.name).write_text('NEXTWORD.model("clip_icons", {"base64": "AAAA"', encoding="utf-8")
        elif script.name not in without:
            (folder / script.name).symlink_to(script.resolve())
    content = f'stored<script type="application/json">{json.dumps(stored())}</script>'
    boxes = "".join(f'<div class="nw-live" data-live="icons">{"" if n else content}</div>' for n in range(places))
    scripts = "".join(f'<script defer src="{name}.js"></script>' for name in ("engine", "parts", "clip", "icons"))
    head = '<meta charset="utf-8"><link rel="stylesheet" href="live.css">'
    (folder / "mini.html").write_text(f"<!doctype html>{head}<h1>A page</h1>{boxes}{scripts}", encoding="utf-8")
    return (folder / "mini.html").as_uri()


@pytest.mark.parametrize("damaged", ["", "clip_icons.js"], ids=["missing", "damaged"])
def test_without_the_model_the_stored_example_stays(context: BrowserContext, tmp_path: Path, damaged: str) -> None:
    other = Part(context.new_page())
    other.page.goto(mini(tmp_path, ("clip_icons.js",), damaged=damaged))
    expect(other.box.get_by_role("status").first).to_contain_text("clip_icons.js is missing or damaged")
    assert len(other.icons()) == 12 and len(other.names()) == 10
    other.press("A name by lot")
    assert len(other.icons()) == 12
    other.type("something else")
    expect(other.found).to_contain_text("as soon as the model is there")
    other.page.close()


def test_without_its_scripts_the_fallback_stays(context: BrowserContext, tmp_path: Path) -> None:
    other = Part(context.new_page())
    other.page.goto(mini(tmp_path, ("clip.js",)))
    expect(other.box).to_contain_text("stored")
    expect(other.box).to_contain_text("a script of this page is missing")
    other.page.close()


def test_two_places_of_a_page_do_not_mix(context: BrowserContext, tmp_path: Path) -> None:
    first = Part(context.new_page()).open(mini(tmp_path, places=2))
    second = Part(first.page)
    second.box = first.page.locator(".nw-live").nth(1)
    second.found = second.box.locator(".lv-found:not(.lv-all)")
    before = second.icons()
    assert len(before) == 12
    first.type("rocket")
    assert first.icons() != before == second.icons()
    assert not first.visit.problems
    first.page.close()


def test_nothing_leaks_into_the_global_scope(part: Part) -> None:
    names = "state mind wake load found named build QUESTIONS h fill nextwordIcons Words CLIPTexts"
    leaked = part.page.evaluate(
        "(names) => names.split(' ').filter((name) => (0, eval)(`typeof ${name}`) !== 'undefined')", names
    )
    assert leaked == []


def likeness(part: Part) -> float:
    """How much the large icon looks like the picture of that name: the correlation of ink and brightness."""
    name = re.search("“(.*)”", part.box.locator(".lv-shown").inner_text())[1]
    picture = next(icon.picture for icon in live_icons.gallery().icons if icon.name == name)
    seen = Image.open(io.BytesIO(part.box.locator(".lv-large").screenshot())).convert("L").resize((32, 32), Image.BOX)
    return -float(np.corrcoef(np.asarray(seen).ravel(), np.frombuffer(picture, np.uint8))[0, 1])


def test_each_icon_is_its_own_picture(part: Part, context: BrowserContext, tmp_path: Path) -> None:
    for name in ("umbrella", "smiley", "x circle"):
        part.link(f"#icons:text=x&icon={name}")
        assert likeness(part) > 0.97
    before = Part(context.new_page())
    before.page.goto(mini(tmp_path, ("clip_icons.js",)))
    before.painted()
    assert likeness(before) > 0.97, "as it is stored"
    before.page.close()


# Words find pictures


def test_typing_finds_other_icons(part: Part) -> None:
    before = part.icons()
    part.type("car")
    after = part.icons()
    assert len(after) == 12 and after != before
    assert [cosine for _, cosine in after] == sorted((cosine for _, cosine in after), reverse=True)
    assert part.chips() == ["car"]
    own = part.found.get_by_role("button", name="the one called so")
    assert own.inner_text().split("\n")[0] == "car" and "✓" in own.inner_text()
    expect(part.said(0)).to_contain_text("“car” is a name that the model has learnt from other designers.")
    expect(part.said(0)).to_contain_text("comes at place 1 of 744")
    part.type("  CAR ")
    assert part.icons() == after, "what is typed is read in small letters"
    part.type("music")
    expect(part.said(0)).to_have_text("No icon here is called “music”.")


@pytest.mark.parametrize("text", ["", " ", "☕", "<b>bold</b>", "a" * 300, "heart " * 40, "__proto__", "\ufeff\u202e"])
def test_odd_texts(part: Part, text: str) -> None:
    part.type(text)
    assert len(part.icons()) == 12
    assert part.box.locator("b").count() == 0, "what is typed is no HTML"
    notes = part.box.locator(".lv-chips + p").inner_text()
    assert ("Nothing is typed" in notes) == (not text.strip())
    assert ("The text is cut after 200 characters" in notes) == (len(text) > 150)
    assert ("reads all unknown words as the same token" in notes) == (text.strip()[:5] not in ("", "heart"))
    if text.startswith("heart"):
        assert part.chips() == ["heart"] * 15 and "reads 15 words; the last 19 are left out" in notes


def test_all_unknown_words_find_the_same(part: Part) -> None:
    part.press("Does it notice nonsense?")
    found = part.icons()
    assert part.chips() == ["(blorp)"]
    part.type("qwertz")
    assert part.icons() == found and part.chips() == ["(qwertz)"]
    expect(part.box.locator(".lv-task:visible")).to_contain_text("does not know this word"), "the task goes on"


def test_the_mean_over_prompts(part: Part) -> None:
    part.type("compass")
    before = part.icons()
    part.press("mean over 10 prompts", "radio")
    assert part.icons() != before and len(part.icons()) == 12
    assert part.box.get_by_role("radio", name="mean over 10 prompts").get_attribute("aria-checked") == "true"
    part.press("as typed", "radio")
    assert part.icons() == before


@pytest.mark.parametrize("guess", ["first", "second to 12th", "further back"])
def test_guess_first(part: Part, guess: str) -> None:
    part.press("A name by lot")
    assert part.icons() == [] and "place" not in part.said(0).inner_text()
    assert "%" not in part.box.locator(".lv-found + .lv-said + .lv-quiet").inner_text()
    expect(part.box.locator(".lv-task:visible")).to_contain_text("Guess at which place it comes")
    part.press(guess)
    name, sentence = part.words.input_value(), part.said(0).inner_text()
    place = int(re.search(r"at place (\d+) of 744", sentence)[1])
    fits = {"first": place == 1, "second to 12th": 1 < place <= 12, "further back": place > 12}[guess]
    assert sentence.startswith(f"Your guess, {guess}, is {'right' if fits else 'wrong'}. “{name}” is ")
    assert (name in [found for found, _ in part.icons()]) == (place <= 12)
    if place <= 12:
        assert part.icons()[place - 1][0] == name


def test_typing_ends_a_guess(part: Part) -> None:
    part.press("Does a word of style count?")
    assert part.icons() == []
    part.type("compass outline")
    assert len(part.icons()) == 12
    expect(part.said(0)).not_to_contain_text("Your guess")


def test_every_question_sets_the_part_up(part: Part) -> None:
    buttons = part.box.locator(".lv-try")
    assert buttons.count() == 8
    for button in buttons.all():
        button.click()
        part.painted()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(part.box.locator(".lv-task:visible")).to_have_count(1)
        covers = part.box.locator(".lv-cover").count()
        assert len(part.icons()) + 12 * covers >= 12 and (part.names() or covers)


# Pictures find names


def test_an_icon_finds_names(part: Part) -> None:
    part.type("lock")
    part.found.get_by_role("button").first.click()
    part.painted()
    rows, name = part.names(), part.icons()[0][0]
    assert len(rows) in (10, 11) and [row[1] for row in rows[:10]] == sorted((r[1] for r in rows[:10]), reverse=True)
    assert sum(row[1] for row in rows[:10]) < 1.05
    expect(part.box.locator(".lv-shown")).to_contain_text(f"Its designer calls it “{name}”")
    place = int(re.search(r"at place (\d+) of 365", part.said(1).inner_text())[1])
    marked = part.box.locator(".lv-named tr.lv-guess")
    assert [row[0] for row in rows].index(name) == min(place, 11) - 1
    expect(marked).to_contain_text("its name")
    cosines = {row[0]: row[2] for row in rows}
    assert cosines[name] == part.icons()[0][1], "the cosine is the same in both directions"


def test_a_new_name_is_on_the_longer_list_only(part: Part) -> None:
    part.type("moon stars")
    part.found.get_by_role("button", name="the one called so").click()
    part.painted()
    expect(part.said(1)).to_contain_text("Its designer’s name, “moon stars”, is not on this list.")
    assert part.box.locator(".lv-named tr.lv-guess").count() == 0
    part.press("all 744 names", "radio")
    expect(part.said(1)).to_contain_text(re.compile(r"“moon stars”, comes at place \d+ of 744"))
    expect(part.box.locator(".lv-named tr.lv-guess")).to_have_count(1)


def test_a_list_of_ones_own_is_a_classifier(part: Part) -> None:
    part.press("What if no name fits?")
    rows = part.names()
    assert {row[0] for row in rows} == {"pizza", "dog", "hammer"}
    assert sum(row[1] for row in rows) == pytest.approx(1, abs=0.01) and rows[0][1] > 0.9 and rows[0][2] < 0.1
    expect(part.said(1)).to_contain_text("is not on this list. The shares add up to 100")
    part.own.fill("pizza, dog,hammer, Camera,, dog , <i>x</i>")
    part.painted()
    rows = part.names()
    assert [row[0] for row in rows][0] == "camera" and len(rows) == 5 and rows[0][1] > 0.9
    expect(part.said(1)).to_contain_text("“camera”, comes at place 1 of 5")
    assert part.box.locator("i").count() == 0
    part.own.fill(" , ")
    expect(part.box).to_contain_text("Type names, with commas between them.")
    assert part.names() == []
    part.own.fill(",".join(f"{letter}{n}" for letter in "abc" for n in range(20)))
    part.painted()
    expect(part.box).to_contain_text("The list is cut after 50 names; the last 10 are left out.")


def test_an_icon_by_lot_is_guessed_first(part: Part) -> None:
    part.press("An icon by lot")
    assert part.names() == []
    expect(part.box.locator(".lv-shown p")).to_have_text("What is it?")
    part.press("further back")
    sentence = part.said(1).inner_text()
    place = int(re.search(r"at place (\d+) of 365", sentence)[1])
    assert sentence.startswith(f"Your guess, further back, is {'right' if place > 10 else 'wrong'}.")
    assert len(part.names()) == (11 if place > 10 else 10)


def test_any_icon_can_be_chosen(part: Part) -> None:
    part.box.locator("summary").click()
    part.box.locator(".lv-all button").first.wait_for()
    assert part.box.locator(".lv-all button").count() == stored()["icons"]
    part.box.locator(".lv-all").get_by_role("button", name="umbrella", exact=True).click()
    part.painted()
    expect(part.box.locator(".lv-shown")).to_contain_text("Its designer calls it “umbrella”")
    expect(part.box.locator('.lv-all [aria-pressed="true"]')).to_have_attribute("title", "umbrella")
    part.box.locator("summary").click()


# Taking it along


@pytest.mark.parametrize("list", ["seen", "own"])
def test_the_python_prints_the_same_numbers(part: Part, list: str) -> None:
    part.link(f"#icons:text=Heart+%22x%22+%E2%98%95&icon=camera&list={list}&own=pizza,+%22dog,+camera&mean=1")
    part.press("Copy as Python")
    code = part.box.locator("pre").text_content() or ""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    lines = out.getvalue().splitlines()
    icons = [(name, float(cosine)) for cosine, name in (line.split(" ", 1) for line in lines[:12])]
    shown = part.icons()
    assert [name for name, _ in shown] == [name for name, _ in icons]
    assert [cosine for _, cosine in shown] == pytest.approx([cosine for _, cosine in icons], abs=0.0101)
    rows = [line.split(" ", 3) for line in lines[12:]]
    assert len(rows) == len(part.names()) == (10 if list == "seen" else 3)
    for (name, share, cosine), (c, s, _, n) in zip(part.names(), rows, strict=True):
        assert name == n and cosine == pytest.approx(float(c), abs=0.0101)
        assert share == pytest.approx(float(s) / 100, abs=0.0051)


def test_a_link_brings_everything_back(part: Part, context: BrowserContext) -> None:
    part.link("#icons:text=house+%26+%3Cb%3E&icon=umbrella&list=own&own=umbrella,+tree&mean=1")
    other = Part(context.new_page())
    other.open(copy_link(part.box))
    other.page.wait_for_function("() => document.querySelector('.lv-wide').value.startsWith('house')")
    other.painted()
    assert other.words.input_value() == "house & <b>" and other.own.input_value() == "umbrella, tree"
    assert (other.icons(), other.names()) == (part.icons(), part.names())
    expect(other.box).to_be_in_viewport()
    assert not other.visit.problems
    other.page.close()


@pytest.mark.parametrize("hash", ["#look-things-up", "#icons", "#icons:icon=nobody&list=constructor"])
def test_a_strange_link_does_no_harm(part: Part, hash: str) -> None:
    part.type("rocket")
    part.link(hash)
    assert part.words.input_value() == ("rocket" if ":" not in hash else "")
    assert len(part.icons()) == 12 and len(part.names()) >= 10


# For everybody


def test_keyboard_only(part: Part) -> None:
    """Text, prompts, an icon, a list, all icons: all of it without a mouse."""
    keys, key = part.page.keyboard, "() => document.activeElement.dataset.key ?? document.activeElement.localName"
    part.words.focus()
    keys.press("Control+A")
    keys.type("lock")
    for _ in range(7):
        keys.press("Tab")  # six questions, and then how the text is read
    assert part.page.evaluate("() => document.activeElement.getAttribute('role')") == "radio"
    keys.press("ArrowRight")
    part.painted()
    assert part.box.get_by_role("radio", name="mean over 10 prompts").get_attribute("aria-checked") == "true"
    keys.press("ArrowLeft")
    keys.press("Tab")
    part.painted()
    icons = part.found.locator("button").evaluate_all("(all) => all.map((button) => button.dataset.key)")
    keys.press("Home")
    keys.press("ArrowDown")
    below = part.page.evaluate(key)
    assert icons.index(below) == 6, "arrow keys know how many stand in a row"
    keys.press("ArrowRight")
    keys.press("Enter")
    part.painted()
    assert part.page.evaluate(key) == icons[7]
    expect(part.box.locator(".lv-shown")).to_contain_text(f"“{part.icons()[7][0]}”")
    ring = part.page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid", "the focus can be seen"
    keys.press("Tab")  # what follows: two questions, then the lists
    keys.press("Tab")
    keys.press("Tab")
    keys.press("ArrowLeft")
    part.painted()
    assert part.box.get_by_role("radio", name="a list of your own").get_attribute("aria-checked") == "true"
    keys.press("Tab")
    assert part.page.evaluate(key) == "input"
    keys.press("Tab")
    assert part.page.evaluate(key) == "summary"
    part.press("A name by lot")
    part.box.locator(".lv-cover button").first.focus()
    keys.press("ArrowRight")
    keys.press("Enter")
    part.painted()
    expect(part.said(0)).to_contain_text("Your guess, second to 12th")
    assert part.page.evaluate("() => !!document.activeElement.closest('.lv-found')"), "the focus is not lost"


def everything(part: Part) -> None:
    """Bring the part into the state in which it shows most."""
    part.link("#icons:text=heart+blorp+antidisestablishmentarianism&icon=umbrella&list=all")
    part.press("Copy as Python")


def gallery(part: Part) -> None:
    """Open the whole gallery."""
    part.box.locator("details").evaluate("(details) => { details.open = true; }")
    part.box.locator(".lv-all button").first.wait_for()


def no_name(part: Part) -> None:
    part.press("What if no name fits?")


def guessing(part: Part) -> None:
    part.press("A name by lot")


def test_no_sideways_scroll_on_a_phone(part: Part) -> None:
    part.page.set_viewport_size(PHONE)
    too_wide = """() => [...document.querySelectorAll(".nw-live *")]
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 90))"""
    for prepare in (everything, no_name, guessing, gallery):
        prepare(part)
        assert part.page.evaluate(too_wide) == []
        assert not part.page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
    part.box.locator("summary").click()
    part.page.set_viewport_size(DESKTOP)


def test_axe_finds_nothing_serious(part: Part) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for scheme in ("dark", "light"):
        part.page.emulate_media(color_scheme=scheme)
        part.page.wait_for_function("(theme) => document.documentElement.dataset.theme === theme", arg=scheme)
        for prepare in (everything, guessing, gallery) if scheme == "light" else (everything, guessing):
            prepare(part)
            options = {"preload": False, "resultTypes": ["violations"]}  # else it fetches style sheets
            report = Axe().run(part.page, {"include": [[".nw-live"]]}, options).response
            for violation in report["violations"]:
                if violation["impact"] in ("serious", "critical"):
                    nodes = [node["html"][:160] for node in violation["nodes"][:4]]
                    found.append(f"{scheme}: {violation['id']}: {violation['help']}: {nodes}")
    part.box.locator("summary").click()
    assert not found, "\n".join(found)


def test_ink_is_ink_in_both_themes(part: Part) -> None:
    colours = []
    for scheme in ("light", "dark"):
        part.page.emulate_media(color_scheme=scheme)
        part.page.wait_for_function("(theme) => document.documentElement.dataset.theme === theme", arg=scheme)
        icon = part.box.locator(".lv-icon").first
        colours.append(icon.evaluate("(e) => getComputedStyle(e).backgroundColor"))
        assert colours[-1] == part.box.evaluate("(e) => getComputedStyle(e).color")
    part.page.emulate_media(color_scheme="light")
    assert colours[0] != colours[1]


def test_budgets(part: Part, capsys: pytest.CaptureFixture[str]) -> None:
    """How long a letter takes; a busy machine may take some times as long."""
    times = part.page.evaluate(
        """async () => {
            const input = document.querySelector(".nw-live input"), times = [];
            const type = async (text) => {
                const began = performance.now();
                input.value = text;
                input.dispatchEvent(new Event("input"));
                await new Promise((done) => requestAnimationFrame(() => { times.push(performance.now() - began); done(); }));
            };
            for (let n = 1; n <= 24; n++) await type("umbrella and a red heart".slice(0, n));
            return times.sort((a, b) => a - b);
        }"""
    )
    marks = part.page.evaluate(
        "() => Object.fromEntries(performance.getEntriesByType('mark').map((mark) => [mark.name, mark.startTime]))"
    )
    reading = marks["nextword icons named"] - marks["nextword icons awake"]
    with capsys.disabled():
        print(f"\n  a letter {times[len(times) // 2]:.0f} ms with its frame, all names {reading:.0f} ms")
    assert times[len(times) // 2] < 150
