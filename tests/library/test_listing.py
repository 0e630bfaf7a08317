"""Library lines as a page shows them: the same program, without types and checks, in lines that fit."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import pytest

from nextword import attention, encoder, layers, ngram, ppo, rlhf, sparse_attention, tokenizers, training, transformer
from nextword.book.listing import WIDTH, bare, listing

MODULES = (attention, encoder, layers, ngram, ppo, rlhf, sparse_attention, tokenizers, training, transformer)
FUNCTIONS = [
    function
    for module in MODULES
    for thing in vars(module).values()
    if getattr(thing, "__module__", "") == module.__name__
    for function in [thing, *(vars(thing).values() if inspect.isclass(thing) else [])]
    if inspect.isfunction(function) and function.__code__.co_filename == module.__file__
]


class Plain(ast.NodeTransformer):
    """Take out what a page leaves out, by another way than the module does."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.decorator_list, node.returns = [], None
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        return ast.Assign([node.target], node.value) if node.value else node

    def visit_Expr(self, node: ast.Expr) -> ast.stmt | None:
        text = ast.unparse(node)
        documents = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if documents or re.match(r"(\w+\.)*_?(check|require)(_\w+)?\(", text) else node

    def visit_If(self, node: ast.If) -> ast.stmt | None:
        self.generic_visit(node)
        return None if node.body and isinstance(node.body[-1], ast.Raise) and not node.orelse else node

    def visit_For(self, node: ast.For) -> ast.stmt | None:
        self.generic_visit(node)
        return node if node.body else None


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__qualname__}")
def test_the_program_is_the_same(function: Any) -> None:
    original = inspect.cleandoc("\n" + inspect.getsource(function))
    code = listing(function)[0]
    [tree] = Plain().visit(ast.parse(original)).body
    if not tree.body:  # a method that a subclass writes, or nothing but a check
        return
    assert ast.unparse(ast.parse(code)) == ast.unparse(ast.fix_missing_locations(ast.Module([tree], [])))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__qualname__}")
def test_no_comment_is_lost_and_none_is_too_long(function: Any) -> None:
    code = listing(function)[0]
    alone = [line for line in code.splitlines() if line.lstrip().startswith("#")]
    assert all(len(line) <= WIDTH for line in alone if " " in line.strip("# "))
    said = " ".join(re.findall(r"# ?(.*)", code))
    for line in inspect.getsource(function).splitlines():
        if line.lstrip().startswith("#") and f"{line.strip()[2:]}" not in said:
            words = line.strip()[2:].split()
            assert re.search(r"\s+".join(map(re.escape, words)), said), line


def test_shapes_stand_below_the_head() -> None:
    code, file, where, test = listing(attention.attention)
    assert code.startswith("def attention(q, k, v, mask=None, *, scale=None):\n    # q (B, H, T, D), k (B, H, S, D)")
    assert file == "lib/nextword/attention.py" and re.fullmatch(r"#L\d+-L\d+", where) and test.endswith("attention.py")


def test_a_long_comment_moves_above_its_line() -> None:
    long = "why this line is as it is, told at such length that no page has room for it beside the line"
    code = bare(f"def f(x):\n    y = x + 1  # {long}\n    return y  # short\n")
    assert code.splitlines()[1].startswith("    # why this") and code.splitlines()[-1] == "    return y  # short"
    assert all(len(line) <= WIDTH for line in code.splitlines())


def test_what_speaks_to_a_checker_goes() -> None:
    code = bare(
        "def f(x):\n    x.backward()  # type: ignore[no-untyped-call]  # no types there\n    y: int = x\n    return y\n"
    )
    assert code == "def f(x):\n    x.backward()\n    y = x\n    return y\n"


def test_a_head_that_is_too_long_takes_two_lines() -> None:
    code = bare(f"def f({', '.join(f'argument_{i}' for i in range(7))}, *, last=None):\n    return last\n")
    assert code.splitlines()[1] == "        *, last=None):" and ast.parse(code)


def test_a_hash_in_a_text_is_no_comment() -> None:
    assert bare("def f():\n    return '# no comment'\n") == "def f():\n    return '# no comment'\n"
