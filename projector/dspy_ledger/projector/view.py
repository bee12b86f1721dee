"""One file of the SQL read models, opened for writing: batches are folded into it with its checkpoint."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from dspy_ledger.database import closed_on_error, connect
from dspy_ledger.errors import StoreError
from dspy_ledger.files import make_folder, sync_folder
from dspy_ledger.projector.catalog import Catalog
from dspy_ledger.projector.parking import left_out, registrations
from dspy_ledger.projector.projection import Checkpoint
from dspy_ledger.projector.rows import Rows, fold
from dspy_ledger.projector.tables import prepare, write
from dspy_ledger.store import EventStore, StoredEvent
from dspy_ledger.views import VIEW_VERSION, create_view

__all__ = ["StaleView", "View", "is_damaged", "remove_view", "sync_view"]

_CACHE_KIB = 64 * 1024  # pages of random indexes stay in memory while a batch is written
_WAL_PAGES = 8192  # 32 MiB between checkpoints: each one waits for the disk


class StaleView(StoreError):
    """The view is not one that can be followed on: of another version or ledger, or damaged."""


class View:
    """A projection of its own, in one file; which of them is in force is no matter here.

    Use :meth:`create` or :meth:`open`.
    """

    name = "sql"
    version = VIEW_VERSION
    types: Sequence[str] = ()
    bodies = False

    def __init__(self, path: Path, db: sqlite3.Connection, store: EventStore, position: int) -> None:
        self.path = path
        self._db = db
        self._store = store
        self._position = position
        self._catalog: Catalog | None = None
        prepare(db)
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")

    @classmethod
    def create(cls, path: Path, store: EventStore, *, indexes: bool = True) -> View:
        """An empty view in a new file; without indexes it is filled faster, see :meth:`index`.

        Raises:
            sqlite3.Error: it can't be made.
        """
        make_folder(path.parent)
        remove_view(path)  # what a removal that was cut short left would be read into the new file
        with closed_on_error(create_view(path, indexes=indexes)) as db:
            view = cls(path, db, store, 0)
            view._set_checkpoint(Checkpoint(store.ledger_id, 0, None))
        return view

    @classmethod
    def open(cls, path: Path, store: EventStore) -> View:
        """The view in that file.

        Raises:
            StaleView: it is of another version or ledger, ahead of the store, damaged, or not there.
            sqlite3.OperationalError: it can't be opened right now.
        """
        if not path.exists():
            raise StaleView(f"{path.name} is not there")
        try:
            with closed_on_error(connect(path)) as db:
                select = "SELECT view_version, ledger_id, position, event_id FROM checkpoint"
                row = db.execute(select).fetchone()
                if not row or row[0] != cls.version:
                    raise StaleView(f"{path.name} is of another version")
                checkpoint = Checkpoint(*row[1:])
                passed = {position for (position,) in db.execute("SELECT position FROM left_out")}
                if (problem := checkpoint.mismatch(store, cls.name, passed)) is not None:
                    raise StaleView(f"{path.name} {problem}")
                db.execute("PRAGMA synchronous = NORMAL")
                return cls(path, db, store, checkpoint.position)
        except UnicodeDecodeError as error:  # of SQLite's own words about a schema that is damaged
            raise StaleView(f"{path.name} is damaged ({error})") from None
        except sqlite3.DatabaseError as error:
            if is_damaged(error) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # no such table
                raise StaleView(f"{path.name} is damaged ({error})") from None
            raise

    def position(self) -> int:
        """Everything up to here is in the view."""
        return self._position

    def apply(self, batch: Sequence[StoredEvent]) -> None:
        """Fold a batch in one transaction with its checkpoint; what is in the view already is passed over."""
        batch = [event for event in batch if event.position > self._position]
        if not batch:
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            write(self._db, self._fold(batch))
            self._db.executemany("INSERT INTO left_out VALUES (?)", [(at,) for at in left_out(batch)])
            self._set_checkpoint(Checkpoint.after(self._store, batch[-1]))
            self._db.execute("COMMIT")
        except BaseException:
            # The catalog ran ahead: it is read again from where the view stands.
            self._catalog = None
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._position = batch[-1].position

    def hurry(self) -> None:
        """Wait for the disk no more; once closed, :func:`sync_view` makes up for it.

        The file is marked, so that nobody who knows nothing of the build takes it for a whole one.
        """
        self._db.execute("PRAGMA user_version = 1")
        self._db.execute("PRAGMA synchronous = OFF")

    @property
    def hurried(self) -> bool:
        """Whether it was ever filled without waiting for the disk."""
        return bool(self._db.execute("PRAGMA user_version").fetchone()[0])

    def index(self) -> None:
        """Make the indexes, and what is kept up to date like one, unless they are there."""
        made = "SELECT 1 FROM sqlite_schema WHERE name = 'executions_by_id'"  # all of them at once, or none
        if not self._db.execute(made).fetchone():
            self._db.executescript(f"BEGIN; {_script('feedback.sql')} {_script('indexes.sql')} COMMIT;")

    def find_feedback(self) -> None:
        """Fill ``feedback`` in a view that has no indexes, which is then whole and can't be folded on."""
        self._db.executescript(f"BEGIN; {_script('feedback.sql')} COMMIT;")

    def flush(self) -> None:
        """Bring everything to the disk: otherwise it gets there at the database's leisure."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _fold(self, batch: Sequence[StoredEvent]) -> Rows:
        if self._catalog is None:
            self._catalog = Catalog(registrations(self._store, self.name, self._position))
        return fold(batch, self._catalog)

    def _set_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?, ?, ?)",
            (self.version, checkpoint.ledger_id, checkpoint.position, checkpoint.event_id),
        )


def _script(name: str) -> str:
    return files("dspy_ledger.views").joinpath(name).read_text("utf-8")


def sync_view(path: Path) -> None:
    """Bring a view that nobody has open to the disk, whatever was not waited for while it was filled."""
    # By a descriptor of its own: closing one would take the database's locks from an open connection.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def remove_view(path: Path) -> None:
    """Remove a view's files, durably: what came back could be taken for a view to go on with."""
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    sync_folder(path.parent)


def is_damaged(error: BaseException) -> bool:
    """Whether a database says that its file is not, or no longer, what it wrote."""
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    if str(error) == "user-defined function raised exception":  # ours: it met a histogram that is none
        return True
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
