"""One HTTP connection: Uvicorn's, but no client may stand still for ever, and what is refused is told."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dspy_ledger.api.responses import dump

__all__ = ["MOST_HEAD", "Connection"]

MOST_HEAD = 64 << 10
"""Bytes that path, query and headers may have together."""

# Seconds.
_PATIENCE = 30.0
_LAST = 1.0


class _Unusable(Exception):
    """A head that can be read and not be answered."""


class Connection(HttpToolsProtocol):
    """A client that takes nothing of what it is sent for 30 s is disconnected, and its place is free.

    So is one that has not sent a whole request within 30 s. What is no HTTP, or has more than ``MOST_HEAD``
    bytes before its body, is answered with a problem.
    """

    _stalled: asyncio.TimerHandle | None = None
    _awaited: asyncio.TimerHandle | None = None
    """Runs until a request is whole."""
    _refused = False
    _unread = 0
    """Bytes that came of a head whose end has not come."""
    _too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as Uvicorn's
        """A client is there."""
        super().connection_made(transport)
        self._await_request()

    def _await_request(self) -> None:
        if self._awaited is None:
            self._awaited = self.loop.call_later(_PATIENCE, self._too_late)

    def _have_request(self) -> None:
        if self._awaited is not None:
            self._awaited.cancel()
            self._awaited = None

    def _too_late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # its answer may have begun
        elif self._unread:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT, f"no whole request came within {_PATIENCE:g} s; send it again"
            )
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        self._wait(self.transport.get_write_buffer_size())

    def _wait(self, left: int) -> None:
        self._stalled = self.loop.call_later(_PATIENCE, self._unless_taken, left)

    def _unless_taken(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left < before:
            self._wait(left)
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        """It has taken what was waiting."""
        self._forget()
        super().resume_writing()

    def shutdown(self) -> None:
        """The server ends; who takes nothing now has no time left."""
        super().shutdown()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = self.loop.call_later(_LAST, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is not there any more."""
        self._forget()
        self._have_request()
        super().connection_lost(exc)

    def _forget(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def data_received(self, data: bytes) -> None:
        """Bytes came; what follows a refusal is read past, or the client would not get to see it."""
        if self._refused:
            return
        self._unread += len(data)
        self._await_request()
        super().data_received(data)
        if self._unread > MOST_HEAD and not self._refused:
            self._too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._have_request()
        self._await_request()
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._have_request()
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        """A head is complete; what is wrong with it reaches :meth:`send_400_response`."""
        self._unread = 0
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MOST_HEAD:
            self._too_large = True
            raise _Unusable
        hosts = [name for name, _ in self.headers if name == b"host"]
        if len(hosts) != 1 and self.parser.get_http_version() == "1.1":
            raise _Unusable
        super().on_headers_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: who offers another protocol (as Java's clients do) is answered in this one."""

    def on_body(self, body: bytes) -> None:
        """Some of a body came."""
        self._unread = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what can't be read."""
        if self._too_large:
            detail = f"path, query and headers are larger than {MOST_HEAD} bytes; ask with less"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, f"{msg} See that what asks speaks HTTP/1.1")

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self._refused = True
        title = status.phrase
        body = dump({"type": "about:blank", "title": title, "status": status.value, "detail": detail})
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (status.value, title.encode(), len(body), body)
        )
        self._stalled = self.loop.call_later(_LAST, self.transport.close)
