"""Producers are told with the account of their events."""

from __future__ import annotations

from dspy_ledger import wire
from dspy_ledger.api import schemas

NOON = "2026-11-22T12:00:00.000000Z"


def append(ledger, source: str, sequence: int, kind: str = "ExecutionCompleted", **data) -> None:
    fields = {"execution_id": "x", "program_id": "p", "status": "ok", "started_at": NOON, "latency_ms": 1}
    payload = wire.encode(
        kind,
        data or fields,
        event_id=f"{source}-{sequence}",
        source=source,
        sequence=sequence,
        time=NOON,
    )
    ledger.store.append([(f"{sequence}-0", wire.decode({b"__data__": payload}))])


def report(ledger, source: str, sequence: int, **data) -> None:
    append(ledger, source, sequence, "ProducerReported", **{"first": 1, "reason": "interval", **data})


def test_a_producer_is_told_with_exact_ranges_of_what_it_lacks(ledger, api) -> None:
    for sequence in (1, 2, 5):
        append(ledger, "/producers/a", sequence)
    report(ledger, "/producers/a", 12, last=12, dropped=[[6, 7]], unconfirmed=[[8, 8]], sampled_out=40)
    ledger.fold()
    [told] = api.items("/v1/producers")
    schemas.Producer.model_validate(told)
    seen = {name: told.pop(name) for name in ("first_seen", "last_seen")}
    assert told == {
        "source": "/producers/a",
        "recorded": 12,
        "stored": 4,
        "dead_lettered": 0,
        "dropped": [[6, 7]],
        "unconfirmed": [[8, 8]],
        "sampled_out": 40,
        "missing": [[3, 4], [9, 11]],
        "stored_mark": 2,
    }
    assert seen["first_seen"] <= seen["last_seen"]


def test_many_producers_come_in_pages(ledger, api) -> None:
    sources = [f"/producers/{n:03}" for n in range(25)]
    for source in sources:
        append(ledger, source, 1)
    ledger.fold()
    assert [item["source"] for item in api.walk("/v1/producers", limit=10)] == sources


def test_producers_of_the_past_can_not_be_asked_for(ledger, api) -> None:
    append(ledger, "/producers/a", 1)
    ledger.fold()
    answer = api.get("/v1/producers", as_of="1")
    assert answer.status_code == 400
    assert "as_of" in answer.text


def test_without_a_store_there_is_no_answer_yet(api) -> None:
    assert api.get("/v1/producers").status_code == 503
