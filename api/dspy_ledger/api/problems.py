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

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from dspy_ledger.api.cursors import BadCursor
from dspy_ledger.api.pages.layout import problem_page, wants_page
from dspy_ledger.api.parameters import BadParameters
from dspy_ledger.api.reading import TookTooLong, position_header
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.api.streaming import TooManyStreams
from dspy_ledger.errors import NotFound, StoreError, UnknownEvaluation, UnknownProgram, UnknownVersion

__all__ = [
    "UnknownExecution",
    "answer_to",
    "problem",
]

_log = logging.getLogger("dspy_ledger.api")
_LONGEST = 2000  # characters of a path that are told back


class UnknownExecution(NotFound):
    """No execution of that id is known (yet: it is seen once the projector has folded it)."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"unknown execution {execution_id!r}; if it just ended, ask again in a moment")


_UNKNOWN: dict[type[NotFound], str] = {
    UnknownProgram: "unknown-program",
    UnknownVersion: "unknown-version",
    UnknownExecution: "unknown-execution",
    UnknownEvaluation: "unknown-evaluation",
}


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


def answer_to(request: Request, error: Exception) -> Response:
    """The answer to what a request ended in; what nobody expected is logged, and told in no detail."""
    match error:
        case BadParameters():
            return problem(request, 400, str(error), word="bad-parameter", errors=error.errors)
        case BadCursor():
            return problem(request, 400, str(error), word="bad-cursor")
        case NotFound():
            return problem(request, 404, str(error), word=_UNKNOWN.get(type(error), "not-found"))
        case StoreError():  # there is nothing to answer from now
            return problem(request, 503, str(error), word="not-ready", headers={"Retry-After": "1"})
        case TooManyStreams():
            return problem(request, 503, str(error), word="too-many-streams", headers={"Retry-After": "10"})
        case TookTooLong():
            return problem(request, 503, str(error), word="took-too-long")
        case HTTPException():
            return _by_framework(request, error)
    _log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return problem(request, 500, "this is a fault of dspy-ledger; its log tells more", word="internal")


def _by_framework(request: Request, error: HTTPException) -> Response:
    detail = {
        404: "there is no such path; /openapi.json lists those there are",
        405: f"{request.method} is not for this path; {(error.headers or {}).get('Allow', 'GET')} is",
    }.get(error.status_code, error.detail)
    return problem(request, error.status_code, detail, headers=error.headers)
