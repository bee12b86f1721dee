"""What every request passes before its route, and every answer after it.

One class and not a middleware for each step: every layer of ASGI has its share in the time of a short answer.
"""

from __future__ import annotations

from time import perf_counter

from fastapi import Request
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_ledger.api.access import Access
from dspy_ledger.api.consistency import wait_for_view
from dspy_ledger.api.counting import Counts
from dspy_ledger.api.following import Following
from dspy_ledger.api.limits import refuse_long_target
from dspy_ledger.api.problems import answer_to
from dspy_ledger.api.security_headers import SECURITY_HEADERS, Header

__all__ = ["Front"]

# Only what is sent as it is needs it here; a route that varies by more must name all of it.
_NOT_COMPRESSED: tuple[Header, ...] = (*SECURITY_HEADERS, (b"vary", b"Accept-Encoding"))


class Front:
    """The ASGI app that stands before the routes.

    A target that is too long is refused first, then who may not ask; who names an event or a position waits
    until the view has it. What a route raises becomes a problem. Every answer is counted, has the security
    headers, and is compressed for who takes that.
    """

    def __init__(self, routes: ASGIApp, access: Access, following: Following, counts: Counts) -> None:
        self._routes = routes
        self._access = access
        self._following = following
        self._counts = counts
        # The fastest level: on a page of JSON the slower ones win a tenth of its size.
        self._compress = GZipMiddleware(self._serve, minimum_size=1000, compresslevel=1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
        elif any(name == b"accept-encoding" and b"gzip" in value for name, value in scope["headers"]):
            await self._compress(scope, receive, send)
        else:
            await self._serve(scope, receive, send, _NOT_COMPRESSED)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, more: tuple[Header, ...] = SECURITY_HEADERS
    ) -> None:
        began, has_begun = perf_counter(), False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                given = message["headers"]
                names = {name for name, _ in given}
                message["headers"] = [*given, *[header for header in more if header[0] not in names]]
                self._counts.add(scope, message["status"], perf_counter() - began)
            await send(message)

        request = Request(scope)
        try:
            refusal = (
                refuse_long_target(request)
                or self._access.refusal(request)
                or await wait_for_view(request, self._following)
            )
            if refusal is not None:
                await refusal(scope, receive, sending)
            elif scope["state"]["key"] is None:
                await self._routes(scope, receive, sending)
            else:
                await self._access.serve_while_valid(self._routes, request, receive, sending)
        except ClientDisconnect:  # amid what it sent; there is nobody to answer
            pass
        except Exception as error:
            if has_begun:
                raise
            answer = answer_to(request, error)
            # An error from a slow question's thread and the future it came in hold one another, with all that
            # the question had read, until the next collection of garbage, which is rare here.
            error.__traceback__ = None
            await answer(scope, receive, sending)
