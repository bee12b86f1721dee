"""The FastAPI example as somebody would run it: its own process, a real broker, a model server over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from dspy_ledger import wire
from dspy_ledger.cli.demo.model_server import ModelServer
from dspy_ledger.keys import Keys
from servers import Valkey, free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS = """\
models:
  gpt-4o-mini:
    model_name: openai/gpt-4o-mini
    max_tokens: 500
    additional_params: {{api_base: "{url}", api_key: offline}}
"""


class Example:
    """The running example: its HTTP client, and the events it sent."""

    def __init__(self, process: subprocess.Popen[bytes], http: httpx.Client, valkey: Valkey) -> None:
        self.process, self.http, self._valkey = process, http, valkey

    def events(self, kind: str) -> list[wire.Entry]:
        client = self._valkey.client()
        entries = [wire.decode(fields) for _, fields in client.xrange(Keys().events)]
        client.close()
        return [entry for entry in entries if entry.type.split(".")[-2] == kind]

    def event(self, kind: str, **data: object) -> wire.Entry | None:
        """The one event of that kind whose data has these values."""
        found = [
            entry for entry in self.events(kind) if data.items() <= _flat(entry.envelope["data"]).items()
        ]
        assert len(found) < 2
        return found[0] if found else None


def _flat(data: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in data.items() if not isinstance(value, dict | list)}


@contextmanager
def running_example(folder: Path, valkey: Valkey) -> Iterator[Example]:
    port = free_port()
    with ModelServer() as models, (folder / "example.log").open("wb") as log:
        (folder / "models.yaml").write_text(MODELS.format(url=models.url), "utf-8")
        environment = os.environ | {
            "DSPY_LEDGER_REDIS_URL": valkey.url,
            "DSPY_LEDGER_WAL_DIR": str(folder / "wal"),
            "DSPY_LEDGER_SERVICE": "example",
            "DSPY_CACHEDIR": str(folder / "cache"),
        }
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "fastapi_server:app", "--app-dir", str(EXAMPLES)),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
                example = Example(process, http, valkey)
                deadline = time.monotonic() + 60  # DSPy takes its time to be imported
                while not answers(example):
                    assert time.monotonic() < deadline, "the example did not answer in 60 s"
                    time.sleep(0.05)
                yield example
        finally:
            process.terminate()
            process.wait(20)


def answers(example: Example) -> bool:
    assert example.process.poll() is None, "the example ended"
    try:
        return example.http.get("/openapi.json").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    folder = tmp_path_factory.mktemp("example")
    valkey = Valkey(folder / "valkey").start()
    try:
        with running_example(folder, valkey) as running:
            yield running
    finally:
        valkey.stop()


def test_each_route_answers_and_what_it_did_arrives_in_the_stream(example, eventually):
    versions = {
        entry.envelope["data"]["program_id"]: entry.envelope["data"]["version"]
        for entry in example.events("ProgramRegistered")
    }
    assert versions == {"text_completion": "1.0.0", "custom_extractor": "1.0.0"}

    completed = example.http.post("/complete", json={"text": "What is an opera?"})
    assert completed.status_code == 200, completed.text
    answer = completed.json()
    assert answer["text"]
    assert answer["program_version"] == "1.0.0"
    eventually(lambda: example.event("ExecutionCompleted", execution_id=answer["execution_id"]))
    event = example.event("ExecutionCompleted", execution_id=answer["execution_id"])
    assert event.envelope["service"] == "example"
    data = event.envelope["data"]
    assert (data["program_id"], data["program_version"]) == ("text_completion", "1.0.0")
    assert (data["status"], data["model_id"]) == ("ok", "gpt-4o-mini")
    assert data["metadata"] == {"purpose": "text-summarization"}
    assert data["usage"]["input_tokens"] > 0

    extracted = example.http.post("/extract", json={"text": "Ada Lovelace, mathematician, London"})
    assert extracted.status_code == 200, extracted.text
    result = extracted.json()
    assert isinstance(result["entity"], str)
    assert isinstance(result["attributes"], list)
    eventually(lambda: example.event("ExecutionCompleted", execution_id=result["execution_id"]))

    given = {"execution_id": answer["execution_id"], "score": 1, "comment": "right", "user": "ada"}
    saved = example.http.post("/feedback", json=given)
    assert saved.status_code == 201, saved.text
    evaluation_id = saved.json()["evaluation_id"]
    eventually(lambda: example.event("EvaluationSaved", evaluation_id=evaluation_id))
    data = example.event("EvaluationSaved", evaluation_id=evaluation_id).envelope["data"]
    assert data["execution_id"] == answer["execution_id"]
    assert data["results"] == {"score": 1.0, "comment": "right"}


def test_mistakes_of_the_caller_are_told_and_nothing_is_recorded(example):
    def recorded():
        return len(example.events("ExecutionCompleted")), len(example.events("EvaluationSaved"))

    before = recorded()
    unknown_model = example.http.post("/extract", json={"text": "Ada Lovelace", "model_id": "gpt-9"})
    assert unknown_model.status_code == 404
    assert "gpt-4o-mini" in unknown_model.json()["detail"]
    assert example.http.post("/feedback", json={"execution_id": "x", "score": 1}).status_code == 422
    assert recorded() == before


def test_when_the_server_ends_everything_it_recorded_was_sent(valkey, tmp_path):
    with running_example(tmp_path, valkey) as example:
        answer = example.http.post("/complete", json={"text": "What is a fugue?"}).json()
    assert example.event("ExecutionCompleted", execution_id=answer["execution_id"])
