"""The event store in one SQLite file: WAL mode, ``synchronous=FULL``, one writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from dspy_ledger.database import closed_on_error, connect
from dspy_ledger.errors import StoreError
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.keys import BODY_FIELD, DATA_FIELD
from dspy_ledger.sequences import SequenceSet
from dspy_ledger.store.protocol import (
    Appended,
    DeadLetter,
    ProducerAccount,
    StoredEvent,
    StreamCheckpoint,
)
from dspy_ledger.timestamps import utc_now
from dspy_ledger.wire import Entry, pack

__all__ = ["SCHEMA_VERSION", "SqliteEventStore"]

SCHEMA_VERSION = 1

_REGISTERED = EVENT_TYPES["ProgramRegistered"]
_REPORTED = EVENT_TYPES["ProducerReported"]
_COLUMNS = (
    "e.position, e.event_id, e.stream_id, e.type, e.subject, e.source, e.sequence,"
    " e.time, e.recorded_at, e.payload, e.digest, b.body"
)
_SELECT = f"SELECT {_COLUMNS} FROM events e LEFT JOIN bodies b USING (position)"  # noqa: S608  constants only
_KNOWN_TYPES = {kind: kind for kind in EVENT_TYPES.values()}
_CHUNK = 500  # ids per IN (…): below every SQLite's limit of variables


class SqliteEventStore:
    """The ledger at ``path``; made when it is not there, unless ``readonly``.

    Args:
        path: the database file; its folder is made when missing.
        readonly: open for questions only; never creates or migrates.
        now: the writer's clock (canonical time text), an argument so that tests may turn it.

    Raises:
        StoreError: not there (readonly), not readable, not a ledger, or of a newer schema.
    """

    def __init__(self, path: Path, *, readonly: bool = False, now: Callable[[], str] = utc_now) -> None:
        self.path = path
        self._now = now
        try:
            self._db = _open_readonly(path) if readonly else _open_writer(path)
            with closed_on_error(self._db):
                self._ledger_id = self._check_meta()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"can't open the event store {path}: {error}; restore a backup of it, or move it away"
            ) from None
        self._accounts: dict[str, SequenceSet] = {}

    def _check_meta(self) -> str:
        meta = dict(self._db.execute("SELECT key, value FROM meta"))
        version = int(meta.get("schema_version", 0))
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has schema {version}, this release knows {SCHEMA_VERSION}; upgrade dspy-ledger"
            )
        return str(meta["ledger_id"])

    @property
    def ledger_id(self) -> str:
        """UUID given when the ledger was made."""
        return self._ledger_id

    def last_position(self) -> int:
        """The highest position; 0 when the ledger is empty."""
        return self._db.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0]  # type: ignore[no-any-return]

    def append(
        self,
        entries: Sequence[tuple[str, Entry]],
        *,
        dead_letters: Sequence[DeadLetter] = (),
        checkpoint: StreamCheckpoint | None = None,
    ) -> Appended:
        """Append a batch in one transaction; see the protocol.

        Raises:
            sqlite3.Error: the commit failed; nothing of the batch was stored.
        """
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            appended = self._append(entries, list(dead_letters), checkpoint)
            db.execute("COMMIT")
        except BaseException:
            self._accounts.clear()
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return appended

    def _append(
        self,
        entries: Sequence[tuple[str, Entry]],
        dead: list[DeadLetter],
        checkpoint: StreamCheckpoint | None,
    ) -> Appended:
        last, previous = self._db.execute(
            "SELECT coalesce(max(position), 0), coalesce((SELECT recorded_at FROM events ORDER BY position"
            " DESC LIMIT 1), '') FROM events"
        ).fetchone()
        recorded_at = max(previous, self._now())
        seen = self._known_digests([entry.event_id for _, entry in entries])
        events: list[StoredEvent] = []
        duplicates = 0
        for stream_id, entry in entries:
            known = seen.get(entry.event_id)
            if known is None:
                seen[entry.event_id] = entry.digest
                events.append(_place(last + 1 + len(events), stream_id, entry, recorded_at))
            elif known == entry.digest or self._same_registration(entry, events):
                duplicates += 1
            else:
                dead.append(_conflict(stream_id, entry))
        self._insert(events)
        dead_count = self._bury(dead, recorded_at)
        marks = self._settle(entries, dead, recorded_at)
        if checkpoint is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO streams VALUES (?, ?, ?)",
                (checkpoint.stream, checkpoint.last_id, checkpoint.server),
            )
        return Appended(events, duplicates, dead_count, marks)

    def _known_digests(self, event_ids: list[str]) -> dict[str, str]:
        known: dict[str, str] = {}
        for at in range(0, len(event_ids), _CHUNK):
            chunk = event_ids[at : at + _CHUNK]
            marks = ",".join("?" * len(chunk))
            known.update(
                self._db.execute(f"SELECT event_id, digest FROM events WHERE event_id IN ({marks})", chunk)  # noqa: S608
            )
        return known

    def _same_registration(self, entry: Entry, batch: list[StoredEvent]) -> bool:
        """Whether this registration differs from the stored one only in its version (a proposal)."""
        if entry.type != _REGISTERED:
            return False
        stored = next((e for e in batch if e.event_id == entry.event_id), None) or self.event(entry.event_id)
        return (
            stored is not None
            and stored.type == _REGISTERED
            and _without_version(stored.envelope) == _without_version(entry.envelope)
        )

    def _insert(self, events: list[StoredEvent]) -> None:
        self._db.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    e.position, e.event_id, e.stream_id, e.type, e.subject, e.source, e.sequence,
                    e.time, e.recorded_at, e.payload, e.digest,
                )
                for e in events
            ],
        )  # fmt: skip
        self._db.executemany(
            "INSERT INTO bodies VALUES (?, ?)", [(e.position, e.body) for e in events if e.body is not None]
        )

    def _bury(self, dead: list[DeadLetter], recorded_at: str) -> int:
        before = self._db.total_changes
        self._db.executemany(
            "INSERT OR IGNORE INTO dead_letters"
            " (stream_id, digest, reason, detail, recorded_at, raw, source, sequence)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (d.stream_id, d.digest, d.reason, d.detail, recorded_at, d.raw, d.source, d.sequence)
                for d in dead
            ],
        )
        return self._db.total_changes - before

    def _settle(
        self, entries: Sequence[tuple[str, Entry]], dead: list[DeadLetter], now: str
    ) -> dict[str, int]:
        """Add the batch's sequence numbers to their producers' accounts; the marks it touched."""
        touched: dict[str, SequenceSet] = {}

        def account(source: str) -> SequenceSet:
            if source not in touched:
                touched[source] = self._account(source)
            return touched[source]

        for _, entry in entries:
            if entry.sequence > 0:
                account(entry.source).add(entry.sequence)
            if entry.type == _REPORTED:
                report = entry.envelope["data"]
                for first, last in (*report.get("dropped", ()), *report.get("unconfirmed", ())):
                    if 1 <= first <= last:
                        account(entry.source).add(first, last)
        for letter in dead:
            if letter.source is not None and letter.sequence is not None and letter.sequence > 0:
                account(letter.source).add(letter.sequence)
        self._db.executemany(
            "INSERT INTO producers (source, settled, mark, first_seen, last_seen) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (source) DO UPDATE SET"
            " settled = excluded.settled, mark = excluded.mark, last_seen = excluded.last_seen",
            [(source, orjson.dumps(s.ranges).decode(), s.mark, now, now) for source, s in touched.items()],
        )
        return {source: s.mark for source, s in touched.items()}

    def _account(self, source: str) -> SequenceSet:
        if source not in self._accounts:
            row = self._db.execute("SELECT settled FROM producers WHERE source = ?", (source,)).fetchone()
            self._accounts[source] = SequenceSet(map(tuple, orjson.loads(row[0])) if row else ())
        return self._accounts[source]

    def read(self, after: int, limit: int, *, types: Sequence[str] = ()) -> list[StoredEvent]:
        """Up to ``limit`` events with position > ``after``, in order, bodies included."""
        # Literals, not variables: only then can SQLite see that the partial index fits.
        wanted = " OR ".join(f"e.type = '{_KNOWN_TYPES[kind]}'" for kind in types) or "1"
        rows = self._db.execute(
            f"{_SELECT} WHERE e.position > ? AND ({wanted}) ORDER BY e.position LIMIT ?", (after, limit)
        )
        return [StoredEvent(*row) for row in rows]

    def read_all(self, *, types: Sequence[str] = (), upto: int | None = None) -> Iterator[StoredEvent]:
        """All events in order (up to a position), a thousand at a time."""
        after = 0
        while batch := self.read(after, 1000, types=types):
            for event in batch:
                if upto is not None and event.position > upto:
                    return
                yield event
            after = batch[-1].position

    def event_at(self, position: int) -> StoredEvent | None:
        """The event at a position."""
        return self._one("e.position = ?", position)

    def event(self, event_id: str) -> StoredEvent | None:
        """The event of that id."""
        return self._one("e.event_id = ?", event_id)

    def _one(self, where: str, value: object) -> StoredEvent | None:
        row = self._db.execute(f"{_SELECT} WHERE {where}", (value,)).fetchone()
        return StoredEvent(*row) if row else None

    def stream_checkpoint(self, stream: str) -> StreamCheckpoint | None:
        """Where reading that stream goes on."""
        row = self._db.execute(
            "SELECT stream, last_id, server FROM streams WHERE stream = ?", (stream,)
        ).fetchone()
        return StreamCheckpoint(*row) if row else None

    def producers(self) -> list[ProducerAccount]:
        """Every producer's account, by source."""
        rows = self._db.execute(
            "SELECT source, mark, settled, first_seen, last_seen FROM producers ORDER BY source"
        )
        return [
            ProducerAccount(source, mark, tuple(map(tuple, orjson.loads(settled))), first, last)
            for source, mark, settled, first, last in rows
        ]

    def dead_letter_count(self) -> int:
        """How many dead letters are kept."""
        return self._db.execute("SELECT count(*) FROM dead_letters").fetchone()[0]  # type: ignore[no-any-return]

    def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """The newest dead letters."""
        rows = self._db.execute(
            "SELECT stream_id, reason, detail, raw, digest, source, sequence FROM dead_letters"
            " ORDER BY id DESC LIMIT ?",
            (limit,),
        )
        return [DeadLetter(*row) for row in rows]

    def close(self) -> None:
        """Let go of the database."""
        self._db.close()


def _open_writer(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closed_on_error(connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("BEGIN IMMEDIATE")
        if not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
            schema = files("dspy_ledger.store").joinpath("schema.sql").read_text("utf-8")
            for statement in _statements(schema):
                db.execute(statement)
            db.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [
                    ("ledger_id", str(uuid4())),
                    ("schema_version", str(SCHEMA_VERSION)),
                    ("created_at", utc_now()),
                ],
            )
        db.execute("COMMIT")
    return db


def _open_readonly(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise StoreError(f"there is no event store at {path}; start the projector first")
    with closed_on_error(connect(path, readonly=True)) as db:
        db.execute("PRAGMA query_only = ON")
    return db


def _statements(schema: str) -> Iterator[str]:
    """The statements of a schema file, one by one: ``executescript`` would end the transaction."""
    statement = ""
    for line in schema.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _place(position: int, stream_id: str, entry: Entry, recorded_at: str) -> StoredEvent:
    stored = StoredEvent(
        position, entry.event_id, stream_id, entry.type, entry.subject, entry.source, entry.sequence,
        entry.time, recorded_at, entry.payload, entry.digest, entry.body,
    )  # fmt: skip
    stored.__dict__["envelope"] = entry.envelope  # already decoded: spare the projections the second time
    return stored


def _conflict(stream_id: str, entry: Entry) -> DeadLetter:
    fields = {DATA_FIELD: entry.payload}
    if entry.body is not None:
        fields[BODY_FIELD] = entry.body
    return DeadLetter(
        stream_id,
        "conflict",
        f"event id {entry.event_id} is stored already with other content",
        pack(fields),
        entry.digest,
        entry.source,
        entry.sequence,
    )


def _without_version(envelope: dict[str, Any]) -> dict[str, Any]:
    return {**envelope, "data": {**envelope["data"], "version": None}}
