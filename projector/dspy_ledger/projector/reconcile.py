"""A JSON directory made equal to one that was built anew, in place, while both follow the ledger.

Only files that differ are written. Between two steps ingest may go on: ``level`` is called before each, and
brings the build to where the live directory stands, so that equal files stay equal when both grow.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from dspy_ledger.files import make_folder, sync_folder, write_together
from dspy_ledger.requests import Progress

__all__ = ["Reconciled", "files_below", "reconcile"]

_CHUNK = 1 << 20
_FILES = 32  # small ones at a step: each that differs is synced
_SYNC_EVERY = 64 << 20
_NAMED = 100  # strangers that the answer names

Steps = Generator[Progress, None, None]


@dataclass
class Reconciled:
    """What was done: how many files were made or written again, and the files that the build has not."""

    made: int = 0
    changed: int = 0
    unchanged: int = 0
    strangers: int = 0
    pruned: int = 0
    named: list[str] = field(default_factory=list)


def reconcile(
    built: Path, live: Path, level: Callable[[], bool], *, prune: bool
) -> Generator[Progress, None, Reconciled]:
    """Make ``live`` hold what ``built`` holds; may be begun again after a crash, wherever that was.

    Files and folders that begin with a dot are left alone.

    Args:
        built: the folder of the build.
        live: the folder to mend.
        level: brings the build to where the live directory stands; False when that must first come on.
        prune: whether to delete strangers, files that the build has not.

    Raises:
        OSError: a file can't be read or written.
    """
    work = _Work(built, live, level, Reconciled(), Progress(0, 0, "comparing files"))
    yield from work.wait()
    total = sum(1 for _ in files_below(built))
    work.progress = Progress(0, total, "comparing files")
    names = files_below(built)
    while chunk := list(islice(names, _FILES)):
        yield from work.mend_small([name for name in chunk if not name.endswith(".jsonl")])
        for name in chunk:
            if name.endswith(".jsonl"):
                yield from work.mend_lines(name)
        work.progress = Progress(work.progress.done + len(chunk), total, "comparing files")
    yield from work.look_for_strangers(prune=prune)
    return work.outcome


def files_below(folder: Path) -> Iterator[str]:
    """The files of a JSON directory by their path there, in order; nothing that begins with a dot."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        within = os.path.relpath(parent, folder)
        for name in sorted(names):
            if not name.startswith("."):
                yield name if within == "." else f"{within}/{name}"


@dataclass
class _Work:
    built: Path
    live: Path
    level: Callable[[], bool]
    outcome: Reconciled
    progress: Progress

    def wait(self) -> Steps:
        """Let ingest go on, then both stand at one position again."""
        yield self.progress
        while not self.level():
            yield self.progress

    def mend_small(self, names: list[str]) -> Steps:
        """Write the differing ones of some files that are read whole."""
        wanted = {self.live / name: (self.built / name).read_bytes() for name in names}
        differing = {path: content for path, content in wanted.items() if _content(path) != content}
        for path in differing:
            self._count(path)
            make_folder(path.parent)
        write_together(differing)
        self.outcome.unchanged += len(wanted) - len(differing)
        yield from self.wait()

    def mend_lines(self, name: str) -> Steps:
        """Compare a file that may be large and may grow meanwhile, and copy it when it differs."""
        built, live = self.built / name, self.live / name
        equal = False
        if live.exists():
            equal = yield from self._equal(built, live)
        if equal:
            self.outcome.unchanged += 1
            return
        self._count(live)
        make_folder(live.parent)
        yield from self._copy(built, live)

    def _count(self, path: Path) -> None:
        if path.exists():
            self.outcome.changed += 1
        else:
            self.outcome.made += 1

    def _equal(self, built: Path, live: Path) -> Generator[Progress, None, bool]:
        while True:
            with _unbuffered(built) as one, _unbuffered(live) as other:
                while (chunk := one.read(_CHUNK)) == other.read(_CHUNK):
                    if len(chunk) < _CHUNK:  # both end here, at one position
                        return True
                    yield from self.wait()
                    if not (_is_at(one, built) and _is_at(other, live)):
                        break  # erasure put another file in its place
                else:
                    return False

    def _copy(self, built: Path, live: Path) -> Steps:
        temp = self.live / f".{os.getpid()}.{threading.get_ident()}.0.tmp"
        try:
            while True:
                with _unbuffered(built) as source, temp.open("wb") as target:
                    if (yield from self._pour(source, built, target)):
                        os.fsync(target.fileno())
                        temp.replace(live)
                        sync_folder(live.parent)
                        return
        finally:
            temp.unlink(missing_ok=True)

    def _pour(self, source: BinaryIO, path: Path, target: BinaryIO) -> Generator[Progress, None, bool]:
        """Copy to the end; False when another file was put in the source's place."""
        written = 0
        while chunk := source.read(_CHUNK):
            target.write(chunk)
            if len(chunk) < _CHUNK:  # the end, at this position
                break
            written += len(chunk)
            if written >= _SYNC_EVERY:  # so that the last one does not take seconds
                target.flush()
                os.fsync(target.fileno())
                written = 0
            yield from self.wait()
            if not _is_at(source, path):
                return False
        target.flush()
        return True

    def look_for_strangers(self, *, prune: bool) -> Steps:
        """Count, name and perhaps delete what the build has not."""
        names = files_below(self.live)
        while chunk := list(islice(names, _FILES)):
            for name in chunk:
                if (self.built / name).exists():
                    continue
                self.outcome.strangers += 1
                if len(self.outcome.named) < _NAMED:
                    self.outcome.named.append(name)
                if prune:
                    self._prune(self.live / name)
            yield from self.wait()

    def _prune(self, path: Path) -> None:
        path.unlink()
        self.outcome.pruned += 1
        folder = path.parent
        while folder != self.live and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent
        sync_folder(folder)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _unbuffered(path: Path) -> BinaryIO:
    return path.open("rb", buffering=0)  # a file that grows is read on past its end of before


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether the path still leads to the file that is open."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
