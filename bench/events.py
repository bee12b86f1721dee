"""Stream entries of the usual kinds: 95 % executions of 1.4 kB with a body, evaluations, registrations."""

from __future__ import annotations

import random

import orjson
from uuid_utils import uuid7

from dspy_ledger import wire
from dspy_ledger.timestamps import utc_now

__all__ = ["any_event"]

SOURCES = 4
PROGRAMS = 8


def fields(kind: str, data: dict, sequence: int, body: object) -> dict[bytes, bytes]:
    event_id = data["execution_id"] if kind == "ExecutionCompleted" else str(uuid7())
    raw = None if body is None else orjson.dumps(body)
    payload = wire.encode(
        kind,
        data,
        event_id=event_id,
        source=f"/producers/bench/{sequence % SOURCES}",
        sequence=sequence // SOURCES + 1,
        time=utc_now(),
        subject=data.get("program_id"),
        body=raw,
        context={"environment": "production", "service": "llm-server", "release": "0f3c9a1"},
    )
    return {b"__data__": payload} | ({b"body": raw} if raw is not None else {})


def registration(sequence: int, program: int, content: int) -> dict[bytes, bytes]:
    interface = {
        "inputs": [{"name": "text", "type": "str", "required": True}],
        "outputs": [{"name": "label", "type": "str", "required": True}],
    }
    data = {
        "program_id": f"program_{program}",
        "name": f"Program {program}",
        "version": f"1.0.{content}",
        "content_hash": f"c1:{program:02}{content:062}",
        "kind": "signature",
        "description": "Sorts a text into one of the topics.",
        "tags": ["text", "classification"],
        "interface": interface,
        "source_code": "class Program(dspy.Signature):\n    ...\n" * 8,
        "created_at": utc_now(),
    }
    return fields("ProgramRegistered", data, sequence, {"predict": {"demos": [{"text": "x" * 80}] * 4}})


def execution(sequence: int, rng: random.Random) -> dict[bytes, bytes]:
    program, content = rng.randrange(PROGRAMS), rng.randrange(3)
    model = rng.choice(["gpt-4o-mini", "claude-haiku", "llama-3-8b"])
    data = {
        "execution_id": str(uuid7()),
        "program_id": f"program_{program}",
        "program_version": f"1.0.{content}",
        "content_hash": f"c1:{program:02}{content:062}",
        "program_name": f"Program {program}",
        "model_id": model,
        "model_info": {"provider": "openai", "base_model": model, "model_name": f"openai/{model}"},
        "models": [model],
        "status": "error" if rng.random() < 0.02 else "ok",
        "started_at": utc_now(),
        "latency_ms": round(rng.lognormvariate(6, 0.6), 3),
        "usage": {"input_tokens": rng.randrange(100, 2000), "output_tokens": rng.randrange(20, 400)},
        "cost_usd": round(rng.random() / 1000, 8),
        "call_counts": {"module": 1, "lm": 1},
        "trace_id": f"{rng.getrandbits(128):032x}",
        "session_id": f"session-{rng.randrange(10_000)}",
        "tags": ["live"],
        "adapter": "ChatAdapter",
        "dspy_version": "3.4.1",
    }
    body = {
        "inputs": {"text": "The quick brown fox jumps over the lazy dog. " * 4},
        "outputs": {"label": "animals", "reasoning": "It tells of a fox and of a dog."},
        "calls": [
            {"kind": "lm", "name": "LM", "parent": 0, "start_ms": 1.2, "duration_ms": 412.5, "model": model}
        ],
    }
    return fields("ExecutionCompleted", data, sequence, body)


def evaluation(
    sequence: int,
    rng: random.Random,
    *,
    evaluation_id: str | None = None,
    program: int | None = None,
    content: int | None = None,
    model: str | None = None,
) -> dict[bytes, bytes]:
    program = rng.randrange(PROGRAMS) if program is None else program
    content = rng.randrange(3) if content is None else content
    data = {
        "evaluation_id": evaluation_id or f"nightly-{rng.randrange(200)}",
        "program_id": f"program_{program}",
        "content_hash": f"c1:{program:02}{content:062}",
        "model_id": model or rng.choice(["gpt-4o-mini", "claude-haiku"]),
        "results": {"accuracy": rng.random(), "f1": rng.random()},
        "metric_name": "accuracy",
        "created_at": utc_now(),
    }
    return fields("EvaluationSaved", data, sequence, None)


def feedback(sequence: int, execution_id: str, rng: random.Random) -> dict[bytes, bytes]:
    data = {
        "evaluation_id": str(uuid7()),
        "execution_id": execution_id,
        "results": {"score": rng.randrange(2)},
        "created_at": utc_now(),
    }
    return fields("EvaluationSaved", data, sequence, None)


def any_event(sequence: int, rng: random.Random) -> dict[bytes, bytes]:
    roll = rng.random()
    if roll < 0.95:
        return execution(sequence, rng)
    if roll < 0.975:
        return evaluation(sequence, rng)
    return registration(sequence, rng.randrange(PROGRAMS), rng.randrange(3))
