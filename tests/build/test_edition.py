"""The runner's edition: each convention becomes plain Markdown, and what has no rule stops the build."""

import ast
import base64
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nextword import check
from nextword.book import claims
from nextword.book.claims import Verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import assemble
import chapters
import colab
import edition
import nextword_sphinx
from myst import raw_markup
from references import Book

REGISTERED = {"when": "before", "commit": "0123456789abcdef", "date": "2026-11-24T10:00:00+00:00", "data": ""}
PNG = base64.b64encode(b"\x89PNG of a curve").decode()
PICTURE = new_output("display_data", data={"image/png": PNG, "text/plain": "<Figure>"})
CHECKS = [name for name in check.__all__ if name not in ("Wrong", "hints", "stub")]


def row(claim, verdict="holds"):
    """Return a row of build/claims.json."""
    found = Verdict(claim, 1.234, verdict, std=0.1, seeds=5, values=(1.1, 1.2, 1.2, 1.3, 1.3)).to_dict()
    found |= {"registered": REGISTERED, "runs_state": {}, "bet": claims.bet(found)}
    return json.loads(json.dumps(found))


def withdrawn(claim):
    keys = ("id", "chapter", "citation", "where", "statement", "quantity", "badge", "criterion", "predicted")
    return {key: getattr(claim, key) for key in (*keys, "withdrawn")}


@pytest.fixture(scope="module")
def book():
    """The book's own works, words and pages, with made-up measurements; one claim fails."""
    ledger = claims.ledger().values()
    rows = [row(c, "fails" if c.id == "next.zipf" else "holds") for c in ledger if not c.withdrawn]
    gone = [withdrawn(c) for c in ledger if c.withdrawn]
    return Book.read({"format": 3, "meta": {}, "claims": rows, "withdrawn": gone})


@pytest.fixture
def make(book):
    """A function that returns the cells of an edition, made of Markdown (as texts) and code cells."""

    def run(*cells):
        cells = [new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        return edition.edition(new_notebook(cells=cells), book, "2003_next_word").cells

    return run


def code(source="draw()", outputs=(), **metadata):
    return new_code_cell(source, outputs=list(outputs), metadata=metadata)


def figure(caption, name, *, tags=()):
    shown = {"figure": {"caption": caption, "name": name}, "image": {"alt": "a curve that rises"}}
    return code(outputs=[PICTURE], mystnb=shown, tags=list(tags))


def sources(cells):
    return [cell.source for cell in cells]


# Inside a line


SITE = "https://OWNER.github.io/next-word/chapters"
VASWANI = "https://arxiv.org/abs/1706.03762"


def test_a_place_where_models_answer_leads_to_the_book(make):
    [cell] = make("Ask.\n\n```{live} next\n```\n\nAfter.")
    asked, place, after = cell.source.split("\n\n")
    assert (asked, after) == ("Ask.", "After.")
    assert re.fullmatch(
        r"> \[In the book\]\(https://\S+/chapters/\w+\.html\) models answer here, in the browser\.", place
    )


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("slope {claim}`next.zipf:plain`.", "slope 1.23\u00a0✗."),
        ("gain {claim}`next.context-helps`", "gain 1.23\u00a0±\u00a00.12"),
        ("{claim}`next.zipf:verdict`, {claim}`next.zipf:predicted`", "fails, unsure"),
        ("{cite:p}`vaswani2017,bengio2003`", f"([Vaswani et al. 2017]({VASWANI}); Bengio et al. 2003)"),
        ("{cite:t}`vaswani2017` say", f"[Vaswani et al. (2017)]({VASWANI}) say"),
        ("{term}`BLEU`", f"[BLEU]({SITE}/glossary.html#term-BLEU)"),
        ("{term}`words <Perplexity>`", f"[words]({SITE}/glossary.html#term-perplexity)"),
        ("{doc}`2016_gnmt`", "[GNMT: read a sentence, then write it in another language](2016_gnmt.ipynb)"),
        ("[on](2016_gnmt.ipynb), [the talk](talk.md)", f"[on](2016_gnmt.ipynb), [the talk]({SITE}/talk.html)"),
        ("[`NGram`](#nextword.ngram.NGram)", f"[`NGram`]({SITE}/api.html#nextword.ngram.NGram)"),
        ("{abbr}`LSTM` and {math}`x^2`", "LSTM and $x^2$"),
        ("`{claim}` in code, $a\\{b\\}$", "`{claim}` in code, $a\\{b\\}$"),
        ("[out](https://example.org)", "[out](https://example.org)"),
        ("said <!-- to nobody --> aloud", "said  aloud"),
        ("one $ sign\n\n{claim}`next.zipf:verdict` for $x$", "one $ sign\n\nfails for $x$"),
    ],
)
def test_a_role_becomes_what_the_book_prints(make, markup, plain):
    assert sources(make(markup)) == [plain]


@pytest.mark.parametrize(
    ("markup", "why"),
    [
        ("{claim}`next.nothing`", "not recorded by any chapter"),
        ("{claim}`next.zipf:colour`", "'colour' is no field"),
        ("{cite:p}`nobody1900`", "references.bib has no nobody1900"),
        ("{term}`zzz`", "the glossary does not explain it"),
        ("{doc}`2031_nothing`", "the book has no page 2031_nothing"),
        ("{eq}`eq-none`", "nothing in this chapter has this label"),
        ("{shout}`x`", "no rule for this role"),
        ("[here](#some-label)", "leads to no page"),
        ("![x](_static/x.png)", "leads to no page"),
        (":::{tab-set}\nx\n:::", "no rule for this directive"),
        ("- a list\n\n  ```{note}\n  x\n  ```", "no rule for this directive"),
        ("```{diagram} dragons\n```", "no diagram has this name"),
        (":::{exercise} E\n```{stub} dragons\n```\n:::", "no check of this name"),
        (":::{solution} ex-none\nx\n:::", "no exercise before it has this label"),
        ("a {{ word }}", "has left this as it stands"),
    ],
)
def test_what_has_no_rule_or_leads_nowhere_is_a_fault_that_names_its_place(make, markup, why):
    with pytest.raises(edition.EditionError) as error:
        make("# Title", markup)
    assert why in str(error.value) and "2003_next_word.ipynb, cell " in str(error.value)


def test_every_fault_is_told(make):
    with pytest.raises(edition.EditionError) as error:
        make("{claim}`next.nothing` and {term}`zzz`", "{shout}`x`")
    assert len(str(error.value).splitlines()) == 3


# Formulas, figures, boxes


def test_labelled_formulas_are_numbered_and_named(make):
    first, second = make(
        "By {eq}`eq-b`,\n\n$$ a = b $$ (eq-a)\n\nand", "$$\n\\begin{aligned}\na &= c\n\\end{aligned}\n$$ (eq-b)"
    )
    assert first.source == "By (2),\n\n$$ a = b \\tag{1} $$\n\nand"
    assert second.source == "$$\n\\begin{aligned}\na &= c\n\\end{aligned}\n\\tag{2} $$"


def test_a_figure_has_its_number_and_caption_under_it(make):
    cells = make(
        "See {numref}`fig-b` and {numref}`picture %s <fig-a>`.",
        figure("How {claim}`next.zipf` came.", "fig-a"),
        figure("Not *so*.", "fig-b"),
    )
    assert sources(cells) == [
        "See Figure 2 and picture 1.",
        "draw()",
        "*Figure 1. How 1.23\u00a0±\u00a00.12\u00a0✗ came.*",
        "draw()",
        "Figure 2. Not *so*.",
    ]
    assert cells[1].outputs == [PICTURE] and "mystnb" not in cells[1].metadata


def test_the_result_stands_up_front_as_a_picture_in_the_text(book):
    notebook = new_notebook(
        cells=[new_markdown_cell("# T\n\n<!-- hero -->\n\nText."), figure("It rises.", "fig-a", tags=["hero"])]
    )
    assemble.fill_hero(notebook)
    cells = edition.edition(notebook, book, "2003_next_word").cells
    assert cells[1].source == f"![a curve that rises](data:image/png;base64,{PNG})"
    assert cells[2].source == "*It rises. (made further down: Figure 1)*\n\nText."


def test_a_diagram_is_shown_by_its_address_with_its_title_and_caption(make):
    diagram = "```{diagram} heads\n:name: fig-heads\nEach head\nlooks elsewhere.\n```"
    [cell] = make(f"Look at {{numref}}`fig-heads`.\n\n{diagram}\n\nAfter.")
    look, image, caption, after = cell.source.split("\n\n")
    assert (look, caption, after) == ("Look at Figure 1.", "*Figure 1. Each head looks elsewhere.*", "After.")
    assert image.startswith("![") and image.endswith("](https://OWNER.github.io/next-word/_static/diagrams/heads.svg)")
    assert len(image.partition("]")[0].split()) > 2


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        (":::{div} nw-box\n**Problem.** None.\n:::", "> **Problem.** None."),
        (
            "::::{admonition} Two · words\n:class: tip\n\n- one\n- two\n\n"
            ":::{note}\nInner {claim}`next.mixture-long:paper`.\n:::\n::::",
            "> **Two · words**\n>\n> - one\n> - two\n>\n> > **Note**\n> >\n> > Inner 1.095.",
        ),
        (
            "````{dropdown} Code\n```python\nx = 1\n\n\ny = 2\n```\n````",
            "> **Code**\n>\n> ```python\n> x = 1\n>\n>\n> y = 2\n> ```",
        ),
        (":::{margin}\nAside $x$.\n\n$$\ny\n$$\n:::", "> Aside $x$.\n>\n> $$ y $$"),
    ],
)
def test_a_box_is_a_quotation(make, markup, plain):
    found = make(f"Before.\n\n{markup}\n\nAfter.")
    assert sources(found) == [f"Before.\n\n{plain}\n\nAfter."]


def test_marks_comments_and_sections_that_are_named(make):
    assert sources(
        make("(here)=\n## A *title*\n\n% nobody reads this\nText.", "See {ref}`here` and {ref}`there <here>`.")
    ) == [
        "## A *title*\n\nText.",
        "See A *title* and there.",
    ]


def test_folded_cells_become_an_aside_with_hidden_code(make):
    text = new_markdown_cell("It grows.", metadata={"fold": "Why $n$ falls"})
    cells = make("Before.", code("x", fold="Why $n$ falls"), text, "On.")
    assert sources(cells) == ["Before.", "#### Aside: Why $n$ falls", "x", "It grows.", "On."]
    assert cells[2].metadata.jupyter.source_hidden and cells[2].metadata.cellView == "form"


def test_the_table_of_claims_has_its_groups(make, book):
    [cell] = make("```{claims-table} 2003_next_word\n```")
    mine = [row for row in book.ledger["claims"] if row["chapter"] == "2003_next_word"]
    assert cell.source.count("\n| ") == len(mine) + 2 * cell.source.count("| Claim | Paper | Here | Verdict |")
    groups = [title for badge, title in nextword_sphinx.GROUPS.items() if any(row["badge"] == badge for row in mine)]
    groups = [title.replace("paper found", "papers found") for title in groups]  # it replicates two of them
    assert [line[2:-2] for line in cell.source.splitlines() if line.startswith("**")] == groups
    zipf = next(line for line in cell.source.splitlines() if "Zipf" in line or "rank" in line)
    assert "fails" in zipf and "**1.23 ± 0.12" in zipf


# Exercises


EXERCISES = """## Exercises

:::{exercise} By hand
:label: ex-hand

How much is {claim}`next.zipf:plain`?
:::

:::{solution} ex-hand
:class: dropdown

Much.
:::

::::{exercise} In code
:label: ex-code

Write it, as in {ref}`ex-hand`.

```{stub} strided_mask
```

Then look.
::::

:::{solution-start} ex-code
:class: dropdown
:::
"""


def test_exercises_have_a_cell_each_and_solutions_stand_at_the_end(make):
    answer = code(
        "def f():\n    return 1\n\n\nprint(f())",
        [new_output("stream", name="stdout", text="1\n")],
        tags=["exercise-check"],
    )
    cells = make(EXERCISES, answer, "So it is.\n\n:::{solution-end}\n:::\n\n## What was still open\n\nAll.")
    assert [cell.cell_type[0] for cell in cells] == list("mcmcmmmmmm")
    first, empty, second, stub, hints, after, open_question, *_ = cells
    assert first.source == "## Exercises\n\n### Exercise 1. By hand\n\nHow much is 1.23\u00a0✗?" and empty.source == ""
    assert second.source == "### Exercise 2. In code\n\nWrite it, as in Exercise 1."
    assert hints.source.startswith("<details><summary>Hints</summary>\n\n1. ") and "\n2. " in hints.source
    assert (after.source, open_question.source) == ("Then look.", "## What was still open\n\nAll.")
    assert stub.source.startswith("from nextword import check\n\ndef strided_mask(T, stride):\n")
    assert stub.source.endswith(
        "\n\n# check.strided_mask(strided_mask)  # take the first # away when you have written it"
    )
    assert sources(cells[7:]) == [
        "## Solutions",
        "<details><summary>Solution 1</summary>\n\nMuch.\n\n</details>",
        "<details><summary>Solution 2</summary>\n\n```python\ndef f():\n    return 1\n\n\nprint(f())\n```\n\n"
        "It prints\n\n```text\n1\n```\n\nSo it is.\n\n</details>",
    ]


def test_a_solutions_code_belongs_to_the_solution_before_it(make):
    given = ":::{exercise} E\n:label: ex-e\nDo.\n:::\n\n:::{solution} ex-e\nDone.\n:::"
    *_, last = make(given, code("x = 1", tags=["exercise-check", "hide-input"]))
    assert last.source == "<details><summary>Solution 1</summary>\n\nDone.\n\n```python\nx = 1\n```\n\n</details>"
    with pytest.raises(edition.EditionError, match="comes before any solution"):
        make(code("x = 1", tags=["exercise-check"]))
    with pytest.raises(edition.EditionError, match="has no end"):
        make(given.replace("{solution}", "{solution-start}"))


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_has_a_stub_that_runs_as_it_stands(make, name):
    cells = make(f":::{{exercise}} E\n```{{stub}} {name}\n```\n:::")
    namespace = {}
    exec(compile(ast.parse(cells[1].source), name, "exec"), namespace)
    assert callable(namespace[name]) and len(check.hints(getattr(check, name))) == cells[2].source.count("\n") - 3


# Code cells


def test_code_keeps_its_source_and_outputs_and_folds_where_a_notebook_can(make):
    text, error = (new_output("stream", name=name, text="x") for name in ("stdout", "stderr"))
    install = code('if "google.colab" in sys.modules:\n    %pip install x', tags=["hide-cell", "remove-output"])
    cells = make(
        install,
        code("a", [text, error], tags=["hide-input"]),
        code("b", [text], tags=["remove-output"]),
        code("c", [text, error], tags=["remove-stderr", "hide-output"], execution={"iopub.status.busy": "2026"}),
        code("d", tags=["remove-cell"]),
    )
    assert sources(cells) == [install.source, "a", "b", "c"]
    assert cells[0].metadata == {"tags": ["hide-cell", "remove-output"]}
    assert cells[1].metadata == {"tags": ["hide-input"], "cellView": "form", "jupyter": {"source_hidden": True}}
    assert [len(cell.outputs) for cell in cells] == [0, 2, 0, 1]
    assert cells[3].metadata == {"tags": ["remove-stderr", "hide-output"], "jupyter": {"outputs_hidden": True}}


# No markup is left


@pytest.mark.parametrize(
    "fault",
    [
        "a {claim}`next.zipf` b",
        "{cite:p}`x`",
        "`code` then {eq}`eq-x`",
        ":::{note}\nx\n:::",
        "> :::{note}\n> x",
        "text\n\n::::",
        "```{claims-table} x\n```",
        "````{note}\nx\n````",
        "<!-- hero -->",
        "(label)=\n# T",
        "[`NGram`](#nextword.ngram.NGram)",
        "{{ word }}",
    ],
)
def test_the_rule_finds_markup_that_is_left(fault):
    assert raw_markup(fault)


@pytest.mark.parametrize(
    "sound",
    [
        "`{claim}` and `x`, ``{claim}`x` ``",
        "```text\n:::{note}\n{claim}`x`\n```",
        "$\\{a\\}`$ and $x^{{2}}$",
        "> **Note**\n>\n> ```python\n> {x}\n> ```",
        "$$ {{a}} \\tag{1} $$",
        "<details><summary>Hints</summary>\n\n1. x\n\n</details>",
        "[a](b.ipynb#c), f(x)=y",
        "![a](data:image/png;base64,aGk=)",
    ],
)
def test_the_rule_passes_what_is_shown_as_it_is_meant(sound):
    assert raw_markup(sound) == []


def as_executed(name):
    """Return a chapter as if it had run: its figures are there, and one claim is recorded."""
    notebook = chapters.read(name)
    for cell in notebook.cells:
        if "figure" in cell.metadata.get("mystnb", {}) or "hero" in cell.metadata.get("tags", []):
            cell.outputs = [PICTURE]
    card = new_output("display_data", data={"text/html": "<details>", claims.MIME: {"id": "toy.sum"}})
    for cell in [cell for cell in notebook.cells if "claims.record(" in cell.source][:1]:  # the epilogue has none
        cell.outputs = [card]
    return notebook


RUN = {"seconds": 90, "budget_seconds": 60, "date": "2026-11-24", "device": "cpu", "preset": "cpu"}
RUN |= {"precision": "float32", "torch": "2.13.0", "python": "3.11.7"}


@pytest.mark.parametrize("name", chapters.names())
def test_every_chapter_converts_without_a_rest(book, name):
    notebook = as_executed(name)
    assemble.fill_stamp(notebook, RUN)
    assemble.fill_hero(notebook)
    assemble.tabulate_claims(notebook, name)
    made = edition.edition(notebook, book, name)
    nbformat.validate(made)
    assert made.metadata.kernelspec.name == "python3"
    code_cells = [cell for cell in made.cells if cell.cell_type == "code"]
    assert code_cells[0].source == next(cell.source for cell in chapters.read(name).cells if cell.cell_type == "code")
    assert not any(claims.MIME in output.get("data", {}) for cell in code_cells for output in cell.outputs)
    texts = [cell.source for cell in made.cells if cell.cell_type == "markdown"]
    assert [markup for text in texts for markup in raw_markup(text)] == []
    assert sum(text.startswith("<details><summary>Solution ") for text in texts) == sum(
        t.count("### Exercise ") for t in texts
    )
    assert sum("\n\n**" in text and "| Claim | Paper | Here | Verdict |" in text for text in texts) == (
        name in {claim.chapter for claim in claims.ledger().values()}
    )
    assert sum("data:image/png" in text for text in texts) == 1


# Where the editions go


@pytest.fixture
def built(book, tmp_path, monkeypatch):
    """A chapter, executed and judged, in an empty repository: its name, the ledger, and where its edition goes."""
    name = "2003_next_word"
    for owner, attribute, place in (
        (chapters, "ROOT", "."),
        (chapters, "EXECUTED", "executed"),
        (edition, "OUT", "out"),
    ):
        monkeypatch.setattr(owner, attribute, tmp_path / place)
    for place in ("executed", "build"):
        (tmp_path / place).mkdir()
    nbformat.write(as_executed(name), tmp_path / "executed" / f"{name}.ipynb")
    (tmp_path / "executed" / f"{name}.run.json").write_text(json.dumps(RUN))
    ledger = tmp_path / "build" / "claims.json"
    ledger.write_text(json.dumps(book.ledger))
    monkeypatch.setattr(sys, "argv", ["edition.py", name])
    return name, ledger, tmp_path / "out" / f"{name}.ipynb"


def test_the_command_makes_an_edition_that_the_colab_journey_can_install(built, tmp_path, monkeypatch, capsys):
    name, _, path = built
    assert edition.main() == 0 and capsys.readouterr().out == "editions made: 1, in out\n"
    monkeypatch.setattr(colab, "FOLDER", tmp_path / "colab")
    colab.prepare(name)
    first = next(c for c in chapters.read(name, tmp_path / "colab" / "run" / name).cells if c.cell_type == "code")
    made = next(c for c in nbformat.read(path, 4).cells if c.cell_type == "code")
    assert f'book = "file://{tmp_path}/colab/checkout"' in first.source and 'book = "git+https://' in made.source


def test_the_command_tells_each_fault_in_a_line(built, capsys):
    name, ledger, path = built
    content = json.loads(ledger.read_text())
    content["claims"] = [row for row in content["claims"] if row["id"] not in ("next.zipf", "next.mixture")]
    ledger.write_text(json.dumps(content))
    assert edition.main() == 1 and not path.exists()
    head, *faults = capsys.readouterr().err.splitlines()
    assert head == "The runner's edition cannot be made:" and len(faults) >= 1
    assert all(line.startswith(f"{name}.ipynb, cell ") and "was not recorded" in line for line in faults)
    ledger.unlink()
    with pytest.raises(SystemExit, match="claims.json is missing: run 'make book'"):
        edition.main()


def test_the_buttons_of_a_chapter_lead_to_its_edition(tmp_path):
    def buttons():
        rocket = {
            "text": "Colab",
            "url": "https://colab.research.google.com/github/OWNER/next-word/blob/main/chapters/toy.ipynb",
        }
        download = {"label": "download-source-button", "url": "../_sources/chapters/toy.ipynb"}
        return [
            {"label": "search", "type": "javascript"},
            {"buttons": [rocket]},
            {"buttons": [download, {"label": "download-pdf-button"}]},
        ]

    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "toy.ipynb").touch()
    context = {"header_buttons": buttons(), "pathto": lambda page, resource: f"../{page}"}
    nextword_sphinx.offer_edition(SimpleNamespace(srcdir=tmp_path), "chapters/claims", "", context, None)
    assert context["header_buttons"] == buttons()
    nextword_sphinx.offer_edition(SimpleNamespace(srcdir=tmp_path), "chapters/toy", "", context, None)
    urls = [button.get("url") for group in context["header_buttons"] for button in group.get("buttons", [])]
    assert urls == [
        "https://colab.research.google.com/github/OWNER/next-word/blob/notebooks/toy.ipynb",
        "../notebooks/toy.ipynb",
        None,
    ]


def test_the_published_branch_holds_what_the_build_makes():
    workflow = (chapters.ROOT / ".github" / "workflows" / "pages.yml").read_text(encoding="utf8")
    assert (
        f"working-directory: {edition.OUT.relative_to(chapters.ROOT)}\n" in workflow
        and "init -q -b notebooks" in workflow
    )
    assert edition.OUT.name == "notebooks", "the branch, the folder and the address of the rocket have one name"


def test_the_colab_journey_asks_for_editions_of_todays_chapters(tmp_path, monkeypatch):
    monkeypatch.setattr(edition, "OUT", tmp_path)
    name, other = chapters.names()[:2]
    (tmp_path / f"{name}.ipynb").touch()
    assert colab.unbuilt([name, other]) == [other]
    monkeypatch.setattr(sys, "argv", ["colab.py", other])
    with pytest.raises(SystemExit, match=f"no edition of today's {other} is built: run 'make book'"):
        colab.main()
    monkeypatch.setattr(chapters, "CHAPTERS", tmp_path / "later")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / f"{name}.ipynb").touch()
    os.utime(tmp_path / f"{name}.ipynb", (0, 0))
    assert colab.unbuilt([name]) == [name]
