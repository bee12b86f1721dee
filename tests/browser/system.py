"""A whole system with a demo's worth of data, and a replica that records into it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from dspy_ledger.producer import Ledger
from dspy_ledger.settings import Settings, load_settings
from dspy_ledger.timestamps import utc_now
from servers import Projector, Valkey, environment, free_port

SAMPLE = Path(__file__).parents[1] / "sample" / "ledger.jsonl"
COMMAND = [sys.executable, "-m", "dspy_ledger.cli.main"]


def get(base: str, path: str, **query: object) -> Any:
    """What the REST API answers."""
    with urllib.request.urlopen(f"{base}{path}?{urlencode(query)}", timeout=10) as answer:
        return json.load(answer)


def paths(base: str) -> dict[str, str]:
    """One page of every kind over the demo's data, by a name for it."""
    program = "/programs/text_completion"
    of_latest = {"program_id": "text_completion", "version": "1.1.0", "limit": 1}
    [execution] = get(base, "/v1/programs/executions", **of_latest)["items"]
    evaluations = get(base, "/v1/programs/text_completion/evaluations", version="1.1.0")["items"]
    evaluation = next(each["evaluation_id"] for each in evaluations if each["execution_id"] is None)
    return {
        "overview": "/",
        "program": program,
        "version": f"{program}/versions/1.1.0",
        "compare": f"{program}/compare?from=1.0.0&to=1.1.0",
        "evaluation": f"{program}/evaluations/{evaluation}",
        "executions": "/executions",
        "execution": f"/executions/{execution['execution_id']}",
        "ledger": "/ledger",
    }


@dataclass
class System:
    """What runs, and where its pages are."""

    settings: Settings
    url: str
    ledger: Ledger

    def get(self, path: str, **query: object) -> Any:
        """What the REST API answers."""
        return get(self.url, path, **query)

    def record(self, **data: object) -> str:
        """One more execution of a program that the demo registered; its id."""
        [last] = self.get("/v1/programs/executions", limit=1, program_id="text_completion")["items"]
        fields = {name: last[name] for name in ("program_id", "program_name", "content_hash", "model_id")}
        execution_id = f"live-{uuid4().hex}"
        more = {"execution_id": execution_id, "status": "ok", "started_at": utc_now(), "latency_ms": 321.0}
        self.ledger.record(
            "ExecutionCompleted",
            {**fields, **more, "usage": {"input_tokens": 11, "output_tokens": 7}, **data},
            body={"inputs": {"input": "live"}, "outputs": {"output": "seen"}, "calls": []},
        )
        return execution_id


@contextmanager
def serving(settings: Settings, log: Path) -> Iterator[str]:
    """An API process over these settings; its URL."""
    with log.open("w") as written:
        process = subprocess.Popen(
            [*COMMAND, "api"],
            env={**os.environ, **environment(settings)},
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("dspy-ledger API"), log.read_text()
        yield f"http://127.0.0.1:{settings.api_port}"
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextmanager
def running(folder: Path) -> Iterator[System]:
    """Run the demo in that folder, then a broker, a projector and an API over what it left."""
    subprocess.run(
        [*COMMAND, "demo", "--exit", "--dir", str(folder / "demo")],
        check=True,
        env={**os.environ, "DSPY_LEDGER_API_PORT": str(free_port())},
        stdout=subprocess.DEVNULL,
        timeout=300,
    )
    broker = Valkey(folder / "valkey").start()
    settings = load_settings(
        _env_file=None,
        redis_url=broker.url,
        data_dir=folder / "demo" / ".dspy-ledger",
        programs_dir=folder / "demo" / "dspy_programs",
        wal_dir=folder / "wal",
        models_file=folder / "demo" / "models.yaml",
        api_port=free_port(),
        environment="browser",
    )
    projector = Projector(settings, folder / "projector.log").start()
    try:
        with serving(settings, folder / "api.log") as url, Ledger.connect(settings=settings) as ledger:
            yield System(settings, url, ledger)
    finally:
        projector.end(signal.SIGTERM)
        broker.stop()


@contextmanager
def locked(folder: Path) -> Iterator[tuple[Settings, str]]:
    """The sample ledger behind an API that listens for whoever has a key."""
    settings = load_settings(
        _env_file=None,
        redis_url="redis://127.0.0.1:1/0",
        data_dir=folder / "data",
        programs_dir=folder / "dspy_programs",
        api_port=free_port(),
    )
    env = {**os.environ, **environment(settings)}
    subprocess.run([*COMMAND, "import", str(SAMPLE)], check=True, env=env, stdout=subprocess.DEVNULL)
    with serving(settings, folder / "api.log") as url:
        yield settings, url
