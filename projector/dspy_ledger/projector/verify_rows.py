"""Verify the read models: scratch against the view in force, within one read transaction on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from dspy_ledger.database import closed_on_error, connect
from dspy_ledger.errors import StoreError
from dspy_ledger.projector.builds import BATCH, ReadingStore
from dspy_ledger.projector.comparing import compare_tables
from dspy_ledger.projector.projection import Checkpoint, catch_up
from dspy_ledger.projector.verify_report import Part
from dspy_ledger.projector.view import View
from dspy_ledger.views import VIEW_VERSION, create_view, current_view

__all__ = ["RowsCheck"]

_DAMAGED = (sqlite3.DatabaseError, UnicodeDecodeError)  # the latter of the text of the former


class RowsCheck:
    """The read models: scratch, and the view in force."""

    def __init__(self, data_dir: Path, scratch: Path, store: ReadingStore, part: Part) -> None:
        self._data_dir = data_dir
        self._store = store
        self._part = part
        self._scratch = scratch
        try:
            self._path = current_view(data_dir)
        except StoreError as error:
            part.differs(str(error))
            self._path = None
        else:
            if self._path is None:
                part.differs("there is no view; start the projector, or run `dspy-ledger replay sql`")
        self.view = View.create(scratch / "views-1.db", store, indexes=False)
        self.view.hurry()

    def target(self, end: int) -> int:
        """The position that scratch is to be folded to first."""
        if self._path is not None:
            try:
                db, position = self._open()
                db.close()
                return position
            except (*_DAMAGED, StoreError) as error:
                self._part.differs(f"{self._path.name} can't be read: {error}; run `dspy-ledger replay sql`")
                self._path = None
        return end

    def compare(self) -> None:
        """Hold the rows against each other, at the live view's position of now."""
        if self._path is None:
            self.view.find_feedback()
            with self._expected() as expected:
                self._finish(compare_tables(expected, expected))
            return
        try:
            db, position = self._open()
            with closing(db) as live:
                catch_up(self._store, self.view, batch=BATCH, upto=position)
                self.view.find_feedback()
                for (line,) in live.execute("PRAGMA integrity_check(20)"):
                    if line != b"ok":
                        self._part.differs(f"{self._path.name} is damaged: {_text(line)}")
                if _schema(live) != self._wanted_schema():
                    self._part.differs(
                        f"{self._path.name}: its tables or indexes are not those of this release"
                    )
                    return
                with self._expected() as expected:
                    self._finish(compare_tables(expected, live))
        except (*_DAMAGED, StoreError) as error:
            self._part.differs(f"{self._path.name} can't be read: {error}")

    def _finish(self, compared: Generator[str, None, str]) -> None:
        self._part.position = self.view.position()
        while True:
            try:
                self._part.differs(next(compared))
            except StopIteration as ended:
                self._part.digest = ended.value
                return

    def _open(self) -> tuple[sqlite3.Connection, int]:
        """The view in force within a read transaction, and its position; another one, if put in force by now.

        Raises:
            StoreError: it can't be compared with this ledger.
            sqlite3.Error, UnicodeDecodeError: it can't be read.
        """
        while True:
            path = self._path
            assert path is not None
            try:
                with closed_on_error(connect(path, readonly=True)) as db:
                    db.text_factory = bytes
                    db.execute("BEGIN")
                    return db, self._position(db)
            except (*_DAMAGED, StoreError):
                self._path = current_view(self._data_dir) or path
                if self._path == path:
                    raise

    @contextmanager
    def _expected(self) -> Iterator[sqlite3.Connection]:
        with closing(connect(self.view.path, readonly=True)) as db:
            db.text_factory = bytes
            yield db

    def _position(self, db: sqlite3.Connection) -> int:
        row = db.execute("SELECT view_version, ledger_id, position, event_id FROM checkpoint").fetchone()
        if not row or row[0] != VIEW_VERSION:
            raise StoreError("it is of another version")
        checkpoint = Checkpoint(_text(row[1]), row[2], row[3] and _text(row[3]))
        passed = {position for (position,) in db.execute("SELECT position FROM left_out")}
        if problem := checkpoint.mismatch(self._store, View.name, passed):
            raise StoreError(f"it {problem}")
        return checkpoint.position

    def _wanted_schema(self) -> list[tuple[object, ...]]:
        with closing(create_view(self._scratch / "views-2.db")) as db:
            db.text_factory = bytes
            return _schema(db)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")  # a damaged one may be anything


def _schema(db: sqlite3.Connection) -> list[tuple[object, ...]]:
    return db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
