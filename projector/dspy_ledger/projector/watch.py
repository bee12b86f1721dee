"""Whether the stream is still the one that is being read, and is this ledger's to read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import redis

from dspy_ledger.errors import StartupError
from dspy_ledger.keys import Keys
from dspy_ledger.projector.server import Sight, change_of, look_at
from dspy_ledger.store import EventStore, StreamCheckpoint
from dspy_ledger.streams import Change, Reading, entry_order
from dspy_ledger.timestamps import utc_now

__all__ = ["Watch"]

_log = logging.getLogger(__name__)

_MOST_SEEN = 5


class Watch:
    """Knows the server that the stream is read from, and notices when it was replaced or lost entries.

    Then the stream has to be read again from its beginning: what is new may have ids below the checkpoint,
    and the store keeps one of each event anyway.

    Args:
        store: the ledger; whoever uses this is its one writer.
        keys: the ledger's keys.
        client: a Redis client without hidden retries.
        now: the time of day (canonical text).
    """

    def __init__(
        self, store: EventStore, keys: Keys, client: redis.Redis, now: Callable[[], str] = utc_now
    ) -> None:
        self._store = store
        self._keys = keys
        self._client = client
        self._now = now
        kept = store.stream_checkpoint(keys.events)
        self.last_id = kept.last_id if kept else "0"
        self.reading = Reading.decode(kept.server) if kept else None
        self._kept = self.reading
        self._again: tuple[Change | None, Sight] | None = None
        self._ahead: int | None = None

    @property
    def must_read_again(self) -> bool:
        """Whether the last look found that the stream has to be read from its beginning."""
        return self._again is not None

    @property
    def is_reading_again(self) -> bool:
        """Whether entries that were there when reading began again are not read yet."""
        return self.reading is None or self.reading.until is not None

    def look(self) -> None:
        """Ask the server what is there; ``must_read_again`` then says what came of it.

        Raises:
            RedisError: it can't be asked.
            StartupError: the stream is another ledger's, or no stream.
        """
        sight = look_at(self._client, self._keys.events, self.reading)
        self._claim()
        if self._ahead is None:
            self._ahead = self._events_ahead()
            if self._ahead:
                self._again = "older store", sight
                return
        if self.reading is None:
            self._again = None, sight
            return
        change = change_of(self.reading, self.last_id, sight)
        self._again = (change, sight) if change else self._again
        if self._again is None:
            self.reading = replace(self.reading, added=sight.added, seen=_seen(sight))
            # The last entry that was to be read may have been deleted meanwhile.
            gone = sight.newest is None or entry_order(sight.newest) <= entry_order(self.last_id)
            if self.reading.until is not None and gone:
                self.reading = replace(self.reading, until=None)
                _log.warning("%s", self.reading.sentence)

    def read_again(self) -> None:
        """Put the checkpoint to the beginning. What was delivered before must be stored, or never be.

        Raises:
            sqlite3.Error: the store could not commit; the same call may be made again.
        """
        if self._again is None:
            return
        why, sight = self._again
        first = self.reading is None and self.last_id == "0" and why is None
        reading = Reading(
            sight.server,
            self._now(),
            why,
            added=sight.added,
            seen=_seen(sight),
            until=None if first else sight.newest,
            length=sight.length,
            ahead=(self._ahead or 0) if why == "older store" else 0,
        )
        self._store.append((), checkpoint=StreamCheckpoint(self._keys.events, "0", reading.encode()))
        self.last_id, self.reading, self._kept, self._again = "0", reading, reading, None
        if not first:
            _log.warning("%s", reading.sentence)

    def taking(self, last_id: str, count: int) -> Reading | None:
        """The reading that the store is to keep with a batch."""
        reading = self.reading
        if reading is None:
            return None
        if len(reading.seen) < _MOST_SEEN:
            reading = replace(reading, seen=(*reading.seen, last_id))
        if reading.until is not None:
            done = entry_order(last_id) >= entry_order(reading.until)
            reading = replace(reading, read=reading.read + count, until=None if done else reading.until)
        return reading

    def took(self, last_id: str, reading: Reading | None) -> None:
        """A batch is stored, and the reading with it: only now may its entries be trimmed."""
        ended = self.is_reading_again and reading is not None and reading.until is None
        self.last_id, self.reading, self._kept = last_id, reading, reading
        if ended and reading is not None:
            _log.warning("%s", reading.sentence)

    def trimmed(self, count: int, cut: int) -> None:
        """Note that entries were deleted, ``cut`` of them before every group was done with them."""
        if self.reading is not None:
            trimmed, all_cut = self.reading.trimmed + count, self.reading.cut + cut
            self.reading = replace(self.reading, trimmed=trimmed, cut=all_cut)

    def keep(self) -> None:
        """Have the store keep what was noted since its last batch, where ``status`` sees it.

        Raises:
            sqlite3.Error: the store could not commit; the same call may be made again.
        """
        if self.reading is not None and self.reading != self._kept and self._again is None:
            checkpoint = StreamCheckpoint(self._keys.events, self.last_id, self.reading.encode())
            self._store.append((), checkpoint=checkpoint)
            self._kept = self.reading

    def _claim(self) -> None:
        """One ledger per prefix: two would each tell producers that events are stored."""
        client: Any = self._client
        mine = self._store.ledger_id
        owner = client.get(self._keys.owner)
        if owner is None:
            owner = client.hget(self._keys.registry_checkpoint, "ledger_id")
            if owner is None or owner.decode() == mine:
                with suppress(redis.OutOfMemoryError):  # trimming makes room: at a later look, then
                    client.set(self._keys.owner, mine, nx=True)
                owner = client.get(self._keys.owner)
        if owner is not None and owner.decode() != mine:
            raise StartupError(
                f"ledger {owner.decode(errors='replace')} owns this Redis under the prefix"
                f" {self._keys.prefix}; choose another DSPY_LEDGER_STREAM_PREFIX, or, to hand it over to"
                f" ledger {mine}, stop the other projector and run: redis-cli DEL '{self._keys.owner}'"
                f" '{self._keys.registry_checkpoint}'"
            )

    def _events_ahead(self) -> int:
        """How many events producers were told are stored, and are not: this store is older than that."""
        told: Any = self._client.hgetall(self._keys.stored)
        if not told:
            return 0
        marks = {account.source.encode(): account.mark for account in self._store.producers()}
        return sum(
            max(0, int(mark) - marks.get(source, 0)) for source, mark in told.items() if mark.isdigit()
        )


def _seen(sight: Sight) -> tuple[str, ...]:
    return () if sight.newest is None else (sight.newest,)
