"""Asked as of a past position, the API answers what it answered then, and nothing that came later leaks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.conftest import Api
from dspy_ledger.api import schemas
from dspy_ledger.projector import SqlViews, catch_up
from dspy_ledger.settings import load_settings
from dspy_ledger.store import SqliteEventStore
from projector.ledgers import append, evaluation, execution, registration

LISTS = ("/v1/programs", "/v1/programs/models", "/v1/programs/executions", "/v1/programs/p/versions")
LISTS = (*LISTS, "/v1/programs/p/evaluations")
ROUTES = (
    *LISTS, "/v1/programs/p", "/v1/programs/p/tree", "/v1/programs/p/versions/1.0.0", "/v1/programs/p/matrix",
    "/v1/programs/p/evaluations/e", "/v1/programs/executions/x", "/v1/programs/executions/x/feedback",
)  # fmt: skip


@st.composite
def changes(draw) -> list:
    """A history so dense that nearly every event changes what an earlier one said."""
    history = []
    for n, kind in enumerate(draw(st.lists(st.sampled_from("rrxxef"), min_size=8, max_size=20)), 1):
        program, content = draw(st.sampled_from("ppq")), draw(st.sampled_from(["c1:0", "c1:1"]))
        about = {"program": program, "content": content}
        model = {
            "model_id": draw(st.sampled_from(["m", "n", None])),
            "model_info": {"provider": f"maker {n}"},
        }
        if kind == "r":
            tags, words = draw(st.sampled_from([[], ["a"]])), draw(st.sampled_from(["one", "zwei"]))
            entry = registration(f"e{n}", n, **about, description=words, tags=tags, parent_id="p")
        elif kind == "x":
            entry = execution(f"e{n}", n, **about, **model)
        elif kind == "e":
            entry = evaluation(f"e{n}", n, **about, **model, evaluation_id="again", results=n)
        else:
            execution_id = f"e{draw(st.integers(max(1, n - 3), n + 3))}"
            entry = evaluation(
                f"e{n}", n, program=None, content=None, model_id=None, execution_id=execution_id
            )
        history.append(entry)
    return history


def questions() -> Iterator[tuple[str, dict]]:
    """Every route, about everything that :func:`changes` makes."""
    for filters in ({}, {"tag": "a"}, {"q": "zwei"}):
        yield "/v1/programs", filters
    yield "/v1/programs/models", {}
    for filters in ({}, {"limit": 3}, {"program_id": "p"}, {"version": "1.0.1"}, {"model_id": "m"}):
        yield "/v1/programs/executions", filters
    for path in ("/v1/programs/p", "/v1/programs/q"):
        for below in ("", "/versions", "/versions/1.0.0", "/versions/1.0.1", "/tree", "/evaluations"):
            yield path + below, {}
        for filters in ({}, {"model_id": "n"}):
            yield f"{path}/evaluations/again", filters
        yield f"{path}/matrix", {}
        yield f"{path}/diff", {"from": "1.0.0", "to": "1.0.1"}
        yield f"{path}/evaluations", {"version": "1.0.0"}
        yield f"{path}/evaluations", {"model_id": "m", "limit": 1}
    for number in (2, 5):
        yield f"/v1/programs/executions/e{number}", {}
        yield f"/v1/programs/executions/e{number}/feedback", {"limit": 1}


def answers(api: Api, **as_of: object) -> list:
    """What every question is answered, but for totals, which have no past, and cursors, which say as_of.

    A cell of a matrix that only has totals is not there in the past.
    """
    found = []
    for path, filters in questions():
        answer = api.get(path, **filters, **as_of)
        content = answer.json()
        if answer.status_code == 200:
            content.pop("totals", None)
            if path.endswith("/matrix"):
                content = without_totals(content)
            if content.pop("next_cursor", None):
                content["items"] = api.walk(path, **filters, **as_of)
        found.append((path, filters, answer.status_code, content))
    return found


def without_totals(matrix: dict) -> dict:
    """What evaluations made of a matrix."""
    cells = [{**cell, "totals": None} for cell in matrix["cells"] if cell["latest"] is not None]
    used = {name: {cell[name] for cell in cells} for name in ("version", "model_id")}
    axes = {
        "versions": [label for label in matrix["versions"] if label is not None or None in used["version"]],
        "models": [each for each in matrix["models"] if each in used["model_id"]],
    }
    return {**matrix, **axes, "cells": cells}


@contextmanager
def empty_ledger(folder: Path) -> Iterator[tuple[SqliteEventStore, SqlViews, Api]]:
    """A ledger whose every append is recorded a minute after the one before, the first at 10:01."""
    minutes = iter(range(1, 60))
    configured = load_settings(_env_file=None, data_dir=folder, models_file=folder / "models.yaml")
    store = SqliteEventStore(
        configured.store_path, now=lambda: f"2026-11-22T10:{next(minutes):02d}:00.000000Z"
    )
    with closing(store), closing(SqlViews(folder, store)) as views, closing(Api(configured)) as api:
        catch_up(store, views)
        yield store, views, api


@settings(deadline=None, max_examples=15)
@given(changes(), st.data())
def test_every_answer_as_of_a_position_or_its_time_is_the_one_given_then(history, data):
    positions = data.draw(st.sets(st.integers(0, len(history)), min_size=1, max_size=3))
    with tempfile.TemporaryDirectory() as name, empty_ledger(Path(name)) as (store, views, api):
        then = {0: answers(api)} if 0 in positions else {}
        for position, entry in enumerate(history, 1):
            views.apply(append(store, [entry]))
            if position in positions:
                then[position] = answers(api)
        for position, told in then.items():
            assert answers(api, as_of=position) == told
            assert answers(api, as_of=f"2026-11-22T10:{position:02d}:59Z") == told


@pytest.fixture
def changed(ledger, api):
    """A program that was described, run, evaluated and described again; positions 1 to 6."""
    ledger.register("p", description="old", tags=["a"], state={"demos": []})
    ledger.execute("x", content_hash="c1:01", model_id="m", body={"inputs": {"q": "?"}})
    ledger.evaluate("e", program_id="p", model_id="m", results=1)
    ledger.register("p", "1.1.0", "c1:01", description="new", tags=["b"])
    ledger.evaluate("e", program_id="p", model_id="m", results=2)
    ledger.execute("y", content_hash="c1:01", model_id="n", model_info={"provider": "openai"})
    ledger.fold()
    return api


def test_a_program_is_told_as_it_was_described(changed):
    was = changed.get("/v1/programs/p", as_of=3)
    schemas.ProgramDetail.model_validate_json(was.content)
    program = was.json()
    assert (program["description"], program["tags"], program["versions"]) == ("old", ["a"], ["1.0.0"])
    assert (program["latest_version"], program["totals"]) == ("1.0.0", None)
    assert changed.items("/v1/programs", as_of=3, tag="b") == []
    assert [item["id"] for item in changed.items("/v1/programs", tag="b")] == ["p"]
    version = changed.get("/v1/programs/p/versions/1.0.0", as_of=3)
    schemas.VersionDetail.model_validate_json(version.content)
    assert (version.json()["state"], version.json()["totals"]) == ({"demos": []}, None)


def test_an_execution_had_no_version_before_its_registration(changed):
    path = "/v1/programs/executions/x"
    assert changed.get(path, as_of=3).json()["program_version"] is None
    assert changed.get(path, as_of=4).json()["program_version"] == "1.1.0"
    assert changed.items("/v1/programs/executions", as_of=3, version="1.1.0") == []
    assert changed.get(path, as_of=1).status_code == 404


def test_a_label_given_later_matches_nothing_whatever_else_is_asked_for(ledger, api):
    ledger.register("q")
    ledger.execute("x", "p", trace_id="t")
    ledger.register("p")
    ledger.fold()
    found = [api.items("/v1/programs/executions", version="1.0.0", trace_id="t", as_of=at) for at in (2, 3)]
    assert [len(items) for items in found] == [0, 1]


def test_an_evaluation_saved_again_was_what_it_was(changed):
    told = [
        [item["results"] for item in changed.items("/v1/programs/p/evaluations", as_of=at)]
        for at in (2, 4, 5)
    ]
    assert told == [[], [1], [2]]


def test_feedback_had_no_program_before_its_execution(ledger, api):
    ledger.register("p")
    ledger.evaluate("f", execution_id="x")
    ledger.execute("x")
    ledger.fold()
    path = "/v1/programs/p/evaluations"
    assert [len(api.items(path, as_of=at)) for at in (2, 3)] == [0, 1]


def test_models_are_those_named_by_then_and_the_models_file_has_no_past(changed, api_settings):
    api_settings.models_file.write_text("models: {new: {model_name: a/b}}")
    path = "/v1/programs/models"
    assert [model["model_id"] for model in changed.items(path)] == ["m", "n", "new"]
    assert [model["model_id"] for model in changed.items(path, as_of=6)] == ["m", "n"]
    assert [model["model_id"] for model in changed.items(path, as_of=5)] == ["m"]
    assert changed.items(path, as_of=1) == []


@pytest.mark.parametrize("path", ROUTES)
def test_every_answer_of_the_past_names_its_position_and_that_of_the_view(changed, path):
    answer = changed.get(path, as_of=4)
    assert (answer.status_code, answer.headers["ledger-as-of"]) == (200, "4")
    assert answer.headers["ledger-position"] == "6"
    assert "ledger-as-of" not in changed.get(path).headers


def test_a_time_stands_for_the_last_position_recorded_by_then():
    with tempfile.TemporaryDirectory() as name, empty_ledger(Path(name)) as (store, views, api):
        append(store, [execution("a", 1), execution("b", 2)])
        append(store, [execution("c", 3)])
        catch_up(store, views)
        for time, position in (
            *(("1999-01-01", 0), ("2026-11-22T10:00:59Z", 0), ("2026-11-22T10:01:00Z", 2)),
            *(("2026-11-22T10:01:59Z", 2), ("2026-11-22T12:02:00+02:00", 3), ("2026-11-22T10:09Z", 3)),
        ):
            answer = api.get("/v1/programs/executions", as_of=time)
            assert int(answer.headers["ledger-as-of"]) == position, time
            assert [item["position"] for item in answer.json()["items"]] == list(range(position, 0, -1))


@pytest.mark.parametrize("path", ["/v1/programs", "/v1/programs/executions/x"])
@pytest.mark.parametrize(
    ("as_of", "told"),
    [
        ("7", "the view is at position 6"),
        ("9" * 30, "the view is at position 6"),
        ("9" * 5000, "or a position of the ledger as 42"),
        ("2999-01-01", "lies in the future"),
        ("-1", "or a position of the ledger as 42"),
        ("1.5", "or a position of the ledger as 42"),
        ("yesterday", "write a time as 2026-11-22T10:00:00Z"),
        ("2026-11-22T10:00:00", "write a time as 2026-11-22T10:00:00Z"),
        ("2026-02-30", "write a time as 2026-11-22T10:00:00Z"),
        ("٣", "or a position of the ledger as 42"),
        ("", "write a time as 2026-11-22T10:00:00Z"),
    ],
)
def test_a_moment_that_is_none_or_not_there_yet_is_refused_with_what_to_give(changed, path, as_of, told):
    answer = changed.get(path, as_of=as_of)
    assert answer.status_code == 400, answer.text
    (error,) = answer.json()["errors"]
    assert error["parameter"] == "as_of"
    assert told in error["detail"]


def test_walking_the_past_gives_the_same_pages_whatever_arrives(ledger, api):
    ledger.register("p")
    for number in range(20):
        ledger.execute(f"x{number}", model_id=f"m{number:02d}")
        ledger.evaluate(f"e{number}", program_id="p")
    ledger.fold()
    position = ledger.store.last_position()
    fresh = iter(range(1000))

    def arrive():
        ledger.execute(f"late{next(fresh)}", model_id=f"a{next(fresh)}")
        ledger.evaluate(f"e{next(fresh) % 20}", program_id="p", results="again")
        ledger.register("p", description=f"said {next(fresh)}")
        ledger.fold()

    for path in LISTS:
        before = api.walk(path, limit=1000, as_of=position)
        assert api.walk(path, limit=3, between=arrive, as_of=position) == before


def test_a_cursor_of_one_moment_is_of_no_use_at_another(changed):
    path = "/v1/programs/executions"
    cursor = changed.get(path, limit=1, as_of=6).json()["next_cursor"]
    for as_of in ({}, {"as_of": 5}):
        answer = changed.get(path, limit=1, cursor=cursor, **as_of)
        assert (answer.status_code, "other filters" in answer.json()["detail"]) == (400, True)


def test_a_position_is_answered_without_the_store_and_a_time_needs_it(changed, api_settings):
    for file in api_settings.data_dir.glob("ledger.db*"):
        file.unlink()
    assert changed.get("/v1/programs", as_of=3).status_code == 200
    answer = changed.get("/v1/programs", as_of="2026-11-22")
    assert (answer.status_code, "event store" in answer.json()["detail"]) == (503, True)


def test_a_time_is_not_told_by_the_store_of_another_ledger(changed, api_settings):
    for file in api_settings.data_dir.glob("ledger.db*"):
        file.unlink()
    SqliteEventStore(api_settings.store_path).close()
    answer = changed.get("/v1/programs", as_of="2026-11-22")
    assert (answer.status_code, "two ledgers" in answer.json()["detail"]) == (503, True)


def test_a_time_whose_events_the_view_has_not_yet_is_asked_again_later(ledger, changed):
    ledger.execute("late")
    now = ledger.store.event_at(7).recorded_at
    answer = changed.get("/v1/programs", as_of=now)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    ledger.fold()
    assert changed.get("/v1/programs", as_of=now).headers["ledger-as-of"] == "7"


def test_what_was_not_there_then_is_a_404_that_names_what_was(changed):
    assert changed.get("/v1/programs/p", as_of=0).status_code == 404
    problem = changed.get("/v1/programs/p/versions/1.1.0", as_of=3).json()
    assert "known: 1.0.0" in problem["detail"]
    assert "1.1.0," not in problem["detail"]
