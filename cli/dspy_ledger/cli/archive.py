"""``dspy-ledger export`` and ``import``: a ledger out of its store into a file, and back."""

from __future__ import annotations

import gzip
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from dspy_ledger.cli.progress import progress_bar
from dspy_ledger.cli.wording import counted
from dspy_ledger.errors import InvalidInput, StartupError, StoreError
from dspy_ledger.files import sync_folder
from dspy_ledger.projector import Directory, SqlViews, WriterLease
from dspy_ledger.projector.archive import Archive, write_archive
from dspy_ledger.projector.builds import disk_told
from dspy_ledger.projector.projection import advance
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.timestamps import canonical_time

__all__ = ["export_ledger", "import_ledger"]

_STANDARD = Path("-")
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DIGITS = 18  # of the largest positions


def export_ledger(settings: Settings, file: Path, until: str | None) -> str:
    """Write the ledger to a file, whole or not at all; what was done, in a sentence.

    Args:
        settings: where the store is; it may be written to meanwhile.
        file: gzip when its name ends in ``.gz``; ``-`` is stdout.
        until: a position, a time, or a date (its start, UTC); everything by default.

    Raises:
        InvalidInput: ``until`` is none or not reached yet, or the file can't be written.
        StoreError: there is no store, or it can't be read.
    """
    with closing(SqliteEventStore(settings.store_path, readonly=True)) as store:
        upto = _position(store, until)
        with progress_bar("exporting") as tell, _writing(file) as write:
            letters = write_archive(store, write, upto=upto, progress=lambda at: tell(at, upto, "exporting"))
    return f"exported {counted(upto, 'event')} and {counted(letters, 'dead letter')}"


def import_ledger(settings: Settings, file: Path) -> str:
    """Take in what an export holds, and bring the views up to it; what was done, in a sentence.

    May be repeated, and goes on where it ended. The registry follows when a projector runs.

    Raises:
        InvalidInput: the file is no export, was damaged or cut; what stood before is in the store.
        StartupError: a projector runs here.
        StoreError: the store holds another ledger, or another history of this one; or the disk is full.
    """
    with ExitStack() as stack:
        archive = Archive(stack.enter_context(_reading(file)))
        batches = archive.batches()
        first = next(batches)  # nothing is made for a file that is no good
        stack.enter_context(disk_told(settings.data_dir))
        stack.enter_context(closing(WriterLease(settings.data_dir)))
        store = stack.enter_context(closing(_store_of(archive.ledger_id, settings.store_path)))
        with progress_bar("importing") as tell:
            added = store.restore(first.events, first.dead_letters)
            for batch in batches:
                added += store.restore(batch.events, batch.dead_letters)
                if batch.events:
                    tell(batch.events[-1].position, archive.upto, "importing")
            _follow(settings, store, tell)
    known = archive.upto - added
    return f"imported {counted(added, 'event')}" + (
        f"; {known:,} {'was' if known == 1 else 'were'} there already" if known else ""
    )


def _follow(settings: Settings, store: SqliteEventStore, tell: Callable[[int, int, str], None]) -> None:
    try:
        with closing(SqlViews(settings.data_dir, store)) as views:
            directory = Directory(settings.programs_dir, settings.data_dir, store)
            for view in (views, directory):
                while advance(store, view):  # what can't be folded is parked, as at home
                    tell(view.position(), store.last_position(), f"view {view.name}")
    except OSError as error:
        raise StartupError(
            f"everything is imported, but the views can't be written ({error.strerror}: {error.filename});"
            " look at DSPY_LEDGER_PROGRAMS_DIR and DSPY_LEDGER_DATA_DIR and start the projector"
        ) from None


def _store_of(ledger_id: str, path: Path) -> SqliteEventStore:
    if not path.exists():
        return SqliteEventStore.create(path, ledger_id=ledger_id)
    store = SqliteEventStore(path)
    if store.ledger_id == ledger_id:
        return store
    held = counted(store.last_position(), "event") if store.last_position() else "no event"
    store.close()
    raise StoreError(
        f"{path} holds another ledger ({store.ledger_id}, {held}) than the export ({ledger_id}); name a new"
        " folder with DSPY_LEDGER_DATA_DIR"
    )


def _position(store: SqliteEventStore, until: str | None) -> int:
    last = store.last_position()
    if until is None:
        return last
    if until.isdecimal():
        if len(until) > _DIGITS or int(until) > last:
            raise InvalidInput(f"--until {until} is beyond the ledger's end; its last position is {last}")
        return int(until)
    try:
        return store.position_at(canonical_time(f"{until}T00:00:00Z" if _DATE.fullmatch(until) else until))
    except ValueError:
        raise InvalidInput(
            f"--until {until} is neither a position nor a time; write 1200, 2026-11-22T10:00:00Z or"
            " 2026-11-22"
        ) from None


@contextmanager
def _writing(file: Path) -> Iterator[Callable[[bytes], object]]:
    """Write to a file that is there once all is, or to stdout."""
    if file == _STANDARD:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    if not file.name:  # . or /
        raise InvalidInput(f"can't write {file}: it is a folder; name a file")
    temp = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        try:
            with temp.open("wb") as raw:
                if file.suffix == ".gz":
                    with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
                        yield packed.write
                else:
                    yield raw.write
                raw.flush()
                os.fsync(raw.fileno())
            temp.replace(file)
            sync_folder(file.absolute().parent)
        except OSError as error:
            raise InvalidInput(f"can't write {file}: {error.strerror}; name another file") from None
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def _reading(file: Path) -> Iterator[BinaryIO]:
    if file == _STANDARD:
        yield sys.stdin.buffer
        return
    try:
        raw = file.open("rb")
    except OSError as error:
        raise InvalidInput(f"can't read {file}: {error.strerror}; name an export") from None
    with raw:
        if file.suffix == ".gz":
            with gzip.GzipFile(fileobj=raw) as packed:
                yield packed  # type: ignore[misc]  # reads like one
        else:
            yield raw
