"""The event store in one SQLite file: WAL mode, ``synchronous=FULL``, one writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from uuid_utils import uuid7

from dspy_ledger import wire
from dspy_ledger.database import BETWEEN_LOOKS, closed_on_error, insert, is_of_disk, told_of_disk
from dspy_ledger.errors import StoreError
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.keys import BODY_FIELD, DATA_FIELD
from dspy_ledger.sequences import SequenceSet
from dspy_ledger.store.accounts import Account
from dspy_ledger.store.checks import problems
from dspy_ledger.store.opening import account_row, open_readonly, open_writer, schema_version
from dspy_ledger.store.protocol import (
    MOST_ERASED,
    MOST_READ,
    Appended,
    DeadLetter,
    Parked,
    ProducerAccount,
    StoredEvent,
    StreamCheckpoint,
)
from dspy_ledger.store.seals import seal
from dspy_ledger.timestamps import utc_now
from dspy_ledger.upcasting import UPCASTERS, older_types, upcast_type
from dspy_ledger.wire import Entry, pack

__all__ = ["SqliteEventStore"]

_REGISTERED = EVENT_TYPES["ProgramRegistered"]
_REPORTED = EVENT_TYPES["ProducerReported"]
_COLUMNS = (
    "e.position, e.event_id, e.stream_id, e.type, e.subject, e.source, e.sequence,"
    " e.time, e.recorded_at, e.payload, e.digest"
)
_SELECT_WITHOUT_BODY = f"SELECT {_COLUMNS} FROM events e"  # noqa: S608  constants only
_SELECT = f"SELECT {_COLUMNS}, b.body FROM events e LEFT JOIN bodies b USING (position)"  # noqa: S608
_OF_PROGRAM = (  # a producer of somebody else's may leave the subject out
    "(e.subject = ? OR e.subject IS NULL AND json_extract(CAST(e.payload AS TEXT), '$.data.program_id') = ?)"
)
_ERASED = EVENT_TYPES["BodyErased"]
_KNOWN_TYPES = {kind: kind for kind in EVENT_TYPES.values()}
_CHUNK = 500  # ids per IN (…): below every SQLite's limit of variables
_ERASED_AT_ONCE = 1000  # event ids in one BodyErased


class SqliteEventStore:
    """The ledger at ``path``; made when it is not there, unless ``readonly``.

    Args:
        path: the database file; its folder is made when missing.
        readonly: open for questions only; never creates or migrates.
        ledger_id: the id of a ledger that is made (that of an export that is to be imported).
        now: the writer's clock (canonical time text), an argument so that tests may turn it.
        new_id: ids for the events that the writer itself appends; likewise.

    Raises:
        StoreError: not there (readonly), not readable, not a ledger, or of a newer schema.
    """

    def __init__(
        self,
        path: Path,
        *,
        readonly: bool = False,
        ledger_id: str | None = None,
        now: Callable[[], str] = utc_now,
        new_id: Callable[[], str] = lambda: str(uuid7()),
    ) -> None:
        self.path = path
        self._readonly = readonly
        self._now = now
        self._new_id = new_id
        try:
            self._db = open_readonly(path) if readonly else open_writer(path, ledger_id=ledger_id)
            with closed_on_error(self._db):
                schema_version(self._db, path)
                row = self._db.execute("SELECT value FROM meta WHERE key = 'ledger_id'").fetchone()
                self._ledger_id = str(row[0])
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:  # the last of a schema that is damaged
            advice = f"{error}; restore a backup of it, or move it away"
            told = told_of_disk(error, path.parent) if is_of_disk(error) else advice
            raise StoreError(f"can't open the event store {path}: {told}") from None
        self._accounts: dict[str, Account] = {}
        self._data_version: int | None = None

    @classmethod
    def create(cls, path: Path, *, ledger_id: str) -> SqliteEventStore:
        """Make an empty ledger with a given id.

        Raises:
            StoreError: there is one already, or it can't be made.
        """
        if path.exists():
            raise StoreError(f"there is an event store at {path} already; move it away first")
        return cls(path, ledger_id=ledger_id)

    @property
    def ledger_id(self) -> str:
        """UUID given when the ledger was made."""
        return self._ledger_id

    def limit(self, is_over: Callable[[], bool]) -> None:
        """Have a question end as interrupted once that says so, for which it looks often."""
        self._db.set_progress_handler(is_over, BETWEEN_LOOKS)

    def last_position(self) -> int:
        """The highest position; 0 when the ledger is empty."""
        return self._db.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0]  # type: ignore[no-any-return]

    def position_at(self, time: str) -> int:
        """The last position recorded at or before a moment; 0 when none was."""
        low, high = 0, self.last_position()
        while low < high:  # recorded_at never goes back, so the moment can be searched for by halves
            middle = (low + high + 1) // 2
            select = "SELECT recorded_at FROM events WHERE position = ?"
            recorded_at = self._db.execute(select, (middle,)).fetchone()[0]
            low, high = (middle, high) if recorded_at <= time else (low, middle - 1)
        return low

    def append(
        self,
        entries: Sequence[tuple[str, Entry]],
        *,
        dead_letters: Sequence[DeadLetter] = (),
        checkpoint: StreamCheckpoint | None = None,
        resolves: Sequence[int] = (),
    ) -> Appended:
        """Append a batch in one transaction; see the protocol.

        Raises:
            sqlite3.Error: the commit failed; nothing of the batch was stored.
        """
        with self._transaction():
            return self._append(entries, list(dead_letters), checkpoint, resolves)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            # Another connection of the writer's process may have written since.
            version = db.execute("PRAGMA data_version").fetchone()[0]
            if version != self._data_version:
                self._data_version = version
                self._accounts.clear()
            yield
            db.execute("COMMIT")
        except BaseException:
            self._accounts.clear()
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _append(
        self,
        entries: Sequence[tuple[str, Entry]],
        dead: list[DeadLetter],
        checkpoint: StreamCheckpoint | None,
        resolves: Sequence[int],
    ) -> Appended:
        last, recorded_at = self._next()
        self._db.executemany(
            "DELETE FROM dead_letters WHERE id = ?", [(letter_id,) for letter_id in resolves]
        )
        own = self._own_source
        dead += [_pretended(stream_id, entry) for stream_id, entry in entries if entry.source == own]
        entries = [(stream_id, entry) for stream_id, entry in entries if entry.source != own]
        seen = self._known_digests([entry.event_id for _, entry in entries])
        events: list[StoredEvent] = []
        duplicates = 0
        for stream_id, entry in entries:
            known = seen.get(entry.event_id)
            if known is None:
                seen[entry.event_id] = entry.digest
                last += 1
                events.append(_place(last, stream_id, entry, recorded_at))
            elif known == entry.digest or self._same_registration(entry, events):
                duplicates += 1
            else:
                dead.append(_conflict(stream_id, entry))
        self._insert(events)
        buried = self._bury(dead, recorded_at)
        touched: dict[str, Account] = {}
        for _, entry in entries:
            self._account(entry.source, touched).arrive(entry.sequence)
        self._settle(events, dead, recorded_at, touched)
        if checkpoint is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO streams VALUES (?, ?, ?)",
                (checkpoint.stream, checkpoint.last_id, checkpoint.server),
            )
        marks = {source: account.settled.mark for source, account in touched.items()}
        return Appended(events, duplicates, buried, marks)

    def _next(self) -> tuple[int, str]:
        """The last position, and the moment at which what is appended now is recorded."""
        row = self._db.execute(
            "SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1"
        ).fetchone()
        last, previous = row or (0, "")
        return last, max(previous, self._now())

    def restore(self, events: Sequence[StoredEvent], dead_letters: Sequence[DeadLetter] = ()) -> int:
        """Take in events of an export as they are; see the protocol.

        Raises:
            StoreError: a position holds another event already, or positions do not go on without a hole.
        """
        with self._transaction():
            last, _ = self._next()
            old = [event for event in events if event.position <= last]
            new = events[len(old) :]
            for event in old:
                stored = self.event_at(event.position)
                if stored is None or (stored.event_id, stored.digest) != (event.event_id, event.digest):
                    raise StoreError(
                        f"position {event.position} holds another event than the export's {event.event_id};"
                        " this is another history of the ledger"
                    )
            for position, event in enumerate(new, start=last + 1):
                if event.position != position:
                    raise StoreError(f"position {position} is missing before {event.position}")
            self._insert(new)
            self._erase_as_told(new)
            for letter in dead_letters:
                self._bury([letter], letter.recorded_at or self._now())
                if letter.dropped_at is not None:
                    self._db.execute(
                        "UPDATE dead_letters SET dropped_at = ?, raw = x'' WHERE stream_id = ? AND digest = ?"
                        " AND dropped_at IS NULL",
                        (letter.dropped_at, letter.stream_id, letter.digest),
                    )
            touched: dict[str, Account] = {}
            for event in new:
                self._account(event.source, touched).arrive(event.sequence)
            moment = events[-1].recorded_at if events else self._now()
            self._settle(new, dead_letters, moment, touched)
            return len(new)

    def _erase_as_told(self, events: Sequence[StoredEvent]) -> None:
        """Delete the bodies that were erased where these events come from."""
        self._db.executemany(
            "DELETE FROM bodies WHERE position = (SELECT position FROM events WHERE event_id = ?)",
            [(event_id,) for event in events if self.erased(event) for event_id in event.data["event_ids"]],
        )

    def erased(self, event: StoredEvent) -> bool:
        """Whether it is an erasure, as this ledger's writer told it: what the stream brings, others say."""
        return event.type == _ERASED and event.source == self._own_source and event.stream_id is None

    @property
    def _own_source(self) -> str:
        return f"/projector/{self._ledger_id}"

    def erase(self, positions: Sequence[int], reason: str) -> list[StoredEvent]:
        """Delete bodies and append events that say so; see the protocol."""
        with self._transaction():
            erased = [
                (position, event_id)
                for at in range(0, len(positions), _CHUNK)
                for position, event_id in self._with_bodies(positions[at : at + _CHUNK])
            ]
            self._db.executemany(
                "DELETE FROM bodies WHERE position = ?", [(position,) for position, _ in erased]
            )
            last, recorded_at = self._next()
            source = self._own_source
            touched: dict[str, Account] = {}
            account = self._account(source, touched)
            events: list[StoredEvent] = []
            for at in range(0, len(erased), _ERASED_AT_ONCE):
                ids = [event_id for _, event_id in erased[at : at + _ERASED_AT_ONCE]]
                sequence = account.arrived.mark + 1  # the writer never drops any, whoever says so
                entry = self._own_event(source, sequence, {"event_ids": ids, "reason": reason}, recorded_at)
                account.arrive(sequence)
                events.append(_place(last + 1 + len(events), None, entry, recorded_at))
            if events:
                self._insert(events)
                self._settle(events, (), recorded_at, touched)
            return events

    def _with_bodies(self, positions: Sequence[int]) -> list[tuple[int, str]]:
        marks = ",".join("?" * len(positions))
        return self._db.execute(
            "SELECT position, event_id FROM bodies JOIN events USING (position)"  # noqa: S608  marks only
            f" WHERE position IN ({marks}) ORDER BY position",
            tuple(positions),
        ).fetchall()

    def _own_event(self, source: str, sequence: int, data: Mapping[str, Any], time: str) -> Entry:
        payload = wire.encode(
            "BodyErased", data, event_id=self._new_id(), source=source, sequence=sequence, time=time
        )
        return wire.decode({DATA_FIELD: payload})

    def reclaim(self, pages: int = 1000) -> bool:
        """Give freed pages back to the file system; True when none is left to give."""
        db = self._db
        # As a script: a statement without columns is stepped once by execute(), and each step frees one page.
        db.executescript(f"PRAGMA incremental_vacuum({int(pages)})")
        if db.execute("PRAGMA freelist_count").fetchone()[0]:
            return False
        db.execute("PRAGMA busy_timeout = 0")  # a reader may hold the WAL file back: later, then
        try:
            busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            db.execute("PRAGMA busy_timeout = 10000")
        return not busy

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

    def _insert(self, events: Sequence[StoredEvent]) -> None:
        rows = [
            (
                e.position, e.event_id, e.stream_id, e.type, e.subject, e.source, e.sequence,
                e.time, e.recorded_at, e.payload, e.digest,
                seal(e.position, e.stream_id, e.recorded_at, e.digest),
            )
            for e in events
        ]  # fmt: skip
        insert(self._db, "events", rows)
        insert(self._db, "bodies", [(e.position, e.body) for e in events if e.body is not None])

    def _bury(self, dead: Sequence[DeadLetter], recorded_at: str) -> int:
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

    def _account(self, source: str, touched: dict[str, Account]) -> Account:
        """A producer's account, to be folded on in this transaction."""
        account = touched.get(source)
        if account is None:
            account = self._accounts.get(source)
            if account is None:
                account = self._accounts[source] = self._read_account(source)
            touched[source] = account
        return account

    def _read_account(self, source: str) -> Account:
        row = self._db.execute(
            "SELECT arrived, dropped, unconfirmed, sampled_out, reported, stored FROM producers"
            " WHERE source = ?",
            (source,),
        ).fetchone()
        return _account(*row) if row else Account()

    def _settle(
        self,
        events: Sequence[StoredEvent],
        dead: Sequence[DeadLetter],
        now: str,
        touched: dict[str, Account],
    ) -> None:
        """Fold new events and dead letters into their producers' accounts, and write those touched."""
        for event in events:
            account = touched[event.source]
            account.stored += 1
            if event.type == _REPORTED:
                account.report(event.data)
        for letter in dead:
            if letter.source is not None and letter.sequence is not None:
                self._account(letter.source, touched).arrive(letter.sequence)
        self._db.executemany(
            "INSERT INTO producers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (source) DO UPDATE SET"
            " mark = excluded.mark, arrived = excluded.arrived, dropped = excluded.dropped,"
            " unconfirmed = excluded.unconfirmed, sampled_out = excluded.sampled_out,"
            " reported = excluded.reported, stored = excluded.stored, last_seen = excluded.last_seen",
            [account_row(source, account, now, now) for source, account in touched.items()],
        )

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
        """Events with position > ``after``, in order; see the protocol."""
        # Literals, not variables: only then can SQLite see that the partial index fits.
        wanted = " OR ".join(f"e.type = '{kind}'" for kind in _stored_as(types)) or "1"
        terms, values = [f"({wanted})"], list[object]()
        if upto is not None:
            terms.append("e.position <= ?")
            values.append(upto)
        if program_id is not None:
            terms.append(_OF_PROGRAM)
            values += [program_id] * 2
        select = _SELECT if bodies else _SELECT_WITHOUT_BODY
        rows = self._db.execute(
            f"{select} WHERE e.position > ? AND {' AND '.join(terms)} ORDER BY e.position LIMIT ?",
            (after, *values, limit),
        )
        events, size = [], 0
        for row in rows:
            event = StoredEvent(*row)
            events.append(event)
            size += event.size
            if size >= MOST_READ:
                break
        return _newest(events)

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

    def positions_of(self, event_ids: Sequence[str]) -> dict[str, int]:
        """Where these events are, those that are stored."""
        found: dict[str, int] = {}
        for at in range(0, len(event_ids), _CHUNK):
            chunk = event_ids[at : at + _CHUNK]
            marks = ",".join("?" * len(chunk))
            select = f"SELECT event_id, position FROM events WHERE event_id IN ({marks})"  # noqa: S608
            found.update(self._db.execute(select, tuple(chunk)))
        return found

    def _one(self, where: str, value: object) -> StoredEvent | None:
        row = self._db.execute(f"{_SELECT} WHERE {where}", (value,)).fetchone()
        return _newest([StoredEvent(*row)])[0] if row else None

    def with_body(self, after: int, limit: int, *, types: Sequence[str], upto: int) -> list[int]:
        """Up to ``limit`` positions > ``after`` and ≤ ``upto`` that have a body; see the protocol."""
        kinds = _stored_as(types)
        rows = self._db.execute(
            "SELECT position, length(body) FROM bodies JOIN events USING (position)"  # noqa: S608
            f" WHERE position > ? AND position <= ? AND type IN ({','.join('?' * len(kinds))})"
            " ORDER BY position LIMIT ?",
            (after, upto, *kinds, limit),
        )
        positions, size = [], 0
        for position, length in rows:
            positions.append(position)
            size += length
            if size >= MOST_ERASED:
                break
        return positions

    def stream_checkpoint(self, stream: str) -> StreamCheckpoint | None:
        """Where reading that stream goes on."""
        row = self._db.execute(
            "SELECT stream, last_id, server FROM streams WHERE stream = ?", (stream,)
        ).fetchone()
        return StreamCheckpoint(*row) if row else None

    def producers(self) -> list[ProducerAccount]:
        """Every producer's account, by source."""
        dead: dict[str, int] = dict(
            self._db.execute("SELECT source, count(*) FROM dead_letters WHERE source IS NOT NULL GROUP BY 1")
        )
        rows = self._db.execute(
            "SELECT source, mark, arrived, dropped, unconfirmed, sampled_out, reported, stored, first_seen,"
            " last_seen FROM producers ORDER BY source"
        )
        found = []
        for source, mark, *columns, first_seen, last_seen in rows:
            account = _account(*columns)
            found.append(
                ProducerAccount(
                    source=source,
                    mark=mark,
                    ranges=tuple(account.settled.ranges),
                    first_seen=first_seen,
                    last_seen=last_seen,
                    stored=account.stored,
                    dead_lettered=dead.get(source, 0),
                    dropped=tuple(account.dropped.without(account.arrived)),
                    unconfirmed=tuple(account.unconfirmed.without(account.arrived)),
                    sampled_out=account.sampled_out,
                    reported=account.reported,
                )
            )
        return found

    def dead_letter_count(self) -> int:
        """How many dead letters are kept."""
        return self._db.execute("SELECT count(*) FROM dead_letters WHERE dropped_at IS NULL").fetchone()[0]  # type: ignore[no-any-return]

    def dead_letters(
        self, *, limit: int = 100, before: int | None = None, raw: bool = True
    ) -> list[DeadLetter]:
        """The newest dead letters (with an id below ``before``), newest first; see the protocol."""
        newest = "dropped_at IS NULL AND id < coalesce(?, 9e18) ORDER BY id DESC LIMIT ?"
        return self._letters(newest, before, limit, raw=raw)

    def all_dead_letters(self, after: int, limit: int) -> list[DeadLetter]:
        """Dead letters with an id above ``after``, oldest first; see the protocol."""
        return self._letters("id > ? ORDER BY id LIMIT ?", after, limit)

    def dead_letter(self, letter_id: int, *, raw: bool = True) -> DeadLetter | None:
        """One dead letter."""
        return next(iter(self._letters("dropped_at IS NULL AND id = ?", letter_id, raw=raw)), None)

    def _letters(self, where: str, *values: object, raw: bool = True) -> list[DeadLetter]:
        held = "raw" if raw else "x''"
        rows = self._db.execute(
            f"SELECT stream_id, reason, detail, {held}, digest, source, sequence, id, recorded_at, dropped_at"  # noqa: S608
            f" FROM dead_letters WHERE {where}",
            values,
        )
        letters, size = [], 0
        for row in rows:
            letter = DeadLetter(*row)
            letters.append(letter)
            size += len(letter.raw)
            if size >= MOST_READ:
                break
        return letters

    def drop_dead_letters(self, ids: Sequence[int]) -> int:
        """Give dead letters up: their bytes go, their sequence numbers stay settled. How many there were."""
        with self._transaction():
            before = self._db.total_changes
            self._db.executemany(
                "UPDATE dead_letters SET dropped_at = ?, raw = x'' WHERE id = ? AND dropped_at IS NULL",
                [(self._now(), letter_id) for letter_id in ids],
            )
            return self._db.total_changes - before

    def park(self, projection: str, position: int, detail: str) -> None:
        """Note that a projection leaves an event out; once more changes nothing."""
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO parked VALUES (?, ?, ?, ?)",
                (projection, position, detail, self._now()),
            )

    def parked(self, projection: str | None = None) -> list[Parked]:
        """What was left out, by projection and position."""
        rows = self._db.execute(
            "SELECT projection, position, detail, recorded_at FROM parked"
            " WHERE projection = coalesce(?, projection) ORDER BY projection, position",
            (projection,),
        )
        return [Parked(*row) for row in rows]

    def unpark(self, projection: str, positions: Sequence[int] | None = None) -> int:
        """Forget that events were left out (all of the projection's by default); how many there were."""
        with self._transaction():
            before = self._db.total_changes
            if positions is None:
                self._db.execute("DELETE FROM parked WHERE projection = ?", (projection,))
            else:
                self._db.executemany(
                    "DELETE FROM parked WHERE projection = ? AND position = ?",
                    [(projection, position) for position in positions],
                )
            return self._db.total_changes - before

    def check(self, progress: Callable[[int, int], None] | None = None) -> Iterator[str]:
        """What is wrong with the store itself, a sentence each; see the protocol."""
        return problems(self._db, self.read, self.last_position(), progress)

    def close(self) -> None:
        """Let go of the database; a writer leaves everything in the file itself, for who copies it."""
        if not self._readonly:
            with suppress(sqlite3.Error):  # a reader may be in the way
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()


def _account(
    arrived: str, dropped: str, unconfirmed: str, sampled_out: int, reported: int, stored: int
) -> Account:
    """An account as ``producers`` keeps it."""
    return Account(
        _sequences(arrived), _sequences(dropped), _sequences(unconfirmed), sampled_out, reported, stored
    )


def _sequences(ranges: str) -> SequenceSet:
    return SequenceSet(map(tuple, orjson.loads(ranges)))


def _stored_as(types: Sequence[str]) -> list[str]:
    """The types, and the older ones that are read as them; only ever names of our own."""
    return [stored for kind in types for stored in (_KNOWN_TYPES[kind], *older_types(kind))]


def _newest(events: list[StoredEvent]) -> list[StoredEvent]:
    if UPCASTERS:
        for event in events:
            event.type = upcast_type(event.type)
    return events


def _place(position: int, stream_id: str | None, entry: Entry, recorded_at: str) -> StoredEvent:
    return StoredEvent(
        position, entry.event_id, stream_id, entry.type, entry.subject, entry.source, entry.sequence,
        entry.time, recorded_at, entry.payload, entry.digest, entry.body,
    )  # fmt: skip


def _conflict(stream_id: str, entry: Entry) -> DeadLetter:
    return DeadLetter(
        stream_id,
        "conflict",
        f"event id {entry.event_id} is stored already with other content",
        _packed(entry),
        entry.digest,
        entry.source,
        entry.sequence,
    )


def _pretended(stream_id: str, entry: Entry) -> DeadLetter:
    """An entry of the stream under the writer's own name; it counts for nobody."""
    raw = _packed(entry)
    detail = f"its source is {entry.source}: only the ledger's writer speaks as that, and not in the stream"
    return DeadLetter(stream_id, "not-an-event", detail, raw, sha256(raw).hexdigest())


def _packed(entry: Entry) -> bytes:
    return pack({DATA_FIELD: entry.payload} | ({} if entry.body is None else {BODY_FIELD: entry.body}))


def _without_version(envelope: dict[str, Any]) -> dict[str, Any]:
    return {**envelope, "data": {**envelope["data"], "version": None}}
