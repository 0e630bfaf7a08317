"""The time line's drawing, and its numbers in words: size, data and compute by paper, from chapters/timeline.toml.

Three panels stand above each other, with the year across and a power of ten for every line. A point is a link to its paper's
chapter: a dot where the paper prints the number, a ring where it is computed from what is printed.
"""

from __future__ import annotations

import calendar
import html
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chapters

FACTS = chapters.CHAPTERS / "timeline.toml"
STYLED = chapters.CHAPTERS / "_static" / "diagrams" / "transformer.svg"  # any of them: all share one style

PANELS = {
    "parameters": ("parameters", 7.2, 12.5),
    "tokens": ("tokens read in training", 9.5, 12.5),
    "operations": ("operations of training", 18.8, 24.3),
}
"""Of each panel, by the name of its quantity: its heading, and the powers of ten where it begins and ends."""
WIDTH, LEFT, RIGHT = 400, 42, 394
DECADE, YEAR, FIRST, LAST = 32, 53, 2017, 2023  # units for each power of ten and for each year
HEADING, FOOT = 32, 60  # above a panel, and below the last one
SIDES = {
    "right": (9, 4.5, "nw-d-left"),
    "left": (-9, 4.5, "nw-d-right"),
    "above": (0, -10, ""),
    "above right": (-10, -12, "nw-d-left"),
    "below": (0, 19, ""),
}
"""Where a name stands: how far from its point, across and down, and with which end."""
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Number:
    """One number of a paper, where it stands, and where its name is drawn."""

    value: float
    where: str
    side: str
    name: str
    printed: bool = False
    model: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper's largest model: ``numbers`` has those of PANELS that are known."""

    name: str
    work: str
    chapter: str
    date: tuple[int, int]
    numbers: dict[str, Number]
    arxiv: str = ""

    @property
    def month(self) -> str:
        """Return when it came out, in words."""
        year, month = self.date
        return f"{calendar.month_name[month]} {year}"


def read(path: Path = FACTS) -> list[Paper]:
    """Return the papers, in the order in which they came out."""
    return [_paper(row) for row in tomllib.loads(path.read_text(encoding="utf8"))["paper"]]


def _paper(row: dict[str, Any]) -> Paper:
    arxiv = row.get("arxiv", "")
    year, month = (f"20{arxiv[:2]}", arxiv[2:4]) if arxiv else row["date"].split("-")
    numbers = {}
    for key in PANELS:
        if key in row:
            given = {"name": row["name"]} | row[key]
            if "value" not in given:  # of the operations
                given["value"] = 6 * row["parameters"]["value"] * row["tokens"]["value"]
            numbers[key] = Number(**given)
    return Paper(row["name"], row["work"], row["chapter"], (int(year), int(month)), numbers, arxiv)


# Numbers as words ------------------------------------------------------------------------------------------------------


def words(key: str, value: float) -> str:
    r"""Return a number as it is read.

    Example:
        >>> words("parameters", 1_557_611_200), words("operations", 3.14e23)
        ('1.56 billion', '3.1\xa0·\xa010²³')
    """
    if key == "operations":
        mantissa, exponent = f"{value:.1e}".split("e+")
        return f"{mantissa}\u00a0·\u00a0{power(int(exponent))}"
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:,.0f}"


def power(exponent: int) -> str:
    """Return a power of ten."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)


# The drawing -----------------------------------------------------------------------------------------------------------


def across(date: tuple[int, int]) -> float:
    """Return where the middle of a month stands."""
    year, month = date
    return LEFT + YEAR * (year - FIRST + (month - 0.5) / 12)


def tops() -> dict[str, float]:
    """Return where each panel begins."""
    found, y = {}, 0.0
    for key, (_, low, high) in PANELS.items():
        found[key] = y + HEADING
        y += HEADING + DECADE * (high - low)
    return found


def down(key: str, value: float) -> float:
    """Return where a number stands in its panel."""
    return tops()[key] + DECADE * (PANELS[key][2] - math.log10(value))


def label(key: str, paper: Paper) -> tuple[float, float, str, str]:
    """Return a name with its place and the class that says which end of it stands there."""
    number = paper.numbers[key]
    dx, dy, end = SIDES[number.side]
    return across(paper.date) + dx, down(key, number.value) + dy, end, number.name


def drawing(papers: list[Paper], uri: Callable[[str], str]) -> str:
    """Return the drawing as SVG; ``uri`` gives a chapter's address."""
    panels = "\n".join(_panel(key, papers, uri) for key in PANELS)
    bottom = max(top + DECADE * (PANELS[key][2] - PANELS[key][1]) for key, top in tops().items())
    height = bottom + FOOT
    years = " ".join(
        f'<text x="{LEFT + YEAR * (year - FIRST)}" y="{bottom + 18:g}">{year}</text>' for year in range(FIRST, LAST + 1)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" class="nw-d" viewBox="0 0 {WIDTH} {height:g}" width="480" height="{height * 1.2:g}" role="group" aria-labelledby="timeline-title timeline-desc">
  <title id="timeline-title">Size, data and compute of {len(papers)} papers, {FIRST} to {LAST}</title>
  <desc id="timeline-desc">{html.escape(_told(papers))}</desc>
{_style()}
{panels}
  <g id="timeline-years" class="nw-d-small nw-d-quiet">{years}</g>
  <g id="timeline-legend" class="nw-d-small nw-d-left nw-d-quiet">
    {_mark(LEFT + 5, bottom + 45, printed=True)} <text x="{LEFT + 15}" y="{bottom + 49.5:g}">as printed</text>
    {_mark(LEFT + 105, bottom + 45, printed=False)} <text x="{LEFT + 115}" y="{bottom + 49.5:g}">computed from what is printed</text>
  </g>
</svg>"""


def _style() -> str:
    """Return the style that all diagrams share, and what this one adds to it."""
    shared = STYLED.read_text(encoding="utf8").split("<style>")[1].split("</style>")[0].split("/* Only here")[0]
    return f"""  <style>{shared.rstrip()}
    /* Only here: names that lie on lines, and points. */
    .nw-d-name {{ paint-order: stroke; stroke: var(--nw-card, #f7f8f9); stroke-width: 4px; stroke-linejoin: round; }}
    .nw-d-grid {{ fill: none; stroke: var(--nw-edge, #8a939b); stroke-opacity: 0.35; }}
    .nw-d-ring {{ fill: var(--nw-card, #f7f8f9); stroke: var(--nw-key, #0072b2); stroke-width: 2; }}
    .nw-d a {{ text-decoration: none; }}
    .nw-d a:focus-visible .nw-d-name, .nw-d a:hover .nw-d-name {{ fill: var(--nw-ink, #222); }}
  </style>"""


def _panel(key: str, papers: list[Paper], uri: Callable[[str], str]) -> str:
    heading, low, high = PANELS[key]
    top, tall = tops()[key], DECADE * (high - low)
    lines, ticks = [], []
    for exponent in range(math.ceil(low), math.floor(high) + 1):
        y = top + DECADE * (high - exponent)
        ticks.append(f'<text x="{LEFT - 6}" y="{y + 4.5:g}">{power(exponent)}</text>')
        if low < exponent < high:
            lines.append(f"M{LEFT} {y:g}H{RIGHT}")
    lines += [f"M{LEFT + YEAR * (year - FIRST)} {top:g}v{tall:g}" for year in range(FIRST + 1, LAST + 1)]
    points = [paper for paper in papers if key in paper.numbers]
    drawn = "\n".join(f"    {_point(key, paper, uri(paper.chapter))}" for paper in points)
    return f"""  <g id="timeline-{key}">
    <text class="nw-d-head nw-d-left" x="{LEFT}" y="{top - 9:g}">{heading}</text>
    <rect class="nw-d-box" x="{LEFT}" y="{top:g}" width="{RIGHT - LEFT}" height="{tall:g}"/>
    <path class="nw-d-grid" d="{"".join(lines)}"/>
    <g class="nw-d-small nw-d-right nw-d-quiet">{" ".join(ticks)}</g>
{drawn}
  </g>"""


def _point(key: str, paper: Paper, address: str) -> str:
    number = paper.numbers[key]
    x, y, end, name = label(key, paper)
    told = f"{name}, {paper.month}: {words(key, number.value)} {key}"
    at = _mark(across(paper.date), down(key, number.value), printed=number.printed)
    classes = f"nw-d-small nw-d-key-text nw-d-name {end}".strip()
    text = f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{html.escape(name)}</text>'
    return f'<a href="{html.escape(address)}"><title>{html.escape(told)}</title>{at} {text}</a>'


def _mark(x: float, y: float, *, printed: bool) -> str:
    kind = "nw-d-key" if printed else "nw-d-ring"
    half = 4.5 if printed else 3.5  # a ring's line lies half outside
    return f'<rect class="{kind}" x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half:g}" height="{2 * half:g}" rx="{half}"/>'


def _told(papers: list[Paper]) -> str:
    """Return what the drawing shows, for those who do not see it."""
    ranges = []
    for key, (heading, *_) in PANELS.items():
        known = sorted((p.numbers[key].value, p.name) for p in papers if key in p.numbers)
        (low, first), (high, last) = known[0], known[-1]
        ranges.append(f"{heading} from {words(key, low)} ({first}) to {words(key, high)} ({last})")
    return (
        f"Three panels with the years {FIRST} to {LAST} across and logarithmic scales: {'; '.join(ranges)}. "
        "Each point is a link to the chapter of its paper. The list below has all numbers and where they stand."
    )


# The numbers in words ---------------------------------------------------------------------------------------------------


def listed(papers: list[Paper], uri: Callable[[str], str]) -> str:
    """Return the same numbers as a list in HTML, a sentence a paper, with the places where they stand."""
    return f"<ul>{''.join(f'<li>{_sentence(paper, uri(paper.chapter))}</li>' for paper in papers)}</ul>"


def _sentence(paper: Paper, address: str) -> str:
    said = [f"{words(key, n.value)} {key} ({html.escape(n.where)})" for key, n in paper.numbers.items()]
    return f'<a href="{html.escape(address)}">{html.escape(paper.name)}</a>, {paper.month}: {"; ".join(said)}.'
