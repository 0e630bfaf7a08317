"""What tools/assemble.py makes of a page that shows a chapter's result, and of a chapter's claims."""

import base64
import json
import sys
from pathlib import Path

import nbformat
import pytest

from nextword.book import claims

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import assemble

PICTURE = b"\x89PNG of a curve"


@pytest.fixture
def book(tmp_path):
    """A function that makes a page with a mark beside an executed chapter, and returns what assemble_page needs."""
    (tmp_path / "executed").mkdir()
    (tmp_path / "out").mkdir()

    def make(heroes=1, alt="a curve", executed=True):
        cells = [nbformat.v4.new_code_cell("draw()", metadata={"tags": ["hero"]}) for _ in range(heroes)]
        notebook = nbformat.v4.new_notebook(cells=cells)
        nbformat.write(notebook, tmp_path / "toy.ipynb")
        for cell in notebook.cells:
            cell.metadata.mystnb = {"image": {"alt": alt}}
            cell.outputs = [
                nbformat.v4.new_output("display_data", data={"image/png": base64.b64encode(PICTURE).decode()})
            ]
        if executed:
            nbformat.write(notebook, tmp_path / "executed" / "toy.ipynb")
            (tmp_path / "executed" / "toy.run.json").write_text(json.dumps({}))
        page = tmp_path / "page.md"
        page.write_text("# Page\n\n<!-- hero toy -->\n\nMore.\n")
        return page, tmp_path / "executed", tmp_path / "out" / "page.md"

    return make


def test_a_page_shows_a_chapters_result_with_its_text_and_a_link(book):
    source, executed, target = book()
    assemble.assemble_page(source, executed, target)
    expected = "```{image} _heroes/toy.png\n:alt: a curve\n:class: nw-hero\n:target: toy.html\n```"
    assert target.read_text() == f"# Page\n\n{expected}\n\nMore.\n"
    assert (target.parent / "_heroes" / "toy.png").read_bytes() == PICTURE


def test_a_page_without_a_mark_is_copied(book):
    source, executed, target = book()
    source.write_text("# Page\n\n<!-- stamp -->\n")
    assemble.assemble_page(source, executed, target)
    assert target.read_text() == source.read_text()
    assert not (target.parent / "_heroes").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"executed": False}, r"page\.md: not executed"),
        ({"heroes": 2}, "2 cells tagged 'hero'"),
        ({"alt": ""}, "no alternative text"),
    ],
)
def test_a_mark_that_cannot_be_filled_names_page_and_reason(book, fault, message):
    source, executed, target = book(**fault)
    with pytest.raises(assemble.AssemblyError, match=message):
        assemble.assemble_page(source, executed, target)
    assert not target.exists()


# The table of claims


CARD = nbformat.v4.new_output("display_data", data={"text/html": "<details>", claims.MIME: {"id": "toy.sum"}})
PRINTED = nbformat.v4.new_output("stream", name="stdout", text="120")
TABLE = "```{claims-table} toy\n```"


def chapter(*cells):
    """Return a notebook from texts, which become Markdown, and from (tags, outputs), which become code."""
    made = []
    for cell in cells:
        if isinstance(cell, str):
            made.append(nbformat.v4.new_markdown_cell(cell))
        else:
            tags, outputs = cell
            made.append(nbformat.v4.new_code_cell("record()", outputs=list(outputs), metadata={"tags": tags}))
    return nbformat.v4.new_notebook(cells=made)


def tabulated(*cells):
    notebook = chapter(*cells)
    assemble.tabulate_claims(notebook, "toy")
    nbformat.validate(notebook)
    return notebook.cells


def markdown(cells):
    return [cell.source if cell.cell_type == "markdown" else "" for cell in cells]


def test_one_table_stands_at_the_end_of_the_section_in_place_of_the_cards():
    cells = tabulated("# Toy", "## Claims\n\nText.", ([], [CARD]), ([], [CARD, CARD]), "## Break it")
    assert markdown(cells) == ["# Toy", "## Claims\n\nText.", "", "", TABLE, "## Break it"]
    assert not any(cell.get("outputs") for cell in cells)


def test_only_code_that_did_nothing_but_record_is_folded():
    cells = tabulated("## Claims", (["recorded"], [CARD]), ([], [PRINTED, CARD]), ([], []), (["hide-input"], [CARD]))
    assert [cell.metadata.tags for cell in cells[1:5]] == [["recorded", "hide-input"], [], [], ["hide-input"]]
    assert [cell.outputs for cell in cells[1:5]] == [[], [PRINTED], [], []]


def test_cards_outside_the_section_are_in_its_table_too():
    cells = tabulated("# Toy", ([], [CARD]), "## Claims", "## Break it", ([], [CARD]))
    assert markdown(cells) == ["# Toy", "", "## Claims", TABLE, "## Break it", ""]
    assert not any(cell.get("outputs") for cell in cells)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["## Claims"], ["## Claims", TABLE]),
        (["More.\n\n## Claims\n\nText.", "Text."], ["More.\n\n## Claims\n\nText.", "Text.", TABLE]),
        (["## Claims\n\nText.\n\n## Next\n\nMore."], ["## Claims\n\nText.", TABLE, "## Next\n\nMore."]),
        (["## Claims", "Text.\n\n## Next"], ["## Claims", "Text.", TABLE, "## Next"]),
        (["## Claims", "### Late ones", "## Next"], ["## Claims", "### Late ones", TABLE, "## Next"]),
        (["## Claims", "```\n## a comment\n```", "## Next"], ["## Claims", "```\n## a comment\n```", TABLE, "## Next"]),
    ],
)
def test_the_section_ends_before_the_next_heading_of_its_level(sources, expected):
    assert markdown(tabulated(([], [CARD]), *sources))[1:] == expected


def test_a_chapter_without_claims_stays_as_it_is():
    assert markdown(tabulated("## Claims", ([], [PRINTED]))) == ["## Claims", ""]


@pytest.mark.parametrize("heading", ["### Claims", "## Our claims", "```\n## Claims\n```"])
def test_claims_without_their_section_name_the_chapter(heading):
    with pytest.raises(assemble.AssemblyError, match="toy records claims but has no section '## Claims'"):
        tabulated(heading, ([], [CARD]))


def test_finished_progress_bars_are_no_result():
    bar = "training: 100%|█████████| 300/300 [00:12<00:00, 24.7step/s, loss 2.9]"
    printed = f"before\n{bar}\n\n12 parameters\n{bar}\nthe share is 5 % | 6 [m]\n"
    cell = nbformat.v4.new_code_cell("fit()")
    cell.outputs = [
        nbformat.v4.new_output("stream", name=name, text=text) for name, text in (("stdout", printed), ("stderr", bar))
    ]
    assemble.drop_progress(nbformat.v4.new_notebook(cells=[cell]))
    assert [output.text for output in cell.outputs] == ["before\n12 parameters\nthe share is 5 % | 6 [m]\n"]


def folded(*cells):
    """Return the cells of a notebook after folding, given as (text, title of its fold)."""
    made = [nbformat.v4.new_markdown_cell(text, metadata={"fold": title} if title else {}) for text, title in cells]
    notebook = nbformat.v4.new_notebook(cells=made)
    assemble.fold(notebook)
    nbformat.validate(notebook)
    return [cell.source for cell in notebook.cells]


OPENING = '<details class="nw-fold">\n<summary>{}</summary>'


def test_neighbouring_cells_are_folded_under_their_title():
    sources = folded(("One.", "Counts & costs"), ("Two.", "Counts & costs"), ("After.", ""))
    assert sources == [OPENING.format("Counts &amp; costs"), "One.", "Two.", "</details>", "After."]


def test_each_title_has_a_fold_of_its_own_up_to_the_last_cell():
    sources = folded(("One.", "A"), ("Two.", "B"))
    assert sources == [OPENING.format("A"), "One.", "</details>", OPENING.format("B"), "Two.", "</details>"]


def test_one_click_opens_the_code_of_a_fold():
    cell = nbformat.v4.new_code_cell("1", metadata={"fold": "A", "tags": ["hide-input", "recorded"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assemble.fold(notebook)
    assert notebook.cells[1].metadata.tags == ["recorded"]


def test_a_heading_in_a_fold_is_refused():
    with pytest.raises(assemble.AssemblyError, match="holds a heading"):
        folded(("Text.", "A"), ("## Inside", "A"))
