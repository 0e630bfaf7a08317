"""Measured numbers in prose: the role and the table render what the run gave, and an unknown claim is a warning."""

import io
import json
import sys
from pathlib import Path

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

ROW = {
    "id": "toy.sum", "chapter": "toy", "paper": "p2000", "citation": "Author 2000", "where": "Table 1", "unit": "",
    "statement": "The sum is <large>.", "kind": "measurement", "quantity": "sum", "criterion": "≥ 100",
    "paper_value": 130.0, "measured": 120.4567, "std": 0.5, "band": [116.0, 124.0], "verdict": "holds",
    "predicted": "unsure", "note": "", "interval": None,
}  # fmt: skip


@pytest.fixture
def build(tmp_path):
    """Return a function that builds one page and gives its HTML and the warnings."""

    def run(text):
        source = tmp_path / "src"
        (source / "chapters").mkdir(parents=True)
        (tmp_path / "claims.json").write_text(json.dumps({"meta": {}, "claims": [ROW]}))
        (source / "index.md").write_text(text)
        (source / "chapters" / "toy.md").write_text("---\norphan: true\n---\n# Toy\n")
        warnings = io.StringIO()
        (source / "conf.py").write_text('extensions = ["myst_parser", "nextword_sphinx"]')
        out, trees = tmp_path / "out", tmp_path / "trees"
        with docutils_namespace():
            Sphinx(source, source, out, trees, "html", status=None, warning=warnings).build()
        return (tmp_path / "out" / "index.html").read_text(), warnings.getvalue()

    return run


def test_the_role_renders_the_measured_number_and_links_to_the_card(build):
    page, warnings = build(
        "# T\n\nThe sum is {claim}`toy.sum`, the paper's {claim}`toy.sum:paper`, so it {claim}`toy.sum:verdict`."
    )
    assert warnings == ""
    assert 'href="chapters/toy.html#claim-toy.sum">120.5</a>' in page
    assert ">130</a>" in page and ">holds</a>" in page


@pytest.mark.parametrize("text, says", [("toy.mean", "was not recorded"), ("toy.sum:colour", "is no field")])
def test_an_unknown_claim_or_field_is_a_warning_which_stops_the_build(build, text, says):
    _, warnings = build(f"# T\n\nThe sum is {{claim}}`{text}`.")
    assert says in warnings


def test_the_table_lists_every_claim_with_its_filters(build):
    page, warnings = build("# T\n\n```{claims-table}\n```\n")
    assert warnings == ""
    assert page.count('<tr data-citation="Author 2000" data-kind="measurement" data-verdict="holds">') == 1
    assert "The sum is &lt;large&gt;." in page and "120.5</strong> ± 0.5" in page and "116 … 124" in page
    assert page.count("<select") == 3
