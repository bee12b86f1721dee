"""What was stored is handed from one thread to the other, in order, and no more than fits."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.errors import LedgerUnavailable
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.projector import Directory, Followers, Handover, Patience, SqlViews, catch_up, projection
from dspy_ledger.store import StoredEvent, sqlite
from projector.ledgers import append, execution, ledger, registration


def events(folder: Path, count: int) -> list:
    store = ledger(folder)
    return append(store, [execution(f"e{n}", n, body={"inputs": "x" * 100}) for n in range(1, count + 1)])


def test_batches_come_out_in_order_and_as_one(tmp_path: Path) -> None:
    stored = events(tmp_path, 10)
    handover = Handover()
    for at in range(0, 10, 3):
        handover.put(stored[at : at + 3])
    assert [event.position for event in handover.take(4)] == [1, 2, 3, 4, 5, 6]
    assert [event.position for event in handover.take(4)] == [7, 8, 9, 10]
    assert handover.take() == []


def test_when_too_much_waits_all_is_forgotten_and_handing_over_begins_anew(tmp_path: Path) -> None:
    stored = events(tmp_path, 10)
    handover = Handover(most_events=5)
    handover.put(stored[:4])
    handover.put(stored[4:6])
    assert handover.take() == []
    handover.put(stored[6:10])
    assert [event.position for event in handover.take()] == [7, 8, 9, 10]


def test_large_events_count_by_their_bytes(tmp_path: Path) -> None:
    stored = events(tmp_path, 4)
    handover = Handover(most_bytes=2 * (len(stored[0].payload) + len(stored[0].body)))
    handover.put(stored[:2])
    handover.put(stored[2:3])
    assert handover.take() == []


def test_what_the_following_thread_stores_between_two_batches_is_not_passed_over(tmp_path: Path) -> None:
    """Both batches waited while it erased: folded as one, they took every view past the erasure."""
    store, following = ledger(tmp_path), ledger(tmp_path)
    views = SqlViews(tmp_path, following)
    directory = Directory(tmp_path / "programs", tmp_path, following)
    followers = Followers(following, [views, directory], Patience(threading.Event()))
    handover = Handover()
    handover.put(append(store, [execution("e1", 1, body={"inputs": "personal"}), execution("e2", 2)]))
    following.erase([1], "too old")
    handover.put(append(store, [execution("e3", 3)]))

    followers.follow(handover.take())
    assert (views.position(), directory.position()) == (4, 4)
    [lines] = (tmp_path / "programs").glob("*/executions/*.jsonl")
    assert len(lines.read_bytes().splitlines()) == 3
    assert b"personal" not in lines.read_bytes()


def test_a_chore_whose_disk_is_full_does_not_hold_up_the_views(tmp_path: Path) -> None:
    """Retention could not write to the store's disk, and every view waited with it."""

    def erase() -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = ledger(tmp_path, [execution("e1", 1)])
    view, halted = _Registrations(), threading.Event()
    halted.set()  # whoever waits gives up at once
    assert not Followers(store, [view], Patience(halted), chores=[erase]).tidy()
    assert view.at == 1


def test_a_view_of_few_types_misses_none_of_them_when_they_are_too_large_to_be_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sqlite, projection):
        monkeypatch.setattr(module, "MOST_READ", 3000)
    entries = [registration(f"r{n}", n, content=f"c1:{n}", body={"state": "x" * 1000}) for n in range(1, 8)]
    view = _Registrations()
    catch_up(ledger(tmp_path, [*entries, execution("e8", 8)]), view)
    assert (view.folded, view.at) == ([f"r{n}" for n in range(1, 8)], 8)


def test_a_view_of_a_rare_type_goes_through_so_many_events_at_once_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that was emptied went through the whole store in one slice, and everything waited for it."""
    monkeypatch.setattr(projection, "_GONE_THROUGH", 10)
    rare = registration("r", 25)
    store = ledger(tmp_path, [rare if n == 25 else execution(f"e{n}", n) for n in range(1, 36)])
    view, reached = _Registrations(), []
    while projection.advance(store, view, seconds=0):
        reached.append(view.at)
    assert (reached, view.at, view.folded) == ([10, 20, 30], 35, ["r"])


def test_a_view_that_lags_by_little_takes_what_is_handed_over_after_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read from the store what had been handed over, and fell back further with each batch."""
    store = ledger(tmp_path)
    stored = append(store, [registration(f"r{n}", n, content=f"c1:{n}") for n in range(1, 10)])
    asked = []
    read = type(store).read

    def noting(self, after, limit, **how):
        found = read(self, after, limit, **how)
        asked.extend(event.position for event in found)
        return found

    monkeypatch.setattr(type(store), "read", noting)
    view = _Registrations()
    assert not projection.advance(store, view, stored[4:])
    assert (view.folded, asked) == ([f"r{n}" for n in range(1, 10)], [1, 2, 3, 4])


def test_a_view_that_is_ahead_of_what_is_handed_over_takes_the_rest_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tidying had it read from the store what waited for it, and it never took what was handed over again."""
    store = ledger(tmp_path)
    stored = append(store, [registration(f"r{n}", n, content=f"c1:{n}") for n in range(1, 10)])
    view = _Registrations()
    catch_up(store, view, upto=6)
    monkeypatch.setattr(type(store), "read", None)
    assert not projection.advance(store, view, stored[:5])
    assert not projection.advance(store, view, stored[5:])
    assert view.folded == [f"r{n}" for n in range(1, 10)]


def test_a_view_that_lags_by_much_goes_on_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "BATCH", 3)
    store = ledger(tmp_path)
    stored = append(store, [registration(f"r{n}", n, content=f"c1:{n}") for n in range(1, 10)])
    view = _Registrations()
    assert projection.advance(store, view, stored[4:], seconds=0)
    assert view.at == 3


def test_a_view_that_can_not_be_asked_how_far_it_is_rests_and_the_others_go_on(tmp_path: Path) -> None:
    """Redis went away between a slice of the registry and the line in the log about it: the process ended."""
    store = ledger(tmp_path, [execution(f"e{n}", n) for n in range(1, 6)])
    now = [0.0]

    class Away(_Registrations):
        name, types, asked = "away", (), 0

        def position(self) -> int:
            self.asked += 1
            if self.asked == 5:  # before and after each of two slices, and then for the log
                raise LedgerUnavailable("Redis is away")
            return self.at

        def apply(self, batch: Sequence[StoredEvent]) -> None:
            self.at = batch[0].position

    first, second = Away(), _Registrations()
    followers = Followers(store, [first, second], Patience(threading.Event()), lambda: now[0])
    followers.follow([])
    now[0] = 60.0
    followers.follow([])
    assert (first.asked, second.at) == (5, 5)


class _Registrations:
    """A view that notes which registrations it folded."""

    name, version, bodies = "registrations", 1, True
    types = (EVENT_TYPES["ProgramRegistered"],)

    def __init__(self) -> None:
        self.at = 0
        self.folded: list[str] = []

    def position(self) -> int:
        return self.at

    def apply(self, batch: Sequence[StoredEvent]) -> None:
        self.folded += [event.event_id for event in batch if event.type in self.types]
        self.at = batch[-1].position

    def close(self) -> None:
        pass


@given(st.lists(st.integers(0, 6), max_size=30))
def test_whatever_is_put_and_taken_nothing_comes_twice_or_out_of_order(steps: list[int]) -> None:
    """0 takes; n puts the next n."""
    handover: Handover = Handover(most_events=12)
    at, seen = 0, []
    for step in steps:
        if step:
            handover.put([_Numbered(at + n) for n in range(step)])
            at += step
        else:
            seen += [event.number for event in handover.take(5)]
    seen += [event.number for event in handover.take(1000)]
    assert seen == sorted(set(seen))


class _Numbered:
    size = 0

    def __init__(self, number: int) -> None:
        self.number = number
