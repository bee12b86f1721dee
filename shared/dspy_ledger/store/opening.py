"""Opening the store's file: its first schema, the steps from one schema to the next, its settings."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import orjson

from dspy_ledger.database import closed_on_error, connect
from dspy_ledger.errors import StoreError
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.files import make_folder
from dspy_ledger.store.accounts import Account
from dspy_ledger.store.seals import seal
from dspy_ledger.timestamps import utc_now

__all__ = ["SCHEMA_VERSION", "account_row", "open_readonly", "open_writer", "recount"]

SCHEMA_VERSION = 2

_log = logging.getLogger(__name__)

_PAGE = 8192  # bytes: an event of a kilobyte and a half fits without an overflow page
_WAL_PAGES = 2048  # 16 MiB between checkpoints
_BATCH = 1000
_REPORTED = EVENT_TYPES["ProducerReported"]


def open_writer(path: Path, *, ledger_id: str | None = None) -> sqlite3.Connection:
    """The store's file for its one writer: made when it is not there, brought to this schema when older.

    Args:
        ledger_id: the id of a ledger that is made; a new one by default.

    Raises:
        StoreError: it is of a newer schema.
        sqlite3.Error, OSError: it can't be opened.
    """
    make_folder(path.parent)
    with closed_on_error(connect(path)) as db:
        db.execute(f"PRAGMA page_size = {_PAGE}")  # these two say nothing to a file that has pages already
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten, not only unlinked
        db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        db.execute("BEGIN IMMEDIATE")
        if not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
            _create(db, ledger_id or str(uuid4()))
        db.execute("COMMIT")
        _migrate(db, path)
    return db


def open_readonly(path: Path) -> sqlite3.Connection:
    """The store's file for questions.

    Raises:
        StoreError: it is not there, or of an older schema than this release reads.
    """
    if not path.exists():
        raise StoreError(f"there is no event store at {path}; start the projector first")
    with closed_on_error(connect(path, readonly=True)) as db:
        db.execute("PRAGMA query_only = ON")
        if not db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
            raise StoreError(f"the event store {path} is still empty; start the projector first")
        if schema_version(db, path) < SCHEMA_VERSION:
            raise StoreError(f"{path} is of an older release; start the projector once, which brings it up")
    return db


def schema_version(db: sqlite3.Connection, path: Path) -> int:
    """The schema that a file is of.

    Raises:
        StoreError: a newer one than this release knows.
    """
    row = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    version = int(row[0]) if row else 0
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema {version}, this release knows {SCHEMA_VERSION}; upgrade dspy-ledger"
        )
    return version


def _statements(schema: str) -> Iterator[str]:
    """The statements of a schema file, one by one: ``executescript`` would end the transaction."""
    statement = ""
    for line in schema.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def account_row(source: str, account: Account, first_seen: str, last_seen: str) -> tuple[object, ...]:
    """A row of ``producers``."""
    return (
        source, account.settled.mark, _ranges(account.arrived.ranges), _ranges(account.dropped.ranges),
        _ranges(account.unconfirmed.ranges), account.sampled_out, account.reported, account.stored,
        first_seen, last_seen,
    )  # fmt: skip


def _ranges(ranges: list[tuple[int, int]]) -> str:
    return orjson.dumps(ranges).decode()


def _create(db: sqlite3.Connection, ledger_id: str) -> None:
    for statement in _statements(files("dspy_ledger.store").joinpath("schema.sql").read_text("utf-8")):
        db.execute(statement)
    meta = {"ledger_id": ledger_id, "schema_version": str(SCHEMA_VERSION), "created_at": utc_now()}
    db.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """Take each step in a transaction of its own; a step cut short is taken again."""
    while (version := schema_version(db, path)) < SCHEMA_VERSION:
        _log.info("event store %s: from schema %d to %d", path, version, version + 1)
        prepare, step = _STEPS[version]
        prepare(db)
        db.execute("BEGIN IMMEDIATE")
        try:
            step(db)
            db.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(version + 1),))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def _vacuum(db: sqlite3.Connection) -> None:
    """Rewrite the file, so that freed pages can be given back from now on; needs as much room again."""
    db.execute("VACUUM")


def _from_1_to_2(db: sqlite3.Connection) -> None:
    """Seals; dead letters given up; parked events; accounts that tell what arrived from what did not."""
    db.execute("ALTER TABLE events ADD COLUMN seal INTEGER NOT NULL DEFAULT 0")
    after = 0
    while rows := db.execute(
        "SELECT position, stream_id, recorded_at, digest FROM events WHERE position > ?"
        " ORDER BY position LIMIT ?",
        (after, _BATCH),
    ).fetchall():
        db.executemany(
            "UPDATE events SET seal = ? WHERE position = ?", [(seal(*row), row[0]) for row in rows]
        )
        after = rows[-1][0]
    db.execute("ALTER TABLE dead_letters ADD COLUMN dropped_at TEXT")
    seen = {row[0]: row[1:] for row in db.execute("SELECT source, first_seen, last_seen FROM producers")}
    db.execute("DROP TABLE producers")
    db.execute(
        "CREATE TABLE parked (projection TEXT NOT NULL, position INTEGER NOT NULL, detail TEXT NOT NULL,"
        " recorded_at TEXT NOT NULL, PRIMARY KEY (projection, position)) WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE producers (source TEXT PRIMARY KEY, mark INTEGER NOT NULL, arrived TEXT NOT NULL,"
        " dropped TEXT NOT NULL, unconfirmed TEXT NOT NULL, sampled_out INTEGER NOT NULL,"
        " reported INTEGER NOT NULL, stored INTEGER NOT NULL, first_seen TEXT NOT NULL,"
        " last_seen TEXT NOT NULL) WITHOUT ROWID"
    )
    accounts = recount(db)
    db.executemany(
        "INSERT INTO producers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [account_row(source, account, *seen.get(source, ("", ""))) for source, account in accounts.items()],
    )


def recount(db: sqlite3.Connection) -> dict[str, Account]:
    """Every producer's account, from the events and dead letters alone."""
    accounts: dict[str, Account] = {}
    for source, sequence, report in db.execute(
        "SELECT source, sequence, CASE type WHEN ? THEN payload END FROM events ORDER BY position",
        (_REPORTED,),
    ):
        account = accounts.setdefault(source, Account())
        account.arrive(sequence)
        account.stored += 1
        if report is not None:
            account.report(orjson.loads(report)["data"])
    for source, sequence in db.execute(
        "SELECT source, sequence FROM dead_letters WHERE source IS NOT NULL AND sequence IS NOT NULL"
    ):
        accounts.setdefault(source, Account()).arrive(sequence)
    return accounts


_STEPS: dict[int, tuple[Callable[[sqlite3.Connection], None], Callable[[sqlite3.Connection], None]]] = {
    1: (_vacuum, _from_1_to_2),
}
"""Schema → what is done ahead of the transaction to the next one, and in it."""
