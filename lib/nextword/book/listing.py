"""The library's own lines, as a page has room for them: what computes stays as it is, and so does every comment.

Left out are docstrings, decorators, types and checks of the arguments; a head takes one line, with the shapes of its tensors
below. Comments are set anew in lines of 84 characters, one that is too long beside its line stands above it. Whoever wants
the whole follows the link to the file.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from pathlib import Path
from typing import Any

WIDTH = 84
"""Characters that a line of code has on a page without scrolling."""

_SHAPES = "#|"  # begins the line of shapes, which is not set anew with the comments below it
_CHECK = re.compile(r"(\w+\.)*_?(check|require)(_\w+)?")
_SHAPE = re.compile(r"""Tensor, ['"]\s*([\w ]+)['"]""")


def listing(function: Any) -> tuple[str, str, str, str]:
    """Return the lines to show, their file from the root of the repository, where in it they stand, and the file of the test.

    Raises:
        ValueError: ``function`` is none of the library.
    """
    module = getattr(function, "__module__", None) or ""
    if not module.startswith("nextword."):
        raise ValueError(f"{function!r} is no function or class of the library")
    original, first = inspect.getsourcelines(function)
    path = module.replace(".", "/") + ".py"
    where = f"#L{first}-L{first + len(original) - 1}"
    return bare("".join(original)), f"lib/{path}", where, f"tests/library/test_{Path(path).name}"


def bare(source: str) -> str:
    """Return one function or class as a page shows it.

    Example:
        >>> print(bare('''def half(x: Float[Tensor, "B T"], n: int = 2) -> Tensor:
        ...     "Return the half."
        ...     if n != 2:
        ...         raise ValueError("n is not 2")
        ...     return x / n  # the mean of x and 0
        ... '''))
        def half(x, n=2):
            # x (B, T)
            return x / n  # the mean of x and 0
        <BLANKLINE>
    """
    lines = textwrap.dedent(source).splitlines()
    [tree] = ast.parse("\n".join(lines)).body
    hidden = set(range(1, tree.lineno))  # decorators
    inside = {id(node) for head in ast.walk(tree) if isinstance(head, ast.FunctionDef) for node in ast.walk(head)}
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node is not tree and (_documents(node) or _checks(node)):
            last = node.end_lineno or 0
            hidden |= set(range(node.lineno, last + 1 + (lines[last : last + 1] == [""])))
        elif isinstance(node, ast.AnnAssign) and node.value and id(node) in inside:  # the fields of a class need theirs
            line, start, end = node.lineno - 1, node.target.end_col_offset or 0, node.annotation.end_col_offset or 0
            taken = lines[line].encode()  # the positions count bytes
            lines[line] = (taken[:start] + taken[end:]).decode()
        elif isinstance(node, ast.FunctionDef):
            code = node.body[0].lineno  # comments above the first statement stay
            while lines[code - 2].lstrip().startswith("#"):
                code -= 1
            hidden |= set(range(node.lineno + 1, code))
            lines[node.lineno - 1] = _head(node)
    left = [line for number, line in enumerate(lines, 1) if number not in hidden]
    return "\n".join(_set_comments("\n".join(left).splitlines())) + "\n"


def _documents(node: ast.stmt) -> bool:
    """Whether a statement is a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _checks(node: ast.stmt) -> bool:
    """Whether a statement only refuses arguments that do not fit."""
    if isinstance(node, ast.FunctionDef):
        return all(_documents(part) or _checks(part) for part in node.body)
    if isinstance(node, ast.For):
        return all(map(_checks, node.body))
    if isinstance(node, ast.If):
        return isinstance(node.body[-1], ast.Raise) and not node.orelse
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and bool(_CHECK.fullmatch(ast.unparse(call.func)))


def _head(node: ast.FunctionDef) -> str:
    """Return the head of a function in one line, and the shapes of its tensors in a comment below."""
    shapes = []
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg)
    for argument in filter(None, arguments):
        found = _SHAPE.search(ast.unparse(argument.annotation) if argument.annotation else "")
        shapes += [f"{argument.arg} ({', '.join(found[1].split())})"] if found else []
        argument.annotation = None
    indent = " " * node.col_offset
    head = f"{indent}def {node.name}({ast.unparse(node.args)}):"
    if len(head) > WIDTH:
        head = head.replace(", *, ", f",\n{indent}        *, ", 1)
    return head + (f"\n{indent}    {_SHAPES} {', '.join(shapes)}" if shapes else "")


def _set_comments(lines: list[str]) -> list[str]:
    """Set comments in lines of ``WIDTH`` characters."""
    result: list[str] = []
    block: list[str] = []  # of neighbouring comments with lines of their own

    def flush(indent: str = "") -> None:
        prefix = f"{indent}# "
        result.extend(textwrap.wrap(" ".join(block), WIDTH, initial_indent=prefix, subsequent_indent=prefix))
        block.clear()

    before = ""
    for line in lines:
        if line.lstrip().startswith(_SHAPES):
            result.append(line.replace(_SHAPES, "#", 1))
            continue
        code, comment = _split(line)
        indent = " " * (len(line) - len(line.lstrip()))
        if comment and not code.strip():
            if block and indent != before:
                flush(before)
            block.append(comment)
            before = indent
            continue
        flush(before)
        beside = f"{code}  # {comment}" if comment else code
        if comment and len(beside) > WIDTH:
            block.append(comment)
            flush(indent)
            beside = code
        result.append(beside)
    flush(before)
    return result


def _split(line: str) -> tuple[str, str]:
    """Return the code of a line and its comment, without what speaks to a checker of types."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(line.strip()).readline))
    except (tokenize.TokenError, IndentationError):  # a statement that goes on in the next line
        tokens = []
    indent = line[: len(line) - len(line.lstrip())]
    for token in tokens:
        if token.type == tokenize.COMMENT:
            code, comment = line.strip()[: token.start[1]].rstrip(), token.string.lstrip("#: ")
            return indent + code, "" if comment.startswith("type: ignore") else comment
    return line, ""
