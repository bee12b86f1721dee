"""``/v1/events``: the ledger itself, in pages and as it grows."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request, Response

from dspy_ledger.api import schemas
from dspy_ledger.api.parameters import BadParameters, described, read_query
from dspy_ledger.api.queries.events import (
    EventFilter,
    EventQuery,
    first_position,
    page_of_events,
    require_reached,
)
from dspy_ledger.api.reading import POSITION_HEADER, ask, sources_of
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.api.routes.documented import answers
from dspy_ledger.api.streaming import EventStream, Streams

__all__ = ["router"]

_POSITION = re.compile(r"[0-9]{1,18}", re.ASCII)

router = APIRouter(prefix="/v1/events", tags=["events"], route_class=DirectRoute)


@router.get(
    "",
    summary="Events in order of position",
    responses=answers(schemas.EventPage, 400, 503),
    openapi_extra=described(EventQuery),
)
def list_events(request: Request) -> JSONResponse:
    """As they are stored, up to the position of the view; a page may hold fewer than asked for."""
    query = read_query(request, EventQuery)
    with ask(request) as question:
        return question.answer(page_of_events(question, sources_of(request), query))


@router.get(
    "/stream",
    summary="Events as they come, as server-sent events",
    response_class=Response,
    responses={
        **answers(schemas.EventPage, 400, 503),
        200: {
            "description": "A stream that does not end: id is the position, event the type's short name.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "headers": {POSITION_HEADER: answers(schemas.EventPage)[200]["headers"][POSITION_HEADER]},
        },
    },
    openapi_extra={
        "parameters": [
            *described(EventFilter)["parameters"],
            {
                "name": "Last-Event-ID",
                "in": "header",
                "required": False,
                "description": "The id that came last: go on after it. Goes before after and since.",
                "schema": {"type": "string", "pattern": "^[0-9]{0,18}$"},
            },
        ]
    },
)
def stream_events(request: Request) -> Response:
    """From after `Last-Event-ID`, else `after` or `since`, else from now on; each once it is in the view."""
    query = read_query(request, EventFilter)
    streams: Streams = request.app.state.streams
    streams.require_room()
    with ask(request) as question:
        at = _last_event_id(request)
        if at is not None:
            require_reached(sources_of(request), "Last-Event-ID", at)
        else:
            at = first_position(sources_of(request), query, question.position)
        return EventStream(streams, query, at, question.position, question.ledger_id)


def _last_event_id(request: Request) -> int | None:
    given = request.headers.get("last-event-id", "")
    if given == "":
        return None
    if not _POSITION.fullmatch(given):
        raise BadParameters.one("Last-Event-ID", "give the id of the last event that came, such as 42")
    return int(given)
