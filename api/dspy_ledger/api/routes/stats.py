"""``/v1/stats``: executions over time, from the roll-ups by the hour."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from dspy_ledger.api import schemas
from dspy_ledger.api.parameters import StatsQuery, described, read_query
from dspy_ledger.api.queries.stats import stats
from dspy_ledger.api.reading import answer_from_view
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.api.routes.documented import answers

__all__ = ["router"]

router = APIRouter(prefix="/v1/stats", tags=["stats"], route_class=DirectRoute)


@router.get(
    "",
    summary="Executions over time: counts, errors, tokens, cost and latency",
    responses=answers(schemas.Stats, 400, 503, from_view=True),
    openapi_extra=described(StatsQuery),
)
def get_stats(request: Request) -> Response:
    """Of now, in whole hours: since goes back to where its bucket begins, until forward to where it ends."""
    query = read_query(request, StatsQuery)
    return answer_from_view(request, lambda question: stats(question, query))
