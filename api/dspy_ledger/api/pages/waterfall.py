"""The calls of an execution as rows of a picture: how deep each lies, when it began and how long it took.

Pure. Calls are what a producer's body says they are, which may be any JSON: what is no call is left out, and
what is no number is not known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

__all__ = ["MOST", "WIDTH", "Row", "waterfall"]

WIDTH: Final = 1000
"""The picture's width in the units of its view box."""
MOST: Final = 500
"""Rows of one picture; the JSON has all."""
_DEEPEST: Final = 12
_NARROWEST: Final = 3.0


@dataclass(frozen=True, slots=True)
class Row:
    """One call; ``x`` and ``width`` are in units of the picture, times in milliseconds."""

    kind: str
    name: str
    depth: int
    x: float
    width: float
    start_ms: float | None
    duration_ms: float | None
    model: str | None
    input_tokens: float | None
    output_tokens: float | None
    cost_usd: float | None
    cached: bool
    error: str | None
    messages: list[dict[str, Any]]


def waterfall(calls: Any, latency_ms: float) -> list[Row]:
    """The rows, each under the call that made it, siblings by when they began.

    Args:
        calls: the body's ``calls``.
        latency_ms: how long the execution took; the picture is as long, or as its last call needs.
    """
    known = (
        {at: call for at, call in enumerate(calls) if isinstance(call, dict)}
        if isinstance(calls, list)
        else {}
    )
    ends = [
        (_number(call.get("start_ms")) or 0) + (_number(call.get("duration_ms")) or 0)
        for call in known.values()
    ]
    scale = WIDTH / (max([latency_ms, *ends]) or 1)
    return [_row(known[at], depth, scale) for at, depth in _in_order(known)]


def _in_order(known: dict[int, dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Each call's index and depth, parents before their children."""
    children: defaultdict[int | None, list[int]] = defaultdict(list)
    for at, call in known.items():
        parent = call.get("parent")
        # A parent stands before its children: anything else is nobody's, and there can be no ring.
        fits = isinstance(parent, int) and not isinstance(parent, bool) and parent in known and parent < at
        children[parent if fits else None].append(at)
    for siblings in children.values():
        siblings.sort(key=lambda at: (_number(known[at].get("start_ms")) or 0, at))
    waiting = [(at, 0) for at in reversed(children[None])]
    while waiting:
        at, depth = waiting.pop()
        yield at, depth
        waiting.extend((child, min(depth + 1, _DEEPEST)) for child in reversed(children.get(at, [])))


def _row(call: dict[str, Any], depth: int, scale: float) -> Row:
    start, duration = _number(call.get("start_ms")), _number(call.get("duration_ms"))
    width = max(_NARROWEST, (duration or 0) * scale)
    usage = call.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    messages = call.get("messages")
    return Row(
        kind=str(call.get("kind", "call")),
        name=str(call.get("name", "")),
        depth=depth,
        x=round(min(max(0.0, (start or 0) * scale), WIDTH - _NARROWEST), 1),
        width=round(min(width, WIDTH), 1),
        start_ms=start,
        duration_ms=duration,
        model=str(call["model"]) if call.get("model") else None,
        input_tokens=_number(usage.get("input_tokens")),
        output_tokens=_number(usage.get("output_tokens")),
        cost_usd=_number(call.get("cost_usd")),
        cached=call.get("cached") is True,
        error=_error(call.get("error")),
        messages=[_message(message) for message in messages] if isinstance(messages, list) else [],
    )


def _message(message: Any) -> dict[str, Any]:
    if isinstance(message, dict):
        return {"role": str(message.get("role", "")), "content": message.get("content", message)}
    return {"role": "", "content": message}


def _error(error: Any) -> str | None:
    if isinstance(error, dict):
        return ": ".join(str(error[name]) for name in ("type", "message") if error.get(name)) or "failed"
    return str(error) if error else None


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        return value
    return None
