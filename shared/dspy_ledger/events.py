"""The facts of the ledger: what each event says, and the CloudEvents envelope around it.

Models are strict (no coercion) and ignore unknown fields, which survive in the stored bytes. A body
(inputs, outputs, calls, rows, state) is never part of these models: it travels and is stored apart.
Names of measurements follow OpenTelemetry's GenAI terms.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from dspy_ledger.timestamps import canonical_time

__all__ = [
    "EVENT_TYPES",
    "AnyEvent",
    "BodyErased",
    "BodyErasedEvent",
    "Envelope",
    "EvaluationSaved",
    "EvaluationSavedEvent",
    "ExecutionCompleted",
    "ExecutionCompletedEvent",
    "ExecutionError",
    "ModelInfo",
    "Optimizer",
    "ProducerReported",
    "ProducerReportedEvent",
    "ProgramRegistered",
    "ProgramRegisteredEvent",
    "event_adapter",
]

Timestamp = Annotated[str, AfterValidator(canonical_time)]
Text = Annotated[str, Field(min_length=1, max_length=512)]
Number = int | float
Range = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]


class _Fact(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, protected_namespaces=())


class ModelInfo(_Fact):
    """What a model id stands for; never its additional parameters, which may hold secrets."""

    provider: str | None = None
    base_model: str | None = None
    model_name: str | None = None


class Optimizer(_Fact):
    """How an optimized variant came about; ``changed`` is false when the run changed nothing."""

    name: str
    params: dict[str, JsonValue] = Field(default_factory=dict)
    score: Number | None = None
    run_id: str | None = None
    changed: bool = True


class ProgramRegistered(_Fact):
    """A program's content was registered under a version. Body: its state."""

    program_id: Text
    name: str
    version: Text
    content_hash: Text
    code_hash: str | None = None
    description: str | None = None
    tags: list[str] = Field(default_factory=list)
    class_name: str | None = None
    module_path: str | None = None
    source_code: str | None = None
    signature: dict[str, JsonValue] | None = None
    interface: dict[str, JsonValue] | None = None
    kind: str
    parent_id: str | None = None
    parent_version: str | None = None
    optimizer: Optimizer | None = None
    dspy_version: str | None = None
    created_at: Timestamp


class ExecutionError(_Fact):
    """The exception that ended an execution."""

    type: str
    message: str


class ExecutionCompleted(_Fact):
    """One root call of a program ended, well or badly. Body: inputs, outputs, calls.

    ``latency_ms`` and ``time_to_first_chunk_ms`` are milliseconds, ``cost_usd`` US dollars (null when no
    price is known), ``usage`` token counts summed over the calls that were billed.
    """

    execution_id: Text
    program_id: Text
    program_version: str | None = None
    content_hash: str | None = None
    program_name: str | None = None
    model_id: str | None = None
    model_info: ModelInfo | None = None
    models: list[str] = Field(default_factory=list)
    model_pinned: bool = False
    status: Literal["ok", "error"]
    error: ExecutionError | None = None
    started_at: Timestamp
    latency_ms: Number = Field(ge=0)
    time_to_first_chunk_ms: Number | None = None
    usage: dict[str, Number] = Field(default_factory=dict)
    cost_usd: Number | None = None
    call_counts: dict[str, int] = Field(default_factory=dict)
    trace_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    tags: list[str] = Field(default_factory=list)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    truncated: list[str] = Field(default_factory=list)
    adapter: str | None = None
    dspy_version: str | None = None


class EvaluationSaved(_Fact):
    """Results of an evaluation; of one execution (feedback) when ``execution_id`` is set. Body: rows."""

    evaluation_id: Text
    program_id: Text | None = None
    program_version: str | None = None
    content_hash: str | None = None
    model_id: str | None = None
    model_info: ModelInfo | None = None
    results: JsonValue
    metric_name: str | None = None
    dataset: dict[str, JsonValue] | None = None
    execution_id: str | None = None
    user_id: str | None = None
    truncated: list[str] = Field(default_factory=list)
    created_at: Timestamp


class ProducerReported(_Fact):
    """A producer's own account: its first and last sequence, and the numbers that will never come."""

    first: int = Field(ge=1)
    last: int = Field(ge=0)
    dropped: list[Range] = Field(default_factory=list)
    unconfirmed: list[Range] = Field(default_factory=list)
    sampled_out: int = Field(0, ge=0)
    reason: Literal["start", "interval", "close"]


class BodyErased(_Fact):
    """The bodies of these events were erased."""

    event_ids: list[str]
    reason: str


class Envelope(BaseModel):
    """CloudEvents 1.0 context attributes, with our extensions.

    ``sequence`` is the producer's own counter, ten digits or more; ``bodydigest`` is ``sha256:…`` of the
    body's bytes; ``subject`` is the program id where there is one.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    specversion: Literal["1.0"]
    id: Text
    source: Text
    subject: str | None = None
    time: Timestamp
    datacontenttype: Literal["application/json"] = "application/json"
    sequence: Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
    bodydigest: str | None = None
    environment: str | None = None
    service: str | None = None
    release: str | None = None


class ProgramRegisteredEvent(Envelope):
    """Envelope of ProgramRegistered."""

    type: Literal["org.dspy-ledger.ProgramRegistered.v1"]
    data: ProgramRegistered


class ExecutionCompletedEvent(Envelope):
    """Envelope of ExecutionCompleted."""

    type: Literal["org.dspy-ledger.ExecutionCompleted.v1"]
    data: ExecutionCompleted


class EvaluationSavedEvent(Envelope):
    """Envelope of EvaluationSaved."""

    type: Literal["org.dspy-ledger.EvaluationSaved.v1"]
    data: EvaluationSaved


class ProducerReportedEvent(Envelope):
    """Envelope of ProducerReported."""

    type: Literal["org.dspy-ledger.ProducerReported.v1"]
    data: ProducerReported


class BodyErasedEvent(Envelope):
    """Envelope of BodyErased."""

    type: Literal["org.dspy-ledger.BodyErased.v1"]
    data: BodyErased


AnyEvent = Annotated[
    ProgramRegisteredEvent
    | ExecutionCompletedEvent
    | EvaluationSavedEvent
    | ProducerReportedEvent
    | BodyErasedEvent,
    Field(discriminator="type"),
]

event_adapter: TypeAdapter[Any] = TypeAdapter(AnyEvent)
"""Validates a decoded envelope; the ``type`` attribute picks the model."""

EVENT_TYPES: dict[str, str] = {
    model.__name__.removesuffix("Event"): model.model_fields["type"].annotation.__args__[0]  # type: ignore[union-attr]
    for model in (
        ProgramRegisteredEvent,
        ExecutionCompletedEvent,
        EvaluationSavedEvent,
        ProducerReportedEvent,
        BodyErasedEvent,
    )
}
"""Short name (``ExecutionCompleted``) → the type attribute on the wire."""
