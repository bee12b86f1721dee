"""The live path: what comes is stored, and every view follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import redis

from dspy_ledger.keys import Keys
from dspy_ledger.projector.following import Chore, Followers
from dspy_ledger.projector.intake import Intake
from dspy_ledger.projector.patience import Patience
from dspy_ledger.projector.projection import Projection
from dspy_ledger.projector.watch import Watch
from dspy_ledger.store import EventStore

__all__ = ["Live"]


@dataclass(frozen=True, slots=True)
class Live:
    """Both sides of the projector, one after the other in one thread.

    The :class:`~dspy_ledger.projector.worker.Worker` runs the same two on a thread each, so that neither
    waits for the other's disk; whoever needs them in step, as tests and tools do, uses this.
    """

    intake: Intake
    followers: Followers

    @classmethod
    def over(
        cls,
        store: EventStore,
        keys: Keys,
        client: redis.Redis,
        projections: Sequence[Projection],
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
        *,
        chores: Sequence[Chore] = (),
        watch: Watch | None = None,
        trim: Callable[[], bool] = lambda: False,
    ) -> Live:
        """Both over one connection to the store; the arguments are those of the two."""
        return cls(
            Intake(store, keys, client, patience, clock, watch, trim),
            Followers(store, projections, patience, clock, chores),
        )

    def take(self, ids: Sequence[bytes], fields: Sequence[Mapping[bytes, bytes]]) -> int:
        """One batch of stream entries, from bytes to views; how many events were new."""
        events = self.intake.take(ids, fields)
        self.followers.follow(events)
        return len(events)

    def tidy(self) -> bool:
        """Both sides' :meth:`tidy`; whether to call it again at once."""
        wanting = self.intake.tidy()
        return self.followers.tidy() or wanting
