"""``/metrics``: the ledger's state for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from dspy_ledger.api import schemas
from dspy_ledger.api.lanes import Lanes
from dspy_ledger.api.metrics import Gauges, directory_position, exposition
from dspy_ledger.api.reading import Sources
from dspy_ledger.api.routes.direct import DirectRoute

__all__ = ["router"]

router = APIRouter(tags=["health"], route_class=DirectRoute)


@router.get(
    "/metrics",
    summary="Positions, lags, losses and producers' accounts for Prometheus",
    response_class=Response,
    responses={
        200: {"description": "Found.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        503: {"model": schemas.ProblemDetails, "description": "There is no view or event store yet."},
        "default": {"model": schemas.ProblemDetails, "description": "Any other error."},
    },
)
async def get_metrics(request: Request) -> Response:
    """Prometheus's text format; a producer has lines of its own for an hour, or when it lost events."""
    app = request.app.state
    lanes: Lanes = app.lanes
    gauges = await lanes.ask(_gauges, request.receive)
    return Response(exposition(gauges, app.counts, app.streams.open), media_type=CONTENT_TYPE_LATEST)


def _gauges(sources: Sources) -> Gauges:
    with sources.question() as question:
        positions = {"sql": question.position, **directory_position(sources.data_dir)}
    return sources.ask_store(lambda store: Gauges.read(store, sources.data_dir, sources.stream, positions))
