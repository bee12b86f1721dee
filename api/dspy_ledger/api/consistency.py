"""Reading what one wrote: ``Ledger-Min-Event`` and ``Ledger-Min-Position`` wait until the view has it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from fastapi import Request, Response

from dspy_ledger.api.following import Ended, Following
from dspy_ledger.api.parameters import BadParameters
from dspy_ledger.api.problems import problem

__all__ = ["MIN_EVENT_HEADER", "MIN_POSITION_HEADER", "wait_for_view", "with_min_headers"]

MIN_EVENT_HEADER = "Ledger-Min-Event"
MIN_POSITION_HEADER = "Ledger-Min-Position"

_PATIENCE = 5.0  # seconds
_HEADERS = _EVENT, _POSITION = tuple(
    name.lower().encode() for name in (MIN_EVENT_HEADER, MIN_POSITION_HEADER)
)
_HIGHEST = 2**63 - 1  # SQLite's


def with_min_headers(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document whose questions take these headers."""
    about = {
        MIN_EVENT_HEADER: ("Wait (5 s at most) until the view has this event.", {"type": "string"}),
        MIN_POSITION_HEADER: ("Wait (5 s at most) until it has this position.", {"type": "integer"}),
    }
    headers = [
        {"name": name, "in": "header", "required": False, "description": description, "schema": schema}
        for name, (description, schema) in about.items()
    ]
    for path, operations in document["paths"].items():
        if path.startswith("/v1/") and "get" in operations:
            operations["get"].setdefault("parameters", []).extend(headers)
    return document


async def wait_for_view(request: Request, following: Following) -> Response | None:
    """Hold a request that names an event or a position until the view has folded it.

    One that waited 5 s in vain is answered with 503 and ``Retry-After``. Who may not ask does not wait on the
    paths that need no key either: which events there are is not for them.

    Raises:
        BadParameters: a header can't be used.
        StoreError: there is nothing to wait for yet.
    """
    scope = request.scope
    if not any(name in _HEADERS for name, _ in scope["headers"]):
        return None
    if not (scope["state"]["open"] or scope["state"]["key"]):
        return None
    wanted = list(_wanted(scope["headers"]))
    try:
        async with asyncio.timeout(_PATIENCE):
            for each in wanted:
                await following.reach(each)
    except (TimeoutError, Ended):
        told = " and ".join(f"position {w}" if isinstance(w, int) else f"event {w}" for w in wanted)
        detail = f"the view has not got {told} yet; ask again, or see `dspy-ledger status`"
        return problem(request, 503, detail, word="not-yet", headers={"Retry-After": "1"})
    return None


def _wanted(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[int | str]:
    given: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _HEADERS and given.setdefault(name, value) != value:
            told = MIN_EVENT_HEADER if name == _EVENT else MIN_POSITION_HEADER
            raise BadParameters.one(told, "is given more than once")
    if _POSITION in given:
        digits = given[_POSITION].strip()
        if not digits.isdigit() or len(digits) > 19 or int(digits) > _HIGHEST:
            raise BadParameters.one(MIN_POSITION_HEADER, "give a position of the ledger, such as 42")
        yield int(digits)
    if _EVENT in given:
        event_id = given[_EVENT].strip().decode("utf-8", "replace")
        if not 0 < len(event_id) <= 512:
            raise BadParameters.one(MIN_EVENT_HEADER, "give the id of an event")
        yield event_id
