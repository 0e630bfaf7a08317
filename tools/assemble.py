"""Put together in build/src what Sphinx reads: pages, executed notebooks, configuration and the one file of MathJax.

Run after tools/execute.py and tools/collect.py. The folder is made from nothing each time, so that a page removed from
the table of contents leaves no trace. In each executed notebook two marks are filled in:

``<!-- stamp -->``  what the run cost: seconds against the budget, date, device, preset, versions
``<!-- hero -->``   the figure of the cell tagged ``hero``, copied up so that a chapter opens with its result

A hero bears the caption of its figure. Neighbouring cells whose metadata have one ``fold``, a title, are folded under it.
The cards of a chapter's claims give way to one table, at the end of the section "Claims".

A page in Markdown may show a chapter's result, too: ``<!-- hero 2020_gpt3 -->`` becomes that figure and a link to where it is made.
"""

from __future__ import annotations

import base64
import datetime
import html
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

import chapters
import live
from nextword import fetching
from nextword.book import claims

ROOT = Path(__file__).resolve().parents[1]
STAMP, HERO = "<!-- stamp -->", "<!-- hero -->"
READING = (
    "Underlined numbers lead to their claims, and ± is a 95 % interval. Each claim has a criterion, such as *at least 95 "
    "percent*, which is about the number itself or, where it says so, about its whole interval. ✗ behind a number: the "
    "criterion is not met. ?: only a part of the interval meets it, so the claim is unresolved. Point at the mark to read the "
    "criterion. † in the table of claims: it was set after the data were known."
)
PROGRESS = re.compile(r"^[^\n|]*\d+%\|[^|\n]*\|[^\n]*\[[^\n]*\] *\n*", re.M)
MATHJAX_FILE = "tex-svg-full.js"


class AssemblyError(Exception):
    """The book cannot be put together; the message says which file is at fault and what to do."""


def pages(toc: dict[str, Any]) -> list[str]:
    """Return every page that a table of contents names, in reading order, without suffix."""
    found = [toc["root"]]

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            if "file" in node:
                found.append(node["file"])
            for key in ("parts", "chapters", "sections", "subtrees", "entries"):
                walk(node.get(key, []))

    walk(toc)
    return found


def source_of(page: str, root: Path) -> Path:
    """Return the notebook or Markdown file behind ``page``."""
    candidates = [root / f"{page}{suffix}" for suffix in (".ipynb", ".md")]
    existing = [path for path in candidates if path.exists()]
    if len(existing) != 1:
        said = "neither exists" if not existing else "both exist"
        raise AssemblyError(f"_toc.yml names {page}: {said} of {page}.ipynb and {page}.md; exactly one should")
    return existing[0]


def read_executed(source: Path, executed: Path) -> tuple[NotebookNode, dict[str, Any]]:
    """Return the executed copy of a notebook and the record of its run, and refuse a copy of another version."""
    name = source.stem
    copy, record = executed / f"{name}.ipynb", executed / f"{name}.run.json"
    remedy = f"run 'make book', or 'make chapter NAME={name}', to execute it"
    for path in (copy, record):
        if not path.exists():
            raise AssemblyError(f"not executed, since {path.name} is missing; {remedy}")
    notebook = nbformat.read(copy, as_version=4)
    if _sources(notebook) != _sources(nbformat.read(source, as_version=4)):
        raise AssemblyError(f"changed after it was executed; {remedy} again")
    drop_progress(notebook)
    return notebook, json.loads(record.read_text(encoding="utf-8"))


def drop_progress(notebook: NotebookNode) -> None:
    """Take finished progress bars out of what the cells printed: they were for whoever waited."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and PROGRESS.search(output.text):
                output.text = PROGRESS.sub("", output.text).lstrip("\n")
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.text.strip()]


def _sources(notebook: NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def stamp(run: dict[str, Any]) -> str:
    """Return the few lines of Markdown that say what a run cost.

    Example:
        >>> run = {"seconds": 181.6, "budget_seconds": 240, "date": "2026-11-24", "device": "cpu", "preset": "cpu"}
        >>> print(stamp(run | {"precision": "float32", "torch": "2.13.0", "python": "3.11.7"}))
        :::{admonition} What it costs to run, and how its numbers read
        :class: nw-stamp
        3 min 2 s of the 6 min 24 s planned · 24 November 2026 · cpu, preset `cpu`, float32 · torch 2.13.0, Python 3.11.7
        <BLANKLINE>
        Underlined numbers lead to their claims, and ± is a 95 % interval. Each claim has a criterion, such as *at least 95 percent*, which is about the number itself or, where it says so, about its whole interval. ✗ behind a number: the criterion is not met. ?: only a part of the interval meets it, so the claim is unresolved. Point at the mark to read the criterion. † in the table of claims: it was set after the data were known.
        :::
    """
    seconds, planned = float(run["seconds"]), chapters.planned_seconds(run)
    over = seconds > planned
    cost = f"{_duration(seconds)} of the {_duration(planned)} planned"
    facts = [
        cost,
        _day(str(run["date"])),
        f"{run['device']}, preset `{run['preset']}`, {run['precision']}",
        f"torch {run['torch']}, Python {run['python']}",
    ]
    lines = [
        ":::{admonition} What it costs to run, and how its numbers read",
        f":class: nw-stamp{' nw-stamp-over' if over else ''}",
        " · ".join(facts),
    ]
    if over:
        lines += ["", f"This run took {seconds / planned:.1f} times what was planned for it."]
    lines += ["", READING]
    if run["preset"] == "smoke":
        lines += ["", "The `smoke` preset is for editing: its numbers mean nothing, and no claim is judged."]
    return "\n".join([*lines, ":::"])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    parts = ([f"{minutes} min"] if minutes else []) + ([f"{rest} s"] if rest or not minutes else [])
    return " ".join(parts)


def _day(date: str) -> str:
    try:
        day = datetime.datetime.fromisoformat(date)
    except ValueError:
        return date
    return f"{day.day} {day:%B %Y}"


def fill_stamp(notebook: NotebookNode, run: dict[str, Any]) -> None:
    """Replace the mark of the stamp, in the one Markdown cell that holds it."""
    marked = _marked(notebook, STAMP)
    if len(marked) != 1:
        raise AssemblyError(f"the mark {STAMP} stands in {len(marked)} Markdown cells; it belongs in exactly one")
    cell = notebook.cells[marked[0]]
    cell.source = cell.source.replace(STAMP, f"\n\n{stamp(run)}\n\n")


def fill_hero(notebook: NotebookNode) -> None:
    """Show the figure of the cell tagged ``hero`` where the mark stands.

    The Markdown cell is cut in two at the mark and a cell that bears only the picture goes between. The picture has the
    figure's alternative text, but neither its number nor its name: those stay where the figure is made.
    """
    marked = _marked(notebook, HERO)
    tagged = _tagged(notebook)
    if not marked and not tagged:
        return
    if len(marked) != 1 or len(tagged) != 1:
        raise AssemblyError(f"{len(marked)} cells hold the mark {HERO}, {len(tagged)} are tagged 'hero'; one each fits")
    cell = notebook.cells[marked[0]]
    before, after = cell.source.split(HERO, maxsplit=1)
    figure = tagged[0].metadata.get("mystnb", {}).get("figure", {})
    open_below = "name" in figure and not tagged[0].metadata.get("fold")
    made = f" (made further down: {{numref}}`{figure['name']}`)" if open_below else ""
    pointer = f":::{{div}} nw-caption\n{figure.get('caption', '')}{made}\n:::" if figure else ""
    pieces = [
        _markdown(before.strip(), cell.id),
        hero_cell(tagged[0]),
        _markdown(f"{pointer}\n\n{after.strip()}".strip(), f"{cell.id[:50]}-after-hero"),
    ]
    notebook.cells[marked[0] : marked[0] + 1] = [piece for piece in pieces if piece.source]


def hero_cell(tagged: NotebookNode) -> NotebookNode:
    """Return a cell that bears the last picture which the ``tagged`` cell put out, and nothing else."""
    picture, alt = hero_picture(tagged)
    cell = nbformat.v4.new_code_cell("# The result of this chapter. The cell that draws it stands further down.")
    cell.id = "hero-picture"
    cell.metadata.update(tags=["remove-input"], mystnb={"image": {"alt": alt, "classes": "nw-hero"}})
    cell.outputs = [nbformat.v4.new_output("display_data", data=picture)]
    return cell


def hero_picture(tagged: NotebookNode) -> tuple[dict[str, str], str]:
    """Return the last picture which the ``tagged`` cell put out, by kind, and its alternative text."""
    alt = tagged.metadata.get("mystnb", {}).get("image", {}).get("alt")
    if not alt:
        raise AssemblyError("the cell tagged 'hero' has no alternative text: set mystnb.image.alt in its metadata")
    for output in reversed(tagged.outputs):
        picture = {kind: data for kind, data in output.get("data", {}).items() if kind.startswith("image/")}
        if picture:
            return picture, alt
    raise AssemblyError("the cell tagged 'hero' put out no picture; draw its figure in that cell")


def _markdown(source: str, cell_id: str) -> NotebookNode:
    cell = nbformat.v4.new_markdown_cell(source)
    cell.id = cell_id
    return cell


def _tagged(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if "hero" in cell.metadata.get("tags", [])]


def _marked(notebook: NotebookNode, mark: str) -> list[int]:
    return [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown" and mark in cell.source]


def fold(notebook: NotebookNode) -> None:
    """Put neighbouring cells with one ``fold`` in their metadata under that title, as HTML that opens on a click.

    Headings make sections, which must not begin inside and end outside, so a folded stretch has none.
    """
    folded, open_title = [], ""
    for cell in [*notebook.cells, None]:  # the last one ends a fold at the end
        title = cell.metadata.get("fold", "") if cell else ""
        if open_title and title != open_title:
            folded.append(_markdown("</details>", f"{folded[-1].id[:50]}-fold-end"))
        if title and title != open_title:
            opening = f'<details class="nw-fold">\n<summary>{html.escape(title)}</summary>'
            folded.append(_markdown(opening, f"{cell.id[:50]}-fold"))
        if title and cell.cell_type == "markdown" and re.search(r"^#+ ", cell.source, re.M):
            raise AssemblyError(f"the fold {title!r} holds a heading; a folded stretch has none")
        if title and "tags" in cell.metadata:  # one click opens all of it
            cell.metadata.tags = [tag for tag in cell.metadata.tags if tag != "hide-input"]
        folded += [cell] if cell else []
        # Numbers count what is open: who leaves a fold closed would look for the figure that is missing.
        caption = cell.metadata.get("mystnb", {}).pop("figure", {}).get("caption", "") if title and cell else ""
        if caption:
            folded.append(_markdown(f":::{{div}} nw-caption\n{caption}\n:::", f"{cell.id[:50]}-caption"))
        open_title = title
    notebook.cells = folded


def tabulate_claims(notebook: NotebookNode, chapter: str) -> None:
    """Put one table of claims at the end of the section "Claims", in place of the cards that the cells put out.

    The cells that did nothing but record are bookkeeping, so their code is folded.
    """
    if not sum(_take_claims_out(cell) for cell in notebook.cells):
        return
    end = _end_of_claims(notebook, chapter)
    table = _markdown(f"```{{claims-table}} {chapter}\n```", "claims-table")
    notebook.cells.insert(end, table)


def _take_claims_out(cell: NotebookNode) -> int:
    """Take the claims out of a cell's outputs, fold its code if nothing else is left, and return how many they were."""
    outputs = cell.get("outputs", [])
    others = [output for output in outputs if claims.MIME not in output.get("data", {})]
    taken = len(outputs) - len(others)
    if taken:
        cell.outputs = others
    if taken and not others:
        tags = cell.metadata.get("tags", [])
        cell.metadata.tags = tags if "hide-input" in tags else [*tags, "hide-input"]
    return taken


def _end_of_claims(notebook: NotebookNode, chapter: str) -> int:
    """Return the index of the cell before which the section "Claims" ends; a cell that holds its end is cut in two."""
    inside = False
    for i, cell in enumerate(notebook.cells):
        for line, title in _headings(cell.source) if cell.cell_type == "markdown" else ():
            if inside:
                return _cut(notebook, i, line)
            inside = title == "Claims"
    if not inside:
        raise AssemblyError(f"{chapter} records claims but has no section '## Claims', where their table belongs")
    return len(notebook.cells)


def _headings(source: str) -> list[tuple[int, str]]:
    """Return the line and title of each heading of the first two levels that stands outside code."""
    found, fenced = [], False
    for i, line in enumerate(source.splitlines()):
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        heading = re.match(r"##? +(.+?)\s*$", line)
        if heading and not fenced:
            found.append((i, heading[1]))
    return found


def _cut(notebook: NotebookNode, i: int, line: int) -> int:
    """Cut a Markdown cell before one of its lines, and return the index of the cell that begins with that line."""
    cell, lines = notebook.cells[i], notebook.cells[i].source.splitlines()
    before, after = ("\n".join(part).strip() for part in (lines[:line], lines[line:]))
    if not before:
        return i
    cell.source = before
    notebook.cells.insert(i + 1, _markdown(after, f"{cell.id[:50]}-after-claims"))
    return i + 1


def filled(source: Path, executed: Path) -> NotebookNode:
    """Return the executed copy of ``source`` with both marks filled in and a table of its claims."""
    notebook, run = read_executed(source, executed)
    fill_stamp(notebook, run)
    fill_hero(notebook)
    tabulate_claims(notebook, source.stem)
    return notebook


def assemble_notebook(source: Path, executed: Path, target: Path) -> None:
    """Write the executed copy of ``source``, filled in and folded, to ``target``."""
    try:
        notebook = filled(source, executed)
        fold(notebook)
        nbformat.validate(notebook)
    except AssemblyError as error:
        raise AssemblyError(f"{source.name}: {error}") from None
    nbformat.write(notebook, target)


def assemble_page(source: Path, executed: Path, target: Path) -> None:
    """Write the Markdown page ``source`` to ``target``, each ``<!-- hero NAME -->`` filled in with that chapter's figure."""

    def figure(mark: re.Match[str]) -> str:
        name = mark[1]
        notebook, _ = read_executed(source.with_name(f"{name}.ipynb"), executed)
        tagged = _tagged(notebook)
        if len(tagged) != 1:
            raise AssemblyError(f"{name}.ipynb has {len(tagged)} cells tagged 'hero'; the mark {mark[0]} takes one")
        picture, alt = hero_picture(tagged[0])
        file = target.parent / "_heroes" / f"{name}.png"
        if "image/png" not in picture:
            raise AssemblyError(
                f"{name}.ipynb draws its result as {', '.join(picture)}; the mark {mark[0]} takes a PNG"
            )
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(base64.b64decode(picture["image/png"]))
        options = f":alt: {alt}\n:class: nw-hero\n:target: {name}.html"
        return f"```{{image}} _heroes/{file.name}\n{options}\n```"

    try:
        text = re.sub(r"<!-- hero (\w+) -->", figure, source.read_text(encoding="utf-8"))
    except AssemblyError as error:
        raise AssemblyError(f"{source.name}: {error}") from None
    target.write_text(text, encoding="utf-8")


def vendor_mathjax(extracted: Path, licence: Path, target: Path) -> None:
    """Copy MathJax's one file, with its licence, to where ``html_extra_path`` picks it up."""
    found = [extracted] if extracted.is_file() else sorted(extracted.rglob(MATHJAX_FILE))
    if len(found) != 1:
        raise AssemblyError(f"the data source 'mathjax' should hold one {MATHJAX_FILE}, and holds {len(found)}")
    target.mkdir(parents=True)
    shutil.copyfile(found[0], target / MATHJAX_FILE)
    shutil.copyfile(licence, target / "LICENSE")


def assemble(root: Path, mathjax: Path) -> Path:
    """Make ``build/src`` under ``root`` and return it; a book built earlier goes, so that no page of it stays behind.

    Raises:
        AssemblyError: everything that is wrong with the pages, said at once.
    """
    target, work = root / "build" / "src", root / "build" / "src.part"
    shutil.rmtree(work, ignore_errors=True)
    (work / "chapters").mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copyfile(root / name, work / name)
    shutil.copytree(root / "chapters" / "_static", work / "chapters" / "_static")
    shutil.copyfile(root / "chapters" / "references.bib", work / "chapters" / "references.bib")
    vendor_mathjax(mathjax, root / "chapters" / "_static" / "mathjax-licence.txt", work / "_vendor" / "mathjax")

    faults = []
    for page in pages(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))):
        try:
            source = source_of(page, root)
            copy = work / source.relative_to(root)
            write = assemble_notebook if source.suffix == ".ipynb" else assemble_page
            write(source, root / "build" / "executed" / "chapters", copy)
        except AssemblyError as error:
            faults.append(str(error))
    if faults:
        shutil.rmtree(work)
        raise AssemblyError("\n".join(faults))
    for old in (target, root / "build" / "html"):
        shutil.rmtree(old, ignore_errors=True)
    os.replace(work, target)
    return target


def main() -> int:
    """Assemble the book of this repository."""
    try:
        target = assemble(ROOT, fetching.fetch("mathjax"))
        live.write(target / "chapters" / "_static" / "live")
    except AssemblyError as error:
        print(f"The book cannot be put together:\n{error}", file=sys.stderr)
        return 1
    print(f"assembled {len(list((target / 'chapters').glob('*.ipynb')))} notebooks in {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
