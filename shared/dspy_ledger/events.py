"""The facts of the ledger: what each event says, and the CloudEvents envelope around it.

Models are read strictly (no coercion); unknown fields are ignored, and survive in the stored bytes. A body
(inputs, outputs, calls, rows, state) is never part of these models: it travels and is stored apart.
Names of measurements follow OpenTelemetry's GenAI terms.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_type_hints

from msgspec import Meta, Struct

from dspy_ledger.timestamps import canonical_time

__all__ = [
    "EVENT_MODELS",
    "EVENT_TYPES",
    "MOST",
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
]

MOST = 10**18
"""What no sequence number or count reaches: it and any sum of a few fit into 64 bits."""

Timestamp = str  # looked at by the struct that has it
Text = Annotated[str, Meta(min_length=1, max_length=512)]
Number = int | float
Count = Annotated[int, Meta(ge=0, lt=MOST)]
NotNegative = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]
Sequence = Annotated[int, Meta(ge=1, lt=MOST)]
Range = Annotated[list[Sequence], Meta(min_length=2, max_length=2)]


class _Fact(Struct, frozen=True, kw_only=True):
    pass


class ModelInfo(_Fact, frozen=True, kw_only=True):
    """What a model id stands for; never its additional parameters, which may hold secrets."""

    provider: str | None = None
    base_model: str | None = None
    model_name: str | None = None


class Optimizer(_Fact, frozen=True, kw_only=True):
    """How an optimized variant came about; ``changed`` is false when the run changed nothing."""

    name: str
    params: dict[str, Any] = {}
    score: Number | None = None
    run_id: str | None = None
    changed: bool = True


class ProgramRegistered(_Fact, frozen=True, kw_only=True):
    """A program's content was registered under a version. Body: its state."""

    program_id: Text
    name: str
    version: Text
    content_hash: Text
    code_hash: str | None = None
    description: str | None = None
    tags: list[str] = []
    class_name: str | None = None
    module_path: str | None = None
    source_code: str | None = None
    signature: dict[str, Any] | None = None
    interface: dict[str, Any] | None = None
    kind: str
    parent_id: str | None = None
    parent_version: str | None = None
    optimizer: Optimizer | None = None
    dspy_version: str | None = None
    created_at: Timestamp

    def __post_init__(self) -> None:
        canonical_time(self.created_at)


class ExecutionError(_Fact, frozen=True, kw_only=True):
    """The exception that ended an execution."""

    type: str
    message: str


class ExecutionCompleted(_Fact, frozen=True, kw_only=True):
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
    models: list[str] = []
    model_pinned: bool = False
    status: Literal["ok", "error"]
    error: ExecutionError | None = None
    started_at: Timestamp
    latency_ms: NotNegative
    time_to_first_chunk_ms: Number | None = None
    usage: dict[str, Number] = {}
    cost_usd: Number | None = None
    call_counts: dict[str, int] = {}
    trace_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    tags: list[str] = []
    metadata: dict[str, Any] = {}
    truncated: list[str] = []
    adapter: str | None = None
    dspy_version: str | None = None

    def __post_init__(self) -> None:
        canonical_time(self.started_at)


class EvaluationSaved(_Fact, frozen=True, kw_only=True):
    """Results of an evaluation; of one execution (feedback) when ``execution_id`` is set. Body: rows."""

    evaluation_id: Text
    program_id: Text | None = None
    program_version: str | None = None
    content_hash: str | None = None
    model_id: str | None = None
    model_info: ModelInfo | None = None
    results: Any
    metric_name: str | None = None
    dataset: dict[str, Any] | None = None
    execution_id: str | None = None
    user_id: str | None = None
    truncated: list[str] = []
    created_at: Timestamp

    def __post_init__(self) -> None:
        canonical_time(self.created_at)


class ProducerReported(_Fact, frozen=True, kw_only=True):
    """A producer's own account: its first and last sequence, and the numbers that will never come."""

    first: Sequence
    last: Count
    dropped: list[Range] = []
    unconfirmed: list[Range] = []
    sampled_out: Count = 0
    reason: Literal["start", "interval", "close"]


class BodyErased(_Fact, frozen=True, kw_only=True):
    """The bodies of these events were erased."""

    event_ids: list[str]
    reason: str


class Envelope(Struct, frozen=True, kw_only=True):
    """CloudEvents 1.0 context attributes, with our extensions.

    ``sequence`` is the producer's own counter, ten digits or more; ``bodydigest`` is ``sha256:…`` of the
    body's bytes; ``subject`` is the program id where there is one.
    """

    specversion: Literal["1.0"]
    id: Text
    source: Text
    subject: str | None = None
    time: Timestamp
    datacontenttype: Literal["application/json"] = "application/json"
    sequence: Annotated[str, Meta(pattern=r"^[0-9]{1,18}\Z")]
    bodydigest: str | None = None
    environment: str | None = None
    service: str | None = None
    release: str | None = None

    def __post_init__(self) -> None:
        canonical_time(self.time)


class ProgramRegisteredEvent(Envelope, frozen=True, kw_only=True):
    """Envelope of ProgramRegistered."""

    type: Literal["org.dspy-ledger.ProgramRegistered.v1"]
    data: ProgramRegistered


class ExecutionCompletedEvent(Envelope, frozen=True, kw_only=True):
    """Envelope of ExecutionCompleted."""

    type: Literal["org.dspy-ledger.ExecutionCompleted.v1"]
    data: ExecutionCompleted


class EvaluationSavedEvent(Envelope, frozen=True, kw_only=True):
    """Envelope of EvaluationSaved."""

    type: Literal["org.dspy-ledger.EvaluationSaved.v1"]
    data: EvaluationSaved


class ProducerReportedEvent(Envelope, frozen=True, kw_only=True):
    """Envelope of ProducerReported."""

    type: Literal["org.dspy-ledger.ProducerReported.v1"]
    data: ProducerReported


class BodyErasedEvent(Envelope, frozen=True, kw_only=True):
    """Envelope of BodyErased."""

    type: Literal["org.dspy-ledger.BodyErased.v1"]
    data: BodyErased


_MODELS: tuple[type[Envelope], ...] = (
    ProgramRegisteredEvent,
    ExecutionCompletedEvent,
    EvaluationSavedEvent,
    ProducerReportedEvent,
    BodyErasedEvent,
)

EVENT_TYPES: dict[str, str] = {
    model.__name__.removesuffix("Event"): get_args(get_type_hints(model)["type"])[0] for model in _MODELS
}
"""Short name (``ExecutionCompleted``) → the type attribute on the wire."""

EVENT_MODELS: dict[str, type[Envelope]] = dict(zip(EVENT_TYPES.values(), _MODELS, strict=True))
"""The type attribute on the wire → what an event of it must be like."""
