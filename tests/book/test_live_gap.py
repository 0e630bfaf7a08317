"""The part `gap` of BERT's chapter: a reader hides tokens, guesses, writes sentences, and compares two networks.

One page is opened for all of them. That the networks compute as the library does is tested elsewhere.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import BOOK, DESKTOP, NEXT_FRAME, PHONE, copy_link, follow_link
from playwright.sync_api import Browser, BrowserContext, expect
from test_live import OWN, Live, share

FILE = Path(os.environ.get("NEXTWORD_GAP_PAGE") or BOOK / "chapters/2018_bert.html").resolve()
SCRIPTS = FILE.parent.parent / "_static" / "live"
AWAKE = "() => performance.getEntriesByName('nextword gap awake').length"
WEIGHTS = ("weights_bert_both_ways.js", "weights_bert_left_to_right.js")
DELTA = re.compile(r"Δ ln p = ([+−]?\d+\.\d\d)")


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def likely(text: str) -> float:
    """The probability in a cell that may say `1 in 4,000`, up to its bits."""
    one_in = re.match(r"1 in ([\d,]+)", text)
    if one_in:
        return 1 / number(one_in[1])
    return 0 if text.startswith("under") else share(text.split("%")[0])


class Gap(Live):
    """The part as a reader uses it."""

    def come(self) -> Gap:
        """Scroll to the part, and wait until both networks are awake."""
        self.box.scroll_into_view_if_needed()
        self.page.wait_for_function(AWAKE)
        self.answered()
        return self

    @property
    def box(self) -> Any:
        return self.part("gap").first

    def press_in(self, name: str) -> None:
        self.box.get_by_role("button", name=name, exact=True).click()
        self.answered()

    def write(self, text: str) -> None:
        """Type a text where the reader's own sentence stands."""
        editor = self.box.get_by_label("Your sentence")
        if not editor.is_visible():
            self.press_in("Write your own sentence")
        editor.fill(text)
        self.answered()

    def show(self, text: str, *hidden: str) -> None:
        """Begin anew with a text, and hide these of its tokens."""
        self.write("")
        self.write(text)
        for token in hidden:
            self.toggle(token)

    def toggle(self, token: str) -> None:
        name = re.compile(rf"^{token}(,|$)")  # what is said of it besides stands behind a comma
        self.box.get_by_role("toolbar").get_by_role("button", name=name).first.click()
        self.answered()

    def said(self) -> str:
        return str(self.box.locator(".lv-said").last.inner_text())

    def words(self) -> dict[str, list[str]]:
        """The cells of the table by the token at the head of their row."""
        return {row[0].split("\n")[0].replace("·", "").strip(): row[1:] for row in self.rows("gap")}


def example() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SCRIPTS / "live_gap.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    if not FILE.exists() or not (SCRIPTS / "live_gap.json").exists():
        pytest.fail(f"{FILE} has no part `gap`: build the book, or name another page in NEXTWORD_GAP_PAGE")
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", reduced_motion="reduce")
    context.set_offline(True)
    yield context
    context.close()


@pytest.fixture(scope="module")
def opened(context: BrowserContext) -> Gap:
    gap = Gap(context.new_page())
    gap.page.goto(FILE.as_uri())
    return gap.come()


@pytest.fixture
def gap(opened: Gap) -> Iterator[Gap]:
    """The one page; whatever a test does there must go well."""
    yield opened
    assert not opened.visit.problems, "\n".join(opened.visit.problems)
    foreign = [url for url in opened.visit.requests if not url.startswith(OWN)]
    assert not foreign, "\n".join(foreign)


def mini(folder: Path, without: tuple[str, ...] = (), places: int = 1) -> str:
    """A page of its own, beside which some scripts are missing."""
    for script in SCRIPTS.iterdir():
        if script.name not in without:
            (folder / script.name).symlink_to(script.resolve())
    stored = f'stored<script type="application/json">{json.dumps(example())}</script>'
    mounts = "".join(f'<div class="nw-live" data-live="gap">{"" if n else stored}</div>' for n in range(places))
    names = ("engine", "parts", "tokenizer", "encoder", "gap")
    scripts = "".join(f'<script defer src="{name}.js"></script>' for name in names)
    head = '<meta charset="utf-8"><link rel="stylesheet" href="live.css">'
    (folder / "mini.html").write_text(f"<!doctype html>{head}<h1>A page</h1>{mounts}{scripts}", encoding="utf-8")
    return (folder / "mini.html").as_uri()


# At first: what was stored


def test_without_javascript_the_stored_numbers_stand_there(browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(FILE.as_uri())
    expect(page.locator('.nw-live[data-live="gap"] table')).to_contain_text("which stood there")
    context.close()


def test_nothing_is_loaded_until_the_reader_comes_near(context: BrowserContext) -> None:
    gap = Gap(context.new_page())
    gap.page.goto(FILE.as_uri())
    gap.page.wait_for_function("() => performance.getEntriesByName('nextword gap stored').length")
    gap.answered()
    assert not any(name in url for url in gap.visit.requests for name in WEIGHTS)
    stored, said = gap.words(), gap.said()
    assert len(stored) == len(example()["both"]) and "…" not in str(stored)
    expect(gap.box.get_by_role("status").first).to_contain_text("These numbers are stored")
    gap.come()
    expect(gap.box.get_by_role("status").first).to_contain_text("Both networks are awake")
    assert (gap.words(), gap.said()) == (stored, said), "the networks say what the library said"
    difference = re.search(r"at most (\d\.\d+)\.$", gap.box.get_by_role("status").first.inner_text())
    assert difference
    assert float(difference[1]) < 1e-4
    assert [sum(name in url for url in gap.visit.requests) for name in WEIGHTS] == [1, 1]
    assert not gap.visit.problems
    gap.page.close()


def test_a_missing_network_is_said_and_the_stored_example_stays(context: BrowserContext, tmp_path: Path) -> None:
    gap = Gap(context.new_page())
    gap.page.goto(mini(tmp_path, WEIGHTS[1:]))
    expect(gap.box.get_by_role("status").first).to_contain_text(f"{WEIGHTS[1]} is missing or damaged")
    assert len(gap.words()) == len(example()["both"])
    gap.write("Tom is here")
    gap.toggle("is")
    expect(gap.box).to_contain_text("Only of the first sentence there are numbers")
    expect(gap.box.get_by_role("button", name="Hide each in turn")).to_be_disabled()
    gap.page.close()


@pytest.mark.parametrize("script", ["engine.js", "parts.js", "encoder.js", "tokenizer.js"])
def test_without_a_script_the_stored_numbers_stay(context: BrowserContext, tmp_path: Path, script: str) -> None:
    page = context.new_page()
    page.goto(mini(tmp_path, (script,)))
    expect(page.locator(".nw-live")).to_contain_text("stored")
    expect(page.locator(".nw-live")).to_contain_text(f"a script of this page is missing ({script}")
    page.close()


def test_two_places_on_a_page_keep_apart(context: BrowserContext, tmp_path: Path) -> None:
    gap = Gap(context.new_page())
    gap.page.goto(mini(tmp_path, places=2))
    gap.come()
    second = gap.part("gap").nth(1)
    gap.show("Tom is here.", "Tom")
    second.get_by_role("toolbar").get_by_role("button").first.click()
    gap.answered()
    assert second.locator(".lv-chip").count() == len(example()["ids"])
    assert second.locator(".lv-gap").count() == 2
    assert gap.box.locator(".lv-gap").count() == 1
    assert [sum(name in url for url in gap.visit.requests) for name in WEIGHTS] == [1, 1]
    assert not gap.visit.problems
    gap.page.close()


def test_nothing_leaks_into_the_global_scope(gap: Gap) -> None:
    names = "state paint view models bpe QUESTIONS nextwordGap MaskedLM"
    found = gap.page.evaluate(
        "(names) => names.split(' ').filter((name) => (0, eval)(`typeof ${name}`) !== 'undefined')", names
    )
    assert found == []


# One gap


def test_a_press_hides_and_a_second_one_shows(gap: Gap) -> None:
    gap.show("She is a teacher at my school.")
    assert gap.words() == {}
    expect(gap.box).to_contain_text("Nothing is hidden")
    gap.toggle("teacher")
    assert [token for token, _ in gap.chips("gap")][:5] == ["start", "She", "·is", "·a", "[MASK]"]
    rows = gap.rows("gap")
    assert rows[0][0].replace("·", "").split("\n") == ["teacher", "stood there"]
    assert 6 <= len(rows) - 1 <= 12
    gap.toggle("teacher")
    assert gap.words() == {}


def test_delta_is_the_difference_of_the_bits(gap: Gap) -> None:
    gap.show("She is a teacher at my school.", "teacher")
    both, left = (float(re.search(r"([\d.]+)\sbits", cell)[1]) for cell in gap.words()["teacher"])  # type: ignore[index]
    delta = number(DELTA.match(gap.said())[1])  # type: ignore[index]
    assert delta == pytest.approx((left - both) * math.log(2), abs=0.08)
    times = re.search(r"“teacher” is ([\d,.]+) times as likely|by a factor of ([\d,.]+)\.", gap.said())
    assert times
    assert number(times[1] or times[2]) == pytest.approx(math.exp(abs(delta)), rel=0.06)


def test_the_left_side_only_network_does_not_see_the_right_side(gap: Gap) -> None:
    gap.show("She is a teacher at my school.", "teacher")
    before = gap.words()["teacher"]
    gap.write("She is a teacher in the war against the king")
    after = gap.words()["teacher"]
    assert [token for token, _ in gap.chips("gap")][4] == "[MASK]", "the gap stays where the left side does"
    assert before[0] != after[0]
    assert before[1] == after[1]
    gap.write("Today she is a teacher in the war against the king")
    tokens = [token for token, _ in gap.chips("gap")]
    assert tokens[tokens.index("[MASK]") - 1] == "·a", "and moves along with what stands behind it"
    gap.write("Today")
    assert gap.words() == {}


def test_nothing_on_the_right(gap: Gap) -> None:
    gap.show("She is a teacher", "teacher")
    expect(gap.box.locator(".lv-said").last).to_contain_text("Nothing stands on the right")


def test_guess_first(gap: Gap) -> None:
    gap.box.locator(".lv-try").first.click()
    gap.answered()
    assert gap.words() == {}
    assert "%" not in gap.box.inner_text()
    assert "[MASK]" in gap.box.inner_text()
    expect(gap.box.locator(".lv-task")).to_be_visible()
    expect(gap.box.get_by_label("Your sentence")).to_be_hidden()
    gap.box.get_by_label("Your guess").fill("sister")
    gap.page.keyboard.press("Enter")
    gap.answered()
    heads = [row[0].replace("·", "").split("\n") for row in gap.rows("gap")[:2]]
    assert [what for _, what in heads] == ["stood there", "your guess"]
    assert heads[1][0] == "sister"
    assert likely(gap.rows("gap")[1][1]) > 0


@pytest.mark.parametrize(
    ("guess", "told"),
    [
        ("teacher", "stood there, as you guessed"),
        ("critics", "the first of its 2 tokens"),
        ("<b>☕", "of its"),
        (" ", ""),
    ],
)
def test_guesses_of_all_kinds(gap: Gap, guess: str, told: str) -> None:
    gap.show("She is a teacher at my school.", "teacher")
    gap.box.get_by_label("Your guess").fill(guess)
    gap.press_in("Look it up")
    table = gap.box.locator("table")
    expect(table).to_contain_text(told)
    assert ("guess" in table.inner_text()) == bool(told)
    assert table.locator("b").count() == 0


def test_show_without_a_guess(gap: Gap) -> None:
    gap.box.locator(".lv-try").first.click()
    gap.answered()
    gap.press_in("Show the answers")
    assert len(gap.words()) > 6
    assert gap.page.evaluate("() => document.activeElement.getAttribute('aria-pressed')") == "true"


def test_each_question_has_an_answer(gap: Gap) -> None:
    for number, button in enumerate(gap.box.locator(".lv-try").all()):
        button.click()
        gap.answered()
        assert "[MASK]" in [token for token, _ in gap.chips("gap")], number
        if gap.box.get_by_role("button", name="Show the answers").is_visible():
            gap.press_in("Show the answers")
        assert len(gap.words()) >= 4, number
        expect(gap.box.locator(".lv-task")).not_to_be_empty()


# Several gaps


def test_two_neighbours_are_filled_independently_at_first(gap: Gap) -> None:
    gap.show("I want to go for a walk.", "want", "to")
    places = [[float(p) for p in re.findall(r"([\d.]+)\s%", text)] for text in gap.box.locator("li").all_inner_texts()]
    best = next(row for row in gap.rows("gap") if "best of each place" in row[0])
    assert likely(best[1]) == pytest.approx(places[0][0] * places[1][0] / 1e4, rel=0.1)
    right = gap.rows("gap")[0]
    assert "stood there" in right[0]
    told = [number(x) for x in re.findall(r"−\d+\.\d\d", gap.said())]
    assert [likely(cell) for cell in right[1:]] == pytest.approx([math.exp(x) for x in told], rel=0.06)
    assert any("asked again" in row[0] for row in gap.rows("gap"))
    assert any("GPT’s way" in row[0] for row in gap.rows("gap"))
    assert 4 <= len(gap.rows("gap")) <= 7


def test_no_more_than_three_at_once(gap: Gap) -> None:
    gap.show("She is a teacher at my school.", "She", "a", "teacher")
    assert len(gap.rows("gap")[0]) == 4
    gap.toggle("at")
    expect(gap.box).to_contain_text("At most 3 tokens can be hidden at once")
    assert [token for token, _ in gap.chips("gap")].count("[MASK]") == 3
    gap.toggle("a")
    expect(gap.box).not_to_contain_text("At most 3")


# Each in turn


def test_hide_each_in_turn(gap: Gap) -> None:
    gap.show("We were late because the bus did not come.", "late")
    before = gap.words()["late"]
    assert [number for _, number in gap.chips("gap")] == [""] * len(gap.chips("gap"))
    delta = DELTA.match(gap.said())
    assert delta
    gap.press_in("Hide each in turn")
    expect(gap.box.locator(".lv-said").first).to_contain_text("on average")
    numbers = {token: text for token, text in gap.chips("gap")[1:]}
    assert numbers["[MASK]"] == delta[1], "the gap is one of them"
    mean = number(DELTA.match(gap.box.locator(".lv-said").first.inner_text())[1])  # type: ignore[index]
    each = [number(text) for _, text in gap.chips("gap")[1:]]
    assert mean == pytest.approx(sum(each) / len(each), abs=0.011)
    helped = re.search(r"helps at (\d+) of (\d+)", gap.box.locator(".lv-said").first.inner_text())
    assert helped
    assert [int(n) for n in helped.groups()] == [sum(x > 0 for x in each), len(each)]
    assert gap.words()["late"] == before
    gap.write("We were late because the bus did not")
    assert {number for _, number in gap.chips("gap")} == {""}, "they belong to another text"
    expect(gap.box).not_to_contain_text("on average")


def test_a_long_text_in_turn_can_be_interrupted(gap: Gap) -> None:
    gap.show("The old king said that he would never go back to the city where he was born. " * 3)
    gap.box.get_by_role("button", name="Hide each in turn").click()
    gap.write("She is a teacher.")
    assert {number for _, number in gap.chips("gap")} == {""}
    gap.press_in("Hide each in turn")
    expect(gap.box).to_contain_text("helps at")
    assert all(re.fullmatch(r"[+−]?\d+\.\d\d", text) for _, text in gap.chips("gap")[1:])


# Texts


@pytest.mark.parametrize(
    "text", ["", " ", "<b>bold</b> & <script>alert(1)</script>", "☕ 日本 👩‍🔬", "\ufffd", "x\t\ufeffy"]
)
def test_odd_texts(gap: Gap, text: str) -> None:
    gap.show(text)
    chips = gap.box.get_by_role("toolbar").get_by_role("button")
    assert (chips.count() > 0) == (text != "")
    assert gap.box.get_by_role("toolbar").locator("b").count() == 0, "what is typed is no HTML"
    if text:
        chips.first.click()
        gap.answered()
        assert len(gap.rows("gap")) > 6
        gap.press_in("Hide each in turn")
        expect(gap.box).to_contain_text("on average")
    else:
        expect(gap.box.get_by_role("button", name="Hide each in turn")).to_be_disabled()


def test_a_long_text_is_cut_and_the_page_says_so(gap: Gap) -> None:
    gap.show("A word and another. " * 29)
    expect(gap.box).to_contain_text("The text is cut after 59 tokens")
    assert len(gap.chips("gap")) == 60
    gap.show("Short again")
    expect(gap.box.locator(".lv-trouble")).to_be_hidden()


@pytest.mark.parametrize("hidden", [("capital",), ("capital", "of")])
def test_the_python_prints_the_same_numbers(gap: Gap, hidden: tuple[str, ...]) -> None:
    gap.show("He said \"no\", \\ and \u202e'x' {0} ☕ The capital of Spain", *hidden)
    gap.press_in("Copy as Python")
    code = gap.box.locator("pre").text_content() or ""
    assert "\u202e" not in code, "what turns text around is spelled out"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    lines = [
        re.match(r" *(\d+) (\w+) side\w* +'(.*?)' +([\d.]+) %, ln p (-[\d.]+)$", line)
        for line in out.getvalue().splitlines()
    ]
    assert all(lines)
    found = [line.groups() for line in lines if line]
    if len(hidden) == 1:
        words = gap.words()
        assert len(found) in (12, 13, 14)
        for _, side, token, percent, _ in found:
            cell = words[token.strip() or token][0 if side == "both" else 1]
            assert likely(cell) == pytest.approx(float(percent) / 100, rel=0.06, abs=0.0006), (token, side)
    else:
        right = {(side, token.strip()): float(ln_p) for _, side, token, _, ln_p in found if token.strip() in hidden}
        told = [number(x) for x in re.findall(r"−\d+\.\d\d", gap.said())]
        for side, value in (("both", told[0]), ("left", told[2])):
            assert sum(right[side, token] for token in hidden) == pytest.approx(value, abs=0.011)


# Links


def seen(gap: Gap) -> tuple[Any, ...]:
    """What stands in the part, but for what is said of its links."""
    task = gap.box.locator(".lv-task").is_visible()
    guess = gap.box.get_by_label("Your guess").input_value()
    return gap.chips("gap"), gap.rows("gap"), gap.said(), guess, task


def covered(gap: Gap) -> None:
    gap.box.locator(".lv-try").first.click()
    gap.answered()


def guessed(gap: Gap) -> None:
    gap.show('He said "no" & <b>\n☕ + #1 is a teacher', "teacher")
    gap.box.get_by_label("Your guess").fill("pupil & co")
    gap.press_in("Look it up")


def several(gap: Gap) -> None:
    gap.show("She is a teacher at my school. " * 9, "She", "teacher", "school")


def nothing(gap: Gap) -> None:
    gap.show("")


@pytest.mark.parametrize("prepare", [covered, guessed, several, nothing])
def test_a_link_brings_everything_back(gap: Gap, context: BrowserContext, prepare: Any) -> None:
    prepare(gap)
    other = Gap(context.new_page())
    other.page.goto(copy_link(gap.box))
    other.page.wait_for_function(AWAKE)
    other.answered()
    expect(other.box).to_be_in_viewport()
    chips, rows, said, guess, _ = seen(gap)
    assert seen(other) == (chips, rows, said, guess, False), "the task of a question is not part of the link"
    assert copy_link(other.box).split("#")[1] == copy_link(gap.box).split("#")[1]
    assert not other.visit.problems
    other.page.close()


@pytest.mark.parametrize(
    "hash", ["#some-heading", "#gap", "#gap:", "#gap:hidden=1&guess=x", "#taste:text=x", "#text=x", "#gap:hidden=%"]
)
def test_a_foreign_or_damaged_link_changes_nothing(gap: Gap, hash: str) -> None:
    gap.show("She is a teacher at my school.", "teacher")
    before, place = seen(gap), gap.page.evaluate("() => scrollY")
    gap.box.get_by_role("button", name="Copy as Python").click()
    follow_link(gap.page, hash)
    assert seen(gap) == before
    expect(gap.box.locator("pre")).to_be_visible()
    assert hash == "#some-heading" or gap.page.evaluate("() => scrollY") == pytest.approx(place, abs=1)


def test_a_link_out_of_range_is_cut(gap: Gap) -> None:
    follow_link(gap.page, "#gap:text=One+two+three+four&covered=1&hidden=0,99,-1,1.5,x,,1e1&guess=" + "g" * 99)
    assert [token for token, _ in gap.chips("gap")] == ["start", "One", "·two", "·three", "·four"]
    assert gap.words() == {}
    expect(gap.box).to_contain_text("Nothing is hidden")
    follow_link(gap.page, "#gap:text=One+two+three+four&hidden=4,2,1,3,2&guess=" + "g" * 99)
    assert [token for token, _ in gap.chips("gap")] == ["start", "[MASK]", "[MASK]", "[MASK]", "·four"]
    assert len(gap.box.get_by_label("Your guess").input_value()) == 40
    follow_link(gap.page, "#gap:text=" + "A+word+and+another.+" * 99)
    expect(gap.box).to_contain_text("The text is cut after 59 tokens")
    gap.press_in("Write your own sentence")
    assert len(gap.box.get_by_label("Your sentence").input_value()) < 600


def test_what_was_copied_is_forgotten_when_the_state_changes(gap: Gap) -> None:
    gap.show("She is a teacher at my school.", "teacher")
    gap.box.get_by_role("button", name="Copy link").focus()
    gap.page.keyboard.press("Enter")
    told = gap.box.get_by_text(re.compile("Link copied|here it is"))
    expect(told).to_be_visible()
    gap.page.keyboard.press("Tab")
    gap.page.keyboard.press("Enter")
    expect(gap.box.get_by_text(re.compile("Python copied|here it is"))).to_be_visible()
    gap.press_in("Hide each in turn")
    expect(gap.box.locator("pre")).to_be_visible()
    gap.toggle("my")
    expect(gap.box.locator("pre")).to_be_hidden()
    expect(gap.box.get_by_text(re.compile("copied|here it is"))).to_have_count(0)
    gap.toggle("teacher")
    gap.toggle("my")
    expect(gap.box.get_by_role("button", name="Copy as Python")).to_be_disabled()  # nothing is hidden
    expect(gap.box.get_by_role("button", name="Copy link")).to_be_enabled()


# For everybody


def test_keyboard_only(gap: Gap) -> None:
    """A sentence, a gap, a guess, another gap: all of it without a mouse."""
    keys = gap.page.keyboard
    gap.show("")
    gap.box.get_by_label("Your sentence").focus()
    keys.type("Mary is a teacher at my school.")
    gap.answered()
    gap.box.get_by_role("toolbar").get_by_role("button").first.focus()
    keys.press("End")
    keys.press("ArrowLeft")
    keys.press("Enter")
    gap.answered()
    assert gap.words().get("school")
    assert gap.page.evaluate("() => document.activeElement.textContent") == "[MASK]", "the focus stays"
    assert gap.page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    visited = []
    while len(visited) < 9 and visited[-1:] != ["input"]:
        keys.press("Tab")
        visited.append(gap.focused().removeprefix("gap "))
    assert visited == ["button", "button", "button", "button", "textarea", "input"], visited
    keys.type("house")
    keys.press("Enter")
    gap.answered()
    expect(gap.box.locator("table")).to_contain_text("your guess")
    assert gap.focused() == "gap input"
    assert gap.box.get_by_role("toolbar").locator("[tabindex='0']").count() == 1, "the tokens are one stop"


def everything(gap: Gap) -> None:
    """Bring the part into the state in which it shows most."""
    gap.show(
        "Mary said that Antidisestablishmentarianism ☕ is what she believes in, and much more of the same.",
        "said",
        "that",
    )
    gap.press_in("Hide each in turn")
    expect(gap.box.locator(".lv-said").first).to_contain_text("on average")
    gap.press_in("Copy as Python")


def test_no_sideways_scroll_on_a_phone(gap: Gap) -> None:
    gap.page.set_viewport_size(PHONE)
    too_wide = """() => [...document.querySelectorAll(".nw-live *")]
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 90))"""
    found, scrolls = [], False
    for prepare in (everything, lambda gap: gap.show("Llanfairpwllgwyngyll is far away from here", "far")):
        prepare(gap)
        found += gap.page.evaluate(too_wide)
        scrolls |= gap.page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
    gap.page.set_viewport_size(DESKTOP)
    assert not found, "\n".join(found)
    assert not scrolls


def test_axe_finds_nothing_serious(gap: Gap) -> None:
    from axe_playwright_python.sync_playwright import Axe

    everything(gap)
    found = []
    for scheme in ("light", "dark"):
        gap.page.emulate_media(color_scheme=scheme)
        gap.page.wait_for_function("(theme) => document.documentElement.dataset.theme === theme", arg=scheme)
        gap.page.evaluate(NEXT_FRAME)
        options = {"preload": False, "resultTypes": ["violations"]}  # else it would fetch style sheets
        report = Axe().run(gap.page, {"include": [[".nw-live"]]}, options).response
        for violation in report["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:160] for node in violation["nodes"][:4]]
                found.append(f"{scheme}: {violation['id']}: {violation['help']}: {nodes}")
    gap.page.emulate_media(color_scheme="light")
    assert not found, "\n".join(found)
