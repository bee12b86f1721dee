"""The live path: ingest goes on while views catch up and chores are done, a slice at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import redis

from dspy_ledger.errors import LedgerUnavailable
from dspy_ledger.keys import Keys
from dspy_ledger.projector import Live, Patience
from dspy_ledger.store import SqliteEventStore, StoredEvent
from projector.ledgers import Fields, append, execution, ledger
from projector.test_ingest import numbered, unreachable

KEYS = Keys("test")


class Slow:
    """A view that keeps positions only, and takes a second for each batch."""

    name, version, types, bodies = "slow", 1, (), False

    def __init__(self, now: list[float]) -> None:
        self.now = now
        self.at = 0
        self.batches: list[int] = []

    def position(self) -> int:
        return self.at

    def apply(self, batch: Sequence[StoredEvent]) -> None:
        self.now[0] += 1.0
        assert batch[0].position == self.at + 1
        self.at = batch[-1].position
        self.batches.append(len(batch))

    def close(self) -> None:
        pass


@pytest.fixture
def now() -> list[float]:
    """A clock that only the view moves on."""
    return [0.0]


@pytest.fixture
def store(tmp_path: Path) -> SqliteEventStore:
    return ledger(tmp_path, [execution(f"e{n}", n) for n in range(1, 8001)])


def live_of(store: SqliteEventStore, view: Slow, *chores: Callable[[], bool]) -> tuple[Live, redis.Redis]:
    client = unreachable()
    live = Live.over(
        store, KEYS, client, [view], Patience(threading.Event()), lambda: view.now[0], chores=chores
    )
    return live, client


def batch(*numbers: int) -> tuple[list[bytes], list[Fields]]:
    return numbered([execution(f"e{n}", n) for n in numbers])


def test_a_view_that_lags_takes_one_slice_and_ingest_goes_on(
    store: SqliteEventStore, now: list[float]
) -> None:
    view = Slow(now)
    live, client = live_of(store, view)
    assert live.tidy(), "it wants to be called again at once"
    assert view.at == 2000
    assert live.take(*batch(8001, 8002)) == 2
    assert store.last_position() == 8002
    assert view.at == 4000
    assert live.tidy()
    assert live.tidy()
    assert not live.tidy()
    assert view.at == 8002
    client.close()


def test_a_batch_is_handed_on_to_a_view_right_behind_it_without_being_read_again(
    tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ledger(tmp_path)
    view = Slow(now)
    live, client = live_of(store, view)
    monkeypatch.setattr(store, "read", None)  # calling it would fail
    live.take(*batch(1, 2, 3))
    live.take(*batch(4, 5))
    assert view.batches == [3, 2]
    client.close()


def test_chores_are_done_in_each_tidy_and_may_want_more(tmp_path: Path, now: list[float]) -> None:
    store = ledger(tmp_path)
    wants = iter([True, True, False])
    done: list[str] = []

    def first() -> bool:
        done.append("first")
        return next(wants)

    def needs_redis() -> bool:
        done.append("needs redis")
        raise LedgerUnavailable("down")

    def last() -> bool:
        done.append("last")
        return False

    live, client = live_of(store, Slow(now), first, needs_redis, last)
    assert [live.tidy() for _ in range(3)] == [True, True, False]
    assert done == ["first", "needs redis", "last"] * 3
    client.close()


def test_events_that_a_view_stores_itself_reach_the_others(tmp_path: Path, now: list[float]) -> None:
    """As an erasure does: what the writer appends is no batch of the stream."""
    store = ledger(tmp_path)
    view = Slow(now)
    live, client = live_of(store, view)
    append(store, [execution("own", 1)])
    live.tidy()
    assert view.at == 1
    client.close()


def test_a_view_that_cant_be_reached_is_told_once_and_not_for_a_single_failure(
    tmp_path: Path, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """The broker may end a moment before the projector does: that is no news."""

    class Unreachable(Slow):
        reachable = False

        def position(self) -> int:
            if not self.reachable:
                raise LedgerUnavailable("down")
            return super().position()

    view = Unreachable(now)
    live, client = live_of(ledger(tmp_path), view)
    with caplog.at_level(logging.INFO):
        live.tidy()
        assert not caplog.records
        for _ in range(4):
            now[0] += 60
            live.tidy()
        view.reachable = True
        now[0] += 60
        live.tidy()
    assert [record.getMessage() for record in caplog.records] == [
        "projection slow falls behind, it catches up later: down",
        "projection slow goes on",
    ]
    client.close()
