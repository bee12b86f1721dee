"""Events as bytes: what goes in comes out, and what is no event says why."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger import wire
from dspy_ledger.errors import InvalidEvent
from dspy_ledger.events import EVENT_TYPES

NOON = "2026-11-22T12:00:00.000000Z"
EXECUTION = {"execution_id": "x", "program_id": "p", "status": "ok", "started_at": NOON, "latency_ms": 1}
EXAMPLES = {
    "ProgramRegistered": {
        "program_id": "p",
        "name": "P",
        "version": "1.0.0",
        "content_hash": "c1:0",
        "kind": "signature",
        "created_at": NOON,
    },
    "ExecutionCompleted": EXECUTION,
    "EvaluationSaved": {"evaluation_id": "e", "results": {"score": 1}, "created_at": NOON},
    "ProducerReported": {"first": 1, "last": 3, "dropped": [[2, 2]], "reason": "close"},
    "BodyErased": {"event_ids": ["x"], "reason": "asked"},
}

texts = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


def encoded(
    kind: str = "ExecutionCompleted", body: bytes | None = None, **data: object
) -> dict[bytes, bytes]:
    payload = wire.encode(
        kind,
        {**EXAMPLES[kind], **data},
        event_id="id",
        source="/producers/h/i",
        sequence=42,
        time=NOON,
        subject="p",
        body=body,
        context={"environment": "test"},
    )
    return {b"__data__": payload} | ({} if body is None else {b"body": body})


@pytest.mark.parametrize("kind", sorted(EVENT_TYPES))
def test_every_kind_of_event_comes_back_as_it_was(kind: str) -> None:
    entry = wire.decode(encoded(kind))
    assert (entry.type, entry.event_id, entry.sequence, entry.time) == (EVENT_TYPES[kind], "id", 42, NOON)
    assert entry.envelope["sequence"] == "0000000042"
    assert entry.envelope["environment"] == "test"
    assert {name: entry.envelope["data"][name] for name in EXAMPLES[kind]} == EXAMPLES[kind]


@given(metadata=st.dictionaries(texts, json_values, max_size=4), body=st.none() | json_values)
def test_any_metadata_and_body_survive(metadata, body) -> None:
    body_bytes = None if body is None else orjson.dumps(body)
    entry = wire.decode(encoded(body=body_bytes, metadata=metadata))
    assert entry.envelope["data"]["metadata"] == metadata
    assert entry.body == body_bytes


def changed(**attributes: object) -> dict[bytes, bytes]:
    envelope = {**orjson.loads(encoded()[b"__data__"]), **attributes}
    return {b"__data__": orjson.dumps({k: v for k, v in envelope.items() if v is not ...})}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "no-data"),
        ({b"data": b"{}"}, "no-data"),
        ({b"__data__": b""}, "not-json"),
        ({b"__data__": b"\xff\xfe"}, "not-json"),
        ({b"__data__": b"{"}, "not-json"),
        ({b"__data__": b"[]"}, "not-an-event"),
        ({b"__data__": b"null"}, "not-an-event"),
        ({b"__data__": b"{}"}, "unknown-type"),
        (changed(type="org.dspy-ledger.ExecutionCompleted.v2"), "unknown-type"),
        (changed(type={}), "unknown-type"),
        (changed(specversion="0.3"), "not-an-event"),
        (changed(id=""), "not-an-event"),
        (changed(id=...), "not-an-event"),
        (changed(sequence=42), "not-an-event"),
        (changed(sequence="one"), "not-an-event"),
        (changed(sequence="12\n"), "not-an-event"),
        (changed(time="2026-11-22T12:00:00"), "not-an-event"),
        (changed(time="noon"), "not-an-event"),
        (changed(data=[]), "not-an-event"),
        (changed(data={**EXECUTION, "status": "fine"}), "not-an-event"),
        (changed(data={**EXECUTION, "latency_ms": "1"}), "not-an-event"),
        (changed(data={**EXECUTION, "latency_ms": -1}), "not-an-event"),
        (changed(bodydigest="sha256:00"), "body-digest"),
        (encoded(body=b"{}") | {b"body": b"[]"}, "body-digest"),
        ({**encoded(), b"body": b"{}"}, "body-digest"),
        (encoded(body=b"not json"), "body-not-json"),
    ],
)
def test_what_is_no_event_says_why(fields, reason) -> None:
    with pytest.raises(InvalidEvent) as error:
        wire.decode(fields)
    assert error.value.reason == reason
    assert "\n" not in str(error.value)


def test_a_time_in_another_zone_becomes_utc_and_the_bytes_stay() -> None:
    fields = changed(time="2026-11-22T14:00:00+02:00")
    entry = wire.decode(fields)
    assert entry.time == NOON
    assert entry.payload == fields[b"__data__"]


def test_unknown_fields_are_ignored_and_kept() -> None:
    entry = wire.decode(changed(later=1, data={**EXECUTION, "new_in_v9": {"a": 1}}))
    assert entry.envelope["data"]["new_in_v9"] == {"a": 1}


@given(st.dictionaries(st.binary(max_size=5), st.binary(max_size=20), max_size=4))
def test_no_bytes_make_decoding_fail_in_another_way(fields) -> None:
    with pytest.raises(InvalidEvent):
        wire.decode(fields)
    with pytest.raises(InvalidEvent):
        wire.decode({**fields, b"__data__": b"x" + fields.get(b"__data__", b"")})


@given(st.dictionaries(st.sampled_from([b"__data__", b"body", b"\xc3\xa4"]), st.binary(), max_size=3))
def test_packed_fields_come_back_to_the_byte(fields) -> None:
    assert wire.unpack(wire.pack(fields)) == fields


def test_source_and_sequence_are_read_off_where_they_can_be() -> None:
    assert wire.peek_sequence(changed(data=[])) == ("/producers/h/i", 42)
    for fields in (
        {},
        {b"__data__": b"{"},
        changed(sequence="x"),
        changed(source=5),
        changed(sequence="0"),
        changed(sequence="9" * 19),
    ):
        assert wire.peek_sequence(fields) is None
