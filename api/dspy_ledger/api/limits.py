"""How much a request may ask with: what is too long to be meant is refused before anybody reads it."""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from dspy_ledger.api.problems import problem

__all__ = ["LimitTarget"]

_MOST = 8192
"""Bytes of path and query; twenty tags, or the cursor after an id of 5,000 bytes, take a part of it."""


class LimitTarget:
    """ASGI middleware: a target of more than 8 kB is answered with 414."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            length = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
            if length > _MOST:
                detail = f"path and query have {length} bytes; ask with at most {_MOST}"
                answer = problem(Request(scope), 414, detail, word="too-long")
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)
