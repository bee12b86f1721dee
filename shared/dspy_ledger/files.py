"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["LEASE", "is_locked", "make_folder", "sweep", "sync_folder", "write_atomically", "write_together"]

_TEMP_NAME = re.compile(r"\.\d+\.\d+\.\d+\.tmp")


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
        for number, (path, content) in enumerate(contents.items()):
            # Short, because the name itself may be as long as a name can be.
            temp = path.with_name(f".{os.getpid()}.{threading.get_ident()}.{number}.tmp")
            temps.append((temp, path))
            with temp.open("wb") as file:
                if private:
                    os.fchmod(file.fileno(), 0o600)  # while it is empty
                file.writelines([content] if isinstance(content, bytes) else content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
        for temp, path in temps:
            temp.replace(path)
    except BaseException:
        for temp, _ in temps:
            temp.unlink(missing_ok=True)
        raise
    if durable:
        for folder in dict.fromkeys(path.parent for path in contents):
            sync_folder(folder)


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
