"""Verify: every view folded anew into scratch and compared with the live one; the live data is only read.

A view that follows the ledger meanwhile is compared at the position where it stands: rows within one read
transaction, and files by letting scratch come on until both agree, or stand still and do not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path

from dspy_ledger.projector.builds import BATCH, ReadingStore, Tell, disk_told, verify_scratch
from dspy_ledger.projector.claims import Claim
from dspy_ledger.projector.parking import blanked, fold_or_fail
from dspy_ledger.projector.projection import Projection
from dspy_ledger.projector.verify_files import FilesCheck
from dspy_ledger.projector.verify_registry import check_registry
from dspy_ledger.projector.verify_report import Part, Report
from dspy_ledger.projector.verify_rows import RowsCheck
from dspy_ledger.requests import Progress
from dspy_ledger.settings import Settings
from dspy_ledger.store import StoredEvent

__all__ = ["verify"]


def verify(settings: Settings, tell: Tell = lambda _: None) -> Report:
    """Fold the whole ledger into scratch below the data dir, and compare; scratch is removed at the end.

    Args:
        settings: where everything lies.
        tell: called with how far it is; may raise to stop in between.

    Raises:
        StoreError: there is no event store, or it can't be read at all, or the disk is full.
        FoldError: an event breaks a view, which is not parked for it.
        StartupError: another verify is running.
    """
    data_dir = settings.data_dir
    with (
        disk_told(data_dir),
        closing(ReadingStore(settings.store_path)) as store,
        closing(Claim(data_dir, "verify")),
        _emptied(verify_scratch(data_dir)) as scratch,
    ):
        report = Report(store.ledger_id)
        end = store.last_position()
        for problem in store.check(lambda at, last: tell(Progress(at, last, "checking the event store"))):
            report.ledger.differs(problem)
        if report.ledger.count:
            report.ledger.note("the views are not compared with a store that is not sound")
            for part in (report.sql, report.directory, report.registry):
                part.compared = False
            return report
        rows = RowsCheck(data_dir, scratch, store, report.sql)
        files = FilesCheck(settings, scratch, store, report.directory)
        with closing(rows.view):
            _fold(
                store,
                end,
                report.ledger,
                [(rows.view, rows.target(end)), (files.built, files.target(end))],
                tell,
            )
            tell(Progress(end, end, "comparing rows"))
            rows.compare()
        tell(Progress(end, end, "comparing files"))
        files.compare()
        tell(Progress(end, end, "comparing the registry"))
        check_registry(settings, store, end, report.registry)
        return report


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fold(
    store: ReadingStore, end: int, ledger: Part, views: list[tuple[Projection, int]], tell: Tell
) -> None:
    """Read the ledger once: for its digest, and into each view up to its position."""
    digest, at, gone = sha256(), 0, _Gone(store, end)
    parked = {view.name: {event.position for event in store.parked(view.name)} for view, _ in views}
    while at < end:
        batch = store.read(at, min(BATCH, end - at))
        for event in batch:
            digest.update(_sealed(event))
            gone.look_at(event)
        for view, upto in views:
            part = blanked([event for event in batch if event.position <= upto], parked[view.name])
            if part:
                fold_or_fail(view.name, view.apply, part)
        at = batch[-1].position
        tell(Progress(at, end, "folding"))
    ledger.position, ledger.digest = end, digest.hexdigest()
    for position in gone.positions():
        ledger.note(f"position {position}: its body is gone, and no erasure says so")


class _Gone:
    """Where bodies are gone, but for what the ledger says was erased: a bit for each position."""

    def __init__(self, store: ReadingStore, end: int) -> None:
        self._store = store
        self._bits = bytearray(end // 8 + 1)

    def look_at(self, event: StoredEvent) -> None:
        """The next event."""
        if event.body is None and event.envelope.get("bodydigest") is not None:
            self._bits[event.position // 8] |= 1 << event.position % 8
        elif self._store.erased(event):
            for position in self._store.positions_of(event.data["event_ids"]).values():
                if position < event.position:
                    self._bits[position // 8] &= ~(1 << position % 8)

    def positions(self) -> Iterator[int]:
        """Those that are left, in order."""
        for at, byte in enumerate(self._bits):
            if byte:
                yield from (8 * at + bit for bit in range(8) if byte & 1 << bit)


def _sealed(event: StoredEvent) -> bytes:
    body = sha256(event.body).hexdigest() if event.body is not None else ""
    return f"{event.position} {event.digest} {event.stream_id} {event.recorded_at} {body}\n".encode()
