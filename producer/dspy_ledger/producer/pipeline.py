"""Pipelines of processors over text and other media, each step one recorded execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from dspy_ledger.errors import InvalidFields, InvalidInput
from dspy_ledger.producer.execution import ExecutionInfo
from dspy_ledger.producer.models import ModelManager
from dspy_ledger.producer.programs import ProgramManager

__all__ = [
    "DSPyModelBackend",
    "MediaType",
    "ModelProcessor",
    "Pipeline",
    "PipelineData",
    "Processor",
    "create_text_processor",
]


class MediaType(StrEnum):
    """What the content of pipeline data is."""

    TEXT = "text"
    JSON = "json"
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class PipelineData:
    """What goes from step to step. ``metadata["execution_info"]`` is the last step's execution."""

    media_type: MediaType
    content: Any
    metadata: dict[str, Any] = field(default_factory=dict)


class Processor(Protocol):
    """One step of a pipeline."""

    async def process(self, data: PipelineData) -> PipelineData:
        """The next data; the one given stays as it is."""


class Pipeline:
    """Processors, one after the other.

    Raises:
        InvalidInput: there is no processor.
    """

    def __init__(self, processors: Sequence[Processor]) -> None:
        if not processors:
            raise InvalidInput("a pipeline needs at least one processor")
        self.processors = list(processors)

    async def execute(self, data: PipelineData) -> PipelineData:
        """The data after the last step; what a step raises ends the pipeline and is raised here."""
        for processor in self.processors:
            data = await processor.process(data)
        return data


@dataclass(frozen=True, slots=True)
class DSPyModelBackend:
    """A program on a model: what a processor runs.

    ``program_version`` as in ``execute_program``; ``metadata`` is kept with every execution.
    """

    program_manager: ProgramManager
    model_id: str
    program_id: str
    program_version: str = "latest"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    async def predict(
        self, input_data: Mapping[str, Any], trace_id: str | None = None
    ) -> tuple[Any, ExecutionInfo]:
        """Run it; see ``ProgramManager.execute_program`` for what is returned and raised."""
        return await self.program_manager.execute_program(
            program_id=self.program_id,
            model_id=self.model_id,
            input_data=input_data,
            program_version=self.program_version,
            trace_id=trace_id,
            metadata=self.metadata,
        )

    def input_names(self) -> list[str]:
        """The program's input fields."""
        interface = self.program_manager.get_program(self.program_id, self.program_version).interface
        return [one["name"] for one in (interface or {}).get("inputs", ())]


class ModelProcessor:
    """A step that runs a program: the content goes into its only input, or a dict into its fields."""

    def __init__(self, backend: DSPyModelBackend, accepts: MediaType = MediaType.TEXT) -> None:
        self.backend = backend
        self.accepts = accepts

    async def process(self, data: PipelineData) -> PipelineData:
        """Content becomes the program's output, the rest of the data stays.

        The output is ``process_output``'s value, else the only output field's, else a dict of them.

        Raises:
            InvalidInput: other media than this step takes.
            InvalidFields: a program of several inputs needs a dict as content.
        """
        if data.media_type not in (self.accepts, MediaType.JSON):
            raise InvalidInput(f"this processor takes {self.accepts.value}, not {data.media_type.value}")
        value, info = await self.backend.predict(self._inputs(data.content), data.metadata.get("trace_id"))
        content = _only_output(value) if value is info.prediction else value
        return replace(data, content=content, metadata={**data.metadata, "execution_info": info})

    def _inputs(self, content: Any) -> Mapping[str, Any]:
        names = self.backend.input_names()
        if isinstance(content, Mapping) and set(content) <= set(names):
            return content
        if len(names) == 1:
            return {names[0]: content}
        raise InvalidFields(
            f"{self.backend.program_id!r} has the inputs {', '.join(names)}; pass a dict of them as content"
        )


def _only_output(prediction: Any) -> Any:
    outputs = dict(prediction.items())
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def create_text_processor(
    *,
    model_manager: ModelManager,
    model_id: str,
    program_manager: ProgramManager,
    metadata: Mapping[str, Any] | None = None,
    program_class: Any = None,
    name: str = "Text Completion",
) -> ModelProcessor:
    """A processor that completes or answers text.

    It runs this process's registration of its signature, whatever that was named; only when there is none
    it registers one as ``name``.

    Args:
        model_manager: must know ``model_id``.
        metadata: kept with every execution.
        program_class: another program than the shipped ``Predictor``.

    Raises:
        UnknownModel: the message lists the known ids.
    """
    model_manager.describe(model_id)
    if program_class is None:
        from dspy_ledger.producer.predictor import Predictor  # noqa: PLC0415  needs dspy

        program_class = Predictor
    program = program_manager.registration_of(program_class) or program_manager.register_program(
        program_class=program_class, name=name
    )
    backend = DSPyModelBackend(program_manager, model_id, program.id, metadata=dict(metadata or {}))
    return ModelProcessor(backend)
