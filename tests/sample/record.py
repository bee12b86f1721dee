"""How the sample was recorded: real programs on the demo's offline models, over two days on two servers.

Run as ``PYTHONPATH=tests python -m sample.record FOLDER``: it leaves ``FOLDER/data/ledger.db``. Everything is
as in production but for the clock, which is moved, and the hosts' names.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "TQDM_DISABLE": "1"}

import dspy

from dspy_ledger import timestamps
from dspy_ledger.cli.demo.model_server import ModelServer
from dspy_ledger.cli.demo.programs import (
    BOOTSTRAP,
    ContactExtractor,
    completion_devset,
    completion_metric,
    completion_trainset,
    contact_devset,
)
from dspy_ledger.producer import Ledger, ModelManager, Predictor, ProgramManager, session
from dspy_ledger.projector import Live, Patience
from dspy_ledger.settings import Settings, load_settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.timestamps import to_datetime
from sample.programs import ContactExtractorByCountry, TopicExplainer
from servers import Valkey

MODELS = ("gpt-4o-mini", "gpt-4.1-nano")
TEXT = {"name": "Text Completion", "description": "Basic text completion signature", "tags": ["text"]}
CONTACT = {"name": "Contact Extractor", "description": "Contact details from a card", "tags": ["extraction"]}
EXPLAINER = {"name": "Topic Explainer", "description": "A topic in one sentence", "tags": ["text"]}


class Team:
    """A broker, a store and the models that both servers use."""

    def __init__(self, folder: Path, valkey: Valkey, models_url: str) -> None:
        self.settings: Settings = load_settings(
            _env_file=None,
            redis_url=valkey.url,
            data_dir=folder / "data",
            wal_dir=folder / "wal",
            environment="production",
            service="cards",
        )
        self.client = valkey.client()
        self.store = SqliteEventStore(self.settings.store_path)
        self.live = Live.over(self.store, self.settings.keys, self.client, [], Patience(threading.Event()))
        self.models = ModelManager(
            {
                name: dspy.LM(f"openai/{name}", api_base=models_url, api_key="offline", cache=False)
                for name in MODELS
            }
        )

    def ingest(self) -> None:
        last = self.live.intake.last_id
        entries: Any = self.client.xrange(self.settings.keys.events, f"({last}" if last != "0" else "-")
        if entries:
            self.live.take([entry_id for entry_id, _ in entries], [fields for _, fields in entries])

    @contextmanager
    def server(self, host: str, release: str, starts: str) -> Iterator[ProgramManager]:
        """A process of that host that starts at a moment and ends with the block."""
        offset = int(to_datetime(starts).timestamp() * 1e9) - time.time_ns()
        settings = self.settings.model_copy(update={"release": release})
        with (
            patch.object(timestamps, "time_ns", lambda: time.time_ns() + offset),
            patch.object(socket, "gethostname", lambda: host),
        ):
            ledger = Ledger.connect(settings=settings)
            yield ProgramManager(model_manager=self.models, ledger=ledger)
            ledger.flush(30, until="sent")
            self.ingest()
            assert ledger.flush(30, until="stored")
            ledger.close()
            self.ingest()


def run(manager: ProgramManager, program_id: str, inputs: list[dict], user: str) -> list[str]:
    """One execution for each, on both models in turn; their ids, also of those that failed."""

    async def one(number: int, given: dict) -> str:
        with session(f"session-{user}", user=user, tags=["web"], metadata={"page": number}):
            try:
                _, info = await manager.execute_program(
                    program_id=program_id,
                    model_id=MODELS[number % 2],
                    input_data=given,
                    trace_id=f"{user}-{number}",
                )
            except ValueError as error:
                return error.__notes__[-1]
        return info.execution_id

    return [asyncio.run(one(number, given)) for number, given in enumerate(inputs)]


def evaluate(manager: ProgramManager, meta: Any, module: Any, examples: int = 6) -> None:
    devset = completion_devset()[:examples]
    scorer = dspy.Evaluate(devset=devset, metric=completion_metric, num_threads=1, display_progress=False)
    for model_id in MODELS:
        with dspy.context(lm=manager.model_manager.get_lm(model_id)):
            result = scorer(module)
        manager.save_evaluation_result(
            program_id=meta.id,
            model_id=model_id,
            results={"score": result.score, "examples": examples},
            program_version=meta.version,
            evaluation_id=f"nightly-{meta.version}",
            metric_name="completion_metric",
            dataset={
                "name": "topics",
                "size": examples,
                "digest": "sha256:" + sha256(repr([e.toDict() for e in devset]).encode()).hexdigest(),
            },
            rows=[{"input": e.input, "output": p.output, "score": s} for e, p, s in result.results],
        )


def first_day(team: Team) -> None:
    questions = [{"input": example.input} for example in completion_devset()]
    cards = [{"card_text": example.card_text} for example in contact_devset()]
    with team.server("llm-1", "3f9c2ab", "2026-11-20T09:12:00Z") as manager:
        text = manager.register_program(program_class=Predictor, **TEXT)
        contact = manager.register_program(program_class=ContactExtractor, **CONTACT)
        run(manager, text.id, questions[:8], "ada")
        answered = run(manager, contact.id, cards[:7], "ada")
        manager.save_feedback(answered[0], 1, comment="all fields right", user="ada")
        manager.save_feedback(answered[1], 0, comment="wrong telephone number", user="ada")
        evaluate(manager, text, dspy.Predict(Predictor))
    with team.server("llm-1", "3f9c2ab", "2026-11-20T16:40:00Z") as manager:
        text = manager.register_program(program_class=Predictor, **TEXT)
        optimizer = dspy.BootstrapFewShot(metric=completion_metric, **BOOTSTRAP)
        with patch("sys.stdout", StringIO()), dspy.context(lm=team.models.get_lm(MODELS[0])):
            compiled = optimizer.compile(dspy.Predict(Predictor), trainset=completion_trainset())
        better = manager.register_optimized_program(
            program_class=compiled,
            parent_id=text.id,
            parent_version=text.version,
            optimizer_name="dspy.teleprompt.BootstrapFewShot",
            optimizer_params=BOOTSTRAP,
            description="Optimized with bootstrapped few-shot examples",
        )
        evaluate(manager, better, compiled)


def second_day(team: Team) -> None:
    questions = [{"input": example.input} for example in completion_devset()[8:]]
    cards = [{"card_text": example.card_text, "country": "DE"} for example in contact_devset()[7:]]
    with team.server("llm-2", "a04d7e1", "2026-11-21T10:03:00Z") as manager:
        contact = manager.register_program(program_class=ContactExtractorByCountry, **CONTACT)
        explainer = manager.register_program(program_class=TopicExplainer(), **EXPLAINER)
        manager.load_program("text_completion", "1.1.0", into=Predictor)
        run(manager, contact.id, cards[:8], "grace")
        answered = run(manager, "text_completion", questions[:10], "grace")
        run(manager, explainer.id, [*questions[:6], {"input": " "}], "alan")
        manager.save_feedback(answered[3], 0.5, comment="right, but long-winded", user="grace")


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as broker, ModelServer() as models:
        valkey = Valkey(Path(broker)).start()
        try:
            team = Team(folder, valkey, models.url)
            with closing(team.store):
                first_day(team)
                second_day(team)
            team.client.close()
        finally:
            valkey.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
