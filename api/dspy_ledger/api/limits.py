"""How much a request may ask with: what is too long to be meant is refused before anybody reads it."""

from __future__ import annotations

from fastapi import Request, Response

from dspy_ledger.api.problems import problem

__all__ = ["refuse_long_target"]

_MOST = 8192
"""Bytes of path and query; twenty tags, or the cursor after an id of 5,000 bytes, take a part of it."""


def refuse_long_target(request: Request) -> Response | None:
    """414 for a target of more than 8 kB."""
    scope = request.scope
    length = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
    if length <= _MOST:
        return None
    detail = f"path and query have {length} bytes; ask with at most {_MOST}"
    return problem(request, 414, detail, word="too-long")
