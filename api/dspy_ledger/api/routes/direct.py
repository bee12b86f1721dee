"""A route whose function is called with the request and what stands in the path, and nothing else."""

from __future__ import annotations

from inspect import iscoroutinefunction
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from dspy_ledger.api.lanes import Lanes
from dspy_ledger.api.reading import asked_of

__all__ = ["DirectRoute"]


class DirectRoute(APIRoute):
    """FastAPI's, documented as any, without its dependencies and all that opens and closes for them.

    A plain function is a question (see ``Lanes.ask``); what has to wait for something else is a coroutine.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = self._wait if iscoroutinefunction(self.endpoint) else self._ask

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        lanes: Lanes = request.app.state.lanes
        response: Response = await lanes.ask(
            lambda sources: self.endpoint(asked_of(request, sources), **request.path_params),
            receive,
            (scope["path"], scope["query_string"]),
        )
        await response(scope, receive, send)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response: Response = await self.endpoint(request, **request.path_params)
        await response(scope, receive, send)
