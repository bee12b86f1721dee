"""Events of older types are read as the newest, by pure steps, and stay as they came."""

from __future__ import annotations

import copy
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.errors import InvalidEvent
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.keys import DATA_FIELD
from dspy_ledger.store import SqliteEventStore, sqlite
from dspy_ledger.upcasting import UPCASTERS, Upcasters, older_types, upcast, upcast_type
from dspy_ledger.wire import decode

OLD, EXECUTED = "org.dspy-ledger.ExecutionCompleted.v0", EVENT_TYPES["ExecutionCompleted"]


def in_milliseconds(data: dict) -> dict:
    """What an upcaster looks like: seconds became milliseconds, under another name."""
    rest = {name: value for name, value in data.items() if name != "seconds"}
    return {**rest, "latency_ms": data["seconds"] * 1000}


def envelope(kind: str = OLD, **data: object) -> dict:
    fields = {"execution_id": "e", "program_id": "p", "status": "ok", "started_at": "2026-11-22T10:00:00Z"}
    return {
        "specversion": "1.0",
        "id": "e",
        "source": "/producers/h/1",
        "type": kind,
        "time": "2026-11-22T10:00:00Z",
        "sequence": "0000000001",
        "data": {**fields, **data},
    }


@pytest.fixture
def seconds_were_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UPCASTERS, OLD, (EXECUTED, in_milliseconds))


@given(st.integers(0, 5))
def test_every_step_is_taken_in_turn(start: int) -> None:
    steps: Upcasters = {
        f"v{n}": (f"v{n + 1}", lambda data, n=n: {"seen": [*data["seen"], n]}) for n in range(5)
    }
    read = upcast({"type": f"v{start}", "data": {"seen": []}, "id": "e"}, steps)
    assert read == {"type": "v5", "data": {"seen": list(range(start, 5))}, "id": "e"}
    assert upcast_type(f"v{start}", steps) == "v5"
    assert older_types("v5", steps) == [f"v{n}" for n in range(5)]
    assert older_types("v4", steps) == []


def test_a_newest_type_is_itself_and_nothing_is_changed_in_place() -> None:
    steps = {OLD: (EXECUTED, in_milliseconds)}
    newest, old = envelope(EXECUTED, latency_ms=1), envelope(seconds=2)
    before = copy.deepcopy(old)
    assert upcast(newest, steps) is newest
    assert upcast(old, steps)["data"]["latency_ms"] == 2000
    assert old == before


def test_every_upcaster_leads_to_a_type_that_is_read() -> None:
    assert {upcast_type(kind) for kind in UPCASTERS} <= set(EVENT_TYPES.values())
    assert not UPCASTERS.keys() & set(EVENT_TYPES.values())


def test_an_older_event_is_decoded_as_the_newest_and_keeps_its_bytes(seconds_were_stored: None) -> None:
    payload = orjson.dumps(envelope(seconds=0.5, unknown="kept"))
    entry = decode({DATA_FIELD: payload})
    assert (entry.type, entry.envelope["type"]) == (EXECUTED, EXECUTED)
    assert (entry.envelope["data"]["latency_ms"], entry.payload) == (500, payload)
    assert entry.envelope["data"]["unknown"] == "kept"


def test_an_older_event_in_the_store_is_read_and_asked_for_as_the_newest(
    seconds_were_stored: None, tmp_path: Path
) -> None:
    payload = orjson.dumps(envelope(seconds=0.5))
    store = SqliteEventStore(tmp_path / "ledger.db")
    [appended] = store.append([("1-1", decode({DATA_FIELD: payload}))]).events
    [read] = store.read(0, 10, types=[EXECUTED])
    store.close()
    for event in (appended, read):
        assert (event.type, event.data["latency_ms"], event.payload) == (EXECUTED, 500, payload)


def test_what_was_stored_before_its_upcaster_came_is_read_and_asked_for_as_the_newest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    newest = "org.dspy-ledger.ExecutionCompleted.v9"
    store = SqliteEventStore(tmp_path / "ledger.db")
    payload = orjson.dumps(envelope(EXECUTED, latency_ms=1))
    store.append([("1-1", decode({DATA_FIELD: payload}))])
    monkeypatch.setitem(UPCASTERS, EXECUTED, (newest, lambda data: {**data, "latency": data["latency_ms"]}))
    monkeypatch.setitem(sqlite._KNOWN_TYPES, newest, newest)
    [read] = store.read(0, 10, types=[newest])
    assert (read.type, read.envelope["type"], read.data["latency"]) == (newest, newest, 1)
    assert store.event("e").type == store.event_at(1).type == newest
    store.close()


def test_what_an_upcaster_makes_must_be_valid_too(seconds_were_stored: None) -> None:
    with pytest.raises(InvalidEvent, match="latency_ms"):
        decode({DATA_FIELD: orjson.dumps(envelope(seconds=-1))})


def test_without_its_upcaster_an_older_type_is_unknown() -> None:
    with pytest.raises(InvalidEvent, match="does not know type"):
        decode({DATA_FIELD: orjson.dumps(envelope(seconds=1))})
