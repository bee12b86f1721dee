"""The contract of an event store, over every backend."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import orjson
import pytest

from dspy_ledger import wire
from dspy_ledger.errors import StoreError
from dspy_ledger.store import DeadLetter, EventStore, SqliteEventStore, StreamCheckpoint

NOON = "2026-11-22T12:00:00.000000Z"
SOURCE = "/producers/host/a"

Open = Callable[..., EventStore]


@pytest.fixture(params=["sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store each time it is called; all are closed after the test."""
    with ExitStack() as opened:

        def sqlite_store(**options: object) -> EventStore:
            store = SqliteEventStore(tmp_path / "data" / "ledger.db", **options)
            opened.callback(store.close)
            return store

        yield {"sqlite": sqlite_store}[request.param]


def registration(event_id: str, sequence: int, *, version: str = "1.0.0", name: str = "P") -> wire.Entry:
    data = {
        "program_id": "p",
        "name": name,
        "version": version,
        "content_hash": "c1:00",
        "kind": "signature",
        "created_at": NOON,
    }
    return entry("ProgramRegistered", data, event_id, sequence)


def execution(
    event_id: str, sequence: int, *, body: bytes | None = b'{"inputs":{}}', **data: object
) -> wire.Entry:
    fields = {
        "execution_id": event_id,
        "program_id": "p",
        "status": "ok",
        "started_at": NOON,
        "latency_ms": 1.5,
    }
    return entry("ExecutionCompleted", {**fields, **data}, event_id, sequence, body=body)


def entry(kind: str, data: dict, event_id: str, sequence: int, *, body: bytes | None = None) -> wire.Entry:
    payload = wire.encode(
        kind, data, event_id=event_id, source=SOURCE, sequence=sequence, time=NOON, subject="p", body=body
    )
    fields = {b"__data__": payload} | ({b"body": body} if body is not None else {})
    return wire.decode(fields)


def test_positions_are_1_2_3_without_holes_and_go_on_after_reopening(open_store: Open) -> None:
    store = open_store()
    assert store.last_position() == 0
    store.append([("1-1", registration("a", 1)), ("1-2", execution("b", 2))])
    store.close()
    again = open_store()
    assert [e.position for e in again.append([("1-3", execution("c", 3))]).events] == [3]
    assert [(e.position, e.event_id) for e in again.read(0, 10)] == [(1, "a"), (2, "b"), (3, "c")]


def test_a_ledger_keeps_its_id(open_store: Open) -> None:
    first = open_store()
    assert open_store().ledger_id == first.ledger_id


def test_the_same_event_again_is_a_duplicate_in_the_same_batch_and_in_a_later_one(open_store: Open) -> None:
    store = open_store()
    once = execution("a", 1)
    assert store.append([("1-1", once), ("1-2", once)]).duplicates == 1
    again = store.append([("1-3", once)])
    assert (again.events, again.duplicates, again.dead_letters) == ([], 1, 0)
    assert store.last_position() == 1


def test_the_same_id_with_other_bytes_is_a_dead_letter_that_keeps_every_byte(open_store: Open) -> None:
    store = open_store()
    store.append([("1-1", execution("a", 1))])
    other = execution("a", 1, latency_ms=9)
    assert store.append([("1-2", other)]).dead_letters == 1
    [letter] = store.dead_letters()
    assert (letter.reason, letter.stream_id) == ("conflict", "1-2")
    assert wire.unpack(letter.raw) == {b"__data__": other.payload, b"body": other.body}
    assert store.last_position() == 1


def test_a_registration_that_differs_only_in_its_version_is_a_duplicate_and_the_first_stays(
    open_store: Open,
) -> None:
    store = open_store()
    store.append([("1-1", registration("a", 1, version="1.0.0"))])
    outcome = store.append([("1-2", registration("a", 1, version="1.0.1"))])
    assert (outcome.duplicates, outcome.dead_letters) == (1, 0)
    assert store.event("a").data["version"] == "1.0.0"
    assert store.append([("1-3", registration("a", 1, name="Q"))]).dead_letters == 1


def test_bodies_come_back_with_their_events_and_none_where_there_was_none(open_store: Open) -> None:
    store = open_store()
    store.append([("1-1", execution("a", 1)), ("1-2", execution("b", 2, body=None))])
    assert [e.body_json() for e in store.read(0, 10)] == [{"inputs": {}}, None]
    assert store.event_at(1).body == b'{"inputs":{}}'


def test_unknown_fields_survive_in_the_stored_bytes(open_store: Open) -> None:
    envelope = {**execution("a", 1, body=None).envelope, "later": {"x": 1}}
    late = wire.decode({b"__data__": orjson.dumps(envelope)})
    store = open_store()
    store.append([("1-1", late)])
    assert store.event("a").envelope["later"] == {"x": 1}


def test_the_checkpoint_and_the_batch_are_one_transaction(open_store: Open) -> None:
    store = open_store()
    store.append([("1-1", execution("a", 1))], checkpoint=StreamCheckpoint("s", "1-1", "run"))
    broken = StreamCheckpoint("s", None, None)  # type: ignore[arg-type]  # the database refuses it
    with pytest.raises(sqlite3.IntegrityError):
        store.append([("1-2", execution("b", 2))], checkpoint=broken)
    assert store.last_position() == 1
    assert store.stream_checkpoint("s") == StreamCheckpoint("s", "1-1", "run")
    assert store.producers()[0].mark == 1
    assert store.append([("1-2", execution("b", 2))]).marks == {SOURCE: 2}


def test_marks_move_over_dead_letters_and_reported_drops_and_stop_at_a_gap(open_store: Open) -> None:
    store = open_store()
    assert store.append([("1", execution("a", 1)), ("2", execution("c", 3))]).marks == {SOURCE: 1}
    dead = DeadLetter("3", "not-an-event", "", b"{}", "d", SOURCE, 2)
    assert store.append([], dead_letters=[dead]).marks == {SOURCE: 3}
    report = entry(
        "ProducerReported", {"first": 1, "last": 7, "dropped": [[4, 6]], "reason": "close"}, "r", 7
    )
    assert store.append([("4", report)]).marks == {SOURCE: 7}


def test_dead_letters_are_kept_once_per_stream_id_and_digest(open_store: Open) -> None:
    store = open_store()
    dead = DeadLetter("1-1", "not-json", "x", b"{}", "digest")
    assert store.append([], dead_letters=[dead]).dead_letters == 1
    assert store.append([], dead_letters=[dead]).dead_letters == 0
    assert store.dead_letter_count() == 1


def test_recorded_at_never_goes_back_when_the_clock_does(open_store: Open) -> None:
    clock = iter(
        ["2026-11-22T10:00:02.000000Z", "2026-11-22T10:00:01.000000Z", "2026-11-22T10:00:03.000000Z"]
    )
    store = open_store(now=lambda: next(clock))
    for n in (1, 2, 3):
        store.append([(str(n), execution(f"e{n}", n))])
    assert [e.recorded_at[17:19] for e in store.read(0, 10)] == ["02", "02", "03"]


def test_reading_by_type_gives_only_those_in_order(open_store: Open) -> None:
    store = open_store()
    store.append(
        [("1", registration("a", 1)), ("2", execution("b", 2)), ("3", registration("c", 3, name="Q"))]
    )
    registered = store.read(0, 10, types=["org.dspy-ledger.ProgramRegistered.v1"])
    assert [e.event_id for e in registered] == ["a", "c"]
    assert [e.event_id for e in store.read_all(upto=2)] == ["a", "b"]


def test_a_readonly_store_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="start the projector"):
        SqliteEventStore(tmp_path / "ledger.db", readonly=True)
    assert not (tmp_path / "ledger.db").exists()


def test_a_file_that_is_no_ledger_and_a_newer_one_are_refused_in_one_line_and_let_go(
    tmp_path: Path, open_below: Callable[[], list[str]]
) -> None:
    (tmp_path / "text.db").write_text("not a database, just text " * 100)
    SqliteEventStore(tmp_path / "newer.db").close()
    with closing(sqlite3.connect(tmp_path / "newer.db")) as db, db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    for readonly in (False, True):
        # As long as an error is held, so is the half-made store that raised it.
        with pytest.raises(StoreError, match=r"can't open the event store") as no_ledger:
            SqliteEventStore(tmp_path / "text.db", readonly=readonly)
        with pytest.raises(StoreError, match="upgrade dspy-ledger") as newer:
            SqliteEventStore(tmp_path / "newer.db", readonly=readonly)
        assert open_below() == [], (no_ledger, newer)
