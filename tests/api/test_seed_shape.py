"""The routes that were there first keep their shape: what these tables name stays there, of that type.

A member may be added to an answer. One that stands here is never renamed, retyped or left out.
"""

from __future__ import annotations

from typing import Any

import pytest

STRING, TEXT = {"string"}, {"string", "null"}
NUMBER, INTEGER, COUNT, AMOUNT = {"number"}, {"integer"}, {"integer", "null"}, {"number", "null"}
ARRAY, BOOLEAN, OBJECT = {"array"}, {"boolean"}, {"object", "null"}
ANY = {"string", "number", "integer", "boolean", "array", "object", "null"}

PROGRAM = {
    "id": STRING,
    "name": STRING,
    "description": TEXT,
    "tags": ARRAY,
    "kind": STRING,
    "parent_id": TEXT,
    "parent_version": TEXT,
    "latest_version": TEXT,
    "created_at": STRING,
    "updated_at": STRING,
    "position": INTEGER,
}
VERSION = {
    "id": STRING,
    "version": STRING,
    "content_hash": STRING,
    "name": STRING,
    "description": TEXT,
    "tags": ARRAY,
    "kind": STRING,
    "parent_id": TEXT,
    "parent_version": TEXT,
    "optimizer": OBJECT,
    "class_name": TEXT,
    "module_path": TEXT,
    "code_hash": TEXT,
    "dspy_version": TEXT,
    "created_at": STRING,
    "event_id": STRING,
    "position": INTEGER,
}
EVALUATION = {
    "position": INTEGER,
    "evaluation_id": STRING,
    "program_id": TEXT,
    "program_version": TEXT,
    "content_hash": TEXT,
    "model_id": TEXT,
    "provider": TEXT,
    "base_model": TEXT,
    "metric_name": TEXT,
    "results": ANY,
    "dataset": OBJECT,
    "execution_id": TEXT,
    "user_id": TEXT,
    "event_id": STRING,
    "created_at": STRING,
}
EXECUTION = {
    "position": INTEGER,
    "execution_id": STRING,
    "program_id": STRING,
    "program_name": TEXT,
    "program_version": TEXT,
    "content_hash": TEXT,
    "model_id": TEXT,
    "provider": TEXT,
    "base_model": TEXT,
    "status": STRING,
    "error_type": TEXT,
    "error_message": TEXT,
    "started_at": STRING,
    "time": STRING,
    "latency_ms": NUMBER,
    "input_tokens": COUNT,
    "output_tokens": COUNT,
    "cost_usd": AMOUNT,
    "model_pinned": BOOLEAN,
    "trace_id": TEXT,
    "session_id": TEXT,
    "user_id": TEXT,
    "tags": ARRAY,
    "environment": TEXT,
    "service": TEXT,
    "release": TEXT,
}
MODEL = {
    "model_id": STRING,
    "provider": TEXT,
    "base_model": TEXT,
    "model_name": TEXT,
    "configured": BOOLEAN,
    "first_seen": TEXT,
    "last_seen": TEXT,
}
PAGE = {"items": ARRAY, "next_cursor": TEXT}

# Path, members of the answer, members of each item.
ROUTES = [
    ("/v1/programs", PAGE, PROGRAM),
    ("/v1/programs/{program_id}", {**PROGRAM, "versions": ARRAY, "totals": OBJECT}, None),
    ("/v1/programs/{program_id}/versions", PAGE, VERSION),
    ("/v1/programs/{program_id}/evaluations", PAGE, EVALUATION),
    ("/v1/programs/executions", PAGE, EXECUTION),
    ("/v1/programs/models", {**PAGE, "warnings": ARRAY}, MODEL),
]


def kind(value: object) -> str:
    """A value's JSON type; a number without a fraction counts as an integer."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def check(answer: dict[str, Any], members: dict[str, set[str]]) -> None:
    for name, kinds in members.items():
        wider = kinds | ({"integer"} if "number" in kinds else set())
        assert kind(answer[name]) in wider, name


def described(schema: dict[str, Any], schemas: dict[str, Any]) -> set[str]:
    """The JSON types that a schema lets through."""
    if "$ref" in schema:
        return described(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:
        return {each for part in schema["anyOf"] for each in described(part, schemas)}
    return {schema["type"]} if "type" in schema else ANY


def check_described(schema: dict[str, Any], members: dict[str, set[str]], schemas: dict[str, Any]) -> None:
    properties = schemas[schema["$ref"].rpartition("/")[2]]["properties"]
    for name, kinds in members.items():
        assert described(properties[name], schemas) == kinds, name


@pytest.fixture
def told(ledger, api):
    """Everything that an event may tell is told."""
    ledger.register(
        "p",
        description="d",
        tags=["t"],
        parent_id="q",
        parent_version="1.0.0",
        class_name="C",
        module_path="m",
        code_hash="c",
        dspy_version="3.4.1",
        optimizer={"name": "o"},
    )
    info = {"provider": "openai", "base_model": "gpt", "model_name": "openai/gpt"}
    ledger.execute(
        "x",
        program_name="P",
        model_id="gpt",
        model_info=info,
        status="error",
        error={"type": "E", "message": "m"},
        usage={"input_tokens": 1, "output_tokens": 2},
        cost_usd=0.5,
        model_pinned=True,
        trace_id="t",
        session_id="s",
        user_id="u",
        tags=["t"],
        context={"environment": "e", "service": "s", "release": "r"},
    )
    more = {"content_hash": "c1:00", "model_id": "gpt", "model_info": info, "metric_name": "accuracy"}
    ledger.evaluate("e", program_id="p", dataset={"name": "d"}, **more)
    ledger.evaluate("feedback", execution_id="x", user_id="u")
    ledger.fold()
    return api


@pytest.fixture
def bare(ledger, api):
    """Only what an event has to tell is told."""
    ledger.register("p")
    ledger.execute("x", model_id="gpt")
    ledger.evaluate("e", program_id="p", content_hash="c1:00")
    ledger.fold()
    return api


@pytest.mark.parametrize("data", ["told", "bare"])
@pytest.mark.parametrize(("path", "members", "item_members"), ROUTES, ids=[path for path, *_ in ROUTES])
def test_every_answer_has_the_members_that_clients_read(data, path, members, item_members, request):
    answer = request.getfixturevalue(data).get(path.format(program_id="p")).json()
    check(answer, members)
    if item_members is not None:
        assert answer["items"]
        for item in answer["items"]:
            check(item, item_members)


@pytest.mark.parametrize(("path", "members", "item_members"), ROUTES, ids=[path for path, *_ in ROUTES])
def test_the_openapi_document_describes_these_members_with_these_types(path, members, item_members, api):
    document = api.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    answer = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    check_described(answer, members, schemas)
    if item_members is not None:
        items = schemas[answer["$ref"].rpartition("/")[2]]["properties"]["items"]["items"]
        check_described(items, item_members, schemas)
