"""The book's one plotting style, the figures that several chapters share, and the library's own lines on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nextword.book.listing import listing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart by readers with any kind of colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def use_style() -> None:
    """Set the style of all figures of a chapter: readable at phone width, sharp, quiet axes."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.8),
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "lines.linewidth": 2,
            "axes.prop_cycle": cycler(color=list(COLOURS)),
        }
    )


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    logx: bool = False,
    logy: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """Draw one line a name, ``{name: (x, y)}``; where ``y`` has a row a seed, their mean with the seeds as points.

    Args:
        series: x of shape (n,), y of shape (n,) or (seeds, n).
        xlabel: what the horizontal axis shows, with its unit.
        ylabel: what the vertical axis shows, with its unit.
    """
    if not series:
        raise ValueError("series={} is empty: nothing to draw")
    figure, ax = plt.subplots() if ax is None else (ax.figure, ax)
    for i, (name, (x, y)) in enumerate(series.items()):
        seeds = np.atleast_2d(np.asarray(y, dtype=float))  # (seeds, n)
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        ax.plot(x, seeds.mean(axis=0), marker=marker, color=colour, label=name)
        if len(seeds) > 1:
            for values in seeds:
                ax.plot(x, values, marker, color=colour, alpha=0.35, markersize=4, linestyle="none")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.set_xscale("log" if logx else "linear")
    ax.set_yscale("log" if logy else "linear")
    if len(series) > 1:
        ax.legend()
    return figure  # type: ignore[return-value]  # matplotlib types ax.figure as FigureBase


def recorded(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[Sequence[float]],
    *,
    label: str,
    index: int = 0,
    live: tuple[float, float] | None = None,
) -> None:
    """Draw a recorded run, a pale dot a seed and a line through their means, and the point repeated live as a star.

    The horizontal axis becomes logarithmic, with a tick at each setting.

    Args:
        ax: where to draw.
        x: the settings, such as numbers of steps, above 0.
        y: for each setting the values of its seeds.
        label: name in the legend; "recorded" and "this run" are added.
        index: which colour and marker of the style.
        live: ``(x, y)`` as this run measured it.
    """
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} settings and y has {len(y)}; one row of seeds a setting is needed")
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    ax.plot(x, [float(np.mean(seeds)) for seeds in y], color=colour, label=f"{label} (recorded)")
    for setting, seeds in zip(x, y, strict=True):
        ax.plot([setting] * len(seeds), seeds, marker, color=colour, alpha=0.45, markersize=5)
    if live is not None:
        ax.plot(*live, "*", color=colour, markeredgecolor="black", markersize=15, label=f"{label} (this run)")
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set_xticks(x, [f"{setting:,}" for setting in x])


def training_curve(history: Any, *, title: str = "", unit: str = "token", smooth: float = 0.95) -> Figure:
    """Draw the training loss of a ``training.History`` against the step, pale as it was and dark as a running mean.

    In the mean a step weighs ``smooth`` times as much as the one after it. Evaluations are not drawn, for what they measure
    may have another unit.
    """
    loss = np.asarray(history.loss, dtype=float)
    if not len(loss):
        raise ValueError("history has no steps: nothing to draw")
    figure, ax = plt.subplots()
    total, weight, running = 0.0, 0.0, []
    for value in loss:
        # Divided by the weights so far: a mean that began at the first loss would carry it on for long.
        total, weight = smooth * total + value, smooth * weight + 1
        running.append(total / weight)
    ax.plot(history.steps, loss, color=COLOURS[0], alpha=0.25, linewidth=1)
    ax.plot(history.steps, running, color=COLOURS[0])
    ax.set(xlabel="step", ylabel=f"training loss (nats per {unit})", title=title)
    return figure


def attention_map(
    weights: Any, *, read: Sequence[str], written: Sequence[str], ax: Axes | None = None, title: str = ""
) -> Figure:
    """Draw where a model looked: a row for each token that it wrote, a column for each that it read.

    Args:
        weights: (T, S), each row sums to 1; dark is much.
        read: the S tokens of the source.
        written: the T tokens of the output.

    Raises:
        ValueError: the weights have another shape.
    """
    if hasattr(weights, "detach"):  # a tensor, perhaps on a GPU or in bfloat16
        weights = weights.detach().float().cpu()
    grid = np.asarray(weights, dtype=float)
    if grid.shape != (len(written), len(read)):
        raise ValueError(f"weights has shape {grid.shape}; {len(written)} written and {len(read)} read tokens came")
    if ax is None:
        side = 0.42
        figure, ax = plt.subplots(figsize=(min(6.4, 1.6 + side * len(read)), 1.2 + side * len(written)))
    else:
        figure = ax.figure  # type: ignore[assignment]
    ax.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(read)), read, rotation=45 if max(map(len, read)) > 2 else 0, ha="center")
    ax.set_yticks(range(len(written)), written)
    ax.grid(False)
    ax.set(xlabel="read", ylabel="written", title=title)
    return figure


# --- The library's own lines -------------------------------------------------------------------------------------------

REPOSITORY = "https://github.com/OWNER/next-word/blob/main/"
# Keywords, strings, names, numbers and comments in the colours of the book's pages, whose style sheet notebooks lack.
_STYLE = """<style>.nw-source { --k: #6730c5; --s: #00622f; --n: #005b82; --m: #7f4707; --c: #515151; }
:is([data-theme="dark"], [data-jp-theme-light="false"], [theme="dark"], .vscode-dark) .nw-source {
  --k: #dcc6e0; --s: #abe338; --n: #00e0e0; --m: #ffd900; --c: #ffd900; }
.nw-source pre { overflow-x: auto; } .nw-source .c1 { color: var(--c); }
.nw-source :is(.k, .kc, .ow, .ne) { color: var(--k); } .nw-source :is(.o, .s1, .s2, .sa, .si) { color: var(--s); }
.nw-source :is(.nf, .nc, .fm) { color: var(--n); } .nw-source :is(.mi, .mf, .nb, .bp, .nd, .vm) { color: var(--m); }
</style>"""


def show(*functions: Any) -> None:
    """Show functions or classes of the library, their bare lines as :mod:`~nextword.book.listing` has them, with links.

    In a notebook they are highlighted, readable in light and dark; elsewhere they are printed.
    """
    shown = [listing(function) for function in functions]
    names = [function.__qualname__ for function in functions]
    plain = "\n".join(
        f"# {name}, in {file}, tested in {test}\n{code}"
        for name, (code, file, _, test) in zip(names, shown, strict=True)
    )
    try:
        from IPython.core.getipython import get_ipython
        from IPython.display import display
        from pygments import formatters, highlight, lexers

        live = get_ipython() is not None
    except ImportError:  # neither is needed to run a model
        live = False
    if not live:
        return print(plain, end="")
    page = _STYLE
    for name, (code, file, lines, test) in zip(names, shown, strict=True):  # a method says whose it is
        links = f'<a href="{REPOSITORY}{file}{lines}">{file}</a>, tested in <a href="{REPOSITORY}{test}">{test}</a>'
        page += f'<div class="nw-source"><code>{name}</code> <small>{links}</small>'
        page += highlight(code, lexers.PythonLexer(), formatters.HtmlFormatter()) + "</div>"
    display({"text/html": page, "text/plain": plain}, raw=True)  # type: ignore[no-untyped-call]  # untyped in IPython
