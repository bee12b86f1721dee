"""Requests to the ledger's one writer: rows in ``<data_dir>/requests.db``, worked off a slice at a time.

A command asks at the :class:`Desk`; the :class:`Clerk` of whoever holds the writer's lease answers, the
oldest request first. What an action is::

    def forget(arguments: Mapping[str, Any]) -> Work:
        for n, chunk in enumerate(chunks, 1):
            ...                                       # at most 0.2 s
            yield Progress(n, len(chunks), "erasing")
        return {"erased": 12}                         # the answer, JSON-able

It runs on the writer's thread between two batches of ingest, and is begun again with the same arguments when
its process ended in between: so it is idempotent. What it raises fails the request and goes to the asker.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import orjson

from dspy_ledger.database import closed_on_error, connect, told_of_disk
from dspy_ledger.errors import LedgerError, RequestFailed, StoreError
from dspy_ledger.files import make_folder
from dspy_ledger.timestamps import canonical_time, to_datetime, utc_now

__all__ = ["REQUESTS", "Action", "Clerk", "Desk", "Progress", "Request", "Work"]

_log = logging.getLogger(__name__)

REQUESTS = "requests.db"
"""The file in the data dir that requests lie in."""

_KEPT = timedelta(days=7)  # after their end
_SLICE = 0.2  # seconds of work between two batches of ingest
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


Work = Generator[Progress, None, dict[str, Any]]
"""Work in slices of at most 0.2 s; what it returns is the answer."""

Action = Callable[[Mapping[str, Any]], Work]
"""What a request can ask for, by its arguments; idempotent."""


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
        path = data_dir / REQUESTS
        try:
            make_folder(data_dir)
            try:
                self._db = _open(path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                _log.warning("%s can't be read (%s); what was asked is forgotten, ask again", path, error)
                for ending in ("", "-wal", "-shm"):
                    path.with_name(path.name + ending).unlink(missing_ok=True)
                self._db = _open(path)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"can't open {path}: {told_of_disk(error, data_dir)}") from None

    def ask(self, action: str, arguments: Mapping[str, Any], who: str) -> int:
        """Lay down a request; its id. ``who``: for people, e.g. ``replay (process 4711)``."""
        row = (action, orjson.dumps(dict(arguments)).decode(), who, self._now())
        insert = "INSERT INTO requests (action, arguments, who, state, asked_at) VALUES (?, ?, ?, 'asked', ?)"
        return self._db.execute(insert, row).lastrowid or 0

    def request(self, request_id: int) -> Request | None:
        """The request of that id; None when it was removed."""
        return next(iter(self._select("id = ?", request_id)), None)

    def pending(self) -> list[Request]:
        """The requests that are not ended, the oldest first."""
        return self._select("state IN ('asked', 'working') ORDER BY id")

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
        """Remove requests that ended a week ago."""
        before = canonical_time((to_datetime(self._now()) - _KEPT).isoformat())
        self._db.execute("DELETE FROM requests WHERE ended_at < ?", (before,))

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


class Clerk:
    """Works off the requests; a chore for :class:`~dspy_ledger.projector.live.Live`, or for a loop.

    Args:
        desk: where requests lie.
        actions: what can be asked for, by name.
        own: the request of this very process, whose user is told and needs no log.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        desk: Desk,
        actions: Mapping[str, Action],
        *,
        own: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk = desk
        self._actions = actions
        self._own = own
        self._clock = clock
        self._at_work: tuple[Request, Work] | None = None
        self._troubled = False

    def __call__(self) -> bool:
        """One slice of work (0.2 s); whether it wants to be called again at once."""
        try:
            more = self._work()
        except sqlite3.Error as error:  # of the desk: ingest does not stop for it
            if not self._troubled:
                _log.warning("requests can't be answered for now: %s", error)
            self._troubled = True
            return False
        self._troubled = False
        return more

    def _work(self) -> bool:
        if self._at_work is None:
            pending = self._desk.pending()
            if not pending:
                return False
            request = pending[0]
            self._desk.tidy()
            self._desk.begin(request.id)
            self._at_work = request, self._begin(request)
        request, work = self._at_work
        deadline = self._clock() + _SLICE
        try:
            progress = next(work)
            while self._clock() < deadline:
                progress = next(work)
        except StopIteration as ended:
            self._at_work = None
            self._desk.done(request.id, ended.value or {})
        except Exception as error:  # noqa: BLE001  the asker is told; the writer goes on
            self._at_work = None
            problem = str(error) if isinstance(error, LedgerError) else f"{type(error).__name__}: {error}"
            level = logging.DEBUG if request.id == self._own else logging.WARNING
            _log.log(level, "request %d (%s) failed: %s", request.id, request.action, problem)
            self._desk.fail(request.id, problem)
        else:
            self._desk.tell(request.id, progress)
        return True

    def _begin(self, request: Request) -> Work:
        level = logging.DEBUG if request.id == self._own else logging.INFO
        _log.log(level, "%s asks for %s %s", request.who, request.action, request.arguments)
        action = self._actions.get(request.action)
        return _unknown(request.action) if action is None else action(request.arguments)


def _unknown(action: str) -> Work:
    raise RequestFailed(f"the running projector does not know {action!r}; restart it with this release")
    yield Progress(0, 0)


def _request(
    request_id: int,
    action: str,
    arguments: str,
    who: str,
    state: Literal["asked", "working", "done", "failed"],
    progress: str | None,
    answer: str | None,
) -> Request:
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


def _open(path: Path) -> sqlite3.Connection:
    with closed_on_error(connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(_SCHEMA)
    return db
