"""One source's events on their way to the store: numbered, kept, sent, removed once stored."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Literal

import orjson
import uuid_utils

from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.producer.wal import Commands, FileSegment, MemorySegment, Record, Segment, scan
from dspy_ledger.sequences import SequenceSet
from dspy_ledger.timestamps import utc_now
from dspy_ledger.wire import Encoder

__all__ = ["Chunk", "Outbox"]

_log = logging.getLogger("dspy_ledger.producer")

_CHUNK = 64 << 10  # bytes: what is looked at, sent and remembered as one
_BATCH = 512 << 10  # bytes sent before the answers are read
_SEGMENT = 8 << 20  # bytes: a new file is started above this size
_MEMORY = 32 << 20  # bytes kept in memory while no file can be written
_MEMORY_SEGMENT = 1 << 20  # bytes: what is stored is freed in pieces of this size
_TIDY = 1 << 20  # bytes: a file larger than this is removed as soon as all in it is stored
_MOST_RANGES = 10_000  # of one report
_LAST = 9_999_999_999  # sequences are written with ten digits
_LOCK = 2.0  # seconds: longer than any other thread takes to append
_MOST_LATE = 1_000  # events kept for whoever is in the way
_REGISTERED, _REPORTED = (
    f'"type":"{EVENT_TYPES[kind]}"'.encode() for kind in ("ProgramRegistered", "ProducerReported")
)
_ATTRIBUTES = 500  # bytes: an event's type stands in the first of them
_MOST_TAKEN = 1_000  # entries remembered to see whether the server still has them


@dataclass(slots=True)
class Chunk:
    """A run of commands in a segment: events ``first`` … ``last``, or one proposed registration."""

    segment: Segment
    start: int
    end: int
    first: int
    last: int
    count: int
    proposal: bool = False

    def read(self) -> bytes:
        """Its commands."""
        return self.segment.read(self.start, self.end)

    def leads_to(self, other: Chunk) -> bool:
        """Whether the two can be one."""
        return (
            self.segment is other.segment
            and self.end == other.start
            and self.last + 1 == other.first
            and not (self.proposal or other.proposal)
            and other.end - self.start <= _CHUNK
        )

    def take(self, other: Chunk) -> None:
        """Be one with the chunk that follows."""
        self.end, self.last = other.end, other.last
        self.count += other.count


@dataclass(frozen=True, slots=True)
class _Report:
    sequence: int
    dropped: SequenceSet
    unconfirmed: SequenceSet


class Outbox:
    """Segments in order, chunks in them, a cursor, the stored mark, and the account of what is missing.

    Host threads append; the one sender thread sends, rewinds and confirms. A number is given to an event
    when it is kept or dropped; numbers that will never come are reported (``ProducerReported``), so that the
    store does not wait for them.

    Args:
        source: the CloudEvents source of every event in it.
        commands: builds the commands of the stream they are for.
        next_path: gives the path of the n-th segment, or raises OSError; None keeps everything in memory.
        most_bytes: what is kept at most. Beyond it, what was sent goes first (and is reported as
            unconfirmed), then new events are dropped (and reported).
    """

    def __init__(
        self,
        source: str,
        commands: Commands,
        next_path: Callable[[int], Path] | None,
        *,
        context: dict[str, str] | None = None,
        most_bytes: int = 256 << 20,
        segment_bytes: int = _SEGMENT,
        memory_bytes: int = _MEMORY,
    ) -> None:
        self.source = source
        self.commands = commands
        self.encoder = Encoder(source, context)
        self.mark = 0
        self.last = 0
        self.sent = 0
        self.dropped = 0
        self.unconfirmed = 0
        self.sampled_out = 0
        self.memory_bytes = 0
        self._next_path = next_path
        self._most_bytes = most_bytes
        self._segment_bytes = min(segment_bytes, most_bytes // 8)
        self._most_memory = min(memory_bytes, most_bytes)
        self._memory_segment_bytes = min(_MEMORY_SEGMENT, self._most_memory // 8)
        self._bytes = 0
        self._made = 0
        self._segments: deque[Segment] = deque()
        self._file: FileSegment | None = None  # the segment being written; None: memory is
        self._chunks: deque[Chunk] = deque()
        self._at = 0  # the cursor: chunks before it were sent
        self._open: Chunk | None = None  # the last chunk, while it may grow
        # Sent, in that order: the last number of a run, the server's ids of its first and its last entry.
        self._taken: deque[tuple[int, bytes, bytes]] = deque()
        self._final: dict[int, Chunk] = {}  # decided registrations whose proposal still stands before them
        self._untold = (SequenceSet(), SequenceSet())  # dropped, unconfirmed: not in any report yet
        self._told: list[_Report] = []
        self._told_sampled = 0
        self._late: deque[tuple[tuple[bytes, ...], tuple[bytes, ...], bool] | None] = (
            deque()
        )  # of signal handlers, and of threads that waited for long; None: dropped
        self._lock = threading.RLock()  # a signal handler may come at any bytecode, also right after this
        self._inside = False  # of append, drop, sample_out or report
        self._retry_at = 0.0
        self._in_memory = False  # said so
        self._full = False  # said so

    # --- what dead processes left ---

    @classmethod
    def adopted(cls, paths: Sequence[Path], commands: Commands) -> Outbox:
        """What a process that is gone left behind.

        Numbers that a damaged file lost are reported in its name, so that the store does not wait for them.
        What lies before the first number was stored, or reported when it was let go: only then is a
        segment removed.

        Raises:
            OSError: a file can't be read.
        """
        outbox = cls("", commands, None)
        accounted, finals = SequenceSet(), SequenceSet()
        proposed: set[int] = set()
        for path in paths:
            outbox._adopt(FileSegment(path), accounted, finals, proposed)
        outbox.encoder = Encoder(outbox.source)
        if outbox.last:
            first = accounted.ranges[0][0] if accounted.ranges else outbox.last
            for number, last in finals.ranges:
                accounted.add(number, last)
            for gap in accounted.missing(outbox.last):
                if gap[0] >= first:
                    outbox._untold[0].add(*gap)
            outbox.report("start")
        return outbox

    def _adopt(
        self, segment: FileSegment, accounted: SequenceSet, finals: SequenceSet, proposed: set[int]
    ) -> None:
        """Take in one file.

        ``finals``: numbers of decided registrations whose proposal stood in a segment that is removed; they
        say nothing of where what is left begins.
        """
        self._add(segment)
        self._file = segment
        self._bytes += segment.size
        whole = 0
        for start, end, record in scan(segment.read(0, segment.size)):
            whole = end
            if record is None:
                _log.warning("skipping a damaged stretch in the write-ahead file %s", segment.path)
                continue
            self.source = record.source
            is_final = not record.proposal and _REGISTERED in record.event[:_ATTRIBUTES]
            (finals if is_final and record.sequence not in proposed else accounted).add(record.sequence)
            if _REPORTED in record.event[:_ATTRIBUTES]:
                for first, last in _reported(record.event):
                    accounted.add(first, last)
            if record.sequence in proposed and not record.proposal:
                n = record.sequence
                self._final[n] = Chunk(segment, start, end, n, n, 1)
                continue
            if record.proposal:
                proposed.add(record.sequence)
            self._chunks.append(
                Chunk(segment, start, end, record.sequence, record.sequence, 1, record.proposal)
            )
            if len(self._chunks) > 1 and self._chunks[-2].leads_to(self._chunks[-1]):
                following = self._chunks.pop()
                self._chunks[-1].take(following)
            segment.last = max(segment.last, record.sequence)
            self.last = max(self.last, record.sequence)
        self._bytes -= segment.size - whole
        segment.truncate(whole)  # a torn end was never recorded

    # --- the account ---

    @property
    def wal_bytes(self) -> int:
        """Bytes that are kept because the store does not have them yet."""
        return 0 if self.done else self._bytes

    @property
    def done(self) -> bool:
        """Whether the store has everything."""
        return self.mark >= self.last

    @property
    def count(self) -> int:
        """How many events are in it."""
        return sum(chunk.count for chunk in self._chunks)

    @property
    def unsent(self) -> bool:
        """Whether there is something to send."""
        return self._at < len(self._chunks)

    @property
    def is_behind(self) -> bool:
        """Whether more than one batch waits to be sent."""
        return len(self._chunks) - self._at > _BATCH // _CHUNK

    # --- the host's side ---

    def append(self, before: tuple[bytes, ...], after: tuple[bytes, ...], *, proposal: bool = False) -> int:
        """Number a command and keep it; its sequence.

        On return it outlives the process (or the memory took it, with one warning). 0 when it had to be
        dropped; -1 when a signal handler interrupted this thread in the middle of this, or another thread
        waits for the disk there: then it is kept as soon as that goes on.
        """
        if not self._acquire():
            self._late.append((before, after, proposal) if len(self._late) < _MOST_LATE else None)
            return -1
        try:
            sequence = self._append(before, after, proposal)
            if self._late:
                self._append_late()
        except BaseException:
            self._mend()
            raise
        finally:
            self._inside = False
            self._lock.release()
        return sequence

    def _mend(self) -> None:
        """After an exception (a signal handler may raise one anywhere): account for the number it took."""
        self._open = None
        kept = self._chunks[-1].last if self._chunks else self.mark
        if self.last > kept and self.last not in self._untold[0]:
            self._drop(self.last)

    def _append(self, before: tuple[bytes, ...], after: tuple[bytes, ...], proposal: bool) -> int:
        sequence = self.last + 1
        if sequence > _LAST:
            raise OverflowError("ten digits of sequence numbers are used up; connect a new Ledger")
        command = b"".join((*before, b"%010d" % sequence, *after))
        size = len(command)
        if self._bytes + size > self._most_bytes:
            room = self._make_room(size)
            sequence = self.last + 1  # a report may have taken a number
            command = b"".join((*before, b"%010d" % sequence, *after))
        else:
            room = True
        self.last = sequence
        segment = self._write(command, sequence) if room else None
        if segment is None:
            self._drop(sequence)
            return 0
        end = segment.size
        chunk = self._open
        if chunk is None or proposal or chunk.segment is not segment or end - chunk.start > _CHUNK:
            self._begin_chunk(segment, end - size, sequence, proposal=proposal)
        else:
            chunk.end, chunk.last = end, sequence
            chunk.count += 1
        return sequence

    def _begin_chunk(self, segment: Segment, start: int, sequence: int, *, proposal: bool = False) -> None:
        chunk = Chunk(segment, start, segment.size, sequence, sequence, 1, proposal)
        self._chunks.append(chunk)
        self._open = None if proposal else chunk

    def _append_late(self) -> None:
        while self._late:
            if (pieces := self._late.popleft()) is None:
                self._drop_next()
            else:
                self._append(*pieces)

    def drop(self) -> None:
        """Count an event that could not be made: it takes a number, and the number is reported."""
        if not self._acquire():
            self._late.append(None)
            return
        try:
            self._drop_next()
        finally:
            self._release()

    def _drop_next(self) -> None:
        self.last += 1
        self._drop(self.last)

    def _drop(self, sequence: int) -> None:
        self.dropped += 1
        self._untold[0].add(sequence)
        self._open = None

    def sample_out(self) -> None:
        """Count an event that sampling left out; it takes no number."""
        ours = self._acquire()
        self.sampled_out += 1
        if ours:
            self._release()

    def _acquire(self) -> bool:
        """Take the lock.

        False when this very thread is inside already, interrupted by a signal handler, or another does not
        let go of it.
        """
        try:
            # No keywords: half the time.
            if not (self._lock.acquire(False) or self._lock.acquire(True, _LOCK)):
                return False
            if self._inside:
                self._lock.release()
                return False
            self._inside = True
        except BaseException:  # a signal handler may raise right after the lock was taken
            if self._lock._is_owned() and not self._inside:  # type: ignore[attr-defined]
                self._lock.release()
            raise
        return True

    def _release(self) -> None:
        self._inside = False
        self._lock.release()

    def report(self, reason: Literal["start", "interval", "close"]) -> None:
        """Say which numbers will never come, and how many were sampled out, if any were since the last."""
        if self._acquire():
            try:
                self._append_late()
                # Over the cap once only: it says the same later, and nobody reads it before there is room.
                if self._bytes <= self._most_bytes or reason == "close":
                    self._report(reason)
            finally:
                self._release()

    def _report(self, reason: str) -> None:
        dropped, unconfirmed = self._untold
        if not (dropped.ranges or unconfirmed.ranges or self.sampled_out > self._told_sampled):
            return
        told = {
            "first": 1,
            "last": self.last,
            "dropped": dropped.ranges[:_MOST_RANGES],
            "unconfirmed": unconfirmed.ranges[:_MOST_RANGES],
            "sampled_out": self.sampled_out,
            "reason": reason,
        }
        before, after = self.commands.pieces(
            *self.encoder.pieces(
                "ProducerReported",
                orjson.dumps(told),
                event_id=str(uuid_utils.uuid7()),
                time=utc_now(),
            )
        )
        sequence = self.last + 1
        command = b"".join((*before, b"%010d" % sequence, *after))
        segment = self._write(command, sequence, over_memory=len(command))  # whatever the cap
        if segment is None:
            return
        self.last = sequence
        self._begin_chunk(segment, segment.size - len(command), sequence)
        self._untold = (
            SequenceSet(dropped.ranges[_MOST_RANGES:]),
            SequenceSet(unconfirmed.ranges[_MOST_RANGES:]),
        )
        self._told.append(
            _Report(
                sequence,
                SequenceSet(dropped.ranges[:_MOST_RANGES]),
                SequenceSet(unconfirmed.ranges[:_MOST_RANGES]),
            )
        )
        self._told_sampled = self.sampled_out

    # --- keeping ---

    def _write(self, command: bytes, sequence: int, over_memory: int = 0) -> Segment | None:
        """Where the command stands now; None when neither a file nor the memory takes it."""
        segment = self._file
        try:
            if segment is None or segment.size >= self._segment_bytes:
                segment = self._new_file()
            if segment is not None:
                segment.append(command, sequence)
                self._bytes += len(command)
                if self._in_memory:
                    self._in_memory = False
                    _log.warning("the write-ahead file can be written again")
                return segment
        except OSError as error:
            self._give_up_file(error)
        return self._write_to_memory(command, sequence, self._most_memory + over_memory)

    def _new_file(self) -> FileSegment | None:
        """A new file; None while none can be made (tried once a second)."""
        if self._next_path is None or monotonic() < self._retry_at:
            return None
        segment = FileSegment(self._next_path(self._made + 1))
        self._made += 1
        self._add(segment)
        self._file = segment
        return segment

    def _write_to_memory(self, command: bytes, sequence: int, most: int) -> Segment | None:
        if self.memory_bytes + len(command) > most:
            return None
        segment = self._segments[-1] if self._segments else None
        if not isinstance(segment, MemorySegment) or segment.size >= self._memory_segment_bytes:
            segment = MemorySegment()
            self._add(segment)
        segment.append(command, sequence)
        self._bytes += len(command)
        self.memory_bytes += len(command)
        return segment

    def _add(self, segment: Segment) -> None:
        self._segments.append(segment)
        self._open = None

    def _give_up_file(self, error: OSError) -> None:
        """What comes now goes to memory; another file is tried in a second."""
        self._retry_at = monotonic() + 1
        if self._file is not None and self._file.size == 0:
            self._segments.pop().remove()
        self._file = None
        if not self._in_memory:
            self._in_memory = True
            _log.warning(
                "can't write the write-ahead file (%s): events are kept in memory only, for now", error
            )

    def _make_room(self, size: int) -> bool:
        """Let go of what was sent, oldest first; whether that is enough."""
        before = self.unconfirmed
        while self._bytes + size > self._most_bytes and self._was_sent(0):
            segment, chunks = self._take_out_first()
            segment.remove()
            for chunk in chunks:
                first = max(chunk.first, self.mark + 1)
                self.unconfirmed += chunk.last - first + 1
                self._untold[1].add(first, chunk.last)
        if self.unconfirmed > before:
            self._report("interval")  # at once: who adopts these files must know why numbers are missing
        if self._bytes + size <= self._most_bytes:
            return True
        if not self._full:
            self._full = True
            _log.warning(
                "%.0f MiB wait to be stored, the most that WAL_MAX_BYTES allows: new events are dropped"
                " (and reported) until the store takes some",
                self._most_bytes / 2**20,
            )
        return False

    def _was_sent(self, index: int) -> bool:
        """Whether all of that segment was sent, and it is not the one being written."""
        if index >= len(self._segments) - 1:
            return False
        return not self.unsent or self._chunks[self._at].segment is not self._segments[index]

    def _take_out_first(self) -> tuple[Segment, list[Chunk]]:
        """Take out the first segment, to be removed; and its chunks above the mark."""
        segment = self._segments.popleft()
        self._bytes -= segment.size
        if isinstance(segment, MemorySegment):
            self.memory_bytes -= segment.size
        if segment is self._file:
            self._file = None
        above = []
        while self._chunks and self._chunks[0].segment is segment:
            chunk = self._chunks.popleft()
            self._at = max(0, self._at - 1)
            if chunk.last > self.mark:
                above.append(chunk)
        if self._open is not None and self._open.segment is segment:
            self._open = None
        for report in [r for r in self._told if any(c.first <= r.sequence <= c.last for c in above)]:
            self._told.remove(report)  # nobody may ever read it: say it again
            for untold, told in zip(self._untold, (report.dropped, report.unconfirmed), strict=True):
                for first, last in told.ranges:
                    untold.add(first, last)
        for sequence in [n for n, final in self._final.items() if final.segment is segment]:
            del self._final[sequence]
        return segment, above

    # --- the sender's side ---

    def decided(self, record: Record) -> None:
        """Keep a registration's final event: it supersedes the proposal of the same sequence."""
        command = self.commands.whole(record.event, record.body)
        with self._lock:
            segment = self._write(command, record.sequence)
            if segment is not None:
                n = record.sequence
                self._final[n] = Chunk(segment, segment.size - len(command), segment.size, n, n, 1)
            self._open = None
            if record.entry_id is not None:
                self._remember(record.sequence, record.entry_id, record.entry_id)

    def final(self, sequence: int) -> bytes | None:
        """The command of a registration that was decided; None when it is not."""
        chunk = self._final.get(sequence)
        return None if chunk is None else chunk.read()

    def unsent_chunks(self) -> list[Chunk]:
        """The next chunks to send: one proposed registration, or events of half a megabyte or so."""
        chunks: list[Chunk] = []
        size = 0
        with self._lock:
            while self._at < len(self._chunks) and self._chunks[self._at].last <= self.mark:
                self._at += 1
            if self._at < len(self._chunks) and self._chunks[self._at].first <= self.mark:
                self._split_at_mark(self._chunks[self._at])
            for index in range(self._at, len(self._chunks)):
                chunk = self._chunks[index]
                if chunks and (chunk.proposal or chunks[0].proposal or size >= _BATCH):
                    break
                chunks.append(chunk)
                size += chunk.end - chunk.start
            if chunks and chunks[-1] is self._open:
                self._open = None
        return chunks

    def _split_at_mark(self, chunk: Chunk) -> None:
        """Leave behind what the store has of a chunk."""
        for count, found in enumerate(scan(chunk.read())):
            if found.record is not None and found.record.sequence > self.mark:
                middle, first = chunk.start + found.start, found.record.sequence
                rest = Chunk(chunk.segment, middle, chunk.end, first, chunk.last, chunk.count - count)
                chunk.end, chunk.last, chunk.count = middle, first - 1, count
                self._at += 1
                self._chunks.insert(self._at, rest)
                if self._open is chunk:
                    self._open = rest
                return

    def leave_out(self, chunk: Chunk) -> None:
        """Drop a proposal, the next to send until now, of which nothing can be made."""
        with self._lock:
            del self._chunks[self._at]
            self._drop(chunk.first)
            self._report("interval")

    def was_sent(self, chunks: Sequence[Chunk], ids: tuple[bytes, bytes] | None = None) -> None:
        """The server took these chunks, the next to send until now.

        Args:
            ids: those that it gave to the first and the last entry.
        """
        with self._lock:
            if ids is not None:
                self._remember(chunks[-1].last, *ids)
            for chunk in chunks:
                self.sent = max(self.sent, chunk.last)
                before = self._chunks[self._at - 1] if self._at else None
                if before is not None and before.leads_to(chunk):
                    del self._chunks[self._at]  # many small ones are remembered as one
                    before.take(chunk)
                else:
                    self._at += 1

    def rewind(self) -> None:
        """Send everything above the mark again: the server may have lost it."""
        with self._lock:
            self._at, self.sent = 0, self.mark
            self._taken.clear()

    def _remember(self, last: int, first_id: bytes, last_id: bytes) -> None:
        if len(self._taken) >= _MOST_TAKEN:
            self._taken = deque(islice(self._taken, 0, None, 2))
        self._taken.append((last, first_id, last_id))

    @property
    def waiting(self) -> list[bytes]:
        """Ids of the first and the last entry that the server took and the store does not have."""
        return [self._taken[0][1], self._taken[-1][2]] if self._taken else []

    def confirm(self, mark: int) -> None:
        """The store has each of 1 … mark: forget the segments that are wholly below."""
        if mark <= self.mark:
            return
        with self._lock:
            self.mark = mark
            while self._taken and self._taken[0][0] <= mark:
                self._taken.popleft()
            for sequence in [n for n in self._final if n <= mark]:
                del self._final[sequence]
            self._told = [report for report in self._told if report.sequence > mark]
            gone = []
            while self._segments and self._segments[0].last <= mark and self._may_go():
                gone.append(self._take_out_first()[0])
        for segment in gone:
            segment.remove()
            self._full = False

    def _may_go(self) -> bool:
        if self._was_sent(0):
            return True
        # The one being written: only when all is stored, and not for every few events.
        return len(self._segments) == 1 and self.done and not self.unsent and self._segments[0].size >= _TIDY

    # --- the end ---

    def abandon(self) -> None:
        """After fork, in the child: close the descriptors; the files are the parent's."""
        for segment in self._segments:
            segment.close()

    def close(self) -> bool:
        """Let go of the files; when everything is stored nothing is left. True when so."""
        locked = self._lock.acquire(timeout=1)
        try:
            done = self.done
            for segment in self._segments:
                if done:
                    segment.remove()
                else:
                    segment.close()
            self._segments.clear()
            self._chunks.clear()
            self._at, self._open = 0, None
            # A thread may be on its way to append: what nobody sends any more is dropped and counted.
            self._file, self._next_path, self._most_memory = None, None, -1
            return done
        finally:
            if locked:
                self._lock.release()


def _reported(event: bytes) -> list[tuple[int, int]]:
    data = orjson.loads(event).get("data") or {}
    ranges = (*data.get("dropped", ()), *data.get("unconfirmed", ()))
    return [(first, last) for first, last in ranges if 1 <= first <= last]
