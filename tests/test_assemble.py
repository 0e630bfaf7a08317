"""What tools/assemble.py makes of a page that shows a chapter's result."""

import base64
import json
import sys
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
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
