"""The fold of the SQL read models: events in, rows out; no database here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.histogram import bucket_of, encode
from dspy_ledger.projector.catalog import Catalog, Program
from dspy_ledger.store import StoredEvent
from dspy_ledger.timestamps import canonical_time

__all__ = ["HourKey", "RollUp", "Row", "Rows", "fold"]

_REGISTERED = EVENT_TYPES["ProgramRegistered"]
_EXECUTED = EVENT_TYPES["ExecutionCompleted"]
_EVALUATED = EVENT_TYPES["EvaluationSaved"]
_MOST = 10**15  # tokens, picodollars or µs of one execution; keeps a hostile number within 64 bits
_MOST_TOTAL = 2**63 - 1
_HOUR = len("2026-11-22T10")

Row = tuple[Any, ...]

HourKey = tuple[str, str, str, str, str]
"""Program id, hour, content hash, model id, environment; '' where the event had none."""


@dataclass(slots=True)
class RollUp:
    """What executions add to the roll-ups; ``latencies`` are counts by bucket of the histogram."""

    executions: int = 0
    errors: int = 0
    input_known: int = 0
    input_tokens: int = 0
    output_known: int = 0
    output_tokens: int = 0
    cost_known: int = 0
    cost: int = 0
    latency: int = 0
    latencies: dict[int, int] = field(default_factory=dict)

    def sums(self) -> tuple[int, ...]:
        """The columns that ``totals`` and ``hours`` have in common, after the key."""
        return (
            self.executions, self.errors, self.input_known, min(self.input_tokens, _MOST_TOTAL),
            self.output_known, min(self.output_tokens, _MOST_TOTAL), self.cost_known,
            min(self.cost, _MOST_TOTAL), min(self.latency, _MOST_TOTAL),
        )  # fmt: skip


@dataclass(slots=True)
class Rows:
    """What a batch adds to each table, as parameters in the order of the table's columns.

    The tables' triggers close the rows that new ones replace. ``hours`` is what the batch adds to each
    roll-up, to be added to what there is.
    """

    programs: list[Row] = field(default_factory=list)
    program_tags: list[Row] = field(default_factory=list)
    versions: list[Row] = field(default_factory=list)
    wordings: list[Row] = field(default_factory=list)
    executions: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    hours: dict[HourKey, RollUp] = field(default_factory=dict)

    def hour_rows(self) -> list[Row]:
        """Parameters for ``hours``."""
        return [(*key, *rollup.sums(), encode(rollup.latencies)) for key, rollup in self.hours.items()]

    def total_rows(self) -> list[Row]:
        """Parameters for ``totals``: some keys more than once, since they are of each hour."""
        return [
            (program_id, content_hash, model_id, *rollup.sums())
            for (program_id, _, content_hash, model_id, _), rollup in self.hours.items()
        ]


def fold(batch: Sequence[StoredEvent], catalog: Catalog) -> Rows:
    """The rows of a batch.

    Args:
        batch: the next events.
        catalog: as it stood before the batch; folded on.
    """
    rows = Rows()
    for event in batch:
        if event.type == _EXECUTED:
            _fold_execution(event, rows)
        elif event.type == _EVALUATED:
            rows.evaluations.append(_evaluation(event))
        elif event.type == _REGISTERED:
            _fold_registration(event, rows, catalog)
    return rows


def _fold_registration(event: StoredEvent, rows: Rows, catalog: Catalog) -> None:
    data = event.data
    registered = catalog.register(data, event.position)
    if registered.new:
        rows.versions.append(_version(event, registered.content.version))
    if registered.new or registered.reworded:
        rows.wordings.append(
            (
                data["program_id"], data["content_hash"], event.position, None, data.get("description"),
                _tags(data),
            )
        )  # fmt: skip
    if registered.program_changed:
        program = registered.program
        rows.programs.append(_program(program, event.position))
        rows.program_tags += [
            (tag, program.program_id, event.position) for tag in dict.fromkeys(program.tags)
        ]


def _program(program: Program, position: int) -> Row:
    return (
        program.program_id, position, None, program.position, program.name, program.description,
        _json(program.tags), program.kind, program.parent_id, program.parent_version, program.latest,
        program.created_at, program.updated_at,
    )  # fmt: skip


def _version(event: StoredEvent, label: str) -> Row:
    data = event.data
    return (
        data["program_id"], data["content_hash"], event.position, label, data["version"], data["name"],
        data.get("parent_id"), data.get("parent_version"), _json_or_null(data.get("optimizer")), data["kind"],
        _json_or_null(data.get("signature")), _json_or_null(data.get("interface")), data.get("class_name"),
        data.get("module_path"), data.get("code_hash"), data.get("source_code"), data.get("dspy_version"),
        canonical_time(data["created_at"]), event.event_id,
    )  # fmt: skip


def _evaluation(event: StoredEvent) -> Row:
    data = event.data
    get = data.get
    model = get("model_info") or {}
    return (
        event.position, None, data["evaluation_id"], get("program_id"), get("content_hash"),
        get("model_id") or None, model.get("provider"), model.get("base_model"), model.get("model_name"),
        get("metric_name"), _json(data["results"]), _json_or_null(get("dataset")), get("execution_id"),
        get("user_id"), event.event_id, event.time, canonical_time(data["created_at"]),
    )  # fmt: skip


def _fold_execution(event: StoredEvent, rows: Rows) -> None:
    envelope = event.envelope
    data = envelope["data"]
    get = data.get
    program_id, content_hash, model_id = data["program_id"], get("content_hash"), get("model_id")
    status, latency, cost, environment = (
        data["status"],
        data["latency_ms"],
        get("cost_usd"),
        envelope.get("environment"),
    )
    model, error, usage = get("model_info") or _NOTHING, get("error") or _NOTHING, get("usage") or _NOTHING
    input_tokens, output_tokens = usage.get("input_tokens"), usage.get("output_tokens")
    key = (program_id, event.time[:_HOUR], content_hash or "", model_id or "", environment or "")
    rollup = rows.hours.get(key)
    if rollup is None:
        rollup = rows.hours[key] = RollUp()
    rollup.executions += 1
    if status == "error":
        rollup.errors += 1
    if input_tokens is not None:
        input_tokens = _whole(input_tokens)
        rollup.input_known += 1
        rollup.input_tokens += input_tokens
    if output_tokens is not None:
        output_tokens = _whole(output_tokens)
        rollup.output_known += 1
        rollup.output_tokens += output_tokens
    if cost is not None:
        cost = float(cost)
        rollup.cost_known += 1
        rollup.cost += _whole(cost * 1e12)
    latency = float(latency)
    microseconds = _whole(latency * 1e3)
    rollup.latency += microseconds
    bucket = bucket_of(microseconds)
    rollup.latencies[bucket] = rollup.latencies.get(bucket, 0) + 1
    rows.executions.append(
        (
            event.position, data["execution_id"], program_id, content_hash, get("program_name"), model_id,
            model.get("provider"), model.get("base_model"), model.get("model_name"), status,
            error.get("type"), error.get("message"), canonical_time(data["started_at"]), event.time, latency,
            input_tokens, output_tokens, cost, bool(get("model_pinned")), get("trace_id"),
            get("session_id"), get("user_id"), _tags(data), environment, envelope.get("service"),
            envelope.get("release"),
        )
    )  # fmt: skip


_NOTHING: dict[str, Any] = {}


def _whole(number: float) -> int:
    """The nearest whole number, within bounds that no true one reaches."""
    return round(number) if 0 <= number <= _MOST else _MOST if number > 0 else 0


def _tags(data: dict[str, Any]) -> str:
    tags = data.get("tags")
    return _json(tags) if tags else "[]"


def _json_or_null(value: object) -> str | None:
    return None if value is None else _json(value)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
