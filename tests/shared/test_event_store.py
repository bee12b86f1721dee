"""The contract of an event store, over every backend."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from dspy_ledger import wire
from dspy_ledger.errors import StoreError
from dspy_ledger.store import (
    MOST_READ,
    DeadLetter,
    EventStore,
    SqliteEventStore,
    StoredEvent,
    StreamCheckpoint,
)

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


def test_a_read_of_large_events_ends_before_it_fills_the_memory(open_store: Open) -> None:
    """Two thousand events of a megabyte were read at once, wherever a view lagged."""
    store = open_store()
    body = b'"' + b"x" * (MOST_READ // 8) + b'"'
    store.append([(f"1-{n}", execution(f"e{n}", n, body=body)) for n in range(1, 12)])
    assert [event.position for event in store.read(0, 2000)] == list(range(1, 9))
    assert [event.position for event in store.read(8, 2000)] == [9, 10, 11]
    assert [event.position for event in store.read_all()] == list(range(1, 12))


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


def test_reading_can_be_kept_to_a_program_and_an_end_and_go_without_bodies(open_store: Open) -> None:
    store = open_store()
    entries = [execution(f"e{n}", n, program_id="p" if n % 2 else "q") for n in range(1, 7)]
    without = orjson.loads(execution("e7", 7, program_id="q").payload)
    del without["subject"]
    entries.append(wire.decode({b"__data__": orjson.dumps(without), b"body": b'{"inputs":{}}'}))
    store.append([(str(n), each) for n, each in enumerate(entries, start=1)])
    assert [event.position for event in store.read(0, 10, program_id=entries[0].subject)] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert [event.position for event in store.read(0, 10, program_id="q")] == [7]
    assert [event.position for event in store.read(1, 10, upto=4)] == [2, 3, 4]
    assert [event.position for event in store.read(1, 2, upto=4)] == [2, 3]
    assert store.read(0, 10, program_id="nobody") == []
    assert {event.body for event in store.read(0, 10)} == {b'{"inputs":{}}'}
    assert {event.body for event in store.read(0, 10, bodies=False)} == {None}
    assert store.positions_of(["e3", "nobody", "e1"]) == {"e1": 1, "e3": 3}
    assert store.positions_of([f"e{n}" for n in range(2000)]) == {f"e{n}": n for n in range(1, 8)}


def test_an_account_tells_what_came_what_was_written_off_and_what_is_missing(
    open_store: Open,
) -> None:
    store = open_store()
    dead = DeadLetter("2", "not-an-event", "", b"{}", "d", SOURCE, 2)
    store.append([("1", execution("a", 1)), ("5", execution("e", 5))], dead_letters=[dead])
    said = {"dropped": [[3, 3]], "unconfirmed": [[4, 6]], "sampled_out": 9, "reason": "interval"}
    store.append([("9", entry("ProducerReported", {"first": 1, "last": 9, **said}, "r", 9))])
    [account] = open_store().producers()
    assert (account.stored, account.dead_lettered, account.sampled_out, account.last) == (3, 1, 9, 9)
    assert (account.dropped, account.unconfirmed) == (((3, 3),), ((4, 4), (6, 6)))
    assert (account.mark, account.missing) == (6, [(7, 8)])
    store.append([("7", execution("g", 7)), ("8", execution("h", 8))])  # late, and the account is closed
    [account] = store.producers()
    assert (account.mark, account.missing) == (9, [])


def test_a_report_names_numbers_that_never_came_and_they_are_missing(open_store: Open) -> None:
    store = open_store()
    store.append([("1", execution("a", 1))])
    store.append([("2", entry("ProducerReported", {"first": 1, "last": 5, "reason": "close"}, "r", 2))])
    [account] = store.producers()
    assert (account.mark, account.last, account.missing) == (2, 5, [(3, 5)])


def test_the_position_at_a_moment_is_the_last_one_recorded_by_then(open_store: Open) -> None:
    moments = [f"2026-11-22T10:00:{n:02}.000000Z" for n in (1, 1, 3, 5)]
    clock = iter(moments)
    store = open_store(now=lambda: next(clock))
    assert store.position_at("2026-11-22T10:00:09.000000Z") == 0
    for n in range(4):
        store.append([(str(n), execution(f"e{n}", n + 1))])
    asked = {f"2026-11-22T10:00:{n:02}.000000Z": position for n, position in enumerate([0, 2, 2, 3, 3, 4, 4])}
    assert {moment: store.position_at(moment) for moment in asked} == asked


def test_erasing_takes_the_bodies_and_leaves_an_event_that_says_so(open_store: Open) -> None:
    store = open_store()
    secret = b'{"inputs":{"q":"' + b"what nobody may know" * 500 + b'"}}'
    store.append([("1", execution("a", 1, body=secret)), ("2", execution("b", 2, body=None))])
    [erased] = store.erase([1, 2], "asked to")
    assert (erased.position, erased.data) == (3, {"event_ids": ["a"], "reason": "asked to"})
    assert [event.body for event in store.read(0, 9)] == [None, None, None]
    assert store.erase([1, 2], "asked to") == []
    assert store.append([("9", execution("a", 1, body=secret))]).duplicates == 1  # it comes once more
    assert store.event_at(1).body is None
    while not store.reclaim():
        pass
    assert list(store.check()) == []


def test_what_was_erased_is_in_no_file_any_more_and_its_space_is_given_back(tmp_path: Path) -> None:
    with closing(SqliteEventStore(tmp_path / "ledger.db")) as store:
        secret = b'{"inputs":{"q":"' + b"what nobody may know" * 5000 + b'"}}'
        for n in range(1, 41):
            store.append([(str(n), execution(f"e{n}", n, body=secret))])
        assert not store.reclaim(1) or store.reclaim(1)
        before = (tmp_path / "ledger.db").stat().st_size
        store.erase(range(1, 41), "asked to")
        while not store.reclaim(100):
            pass
        assert (tmp_path / "ledger.db").stat().st_size < before / 5
        for path in tmp_path.iterdir():
            assert b"nobody may know" not in path.read_bytes(), path


def test_a_store_that_was_closed_is_whole_in_its_file_even_beside_a_reader(tmp_path: Path) -> None:
    """A copy of ledger.db alone, made while the API was up, lacked what lay in the write-ahead file."""
    path = tmp_path / "ledger.db"
    store = SqliteEventStore(path)
    with closing(SqliteEventStore(path, readonly=True)) as reader:
        store.append([("1", execution("a", 1))])
        assert reader.last_position() == 1
        store.close()
        shutil.copy(path, tmp_path / "copy.db")
    with closing(SqliteEventStore(tmp_path / "copy.db", readonly=True)) as copy:
        assert copy.last_position() == 1


def test_more_than_a_thousand_bodies_are_erased_by_several_events(open_store: Open) -> None:
    store = open_store()
    store.append([(str(n), execution(f"e{n}", n)) for n in range(1, 1203)])
    first, second = store.erase(range(1, 1203), "age")
    assert [len(event.data["event_ids"]) for event in (first, second)] == [1000, 202]
    assert (first.sequence, second.sequence, second.position) == (1, 2, 1204)


def own(store: EventStore, kind: str, data: dict, event_id: str, sequence: int) -> wire.Entry:
    """An entry that says it is the writer's."""
    source = f"/projector/{store.ledger_id}"
    payload = wire.encode(kind, data, event_id=event_id, source=source, sequence=sequence, time=NOON)
    return wire.decode({b"__data__": payload})


def test_nobody_speaks_in_the_stream_as_the_writer_and_erasing_goes_on(open_store: Open) -> None:
    """One report under the writer's name moved its mark to the end of all numbers: no erasure ever after."""
    store = open_store()
    store.append([("1-0", execution("a", 1, body=b'{"inputs":{}}'))])
    everything = {"first": 1, "last": 1, "dropped": [[1, 10**18 - 1]], "reason": "interval"}
    pretended = own(store, "ProducerReported", everything, "r", 1)
    done = store.append([("2-0", pretended)])
    assert (done.events, done.dead_letters, store.last_position()) == ([], 1, 1)
    [letter] = store.dead_letters()
    assert (letter.reason, letter.source) == ("not-an-event", None)
    assert wire.unpack(letter.raw) == {b"__data__": pretended.payload}
    assert [event.sequence for event in store.erase([1], "asked for")] == [1]
    assert list(store.check()) == []
    assert store.append([("2-0", pretended)], resolves=[letter.id]).dead_letters == 1, "a retry leaves it"


def test_erasing_goes_on_in_a_ledger_that_took_such_a_report_in(open_store: Open) -> None:
    store = open_store()
    everything = {"first": 1, "last": 1, "dropped": [[1, 10**18 - 1]], "reason": "interval"}
    report = own(store, "ProducerReported", everything, "r", 1)
    [body] = store.append([("1-0", execution("a", 1, body=b'{"inputs":{}}'))]).events
    taken = StoredEvent(
        2, "r", "2-0", report.type, None, report.source, 1, report.time, body.recorded_at, report.payload,
        report.digest,
    )  # fmt: skip
    store.restore([body, taken])
    assert [event.sequence for event in store.erase([1], "asked for")] == [2]


def test_an_import_keeps_bodies_that_only_the_stream_said_were_erased(open_store: Open) -> None:
    """A ledger of an older release may hold such an event: at home it took nothing, at its import bodies."""
    store = open_store()
    erased = {"event_ids": ["a"], "reason": "r"}
    pretended = own(store, "BodyErased", erased, "z", 1)
    [body] = store.append([("1-0", execution("a", 1, body=b'{"inputs":{}}'))]).events
    told = StoredEvent(
        2, "z", "2-0", pretended.type, None, pretended.source, 1, pretended.time, body.recorded_at,
        pretended.payload, pretended.digest,
    )  # fmt: skip
    store.restore([body, told])
    assert store.event("a").body == b'{"inputs":{}}'


def test_events_of_an_export_are_taken_in_as_they_were_and_once(open_store: Open, tmp_path: Path) -> None:
    here = open_store()
    dead = DeadLetter("3", "not-json", "x", b"{}", sha256(b"{}").hexdigest(), SOURCE, 3)
    here.append([("1", execution("a", 1)), ("2", execution("b", 2))], dead_letters=[dead])
    here.append([("4", execution("c", 4))])
    here.erase([2], "asked to")
    events, letters = here.read(0, 10), here.dead_letters()
    with closing(SqliteEventStore.create(tmp_path / "there.db", ledger_id=here.ledger_id)) as there:
        assert there.restore(events[:1], letters) == 1
        assert there.restore(events, letters) == 3
        assert there.restore(events, letters) == 0
        assert (there.read(0, 10), there.ledger_id) == (events, here.ledger_id)
        assert [(a.source, a.ranges, a.stored) for a in there.producers()] == [
            (a.source, a.ranges, a.stored) for a in here.producers()
        ]
        assert list(there.check()) == []
        with pytest.raises(StoreError, match="another event"):
            there.restore([replace(events[1], event_id="other")])
        with pytest.raises(StoreError, match="position 5 is missing"):
            there.restore([replace(events[1], position=6)])
        assert there.last_position() == 4


def test_dead_letters_are_paged_resolved_by_a_retry_or_given_up(open_store: Open) -> None:
    store = open_store()
    letters = [DeadLetter(str(n), "unknown-type", "x", b"{}", f"d{n}", SOURCE, n) for n in range(1, 6)]
    store.append([], dead_letters=letters)
    newest = store.dead_letters(limit=2)
    assert [letter.sequence for letter in newest] == [5, 4]
    assert [letter.sequence for letter in store.dead_letters(limit=9, before=newest[-1].id)] == [3, 2, 1]
    store.append([("5", execution("e", 5))], resolves=[newest[0].id])
    assert store.dead_letter(newest[0].id) is None
    assert store.drop_dead_letters([newest[1].id, newest[1].id]) == 1
    assert store.dead_letter_count() == 3
    assert store.append([], dead_letters=[letters[3]]).dead_letters == 0  # read once more: still given up
    [account] = store.producers()
    assert (account.mark, account.stored, account.dead_lettered) == (5, 1, 4)


def test_large_dead_letters_are_read_without_filling_the_memory(open_store: Open) -> None:
    """Whoever listed a thousand of them, or tried all again, held their bytes at once: gigabytes."""
    store = open_store()
    raw = b"x" * (MOST_READ // 2)
    large = [DeadLetter(str(n), "unknown-type", "x", raw, f"d{n}", SOURCE, n) for n in range(1, 4)]
    store.append([], dead_letters=large)
    assert [letter.sequence for letter in store.dead_letters(limit=9)] == [3, 2]
    assert [letter.sequence for letter in store.all_dead_letters(0, 9)] == [1, 2]
    listed = store.dead_letters(limit=9, raw=False)
    assert [(letter.sequence, letter.raw) for letter in listed] == [(3, b""), (2, b""), (1, b"")]
    assert store.dead_letter(listed[0].id, raw=False) == listed[0]


def test_a_parked_event_is_noted_once_and_forgotten_by_position_or_all(open_store: Open) -> None:
    store = open_store()
    for projection, position in (("sql", 2), ("sql", 1), ("sql", 1), ("directory", 3)):
        store.park(projection, position, "it breaks")
    assert [(p.projection, p.position) for p in store.parked()] == [
        ("directory", 3),
        ("sql", 1),
        ("sql", 2),
    ]
    assert (store.unpark("sql", [1]), store.unpark("sql"), store.unpark("sql")) == (1, 1, 0)
    assert [p.position for p in store.parked("directory")] == [3]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("UPDATE events SET payload = replace(payload, 'm', 'n') WHERE position = 2", "the payload"),
        ("UPDATE bodies SET body = x'7b7d' WHERE position = 2", "the body"),
        ("UPDATE events SET recorded_at = '2026-11-22T10:00:00.000001Z' WHERE position = 2", "recorded_at"),
        ("UPDATE events SET stream_id = '1-3' WHERE position = 2", "stream_id"),
        ("UPDATE events SET source = 'x' WHERE position = 2", "column source"),
        ("UPDATE events SET sequence = 3 WHERE position = 2", "column sequence"),
        ("DELETE FROM events WHERE position = 2", "position 2 is missing"),
        ("UPDATE dead_letters SET raw = x'00'", "dead letter 1"),
        ("UPDATE producers SET mark = 9", "producer /producers/host/a"),
        ("UPDATE producers SET arrived = '[[1, 9]]'", "producer /producers/host/a"),
    ],
)
def test_a_check_finds_what_was_changed_behind_the_stores_back(
    tmp_path: Path, damage: str, found: str
) -> None:
    with closing(SqliteEventStore(tmp_path / "ledger.db")) as store:
        body = b'{"outputs":{}}'
        raw = wire.pack({b"__data__": b"?"})
        dead = DeadLetter("9", "not-json", "x", raw, sha256(raw).hexdigest(), SOURCE, 9)
        entries = [("1-1", execution("a", 1, body=body)), ("1-2", execution("b", 2, body=body))]
        store.append([*entries, ("1-4", execution("a", 1, latency_ms=9))], dead_letters=[dead])
        store.append([("1-3", execution("c", 3, body=body))])
        assert list(store.check()) == []
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as db, db:
            db.execute(damage)
        assert any(found in problem for problem in store.check()), list(store.check())


def test_a_ledger_of_the_first_schema_is_brought_up_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript((Path(__file__).parent / "ledgers" / "schema-1.sql").read_text())
    with pytest.raises(StoreError, match="start the projector once"):
        SqliteEventStore(path, readonly=True)
    with closing(SqliteEventStore(path)) as store:
        assert list(store.check()) == []
        assert [event.event_id for event in store.read(0, 10)] == ["r", "x1", "x2", "rep", "ev"]
        assert store.read(0, 2)[1].body == b'{"inputs":{"q":"1"}}'
        first, second = store.producers()
        assert (first.ranges, first.mark, first.missing) == (((1, 6), (8, 8)), 6, [(7, 7)])
        assert (first.stored, first.dead_lettered, first.sampled_out) == (4, 1, 7)
        assert (first.dropped, first.unconfirmed) == (((4, 4),), ((6, 6),))
        assert (second.mark, second.first_seen[:19]) == (1, "2026-11-22T12:00:02")
        store.erase([2], "asked to")
        while not store.reclaim():
            pass
        assert list(store.check()) == []
    columns = "SELECT name, type, [notnull], pk FROM pragma_table_info(?) ORDER BY name"
    SqliteEventStore(tmp_path / "new.db").close()
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(tmp_path / "new.db")) as new:
        tables = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
        assert old.execute(tables).fetchall() == new.execute(tables).fetchall()
        for (table,) in new.execute(tables):
            assert old.execute(columns, (table,)).fetchall() == new.execute(columns, (table,)).fetchall()


def test_a_readonly_store_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="start the projector"):
        SqliteEventStore(tmp_path / "ledger.db", readonly=True)
    assert not (tmp_path / "ledger.db").exists()


def test_a_store_that_the_disk_keeps_from_being_opened_is_not_told_to_be_moved_away(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(StoreError, match="see to the disk of") as told:
        SqliteEventStore(tmp_path / "ledger.db")
    assert "move it away" not in str(told.value)


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


@pytest.mark.parametrize("readonly", [False, True])
def test_a_store_whose_schema_is_no_text_any_more_is_told_in_one_line(tmp_path: Path, readonly: bool) -> None:
    """SQLite quotes what it can't read, and Python can't decode that: a traceback in place of advice."""
    path = tmp_path / "ledger.db"
    SqliteEventStore(path).close()
    content = path.read_bytes()
    assert content.count(b"CREATE TABLE streams") == 1
    path.write_bytes(content.replace(b"CREATE TABLE streams", b"CREATE TAB\xceE streams"))
    with pytest.raises(StoreError, match="restore a backup"):
        SqliteEventStore(path, readonly=readonly)


def test_a_store_whose_making_was_cut_short_is_said_to_be_empty(tmp_path: Path) -> None:
    """A reader said that a table was missing, and to restore a backup."""
    (tmp_path / "ledger.db").touch()
    with pytest.raises(StoreError, match="still empty; start the projector"):
        SqliteEventStore(tmp_path / "ledger.db", readonly=True)
