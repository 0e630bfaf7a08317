"""The built book as a reader meets it: in a browser, from a folder or a server, with no network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import jsonschema
import nbformat
import pytest
import yaml
from browsing import BOOK, ROOT, SCHEMES, Visit, Visits, settle, watch
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, BrowserContext, Page

from myst import raw_markup
from nextword.book.claims import measured_text, number

HASH = re.compile(r"[0-9a-f]{16,}")
RAW_ROLE = re.compile(r"\{[a-z][a-z:-]*\}`[^`]*`")


def ledger() -> dict[str, Any]:
    return json.loads((ROOT / "build" / "claims.json").read_text(encoding="utf-8"))


def filed() -> list[dict[str, str]]:
    """All claims, the withdrawn ones too, by what the Claims page filters."""
    content = ledger()
    return [
        {
            "badge": claim["badge"],
            "verdict": claim.get("verdict", "withdrawn"),
            "chapter": claim["chapter"],
            "registered": claim["registered"]["when"],
        }
        for claim in [*content["claims"], *content["withdrawn"]]
    ]


def chapter_names() -> list[str]:
    """The notebooks in the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = re.findall(r"'file': '([^']+)'", repr(toc))
    return [name for name in files if (ROOT / f"{name}.ipynb").exists()]


def open_page(context: BrowserContext, url: str) -> tuple[Page, Visit]:
    page, visit = context.new_page(), Visit()
    watch(page, lambda: visit)
    page.goto(url)
    settle(page)
    return page, visit


# Every page


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_error(page_name: str, scheme: str, visits: Visits) -> None:
    problems = visits(page_name, scheme).problems
    assert not problems, f"{page_name} over {scheme} reported:\n" + "\n".join(problems)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_foreign_request(page_name: str, scheme: str, visits: Visits) -> None:
    allowed = (visits.bases[scheme] + "/", "data:", "blob:", "about:")
    foreign = [url for url in visits(page_name, scheme).requests if not url.startswith(allowed)]
    assert not foreign, f"{page_name} over {scheme} asked for what is not part of the book:\n" + "\n".join(foreign)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_maths_is_drawn(page_name: str, scheme: str, visits: Visits) -> None:
    seen = visits(page_name, scheme).light
    assert not seen["raw_tex"], f"{page_name}: formulas left as TeX: {seen['raw_tex']}"
    assert not seen["tex_errors"], f"{page_name}: MathJax could not read: {seen['tex_errors']}"
    assert (seen["drawn"] > 0) == (seen["formulas"] > 0), f"{page_name}: {seen['formulas']} formulas, none drawn"


def test_no_raw_markup(page_name: str, visits: Visits) -> None:
    prose = visits(page_name).light["prose"]
    left = RAW_ROLE.findall(prose) + [mark for mark in ("<!--", ":::", "```") if mark in prose]
    assert not left, f"{page_name} shows markup instead of what it stands for: {left}"


def test_no_citation_key_in_the_contents(page_name: str, visits: Visits) -> None:
    keys = re.findall(r"@\w+\{([^,\s]+),", (ROOT / "chapters" / "references.bib").read_text(encoding="utf-8"))
    words = set(re.split(r"[\s,]+", visits(page_name).light["contents"]))
    shown = [key for key in keys if key in words]
    assert not shown, f"{page_name}: a heading cites {shown}, and the list of contents prints the key; cite below it"


def test_images(page_name: str, visits: Visits) -> None:
    for image in visits(page_name).light["images"]:
        what, alt = f"{page_name}: image {image['src']}", image["alt"].strip()
        assert image["loaded"], f"{what} does not load"
        assert alt and not HASH.search(alt) and not alt.startswith("_"), f"{what} has no alternative text, but {alt!r}"
        enough = len(alt.split()) >= 3 or not image["content"]
        assert enough, f"{what}: the alternative text {alt!r} does not say what the picture shows"


def test_phone_has_no_sideways_scroll(page_name: str, visits: Visits) -> None:
    seen = visits(page_name).phone
    too_wide = f"{page_name} is {seen['scroll_width']} px wide in a window of {seen['width']} px; sticking out:\n"
    assert seen["scroll_width"] <= seen["width"], too_wide + "\n".join(seen["wide"])


def test_dark(page_name: str, visits: Visits) -> None:
    seen = visits(page_name).dark
    assert seen["theme"] == "dark", f"{page_name} has data-theme={seen['theme']!r} for a reader who prefers the dark"
    assert seen["page_luminance"] < 0.05, f"{page_name}: the background stays bright ({seen['page_luminance']:.2f})"
    assert seen["text_luminance"] > 0.4, f"{page_name}: the text stays dark ({seen['text_luminance']:.2f})"


@pytest.mark.parametrize("look", ["light", "dark"])
def test_contrast(page_name: str, look: str, visits: Visits) -> None:
    faint = getattr(visits(page_name), look)["faint"]
    assert not faint, f"{page_name}, {look}: too little contrast (WCAG AA asks for 4.5):\n" + "\n".join(faint)


def test_copy_buttons(page_name: str, visits: Visits) -> None:
    seen = visits(page_name).light
    if page_name.startswith("chapters/"):
        assert seen["copy_buttons"] == seen["codes"], (
            f"{page_name}: {seen['copy_buttons']} copy buttons on {seen['codes']} blocks"
        )


def test_heading(page_name: str, visits: Visits) -> None:
    assert visits(page_name).light["heading"].strip(), f"{page_name} has no heading"


# Links, read from the files


@pytest.fixture(scope="module")
def soups(book: Path) -> dict[Path, BeautifulSoup]:
    files = [path for path in book.rglob("*.html") if "_static" not in path.parts]
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "lxml") for path in files}


@pytest.fixture(scope="module")
def ids(soups: dict[Path, BeautifulSoup]) -> dict[Path, set[str]]:
    return {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in soups.items()}


def broken_links(path: Path, soup: BeautifulSoup, ids: dict[Path, set[str]]) -> list[str]:
    broken = []
    for tag in soup.find_all(["a", "link", "img", "script"]):
        reference = tag.get("href") or tag.get("src")
        if not reference or urlsplit(reference).scheme or reference.startswith("//") or reference == "#":
            continue
        address, anchor = urldefrag(urljoin(path.as_uri(), reference))
        target = Path(unquote(urlsplit(address).path))
        if not target.is_file():
            broken.append(f"{reference}: no such file")
        elif anchor and target in ids and unquote(anchor) not in ids[target]:
            broken.append(f"{reference}: {target.name} has no place of that name")
    return broken


def test_internal_links_resolve(page_name: str, soups: dict[Path, BeautifulSoup], ids: dict[Path, set[str]]) -> None:
    path = BOOK / page_name
    broken = sorted(set(broken_links(path, soups[path], ids)))
    assert not broken, f"{page_name} has links that lead nowhere:\n" + "\n".join(broken)


def test_ids_are_unique(page_name: str, soups: dict[Path, BeautifulSoup]) -> None:
    article = soups[BOOK / page_name].find("article")
    names = [tag["id"] for tag in article.find_all(id=True)] if article else []
    inner = {"exercise-content", "solution-content"}  # sphinx-exercise gives them to all; nothing links to them
    twice = sorted({name for name in names if names.count(name) > 1} - inner)
    assert not twice, f"{page_name}: a link to these could lead to two places: {twice}"


# The book as a whole


def test_every_page_of_the_contents_is_built(book: Path) -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    named = [toc["root"], *re.findall(r"'file': '([^']+)'", repr(toc))]
    missing = [name for name in named if not (book / f"{name}.html").exists()]
    assert not missing, f"_toc.yml names pages that were not built: {missing}"
    assert chapter_names(), "the table of contents holds no notebook"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_front_door(scheme: str, contexts: dict[str, BrowserContext], bases: dict[str, str]) -> None:
    page = contexts[scheme].new_page()
    page.goto(f"{bases[scheme]}/index.html", wait_until="commit")
    page.wait_for_url("**/chapters/index.html", timeout=5000)
    assert page.locator("article h1").first.is_visible(), "index.html leads to a page without a heading"
    links = page.locator("nav a[href$='.html']").count()
    assert links >= len(chapter_names()), f"the front page's navigation has {links} links"
    page.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_search(scheme: str, contexts: dict[str, BrowserContext], bases: dict[str, str]) -> None:
    page, visit = open_page(contexts[scheme], f"{bases[scheme]}/chapters/index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("perplexity")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?*", timeout=5000)
    results = page.locator("#search-results ul.search li a")
    results.first.wait_for(timeout=10_000)
    page.wait_for_timeout(300)
    assert not visit.problems, f"searching over {scheme} reported:\n" + "\n".join(visit.problems)
    target = results.first.get_attribute("href") or ""
    results.first.click()
    page.wait_for_load_state()
    assert "perplexity" in page.locator("article").inner_text().lower(), f"search led to {target}, which lacks the word"
    page.close()


def test_search_finds_nothing_for_nonsense(contexts: dict[str, BrowserContext], bases: dict[str, str]) -> None:
    page, _ = open_page(contexts["file"], f"{bases['file']}/search.html?q=qzxvbnnk")
    page.wait_for_function(
        "document.querySelector('#search-results p.search-summary')?.textContent.match(/did not match/)"
    )
    assert page.locator("#search-results ul.search li").count() == 0
    page.close()


def test_theme_button(contexts: dict[str, BrowserContext], bases: dict[str, str]) -> None:
    page, _ = open_page(contexts["file"], f"{bases['file']}/chapters/index.html")
    seen = []
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").first.click()
        seen.append(page.evaluate("document.documentElement.dataset.theme"))
    page.close()
    assert {"light", "dark"} <= set(seen), f"three presses of the theme button gave only {seen}"


# Chapters


@pytest.mark.parametrize("name", chapter_names())
def test_chapter_offers_its_notebook(name: str, soups: dict[Path, BeautifulSoup]) -> None:
    path = BOOK / f"{name}.html"
    links = [a["href"] for a in soups[path].find_all("a", href=True)]
    file = f"notebooks/{Path(name).name}.ipynb"
    downloads = [href for href in links if href.endswith(".ipynb") and "://" not in href]
    assert downloads == [f"../{file}"], f"{name} offers {downloads} for download, not its edition"
    notebook = nbformat.read(BOOK / file, as_version=4)
    assert any(cell.get("outputs") for cell in notebook.cells), f"the notebook that {name} offers was not executed"
    left = [markup for cell in notebook.cells if cell.cell_type == "markdown" for markup in raw_markup(cell.source)]
    assert not left, f"the notebook that {name} offers shows markup instead of what it stands for: {left}"
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    address = repository.replace("https://", "https://colab.research.google.com/").replace("github.com", "github")
    colab = [href for href in links if href.startswith("https://colab.research.google.com/")]
    assert colab == [f"{address}/blob/{file}"], f"the rocket of {name} leads to {colab}, not to its edition"


@pytest.mark.parametrize("name", chapter_names())
def test_chapter_opens_with_its_result(name: str, soups: dict[Path, BeautifulSoup]) -> None:
    soup, source = soups[BOOK / f"{name}.html"], (ROOT / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(soup.select(".nw-stamp")) == 1, f"{name} should say once what it costs to run"
    heroes = soup.select("img.nw-hero")
    assert len(heroes) == source.count("<!-- hero -->"), f"{name} shows {len(heroes)} figures up front"
    if heroes:
        alts = [img["alt"] for img in soup.select("article img")]
        assert alts.count(heroes[0]["alt"]) == 2, f"{name}: the figure up front is not one that the chapter makes"
        assert alts[0] == heroes[0]["alt"], f"{name}: the first picture is not its result"


def test_the_first_page_shows_a_result_and_leads_to_it(soups: dict[Path, BeautifulSoup]) -> None:
    shown = re.findall(r"<!-- hero (\w+) -->", (ROOT / "chapters/index.md").read_text(encoding="utf-8"))
    heroes = soups[BOOK / "chapters/index.html"].select("img.nw-hero")
    assert len(heroes) == len(shown) > 0
    for name, picture in zip(shown, heroes, strict=True):
        assert picture.find_parent("a")["href"] == f"{name}.html"
        assert soups[BOOK / f"chapters/{name}.html"].select_one("img.nw-hero")["alt"] == picture["alt"]


# Claims


def test_each_claim_has_a_row_in_its_chapter(soups: dict[Path, BeautifulSoup]) -> None:
    recorded = ledger()["claims"]
    assert recorded, "build/claims.json holds no claim"
    for claim in recorded:
        row = soups[BOOK / "chapters" / f"{claim['chapter']}.html"].find(id=f"claim-{claim['id']}")
        assert row and row.name == "tr", f"chapter {claim['chapter']} has no row of the claim {claim['id']}"
        verdict = row.select_one(".nw-verdict").get_text()
        assert verdict == claim["verdict"], f"the row of {claim['id']} says {verdict!r}, not {claim['verdict']!r}"
        assert claim["text"] in row.get_text(), f"the row of {claim['id']} does not show {claim['text']}"


@pytest.mark.parametrize("name", chapter_names())
def test_chapter_has_its_table_of_claims_in_one_place_and_no_card(name: str, soups: dict[Path, BeautifulSoup]) -> None:
    soup = soups[BOOK / f"{name}.html"]
    tables = soup.select(".nw-claims-table")
    if name not in {f"chapters/{claim['chapter']}" for claim in ledger()["claims"]}:  # the epilogue measures nothing
        assert not tables
        return
    assert 1 <= len(tables) <= 4, f"{name} should have a table for each kind of claim"
    assert all(table.find_parent("details", class_="nw-fold") for table in tables[1:]), (
        f"{name} shows all claims at once"
    )
    assert len(soup.select(".nw-registered")) == 1, f"{name} should say once when its claims were registered"
    assert not soup.select(".nw-claim"), f"{name} shows a card of a claim besides its table"
    for table in tables:
        found = table.find_parent("section").find("h2")
        assert "Claims" in found.get_text(), f"{name}: a table of claims stands in the section {found.get_text()!r}"


def test_a_number_in_a_sentence_is_marked_unless_its_claim_holds(soups: dict[Path, BeautifulSoup]) -> None:
    by_id = {claim["id"]: claim for claim in ledger()["claims"]}
    for path, soup in soups.items():
        for link in soup.select("a.nw-number"):
            claim = by_id[link["href"].partition("#claim-")[2]]
            marked = "nw-mark" in (getattr(link.next_sibling, "attrs", None) or {}).get("class", [])
            shown = link.get_text().replace("\u00a0", " ")
            plain = claim["verdict"] in ("holds", "reported") or shown not in measured_texts(claim)
            what = f"{path.name}: {link.get_text()!r} of {claim['id']}, which is {claim['verdict']!r},"
            assert marked != plain, f"{what} has {'a' if marked else 'no'} mark"


def measured_texts(claim: dict[str, Any]) -> set[str]:
    """The ways in which a sentence may print what was measured; a paper's number of the same digits is none."""
    ways = [{"plus_minus": p, "size": s} for p, s in ((True, False), (False, False), (True, True))]
    return {measured_text(claim, **way) for way in ways} - {number(claim["paper_value"])}


def test_each_claim_has_an_address_and_a_file(soups: dict[Path, BeautifulSoup]) -> None:
    content, folder = ledger(), BOOK / "chapters" / "claims"
    page = soups[BOOK / "chapters" / "claims.html"]
    for claim in [*content["claims"], *content["withdrawn"]]:
        assert page.find(id=claim["id"]), f"claims.html has no place called {claim['id']}"
        one = json.loads((folder / f"{claim['id']}.json").read_text(encoding="utf-8"))
        assert one == {"format": content["format"], "claim": claim}, f"the file of {claim['id']} says something else"
    assert json.loads((folder / "claims.json").read_text(encoding="utf-8")) == content
    schema = json.loads((folder / "claims.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(content)


def test_claims_page_filters(contexts: dict[str, BrowserContext], bases: dict[str, str]) -> None:
    recorded = filed()
    page, visit = open_page(contexts["file"], f"{bases['file']}/chapters/claims.html")
    shown = page.locator("[data-badge]:visible")
    assert shown.count() == len(recorded), f"the page lists {shown.count()} claims; claims.json has {len(recorded)}"
    for key in ("badge", "verdict", "chapter", "registered"):
        for value in sorted({claim[key] for claim in recorded}):
            page.locator(f".nw-filters select[data-key='{key}']").select_option(value)
            expected = sum(claim[key] == value for claim in recorded)
            assert shown.count() == expected, f"filter {key} = {value!r} shows {shown.count()} claims, not {expected}"
            count = page.locator(".nw-count").inner_text()
            assert count == f"{expected} of {len(recorded)} claims", f"{key} = {value!r} counts {count!r}"
        page.locator(f".nw-filters select[data-key='{key}']").select_option("")
    assert shown.count() == len(recorded), "taking the filters back does not bring all claims back"
    assert not visit.problems, "\n".join(visit.problems)
    page.close()


def test_filters_leave_no_empty_heading(contexts: dict[str, BrowserContext], bases: dict[str, str]) -> None:
    page, _ = open_page(contexts["file"], f"{bases['file']}/chapters/claims.html")
    first = filed()[0]
    for key in ("badge", "chapter"):
        page.locator(f".nw-filters select[data-key='{key}']").select_option(first[key])
    assert page.locator(".nw-by-chapter:visible").count() == page.locator(".nw-group:visible").count() == 1
    page.close()


def test_claims_page_without_scripts(browser: Browser, bases: dict[str, str]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{bases['file']}/chapters/claims.html")
    assert page.locator("[data-badge]:visible").count() == len(filed()), "without scripts some claims are hidden"
    assert page.locator(".nw-filters:visible").count() == 0, "without scripts the filters do nothing, yet they show"
    summary = page.locator("tr[data-badge] summary").first
    summary.click()
    assert page.locator(".nw-facts:visible").count() == 1, "without scripts a claim does not open"
    context.close()


def test_an_address_opens_its_claim(contexts: dict[str, BrowserContext], bases: dict[str, str]) -> None:
    claim = ledger()["claims"][-1]
    page, visit = open_page(contexts["file"], f"{bases['file']}/chapters/claims.html#{claim['id']}")
    assert page.locator("details[open]").count() == 1, f"the address of {claim['id']} does not open it"
    row = page.locator("tr:target")
    assert row.get_attribute("id") == claim["id"]
    row.locator(".nw-links a").first.click()
    page.wait_for_load_state()
    row = page.locator("tr:target")
    assert row.get_attribute("id") == f"claim-{claim['id']}", "a claim does not lead to its row in its chapter"
    assert row.locator("details[open]").count() == 1 and row.is_visible(), "the group of the claim stays folded"
    assert not visit.problems, "\n".join(visit.problems)
    page.close()
