"""The projector as a process: killed, stopped, cut off from Redis and fed garbage, it loses nothing."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis

from dspy_ledger.errors import StartupError, StoreError
from dspy_ledger.projector import Directory, Intake, Worker, catch_up
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore, StoredEvent
from dspy_ledger.views import ViewReader
from projector.ledgers import SOURCE, Fields, execution, registration, tree
from projector.test_ingest import garbage
from servers import Projector, Valkey, free_port

Eventually = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[Settings], Projector]]:
    """Starts projectors, and kills those that a test left."""
    made: list[Projector] = []

    def start(settings: Settings) -> Projector:
        made.append(Projector(settings, tmp_path / f"projector-{len(made)}.log"))
        return made[-1].start()

    yield start
    for process in made:
        if process.process is not None:
            process.end(signal.SIGKILL)


def send(client: redis.Redis, settings: Settings, entries: list[Fields], *, size: int = 200) -> None:
    for at in range(0, len(entries), size):
        pipe = client.pipeline(transaction=False)
        for fields in entries[at : at + size]:
            pipe.xadd(settings.keys.events, fields)
        pipe.execute()


def stored(settings: Settings) -> int:
    try:
        store = SqliteEventStore(settings.store_path, readonly=True)
    except StoreError:
        return -1
    try:
        return store.last_position()
    finally:
        store.close()


def mark(client: redis.Redis, settings: Settings, source: str = SOURCE) -> int:
    try:
        return int(client.hget(settings.keys.stored, source) or 0)
    except redis.RedisError:
        return -1


def projected(settings: Settings) -> int:
    try:
        reader = ViewReader(settings.data_dir)
        try:
            return reader.connection().execute("SELECT position FROM checkpoint").fetchone()[0]
        finally:
            reader.close()
    except (StoreError, sqlite3.OperationalError):  # not made yet
        return -1


def assert_complete(settings: Settings, tmp_path: Path, ids: list[str]) -> None:
    """The store has exactly these events, and each view is what a rebuild gives."""
    store = SqliteEventStore(settings.store_path, readonly=True)
    assert sorted(e.event_id for e in store.read_all()) == sorted(ids)
    reader = ViewReader(settings.data_dir)
    assert reader.connection().execute("SELECT count(*) FROM executions").fetchone()[0] == len(ids)
    reader.close()
    again = Directory(tmp_path / "again", tmp_path / "again-data", store)
    catch_up(store, again)
    store.close()
    assert tree(settings.programs_dir) == tree(tmp_path / "again")


def test_killed_in_the_middle_of_a_load_and_started_again_it_has_every_event_once(
    valkey: Valkey, settings: Settings, tmp_path: Path, run: Callable[..., Projector], eventually: Eventually
) -> None:
    entries = [execution(f"e{n}", n, body={"inputs": {"q": n}}) for n in range(1, 6001)]
    with valkey.client() as client:
        worker = run(settings)
        for part in range(3):
            send(client, settings, entries[part * 2000 : (part + 1) * 2000])
            eventually(lambda part=part: stored(settings) > part * 2000)
            worker.end(signal.SIGKILL)
            worker.start()
        eventually(lambda: mark(client, settings) == 6000 and projected(settings) == 6000)
        assert worker.end(signal.SIGTERM) == 0
    assert_complete(settings, tmp_path, [f"e{n}" for n in range(1, 6001)])


def test_a_killed_redis_and_a_producer_that_sends_again_lose_nothing_and_double_nothing(
    own_valkey: Valkey,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
    run: Callable[..., Projector],
    eventually: Eventually,
) -> None:
    settings = make_settings(own_valkey.url)
    entries = [execution(f"e{n}", n) for n in range(1, 2001)]
    worker = run(settings)
    client = own_valkey.client()
    send(client, settings, entries[:1000])
    eventually(lambda: mark(client, settings) == 1000)
    send(client, settings, entries[1000:1500])
    own_valkey.kill()
    own_valkey.start()

    # A producer that lost its connection sends again whatever lies above the stored mark.
    send(client, settings, entries[max(mark(client, settings), 0) :])
    eventually(lambda: mark(client, settings) == 2000, within=4)  # FastStream's own wait would be 5 s
    eventually(lambda: projected(settings) == 2000)
    assert worker.end(signal.SIGTERM) == 0
    assert_complete(settings, tmp_path, [f"e{n}" for n in range(1, 2001)])
    assert "Traceback" not in worker.log
    client.close()


def test_a_thousand_garbage_entries_among_a_thousand_good_ones_leave_it_alive(
    valkey: Valkey, settings: Settings, tmp_path: Path, run: Callable[..., Projector], eventually: Eventually
) -> None:
    bad = [garbage(n)[1] for n in range(996)]
    huge = [{b"__data__": b"x" * 5_000_000 + b"%d" % n} for n in range(4)]
    good = [execution(f"e{n}", n) for n in range(1, 1001)]
    mixed = [fields for pair in zip(good, [*bad, *huge], strict=True) for fields in pair]
    worker = run(settings)
    with valkey.client() as client:
        send(client, settings, mixed)
        eventually(lambda: mark(client, settings) == 1000, within=30)
        send(client, settings, [execution("e1001", 1001)])
        eventually(lambda: mark(client, settings) == 1001 and projected(settings) == 1001)
    assert worker.end(signal.SIGTERM) == 0
    store = SqliteEventStore(settings.store_path, readonly=True)
    letters = store.dead_letters(limit=2000, raw=False)
    store.close()
    assert len(letters) == 1000
    assert {letter.reason for letter in letters} == {garbage(n)[0] for n in range(11)}
    assert_complete(settings, tmp_path, [f"e{n}" for n in range(1, 1002)])


def test_sigterm_and_sigint_end_it_with_0(
    settings: Settings, run: Callable[..., Projector], eventually: Eventually
) -> None:
    for how in (signal.SIGTERM, signal.SIGINT):
        worker = run(settings)
        eventually(lambda worker=worker: "reading stream" in worker.log)
        assert worker.end(how) == 0
        assert "projector stopped" in worker.log
        assert "Traceback" not in worker.log


def test_without_redis_it_waits_with_one_warning_and_sigterm_still_ends_it(
    make_settings: Callable[..., Settings], run: Callable[..., Projector], eventually: Eventually
) -> None:
    worker = run(make_settings(f"redis://127.0.0.1:{free_port()}/0"))
    eventually(lambda: "Redis can't be reached" in worker.log)
    time.sleep(1.2)  # two more attempts
    assert worker.log.count("Redis can't be reached") == 1
    assert worker.end(signal.SIGTERM) == 0


def test_redis_may_come_up_after_the_projector(
    own_valkey: Valkey,
    make_settings: Callable[..., Settings],
    run: Callable[..., Projector],
    eventually: Eventually,
) -> None:
    settings = make_settings(own_valkey.url)
    own_valkey.kill()
    worker = run(settings)
    eventually(lambda: "Redis can't be reached" in worker.log)
    own_valkey.start()
    client = own_valkey.client()
    send(client, settings, [registration("a", 1), execution("b", 2)])
    eventually(lambda: mark(client, settings) == 2)
    eventually(lambda: client.hlen(settings.keys.program("p")) == 1)
    client.close()


def test_a_second_projector_on_the_same_data_dir_is_refused(
    settings: Settings, run: Callable[..., Projector], eventually: Eventually
) -> None:
    worker = run(settings)
    eventually(lambda: "reading stream" in worker.log)
    with pytest.raises(StartupError, match="another projector"):
        Worker(settings).run()
    assert worker.end(signal.SIGTERM) == 0


def test_a_key_that_holds_something_else_is_said_at_start(valkey: Valkey, settings: Settings) -> None:
    with valkey.client() as client:
        client.set(settings.keys.events, "no stream")
    with pytest.raises(StartupError, match="STREAM_PREFIX"):
        Worker(settings).run()


def test_a_failure_that_trying_again_does_not_mend_ends_it_with_1_and_stores_nothing_past_it(
    valkey: Valkey, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(SqliteEventStore, "append", broken)
    with valkey.client() as client:
        send(client, settings, [execution(f"e{n}", n) for n in range(1, 1501)])
    with pytest.raises(SystemExit) as ended:
        Worker(settings).run()
    assert ended.value.code == 1
    assert "gives up: OperationalError: disk I/O error" in caplog.text
    monkeypatch.undo()
    store = SqliteEventStore(settings.store_path)
    assert store.last_position() == 0
    assert store.stream_checkpoint(settings.keys.events) is None
    store.close()


def test_hostile_ids_stay_inside_the_directory(
    valkey: Valkey, settings: Settings, tmp_path: Path, run: Callable[..., Projector], eventually: Eventually
) -> None:
    hostile = ["../../x", "openai/gpt-4o:../../x", "x" * 300, "日本語"]
    entries = [registration(f"r{n}", n, program=name) for n, name in enumerate(hostile, 1)]
    entries += [execution(f"e{n}", n, program=name, model_id=name) for n, name in enumerate(hostile, 5)]
    worker = run(settings)
    with valkey.client() as client:
        send(client, settings, entries)
        eventually(lambda: mark(client, settings) == 8 and projected(settings) == 8)
    assert worker.end(signal.SIGTERM) == 0
    assert len(list(settings.programs_dir.glob("*/executions/*.jsonl"))) == len(hostile)
    known = {"data", "dspy_programs", "wal", "valkey"}
    assert {p.name for p in tmp_path.iterdir() if not p.name.endswith(".log")} <= known


def test_a_key_that_becomes_something_else_ends_it_with_1(
    valkey: Valkey, settings: Settings, run: Callable[..., Projector], eventually: Eventually
) -> None:
    """FastStream's reader then fails and starts again without any pause: nobody would be told."""
    worker = run(settings)
    eventually(lambda: "reading stream" in worker.log)
    with valkey.client() as client:
        client.set(settings.keys.events, "no stream")
    assert worker.process is not None
    assert worker.process.wait(15) == 1
    worker.process = None
    assert "the projector gives up: StartupError: Redis holds something else" in worker.log


def test_what_is_being_stored_when_it_is_told_to_stop_is_in_the_views_too(
    valkey: Valkey, settings: Settings, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """The views were followed for the last time while the other thread was still storing."""
    taking, take = threading.Event(), Intake.take

    def slowly(*arguments: Any) -> list[StoredEvent]:
        taking.set()
        time.sleep(0.5)
        return take(*arguments)

    monkeypatch.setattr(Intake, "take", slowly)
    worker = Worker(settings)
    running = threading.Thread(target=worker.run)
    running.start()
    with valkey.client() as client:
        eventually(lambda: projected(settings) == 0)
        send(client, settings, [execution("e1", 1)])
        assert taking.wait(10)
    worker.stop()
    running.join()
    assert (stored(settings), projected(settings)) == (1, 1)


@pytest.mark.parametrize("table", ["producers", "streams"])
def test_a_damaged_event_store_ends_it_with_a_line_and_no_traceback(
    settings: Settings, run: Callable[[Settings], Projector], table: str
) -> None:
    SqliteEventStore(settings.store_path).close()
    with closing(sqlite3.connect(settings.store_path)) as db:
        [(page,)] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,))
        [(size,)] = db.execute("PRAGMA page_size")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with settings.store_path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 200)
    projector = run(settings)
    assert projector.process is not None
    assert projector.process.wait(20) == 1
    assert "the projector gives up: DatabaseError" in projector.log
    assert "Traceback" not in projector.log


def test_few_at_a_time_are_folded_together(settings: Settings) -> None:
    """A fold costs as much as a hundred events: one for each handful took half of a core at 200 a second."""
    worker, folded = Worker(settings), list[float]()

    class Followers:
        def follow(self, events: list[StoredEvent]) -> bool:
            folded.append(time.monotonic())
            if len(folded) == 10:
                worker.stop()
            return False

        def tidy(self) -> bool:
            return False

    async def run() -> None:
        following = asyncio.create_task(worker._follow(cast("Any", Followers())))
        while not following.done():
            worker._handover.put([cast("Any", SimpleNamespace(size=1))])
            worker._handed.set()
            await asyncio.sleep(0.01)
        await following

    asyncio.run(asyncio.wait_for(run(), 60))
    assert folded[-1] - folded[0] > 0.6, "nine pauses of a tenth of a second each"
