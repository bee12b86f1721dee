"""Prometheus is told positions, lags, losses and accounts."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from api.test_producers import append, report
from dspy_ledger.store import DeadLetter


def samples(api) -> dict[tuple[str, ...], float]:
    answer = api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_positions_lags_and_losses_are_told(ledger, api) -> None:
    append(ledger, "/producers/a", 1)
    ledger.fold()
    append(ledger, "/producers/a", 2)
    ledger.store.append([], dead_letters=[DeadLetter("9-0", "not-json", "x", b"{}", "d")])
    ledger.store.park("sql", 2, "it breaks")
    told = samples(api)
    assert told["dspy_ledger_position",] == 2
    assert told["dspy_ledger_projector_running",] == 0
    assert told["dspy_ledger_projection_position", "sql"] == 1
    assert told["dspy_ledger_projection_lag_events", "sql"] == 1
    assert told["dspy_ledger_parked_events", "sql"] == 1
    assert told["dspy_ledger_dead_letters",] == 1
    assert told["dspy_ledger_last_recorded_seconds",] > 1.7e9


def test_what_became_of_producers_events_is_told_in_all_and_of_each(ledger, api) -> None:
    append(ledger, "/producers/a", 1)
    report(ledger, "/producers/a", 9, last=9, dropped=[[3, 4]], unconfirmed=[[5, 5]], sampled_out=7)
    append(ledger, "/producers/b", 1)
    ledger.fold()
    told = samples(api)
    counts = {"recorded": 9, "stored": 2, "dropped": 2, "unconfirmed": 1, "missing": 4, "sampled_out": 7}
    for state, count in counts.items():
        assert told["dspy_ledger_producer_events", "/producers/a", state] == count, state
        of_b = told["dspy_ledger_producer_events", "/producers/b", state]
        assert told["dspy_ledger_events", state] == count + of_b


def test_without_a_ledger_it_says_so(api) -> None:
    answer = api.get("/metrics")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
