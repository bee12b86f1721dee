"""Trimming: entries that are stored, old enough and done with leave the stream, by their exact ids."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import redis

from dspy_ledger.projector.portion import Portion
from dspy_ledger.projector.server import change_of, look_at
from dspy_ledger.projector.watch import Watch
from dspy_ledger.streams import entry_order

__all__ = ["Trimming"]

_log = logging.getLogger(__name__)

_EVERY = 1.0  # seconds between two passes over the stream
_SLICE = 0.1  # seconds
_AT_ONCE = 1000
_LAST = 2**64 - 1  # the highest number an id can end in

# How a pass deletes: what is old and done with; when the stream is too long, also what is young; when that
# did not suffice, also what a group has not done with.
_OLD, _YOUNG, _UNREAD = range(3)


class _Group(NamedTuple):
    name: bytes
    delivered: tuple[int, int]
    pending: int


class Trimming:
    """A chore of :class:`~dspy_ledger.projector.live.Live`: keeps the stream short.

    Deletes only what this server delivered and the store has, and nothing while the stream is being read
    again.

    Args:
        client: a Redis client without hidden retries.
        stream: the stream's key.
        watch: knows what was read, and from which server.
        keep: how old an entry has to be, seconds.
        most: how many entries may stay; 0 for any number. Over it, entries go that are younger or that a
            consumer group has not read; the latter is reported.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        client: redis.Redis,
        stream: str,
        watch: Watch,
        *,
        keep: float,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client: Any = client
        self._stream = stream
        self._watch = watch
        self._keep = keep
        self._most = most
        self._clock = clock
        self._portion = Portion(_AT_ONCE)
        self._how = _OLD
        self._after: bytes | None = None  # where the pass goes on
        self._asked = 0
        self._next_pass = 0.0

    def __call__(self) -> bool:
        """A slice of a pass; whether there may be more to delete."""
        if self._after is None and self._clock() < self._next_pass:
            return False
        deadline = self._clock() + _SLICE
        try:
            while self._trim_some():
                if self._clock() >= deadline:
                    return True
        except redis.RedisError as error:
            _log.debug("trimming waits: %s", error)
            self._end_pass(enough=True)
        return False

    def _trim_some(self) -> bool:
        """Look at the next entries and delete those that may go; whether the pass goes on."""
        watch = self._watch
        if watch.must_read_again or watch.is_reading_again or watch.last_id == "0":
            return self._end_pass(enough=True)
        excess = max(0, self._client.xlen(self._stream) - self._most) if self._most else 0
        if self._after is None:
            self._how = min(self._how + 1, _UNREAD) if excess else _OLD
        groups = self._groups()
        ids = self._next_ids(self._bound(groups))
        needed = self._needed(groups, ids)
        doomed = [entry_id for entry_id in ids if self._how == _UNREAD or entry_id not in needed]
        if self._how > _OLD:
            doomed = doomed[:excess]
            excess -= len(doomed)
        if doomed and not self._delete(doomed, len(needed.intersection(doomed))):
            return self._end_pass(enough=True)
        if len(ids) < self._asked or (self._how > _OLD and not excess):
            return self._end_pass(enough=not excess)
        self._after = ids[-1]
        return True

    def _end_pass(self, *, enough: bool) -> bool:
        """Whether another one, that takes more, has to follow at once."""
        self._after = None
        if not enough and self._how < _UNREAD:
            return True
        self._how, self._next_pass = _OLD, self._clock() + _EVERY
        return False

    def _bound(self, groups: Sequence[_Group]) -> tuple[int, int]:
        """The last id that this pass may delete."""
        bounds = [entry_order(self._watch.last_id)]
        if self._how < _UNREAD:
            bounds += [group.delivered for group in groups]
        if self._how == _OLD:
            seconds, micros = self._client.time()
            bounds.append((int((seconds + micros / 1e6 - self._keep) * 1000) - 1, _LAST))
        return min(bounds)

    def _next_ids(self, bound: tuple[int, int]) -> list[bytes]:
        start = b"-" if self._after is None else b"(" + self._after
        self._asked = self._portion.count
        if bound[0] < 0:
            return []
        entries = self._client.xrange(self._stream, start, "{}-{}".format(*bound), count=self._asked)
        self._portion.took([fields or {} for _, fields in entries])
        return [entry_id for entry_id, _ in entries]

    def _groups(self) -> list[_Group]:
        return [
            _Group(told["name"], entry_order(told["last-delivered-id"]), told["pending"])
            for told in self._client.xinfo_groups(self._stream)
        ]

    def _needed(self, groups: Sequence[_Group], ids: Sequence[bytes]) -> set[bytes]:
        """Those of the ids that a group has not read, or not acknowledged."""
        needed: set[bytes] = set()
        for group in groups if ids else ():
            needed.update(entry_id for entry_id in ids if entry_order(entry_id) > group.delivered)
            if group.pending:
                needed.update(self._pending(group, ids[0], ids[-1]))
        return needed

    def _pending(self, group: _Group, first: bytes, last: bytes) -> Iterator[bytes]:
        """What a group has read and not acknowledged; more than there are entries, when some were deleted."""
        while told := self._client.xpending_range(self._stream, group.name, first, last, _AT_ONCE):
            yield from (entry["message_id"] for entry in told)
            if len(told) < _AT_ONCE:
                return
            first = b"(" + told[-1]["message_id"]

    def _delete(self, ids: Sequence[bytes], cut: int) -> bool:
        """Delete them, unless the server is another than the one that they were read from."""
        reading = self._watch.reading
        # After they were listed: so they are ids that this server gave, and that were read.
        if reading is None:
            return False
        sight = look_at(self._client, self._stream, reading)
        if change_of(reading, self._watch.last_id, sight) is not None:
            return False
        deleted = self._client.xdel(self._stream, *ids)
        self._watch.trimmed(deleted, cut)
        if cut:
            _log.warning(
                "the stream is longer than DSPY_LEDGER_STREAM_MAX_LENGTH (%d): deleted %d stored entries that"
                " a consumer group had not read or acknowledged",
                self._most,
                cut,
            )
        return True
