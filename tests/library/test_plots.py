"""Figures that several chapters share: what they show, read from the figure itself."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from nextword import attention, encoder, generation, runtime, sparse_attention, training
from nextword.book import plots
from nextword.book.listing import listing
from nextword.book.plots import attention_map

ROOT = Path(__file__).resolve().parents[2]
READ, WRITTEN = ["the", " black", " cat", "."], ["el", " gato", "."]
WEIGHTS = np.array([[0.7, 0.1, 0.1, 0.1], [0.0, 0.2, 0.8, 0.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "weights", [WEIGHTS, WEIGHTS.tolist(), torch.tensor(WEIGHTS).float()], ids=["numpy", "list", "torch"]
)
def test_attention_map_has_a_row_for_each_written_token_and_a_column_for_each_read(weights: object) -> None:
    figure = attention_map(weights, read=READ, written=WRITTEN, title="where it looked")
    [ax] = figure.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == READ
    assert [label.get_text() for label in ax.get_yticklabels()] == WRITTEN
    assert ax.get_xlabel() == "read" and ax.get_ylabel() == "written" and ax.get_title() == "where it looked"
    [image] = ax.images
    np.testing.assert_allclose(image.get_array(), WEIGHTS, rtol=1e-6)
    assert image.get_clim() == (0, 1), "the same grey means the same weight in every figure"
    light, dark = image.cmap(0.0), image.cmap(1.0)
    assert sum(dark[:3]) < sum(light[:3]), "dark is much"
    figure.canvas.draw()


def test_attention_map_draws_into_axes_that_it_is_given() -> None:
    figure, (left, right) = plt.subplots(1, 2)
    assert attention_map(WEIGHTS, read=READ, written=WRITTEN, ax=right) is figure
    assert not left.images and len(right.images) == 1 and plt.get_fignums() == [figure.number]


def test_attention_map_fits_a_page_however_long_the_sentence() -> None:
    figure = attention_map(np.full((3, 60), 1 / 60), read=["w"] * 60, written=WRITTEN)
    assert figure.get_figwidth() <= 6.4


@pytest.mark.parametrize("weights", [WEIGHTS.T, WEIGHTS[:2], WEIGHTS[None], WEIGHTS[0]])
def test_attention_map_refuses_weights_of_another_shape(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"weights has shape .*3 written and 4 read"):
        attention_map(weights, read=READ, written=WRITTEN)
    assert not plt.get_fignums()


# --- The library's own lines ---

SHOWN = [
    encoder.mask_tokens,
    encoder.EncoderConfig,
    generation.sample,
    sparse_attention.SparsePattern.allows,
    sparse_attention.SparsePattern,
    attention.MultiHeadAttention.forward,
]


@pytest.mark.parametrize("function", SHOWN, ids=lambda function: function.__qualname__)
def test_the_lines_shown_are_those_of_the_file_without_docstrings_and_decorators(function: Any) -> None:
    code, file, lines, test = listing(function)
    [tree] = ast.parse(code).body
    assert isinstance(tree, (ast.FunctionDef, ast.ClassDef)) and tree.name == function.__name__
    assert not tree.decorator_list and code.startswith(("def ", "class ")) and '"""' not in code
    first, last = map(int, re.findall(r"\d+", lines))
    stored = [line.strip() for line in (ROOT / file).read_text().splitlines()[first - 1 : last]]
    assert stored[-1].startswith(code.splitlines()[-1].strip()) and (ROOT / test).exists()


def test_every_module_has_the_test_that_its_lines_are_shown_with() -> None:
    modules = [path.name for path in (ROOT / "lib/nextword").rglob("*.py") if path.name != "__init__.py"]
    assert not [name for name in modules if not (ROOT / "tests/library" / f"test_{name}").exists()]


def test_in_a_notebook_the_lines_are_highlighted_with_links(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.core.getipython
    import IPython.display

    shown: list[dict[str, str]] = []
    monkeypatch.setattr(IPython.core.getipython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw: shown.append(bundle))
    plots.show(*SHOWN)
    [bundle] = shown
    page = bundle["text/html"]
    assert page.count('<div class="nw-source">') == len(SHOWN) and page.count("<div") == page.count("</div>")
    assert "<code>MultiHeadAttention.forward</code> <small>" in page, "a method says whose it is"
    _, file, lines, test = listing(encoder.mask_tokens)
    for name, address in ((file, f"{file}{lines}"), (test, test)):
        assert f'<a href="{plots.REPOSITORY}{address}">{name}</a>' in page
    style, rest = page.split("</style>")
    plain = {"n", "p", "w", "highlight", "nw-source"}  # in the colour of the text around them
    unknown = set(re.findall(r'class="([\w-]+)"', rest)) - plain - set(re.findall(r"\.(\w+)[ ,)]", style))
    assert not unknown, f"no colour for {unknown}"
    assert "&lt;" in rest and bundle["text/plain"].count("\ndef allows(") == 1


def test_the_lines_are_printed_where_there_is_no_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    plots.show(runtime.seed)
    printed = capsys.readouterr().out
    assert printed.startswith("# seed, in lib/nextword/runtime.py, tested in tests/library/test_runtime.py\ndef seed(")


def test_an_installed_copy_shows_its_lines_too(tmp_path: Path) -> None:
    (tmp_path / "nextword/book").mkdir(parents=True)
    for name in ("__init__.py", "book/__init__.py", "book/plots.py", "book/listing.py"):
        shutil.copy(ROOT / "lib/nextword" / name, tmp_path / "nextword" / name)
    code = "from nextword.book import plots; plots.show(plots.use_style)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": "."}, capture_output=True, text=True
    )
    assert done.stdout.startswith(
        "# use_style, in lib/nextword/book/plots.py, tested in tests/library/test_plots.py\ndef use_style()"
    ), done.stderr


@pytest.mark.parametrize("other", [test_an_installed_copy_shows_its_lines_too, plt.subplots, 3])
def test_only_the_library_is_shown(other: Any) -> None:
    with pytest.raises(ValueError, match="is no function or class of the library"):
        plots.show(other)


def test_the_running_mean_of_a_training_curve_does_not_carry_the_first_loss_on() -> None:
    history = training.History(steps=[1, 2, 3], loss=[4.0, 2.0, 2.0])
    drawn, mean = plots.training_curve(history, smooth=0.5).axes[0].lines
    assert drawn.get_ydata().tolist() == [4, 2, 2]
    assert mean.get_ydata() == pytest.approx([4, (2 + 2) / 1.5, (1 + 1 + 2) / 1.75])
