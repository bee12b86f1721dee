"""What an event store promises, whatever database it lies in.

Positions are 1, 2, 3 … without holes, given by the one writer. An append is one transaction: events,
dead letters, producers' accounts and the stream checkpoint become visible together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from dspy_ledger.sequences import SequenceSet
from dspy_ledger.wire import Entry, envelope_of

__all__ = [
    "MOST_ERASED",
    "MOST_READ",
    "Appended",
    "DeadLetter",
    "EventStore",
    "Parked",
    "ProducerAccount",
    "StoredEvent",
    "StreamCheckpoint",
]

MOST_READ = 32 << 20
"""Bytes of events after which a read ends, however many more were asked for: memory counts bytes."""

MOST_ERASED = 128 << 20
"""Bytes of bodies to erase at once, a second or so: whoever stores waits for it, and not for ever."""


@dataclass(slots=True)
class StoredEvent:
    """One event with its place in the ledger, read as the newest type.

    Not to be changed; left unfrozen because that is faster.
    """

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
    _envelope: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Bytes of payload and body."""
        return len(self.payload) + len(self.body or b"")

    @property
    def envelope(self) -> dict[str, Any]:
        """The CloudEvent, decoded once."""
        if self._envelope is None:
            self._envelope = envelope_of(self.payload)
        return self._envelope

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
    a short stable word, ``detail`` a sentence. ``id``, ``recorded_at`` and ``dropped_at`` are the store's;
    one that was dropped has no bytes any more.
    """

    stream_id: str
    reason: str
    detail: str
    raw: bytes
    digest: str
    source: str | None = None
    sequence: int | None = None
    id: int | None = None
    recorded_at: str | None = None
    dropped_at: str | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that a projection could not fold, and left out; ``detail`` says why."""

    projection: str
    position: int
    detail: str
    recorded_at: str


@dataclass(frozen=True, slots=True)
class StreamCheckpoint:
    """How far the stream was read: the last entry id, and the identity of the server it came from."""

    stream: str
    last_id: str
    server: str | None = None


@dataclass(frozen=True, slots=True)
class ProducerAccount:
    """One producer's sequence numbers as the store knows them.

    ``mark``: each of 1 … mark is settled. ``ranges``: all settled ranges. ``stored``: how many of its
    events are in the store; ``dead_lettered``: how many of its entries became dead letters. ``dropped``,
    ``unconfirmed``: the ranges that it wrote off and that did not arrive after all. ``sampled_out``: how
    many executions it left out by sampling. ``reported``: the highest number its reports name, 0 for none.
    """

    source: str
    mark: int
    ranges: tuple[tuple[int, int], ...]
    first_seen: str
    last_seen: str
    stored: int = 0
    dead_lettered: int = 0
    dropped: tuple[tuple[int, int], ...] = ()
    unconfirmed: tuple[tuple[int, int], ...] = ()
    sampled_out: int = 0
    reported: int = 0

    @property
    def last(self) -> int:
        """The highest number that is known to have been given."""
        return max(self.reported, self.ranges[-1][1] if self.ranges else 0)

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The ranges of 1 … last that are not settled: on their way, or lost."""
        return SequenceSet(self.ranges).missing(self.last)


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

    def position_at(self, time: str) -> int:
        """The last position recorded at or before a moment (canonical time text); 0 when none was."""

    def append(
        self,
        entries: Sequence[tuple[str, Entry]],
        *,
        dead_letters: Sequence[DeadLetter] = (),
        checkpoint: StreamCheckpoint | None = None,
        resolves: Sequence[int] = (),
    ) -> Appended:
        """Append a batch of (stream id, entry) in one transaction.

        The same event again is a duplicate and changes nothing; the same id with other bytes becomes a
        dead letter (``conflict``), except a registration that differs only in its version. So does one whose
        source is the writer's own (``not-an-event``): what the writer says is not to be had from others.
        ``resolves`` are ids of dead letters that the entries came from: they are removed.
        """

    def restore(self, events: Sequence[StoredEvent], dead_letters: Sequence[DeadLetter] = ()) -> int:
        """Take in events of an export as they are, positions and times included; how many were new.

        Bodies that the export knows as erased go; those that were erased here stay away.

        Raises:
            StoreError: a position holds another event already, or positions do not go on without a hole.
        """

    def erase(self, positions: Sequence[int], reason: str) -> list[StoredEvent]:
        """Delete bodies, and append ``BodyErased`` events that say so, in one transaction.

        Positions without a body are left out; when none is left, nothing is appended.
        """

    def reclaim(self, pages: int = 1000) -> bool:
        """Give up to that many freed pages back to the file system; True when none is left to give."""

    def read(
        self,
        after: int,
        limit: int,
        *,
        types: Sequence[str] = (),
        program_id: str | None = None,
        upto: int | None = None,
        bodies: bool = True,
    ) -> list[StoredEvent]:
        """Up to ``limit`` events with position > ``after`` (and ≤ ``upto``), in order, bodies included.

        Fewer than there are only when these make ``MOST_READ`` bytes or more. Nothing but ``upto`` bounds
        how many positions are gone through for events of a type or program that is rare.
        """

    def read_all(self, *, types: Sequence[str] = (), upto: int | None = None) -> Iterator[StoredEvent]:
        """All events in order, in batches behind the scenes."""

    def with_body(self, after: int, limit: int, *, types: Sequence[str], upto: int) -> list[int]:
        """Up to ``limit`` positions > ``after`` and ≤ ``upto`` of these types that have a body, in order.

        Fewer than there are only when these bodies make ``MOST_ERASED`` bytes or more.
        """

    def event_at(self, position: int) -> StoredEvent | None:
        """The event at a position."""

    def event(self, event_id: str) -> StoredEvent | None:
        """The event of that id."""

    def positions_of(self, event_ids: Sequence[str]) -> dict[str, int]:
        """Where these events are, those that are stored."""

    def stream_checkpoint(self, stream: str) -> StreamCheckpoint | None:
        """Where reading that stream goes on."""

    def producers(self) -> list[ProducerAccount]:
        """Every producer's account, by source."""

    def dead_letter_count(self) -> int:
        """How many dead letters are kept."""

    def dead_letters(
        self, *, limit: int = 100, before: int | None = None, raw: bool = True
    ) -> list[DeadLetter]:
        """The newest dead letters (with an id below ``before``), newest first.

        Fewer than there are only when these make ``MOST_READ`` bytes or more; without ``raw`` their bytes
        stay unread.
        """

    def dead_letter(self, letter_id: int, *, raw: bool = True) -> DeadLetter | None:
        """One dead letter, without its bytes unless ``raw``."""

    def all_dead_letters(self, after: int, limit: int) -> list[DeadLetter]:
        """Dead letters with an id above ``after``, oldest first, and those that were dropped among them.

        Fewer than there are only when these make ``MOST_READ`` bytes or more.
        """

    def drop_dead_letters(self, ids: Sequence[int]) -> int:
        """Give dead letters up: their bytes go, their sequence numbers stay settled. How many there were."""

    def park(self, projection: str, position: int, detail: str) -> None:
        """Note that a projection leaves an event out; once more changes nothing."""

    def parked(self, projection: str | None = None) -> list[Parked]:
        """What was left out, by projection and position."""

    def unpark(self, projection: str, positions: Sequence[int] | None = None) -> int:
        """Forget that events were left out (all of the projection's by default); how many there were."""

    def check(self, progress: Callable[[int, int], None] | None = None) -> Iterator[str]:
        """What is wrong with the store itself, a sentence each; nothing when all is well.

        Args:
            progress: called now and then with (position, last position).
        """

    def close(self) -> None:
        """Let go of the database."""
