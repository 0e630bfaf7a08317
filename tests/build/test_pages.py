"""The reference pages keep their promises: every slide has a verdict, and every claim, citation, link and term exists."""

import itertools
import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = ROOT / "chapters"
TALK = (CHAPTERS / "talk.md").read_text(encoding="utf8")
N_SLIDES = 40
VERDICTS = {"true", "corrected", "measured", "opinion", "no claim"}

ROW = re.compile(r"^\* - (?P<label>S\w+)\\\n    \*\*(?P<verdict>[^*]+)\*\*\n(?P<cell>(?:  .*\n|\n)*)", re.MULTILINE)
LABEL = re.compile(r"S([1-9]\d?)([a-z]?)")
CITE = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")
CLAIM = re.compile(r"\{claim\}`([^`:]+)(?::\w+)?`")
BIB_KEY = re.compile(r"^@\w+\{([^,\s]+),", re.MULTILINE)
FENCE = re.compile(r"^(`{3,}|~{3,})[^\n]*\n.*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!\})`[^`\n]+`")
ARGUMENT = ["Problem", "Idea", "Open"]
LINK = re.compile(r"\]\(([^()\s]+)\)")


def rows(text):
    """Return the rows of the tables of slides: label, verdict and the cell's text."""
    return [(m["label"], m["verdict"], m["cell"]) for m in ROW.finditer(text)]


def slide_faults(labels):
    """Return what is wrong with the labels of all rows, one sentence a fault."""
    parsed = [LABEL.fullmatch(label) for label in labels]
    faults = [f"{label} is no label of a slide" for label, m in zip(labels, parsed, strict=True) if not m]
    keys = [(int(m[1]), m[2]) for m in parsed if m]
    faults += [f"S{n}{a} stands twice" for (n, a), count in Counter(keys).items() if count > 1]
    slides = {n for n, _ in keys}
    faults += [f"slide {n} has no row" for n in range(1, N_SLIDES + 1) if n not in slides]
    faults += [f"slide {n} does not exist" for n in sorted(slides) if n > N_SLIDES]
    faults += ["the rows are out of order"] if keys != sorted(keys) else []
    for n in sorted(slides):
        letters = "".join(a for k, a in keys if k == n)
        if letters and letters != "abcdefghijklmnopqrstuvwxyz"[: len(letters)]:
            faults.append(f"slide {n} has the claims {letters!r}")
    return faults


def markdown(path):
    """Return the Markdown of a page or of a notebook's text cells."""
    text = path.read_text(encoding="utf8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return text


def pages():
    return sorted([*CHAPTERS.glob("*.md"), *CHAPTERS.glob("*.ipynb")])


def ledger():
    return tomllib.loads((ROOT / "lib/nextword/book/claims.toml").read_text(encoding="utf8"))["claim"]


def bib_keys():
    return BIB_KEY.findall((CHAPTERS / "references.bib").read_text(encoding="utf8"))


def glossary_terms(text):
    block = re.search(r"^```\{glossary\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, "glossary.md has no glossary"
    return re.findall(r"^(\S.*)\n  \S", block[1], re.MULTILINE)


def test_every_slide_of_the_talk_has_its_rows():
    assert slide_faults([label for label, _, _ in rows(TALK)]) == []


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (["S1", "S1"], "S1 stands twice"),
        (["S2", "S1"], "the rows are out of order"),
        (["S1a", "S1c"], "slide 1 has the claims 'ac'"),
        (["S41"], "slide 41 does not exist"),
        (["S1"], "slide 40 has no row"),
        (["S01"], "S01 is no label of a slide"),
    ],
)
def test_a_faulty_list_of_slides_is_noticed(labels, fault):
    assert fault in slide_faults(labels)


def test_every_line_that_looks_like_a_row_is_read_as_one():
    starts = re.findall(r"^\* - S\d.*", TALK, re.MULTILINE)
    assert len(starts) == len(rows(TALK)) >= N_SLIDES


def test_every_verdict_is_legal():
    assert {label: verdict for label, verdict, _ in rows(TALK) if verdict not in VERDICTS} == {}


def test_every_legal_verdict_is_explained_and_used():
    explained = set(re.findall(r"^\| \*\*([^*]+)\*\* \|", TALK, re.MULTILINE))
    assert explained == VERDICTS == {verdict for _, verdict, _ in rows(TALK)}


@pytest.mark.parametrize(("label", "verdict", "cell"), rows(TALK), ids=[label for label, _, _ in rows(TALK)])
def test_a_row_shows_what_its_verdict_promises(label, verdict, cell):
    said, *checked = [part for part in cell.split("\n\n") if part.strip()]
    assert said.startswith("  - "), f"{label} does not say what the slide claims"
    assert len(re.findall(r"^  - ", cell, re.MULTILINE)) == 1, f"{label} holds more than one cell: a label was lost"
    assert (verdict == "measured") == bool(CLAIM.search(cell)), f"{label}: a number of ours, and only then 'measured'"
    if verdict == "measured":
        assert re.search(r"\]\(\w+\.ipynb\)", cell), f"{label} does not link the chapter that measured it"
    if verdict == "corrected":
        assert checked, f"{label} does not give the right fact"


def test_the_list_of_corrections_names_every_corrected_row():
    section = TALK.split("## Corrections the book carries")[1].split("\n## ")[0]
    listed = re.findall(r"^- \*\*(S\w+)\*\*: \S", section, re.MULTILINE)
    corrected = [label for label, verdict, _ in rows(TALK) if verdict == "corrected"]
    assert listed == corrected


def test_the_reading_list_says_kind_and_language_of_every_item():
    section = TALK.split("## The talk's own reading list")[1]
    items = re.findall(r"^- .*", section, re.MULTILINE)
    legal = re.compile(
        r"- \*\*(paper|book|video|slides|article|code|model)\*\*, (English|Japanese): .*\]\(https://\S+\)"
    )
    assert [item for item in items if not legal.match(item)] == []
    assert sum("**paper**, English" in item for item in items) == 9
    assert sum("**video**, Japanese" in item for item in items) == 7


@pytest.mark.parametrize("path", pages(), ids=lambda p: p.name)
def test_every_claim_shown_on_a_page_is_in_the_ledger(path):
    assert set(CLAIM.findall(markdown(path))) - {row["id"] for row in ledger()} == set()


@pytest.mark.parametrize("path", pages(), ids=lambda p: p.name)
def test_every_work_cited_is_in_the_bibliography(path):
    cited = {key.strip() for keys in CITE.findall(markdown(path)) for key in keys.split(",")}
    assert cited - set(bib_keys()) == set()


def test_every_paper_of_the_ledger_is_in_the_bibliography():
    assert {row["paper"] for row in ledger()} - set(bib_keys()) == set()


def test_the_bibliography_is_unique_and_sorted():
    keys = bib_keys()
    assert [key for key, count in Counter(keys).items() if count > 1] == []
    assert [pair for pair in itertools.pairwise(keys) if pair[0] > pair[1]] == []
    text = (CHAPTERS / "references.bib").read_text(encoding="utf8")
    assert len(keys) == len(re.findall(r"^@", text, re.MULTILINE)) >= 40
    titles = [re.sub(r"[{}\s]", "", t).lower() for t in re.findall(r"^  title\s*= \{(.*)\},?$", text, re.MULTILINE)]
    assert len(titles) == len(set(titles)) == len(keys)


@pytest.mark.parametrize("path", pages(), ids=lambda p: p.name)
def test_every_file_a_page_links_exists(path):
    text = CODE.sub("", FENCE.sub("", markdown(path)))
    targets = {link.split("#")[0] for link in LINK.findall(text) if not re.match(r"[a-z]+:|#", link)}
    assert sorted(t for t in targets if not (CHAPTERS / t).exists()) == []


def test_the_glossary_is_unique_sorted_and_long_enough():
    terms = glossary_terms((CHAPTERS / "glossary.md").read_text(encoding="utf8"))
    folded = [term.casefold() for term in terms]
    assert [pair for pair in itertools.pairwise(folded) if pair[0] >= pair[1]] == []
    assert len(terms) >= 45


@pytest.mark.parametrize("path", pages(), ids=lambda p: p.name)
def test_every_glossary_term_used_is_defined(path):
    terms = set(glossary_terms((CHAPTERS / "glossary.md").read_text(encoding="utf8")))
    used = re.findall(r"\{term\}`(?:[^`<]*<)?([^`<>]+)>?`", markdown(path))
    assert set(used) - terms == set()


def test_a_term_without_an_indented_definition_is_no_term():
    assert glossary_terms("```{glossary}\nloss\n  What is minimised.\n\nstray\n```\n") == ["loss"]


def test_the_timeline_runs_forward_and_every_entry_is_complete():
    text = (CHAPTERS / "timeline.md").read_text(encoding="utf8")
    entries = re.findall(r"^(\d{4}) · (.+)\n((?:: .*\n)+)", text, re.MULTILINE)
    years = [int(year) for year, _, _ in entries]
    assert years == sorted(years) and (years[0], years[-1]) == (1995, 2023) and len(years) >= 20
    for year, title, body in entries:
        parts = [re.findall(r"(?:^: | )\*\*(\w+)\.\*\* \S", line) for line in body.splitlines()]
        assert parts in ([ARGUMENT, ["Chapter"]], [ARGUMENT, ["Size", "Chapter"]]), f"{year} {title}"
