"""Connections to SQLite files, as the event store and the views open them."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path

__all__ = ["BETWEEN_LOOKS", "closed_on_error", "connect", "insert", "is_of_disk", "told_of_disk"]

BETWEEN_LOOKS = 5_000
"""Steps of SQLite's machine between two looks at the clock: a tenth of a millisecond or so."""

_OF_DISK = (
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
)
_ROWS_AT_ONCE = (400, 40) if sqlite3.sqlite_version_info >= (3, 32) else (20,)  # older: 999 variables
_LITTLE = 64 * 1024  # bytes: with less, SQLite can't make the files beside its own


def connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """Open a file for any thread, with transactions begun and ended by hand; ``readonly`` never makes it."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro" if readonly else path,
        uri=readonly,
        isolation_level=None,
        check_same_thread=False,
        timeout=10,
    )


@contextmanager
def closed_on_error(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Prepare a connection in the block: it is closed, what it began undone, when the block fails."""
    try:
        yield db
    except BaseException:
        db.close()
        raise


def insert(db: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]], ending: str = "") -> None:
    """Insert rows of equal length, in the transaction that is open; hundreds by one statement.

    Each step of a statement lets go of Python's lock, and another busy thread keeps it for milliseconds:
    a step for each row would make a thread that writes wait a hundred times as long as it works.

    Args:
        db: where.
        into: the table's name, and its columns in brackets when not all of them are given.
        rows: one value for each column.
        ending: what comes after the values, e.g. ``ON CONFLICT …``.
    """
    at = 0
    for count in (*_ROWS_AT_ONCE, 1):
        while len(rows) - at >= count:
            statement = _insertion(into, len(rows[at]), count, ending)
            db.execute(statement, tuple(chain.from_iterable(rows[at : at + count])))
            at += count


@lru_cache(maxsize=64)
def _insertion(into: str, columns: int, rows: int, ending: str) -> str:
    row = f"({','.join('?' * columns)})"
    return f"INSERT INTO {into} VALUES {','.join([row] * rows)} {ending}"  # noqa: S608  names of our own


def is_of_disk(error: BaseException) -> bool:
    """Whether it was the disk or its rights that failed, and not what is in the file."""
    return isinstance(error, OSError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_DISK


def told_of_disk(error: Exception, folder: Path) -> str:
    """An error with a file in a folder, and what is to be done: SQLite's own words tell no reason."""
    try:
        if not os.access(folder, os.W_OK):
            return f"{error}; {folder} is read-only"
        if shutil.disk_usage(folder).free < _LITTLE:
            return f"{error}; the disk of {folder} is full, make room"
    except OSError:
        pass  # no such folder
    return f"{error}; see to the disk of {folder} and its rights"
