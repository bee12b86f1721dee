"""Stream entries become events or dead letters; nothing an entry holds may stop the ingest."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dspy_ledger import wire
from dspy_ledger.errors import StartupError
from dspy_ledger.keys import Keys
from dspy_ledger.projector import (
    Directory,
    Halted,
    Ingest,
    Live,
    Patience,
    SqlViews,
    WriterLease,
    decode_entries,
)
from dspy_ledger.projector import ingest as ingest_module
from dspy_ledger.store import StreamCheckpoint
from projector.ledgers import NOON, SOURCE, Fields, event, execution, kept, ledger, registration
from servers import Valkey

KEYS = Keys("test")


def numbered(entries: list[Fields]) -> tuple[list[bytes], list[Fields]]:
    return [b"%d-0" % n for n in range(1, len(entries) + 1)], entries


def unreachable() -> redis.Redis:
    return redis.Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0))


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def garbage(n: int) -> tuple[str, Fields]:
    """One of the ways in which an entry can be no event, with the reason it is buried for."""
    good = execution(f"g{n}", n + 1, body={"inputs": {}}, source="/producers/host/bad")
    data = good[b"__data__"]
    kinds: list[tuple[str, Fields]] = [
        ("no-data", {b"x": b"%d" % n}),
        ("not-json", {b"__data__": b"{%d" % n}),
        ("not-json", {b"__data__": b"\xff\xfe%d" % n}),
        ("not-an-event", {b"__data__": b"[%d]" % n}),
        ("unknown-type", {b"__data__": data.replace(b"Completed.v1", b"Completed.v9")}),
        ("unknown-type", {b"__data__": data.replace(b'"type":"org', b'"type":["org",1],"was":"')}),
        ("not-an-event", {b"__data__": data.replace(b'"latency_ms":1.5', b'"latency_ms":"fast"')}),
        ("not-an-event", {b"__data__": data.replace(NOON.encode(), b"0001-01-01T00:00:00+23:00")}),
        ("body-digest", good | {b"body": b'{"inputs":{"other":1}}'}),
        ("body-digest", {b"__data__": data}),
        ("body-digest", {b"__data__": data.replace(b'"bodydigest"', b'"nodigest"'), b"body": good[b"body"]}),
    ]
    return kinds[n % len(kinds)]


def test_a_batch_is_told_apart_and_every_reason_is_kept() -> None:
    reasons, entries = zip(*[garbage(n) for n in range(11)], strict=True)
    decoded = decode_entries(*numbered([execution("a", 1), *entries]))
    assert [stream_id for stream_id, _ in decoded.entries] == ["1-0"]
    assert [letter.reason for letter in decoded.dead_letters] == list(reasons)
    for letter, fields in zip(decoded.dead_letters, entries, strict=True):
        assert wire.unpack(letter.raw) == fields


def test_what_nests_too_deep_to_be_written_again_is_buried() -> None:
    deep = [
        event("ExecutionCompleted", {"later": "X", **_minimal()}, "a", 1),
        event("ExecutionCompleted", _minimal(), "b", 2, body=nested(200)),
    ]
    deep[0][b"__data__"] = deep[0][b"__data__"].replace(b'"X"', b"[" * 250 + b"]" * 250)
    fine = event("ExecutionCompleted", _minimal(), "c", 3, body=nested(198))
    decoded = decode_entries(*numbered([*deep, fine]))
    assert [letter.reason for letter in decoded.dead_letters] == ["not-an-event", "body-not-json"]
    assert len(decoded.entries) == 1


def _minimal() -> dict:
    return {"execution_id": "e", "program_id": "p", "status": "ok", "started_at": NOON, "latency_ms": 1}


def test_a_decoder_that_fails_unexpectedly_makes_a_dead_letter_and_no_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(ingest_module, "decode", broken)
    [letter] = decode_entries([b"1-0"], [execution("a", 7)]).dead_letters
    assert (letter.reason, letter.detail) == ("not-decodable", "RecursionError: too deep")
    assert (letter.source, letter.sequence) == (SOURCE, 7)


def test_a_batch_its_dead_letters_and_the_checkpoint_are_stored_together(tmp_path: Path) -> None:
    store = ledger(tmp_path)
    ingest = Ingest(store, KEYS.events)
    assert ingest.last_id == "0"
    bad = execution("c", 2)
    bad[b"__data__"] = bad[b"__data__"].replace(b'"ok"', b'"maybe"')
    appended = ingest.take(*numbered([execution("a", 1), bad, execution("b", 3)]))
    assert [e.event_id for e in appended.events] == ["a", "b"]
    assert appended.marks == {SOURCE: 3}, "a dead letter settles its sequence number"
    assert (ingest.last_id, store.dead_letter_count()) == ("3-0", 1)
    assert store.stream_checkpoint(KEYS.events) == StreamCheckpoint(KEYS.events, "3-0")


def test_a_full_disk_is_waited_for_however_long_and_told(caplog: pytest.LogCaptureFixture) -> None:
    failures = iter([OSError(errno.ENOSPC, "full")] * 20)

    def act() -> str:
        for failure in failures:
            raise failure
        return "done"

    patience = Patience(_Impatient(), first_wait=0)
    with caplog.at_level(logging.WARNING):
        assert patience.insist("storing a batch", act) == "done"
    assert [record.getMessage() for record in caplog.records] == [
        "storing a batch waits: the disk is full; nothing is lost, make room"
    ]


class _Impatient(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


def test_any_other_failure_is_tried_six_times_and_then_raised() -> None:
    tries = []

    def act() -> None:
        tries.append(1)
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(sqlite3.OperationalError):
        Patience(_Impatient()).insist("storing a batch", act)
    assert len(tries) == 6


def test_waiting_ends_at_once_when_the_process_is_to_end() -> None:
    halt = threading.Event()

    def act() -> None:
        halt.set()
        raise OSError(errno.ENOSPC, "full")

    started = time.monotonic()
    with pytest.raises(Halted):
        Patience(halt, first_wait=60).insist("storing a batch", act)
    assert time.monotonic() - started < 5


def test_a_store_that_is_really_full_is_retried_in_place_until_there_is_room(tmp_path: Path) -> None:
    store = ledger(tmp_path)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    large = [execution(f"e{n}", n, body={"inputs": "x" * 5000}) for n in range(1, 20)]
    rooms = iter([pages, pages + 1000])

    class Room(_Impatient):
        def wait(self, timeout: float | None = None) -> bool:
            store._db.execute(f"PRAGMA max_page_count = {next(rooms)}")
            return False

    client = unreachable()
    live = Live.over(store, KEYS, client, [kept(SqlViews(tmp_path, store))], Patience(Room()))
    assert live.take(*numbered(large)) == 19
    assert store.last_position() == 19
    client.close()


def test_marks_are_published_with_each_batch_and_all_of_them_after_an_outage(
    tmp_path: Path, own_valkey: Valkey, eventually: Callable[..., None]
) -> None:
    store = ledger(tmp_path, [execution("old", 1, source="/producers/host/old")])
    client = own_valkey.client()
    projections = [kept(SqlViews(tmp_path, store)), Directory(tmp_path / "programs", tmp_path, store)]
    live = Live.over(store, KEYS, client, projections, Patience(threading.Event()))
    live.tidy()
    live.take(*numbered([execution("a", 1)]))
    assert client.hgetall(KEYS.stored) == {b"/producers/host/old": b"1", SOURCE.encode(): b"1"}
    own_valkey.kill()
    live.take(*numbered([execution("b", 2)]))
    assert [p.position() for p in projections] == [3, 3], "views that need no Redis do not wait for it"
    own_valkey.start()
    client.flushall()
    live.tidy()
    assert client.hgetall(KEYS.stored) == {b"/producers/host/old": b"1", SOURCE.encode(): b"2"}
    client.close()


def test_a_second_writer_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = WriterLease(tmp_path / "data")
    with pytest.raises(StartupError, match=r"another projector \(process \d+\)"):
        WriterLease(tmp_path / "data")
    first.close()
    WriterLease(tmp_path / "data").close()


def test_a_data_dir_that_cant_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StartupError, match="can't be written") as caught:
        WriterLease(tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_a_projection_behind_catches_up_from_the_store(tmp_path: Path) -> None:
    store = ledger(tmp_path, [registration("a", 1), execution("b", 2)])
    late = kept(SqlViews(tmp_path, store))
    with unreachable() as client:
        live = Live.over(store, KEYS, client, [late], Patience(threading.Event()))
        live.take(*numbered([execution("c", 3)]))
    assert late.position() == 3
