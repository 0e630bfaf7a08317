"""Reading MyST piece by piece, as the book's build reads it, and writing plain Markdown for notebooks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

PARSER = create_md_parser(
    MdParserConfig(enable_extensions={"amsmath", "colon_fence", "dollarmath"}, disable_syntax=["front_matter"]),
    RendererHTML,
)
INLINE = re.compile(
    r"\{(?P<role>[\w:.+-]+)\}`(?P<text>[^`]+)`"
    r"|(?P<ticks>`+)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=ticks)(?!`)"  # code
    r"|(?<![\\$])\$(?!\$)(?:\\.|(?!\n\n)[^$\\])+\$"  # a formula
    r"|(?P<comment><!--.*?-->)"
    r"|\]\((?P<link>[^()\s]+)\)",
    re.S,
)
"""What may stand inside a line, code and formulas among it, so that nothing in them is taken for markup."""


@dataclass
class Piece:
    """A stretch of a Markdown cell: ``text``, ``verbatim`` code, ``math``, or what a ``directive`` is called."""

    kind: str
    text: str  # as it stands in the source
    argument: str = ""
    options: dict[str, str] = field(default_factory=dict)
    body: str = ""
    label: str = ""


def pieces(source: str) -> Iterator[Piece]:
    """Cut a Markdown text into pieces, which make the text again when they are joined."""
    lines, done = source.splitlines(), 0
    for token in PARSER.parse(source):
        piece = _piece(token)
        if piece is None or token.map is None:
            continue
        start, end = token.map
        yield Piece("text", "\n".join(lines[done:start]))
        piece.text = "\n".join(lines[start:end])
        yield piece
        done = end
    yield Piece("text", "\n".join(lines[done:]))


def _piece(token: Any) -> Piece | None:
    """Return what a token of the parser stands for where that is more than text."""
    if token.type in ("math_block", "math_block_label", "amsmath"):
        return Piece("math", "", label=token.info if token.type == "math_block_label" else "")
    if token.type in ("myst_target", "myst_line_comment", "myst_block_break"):
        return Piece("mark", "", label=token.content if token.type == "myst_target" else "")
    info = token.info.strip()
    if token.type == "code_block" or (token.type == "fence" and not info.startswith("{")):
        return Piece("verbatim", "")
    if token.type not in ("fence", "colon_fence"):
        return None
    name, _, argument = info.removeprefix("{").partition("}")
    lines, options = token.content.splitlines(), {}
    while lines and (option := re.fullmatch(r":([\w-]+):\s*(.*)", lines[0])):
        options[option[1]] = option[2]
        del lines[0]
    # A directive in a list or a quotation would take its neighbours' marks along.
    kind = f"directive {name}" if not token.level else f"directive {name} inside a list or quotation"
    return Piece(kind, "", argument.strip(), options, "\n".join(lines).strip())


RAW = re.compile(
    r"\{[\w:.+-]+\}`|^[> ]*:{3,}.*|^[> ]*(?:`{3,}|~{3,})\{.*|<!--.*|^\([\w:-]+\)=.*|\]\(#[^)]*\)|\{\{.*?\}\}|^% .*",
    re.M,
)
_NOT_TEXT = re.compile(
    r"^[> ]*(`{3,}|~{3,})(?!\{)[^\n`]*\n.*?^[> ]*\1 *$|(?<![`}])(`{1,2})(?!`)(?:(?!\n\n).)+?(?<!`)\2(?!`)"
    r"|\$\$.+?\$\$|(?<!\\)\$(?:\\.|[^$\\\n])+\$",
    re.M | re.S,
)


def raw_markup(source: str) -> list[str]:
    """Return the MyST left in a Markdown text, outside code and formulas; without the parser, as a check on it."""
    return [found[0].strip() for found in RAW.finditer(_NOT_TEXT.sub("", source))]


def plain(text: str) -> str:
    r"""Return a text in Markdown that shows as it is, but for code between backticks.

    Example:
        >>> print(plain("a*b < c, `x*y` | my_name [MASK]"))
        a\*b \< c, `x*y` \| my_name [MASK]
    """
    parts = re.split(r"(`[^`]+`)", text)
    special = re.compile(r"[\\`*<|$]|(?<!\w)_|_(?!\w)")
    return "".join(part if i % 2 else special.sub(r"\\\g<0>", part) for i, part in enumerate(parts))


def paragraphs(parts: Iterable[str]) -> str:
    """Return texts as one, with an empty line between them."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def details(summary: str, body: str) -> str:
    """Return a text that opens on a click."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def image(alt: str, address: str) -> str:
    """Return a picture with its alternative text."""
    alt = re.sub(r"[\[\]]", r"\\\g<0>", plain(" ".join(alt.split())))
    return f"![{alt}]({address})"


def fenced(code: str, language: str = "") -> str:
    """Return code as a block, within more backticks than it has itself."""
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", code))])
    return f"{ticks}{language}\n{code.rstrip()}\n{ticks}"


def quoted(text: str) -> str:
    """Return a text as a quotation, its formulas on one line: notebooks would take the marks of others for maths."""
    text = re.sub(r"\$\$.*?\$\$", lambda formula: " ".join(formula[0].split()), text, flags=re.S)
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())
