"""The views' side of the projector: projections follow what was stored, and chores are done beside them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from dspy_ledger.errors import LedgerUnavailable
from dspy_ledger.projector.patience import Patience, is_disk_full
from dspy_ledger.projector.projection import SLICE, Projection, advance
from dspy_ledger.store import EventStore, StoredEvent

__all__ = ["Chore", "Followers", "Handover"]

_log = logging.getLogger(__name__)

# Seconds.
_SECOND_REST = 1.0
_LONGEST_REST = 10.0
_TELL_EVERY = 5.0

Chore = Callable[[], bool]
"""A slice (0.2 s at most) of work beside the rest; whether it wants to be called again at once."""


class Followers:
    """The projections, each brought on by itself, and the writer's chores; synchronous, for one thread.

    A projection that needs an unreachable Redis or whose disk is full rests for a while and catches up later,
    and the others go on; everything else is insisted on, and raises when it can't be done.

    Args:
        store: the ledger, by a connection of this thread's own.
        projections: the views, in the order in which they follow.
        patience: how failures are met.
        clock: seconds, monotonic.
        chores: what else is done, a slice in each :meth:`tidy`.
    """

    def __init__(
        self,
        store: EventStore,
        projections: Sequence[Projection],
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
        chores: Sequence[Chore] = (),
    ) -> None:
        self._store = store
        self._projections = projections
        self._patience = patience
        self._clock = clock
        self._chores = chores
        self._resting: dict[str, tuple[float, float]] = {}  # projection → (not before, how long next)
        self._told: dict[str, float] = {}  # projection that lags → when that was told last

    def follow(self, events: Sequence[StoredEvent]) -> bool:
        """Fold what was stored into every view; only a batch of what it lacks into one that is far behind.

        Returns:
            Whether any lags still.
        """
        lagging = [self._bring_on(projection, events, seconds=0) for projection in self._projections]
        return any(lagging)

    def tidy(self) -> bool:
        """A slice of what the views lack, and of each chore; call it about once a second.

        Returns:
            Whether to call it again at once, after a batch that waits.
        """
        wanting = [self._bring_on(projection) for projection in self._projections]
        wanting += [self._do(chore) for chore in self._chores]
        return any(wanting)

    def _do(self, chore: Chore) -> bool:
        try:
            return self._patience.insist("a chore", chore, wait_for_room=False)  # the views go on
        except LedgerUnavailable:
            return False  # it needs Redis: another time
        except Exception as error:
            if not is_disk_full(error):
                raise
            return False  # another time: whoever stores says that the disk is full

    def _bring_on(
        self, projection: Projection, events: Sequence[StoredEvent] = (), *, seconds: float = SLICE
    ) -> bool:
        """Bring a projection on; whether it lags. One that can't go on for now rests for a while."""
        name = projection.name
        if name in self._resting and self._clock() < self._resting[name][0]:
            return False
        try:
            lags = self._patience.insist(
                f"projecting to {name}",
                lambda: advance(self._store, projection, events, seconds=seconds, clock=self._clock),
                wait_for_room=False,  # the others go on
            )
            self._tell(projection, lags=lags)
        except LedgerUnavailable as error:
            self._rest(name, str(error))
            return False
        except Exception as error:
            if not is_disk_full(error):
                raise
            self._rest(name, "its disk is full; nothing is lost, make room")
            return False
        if self._resting.pop(name, (0.0, 0.0))[1] > _SECOND_REST:
            _log.info("projection %s goes on", name)
        return lags

    def _tell(self, projection: Projection, *, lags: bool) -> None:
        """Say now and then how far a projection is that catches up."""
        name, now = projection.name, self._clock()
        if not lags:
            if self._told.pop(name, None) is not None:
                _log.info("projection %s caught up", name)
        elif now >= self._told.setdefault(name, now) + _TELL_EVERY:
            self._told[name] = now
            _log.info("%s is at %d of %d", name, projection.position(), self._store.last_position())

    def _rest(self, name: str, why: str) -> None:
        """Leave a projection be for a while; said at its second failure: the first may be the very end."""
        _, rest = self._resting.get(name, (0.0, _SECOND_REST / 2))
        if rest == _SECOND_REST:
            _log.warning("projection %s falls behind, it catches up later: %s", name, why)
        self._resting[name] = (self._clock() + rest, min(rest * 2, _LONGEST_REST))


class Handover:
    """Events on their way from the thread that stores to the one that follows, in order.

    Bounded: when too much waits, all of it is forgotten, and who follows reads it from the store.

    Args:
        most_events: how many may wait.
        most_bytes: how large they may be together.
    """

    def __init__(self, most_events: int = 12000, most_bytes: int = 32 << 20) -> None:
        self._most_events, self._most_bytes = most_events, most_bytes
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Sequence[StoredEvent], int]] = deque()
        self._events = self._bytes = 0

    def put(self, events: Sequence[StoredEvent]) -> None:
        """Hand on a batch that was stored."""
        size = sum(event.size for event in events)
        with self._lock:
            if self._events + len(events) > self._most_events or self._bytes + size > self._most_bytes:
                self._waiting.clear()
                self._events = self._bytes = 0
                return
            self._waiting.append((events, size))
            self._events += len(events)
            self._bytes += size

    def take(self, most_events: int = 4000) -> list[StoredEvent]:
        """The next batches as one, of about so many events; none when nothing waits."""
        taken: list[StoredEvent] = []
        with self._lock:
            while self._waiting and len(taken) < most_events:
                events, size = self._waiting.popleft()
                self._events -= len(events)
                self._bytes -= size
                taken += events
        return taken
