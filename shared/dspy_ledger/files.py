"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

__all__ = [
    "LEASE",
    "SYNCS_AT_ONCE",
    "append_together",
    "is_locked",
    "make_folder",
    "sweep",
    "sync_folder",
    "write_atomically",
    "write_together",
]

_TEMP_NAME = re.compile(r"\.\d+\.\d+\.\d+\.tmp")

SYNCS_AT_ONCE = 4
"""Threads that wait for the disk when several files are to be durable: a sixth of the time of one."""

_MOST_OPEN = 64

T = TypeVar("T")

LEASE = "writer.lock"
"""The file in the data dir that its one writer keeps locked."""


def write_atomically(
    path: Path, content: bytes | Iterable[bytes], *, durable: bool = True, private: bool = False
) -> None:
    """Write a file, given whole or in pieces, by temp file → fsync → rename → fsync of the folder."""
    write_together({path: content}, durable=durable, private=private)


def write_together(
    contents: Mapping[Path, bytes | Iterable[bytes]], *, durable: bool = True, private: bool = False
) -> None:
    """Write many files, each atomically; their folders are synced once each, at the end.

    All are durable once this returns, unless that is not wanted: then only this machine's next start can
    take them back. When it raises, some may be written; none is half-written. ``private`` ones are for this
    user's eyes only.
    """
    temps: list[tuple[Path, Path]] = []
    try:
        for some in _handfuls(list(contents.items())):
            with ExitStack() as opened:
                files = []
                for path, content in some:
                    # Short, because the name itself may be as long as a name can be.
                    temp = path.with_name(f".{os.getpid()}.{threading.get_ident()}.{len(temps)}.tmp")
                    temps.append((temp, path))
                    file = opened.enter_context(temp.open("wb"))
                    if private:
                        os.fchmod(file.fileno(), 0o600)  # while it is empty
                    file.writelines([content] if isinstance(content, bytes) else content)
                    file.flush()
                    files.append(file.fileno())
                if durable:
                    _sync_all(files)
        for temp, path in temps:
            temp.replace(path)
    except BaseException:
        for temp, _ in temps:
            temp.unlink(missing_ok=True)
        raise
    if durable:
        for folder in dict.fromkeys(path.parent for path in contents):
            sync_folder(folder)


def append_together(contents: Mapping[Path, Iterable[bytes]], *, durable: bool = True) -> None:
    """Append to files whose folders exist; made when they are not there.

    All is durable once this returns, unless that is not wanted. When it raises, any part may be written.
    """
    grown: dict[Path, None] = {}  # in the order of the files
    for some in _handfuls(list(contents.items())):
        with ExitStack() as opened:
            files = []
            for path, content in some:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
                opened.callback(os.close, descriptor)
                if os.fstat(descriptor).st_size == 0:
                    grown[path.parent] = None
                _write(descriptor, b"".join(content))
                files.append(descriptor)
            if durable:
                _sync_all(files)
    if durable:
        for folder in grown:
            sync_folder(folder)


def _handfuls(things: Sequence[T]) -> Iterator[Sequence[T]]:
    """Some at a time, of all that would be open at once."""
    for at in range(0, len(things), _MOST_OPEN):
        yield things[at : at + _MOST_OPEN]


def _write(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_all(descriptors: Sequence[int]) -> None:
    """Bring open files to the disk, several at once: what comes together, a file system takes in one go."""
    if len(descriptors) < 2 or SYNCS_AT_ONCE < 2:
        for descriptor in descriptors:
            os.fsync(descriptor)
        return
    with ThreadPoolExecutor(SYNCS_AT_ONCE, thread_name_prefix="syncing") as threads:
        for _ in threads.map(os.fsync, descriptors):
            pass  # raises what the first to fail raised


def sweep(folder: Path) -> None:
    """Remove the temp files that a killed process left in a folder; nobody may be writing there."""
    for path in folder.glob(".*.tmp"):
        if _TEMP_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock on a file; one that is not there has none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, durably, even if a process that was killed has just made it."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
    with suppress(PermissionError):  # others made it, in a folder that is not ours to read
        sync_folder(folder.parent)
