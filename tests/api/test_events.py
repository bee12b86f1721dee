"""The events themselves, in pages."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.test_errors import check_problem
from dspy_ledger import wire
from dspy_ledger.api import schemas
from dspy_ledger.api.queries import events as queries

KINDS = {"ExecutionCompleted", "ProgramRegistered", "EvaluationSaved"}


def walk(api, **params) -> list[dict]:
    """All pages' items, as ``next_cursor`` leads; a page may be empty."""
    return api.walk("/v1/events", **params)


@pytest.fixture
def filled(ledger, api):
    ledger.register("p", "1.0.0", "c1:00", state={"form": {"demos": []}})
    ledger.register("q", "2.0.0", "c1:00")
    ledger.execute("x", body={"inputs": {"a": 1}})
    ledger.execute("y", "q", content_hash="c1:99")
    ledger.evaluate("e", program_id="p", content_hash="c1:00")
    ledger.fold()
    return api


def test_an_event_is_told_as_it_came_with_its_place_and_the_label_of_its_content(filled, ledger):
    page = filled.get("/v1/events").json()
    schemas.EventPage.model_validate(page)
    assert [item["position"] for item in page["items"]] == [1, 2, 3, 4, 5]
    assert [item["program_version"] for item in page["items"]] == ["1.0.0", "2.0.0", "1.0.0", None, "1.0.0"]
    for item, event in zip(page["items"], ledger.store.read(0, 10), strict=True):
        assert item["event"] == orjson.loads(event.payload)
        assert item["recorded_at"] == event.recorded_at
        assert "body" not in item
    assert (page["next_cursor"], page["last_position"]) == (None, 5)


def test_bodies_come_when_they_are_asked_for_and_are_null_once_erased(filled, ledger):
    bodies = [item["body"] for item in filled.items("/v1/events", bodies="true")]
    assert bodies == [{"form": {"demos": []}}, None, {"inputs": {"a": 1}}, None, None]
    ledger.store.erase([3], "test")
    ledger.fold()
    told = filled.items("/v1/events", bodies="true")
    assert (told[2]["body"], told[5]["event"]["type"]) == (None, "org.dspy-ledger.BodyErased.v1")


@pytest.mark.parametrize(
    ("params", "positions"),
    [
        ({"type": "ExecutionCompleted"}, [3, 4]),
        ({"type": "org.dspy-ledger.ExecutionCompleted.v1"}, [3, 4]),
        ({"type": "ProgramRegistered,EvaluationSaved"}, [1, 2, 5]),
        ({"program_id": "q"}, [2, 4]),
        ({"program_id": "q", "type": "ExecutionCompleted"}, [4]),
        ({"program_id": "nobody"}, []),
        ({"after": 3}, [4, 5]),
        ({"after": 5}, []),
        ({"since": "2000-01-01"}, [1, 2, 3, 4, 5]),
        ({"since": "0001-01-01", "until": "0001-01-01"}, []),
        ({"until": "2000-01-01"}, []),
    ],
)
def test_filters_narrow_together(filled, params, positions):
    assert [item["position"] for item in filled.items("/v1/events", **params)] == positions
    assert [item["position"] for item in walk(filled, limit=1, **params)] == positions


def test_since_and_until_part_the_ledger_where_it_was_recorded(filled, ledger):
    at = ledger.store.event_at(3).recorded_at
    before = [item["position"] for item in filled.items("/v1/events", until=at)]
    after = [item["position"] for item in filled.items("/v1/events", since=at)]
    assert before + after == [1, 2, 3, 4, 5]
    assert 3 in after


def test_what_the_view_has_not_folded_is_not_told_yet(filled, ledger):
    ledger.execute("z")
    answer = filled.get("/v1/events")
    assert answer.headers["ledger-position"] == "5"
    assert answer.json()["last_position"] == 5
    ledger.fold()
    assert [item["position"] for item in filled.items("/v1/events", after=5)] == [6]


def test_a_rare_type_is_looked_for_some_positions_at_a_time_and_found_all_the_same(
    filled, ledger, monkeypatch
):
    monkeypatch.setattr(queries, "_SCANNED", 2)
    for number in range(7):
        ledger.execute(f"more-{number}")
    ledger.evaluate("late", program_id="p")
    ledger.fold()
    page = filled.get("/v1/events", type="EvaluationSaved").json()
    assert (page["items"], page["last_position"]) == ([], 2)
    assert [item["position"] for item in walk(filled, type="EvaluationSaved")] == [5, 13]
    assert len(filled.items("/v1/events", type="ProgramRegistered")) == 2  # these have an index


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_pages_of_any_size_hold_each_event_once_from_any_position(pages, data):
    limit = data.draw(st.integers(1, 9))
    after = data.draw(st.integers(0, 24))
    params = {"limit": limit, "after": after}
    if kinds := data.draw(st.sets(st.sampled_from(sorted(KINDS)))):
        params["type"] = ",".join(kinds)
    events = [
        position
        for position in range(after + 1, 25)
        if not kinds or ("EvaluationSaved" if position % 5 == 0 else "ExecutionCompleted") in kinds
    ]
    assert [item["position"] for item in walk(pages, **params)] == events


@pytest.fixture(scope="module")
def pages(make_ledger_and_api):
    ledger, api = make_ledger_and_api()
    for number in range(1, 25):
        if number % 5 == 0:
            ledger.evaluate(f"e{number}", program_id="p")
        else:
            ledger.execute(f"x{number}")
    ledger.fold()
    return api


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"type": "Nothing"}, "there is no event type 'Nothing' (known: BodyErased"),
        ({"type": ""}, "there is no event type ''"),
        ({"after": "-1"}, "greater than or equal to 0"),
        ({"after": 2**63}, "less than"),
        ({"after": "x"}, "valid integer"),
        ({"bodies": "maybe"}, "valid boolean"),
        ({"limit": 1001}, "less than or equal to 1000"),
        ({"since": "yesterday"}, "write a time"),
        ({"cursor": "garbage"}, "start again"),
        ({"program": "p"}, "did you mean program_id?"),
    ],
)
def test_a_parameter_that_cant_be_used_is_told(filled, params, told):
    assert told in check_problem(filled.get("/v1/events", **params), 400, "/v1/events")["detail"]


def test_without_a_ledger_it_says_so(api):
    check_problem(api.get("/v1/events"), 503)


def test_an_event_that_was_written_with_line_ends_is_told_as_it_came(ledger, api):
    payload = wire.encode(
        "ExecutionCompleted",
        {"execution_id": "x", "program_id": "p", "status": "ok", "started_at": "2026-11-22T12:00:00Z",
         "latency_ms": 1},
        event_id="x", source="/producers/other", sequence=1, time="2026-11-22T12:00:00Z",
    )  # fmt: skip
    spaced = orjson.dumps(orjson.loads(payload), option=orjson.OPT_INDENT_2)
    ledger.store.append([("1-0", wire.decode({b"__data__": spaced}))])
    ledger.fold()
    [item] = api.items("/v1/events")
    assert item["event"] == orjson.loads(payload)
