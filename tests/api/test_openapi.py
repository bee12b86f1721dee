"""The OpenAPI document says what the API does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from api.test_caching import FROM_ELSEWHERE, FROM_VIEW
from dspy_ledger import api as package
from dspy_ledger.api import schemas
from dspy_ledger.api.routes.examples import ANSWERS

PAGE = (Path(__file__).parents[2] / "docs" / "rest.md").read_text("utf-8")


@pytest.fixture
def document(api):
    return api.get("/openapi.json").json()


def test_the_package_exports_what_it_says():
    assert sorted(package.__all__) == ["create_app", "run_api"]
    assert all(callable(getattr(package, name)) for name in package.__all__)


def test_operation_ids_make_good_method_names(document):
    found = {
        operation["operationId"]: path
        for path, methods in document["paths"].items()
        for operation in methods.values()
    }
    assert found == {
        "list_programs": "/v1/programs",
        "list_models": "/v1/programs/models",
        "list_executions": "/v1/programs/executions",
        "get_execution": "/v1/programs/executions/{execution_id}",
        "get_program": "/v1/programs/{program_id}",
        "list_versions": "/v1/programs/{program_id}/versions",
        "get_version": "/v1/programs/{program_id}/versions/{version}",
        "list_evaluations": "/v1/programs/{program_id}/evaluations",
        "get_evaluation": "/v1/programs/{program_id}/evaluations/{evaluation_id}",
        "list_feedback": "/v1/programs/executions/{execution_id}/feedback",
        "get_program_tree": "/v1/programs/{program_id}/tree",
        "get_matrix": "/v1/programs/{program_id}/matrix",
        "diff_versions": "/v1/programs/{program_id}/diff",
        "get_stats": "/v1/stats",
        "list_events": "/v1/events",
        "stream_events": "/v1/events/stream",
        "list_producers": "/v1/producers",
        "list_dead_letters": "/v1/deadletters",
        "retry_dead_letter": "/v1/deadletters/{dead_letter_id}/retry",
        "drop_dead_letter": "/v1/deadletters/{dead_letter_id}/drop",
        "is_live": "/health/live",
        "is_ready": "/health/ready",
        "get_metrics": "/metrics",
    }


def test_every_answer_and_every_problem_is_described(document):
    for path, methods in document["paths"].items():
        (operation,) = methods.values()
        answers = dict(operation["responses"])
        assert "422" not in answers
        unchanged = answers.pop("304", None)
        if path == "/metrics":
            assert set(answers.pop("200")["content"]) == {"text/plain"}
        if path == "/v1/events/stream":
            assert set(answers["200"].pop("content")) == {"text/event-stream"}
            assert set(answers.pop("200")["headers"]) == {"Ledger-Position"}
        for status, answer in answers.items():
            is_success = status.startswith("2")
            kind = "application/json" if is_success else "application/problem+json"
            (content,) = answer["content"].items()
            assert content[0] == kind
            name = content[1]["schema"]["$ref"].rpartition("/")[2]
            assert name in document["components"]["schemas"]
            assert (name == "ProblemDetails") is not is_success
        headers = {"Ledger-Position", "Ledger-As-Of"} if path.startswith("/v1") else set()
        if unchanged is not None:
            headers.add("ETag")
            assert (set(unchanged["headers"]), "content" in unchanged) == (headers, False)
        assert "200" not in answers or set(answers["200"].get("headers", {})) == headers


def test_filters_are_described_with_their_kinds(document):
    parameters = {
        each["name"]: each
        for each in document["paths"]["/v1/programs/executions"]["get"]["parameters"]
        if each["in"] == "query"
    }
    assert list(parameters) == [
        *("as_of", "limit", "cursor", "fields", "program_id", "version", "model_id", "status", "trace_id"),
        *("session_id", "user_id", "environment", "service", "release", "tag", "min_latency_ms"),
        *("since", "until"),
    ]
    assert parameters["status"]["schema"]["enum"] == ["ok", "error"]
    assert parameters["limit"]["schema"] == {
        "type": "integer", "minimum": 1, "maximum": 1000, "default": 100, "title": "Limit",
    }  # fmt: skip
    tag = next(
        each for each in document["paths"]["/v1/programs"]["get"]["parameters"] if each["name"] == "tag"
    )
    assert tag["schema"]["type"] == "array"


def test_every_question_may_say_what_it_must_not_miss(document):
    for path, methods in document["paths"].items():
        (method, operation), *_ = methods.items()
        headers = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "header"}
        is_question = method == "get" and path.startswith("/v1/")
        expected = {"Ledger-Min-Event", "Ledger-Min-Position"} if is_question else set()
        assert headers - {"Last-Event-ID", "If-None-Match"} == expected, path


def test_what_comes_from_the_view_alone_is_described_with_its_tag(document):
    """The document knew of no ETag, no If-None-Match and no 304."""
    answered = {}
    for path, methods in document["paths"].items():
        (operation,) = methods.values()
        takes = "If-None-Match" in {each["name"] for each in operation.get("parameters", ())}
        assert takes == ("304" in operation["responses"]) == ("ETag" in str(operation["responses"])), path
        answered[path] = takes
    examples = {"program_id": "p", "execution_id": "x", "version": "1.0.0", "evaluation_id": "e"}
    for asked in (*FROM_VIEW, *FROM_ELSEWHERE):
        plain = asked.partition("?")[0]
        path = next(path for path in answered if path.format(**examples, dead_letter_id=1) == plain)
        assert answered[path] is (asked in FROM_VIEW), path


def test_items_of_lists_that_take_fields_have_no_member_that_must_be_there(document):
    """A page of the members that were asked for was not what the document said of it."""
    shapes = document["components"]["schemas"]
    for name in ("Program", "Version", "Execution", "Evaluation", "Model", "Producer", "DeadLetter"):
        assert "required" not in shapes[name]
    for name in ("ProgramDetail", "ExecutionDetail", "EvaluationDetail", "Event"):
        assert shapes[name]["required"]


def test_every_answer_has_an_example_of_its_shape_with_all_members(document):
    seen = set()
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                content = answer.get("content", {})
                if not status.startswith("2") or "application/json" not in content:
                    continue
                name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
                example = content["application/json"]["example"]
                shape = getattr(schemas, name)
                told = shape.model_validate_json(json.dumps(example)).model_dump(by_alias=True, mode="json")
                assert unset(told) == unset(example), name
                seen.add(name)
    assert seen == set(ANSWERS)


def unset(value):
    """JSON without an event's body, the one member that is left out unless it is asked for."""
    match value:
        case dict():
            return {key: unset(each) for key, each in value.items() if (key, each) != ("body", None)}
        case list():
            return [unset(each) for each in value]
        case _:
            return value


def test_every_problem_that_a_path_names_has_an_example(document):
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if status.startswith(("4", "5")):
                    problem = answer["content"]["application/problem+json"]["example"]
                    schemas.ProblemDetails.model_validate(problem)
                    assert str(problem["status"]) == status, path
                    assert "{" not in problem["instance"], path


def test_every_id_in_a_path_has_an_example(document):
    for path, methods in document["paths"].items():
        for operation in methods.values():
            told = {each["name"] for each in operation.get("parameters", ()) if "example" in each}
            assert set(re.findall(r"{(\w+)}", path)) <= told, path


def test_no_page_loads_anything_from_elsewhere(api):
    assert api.get("/docs").status_code == api.get("/redoc").status_code == 404


# docs/rest.md


def test_the_page_lists_every_path_with_its_filters(document):
    told = dict(re.findall(r"^\| `(?:GET|POST) (\S+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert set(told) == set(document["paths"])
    for path, methods in document["paths"].items():
        (operation,) = methods.values()
        named = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"}
        *_, filters = re.split("filters?|takes", told[path], maxsplit=1)
        taken = set(re.findall(r"`(\w+)`", filters)) if filters != told[path] else set()
        assert taken == named - {"as_of", "limit", "cursor", "fields"}, path


def test_the_answers_on_the_page_are_whole_and_of_the_shape_that_is_described():
    program, execution, evaluation, problem = re.findall(
        r"^```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE
    )
    for model, example in (
        (schemas.ProgramDetail, program),
        (schemas.ExecutionDetail, execution),
        (schemas.Evaluation, evaluation),
    ):
        model.model_validate_json(example)
        assert list(json.loads(example)) == list(model.model_fields)
    schemas.ProblemDetails.model_validate_json(problem)
