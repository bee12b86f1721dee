"""One replica of the demo's LLM server: registers the programs, runs them, says what it recorded.

Run as ``python -m dspy_ledger.cli.demo.replica``; the ``DSPY_LEDGER_…`` variables say where to. One JSON
object a line on stdout: ``{"done": n}`` as it goes, ``{"report": {…}}`` at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
from time import time
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its first call waits for the network

from dspy_ledger.cli.demo.programs import ContactExtractor, completion_devset, contact_devset
from dspy_ledger.producer import Ledger, ModelManager, Predictor, ProgramManager, ProgramMetadata
from dspy_ledger.settings import load_settings

__all__ = ["main", "register_programs"]

_AT_ONCE = 8  # executions under way in one replica
_STORED = 90.0  # seconds to wait at the end for the store: longer than a crashed part takes to come back


def register_programs(manager: ProgramManager) -> tuple[ProgramMetadata, ProgramMetadata]:
    """The demo's two programs, as every replica registers them."""
    completion = manager.register_program(
        program_class=Predictor,
        name="Text Completion",
        description="Basic text completion signature",
        tags=["text", "completion"],
    )
    contact = manager.register_program(
        program_class=ContactExtractor,
        name="Contact Extractor",
        description="Contact details from a business card",
        tags=["text", "extraction"],
    )
    return completion, contact


async def _run(manager: ProgramManager, executions: int, offset: int, load: str | None) -> dict[str, Any]:
    completion, contact = register_programs(manager)
    if load is not None:
        manager.load_program(completion.id, load, into=Predictor)
    jobs = _jobs(completion.id, contact.id, only_completion=load is not None)
    models = [model.model_id for model in manager.get_available_models()]
    gate = asyncio.Semaphore(_AT_ONCE)
    outcome = {"executions": 0, "errors": 0}
    versions = set()

    async def one(number: int) -> None:
        program_id, inputs = jobs[number % len(jobs)]
        async with gate:
            try:
                _, info = await manager.execute_program(
                    program_id=program_id,
                    model_id=models[(number // 2) % len(models)],
                    input_data=inputs,
                    trace_id=f"demo-{number:05d}",
                )
                versions.add(f"{program_id} {info.program_version}")
            except Exception:  # noqa: BLE001  a model's bad answer is recorded as an error; the server goes on
                outcome["errors"] += 1
        outcome["executions"] += 1
        print(json.dumps({"done": outcome["executions"]}), flush=True)  # noqa: T201  its protocol

    began = time()
    await asyncio.gather(*(one(offset + n) for n in range(executions)))
    return {**outcome, "versions": sorted(versions), "began": began, "ended": time()}


def _jobs(completion: str, contact: str, *, only_completion: bool) -> list[tuple[str, dict[str, Any]]]:
    """Programs and inputs, alternating."""
    questions = [(completion, {"input": example.input}) for example in completion_devset()]
    if only_completion:
        return questions
    cards = [(contact, {"card_text": example.card_text}) for example in contact_devset()]
    return [job for pair in zip(questions, cards, strict=False) for job in pair]


def main() -> None:
    """Run one replica."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--executions", type=int, required=True)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--load", metavar="VERSION")
    options = parser.parse_args()
    logging.getLogger("dspy").setLevel(logging.ERROR)
    settings = load_settings()
    with Ledger.connect(settings=settings) as ledger:
        manager = ProgramManager(model_manager=ModelManager.from_yaml(settings.models_file), ledger=ledger)
        outcome = asyncio.run(_run(manager, options.executions, options.offset, options.load))
        stored = ledger.flush(_STORED, until="stored")
        stats = ledger.stats()
    report = {
        **outcome,
        "source": stats.source,
        "recorded": stats.recorded,
        "dropped": stats.dropped,
        "stored": stored,
    }
    print(json.dumps({"report": report}), flush=True)  # noqa: T201  its protocol


if __name__ == "__main__":
    main()
