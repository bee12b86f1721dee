"""Write-ahead files: what one producer recorded and the store does not have yet.

One instance owns ``<instance>.lock`` (flocked while it lives) and segments ``<instance>.<n>.wal``. A
segment is a run of commands in Redis's own protocol (RESP), each the XADD that sends one event: so the
sender passes on what it reads as it is. A registration whose version is only proposed stands there under
the verb ``PROPOSE`` and is never sent like that; a later XADD of the same sequence supersedes it.

JSON of orjson has no raw line break, so that the beginning of a command is found nowhere else: damage costs
only what it hits. A command without its end was torn, its ``record()`` had not returned. What is appended
lies in the page cache when ``append`` returns, so that it outlives the process.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from errno import ENOSPC
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import orjson
from redis.connection import parse_url

from dspy_ledger.keys import BODY_FIELD, DATA_FIELD

__all__ = [
    "DIGITS",
    "Commands",
    "FileSegment",
    "MemorySegment",
    "Pieces",
    "Record",
    "Segment",
    "WalFolder",
    "scan",
]

_log = logging.getLogger("dspy_ledger.producer")


class Record(NamedTuple):
    """One command taken apart: an event (or a proposed registration) of a source, with its sequence.

    ``entry_id``: the server's, where it was sent already.
    """

    source: str
    sequence: int
    event: bytes
    body: bytes | None
    proposal: bool
    entry_id: bytes | None = None


_XADD, _PROPOSE, _CRLF = b"XADD", b"PROPOSE", b"\r\n"
_BODY_HEAD = b"\r\n$%d\r\n%b\r\n$" % (len(BODY_FIELD), BODY_FIELD)
_HEAD = re.compile(
    rb"\*([57])\r\n\$\d+\r\n(XADD|PROPOSE)\r\n\$\d+\r\n[^\r\n]+\r\n\$1\r\n\*\r\n"
    rb"\$%d\r\n%b\r\n\$(\d+)\r\n" % (len(DATA_FIELD), DATA_FIELD)
)
_NEXT = re.compile(rb"\r\n(?=\*[57]\r\n\$[47]\r\n(?:XADD|PROPOSE)\r\n)")
_BODY = re.compile(rb"\$%d\r\n%b\r\n\$(\d+)\r\n" % (len(BODY_FIELD), BODY_FIELD))
DIGITS = 10
"""Of a sequence as it is written."""
Pieces = tuple[tuple[bytes, ...], tuple[bytes, ...]]
"""What stands before and after the digits of a sequence."""


class Commands:
    """Builds the commands that add events to one stream.

    An event comes in pieces, one before the ten digits of its sequence and some after them, so that all but
    the number can be made before the number is known.
    """

    def __init__(self, stream: str) -> None:
        key = stream.encode()
        self._heads = {
            (proposal, fields): b"*%d\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$1\r\n*\r\n$%d\r\n%b\r\n$"
            % (3 + 2 * fields, len(verb), verb, len(key), key, len(DATA_FIELD), DATA_FIELD)
            for proposal, verb in ((False, _XADD), (True, _PROPOSE))
            for fields in (1, 2)
        }

    def pieces(
        self, before: bytes, after: tuple[bytes, ...], body: bytes | None = None, *, proposal: bool = False
    ) -> Pieces:
        """The command around an event's sequence."""
        size = len(before) + DIGITS
        for piece in after:
            size += len(piece)
        head = (self._heads[proposal, 1 if body is None else 2], str(size).encode(), _CRLF, before)
        if body is None:
            return head, (*after, _CRLF)
        return head, (*after, _BODY_HEAD, str(len(body)).encode(), _CRLF, body, _CRLF)

    def whole(self, event: bytes, body: bytes | None = None) -> bytes:
        """The command of an event that has its sequence already."""
        pieces = [self._heads[False, 1 if body is None else 2], str(len(event)).encode(), _CRLF, event]
        if body is not None:
            pieces += (_BODY_HEAD, str(len(body)).encode(), _CRLF, body)
        return b"".join((*pieces, _CRLF))


class Found(NamedTuple):
    """A command in a file: where it stands, and what it says (None where it is damaged)."""

    start: int
    end: int
    record: Record | None


def scan(commands: bytes) -> Iterator[Found]:
    """Every command of a file; a damaged stretch counts as one, a torn end as none."""
    at = 0
    while at < len(commands):
        record, end = _parse(commands, at)
        if record is None:
            following = _NEXT.search(commands, at)
            if following is None:
                return
            end = following.end()
        yield Found(at, end, record)
        at = end


def _parse(commands: bytes, at: int) -> tuple[Record | None, int]:
    head = _HEAD.match(commands, at)
    if head is None:
        return None, at
    start, end = head.end(), head.end() + int(head[3])
    event, at = commands[start:end], end + 2
    body = None
    if head[1] == b"7":
        named = _BODY.match(commands, at)
        if named is None:
            return None, at
        end = named.end() + int(named[1])
        body, at = commands[named.end() : end], end + 2
    if commands[end:at] != b"\r\n":
        return None, at
    try:
        envelope = orjson.loads(event)
        source, sequence = envelope["source"], int(envelope["sequence"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None, at
    if not isinstance(source, str) or not source or sequence < 1:
        return None, at
    return Record(source, sequence, event, body, head[2] == _PROPOSE), at


class Segment(ABC):
    """An append-only run of commands that can be read anywhere while it grows."""

    def __init__(self) -> None:
        self.size = 0
        self.last = 0
        """The highest sequence in it; 0 while it is empty."""

    @abstractmethod
    def append(self, command: bytes, sequence: int) -> None:
        """Add one command.

        Raises:
            OSError: it could not be written; the segment is as before.
        """

    @abstractmethod
    def read(self, start: int, end: int) -> bytes:
        """What stands from ``start`` up to ``end``."""

    @abstractmethod
    def remove(self) -> None:
        """Forget it: the store has everything in it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it and leave it where it is."""


class FileSegment(Segment):
    """A segment in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self._fd).st_size

    def append(self, command: bytes, sequence: int) -> None:
        """Add one command; see Segment."""
        # At the place where it belongs, not at the end: a full disk may have taken half a command before.
        size = self.size
        if os.pwrite(self._fd, command, size) != len(command):
            self.truncate(size)
            raise OSError(ENOSPC, "no space left for the write-ahead file")
        self.size = size + len(command)
        if sequence > self.last:  # noqa: PLR1730  half the time of max()
            self.last = sequence

    def read(self, start: int, end: int) -> bytes:
        """What stands there; see Segment."""
        return os.pread(self._fd, end - start, start)

    def truncate(self, size: int) -> None:
        """Cut everything from ``size`` on."""
        os.ftruncate(self._fd, size)
        self.size = size

    def remove(self) -> None:
        """Delete the file."""
        self.close()
        _unlink(self.path)

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

    def append(self, command: bytes, sequence: int) -> None:
        """Add one command; see Segment."""
        self._bytes += command
        self.size += len(command)
        self.last = max(self.last, sequence)

    def read(self, start: int, end: int) -> bytes:
        """What stands there; see Segment."""
        return bytes(self._bytes[start:end])

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
            _unlink(self.path / f"{instance}.lock")
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


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # left there, it is adopted again: what the store has twice it takes once
        _log.warning("can't remove a write-ahead file that is done with: %s", error)


def address_of(redis_url: str) -> str:
    """Where a URL leads, without who asks there."""
    # As redis-py understands the URL: not how it is spelled.
    meant = parse_url(redis_url)  # type: ignore[no-untyped-call]
    where = meant.get("path") or f"{meant.get('host', 'localhost')}:{meant.get('port', 6379)}"
    return f"{where}/{meant.get('db', 0)}"


def _folder_name(redis_url: str, prefix: str) -> str:
    exact = f"{address_of(redis_url)}_{prefix}"
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", exact).strip("-")[:150]
    return f"{readable}_{sha256(exact.encode()).hexdigest()[:8]}"
