"""An example of every answer, problem and value in a path, for the OpenAPI document: one small ledger."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Final

__all__ = ["ANSWERS", "PARAMETERS", "with_examples"]

Json = dict[str, Any]

_BEFORE: Final = "c1:5d8fb9ddc2d51cb31b1e0ab6b51cf53a0b94dbcd35ed0e7ac2d5a8a0a7ac4f05"
_HASH: Final = "c1:173741cd580819454f8f91c4d84c6047f73acfa4c495862b626745e3dad5aa81"
_EXECUTION_ID: Final = "01a2062f-54e9-7634-8290-4d79f540e0e6"
_SOURCE: Final = "/producers/llm-1/4711-c0cc823911d3"
_BORN: Final = "2026-11-22T09:58:12.400311Z"
_OPTIMIZED: Final = "2026-11-22T09:59:40.090871Z"
_ENDED: Final = "2026-11-22T10:00:00.123456Z"
_STORED: Final = "2026-11-22T10:00:00.131002Z"
_EVALUATED: Final = "2026-11-22T10:01:52.700100Z"
_INSTRUCTIONS: Final = "Complete the text."
_DEMO: Final[Json] = {"input": "What is played in an orchestra?", "output": "a symphony"}

_TOTALS: Final[Json] = {
    "executions": 1,
    "errors": 0,
    "input_tokens": 112,
    "output_tokens": 9,
    "cost_usd": 2.22e-05,
    "input_known": 1,
    "output_known": 1,
    "cost_known": 1,
    "mean_latency_ms": 38.546,
}
_NUMBERS: Final[Json] = {
    **_TOTALS,
    "p50_latency_ms": 38.5,
    "p95_latency_ms": 38.5,
    "p99_latency_ms": 38.5,
    "error_rate": 0.0,
}
_BUCKET: Final[Json] = {"start": "2026-11-22T00:00:00.000000Z", **_NUMBERS}
_PROGRAM: Final[Json] = {
    "id": "text_completion",
    "name": "Text Completion",
    "description": "Basic text completion signature",
    "tags": ["text", "completion"],
    "kind": "signature",
    "parent_id": None,
    "parent_version": None,
    "latest_version": "1.1.0",
    "created_at": _BORN,
    "updated_at": _OPTIMIZED,
    "position": 1,
}
_VERSION: Final[Json] = {
    "id": "text_completion",
    "version": "1.1.0",
    "content_hash": _HASH,
    "name": "Text Completion",
    "description": "Basic text completion signature",
    "tags": ["text", "completion"],
    "kind": "optimized",
    "parent_id": "text_completion",
    "parent_version": "1.0.0",
    "optimizer": {"name": "BootstrapFewShot", "max_bootstrapped_demos": 1},
    "class_name": "TextCompletion",
    "module_path": "server.programs",
    "code_hash": None,
    "dspy_version": "3.4.1",
    "created_at": _OPTIMIZED,
    "event_id": "01a2062f-0693-7b0c-9d2e-3fa1a7b6c5d4",
    "position": 2,
}
_FIELDS: Final[Json] = {
    "inputs": [{"name": "input", "type": "str", "required": True}],
    "outputs": [{"name": "output", "type": "str"}],
}
_EXECUTION: Final[Json] = {
    "position": 3,
    "execution_id": _EXECUTION_ID,
    "program_id": "text_completion",
    "program_name": "Text Completion",
    "program_version": "1.1.0",
    "content_hash": _HASH,
    "model_id": "gpt-4o-mini",
    "provider": "openai",
    "base_model": "gpt-4o-mini",
    "status": "ok",
    "error_type": None,
    "error_message": None,
    "started_at": "2026-11-22T10:00:00.084130Z",
    "time": _ENDED,
    "latency_ms": 38.546,
    "input_tokens": 112,
    "output_tokens": 9,
    "cost_usd": 2.22e-05,
    "model_pinned": False,
    "trace_id": None,
    "session_id": "chat-17",
    "user_id": None,
    "tags": [],
    "environment": "production",
    "service": "llm-server",
    "release": "2026.11.3",
}
_EVALUATION: Final[Json] = {
    "position": 4,
    "evaluation_id": "nightly",
    "program_id": "text_completion",
    "program_version": "1.1.0",
    "content_hash": _HASH,
    "model_id": "gpt-4o-mini",
    "provider": "openai",
    "base_model": "gpt-4o-mini",
    "metric_name": "accuracy",
    "results": {"accuracy": 0.92},
    "dataset": {"name": "dev", "size": 50},
    "execution_id": None,
    "user_id": None,
    "event_id": "01a20631-0c3d-7e02-b1a5-6a1f6f0f2d11",
    "created_at": _EVALUATED,
}
_FEEDBACK: Final[Json] = {
    **_EVALUATION,
    "position": 5,
    "evaluation_id": "01a20633-5c11-7d7f-8a52-0d6f3b1c9e77",
    "metric_name": "thumbs",
    "results": {"thumbs": 1},
    "dataset": None,
    "execution_id": _EXECUTION_ID,
    "user_id": "ada",
    "event_id": "01a20633-5c11-7d7f-8a52-0d6f3b1c9e77",
    "created_at": "2026-11-22T10:04:24.337000Z",
}
_MEASURED: Final[Json] = {
    "value": 0.92,
    "evaluation_id": "nightly",
    "position": 4,
    "created_at": _EVALUATED,
}
_EVENT: Final[Json] = {
    "position": 3,
    "recorded_at": _STORED,
    "program_version": "1.1.0",
    "event": {
        "specversion": "1.0",
        "id": _EXECUTION_ID,
        "source": _SOURCE,
        "type": "org.dspy-ledger.ExecutionCompleted.v1",
        "time": _ENDED,
        "sequence": "42",
        "data": {"program_id": "text_completion", "content_hash": _HASH, "status": "ok"},
    },
}


def _tree(version: str, content: str, **more: Any) -> Json:
    return {
        "version": version,
        "content_hash": content,
        "parent_id": None,
        "parent_version": None,
        "kind": "signature",
        "optimizer": None,
        "created_at": _BORN,
        "children": [],
        "derived": [],
        **more,
    }


def _side(version: str, content: str, position: int, created_at: str) -> Json:
    return {
        "version": version,
        "content_hash": content,
        "position": position,
        "created_at": created_at,
        "has_state": True,
    }


def _page(item: Json, **more: Any) -> Json:
    return {"items": [item], "next_cursor": None, **more}


ANSWERS: Final[dict[str, Json]] = {
    "ProgramPage": _page(_PROGRAM),
    "ProgramDetail": {**_PROGRAM, "versions": ["1.0.0", "1.1.0"], "totals": _TOTALS},
    "VersionPage": _page(_VERSION),
    "VersionDetail": {
        **_VERSION,
        "proposed": "1.1.0",
        "signature": {"instructions": _INSTRUCTIONS, **_FIELDS},
        "interface": _FIELDS,
        "source_code": None,
        "state": {"parameters": [{"path": "self", "instructions": _INSTRUCTIONS, "demos": [_DEMO]}]},
        "totals": [{"model_id": "gpt-4o-mini", **_TOTALS}],
    },
    "ProgramTree": {
        "id": "text_completion",
        "name": "Text Completion",
        "parent": None,
        "versions": [
            _tree(
                "1.0.0",
                _BEFORE,
                children=[
                    _tree(
                        "1.1.0",
                        _HASH,
                        parent_id="text_completion",
                        parent_version="1.0.0",
                        kind="optimized",
                        optimizer="BootstrapFewShot",
                        created_at=_OPTIMIZED,
                    )
                ],
            )
        ],
        "derived": [],
    },
    "ExecutionPage": _page(_EXECUTION),
    "ExecutionDetail": {
        **_EXECUTION,
        "model_info": {"provider": "openai", "base_model": "gpt-4o-mini", "model_name": "openai/gpt-4o-mini"},
        "models": ["gpt-4o-mini"],
        "error": None,
        "time_to_first_chunk_ms": None,
        "usage": {"input_tokens": 112, "output_tokens": 9, "total_tokens": 121},
        "call_counts": {"lm": 1},
        "metadata": {},
        "truncated": [],
        "adapter": "ChatAdapter",
        "dspy_version": "3.4.1",
        "event_id": _EXECUTION_ID,
        "source": _SOURCE,
        "sequence": 42,
        "recorded_at": _STORED,
        "inputs": {"input": "What is sung on a stage?"},
        "outputs": {"output": "an opera"},
        "calls": [{"kind": "lm", "name": "LM", "parent": None, "start_ms": 1.2, "duration_ms": 35.9}],
        "feedback": [_FEEDBACK],
        "feedback_count": 1,
    },
    "EvaluationPage": _page(_EVALUATION),
    "EvaluationDetail": {
        **_EVALUATION,
        "truncated": [],
        "source": _SOURCE,
        "sequence": 43,
        "recorded_at": _EVALUATED,
        "scores": [1.0, 0.0],
        "rows": [{"example": {"input": "What is sung on a stage?"}, "prediction": {"output": "an opera"}}],
    },
    "Matrix": {
        "program_id": "text_completion",
        "metric": "accuracy",
        "metrics": [{"name": "accuracy", "evaluations": 1}],
        "versions": ["1.0.0", "1.1.0"],
        "models": ["gpt-4o-mini"],
        "cells": [
            {
                "version": "1.1.0",
                "model_id": "gpt-4o-mini",
                "evaluations": 1,
                "latest": _MEASURED,
                "best": _MEASURED,
                "totals": _TOTALS,
            }
        ],
    },
    "Differences": {
        "program_id": "text_completion",
        "from": _side("1.0.0", _BEFORE, 1, _BORN),
        "to": _side("1.1.0", _HASH, 2, _OPTIMIZED),
        "verdict": "minor",
        "interface": {"change": "none", "inputs": [], "outputs": []},
        "predictors": [
            {
                "path": "self",
                "change": "changed",
                "instructions": {"changed": False, "lines": [{"tag": "equal", "text": _INSTRUCTIONS}]},
                "inputs": [],
                "outputs": [],
                "config": [],
                "demos": {
                    "from": 0,
                    "to": 1,
                    "kept": 0,
                    "reordered": False,
                    "removed": [],
                    "added": [_DEMO],
                },
                "settings": [],
            }
        ],
        "modules": [],
        "source_code": None,
        "facts": [{"name": "kind", "change": "changed", "from": "signature", "to": "optimized"}],
    },
    "Stats": {
        "since": "2026-11-22T00:00:00.000000Z",
        "until": "2026-11-23T00:00:00.000000Z",
        "bucket": "day",
        "group_by": "version",
        "totals": _NUMBERS,
        "buckets": [_BUCKET],
        "groups": [{"group": {"version": "1.1.0"}, "totals": _NUMBERS, "buckets": [_BUCKET]}],
    },
    "ModelPage": _page(
        {
            "model_id": "gpt-4o-mini",
            "provider": "openai",
            "base_model": "gpt-4o-mini",
            "model_name": "openai/gpt-4o-mini",
            "configured": True,
            "first_seen": _ENDED,
            "last_seen": _EVALUATED,
        },
        warnings=[],
    ),
    "ProducerPage": _page(
        {
            "source": _SOURCE,
            "recorded": 45,
            "stored": 43,
            "dead_lettered": 0,
            "dropped": [[7, 8]],
            "unconfirmed": [],
            "sampled_out": 0,
            "missing": [],
            "stored_mark": 45,
            "first_seen": _BORN,
            "last_seen": _EVALUATED,
        }
    ),
    "EventPage": _page(_EVENT, last_position=5),
    "DeadLetterPage": _page(
        {
            "id": 42,
            "recorded_at": _STORED,
            "stream_id": "1795341600131-0",
            "source": None,
            "sequence": None,
            "reason": "not-json",
            "detail": "event: not JSON: unexpected end of data",
        }
    ),
    "Retried": {"stored": 1, "duplicates": 0, "left": 0},
    "Dropped": {"dropped": 1},
    "Asked": {"request": 7},
    "Live": {"status": "live"},
    "Ready": {"status": "ready", "position": 5},
}
"""A success by the name of its shape."""

PARAMETERS: Final[dict[str, Any]] = {
    "program_id": "text_completion",
    "version": "1.1.0",
    "execution_id": _EXECUTION_ID,
    "evaluation_id": "nightly",
    "dead_letter_id": 42,
    "model_id": "gpt-4o-mini",
    "from": "1.0.0",
    "to": "1.1.0",
    "metric": "accuracy",
    "environment": "production",
    "since": "2026-11-22",
}
"""A value by the name of the parameter."""

_PROBLEMS: Final[dict[str, tuple[str, str]]] = {
    "400": ("bad-parameter", "modle_id: unknown parameter; did you mean model_id?"),
    "401": ("key", "a key is needed; send it as `Authorization: Bearer <key>`"),
    "403": ("scope", "the key is for reading only; this needs one of scope admin"),
    "503": ("not-ready", "by then position 5 was recorded, and the view is at 4; ask again"),
}
_UNKNOWN: Final[dict[str, tuple[str, str]]] = {
    "program_id": ("unknown-program", "unknown program 'text_completion' (known: qa); register it first"),
    "version": ("unknown-version", "program 'text_completion' has no version '1.1.0' (known: 1.0.0)"),
    "evaluation_id": (
        "unknown-evaluation",
        "program 'text_completion' has no evaluation 'nightly'; if it was just saved, ask again in a moment",
    ),
    "execution_id": (
        "unknown-execution",
        f"unknown execution '{_EXECUTION_ID}'; if it just ended, ask again in a moment",
    ),
    "dead_letter_id": ("not-found", "there is no dead letter 42; GET /v1/deadletters lists those there are"),
}
_NAME = re.compile(r"{(\w+)}")


def with_examples(document: Json) -> Json:
    """An OpenAPI document in which every success, every problem and what stands in a path has an example."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in PARAMETERS:
                    parameter["example"] = PARAMETERS[parameter["name"]]
            for status, response in operation["responses"].items():
                if "content" in response:
                    response["content"] = {
                        kind: {**content, **_example(path, status, content)}
                        for kind, content in response["content"].items()
                    }
    return document


def _example(path: str, status: str, content: Json) -> Json:
    shape = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    if shape in ANSWERS:
        return {"example": ANSWERS[shape]}
    names = _NAME.findall(path)
    word, detail = _UNKNOWN[names[-1]] if status == "404" and names else _PROBLEMS.get(status, (None, None))
    if word is None:
        return {}
    return {
        "example": {
            "type": f"urn:dspy-ledger:problem:{word}",
            "title": HTTPStatus(int(status)).phrase,
            "status": int(status),
            "detail": detail,
            "instance": _NAME.sub(lambda name: str(PARAMETERS[name[1]]), path),
        }
    }
