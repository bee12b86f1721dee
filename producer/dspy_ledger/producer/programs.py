"""Register, run, load and evaluate programs: the surface that an LLM server uses."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version as distribution_version
from threading import Lock
from typing import Any

import uuid_utils

from dspy_ledger.errors import InvalidInput, VersionNotRunnable
from dspy_ledger.identity import program_id as id_of
from dspy_ledger.lineage import program_tree
from dspy_ledger.producer.canonical import Canonical, canonicalize, fingerprint
from dspy_ledger.producer.execution import ExecutionInfo, Run, check_inputs, run
from dspy_ledger.producer.ledger import Ledger
from dspy_ledger.producer.models import ModelDescription, ModelManager
from dspy_ledger.producer.proposals import Proposal
from dspy_ledger.producer.registry import ProgramMetadata, ProgramRegistry
from dspy_ledger.producer.serialise import json_bytes, plain
from dspy_ledger.producer.state import load_checked
from dspy_ledger.timestamps import utc_now
from dspy_ledger.versions import Version, highest_release

__all__ = ["EvaluationMetadata", "ProgramManager"]

_MOST_REMEMBERED = 1000  # programs whose content is remembered between registrations
_LOAD = 5.0  # seconds that loading a program may wait for Redis: it is asked for, not in passing


@dataclass(frozen=True, slots=True)
class EvaluationMetadata:
    """A saved evaluation."""

    event_id: str
    evaluation_id: str
    program_id: str | None
    program_version: str | None
    model_id: str | None


@dataclass(frozen=True, slots=True)
class _Held:
    """A content that this process can run."""

    program: Any
    canonical: Canonical
    process_output: Callable[[Any], Any] | None


class ProgramManager:
    """Programs of one process, on one ledger and a set of models.

    Safe to use from many threads and tasks at once.
    """

    def __init__(self, *, model_manager: ModelManager, ledger: Ledger) -> None:
        self.model_manager = model_manager
        self.ledger = ledger
        self.registry = ProgramRegistry(ledger)
        self._held: dict[tuple[str, str], _Held] = {}
        self._latest: dict[str, str] = {}  # program id → content of the release registered or loaded last
        self._answers: dict[tuple[Any, ...], str] = {}  # what was registered here → its content hash
        self._canonicals: dict[int, tuple[Any, Any, Canonical]] = {}  # of what was passed in, by its id()
        self._lock = Lock()
        self._dspy_version = distribution_version("dspy")

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
        canonical = self._canonical(program_class)
        return self._register(
            canonical,
            name or canonical.class_name or "program",
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
        if not optimizer_name:
            raise InvalidInput(
                "register_optimized_program needs the optimizer_name, e.g. 'dspy.BootstrapFewShot'"
            )
        parent = self._resolve(parent_id, parent_version or "latest")
        canonical = self._canonical(program_class)
        parent_held = self._held.get((parent.id, parent.content_hash))
        process_output = canonical.process_output or (parent_held.process_output if parent_held else None)
        return self._register(
            canonical,
            name or parent.name,
            process_output,
            program_id=None if name else parent.id,
            description=description,
            tags=parent.tags if tags is None else tags,
            parent=parent,
            optimizer={
                "name": optimizer_name,
                "params": plain(dict(optimizer_params or {})),
                "score": score,
                "run_id": run_id,
                "changed": canonical.content_hash != parent.content_hash,
            },
        )

    def _canonical(self, program_class: Any) -> Canonical:
        """``canonicalize``, remembered as long as nothing in the program changed."""
        kept = self._canonicals.get(id(program_class))
        if kept is not None and kept[0] is program_class and kept[1] == _token(program_class):
            return kept[2]
        canonical = canonicalize(program_class)
        with self._lock:
            while len(self._canonicals) >= _MOST_REMEMBERED:
                del self._canonicals[next(iter(self._canonicals))]
            self._canonicals[id(program_class)] = (program_class, _token(program_class), canonical)
        return canonical

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
        for label in (requested, base_version):
            if label is not None:
                Version.parse(label)
        tag_list = _tags(tags)
        lineage = (parent.id, parent.version, optimizer["name"]) if parent and optimizer else None
        asked = (program_id, canonical.content_hash, name, description, tuple(tag_list), requested, lineage)
        known = self.registry.of_content(program_id, canonical.content_hash)
        if known is None or asked not in self._answers:
            known = self._offer(
                canonical, program_id, name, description, tag_list, requested, base_version, parent, optimizer
            )
        with self._lock:
            self._answers[asked] = canonical.content_hash
        self._hold(program_id, canonical, process_output, known)
        return known

    def _offer(
        self,
        canonical: Canonical,
        program_id: str,
        name: str,
        description: str | None,
        tags: list[str],
        requested: str | None,
        base_version: str | None,
        parent: ProgramMetadata | None,
        optimizer: dict[str, Any] | None,
    ) -> ProgramMetadata:
        """Send a registration; what became of it."""
        now = utc_now()
        data = {
            "program_id": program_id,
            "name": name,
            "version": "",
            "content_hash": canonical.content_hash,
            "code_hash": canonical.code_hash,
            "description": description,
            "tags": tags,
            "class_name": canonical.class_name,
            "module_path": canonical.module_path,
            "source_code": canonical.source_code,
            "signature": canonical.signature,
            "interface": canonical.interface,
            "kind": canonical.kind,
            "parent_id": parent.id if parent else None,
            "parent_version": parent.version if parent else None,
            "optimizer": optimizer,
            "dspy_version": self._dspy_version,
            "created_at": now,
        }
        state = json_bytes(canonical.state) if self.ledger.settings.capture_demos else None
        proposal = Proposal(
            str(uuid_utils.uuid7()), now, plain(data), state, requested=requested, base_version=base_version
        )
        metadata, warning = self.registry.register(proposal)
        if warning:
            warnings.warn(warning, stacklevel=4)
        return metadata

    def _hold(
        self,
        program_id: str,
        canonical: Canonical,
        process_output: Callable[[Any], Any] | None,
        metadata: ProgramMetadata,
    ) -> None:
        with self._lock:
            self._held[program_id, canonical.content_hash] = _Held(
                canonical.program, canonical, process_output
            )
            if not Version.parse(metadata.version).is_prerelease:
                self._latest[program_id] = canonical.content_hash

    def registration_of(self, program_class: Any) -> ProgramMetadata | None:
        """This process's registration of that content, under whatever name; None when there is none.

        Raises:
            InvalidProgram: it is no program.
        """
        content = self._canonical(program_class).content_hash
        with self._lock:
            program_id = next((held for held, hash_ in self._held if hash_ == content), None)
        return None if program_id is None else self.registry.of_content(program_id, content)

    # --- running ---

    async def execute_program(
        self,
        program_id: str,
        model_id: str,
        input_data: Mapping[str, Any],
        program_version: str = "latest",
        trace_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> tuple[Any, ExecutionInfo]:
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
        model = self.model_manager.describe(model_id)
        lm = self.model_manager.get_lm(model_id)
        version, held = self._runnable(program_id, program_version)
        check_inputs(program_id, held.canonical.interface, input_data, takes_more=held.canonical.takes_more)
        execution_id = str(uuid_utils.uuid7())
        this = await run(held.program, lm, input_data, held.process_output)
        pinned = any(getattr(p, "lm", None) is not None for _, p in held.program.named_parameters())
        version = self.registry.of_content(program_id, version.content_hash) or version
        info = ExecutionInfo(
            execution_id=execution_id,
            program_id=program_id,
            program_name=version.name,
            program_version=version.version or None,
            content_hash=version.content_hash,
            model_id=model_id,
            model_info=model.info(),
            models=[self.model_manager.id_of(used) for used in this.capture.lms],
            model_pinned=pinned,
            timestamp=this.started_at,
            latency_ms=this.latency_ms,
            usage=this.capture.usage(),
            cost_usd=this.capture.cost_usd(),
            trace_id=trace_id,
            prediction=this.prediction,
        )
        self._record_execution(info, this, input_data, metadata, undecided=version.provisional)
        if this.error is not None:
            this.error.add_note(f"execution_id={execution_id}")
            raise this.error
        return this.value, info

    def _record_execution(
        self,
        info: ExecutionInfo,
        this: Run,
        inputs: Mapping[str, Any],
        metadata: Mapping[str, Any] | None,
        *,
        undecided: bool,
    ) -> None:
        error = this.error
        data = {
            "execution_id": info.execution_id,
            "program_id": info.program_id,
            "program_version": None if undecided else info.program_version,
            "content_hash": info.content_hash,
            "program_name": info.program_name,
            "model_id": info.model_id,
            "model_info": info.model_info,
            "models": info.models,
            "model_pinned": info.model_pinned,
            "status": "ok" if error is None else "error",
            "error": None if error is None else _described(error),
            "started_at": info.timestamp,
            "latency_ms": round(info.latency_ms, 3),
            "usage": info.usage,
            "cost_usd": info.cost_usd,
            "call_counts": dict(this.capture.counts),
            "trace_id": info.trace_id,
            "metadata": plain(dict(metadata or {})),
            "adapter": this.adapter,
            "dspy_version": self._dspy_version,
        }
        settings = self.ledger.settings
        body: dict[str, Any] = {"calls": [call.as_dict() for call in this.capture.calls]}
        if settings.capture_inputs:
            body["inputs"] = dict(inputs)
        if settings.capture_outputs:
            body["outputs"] = None if this.prediction is None else _fields(this.prediction)
        self.ledger.record(
            "ExecutionCompleted", data, body=body, subject=info.program_id, event_id=info.execution_id
        )

    def _runnable(self, program_id: str, version: str) -> tuple[ProgramMetadata, _Held]:
        """A version and the code this process runs for it."""
        metadata = self._resolve(program_id, version)
        held = self._held.get((program_id, metadata.content_hash))
        if held is None:
            held = self._load_into_held(metadata)
        content = self._canonical(held.program).content_hash
        if content != metadata.content_hash:
            # The host changed the instance after registering it. What ran is what is recorded.
            warnings.warn(
                f"{program_id!r} was changed after it was registered; register it again to give it a version",
                stacklevel=3,
            )
            known = self.registry.of_content(program_id, content)
            metadata = known or replace(metadata, content_hash=content, version="", provisional=True)
        return metadata, held

    def _resolve(self, program_id: str, version: str) -> ProgramMetadata:
        content = self._latest.get(program_id) if version == "latest" else None
        if content is not None and (known := self.registry.of_content(program_id, content)) is not None:
            return known
        return self.registry.find(program_id, version)

    def _load_into_held(self, metadata: ProgramMetadata) -> _Held:
        """Code for a version that this process did not register: another version's, if it fits."""
        ours = [held for (program_id, _), held in list(self._held.items()) if program_id == metadata.id]
        if not ours:
            raise VersionNotRunnable(
                f"this process holds no code of {metadata.id!r}; register the program here, or pass its"
                f" class to load_program({metadata.id!r}, {metadata.version!r}, into=…)"
            )
        reasons = []
        for held in reversed(ours):
            try:
                program = self._load(metadata, held.program)
            except VersionNotRunnable as error:
                reasons.append(str(error))
            else:
                canonical = canonicalize(program)
                loaded = _Held(program, canonical, canonical.process_output or held.process_output)
                with self._lock:
                    self._held[metadata.id, metadata.content_hash] = loaded
                return loaded
        raise VersionNotRunnable(reasons[0])

    def _load(self, metadata: ProgramMetadata, into: Any) -> Any:
        state = self.registry.state(metadata.id, metadata.content_hash, timeout=_LOAD)
        if state is None:
            raise VersionNotRunnable(
                f"{metadata.id} {metadata.version} was recorded without its state (CAPTURE_DEMOS was off)"
            )
        return load_checked(state, metadata.content_hash, into, lms=self.model_manager.by_model_name())

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
        metadata = self._resolve(program_id, version) if version != "latest" else self._highest(program_id)
        program = self._load(metadata, into)
        process_output = canonicalize(into).process_output
        self._hold(program_id, canonicalize(program), process_output, metadata)
        return program

    def _highest(self, program_id: str) -> ProgramMetadata:
        return self.registry.find(program_id, "latest")

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
            results: any JSON; its numbers are metrics.
            evaluation_id: saving again under the same id and model replaces it; None makes a new one.
            dataset: ``{"name": …, "size": …, "digest": …}``.
            rows: one value per example.

        Raises:
            UnknownProgram, UnknownVersion, UnknownModel: the message lists the known ids.
        """
        model = self.model_manager.describe(model_id)
        metadata = self._resolve(program_id, program_version)
        return self._save_evaluation(
            {
                "program_id": program_id,
                "program_version": None if metadata.provisional else metadata.version,
                "content_hash": metadata.content_hash,
                "model_id": model_id,
                "model_info": model.info(),
                "results": plain(results),
                "metric_name": metric_name,
                "dataset": None if dataset is None else plain(dict(dataset)),
            },
            evaluation_id,
            metadata.version,
            body=None if rows is None else {"rows": list(rows)},
        )

    def save_feedback(
        self, execution_id: str, score: float, comment: str | None = None, user: str | None = None
    ) -> EvaluationMetadata:
        """Save what somebody thought of one execution; program and model are taken from it."""
        return self._save_evaluation(
            {
                "execution_id": execution_id,
                "results": plain({"score": score, "comment": comment}),
                "user_id": user,
            },
            None,
            None,
        )

    def _save_evaluation(
        self, data: dict[str, Any], evaluation_id: str | None, version: str | None, *, body: Any = None
    ) -> EvaluationMetadata:
        event_id = str(uuid_utils.uuid7())
        evaluation_id = evaluation_id or event_id
        fields = {"evaluation_id": evaluation_id, **data, "created_at": utc_now()}
        self.ledger.record(
            "EvaluationSaved", fields, body=body, subject=data.get("program_id"), event_id=event_id
        )
        return EvaluationMetadata(
            event_id, evaluation_id, data.get("program_id"), version, data.get("model_id")
        )

    # --- questions ---

    def get_program(self, program_id: str, version: str = "latest") -> ProgramMetadata:
        """One version of a program.

        Raises:
            UnknownProgram, UnknownVersion: the message lists what is known.
        """
        return self._resolve(program_id, version)

    def list_programs(self, tags: Iterable[str] | None = None) -> list[ProgramMetadata]:
        """The latest version of every known program, by id; only those with all of ``tags``."""
        wanted = set(_tags(tags))
        self.registry.look()
        latest = [self._latest_of(program_id) for program_id in self.registry.program_ids()]
        return [metadata for metadata in latest if wanted <= set(metadata.tags)]

    def _latest_of(self, program_id: str) -> ProgramMetadata:
        versions = self.registry.versions(program_id)
        label = highest_release(m.version for m in versions)
        return next((m for m in versions if m.version == label), versions[-1])

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
        programs: list[dict[str, Any]] = []
        versions: list[dict[str, Any]] = []
        for known in self.registry.program_ids():
            rows = self.registry.versions(known)
            versions += [_version_row(metadata, len(versions) + n) for n, metadata in enumerate(rows)]
            programs.append(_program_row(rows, len(programs)))
        return program_tree(program_id, programs, versions)

    def get_available_models(self) -> list[ModelDescription]:
        """The configured models, in the order they were given."""
        return self.model_manager.list_models()


def _token(program_class: Any) -> Any:
    """What changes when the content of a program may have changed: compared, much cheaper than hashing."""
    if isinstance(program_class, type):
        return repr(program_class) if hasattr(program_class, "instructions") else None
    return program_class if isinstance(program_class, str) else fingerprint(program_class)


def _tags(tags: Iterable[str] | None) -> list[str]:
    found = [] if tags is None else [tags] if isinstance(tags, str) else list(tags)
    if not all(isinstance(tag, str) for tag in found):
        raise InvalidInput(f"tags are texts, not {found!r}")
    return found


def _described(error: BaseException) -> dict[str, str]:
    try:
        message = str(error)
    except Exception as hostile:  # noqa: BLE001  the exception is the host's
        message = f"(its text raises {type(hostile).__name__})"
    kept: dict[str, str] = plain({"type": type(error).__name__, "message": message[:10_000]})
    return kept


def _fields(prediction: Any) -> Any:
    items = getattr(type(prediction), "toDict", None)
    return items(prediction) if callable(items) else prediction


def _program_row(versions: list[ProgramMetadata], position: int) -> dict[str, Any]:
    first, last = versions[0], versions[-1]
    derived = first.parent_id not in (None, first.id)
    return {
        "program_id": first.id,
        "name": last.name,
        "parent_id": first.parent_id if derived else None,
        "parent_version": first.parent_version if derived else None,
        "position": position,
    }


def _version_row(metadata: ProgramMetadata, position: int) -> dict[str, Any]:
    return {
        "program_id": metadata.id,
        "version": metadata.version,
        "content_hash": metadata.content_hash,
        "parent_id": metadata.parent_id,
        "parent_version": metadata.parent_version,
        "kind": metadata.kind,
        "optimizer": metadata.optimizer,
        "created_at": metadata.created_at,
        "position": position,
    }
