"""The ledger's side of the projector: a batch of the stream is stored, and its marks are published."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import redis

from dspy_ledger.errors import LedgerUnavailable
from dspy_ledger.keys import Keys
from dspy_ledger.projector.ingest import Ingest, decode_entries
from dspy_ledger.projector.patience import Patience
from dspy_ledger.projector.watch import Watch
from dspy_ledger.store import EventStore, StoredEvent

__all__ = ["Intake"]

_log = logging.getLogger(__name__)

_LOOK_EVERY = 0.9  # seconds


class Intake:
    """Takes stream entries into the store; synchronous, for one thread.

    What needs Redis (marks, the watch, trimming) may lag and is made up for by :meth:`tidy`; the store is
    insisted on, and raises when it can't commit.

    Args:
        store: the ledger, by a connection of this thread's own.
        keys: the ledger's keys.
        client: a Redis client without hidden retries.
        patience: how failures are met.
        clock: seconds, monotonic.
        watch: over the stream's server; one over the same store and client when not given.
        trim: deletes a slice of what may leave the stream; whether there is more.
    """

    def __init__(
        self,
        store: EventStore,
        keys: Keys,
        client: redis.Redis,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
        watch: Watch | None = None,
        trim: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._keys = keys
        self._client = client
        self._patience = patience
        self._clock = clock
        self._watch = watch or Watch(store, keys, client)
        self._trim = trim
        self._ingest = Ingest(store, keys.events)
        self._next_look = 0.0
        self._unpublished = self._all_marks()

    @property
    def last_id(self) -> str:
        """The entry id to read after; ``0`` before the first."""
        return self._ingest.last_id

    @property
    def must_read_again(self) -> bool:
        """Whether the stream has to be read from its beginning: stop reading, then :meth:`read_again`."""
        return self._watch.must_read_again

    def take(self, ids: Sequence[bytes], fields: Sequence[Mapping[bytes, bytes]]) -> list[StoredEvent]:
        """Store one batch of stream entries; the events that were new."""
        decoded = decode_entries(ids, fields)
        last_id = ids[-1].decode()
        reading = self._watch.taking(last_id, len(ids))
        self._ingest.server = reading.encode() if reading else None
        appended = self._patience.insist("storing a batch", lambda: self._ingest.append(decoded, last_id))
        self._watch.took(last_id, reading)
        if appended.dead_letters:
            reasons = sorted({letter.reason for letter in decoded.dead_letters} or {"conflict"})
            _log.warning("%d entries became dead letters (%s)", appended.dead_letters, ", ".join(reasons))
        self._unpublished.update(appended.marks)
        self._publish_marks()
        return appended.events

    def tidy(self) -> bool:
        """Look at the stream, publish marks that are due, and trim; call it about once a second.

        Afterwards ``must_read_again`` may have become true.

        Returns:
            Whether to call it again at once, after a batch that waits.

        Raises:
            StartupError: the stream turns out to be another ledger's, or no stream.
        """
        if self._clock() >= self._next_look:
            with suppress(redis.RedisError):
                self.look()
        self._publish_marks()
        try:
            return self._patience.insist("trimming", self._trim)
        except LedgerUnavailable:
            return False  # another time

    def look(self) -> None:
        """Look whether the stream is still the one that is being read; part of :meth:`tidy`.

        Raises:
            RedisError: it can't be asked.
            StartupError: the stream is another ledger's, or no stream.
        """
        self._next_look = self._clock() + _LOOK_EVERY
        self._watch.look()
        self._patience.insist("keeping what was seen of the stream", self._watch.keep)

    def read_again(self) -> None:
        """Begin the stream anew; ``last_id`` then says where. No batch read before may come after."""
        self._patience.insist("beginning the stream anew", self._watch.read_again)
        self._unpublished = self._all_marks()

    def _publish_marks(self) -> None:
        if not self._unpublished:
            return
        try:
            self._client.hset(self._keys.stored, mapping=self._unpublished)  # type: ignore[arg-type]  # numbers do
        except redis.RedisError:
            # It may come back without what it acknowledged last: then every mark is due again.
            self._unpublished = self._all_marks()
        else:
            self._unpublished = {}

    def _all_marks(self) -> dict[str, int]:
        return {account.source: account.mark for account in self._store.producers()}
