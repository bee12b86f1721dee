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
    assert 0 < told["dspy_ledger_projection_lag_seconds", "sql"] < 60
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


def test_what_was_answered_is_counted_by_path_template_and_status(ledger, api) -> None:
    ledger.register("p")
    ledger.fold()
    for path in ("/v1/programs/p", "/v1/programs/q", "/v1/programs/p", "/nothing", "/v1/nothing/at/all"):
        api.get(path)
    api.send("BREW", "/v1/programs")
    api.get("/v1/programs/p", q="x" * 9000)
    told = samples(api)
    count = "dspy_ledger_api_requests_total"
    one = "/v1/programs/{program_id}"
    assert told[count, "GET", one, "200"] == 2
    assert told[count, "GET", one, "404"] == 1
    assert told[count, "GET", "other", "404"] == 2
    assert told[count, "other", "/v1/programs", "405"] == 1
    assert told[count, "GET", "other", "414"] == 1  # refused before its path was looked for
    assert told["dspy_ledger_api_request_seconds_count", one] == 3
    assert told["dspy_ledger_api_request_seconds_bucket", "+Inf", one] == 3
    assert told["dspy_ledger_api_request_seconds_sum", one] > 0
    buckets = [value for name, value in told.items() if name[0].endswith("_bucket") and one in name]
    assert buckets == sorted(buckets)
    assert told["dspy_ledger_projection_lag_seconds", "sql"] == 0
    assert told["dspy_ledger_api_streams",] == 0


def test_producers_with_lines_of_their_own_are_bounded_and_those_that_lost_something_come_first(
    ledger, api
) -> None:
    for number in range(150):
        append(ledger, f"/producers/{number:03}", 1)
    append(ledger, "/producers/lossy", 3)
    ledger.fold()
    told = samples(api)
    assert len({name[1] for name in told if name[0] == "dspy_ledger_producer_events"}) == 100
    assert told["dspy_ledger_producer_events", "/producers/lossy", "missing"] == 2
    assert told["dspy_ledger_events", "stored"] == 151


def test_without_a_ledger_it_says_so(api) -> None:
    answer = api.get("/metrics")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
