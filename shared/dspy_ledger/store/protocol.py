"""What an event store promises, whatever database it lies in.

Positions are 1, 2, 3 … without holes, given by the one writer. An append is one transaction: events,
dead letters, producers' accounts and the stream checkpoint become visible together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import orjson

from dspy_ledger.wire import Entry

__all__ = ["Appended", "DeadLetter", "EventStore", "ProducerAccount", "StoredEvent", "StreamCheckpoint"]


@dataclass(frozen=True)
class StoredEvent:
    """One event with its place in the ledger."""

    position: int
    event_id: str
    stream_id: str | None
    type: str
    subject: str | None
    source: str
    sequence: int
    time: str
    recorded_at: str
    payload: bytes
    digest: str
    body: bytes | None = None

    @cached_property
    def envelope(self) -> dict[str, Any]:
        """The CloudEvent, decoded once."""
        return orjson.loads(self.payload)  # type: ignore[no-any-return]

    @property
    def data(self) -> dict[str, Any]:
        """The event's own fields."""
        return self.envelope["data"]  # type: ignore[no-any-return]

    def body_json(self) -> Any:
        """The body decoded; None when there is none (or it was erased)."""
        return None if self.body is None else orjson.loads(self.body)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A stream entry that is no valid event, with everything it came with.

    ``raw`` is the entry as :func:`dspy_ledger.wire.pack` makes it, so that no byte is lost; ``reason`` is
    a short stable word, ``detail`` a sentence.
    """

    stream_id: str
    reason: str
    detail: str
    raw: bytes
    digest: str
    source: str | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class StreamCheckpoint:
    """How far the stream was read: the last entry id, and the identity of the server it came from."""

    stream: str
    last_id: str
    server: str | None = None


@dataclass(frozen=True, slots=True)
class ProducerAccount:
    """One producer's sequence numbers as the store knows them.

    ``mark``: each of 1 … mark is settled. ``ranges``: all settled ranges.
    """

    source: str
    mark: int
    ranges: tuple[tuple[int, int], ...]
    first_seen: str
    last_seen: str


@dataclass(frozen=True, slots=True)
class Appended:
    """What one append did. ``marks``: the stored marks of the sources that the batch touched."""

    events: list[StoredEvent] = field(default_factory=list)
    duplicates: int = 0
    dead_letters: int = 0
    marks: dict[str, int] = field(default_factory=dict)


class EventStore(Protocol):
    """The ledger. One writer; any number of readers, each with a store object of its own."""

    @property
    def ledger_id(self) -> str:
        """UUID given when the ledger was made."""

    def last_position(self) -> int:
        """The highest position; 0 when the ledger is empty."""

    def append(
        self,
        entries: Sequence[tuple[str, Entry]],
        *,
        dead_letters: Sequence[DeadLetter] = (),
        checkpoint: StreamCheckpoint | None = None,
    ) -> Appended:
        """Append a batch of (stream id, entry) in one transaction.

        The same event again is a duplicate and changes nothing; the same id with other bytes becomes a
        dead letter (``conflict``), except a registration that differs only in its version.
        """

    def read(self, after: int, limit: int, *, types: Sequence[str] = ()) -> list[StoredEvent]:
        """Up to ``limit`` events with position > ``after``, in order, bodies included."""

    def read_all(self, *, types: Sequence[str] = (), upto: int | None = None) -> Iterator[StoredEvent]:
        """All events in order, in batches behind the scenes."""

    def event_at(self, position: int) -> StoredEvent | None:
        """The event at a position."""

    def event(self, event_id: str) -> StoredEvent | None:
        """The event of that id."""

    def stream_checkpoint(self, stream: str) -> StreamCheckpoint | None:
        """Where reading that stream goes on."""

    def producers(self) -> list[ProducerAccount]:
        """Every producer's account, by source."""

    def dead_letter_count(self) -> int:
        """How many dead letters are kept."""

    def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """The newest dead letters."""

    def close(self) -> None:
        """Let go of the database."""
