"""One source's events on their way to the store: appended, read to be sent, removed once stored."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from time import monotonic
from typing import TypeVar

import orjson
import uuid_utils

from dspy_ledger import wire
from dspy_ledger.producer.wal import FileSegment, MemorySegment, Record, Segment, format_line, parse_line
from dspy_ledger.sequences import SequenceSet
from dspy_ledger.timestamps import utc_now

__all__ = ["Outbox"]

SomeSegment = TypeVar("SomeSegment", bound=Segment)

_MEMORY_SEGMENT = 1 << 20  # bytes: what is stored is freed in pieces of this size
_BATCH_BYTES = 4 << 20  # of one read, give or take a chunk

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
        self._proposed: set[int] = set()
        self._retry_at = 0.0
        self._warned = False

    @classmethod
    def adopted(cls, paths: list[Path]) -> Outbox:
        """What a process that is gone left behind."""
        outbox = cls("", None)
        seen = SequenceSet()
        for path in paths:
            segment = FileSegment(path)
            outbox._segments.append(segment)
            offset = 0
            while True:
                lines, behind = segment.read_lines(offset)
                if not lines:
                    break
                offset = behind
                outbox._learn(segment, lines, seen)
            segment.truncate(offset)  # a torn last line was never recorded
        outbox._report_damage(seen)
        return outbox

    def _learn(self, segment: Segment, lines: list[bytes], seen: SequenceSet) -> None:
        for line in lines:
            record = parse_line(line)
            source = "" if record is None else _source_of(record)
            if record is None or not source:
                _log.warning("skipping a damaged line in a write-ahead file")
                continue
            self.source = source
            if record.proposal:
                self._proposed.add(record.sequence)
            elif record.sequence in self._proposed:
                self._final[record.sequence] = record
            seen.add(record.sequence)
            segment.last = max(segment.last, record.sequence)
            self.last = max(self.last, record.sequence)

    def _report_damage(self, seen: SequenceSet) -> None:
        """Say in the dead producer's name which of its numbers will never come, so that none is awaited.

        What lies before the first line was stored: only then its segment was removed.
        """
        lost = [gap for gap in seen.missing(self.last) if gap[0] >= seen.ranges[0][0]] if self.last else []
        if not lost:
            return
        sequence = self.last + 1
        report = {"first": 1, "last": self.last, "dropped": lost, "reason": "start"}
        event = wire.encode(
            "ProducerReported",
            report,
            event_id=str(uuid_utils.uuid7()),
            source=self.source,
            sequence=sequence,
            time=utc_now(),
        )
        self.append(Record(sequence, event, None, proposal=False))

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
                    self._append_to_memory(line, record.sequence)
            elif (segment := self._new_file(line, record.sequence)) is not None:
                self._add(segment)
            else:
                self._append_to_memory(line, record.sequence)
            self.last = max(self.last, record.sequence)

    def _append_to_memory(self, line: bytes, sequence: int) -> None:
        used = sum(segment.size for segment in self._segments if isinstance(segment, MemorySegment))
        if used + len(line) > self._memory_bytes:
            raise OSError(ENOSPC, "the write-ahead file can't be written and the memory for it is full")
        current = self._segments[-1] if self._segments else None
        if not isinstance(current, MemorySegment) or current.size >= _MEMORY_SEGMENT:
            current = self._add(MemorySegment())
        current.append(line, sequence)

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
        read = 0
        while len(records) < most and read < _BATCH_BYTES:
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
            read += sum(map(len, lines))
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
        # Bounded: a signal handler may close while the thread it interrupted holds the lock.
        locked = self._lock.acquire(timeout=1)
        try:
            done = self.done
            for segment in self._segments:
                if done:
                    segment.remove()
                else:
                    segment.close()
            self._segments.clear()
            return done
        finally:
            if locked:
                self._lock.release()


def _source_of(record: Record) -> str:
    try:
        source = orjson.loads(record.event)["source"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return source if isinstance(source, str) else ""
