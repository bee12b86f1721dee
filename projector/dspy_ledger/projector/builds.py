"""Views built beside those in force, by a process that only reads the store."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dspy_ledger.database import told_of_disk
from dspy_ledger.errors import StoreError
from dspy_ledger.projector.claims import Claim, claimed, drop_abandoned
from dspy_ledger.projector.directory import Directory
from dspy_ledger.projector.projection import Projection, catch_up
from dspy_ledger.projector.view import StaleView, View, remove_view, sync_view
from dspy_ledger.requests import Progress
from dspy_ledger.store import EventStore, Parked, SqliteEventStore
from dspy_ledger.views import current_view, next_view

__all__ = [
    "ReadingStore",
    "Tell",
    "build_directory",
    "build_view",
    "directory_build",
    "disk_told",
    "drop_abandoned_builds",
    "drop_copies",
    "verify_scratch",
]

BATCH = 5000
"""Events per transaction of a build: more is not faster, and takes memory."""

Tell = Callable[[Progress], None]


class ReadingStore(SqliteEventStore):
    """The store of a build: read only, and with some parked events that are tried again.

    Args:
        path: the store's file.
        retried: positions that count as not parked.
    """

    def __init__(self, path: Path, retried: Collection[int] = ()) -> None:
        super().__init__(path, readonly=True)
        self._retried = frozenset(retried)

    def parked(self, projection: str | None = None) -> list[Parked]:
        """What stays left out."""
        return [event for event in super().parked(projection) if event.position not in self._retried]


@contextmanager
def disk_told(data_dir: Path) -> Iterator[None]:
    """Tell in a sentence of a disk that is full, fails or can't be written.

    Raises:
        StoreError: in place of what the disk raised.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise StoreError(f"can't go on: {told_of_disk(error, data_dir)}") from None


def build_view(data_dir: Path, store: EventStore, claim: Claim, *, fresh: bool, tell: Tell) -> Path:
    """Fill a view up to the store, indexes last; go on with the one that the claim notes, unless ``fresh``.

    Raises:
        FoldError: an event breaks it, which was not parked before.
    """
    view = None if fresh else _begun_view(data_dir, store, claim)
    if view is None:
        _remove_noted(data_dir, claim.note)
        path = next_view(data_dir)
        claim.write(view=path.name)
        view = View.create(path, store, indexes=False)
    try:
        view.hurry()
        _fill(store, view, tell)
        tell(Progress(view.position(), view.position(), "making indexes"))
        view.index()
        view.flush()
    finally:
        view.close()
    sync_view(view.path)
    return view.path


def build_directory(data_dir: Path, store: EventStore, claim: Claim, *, fresh: bool, tell: Tell) -> None:
    """Fill a JSON directory up to the store; go on with the one that the claim notes, unless ``fresh``.

    Raises:
        FoldError: an event breaks it, which was not parked before.
    """
    folder = directory_build(data_dir)
    if fresh or not claim.note:
        claim.write()  # what is removed in part is nothing to go on with
        if folder.exists():
            shutil.rmtree(folder)
        claim.write(folder=folder.name)
    directory = Directory(folder / "programs", folder, store, durable=False)
    _fill(store, directory, tell)
    directory.close()


def directory_build(data_dir: Path) -> Path:
    """Where a JSON directory is built: ``programs/`` and its checkpoint."""
    return data_dir / "directory-build"


def verify_scratch(data_dir: Path) -> Path:
    """What a verify folds anew, as long as it runs."""
    return data_dir / "verify-scratch"


def drop_abandoned_builds(data_dir: Path) -> bool:
    """Remove what nobody builds any more, nor went on with for a day; a chore, which never has more to do."""
    if claimed(data_dir, "sql"):
        drop_abandoned(data_dir, "sql", lambda note: _remove_noted(data_dir, note))
    drop_copies(data_dir)
    return False


def drop_copies(data_dir: Path, *, at_once: bool = False) -> list[str]:
    """Remove builds that hold copies of bodies; the names of those that stay, as somebody is at them.

    Args:
        data_dir: the ledger's data dir.
        at_once: also those that a replay could go on with. Not while the writer puts one in force.
    """
    folders = {"directory": directory_build(data_dir), "verify": verify_scratch(data_dir)}
    for kind, folder in folders.items():
        if folder.exists():
            drop_abandoned(data_dir, kind, partial(_remove_folder, folder), at_once=at_once)
    return [folder.name for folder in folders.values() if folder.exists()]


def _begun_view(data_dir: Path, store: EventStore, claim: Claim) -> View | None:
    name = claim.note.get("view")
    if not isinstance(name, str) or data_dir / name == current_view(data_dir):
        return None
    try:
        return View.open(data_dir / name, store)
    except StaleView:
        return None


def _remove_folder(folder: Path, _: dict[str, Any]) -> None:
    shutil.rmtree(folder)


def _remove_noted(data_dir: Path, note: dict[str, Any]) -> None:
    """Remove the view that a note names, unless it was put in force."""
    name = note.get("view")
    if isinstance(name, str) and data_dir / name != current_view(data_dir):
        remove_view(data_dir / name)


def _fill(store: EventStore, projection: Projection, tell: Tell) -> None:
    what = f"folding {projection.name}"

    def told(position: int, end: int) -> None:
        tell(Progress(position, end, what))

    catch_up(store, projection, batch=BATCH, progress=told)
