"""What happens in the demo: replicas run programs, one is compiled, loaded elsewhere, all are evaluated."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from threading import Thread
from typing import Any, Self

import dspy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dspy_ledger.cli.demo.programs import (
    BOOTSTRAP,
    ContactExtractor,
    completion_devset,
    completion_metric,
    completion_trainset,
    contact_devset,
    contact_metric,
)
from dspy_ledger.cli.demo.replica import register_programs
from dspy_ledger.cli.demo.summary import Summary
from dspy_ledger.errors import LedgerError
from dspy_ledger.producer import Ledger, ModelManager, Predictor, ProgramManager, ProgramMetadata
from dspy_ledger.settings import Settings

__all__ = ["Scenario"]

_THREADS = 8
_STORED = 90.0  # seconds to wait for the store at the end


class Scenario:
    """One run; the ledger of this process is open within ``with``."""

    def __init__(
        self,
        settings: Settings,
        env: Mapping[str, str],
        console: Console,
        check: Callable[[], None],
        *,
        small: bool,
    ) -> None:
        logging.getLogger("dspy").setLevel(logging.ERROR)  # after its import, which sets it
        self._env = dict(env)
        self._console = console
        self._check = check
        self._replicas, self._each = (2, 6) if small else (4, 45)
        self._examples = 6 if small else None
        self.ledger = Ledger.connect(settings=settings)
        self.models = ModelManager.from_yaml(settings.models_file)
        self.manager = ProgramManager(model_manager=self.models, ledger=self.ledger)
        self.summary = Summary()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.ledger.close()

    def play(self) -> Summary:
        """All acts; returns once the store has everything that was recorded.

        Raises:
            LedgerError: something did not come about.
        """
        completion, contact = register_programs(self.manager)
        self._run_replicas(
            [["--offset", str(self._each * n)] for n in range(self._replicas)],
            self._each,
            f"{self._replicas} replicas run both programs",
        )
        self._check()
        optimized = self._compile(completion)
        self._check()
        self._run_replicas(
            [["--load", optimized.version]],
            self._each // 2,
            f"another process loads and runs {optimized.version}",
        )
        self._check()
        self._evaluate(completion, optimized, contact)
        if not self.ledger.flush(_STORED, until="stored"):
            raise LedgerError(f"not everything was stored in {_STORED:.0f} s: {self.ledger.stats()}")
        stats = self.ledger.stats()
        self.summary.add_producer(stats.source, stats.recorded, stats.dropped)
        return self.summary

    def _run_replicas(self, arguments: list[list[str]], executions: int, what: str) -> None:
        command = [sys.executable, "-m", "dspy_ledger.cli.demo.replica", "--executions", str(executions)]
        processes = [
            subprocess.Popen(  # noqa: S603  our own module
                [*command, *more],
                env={**os.environ, **self._env},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for more in arguments
        ]
        try:
            with self._progress() as progress:
                task = progress.add_task(what, total=executions * len(processes))
                readers = [_Reader(process, lambda: progress.advance(task)) for process in processes]
                for reader in readers:
                    while reader.is_alive():
                        reader.join(0.2)
                        self._check()
        finally:
            for process in processes:
                process.terminate()
                process.wait()
        for reader in readers:
            report = reader.report
            if report is None or not report["stored"]:
                raise LedgerError(f"a replica did not finish: {reader.complaint()}")
            self.summary.add_producer(report["source"], report["recorded"], report["dropped"])
            self.summary.executions += report["executions"]
        reports = [reader.report for reader in readers if reader.report]
        self.summary.seconds += max(r["ended"] for r in reports) - min(r["began"] for r in reports)

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self._console)

    def _compile(self, parent: ProgramMetadata) -> ProgramMetadata:
        best = self.models.list_models()[0].model_id
        with self._console.status("compiling Text Completion with dspy.BootstrapFewShot"):
            optimizer = dspy.BootstrapFewShot(metric=completion_metric, **BOOTSTRAP)
            trainset = completion_trainset()[: self._examples]
            # The optimizer prints what it did; the demo says it in its own words.
            with redirect_stdout(StringIO()), dspy.context(lm=self.models.get_lm(best)):
                compiled = optimizer.compile(dspy.Predict(Predictor), trainset=trainset)
        optimized = self.manager.register_optimized_program(
            program_class=compiled,
            parent_id=parent.id,
            parent_version=parent.version,
            optimizer_name="dspy.teleprompt.BootstrapFewShot",
            optimizer_params=BOOTSTRAP,
            description="Optimized with bootstrapped few-shot examples",
        )
        self._console.print(
            f"compiled with {len(compiled.demos)} demos: {parent.id} {parent.version} → {optimized.version}"
        )
        return optimized

    def _evaluate(
        self, completion: ProgramMetadata, optimized: ProgramMetadata, contact: ProgramMetadata
    ) -> None:
        jobs = [
            (completion, Predictor, completion_devset(), completion_metric),
            (optimized, Predictor, completion_devset(), completion_metric),
            (contact, ContactExtractor, contact_devset(), contact_metric),
        ]
        models = self.models.list_models()
        with self._progress() as progress:
            task = progress.add_task("evaluating versions × models", total=len(jobs) * len(models))
            for metadata, signature, devset, metric in jobs:
                program = self.manager.load_program(metadata.id, metadata.version, into=signature)
                for model in models:
                    self._check()
                    self._evaluate_one(metadata, program, devset[: self._examples], metric, model.model_id)
                    progress.advance(task)

    def _evaluate_one(
        self, metadata: ProgramMetadata, program: Any, devset: list[Any], metric: Any, model_id: str
    ) -> None:
        evaluate = dspy.Evaluate(devset=devset, metric=metric, num_threads=_THREADS, display_progress=False)
        with dspy.context(lm=self.models.get_lm(model_id)):
            result = evaluate(program)
        self.manager.save_evaluation_result(
            program_id=metadata.id,
            model_id=model_id,
            results=result,
            program_version=metadata.version,
            metric_name=metric.__name__,
            dataset={"name": f"{metadata.id} devset"},
        )
        self.summary.scores[metadata.id, metadata.version, model_id] = result.score


class _Reader(Thread):
    """Follows what a replica says."""

    def __init__(self, process: subprocess.Popen[str], advance: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._advance = advance
        self._errors: list[str] = []
        self.report: dict[str, Any] | None = None
        self._stderr = Thread(target=self._collect_errors, daemon=True)
        self._stderr.start()
        self.start()

    def run(self) -> None:
        for line in self._process.stdout or ():
            said = json.loads(line) if line.startswith("{") else {}
            if "done" in said:
                self._advance()
            self.report = said.get("report", self.report)
        self._process.wait()
        self._stderr.join()

    def _collect_errors(self) -> None:
        for line in self._process.stderr or ():
            self._errors = [*self._errors[-20:], line.rstrip()]

    def complaint(self) -> str:
        """The last thing it said on stderr."""
        return self._errors[-1] if self._errors else f"exit code {self._process.returncode}"
