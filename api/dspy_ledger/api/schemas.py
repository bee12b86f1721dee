"""The shapes of all answers, for the OpenAPI document; answers themselves are not run through them.

A test holds real answers against these models, so that the two say the same.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

__all__ = [
    "Asked",
    "DeadLetter",
    "DeadLetterPage",
    "Differences",
    "Dropped",
    "Evaluation",
    "EvaluationDetail",
    "EvaluationPage",
    "Event",
    "EventPage",
    "Execution",
    "ExecutionDetail",
    "ExecutionPage",
    "Live",
    "Matrix",
    "Model",
    "ModelPage",
    "ProblemDetails",
    "Producer",
    "ProducerPage",
    "Program",
    "ProgramDetail",
    "ProgramPage",
    "ProgramTree",
    "Ready",
    "Retried",
    "Stats",
    "Version",
    "VersionDetail",
    "VersionPage",
]

Json = dict[str, JsonValue]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class _Page(_Shape):
    next_cursor: str | None = Field(description="Pass it as cursor for the next page; null on the last.")


class ProblemDetails(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str


class Totals(_Shape):
    """Sums over executions, each over those that told the number, and how many did; null when none did."""

    executions: int
    errors: int
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    input_known: int
    output_known: int
    cost_known: int
    mean_latency_ms: float | None


class ModelTotals(Totals):
    """The executions on one model; ``model_id`` is null for those that named none."""

    model_id: str | None


class Program(_Shape):
    """A program; ``latest_version`` is its highest release, null while there are only pre-releases."""

    id: str
    name: str
    description: str | None
    tags: list[str]
    kind: str
    parent_id: str | None
    parent_version: str | None
    latest_version: str | None
    created_at: str
    updated_at: str
    position: int = Field(description="Ledger position of its first registration.")


class ProgramPage(_Page):
    """Programs by id."""

    items: list[Program]


class ProgramDetail(Program):
    """A program with its version labels, in order of registration."""

    versions: list[str]
    totals: Totals | None = Field(description="Of now only: null when asked as_of.")


class Version(_Shape):
    """One content of the program ``id``, under its label."""

    id: str
    version: str
    content_hash: str
    name: str
    description: str | None
    tags: list[str]
    kind: str
    parent_id: str | None
    parent_version: str | None
    optimizer: Json | None
    class_name: str | None
    module_path: str | None
    code_hash: str | None
    dspy_version: str | None
    created_at: str
    event_id: str
    position: int


class VersionPage(_Page):
    """Versions in order of registration."""

    items: list[Version]


class VersionDetail(Version):
    """Everything known of a version; ``state`` is null when it was not captured."""

    proposed: str = Field(description="The label its producer proposed.")
    signature: Json | None
    interface: Json | None
    source_code: str | None
    state: JsonValue
    totals: list[ModelTotals] | None = Field(description="Of now only: null when asked as_of.")


class TreeVersion(_Shape):
    """A version with the versions and the programs that came from it."""

    version: str
    content_hash: str
    parent_id: str | None
    parent_version: str | None
    kind: str
    optimizer: str | None
    created_at: str
    children: list[TreeVersion]
    derived: list[ProgramTree]


class TreeParent(_Shape):
    """Where a derived program came from."""

    id: str
    version: str | None


class ProgramTree(_Shape):
    """A program's versions; ``derived`` has the programs that name no known version of it."""

    id: str
    name: str
    parent: TreeParent | None
    versions: list[TreeVersion]
    derived: list[ProgramTree]


class Execution(_Shape):
    """One execution; ``program_version`` is null until its content's registration is known."""

    position: int
    execution_id: str
    program_id: str
    program_name: str | None
    program_version: str | None
    content_hash: str | None
    model_id: str | None
    provider: str | None
    base_model: str | None
    status: Literal["ok", "error"]
    error_type: str | None
    error_message: str | None
    started_at: str
    time: str
    latency_ms: float
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    model_pinned: bool
    trace_id: str | None
    session_id: str | None
    user_id: str | None
    tags: list[str]
    environment: str | None
    service: str | None
    release: str | None


class ExecutionPage(_Page):
    """Executions, newest first; it may hold fewer than asked for and not be the last."""

    items: list[Execution]


class Evaluation(_Shape):
    """Results of an evaluation; of one execution (feedback) when ``execution_id`` is set."""

    position: int
    evaluation_id: str
    program_id: str | None
    program_version: str | None
    content_hash: str | None
    model_id: str | None
    provider: str | None
    base_model: str | None
    metric_name: str | None
    results: JsonValue
    dataset: Json | None
    execution_id: str | None
    user_id: str | None
    event_id: str
    created_at: str


class EvaluationPage(_Page):
    """Evaluations, newest first."""

    items: list[Evaluation]


class EvaluationDetail(Evaluation):
    """An evaluation with one score and one row per example; null when not captured, or erased."""

    truncated: list[str]
    source: str
    sequence: int
    recorded_at: str
    scores: JsonValue
    rows: JsonValue


class ExecutionDetail(Execution):
    """An execution with everything its event says, what went in and came out, and its newest feedback.

    ``inputs``, ``outputs`` and ``calls`` are null when they were not captured or have been erased. Fields
    that this release does not know, of a newer producer, are there too.
    """

    model_config = ConfigDict(extra="allow")

    model_info: Json | None
    models: list[str]
    error: Json | None
    time_to_first_chunk_ms: float | None
    usage: Json
    call_counts: Json
    metadata: Json
    truncated: list[str]
    adapter: str | None
    dspy_version: str | None
    event_id: str
    source: str
    sequence: int
    recorded_at: str
    inputs: JsonValue
    outputs: JsonValue
    calls: JsonValue
    feedback: list[Evaluation] = Field(description="The newest 100.")
    feedback_count: int = Field(description="How many there are.")


class Measured(_Shape):
    """One metric's value in one evaluation."""

    value: float
    evaluation_id: str
    position: int
    created_at: str


class Cell(_Shape):
    """One version on one model: how many evaluations tell the metric, and what executions took."""

    version: str | None = Field(description="Null for contents that are not registered.")
    model_id: str | None = Field(description="Null where no model was named.")
    evaluations: int
    latest: Measured | None
    best: Measured | None = Field(description="The highest value, the latest of them.")
    totals: Totals | None = Field(description="Of now only: null when asked as_of, or nothing was executed.")


class Metric(_Shape):
    """A number that evaluations tell, and how many do; what is nested has a dotted name."""

    name: str
    evaluations: int


class Matrix(_Shape):
    """A metric by version, in order of registration, and model, by id; without cells that hold nothing."""

    program_id: str
    metric: str | None = Field(description="Null when no evaluation tells a number.")
    metrics: list[Metric]
    versions: list[str | None]
    models: list[str | None]
    cells: list[Cell]


class Difference(_Shape):
    """One member that differs; ``from`` is null when it was added, ``to`` when it was removed."""

    name: str
    change: Literal["added", "removed", "changed"]
    before: JsonValue = Field(alias="from")
    after: JsonValue = Field(alias="to")


class Line(_Shape):
    """One line of a text, or of two."""

    tag: Literal["equal", "removed", "added"]
    text: str


class LineDifferences(_Shape):
    """Two texts as one list of lines."""

    changed: bool
    lines: list[Line]


class DemoDifferences(_Shape):
    """How many demos there were and are, and those that came and went; a changed one does both."""

    before: int = Field(alias="from")
    after: int = Field(alias="to")
    kept: int
    reordered: bool
    removed: list[JsonValue]
    added: list[JsonValue]


class InterfaceDifferences(_Shape):
    """What callers notice."""

    change: Literal["major", "minor", "patch", "none"]
    inputs: list[Difference]
    outputs: list[Difference]


class PredictorDifferences(_Shape):
    """One predictor; ``config``, ``demos`` and ``settings`` are null where a state is missing."""

    path: str
    change: Literal["added", "removed", "changed", "none"]
    instructions: LineDifferences | None
    inputs: list[Difference]
    outputs: list[Difference]
    config: list[Difference] | None
    demos: DemoDifferences | None
    settings: list[Difference] | None


class ComparedVersion(_Shape):
    """One of two versions; without a state where it was not captured, or has been erased."""

    version: str
    content_hash: str
    position: int
    created_at: str
    has_state: bool


class Differences(_Shape):
    """What changes from one version to another, and what the version rule makes of it."""

    program_id: str
    before: ComparedVersion = Field(alias="from")
    after: ComparedVersion = Field(alias="to")
    verdict: Literal["major", "minor", "patch", "none"]
    interface: InterfaceDifferences | None
    predictors: list[PredictorDifferences]
    modules: list[Difference] | None
    source_code: LineDifferences | None
    facts: list[Difference]


class Numbers(Totals):
    """Totals with latencies' quantiles, within 1.6 %; null where there were no executions."""

    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    error_rate: float | None


class Bucket(Numbers):
    """An hour, day, week or month, without executions too."""

    start: str


class StatsGroup(_Shape):
    """One program, version, model or environment; null where executions named none."""

    group: dict[str, str | None]
    totals: Numbers
    buckets: list[Bucket]


class Stats(_Shape):
    """Executions from ``since`` to ``until``, which lie at bounds of buckets; null without executions."""

    since: str | None
    until: str | None
    bucket: Literal["hour", "day", "week", "month"] | None
    group_by: Literal["program", "version", "model", "environment"] | None
    totals: Numbers
    buckets: list[Bucket] = Field(description="Without gaps; empty unless bucket was given.")
    groups: list[StatsGroup] = Field(description="Empty unless group_by was given.")


class Model(_Shape):
    """A model of the models file (``configured``), or one that executions named."""

    model_id: str
    provider: str | None
    base_model: str | None
    model_name: str | None
    configured: bool
    first_seen: str | None
    last_seen: str | None


class ModelPage(_Page):
    """Models by id; ``warnings`` tells when the models file can't be read in full."""

    items: list[Model]
    warnings: list[str]


class Producer(_Shape):
    """What a producer recorded, and what became of it; ranges are of its own numbers, both ends included."""

    source: str
    recorded: int = Field(description="The highest number it is known to have given.")
    stored: int
    dead_lettered: int
    dropped: list[list[int]] = Field(description="Ranges it reported as dropped, and that did not arrive.")
    unconfirmed: list[list[int]] = Field(
        description="Ranges it let go before they were known to be stored, and that did not arrive."
    )
    sampled_out: int
    missing: list[list[int]] = Field(description="Ranges on their way or lost, as of its last report.")
    stored_mark: int
    first_seen: str
    last_seen: str


class ProducerPage(_Page):
    """Producers by source."""

    items: list[Producer]


class Event(_Shape):
    """One event of the ledger; ``body`` is there when it was asked for, null when there is none any more."""

    position: int
    recorded_at: str
    program_version: str | None = Field(description="The label of its program_id and content_hash.")
    event: Json = Field(description="The CloudEvent, as it came.")
    body: JsonValue = None


class EventPage(_Page):
    """Events in order of position; it may hold fewer than asked for and not be the last."""

    items: list[Event]
    last_position: int = Field(description="Everything up to here was gone through; give it as after later.")


class DeadLetter(_Shape):
    """An entry of the stream that is no valid event, without its bytes: `dspy-ledger deadletters show`."""

    id: int
    recorded_at: str
    stream_id: str
    source: str | None
    sequence: int | None
    reason: str
    detail: str


class DeadLetterPage(_Page):
    """Dead letters, newest first."""

    items: list[DeadLetter]


class Retried(_Shape):
    """What became of a dead letter that was read again; each is 0 or 1."""

    stored: int = Field(description="It was an event, and is in the ledger now.")
    duplicates: int = Field(description="It was an event that the ledger had already.")
    left: int = Field(description="It is a dead letter still.")


class Dropped(_Shape):
    """How many dead letters were given up: 0 when it was gone in the meantime."""

    dropped: int


class Asked(_Shape):
    """What was asked for is not done yet; ``request`` is its number in the projector's log."""

    request: int


class Live(_Shape):
    """The process answers."""

    status: Literal["live"]


class Ready(_Shape):
    """Questions can be answered; ``position`` is the view's."""

    status: Literal["ready"]
    position: int
