"""Small mistakes that a careless change could make, one at a time, as edits of a file's text."""

from __future__ import annotations

import ast
import difflib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

Edit = tuple[ast.AST, str, str]
"""A node, the text that takes its place, and what that does."""

COMPARE = {
    ast.Lt: ("<=", ">="), ast.LtE: ("<", ">"), ast.Gt: (">=", "<="), ast.GtE: (">", "<"),
    ast.Eq: ("!=",), ast.NotEq: ("==",), ast.Is: ("is not",), ast.IsNot: ("is",),
    ast.In: ("not in",), ast.NotIn: ("in",),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*",
    ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "argmin": "argmax", "argmax": "argmin", "amin": "amax", "amax": "amin",
    "minimum": "maximum", "maximum": "minimum", "all": "any", "any": "all", "floor": "ceil", "ceil": "floor",
    "sum": "mean", "mean": "sum", "zeros": "ones", "ones": "zeros", "triu": "tril", "tril": "triu",
    "zeros_like": "ones_like", "ones_like": "zeros_like",
}  # fmt: skip
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Mutant:
    """One edit: ``text`` instead of the bytes from ``start`` to ``end`` of ``file``, in the function ``scope``."""

    file: str
    scope: str
    line: int
    source: str  # the line, stripped
    what: str
    number: int  # among those of the same scope, source and what
    start: int
    end: int
    text: str

    @property
    def id(self) -> str:
        """Stays the same while the line does, wherever it moves in its function."""
        parts = (self.file, self.scope, self.source, self.what, str(self.number))
        return hashlib.sha1("\0".join(parts).encode()).hexdigest()[:10]

    def apply(self, source: bytes) -> bytes:
        """The file with the mistake in it."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def diff(self, source: bytes) -> str:
        """The mistake as a unified diff."""
        before, after = (text.decode().splitlines(keepends=True) for text in (source, self.apply(source)))
        return "".join(difflib.unified_diff(before, after, f"a/{self.file}", f"b/{self.file}", n=1))


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """Every mutant of a file, in the order of the text."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines, seen = source.decode().splitlines(), Counter()
    found = []
    for scope, (node, text, what) in _edits(ast.parse(source)):
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        key = (scope, lines[node.lineno - 1].strip(), what)
        found.append(Mutant(file, scope, node.lineno, key[1], what, seen[key], start, end, text))
        seen[key] += 1
    return found


def _edits(tree: ast.AST, scope: str = "") -> Iterator[tuple[str, Edit]]:
    """The edits of a tree's nodes with the function or class each is in."""
    for child in _children(tree):
        name = scope
        if isinstance(child, (*FUNCTIONS, ast.ClassDef)):
            parent = f"{scope}.<locals>." if isinstance(tree, FUNCTIONS) else f"{scope}." if scope else ""
            name = parent + child.name
        else:
            for node, text, what in _edits_of(child):
                if len(text.encode()) < 2000:
                    yield scope, (node, text, what)
        yield from _edits(child, name)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The parts that are run for what they do: no types, decorators, docstrings, messages, checks."""
    test = getattr(node, "test", None)
    if isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert)) or getattr(test, "id", "") == "TYPE_CHECKING":
        return
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if isinstance(child, ast.AST) and not text:
                yield child


def _edits_of(node: ast.AST) -> list[Edit]:
    rule = RULES.get(type(node))
    return rule(node) if rule else []


def _changed(node: ast.AST, what: str, **fields) -> Edit:
    """An expression with other fields, in parentheses where it was an operator's operand or may be."""
    copy = type(node)(**{name: fields.get(name, value) for name, value in ast.iter_fields(node)})
    text = ast.unparse(ast.fix_missing_locations(copy))
    operator = isinstance(node, (ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp, ast.IfExp))
    return node, f"({text})" if operator else text, what


def _compare(node: ast.Compare) -> list[Edit]:
    out = []
    for place, op in enumerate(node.ops):
        for sign in COMPARE[type(op)]:
            new = ast.parse(f"a {sign} b", mode="eval").body.ops[0]
            out.append(_changed(node, f"{_sign(op)} to {sign}", ops=[*node.ops[:place], new, *node.ops[place + 1 :]]))
    return out


def _sign(op: ast.cmpop) -> str:
    return ast.unparse(ast.Compare(ast.Name("a"), [op], [ast.Name("b")]))[2:-2]


def _binary(node: ast.BinOp | ast.AugAssign) -> list[Edit]:
    words = (ast.JoinedStr, ast.List, ast.ListComp)
    sides = [getattr(node, side, None) for side in ("left", "right", "value")]
    if type(node.op) not in ARITHMETIC or any(
        isinstance(side, words) or (isinstance(side, ast.Constant) and isinstance(side.value, str)) for side in sides
    ):
        return []
    sign = ARITHMETIC[type(node.op)]
    new = ast.parse(f"a {sign} b", mode="eval").body.op
    return [_changed(node, f"operator to {sign}", op=new)]


def _augmented(node: ast.AugAssign) -> list[Edit]:
    return [*_binary(node), (node, "pass", "statement left out")]


def _logic(node: ast.BoolOp) -> list[Edit]:
    other, word = (ast.Or(), "or") if isinstance(node.op, ast.And) else (ast.And(), "and")
    out = [_changed(node, f"operator to {word}", op=other)]
    for place in range(len(node.values)):
        rest = [value for i, value in enumerate(node.values) if i != place]
        out.append(_changed(node, f"operand {place} left out", values=rest) if len(rest) > 1 else
                   (node, f"({ast.unparse(rest[0])})", f"operand {place} left out"))  # fmt: skip
    return out


def _unary(node: ast.UnaryOp) -> list[Edit]:
    word = {ast.Not: "not", ast.USub: "-", ast.Invert: "~"}.get(type(node.op))
    return [(node, f"({ast.unparse(node.operand)})", f"{word} left out")] if word else []


def _constant(node: ast.Constant) -> list[Edit]:
    value = node.value
    if isinstance(value, bool):
        return [(node, str(not value), f"{value} to {not value}")]
    if isinstance(value, int):
        return [(node, str(value + 1), f"{value} to {value + 1}"), (node, f"({value - 1})", f"{value} to {value - 1}")]
    if isinstance(value, float):
        return [(node, repr(value * 2 or 1.0), f"{value} to {value * 2 or 1.0}")]
    return []


def _call(node: ast.Call) -> list[Edit]:
    out = []
    for place, keyword in enumerate(node.keywords):
        if keyword.arg not in (None, "strict"):
            rest = node.keywords[:place] + node.keywords[place + 1 :]
            out.append(_changed(node, f"argument {keyword.arg} left out", keywords=rest))
    return out


def _name(node: ast.Name | ast.Attribute) -> list[Edit]:
    field = "id" if isinstance(node, ast.Name) else "attr"
    name = getattr(node, field)
    if name in NAMES and isinstance(node.ctx, ast.Load):
        return [_changed(node, f"{name} to {NAMES[name]}", **{field: NAMES[name]})]
    return []


def _condition(node: ast.If | ast.While | ast.IfExp) -> list[Edit]:
    if isinstance(node.test, (ast.Compare, ast.UnaryOp)):
        return []  # turned round by their own rules
    return [(node.test, f"(not ({ast.unparse(node.test)}))", "condition turned round")]


def _assign(node: ast.Assign | ast.AnnAssign) -> list[Edit]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    if all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets):
        return [(node, "pass", "statement left out")]
    return []


def _slice(node: ast.Slice) -> list[Edit]:
    out = []
    for side in ("lower", "upper"):
        bound = getattr(node, side)
        if bound is not None and not isinstance(bound, ast.Constant):
            out.append((bound, f"({ast.unparse(bound)} + 1)", f"{side} bound plus 1"))
    return out


def _left_out(node: ast.AST) -> list[Edit]:
    return [(node, "pass", "statement left out")]


def _expression(node: ast.Expr) -> list[Edit]:
    return _left_out(node) if isinstance(node.value, ast.Call) else []


def _return(node: ast.Return) -> list[Edit]:
    if isinstance(node.value, (ast.Compare, ast.BoolOp)):
        return [(node.value, value, f"returns {value}") for value in ("True", "False")]
    return []


def _comprehension(node: ast.comprehension) -> list[Edit]:
    return [(test, "True", "filter left out") for test in node.ifs]


RULES = {
    ast.Compare: _compare, ast.BinOp: _binary, ast.AugAssign: _augmented, ast.BoolOp: _logic, ast.UnaryOp: _unary,
    ast.Constant: _constant, ast.Call: _call, ast.Name: _name, ast.Attribute: _name, ast.If: _condition,
    ast.While: _condition, ast.IfExp: _condition, ast.Assign: _assign, ast.AnnAssign: _assign, ast.Slice: _slice,
    ast.Raise: _left_out, ast.Continue: lambda node: [(node, "break", "continue to break")],
    ast.Break: lambda node: [(node, "continue", "break to continue")], ast.Expr: _expression, ast.Return: _return,
    ast.comprehension: _comprehension,
}  # fmt: skip
