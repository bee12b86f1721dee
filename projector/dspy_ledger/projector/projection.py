"""What every view is to the ledger: a fold that follows the store from its own checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dspy_ledger.store import EventStore, StoredEvent

__all__ = ["BATCH", "Checkpoint", "Projection", "catch_up", "project"]

BATCH = 2000
"""How many events a projection that lags behind folds at once."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a projection folded: a position, and the ledger and event that it belongs to."""

    ledger_id: str
    position: int
    event_id: str | None

    def matches(self, store: EventStore) -> bool:
        """Whether the store is the one that this checkpoint was made on, and still holds its event."""
        if self.ledger_id != store.ledger_id:
            return False
        if self.position == 0:
            return True
        event = store.event_at(self.position)
        return event is not None and event.event_id == self.event_id

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

    def position(self) -> int:
        """Its checkpoint: everything up to here is folded; 0 before the first event."""

    def apply(self, batch: Sequence[StoredEvent]) -> None:
        """Fold the next events and move the checkpoint to the last of them, atomically.

        Raises whatever its medium raises; the view and its checkpoint are then as before, or are put
        right by the next call.
        """

    def close(self) -> None:
        """Let go of files and connections."""


def catch_up(
    store: EventStore,
    projection: Projection,
    *,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Fold what the store holds beyond the projection's checkpoint.

    Args:
        store: where to read from.
        projection: what to bring up to date.
        batch: events per transaction.
        progress: called with (position, end) after each batch; may raise to stop in between.

    Returns:
        The position reached, which is the store's last when this began.
    """
    end = store.last_position()
    at = projection.position()
    while at < end:
        events = store.read(at, batch, types=projection.types)
        if projection.types:
            events = _closed(store, [e for e in events if e.position <= end], batch, end)
        projection.apply(events)
        at = projection.position()
        if progress is not None:
            progress(at, end)
    return at


def project(store: EventStore, projections: Iterable[Projection], batch: Sequence[StoredEvent]) -> None:
    """Hand the batch just stored to each projection right behind it; the others catch up from the store."""
    for projection in projections:
        if batch and projection.position() == batch[0].position - 1:
            projection.apply(batch)
        else:
            catch_up(store, projection)


def _closed(store: EventStore, events: list[StoredEvent], batch: int, end: int) -> list[StoredEvent]:
    """A batch of chosen types that, being the last, ends at the end: so the checkpoint gets there too."""
    if len(events) < batch and (not events or events[-1].position < end):
        last = store.event_at(end)
        assert last is not None
        events.append(last)
    return events
