"""Every error is a problem that says what to do, and every answer tells its position."""

from __future__ import annotations

import logging
import sqlite3
import string
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dspy_ledger.store import SqliteEventStore
from dspy_ledger.views import VIEW_VERSION, create_view, next_view, point_to

LISTS = ("/v1/programs", "/v1/programs/models", "/v1/programs/executions", "/v1/programs/p/versions")
LISTS = (*LISTS, "/v1/programs/p/evaluations")
SINGLES = (
    "/v1/programs/p",
    "/v1/programs/p/tree",
    "/v1/programs/p/versions/1.0.0",
    "/v1/programs/executions/x",
)
HEALTH = ("/health/live", "/health/ready")


def check_problem(answer, status, path=None):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "detail", "instance"} <= set(problem)
    assert problem["status"] == status
    assert "Traceback" not in answer.text
    if path is not None:
        assert problem["instance"] == path
    return problem


@pytest.fixture
def filled(ledger, api):
    ledger.register("p")
    ledger.execute("x", body={"inputs": {}})
    ledger.fold()
    return api


@pytest.mark.parametrize("path", [*LISTS, *SINGLES])
def test_every_answer_carries_the_position_of_its_view(filled, ledger, path):
    assert filled.get(path).headers["ledger-position"] == "2"
    ledger.execute("y")
    assert filled.get(path).headers["ledger-position"] == "2"
    ledger.fold()
    assert filled.get(path).headers["ledger-position"] == "3"


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    ("parameter", "value", "told"),
    [
        ("limit", "0", "greater than or equal to 1"),
        ("limit", "1001", "less than or equal to 1000"),
        ("limit", "ten", "valid integer"),
        ("limit", "", "valid integer"),
        ("limit", "9" * 30, "less than or equal to 1000"),
        ("limt", "5", "did you mean limit?"),
        ("offset", "5", "unknown parameter"),
        ("cursor", "garbage", "start again without it"),
        ("cursor", "", "is empty"),
        ("fields", "", "items have no ''; they have"),
        ("fields", "nme", "items have no 'nme'; they have"),
        ("fields", "created_at,", "items have no"),
    ],
)
def test_a_parameter_that_cant_be_used_is_told(filled, path, parameter, value, told):
    answer = filled.get(path, **{parameter: value})
    problem = check_problem(answer, 400, path)
    assert told in problem["detail"]
    assert problem["detail"].startswith(f"{parameter}: ")
    assert answer.headers["ledger-position"] == "2"


@pytest.mark.parametrize(
    ("parameter", "value", "told"),
    [
        ("status", "OK", "'ok' or 'error'"),
        ("modle_id", "gpt", "did you mean model_id?"),
        ("since", "yesterday", "2026-11-22T10:00:00Z"),
        ("since", "2026-11-22T10:00:00", "2026-11-22T10:00:00Z"),
        ("since", "2026-02-30", "2026-11-22"),
        ("until", "2026-11-22 10:00", "2026-11-22"),
        ("until", "1764000000", "2026-11-22"),
        ("until", "0001-01-01T00:00:00+01:00", "2026-11-22"),
        ("until", "\uff12\uff10\uff12\uff16-11-22", "2026-11-22"),
        ("program_id", "", "is empty; give a value or leave it out"),
        *((name, "", "is empty") for name in ("trace_id", "session_id", "user_id", "service", "release")),
        ("tag", "", "is empty"),
        ("min_latency_ms", "-1", "greater than or equal to 0"),
        ("min_latency_ms", "slow", "valid number"),
        ("min_latency_ms", "nan", "finite number"),
        ("min_latency_ms", "1e999", "finite number"),
    ],
)
def test_a_filter_that_cant_be_used_is_told(filled, parameter, value, told):
    problem = check_problem(filled.get("/v1/programs/executions", **{parameter: value}), 400)
    assert problem["type"] == "urn:dspy-ledger:problem:bad-parameter"
    (error,) = problem["errors"]
    assert error["parameter"] == parameter
    assert told in error["detail"]


def test_all_bad_parameters_are_told_at_once(filled):
    problem = check_problem(filled.get("/v1/programs/executions?limit=0&status=bad&x=1"), 400)
    assert {error["parameter"] for error in problem["errors"]} == {"limit", "status", "x"}


def test_a_value_given_twice_is_refused_where_one_counts(filled):
    problem = check_problem(filled.get("/v1/programs/executions?status=ok&status=error"), 400)
    assert problem["errors"] == [{"parameter": "status", "detail": "is given more than once"}]
    assert filled.get("/v1/programs?tag=a&tag=b").status_code == 200


def test_more_tags_than_anybody_means_are_refused(filled):
    tags = [f"t{number}" for number in range(900)]
    problem = check_problem(filled.get("/v1/programs", tag=tags), 400)
    assert problem["errors"] == [{"parameter": "tag", "detail": "give at most 20 tags"}]
    assert filled.get("/v1/programs", tag=["a"] * 50).status_code == 200


@pytest.mark.parametrize("path", SINGLES)
def test_a_path_of_one_thing_takes_as_of_alone(filled, path):
    problem = check_problem(filled.get(path, verson="1"), 400)
    assert problem["errors"] == [
        {"parameter": "verson", "detail": "unknown parameter; this path knows as_of"}
    ]


def test_a_cursor_is_of_use_only_on_its_own_list_with_its_own_filters(ledger, api):
    for program_id in ("p", "q"):
        ledger.register(program_id, "1.0.0", "c1:00")
        ledger.register(program_id, "2.0.0", "c1:01")
        for number in range(2):
            ledger.execute(f"{program_id}{number}", program_id)
    ledger.fold()
    cursor = api.get("/v1/programs/p/versions", limit=1).json()["next_cursor"]
    assert api.get("/v1/programs/p/versions", cursor=cursor, limit=50).status_code == 200
    for path in ("/v1/programs/q/versions", "/v1/programs/executions", "/v1/programs"):
        problem = check_problem(api.get(path, cursor=cursor), 400, path)
        assert problem["type"] == "urn:dspy-ledger:problem:bad-cursor"
    cursor = api.get("/v1/programs/executions", limit=1, program_id="p").json()["next_cursor"]
    check_problem(api.get("/v1/programs/executions", cursor=cursor, program_id="q"), 400)
    check_problem(api.get("/v1/programs/executions", cursor=cursor), 400)


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/",
        "/v1/programs/",
        "/v1/program",
        "/v1/programs/p/nothing",
        "/v1/programs/p/versions/1.0.0/more",
        "/v1/programs/..%2f..%2fetc%2fpasswd",
        "/v1/programs/p/versions/..%2f..%2fledger.db",
        "/v1/programs/%00",
        "/v1/programs/%ff",
        f"/v1/programs/{quote('日本')}",
        "/docs",
    ],
)
def test_a_path_that_is_not_there_is_a_problem(filled, path):
    answer = filled.get(path)
    check_problem(answer, 404)
    assert ("ledger-position" in answer.headers) == path.startswith("/v1")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", [*LISTS, *SINGLES, *HEALTH])
def test_another_method_is_a_problem_that_names_get(filled, method, path):
    answer = filled.send(method, path)
    assert "GET" in check_problem(answer, 405, path)["detail"]
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize("path", [*LISTS, *SINGLES])
def test_before_there_is_a_view_every_question_says_to_start_the_projector(api, path):
    answer = api.get(path)
    problem = check_problem(answer, 503, path)
    assert problem["type"] == "urn:dspy-ledger:problem:not-ready"
    assert "start the projector" in problem["detail"]
    assert answer.headers["retry-after"] == "1"


def test_live_is_always_200_and_ready_only_once_view_and_store_are_there(api, api_settings, request):
    assert api.get("/health/live").json() == {"status": "live"}
    check_problem(api.get("/health/ready"), 503)
    request.getfixturevalue("ledger")
    assert api.get("/health/ready").json() == {"status": "ready", "position": 0}
    for file in api_settings.data_dir.glob("ledger.db*"):
        file.unlink()
    assert "event store" in check_problem(api.get("/health/ready"), 503)["detail"]
    assert api.get("/health/live").status_code == 200


def test_lists_are_answered_without_a_store_and_events_are_not(filled, api_settings):
    for file in api_settings.data_dir.glob("ledger.db*"):
        file.unlink()
    for path in LISTS:
        assert filled.get(path).status_code == 200
    answer = filled.get("/v1/programs/executions/x")
    assert "event store" in check_problem(answer, 503)["detail"]
    assert answer.headers["ledger-position"] == "2"


def test_a_store_that_was_replaced_is_opened_again_and_not_mistaken_for_the_views(
    filled, ledger, api_settings, tmp_path
):
    assert filled.get("/v1/programs/executions/x").status_code == 200
    for file in api_settings.data_dir.glob("ledger.db*"):
        file.unlink()
    store = SqliteEventStore(api_settings.store_path)
    problem = check_problem(filled.get("/v1/programs/executions/x"), 503)
    assert "not the one that the view was folded from" in problem["detail"]
    store.append([(str(event.position), _entry(event)) for event in ledger.store.read(0, 10)])
    assert filled.get("/v1/programs/executions/x").status_code == 200
    store.close()


def _entry(event):
    from dspy_ledger import wire

    fields = {b"__data__": event.payload} | ({b"body": event.body} if event.body else {})
    return wire.decode(fields)


def test_a_view_swapped_in_by_replay_is_asked_from_then_on(filled, api_settings):
    assert filled.get("/v1/programs").headers["ledger-position"] == "2"
    path = next_view(api_settings.data_dir)
    view = create_view(path)
    view.execute("INSERT INTO checkpoint VALUES (1, ?, 'other', 77, NULL)", (VIEW_VERSION,))
    view.close()
    assert filled.get("/v1/programs").headers["ledger-position"] == "2"
    point_to(path)
    answer = filled.get("/v1/programs", q="anything")  # the new connection can fold case, too
    assert (answer.headers["ledger-position"], answer.json()["items"]) == ("77", [])


def test_a_view_of_another_version_is_not_read(filled, api_settings):
    path = next_view(api_settings.data_dir)
    view = create_view(path)
    view.execute("INSERT INTO checkpoint VALUES (1, 99, 'l', 1, NULL)")
    view.close()
    point_to(path)
    for _ in range(2):
        assert "version 99" in check_problem(filled.get("/v1/programs"), 503)["detail"]


def test_a_view_that_is_no_database_is_told(filled, api_settings):
    path = next_view(api_settings.data_dir)
    path.write_bytes(b"not a database, and long enough to be looked at" * 50)
    point_to(path)
    assert "can't be read" in check_problem(filled.get("/v1/programs"), 503)["detail"]


def test_a_data_dir_that_cannot_be_looked_into_is_told(api, api_settings):
    """As when its file server has gone; making the problem failed of the same, and nobody answered."""
    api_settings.data_dir.write_text("a file in its place")
    for path in ("/v1/programs", "/v1/programs/x"):
        assert "can't be read" in check_problem(api.get(path), 503)["detail"]
    check_problem(api.get("/health/ready"), 503)
    assert api.get("/health/live").status_code == 200


def test_an_answer_and_its_position_are_of_one_moment(ledger, api, monkeypatch):
    """A fold that commits between the checkpoint and the rows must not show in either."""
    from dspy_ledger.api.routes import executions

    asked = executions.page_of_executions

    def fold_in_between(question, query):
        ledger.execute("late")
        ledger.fold()
        return asked(question, query)

    monkeypatch.setattr(executions, "page_of_executions", fold_in_between)
    answer = api.get("/v1/programs/executions")
    assert (answer.headers["ledger-position"], answer.json()["items"]) == ("0", [])
    monkeypatch.undo()
    answer = api.get("/v1/programs/executions")
    assert (answer.headers["ledger-position"], len(answer.json()["items"])) == ("1", 1)


def test_what_nobody_expected_is_logged_and_answered_without_its_details(filled, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr("dspy_ledger.api.routes.programs.page_of_programs", broken)
    with caplog.at_level(logging.ERROR, "dspy_ledger.api"):
        answer = filled.get("/v1/programs")
    check_problem(answer, 500, "/v1/programs")
    assert "swordfish" not in answer.text
    assert "swordfish" in caplog.text
    assert answer.headers["ledger-position"] == "2"
    monkeypatch.undo()
    assert filled.get("/v1/programs").status_code == 200


def test_the_api_never_writes(filled):
    with filled.app.state.sources.question() as question, pytest.raises(sqlite3.OperationalError):
        question.db.execute("DELETE FROM programs")


@pytest.fixture(scope="module")
def fuzzed(make_ledger_and_api):
    ledger, api = make_ledger_and_api()
    ledger.register("p", tags=["t"])
    ledger.execute("x", trace_id="t")
    ledger.evaluate("e", program_id="p")
    ledger.fold()
    return api


NAMES = ("limit", "cursor", "tag", "q", "program_id", "version", "model_id", "status", "trace_id")
NAMES = (*NAMES, "environment", "since", "until")
VALUES = (
    "",
    "1",
    "ok",
    "p",
    "' OR 1=1 --",
    "%",
    "\x00",
    "2026-11-22",
    "9" * 25,
    "-1",
    "x" * 300,
    "NaN",
    "null",
)


@given(
    st.sampled_from((*LISTS, *SINGLES)),
    st.lists(st.tuples(st.sampled_from(NAMES) | st.text(), st.sampled_from(VALUES) | st.text()), max_size=6),
)
@settings(max_examples=200, deadline=None)
@example("/v1/programs/executions", [("program_id", "p' OR '1'='1")])
@example("/v1/programs", [("q", "'); DROP TABLE programs; --")])
def test_no_query_is_ever_the_servers_fault(fuzzed, path, pairs):
    query = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in pairs)
    answer = fuzzed.get(f"{path}?{query}")
    assert answer.status_code in {200, 400}, answer.text
    assert answer.headers["ledger-position"] == "3"
    if answer.status_code == 400:
        check_problem(answer, 400)


@given(st.binary(max_size=40), st.sampled_from((*LISTS, *SINGLES)))
@settings(max_examples=100, deadline=None)
def test_no_bytes_in_a_query_are_ever_the_servers_fault(fuzzed, raw, path):
    answer = fuzzed.get(f"{path}?q={''.join(f'%{byte:02x}' for byte in raw)}&{_quoted(str(raw))}")
    assert answer.status_code in {200, 400}, answer.text


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
@example(["executions", "..", "..", "etc"])
@example(["p", "versions", "1.0.0' --"])
def test_no_path_is_ever_the_servers_fault(fuzzed, parts):
    answer = fuzzed.get("/v1/programs/" + "/".join(map(_quoted, parts)))
    assert answer.status_code in {200, 404}, answer.text


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "replace"), safe=string.ascii_letters)
