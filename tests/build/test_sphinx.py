"""Numbers, marks and tables of claims: what the build measured is what a page shows, and a fault is a warning."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.docutils import docutils_namespace

from nextword.book import claims
from nextword.book.claims import Amendment, Claim, Repeat, Verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import nextword_sphinx

REGISTERED = {"when": "before", "commit": "0123456789abcdef", "date": "2026-11-24T10:00:00+00:00"}
REGISTERED["data"] = "2026-11-25T09:30:00+00:00"


def claim(id="toy.sum", **changes):
    """Return a claim that holds by a point criterion unless told otherwise."""
    given = {
        "chapter": "toy", "paper": "p2000", "citation": "Author 2000", "where": "Table 1", "kind": "measurement",
        "statement": "The sum is <large>, says `sum`.", "quantity": "the sum", "predicted": "holds", "test": "replication",
        "op": ">=", "threshold": 100.0, "paper_value": 130.0, "unit": "points",
    }  # fmt: skip
    return Claim(id, **given | changes)


def row(made=None, measured=120.4567, verdict="holds", registered=None, states=None, **given):
    """Return a row of build/claims.json as tools/collect.py writes it."""
    given = {"std": 2.0, "seeds": 5, "values": (118.0, 119.0, 120.0, 122.0, 123.0)} | given
    found = Verdict(made or claim(), measured, verdict, **given).to_dict()
    found |= {"registered": registered or REGISTERED, "runs_state": states or {}}
    found |= {"bet": claims.bet(found), "text": claims.measured_text(found)}
    return json.loads(json.dumps(found))


def withdrawn(id="toy.gone", **changes):
    """Return the row of a withdrawn claim as tools/collect.py writes it."""
    made = claim(id, withdrawn="Two claims asked the same.", expected="fails", **changes)
    keys = (
        "id",
        "chapter",
        "citation",
        "where",
        "statement",
        "quantity",
        "badge",
        "criterion",
        "predicted",
        "expected",
    )
    return {key: getattr(made, key) for key in (*keys, "withdrawn")} | {"registered": REGISTERED}


def everything():
    """Return one row of each sort."""
    late = REGISTERED | {"when": "after"}
    bet = {"test": "bet", "paper_value": None}
    old = Amendment("2026-11-26", {"threshold": 90.0}, "90 was met by chance.", "holds")
    again = Repeat("toy_run.sum", 120.0, 119.0, 2.0, "float32", "float32")
    wide = {"op": "ci_low>", "threshold": 0.0, **bet}
    return [
        row(),
        row(claim("toy.lost", **bet), 80.0, "fails", note="Few <seeds>."),
        row(claim("toy.late", **bet), 80.0, "fails", registered=late),
        row(claim("toy.against", **wide), -1.0, "unresolved", interval=(-3.0, 1.0), values=(-0.5, -1.5)),
        row(claim("toy.unsure", predicted="unsure", **bet), 110.0),
        row(claim("toy.changed", amended=(old,), runs=("toy_run",)), repeat=again, states={"toy_run": ["fits", ""]}),
        row(claim("toy.stale", runs=("toy_run",)), verdict="stale", states={"toy_run": ["stale", "sum has changed"]}),
        row(claim("toy.one", kind="exact", test="", unit=""), 376.0, std=None, seeds=None, values=None),
        row(claim("toy.told", kind="report", test="", op="", threshold=None), verdict="reported"),
        row(claim("other.sum", chapter="other", test="bet", predicted="fails"), 80.0, "fails"),
    ]


def content(rows=None, gone=None):
    """Return the contents of build/claims.json."""
    rows = everything() if rows is None else rows
    return {"format": 3, "meta": {"date": "2026-11-27", "chapters": {}}, "claims": rows, "withdrawn": gone or []}


@pytest.fixture
def build(tmp_path):
    """Return a function that builds one page and gives its HTML and the warnings."""

    def run(text, rows=None, gone=None, page="index"):
        source = tmp_path / "src"
        (source / "chapters").mkdir(parents=True, exist_ok=True)
        ledger = content(rows, [withdrawn()] if gone is None else gone)
        (tmp_path / "claims.json").write_text(json.dumps(ledger), encoding="utf8")
        (source / "index.md").write_text("# T\n\nText.\n", encoding="utf8")
        for name in ("toy", "other", "claims"):
            (source / "chapters" / f"{name}.md").write_text(
                f"---\norphan: true\n---\n# The {name} page\n", encoding="utf8"
            )
        with open(source / f"{page}.md", "a", encoding="utf8") as file:
            file.write(f"\n{text}\n")
        (source / "conf.py").write_text('extensions = ["myst_parser", "nextword_sphinx"]')
        warnings, out, trees = io.StringIO(), tmp_path / "out", tmp_path / "trees"
        with docutils_namespace():
            Sphinx(source, source, out, trees, "html", status=None, warning=warnings).build()
        return (out / f"{page}.html").read_text(encoding="utf8"), warnings.getvalue()

    return run


def shown(build, directive, page):
    """Return a page that holds one directive and was built without a warning."""
    text, warnings = build(directive, page=page)
    assert warnings == ""
    return BeautifulSoup(text, "lxml")


def cells(soup, id):
    return [" ".join(cell.get_text(" ").split()) for cell in soup.find(id=id).find_all("td")]


# Numbers in prose


def test_the_role_renders_the_measured_number_and_links_to_its_row(build):
    page, warnings = build(
        "The sum is {claim}`toy.sum`, the paper's {claim}`toy.sum:paper`, so {claim}`toy.sum:verdict`."
    )
    assert warnings == ""
    shown = claims.measured_text(row()).replace(" ", "\u00a0")
    assert f'href="chapters/toy.html#claim-toy.sum">{shown}</a>' in page
    assert " ± " in claims.measured_text(row())
    assert ">130</a>" in page and ">holds</a>" in page and "nw-mark" not in page


def test_fields_leave_out_what_the_sentence_says_itself(build):
    page, warnings = build("{claim}`toy.against`, {claim}`toy.against:plain`, {claim}`toy.against:size`.")
    assert warnings == ""
    assert re.findall(r'claim-toy.against">([^<]*)</a>', page) == [
        "−1.0\u00a0±\u00a02.0",
        "−1.0",
        "1.0\u00a0±\u00a02.0",
    ]


@pytest.mark.parametrize(
    "id, sign, word, says",
    [
        ("toy.lost", "✗", "failed", "The criterion asks for “the sum” at least 100."),
        (
            "toy.against",
            "?",
            "unresolved",
            "with its whole 95 % interval above 0. Every seed came out against our bet.",
        ),
        ("toy.stale", "stale", "stale", "made by other code"),
    ],
)
def test_a_verdict_that_is_not_holds_stands_beside_the_number(build, id, sign, word, says):
    soup = BeautifulSoup(build(f"It is {{claim}}`{id}` or {{claim}}`{id}:plain`.")[0], "lxml")
    marks = soup.select("sup.nw-mark")
    assert [found.get_text() for found in marks] == [sign, sign]
    assert all(found["aria-label"] == word and found["role"] == "img" for found in marks)
    assert all(says in found["title"] for found in marks)
    assert marks[0].find_previous_sibling("a")["href"] == f"chapters/toy.html#claim-{id}"


@pytest.mark.parametrize("name", ["verdict", "predicted", "band"])
def test_other_fields_have_no_mark(build, name):
    page, warnings = build(f"It is {{claim}}`toy.lost:{name}`.")
    assert "nw-mark" not in page and warnings == ""


@pytest.mark.parametrize("verdict", sorted({*claims.VERDICTS, claims.CONTRADICTED, claims.STALE}))
def test_every_verdict_has_a_mark_or_needs_none(verdict):
    found = nextword_sphinx.mark(row(verdict=verdict))
    assert bool(found) == (verdict not in ("holds", "reported"))


def test_every_comparison_of_the_ledger_has_words():
    assert set(nextword_sphinx._WORDS) == {*claims._POINT_OPS, *claims._INTERVAL_OPS}


@pytest.mark.parametrize(
    "text, says",
    [
        ("toy.mean", "was not recorded"),
        ("toy.sum:colour", "is no field"),
        ("toy.lost:paper", "printed no number"),
        ("toy.gone", "is withdrawn"),
    ],
)
def test_a_number_that_is_not_there_is_a_warning_which_stops_the_build(build, text, says):
    assert says in build(f"The sum is {{claim}}`{text}`.")[1]


# The table of a chapter


@pytest.fixture
def chapter(build):
    return shown(build, "```{claims-table} toy\n```", "chapters/toy")


def test_the_table_lists_what_the_paper_found_first_and_nothing_of_other_chapters(chapter):
    heads = [head.get_text() for head in chapter.select(".nw-group, .nw-fold > summary")]
    assert heads == [
        "What the paper found",
        "Our own questions: 4 (1 holds · 2 fail · 1 unresolved)",
        "Exact: arithmetic and code: 1 (1 holds)",
        "Reported, without pass or fail: 1",
    ]
    ids = [found["id"] for found in chapter.select("tr[data-badge]")]
    names = ("sum", "changed", "stale", "lost", "late", "against", "unsure", "one", "told")
    assert ids == [f"claim-toy.{name}" for name in names]
    assert not chapter.find(string=re.compile("other.sum"))


def test_a_row_has_claim_paper_here_and_verdict(chapter):
    claimed, *rest = cells(chapter, "claim-toy.sum")
    assert claimed.startswith("The sum is <large>, says sum . the sum")
    assert rest == ["130", f"{claims.measured_text(row())} points", "holds , as we bet"]
    assert cells(chapter, "claim-toy.lost")[1] == "–"


@pytest.mark.parametrize(
    "id, says",
    [
        ("toy.lost", "fails ; we bet it would hold"),
        ("toy.late", "fails †"),
        ("toy.against", "unresolved ; every seed against the bet"),
        ("toy.unsure", "holds ; we were unsure"),
        ("toy.stale", "stale"),
        ("toy.one", "holds"),
        ("toy.told", "reported"),
    ],
)
def test_the_verdict_is_said_with_the_bet(chapter, id, says):
    assert cells(chapter, f"claim-{id}")[3] == says


def test_the_sentence_on_registration_stands_above(chapter):
    told = chapter.select_one("p.nw-registered")
    assert told.get_text().startswith("Of these 8 claims, 7 were registered")
    assert told.find_next(class_="nw-claims")


def details(soup, id):
    """Return what opens under a claim, as pairs of a word and a text."""
    found = soup.find(id=id)
    pairs = zip(found.select("dt"), found.select("dd"), strict=True)
    return [(name.get_text(), text.get_text()) for name, text in pairs]


def test_the_details_say_what_made_the_number(chapter):
    told = dict(details(chapter, "claim-toy.changed"))
    assert told["source"] == "Author 2000, Table 1"
    assert told["measured"] == "120.5, sd 2, 5 seeds"
    assert told["criterion"] == "≥ 100" and told["our bet"] == "holds" and told["seeds"].startswith("118, 119")
    assert told["recorded run"] == "toy_run: fits"
    assert told["the same seed again (toy_run.sum)"] == "120 just now, 119 recorded, tolerance 2"
    assert told["registered"] == "before its data: 2026-11-24 10:00 (commit 01234567), data 2026-11-25 09:30"
    assert told["changed"] == (
        "on 2026-11-26; before: “the sum” at least 90, our bet holds. 90 was met by chance. Verdict under it: holds."
    )
    assert dict(details(chapter, "claim-toy.stale"))["recorded run"] == "toy_run: stale: sum has changed"
    assert dict(details(chapter, "claim-toy.lost"))["note"] == "Few <seeds>."
    assert dict(details(chapter, "claim-toy.against"))["95 % interval"] == "−3 … 1"


def test_the_changes_of_a_claim_are_told_from_the_first_to_the_last():
    first = Amendment("2026-11-20", {"quantity": "the mean", "threshold": 1.0}, "It asked for the wrong thing.")
    second = Amendment("2026-11-22", {"threshold": 90.0, "predicted": "unsure"}, "Too easy", "holds")
    told = nextword_sphinx.amendments(row(claim(amended=(first, second))))
    assert "“the mean” at least 1, our bet unsure. It asked" in told[0]
    assert "“the sum” at least 90, our bet unsure. Too easy. Verdict" in told[1]


def test_a_row_leads_to_its_address_and_to_its_file(chapter):
    links = [a["href"] for a in chapter.find(id="claim-toy.sum").select(".nw-links a")]
    assert links == ["claims.html#toy.sum", "claims/toy.sum.json"]


def test_a_withdrawn_claim_keeps_a_folded_line_with_the_reason(chapter):
    found = chapter.find(id="claim-toy.gone")
    assert found.name == "details" and not found.has_attr("open")
    assert found.summary.get_text().startswith("withdrawn The sum is <large>")
    told = dict(details(chapter, "claim-toy.gone"))
    assert told["why"] == "Two claims asked the same." and told["last verdict"] == "fails"


def test_a_chapter_without_claims_is_a_warning(build):
    assert "no claim of it was recorded" in build("```{claims-table} nothing\n```")[1]


def test_a_claim_without_history_says_so(build):
    page, warnings = build("```{claims-table} toy\n```", rows=[row(registered={"when": "unknown"})], gone=[])
    assert "is not known" in page and "has no history of it" in page and warnings == ""


# The page of all claims


@pytest.fixture
def whole(build):
    return shown(build, "```{claims-table}\n```", "chapters/claims")


def test_the_totals_count_each_kind_by_what_became_of_it(whole):
    lines = [[cell.get_text() for cell in found.find_all(["th", "td"])] for found in whole.select(".nw-totals tr")][:9]
    assert [line[1:] for line in lines] == [
        ["3", "2 held · 0 failed · 0 unresolved · 1 stale"],
        ["5", "1 won · 1 lost · 1 unresolved · 1 registered after their data and not counted · 1 no bet"],
        ["1", ""],
        ["1", "1 held · 0 failed"],
        ["1", ""],
        ["9", "8 before their data · 1 after"],
        ["1", ""],
        ["1", ""],
        ["1", "0 made or repeated by today's code · 1 stale"],
    ]


def test_the_bets_stand_against_the_verdicts(whole):
    lines = [[cell.get_text() for cell in found.find_all(["th", "td"])] for found in whole.select(".nw-bets tr")]
    assert lines == [
        ["we bet", "holds", "fails", "unresolved"],
        ["What the paper found"],
        ["holds", "2", "0", "0"],
        ["unsure", "0", "0", "0"],
        ["fails", "0", "0", "0"],
        ["Brier score", "0.01"],
        ["Our own questions"],
        ["holds", "0", "1", "1"],
        ["unsure", "1", "0", "0"],
        ["fails", "0", "1", "0"],
        ["Brier score", "0.36"],  # (0.9² + 0.5² + 0.1²) / 3
    ]
    assert "Over both kinds together it is 0.22. The 1 without such a verdict" in whole.get_text()


def test_no_resolved_claim_means_no_score():
    assert nextword_sphinx.brier([row(verdict="unresolved")]) is None


def test_each_chapter_has_its_heading_and_each_claim_its_address(whole):
    assert [head.find(string=True) for head in whole.select(".nw-by-chapter h3")] == ["The other page", "The toy page"]
    section = whole.select_one("section#claims-of-toy.nw-by-chapter")
    assert section.find(id="toy.sum") and section.find(id="toy.gone") and not section.find(id="other.sum")
    links = [a["href"] for a in section.find(id="toy.sum").select(".nw-links a")]
    assert links == ["toy.html#claim-toy.sum", "claims/toy.sum.json"]
    ids = [tag["id"] for tag in whole.find("body").find_all(id=True)]
    assert len(ids) == len(set(ids))


def test_the_filters_know_every_value_and_hide_where_no_script_runs(whole):
    box = whole.select_one(".nw-filters")
    assert box.has_attr("hidden") and box.select_one(".nw-count").get_text() == "11 claims"
    options = {s["data-key"]: [o["value"] for o in s.find_all("option")][1:] for s in box.find_all("select")}
    for key, values in options.items():
        assert {found[f"data-{key}"] for found in whole.select("[data-badge]")} == set(values)
    assert list(options) == ["badge", "verdict", "chapter", "registered"] and "withdrawn" in options["verdict"]
    assert not whole.select(".nw-claims [hidden], details[open]")


def test_titles_come_from_the_notebook_in_the_order_of_the_contents(tmp_path):
    (tmp_path / "chapters").mkdir()
    cell = {"cell_type": "markdown", "source": ["Before.\n", "# Look at less\n", "## More"]}
    (tmp_path / "chapters" / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    (tmp_path / "_toc.yml").write_text("- file: chapters/b\n- file: chapters/a\n")
    assert list(nextword_sphinx.chapter_titles(tmp_path, {"a", "b"}).items()) == [("b", "b"), ("a", "Look at less")]


def test_each_claim_has_its_file(build, tmp_path):
    build("Nothing.")
    folder = tmp_path / "out" / "chapters" / "claims"
    names = {path.stem for path in folder.glob("*.json")}
    assert names == {found["id"] for found in everything()} | {"toy.gone", "claims"}
    one = json.loads((folder / "toy.sum.json").read_text(encoding="utf8"))
    assert one == {"format": 3, "claim": row()}
    assert json.loads((folder / "claims.json").read_text(encoding="utf8")) == content(gone=[withdrawn()])


def test_the_schema_is_copied_beside_the_claims(tmp_path):
    schema = tmp_path / "src" / "chapters" / "_static" / "claims.schema.json"
    (tmp_path / "src").mkdir()

    class App:
        confdir = srcdir = tmp_path / "src"
        outdir = tmp_path / "out"

    schema.parent.mkdir(parents=True)
    schema.write_text("{}")
    (tmp_path / "claims.json").write_text(json.dumps(content(rows=[])))
    App.builder = type("Builder", (), {"format": "html"})
    App.env = type("Env", (), {"nextword_ledger": content(rows=[])})
    nextword_sphinx.write_files(App, None)
    assert (tmp_path / "out" / "chapters" / "claims" / "claims.schema.json").read_text() == "{}"


def test_the_page_of_the_library_leaves_out_helpers_and_nothing_else():
    for name, left_out in {
        "check_ids": True,
        "map_hf_name": True,
        "due": True,
        "Decoder": None,
        "checkpoints": None,
    }.items():
        assert nextword_sphinx.leave_out(None, "module", name, None, False, None) is left_out


def test_a_sentence_with_a_colon_about_an_attribute_is_no_type():
    """Napoleon reads ``sentence: rest`` of an attribute as ``type: description``, and would print a heading of it."""
    config = Config(napoleon_numpy_docstring=False)
    lines = ["Steps between two checkpoints. 0: only at the end.", "", "- ``a``: b"]
    assert ":type:" in str(GoogleDocstring(lines, config, what="attribute", name="x"))
    for what in ("attribute", "data", "property"):
        kept = list(lines)
        nextword_sphinx.keep_whole(None, what, "TrainConfig.checkpoint_every", None, None, kept)
        shown = str(GoogleDocstring(kept, config, what=what, name="x"))
        assert ":type:" not in shown and shown.endswith("\n".join(lines))
    kept = list(lines)
    nextword_sphinx.keep_whole(None, "function", "fit", None, None, kept)
    assert kept == lines


DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" role="img"><title id="t">A box</title><rect/></svg>'


def test_a_diagram_stands_in_the_page_itself_with_its_caption(build, tmp_path):
    folder = tmp_path / "src" / "chapters" / "_static" / "diagrams"
    folder.mkdir(parents=True)
    (folder / "box.svg").write_text(DRAWING, encoding="utf8")
    text, warnings = build("See {ref}`the box <fig-box>`.\n\n```{diagram} box\n:name: fig-box\nA *box*, drawn.\n```")
    figure = BeautifulSoup(text, "lxml").select_one("figure.nw-diagram#fig-box")
    assert warnings == "" and figure.select_one("svg[role=img] > title") and not figure.select("img")
    assert figure.figcaption.get_text().strip().startswith("A box, drawn.") and figure.figcaption.em
    assert BeautifulSoup(text, "lxml").select_one('a[href="#fig-box"]')


def test_a_diagram_that_is_not_there_is_a_fault(build):
    assert "none.svg is not among the diagrams" in build("```{diagram} none\n```")[1]


STORED = {"text": "A b", "words": ["<end>", "A", " b"], "spelled": {"7": " c"}}
STORED["models"] = {"small": {"logP": [0, -1, -2], "next": [[7, -0.1]]}}


def test_a_live_part_is_a_place_with_stored_numbers_and_its_scripts_come_once(build, tmp_path):
    folder = tmp_path / "src" / "chapters" / "_static" / "live"
    folder.mkdir(parents=True)
    (folder / "live_page.json").write_text(json.dumps(STORED), encoding="utf8")
    text, warnings = build("```{live} text\n```\n\n```{live} heads\n```", page="chapters/toy")
    soup = BeautifulSoup(text, "lxml")
    first, second = soup.select("div.nw-live")
    assert warnings == "" and (first["data-live"], second["data-live"]) == ("text", "heads")
    assert [cell.text for cell in first.select("tbody th")] == ["A", "b"] and "JavaScript" in second.text
    assert json.loads(first.select_one("script").string) == STORED and not second.select("script")
    scripts = [script["src"] for script in soup.select("script[src*='/live/']")]
    assert scripts == [f"../_static/live/{name}.js" for name in ("engine", "parts", "tokenizer", "page")]
    assert all(script.has_attr("defer") for script in soup.select("script[src*='/live/']"))
    assert [link["href"] for link in soup.select("link[href*='/live/']")] == ["../_static/live/live.css"]


def test_a_live_part_that_is_not_there_is_a_fault(build):
    assert "there are text, next" in build("```{live} music\n```")[1]


def test_a_stub_is_the_check_s_with_its_call_and_hints(build):
    text, warnings = build("```{stub} gae\n```")
    page = BeautifulSoup(text, "lxml")
    code = page.select_one("div.highlight").get_text()
    assert warnings == "" and code.strip().startswith("def gae(") and code.rstrip().endswith("check.gae(gae)")
    assert compile(code, "stub", "exec")
    folded = page.select_one("details.nw-fold")
    assert folded.summary.get_text() == "Hints" and len(folded.select("li")) == 2


@pytest.mark.parametrize("name", ["nothing", "Wrong", "stub"])
def test_a_stub_without_a_check_is_a_fault(build, name):
    assert "nextword.check has no such check" in build(f"```{{stub}} {name}\n```")[1]
