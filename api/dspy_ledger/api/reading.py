"""What the API answers from: the view in force and, where the event itself is asked for, the store.

Both are opened when first needed and again when their file was replaced. One connection each is enough for
the event loop's thread: questions never await while they are read. What takes long has its own (``lanes``).
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib.metadata import version
from typing import Any, Final, TypeVar

from fastapi import Request, Response

from dspy_ledger.api.keeping import Kept
from dspy_ledger.api.models_file import ModelsFile
from dspy_ledger.api.parameters import BadParameters, PastQuery
from dspy_ledger.api.queries.sums import MergedHistograms
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.database import BETWEEN_LOOKS
from dspy_ledger.errors import LedgerError, StoreError
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore, StoredEvent
from dspy_ledger.timestamps import utc_now
from dspy_ledger.views import VIEW_VERSION, ViewReader

__all__ = [
    "AS_OF_HEADER",
    "POSITION_HEADER",
    "Question",
    "Sources",
    "TookTooLong",
    "answer_from_view",
    "ask",
    "asked_of",
    "fold_case",
    "position_header",
    "sources_of",
]

_log = logging.getLogger("dspy_ledger.api")

POSITION_HEADER = "Ledger-Position"
AS_OF_HEADER = "Ledger-As-Of"

T = TypeVar("T")

_SOURCES = "dspy_ledger.sources"  # in a request's scope
_LONGEST_KEPT: Final = 1 << 17
"""Bytes; a page of 100 has a third of them."""


class TookTooLong(LedgerError):
    """An answer was given up, so that others get theirs; ask for less."""

    def __init__(self, seconds: int) -> None:
        super().__init__(
            f"the answer was not found within {seconds} s; narrow the question (a program, a model, a shorter"
            " time), or raise DSPY_LEDGER_API_QUERY_SECONDS"
        )


@dataclass(frozen=True, slots=True)
class Question:
    """One read transaction on the view: all that is asked through ``db`` is of one ``position``.

    ``as_of`` is the position in the past that is asked about; None for the present. :meth:`seen` and
    :meth:`valid` are the terms that keep each query to it, for the table that it calls ``row``.
    ``kept`` lives as long as the view is in force. ``deadline`` is when it is given up, by the monotonic
    clock.
    """

    db: sqlite3.Connection
    position: int
    ledger_id: str | None = None
    as_of: int | None = None
    kept: Kept = field(default_factory=Kept)
    deadline: float = math.inf

    def seen(self, row: str) -> str:
        """The rows that were there, of a table whose rows stay as they are."""
        return "1" if self.as_of is None else f"{row}.position <= {self.as_of:d}"

    def valid(self, row: str) -> str:
        """The rows that were in force, of a table whose rows are replaced by others."""
        if self.as_of is None:
            return f"{row}.until IS NULL"
        return f"({self.seen(row)} AND ({row}.until IS NULL OR {row}.until > {self.as_of:d}))"

    def answer(self, content: Any) -> JSONResponse:
        """A success, with the position it holds for."""
        return JSONResponse(content, headers=_headers(self.position, self.as_of))


class Sources:
    """The view, the store and the models file, for one thread.

    What is asked of them is given up once they are told that it ``is_over``, for which they look often.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data_dir = settings.data_dir
        self.stream = settings.keys.events
        self.models_file = ModelsFile(settings.models_file)
        self._store_path = settings.store_path
        self._seconds = settings.api_query_seconds
        self.is_over: Callable[[], bool] = bool
        self.deadline = math.inf
        self._views = ViewReader(settings.data_dir)
        self._view: sqlite3.Connection | None = None
        self._view_tag = ""
        self._kept = Kept()
        self.answers = Kept()
        """Those last given that come from the view alone, by all that they depend on."""
        self._store: SqliteEventStore | None = None
        self._store_file: tuple[int, int] | None = None

    @contextmanager
    def question(self) -> Iterator[Question]:
        """A read transaction on the view in force.

        Raises:
            StoreError: there is no view, it is of another release, or it can't be read.
            TookTooLong: what was asked in it took too long.
        """
        self._unless_over()
        try:
            db = self._connection()
            db.execute("BEGIN")
            try:
                row = db.execute("SELECT position, ledger_id FROM checkpoint").fetchone()
                position, ledger_id = row or (0, None)
                yield Question(db, position, ledger_id, kept=self._kept, deadline=self.deadline)
            finally:
                if db.in_transaction:
                    db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._unless_interrupted(error)
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
            db.create_aggregate("merge_histograms", 1, MergedHistograms)
            db.set_progress_handler(self._is_over, BETWEEN_LOOKS)
            self._view = db
            self._kept, self.answers = Kept(), Kept()
            told = f"{version('dspy-ledger')} {self._views.stamp}"
            self._view_tag = sha256(told.encode()).hexdigest()[:12]
        return db

    def tag_of(self, question: Question) -> str:
        """The ETag of an answer that comes from the view alone.

        A view and a position make one answer, for a release of this code. The view counts, because one that
        was built anew may have folded what another left out; of the past, the position of now does not.
        """
        at = f"{question.position}" if question.as_of is None else f"as-of-{question.as_of}"
        return f'W/"{self._view_tag}-{at}"'

    def event_at(self, position: int, **same: str) -> StoredEvent:
        """The event that a row of the view came from, with its body.

        Args:
            position: the row's position.
            same: fields that row and event must agree in.

        Raises:
            StoreError: there is no store, it can't be read, or the view was not folded from it.
        """
        event = self.ask_store(lambda store: store.event_at(position))
        if event is None or any(event.data.get(name) != value for name, value in same.items()):
            raise StoreError(
                f"the event at position {position} of the store is not the one that the view was folded from;"
                " see that DATA_DIR and DATABASE_URL are of one ledger, and start the projector"
            )
        return event

    def position_at(self, time: str, question: Question) -> int:
        """The last position recorded at a time or before; 0 when there was none.

        Raises:
            StoreError: there is no store, it can't be read, it is another ledger's than the view, or the
                view is not there yet.
        """
        at, ledger_id = self.ask_store(lambda store: (store.position_at(time), store.ledger_id))
        if ledger_id != question.ledger_id:
            raise StoreError(
                "store and view are of two ledgers; see that DATA_DIR and DATABASE_URL are of one ledger,"
                " and start the projector"
            )
        if at > question.position:
            raise StoreError(
                f"by then position {at} was recorded, and the view is at {question.position}; ask again"
            )
        return at

    def ask_store(self, question: Callable[[SqliteEventStore], T]) -> T:
        """What the event store answers, of now.

        Raises:
            StoreError: there is no store, or it can't be read.
            TookTooLong: likewise.
        """
        self._unless_over()
        try:
            return question(self._open_store())
        except sqlite3.Error as error:
            self._unless_interrupted(error)
            raise StoreError(f"the event store can't be read ({error}); see to its disk") from error

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
            self._store.limit(self._is_over)
            self._store_file = file
        return self._store

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _is_over(self) -> bool:
        return self.is_over()

    def _unless_over(self) -> None:
        if self.is_over():
            raise TookTooLong(self._seconds)

    def _unless_interrupted(self, error: sqlite3.Error) -> None:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise TookTooLong(self._seconds) from None

    def take_over(self, others: Sources) -> bool:
        """Keep what was worked out for others of this view, which are asked no more; whether it was more."""
        return others._view_tag == self._view_tag and self._kept.take_over(others._kept)

    def close(self) -> None:
        """Let go of the view and the store."""
        self._close_store()
        self._views.close()
        self._view = None


def fold_case(text: str | None) -> str | None:
    """Text as ``q`` compares it: in every script's lower case, composed."""
    return None if text is None else unicodedata.normalize("NFC", text.casefold())


def sources_of(request: Request) -> Sources:
    """The sources that this request is answered from, in the thread that it is answered in."""
    return request.scope.get(_SOURCES) or request.app.state.sources  # type: ignore[no-any-return]


def asked_of(request: Request, sources: Sources) -> Request:
    """The same request, answered from these sources."""
    if sources is request.app.state.sources:
        return request
    return Request({**request.scope, _SOURCES: sources})


@contextmanager
def ask(request: Request, query: PastQuery | None = None) -> Iterator[Question]:
    """A question, of the past where the query says so; its position is also told when it ends in an error.

    Raises:
        BadParameters: the query asks as of what is not there yet.
        StoreError: it can't be answered now.
    """
    sources = sources_of(request)
    with sources.question() as question:
        yield _placed(question, request, query, sources)


def answer_from_view(
    request: Request, content: Callable[[Question], Any], query: PastQuery | None = None
) -> Response:
    """An answer that comes from the view alone: not from events, whose bodies may be erased, nor other files.

    It has an ETag, which ``If-None-Match`` is compared with. Asked again while the view stays at its position
    it is the same answer, and is not worked out again.

    Args:
        request: who asks.
        content: what the question's answer is; it depends on the target and the view only.
        query: what is asked.

    Raises:
        BadParameters: the query asks as of what is not there yet.
        StoreError: it can't be answered now.
    """
    sources, scope = sources_of(request), request.scope
    with sources.question() as now:
        question = _placed(now, request, query, sources)
        tag = sources.tag_of(question)
        headers = _headers(question.position, question.as_of)
        headers |= {"ETag": tag, "Cache-Control": "private, no-cache"}
        held = request.headers.get("if-none-match")
        if held is not None and tag in map(str.strip, held.split(",")):
            return Response(status_code=304, headers=headers)
        return sources.answers.get(
            (scope["path"], scope["query_string"], question.position, question.as_of),
            lambda: JSONResponse(content(question), headers=headers),
            lambda answer: len(answer.body) <= _LONGEST_KEPT,
        )


def _placed(question: Question, request: Request, query: PastQuery | None, sources: Sources) -> Question:
    """The question as of when the query says; where it stands is noted, for the answer to an error too."""
    request.state.ledger_position = question.position
    if query is None or query.as_of is None:
        return question
    request.state.ledger_as_of = _position_of(query.as_of, question, sources)
    return replace(question, as_of=request.state.ledger_as_of)


def _position_of(as_of: int | str, question: Question, sources: Sources) -> int:
    if isinstance(as_of, int):
        if as_of > question.position:
            raise BadParameters.one(
                "as_of", f"the view is at position {question.position}; give one up to it"
            )
        return as_of
    if as_of > (now := utc_now()):
        raise BadParameters.one("as_of", f"lies in the future, it is {now}; give a time that has passed")
    return sources.position_at(as_of, question)


def position_header(request: Request) -> dict[str, str]:
    """The headers of an answer that no question made: the position asked at, else the view's of now."""
    if not f"{request.scope['path']}/".startswith("/v1/"):
        return {}
    position = getattr(request.state, "ledger_position", None)
    if position is None:
        try:
            with sources_of(request).question() as question:
                position = question.position
        except StoreError:
            return {}
    return _headers(position, getattr(request.state, "ledger_as_of", None))


def _headers(position: int, as_of: int | None) -> dict[str, str]:
    headers = {POSITION_HEADER: str(position)}
    return headers if as_of is None else {**headers, AS_OF_HEADER: str(as_of)}
