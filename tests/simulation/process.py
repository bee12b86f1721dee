"""The projector's process: what the worker puts together, driven by the schedule instead of its loop."""

from __future__ import annotations

from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING

import redis

from dspy_ledger.projector import Live, Worker
from dspy_ledger.store import SqliteEventStore

if TYPE_CHECKING:
    from simulation.world import World

__all__ = ["Process"]


class _Halt(Event):
    """Waiting lets time pass, and may make room on a full disk."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def wait(self, timeout: float | None = None) -> bool:
        self._world.pass_time(timeout or 0.0)
        self._world.fate.waited()
        return False


class Process:
    """The projector, put together by the :class:`Worker` itself; its loop is the schedule's."""

    def __init__(self, world: World) -> None:
        self._worker = Worker(world.settings)
        self._worker._halt = _Halt(world)
        try:
            self.live: Live = self._worker._open()
        except BaseException:
            self.close()
            raise
        self.store: SqliteEventStore = self.live._store
        self.projections = self.live._projections
        self.cursor: str | None = None
        """After which entry it reads; None before it has looked at the stream."""

    def connect(self) -> None:
        """Look at the stream before reading it."""
        with suppress(redis.RedisError):
            self.live.look()
            self.read_again()

    def read_again(self) -> None:
        """Begin the stream anew where that is called for."""
        self.live.read_again()
        self.cursor = self.live.ingest.last_id

    def close(self) -> None:
        """End in good order."""
        self._worker._resources.close()
