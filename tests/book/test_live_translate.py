"""The translators in their chapters: a reader types, chooses, forces words, mutes heads, and changes the model.

One page of each chapter is opened for all of them. That the models compute as the library does is tested elsewhere.
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
from browsing import BOOK, DESKTOP, NEXT_FRAME, PHONE, copy_link, follow_link
from playwright.sync_api import Browser, BrowserContext, expect
from test_live import OWN, Live, share

FILES = {
    "gnmt": Path(os.environ.get("NEXTWORD_GNMT_PAGE") or BOOK / "chapters/2016_gnmt.html").resolve(),
    "transformer": Path(
        os.environ.get("NEXTWORD_TRANSFORMER_PAGE") or BOOK / "chapters/2017_transformer.html"
    ).resolve(),
}
SCRIPTS = FILES["gnmt"].parent.parent / "_static" / "live"
AWAKE = "(name) => performance.getEntriesByName(`nextword ${name} awake`).length"
OTHER = {"gnmt": "Transformer", "transformer": "LSTM with attention"}


def number(text: str) -> float:
    return float(text.replace("−", "-"))


class Translator(Live):
    """A place as a reader uses it."""

    home = "transformer"

    @property
    def box(self) -> Any:
        return self.part(self.home).first

    def come(self) -> Translator:
        """Scroll to the place, and wait until its model is awake."""
        self.page.bring_to_front()  # a page behind another is painted once a second
        self.box.scroll_into_view_if_needed()
        self.page.wait_for_function(AWAKE, arg=self.home)
        self.answered()
        return self

    def write(self, text: str) -> None:
        self.box.get_by_label("Your English sentence").fill(text)
        self.answered()

    def press_in(self, name: str | re.Pattern[str]) -> None:
        self.box.get_by_role("button", name=name, exact=isinstance(name, str)).first.click()
        self.answered()

    def model(self, name: str) -> None:
        self.box.get_by_role("radio", name=re.compile(f"^{name}")).click()
        self.page.wait_for_function(AWAKE, arg="transformer" if name == "Transformer" else "gnmt")
        self.answered()

    def fresh(self) -> None:
        """Set the place back: its own model, no forced words and no silent heads."""
        self.model("LSTM" if self.home == "gnmt" else "Transformer")
        self.write("")
        self.write("I want a black cat.")

    @property
    def translation(self) -> str:
        return str(self.box.locator("q").inner_text())

    def tokens(self, name: str = "Tokens of the translation") -> list[list[str]]:
        """What stands on each token, and under it."""
        script = (
            "(all) => all.map((c) => [c.querySelector('.lv-token').textContent, c.querySelector('small').textContent])"
        )
        found: list[list[str]] = self.box.get_by_label(name, exact=True).locator(".lv-chip").evaluate_all(script)
        return found

    def choose(self, t: int) -> None:
        self.box.get_by_label("Tokens of the translation").locator(".lv-chip").nth(t).click()
        self.answered()

    def table(self, kind: str) -> list[list[str]]:
        script = "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim()))"
        cells: list[list[str]] = self.box.locator(f".lv-{kind} tbody tr").evaluate_all(script)
        return cells

    def heads(self) -> list[list[str]]:
        """The lines of each head's cell."""
        return [text.split("\n") for text in self.box.locator(".lv-heads td button").all_inner_texts()]


def stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SCRIPTS / "live_translate.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    if not all(path.exists() for path in FILES.values()) or not (SCRIPTS / "live_translate.json").exists():
        pytest.fail("no translators there: build the book, or set NEXTWORD_GNMT_PAGE and NEXTWORD_TRANSFORMER_PAGE")
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", reduced_motion="reduce")
    context.set_offline(True)
    yield context
    context.close()


@pytest.fixture(scope="module")
def opened(context: BrowserContext) -> dict[str, Translator]:
    """Both chapters, as they are before anyone has come near the place."""
    places = {}
    for name, path in FILES.items():
        place = places[name] = Translator(context.new_page())
        place.home = name
        place.page.goto(path.as_uri())
    return places


def visit(place: Translator) -> Iterator[Translator]:
    """The place as it is when its model has awoken; whatever a test does there must go well."""
    place.come().fresh()
    yield place
    assert not place.visit.problems, "\n".join(place.visit.problems)
    foreign = [url for url in place.visit.requests if not url.startswith(OWN)]
    assert not foreign, "\n".join(foreign)


@pytest.fixture(params=FILES)
def place(request: pytest.FixtureRequest, opened: dict[str, Translator]) -> Iterator[Translator]:
    yield from visit(opened[request.param])


@pytest.fixture
def gnmt(opened: dict[str, Translator]) -> Iterator[Translator]:
    yield from visit(opened["gnmt"])


@pytest.fixture
def transformer(opened: dict[str, Translator]) -> Iterator[Translator]:
    yield from visit(opened["transformer"])


# At first: what was stored


@pytest.mark.parametrize("name", FILES)
def test_to_open_a_chapter_loads_no_weights(opened: dict[str, Translator], name: str) -> None:
    place = opened[name]
    place.page.wait_for_load_state("load")
    place.page.evaluate(NEXT_FRAME)
    assert [url for url in place.visit.requests if "weights_" in url] == []
    expect(place.box.get_by_role("status").first).to_contain_text("These numbers are stored")
    said = stored()["models"][name]
    assert place.translation == "Quiero un gato negro."
    assert [p for _, p in place.tokens()] == [f"{100 * 2.718281828**ln_p:.0f}\xa0%" for ln_p in said["logP"]]
    assert place.table("matrix")[4][1:] == [f"{100 * value:.0f}" for value in said["mean"][4]]
    place.come()
    expect(place.box.get_by_role("status").first).to_contain_text("runs in this browser")
    far = re.search(r"within (0\.\d+)", place.box.get_by_role("status").first.inner_text())
    assert far and float(far[1]) < 1e-3


def test_without_javascript_the_stored_numbers_stand_there(browser: Browser, context: BrowserContext) -> None:
    plain = browser.new_context(java_script_enabled=False)
    page = plain.new_page()
    for name, path in FILES.items():
        page.goto(path.as_uri())
        box = page.locator(f'.nw-live[data-live="{name}"]')
        expect(box).to_contain_text("These numbers are stored; with JavaScript the models answer to any text.")
        expect(box.locator("table")).to_be_visible()
    plain.close()


def mini(folder: Path, *places: str, without: tuple[str, ...] = ()) -> str:
    """A page of its own, beside which some scripts are missing."""
    for script in SCRIPTS.iterdir():
        if script.name not in without:
            (folder / script.name).symlink_to(script.resolve())
    json_of_first = f'stored<script type="application/json">{json.dumps(stored())}</script>'
    boxes = "".join(
        f'<div class="nw-live" data-live="{p}">{"" if n else json_of_first}</div>' for n, p in enumerate(places)
    )
    names = ("engine", "parts", "tokenizer_en_es", "translators", "translate")
    scripts = "".join(f'<script defer src="{name}.js"></script>' for name in names)
    head = '<meta charset="utf-8"><link rel="stylesheet" href="live.css">'
    (folder / "mini.html").write_text(f"<!doctype html>{head}<h1>A page</h1>{boxes}{scripts}", encoding="utf-8")
    return (folder / "mini.html").as_uri()


def test_missing_weights_are_said_and_the_other_model_goes_on(context: BrowserContext, tmp_path: Path) -> None:
    place = Translator(context.new_page())
    place.page.goto(mini(tmp_path, "transformer", without=("weights_transformer_en_es.js",)))
    status = place.box.get_by_role("status").first
    expect(status).to_contain_text("weights_transformer_en_es.js is missing or damaged")
    assert place.translation == "Quiero un gato negro.", "the stored example stays"
    place.write("I have a dog.")
    expect(place.box.locator(".lv-cover").first).to_contain_text("as soon as the Transformer is awake")
    place.model("LSTM")
    expect(status).to_contain_text("The LSTM with attention runs")
    assert "perro" in place.translation
    place.page.close()


def test_without_a_script_the_stored_numbers_stay(context: BrowserContext, tmp_path: Path) -> None:
    page = context.new_page()
    page.goto(mini(tmp_path, "gnmt", without=("translators.js",)))
    expect(page.locator(".nw-live")).to_contain_text("stored")
    expect(page.locator(".nw-live")).to_contain_text("a script of this page is missing")
    page.close()


def test_several_places_on_a_page_do_not_disturb_each_other(context: BrowserContext, tmp_path: Path) -> None:
    place = Translator(context.new_page())
    place.page.goto(mini(tmp_path, "transformer", "gnmt", "transformer"))
    for name in FILES:
        place.page.wait_for_function(AWAKE, arg=name)
    place.answered()
    place.write("I have a dog.")
    place.press_in("Which head matters?")
    place.write("He sleeps.")
    words = place.page.locator(".nw-live q").all_inner_texts()
    assert words[1:] == ["Quiero un gato negro."] * 2 and words[0] != words[1]
    globals_ = "boxes minds waking reading answer wordChips open QUESTIONS MODELS"
    found = "(names) => names.split(' ').filter((n) => (0, eval)(`typeof ${n}`) !== 'undefined' && n !== 'open')"
    assert place.page.evaluate(found, globals_) == []
    weights = [url for url in place.visit.requests if "weights_" in url]
    assert len(weights) == len(set(weights)) == 2, "each model is loaded once"
    assert not place.visit.problems
    place.page.close()


# A sentence


def test_typing_translates(place: Translator) -> None:
    before = place.table("matrix")
    place.write("She has a white dog.")
    assert "perro" in place.translation
    tokens, matrix = place.tokens(), place.table("matrix")
    assert matrix != before
    assert [row[0] for row in matrix] == [token for token, _ in tokens]
    assert tokens[-1][0] == "▷end"
    for row in matrix:
        assert sum(map(int, row[1:])) == pytest.approx(100, abs=len(row) / 2)
    mine, other = place.table("scores")[:: 1 if place.home == "gnmt" else -1]
    total = sum(map(number, [mine[2]]))
    assert 2.718281828**total == pytest.approx(share(mine[3]), rel=0.1)
    assert mine[1] == place.translation
    assert other[0].startswith(OTHER[place.home])


@pytest.mark.parametrize("text", ["", "   ", "<b>bold</b> & <i>", "😀 東京", "a" * 280, "\ufeffHi\u0085", "¿Qué?"])
def test_odd_sentences(transformer: Translator, text: str) -> None:
    transformer.write(text)
    if not text.strip():
        expect(transformer.box.locator(".lv-cover").first).to_contain_text("There is nothing to translate")
        assert not transformer.box.locator("q").is_visible()
        return
    assert transformer.box.locator("b, i").count() == 0, "what is typed is no HTML"
    assert len(transformer.table("matrix")) == len(transformer.tokens())
    expect(transformer.box).not_to_contain_text("undefined")


def test_a_long_sentence_is_cut_and_the_place_says_so(place: Translator) -> None:
    place.write("the old man and the sea " * 40)
    assert len(place.box.get_by_label("Your English sentence").input_value()) <= 300
    cut = place.box.get_by_text(re.compile(r"cut after 40 tokens; the last \d+ are not read"))
    expect(cut).to_be_visible()
    assert len(place.tokens("Tokens of your sentence")) == 40
    assert len(place.tokens()) <= 60
    place.write("He sleeps.")
    expect(cut).to_be_hidden()


def test_the_pieces_of_a_word_stand_under_it(place: Translator) -> None:
    brackets = place.box.get_by_label("Tokens of your sentence").locator(".lv-bracket")
    assert brackets.evaluate_all("(all) => all.map((one) => one.getAttribute('aria-label'))") == ["black"]
    assert brackets.first.locator(".lv-token").all_inner_texts() == ["·b", "la", "ck"]


# Looking


def test_a_word_that_is_pointed_at_shows_where_it_looked(place: Translator) -> None:
    place.choose(0)
    chosen = place.tokens("Tokens of your sentence")
    chips = place.box.get_by_label("Tokens of the translation").locator(".lv-chip")
    chips.nth(2).hover()
    pointed = place.tokens("Tokens of your sentence")
    assert pointed != chosen
    assert max(pointed, key=lambda token: share(token[1]))[0] == "·cat"
    assert place.box.locator(".lv-row-on th").inner_text() == "·g"
    place.box.locator(".lv-matrix tbody tr").nth(4).hover()
    assert place.tokens("Tokens of your sentence") not in (chosen, pointed)
    place.box.get_by_label("Your English sentence").hover()
    assert place.box.locator(".lv-row-on th").inner_text() == "·Quiero"
    assert place.tokens("Tokens of your sentence") == chosen


# Forcing


def test_a_forced_word_changes_what_follows_and_can_be_taken_back(place: Translator) -> None:
    place.write("The teacher is tired.")
    before = place.tokens()
    rows = place.table("rivals")
    assert len(rows) == 5 and [row[3] for row in rows] == ["written", "", "", "", ""]
    shares = [share(row[2]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    la = next(n for n, row in enumerate(rows) if row[0] == "·La")
    place.box.locator(".lv-rivals tbody button").nth(la).click()
    place.answered()
    assert place.translation == "La profesora está cansada."
    assert place.tokens()[0] == ["·La", f"yours {rows[la][2]}"]
    assert [p for _, p in place.tokens()[1:] if p.startswith("yours")] == []
    assert place.table("rivals")[la][3] == "written"
    forced = place.table("scores")[-1]
    assert "with your words" in forced[0]
    assert forced[1] == place.translation
    place.press_in("Take “La” back")
    assert place.tokens() == before
    assert len(place.table("scores")) == 2


def test_a_typed_word_is_forced_piece_by_piece(place: Translator) -> None:
    place.press_in("A name it never saw?")
    free = place.translation
    assert place.box.get_by_label("or your own").input_value() == "Blorkin"
    place.press_in("Force it")
    tokens = place.tokens()
    assert [token for token, p in tokens if p.startswith("yours")] == ["·B", "l", "ork", "in"]
    assert place.translation.startswith("Blorkin")
    place.choose(len(tokens) - 2)
    place.press_in(re.compile("^Force it"))
    assert place.tokens()[: len(tokens) - 2] == tokens[:-2], "what stands before it stays"
    assert place.translation.count("Blorkin") == 2
    place.press_in("Take all back")
    assert place.translation == free


@pytest.mark.parametrize("word", ["", "  ", "<b>", "😀" * 10, "La " * 13])
def test_odd_words_are_forced_or_not(gnmt: Translator, word: str) -> None:
    before = gnmt.translation
    gnmt.box.get_by_label("or your own").fill(word)
    gnmt.press_in("Force it")
    assert (gnmt.translation == before) == (not word.strip())
    assert gnmt.box.locator("b").count() == 0
    assert len(gnmt.tokens()) <= len(gnmt.tokens("Tokens of your sentence")) + 20


def test_greedy_is_not_the_likeliest(gnmt: Translator) -> None:
    gnmt.model("Transformer")
    gnmt.press_in("Is it the likeliest?")  # which speaks of the chapter's own model
    expect(gnmt.box.get_by_role("radio", name="LSTM with attention")).to_have_attribute("aria-checked", "true")
    expect(gnmt.box.locator(".lv-task")).to_contain_text("Note its ln p")
    gnmt.press_in("Force it")
    greedy, _, forced = gnmt.table("scores")
    assert number(forced[2]) > number(greedy[2])


# The other model, and heads


def test_the_other_model_is_loaded_when_it_is_chosen(context: BrowserContext) -> None:
    place = Translator(context.new_page())
    place.page.goto(FILES["transformer"].as_uri())
    place.come()
    place.write("The red house is old.")
    assert "is loaded when you choose it" in place.table("scores")[0][1]
    assert not any("weights_gnmt" in url for url in place.visit.requests)
    transformer = place.translation
    place.model("LSTM")
    assert place.translation != transformer
    assert [row[1] for row in place.table("scores")] == [place.translation, transformer]
    assert not place.box.get_by_text("Looking and mattering").is_visible(), "this model has no heads"
    place.page.close()


def test_muting_each_head_in_turn(transformer: Translator) -> None:
    transformer.press_in("Which head matters?")
    assert all(len(cell) == 1 or not cell[1].strip() for cell in transformer.heads()), "nothing is told before a guess"
    transformer.press_in("Mute each head in turn")
    cells = transformer.heads()
    assert len(cells) == 8
    deltas = [number(cell[1].removeprefix("Δ ")) for cell in cells]
    shares = [share(re.sub(r"^\S+ ", "", cell[0])) for cell in cells]
    hardest, missed = max(range(8), key=shares.__getitem__), min(range(8), key=deltas.__getitem__)
    verdict = transformer.box.locator(".lv-said").inner_text()
    assert f"looks hardest is {hardest // 4}.{hardest % 4} " in verdict
    assert f"missed most is {missed // 4}.{missed % 4} " in verdict
    transformer.choose(4)
    assert [cell[1] for cell in transformer.heads()] != [cell[1] for cell in cells], "the next word is measured at once"


def test_a_head_shows_its_look_and_can_be_muted(transformer: Translator) -> None:
    mean = transformer.table("matrix")
    transformer.press_in(re.compile("^head 1.3"))
    alone = transformer.table("matrix")
    assert alone != mean
    expect(transformer.box.locator(".lv-matrix caption")).to_contain_text("Attention of head 1.3")
    transformer.press_in("Mute head 1.3")
    free, silent = transformer.table("scores")[1:]
    assert "with silent heads" in silent[0]
    assert silent[2] != free[2]
    assert transformer.heads()[7][1] == "silent"
    transformer.press_in("Let head 1.3 speak")
    assert len(transformer.table("scores")) == 2
    transformer.press_in(re.compile("^head 1.3"))
    assert transformer.table("matrix") == mean


# The same in Python


def conditions(place: Translator, which: str) -> None:
    if which == "forced":
        place.press_in("A name it never saw?")
        place.press_in("Force it")
    if which == "cut":
        place.write('He said "no" \\ and went home. ' * 9)
    if which == "silent":
        for head in ("1.3", "0.2"):
            place.press_in(re.compile(f"^head {head}"))
            place.press_in(f"Mute head {head}")
        place.press_in(re.compile("^head 0.2"))


@pytest.mark.parametrize("home, which", [("gnmt", "forced"), ("gnmt", "cut"), ("transformer", "silent")])
def test_python_prints_the_same_numbers(opened: dict[str, Translator], home: str, which: str) -> None:
    place = opened[home].come()
    place.fresh()
    conditions(place, which)
    place.press_in("Copy as Python")
    code = place.box.locator("pre")
    expect(code).to_be_visible()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code.inner_text(), {})
    *lines, last = printed.getvalue().strip().split("\n")
    tokens, matrix = place.tokens(), place.table("matrix")
    assert len(lines) == len(tokens)
    for line, (_, p), row in zip(lines, tokens, matrix, strict=True):
        found = re.search(r" +([\d.]+)% \[(.*)\]$", line)
        assert found
        assert float(found[1]) / 100 == pytest.approx(share(p.removeprefix("yours ")), abs=0.0061)
        assert [int(value) for value in found[2].split(", ")] == pytest.approx([int(cell) for cell in row[1:]], abs=1)
    assert (
        last
        == f"{place.translation.split(' (stopped')[0]} ln p {number(place.table('scores')[-1 if which != 'cut' else 0][2]):.2f}"
    )
    place.write("Another sentence.")
    expect(code).to_be_hidden()


# Links


def seen(place: Translator) -> list[Any]:
    """What stands in the place, but for what is said of its links; of the other model nothing, which may be asleep."""
    chosen = place.box.locator("[aria-checked=true], [aria-pressed=true]:not(.lv-try)").all_inner_texts()
    scores = [row for row in place.table("scores") if chosen[0].startswith(row[0].split("\n")[0])]
    sentence = place.box.get_by_label("Your English sentence").input_value()
    verdict = place.box.locator(".lv-said").all_inner_texts()
    tokens = place.tokens(), place.tokens("Tokens of your sentence")
    tables = place.table("rivals"), place.table("matrix"), place.heads() if chosen[0] == "Transformer" else []
    return [sentence, place.translation, chosen, scores, verdict, *tokens, *tables]


def arrange(place: Translator, which: str) -> None:
    """Let the place show something that a link has to bring back."""
    if which == "forced":
        place.write('The "teacher" & <b>☕</b> + #1 is tired.')
        place.choose(1)
        place.box.get_by_label("or your own").fill("Blorkin")
        place.press_in("Force it")
    if which == "heads":
        place.model("Transformer")
        conditions(place, "silent")
        place.press_in(re.compile("^head 0.3"))
        place.press_in("Mute each head in turn")
        place.choose(3)
    if which == "other":
        place.model(OTHER[place.home])
        place.choose(2)
    if which == "cut":
        place.write("the old man and the sea " * 40)


@pytest.mark.parametrize("which", ["forced", "heads", "other", "cut"])
def test_a_link_brings_everything_back(place: Translator, context: BrowserContext, which: str) -> None:
    arrange(place, which)
    other = Translator(context.new_page())
    other.home = place.home
    other.page.goto(copy_link(place.box))
    expect(other.box.get_by_role("status").first).to_contain_text("runs in this browser")
    other.answered()
    expect(other.box).to_be_in_viewport()
    there = seen(other)
    link = copy_link(other.box)
    assert not other.visit.problems
    other.page.close()
    place.page.bring_to_front()
    assert there == seen(place)
    assert link.split("#")[1] == copy_link(place.box).split("#")[1]


@pytest.mark.parametrize("hash", ["#some-heading", "#HOME", "#HOME:", "#HOME:forced=0:57&model=gnmt", "#gap:text=x"])
def test_a_foreign_or_damaged_link_changes_nothing(place: Translator, hash: str) -> None:
    arrange(place, "forced")
    before, top = seen(place), place.page.evaluate("() => scrollY")
    follow_link(place.page, hash.replace("HOME", place.home))
    assert seen(place) == before
    assert place.page.evaluate("() => scrollY") == pytest.approx(top, abs=1)
    other = next(name for name in FILES if name != place.home)
    follow_link(place.page, f"#{other}:text=He+sleeps.")
    assert seen(place) == before, "it is another place's"


def test_what_a_link_has_out_of_range_is_cut_or_left_out(transformer: Translator) -> None:
    strange = "forced=0:99999,-1:9,1.5:9,x,99:9,2:x,:&head=7.7&mute=9.9,x,,0.0&model=constructor&at=99"
    follow_link(transformer.page, f"#transformer:text=I+want%0Aa+dog.&{strange}")
    assert transformer.box.get_by_label("Your English sentence").input_value() == "I wanta dog."
    expect(transformer.box.get_by_role("radio", name="Transformer")).to_have_attribute("aria-checked", "true")
    assert [p for _, p in transformer.tokens() if p.startswith("yours")] == []
    assert [cell[1] for cell in transformer.heads()][0] == "silent"
    assert sum(cell[1:] == ["silent"] for cell in transformer.heads()) == 1
    expect(transformer.box.locator(".lv-matrix caption")).to_contain_text("the mean of all heads")
    expect(transformer.box.get_by_text(f"Place {len(transformer.tokens())} of")).to_be_visible()
    follow_link(transformer.page, "#transformer:text=" + "the+old+man+" * 99)
    assert len(transformer.box.get_by_label("Your English sentence").input_value()) == 300
    assert len(transformer.tokens("Tokens of your sentence")) == 40


def test_a_link_goes_to_the_first_place_of_its_name(context: BrowserContext, tmp_path: Path) -> None:
    place = Translator(context.new_page())
    place.home = "gnmt"
    place.page.goto(mini(tmp_path, "transformer", "gnmt", "transformer") + "#gnmt:text=He+sleeps.&at=1")
    place.page.wait_for_function(AWAKE, arg="gnmt")
    place.answered()
    words = place.page.locator(".nw-live q").all_inner_texts()
    assert words[0] == words[2] == "Quiero un gato negro." != words[1]
    assert not place.visit.problems
    place.page.close()


def test_a_link_without_its_weights_shows_the_sentence_and_says_why(context: BrowserContext, tmp_path: Path) -> None:
    place = Translator(context.new_page())
    url = mini(tmp_path, "transformer", without=("weights_transformer_en_es.js",))
    place.page.goto(f"{url}#transformer:text=He+sleeps.&mute=1.3")
    expect(place.box.get_by_role("status").first).to_contain_text("weights_transformer_en_es.js is missing or damaged")
    assert place.box.get_by_label("Your English sentence").input_value() == "He sleeps."
    place.page.close()


def test_what_was_copied_is_forgotten_when_the_state_changes(place: Translator) -> None:
    place.box.get_by_role("button", name="Copy link").focus()
    place.page.keyboard.press("Enter")
    expect(place.box.get_by_text(re.compile("Link copied|here it is"))).to_be_visible()
    place.page.keyboard.press("Tab")
    place.page.keyboard.press("Enter")
    expect(place.box.get_by_text(re.compile("Python copied|here it is"))).to_be_visible()
    place.box.get_by_label("Tokens of the translation").locator(".lv-chip").nth(1).hover()
    expect(place.box.locator("pre")).to_be_visible()
    place.choose(3)
    expect(place.box.locator("pre")).to_be_hidden()
    expect(place.box.get_by_text(re.compile("copied|here it is"))).to_have_count(0)


# For everybody


def test_keyboard_only(transformer: Translator) -> None:
    """A sentence, another model and back, a word, a forced word, a head: all of it without a mouse."""
    keys, page = transformer.page.keyboard, transformer.page
    page.evaluate("() => document.activeElement.blur()")
    page.mouse.move(0, 0)
    transformer.box.get_by_label("Your English sentence").focus()
    keys.press("Control+A")
    keys.type("The teacher is tired.")
    transformer.answered()
    assert transformer.translation.startswith("El profesor")
    visited = []

    def tab_to(what: str) -> None:
        for _ in range(20):
            keys.press("Tab")
            name = page.evaluate("""() => { const e = document.activeElement;
                return `${e.getAttribute("role") ?? e.localName} ${e.getAttribute("aria-label") ?? e.innerText}`; }""")
            visited.append(name)
            if what in name:
                return
        raise AssertionError(f"{what} is not among {visited}")

    tab_to("radio Transformer")
    tab_to("button El, ")
    ring = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid", "the focus can be seen"
    keys.press("ArrowRight")
    assert transformer.box.locator(".lv-row-on th").inner_text() == "·profesor", "the focus shows the look"
    keys.press("Enter")
    transformer.answered()
    expect(transformer.box.get_by_text("Place 2 of")).to_be_visible()
    keys.press("Home")
    keys.press("Enter")
    transformer.answered()
    expect(transformer.box.get_by_text("Place 1 of")).to_be_visible()
    tab_to("button El, ")
    keys.press("ArrowDown")
    forced = page.evaluate("() => document.activeElement.innerText")
    keys.press("Enter")
    transformer.answered()
    assert transformer.tokens()[0][0] == forced
    assert page.evaluate("() => document.activeElement.innerText") == forced
    tab_to("button Take")
    keys.press("Enter")
    transformer.answered()
    assert transformer.translation.startswith("El profesor")
    assert page.evaluate("() => document.activeElement.className") == "lv-word", "the button is gone, the focus is not"
    transformer.box.get_by_role("button", name="Mute each head in turn").focus()
    keys.press("Enter")
    tab_to("button head 0.")
    keys.press("Home")
    keys.press("ArrowDown")
    keys.press("Enter")
    transformer.answered()
    assert transformer.box.locator(".lv-heads [aria-pressed=true]").get_attribute("data-key") == "1.0"


def everything(place: Translator, text: str) -> None:
    """Bring a place into the state in which it shows most."""
    place.write(text)
    place.box.get_by_label("or your own").fill("Llanfairpwllgwyngyll")
    place.press_in("Force it")
    if place.home == "transformer":
        place.press_in(re.compile("^head 1.3"))
        place.press_in("Mute head 1.3")
        place.press_in("Mute each head in turn")
    place.press_in("Copy as Python")


def test_no_sideways_scroll_on_a_phone(place: Translator) -> None:
    place.page.set_viewport_size(PHONE)
    everything(place, "<b>Antidisestablishmentarianism</b> 😀 " + "the old man and the sea " * 9)
    too_wide = """() => [...document.querySelectorAll(".nw-live *")]
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".lv-scroll > *"))
        .map((e) => e.outerHTML.slice(0, 90))"""
    found = place.page.evaluate(too_wide)
    scrolls = place.page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
    place.page.set_viewport_size(DESKTOP)
    assert not found, "\n".join(found)
    assert not scrolls


def test_axe_finds_nothing_serious(place: Translator) -> None:
    from axe_playwright_python.sync_playwright import Axe

    everything(place, "The unbelievable 😀 is mine.")
    found = []
    for scheme in ("light", "dark"):
        place.page.emulate_media(color_scheme=scheme)
        place.page.wait_for_function("(theme) => document.documentElement.dataset.theme === theme", arg=scheme)
        place.page.evaluate(NEXT_FRAME)
        options = {"preload": False, "resultTypes": ["violations"]}
        report = Axe().run(place.page, {"include": [[".nw-live"]]}, options).response
        for violation in report["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:160] for node in violation["nodes"][:4]]
                found.append(f"{scheme}: {violation['id']}: {violation['help']}: {nodes}")
    place.page.emulate_media(color_scheme="light")
    assert not found, "\n".join(found)
