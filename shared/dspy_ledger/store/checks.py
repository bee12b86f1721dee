"""Whether a store is sound: each column against the payload, each payload against its digest."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from hashlib import sha256

import orjson

from dspy_ledger.errors import InvalidEvent
from dspy_ledger.keys import BODY_FIELD, DATA_FIELD
from dspy_ledger.store.opening import account_row, recount
from dspy_ledger.store.protocol import StoredEvent
from dspy_ledger.store.seals import seal
from dspy_ledger.wire import body_digest, decode, unpack

__all__ = ["problems"]

_BATCH = 1000


def problems(
    db: sqlite3.Connection,
    read: Callable[[int, int], list[StoredEvent]],
    last: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[str]:
    """What is wrong, a sentence each; the first of a kind that makes the rest unreadable ends it."""
    try:
        for (line,) in db.execute("PRAGMA integrity_check(20)"):
            if line != "ok":
                yield f"the database is damaged: {line}"
        yield from _events(db, read, last, progress)
        yield from _dead_letters(db)
        yield from _accounts(db)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter of the text of the former
        yield f"the database can't be read: {error}"


def _events(
    db: sqlite3.Connection,
    read: Callable[[int, int], list[StoredEvent]],
    last: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[str]:
    at, recorded_at = 0, ""
    while batch := read(at, _BATCH):
        seals = dict(
            db.execute(
                "SELECT position, seal FROM events WHERE position BETWEEN ? AND ?",
                (at + 1, batch[-1].position),
            )
        )
        for event in batch:
            if event.position != at + 1:
                yield f"position {at + 1} is missing"
            at = event.position
            try:
                yield from _event(event, recorded_at, seals.get(at))
                recorded_at = max(recorded_at, event.recorded_at)
            except (TypeError, ValueError, AttributeError) as error:  # a flipped byte may change a type
                yield f"position {at}: it can't be read ({error})"
        if progress is not None:
            progress(at, last)


def _event(event: StoredEvent, previous: str, sealed: int | None) -> Iterator[str]:
    at = event.position
    if event.recorded_at < previous:
        yield f"position {at}: it is recorded before the one ahead of it"
    if sealed != seal(at, event.stream_id, event.recorded_at, event.digest):
        yield f"position {at}: stream_id, recorded_at or digest is not what was written"
    if not isinstance(event.payload, bytes) or sha256(event.payload).hexdigest() != event.digest:
        yield f"position {at}: the payload is not what was written"
        return
    if event.body is not None and body_digest(event.body) != event.envelope.get("bodydigest"):
        yield f"position {at}: the body is not what was written"
        return
    fields = {DATA_FIELD: event.payload} | ({} if event.body is None else {BODY_FIELD: event.body})
    try:
        entry = decode(fields, body_may_be_gone=True)
    except InvalidEvent as error:
        yield f"position {at}: it is no valid event ({error.reason}: {error.detail})"
        return
    for name in ("event_id", "type", "subject", "source", "sequence", "time"):
        if getattr(entry, name) != getattr(event, name):
            yield f"position {at}: column {name} is not what the payload says"


def _dead_letters(db: sqlite3.Connection) -> Iterator[str]:
    for letter_id, reason, raw, digest in db.execute(
        "SELECT id, reason, raw, digest FROM dead_letters WHERE dropped_at IS NULL ORDER BY id"
    ):
        try:
            written = unpack(raw)[DATA_FIELD] if reason == "conflict" else raw
            sound = sha256(written).hexdigest() == digest
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            sound = False
        if not sound:
            yield f"dead letter {letter_id}: its bytes are not what was written"


def _accounts(db: sqlite3.Connection) -> Iterator[str]:
    db.execute("BEGIN")  # both of one moment: the writer may be at work
    try:
        kept = {row[0]: row[1:8] for row in db.execute("SELECT * FROM producers")}
        counted = {source: account_row(source, a, "", "")[1:8] for source, a in recount(db).items()}
    finally:
        db.execute("COMMIT")
    for source in sorted(kept.keys() | counted.keys(), key=str):
        if kept.get(source) != counted.get(source):
            yield f"producer {source}: its account is not what the events say"
