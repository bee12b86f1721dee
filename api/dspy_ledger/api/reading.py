"""What the API answers from: the view in force and, where the event itself is asked for, the store.

Both are opened when first needed and again when their file was replaced. One connection each is enough:
questions are asked on the event loop's thread and never await while they are read.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from dspy_ledger.api.models_file import ModelsFile
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.errors import StoreError
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore, StoredEvent
from dspy_ledger.views import VIEW_VERSION, ViewReader

__all__ = ["POSITION_HEADER", "Question", "Sources", "ask", "fold_case", "position_header", "sources_of"]

_log = logging.getLogger("dspy_ledger.api")

POSITION_HEADER = "Ledger-Position"


@dataclass(frozen=True, slots=True)
class Question:
    """One read transaction on the view: all that is asked through ``db`` is of one ``position``."""

    db: sqlite3.Connection
    position: int

    def answer(self, content: Any) -> JSONResponse:
        """A success, with the position it holds for."""
        return JSONResponse(content, headers={POSITION_HEADER: str(self.position)})


class Sources:
    """The view, the store and the models file of one app."""

    def __init__(self, settings: Settings) -> None:
        self.models_file = ModelsFile(settings.models_file)
        self._store_path = settings.store_path
        self._views = ViewReader(settings.data_dir)
        self._view: sqlite3.Connection | None = None
        self._store: SqliteEventStore | None = None
        self._store_file: tuple[int, int] | None = None

    @contextmanager
    def question(self) -> Iterator[Question]:
        """A read transaction on the view in force.

        Raises:
            StoreError: there is no view, it is of another release, or it can't be read.
        """
        try:
            db = self._connection()
            db.execute("BEGIN")
            try:
                row = db.execute("SELECT position FROM checkpoint").fetchone()
                yield Question(db, row["position"] if row else 0)
            finally:
                if db.in_transaction:
                    db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            _log.warning("asking the view failed: %s", error)
            raise StoreError(f"the view can't be read ({error}); see to its disk, or replay it") from error

    def _connection(self) -> sqlite3.Connection:
        db = self._views.connection()
        if db is not self._view:
            row = db.execute("SELECT view_version FROM checkpoint").fetchone()
            if row and row["view_version"] != VIEW_VERSION:
                self._views.close()
                raise StoreError(
                    f"the view is of version {row['view_version']}, this release reads {VIEW_VERSION};"
                    " start the projector of the same release, it will replay"
                )
            # SQLite folds the case of ASCII only.
            db.create_function("fold_case", 1, fold_case, deterministic=True)
            self._view = db
        return db

    def event_at(self, position: int, **same: str) -> StoredEvent:
        """The event that a row of the view came from, with its body.

        Args:
            position: the row's position.
            same: fields that row and event must agree in.

        Raises:
            StoreError: there is no store, it can't be read, or the view was not folded from it.
        """
        try:
            event = self._open_store().event_at(position)
        except sqlite3.Error as error:
            raise StoreError(f"the event store can't be read ({error}); see to its disk") from error
        if event is None or any(event.data.get(name) != value for name, value in same.items()):
            raise StoreError(
                f"the event at position {position} of the store is not the one that the view was folded from;"
                " see that DATA_DIR and DATABASE_URL are of one ledger, and start the projector"
            )
        return event

    def check_store(self) -> None:
        """Raise StoreError unless the store can be read."""
        self._open_store()

    def _open_store(self) -> SqliteEventStore:
        try:
            stat = os.stat(self._store_path)  # noqa: PTH116  as ViewReader does
            file = (stat.st_dev, stat.st_ino)
        except OSError:
            file = None
        if self._store is None or file != self._store_file:
            self._close_store()
            self._store = SqliteEventStore(self._store_path, readonly=True)
            self._store_file = file
        return self._store

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def close(self) -> None:
        """Let go of the view and the store."""
        self._close_store()
        self._views.close()
        self._view = None


def fold_case(text: str | None) -> str | None:
    """Text as ``q`` compares it: in every script's lower case, composed."""
    return None if text is None else unicodedata.normalize("NFC", text.casefold())


def sources_of(request: Request) -> Sources:
    """The sources of the app that serves this request."""
    return request.app.state.sources  # type: ignore[no-any-return]


@contextmanager
def ask(request: Request) -> Iterator[Question]:
    """A question whose position is also told when it ends in an error."""
    with sources_of(request).question() as question:
        request.state.ledger_position = question.position
        yield question


def position_header(request: Request) -> dict[str, str]:
    """The header of an answer that no question made: the position asked at, else the view's of now."""
    if not f"{request.scope['path']}/".startswith("/v1/"):
        return {}
    position = getattr(request.state, "ledger_position", None)
    if position is None:
        try:
            with sources_of(request).question() as question:
                position = question.position
        except StoreError:
            return {}
    return {POSITION_HEADER: str(position)}
