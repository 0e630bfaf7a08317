"""Make the runner's edition of each chapter: a plain notebook for Colab, JupyterLab and VS Code.

The committed notebooks speak MyST, which only the book's build understands. Here an executed chapter becomes
GitHub-flavoured Markdown: each role is what the book prints in its place, a box is a quotation, captions stand under
their figures, exercises have a cell to write in, and no solution lies open. Markup that this file does not know is a
fault: it would be shown to the reader as it is.

Run after tools/execute.py and tools/collect.py: python tools/edition.py [NAME ...]
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from typing import Any

import nbformat
from nbformat import NotebookNode

import assemble
import chapters
import nextword_sphinx as book_pages
import registration
from myst import INLINE, Piece, details, fenced, image, paragraphs, pieces, plain, quoted, raw_markup
from nextword import check
from nextword.book import claims
from references import Book, Unknown, title_and_target

OUT = chapters.ROOT / "build" / "html" / "_build" / "html" / "notebooks"
DIAGRAMS = chapters.CHAPTERS / "_static" / "diagrams"
BOXES = {"div", "admonition", "note", "tip", "hint", "important", "warning", "caution", "seealso", "dropdown", "margin"}
TITLED = {"admonition", "dropdown"}  # their argument is a title; other boxes are called what they are


class EditionError(Exception):
    """An edition cannot be made; the message has a line for each fault."""


class Edition:
    """One chapter on its way from MyST to plain Markdown, cell by cell."""

    def __init__(self, book: Book, chapter: str, numbers: dict[str, str]) -> None:
        self.book, self.chapter = book, chapter
        self.known = numbers  # what each label of the chapter is called, from an earlier pass
        self.numbers: dict[str, str] = {}  # the same, as far as this pass has come
        self.count: Counter[str] = Counter()
        self.cells: list[NotebookNode] = []
        self.text: list[str] = []  # of the Markdown cell that is being written
        self.solutions: dict[str, list[str]] = {}  # by the label of the exercise
        self.target = self.solution = ""
        self.gate = False  # whether all that comes belongs to a solution
        self.fold = ""  # the title under which the book folds the cell before
        self.faults: list[str] = []
        self.place = ""  # the cell being read, for messages

    def fault(self, markup: str, why: str) -> str:
        """Note that some markup cannot be rendered, and return what stands for it meanwhile."""
        self.faults.append(f"{self.chapter}.ipynb, cell {self.place}: {markup.splitlines()[0]}: {why}")
        return ""

    def number(self, kind: str, label: str, form: str = "{kind} {n}") -> str:
        """Return what the next figure, equation or exercise is called."""
        self.count[kind] += 1
        name = form.format(kind=kind, n=self.count[kind])
        if label:
            self.numbers[label] = name
        return name

    def close(self) -> None:
        """Finish the Markdown cell that is being written."""
        text, self.text = paragraphs(self.text), []
        if text:
            self.cells.append(nbformat.v4.new_markdown_cell(text))

    def write_code(self, source: str, outputs: list[NotebookNode] | None = None, **metadata: Any) -> None:
        """Add a code cell behind what was written."""
        self.close()
        self.cells.append(nbformat.v4.new_code_cell(source, outputs=outputs or [], metadata=metadata))

    def aside(self, title: str) -> None:
        """Begin what the book folds under this title, where it is not that of the cell before."""
        if title and title != self.fold:
            self.text.append(f"#### Aside: {self.inline(title)}")
            self.close()
        self.fold = title

    # Markdown cells

    def markdown(self, source: str) -> None:
        """Render a Markdown cell, which may become several where an exercise has a cell to write in."""
        for piece in pieces(source):
            name = piece.kind.removeprefix("directive ")
            if name == "exercise":
                self.exercise(piece)
            elif name in ("solution", "solution-start"):
                self.open_solution(piece)
            elif name == "solution-end":
                self.gate = False
            else:
                (self.solutions[self.solution] if self.gate else self.text).append(self.render(piece))
        self.close()

    def texts(self, source: str) -> str:
        """Render a Markdown text in which no cell can stand."""
        return paragraphs(self.render(piece) for piece in pieces(source))

    def render(self, piece: Piece) -> str:
        """Render one piece of Markdown as text."""
        if piece.kind == "text":
            heading = re.match(r"\s*#+ +(.+)", piece.text)
            if self.target and heading:
                self.numbers[self.target], self.target = heading[1].strip(), ""
            return self.inline(piece.text)
        if piece.kind == "verbatim":
            return piece.text
        if piece.kind == "mark":
            self.target = piece.label or self.target
            return ""
        if piece.kind == "math":
            return self.equation(piece)
        name = piece.kind.removeprefix("directive ")
        if (name, piece.argument) == ("div", "nw-caption"):
            return self.italic(piece.body)
        if name in BOXES:
            title = piece.argument if name in TITLED else "" if name in ("div", "margin") else name.capitalize()
            return quoted(paragraphs([title and f"**{self.inline(title)}**", self.texts(piece.body)]))
        if name == "diagram":
            return self.diagram(piece)
        if name == "claims-table":
            return self.table()
        if name == "live":
            page = f"{self.book.site}chapters/{self.chapter}.html"
            return quoted(f"[In the book]({page}) models answer here, in the browser.")
        return self.fault(piece.text, "tools/edition.py has no rule for this directive here; write one")

    def equation(self, piece: Piece) -> str:
        """Return a formula, with its number where it has a label."""
        if not piece.label:
            return piece.text
        name = self.number("equation", piece.label, "({n})")
        return re.sub(r"\$\$\s*\([^()]*\)\s*$", rf"\\tag{{{name[1:-1]}}} $$", piece.text)

    def diagram(self, piece: Piece) -> str:
        """Return a diagram, by its address: Colab shows no SVG kept in a notebook, JupyterLab none that is attached."""
        path = DIAGRAMS / f"{piece.argument}.svg"
        if not path.exists():
            there = ", ".join(sorted(found.stem for found in DIAGRAMS.glob("*.svg")))
            return self.fault(piece.text, f"no diagram has this name; there are {there}")
        title = re.search(r"<title[^>]*>(.*?)</title>", path.read_text(encoding="utf8"), re.S)
        shown = image(title[1] if title else "", f"{self.book.site}_static/diagrams/{path.name}")
        return f"{shown}\n\n{self.caption(piece.body, piece.options.get('name', ''))}"

    def caption(self, text: str, label: str) -> str:
        """Return the line under a figure."""
        return self.italic(f"{self.number('Figure', label)}. {text}")

    def italic(self, text: str) -> str:
        """Return a caption in italics, as it is where it has emphasis of its own."""
        text = self.inline(" ".join(text.split()))
        return text if not text or re.search(r"[*_]", text) else f"*{text}*"

    # Exercises

    def exercise(self, piece: Piece) -> None:
        """Write an exercise, and a cell for the reader under it."""
        name = self.number("Exercise", piece.options.get("label", ""))
        self.text.append(f"### {name}. {self.inline(piece.argument)}")
        parts = list(pieces(piece.body))
        for part in parts:
            if part.kind == "directive stub":
                self.stub(part)
            else:
                self.text.append(self.render(part))
        if not any(part.kind == "directive stub" for part in parts):
            self.write_code("")

    def stub(self, piece: Piece) -> None:
        """Write the beginning of a function that ``nextword.check`` knows, and its hints, folded."""
        name = piece.argument
        function = book_pages.checked(name)
        if function is None:
            self.fault(piece.text, "nextword.check has no check of this name with a stub")
            return
        call = f"# check.{name}({name})  # take the first # away when you have written it"
        self.write_code(f"from nextword import check\n\n{check.stub(function).rstrip()}\n\n{call}")
        hints = "\n".join(f"{n}. {plain(hint)}" for n, hint in enumerate(check.hints(function), 1))
        self.text.append(details("Hints", hints))
        self.close()

    def open_solution(self, piece: Piece) -> None:
        """Put a solution away for the end; what is between solution-start and solution-end goes there, too."""
        self.solution = piece.argument
        self.gate = piece.kind == "directive solution-start"
        if self.solution not in self.numbers:
            self.fault(piece.text, "no exercise before it has this label")
        self.solutions.setdefault(self.solution, []).append(self.texts(piece.body))

    # Code cells

    def code(self, cell: NotebookNode) -> None:
        """Take a code cell over, with its outputs, and its caption under it."""
        tags = set(cell.metadata.get("tags", []))
        if cell.id == "hero-picture":
            self.hero(cell)
        elif "exercise-check" in tags or self.gate:
            self.solve(cell)
        elif "remove-cell" not in tags:
            self.write_code(cell.source, _outputs(cell, tags), **_metadata(cell, tags))
            self.cells[-1].execution_count = cell.execution_count
            figure = cell.metadata.get("mystnb", {}).get("figure", {})
            if figure.get("caption") and self.cells[-1].outputs:
                folded = cell.metadata.get("fold")  # such figures have no number, as in the book
                caption = figure["caption"]
                self.text.append(self.italic(caption) if folded else self.caption(caption, figure.get("name", "")))
                self.close()

    def hero(self, cell: NotebookNode) -> None:
        """Show the chapter's result, as a picture in the text: Colab shows no attachment."""
        picture, alt = assemble.hero_picture(cell)
        if "image/png" not in picture:
            self.fault("<!-- hero -->", f"the figure is {', '.join(picture)}; notebooks show a PNG")
        data = picture.get("image/png", "").replace("\n", "")
        self.text = [image(alt, f"data:image/png;base64,{data}")]
        self.close()

    def solve(self, cell: NotebookNode) -> None:
        """Put a cell of a solution away, with what it printed."""
        if not self.solution:
            self.fault(cell.source, "this solution's code comes before any solution")
            return
        printed = "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
        self.solutions[self.solution].append(fenced(cell.source, "python"))
        if printed.strip():
            self.solutions[self.solution].append(f"It prints\n\n{fenced(printed, 'text')}")

    # Inside a line

    def inline(self, text: str) -> str:
        """Render roles and links of a text; code and formulas stay, comments go."""

        def swap(found: re.Match[str]) -> str:
            if found["comment"]:
                return ""
            try:
                if found["link"]:
                    return f"]({self.book.link(found['link'])})"
                if found["role"] in ("numref", "eq", "ref"):
                    return self.refer(found["text"])
                return self.book.role(found["role"], found["text"]) if found["role"] else found[0]
            except Unknown as error:
                return self.fault(found[0], str(error))

        return INLINE.sub(swap, text)

    def refer(self, text: str) -> str:
        """Return what a label is called: Figure 2, Exercise 1, (3), or the title of a section."""
        title, label = title_and_target(text)
        if label not in self.known:
            raise Unknown("nothing in this chapter has this label")
        name = self.known[label]
        return re.sub(r"%s|\{number\}", name.rpartition(" ")[2], title) if title else name

    # The end

    def table(self) -> str:
        """Return the claims of the chapter: what the paper found first, the withdrawn ones below."""
        rows, gone = (
            [row for row in self.book.ledger[key] if row["chapter"] == self.chapter] for key in ("claims", "withdrawn")
        )
        if not rows:
            return self.fault("{claims-table}", "build/claims.json has no claim of this chapter")
        told = [registration.sentence(rows)]
        for badge, title in book_pages.GROUPS.items():
            head = [f"| {' | '.join(book_pages.COLUMNS)} |", "| --- | --- | --- | --- |"]
            mine = [row for row in rows if row["badge"] == badge]
            listed = "\n".join(head + [_row(row) for row in mine])
            told += [f"**{book_pages.heading(title, mine)}**", listed] if mine else []
        if gone:
            reasons = [f"- {plain(row['statement'])} *Why:* {plain(row['withdrawn'])}" for row in gone]
            told.append(details(f"Withdrawn: {len(gone)}", "\n".join(reasons)))
        told.append(f"Criteria and dates: [all claims of the book]({self.book.site}chapters/claims.html).")
        return "\n\n".join(told)

    def finish(self) -> None:
        """Write the solutions down at the end, each folded, and look for markup that is left."""
        self.close()
        if self.gate:
            self.fault("{solution-start}", f"the solution of {self.solution} has no end")
        self.cells += [nbformat.v4.new_markdown_cell("## Solutions")] * bool(self.solutions)
        for label, parts in self.solutions.items():
            number = self.numbers.get(label, "").rpartition(" ")[2]
            self.cells.append(nbformat.v4.new_markdown_cell(details(f"Solution {number}", paragraphs(parts))))
        for i, cell in enumerate(self.cells):
            cell.id = f"cell-{i}"  # the same in each build
            if cell.cell_type == "markdown":
                self.place = f"{i} of the edition"
                for markup in raw_markup(cell.source):
                    self.fault(markup, "tools/edition.py has left this as it stands; write a rule for it")


def _row(row: dict[str, Any]) -> str:
    """Return one claim as a row of the table, where even code may hold no bar."""
    found = f"{claims.measured_text(row)} {row['unit']}".strip()
    paper = book_pages.minus(claims.number(row["paper_value"]))
    told = f"{plain(row['statement'])}<br>*{plain(row['quantity'])}*"
    cells = (told, paper, f"**{plain(found)}**", f"{row['verdict']}{book_pages.outcome(row)}")
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells) + " |"


def _outputs(cell: NotebookNode, tags: set[str]) -> list[NotebookNode]:
    """Return the outputs of a cell that readers of the book see."""
    if "remove-output" in tags:
        return []
    return [o for o in cell.outputs if not ("remove-stderr" in tags and o.get("name") == "stderr")]


def _metadata(cell: NotebookNode, tags: set[str]) -> dict[str, Any]:
    """Return the metadata of a cell: its tags, and for Colab and JupyterLab what they say about folding."""
    metadata: dict[str, Any] = {"tags": cell.metadata["tags"]} if tags else {}
    if "google.colab" in cell.source:
        return metadata  # what is installed is shown before it runs
    jupyter = {}
    if tags & {"hide-input", "hide-cell", "remove-input"} or "fold" in cell.metadata:
        jupyter["source_hidden"], metadata["cellView"] = True, "form"
    if tags & {"hide-output", "hide-cell"}:
        jupyter["outputs_hidden"] = True
    return metadata | ({"jupyter": jupyter} if jupyter else {})


def edition(notebook: NotebookNode, book: Book, chapter: str) -> NotebookNode:
    """Return the edition of an assembled notebook: stamp, hero and table of claims are in place.

    It is written twice, since a text may refer to a figure that comes later.
    """
    numbers: dict[str, str] = {}
    for _ in range(2):
        made = Edition(book, chapter, numbers)
        for cell in notebook.cells:
            made.place = cell.id
            made.aside(cell.metadata.get("fold", ""))
            made.markdown(cell.source) if cell.cell_type == "markdown" else made.code(cell)
        made.finish()
        numbers = made.numbers
    if made.faults:
        raise EditionError("\n".join(made.faults))
    metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info") if key in notebook.metadata}
    return nbformat.v4.new_notebook(cells=made.cells, metadata=metadata)


def main() -> int:
    """Write the editions of all chapters, or of those on the command line."""
    names, ledger = sys.argv[1:] or chapters.names(), chapters.ROOT / "build" / "claims.json"
    if not ledger.exists():
        raise SystemExit("build/claims.json is missing: run 'make book', or 'make chapter NAME=…' for a single chapter")
    book = Book.read(json.loads(ledger.read_text(encoding="utf8")))
    OUT.mkdir(parents=True, exist_ok=True)
    faults = []
    for name in names:
        try:
            made = edition(assemble.filled(chapters.CHAPTERS / f"{name}.ipynb", chapters.EXECUTED), book, name)
            nbformat.validate(made)
            nbformat.write(made, OUT / f"{name}.ipynb")
        except assemble.AssemblyError as error:
            faults.append(f"{name}.ipynb: {error}")
        except EditionError as error:
            faults.append(str(error))
    if faults:
        print("The runner's edition cannot be made:", *faults, sep="\n", file=sys.stderr)
        return 1
    print(f"editions made: {len(names)}, in {OUT.relative_to(chapters.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
