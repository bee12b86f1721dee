"""Source code as digests: the same for code that differs in comments, blank lines and indentation only.

By tokens, not by syntax tree: trees differ from one Python to the next.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import io
import sys
import tokenize
import types
import weakref
from collections.abc import Iterator
from typing import Any

from dspy_ledger.producer.typeform import of_dspy, of_python

__all__ = ["class_digests", "function_form", "normal_source", "source_digest", "source_of"]

_sources: weakref.WeakKeyDictionary[Any, str | None] = weakref.WeakKeyDictionary()


def source_of(thing: Any) -> str | None:
    """A class's or function's source as it stands in its file, or None where inspect can't see it.

    Read once: a file edited later is not what this process runs.
    """
    try:
        if thing not in _sources:
            _sources[thing] = _read(thing)
        return _sources[thing]
    except TypeError:  # can't be referred to weakly
        return _read(thing)


def source_digest(thing: Any) -> str | None:
    """SHA-256 of the normalised source, or None where there is none to be had."""
    source = source_of(thing)
    if source is None:
        return None
    return _digest(source)


def normal_source(source: str) -> str:
    """The source without common indentation, comments, blank lines and trailing blanks; strings untouched."""
    lines = source.split("\n")
    indents = [line[: len(line) - len(line.lstrip())] for line in lines if line.strip()]
    margin = min(indents, key=len, default="")
    if all(indent.startswith(margin) for indent in indents):
        lines = [line.removeprefix(margin) for line in lines]
    text = "\n".join(lines) + "\n"
    opened: set[int] = set()  # rows that end inside a string
    try:
        for first, last, comment_at in _spans(text):
            if comment_at is None:
                opened.update(range(first, last))
            else:
                lines[first - 1] = lines[first - 1][:comment_at]
    except (tokenize.TokenError, SyntaxError):
        pass  # half a statement, as a lambda's source can be: only what was read lost its comments
    kept = []
    for row, line in enumerate(lines, start=1):
        content = line if row in opened else line.rstrip()
        if content or row in opened or row - 1 in opened:
            kept.append(content)
    return "\n".join(kept)


def class_digests(cls: type) -> tuple[list[str], bool]:
    """Digests of a class and its bases outside DSPy and Python's library; and whether one can't be had."""
    digests, opaque = [], False
    for base in cls.__mro__:
        if of_dspy(base) or of_python(base):
            continue
        digest = source_digest(base)
        if digest is None:
            opaque = True
        else:
            digests.append(digest)
    return digests, opaque


def function_form(function: Any) -> tuple[Any, bool]:
    """What a tool or reward function is: its source's digest, else its name; and whether that is too little.

    A wrapper of DSPy's own is what it wraps.
    """
    if isinstance(function, functools.partial):
        return function_form(function.func)
    if isinstance(function, types.MethodType):
        function = function.__func__
    if of_dspy(function):
        wrapped = [function_form(item) for item in _closed_over(function)]
        return [form for form, _ in wrapped] or "dspy", any(opaque for _, opaque in wrapped)
    if not isinstance(function, types.FunctionType | types.BuiltinFunctionType):
        function = function if isinstance(function, type) else type(function)
        digests, opaque = class_digests(function)
        return digests or function.__name__, opaque
    if isinstance(function, types.BuiltinFunctionType) or of_python(function):
        return function.__name__, False
    digest = source_digest(function)
    return digest or function.__name__, digest is None


@functools.lru_cache(maxsize=1024)
def _digest(source: str) -> str:
    return hashlib.sha256(normal_source(source).encode("utf-8", "surrogatepass")).hexdigest()


def _read(thing: Any) -> str | None:
    if of_dspy(thing) and not hasattr(sys.modules.get(thing.__module__), thing.__qualname__.split(".")[0]):
        return None  # a signature that DSPy made of a string: its file needn't be searched
    try:
        if isinstance(thing, type) and sys.version_info < (3, 13):
            return _class_source(thing)
        return inspect.getsource(thing)
    except Exception:  # noqa: BLE001 - inspect fails in many ways where there is no file; none is an error
        return None


def _class_source(cls: type) -> str:
    """As Python 3.13 does, which knows where a class began; inspect takes the first of that name before."""
    lines, _ = inspect.findsource(cls)
    found = list(_statements(ast.parse("".join(lines)), cls.__qualname__.split(".")))
    if len(found) < 2:
        return inspect.getsource(cls)
    rows = [row for value in vars(cls).values() if (row := _own_row(value, cls))]
    own = [one for one in found if any(one.lineno <= row <= (one.end_lineno or 0) for row in rows)]
    statement = (own or found)[-1]
    first = min([statement.lineno, *(item.lineno for item in statement.decorator_list)])
    return "".join(inspect.getblock(lines[first - 1 :]))


def _statements(tree: ast.AST, names: list[str]) -> Iterator[ast.ClassDef]:
    """The class statements of a qualified name, in the order of the file."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [node.name] if isinstance(node, ast.ClassDef) else [node.name, "<locals>"]
            if inner == names and isinstance(node, ast.ClassDef):
                yield node
            elif names[: len(inner)] == inner:
                yield from _statements(node, names[len(inner) :])
        else:
            yield from _statements(node, names)


def _own_row(value: Any, cls: type) -> int | None:
    """The first row of a function that the class statement itself made."""
    function = getattr(value, "fget", None) or getattr(value, "__func__", value)
    if not isinstance(function, types.FunctionType):
        return None
    code = function.__code__
    own = code.co_qualname.startswith(f"{cls.__qualname__}.") and function.__module__ == cls.__module__
    return code.co_firstlineno if own else None


def _spans(text: str) -> Iterator[tuple[int, int, int | None]]:
    """Strings as (first row, last row, None), comments as (row, row, column)."""
    opened: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = tokenize.tok_name[token.type]
        if name == "COMMENT":
            yield token.start[0], token.start[0], token.start[1]
        elif name == "STRING":
            yield token.start[0], token.end[0], None
        elif name.endswith("STRING_START"):  # f-strings, from Python 3.12 on
            opened.append(token.start[0])
        elif name.endswith("STRING_END"):
            yield opened.pop(), token.end[0], None


def _closed_over(function: Any) -> list[Any]:
    held = []
    for cell in getattr(function, "__closure__", None) or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if (
            isinstance(content, types.FunctionType | types.MethodType | functools.partial)
            and content is not function
        ):
            held.append(content)
    return held
