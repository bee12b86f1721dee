"""What every view is to the ledger: a fold that follows the store from its own checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from dspy_ledger.projector.parking import blanked, fold_or_fail, fold_or_park
from dspy_ledger.store import MOST_READ, EventStore, StoredEvent

__all__ = ["BATCH", "SLICE", "Checkpoint", "Projection", "advance", "catch_up", "project"]

BATCH = 2000
"""How many events a projection that lags behind folds at once."""

SLICE = 0.2
"""Seconds that catching up may take between two batches of ingest."""

_GONE_THROUGH = 50_000  # positions, for a projection of few types: 0.1 s, however rare these are


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a projection folded: a position, and the ledger and event that it belongs to."""

    ledger_id: str
    position: int
    event_id: str | None

    def mismatch(self, store: EventStore, name: str, left_out: Set[int]) -> str | None:
        """Why the view can't be followed on from here, to go after its name; None when it can.

        Args:
            store: the ledger.
            name: the projection's.
            left_out: the positions that the view left out, which have to be those that are parked for it.
        """
        if self.ledger_id != store.ledger_id:
            return f"belongs to another ledger ({self.ledger_id})"
        if self.position == 0:
            return None
        event = store.event_at(self.position)
        if event is None:
            last = store.last_position()
            return (
                f"is at position {self.position}, the event store ends at {last}: an older one was restored"
            )
        if event.event_id != self.event_id:
            return f"was folded from another event at position {self.position}: an older store was restored"
        parked = {event.position for event in store.parked(name) if event.position <= self.position}
        if parked != left_out:
            return f"leaves out {len(left_out)} events, and {len(parked)} are parked"
        return None

    @classmethod
    def after(cls, store: EventStore, event: StoredEvent) -> Checkpoint:
        """The checkpoint of a projection that folded this event last."""
        return cls(store.ledger_id, event.position, event.event_id)


class Projection(Protocol):
    """A named view. A checkpoint that does not match the store counts as none: replay from position 1."""

    @property
    def name(self) -> str:
        """What commands and logs call it."""

    @property
    def version(self) -> int:
        """Raised with every change of the fold; an older view is replayed."""

    @property
    def types(self) -> Sequence[str]:
        """The event types that it folds, so that catching up may skip all others; none given: every type."""

    @property
    def bodies(self) -> bool:
        """Whether it folds bodies; when not, catching up leaves them unread."""

    def position(self) -> int:
        """Its checkpoint: everything up to here is folded; 0 before the first event."""

    def apply(self, batch: Sequence[StoredEvent]) -> None:
        """Fold the next events and move the checkpoint to the last of them, atomically.

        Raises whatever its medium raises; the view and its checkpoint are then as before, or are put
        right by the next call.
        """

    def close(self) -> None:
        """Let go of files and connections."""


def advance(
    store: EventStore,
    projection: Projection,
    events: Sequence[StoredEvent] = (),
    *,
    seconds: float = SLICE,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Bring a live projection on: by the batch just stored, or by a slice of what it lacks.

    An event that breaks the projection is parked and left out. Call it again after it raised.

    Args:
        store: the writer's.
        projection: what to bring on.
        events: the batch just stored, for a projection that has part of it, or lacks no more before it than
            it folds at once; one with a hole, since another thread stored in between, is read from the store.
        seconds: how long a slice may take, but for the batch at hand.
        clock: seconds, monotonic.

    Returns:
        Whether it still lags behind the store.
    """
    at = projection.position()
    if events and events[-1].position == events[0].position + len(events) - 1:
        # One that lacks a little, or has been ahead since it was tidied, would else read all again from the
        # store from then on, which is slow enough to keep it there.
        start = events[0].position - 1
        if at >= start - BATCH:
            parked = {event.position for event in store.parked(projection.name)}
            if at < start:
                between = _read(store, projection, at, start, BATCH)
                fold_or_park(store, projection.name, projection.apply, blanked(between, parked))
                at = projection.position()
            if at >= start:
                if rest := events[at - start :]:
                    fold_or_park(store, projection.name, projection.apply, blanked(rest, parked))
                return False
    deadline = clock() + seconds
    end = store.last_position()
    if at >= end:
        return False
    parked = {event.position for event in store.parked(projection.name)}
    while at < end:
        batch = blanked(_read(store, projection, at, end, BATCH), parked)
        fold_or_park(store, projection.name, projection.apply, batch)
        at = projection.position()
        if clock() >= deadline:
            break
    return at < end


def catch_up(
    store: EventStore,
    projection: Projection,
    *,
    batch: int = BATCH,
    upto: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Fold what the store holds beyond the checkpoint of a projection that is being built.

    Events that were parked for it are left out; a new one that breaks it ends the work.

    Args:
        store: where to read from.
        projection: what to bring up to date.
        batch: events per transaction.
        upto: the position to stop at; the store's last by default.
        progress: called with (position, end) after each batch; may raise to stop in between.

    Returns:
        The position reached, which is ``upto``, or the store's last when this began.

    Raises:
        FoldError: an event breaks the projection.
    """
    end = store.last_position() if upto is None else upto
    parked = {event.position for event in store.parked(projection.name)}
    at = projection.position()
    while at < end:
        events = blanked(_read(store, projection, at, end, batch), parked)
        fold_or_fail(projection.name, projection.apply, events)
        at = projection.position()
        if progress is not None:
            progress(at, end)
    return at


def project(store: EventStore, projections: Iterable[Projection], batch: Sequence[StoredEvent]) -> None:
    """Hand the batch just stored to each projection right behind it; the others catch up from the store."""
    for projection in projections:
        while advance(store, projection, batch):
            pass


def _read(store: EventStore, projection: Projection, after: int, end: int, limit: int) -> list[StoredEvent]:
    """The next events that concern a projection, none beyond the end."""
    if not projection.types:
        return store.read(after, min(limit, end - after), bodies=projection.bodies)
    upto = min(end, after + _GONE_THROUGH)
    events = store.read(after, limit, types=projection.types, upto=upto, bodies=projection.bodies)
    is_last = len(events) < limit and sum(event.size for event in events) < MOST_READ
    if is_last and (not events or events[-1].position < upto):
        events += store.read(upto - 1, 1, bodies=projection.bodies)  # so that the checkpoint gets there too
    return events
