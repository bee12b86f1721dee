"""Waiting for the view: one look at it every 20 ms for all who wait, and none while nobody does."""

from __future__ import annotations

import asyncio
from time import monotonic

from dspy_ledger.api.reading import Sources
from dspy_ledger.errors import StoreError

__all__ = ["Ended", "Following"]

# Seconds.
_EVERY = 0.02
_IN_NEED = 1.0


class Ended(Exception):
    """The server ends, and nobody waits any more."""


class Following:
    """Has coroutines wait until the view in force has folded a position or an event.

    While the view stands still a look costs the same however many wait; looking takes a tenth of the time at
    most.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._waiting: dict[asyncio.Future[int], int | str] = {}
        self._looking: asyncio.Task[None] | None = None
        self._ended = False

    async def reach(self, wanted: int | str) -> int:
        """Wait until the view has folded that position, or the event of that id; the position it is at then.

        Waits for as long as it takes: the caller sets the limit.

        Raises:
            StoreError: there is no view or no store to look at yet.
            Ended: :meth:`end` was called.
        """
        if self._ended:
            raise Ended
        position = self._position()
        if isinstance(wanted, str):
            wanted = self._places([wanted]).get(wanted, wanted)
        if isinstance(wanted, int) and wanted <= position:
            return position
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(position))
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[future] = wanted
        try:
            return await future
        finally:
            del self._waiting[future]

    async def rest(self, seconds: float = 0) -> None:
        """Let others have their turn.

        Raises:
            Ended: :meth:`end` was called.
        """
        await asyncio.sleep(seconds)
        if self._ended:
            raise Ended

    def end(self) -> None:
        """Have all who wait, and who will, be told that the server ends."""
        self._ended = True
        for future in self._waiting:
            if not future.done():
                future.set_exception(Ended())

    async def _look(self, last: int) -> None:
        try:
            while self._waiting:
                began = monotonic()
                try:
                    position = self._position()
                    if position != last:
                        self._tell(position)
                        last = position
                    pause = max(_EVERY, 9 * (monotonic() - began))
                except StoreError:  # a swap or a restart; whoever asks is told
                    pause = _IN_NEED
                await asyncio.sleep(pause)
        finally:
            self._looking = None

    def _tell(self, position: int) -> None:
        """Wake those whose time has come, and find where the events are that were not stored before."""
        named = [wanted for wanted in self._waiting.values() if isinstance(wanted, str)]
        places = self._places(named) if named else {}
        for future, wanted in self._waiting.items():
            place = places.get(wanted, wanted) if isinstance(wanted, str) else wanted
            self._waiting[future] = place
            if isinstance(place, int) and place <= position and not future.done():
                future.set_result(position)

    def _position(self) -> int:
        with self._sources.question() as question:
            return question.position

    def _places(self, event_ids: list[str]) -> dict[str, int]:
        return self._sources.ask_store(lambda store: store.positions_of(event_ids))
