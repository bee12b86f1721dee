"""Erasing bodies: those that somebody asked to be forgotten, and those older than their retention."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import orjson

from dspy_ledger.errors import InvalidInput, LedgerUnavailable
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.keys import BODY_FIELD, DATA_FIELD
from dspy_ledger.projector.patience import is_disk_full
from dspy_ledger.projector.projection import Projection, advance
from dspy_ledger.projector.requests import Work
from dspy_ledger.requests import Progress
from dspy_ledger.store import MOST_ERASED, DeadLetter, EventStore, StoredEvent
from dspy_ledger.timestamps import canonical_time, to_datetime, utc_now
from dspy_ledger.wire import unpack

__all__ = ["Erasure", "Found", "Selection", "Tally", "expired_before", "find"]

_REGISTERED = EVENT_TYPES["ProgramRegistered"]
_EXECUTED = EVENT_TYPES["ExecutionCompleted"]
_EVALUATED = EVENT_TYPES["EvaluationSaved"]
_COUNTED = {_EXECUTED: "executions", _EVALUATED: "evaluations", _REGISTERED: "versions"}

_READ_AT_ONCE = 200
_ERASED_AT_ONCE = 50_000  # half a second; each time, a file of lines that they lie in is written again
_RECLAIM = 10.0  # seconds that an answer waits for freed space; a reader may be in the way
_EVERY = 3600.0  # seconds between two looks at what has expired
_SLICE = 0.2  # seconds of work between two batches of ingest


@dataclass(frozen=True, slots=True)
class Selection:
    """Which bodies are meant: those for which everything that is given holds.

    ``execution``: of that execution, and of what was said about it. ``user``: of executions with that user
    id, and of what was said about them or by that user. ``program``: of that program, the state of its
    versions included, unless an execution or a user is given too. ``recorded_by``: canonical time, of
    what was recorded by then; alone it means executions and evaluations.

    Raises:
        InvalidInput: nothing is given, or an empty id.
    """

    execution: str | None = None
    user: str | None = None
    program: str | None = None
    recorded_by: str | None = None

    def __post_init__(self) -> None:
        if not self.given:
            raise InvalidInput("say what to erase: --execution, --user, --program or --older-than")
        if empty := [name for name in self.given if not getattr(self, name)]:
            raise InvalidInput(f"--{empty[0]} is empty; write an id, or leave the option out")

    @property
    def given(self) -> list[str]:
        """The names of what is given."""
        return [name for name, value in asdict(self).items() if value is not None]

    def means(
        self, kind: str | None, data: Mapping[str, Any], about: Mapping[str, Any], recorded_at: str
    ) -> bool:
        """Whether the body of an event is meant.

        Args:
            kind: its type; None when it is not known.
            data: its own fields.
            about: those of the execution that it is about, if it is and that is known.
            recorded_at: when it was stored.
        """
        if kind == _REGISTERED and (self.program is None or self.execution or self.user):
            return False
        return (
            (self.recorded_by is None or recorded_at <= self.recorded_by)
            and (self.execution is None or data.get("execution_id") == self.execution)
            and (self.user is None or self.user in (data.get("user_id"), about.get("user_id")))
            and (self.program is None or self.program in (data.get("program_id"), about.get("program_id")))
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A slice of a search: ``at`` of ``end`` positions were looked at, and these are meant."""

    at: int
    end: int
    events: Sequence[StoredEvent] = ()
    dead_letters: Sequence[int] = ()


class Tally:
    """Counts what was found as people do: every replica registers a program, and it is one version."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys((*_COUNTED.values(), "dead_letters"), 0)
        self._contents: set[tuple[str, str]] = set()

    def add(self, found: Found) -> None:
        """Count a slice."""
        for event in found.events:
            if event.type == _REGISTERED:
                self._contents.add((event.data["program_id"], event.data["content_hash"]))
            else:
                self.counts[_COUNTED[event.type]] += 1
        self.counts[_COUNTED[_REGISTERED]] = len(self._contents)
        self.counts["dead_letters"] += len(found.dead_letters)


def find(store: EventStore, selection: Selection) -> Iterator[Found]:
    """Everything that has a body which is meant: events first, then dead letters, slice by slice."""
    before = selection.recorded_by
    end = store.last_position() if before is None else store.position_at(before)
    at = 0
    while at < end and (batch := store.read(at, min(_READ_AT_ONCE, end - at), types=tuple(_COUNTED))):
        at = min(batch[-1].position, end)
        yield Found(at, end, [e for e in batch if e.position <= end and _is_meant(e, selection, store)])
    last: int | None = None
    while letters := store.dead_letters(limit=_READ_AT_ONCE, before=last):
        last = letters[-1].id
        yield Found(
            end, end, (), [d.id for d in letters if d.id is not None and _holds_meant(d, selection, store)]
        )


def _is_meant(event: StoredEvent, selection: Selection, store: EventStore) -> bool:
    return event.body is not None and selection.means(
        event.type, event.data, _about(event.type, event.data, store), event.recorded_at
    )


def _holds_meant(letter: DeadLetter, selection: Selection, store: EventStore) -> bool:
    """Whether a dead letter came with such a body; one that can't be read is told by its age only."""
    fields = unpack(letter.raw)
    if BODY_FIELD not in fields:
        return False
    try:
        envelope = orjson.loads(fields[DATA_FIELD])
        kind, data = envelope["type"], envelope["data"]
        data.items()
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        kind, data = None, {}
    return selection.means(kind, data, _about(kind, data, store), letter.recorded_at or "")


def _about(kind: str | None, data: Mapping[str, Any], store: EventStore) -> Mapping[str, Any]:
    """The fields of the execution that an evaluation is about; an execution's id is its event's."""
    execution_id = data.get("execution_id")
    if kind != _EVALUATED or not isinstance(execution_id, str):
        return {}
    event = store.event(execution_id)
    return event.data if event is not None and event.type == _EXECUTED else {}


def expired_before(now: str, days: int) -> str:
    """The moment before which bodies are expired: the start of the UTC day that many days ago.

    Whole days, so that a day's file of lines is written again once and not at every look.
    """
    day = to_datetime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    return canonical_time((day - timedelta(days=days)).isoformat())


class Erasure:
    """Erases on request, and what has expired; called without arguments it is a chore of the writer.

    Args:
        store: the ledger; this is its one writer.
        projections: the views to take the bodies out of before a request is answered.
        drop_copies: removes other copies of bodies, of views that are built; the names of those that stay.
        retention_days: how long bodies of executions and evaluations are kept; None for ever.
        now: the time of day (canonical text).
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        store: EventStore,
        projections: Sequence[Projection] = (),
        *,
        drop_copies: Callable[[], list[str]] = list,
        retention_days: int | None = None,
        now: Callable[[], str] = utc_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._projections = projections
        self._drop_copies = drop_copies
        self._days = retention_days
        self._now = now
        self._clock = clock
        self._due = clock()
        self._expiring: Iterator[None] | None = None
        self._unreclaimed = True  # who was here before may have ended too early

    def forget(self, arguments: Mapping[str, Any]) -> Work:
        """Erase what the fields of a :class:`Selection` mean.

        Returns (the answer): how many ``executions``, ``evaluations``, ``versions`` and ``dead_letters`` lost
        their bodies; ``reclaimed``, whether the freed space is given back; ``behind``, the views that could
        not follow yet; ``copies``, folders in the data dir that hold copies until who is at them ends.
        """
        selection = Selection(**arguments)
        reason = "asked for: " + ", ".join(selection.given)  # no id: this stays in the ledger
        tally = Tally()
        positions: list[int] = []
        size = 0
        for found in find(self._store, selection):
            tally.add(found)
            for event in found.events:
                positions.append(event.position)
                size += event.size
            if len(positions) >= _ERASED_AT_ONCE or size >= MOST_ERASED:
                self._erase(positions, reason)
                positions, size = [], 0
            if found.dead_letters:
                self._store.drop_dead_letters(found.dead_letters)
                self._unreclaimed = True
            yield Progress(found.at, found.end, "erasing")
        if positions:
            self._erase(positions, reason)
        upto = self._store.last_position()
        behind: list[str] = []
        for projection in self._projections:
            behind += yield from self._follow(projection, upto)
        copies = self._drop_copies()
        deadline = self._clock() + _RECLAIM
        while self._unreclaimed and self._clock() < deadline:
            self._unreclaimed = not self._store.reclaim()
            yield Progress(1, 1, "giving space back")
        return {**tally.counts, "reclaimed": not self._unreclaimed, "behind": behind, "copies": copies}

    def __call__(self) -> bool:
        """A slice of what is due; whether it wants to be called again at once."""
        if self._expiring is None:
            if self._days is not None and self._clock() >= self._due:
                self._due = self._clock() + _EVERY
                self._expiring = self._expire(expired_before(self._now(), self._days), self._days)
            elif self._unreclaimed:
                self._unreclaimed = not self._store.reclaim()
            return self._expiring is not None
        expiring, self._expiring = self._expiring, None  # an exception ends it; it begins anew then
        deadline = self._clock() + _SLICE
        for _ in expiring:
            if self._clock() >= deadline:
                self._expiring = expiring
                return True
        return False

    def _expire(self, before: str, days: int) -> Iterator[None]:
        at, end = 0, self._store.position_at(before)
        types = (_EXECUTED, _EVALUATED)
        while positions := self._store.with_body(at, _ERASED_AT_ONCE, types=types, upto=end):
            at = positions[-1]
            self._erase(positions, f"older than {days} days")
            yield

    def _erase(self, positions: Sequence[int], reason: str) -> None:
        self._unreclaimed = True
        self._store.erase(positions, reason)

    def _follow(self, projection: Projection, upto: int) -> Generator[Progress, None, list[str]]:
        """Bring a view on to a position, no further: more may be stored meanwhile than it folds.

        Returns its name if it can't follow for now.
        """
        try:
            while projection.position() < upto:
                advance(self._store, projection)
                yield Progress(projection.position(), upto, f"erasing from {projection.name}")
        except LedgerUnavailable:
            return [projection.name]  # it needs Redis: it follows when that is back
        except Exception as error:
            if not is_disk_full(error):
                raise
            return [projection.name]  # it follows when there is room
        return []
