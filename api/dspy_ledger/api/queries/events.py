"""Events as they lie in the store, in order of position: as far as the view has folded them, no further.

So whatever an event here tells of can be asked for at once, and its version has the label of the view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from dspy_ledger.api.cursors import decode_cursor, encode_cursor
from dspy_ledger.api.parameters import BadParameters, Given, Moment
from dspy_ledger.api.queries.paging import Item
from dspy_ledger.api.reading import Question, Sources
from dspy_ledger.errors import known_list
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.store import MOST_READ, SqliteEventStore, StoredEvent
from dspy_ledger.timestamps import canonical_time, to_datetime

__all__ = [
    "EventFilter",
    "EventQuery",
    "Slice",
    "first_position",
    "page_of_events",
    "require_reached",
    "short_type",
    "slice_of",
]

_SCANNED = 20_000
"""Positions that are gone through at once for events of one type or program: some 30 ms."""

_SHORT = {kind: short for short, kind in EVENT_TYPES.items()}
_FEW = {EVENT_TYPES["ProgramRegistered"]}  # has an index of its own


def _types(given: object) -> tuple[str, ...]:
    kinds = []
    for name in str(given).split(","):
        kind = EVENT_TYPES.get(name.strip(), name.strip())
        if kind not in _SHORT:
            raise ValueError(f"there is no event type {name.strip()[:100]!r} ({known_list(EVENT_TYPES)})")
        kinds.append(kind)
    return tuple(sorted(set(kinds)))


Types = Annotated[tuple[str, ...], BeforeValidator(_types), WithJsonSchema({"type": "string"})]


class EventFilter(BaseModel):
    """Which events, beginning where."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    after: int | None = Field(None, ge=0, lt=2**63, description="Only what comes after this position.")
    type: Types = Field(
        (), description="Only of this type, ExecutionCompleted or in full; several with commas between."
    )
    program_id: Given | None = Field(None, description="Only of this program.")
    since: Moment | None = Field(
        None, description="Only what was stored at this time or later (RFC 3339, or a date)."
    )
    bodies: bool = Field(False, description="With bodies: inputs, outputs, calls, state, rows.")


class EventQuery(EventFilter):
    """One page of events."""

    name: ClassVar[str] = "events"

    until: Moment | None = Field(
        None, description="Only what was stored before this time (RFC 3339, or a date)."
    )
    limit: int = Field(100, ge=1, le=1000, description="How many items a page has at most.")
    cursor: Given | None = Field(None, description="next_cursor of the page before, with the same filters.")

    def filters(self) -> dict[str, object]:
        """The filters that were given."""
        return self.model_dump(exclude={"limit", "cursor"}, exclude_none=True)


@dataclass(frozen=True, slots=True)
class Slice:
    """Events that match, and the position up to which there are no others."""

    events: list[StoredEvent]
    items: list[Item]
    last: int


def short_type(event: StoredEvent) -> str:
    """``ExecutionCompleted``, of an event of whichever version of its type."""
    return _SHORT[event.type]


def first_position(sources: Sources, query: EventFilter, default: int) -> int:
    """The position after which a query begins; ``default`` when it doesn't say.

    Raises:
        BadParameters: the ledger does not reach that far.
    """
    after = query.after
    if after is not None:
        require_reached(sources, "after", after)
    if query.since is not None:
        after = max(after or 0, _stored_before(sources, query.since))
    return default if after is None else after


def require_reached(sources: Sources, parameter: str, after: int) -> None:
    """See that the ledger reaches a position that somebody says to have come to.

    It does not where an older copy of it was put in its place: what is stored from then on would be passed
    over up to that position.

    Raises:
        BadParameters: it does not.
    """
    end = sources.ask_store(SqliteEventStore.last_position)
    if after > end:
        raise BadParameters.one(parameter, f"the ledger ends at {end}; give a position up to it")


def page_of_events(question: Question, sources: Sources, query: EventQuery) -> dict[str, Any]:
    """One page, and where it ends; it may hold fewer events than asked for, or none, and not be the last."""
    if query.cursor is None:
        after = first_position(sources, query, 0)
    else:
        after = int(decode_cursor(query.cursor, query.name, query.filters(), int))
        require_reached(sources, "cursor", after)
    end = question.position
    if query.until is not None:
        end = min(end, _stored_before(sources, query.until))
    found = slice_of(question, sources, query, after, query.limit, end)
    more = found.last < end
    return {
        "items": found.items,
        "next_cursor": encode_cursor(query.name, query.filters(), found.last) if more else None,
        "last_position": found.last,
    }


def slice_of(
    question: Question, sources: Sources, query: EventFilter, after: int, limit: int, end: int
) -> Slice:
    """The next events that match, up to ``limit`` of them and to position ``end``."""
    filtered = query.program_id is not None or query.type
    upto = min(end, after + _SCANNED) if filtered and not _FEW.issuperset(query.type or " ") else end
    events = sources.ask_store(
        lambda store: store.read(
            after, limit, types=query.type, program_id=query.program_id, upto=upto, bodies=query.bodies
        )
    )
    cut = len(events) == limit or sum(event.size for event in events) >= MOST_READ
    last = events[-1].position if cut else max(after, upto)
    return Slice(events, _told(question, events, bodies=query.bodies), last)


def _told(question: Question, events: Sequence[StoredEvent], *, bodies: bool) -> list[Item]:
    labels: dict[tuple[object, object], str | None] = {}
    items = []
    for event in events:
        content = event.data.get("program_id"), event.data.get("content_hash")
        if content not in labels:
            row = question.db.execute(
                "SELECT version FROM versions WHERE program_id = ? AND content_hash = ?", content
            ).fetchone()
            labels[content] = row[0] if row else None
        item: Item = {
            "position": event.position,
            "recorded_at": event.recorded_at,
            "program_version": labels[content],
            "event": orjson.Fragment(event.payload),
        }
        if bodies:
            item["body"] = None if event.body is None else orjson.Fragment(event.body)
        items.append(item)
    return items


def _stored_before(sources: Sources, moment: str) -> int:
    """The last position that was recorded before a moment."""
    try:
        before = canonical_time((to_datetime(moment) - timedelta(microseconds=1)).isoformat())
    except (OverflowError, ValueError):  # the first moment there is
        return 0
    return sources.ask_store(lambda store: store.position_at(before))
