"""The API as one ASGI app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from dspy_ledger.api.problems import ProblemsForCrashes, handle_errors
from dspy_ledger.api.reading import Sources
from dspy_ledger.api.routes import deadletters, executions, health, metrics, producers, programs
from dspy_ledger.api.routes.documented import with_problem_media_type
from dspy_ledger.settings import Settings

__all__ = ["create_app"]


def create_app(settings: Settings) -> FastAPI:
    """The API over the view and the store that the settings name; neither has to be there yet."""
    sources = Sources(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        sources.close()

    app = FastAPI(
        title="dspy-ledger",
        version=version("dspy-ledger"),
        lifespan=lifespan,
        redirect_slashes=False,
        # The interactive pages would load their scripts from other hosts.
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.sources = sources
    # Before programs: there {program_id} would take "executions" for an id.
    for routes in (executions, programs, producers, deadletters, health, metrics):
        app.include_router(routes.router)
    handle_errors(app)
    app.add_middleware(ProblemsForCrashes)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema = with_problem_media_type(document)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
    return app
