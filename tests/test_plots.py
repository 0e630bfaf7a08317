"""Figures that several chapters share: what they show, read from the figure itself."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from nextword.plots import attention_map

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
