"""One source's events on their way to the store: appended, read to be sent, removed once stored."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TypeVar

import orjson

from dspy_ledger.producer.wal import FileSegment, MemorySegment, Record, Segment, format_line, parse_line

__all__ = ["Outbox"]

SomeSegment = TypeVar("SomeSegment", bound=Segment)

_log = logging.getLogger("dspy_ledger.producer")


class Outbox:
    """Segments in order, a read cursor, and the stored mark.

    Host threads append; the one sender thread reads, rewinds and confirms.

    Args:
        source: the CloudEvents source of every event in it.
        next_path: gives the path of the n-th segment; None keeps everything in memory.
        segment_bytes: a new segment is started above this size.
        memory_bytes: how much is kept in memory while no file can be written.
    """

    def __init__(
        self,
        source: str,
        next_path: Callable[[int], Path] | None,
        *,
        segment_bytes: int = 8 << 20,
        memory_bytes: int = 32 << 20,
    ) -> None:
        self.source = source
        self.mark = 0
        self.last = 0
        self.sent = 0
        self._next_path = next_path
        self._segment_bytes = segment_bytes
        self._memory_bytes = memory_bytes
        self._segments: list[Segment] = []
        self._made = 0
        self._at = 0  # the cursor: index of a segment and offset in it
        self._offset = 0
        self._final: dict[int, Record] = {}  # decided registrations whose proposal was read or may be
        self._lock = threading.Lock()
        self._retry_at = 0.0
        self._warned = False

    @classmethod
    def adopted(cls, paths: list[Path]) -> Outbox:
        """What a process that is gone left behind."""
        outbox = cls("", None)
        for path in paths:
            segment = FileSegment(path)
            outbox._segments.append(segment)
            offset = 0
            while True:
                lines, behind = segment.read_lines(offset)
                if not lines:
                    break
                offset = behind
                outbox._learn(segment, lines)
            segment.truncate(offset)  # a torn last line was never recorded
        return outbox

    def _learn(self, segment: Segment, lines: list[bytes]) -> None:
        for line in lines:
            record = parse_line(line)
            if record is None:
                _log.warning("skipping a damaged line in a write-ahead file")
                continue
            if not self.source:
                self.source = orjson.loads(record.event)["source"]
            if not record.proposal and record.sequence <= self.last:
                self._final[record.sequence] = record  # it supersedes the proposal before it
            segment.last = max(segment.last, record.sequence)
            self.last = max(self.last, record.sequence)

    @property
    def wal_bytes(self) -> int:
        """Bytes that are kept because the store does not have them yet."""
        return sum(segment.size for segment in self._segments)

    @property
    def done(self) -> bool:
        """Whether the store has everything."""
        return self.mark >= self.last

    def append(self, record: Record) -> None:
        """Keep a record; on return it outlives the process (or the memory took it, with one warning).

        Raises:
            OSError: neither a file nor the memory takes it.
        """
        line = format_line(record)
        with self._lock:
            current = self._segments[-1] if self._segments else None
            if isinstance(current, FileSegment) and current.size < self._segment_bytes:
                try:
                    current.append(line, record.sequence)
                except OSError as error:
                    self._warn(error)
                    self._add(MemorySegment(self._memory_bytes)).append(line, record.sequence)
            elif (segment := self._new_file(line, record.sequence)) is not None:
                self._add(segment)
            else:
                if not isinstance(current, MemorySegment):
                    current = self._add(MemorySegment(self._memory_bytes))
                current.append(line, record.sequence)
            self.last = max(self.last, record.sequence)

    def _new_file(self, line: bytes, sequence: int) -> FileSegment | None:
        """A new file that holds the line; None while no file can be written (tried once a second)."""
        if self._next_path is None or monotonic() < self._retry_at:
            return None
        segment = None
        try:
            segment = FileSegment(self._next_path(self._made + 1))
            segment.append(line, sequence)
        except OSError as error:
            self._warn(error)
            self._retry_at = monotonic() + 1
            if segment is not None:
                segment.remove()
            return None
        self._made += 1
        return segment

    def _add(self, segment: SomeSegment) -> SomeSegment:
        self._segments.append(segment)
        return segment

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("can't write the write-ahead file (%s): keeping events in memory for now", error)

    def decided(self, record: Record) -> None:
        """Keep a registration's final event: it supersedes the proposal of the same sequence."""
        self._final[record.sequence] = record
        self.append(record)

    def read(self, most: int) -> list[Record]:
        """The next records to send, at most ``most`` or so, skipping what is stored or superseded."""
        records: list[Record] = []
        while len(records) < most:
            with self._lock:
                if self._at >= len(self._segments):
                    break
                segment, is_last = self._segments[self._at], self._at == len(self._segments) - 1
            lines, self._offset = segment.read_lines(self._offset)
            if not lines:
                if is_last:
                    break
                self._at, self._offset = self._at + 1, 0
                continue
            records += self._to_send(lines)
        return records

    def _to_send(self, lines: list[bytes]) -> list[Record]:
        chosen = []
        for line in lines:
            record = parse_line(line)
            if record is None or record.sequence <= self.mark:
                continue
            final = self._final.get(record.sequence)
            if final is None:
                chosen.append(record)
            elif record.proposal:
                chosen.append(final)
            # else: the final line itself; it was sent in its proposal's place
        return chosen

    def rewind(self) -> None:
        """Send everything above the mark again: the server may have lost it."""
        self._at, self._offset, self.sent = 0, 0, self.mark

    @property
    def unsent(self) -> bool:
        """Whether there may be something to read."""
        with self._lock:
            if self._at >= len(self._segments):
                return False
            return self._at < len(self._segments) - 1 or self._offset < self._segments[self._at].size

    def confirm(self, mark: int) -> None:
        """The store has each of 1 … mark: forget the segments that are wholly below."""
        if mark <= self.mark:
            return
        self.mark = mark
        for sequence in [n for n in self._final if n <= mark]:
            del self._final[sequence]
        with self._lock:
            while self._segments and self._segments[0].last <= mark and self._is_behind(0):
                self._segments.pop(0).remove()
                self._at = max(0, self._at - 1)

    def _is_behind(self, index: int) -> bool:
        """Whether the cursor has left that segment, and it is not the one being written."""
        return index < self._at and index < len(self._segments) - 1

    def abandon(self) -> None:
        """After fork, in the child: close the descriptors; the files are the parent's."""
        for segment in self._segments:
            segment.close()

    def close(self) -> bool:
        """Let go of the files; when everything is stored nothing is left. True when so."""
        with self._lock:
            done = self.done
            for segment in self._segments:
                if done:
                    segment.remove()
                else:
                    segment.close()
            self._segments.clear()
            return done
