"""``HEAD`` on every path that takes ``GET``: the same answer without its body."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["AnswerHead"]


class _HasEnded(Exception):
    """The answer has ended; there would be more of its body."""


class AnswerHead:
    """ASGI middleware: asks for the whole answer, and gives its status and headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            if message.get("more_body"):
                raise _HasEnded  # a live stream would go on for ever

        try:
            await self._app({**scope, "method": "GET"}, receive, without_body)
        except* _HasEnded:
            pass
