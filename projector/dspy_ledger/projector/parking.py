"""Events that break a projection: found alone, parked in the store, and left out from then on."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import redis

from dspy_ledger.errors import FoldError, LedgerUnavailable, StoreError
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.projector.patience import Halted
from dspy_ledger.store import EventStore, StoredEvent

__all__ = ["blanked", "fold_or_fail", "fold_or_park", "left_out", "registrations"]

_log = logging.getLogger(__name__)

_REGISTERED = EVENT_TYPES["ProgramRegistered"]
_PARKED = "parked"  # an event's type that no projection folds
_PASSING = (OSError, MemoryError, redis.RedisError, sqlite3.OperationalError, LedgerUnavailable, StoreError)

Apply = Callable[[Sequence[StoredEvent]], None]


def fold_or_park(store: EventStore, name: str, apply: Apply, batch: Sequence[StoredEvent]) -> None:
    """Fold a batch into a live view; an event that breaks it by itself is parked and passed over.

    Args:
        store: the writer's.
        name: the projection's.
        apply: folds events all or nothing, or puts right at the next call what it left.
        batch: the next events.

    Raises:
        Exception: what ``apply`` raised, when trying again later may mend it.
    """

    def park(event: StoredEvent, error: Exception) -> None:
        detail = f"{type(error).__name__}: {error}"
        store.park(name, event.position, detail)
        try:
            apply([_blank(event)])
        except BaseException:
            store.unpark(name, [event.position])  # it was not this event's fault
            raise
        _log.error("projection %s leaves out event %d, it can't fold it: %s", name, event.position, detail)

    _fold(apply, batch, park)


def fold_or_fail(name: str, apply: Apply, batch: Sequence[StoredEvent]) -> None:
    """Fold a batch into a view that is being built.

    Raises:
        FoldError: one of the events breaks it, by itself and again.
        Exception: what ``apply`` raised, when trying again later may mend it.
    """

    def fail(event: StoredEvent, error: Exception) -> None:
        raise FoldError(name, event.position, event.event_id, f"{type(error).__name__}: {error}") from error

    _fold(apply, batch, fail)


def blanked(batch: Sequence[StoredEvent], parked: set[int]) -> Sequence[StoredEvent]:
    """The batch with nothing to fold at the positions given; every position keeps its place."""
    if not parked:
        return batch
    return [_blank(event) if event.position in parked else event for event in batch]


def left_out(batch: Sequence[StoredEvent]) -> set[int]:
    """The positions of a batch at which there is nothing to fold; a view keeps them with its checkpoint."""
    return {event.position for event in batch if event.type == _PARKED}


def registrations(store: EventStore, name: str, upto: int) -> Iterator[StoredEvent]:
    """The registrations up to a position, without those that are parked for the projection of that name."""
    parked = {event.position for event in store.parked(name)}
    for event in store.read_all(types=[_REGISTERED], upto=upto):
        if event.position not in parked:
            yield event


def _fold(
    apply: Apply, batch: Sequence[StoredEvent], broken: Callable[[StoredEvent, Exception], None]
) -> None:
    try:
        apply(batch)
    except Exception as error:
        if _may_pass(error):
            raise
        if len(batch) == 1:
            _fold_again(apply, batch[0], broken)
            return
        middle = len(batch) // 2
        _fold(apply, batch[:middle], broken)
        _fold(apply, batch[middle:], broken)


def _fold_again(apply: Apply, event: StoredEvent, broken: Callable[[StoredEvent, Exception], None]) -> None:
    try:
        apply([event])
    except Exception as error:
        if _may_pass(error):
            raise
        broken(event, error)


def _may_pass(error: Exception) -> bool:
    # A damaged database is DatabaseError itself; the classes below it tell of what was to be written.
    return isinstance(error, (*_PASSING, Halted)) or type(error) is sqlite3.DatabaseError


def _blank(event: StoredEvent) -> StoredEvent:
    return replace(event, type=_PARKED, payload=b"{}", body=None)
