"""Type forms as one would write them in Python, for people to read."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["type_text"]


def type_text(form: Any) -> str:
    """A type form as text: ``list[str]``, ``Review | None``; what is no such form as its JSON."""
    try:
        return _text(form)
    except (KeyError, TypeError, RecursionError):  # another producer's may be any JSON
        return json.dumps(form, ensure_ascii=False)


def _text(form: Any) -> str:
    if not isinstance(form, dict):
        return str(form)
    kind = form["kind"]
    if kind == "union":
        return " | ".join(_text(item) for item in form["of"])
    if kind == "literal":
        return f"Literal[{', '.join(repr(value) for value in form['values'])}]"
    if kind == "annotated":
        return _text(form["type"])
    if kind == "callable":
        args = form["args"]
        inner = "..." if args == "..." else f"[{', '.join(_text(item) for item in args)}]"
        return f"Callable[{inner}, {_text(form['returns'])}]"
    if kind == "generic":
        return f"{_text(form['origin'])}[{', '.join(_text(item) for item in form['args'])}]"
    return "..." if kind == "cycle" else str(form["name"])
