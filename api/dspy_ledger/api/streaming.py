"""Events as they come, as server-sent events: each reader at its own pace, from where it left off.

Nothing is kept for a reader but the position it is at. What it does not take in time it takes later, from
the store; one that takes nothing at all for a while loses its connection (see ``connection``), and comes
again with the id of the last event that it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from dspy_ledger.api.following import Ended, Following
from dspy_ledger.api.lanes import Lanes, disconnected
from dspy_ledger.api.queries.events import EventFilter, Slice, short_type, slice_of
from dspy_ledger.api.reading import Sources, TookTooLong
from dspy_ledger.api.responses import dump
from dspy_ledger.errors import LedgerError, StoreError
from dspy_ledger.store import SqliteEventStore

__all__ = ["EventStream", "Streams", "TooManyStreams"]

# Seconds.
_HEARTBEAT = 15.0
_IN_NEED = 1.0

_AT_ONCE, _AT_ONCE_WITH_BODIES = 100, 10  # events in one write
_MOST_KEPT = 1 << 20  # bytes that are read once for all; what is larger, each reader reads
_RETRY = 1000  # milliseconds after which a browser connects again

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx
}


class TooManyStreams(LedgerError):
    """As many read the live stream as may; ask again, or page through the events."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"{most} readers follow the stream already; ask again in a while, page through /v1/events, or"
            " raise DSPY_LEDGER_API_STREAMS"
        )


class Streams:
    """Every stream of one app: how many there are, and what several of them read alike."""

    def __init__(self, lanes: Lanes, following: Following, most: int) -> None:
        self.following = following
        self.open = 0
        self._lanes = lanes
        self._most = most
        self._position = -1
        self._read: dict[tuple[EventFilter, int], tuple[bytes, int, int]] = {}

    def require_room(self) -> None:
        """Raise TooManyStreams when no more may be opened."""
        if self.open >= self._most:
            raise TooManyStreams(self._most)

    async def read(self, query: EventFilter, after: int, ledger_id: str | None) -> tuple[bytes, int, int]:
        """The next events as bytes of the stream, where they end, and the position that the view is at.

        Readers that are at the same position with the same filters get the same bytes, read once.

        Raises:
            StoreError, TookTooLong: they can't be read now.
            Ended: view and store are another ledger's than before, or an older copy of it.
        """
        found = await self._lanes.ask(
            lambda sources: self._find(sources, query, after, ledger_id), name=query
        )
        frames, last, position = found
        if position != self._position or len(self._read) > self._most:
            self._position, self._read = position, {}
        # Those who are far behind are each elsewhere.
        if last == position and len(frames) <= _MOST_KEPT:
            self._read[query, after] = found
        return found

    def _find(
        self, sources: Sources, query: EventFilter, after: int, ledger_id: str | None
    ) -> tuple[bytes, int, int]:
        with sources.question() as question:
            if None not in (ledger_id, question.ledger_id) and question.ledger_id != ledger_id:
                raise Ended
            if after > question.position and after > sources.ask_store(SqliteEventStore.last_position):
                raise Ended
            known = self._read.get((query, after))
            if known is not None and known[2] == question.position:
                return known
            limit = _AT_ONCE_WITH_BODIES if query.bodies else _AT_ONCE
            found = slice_of(question, sources, query, after, limit, question.position)
            return _frames(found), found.last, question.position


class EventStream(Response):
    """The answer that does not end until its reader or the server does.

    Args:
        streams: the app's.
        query: which events.
        at: the position after which to begin.
        position: the position that the view is at.
        ledger_id: whose positions these are.
    """

    def __init__(
        self, streams: Streams, query: EventFilter, at: int, position: int, ledger_id: str | None
    ) -> None:
        super().__init__(headers={**_HEADERS, "Ledger-Position": str(position)})
        del self.headers["content-length"]
        self._streams = streams
        self._query = query.model_copy(update={"after": None, "since": None})  # alike for all who are here
        self._at = at
        self._ledger_id = ledger_id

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send until somebody leaves."""
        self._streams.open += 1
        gone = asyncio.ensure_future(disconnected(receive))
        sending = asyncio.ensure_future(self._serve(send))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._streams.open -= 1
            for task in (gone, sending):
                task.cancel()
            await asyncio.gather(gone, sending, return_exceptions=True)

    async def _serve(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send(_chunk(f"retry: {_RETRY}\nid: {self._at}\n\n".encode()))
        try:
            while True:
                await self._step(send)
        except Ended:
            await send(_chunk(f": this ends here; go on after {self._at}\n\n".encode()))
            await send({"type": "http.response.body", "body": b""})

    async def _step(self, send: Send) -> None:
        """Send what there is or comes, or after a while that nothing has."""
        try:
            async with asyncio.timeout(_HEARTBEAT):
                frames = await self._next()
        except TimeoutError:
            # The id is for those whose filters let nothing through: they need not be told all that again.
            frames = f": the ledger is at {self._at}\nid: {self._at}\n\n".encode()
        await send(_chunk(frames))
        await self._streams.following.rest()  # a long way to go: others have their turn

    async def _next(self) -> bytes:
        """The next events, waited for. Each way round lets others have their turn, whatever can't be read."""
        while True:
            try:
                frames, self._at, position = await self._streams.read(self._query, self._at, self._ledger_id)
                if frames:
                    return frames
                if self._at < position:
                    await self._streams.following.rest()
                else:
                    await self._streams.following.reach(self._at + 1)
            except (StoreError, TookTooLong):  # a swap, a restart, or a store that is not there
                await self._streams.following.rest(_IN_NEED)


def _frames(found: Slice) -> bytes:
    return b"".join(_framed(found))


def _framed(found: Slice) -> Iterable[bytes]:
    for event, item in zip(found.events, found.items, strict=True):
        # JSON has line ends only between its tokens, and only where somebody else wrote it.
        data = dump(item).replace(b"\r", b" ").replace(b"\n", b" ")
        yield b"id: %d\nevent: %s\ndata: %s\n\n" % (event.position, short_type(event).encode(), data)


def _chunk(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}
