"""``POST /v1/deadletters/{id}/…``: what the ledger's one writer is asked to do with a dead letter."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from typing import Any

from fastapi import APIRouter, Request, Response

from dspy_ledger.api import schemas
from dspy_ledger.api.problems import problem
from dspy_ledger.api.reading import position_header, sources_of
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.api.routes.documented import answers
from dspy_ledger.database import told_of_disk
from dspy_ledger.errors import NotFound, StoreError
from dspy_ledger.files import LEASE, is_locked
from dspy_ledger.keyring import ApiKey
from dspy_ledger.requests import Desk
from dspy_ledger.requests import Request as Asked

__all__ = ["router"]

_PATIENCE = 10.0  # seconds that an answer waits for the writer
_LOOK_EVERY = 0.05  # seconds
_ID = re.compile(r"[0-9]{1,18}", re.ASCII)  # as large as an id can be in SQLite

router = APIRouter(prefix="/v1/deadletters", tags=["deadletters"], route_class=DirectRoute)

_NOT_YET: dict[int | str, dict[str, Any]] = {
    202: {"model": schemas.Asked, "description": "Asked for, and not done within 10 s; it will be."}
}


@router.post(
    "/{dead_letter_id}/retry",
    summary="Read a dead letter again: a newer release may know its type",
    responses={**answers(schemas.Retried, 404, 503), **_NOT_YET},
)
async def retry_dead_letter(request: Request, dead_letter_id: str) -> Response:
    """Done by the projector; the dead letter is gone when it was an event after all."""
    return await _carry_out(request, "retry", dead_letter_id)


@router.post(
    "/{dead_letter_id}/drop",
    summary="Give a dead letter up for good",
    responses={**answers(schemas.Dropped, 404, 503), **_NOT_YET},
)
async def drop_dead_letter(request: Request, dead_letter_id: str) -> Response:
    """Done by the projector; its place in the account of its producer stays."""
    return await _carry_out(request, "drop", dead_letter_id)


async def _carry_out(request: Request, action: str, dead_letter_id: str) -> Response:
    """Ask the writer, and wait a while for its answer.

    Raises:
        NotFound: there is no such dead letter.
        StoreError: there is no store, or the requests can't be read or written.
    """
    sources = sources_of(request)
    found = _ID.fullmatch(dead_letter_id) and sources.ask_store(
        lambda store: store.dead_letter(int(dead_letter_id), raw=False)
    )
    if not found:
        raise NotFound(
            f"there is no dead letter {dead_letter_id!r}; GET /v1/deadletters lists those there are"
        )
    if not is_locked(sources.data_dir / LEASE):
        command = f"`dspy-ledger deadletters {action} {dead_letter_id}`"
        detail = f"no projector runs that would do it; start one, or run {command} beside the store"
        return problem(request, 503, detail, word="no-projector")
    key: ApiKey | None = request.state.key
    who = f"API, key {key.id} {key.name}".rstrip() if key else "API, without a key"
    try:
        with closing(await asyncio.to_thread(Desk, sources.data_dir)) as desk:
            asked = await asyncio.to_thread(desk.ask, action, {"ids": [int(dead_letter_id)]}, who)
            ended = await _ended(desk, asked)
    except sqlite3.Error as error:
        raise StoreError(f"the request can't be written: {told_of_disk(error, sources.data_dir)}") from None
    if ended is None:
        return _answer(request, {"request": asked}, 202)
    if ended.answer is None:
        return problem(request, 503, f"the projector could not: {ended.problem}", word="request-failed")
    return _answer(request, ended.answer)


async def _ended(desk: Desk, asked: int) -> Asked | None:
    """The request once it has ended; None when that takes too long."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while asyncio.get_running_loop().time() < deadline:
        request = await asyncio.to_thread(desk.request, asked)
        if request is not None and request.state in ("done", "failed"):
            return request
        await asyncio.sleep(_LOOK_EVERY)
    return None


def _answer(request: Request, content: dict[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, position_header(request))
