"""An event that breaks a projection is left out, alone; what may pass is never taken for that."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_ledger.errors import FoldError, LedgerUnavailable
from dspy_ledger.projector import Directory, SqlViews, catch_up, project
from dspy_ledger.projector import directory as directory_module
from dspy_ledger.projector import view as view_module
from dspy_ledger.projector.projection import advance
from dspy_ledger.store import EventStore, SqliteEventStore, StoredEvent
from dspy_ledger.views import current_view
from projector.ledgers import append, execution, kept, ledger, registration


class Broken:
    """A projection in memory that can't fold some positions: each attempt raises, all or nothing."""

    name = "broken"
    version = 1
    types: Sequence[str] = ()
    bodies = False

    def __init__(self, bad: set[int], error: Callable[[], Exception] = lambda: ValueError("no")) -> None:
        self.bad, self.error = bad, error
        self.folded: list[int] = []
        self.at = self.calls = 0

    def position(self) -> int:
        return self.at

    def apply(self, batch: Sequence[StoredEvent]) -> None:
        self.calls += 1
        assert batch[0].position == self.at + 1
        known = [event for event in batch if event.type.startswith("org.dspy-ledger.")]
        if any(event.position in self.bad for event in known):
            raise self.error()
        self.folded += [event.position for event in known]
        self.at = batch[-1].position

    def close(self) -> None:
        pass


def parked(store: EventStore) -> list[int]:
    return [event.position for event in store.parked("broken")]


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(1, 60)), st.booleans())
def test_exactly_the_events_that_break_it_are_left_out(
    tmp_path_factory: pytest.TempPathFactory, bad: set[int], live: bool
) -> None:
    store = SqliteEventStore(tmp_path_factory.mktemp("store") / "ledger.db")
    events = append(store, [execution(f"e{n}", n) for n in range(1, 61)])
    broken = Broken(bad)
    assert advance(store, broken, events if live else ()) is False
    assert broken.folded == [n for n in range(1, 61) if n not in bad]
    assert parked(store) == sorted(bad)
    store.close()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        sqlite3.OperationalError("database is locked"),
        sqlite3.DatabaseError("database disk image is malformed"),
        redis.ConnectionError("refused"),
        LedgerUnavailable("down"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_that_may_pass_is_raised_and_parks_nothing(tmp_path: Path, error: Exception) -> None:
    store = ledger(tmp_path, [execution(f"e{n}", n) for n in range(1, 5)])
    broken = Broken({2}, lambda: error)
    with pytest.raises(type(error)):
        advance(store, broken)
    assert parked(store) == []
    broken.bad = set()
    assert advance(store, broken) is False
    assert broken.folded == [1, 2, 3, 4]


def test_a_failure_that_is_not_the_events_fault_parks_nothing(tmp_path: Path) -> None:
    """A closed database raises for every event: parking them all would lose them."""
    store = ledger(tmp_path, [execution("a", 1)])
    views = SqlViews(tmp_path, store)
    views.close()
    with pytest.raises(sqlite3.ProgrammingError):
        advance(store, views)
    assert store.parked() == []


def test_a_failure_that_is_gone_when_tried_alone_parks_nothing(tmp_path: Path) -> None:
    store = ledger(tmp_path, [execution("a", 1)])
    broken = Broken({1})

    def heal() -> Exception:
        broken.bad = set()
        return ValueError("once")

    broken.error = heal
    assert advance(store, broken) is False
    assert (broken.folded, parked(store)) == ([1], [])


def test_a_rebuild_leaves_out_what_was_parked_before_and_stops_at_anything_new(tmp_path: Path) -> None:
    store = ledger(tmp_path, [execution(f"e{n}", n) for n in range(1, 7)])
    store.park("broken", 2, "ValueError: no")
    rebuilt = Broken({2})
    catch_up(store, rebuilt)
    assert rebuilt.folded == [1, 3, 4, 5, 6]
    again = Broken({2, 5})
    with pytest.raises(FoldError, match=r"broken can't fold event 5 \(e5\): ValueError: no"):
        catch_up(store, again)
    assert parked(store) == [2]


def test_a_parked_registration_is_not_in_the_catalog_of_a_view_opened_again(tmp_path: Path) -> None:
    store = ledger(tmp_path, [registration("r1", 1, content="c1:1"), registration("r2", 2, content="c1:2")])
    store.park("sql", 1, "ValueError: no")
    for n in (3, 4):
        views = SqlViews(tmp_path, store)
        append(store, [execution(f"e{n}", n)])
        assert advance(store, views) is False
        views.close()
    with sqlite3.connect(tmp_path / "views-1.db") as db:
        assert db.execute("SELECT content_hash FROM versions").fetchall() == [("c1:2",)]
    db.close()


def test_catching_up_takes_a_slice_of_time_and_says_that_more_is_left(tmp_path: Path) -> None:
    store = ledger(tmp_path, [execution(f"e{n}", n) for n in range(1, 4501)])
    views = kept(SqlViews(tmp_path, store))
    ticks = iter(range(100))
    assert advance(store, views, seconds=0.5, clock=lambda: float(next(ticks))) is True
    assert views.position() == 2000
    assert advance(store, views, seconds=60) is False
    assert views.position() == 4500


def test_a_view_that_left_out_what_is_parked_no_longer_is_built_anew_on_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry that a crash cut short left a view without an event that nobody listed as parked."""
    store = ledger(tmp_path, [registration("a", 1), execution("b", 2), execution("c", 3)])
    real_line, real_fold = directory_module.execution_line, view_module.fold

    def broken_line(event: StoredEvent, **rest: Any) -> bytes:
        if event.event_id == "b":
            raise ValueError("a bug")
        return real_line(event, **rest)

    def broken_fold(batch: Sequence[StoredEvent], catalog: Any) -> Any:
        if any(event.event_id == "b" and event.type != "parked" for event in batch):
            raise ValueError("a bug")
        return real_fold(batch, catalog)

    def views() -> tuple[SqlViews, Directory]:
        return kept(SqlViews(tmp_path, store)), Directory(tmp_path / "programs", tmp_path, store)

    with monkeypatch.context() as bugs:
        bugs.setattr(directory_module, "execution_line", broken_line)
        bugs.setattr(view_module, "fold", broken_fold)
        for view in views():
            project(store, [view], ())
    assert [parked.projection for parked in store.parked()] == ["directory", "sql"]
    assert [view.position() for view in views()] == [3, 3]
    for name in ("sql", "directory"):
        store.unpark(name)
    for view in views():
        assert view.position() == 0
        project(store, [view], ())
    with closing(sqlite3.connect(current_view(tmp_path))) as db:
        rows = db.execute("SELECT execution_id FROM executions").fetchall()
    assert rows == [("b",), ("c",)]
    assert (tmp_path / "programs/p/executions/2026-11-22.jsonl").read_bytes().count(b"\n") == 2
