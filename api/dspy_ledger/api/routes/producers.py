"""``/v1/producers``: what each producer recorded, and what became of it."""

from __future__ import annotations

from fastapi import APIRouter, Request

from dspy_ledger.api import schemas
from dspy_ledger.api.parameters import ProducerQuery, described, read_query
from dspy_ledger.api.queries.paging import page
from dspy_ledger.api.reading import ask, sources_of
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.api.routes.documented import answers
from dspy_ledger.producers import told

__all__ = ["router"]

router = APIRouter(prefix="/v1/producers", tags=["producers"], route_class=DirectRoute)


@router.get(
    "",
    summary="Producers by source, with the account of their events",
    responses=answers(schemas.ProducerPage, 400, 503),
    openapi_extra=described(ProducerQuery),
)
def list_producers(request: Request) -> JSONResponse:
    """Of now, from the event store: every process that ever recorded."""
    query = read_query(request, ProducerQuery)
    after = query.after() or ""
    with ask(request) as question:
        known = sources_of(request).ask_store(lambda store: store.producers())
        accounts = [account for account in known if account.source > str(after)]
        items = [told(account) for account in accounts[: query.limit + 1]]
        return question.answer(page(items, query, "source"))
