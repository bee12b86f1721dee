"""The list of executions, held against a filter in plain Python, and one execution with its event."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from itertools import combinations, count

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_ledger.api import schemas
from dspy_ledger.api.parameters import ExecutionQuery
from dspy_ledger.api.queries import execution_rows, executions
from dspy_ledger.api.queries.executions import page_of_executions
from dspy_ledger.events import ExecutionCompleted
from dspy_ledger.projector import tables

PATH = "/v1/programs/executions"
PROGRAMS = ("alpha", "beta", "日本語", "unregistered")
MODELS = ("gpt", "openai/mini", None)
HASHES = ("c1:00", "c1:01", "c1:02", None)
LABELS = {
    ("alpha", "c1:00"): "1.0.0",
    ("alpha", "c1:01"): "1.1.0",
    ("beta", "c1:00"): "1.0.0",
    ("beta", "c1:02"): "2.0.0+local.1",
    ("日本語", "c1:01"): "1.0.0",
}


@pytest.fixture(scope="module")
def world(make_ledger_and_api):
    """300 executions over everything there is to filter by, and the same as plain dicts."""
    ledger, api = make_ledger_and_api()
    chance = random.Random(7)
    for (program_id, content_hash), label in list(LABELS.items())[:3]:
        ledger.register(program_id, label, content_hash)
    facts = []
    for number in range(300):
        fact = {
            "execution_id": f"x{number}",
            "program_id": chance.choice(PROGRAMS),
            "content_hash": chance.choice(HASHES),
            "model_id": chance.choice(MODELS),
            "status": chance.choice(("ok", "ok", "error")),
            "trace_id": chance.choice((None, "trace-1", "trace-2")),
            "session_id": chance.choice((None, "session-1", "session-2")),
            "user_id": chance.choice((None, "ann", "bob")),
            "tags": chance.sample(["a", "b", "ü"], chance.randint(0, 3)),
            # Clocks differ: time is not in order of position.
            "time": f"2026-11-{chance.randint(1, 20):02d}T{chance.randint(0, 23):02d}:00:00.000000Z",
        }
        environment = chance.choice((None, "production", "staging"))
        service, release = chance.choice((None, "cards")), chance.choice((None, "r1", "r2"))
        context = {"environment": environment, "service": service, "release": release}
        told = {name: value for name, value in context.items() if value is not None}
        position = ledger.execute(**fact, context=told or None, latency_ms=number)
        facts.append({**fact, **context, "latency_ms": number, "position": position})
        if number == 150:  # labels that executions before them wait for
            for (program_id, content_hash), label in list(LABELS.items())[3:]:
                ledger.register(program_id, label, content_hash)
    ledger.fold()
    return api, facts


def expected(facts, filters):
    def fits(fact):
        label = LABELS.get((fact["program_id"], fact["content_hash"]))
        same = ("program_id", "model_id", "status", "trace_id", "session_id", "user_id")
        same = (*same, "environment", "service", "release")
        return (
            all(fact[name] == filters[name] for name in same if name in filters)
            and set(filters.get("tag", ())) <= set(fact["tags"])
            and fact["latency_ms"] >= filters.get("min_latency_ms", 0)
            and filters.get("version", label) == label
            and fact["time"] >= filters.get("since", "")
            and fact["time"] < filters.get("until", "3")
        )

    return [fact["execution_id"] for fact in reversed(facts) if fits(fact)]


CHOICES = {
    "program_id": (*PROGRAMS, "unheard-of"),
    "version": ("1.0.0", "1.1.0", "2.0.0+local.1", "9.9.9"),
    "model_id": ("gpt", "openai/mini", "none"),
    "status": ("ok", "error"),
    "trace_id": ("trace-1", "trace-3"),
    "session_id": ("session-1", "session-3"),
    "user_id": ("ann", "nobody"),
    "environment": ("production", "staging", "test"),
    "service": ("cards", "none"),
    "release": ("r1", "r3"),
    "tag": (["a"], ["ü", "b"], ["none"]),
    "min_latency_ms": (250, 99.5),
    "since": ("2026-11-05T12:00:00.000000Z", "2026-11-19T00:00:00.000000Z"),
    "until": ("2026-11-10T00:00:00.000000Z", "2026-11-02T12:00:00.000000Z"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in CHOICES for value in CHOICES[name]])
def test_each_filter_alone_finds_what_a_plain_filter_finds(world, name, value):
    api, facts = world
    found = api.items(PATH, limit=1000, **{name: value})
    assert [item["execution_id"] for item in found] == expected(facts, {name: value})


@pytest.mark.parametrize("names", list(combinations(CHOICES, 2)), ids="-".join)
def test_each_pair_of_filters_finds_what_a_plain_filter_finds(world, names):
    api, facts = world
    for value in CHOICES[names[0]]:
        for other in CHOICES[names[1]]:
            filters = {names[0]: value, names[1]: other}
            found = api.items(PATH, limit=1000, **filters)
            assert [item["execution_id"] for item in found] == expected(facts, filters)


@given(
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in CHOICES.items()}),
    st.integers(1, 60),
)
@settings(max_examples=80, deadline=None)
def test_any_filters_page_by_page_find_what_a_plain_filter_finds(world, filters, limit):
    api, facts = world
    found = api.walk(PATH, limit=limit, **filters)
    assert [item["execution_id"] for item in found] == expected(facts, filters)


def test_wide_windows_and_many_contents_are_walked_otherwise_and_find_the_same(world, monkeypatch):
    api, facts = world
    monkeypatch.setattr("dspy_ledger.api.queries.executions._FEW", 3)
    monkeypatch.setattr("dspy_ledger.api.queries.executions._SIDE_BY_SIDE", 1)
    for filters in (
        {"since": "2026-11-05T00:00:00.000000Z", "model_id": "gpt"},
        {"since": "2026-11-05T00:00:00.000000Z", "status": "error", "program_id": "alpha"},
        {"until": "2026-11-15T00:00:00.000000Z", "program_id": "beta"},
        {"program_id": "alpha"},
        {"version": "1.0.0"},
        {"environment": "production"},
        {"environment": "test", "model_id": "gpt"},
        {"environment": "staging", "status": "error"},
        {"environment": "production", "since": "2026-11-05T00:00:00.000000Z", "program_id": "alpha"},
    ):
        found = api.walk(PATH, limit=9, **filters)
        assert [item["execution_id"] for item in found] == expected(facts, filters)


@pytest.mark.parametrize(
    "filters",
    [
        {"environment": "production"},
        {"environment": "test"},
        {"environment": "test", "program_id": "alpha"},
        {"environment": "test", "since": "2026-11-01T00:00:00.000000Z"},
        {"environment": "production", "service": "none"},
        {"model_id": "none"},
        {"trace_id": "trace-3"},
        {"session_id": "session-3"},
        {"user_id": "ann", "model_id": "gpt"},
        {"program_id": "alpha"},
        {"program_id": "unheard-of"},
        {"version": "1.0.0"},
        {"status": "error"},
        {"since": "2027-01-01T00:00:00.000000Z", "status": "ok"},
    ],
    ids=repr,
)
def test_a_filter_that_an_index_serves_never_reads_the_table_from_end_to_end(world, filters):
    """An environment that never occurs did: 0.2 to 4 s per million, on the loop."""
    api, _facts = world
    asked: list[str] = []
    with api.app.state.sources.question() as question:
        question.db.set_trace_callback(asked.append)
        page_of_executions(question, ExecutionQuery(**filters))
        question.db.set_trace_callback(None)
        plan = [row["detail"] for sql in asked for row in question.db.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert plan
    by_no_index = ("SCAN e", "SEARCH e USING INTEGER PRIMARY KEY (rowid>?")
    assert not [each for each in plan if each.startswith(by_no_index)]


@pytest.mark.parametrize(
    "filters", [{}, {"status": "error"}, {"program_id": "alpha", "service": "none"}], ids=repr
)
def test_a_time_window_is_found_without_going_through_what_was_recorded_outside_of_it(ledger, api, filters):
    """A day six weeks ago took 2 s of ten million executions."""
    for number in range(600):
        ledger.execute(
            f"x{number}", program_id="alpha", time=f"2026-11-{1 + number // 24:02d}T{number % 24:02d}:30:00Z"
        )
    ledger.fold()

    def steps(**window):
        """Steps of SQLite's machine."""
        with api.app.state.sources.question() as question:
            taken = count()
            question.db.set_progress_handler(lambda: next(taken) < 0, 1)
            found = page_of_executions(question, ExecutionQuery(**filters, **window))
            question.db.set_progress_handler(None, 0)
        return next(taken), len(orjson.loads(orjson.dumps(found))["items"])

    early = {"since": "2026-11-02T10:00:00Z", "until": "2026-11-02T12:00:00Z"}
    assert steps(**early)[1] == (0 if filters else 2)
    assert steps(**early)[0] < 500
    assert steps(until="2026-11-02T12:00:00Z", limit=2)[0] < 1500


def test_one_that_came_late_does_not_make_its_hour_as_long_as_the_ledger(ledger, api, monkeypatch):
    """What a host had kept for a week had each hour of that week gone through from today on."""
    monkeypatch.setattr(tables, "_SPANS", tables._SPANS.replace(">> 16", ">> 4"))
    monkeypatch.setattr(executions, "_MOST_LOOK", 20)
    hour = "2026-11-02T10:00:00Z"
    times = [hour] * 2 + ["2026-11-20T10:00:00Z"] * 900 + [hour] + ["2026-11-21T10:00:00Z"] * 20
    for number, time in enumerate(times):
        ledger.execute(f"x{number}", time=time)
    ledger.fold()
    query, taken = ExecutionQuery(since="2026-11-02", until="2026-11-03"), count()
    with api.app.state.sources.question() as question:
        question.db.set_progress_handler(lambda: next(taken) < 0, 1)
        found = page_of_executions(question, query)
        question.db.set_progress_handler(None, 0)
    assert [item["execution_id"] for item in orjson.loads(orjson.dumps(found))["items"]] == [
        "x902",
        "x1",
        "x0",
    ]
    assert next(taken) < 2500, "900 in between take 8,000"


def test_late_and_early_clocks_are_found_by_their_time(ledger, api):
    times = [
        "2026-11-02T10:30:00Z",
        "2031-01-01T00:00:00Z",
        "2026-11-02T10:59:59.999999Z",
        "1970-01-01T00:00:00Z",
    ]
    times += ["2026-11-02T11:00:00Z", "2026-11-02T10:00:00Z"]
    for number, time in enumerate(times):
        ledger.execute(f"x{number}", time=time)
    ledger.fold()
    found = api.items(PATH, since="2026-11-02T10:00:00Z", until="2026-11-02T11:00:00Z")
    assert [item["execution_id"] for item in found] == ["x5", "x2", "x0"]
    assert [item["execution_id"] for item in api.items(PATH, until="2000-01-01")] == ["x3"]
    assert [item["execution_id"] for item in api.items(PATH, since="2030-01-01")] == ["x1"]
    assert api.items(PATH, since="2028-01-01", until="2029-01-01") == []


@given(
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in CHOICES.items()}),
    st.integers(1, 60),
)
@settings(max_examples=80, deadline=None)
def test_pages_that_give_up_early_hold_less_and_together_all(world, filters, limit):
    api, facts = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executions, "_PATIENCE", -1)
        patch.setattr(executions, "_MOST_LOOK", 7)
        patch.setattr(executions, "_LEAST_LOOK", 7)
        found = api.walk(PATH, limit=limit, **filters)
    assert [item["execution_id"] for item in found] == expected(facts, filters)


def test_a_page_that_took_too_long_to_fill_says_where_to_go_on(world, monkeypatch):
    api, facts = world
    monkeypatch.setattr(executions, "_PATIENCE", -1)
    monkeypatch.setattr(executions, "_MOST_LOOK", 50)
    page = api.get(PATH, min_latency_ms=200, until="2026-11-15").json()
    assert [item["execution_id"] for item in page["items"]] == expected(
        facts[-50:], {"min_latency_ms": 200, "until": "2026-11-15T00:00:00.000000Z"}
    )
    assert page["next_cursor"] is not None
    none = api.get(PATH, service="none").json()
    assert none["items"] == []
    assert none["next_cursor"] is not None


@pytest.mark.parametrize(("seconds", "looks"), [(0, [16, 16, 16, 16]), (0.4, [16, 8, 4, 4]), (9, [16, 4, 4])])
def test_the_slower_a_look_the_fewer_executions_are_looked_at_next(world, monkeypatch, seconds, looks):
    """From a cold disk one look took more time than there was, and the page was given up."""
    api, _facts = world
    now, found = 0.0, []

    def look(question, query, walks, between, most):
        nonlocal now
        now += seconds
        found.append(between[1] - between[0] - 1)
        return []

    monkeypatch.setattr(executions, "monotonic", lambda: now)
    monkeypatch.setattr(executions, "_newest", look)
    for name, number in {"_LEAST_LOOK": 4, "_MOST_LOOK": 16, "_PATIENCE": 27}.items():
        monkeypatch.setattr(executions, name, number)
    api.get(PATH, service=f"takes {seconds}")
    assert found[: len(looks)] == looks


@given(
    st.lists(st.sampled_from(list(schemas.Execution.model_fields)), min_size=1),
    st.sampled_from([{}, {"version": "1.0.0"}, {"since": "2026-11-10", "tag": "a"}]),
)
def test_asked_for_some_fields_each_item_has_those_and_no_others(world, names, filters):
    api, _facts = world
    whole = api.items(PATH, limit=9, **filters)
    found = api.items(PATH, limit=9, fields=",".join(names), **filters)
    assert found == [{name: item[name] for name in names} for item in whole]


def test_fields_may_change_from_page_to_page(world):
    api, facts = world
    found = api.walk(PATH, limit=120, fields="execution_id", between=lambda: None)
    assert [item["execution_id"] for item in found] == expected(facts, {})
    cursor = api.get(PATH, limit=1, fields="tags").json()["next_cursor"]
    assert len(api.items(PATH, limit=1, cursor=cursor)[0]) == len(schemas.Execution.model_fields)


def test_what_is_not_asked_for_is_not_read(world):
    api, _facts = world
    asked: list[str] = []
    with api.app.state.sources.question() as question:
        question.db.set_trace_callback(asked.append)
        page_of_executions(question, ExecutionQuery(fields="status"))
        question.db.set_trace_callback(None)
    assert not any("versions" in sql or "error_message" in sql for sql in asked)


def test_rows_carry_the_label_of_their_content_and_null_while_it_is_unknown(world):
    api, _facts = world
    for item in api.items(PATH, limit=1000):
        assert item["program_version"] == LABELS.get((item["program_id"], item["content_hash"]))
    answer = api.get(PATH, limit=1000)
    assert schemas.ExecutionPage.model_validate_json(answer.content).next_cursor is None


def test_a_row_that_was_asked_for_before_its_version_was_known_tells_it_afterwards(ledger, api):
    ledger.register("alpha", "0.9.0", "c1:02")
    position = ledger.execute("x0", program_id="alpha", content_hash="c1:00")
    ledger.fold()
    assert [item["program_version"] for item in api.items(PATH) + api.items(PATH)] == [None, None]
    ledger.register("alpha", "1.0.0", "c1:00")
    ledger.fold()
    for _ in range(2):  # read, and kept
        assert api.items(PATH)[0]["program_version"] == "1.0.0"
        assert api.items(PATH, fields="program_version") == [{"program_version": "1.0.0"}]
        assert api.items(PATH, as_of=position)[0]["program_version"] is None


def test_rows_are_the_same_when_they_are_asked_for_again_and_when_too_many_were_kept(world, monkeypatch):
    api, _facts = world
    every_row = api.items(PATH, limit=1000)
    monkeypatch.setattr(execution_rows, "_MOST_ROWS", 20)
    monkeypatch.setattr(execution_rows, "_MOST_LABELS", 1)
    for _ in range(2):
        assert api.walk(PATH, limit=7) == every_row
    monkeypatch.setattr(execution_rows, "_LONG", 0)
    assert api.walk(PATH, limit=100) == every_row


def test_every_page_together_gives_every_execution_once_while_new_ones_arrive(ledger, api):
    ledger.register("p")
    before = [f"old-{number}" for number in range(50)]
    for execution_id in before:
        ledger.execute(execution_id)
    ledger.fold()
    fresh = iter(range(1000))

    def arrive():
        for _ in range(3):
            ledger.execute(f"new-{next(fresh)}")
        ledger.fold()

    for filters in ({}, {"program_id": "p"}, {"since": "2026-01-01"}):
        found = [item["execution_id"] for item in api.walk(PATH, limit=7, between=arrive, **filters)]
        assert len(found) == len(set(found))
        assert [each for each in found if each.startswith("old")] == before[::-1]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6])
def test_a_last_page_that_is_just_full_has_no_next_one(ledger, api, count):
    for number in range(count):
        ledger.execute(f"x{number}")
    ledger.fold()
    page = api.get(PATH, limit=5).json()
    assert len(page["items"]) == min(count, 5)
    assert (page["next_cursor"] is None) == (count <= 5)


@pytest.mark.parametrize(
    ("asked", "hours"),
    [
        ("2026-11-22T12:00:00+02:00", range(10, 24)),
        ("2026-11-22T12:00:00 02:00", range(10, 24)),  # a + that nobody encoded
        ("2026-11-22t10:00z", range(10, 24)),
        ("2026-11-22", range(24)),
        ("2026-11-22T22:00:00.000001Z", [23]),
    ],
)
def test_since_takes_any_rfc_3339_time_and_a_bare_date(ledger, api, asked, hours):
    for hour in range(24):
        ledger.execute(f"{hour}", time=f"2026-11-22T{hour:02d}:00:00.000000Z")
    ledger.fold()
    found = [int(item["execution_id"]) for item in api.items(PATH, since=asked)]
    assert sorted(found) == list(hours)


def test_since_is_included_and_until_is_not(ledger, api):
    for hour in (9, 10, 11):
        ledger.execute(f"{hour}", time=f"2026-11-22T{hour:02d}:00:00.000000Z")
    ledger.fold()
    found = api.items(PATH, since="2026-11-22T09:00:00Z", until="2026-11-22T11:00:00Z")
    assert [item["execution_id"] for item in found] == ["10", "9"]


def test_an_empty_content_hash_and_a_missing_one_both_belong_to_the_program(ledger, api):
    ledger.execute("empty", content_hash="")
    ledger.execute("missing", content_hash=None)
    ledger.fold()
    assert [item["execution_id"] for item in api.items(PATH, program_id="p")] == ["missing", "empty"]


def test_one_execution_comes_flat_with_its_event_body_and_feedback(ledger, api):
    ledger.register("p")
    body = {"inputs": {"q": "?"}, "outputs": {"a": "!"}, "calls": [{"kind": "lm"}]}
    position = ledger.execute(
        "x1",
        body=body,
        context={"environment": "production"},
        model_id="gpt",
        model_info={"provider": "openai", "base_model": "gpt", "model_name": "openai/gpt"},
        usage={"input_tokens": 3, "output_tokens": 4},
        metadata={"purpose": "test"},
        call_counts={"lm": 1},
        models=["gpt"],
        tags=["a"],
        adapter="ChatAdapter",
        a_field_of_tomorrow=[1],
    )
    ledger.evaluate("f1", execution_id="x1", results={"score": 1}, user_id="ann")
    ledger.execute("x2")
    ledger.fold()
    answer = api.get(f"{PATH}/x1")
    found = answer.json()
    schemas.ExecutionDetail.model_validate_json(answer.content)
    assert found["position"] == position
    assert (found["program_version"], found["environment"], found["tags"]) == ("1.0.0", "production", ["a"])
    assert (found["event_id"], found["source"], found["sequence"]) == ("x1", "/producers/host/a", 2)
    assert found["usage"] == {"input_tokens": 3, "output_tokens": 4}
    assert (found["metadata"], found["call_counts"]) == ({"purpose": "test"}, {"lm": 1})
    assert found["models"] == ["gpt"]
    assert found["model_info"] == {"provider": "openai", "base_model": "gpt", "model_name": "openai/gpt"}
    assert (found["adapter"], found["error"], found["a_field_of_tomorrow"]) == ("ChatAdapter", None, [1])
    assert {name: found[name] for name in ("inputs", "outputs", "calls")} == body
    assert set(found) - set(schemas.ExecutionDetail.model_fields) == {"a_field_of_tomorrow"}
    (row,) = api.items(PATH, model_id="gpt")
    assert {name: found[name] for name in row} == row
    (feedback,) = found["feedback"]
    assert (feedback["program_id"], feedback["program_version"]) == ("p", "1.0.0")
    assert feedback["model_id"] == "gpt"
    assert (feedback["results"], feedback["user_id"]) == ({"score": 1}, "ann")
    assert found["feedback_count"] == 1


def test_the_newest_feedback_stands_with_its_execution_and_all_of_it_in_a_list(ledger, api):
    ledger.execute("x")
    for number in range(103):
        ledger.evaluate(f"f{number}", execution_id="x", results=number)
    ledger.evaluate("own", program_id="p", execution_id="x")
    ledger.evaluate("other", execution_id="y")
    at = ledger.store.last_position()
    ledger.evaluate("f0", execution_id="x", results="again")
    ledger.fold()
    found = api.get(f"{PATH}/x").json()
    assert (len(found["feedback"]), found["feedback_count"]) == (100, 104)
    every = api.walk(f"{PATH}/x/feedback", limit=30)
    assert every[:100] == found["feedback"]
    assert [item["evaluation_id"] for item in every] == ["f0", "own", *(f"f{n}" for n in range(102, 0, -1))]
    assert every[0]["results"] == "again"
    assert api.walk(f"{PATH}/x/feedback", as_of=at)[-1]["results"] == 0
    assert api.get(f"{PATH}/x", as_of=50).json()["feedback_count"] == 49
    assert api.get(f"{PATH}/y/feedback").status_code == 404


def test_walking_feedback_gives_each_once_while_more_comes(ledger, api):
    ledger.execute("x")
    before = [f"f{number}" for number in range(20)]
    for each in before:
        ledger.evaluate(each, execution_id="x")
    ledger.fold()
    fresh = iter(range(100))

    def arrive():
        ledger.evaluate(f"new{next(fresh)}", execution_id="x")
        ledger.fold()

    found = [item["evaluation_id"] for item in api.walk(f"{PATH}/x/feedback", limit=3, between=arrive)]
    assert found == before[::-1]


def test_one_execution_without_body_shows_null(ledger, api):
    ledger.execute("x1")
    ledger.fold()
    found = api.get(f"{PATH}/x1").json()
    assert (found["inputs"], found["outputs"], found["calls"]) == (None, None, None)
    assert (found["feedback"], found["program_version"]) == ([], None)


def test_an_execution_whose_inputs_are_not_captured_shows_null_for_them_only(ledger, api):
    ledger.execute("x1", body={"outputs": {"a": "!"}, "calls": []})
    ledger.fold()
    found = api.get(f"{PATH}/x1").json()
    assert (found["inputs"], found["outputs"], found["calls"]) == (None, {"a": "!"}, [])


def test_an_execution_whose_body_was_erased_shows_null(ledger, api):
    ledger.execute("x1", body={"inputs": {"q": "?"}, "outputs": {"a": "!"}, "calls": []})
    ledger.fold()
    with closing(sqlite3.connect(ledger.settings.store_path, isolation_level=None)) as db:
        db.execute("DELETE FROM bodies")
    found = api.get(f"{PATH}/x1").json()
    assert (found["inputs"], found["outputs"], found["calls"]) == (None, None, None)


@pytest.mark.parametrize("body", [[1], "text", 7, True, {}, {"other": 1}])
def test_a_body_of_another_producer_that_has_no_parts_shows_null(ledger, api, body):
    ledger.execute("x1", body=body)
    ledger.fold()
    answer = api.get(f"{PATH}/x1")
    schemas.ExecutionDetail.model_validate_json(answer.content)
    found = answer.json()
    assert (found["inputs"], found["outputs"], found["calls"]) == (None, None, None)


def test_fields_that_an_event_leaves_out_are_answered_as_empty(ledger, api):
    ledger.execute("x1")
    ledger.fold()
    answer = api.get(f"{PATH}/x1")
    schemas.ExecutionDetail.model_validate_json(answer.content)
    found = answer.json()
    assert (found["usage"], found["call_counts"], found["metadata"]) == ({}, {}, {})
    assert (found["models"], found["truncated"], found["tags"]) == ([], [], [])
    assert (found["model_info"], found["error"], found["adapter"]) == (None, None, None)


def test_every_field_of_an_executions_event_is_described():
    assert set(ExecutionCompleted.__struct_fields__) <= set(schemas.ExecutionDetail.model_fields)


def test_a_failed_execution_tells_its_error_in_whole_and_in_parts(ledger, api):
    error = {"type": "ValueError", "message": "no"}
    ledger.execute("x1", status="error", error=error)
    ledger.fold()
    found = api.get(f"{PATH}/x1").json()
    assert (found["error"], found["error_type"], found["error_message"]) == (error, "ValueError", "no")


def test_the_version_is_the_one_in_force_and_not_the_one_that_the_producer_knew(ledger, api):
    ledger.register("p", "1.0.1", "c1:00")
    ledger.execute("settled", program_version="1.0.0-local.1")
    ledger.execute("unknown", program_version="1.0.0-local.1", content_hash="c1:99")
    ledger.fold()
    assert api.get(f"{PATH}/settled").json()["program_version"] == "1.0.1"
    assert api.get(f"{PATH}/unknown").json()["program_version"] is None


def test_fields_of_tomorrow_never_stand_in_the_place_of_those_of_today(ledger, api):
    names = ("inputs", "outputs", "calls", "feedback", "position", "event_id", "source", "environment")
    ledger.execute("x1", body={"inputs": {"q": "?"}}, **dict.fromkeys(names, "tomorrow"))
    ledger.fold()
    answer = api.get(f"{PATH}/x1")
    schemas.ExecutionDetail.model_validate_json(answer.content)
    found = answer.json()
    assert (found["inputs"], found["outputs"], found["feedback"]) == ({"q": "?"}, None, [])
    assert (found["position"], found["event_id"], found["environment"]) == (1, "x1", None)


def test_deeply_nested_metadata_is_answered(ledger, api):
    deep: object = 1
    for _ in range(190):
        deep = {"d": deep}
    ledger.execute("x1", metadata={"deep": deep})
    ledger.fold()
    assert api.get(f"{PATH}/x1").json()["metadata"]["deep"] == deep
