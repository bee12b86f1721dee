"""Requests to the ledger's one writer: rows in ``<data_dir>/requests.db``.

A command, or the API, asks at the :class:`Desk`; whoever holds the writer's lease works them off, the oldest
first.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import orjson

from dspy_ledger.database import closed_on_error, connect, told_of_disk
from dspy_ledger.errors import StoreError
from dspy_ledger.files import make_folder
from dspy_ledger.timestamps import canonical_time, to_datetime, utc_now

__all__ = ["REQUESTS", "Desk", "Progress", "Request"]

_log = logging.getLogger(__name__)

REQUESTS = "requests.db"
"""The file in the data dir that requests lie in."""

_KEPT = timedelta(days=7)  # after their end
_PATIENCE = 10_000  # milliseconds, as :func:`connect` has it
_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    action    TEXT NOT NULL,
    arguments TEXT NOT NULL,  -- JSON object
    who       TEXT NOT NULL,
    state     TEXT NOT NULL CHECK (state IN ('asked', 'working', 'done', 'failed')),
    progress  TEXT,           -- JSON [done, total, what]
    answer    TEXT,           -- JSON object when done, a sentence when failed
    asked_at  TEXT NOT NULL,
    begun_at  TEXT,
    ended_at  TEXT
)
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work is: ``done`` of ``total`` (0: not known), and what is being done."""

    done: int
    total: int
    what: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One row; ``answer`` is set when it is done, ``problem`` when it failed."""

    id: int
    action: str
    arguments: dict[str, Any]
    who: str
    state: Literal["asked", "working", "done", "failed"]
    progress: Progress | None
    answer: dict[str, Any] | None
    problem: str | None


class Desk:
    """Where requests lie; made when it is not there, and anew when it can't be read.

    Args:
        data_dir: the ledger's data dir.
        now: the time of day (canonical text), an argument so that tests may turn it.

    Raises:
        StoreError: the file can't be made.
    """

    def __init__(self, data_dir: Path, *, now: Callable[[], str] = utc_now) -> None:
        self._now = now
        self._path = data_dir / REQUESTS
        self._open()

    def _open(self) -> None:
        try:
            make_folder(self._path.parent)
            try:
                self._db = _open(self._path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                _log.warning(
                    "%s can't be read (%s); what was asked is forgotten, ask again", self._path, error
                )
                for ending in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
                self._db = _open(self._path)
            self._file = self._path.stat().st_ino
        except (sqlite3.Error, OSError) as error:
            told = told_of_disk(error, self._path.parent)
            raise StoreError(f"can't open {self._path}: {told}") from None

    def ask(self, action: str, arguments: Mapping[str, Any], who: str) -> int:
        """Lay down a request; its id. ``who``: for people, e.g. ``replay (process 4711)``."""
        row = (action, orjson.dumps(dict(arguments)).decode(), who, self._now())
        insert = "INSERT INTO requests (action, arguments, who, state, asked_at) VALUES (?, ?, ?, 'asked', ?)"
        return self._db.execute(insert, row).lastrowid or 0

    def request(self, request_id: int) -> Request | None:
        """The request of that id; None when it was removed."""
        return next(iter(self._select("id = ?", request_id)), None)

    def pending(self) -> list[Request]:
        """The requests that are not ended, the oldest first; what can't be read is failed.

        Those of the file that is there now: who asks may have found another damaged, and made this one.

        Raises:
            StoreError: it can't be opened.
        """
        if not self._path.exists() or self._path.stat().st_ino != self._file:
            self._db.close()
            self._open()
        found = self._select("state IN ('asked', 'working') ORDER BY id")
        for request in found:
            if request.problem is not None:
                self.fail(request.id, request.problem)
        return [request for request in found if request.problem is None]

    def begin(self, request_id: int) -> None:
        """It is worked on."""
        self._set(request_id, state="working", begun_at=self._now())

    def tell(self, request_id: int, progress: Progress) -> None:
        """How far it is."""
        told = orjson.dumps([progress.done, progress.total, progress.what]).decode()
        self._set(request_id, progress=told)

    def done(self, request_id: int, answer: Mapping[str, Any]) -> None:
        """It is answered."""
        self._set(request_id, state="done", answer=orjson.dumps(dict(answer)).decode(), ended_at=self._now())

    def fail(self, request_id: int, problem: str) -> None:
        """It can't be done."""
        self._set(request_id, state="failed", answer=problem, ended_at=self._now())

    def tidy(self) -> None:
        """Remove requests that ended a week ago, for good: they name whoever was to be forgotten."""
        before = canonical_time((to_datetime(self._now()) - _KEPT).isoformat())
        self._db.execute("DELETE FROM requests WHERE ended_at < ?", (before,))
        self._db.execute("PRAGMA busy_timeout = 0")  # another may be at the file: next time, then
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {_PATIENCE}")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _set(self, request_id: int, **columns: str) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(
            f"UPDATE requests SET {assignments} WHERE id = ?",  # noqa: S608  names from here only
            (*columns.values(), request_id),
        )

    def _select(self, where: str, *values: object) -> list[Request]:
        select = f"SELECT id, action, arguments, who, state, progress, answer FROM requests WHERE {where}"  # noqa: S608
        return [_request(*row) for row in self._db.execute(select, values)]


def _request(
    request_id: int,
    action: str,
    arguments: str,
    who: str,
    state: Literal["asked", "working", "done", "failed"],
    progress: str | None,
    answer: str | None,
) -> Request:
    try:
        return Request(
            id=request_id,
            action=action,
            arguments=orjson.loads(arguments),
            who=who,
            state=state,
            progress=Progress(*orjson.loads(progress)) if progress else None,
            answer=orjson.loads(answer) if answer is not None and state == "done" else None,
            problem=answer if state == "failed" else None,
        )
    except (TypeError, ValueError):
        problem = f"the request can't be read in {REQUESTS}; ask again"
        return Request(request_id, action, {}, who, "failed", None, None, problem)


def _open(path: Path) -> sqlite3.Connection:
    with closed_on_error(connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA secure_delete = ON")  # what is removed is overwritten, not only unlinked
        db.execute(_SCHEMA)
    return db
