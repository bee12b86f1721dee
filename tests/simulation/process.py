"""The projector's process: what the worker puts together, driven by the schedule instead of its loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING

import redis

from dspy_ledger.projector import Handover, Live, Worker
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
        self._dice = world.dice
        self._handover = Handover(most_events=world.dice.choice((5, 8000)))
        self._worker = Worker(world.settings)
        self._worker._halt = _Halt(world)
        try:
            self.live: Live = self._worker._open()
        except BaseException:
            self.close()
            raise
        self.store: SqliteEventStore = self.live.followers._store
        self.projections = self.live.followers._projections
        self.cursor: str | None = None
        """After which entry it reads; None before it has looked at the stream."""

    def connect(self) -> None:
        """Look at the stream before reading it."""
        with suppress(redis.RedisError):
            self.live.intake.look()
            self.read_again()

    def read_again(self) -> None:
        """Begin the stream anew where that is called for."""
        self.live.intake.read_again()
        self.cursor = self.live.intake.last_id

    def take(self, ids: Sequence[bytes], fields: Sequence[Mapping[bytes, bytes]]) -> None:
        """Store a batch; the views may follow at once, or be behind: they have a thread of their own."""
        self._handover.put(self.live.intake.take(ids, fields))
        if self._dice.random() < 0.7:
            self.follow()

    def follow(self) -> None:
        """Have the views follow what was handed over."""
        if events := self._handover.take():
            self.live.followers.follow(events)

    def close(self) -> None:
        """End in good order."""
        self._worker._resources.close()
