"""Connections to SQLite files, as the event store and the views open them."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["BETWEEN_LOOKS", "closed_on_error", "connect", "is_of_disk", "told_of_disk"]

BETWEEN_LOOKS = 50_000
"""Steps of SQLite's machine between two looks at the clock: a millisecond or so. Most take fewer."""

_OF_DISK = (
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
)
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
