"""Register, run, load and evaluate programs: the surface that an LLM server uses."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from threading import Lock
from typing import Any

from dspy.evaluate import EvaluationResult

from dspy_ledger.errors import InvalidInput
from dspy_ledger.identity import program_id as id_of
from dspy_ledger.producer.arguments import (
    id_text,
    plain_mapping,
    score_of,
    tag_list,
    text,
    version_label,
)
from dspy_ledger.producer.canonical import Canonical
from dspy_ledger.producer.evaluation import dataset_of, record_evaluation, results_of, rows_of
from dspy_ledger.producer.execution import Execution, Identity
from dspy_ledger.producer.holding import HeldPrograms
from dspy_ledger.producer.ledger import Ledger
from dspy_ledger.producer.models import ModelDescription, ModelManager
from dspy_ledger.producer.registry import ProgramMetadata, ProgramRegistry
from dspy_ledger.producer.running import ExecutionResult, Run, check_inputs
from dspy_ledger.producer.serialise import json_bytes, plain

__all__ = ["EvaluationMetadata", "ProgramManager"]

_MOST_ANSWERS = 10_000


@dataclass(frozen=True, slots=True)
class EvaluationMetadata:
    """A saved evaluation."""

    event_id: str
    evaluation_id: str
    program_id: str | None
    program_version: str | None
    model_id: str | None


class ProgramManager:
    """Programs of one process, on one ledger and a set of models.

    Safe to use from many threads and tasks at once.
    """

    def __init__(self, *, model_manager: ModelManager, ledger: Ledger) -> None:
        self.model_manager = model_manager
        self.ledger = ledger
        self.registry = ProgramRegistry.of(ledger)
        self._held = HeldPrograms(self.registry, model_manager)
        self._answers: dict[tuple[Any, ...], None] = {}  # what was registered here, and how
        self._lock = Lock()

    # --- registering ---

    def register_program(
        self,
        program_class: Any,
        name: str | None = None,
        description: str | None = None,
        tags: Iterable[str] | None = None,
        version: str | None = None,
        base_version: str | None = None,
    ) -> ProgramMetadata:
        """Register a program; the same content always answers the same version.

        Args:
            program_class: a Signature class, a string signature, a Module instance, or a Module class
                that builds without arguments.
            name: what people call it; the id is made from it. None takes the class's name.
            version: a SemVer to give it; None decides by what changed.
            base_version: what to compare with; None takes the highest release.

        Raises:
            InvalidProgram: it is none of these.
            InvalidInput: a version is no SemVer, or the tags are no texts.
        """
        canonical = self._held.canonical(program_class)
        return self._register(
            canonical,
            text("name", name) or canonical.class_name,
            canonical.process_output,
            description=description,
            tags=tags,
            requested=version,
            base_version=base_version,
        )

    def register_optimized_program(
        self,
        program_class: Any,
        parent_id: str,
        parent_version: str | None = None,
        optimizer_name: str = "",
        name: str | None = None,
        description: str | None = None,
        tags: Iterable[str] | None = None,
        optimizer_params: Mapping[str, Any] | None = None,
        score: float | None = None,
        run_id: str | None = None,
    ) -> ProgramMetadata:
        """Register what an optimizer made of a program.

        Without a ``name`` it becomes the next minor version of its parent; with one, a program of its own
        that points to its parent.

        Args:
            program_class: the compiled program (an instance), or anything that register_program takes.
            parent_version: None takes the parent's latest.
            optimizer_name: for example ``dspy.teleprompt.BootstrapFewShot``.
            score: what the optimizer scored it, if it did.

        Raises:
            UnknownProgram: no such parent.
            UnknownVersion: the parent has no such version.
            InvalidProgram: it is no program.
        """
        if not text("optimizer_name", optimizer_name):
            raise InvalidInput(
                "register_optimized_program needs the optimizer_name, e.g. 'dspy.BootstrapFewShot'"
            )
        parent = self._held.resolve(parent_id, parent_version or "latest")
        canonical = self._held.canonical(program_class)
        again = parent_version is None and canonical.content_hash == parent.content_hash
        if again and parent.parent_id == parent.id and parent.parent_version is not None:
            # The latest is this very variant by now, and keeps the parent it has.
            parent = self._held.resolve(parent.id, parent.parent_version)
        parent_held = self._held.get(parent.id, parent.content_hash)
        process_output = canonical.process_output or (parent_held.process_output if parent_held else None)
        return self._register(
            canonical,
            text("name", name) or parent.name,
            process_output,
            program_id=None if name else parent.id,
            description=description,
            tags=parent.tags if tags is None else tags,
            parent=parent,
            optimizer={
                "name": optimizer_name,
                "params": plain_mapping("optimizer_params", optimizer_params) or {},
                "score": score_of(score),
                "run_id": None if run_id is None else str(run_id),
                "changed": canonical.content_hash != parent.content_hash,
            },
        )

    def _register(
        self,
        canonical: Canonical,
        name: str,
        process_output: Callable[[Any], Any] | None,
        *,
        program_id: str | None = None,
        description: str | None = None,
        tags: Iterable[str] | None = None,
        requested: str | None = None,
        base_version: str | None = None,
        parent: ProgramMetadata | None = None,
        optimizer: dict[str, Any] | None = None,
    ) -> ProgramMetadata:
        program_id = program_id or id_of(name)
        text("description", description)
        labels = (version_label(requested), version_label(base_version))
        wanted = tag_list(tags)
        what = (program_id, canonical.content_hash, name, description, *wanted)
        how = (*labels, parent.content_hash if parent else None, json_bytes(optimizer))
        known = self.registry.of_content(program_id, canonical.content_hash)
        warning = None
        if known is None or (what, how) not in self._answers:
            known, warning = self.registry.offer(
                canonical,
                program_id,
                name,
                description=description,
                tags=wanted,
                requested=labels[0],
                base_version=labels[1],
                parent=parent,
                optimizer=optimizer,
            )
        with self._lock:
            while len(self._answers) >= _MOST_ANSWERS:
                del self._answers[next(iter(self._answers))]
            self._answers[what, how] = None
        self._held.hold(program_id, canonical, process_output, known)
        if warning:
            warnings.warn(warning, stacklevel=3)
        return known

    # --- running ---

    async def execute_program(
        self,
        program_id: str,
        model_id: str,
        input_data: Mapping[str, Any],
        program_version: str = "latest",
        trace_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        """Run a program on a model and record the execution.

        Args:
            program_version: a version, or ``latest``: the release this process registered or loaded last
                under that id, else the highest that the registry knows.
            trace_id: yours, to find the execution by.
            metadata: anything to be kept with the execution.

        Returns:
            The value of the program's ``process_output`` if it has one, otherwise the Prediction; and
            what is known of the execution.

        Raises:
            UnknownProgram, UnknownVersion, UnknownModel: the message lists the known ids.
            InvalidFields: unknown or missing inputs; no model was called.
            VersionNotRunnable: this process has no code for that version.
            Exception: whatever the program raised, unchanged, with the execution id in its notes.
        """
        run = await self._run_of(program_id, model_id, input_data, program_version, trace_id, metadata)
        return await run.execute()

    async def stream_program(
        self,
        program_id: str,
        model_id: str,
        input_data: Mapping[str, Any],
        program_version: str = "latest",
        trace_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        stream_listeners: list[Any] | None = None,
        status_message_provider: Any = None,
    ) -> AsyncGenerator[Any, None]:
        """Run a program on a model, record the execution, and yield what comes as it comes.

        Whoever stops before the end closes the generator (``contextlib.aclosing``), else the garbage
        collector does: the program is cancelled, and the execution recorded as an error.

        Args:
            program_version, trace_id, metadata: as for :meth:`execute_program`.
            stream_listeners: dspy.streaming.StreamListener, one for each output field that is to be
                streamed; without any, the model's own chunks come.
            status_message_provider: as for ``dspy.streamify``.

        Yields:
            What ``dspy.streamify`` yields, and at the end, in place of the Prediction, an ExecutionResult:
            what :meth:`execute_program` returns.

        Raises:
            Exception: what :meth:`execute_program` raises, when the generator gets there.
        """
        run = await self._run_of(program_id, model_id, input_data, program_version, trace_id, metadata)
        chunks = run.stream(
            stream_listeners=stream_listeners, status_message_provider=status_message_provider
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def _run_of(
        self,
        program_id: str,
        model_id: str,
        input_data: Mapping[str, Any],
        program_version: str,
        trace_id: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> Run:
        """What is to be run; raises what is wrong with it."""
        models = self.model_manager
        model, lm = models.describe(model_id), models.get_lm(model_id)
        metadata = plain_mapping("metadata", metadata)
        chosen = self._held.at_hand(program_id, program_version)
        if chosen is None:  # Redis has to be asked, which the event loop must not wait for
            chosen = await asyncio.to_thread(self._held.runnable, program_id, program_version)
        version, held = chosen
        check_inputs(program_id, held.canonical.interface, input_data, takes_more=held.canonical.takes_more)

        def identity() -> Identity:
            now = self.registry.of_content(program_id, version.content_hash) or version
            return Identity(
                program_id,
                now.name,
                now.content_hash,
                held.canonical.model_pinned,
                version=now.version or None,
                provisional=now.provisional,
            )

        execution = Execution(
            self.ledger,
            model=model,
            id_of=lambda used: models.id_of(used, model_id),
            trace_id=trace_id,
            metadata=metadata,
        )
        return Run(execution, identity, held.program, lm, input_data, held.process_output)

    def registration_of(self, program_class: Any) -> ProgramMetadata | None:
        """This process's registration of that content, under whatever name; None when there is none.

        Raises:
            InvalidProgram: it is no program.
        """
        return self._held.registration_of(program_class)

    def load_program(self, program_id: str, version: str = "latest", *, into: Any) -> Any:
        """The recorded state of a version, in a Signature or Module that the host has.

        Nothing is imported or executed because the record names it. Afterwards ``execute_program`` runs
        it under that version, and ``latest`` means it if it is a release.

        Args:
            into: the Signature class, or a Module (instance, or class that builds without arguments).

        Returns:
            A new module; its content hash was checked.

        Raises:
            UnknownProgram, UnknownVersion: the message lists what is known.
            VersionNotRunnable: the code differs from what was recorded; the message says in what.
            LedgerUnavailable: Redis can't be asked.
        """
        metadata = self.registry.find(program_id, version, from_redis=True)
        program = self._held.load(metadata, into)
        process_output = self._held.canonical(into).process_output
        self._held.hold(program_id, self._held.canonical(program), process_output, metadata)
        return program

    # --- evaluating ---

    def save_evaluation_result(
        self,
        program_id: str,
        model_id: str,
        results: Any,
        program_version: str = "latest",
        evaluation_id: str | None = None,
        metric_name: str | None = None,
        dataset: Mapping[str, Any] | None = None,
        rows: Iterable[Any] | None = None,
    ) -> EvaluationMetadata:
        """Save the results of an evaluation.

        Args:
            results: any JSON, its numbers are metrics; or what ``dspy.Evaluate`` returned, which also gives
                the dataset's size and digest, and the rows.
            evaluation_id: saving again under the same id and model replaces it; None makes a new one.
            dataset: ``{"name": …, "size": …, "digest": …}``.
            rows: one value per example; kept in the event store only, not in files. With CAPTURE_ROWS off,
                only the ``score`` of each.

        Raises:
            UnknownProgram, UnknownVersion, UnknownModel: the message lists the known ids.
        """
        model = self.model_manager.describe(model_id)
        metadata = self._held.resolve(program_id, program_version)
        dataset = plain_mapping("dataset", dataset)
        if isinstance(results, EvaluationResult):
            dataset = {**dataset_of(results), **(dataset or {})}
            rows = rows_of(results) if rows is None else rows
            results = results_of(results)
        return self._save_evaluation(
            {
                "program_id": program_id,
                "program_version": None if metadata.provisional else metadata.version,
                "content_hash": metadata.content_hash,
                "model_id": model_id,
                "model_info": model.info(),
                "results": plain(results),
                "metric_name": text("metric_name", metric_name),
                "dataset": dataset,
            },
            evaluation_id,
            metadata.version,
            rows=rows,
        )

    def save_feedback(
        self, execution_id: str, score: float, comment: str | None = None, user: str | None = None
    ) -> EvaluationMetadata:
        """Save what somebody thought of one execution; program and model are taken from it.

        It goes to the read models, not to files.

        Raises:
            InvalidInput: the score is no number.
        """
        return self._save_evaluation(
            {
                "execution_id": str(execution_id),
                "results": plain({"score": score_of(score), "comment": comment}),
                "user_id": None if user is None else str(user),
            },
            None,
            None,
        )

    def _save_evaluation(
        self,
        data: dict[str, Any],
        evaluation_id: str | None,
        version: str | None,
        rows: Iterable[Any] | None = None,
    ) -> EvaluationMetadata:
        if evaluation_id is not None:
            evaluation_id = id_text("evaluation_id", evaluation_id)
        event_id = record_evaluation(self.ledger, data, rows, evaluation_id=evaluation_id)
        return EvaluationMetadata(
            event_id, evaluation_id or event_id, data.get("program_id"), version, data.get("model_id")
        )

    # --- questions ---

    def get_program(self, program_id: str, version: str = "latest") -> ProgramMetadata:
        """One version of a program.

        Raises:
            UnknownProgram, UnknownVersion: the message lists what is known.
        """
        return self._held.resolve(program_id, version)

    def list_programs(self, tags: Iterable[str] | None = None) -> list[ProgramMetadata]:
        """The latest version of every known program, by id; only those with all of ``tags``."""
        wanted = set(tag_list(tags))
        self.registry.look()
        return [metadata for metadata in self.registry.latest() if wanted <= set(metadata.tags)]

    def list_program_versions(self, program_id: str) -> list[ProgramMetadata]:
        """All versions of a program, oldest first.

        Raises:
            UnknownProgram: the message lists the known ids.
        """
        self.registry.look()
        self.registry.find(program_id)
        return self.registry.versions(program_id)

    def get_program_tree(self, program_id: str) -> dict[str, Any]:
        """Versions, optimized variants and derived programs as one hierarchy, as the REST route gives it.

        Raises:
            UnknownProgram: the message lists the known ids.
        """
        self.registry.look()
        self.registry.find(program_id)
        return self.registry.tree(program_id)

    def get_available_models(self) -> list[ModelDescription]:
        """The configured models, in the order they were given."""
        return self.model_manager.list_models()
