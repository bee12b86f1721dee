"""The live path: a batch of the stream is stored, its marks are published, the views follow."""

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
from dspy_ledger.projector.projection import SLICE, Projection, advance
from dspy_ledger.projector.watch import Watch
from dspy_ledger.store import EventStore, StoredEvent

__all__ = ["Chore", "Live"]

_log = logging.getLogger(__name__)

# Seconds.
_SECOND_REST, _LONGEST_REST = 1.0, 10.0
_LOOK_EVERY = 0.9
_TELL_EVERY = 5.0

Chore = Callable[[], bool]
"""A slice (0.2 s at most) of work beside ingest; whether it wants to be called again at once."""


class Live:
    """Store, marks and projections, in that order, for each batch; synchronous, for one thread.

    What needs Redis (marks, the registry) may lag and is made up for by :meth:`tidy`; everything else is
    insisted on, and raises when it can't be done.

    Args:
        store: the ledger; this is its one writer.
        keys: the ledger's keys.
        client: a Redis client without hidden retries.
        projections: the views, in the order in which they follow.
        patience: how failures are met.
        clock: seconds, monotonic.
        chores: what else the writer does, a slice in each :meth:`tidy`.
        watch: over the stream's server; one over the same store and client when not given.
    """

    def __init__(
        self,
        store: EventStore,
        keys: Keys,
        client: redis.Redis,
        projections: Sequence[Projection],
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
        chores: Sequence[Chore] = (),
        watch: Watch | None = None,
    ) -> None:
        self.ingest = Ingest(store, keys.events)
        self._store = store
        self._keys = keys
        self._client = client
        self._projections = projections
        self._patience = patience
        self._clock = clock
        self._chores = chores
        self._watch = watch or Watch(store, keys, client)
        self._next_look = 0.0
        self._unpublished = self._all_marks()
        self._resting: dict[str, tuple[float, float]] = {}  # projection → (not before, how long next)
        self._told: dict[str, float] = {}  # projection that lags → when that was told last

    def take(self, ids: Sequence[bytes], fields: Sequence[Mapping[bytes, bytes]]) -> int:
        """One batch of stream entries, from bytes to views; how many events were new."""
        decoded = decode_entries(ids, fields)
        last_id = ids[-1].decode()
        reading = self._watch.taking(last_id, len(ids))
        self.ingest.server = reading.encode() if reading else None
        appended = self._patience.insist("storing a batch", lambda: self.ingest.append(decoded, last_id))
        self._watch.took(last_id, reading)
        if appended.dead_letters:
            reasons = sorted({letter.reason for letter in decoded.dead_letters} or {"conflict"})
            _log.warning("%d entries became dead letters (%s)", appended.dead_letters, ", ".join(reasons))
        self._unpublished.update(appended.marks)
        self._publish_marks()
        for projection in self._projections:
            self._follow(projection, appended.events, seconds=0)  # a slice between batches is enough
        return len(appended.events)

    def tidy(self) -> bool:
        """Make up for what was left behind, and do the chores, a slice each; call it about once a second.

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
        wanting = [self._follow(projection) for projection in self._projections]
        wanting += [self._do(chore) for chore in self._chores]
        return any(wanting)

    def look(self) -> None:
        """Look whether the stream is still the one that is being read; part of :meth:`tidy`.

        Raises:
            RedisError: it can't be asked.
            StartupError: the stream is another ledger's, or no stream.
        """
        self._next_look = self._clock() + _LOOK_EVERY
        self._watch.look()
        self._patience.insist("keeping what was seen of the stream", self._watch.keep)

    @property
    def must_read_again(self) -> bool:
        """Whether the stream has to be read from its beginning: stop reading, then :meth:`read_again`."""
        return self._watch.must_read_again

    def read_again(self) -> None:
        """Begin the stream anew; ``ingest.last_id`` then says where. No batch read before may come after."""
        self._patience.insist("beginning the stream anew", self._watch.read_again)
        self._unpublished = self._all_marks()

    def _do(self, chore: Chore) -> bool:
        try:
            return self._patience.insist("a chore", chore)
        except LedgerUnavailable:
            return False  # it needs Redis: another time

    def _follow(
        self, projection: Projection, events: Sequence[StoredEvent] = (), *, seconds: float = SLICE
    ) -> bool:
        """Bring a projection on; whether it lags. One that needs an unreachable Redis rests for a while."""
        name = projection.name
        if name in self._resting and self._clock() < self._resting[name][0]:
            return False
        try:
            lags = self._patience.insist(
                f"projecting to {name}",
                lambda: advance(self._store, projection, events, seconds=seconds, clock=self._clock),
            )
        except LedgerUnavailable as error:
            self._rest(name, error)
            return False
        if self._resting.pop(name, (0.0, 0.0))[1] > _SECOND_REST:
            _log.info("projection %s can be reached again", name)
        self._tell(projection, lags=lags)
        return lags

    def _tell(self, projection: Projection, *, lags: bool) -> None:
        """Say now and then how far a projection is that catches up."""
        name, now = projection.name, self._clock()
        if not lags:
            if self._told.pop(name, None) is not None:
                _log.info("projection %s caught up", name)
        elif now >= self._told.setdefault(name, now) + _TELL_EVERY:
            self._told[name] = now
            _log.info("%s is at %d of %d", name, projection.position(), self._store.last_position())

    def _rest(self, name: str, error: LedgerUnavailable) -> None:
        """Leave a projection be for a while; said at its second failure: the first may be the very end."""
        _, rest = self._resting.get(name, (0.0, _SECOND_REST / 2))
        if rest == _SECOND_REST:
            _log.warning("projection %s falls behind, it catches up later: %s", name, error)
        self._resting[name] = (self._clock() + rest, min(rest * 2, _LONGEST_REST))

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
