"""Reading what one wrote: ``Ledger-Min-Event`` and ``Ledger-Min-Position`` wait until the view has it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from dspy_ledger.api.following import Ended, Following
from dspy_ledger.api.parameters import BadParameters
from dspy_ledger.api.problems import bad_parameters, not_ready, problem
from dspy_ledger.errors import StoreError

__all__ = ["MIN_EVENT_HEADER", "MIN_POSITION_HEADER", "WaitForView", "with_min_headers"]

MIN_EVENT_HEADER = "Ledger-Min-Event"
MIN_POSITION_HEADER = "Ledger-Min-Position"

_PATIENCE = 5.0  # seconds
_EVENT, _POSITION = (name.lower().encode() for name in (MIN_EVENT_HEADER, MIN_POSITION_HEADER))
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


class WaitForView:
    """ASGI middleware: a request that names an event or a position is held until the view has folded it.

    One that waited 5 s in vain is answered with 503 and ``Retry-After``. Who may not ask does not wait on the
    paths that need no key either: which events there are is not for them.
    """

    def __init__(self, app: ASGIApp, following: Following) -> None:
        self._app = app
        self._following = following

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if (
            scope["type"] != "http"
            or not any(name in (_EVENT, _POSITION) for name, _ in scope["headers"])
            or not (scope["state"]["open"] or scope["state"]["key"])
        ):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            wanted = list(_wanted(scope["headers"]))
            async with asyncio.timeout(_PATIENCE):
                for each in wanted:
                    await self._following.reach(each)
        except BadParameters as error:
            answer = bad_parameters(request, error)
        except StoreError as error:
            answer = not_ready(request, error)
        except (TimeoutError, Ended):
            told = " and ".join(f"position {w}" if isinstance(w, int) else f"event {w}" for w in wanted)
            detail = f"the view has not got {told} yet; ask again, or see `dspy-ledger status`"
            answer = problem(request, 503, detail, word="not-yet", headers={"Retry-After": "1"})
        else:
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)


def _wanted(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[int | str]:
    given: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in (_EVENT, _POSITION) and given.setdefault(name, value) != value:
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
