"""``/health``: whether the process runs, and whether it can answer."""

from __future__ import annotations

from fastapi import APIRouter, Request

from dspy_ledger.api import schemas
from dspy_ledger.api.reading import sources_of
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.api.routes.documented import answers

__all__ = ["router"]

router = APIRouter(prefix="/health", tags=["health"], route_class=DirectRoute)


@router.get("/live", summary="Whether the process answers", responses=answers(schemas.Live, position=False))
def is_live(_: Request) -> JSONResponse:
    """Always 200; asks nothing of view or store."""
    return JSONResponse({"status": "live"})


@router.get(
    "/ready",
    summary="Whether questions can be answered",
    responses=answers(schemas.Ready, 503, position=False),
)
def is_ready(request: Request) -> JSONResponse:
    """200 once there are a view and an event store that can be read, else 503."""
    sources = sources_of(request)
    sources.check_store()
    with sources.question() as question:
        return JSONResponse({"status": "ready", "position": question.position})
