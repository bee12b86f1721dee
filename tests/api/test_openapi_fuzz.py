"""Whatever is asked, by the OpenAPI document or against it, is answered as the document says.

uv run pytest tests/api/test_openapi_fuzz.py --hypothesis-profile=long
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dspy_ledger.api import consistency
from dspy_ledger.keyring import Keyring
from dspy_ledger.store import DeadLetter

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ENDLESS = {"/v1/events/stream"}  # never ends by itself, so no answer of it is ever whole

# Of each operation as many as this, in each test.
EXAMPLES = max(settings.default.max_examples // 6, 10)


def fill(ledger) -> None:
    """Something of every kind that the paths answer from."""
    fields = {"inputs": [{"name": "q", "type": "str"}], "outputs": [{"name": "a", "type": "str"}]}
    ledger.register("p", tags=["text"], interface=fields, state={"state": {}})
    ledger.register("p", "1.1.0", "c1:01", parent_id="p", parent_version="1.0.0", kind="module")
    ledger.register("日本 語/..", content_hash="c1:02")
    ledger.execute(
        "x1",
        model_id="openai/gpt",
        usage={"input_tokens": 3, "output_tokens": 4},
        cost_usd=0.25,
        trace_id="t",
        body={"inputs": {"q": 1}, "outputs": {"a": [2]}, "calls": []},
    )
    ledger.execute("x2", status="error", error={"type": "E", "message": "m"}, content_hash="c1:later")
    ledger.evaluate("e/1", program_id="p", content_hash="c1:00", model_id="openai/gpt")
    ledger.evaluate("f", execution_id="x1", results={"score": 1, "text": "ok", "nested": {"n": [1]}})
    letter = DeadLetter("9-0", "unknown-type", "why", b"{}", "digest", "/producers/a", 99)
    ledger.store.append([], dead_letters=[letter])
    ledger.fold()


KNOWN = {
    "program_id": ["p", "日本 語/.."],
    "version": ["1.0.0", "1.1.0", "latest"],
    "from": ["1.0.0"],
    "to": ["1.1.0"],
    "execution_id": ["x1", "x2"],
    "evaluation_id": ["e/1", "f"],
    "model_id": ["openai/gpt"],
    "metric": ["accuracy", "score"],
    "as_of": ["0", "4", "7", "2026-11-22"],
    "since": ["2026-11-22", "2026-11-22T12:00:00Z"],
    "limit": [1, 2],
    "fields": ["position", "id", "execution_id,status", "version,tags", "evaluation_id,results", "source"],
    "dead_letter_id": [1],
    "Ledger-Min-Position": ["1"],
    "Ledger-Min-Event": ["event-1"],
}
AS_DRAWN, LEFT_OUT = object(), object()


@pytest.fixture
def filled(ledger, api, monkeypatch):
    fill(ledger)
    monkeypatch.setattr(consistency, "_PATIENCE", 0.01)  # most positions asked for will never come
    return api


def operations(api) -> list[schemathesis.APIOperation]:
    document = api.app.openapi()
    found = [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]
    return [operation for operation in found if operation.path not in ENDLESS]


def check(
    api, operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode, **headers: str
) -> set[int]:
    """Ask this operation many times, hold every answer against the document, and tell their statuses."""
    statuses = set()
    choices = {}
    tag = api.request(method="GET", url="/v1/programs", headers=headers).headers.get("etag")
    known = {**KNOWN, **({"If-None-Match": [tag]} if tag else {})}  # all answers of one position share it
    for place in ("path_parameters", "query", "headers"):
        for part in getattr(operation, place):
            others = [LEFT_OUT] if place != "path_parameters" and not part.is_required else []
            among = [AS_DRAWN, *others, *known.get(part.name, ())]
            choices[place, part.name] = st.sampled_from(among)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(mode), chosen=st.fixed_dictionaries(choices))
    def ask(case: schemathesis.Case, chosen: dict[tuple[str, str], Any]) -> None:
        for (place, name), value in chosen.items():
            if value is LEFT_OUT:
                getattr(case, place).pop(name, None)
            elif value is not AS_DRAWN:
                getattr(case, place)[name] = value
        asked = case.as_transport_kwargs(base_url="http://127.0.0.1", headers=headers)
        asked.pop("cookies", None)  # HTTPX keeps them elsewhere, and no path takes one
        # HTTPX sends no other text than ASCII by itself.
        asked["headers"] = [(name, value.encode("latin-1")) for name, value in asked["headers"].items()]
        answer = api.request(**asked)
        statuses.add(answer.status_code)
        # One that has to wait says so with 503; no other error is the server's to make.
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        case.validate_response(answer, checks=CHECKS)

    ask()
    return statuses


def test_what_is_asked_by_the_document_is_answered_by_it(filled):
    found = [
        check(filled, operation, schemathesis.GenerationMode.POSITIVE) for operation in operations(filled)
    ]
    assert sum(200 in statuses for statuses in found) > len(found) // 2


def test_what_is_asked_against_the_document_is_answered_by_it(filled):
    for operation in operations(filled):
        if operation.query or operation.body:  # else it takes nothing but any text
            check(filled, operation, schemathesis.GenerationMode.NEGATIVE)


@pytest.mark.parametrize("scope", ["read", "admin"])
def test_what_is_asked_without_a_key_or_with_one_is_answered_by_the_document(filled, ledger, scope):
    key, _ = Keyring(ledger.settings.data_dir).create("fuzz", scope)
    for operation in operations(filled):
        statuses = check(filled, operation, schemathesis.GenerationMode.POSITIVE)
        assert statuses == {401} or operation.path.startswith("/health/")
        with_key = {"Authorization": f"Bearer {key}"}
        statuses = check(filled, operation, schemathesis.GenerationMode.POSITIVE, **with_key)
        assert 401 not in statuses
        assert (403 in statuses) == (scope == "read" and operation.method == "post")
