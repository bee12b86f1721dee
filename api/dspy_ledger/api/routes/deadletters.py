"""``/v1/deadletters``: what came over the stream and is no valid event."""

from __future__ import annotations

from fastapi import APIRouter, Request

from dspy_ledger.api import schemas
from dspy_ledger.api.parameters import DeadLetterQuery, described, read_query
from dspy_ledger.api.queries.deadletters import page_of_dead_letters
from dspy_ledger.api.reading import ask, sources_of
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.api.routes.documented import answers

__all__ = ["router"]

router = APIRouter(prefix="/v1/deadletters", tags=["deadletters"], route_class=DirectRoute)


@router.get(
    "",
    summary="Dead letters, newest first, without their bytes",
    responses=answers(schemas.DeadLetterPage, 400, 503),
    openapi_extra=described(DeadLetterQuery),
)
def list_dead_letters(request: Request) -> JSONResponse:
    """Of now, from the event store; `dspy-ledger deadletters` shows their bytes, retries and drops them."""
    query = read_query(request, DeadLetterQuery)
    with ask(request) as question:
        return question.answer(page_of_dead_letters(sources_of(request), query))
