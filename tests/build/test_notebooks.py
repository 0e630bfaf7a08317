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
                found.append(functools.reduce(getattr, [x for x in (first, *rest) if x], importlib.import_module(f"nextword.{module}")))
    return found


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
    showing = [cell for cell in code(chapter) if cell.source.split("\n")[-1].startswith("plots.show(")]
    assert len(chapter.cells) - len(showing) <= 60
    assert len(text(chapter).split()) <= 5000
    for cell in code(chapter):
        limit = 30 if cell.id == "imports" else 25
        assert len(cell.source.split("\n")) <= limit, f"cell {cell.id} has more than {limit} lines"


def test_first_code_cell_installs_in_colab_only(chapter):
    first = code(chapter)[0]
    assert 'if "google.colab" in sys.modules:' in first.source and "%pip install" in first.source
    assert {"hide-cell", "remove-output"} <= set(first.metadata.tags)


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


def test_claims_recorded_are_in_the_ledger(chapter):
    from nextword.book import claims

    ids = [i for cell in code(chapter) for i in re.findall(r'claims\.record\(\s*"([^"]+)"', cell.source)]
    assert ids and not set(ids) - set(claims.ledger())
