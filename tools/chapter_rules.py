"""What a chapter may not do, so that every number in the ledger of claims is one that the chapter measured.

A chapter hands its numbers to ``claims.record`` itself, so nothing but its source shows where they come from. These
rules read the source, cell by cell, without running it: no number that somebody typed stands for a measurement, no error
is swallowed, no setting of the run is changed from inside, and nobody writes a verdict by hand.

A number is followed back from ``record`` through assignments, loops, dictionaries of arguments and the chapter's own
functions. It is *typed* when nothing but constants, arithmetic and functions of Python and NumPy lies behind it.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import nbformat

import chapters
from nextword.book import claims

RECORDERS = {"nextword.book.claims.record", "nextword.book.claims.record_seeds", "nextword.book.claims.repeat"}
"""The functions that take measurements, all but their first argument."""
CHECKED = ("measured", "values", "interval", "std", "live", "recorded")
FOR_CHAPTERS = {"record", "record_seeds", "repeat", "get", "number", "range_text", "two_digits"}
"""What a chapter may use of ``nextword.book.claims``; all else writes or replaces verdicts."""
MAGICS = {"pip", "matplotlib", "config"}
FORBIDDEN = {
    **dict.fromkeys(("os.environ", "os.environb", "os.getenv", "os.putenv", "os.unsetenv"), "environment"),
    **dict.fromkeys(("unittest", "mock", "pytest", "importlib", "ctypes", "gc"), "replace"),
    **dict.fromkeys(("exec", "eval", "globals", "locals", "vars", "__import__", "compile"), "replace"),
    **dict.fromkeys(("_repr_mimebundle_", "IPython.display.publish_display_data"), "by hand"),
    **dict.fromkeys(("__setattr__", "__dict__", "__builtins__", "builtins"), "replace"),
    "contextlib.suppress": "swallow",
}
REMEDIES = {
    "typed": "record what the chapter has computed, such as the value that a function or a recorded run returned",
    "swallow": "remove it, so that an error stops the chapter instead of letting another number in",
    "environment": "leave settings to the person who runs the chapter, and ask runtime.by_preset for sizes",
    "replace": "use the library as it is, or define a function or class of your own under another name",
    "by hand": "call claims.record, which judges the number and shows the verdict",
    "magic": "write plain Python, which these rules can read",
}
_PURE = {"math", "cmath", "numpy", "statistics", "fractions", "decimal", "operator", "functools", "itertools", "torch"}
_PURE |= {"scipy", "types", "collections", "json", "copy", "nextword.book.claims", "nextword.runtime.by_preset"}
_IMPURE = re.compile(r"rand|load|rvs|^get_|^nn$|^cuda$|Generator|fromfile|genfromtxt|^normal$|multinomial")
_IMPURE_BUILTINS = {"open", "input", "hash", "id", "object", "type", "super"}
_FIXED, _UNKNOWN = ast.Constant(0), ast.Attribute(ast.Constant(0), "load")
_PER_CELL = 100_000  # lines: a line number of the whole chapter, divided by this, is the cell

Function = ast.FunctionDef | ast.Lambda
Typed = tuple[ast.expr, "_Scope"]


# What names stand for -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Binding:
    """One place where a name gets a value or, with ``changes``, where the value it has is changed."""

    name: str
    value: ast.AST
    at: tuple[int, int]
    branch: tuple[tuple[ast.stmt, str], ...]
    changes: bool = False


@dataclass
class _Scope:
    """The names of a chapter, or of one call of one of its functions, made at the position ``at``."""

    body: list[ast.stmt]
    parent: _Scope | None = None
    at: tuple[int, int] = (10**9, 0)
    arguments: dict[str, Typed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names: dict[str, list[_Binding]] = {}
        for binding in _bindings(self.body):
            self.names.setdefault(binding.name, []).append(binding)

    def find(self, name: str, at: tuple[int, int]) -> list[tuple[_Binding, _Scope]]:
        """Return what a name may stand for at a position, and the changes made to that."""
        rows = self.names.get(name, [])
        found = _reaching([b for b in rows if not b.changes], at)
        if name in self.arguments and not found:
            value, home = self.arguments[name]
            changes = [(b, self) for b in rows if b.changes]
            return [(_Binding(name, value, (0, 0), ()), home), *changes]
        if not found:
            return self.parent.find(name, self.at) if self.parent else []
        changed = [b for b in rows if b.changes and found[-1].at <= b.at <= max(at, found[-1].at)]
        return [(b, self) for b in found + changed]


def _reaching(sets: list[_Binding], at: tuple[int, int]) -> list[_Binding]:
    """Return the last assignment before a position, and earlier ones that an ``if`` may have left in force."""
    found: list[_Binding] = []
    certain = False  # whether one of those found is always carried out
    for binding in reversed([b for b in sets if b.at <= at]):
        if certain and binding.at != found[-1].at:  # at the same place: another round of a loop
            break
        found.append(binding)
        outside = [(n, arm) for n, arm in binding.branch if not n.lineno <= at[0] <= (n.end_lineno or 0)]
        arms = {(n, arm) for b in found for n, arm in b.branch}
        both = any(n is m and arm != other for n, arm in outside for m, other in arms)
        certain |= both or not outside or not all(isinstance(n, ast.If) for n, _ in outside)
    return found or sets


def _statements(body: list[Any], branch: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield statements with the loops and conditions around them, those of functions and classes left out."""
    for statement in body:
        yield statement, branch
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        around = isinstance(statement, (ast.If, ast.For, ast.While))
        for arm in ("body", "orelse", "handlers", "finalbody", "cases"):
            inside = (*branch, (statement, arm)) if around else branch
            yield from _statements(getattr(statement, arm, []), inside)


def _bindings(body: list[ast.stmt]) -> Iterator[_Binding]:
    for statement, branch in _statements(body):
        at = _start(statement.body[0]) if isinstance(statement, (ast.For, ast.With)) else _end(statement)
        for target, value in _assigned(statement):
            for name, what, changes in _pairs(target, value):
                at = _start(value) if isinstance(value, ast.stmt) else at
                counted = branch and changes and not isinstance(what, ast.Dict)  # how often depends on the data
                yield _Binding(name, _UNKNOWN if counted else what, at, branch, changes)
        for part in ast.iter_child_nodes(statement):
            for node in ast.walk(part) if isinstance(part, ast.expr) else ():
                if isinstance(node, ast.NamedExpr):
                    yield _Binding(node.target.id, node.value, _end(node), branch)


def _assigned(statement: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield what a statement assigns to, with the value."""
    match statement:
        case ast.Assign(targets=targets, value=value):
            yield from ((target, value) for target in targets)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            yield target, value
        case ast.AugAssign(target=target, value=value):
            yield ast.Subscript(target, _UNKNOWN), value
        case ast.For(target=target, iter=source, body=inside):
            searches = any(isinstance(n, ast.Break) for s in inside for n in ast.walk(s))
            yield from ((target, _UNKNOWN if searches else value) for value in _elements(source))
        case ast.With(items=items):
            yield from ((i.optional_vars, i.context_expr) for i in items if i.optional_vars)
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield ast.Name(name), statement
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=target, attr=attr), args=args, keywords=keywords)):
            values = [*args, *(k.value for k in keywords)]  # x.append(…) changes x
            keys = [*(None for _ in args), *(ast.Constant(k.arg) for k in keywords)]
            yield ast.Subscript(target, _UNKNOWN), ast.Dict(keys, values) if attr == "update" else ast.Tuple(values)


def _elements(source: ast.expr) -> list[ast.expr]:
    """Return what a loop goes through where it is written out, else the source itself."""
    match source:
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return elements
        case ast.Call(func=ast.Attribute(value=ast.Dict(keys=keys, values=values), attr="items")):
            return [ast.Tuple([k or _UNKNOWN, v]) for k, v in zip(keys, values, strict=True)]
    return [source]


def _pairs(target: ast.AST, value: ast.AST) -> Iterator[tuple[str, ast.AST, bool]]:
    """Yield names, their values, and whether the value is only changed; ``a, b = x, y`` goes element by element."""
    match target, value:
        case ast.Name(id=name), _:
            yield name, value, False
        case ast.Starred(value=inner), _:
            yield from _pairs(inner, value)
        case ((ast.Tuple(elts=left) | ast.List(elts=left)), _):
            right = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
            starred = any(isinstance(x, ast.Starred) for x in [*left, *right])
            same = len(left) == len(right) and not starred
            for a, b in zip(left, right if same else [value] * len(left), strict=True):
                yield from _pairs(a, b)
        case ((ast.Subscript() | ast.Attribute()), _):
            if (root := _root(target)) is not None:
                key = getattr(target, "slice", None)
                named = isinstance(key, ast.Constant) and isinstance(key.value, str)
                yield root.id, ast.Dict([key], [value]) if named else value, True  # type: ignore[list-item]


def _root(node: ast.AST) -> ast.Name | None:
    """Return the name that a chain of attributes, items and calls begins with."""
    while not isinstance(node, ast.Name):
        node = getattr(node, "func", None) or getattr(node, "value", None)  # type: ignore[assignment]
        if not isinstance(node, ast.AST):
            return None
    return node


def _start(node: Any) -> tuple[int, int]:
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def _end(node: Any) -> tuple[int, int]:
    return node.end_lineno, node.end_col_offset


def _lines(node: Any) -> tuple[int, int]:
    return getattr(node, "lineno", 0), getattr(node, "end_lineno", 0) or 0


def _either(node: ast.expr) -> list[ast.expr]:
    """Return both results of ``a if … else b``."""
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def _is_empty(node: ast.AST) -> bool:
    """Return whether an expression is ``None``, ``[]`` or ``{}``, to be filled by others."""
    return isinstance(node, (ast.Constant, ast.List, ast.Dict)) and ast.unparse(node) in ("None", "[]", "{}")


def _is_zero(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == 0


def _names(origin: str) -> set[str]:
    """Return a full name with all that it begins with: ``a.b.c`` gives ``a``, ``a.b`` and ``a.b.c``."""
    parts = origin.split(".")
    return {".".join(parts[:i]) for i in range(1, len(parts) + 1)}


def _arguments(function: Function, call: ast.Call | None, scope: _Scope) -> dict[str, Typed]:
    """Return the expression behind each parameter at a call; without a call nothing is known of them."""
    spec = function.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    extra = [a.arg for a in (spec.vararg, spec.kwarg) if a]
    if call is None:
        return {name: (_UNKNOWN, scope) for name in (*names, *extra)}
    ordered = names[: len(names) - len(spec.kwonlyargs)]
    given: dict[str, ast.expr] = {}
    given |= dict(zip(ordered[len(ordered) - len(spec.defaults) :], spec.defaults, strict=True))
    given |= {a.arg: d for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if d}
    for i, argument in enumerate(call.args):
        starred = isinstance(argument, ast.Starred)
        given |= dict.fromkeys(ordered[i:] if starred else ordered[i : i + 1], argument)
    given |= {k.arg: k.value for k in call.keywords if k.arg in names}  # type: ignore[misc]
    if spec.vararg:
        given[spec.vararg.arg] = ast.Tuple(call.args[len(ordered) :])
    if spec.kwarg:
        rest = [k for k in call.keywords if k.arg not in names]
        given[spec.kwarg.arg] = ast.Dict(
            [ast.Constant(k.arg) if k.arg else None for k in rest], [k.value for k in rest]
        )
    return {name: (value, scope) for name, value in given.items()}


def _returns(function: Function) -> list[ast.expr]:
    if isinstance(function, ast.Lambda):
        return [function.body]
    found = [s.value for s, _ in _statements(function.body) if isinstance(s, ast.Return) and s.value]
    yields = [n.value for s in function.body for n in ast.walk(s) if isinstance(n, (ast.Yield, ast.YieldFrom))]
    return found + [value for value in yields if value]


# The chapter ----------------------------------------------------------------------------------------------------------


class _Chapter:
    """A chapter's source as one tree, what its names stand for, and what its records were made of."""

    def __init__(self, notebook: nbformat.NotebookNode) -> None:
        self.tree = ast.Module([], [])
        self.unreadable: list[int] = []
        for i, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                try:
                    part = ast.parse(chapters.code_of(nbformat.from_dict({"cells": [cell]})))
                except SyntaxError:
                    self.unreadable.append(i)
                    continue
                self.tree.body += ast.increment_lineno(part, i * _PER_CELL).body
        self.top = _Scope(self.tree.body)
        imported = self._imports()
        self.ours = {name for name, origin, _ in imported if origin.startswith("nextword.book.claims")}
        self.imports = {
            name: o for name, o, _ in imported if name not in self.ours or o.startswith("nextword.book.claims")
        }
        self.foreign = {
            id(n) for name, o, n in imported if name in self.ours and not o.startswith("nextword.book.claims")
        }
        self.home = {n: f for f in ast.walk(self.tree) if isinstance(f, Function) for n in ast.walk(f) if n is not f}
        self.shadowed = set(self._shadowed())
        self.used: set[tuple[int, int]] = set()  # lines, first to last, of all that a record was made of
        self.busy: set[int] = set()
        self.known: dict[tuple[int, int], tuple[bool, _Scope]] = {}
        self.now = (0, 0)  # where the record stands that is being looked at

    def _imports(self) -> list[tuple[str, str, ast.AST]]:
        """Return each name that is imported, what it stands for, and where."""
        found = []
        for node in ast.walk(self.tree):
            for a in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
                before = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                name = a.asname or (a.name if before else a.name.split(".")[0])
                found.append((name, before + a.name if a.asname or before else name, node))
        return found

    def _shadowed(self) -> Iterator[int]:
        """Yield the names inside functions that stand for something of the function's own, not for an import."""
        for function in set(self.home.values()):
            own = {n.arg for n in ast.walk(function.args) if isinstance(n, ast.arg)}
            names = [n for n in ast.walk(function) if isinstance(n, ast.Name)]
            own |= {n.id for n in names if not isinstance(n.ctx, ast.Load)}
            yield from (id(n) for n in names if n.id in own)

    def origin(self, node: ast.AST) -> str:
        """Return the full name of something imported, such as ``nextword.book.claims.record``, else an empty string."""
        if id(node) in self.shadowed:
            return ""
        if isinstance(node, ast.Name) and node.id not in self.imports:
            earlier = [b.value for b in self.top.names.get(node.id, []) if b.at <= _start(node) and not b.changes]
            return self.origin(earlier[-1]) if earlier and isinstance(earlier[-1], (ast.Name, ast.Attribute)) else ""
        if isinstance(node, ast.Name):
            return self.imports[node.id]
        base = self.origin(node.value) if isinstance(node, ast.Attribute) else ""
        return f"{base}.{node.attr}" if base and isinstance(node, ast.Attribute) else ""

    # Is it typed? -----------------------------------------------------------------------------------------------------

    def parts(self, node: ast.AST, scope: _Scope, depth: int = 0) -> Iterator[tuple[ast.AST, _Scope]]:
        """Yield the parts of a value none of which may be typed: either result of a choice, each element of a list."""
        inner: list[tuple[ast.AST, _Scope]] = []
        match node:
            case ast.IfExp(body=a, orelse=b):
                inner = [(a, scope), (b, scope)]
            case ast.BoolOp(values=values) | ast.Tuple(elts=values) | ast.List(elts=values):
                inner = [(value, scope) for value in values]
            case ast.Starred(value=value) | ast.NamedExpr(value=value):
                inner = [(value, scope)]
            case ast.Name(id=name):
                found = scope.find(name, _start(node))
                if not any(b.changes or isinstance(b.value, ast.stmt) for b, _ in found):
                    inner = [(b.value, home) for b, home in found]
                    self.used |= {_lines(b.value) for b, _ in found}
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=key)):
                found = scope.find(name, _start(node))
                if len(found) == 1:
                    inner = [(v, h) for k, v, h in self.entries(found[0][0].value, found[0][1]) if k == key]
            case ast.Call(func=ast.Name(id=name)):  # a pair that a function returns, such as (live, recorded)
                for function, home in self.functions(name, scope, _start(node)):
                    call = self.call(function, node, scope, home)
                    returned = [p for r in _returns(function) for p in _either(r) if isinstance(p, ast.Tuple)]
                    inner += [(element, call) for pair in returned for element in pair.elts]
        if inner and depth < 12:
            for value, home in inner:
                yield from self.parts(value, home, depth + 1)
            if not isinstance(node, ast.Call):
                return
        yield node, scope

    def functions(self, name: str, scope: _Scope, at: tuple[int, int]) -> Iterator[tuple[Function, _Scope]]:
        """Yield the chapter's own functions that a name stands for."""
        for binding, home in scope.find(name, at):
            if isinstance(binding.value, Function):
                yield binding.value, home

    def call(self, function: Function, call: ast.Call | None, scope: _Scope, home: _Scope) -> _Scope:
        """Return the names inside a function at one of its calls."""
        body = function.body if isinstance(function.body, list) else [ast.Expr(function.body)]
        return _Scope(body, home, self.now, _arguments(function, call, scope))

    def typed(self, node: ast.AST, scope: _Scope) -> bool:
        """Return whether nothing but constants lies behind an expression."""
        nodes = list(ast.walk(node))
        inside = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        inside |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        fixed = True
        for n in nodes:
            if isinstance(n, ast.Attribute):
                fixed &= not _IMPURE.search(n.attr)
                if self._is_pure(self.origin(n)):
                    inside.add(_root(n).id)  # type: ignore[union-attr]
            elif isinstance(n, ast.Name) and n.id not in inside:
                fixed &= self._typed_name(n, scope)
        return fixed

    def _is_pure(self, origin: str) -> bool:
        return bool(_names(origin) & _PURE) and not any(map(_IMPURE.search, origin.split(".")))

    def _typed_name(self, name: ast.Name, scope: _Scope) -> bool:
        found = scope.find(name.id, _start(name))
        if not found:
            builtin = hasattr(builtins, name.id) and name.id not in _IMPURE_BUILTINS
            return self._is_pure(self.imports[name.id]) if name.id in self.imports else builtin
        sets = [self._typed_binding(b, home) for b, home in found if not b.changes and not _is_empty(b.value)]
        changes = [self._typed_binding(b, home) for b, home in found if b.changes]
        return any(sets or changes) and all(changes)

    def _typed_binding(self, binding: _Binding, home: _Scope) -> bool:
        value, key = binding.value, (id(binding.value), id(home))
        self.used |= {_lines(value), (binding.at[0], binding.at[0]) if binding.changes else _lines(value)}
        if key in self.known or id(value) in self.busy:
            return self.known.get(key, (True, home))[0]
        self.busy.add(id(value))
        if isinstance(value, Function):
            call = self.call(value, None, home, home)
            call.arguments = dict.fromkeys(call.arguments, (_FIXED, home))
            answer = all([self.typed(r, call) for r in _returns(value)])
        else:
            answer = not isinstance(value, ast.ClassDef) and self.typed(value, home)
        self.busy.discard(id(value))
        self.known[key] = answer, home
        return answer

    def entries(self, node: ast.AST, scope: _Scope, depth: int = 0) -> Iterator[tuple[Any, ast.AST, _Scope]]:
        """Yield keys and values of a dictionary of arguments, as far as they are written out."""
        inner: list[tuple[ast.AST, _Scope]] = []
        match node:
            case ast.Dict(keys=keys, values=values):
                yield from (
                    (k.value, v, scope) for k, v in zip(keys, values, strict=True) if isinstance(k, ast.Constant)
                )
                inner = [(v, scope) for k, v in zip(keys, values, strict=True) if k is None]
            case ast.Call(func=ast.Name(id="dict"), args=args, keywords=keywords):
                yield from ((k.arg, k.value, scope) for k in keywords if k.arg)
                inner = [(v, scope) for v in [*args, *(k.value for k in keywords if not k.arg)]]
            case ast.BinOp(left=a, right=b) | ast.IfExp(body=a, orelse=b):
                inner = [(a, scope), (b, scope)]
            case ast.Name(id=name):
                inner = [(b.value, home) for b, home in scope.find(name, _start(node))]
        for value, home in inner if depth < 12 else ():
            yield from self.entries(value, home, depth + 1)

    # The rules --------------------------------------------------------------------------------------------------------

    def records(self) -> list[ast.Call]:
        """Return all calls that hand measurements to the ledger."""
        return [n for n in ast.walk(self.tree) if isinstance(n, ast.Call) and self.origin(n.func) in RECORDERS]

    def contexts(self, node: ast.AST, depth: int = 0) -> Iterator[tuple[_Scope, ast.AST]]:
        """Yield the names in force at a node, and where the chapter begins what leads there, for each way to reach it."""
        function = self.home.get(node)
        if function is None or depth > 6:
            yield self.top, node
            return
        outer = next(self.contexts(function, depth + 1))[0]
        yield self.call(function, None, outer, outer), node
        names = {b.name for b in self.top.names.get(getattr(function, "name", ""), [])}
        names |= {b.name for rows in outer.names.values() for b in rows if b.value is function}
        for site in ast.walk(self.tree):
            if isinstance(site, ast.Call) and isinstance(site.func, ast.Name) and site.func.id in names:
                for scope, begin in self.contexts(site, depth + 1):
                    yield self.call(function, site, scope, outer), begin

    def typed_numbers(self) -> Iterator[tuple[ast.AST, str, str]]:
        """Rule 1: no number that a person typed is recorded as a measurement."""
        for call in self.records():
            for scope, begin in self.contexts(call):
                self.now, self.known = _start(begin), {}
                wrong = list(self._typed_arguments(call, scope))
                yield from ((begin, f"a typed number is recorded as {label}", "typed") for label in wrong)
                if wrong and begin is call:
                    break

    def _typed_arguments(self, call: ast.Call, scope: _Scope) -> Iterator[str]:
        given: list[tuple[Any, ast.AST, _Scope]] = [("the measured value", a, scope) for a in call.args[1:]]
        given += [(k.arg, k.value, scope) for k in call.keywords if k.arg]
        given += [e for k in call.keywords if not k.arg for e in self.entries(k.value, scope)]
        for label, value, home in given:
            parts = self.parts(value, home) if label in (*CHECKED, "the measured value") else ()
            bound = label == "interval"  # may end at zero
            kept = [(p, h) for p, h in parts if not _is_empty(p) and not (bound and _is_zero(p))]
            typed = [(p, h) for p, h in kept if self.typed(p, h)]
            computed = all(self._computes(p, h) for p, h in typed)
            if typed and not (computed and self._may_be_arithmetic(call, scope)):
                yield label
        if call.args and isinstance(call.args[0], ast.Starred) and self.typed(call.args[0].value, scope):
            yield "the measured value"

    def _may_be_arithmetic(self, call: ast.Call, scope: _Scope) -> bool:
        """Return whether a claim may be arithmetic on a paper's printed numbers: kinds ``exact`` and ``report``."""
        given = [k.value for k in call.keywords if k.arg == "id"]
        pattern = re.compile(self._pattern((call.args or given)[0], scope))
        kinds = [c.kind for c in claims.ledger().values() if pattern.fullmatch(c.id)]  # of all that it may be
        return bool(kinds) and set(kinds) <= {"exact", "report"}

    def _pattern(self, id: ast.AST, scope: _Scope) -> str:
        match id:
            case ast.Constant(value=str() as text):
                return re.escape(text)
            case ast.JoinedStr(values=values):
                return "".join(self._pattern(v, scope) for v in values)
            case ast.FormattedValue(value=value):
                return self._pattern(value, scope)
            case ast.Name(id=name) if len(found := scope.find(name, _start(id))) == 1:
                return self._pattern(found[0][0].value, found[0][1])
        return ".*"

    def _computes(self, node: ast.AST, scope: _Scope, depth: int = 0) -> bool:
        """Return whether there is any arithmetic in a value, or in what its names stand for."""
        nodes = list(ast.walk(node))
        if any(isinstance(n, (ast.BinOp, ast.Compare, ast.AugAssign)) for n in nodes) or depth > 12:
            return depth <= 12
        found = [f for n in nodes if isinstance(n, ast.Name) for f in scope.find(n.id, _start(n))]
        return any(self._computes(b.value, home, depth + 1) for b, home in found)

    def swallowed(self) -> Iterator[tuple[ast.AST, str, str]]:
        """Rule 2: no error is caught, save where nothing of it can come near a record.

        Call it after :meth:`typed_numbers`, which follows the records to what they are made of.
        """
        recording = {_cell(n) for call in self.records() for n in (call, *(begin for _, begin in self.contexts(call)))}
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Try, ast.TryStar)) and node.handlers:
                first, last = _lines(node)
                if _cell(node) in recording or any(a <= last and first <= b for a, b in self.used):
                    yield node, "an except swallows an error in what is recorded", "swallow"

    def forbidden(self) -> Iterator[tuple[ast.AST, str, str]]:
        """Rules 2 to 4: nothing that swallows errors, changes the run's settings or replaces the judge."""
        for node in ast.walk(self.tree):
            for name in self._spoken(node):
                for hit in sorted(_names(name) & set(FORBIDDEN)):
                    yield node, f"{hit} is used", FORBIDDEN[hit]
                module, _, what = name.rpartition(".")
                if module == "nextword.book.claims" and what not in FOR_CHAPTERS:
                    yield node, f"claims.{what} is used", "by hand"
                if module.startswith("nextword") and what == "*":
                    yield node, f"all names of {module} are imported", "replace"

    def _spoken(self, node: ast.AST) -> set[str]:
        """Return the full names that a node speaks of."""
        match node:
            case ast.Import(names=names):
                return {a.name for a in names}
            case ast.ImportFrom(module=module, names=names):
                return {f"{module}.{a.name}" for a in names}
            case ast.Name(id=name):
                own = any(not b.changes for b in self.top.names.get(name, []))
                return {self.origin(node) or ("" if own else name)} - {""}
            case ast.Attribute(attr=attr):
                return {self.origin(node), attr if attr.startswith("_") else ""} - {""}
            case ast.FunctionDef(name=name):
                return {name} if name.startswith("_") else set()
        return set()

    def replaced(self) -> Iterator[tuple[ast.AST, str, str]]:
        """Rules 3 and 4: no part of the library is replaced, and ``record`` is called by its own name."""
        nodes = list(ast.walk(self.tree))
        called = {id(n.func) for n in nodes if isinstance(n, ast.Call)}
        asked = {id(c) for n in nodes if isinstance(n, ast.Compare) for c in n.comparators}
        for node in nodes:
            target = node.args[0] if isinstance(node, ast.Call) and node.args else node
            sets = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("setattr", "delattr")
            stores = isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load)
            root = _root(target) if sets or stores else None
            if root is not None and self.origin(root).startswith("nextword"):
                yield node, f"a part of the library is replaced ({ast.unparse(node)})", "replace"
            if isinstance(node, (ast.Attribute, ast.Name)):
                if self.origin(node) in RECORDERS and id(node) not in called:
                    yield node, f"{ast.unparse(node)} gets another name or is handed on", "by hand"
                if self.origin(node) == "sys.modules" and id(node) not in asked:
                    yield node, "sys.modules is changed", "replace"
            if self._rebinds(node):
                yield node, "a name that stands for the ledger of claims gets another meaning", "replace"

    def _rebinds(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self.ours and not isinstance(node.ctx, ast.Load)
        defines = isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.arg))
        return id(node) in self.foreign or (defines and getattr(node, "name", getattr(node, "arg", "")) in self.ours)

    def by_hand(self) -> Iterator[tuple[ast.AST, str, str]]:
        """Rules 3 and 4: no verdict written into the output, no shell or magic that these rules cannot read."""
        for node in ast.walk(self.tree):
            match node:
                case ast.Constant(value=str() as text) if "vnd.nextword.claim" in text:
                    yield node, "the output type of verdicts is named", "by hand"
                case ast.Call(func=ast.Name(id="display") | ast.Attribute(attr="display"), keywords=keywords):
                    if any(k.arg == "raw" for k in keywords):
                        yield node, "raw output is displayed", "by hand"
                case ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")), attr=attr):
                    yield from self._magic(node, attr)

    def _magic(self, node: ast.AST, attr: str) -> Iterator[tuple[ast.AST, str, str]]:
        call = next((n for n in ast.walk(self.tree) if isinstance(n, ast.Call) and n.func is node), None)
        words = [str(a.value) if isinstance(a, ast.Constant) else "" for a in call.args] if call else []
        if attr == "run_line_magic" and words and words[0] in MAGICS:
            return
        sets = re.search(r"^(set_)?env$|\b(export|setenv)\b", " ".join(words)) or words[:1] in (["env"], ["set_env"])
        yield node, f"IPython runs {' '.join(words).strip() or attr!r}", "environment" if sets else "magic"


def _cell(node: ast.AST) -> int:
    return _start(node)[0] // _PER_CELL


def faults(name: str, notebook: nbformat.NotebookNode) -> list[str]:
    """Return a message for each place where a chapter breaks a rule: which cell, what, and what to do instead."""
    chapter = _Chapter(notebook)
    found = [(i, "this is not Python", "magic") for i in chapter.unreadable]
    for rule in (chapter.typed_numbers, chapter.swallowed, chapter.forbidden, chapter.replaced, chapter.by_hand):
        found += [(_cell(node), what, remedy) for node, what, remedy in rule()]
    return [f"{name}, cell {i}: {what}: {REMEDIES[remedy]}." for i, what, remedy in sorted(set(found))]
