"""Errors as RFC 9457 problems: every answer that is not a success is ``application/problem+json``.

Types are ``urn:dspy-ledger:problem:<word>``; what the framework alone decides (no such path, wrong
method) is ``about:blank``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_ledger.api.cursors import BadCursor
from dspy_ledger.api.pages.layout import problem_page, wants_page
from dspy_ledger.api.parameters import BadParameters
from dspy_ledger.api.reading import NotModified, TookTooLong, position_header
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.api.streaming import TooManyStreams
from dspy_ledger.errors import NotFound, StoreError, UnknownEvaluation, UnknownProgram, UnknownVersion

__all__ = [
    "ProblemsForCrashes",
    "UnknownExecution",
    "bad_parameters",
    "handle_errors",
    "not_ready",
    "problem",
]

_log = logging.getLogger("dspy_ledger.api")
_RETRY_AFTER = {"Retry-After": "1"}
_LONGEST = 2000  # characters of a path that are told back


class UnknownExecution(NotFound):
    """No execution of that id is known (yet: it is seen once the projector has folded it)."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"unknown execution {execution_id!r}; if it just ended, ask again in a moment")


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    word: str | None = None,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """One problem as an answer; as a page where a browser asks for one.

    Args:
        request: what was asked; its path is the problem's ``instance``.
        status: the HTTP status.
        detail: a sentence that says what to do.
        word: the last part of the problem's type; None for the framework's own.
        headers: further headers.
        more: further members of the document.
    """
    if wants_page(request):
        return problem_page(request, status, detail, headers)
    content = {
        "type": f"urn:dspy-ledger:problem:{word}" if word else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": quote(request.scope["path"][:_LONGEST]),
        **more,
    }
    return JSONResponse(
        content,
        status,
        {**(position_header(request) if status != 401 else {}), **(headers or {})},
        "application/problem+json",
    )


def handle_errors(app: FastAPI) -> None:
    """Make the app answer every error it knows with a problem.

    The handlers are coroutines because plain functions would run in a thread, beside the connection's.
    """

    @app.exception_handler(BadParameters)
    async def unusable(request: Request, error: BadParameters) -> Response:
        return bad_parameters(request, error)

    @app.exception_handler(NotModified)
    async def not_modified(_: Request, same: NotModified) -> Response:
        return Response(status_code=304, headers=same.headers)

    @app.exception_handler(BadCursor)
    async def bad_cursor(request: Request, error: BadCursor) -> Response:
        return problem(request, 400, str(error), word="bad-cursor")

    @app.exception_handler(NotFound)
    async def not_found(request: Request, error: NotFound) -> Response:
        words: dict[type[NotFound], str] = {
            UnknownProgram: "unknown-program",
            UnknownVersion: "unknown-version",
            UnknownExecution: "unknown-execution",
            UnknownEvaluation: "unknown-evaluation",
        }
        return problem(request, 404, str(error), word=words.get(type(error), "not-found"))

    @app.exception_handler(StoreError)
    async def without_store(request: Request, error: StoreError) -> Response:
        return not_ready(request, error)

    @app.exception_handler(TooManyStreams)
    async def too_many_streams(request: Request, error: TooManyStreams) -> Response:
        return problem(request, 503, str(error), word="too-many-streams", headers={"Retry-After": "10"})

    @app.exception_handler(TookTooLong)
    async def took_too_long(request: Request, error: TookTooLong) -> Response:
        return problem(request, 503, str(error), word="took-too-long")

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        detail = {
            404: "there is no such path; /openapi.json lists those there are",
            405: f"{request.method} is not for this path; {(error.headers or {}).get('Allow', 'GET')} is",
        }.get(error.status_code, error.detail)
        return problem(request, error.status_code, detail, headers=error.headers)


def bad_parameters(request: Request, error: BadParameters) -> Response:
    """What the request asks with can't be used."""
    return problem(request, 400, str(error), word="bad-parameter", errors=error.errors)


def not_ready(request: Request, error: StoreError) -> Response:
    """There is nothing to answer from now."""
    return problem(request, 503, str(error), word="not-ready", headers=_RETRY_AFTER)


class ProblemsForCrashes:
    """ASGI middleware: what nobody expected is logged with its traceback and answered without it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:  # amid what it sent; there is nobody to answer
            return
        except Exception:
            if scope["type"] != "http" or started:
                raise
            _log.exception("%s %s failed", scope["method"], scope["path"])
            answer = problem(
                Request(scope), 500, "this is a fault of dspy-ledger; its log tells more", word="internal"
            )
            await answer(scope, receive, send)
