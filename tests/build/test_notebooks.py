"""Rules that every chapter keeps, so that readers know where they are and the committed file never goes stale."""

import ast
import functools
import importlib
import re
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from nextword.book.listing import listing

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import chapters

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
NO_PAPER = ("2023_epilogue", "live")
"""Pages about the whole book: no paper is re-built on them."""
of_a_paper = pytest.mark.parametrize(
    "chapter", [path for path in CHAPTERS if path.stem not in NO_PAPER], indirect=True, ids=lambda path: path.stem
)
HEADINGS = ("## Claims", "## Break it", "## Exercises", "## What was still open")
DRAWS = re.compile(r"\bplt\.(subplots|figure|plot)\(|\bplots\.(lines|training_curve)\(")


def shown(notebook):
    """Return the functions of the library that the chapter's cells hand to ``plots.show``."""
    tree = ast.parse(chapters.code_of(notebook))
    known, origin, found = chapters.library(), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin |= chapters.imports_of(node, known)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "plots.show":
            for argument in node.args:
                name, *rest = ast.unparse(argument).split(".")
                module, first = origin[name]
                found.append(
                    functools.reduce(
                        getattr, [x for x in (first, *rest) if x], importlib.import_module(f"nextword.{module}")
                    )
                )
    return found


@of_a_paper
def test_the_mechanism_is_on_the_page(chapter):
    functions = shown(chapter)
    assert len(set(functions)) >= 3, "show the library's lines that are the paper: plots.show(function)"
    for function in functions:
        assert "#" in listing(function)[0], f"{function.__qualname__} says nothing beside its lines"


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request):
    return nbformat.read(request.param, as_version=4)


def code(chapter):
    return [cell for cell in chapter.cells if cell.cell_type == "code"]


def text(chapter):
    return "\n\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")


def main_line(chapter):
    """Return the cells that are not folded."""
    return [cell for cell in chapter.cells if "fold" not in cell.metadata]


def test_there_are_chapters():
    assert CHAPTERS


def test_valid_without_outputs_and_with_the_python3_kernel(chapter):
    nbformat.validate(chapter)
    assert chapter.metadata.kernelspec.name == "python3"
    for cell in code(chapter):
        assert not cell.outputs and cell.execution_count is None, f"cell {cell.id} is committed with its output"
        assert "execution" not in cell.metadata, f"cell {cell.id} carries execution times"
    assert len({cell.id for cell in chapter.cells}) == len(chapter.cells)


def test_size_is_what_a_reader_can_take(chapter):
    showing = [cell for cell in main_line(chapter) if cell.source.split("\n")[-1].startswith("plots.show(")]
    assert len(main_line(chapter)) - len(showing) <= 60 and len(chapter.cells) <= 90
    assert len(text(chapter).split()) <= 5000
    for cell in code(chapter):
        limit = 30 if cell.id == "imports" else 25
        assert len(cell.source.split("\n")) <= limit, f"cell {cell.id} has more than {limit} lines"


def test_first_code_cell_installs_in_colab_only(chapter):
    first = code(chapter)[0]
    assert 'if "google.colab" in sys.modules:' in first.source and "%pip install" in first.source
    assert {"hide-cell", "remove-output"} <= set(first.metadata.tags)


@of_a_paper
def test_anatomy(chapter):
    prose = text(chapter)
    assert chapter.cells[0].source.startswith("# "), "a chapter opens with its title"
    for mark in ("<!-- hero -->", "<!-- stamp -->", "nw-box", *HEADINGS):
        assert mark in prose, f"{mark!r} is missing"
    for word in ("**Problem.**", "**Approach.**", "**Contribution.**", "**Still open.**"):
        assert word in prose, f"the box lacks {word}"
    assert "What the paper says" in prose, "a box of a known discrepancy is missing"
    assert sum("hero" in cell.metadata.get("tags", []) for cell in code(chapter)) == 1
    assert any("claims.record(" in cell.source for cell in code(chapter))
    assert any("runtime.by_preset(" in cell.source for cell in code(chapter))
    reads = any(re.search(r"data\.(load|fetch)_(?!run)", cell.source) for cell in code(chapter))
    assert not reads or any("data.attribution(" in cell.source for cell in code(chapter))


def test_the_seed_is_the_one_of_the_run(chapter):
    """Nobody shops for a seed: it comes from ``runtime.seed()`` and is never changed."""
    for cell in code(chapter):
        for statement in ast.parse(TransformerManager().transform_cell(cell.source)).body:
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                continue
            for node in ast.walk(statement):
                stored = isinstance(node, ast.Name) and node.id == "seed" and isinstance(node.ctx, ast.Store)
                shopped = isinstance(node, ast.BinOp) and "runtime.seed(" in ast.unparse(node)
                if (stored and not within(statement, node)) or shopped:
                    assert ast.unparse(statement) == "seed = runtime.seed()", (
                        f"cell {cell.id}: {ast.unparse(statement)}"
                    )


def within(statement, name):
    """Return whether a name is stored by a comprehension, which has names of its own."""
    made = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    return any(name in ast.walk(node) for node in ast.walk(statement) if isinstance(node, made))


def test_numbers_and_marks_of_claims_are_made_by_the_build_alone(chapter):
    for cell in chapter.cells:
        for word in ("nw-number", "nw-mark", "nw-claim", "nw-verdict", "<a class"):
            assert word not in cell.source, f"cell {cell.id}: {word}"


def test_every_figure_has_caption_name_and_alt_text(chapter):
    names = []
    for cell in code(chapter):
        if DRAWS.search(cell.source) and "remove-output" not in cell.metadata.get("tags", []):
            settings = cell.metadata.get("mystnb", {})
            assert len(settings.get("image", {}).get("alt", "")) > 40, f"cell {cell.id}: describe the figure in words"
            assert settings.get("figure", {}).get("caption"), f"cell {cell.id}: the figure has no caption"
            names.append(settings["figure"]["name"])
    assert names and len(set(names)) == len(names)


def test_exercises_have_solutions(chapter):
    prose = text(chapter)
    exercises = set(re.findall(r"\{exercise\}[^\n]*\n:label: (\S+)", prose))
    solutions = set(re.findall(r"\{solution(?:-start)?\} (\S+)", prose))
    assert len(exercises) >= 3
    assert exercises == solutions
    assert any("exercise-check" in cell.metadata.get("tags", []) for cell in code(chapter)), (
        "one exercise is code with a check"
    )


def test_nothing_is_skipped_or_allowed_to_fail(chapter):
    assert not chapter.metadata.get("execution", {}).get("allow_errors")
    for cell in code(chapter):
        assert not {"raises-exception", "skip-execution"} & set(cell.metadata.get("tags", [])), cell.id


def test_no_widgets_and_no_content_delivery_network(chapter):
    source = "\n".join(cell.source for cell in chapter.cells)
    for word in ("tqdm.notebook", "ipywidgets", "plotly", "cdn.", "<script", "<iframe"):
        assert word not in source, word


def test_equations_and_directives_can_be_read_raw(chapter):
    """Whoever opens the committed file sees MyST raw: backtick fences hide the text inside, colon fences and dollars do not."""
    assert not re.search(r"```\{(math|note|admonition|exercise|solution|tip|warning)", text(chapter))


@of_a_paper
def test_claims_recorded_are_in_the_ledger(chapter):
    from nextword.book import claims

    ids = [i for cell in code(chapter) for i in re.findall(r'claims\.record\(\s*"([^"]+)"', cell.source)]
    assert ids and not set(ids) - set(claims.ledger())


CONVERTED = (
    "2003_next_word",
    "2016_gnmt",
    "2017_transformer",
    "2018_bert",
    "2018_gpt1",
    "2019_gpt2",
    "2020_scaling_laws",
    "2021_clip",
    "2023_dolly",
    "2023_palm_e",
)
"""The chapters that keep the rules below; the others follow."""


@pytest.fixture(params=CONVERTED)
def page(request):
    return nbformat.read(ROOT / "chapters" / f"{request.param}.ipynb", as_version=4)


def test_first_screen_has_the_machine_the_result_and_both_numbers(page):
    first = page.cells[0].source
    marks = ("nw-box", "```{diagram}", "<!-- hero -->", "\n**The paper:**", "\n**Here:**", "<!-- stamp -->")
    places = [first.find(mark) for mark in marks]
    assert -1 not in places and places == sorted(places), dict(zip(marks, places, strict=True))
    for line in re.findall(r"^\*\*(?:The paper|Here):\*\*.*$", first, re.M):
        assert "{claim}`" in line, f"no measured or printed number from the ledger: {line}"


def test_diagrams_are_there(page):
    drawn = re.findall(r"```\{diagram\} (\S+)\n:name: (\S+)\n(.{40,})", text(page))
    assert drawn and len(drawn) == text(page).count("```{diagram}"), "each has a name and a caption"
    for name, _, _ in drawn:
        assert (ROOT / "chapters/_static/diagrams" / f"{name}.svg").exists(), name


def hides(cell):
    return bool({"hide-input", "hide-cell", "remove-input"} & set(cell.metadata.get("tags", [])))


def test_code_that_is_open_teaches(page):
    """Open cells are short, and few; what only draws or keeps books is folded."""
    opened = [cell for cell in code(page) if not hides(cell)]
    assert not [cell.id for cell in opened if "fold" in cell.metadata], "folded code is tagged hide-input as well"
    for cell in opened:
        assert len(cell.source.splitlines()) <= 15, f"cell {cell.id} is too long to be read in passing"
        for word in ("plt.", "axes[", "claims.record", "load_run("):
            assert word not in cell.source, f"cell {cell.id} draws or keeps books: fold it"
    assert sum(len(cell.source.splitlines()) for cell in opened) <= 250


def test_never_more_than_two_code_cells_without_a_sentence(page):
    row = 0
    for cell in main_line(page):
        row = 0 if cell.cell_type == "markdown" else row + 1
        assert row <= 2, f"cell {cell.id} is the third in a row"


def test_exercises_ask_for_the_mechanism_and_are_checked(page):
    prose = text(page)
    assert len(re.findall(r"\{exercise\}", prose)) >= 4
    stubs = re.findall(r"```\{stub\} (\w+)", prose)
    assert len(stubs) >= 2
    solved = "\n".join(c.source for c in code(page) if "exercise-check" in c.metadata.get("tags", []))
    for name in stubs:
        assert f"def {name}(" in solved and f"\ncheck.{name}({name})" in solved, (
            f"the solution of {name} is not checked"
        )
    for cell in code(page):
        if "exercise-check" in cell.metadata.get("tags", []):
            assert "hide-cell" in cell.metadata.tags, f"cell {cell.id} shows the answer under the question"


def test_the_epilogue_counts_its_reasons_right():
    """The table of reasons says how many lines stand in each of the sections below it."""
    page = nbformat.read(ROOT / "chapters" / "2023_epilogue.ipynb", as_version=4)
    [section] = [cell.source for cell in page.cells if cell.source.startswith("## What did not reproduce")]
    table, *parts = section.split("\n### ")
    told = re.findall(r"^\| [^|]+ \| (\w+) \|", table, re.M)[1:]  # the first is the heading
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    assert [words.index(word) for word in told] == [len(re.findall(r"^- \*", part, re.M)) for part in parts]


def test_the_whole_transformer_takes_eighty_lines():
    page = nbformat.read(ROOT / "chapters" / "2017_transformer.ipynb", as_version=4)
    section = page.cells[[cell.source.startswith("## The layer") for cell in page.cells].index(True) :]
    end = next(i for i, cell in enumerate(section) if cell.source.startswith("## No waiting"))
    section = page.cells[:2] + [c for c in page.cells if c.id == "imports"] + section[:end]
    names = [function.__qualname__ for function in shown(nbformat.v4.new_notebook(cells=section))]
    assert {"Block.forward", "Transformer.encode", "Transformer.decode", "EncoderDecoder.forward", "train_step"} <= set(
        names
    )
    lines = [listing(function)[0] for function in shown(nbformat.v4.new_notebook(cells=section))]
    assert sum(len(code.splitlines()) for code in lines) <= 80
