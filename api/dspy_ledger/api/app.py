"""The API as one ASGI app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from dspy_ledger.api.access import Access, with_security
from dspy_ledger.api.consistency import with_min_headers
from dspy_ledger.api.counting import Counts
from dspy_ledger.api.following import Following
from dspy_ledger.api.front import Front
from dspy_ledger.api.heads import AnswerHead
from dspy_ledger.api.lanes import Lanes
from dspy_ledger.api.pages import routes as pages
from dspy_ledger.api.reading import Sources
from dspy_ledger.api.routes import (
    admin,
    deadletters,
    events,
    executions,
    health,
    metrics,
    producers,
    programs,
    signin,
    stats,
)
from dspy_ledger.api.routes.documented import with_conditions, with_optional_members, with_problem_media_type
from dspy_ledger.api.routes.examples import with_examples
from dspy_ledger.api.streaming import Streams
from dspy_ledger.keyring import Keyring
from dspy_ledger.settings import Settings

__all__ = ["create_app"]


class _App(FastAPI):
    """FastAPI's routes and their description, behind a front of our own instead of its layers."""

    def build_middleware_stack(self) -> ASGIApp:
        """All that a request passes; what was added with ``add_middleware`` stands before the front."""
        app: ASGIApp = AnswerHead(
            Front(self.router, self.state.access, self.state.following, self.state.counts)
        )
        for layer, args, kwargs in reversed(self.user_middleware):
            app = layer(app, *args, **kwargs)
        return app


def create_app(settings: Settings) -> FastAPI:
    """The API over the view and the store that the settings name; neither has to be there yet."""
    sources = Sources(settings)
    lanes = Lanes(sources)
    following = Following(sources)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        following.end()
        lanes.close()
        sources.close()

    app = _App(
        title="dspy-ledger",
        version=version("dspy-ledger"),
        lifespan=lifespan,
        redirect_slashes=False,
        # FastAPI would look for OpenTelemetry on each request, a twentieth of a short one's time.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        # The interactive pages would load their scripts from other hosts.
        docs_url=None,
        redoc_url=None,
    )
    app.state.sources = sources
    app.state.lanes = lanes
    app.state.following = following
    app.state.streams = Streams(lanes, following, settings.api_streams)
    app.state.counts = Counts()
    app.state.keyring = Keyring(settings.data_dir)
    app.state.access = Access(settings, app.state.keyring)
    app.state.refused_keys = signin.Refusals()
    # Before programs: there {program_id} would take "executions" for an id.
    parts = (executions, programs, stats, events, producers, deadletters, admin, health, metrics)
    for route in (
        *(route for part in parts for route in part.router.routes),
        *pages.routes,
        *signin.router.routes,
    ):
        if isinstance(route, APIRoute):
            route.operation_id = route.name
        app.router.routes.append(route)  # include_router would nest them, and finding one took longer

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes)
            document = with_conditions(with_min_headers(with_problem_media_type(document)))
            document = with_security(with_optional_members(document))
            app.openapi_schema = with_examples(document)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
    return app
