"""The part `taste` of InstructGPT's chapter: a reader lets four models write, asks judges, and keeps the best of n.

One page is opened for all of them. That models and judges compute as the library does is tested elsewhere; here the Python
that the page hands out is executed, and must print the numbers that stand on the page.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import BOOK, DESKTOP, NEXT_FRAME, PHONE, Visit, copy_link, follow_link, watch
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

FILE = Path(os.environ.get("NEXTWORD_TASTE_PAGE") or BOOK / "chapters/2022_instructgpt.html").resolve()
SCRIPTS = FILE.parent.parent / "_static" / "live"
OWN = ("file:", "blob:", "data:", "about:")
NAMES = {"base": "base", "supervised": "supervised", "ppo": "PPO", "ppo_ptx": "PPO-ptx"}
JUDGES = ("reward model", "second reward model", "counted words", "lexicon")


def number(text: str) -> float:
    return float(re.sub(r"\s.*", "", text.replace("−", "-"), flags=re.DOTALL))


class Taste:
    """The part as a reader uses it."""

    def __init__(self, page: Page) -> None:
        self.page, self.visit = page, Visit()
        watch(page, lambda: self.visit)
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        self.box = page.locator(".nw-live").first

    def open(self, url: str) -> Taste:
        self.page.goto(url)
        self.page.wait_for_function("() => performance.getEntriesByName('nextword taste stored').length")
        return self

    def button(self, name: str) -> Locator:
        return self.box.get_by_role("button", name=name, exact=True)

    def press(self, name: str, says: str = "") -> None:
        """Press a button, and wait until the status line, if one is meant, says that it is over."""
        for status in self.box.locator(".lv-status").all():
            status.evaluate("(line) => { line.textContent = ''; }")  # or what it said before would do
        self.button(name).click()
        if says:
            expect(self.box.locator(".lv-status", has_text=says)).to_be_visible()
        self.page.evaluate(NEXT_FRAME)

    def write(self, text: str = "This is the best film", seed: int = 1) -> list[str]:
        self.box.get_by_label("Beginning, or your own").fill(text)
        self.box.get_by_label("Seed").fill(str(seed))
        self.press("Write", "All four have written")
        return self.texts()

    def texts(self) -> list[str]:
        return self.box.locator(".lv-papers .lv-words").all_inner_texts()

    def rows(self, n: int) -> dict[str, list[str]]:
        """The cells of a table by the names of its rows: 0 of the answers, 1 of the means, 2 of best of n."""
        script = """(rows) => rows.map((row) => [row.cells[0].firstChild.textContent,
            ...[...row.cells].slice(1).map((cell) => cell.innerText.trim())])"""
        found: list[list[str]] = self.box.locator(".lv-judged").nth(n).locator("tbody tr").evaluate_all(script)
        return {name: cells for name, *cells in found}

    def heads(self, n: int) -> list[str]:
        return [
            " ".join(t.split())
            for t in self.box.locator(".lv-judged").nth(n).locator("th[scope=col]").all_inner_texts()
        ]

    def focused(self) -> str:
        script = "() => { const e = document.activeElement; return e.id || e.textContent.slice(0, 24); }"
        name: str = self.page.evaluate(script)
        return name


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    if not FILE.exists():
        pytest.fail(f"{FILE} is missing: build the book, or name another page in NEXTWORD_TASTE_PAGE")
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", reduced_motion="reduce")
    context.set_offline(True)
    yield context
    context.close()


@pytest.fixture(scope="module")
def opened(context: BrowserContext) -> Taste:
    return Taste(context.new_page()).open(FILE.as_uri())


@pytest.fixture
def taste(opened: Taste) -> Iterator[Taste]:
    """The one page; whatever a test does there must go well."""
    yield opened
    assert not opened.visit.problems, "\n".join(opened.visit.problems)
    foreign = [url for url in opened.visit.requests if not url.startswith(OWN)]
    assert not foreign, "\n".join(foreign)


def stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SCRIPTS / "live_taste.json").read_text(encoding="utf-8"))
    return content


def mini(folder: Path, without: tuple[str, ...] = (), places: int = 1) -> str:
    """A page of its own, beside which some scripts are missing."""
    for script in SCRIPTS.iterdir():
        if script.name not in without:
            (folder / script.name).symlink_to(script.resolve())
    content = f'stored<script type="application/json">{json.dumps(stored())}</script>'
    boxes = "".join(f'<div class="nw-live" data-live="taste">{"" if n else content}</div>' for n in range(places))
    scripts = "".join(
        f'<script defer src="{name}.js"></script>' for name in ("engine", "parts", "tokenizer", "judges", "taste")
    )
    head = '<meta charset="utf-8"><link rel="stylesheet" href="live.css">'
    (folder / "mini.html").write_text(f"<!doctype html>{head}<h1>A page</h1>{boxes}{scripts}", encoding="utf-8")
    return (folder / "mini.html").as_uri()


# At first: what was stored


def test_without_javascript_answers_and_numbers_stand_there(browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(FILE.as_uri())
    box = page.locator('.nw-live[data-live="taste"]')
    for answer in stored()["answers"].values():
        expect(box).to_contain_text(answer["text"])
    assert box.locator("tbody tr").count() == 5
    context.close()


def test_at_first_the_stored_answers_are_shown_and_nothing_is_loaded(taste: Taste) -> None:
    assert not any("weights_" in url or "taste_tables" in url for url in taste.visit.requests)
    told = stored()
    for n, found in enumerate((told["answers"], told["means"])):
        for row, key in zip(JUDGES, ("reward", "judge", "counts", "lexicon"), strict=True):
            shown = [number(cell) for cell in taste.rows(n)[row]]
            assert shown == pytest.approx([found[name][key] for name in NAMES], abs=0.0501), (n, row)
    assert taste.heads(1) == [f"{name} n = 64, stored" for name in NAMES.values()]
    assert [text.strip() for text in taste.texts()] == [told["answers"][name]["text"] for name in NAMES]


def test_missing_weights_are_said_and_the_stored_answers_stay(context: BrowserContext, tmp_path: Path) -> None:
    taste = Taste(context.new_page()).open(mini(tmp_path, ("weights_taste_ppo.js",)))
    texts = taste.texts()
    taste.press("Write", "weights_taste_ppo.js is missing or damaged")
    assert taste.texts() == texts
    expect(taste.box.locator(".lv-trouble.lv-status")).to_have_count(1)
    taste.press("Judge this text alone", "Your text was judged")
    expect(taste.box.locator(".lv-trouble.lv-status")).to_have_count(0)
    taste.page.close()


def test_without_the_judges_the_stored_content_stays(context: BrowserContext, tmp_path: Path) -> None:
    page = context.new_page()
    page.goto(mini(tmp_path, ("judges.js",)))
    expect(page.locator(".nw-live")).to_contain_text("stored")
    expect(page.locator(".nw-live")).to_contain_text("a script of this page is missing")
    page.close()


def test_two_places_share_the_models(context: BrowserContext, tmp_path: Path) -> None:
    taste = Taste(context.new_page()).open(mini(tmp_path, places=2))
    boxes = taste.page.locator(".nw-live")
    for n in (0, 1):
        boxes.nth(n).get_by_role("button", name="Judge this text alone").click()
        expect(boxes.nth(n)).to_contain_text("Your text was judged")
    assert len([url for url in taste.visit.requests if "weights_" in url]) == 2
    ids = taste.page.locator("[id]").evaluate_all("(all) => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))
    assert not taste.visit.problems
    taste.page.close()


def test_nothing_leaks_into_the_global_scope(taste: Taste) -> None:
    names = "POLICIES JUDGES NAMES awake panel stored mountIn bpe h nextwordTaste"
    script = "(names) => names.split(' ').filter((name) => (0, eval)(`typeof ${name}`) !== 'undefined')"
    assert taste.page.evaluate(script, names) == []


# Four models write


def test_four_models_write_and_the_same_seed_writes_the_same(taste: Taste) -> None:
    first = taste.write(seed=3)
    assert len(first) == 4
    n = taste.heads(1)[0]
    assert re.fullmatch(r"base n = \d+", n)
    assert taste.write(seed=3) == first
    assert taste.heads(1)[0] == n, "the same answers are not counted twice"
    assert taste.write(seed=4) != first
    assert int(taste.heads(1)[0].split()[-1]) == int(n.split()[-1]) + 1
    table = taste.rows(0)
    assert list(table) == [*JUDGES, "log ratio", "length"]
    assert number(table["log ratio"][1]) == 0
    assert all(1 <= number(length) <= 40 for length in table["length"])


def test_the_python_that_it_hands_out_prints_the_numbers_of_the_page(
    taste: Taste, monkeypatch: pytest.MonkeyPatch
) -> None:
    taste.write("It's a film", seed=5)
    taste.press("Copy as Python")
    code = taste.box.locator(".lv-code").inner_text()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "copied", "exec"), {})
    table = taste.rows(0)
    for n, line in enumerate(printed.getvalue().strip().split("\n")):
        name, *numbers = re.sub(r"(reward|judge|counts|lexicon|log ratio) ", "", line).split()
        assert name == list(NAMES)[n]
        shown = [number(table[row][n]) for row in (*JUDGES, "log ratio")]
        assert [float(x) for x in numbers] == pytest.approx(shown, abs=0.501 if abs(shown[-1]) >= 10 else 0.051), line
        assert [float(x) for x in numbers[:4]] == pytest.approx(shown[:4], abs=0.051), line
    taste.write("It's another film")
    expect(taste.box.locator(".lv-code")).to_be_hidden()


def test_eight_more_of_each_are_in_the_means(taste: Taste) -> None:
    taste.write()
    before = int(taste.heads(1)[0].split()[-1])
    taste.press("Write 8 more of each", "8 more test beginnings")
    assert taste.heads(1) == [f"{name} n = {before + 8}" for name in NAMES.values()]
    ppo = taste.rows(1)["reward model"][2]
    assert re.fullmatch(r"[+−]\d\.\d\n± \d\.\d \(\+\d\.\d\)", ppo), ppo
    assert number(ppo) > number(taste.rows(1)["reward model"][0]), "PPO is above the base by what it was paid by"
    assert number(taste.rows(1)["log ratio"][2]) > 0


def test_a_number_stands_at_each_token(taste: Taste) -> None:
    taste.write()
    toggle = taste.button("Number at each token")
    toggle.click()
    expect(toggle).to_have_attribute("aria-pressed", "true")
    for n, paper in enumerate(taste.box.locator(".lv-papers .lv-paper").all()):
        chips = paper.locator(".lv-chip small").all_inner_texts()
        assert len(chips) == number(taste.rows(0)["length"][n])
        ended = "end" in paper.locator(".lv-chip").last.inner_text()
        assert not ended or chips[-1] == taste.rows(0)["reward model"][n]
    toggle.click()
    expect(taste.box.locator(".lv-papers .lv-words")).to_have_count(4)


def test_a_questions_button_sets_the_part_up(taste: Taste) -> None:
    for name in ("Can it pan a film?", "Which word is paid for?", "Is one answer enough?", "Can you fool the judge?"):
        taste.press(name)
        expect(taste.button(name)).to_have_attribute("aria-pressed", "true")
        expect(taste.box.locator(".lv-task")).to_contain_text("Press" if "judge" in name else "“Write”")
    taste.press("Is one answer enough?")
    expect(taste.box.get_by_role("radio", name="Product:")).to_have_attribute("aria-checked", "true")
    taste.box.get_by_role("radio", name="Film:").click()
    choice = taste.box.get_by_label("Test beginning")
    choice.select_option(index=3)
    chosen = choice.locator("option").nth(3).inner_text()
    expect(taste.box.get_by_label("Beginning, or your own")).to_have_value(chosen.partition(": ")[2])
    expect(choice).to_have_value(chosen)


def test_the_readers_own_text_is_judged(taste: Taste) -> None:
    numbers = []
    for text in ("great and best and great.", "A dull, boring, awful film."):
        taste.box.get_by_label("Beginning, or your own").fill(text)
        taste.press("Judge this text alone", "Your text was judged")
        paper = taste.box.get_by_role("group", name="Your text")
        tokens = "".join(paper.locator(".lv-token").all_inner_texts())
        assert tokens.replace("·", " ").strip() == f"{text}▷end"
        numbers.append(number(paper.locator(".lv-line").inner_text()))
    assert numbers[0] > 2 and numbers[1] < 0


@pytest.mark.parametrize("text", ["", "   ", "<b>bold</b> & <script>alert(1)</script>", "☕ 日本 👩‍🔬"])
def test_odd_beginnings(taste: Taste, text: str) -> None:
    assert len(taste.write(text)) == 4
    asked = taste.box.locator(".lv-papers .lv-quiet").first.text_content() or ""
    assert asked == f"Film: {text.strip()}".strip()
    assert taste.box.locator(".lv-papers b").count() == 4, "what is typed is no HTML"
    taste.press("Judge this text alone", "Your text was judged")


def test_a_long_beginning_is_cut_and_the_page_says_so(taste: Taste) -> None:
    assert len(taste.write("A word and another. " * 60)) == 4
    expect(taste.box).to_contain_text("The beginning is cut after 60 tokens; what follows is not read.")
    taste.write()
    expect(taste.box.get_by_text("The beginning is cut")).to_be_hidden()


# Best of n


def test_best_of_n(taste: Taste) -> None:
    taste.write("The film")
    expect(taste.box.locator(".lv-chart")).to_have_count(0)
    taste.box.get_by_role("radio", name="lexicon").click()
    expect(taste.box.locator(".lv-said")).to_contain_text("You guessed: lexicon. In the recorded runs")
    best = stored()["best"]
    label = f"reward model {best['reward'][-1]:.1f}, second reward model {best['judge'][-1]:.1f}"
    expect(taste.box.locator(".lv-chart")).to_have_attribute("aria-label", re.compile(re.escape(label)))
    expect(taste.box).to_contain_text("There are no 4 answers yet")

    taste.press("Write 64 answers", "wrote 64 answers")
    slider, rewards = taste.box.get_by_role("slider"), []
    slider.focus()
    taste.page.keyboard.press("Home")
    for n in (1, 2, 4, 8, 16, 32, 64):
        expect(taste.box.locator(".lv-slide b")).to_have_text(str(n))
        table = taste.rows(2)
        rewards.append(number(table["reward model"][0]))
        gains = [number(table[judge][2]) for judge in JUDGES]
        at = [1, 2, 4, 8, 16, 32, 64].index(n)
        assert gains == pytest.approx([best[key][at] for key in ("reward", "judge", "counts", "lexicon")], abs=0.0501)
        taste.page.keyboard.press("ArrowRight")
        taste.page.evaluate(NEXT_FRAME)
    assert rewards == sorted(rewards) and rewards[-1] > rewards[0]
    expect(taste.box).to_contain_text("at most ln 64 − 63/64 = 3.2 nats")
    assert taste.box.locator(".lv-chart circle").count() == 4 * 7
    assert number(table["reward model"][1]) > number(table["lexicon"][1]) or number(table["reward model"][1]) > 1


def test_stop_and_go_on(taste: Taste) -> None:
    taste.button("Show without a guess").click() if taste.button("Show without a guess").is_visible() else None
    taste.button("Write 64 answers").click()
    taste.page.wait_for_function("() => /[1-4]\\d of 64/.test(document.querySelector('.nw-live').textContent)")
    stop = taste.box.get_by_role("button", name="Stop").last
    stop.click()
    expect(taste.box.locator(".lv-status", has_text="Stopped.")).to_be_visible()
    assert taste.focused() == "Write 64 answers"
    assert stop.is_disabled()
    assert len(taste.write("And the page goes on")) == 4
    taste.box.get_by_role("slider").fill("2")
    expect(taste.box).to_contain_text("Of the first 4 the reward model likes this best")
    taste.box.get_by_role("slider").fill("6")
    expect(taste.box).to_contain_text("There are no 64 answers yet")


# Links


def seen(taste: Taste) -> list[Any]:
    """What was set, and what was written to it."""
    about = taste.box.get_by_role("radio", checked=True).first.inner_text()
    boxes = [taste.box.get_by_label(name).input_value() for name in ("Beginning, or your own", "Seed")]
    papers = taste.box.locator(".lv-papers").inner_text()
    return [about, *boxes, papers, taste.rows(0), taste.button("Number at each token").get_attribute("aria-pressed")]


CAME = "You came by a link, which counts as a press of “Write”"


def test_a_link_brings_everything_back(taste: Taste, context: BrowserContext) -> None:
    taste.box.get_by_role("radio", name="Product:").click()
    taste.write('It\'s a "good" <b>☕</b> & + #1', seed=7)
    taste.button("Number at each token").click()
    other = Taste(context.new_page()).open(copy_link(taste.box))
    expect(other.box.get_by_text(CAME)).to_be_visible()
    expect(other.box.locator(".lv-status", has_text="All four have written")).to_be_visible()
    expect(other.box).to_be_in_viewport()
    there, link = seen(other), copy_link(other.box)
    other.press("Write", "All four have written")
    expect(other.box.get_by_text(CAME)).to_have_count(0)
    assert not other.visit.problems
    other.page.close()
    assert there == seen(taste)
    assert link.split("#")[1] == copy_link(taste.box).split("#")[1]
    taste.button("Number at each token").click()
    taste.box.get_by_role("radio", name="Film:").click()


def test_a_link_to_stored_answers_loads_nothing(taste: Taste, context: BrowserContext) -> None:
    other = Taste(context.new_page()).open(FILE.as_uri())
    other.box.get_by_label("Beginning, or your own").fill("not written yet")
    before, link = seen(other), copy_link(other.box)
    other.page.goto("about:blank")
    other.open(link)
    other.page.evaluate(NEXT_FRAME)
    assert seen(other) == before
    expect(other.box.get_by_text(CAME)).to_have_count(0)
    expect(other.box).to_be_in_viewport()
    assert not any("weights_" in url or "taste_tables" in url for url in other.visit.requests)
    assert not other.visit.problems
    other.page.close()
    taste.button("Write").click()  # a link puts an end to what is under way
    follow_link(taste.page, "#" + link.split("#")[1])
    expect(taste.box.locator(".lv-status", has_text="Stopped.")).to_be_visible()
    assert seen(taste) == before
    assert len(taste.write()) == 4


@pytest.mark.parametrize("hash", ["#some-heading", "#taste", "#taste:", "#taste:seed=3&about=Film:", "#icons:text=x"])
def test_a_foreign_or_damaged_link_changes_nothing(taste: Taste, hash: str) -> None:
    before, top = seen(taste), taste.page.evaluate("() => scrollY")
    follow_link(taste.page, hash)
    assert seen(taste) == before
    assert taste.page.evaluate("() => scrollY") == pytest.approx(top, abs=1)
    expect(taste.box.get_by_text(CAME)).to_have_count(0)
    assert taste.box.get_by_role("button", name="Stop").first.is_disabled(), "nothing is written"


def test_what_a_link_has_out_of_range_is_cut_or_left_out(taste: Taste) -> None:
    about = seen(taste)[0]
    follow_link(taste.page, "#taste:text=" + "It+is+" * 300 + "&about=constructor&seed=1e9")
    expect(taste.box.locator(".lv-status", has_text="All four have written")).to_be_visible()
    assert seen(taste)[0] == about and seen(taste)[2] == "999999"
    assert len(taste.box.get_by_label("Beginning, or your own").input_value()) == 1000
    expect(taste.box.get_by_text("The beginning is cut after 60 tokens")).to_be_visible()
    follow_link(taste.page, "#taste:text=It%0Ais&seed=x")
    expect(taste.box.locator(".lv-status", has_text="All four have written")).to_be_visible()
    assert seen(taste)[1:3] == ["Itis", "1"]


def test_a_link_without_its_weights_says_so(context: BrowserContext, tmp_path: Path) -> None:
    taste = Taste(context.new_page())
    taste.open(mini(tmp_path, ("weights_taste_ppo.js",)) + "#taste:text=A+film&seed=2")
    expect(taste.box.locator(".lv-trouble.lv-status")).to_contain_text("weights_taste_ppo.js is missing or damaged")
    assert seen(taste)[1:3] == ["A film", "2"]
    assert [text.strip() for text in taste.texts()] == [stored()["answers"][name]["text"] for name in NAMES]
    taste.page.close()


def test_what_was_copied_is_forgotten_when_the_state_changes(taste: Taste) -> None:
    taste.write(seed=2)
    taste.button("Copy link").focus()
    taste.page.keyboard.press("Enter")
    expect(taste.box.get_by_text(re.compile("Link copied|here it is"))).to_be_visible()
    taste.page.keyboard.press("Tab")
    taste.page.keyboard.press("Enter")
    expect(taste.box.get_by_text(re.compile("Python copied|here it is"))).to_be_visible()
    expect(taste.box.locator("pre")).to_contain_text("answers begin behind")
    taste.box.get_by_label("Seed").fill("3")
    taste.box.get_by_label("Seed").blur()
    expect(taste.box.locator("pre")).to_be_hidden()
    expect(taste.box.get_by_text(re.compile("copied|here it is"))).to_have_count(0)


# For everybody


def test_keyboard_only(taste: Taste) -> None:
    keys = taste.page.keyboard
    taste.button("Can you fool the judge?").focus()
    visited = []
    while len(visited) < 20 and "Write 64" not in taste.focused():
        keys.press("Tab")
        visited.append(taste.focused())
    wanted = ["Film:", "nw-taste-0-choice", "nw-taste-0-text", "Write", "Write 8 more of each", "Judge this text alone"]
    assert [name for name in visited if name in wanted] == wanted, visited
    taste.box.get_by_role("radio", name="Film:").focus()
    keys.press("ArrowRight")
    expect(taste.box.get_by_role("radio", name="Product:")).to_have_attribute("aria-checked", "true")
    keys.press("ArrowLeft")
    expect(taste.box.get_by_role("radio", name="Film:")).to_have_attribute("aria-checked", "true")
    keys.press("Tab")
    keys.press("Tab")
    keys.press("Control+A")
    keys.type("A quiet film")
    keys.press("Tab")
    keys.press("Enter")
    expect(taste.box.locator(".lv-papers .lv-quiet").first).to_have_text("Film: A quiet film")
    expect(taste.box.locator(".lv-status", has_text="All four have written")).to_be_visible()
    assert taste.focused() == "Write"
    assert taste.page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"


def everything(taste: Taste) -> None:
    """Bring the part into the state in which it shows most."""
    taste.press("Which word is paid for?")
    taste.write("An antidisestablishmentarian ☕ Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch")
    taste.press("Judge this text alone", "Your text was judged")
    taste.press("Copy as Python")
    if taste.button("Show without a guess").is_visible():
        taste.press("Show without a guess")


def test_no_sideways_scroll_on_a_phone(taste: Taste) -> None:
    taste.page.set_viewport_size(PHONE)
    everything(taste)
    too_wide = """() => [...document.querySelectorAll(".nw-live *")]
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 90))"""
    found = taste.page.evaluate(too_wide)
    scrolls = taste.page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
    taste.page.set_viewport_size(DESKTOP)
    assert not found, "\n".join(found)
    assert not scrolls


def test_axe_finds_nothing_serious(taste: Taste) -> None:
    from axe_playwright_python.sync_playwright import Axe

    everything(taste)
    found = []
    for scheme in ("light", "dark"):
        taste.page.emulate_media(color_scheme=scheme)
        taste.page.wait_for_function("(theme) => document.documentElement.dataset.theme === theme", arg=scheme)
        taste.page.evaluate(NEXT_FRAME)
        options = {"preload": False, "resultTypes": ["violations"]}  # it would fetch style sheets
        report = Axe().run(taste.page, {"include": [[".nw-live"]]}, options).response
        for violation in report["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:160] for node in violation["nodes"][:4]]
                found.append(f"{scheme}: {violation['id']}: {violation['help']}: {nodes}")
    taste.page.emulate_media(color_scheme="light")
    assert not found, "\n".join(found)
