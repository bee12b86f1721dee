"""The read models' files: their schema, and the pointer that names the one in force.

Views lie apart from the event store, in ``<data_dir>/views-<n>.db``. The file ``<data_dir>/views.current``
names the one in force; readers look at it before each question, so that a replay can swap it.
"""

from __future__ import annotations

import os
import re
import sqlite3
from importlib.resources import files
from pathlib import Path

from dspy_ledger.database import closed_on_error, connect
from dspy_ledger.errors import StoreError
from dspy_ledger.files import make_folder, write_atomically

__all__ = ["POINTER", "VIEW_VERSION", "ViewReader", "create_view", "current_view", "next_view", "point_to"]

VIEW_VERSION = 7
"""Raised with every change of schema or fold; an older view is rebuilt."""

POINTER = "views.current"
_VIEW_NAME = re.compile(r"views-(\d+)\.db")


def current_view(data_dir: Path) -> Path | None:
    """The view file in force, or None before the first was made."""
    try:
        name = (data_dir / POINTER).read_bytes().decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    if not _VIEW_NAME.fullmatch(name):
        raise StoreError(
            f"{data_dir / POINTER} names {name!r}, which is no view; delete it and restart the projector"
        )
    path = data_dir / name
    return path if path.exists() else None


def next_view(data_dir: Path) -> Path:
    """A view file name that is not taken, one above the highest."""
    taken = [
        int(match[1]) for path in data_dir.glob("views-*.db") if (match := _VIEW_NAME.fullmatch(path.name))
    ]
    return data_dir / f"views-{max(taken, default=0) + 1}.db"


def point_to(view: Path) -> None:
    """Put a view in force: from now on readers open this one."""
    write_atomically(view.parent / POINTER, f"{view.name}\n".encode())


def create_view(path: Path, *, indexes: bool = True) -> sqlite3.Connection:
    """Make an empty view file and open it for writing, in WAL mode with ``synchronous=NORMAL``."""
    make_folder(path.parent)
    with closed_on_error(connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        names = ("schema.sql", "indexes.sql") if indexes else ("schema.sql",)
        for name in names:
            db.executescript(files("dspy_ledger.views").joinpath(name).read_text("utf-8"))
    return db


class ViewReader:
    """A read-only connection to the view in force that follows the pointer.

    Args:
        data_dir: where the pointer lies.

    Raises:
        StoreError: there is no view yet (the projector makes it), or it can't be read.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._pointer = str(data_dir / POINTER)
        self.stamp: tuple[int, int] | None = None
        """Of the pointer that named the view: another for each view that is put in force."""
        self._db: sqlite3.Connection | None = None

    def connection(self) -> sqlite3.Connection:
        """The connection to use for the next question; rows come as ``sqlite3.Row``."""
        try:
            stamp = self._look()
            if self._db is None or stamp != self.stamp:
                self.close()
                try:
                    self._db = self._open()
                except sqlite3.OperationalError:  # swapped and removed between the pointer and the file
                    self._db = self._open()
                self.stamp = stamp
        except OSError as error:
            raise StoreError(f"{self._pointer} can't be read ({error.strerror}); see to its disk") from error
        return self._db

    def _look(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self._pointer)  # noqa: PTH116  on every request: Path.stat is slower
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def _open(self) -> sqlite3.Connection:
        view = current_view(self._data_dir)
        if view is None:
            raise StoreError(f"there is no view in {self._data_dir} yet; start the projector")
        with closed_on_error(connect(view, readonly=True)) as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA query_only = ON")
        return db

    def close(self) -> None:
        """Let go of the view."""
        if self._db is not None:
            self._db.close()
            self._db = None
