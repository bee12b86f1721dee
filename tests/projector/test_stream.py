"""The stream's server may restart, be set back, emptied or replaced: what is new is read, nothing twice."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.errors import StartupError
from dspy_ledger.keys import Keys
from dspy_ledger.projector import Ingest, Live, Patience
from dspy_ledger.projector.portion import Portion, in_pieces
from dspy_ledger.projector.server import Sight, change_of, look_at
from dspy_ledger.projector.watch import Watch
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.streams import Reading, entry_order
from projector.ledgers import SOURCE, Fields, execution, kept
from servers import Valkey

KEYS = Keys("test")


class Reader:
    """The projector without views, read by hand: what the worker does, in steps."""

    def __init__(self, folder: Path, client: redis.Redis) -> None:
        self.store = kept(SqliteEventStore(folder / "ledger.db"))
        self.client = client
        self.now = 0.0
        self.watch = Watch(self.store, KEYS, client)
        self.live = Live.over(
            self.store, KEYS, client, [], Patience(threading.Event()), lambda: self.now, watch=self.watch
        )

    def look(self) -> None:
        self.now += 1
        self.live.tidy()
        if self.live.intake.must_read_again:
            self.live.intake.read_again()

    def read(self, count: int = 1000) -> int:
        """The next entries; how many came."""
        found = self.client.xread({KEYS.events: self.live.intake.last_id}, count=count)
        if not found:
            return 0
        ids, fields = zip(*found[0][1], strict=True)
        self.live.take(ids, fields)
        return len(ids)

    def read_all(self) -> None:
        self.look()
        while self.read():
            pass
        self.look()

    @property
    def ids(self) -> list[str]:
        return [event.event_id for event in self.store.read_all()]

    @property
    def reading(self) -> Reading:
        """As another process sees it."""
        checkpoint = self.store.stream_checkpoint(KEYS.events)
        assert checkpoint is not None
        reading = Reading.decode(checkpoint.server)
        assert reading is not None
        return reading


@pytest.fixture
def client(own_valkey: Valkey) -> Iterator[redis.Redis]:
    with own_valkey.client() as client:
        yield client


@pytest.fixture
def reader(tmp_path: Path, client: redis.Redis) -> Reader:
    return Reader(tmp_path, client)


def add(client: redis.Redis, *entries: Fields, ids: tuple[str, ...] = ()) -> list[bytes]:
    """Add entries to the stream, under ids of the server's or given ones."""
    return add_to(client, KEYS.events, *entries, ids=ids)


def add_to(client: redis.Redis, stream: str, *entries: Fields, ids: tuple[str, ...] = ()) -> list[bytes]:
    return [client.xadd(stream, f, id=i) for f, i in zip(entries, ids or "*" * len(entries), strict=True)]


def events(*numbers: int) -> list[Fields]:
    return [execution(f"e{n}", n) for n in numbers]


def snapshot(server: Valkey) -> Path:
    """What the server holds now, on disk; it goes on."""
    server.stop()
    copy = server.folder.with_name("snapshot")
    shutil.copytree(server.folder, copy)
    server.start()
    return copy


def restore(server: Valkey, copy: Path) -> None:
    """The server is killed, and comes back with what it held once."""
    server.kill()
    shutil.rmtree(server.folder)
    shutil.copytree(copy, server.folder)
    server.start()


# --- the server ---


def test_the_first_reading_tells_nothing(
    reader: Reader, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    add(client, *events(1, 2))
    reader.read_all()
    assert reader.ids == ["e1", "e2"]
    assert (reader.reading.why, reader.reading.until) == (None, None)
    assert not caplog.records


def test_a_server_that_restarted_with_everything_is_read_again_and_nothing_is_stored_twice(
    reader: Reader, client: redis.Redis, own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    add(client, *events(1, 2, 3))
    reader.read_all()
    own_valkey.stop()
    own_valkey.start()
    reader.look()
    assert reader.live.intake.last_id == "0"
    assert reader.reading.sentence == (
        "the broker restarted; the stream is being read again from its beginning (0 of 3)"
    )
    reader.read(2)
    assert reader.reading.sentence.endswith("being read again from its beginning (2 of 3)")
    add(client, *events(4))
    reader.read_all()
    assert reader.ids == ["e1", "e2", "e3", "e4"]
    assert reader.reading.until is None
    assert [record.getMessage() for record in caplog.records] == [
        "the broker restarted; the stream is being read again from its beginning (0 of 3)",
        "the broker restarted; the stream was read again from its beginning (4 entries)",
    ]


def test_after_an_old_snapshot_new_entries_with_lower_ids_are_stored(
    reader: Reader, client: redis.Redis, own_valkey: Valkey
) -> None:
    add(client, *events(1))
    old = snapshot(own_valkey)
    reader.read_all()
    ahead = entry_order(client.xinfo_stream(KEYS.events)["last-generated-id"])[0] + 3_600_000
    add(client, *events(2, 3), ids=(f"{ahead}-1", "*"))  # as from a server whose clock was an hour ahead
    reader.read_all()
    restore(own_valkey, old)
    [lower] = add(client, *events(4))
    assert entry_order(lower) < entry_order(reader.live.intake.last_id)
    reader.read_all()
    assert reader.ids == ["e1", "e2", "e3", "e4"]
    assert reader.reading.why == "set back"


def test_after_an_old_snapshot_that_goes_on_with_higher_ids_it_is_noticed_as_well(
    reader: Reader, client: redis.Redis, own_valkey: Valkey
) -> None:
    add(client, *events(1))
    old = snapshot(own_valkey)
    add(client, *events(2, 3))
    reader.read_all()
    restore(own_valkey, old)
    add(client, *events(4))
    add(client, *events(5, 6))  # as many as there ever were
    reader.read()  # before anybody looked
    reader.read_all()
    assert reader.ids == [f"e{n}" for n in range(1, 7)]
    assert reader.reading.why == "set back"


def test_what_happened_while_no_projector_ran_is_noticed_at_its_start(
    reader: Reader, client: redis.Redis, own_valkey: Valkey, tmp_path: Path
) -> None:
    add(client, *events(1, 2))
    reader.read_all()
    reader.store.close()
    own_valkey.stop()
    own_valkey.start()
    again = Reader(tmp_path, client)
    again.read_all()
    assert (again.reading.why, again.reading.read, again.ids) == ("restarted", 2, ["e1", "e2"])


def test_a_stream_that_is_emptied_under_a_running_server_is_noticed_and_all_marks_are_published_again(
    reader: Reader, client: redis.Redis
) -> None:
    add(client, *events(1, 2))
    reader.read_all()
    client.flushall()
    reader.look()
    assert reader.reading.why == "empty"
    assert client.hget(KEYS.stored, SOURCE) is None
    reader.look()
    assert client.hget(KEYS.stored, SOURCE) == b"2"
    assert client.get(KEYS.owner) == reader.store.ledger_id.encode()


def test_a_stream_that_was_deleted_and_begun_anew_by_the_same_server_is_noticed(
    reader: Reader, client: redis.Redis
) -> None:
    add(client, *events(1, 2))
    reader.read_all()
    client.delete(KEYS.events)
    add(client, *events(3), ids=("5-0",))
    reader.read_all()
    assert reader.ids == ["e1", "e2", "e3"]
    assert reader.reading.why == "set back"


def test_another_server_that_ran_before_is_called_that(
    reader: Reader, client: redis.Redis, tmp_path: Path
) -> None:
    other = Valkey(tmp_path / "other").start()
    try:
        with other.client() as elsewhere:
            start = look_at(elsewhere, KEYS.events).started
            assert start is not None
            add(client, *events(1), ids=(f"{start + 5000}-0",))
            add(elsewhere, *events(1, 2), ids=(f"{start + 5000}-0", f"{start + 5000}-1"))
            reader.read_all()
            moved = Watch(reader.store, KEYS, elsewhere)
            moved.look()
            moved.read_again()
            assert moved.reading is not None
            assert moved.reading.why == "another server"
    finally:
        other.stop()


def test_a_restart_in_the_middle_of_reading_again_goes_on_where_it_was(
    reader: Reader, client: redis.Redis, own_valkey: Valkey, tmp_path: Path
) -> None:
    add(client, *events(1, 2, 3, 4))
    reader.read_all()
    own_valkey.stop()
    own_valkey.start()
    reader.look()
    reader.read(2)
    reader.store.close()
    again = Reader(tmp_path, client)
    again.look()
    assert again.reading.sentence.endswith("(2 of 4)")
    again.read_all()
    assert (again.reading.read, again.reading.until, len(again.ids)) == (4, None, 4)


def test_reading_again_ends_also_when_its_last_entry_was_deleted(
    reader: Reader, client: redis.Redis, own_valkey: Valkey
) -> None:
    *_, last = add(client, *events(1, 2, 3))
    reader.read_all()
    own_valkey.stop()
    own_valkey.start()
    reader.look()
    client.xdel(KEYS.events, last)
    reader.read_all()
    assert reader.reading.until is None


def test_a_store_that_knows_no_server_is_read_again(reader: Reader, client: redis.Redis) -> None:
    """As a release before this one left it."""
    add(client, *events(1, 2))
    Ingest(reader.store, KEYS.events).take([b"1-0"], events(1))
    again = Watch(reader.store, KEYS, client)
    again.look()
    again.read_again()
    assert (again.last_id, again.reading.length if again.reading else 0) == ("0", 2)


def test_without_redis_nothing_is_concluded(reader: Reader, client: redis.Redis, own_valkey: Valkey) -> None:
    add(client, *events(1))
    reader.read_all()
    own_valkey.kill()
    reader.look()
    assert not reader.live.intake.must_read_again
    own_valkey.start()


READ = Reading("a/b", "2026-11-22T12:00:00.000000Z", added=10)
SEEN = Sight("a/b", 1000, 9000, exists=True, last_id="5000-3", newest="5000-3", added=10, length=4)


@pytest.mark.parametrize(
    ("sight", "change"),
    [
        ({}, None),
        ({"added": 12, "last_id": "6000-0"}, None),
        ({"added": None}, None),
        ({"length": 0, "newest": None}, None),
        ({"last_id": "5000-2"}, "set back"),
        ({"added": 9, "last_id": "9999-0"}, "set back"),
        ({"server": "x/y", "started": 6000, "lacks": True}, "set back"),
        ({"server": "x/y", "started": 6000}, "restarted"),
        ({"server": None, "started": None}, "restarted"),
        ({"server": "x/y", "started": 6000, "added": 9, "last_id": "9999-0"}, "set back"),
        ({"server": "x/y", "started": 2000}, "another server"),
        ({"server": "x/y", "started": 2000, "last_id": "1-0"}, "set back"),
        ({"exists": False, "last_id": "0-0", "newest": None, "added": 0, "length": 0}, "empty"),
    ],
)
def test_what_became_of_a_server_follows_from_what_is_seen(sight: dict, change: str | None) -> None:
    assert change_of(READ, "5000-3", replace(SEEN, **sight)) == change


def test_a_stream_that_never_was_is_no_loss() -> None:
    nothing = Sight("a/b", 1000, 9000)
    assert change_of(Reading("a/b", "", added=0), "0", nothing) is None
    assert change_of(Reading("x/y", "", added=0), "0", nothing) == "restarted"


# --- one ledger per prefix ---


def test_a_second_ledger_on_a_prefix_is_refused_with_what_to_do(
    reader: Reader, client: redis.Redis, tmp_path: Path
) -> None:
    reader.look()
    second = Reader(tmp_path / "second", client)
    with pytest.raises(StartupError, match=f"ledger {reader.store.ledger_id} owns this Redis") as refused:
        second.look()
    told = str(refused.value)
    assert "\n" not in told
    assert "DSPY_LEDGER_STREAM_PREFIX" in told
    _, _, command = told.partition("redis-cli DEL ")
    client.delete(*[key.strip("'") for key in command.split(" ")])
    second.look()
    with pytest.raises(StartupError):
        reader.look()


def test_the_owner_is_also_known_by_the_registry_of_an_earlier_release(
    reader: Reader, client: redis.Redis
) -> None:
    client.hset(KEYS.registry_checkpoint, "ledger_id", "another")
    with pytest.raises(StartupError, match="ledger another owns"):
        reader.look()
    client.hset(KEYS.registry_checkpoint, "ledger_id", reader.store.ledger_id)
    reader.look()


def test_a_ledger_that_was_moved_goes_on(reader: Reader, client: redis.Redis, tmp_path: Path) -> None:
    add(client, *events(1))
    reader.read_all()
    reader.store.close()
    (tmp_path / "moved").mkdir()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "moved" / "ledger.db")
    moved = Reader(tmp_path / "moved", client)
    add(client, *events(2))
    moved.read_all()
    assert moved.ids == ["e1", "e2"]
    assert moved.reading.why is None


def test_a_redis_without_memory_is_read_and_trimmed_and_claimed_once_there_is_room(
    reader: Reader, client: redis.Redis, tmp_path: Path
) -> None:
    """A first projector could not write whose it is, so it read nothing, and nothing ever made room."""
    add(client, *events(1, 2))
    client.config_set("maxmemory", 1)
    reader.read_all()
    assert reader.ids == ["e1", "e2"]
    assert client.get(KEYS.owner) is None
    client.config_set("maxmemory", 0)
    reader.look()
    assert client.get(KEYS.owner) == reader.store.ledger_id.encode()
    with pytest.raises(StartupError, match="owns this Redis"):
        Reader(tmp_path / "second", client).look()


# --- an older store ---


def test_an_older_store_is_told_and_what_the_stream_still_has_is_read_again(
    reader: Reader, client: redis.Redis, tmp_path: Path
) -> None:
    add(client, *events(1, 2))
    reader.read_all()
    reader.store.close()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "backup.db")
    again = Reader(tmp_path, client)
    gone = add(client, *events(3, 4, 5))
    again.read_all()
    again.store.close()
    client.xdel(KEYS.events, *gone[:2])
    shutil.copy(tmp_path / "backup.db", tmp_path / "ledger.db")
    for ending in ("-wal", "-shm"):
        (tmp_path / f"ledger.db{ending}").unlink(missing_ok=True)
    older = Reader(tmp_path, client)
    older.look()
    assert older.reading.sentence.startswith(
        "the store is older than what producers were told is stored (was a backup restored?), by 3 events;"
    )
    older.read_all()
    assert older.ids == ["e1", "e2", "e5"]
    [account] = older.store.producers()
    assert account.missing == [(3, 4)]
    assert client.hget(KEYS.stored, SOURCE) == b"2"
    client.flushall()
    older.look()
    assert older.reading.ahead == 0, "that was told"


# --- portions and what is kept ---


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 4 << 20)), max_size=30))
def test_a_portion_never_asks_for_more_than_lately_fitted(batches: list[tuple[int, int]]) -> None:
    portion = Portion(1000)
    for most, size in batches:
        length = min(most, portion.count)
        portion.took([{b"body": _Sized(size)}] * length)
        assert 1 <= portion.count <= 1000
        if length and size:
            assert portion.count * size <= 8 << 20 or portion.count == 1


class _Sized(bytes):
    """Bytes that say how many they are without being there."""

    def __new__(cls, size: int) -> _Sized:
        made = super().__new__(cls)
        made.size = size
        return made

    def __len__(self) -> int:
        return self.size


@given(st.lists(st.integers(0, 9 << 20), max_size=30))
def test_what_came_is_cut_into_pieces_that_fit_and_nothing_is_left_out(sizes: list[int]) -> None:
    fields = [{b"__data__": _Sized(size)} for size in sizes]
    pieces = [sizes[piece] for piece in in_pieces(fields)]
    assert [size for piece in pieces for size in piece] == sizes
    assert all(sum(piece) <= 8 << 20 or len(piece) == 1 for piece in pieces)
    assert all(sum(one) + other[0] > 8 << 20 for one, other in itertools.pairwise(pieces))


def test_small_entries_are_soon_asked_for_a_thousand_at_a_time() -> None:
    portion, asked = Portion(1000), []
    for _ in range(8):
        asked.append(portion.count)
        portion.took([{b"d": b"x" * 1400}] * portion.count)
    assert asked == [16, 32, 64, 128, 256, 512, 1000, 1000]


@given(
    st.builds(
        Reading,
        server=st.none() | st.text(),
        began=st.text(),
        why=st.sampled_from([None, "restarted", "set back", "empty", "another server", "older store"]),
        added=st.none() | st.integers(0, 2**62),
        until=st.none() | st.builds("{}-{}".format, st.integers(0, 2**62), st.integers(0, 2**62)),
    )
)
def test_a_reading_comes_back_as_it_was_kept(reading: Reading) -> None:
    assert Reading.decode(reading.encode()) == reading


@given(st.none() | st.text() | st.sampled_from(['{"server":1}', "[]", "1", '"x"', "null"]))
def test_anything_else_is_no_reading(text: str | None) -> None:
    assert Reading.decode(text) is None


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_entry_ids_are_ordered_by_time_and_number(milliseconds: int, number: int) -> None:
    assert entry_order(f"{milliseconds}-{number}") == (milliseconds, number)
    assert entry_order(str(milliseconds).encode()) == (milliseconds, 0)
