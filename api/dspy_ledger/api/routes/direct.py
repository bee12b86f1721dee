"""A route whose function is called with the request and what stands in the path, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from dspy_ledger.api.lanes import Lanes
from dspy_ledger.api.reading import asked_of

__all__ = ["DirectRoute"]


class DirectRoute(APIRoute):
    """FastAPI's, documented as any, without its resolving of dependencies, of which these paths have none.

    A plain function is a question (see ``Lanes.ask``); what has to wait for something else is a coroutine.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        endpoint = self.endpoint

        async def ask(request: Request) -> Response:
            lanes: Lanes = request.app.state.lanes
            return await lanes.ask(
                lambda sources: endpoint(asked_of(request, sources), **request.path_params),
                request.receive,
                (request.scope["path"], request.scope["query_string"]),
            )

        async def wait(request: Request) -> Response:
            return await endpoint(request, **request.path_params)  # type: ignore[no-any-return]

        return wait if iscoroutinefunction(endpoint) else ask
