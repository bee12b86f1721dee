"""The fold of the SQL read models: events in, rows out; no database here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.projector.catalog import Catalog, Program, Registered
from dspy_ledger.store import StoredEvent
from dspy_ledger.timestamps import canonical_time

__all__ = ["ModelSeen", "Rows", "Total", "TotalKey", "fold", "program_row", "total_key"]

_REGISTERED = EVENT_TYPES["ProgramRegistered"]
_EXECUTED = EVENT_TYPES["ExecutionCompleted"]
_EVALUATED = EVENT_TYPES["EvaluationSaved"]
_MOST_TOKENS = 10**15  # per execution; keeps a hostile count, and any sum of counts, within 64 bits
_MOST_TOTAL = 2**63 - 1

TotalKey = tuple[str, str, str]
"""Program id, content hash, model id; '' where the event had none."""


@dataclass(slots=True)
class Total:
    """One roll-up; sums of floats depend on their order, so it is always added to event by event."""

    executions: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    latency_ms: float = 0.0

    def row(self) -> tuple[Any, ...]:
        """The columns of ``totals`` after the key."""
        return (
            self.executions, self.errors, self.input_tokens, self.output_tokens, self.cost_usd,
            self.latency_ms,
        )  # fmt: skip


@dataclass(slots=True)
class ModelSeen:
    """What a batch tells of one model; null where it tells nothing."""

    provider: str | None
    base_model: str | None
    model_name: str | None
    first_seen: str
    last_seen: str

    def row(self) -> tuple[Any, ...]:
        """The columns of ``models_seen`` after the key."""
        return self.provider, self.base_model, self.model_name, self.first_seen, self.last_seen


@dataclass(slots=True)
class Rows:
    """What a batch adds to each table, as parameters in the order of the table's columns.

    ``programs``, ``totals`` and ``models`` are by key, as they stand after the batch (models: what the
    batch alone tells); ``rewordings`` are (description, tags, program id, content hash) of known versions.
    """

    programs: dict[str, Program] = field(default_factory=dict)
    versions: list[tuple[Any, ...]] = field(default_factory=list)
    rewordings: list[tuple[Any, ...]] = field(default_factory=list)
    executions: list[tuple[Any, ...]] = field(default_factory=list)
    evaluations: list[tuple[Any, ...]] = field(default_factory=list)
    models: dict[str, ModelSeen] = field(default_factory=dict)
    totals: dict[TotalKey, Total] = field(default_factory=dict)


def fold(batch: Sequence[StoredEvent], catalog: Catalog, totals: dict[TotalKey, Total]) -> Rows:
    """The rows of a batch.

    Args:
        batch: the next events.
        catalog: as it stood before the batch; folded on.
        totals: the roll-ups that the batch touches, as they stood before it; folded on.
    """
    rows = Rows()
    for event in batch:
        if event.type == _EXECUTED:
            _fold_execution(event, rows, totals)
        elif event.type == _EVALUATED:
            _fold_evaluation(event, rows)
        elif event.type == _REGISTERED:
            registered = catalog.register(event.data, event.position)
            if registered.new:
                rows.versions.append(_version(event, registered))
            elif registered.reworded:
                data = event.data
                rows.rewordings.append(
                    (data.get("description"), _tags(data), data["program_id"], data["content_hash"])
                )
            if registered.program_changed:
                rows.programs[registered.program.program_id] = registered.program
    return rows


def total_key(event: StoredEvent) -> TotalKey | None:
    """The roll-up that an event goes to; None when it goes to none."""
    if event.type != _EXECUTED:
        return None
    data = event.data
    return data["program_id"], data.get("content_hash") or "", data.get("model_id") or ""


def program_row(program: Program) -> tuple[Any, ...]:
    """A row of ``programs``."""
    return (
        program.program_id, program.name, program.description, _json(program.tags), program.kind,
        program.parent_id, program.parent_version, program.latest, program.created_at, program.updated_at,
        program.position,
    )  # fmt: skip


def _version(event: StoredEvent, registered: Registered) -> tuple[Any, ...]:
    data = event.data
    return (
        data["program_id"], data["content_hash"], registered.content.version, data["version"], data["name"],
        data.get("description"), _tags(data), data.get("parent_id"), data.get("parent_version"),
        _json_or_null(data.get("optimizer")), data["kind"], _json_or_null(data.get("signature")),
        _json_or_null(data.get("interface")), data.get("class_name"), data.get("module_path"),
        data.get("code_hash"), data.get("source_code"), data.get("dspy_version"),
        canonical_time(data["created_at"]), event.event_id, event.position,
    )  # fmt: skip


def _fold_execution(event: StoredEvent, rows: Rows, totals: dict[TotalKey, Total]) -> None:
    envelope = event.envelope
    data = envelope["data"]
    get = data.get
    program_id, content_hash, model_id, status = (
        data["program_id"],
        get("content_hash"),
        get("model_id"),
        data["status"],
    )
    model, error, usage, cost = (
        get("model_info") or {},
        get("error") or {},
        get("usage") or {},
        get("cost_usd"),
    )
    input_tokens, output_tokens = _tokens(usage.get("input_tokens")), _tokens(usage.get("output_tokens"))
    latency = float(data["latency_ms"])
    rows.executions.append(
        (
            event.position, data["execution_id"], program_id, content_hash, get("program_name"), model_id,
            model.get("provider"), model.get("base_model"), status, error.get("type"), error.get("message"),
            canonical_time(data["started_at"]), event.time, latency, input_tokens, output_tokens,
            None if cost is None else float(cost), bool(get("model_pinned")), get("trace_id"),
            get("session_id"), get("user_id"), _tags(data), envelope.get("environment"),
            envelope.get("service"), envelope.get("release"),
        )
    )  # fmt: skip
    key = (program_id, content_hash or "", model_id or "")
    total = totals.get(key) or totals.setdefault(key, Total())
    rows.totals[key] = total
    total.executions += 1
    total.errors += status == "error"
    total.input_tokens = min(total.input_tokens + (input_tokens or 0), _MOST_TOTAL)
    total.output_tokens = min(total.output_tokens + (output_tokens or 0), _MOST_TOTAL)
    total.cost_usd += 0.0 if cost is None else float(cost)
    total.latency_ms += latency
    _see_model(rows.models, model_id, model, event.time)


def _fold_evaluation(event: StoredEvent, rows: Rows) -> None:
    data = event.data
    get = data.get
    model_id, model = get("model_id") or None, get("model_info") or {}
    rows.evaluations.append(
        (
            event.position, data["evaluation_id"], get("program_id"), get("content_hash"), model_id,
            model.get("provider"), model.get("base_model"), get("metric_name"), _json(data["results"]),
            _json_or_null(get("dataset")), get("execution_id"), get("user_id"), event.event_id,
            canonical_time(data["created_at"]),
        )
    )  # fmt: skip
    _see_model(rows.models, model_id, model, event.time)


def _see_model(models: dict[str, ModelSeen], model_id: str | None, info: dict[str, Any], time: str) -> None:
    if not model_id:
        return
    seen = models.get(model_id)
    if seen is None:
        models[model_id] = ModelSeen(
            info.get("provider"), info.get("base_model"), info.get("model_name"), time, time
        )
        return
    if info:
        seen.provider = info.get("provider") or seen.provider
        seen.base_model = info.get("base_model") or seen.base_model
        seen.model_name = info.get("model_name") or seen.model_name
    if time > seen.last_seen:
        seen.last_seen = time
    elif time < seen.first_seen:
        seen.first_seen = time


def _tokens(count: float | None) -> int | None:
    return None if count is None else int(min(max(count, 0), _MOST_TOKENS))


def _tags(data: dict[str, Any]) -> str:
    tags = data.get("tags")
    return _json(tags) if tags else "[]"


def _json_or_null(value: object) -> str | None:
    return None if value is None else _json(value)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
