"""A program's evaluations, its own and the feedback on its executions."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from api.conftest import NOON
from api.test_errors import check_problem
from dspy_ledger.api import schemas
from dspy_ledger.api.queries.evaluations import one_evaluation

PATH = "/v1/programs/p/evaluations"


def test_evaluations_are_newest_first_with_label_results_and_dataset(ledger, api):
    ledger.register("p")
    dataset = {"name": "dev", "size": 2, "digest": "sha256:0"}
    ledger.evaluate("e1", program_id="p", content_hash="c1:00", model_id="gpt", dataset=dataset)
    ledger.evaluate("e2", program_id="p", content_hash="c1:99", results=[1, {"deep": None}])
    ledger.evaluate("other", program_id="q")
    ledger.fold()
    answer = api.get(PATH)
    schemas.EvaluationPage.model_validate_json(answer.content)
    second, first = answer.json()["items"]
    assert (first["evaluation_id"], first["program_version"], first["dataset"]) == ("e1", "1.0.0", dataset)
    assert (second["program_version"], second["dataset"]) == (None, None)
    assert second["results"] == [1, {"deep": None}]


def test_feedback_belongs_to_the_program_version_and_model_of_its_execution(ledger, api):
    ledger.register("p")
    ledger.evaluate("f1", execution_id="x1")  # came before its execution
    ledger.execute("x1", model_id="gpt", model_info={"provider": "openai", "base_model": "gpt"})
    ledger.execute("x2", "q")
    ledger.evaluate("f2", execution_id="x2")
    ledger.evaluate("f3", execution_id="nowhere")
    ledger.fold()
    (item,) = api.items(PATH)
    assert (item["evaluation_id"], item["program_id"], item["program_version"]) == ("f1", "p", "1.0.0")
    assert (item["model_id"], item["provider"], item["content_hash"]) == ("gpt", "openai", "c1:00")
    assert api.items(PATH, version="1.0.0", model_id="gpt") == [item]
    assert api.items(PATH, model_id="other") == []


def test_an_evaluation_saved_again_is_listed_once_as_it_is_now(ledger, api):
    ledger.register("p")
    for accuracy in (0.1, 0.9):
        ledger.evaluate("e", program_id="p", model_id="gpt", results={"accuracy": accuracy})
    ledger.fold()
    assert [item["results"] for item in api.items(PATH)] == [{"accuracy": 0.9}]


def test_one_evaluation_comes_with_its_scores_and_rows(ledger, api):
    ledger.register("p")
    body = {"scores": [1, 0], "rows": [{"score": 1, "inputs": {"q": "?"}}, {"score": 0}]}
    fields = {"program_id": "p", "content_hash": "c1:00", "results": {"score": 50}, "created_at": NOON}
    for model_id in ("a", "b"):
        evaluation = {"evaluation_id": "e/1", "model_id": model_id, **fields}
        ledger.append("EvaluationSaved", evaluation, body=body if model_id == "a" else None)
    ledger.evaluate("f", execution_id="x")
    ledger.execute("x", model_id="a")
    ledger.fold()
    answer = api.get(f"{PATH}/e%2F1", model_id="a")
    schemas.EvaluationDetail.model_validate_json(answer.content)
    found = answer.json()
    assert {name: found[name] for name in body} == body
    (listed,) = api.items(PATH, model_id="a", version="1.0.0")[1:]
    assert {name: found[name] for name in listed} == listed
    newest = api.get(f"{PATH}/e%2F1").json()
    assert (newest["model_id"], newest["rows"], newest["scores"]) == ("b", None, None)
    assert api.get(f"{PATH}/e%2F1", as_of=2).json()["model_id"] == "a"
    assert api.get(f"{PATH}/f").json()["execution_id"] == "x"
    assert api.get(f"{PATH}/f", model_id="a").status_code == 200
    assert api.get(f"{PATH}/f", as_of=4).status_code == 404


@pytest.mark.parametrize("body", [[1], "text", 7, {}])
def test_a_body_of_another_producer_has_no_rows(ledger, api, body):
    ledger.register("p")
    fields = {"evaluation_id": "e", "program_id": "p", "results": 1, "created_at": NOON}
    ledger.append("EvaluationSaved", fields, body=body)
    ledger.fold()
    found = api.get(f"{PATH}/e").json()
    assert (found["scores"], found["rows"]) == (None, None)


@pytest.mark.parametrize("path", [f"{PATH}/none", f"{PATH}/e?model_id=none", "/v1/programs/q/evaluations/e"])
def test_an_evaluation_that_is_not_there_is_a_404(ledger, api, path):
    ledger.register("p")
    ledger.evaluate("e", program_id="p", model_id="m")
    ledger.fold()
    problem = check_problem(api.get(path), 404)
    assert problem["type"].endswith("unknown-program" if "/q/" in path else "unknown-evaluation")


@pytest.mark.parametrize("asked", [{}, {"as_of": 2}])
def test_one_evaluation_is_found_without_reading_all_of_them(ledger, api, asked):
    ledger.register("p")
    ledger.evaluate("e", program_id="p")
    ledger.fold()
    with api.app.state.sources.question() as question:
        at = replace(question, as_of=asked.get("as_of"))
        told: list[str] = []
        question.db.set_trace_callback(told.append)
        one_evaluation(at, "p", "e", None)
        question.db.set_trace_callback(None)
        plan = [row["detail"] for sql in told for row in question.db.execute(f"EXPLAIN QUERY PLAN {sql}")]
    used = [line for line in plan if line.startswith(("SEARCH ev", "SCAN ev"))]
    assert used
    assert all("SEARCH" in line for line in used)
    if not asked:
        assert all("evaluations_by_id" in line for line in used), used


@pytest.mark.parametrize("version", [None, "1.0.0", "1.1.0", "7.0.0"])
@pytest.mark.parametrize("model_id", [None, "a", "b", "none"])
def test_filters_find_what_a_plain_filter_finds(plenty, version, model_id):
    api, facts = plenty
    wanted = [
        evaluation_id
        for evaluation_id, program_id, label, model in reversed(facts)
        if program_id == "p" and version in (None, label) and model_id in (None, model)
    ]
    filters = {"version": version, "model_id": model_id}
    filters = {name: value for name, value in filters.items() if value is not None}
    for limit in (1000, 7):
        found = api.walk(PATH, limit=limit, **filters)
        assert [item["evaluation_id"] for item in found] == wanted


@pytest.fixture(scope="module")
def plenty(make_ledger_and_api):
    ledger, api = make_ledger_and_api()
    chance = random.Random(3)
    labels = {"c1:00": "1.0.0", "c1:01": "1.1.0"}
    for content_hash, label in labels.items():
        ledger.register("p", label, content_hash)
    ran = {}
    for number in range(30):
        ran[f"x{number}"] = chance.choice("pq"), chance.choice(("c1:00", "c1:01", None)), chance.choice("ab")
        program_id, content_hash, model_id = ran[f"x{number}"]
        ledger.execute(f"x{number}", program_id, content_hash=content_hash, model_id=model_id)
    facts = []
    for number in range(120):
        if chance.random() < 0.5:
            execution_id = chance.choice(list(ran))
            program_id, content_hash, model_id = ran[execution_id]
            ledger.evaluate(f"e{number}", execution_id=execution_id)
        else:
            program_id, content_hash = chance.choice("pq"), chance.choice(("c1:00", "c1:01", "c1:02", None))
            model_id = chance.choice(("a", "b", None))
            ledger.evaluate(f"e{number}", program_id=program_id, content_hash=content_hash, model_id=model_id)
        facts.append((f"e{number}", program_id, labels.get(content_hash), model_id))
    ledger.fold()
    return api, facts


def test_walking_gives_each_evaluation_once_while_new_ones_arrive(ledger, api):
    ledger.register("p")
    ledger.execute("x")
    before = []
    for number in range(20):
        before.append(f"e{number}")
        if number % 2:
            ledger.evaluate(f"e{number}", program_id="p")
        else:
            ledger.evaluate(f"e{number}", execution_id="x")
    ledger.fold()
    fresh = iter(range(100))

    def arrive():
        ledger.evaluate(f"new{next(fresh)}", program_id="p")
        ledger.evaluate(f"new{next(fresh)}", execution_id="x")
        ledger.fold()

    found = [item["evaluation_id"] for item in api.walk(PATH, limit=3, between=arrive)]
    assert found == before[::-1]
