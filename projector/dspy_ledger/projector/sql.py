"""The SQL read models: the view in force is followed on, and another put in its place when one is built."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dspy_ledger.errors import StoreError
from dspy_ledger.projector.claims import claimed
from dspy_ledger.projector.projection import advance
from dspy_ledger.projector.view import StaleView, View, is_damaged, remove_view
from dspy_ledger.store import EventStore, StoredEvent
from dspy_ledger.views import POINTER, VIEW_VERSION, current_view, next_view, point_to

__all__ = ["SqlViews"]

_log = logging.getLogger(__name__)

_OF_A_VIEW = re.compile(r"(views-\d+\.db)(-wal|-shm)?")


class SqlViews:
    """The projection that writes ``views-<n>.db``.

    When there is no view in force, or one that can't be followed on, a new file is filled beside it and put
    in force once it reaches what the store held at the start; readers keep the old one until then. A view
    that another process built is put in force by :meth:`adopt`.

    Args:
        data_dir: where the view files and the pointer lie.
        store: the ledger.

    Raises:
        StoreError: the view can't be made.
    """

    name = "sql"
    version = VIEW_VERSION
    types: Sequence[str] = ()
    bodies = False

    def __init__(self, data_dir: Path, store: EventStore) -> None:
        self._data_dir = data_dir
        self._store = store
        self._target: int | None = None  # of a view that is not in force yet
        try:
            self._old = _pointed(data_dir)
            self._view = self._reopen() or self._begin()
            try:
                self._settle()
                self._remove_strays()
            except BaseException:
                self._view.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"can't make a view in {data_dir}: {error}") from None

    def position(self) -> int:
        """Everything up to here is in the view; a file that somebody removed is begun anew."""
        if not self._view.path.exists():
            _log.warning("view %s is gone; it is built anew", self._view.path.name)
            self._begin_anew()
        elif self._target is None and not (self._data_dir / POINTER).exists():
            point_to(self._view.path)
        self._settle()  # here too, because it may have failed after the last batch was committed
        return self._view.position()

    def apply(self, batch: Sequence[StoredEvent]) -> None:
        """Fold a batch in one transaction with its checkpoint; a damaged view is begun anew instead."""
        try:
            self._view.apply(batch)
        except sqlite3.DatabaseError as error:
            if is_damaged(error):
                _log.error("view %s is damaged (%s); it is built anew", self._view.path.name, error)
                self._begin_anew()
            raise
        self._settle()

    def adopt(self, path: Path) -> Iterator[int]:
        """Bring a view that was built elsewhere up to the store, a slice at each step, and put it in force.

        Yields its position. May be begun again after a crash, wherever that was.

        Raises:
            StaleView: it can't be followed on.
        """
        if self._target is None and path == self._view.path:
            return
        build = View.open(path, self._store)
        try:
            while advance(self._store, build):
                yield build.position()
            build.flush()
            point_to(path)
        except BaseException:
            build.close()
            raise
        old, self._view, self._target = self._view, build, None
        old.close()
        for stray in (old.path, self._old):
            if stray is not None and stray != path:
                remove_view(stray)
        self._old = path

    def close(self) -> None:
        """Let go of the view file."""
        self._view.close()

    def _reopen(self) -> View | None:
        """The view in force, else one that this projection had begun; None when there is none."""
        if self._old is not None:
            try:
                return View.open(self._old, self._store)
            except StaleView as error:
                _log.warning("%s; it is built anew", error)
        for path in sorted(_views(self._data_dir) - {self._old, self._claimed()}):
            try:
                view = View.open(path, self._store)
            except StaleView:
                continue
            if not view.hurried:
                self._target = self._store.last_position()
                return view
            view.close()
        return None

    def _claimed(self) -> Path | None:
        """The view that a command builds, or that one may go on with."""
        name = claimed(self._data_dir, self.name).get("view")
        return self._data_dir / name if isinstance(name, str) else None

    def _begin(self) -> View:
        path, target = next_view(self._data_dir), self._store.last_position()
        try:
            view = View.create(path, self._store)
        except Exception:
            with suppress(OSError):
                remove_view(path)  # on a full disk, each attempt would leave one
            raise
        self._target = target
        return view

    def _begin_anew(self) -> None:
        """Begin another view; where that fails the one at hand stays open, and fails as it did."""
        old, self._view = self._view, self._begin()
        old.close()

    def _settle(self) -> None:
        """Put a view that is being built in force once it has reached its target; may be called again."""
        if self._target is None or self._view.position() < self._target:
            return
        self._view.flush()
        point_to(self._view.path)
        self._target = None
        if self._old is not None and self._old != self._view.path:
            remove_view(self._old)
        self._old = self._view.path

    def _remove_strays(self) -> None:
        """Remove view files that nobody will go on with."""
        for path in _views(self._data_dir):
            if path not in (self._old, self._view.path, self._claimed()):
                remove_view(path)


def _views(data_dir: Path) -> set[Path]:
    names = (_OF_A_VIEW.fullmatch(path.name) for path in data_dir.glob("views-*"))
    return {data_dir / name[1] for name in names if name}


def _pointed(data_dir: Path) -> Path | None:
    try:
        view = current_view(data_dir)
    except StoreError as error:
        _log.warning("%s; it is built anew", error)
        return None
    if view is None and (data_dir / POINTER).exists():
        _log.warning("the view in force is gone from %s; it is built anew", data_dir)
    return view
