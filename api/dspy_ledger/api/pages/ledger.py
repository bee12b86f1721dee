"""The ledger itself: its position, its projections, its producers, its dead letters, its broker. Of now."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dspy_ledger.api.pages.broker import broker_of
from dspy_ledger.api.pages.health import health_of
from dspy_ledger.api.pages.layout import read_form, show, show_part
from dspy_ledger.api.parameters import DeadLetterQuery, PastQuery
from dspy_ledger.api.queries.deadletters import page_of_dead_letters
from dspy_ledger.api.reading import ask, sources_of
from dspy_ledger.api.routes.direct import DirectRoute

__all__ = ["router"]

router = APIRouter(prefix="/ledger", include_in_schema=False, route_class=DirectRoute)

_LETTERS: Final = 25
_PRODUCERS: Final = 100


class LedgerQuery(DeadLetterQuery, PastQuery):
    """Which page of dead letters; a moment in the past is kept for the links only."""


@router.get("")
def ledger(request: Request) -> HTMLResponse:
    """What there is, from the event store."""
    query = read_form(request, LedgerQuery)
    query = query.model_copy(update={"limit": _LETTERS, "fields": None})
    with ask(request) as question:
        health = health_of(request, question)
        found = page_of_dead_letters(sources_of(request), query)
        # What lacks something first: it must not be pushed out by those that merely run.
        producers = sorted(health.producers, key=lambda producer: producer["last_seen"], reverse=True)
        producers.sort(key=lambda producer: producer["lost"] == 0)
        return show(
            request,
            "ledger.html",
            question,
            section="/ledger",
            has_past=False,
            health=health,
            producers=producers[:_PRODUCERS],
            letters=found["items"],
            next_cursor=found["next_cursor"],
        )


@router.get("/broker")
async def broker(request: Request) -> HTMLResponse:
    """The part of the page that asks the broker, which may take a while or not answer."""
    with ask(request) as question:
        ledger_id = question.ledger_id
    facts = await broker_of(sources_of(request).settings, ledger_id)
    return show_part(request, "broker.html", broker=facts)
