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

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ENDLESS = {"/v1/events/stream"}  # never ends by itself, so no answer of it is ever whole

# Of each path as many as this, half of them by the document and half against it.
EXAMPLES = max(settings.default.max_examples // 4, 10)


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
}


@pytest.fixture(scope="module")
def filled(make_ledger_and_api):
    ledger, api = make_ledger_and_api()
    fill(ledger)
    return api


def operations(api) -> list[schemathesis.APIOperation]:
    document = api.get("/openapi.json").json()
    found = [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]
    return [operation for operation in found if operation.path not in ENDLESS]


def check(api, operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode) -> None:
    """Ask this operation many times, and hold every answer against the document."""
    places = [(operation.path_parameters, "path_parameters"), (operation.query, "query")]
    known = {
        (place, part.name): st.none() | st.sampled_from(KNOWN[part.name])
        for parts, place in places
        for part in parts
        if part.name in KNOWN
    }

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(mode), known=st.fixed_dictionaries(known))
    def ask(case: schemathesis.Case, known: dict[tuple[str, str], Any]) -> None:
        for (place, name), value in known.items():
            if value is not None:
                getattr(case, place)[name] = value
        asked = case.as_transport_kwargs(base_url="http://api")
        asked.pop("cookies", None)  # HTTPX keeps them elsewhere, and no path takes one
        answer = api.request(**asked)
        # One that has to wait says so with 503; no other error is the server's to make.
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        case.validate_response(answer, checks=CHECKS)

    ask()


@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
def test_every_answer_is_as_described(filled, mode):
    for operation in operations(filled):
        # What takes nothing can't be asked wrongly.
        if mode.is_positive or any(operation.iter_parameters()) or operation.body:
            check(filled, operation, mode)
