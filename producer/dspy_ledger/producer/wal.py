"""Write-ahead files: what one producer recorded and the store does not have yet.

One instance owns ``<instance>.lock`` (flocked while it lives) and segments ``<instance>.<n>.wal`` of lines

    E42<TAB>event JSON<TAB>body JSON or nothing<LF>

``E`` is an event as it is sent, ``P`` a registration whose version is only proposed; a later ``E`` of the
same sequence supersedes it. JSON of orjson has no raw tab or newline. A line without its newline was
torn: its ``record()`` had not returned. Lines are in the page cache when ``append`` returns, so that they
outlive the process.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from redis.connection import parse_url

__all__ = ["FileSegment", "MemorySegment", "Record", "Segment", "WalFolder", "format_line", "parse_line"]

_log = logging.getLogger("dspy_ledger.producer")

_READ_BYTES = 1 << 20


class Record(NamedTuple):
    """One line: an event (or a proposed registration) with its sequence."""

    sequence: int
    event: bytes
    body: bytes | None
    proposal: bool


def format_line(record: Record) -> bytes:
    """The line of a record."""
    kind = b"P" if record.proposal else b"E"
    return b"%b%d\t%b\t%b\n" % (kind, record.sequence, record.event, record.body or b"")


def parse_line(line: bytes) -> Record | None:
    """The record of a line without its newline; None when the line is damaged."""
    head, _, rest = line.partition(b"\t")
    event, separator, body = rest.partition(b"\t")
    if not separator or head[:1] not in (b"E", b"P") or not head[1:].isdigit():
        return None
    return Record(int(head[1:]), event, body or None, head[:1] == b"P")


class Segment(ABC):
    """An append-only run of lines that can be read from any offset while it grows."""

    def __init__(self) -> None:
        self.size = 0
        self.last = 0
        """The highest sequence in it; 0 while it is empty."""

    def append(self, line: bytes, sequence: int) -> None:
        """Add one line.

        Raises:
            OSError: it could not be written; the segment is as before.
        """
        self._write(line)
        self.size += len(line)
        self.last = max(self.last, sequence)

    def read_lines(self, offset: int, most_bytes: int = _READ_BYTES) -> tuple[list[bytes], int]:
        """Whole lines from an offset on, at least one if there is one, and the offset behind them."""
        while True:
            chunk = self._read(offset, most_bytes)
            end = chunk.rfind(b"\n") + 1
            if end or len(chunk) < most_bytes:
                return chunk[:end].split(b"\n")[:-1], offset + end
            most_bytes *= 2  # one line longer than the chunk

    @abstractmethod
    def remove(self) -> None:
        """Forget it: the store has everything in it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it and leave it where it is."""

    @abstractmethod
    def _write(self, line: bytes) -> None: ...

    @abstractmethod
    def _read(self, offset: int, size: int) -> bytes: ...


class FileSegment(Segment):
    """A segment in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self._fd).st_size

    def _write(self, line: bytes) -> None:
        written = -1
        try:
            written = os.write(self._fd, line)
        finally:
            if written != len(line):  # a full disk may take half a line
                os.ftruncate(self._fd, self.size)
        if written != len(line):
            raise OSError(28, "no space left for the write-ahead file")

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def truncate(self, size: int) -> None:
        """Cut everything from ``size`` on."""
        os.ftruncate(self._fd, size)
        self.size = size

    def remove(self) -> None:
        """Delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file and leave it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class MemorySegment(Segment):
    """A segment in memory, for when no file can be written."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = bytearray()

    def _write(self, line: bytes) -> None:
        self._bytes += line

    def _read(self, offset: int, size: int) -> bytes:
        return bytes(self._bytes[offset : offset + size])

    def remove(self) -> None:
        """Free the memory."""
        self._bytes.clear()

    def close(self) -> None:
        """Nothing lies anywhere to be left."""


class WalFolder:
    """The folder of all producers that send to one stream on one machine.

    Args:
        wal_dir: the configured directory; the folder in it is named after the Redis and the prefix, so
            that files meant for one ledger are never sent to another.

    Raises:
        ValueError: the URL can't be one.
    """

    def __init__(self, wal_dir: Path, redis_url: str, prefix: str) -> None:
        self.path = wal_dir / _folder_name(redis_url, prefix)

    def make(self) -> None:
        """Create the folder where it is missing; only its owner may read it."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def segment(self, instance: str, number: int) -> Path:
        """The path of an instance's n-th segment."""
        return self.path / f"{instance}.{number:06d}.wal"

    def lock(self, instance: str) -> int | None:
        """Take an instance's lock; its descriptor, or None when a living process holds it.

        The inode is looked at again after locking: the file may have been removed in between by another
        process that adopted it first.
        """
        path = self.path / f"{instance}.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return None

    def unlock(self, instance: str, fd: int, *, remove: bool) -> None:
        """Let go of a lock; with ``remove``, nothing of the instance is left."""
        if remove:
            (self.path / f"{instance}.lock").unlink(missing_ok=True)
        os.close(fd)

    def abandoned(self) -> Iterator[tuple[str, int, list[Path]]]:
        """Instances whose process is gone, each locked for the caller: name, descriptor, segments."""
        names = {path.name.removesuffix(".lock") for path in self.path.glob("*.lock")}
        names |= {path.name.rsplit(".", 2)[0] for path in self.path.glob("*.*.wal")}
        for instance in sorted(names):
            try:
                fd = self.lock(instance)
            except OSError as error:
                _log.warning("can't lock the write-ahead files of %s: %s", instance, error)
                continue
            if fd is None:
                continue
            segments = sorted(self.path.glob(f"{instance}.*.wal"))
            if segments:
                yield instance, fd, segments
            else:
                self.unlock(instance, fd, remove=True)


def _folder_name(redis_url: str, prefix: str) -> str:
    # As redis-py understands the URL: where it leads, not how it is spelled or who asks.
    meant = parse_url(redis_url)  # type: ignore[no-untyped-call]
    where = meant.get("path") or f"{meant.get('host', 'localhost')}_{meant.get('port', 6379)}"
    exact = f"{where}_{meant.get('db', 0)}_{prefix}"
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", exact).strip("-")[:150]
    return f"{readable}_{sha256(exact.encode()).hexdigest()[:8]}"
