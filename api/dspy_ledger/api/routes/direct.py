"""A route whose function is called with the request and what stands in the path, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

__all__ = ["DirectRoute"]


class DirectRoute(APIRoute):
    """FastAPI's, documented as any, without its resolving of dependencies, of which these paths have none.

    A plain function is called on the loop's thread, where FastAPI would call it in another.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        endpoint = self.endpoint

        async def answer(request: Request) -> Response:
            return endpoint(request, **request.path_params)  # type: ignore[no-any-return]

        async def answer_later(request: Request) -> Response:
            return await endpoint(request, **request.path_params)  # type: ignore[no-any-return]

        return answer_later if iscoroutinefunction(endpoint) else answer
