"""Trimming takes what is stored, old enough and done with, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from dspy_ledger.projector.patience import Halted
from dspy_ledger.projector.trimming import Trimming
from projector.ledgers import Fields, execution
from projector.test_stream import KEYS, Reader, add, events, restore, snapshot
from servers import Valkey

Trim = Callable[..., int]


@pytest.fixture
def client(own_valkey: Valkey) -> Iterator[redis.Redis]:
    with own_valkey.client() as client:
        yield client


@pytest.fixture
def reader(tmp_path: Path, client: redis.Redis) -> Reader:
    return Reader(tmp_path, client)


@pytest.fixture
def trim(reader: Reader, client: redis.Redis) -> Trim:
    """Trims until nothing more is wanted; how many entries are left."""

    def act(keep: float = 0, most: int = 0) -> int:
        trimming = Trimming(client, KEYS.events, reader.watch, keep=keep, most=most)
        while trimming():
            pass
        reader.look()
        return client.xlen(KEYS.events)

    return act


def left(client: redis.Redis) -> list[bytes]:
    return [entry_id for entry_id, _ in client.xrange(KEYS.events)]


def a_moment_passes(client: redis.Redis) -> None:
    """The server's clock moves on by a millisecond."""
    seconds, micros = client.time()
    while client.time() <= (seconds, micros + 1000):
        pass


def test_what_is_stored_goes_and_what_is_not_stays(reader: Reader, client: redis.Redis, trim: Trim) -> None:
    add(client, *events(1, 2, 3))
    reader.read_all()
    unread = add(client, *events(4, 5))
    a_moment_passes(client)
    assert trim() == 2
    assert left(client) == unread
    assert reader.reading.trimmed == 3
    reader.read_all()
    assert len(reader.ids) == 5
    assert trim() == 0


def test_dead_letters_and_duplicates_go_too(reader: Reader, client: redis.Redis, trim: Trim) -> None:
    add(client, *events(1, 1, 1), {b"no": b"event"})
    reader.read_all()
    a_moment_passes(client)
    assert trim() == 0


def test_what_is_young_stays(reader: Reader, client: redis.Redis, trim: Trim) -> None:
    seconds, _ = client.time()
    add(client, *events(1, 2, 3), ids=(f"{(seconds - 100) * 1000}-0", f"{(seconds - 50) * 1000}-0", "*"))
    reader.read_all()
    assert trim(keep=200) == 3
    assert trim(keep=75) == 2
    assert trim(keep=25) == 1


def test_unread_and_pending_entries_of_other_groups_stay(
    reader: Reader, client: redis.Redis, trim: Trim
) -> None:
    ids = add(client, *events(*range(1, 11)))
    reader.read_all()
    a_moment_passes(client)
    for name, count in (("fast", 8), ("slow", 6)):
        client.xgroup_create(KEYS.events, name, id="0")
        client.xreadgroup(name, "one", {KEYS.events: ">"}, count=count)
    client.xack(KEYS.events, "fast", *ids[:8])
    client.xack(KEYS.events, "slow", *ids[:2], *ids[4:6])
    trim()
    assert left(client) == [*ids[2:4], *ids[6:]]
    client.xack(KEYS.events, "slow", *ids[2:4])
    trim()
    assert left(client) == ids[6:]


def test_a_group_that_is_created_later_keeps_what_is_there_then(
    reader: Reader, client: redis.Redis, trim: Trim
) -> None:
    add(client, *events(1, 2))
    reader.read_all()
    a_moment_passes(client)
    trim()
    later = add(client, *events(3, 4))
    reader.read_all()
    client.xgroup_create(KEYS.events, "late", id="0")
    a_moment_passes(client)
    trim()
    assert left(client) == later
    [[_, got]] = client.xreadgroup("late", "one", {KEYS.events: ">"})
    assert [entry_id for entry_id, _ in got] == later
    client.xack(KEYS.events, "late", *later)
    assert trim() == 0


def test_a_stuck_group_with_many_pending_entries_does_not_keep_what_lies_behind_them(
    reader: Reader, client: redis.Redis, trim: Trim
) -> None:
    ids = add(client, *events(*range(1, 701)))
    reader.read_all()
    a_moment_passes(client)
    client.xgroup_create(KEYS.events, "stuck", id="0")
    client.xreadgroup("stuck", "one", {KEYS.events: ">"}, count=700)
    client.xack(KEYS.events, "stuck", *ids[600:])
    trim()
    assert left(client) == ids[:600]


def test_pending_entries_stay_where_others_that_were_pending_are_gone(
    reader: Reader, client: redis.Redis, trim: Trim
) -> None:
    """Redis lists deleted entries as pending too: they took the places of the living in a bounded answer."""
    ids = add(client, *events(1, 2, 3))
    reader.read_all()
    client.xgroup_create(KEYS.events, "slow", "0")
    client.xreadgroup("slow", "one", {KEYS.events: ">"})
    client.xdel(KEYS.events, *ids[:2])  # as an erasure does
    a_moment_passes(client)
    assert trim() == 1


def test_over_the_maximum_length_young_entries_go_before_a_group_loses_any(
    reader: Reader, client: redis.Redis, trim: Trim, caplog: pytest.LogCaptureFixture
) -> None:
    ids = add(client, *events(*range(1, 21)))
    reader.read_all()
    client.xgroup_create(KEYS.events, "slow", id="0")
    client.xreadgroup("slow", "one", {KEYS.events: ">"}, count=10)
    client.xack(KEYS.events, "slow", *ids[2:10])
    assert trim(keep=3600, most=15) == 15
    assert left(client) == [*ids[:2], *ids[7:]]
    assert reader.reading.cut == 0
    assert not caplog.records


def test_over_the_maximum_length_what_a_group_has_not_read_goes_and_is_told(
    reader: Reader, client: redis.Redis, trim: Trim, caplog: pytest.LogCaptureFixture
) -> None:
    ids = add(client, *events(*range(1, 21)))
    reader.read_all()
    client.xgroup_create(KEYS.events, "slow", id="0")
    client.xreadgroup("slow", "one", {KEYS.events: ">"}, count=3)
    client.xack(KEYS.events, "slow", ids[0])
    with caplog.at_level(logging.WARNING):
        assert trim(keep=3600, most=5) == 5
    assert left(client) == ids[15:]
    assert (reader.reading.trimmed, reader.reading.cut) == (15, 14)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "STREAM_MAX_LENGTH (5): deleted 14 stored entries" in told


def test_over_the_maximum_length_what_is_not_stored_stays(
    reader: Reader, client: redis.Redis, trim: Trim
) -> None:
    add(client, *events(1, 2))
    reader.read_all()
    unread = add(client, *events(3, 4, 5))
    assert trim(keep=3600, most=1) == 3
    assert left(client) == unread


def test_nothing_goes_while_the_stream_is_read_again(
    reader: Reader, client: redis.Redis, own_valkey: Valkey, trim: Trim
) -> None:
    add(client, *events(1, 2, 3))
    reader.read_all()
    own_valkey.stop()
    own_valkey.start()
    reader.look()
    reader.read(2)
    a_moment_passes(client)
    assert trim(most=1) == 3
    reader.read_all()
    assert trim() == 0


def test_a_server_that_was_replaced_unnoticed_loses_nothing(
    reader: Reader, client: redis.Redis, own_valkey: Valkey, trim: Trim
) -> None:
    add(client, *events(1), ids=("1000-0",))
    old = snapshot(own_valkey)
    add(client, *events(2), ids=("5000-0",))
    reader.read_all()
    restore(own_valkey, old)
    add(client, *events(3), ids=("2000-0",))  # below the checkpoint, not read
    assert not reader.live.intake.must_read_again
    assert trim() == 2
    reader.read_all()
    assert reader.ids == ["e1", "e2", "e3"]


def test_a_stream_that_is_gone_or_unreachable_is_let_be(
    reader: Reader, client: redis.Redis, own_valkey: Valkey, trim: Trim
) -> None:
    add(client, *events(1))
    reader.read_all()
    client.delete(KEYS.events)
    trimming = Trimming(client, KEYS.events, reader.watch, keep=0, most=0)
    assert not trimming()
    own_valkey.kill()
    assert not Trimming(client, KEYS.events, reader.watch, keep=0, most=0)()
    own_valkey.start()


def test_the_memory_of_a_broker_that_runs_for_long_stays_bounded(reader: Reader, client: redis.Redis) -> None:
    trimming = Trimming(client, KEYS.events, reader.watch, keep=0, most=0, clock=lambda: reader.now)
    reader.look()
    used: list[int] = []
    entry: Callable[[int], Fields] = lambda n: execution(f"e{n}", n, body={"inputs": "x" * 500})  # noqa: E731
    for round_ in range(12):
        pipe = client.pipeline(transaction=False)
        for n in range(round_ * 500 + 1, round_ * 500 + 501):
            pipe.xadd(KEYS.events, entry(n))
        pipe.execute()
        reader.read_all()
        a_moment_passes(client)
        while trimming():
            pass
        used.append(client.memory_usage(KEYS.events, samples=0) or 0)
        assert client.xlen(KEYS.events) == 0
    assert max(used) < 20_000
    assert reader.store.last_position() == 6000


def test_a_batch_that_could_not_be_stored_is_not_trimmed(
    reader: Reader, client: redis.Redis, trim: Trim, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(client, *events(1))
    reader.read_all()
    unread = add(client, *events(2))
    a_moment_passes(client)

    def broken(*_: object, **__: object) -> None:
        raise Halted

    monkeypatch.setattr(reader.store, "append", broken)
    with pytest.raises(Halted):
        reader.read()
    monkeypatch.undo()
    assert trim() == 1
    assert left(client) == unread
