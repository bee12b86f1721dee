"""The fold of the SQL read models: events in, rows out; no database here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import orjson

from dspy_ledger import histogram
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.projector.catalog import Catalog, Program
from dspy_ledger.store import StoredEvent
from dspy_ledger.timestamps import canonical_time

__all__ = ["HourKey", "Numbers", "Row", "Rows", "fold"]

_REGISTERED = EVENT_TYPES["ProgramRegistered"]
_EXECUTED = EVENT_TYPES["ExecutionCompleted"]
_EVALUATED = EVENT_TYPES["EvaluationSaved"]
_MOST = 10**18  # tokens, picodollars or µs of one execution; keeps a hostile number within 64 bits
_MOST_TOTAL = 2**63 - 1
_HOUR, _DAY = len("2026-11-22T10"), len("2026-11-22")

Row = tuple[Any, ...]
Key = tuple[str, ...]

HourKey = tuple[str, str, str, str, str]
"""Program id, hour, content hash, model id, environment; '' where the event had none."""

Numbers = tuple[str, float, int | None, int | None, float | None]
"""An execution's status, latency (ms), input and output tokens and cost (USD)."""


@dataclass(slots=True)
class Rows:
    """What a batch adds to each table, as parameters in the order of the table's columns.

    The tables' triggers close the rows that new ones replace. ``hours`` are the executions' numbers by the
    roll-up that they go to.
    """

    programs: list[Row] = field(default_factory=list)
    program_tags: list[Row] = field(default_factory=list)
    versions: list[Row] = field(default_factory=list)
    wordings: list[Row] = field(default_factory=list)
    executions: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    hours: defaultdict[HourKey, list[Numbers]] = field(default_factory=lambda: defaultdict(list))

    def roll_ups(self) -> tuple[list[Row], list[Row], list[Row]]:
        """What the batch adds to the rows of ``totals``, ``hours`` and ``days``."""
        totals, hours, days = (defaultdict[Key, list[_Sums]](list) for _ in range(3))
        for (program_id, hour, content_hash, model_id, environment), executions in self.hours.items():
            sums = _Sums.of(executions)
            totals[program_id, content_hash, model_id].append(sums)
            hours["all", "", hour, "", "", ""].append(sums)
            hours["model", "", hour, "", model_id, environment].append(sums)
            hours["program", program_id, hour, "", "", ""].append(sums)
            hours["content", program_id, hour, content_hash, "", ""].append(sums)
            hours["finest", program_id, hour, content_hash, model_id, environment].append(sums)
        of_hours = {key: _Sums.together(parts) for key, parts in hours.items()}
        for (level, program_id, hour, *others), sums in of_hours.items():
            days[level, program_id, hour[:_DAY], *others].append(sums)
        of_days = {key: _Sums.together(parts) for key, parts in days.items()}
        return (
            [(*key, *_Sums.together(parts).row) for key, parts in totals.items()],
            [(*key, *sums.row, sums.histogram) for key, sums in of_hours.items()],
            [(*key, *sums.row, sums.histogram) for key, sums in of_days.items()],
        )


@dataclass(frozen=True)
class _Sums:
    """The columns of a roll-up from executions to latency, and the histogram buckets of its latencies.

    One may be of several roll-ups, so that what goes into their rows is made once: most hours of a batch are
    all that it has of their day.
    """

    numbers: Sequence[int]
    buckets: Sequence[int]

    @classmethod
    def of(cls, executions: Sequence[Numbers]) -> _Sums:
        statuses, latencies, inputs, outputs, costs = zip(*executions, strict=True)
        microseconds = [_whole(latency * 1e3) for latency in latencies]
        picodollars = [None if cost is None else _whole(cost * 1e12) for cost in costs]
        numbers = [
            len(statuses), statuses.count("error"), *_known(inputs), *_known(outputs), *_known(picodollars),
            sum(microseconds),
        ]  # fmt: skip
        return cls(numbers, list(map(histogram.bucket_of, microseconds)))

    @classmethod
    def together(cls, parts: Sequence[_Sums]) -> _Sums:
        if len(parts) == 1:
            return parts[0]
        numbers = map(sum, zip(*(part.numbers for part in parts), strict=True))
        return cls(list(numbers), list(chain.from_iterable(part.buckets for part in parts)))

    @cached_property
    def row(self) -> list[int]:
        return [min(number, _MOST_TOTAL) for number in self.numbers]

    @cached_property
    def histogram(self) -> bytes:
        return histogram.encode(Counter(self.buckets))


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
    model, error, usage = get("model_info") or _NOTHING, get("error") or _NOTHING, get("usage") or _NOTHING
    status, latency, cost = data["status"], float(data["latency_ms"]), get("cost_usd")
    inputs, outputs = _tokens(usage.get("input_tokens")), _tokens(usage.get("output_tokens"))
    time, environment = event.time, envelope.get("environment")
    if cost is not None:
        cost = float(cost)
    key = (program_id, time[:_HOUR], content_hash or "", model_id or "", environment or "")
    rows.hours[key].append((status, latency, inputs, outputs, cost))
    rows.executions.append((
        event.position, data["execution_id"], program_id, content_hash, get("program_name"), model_id,
        model.get("provider"), model.get("base_model"), model.get("model_name"), status, error.get("type"),
        error.get("message"), canonical_time(data["started_at"]), time, latency, inputs, outputs, cost,
        bool(get("model_pinned")), get("trace_id"), get("session_id"), get("user_id"), _tags(data),
        environment, envelope.get("service"), envelope.get("release"),
    ))  # fmt: skip


_NOTHING: dict[str, Any] = {}


def _known(numbers: Iterable[int | None]) -> tuple[int, int]:
    """How many there are, and their sum."""
    known = [number for number in numbers if number is not None]
    return len(known), sum(known)


def _tokens(count: float | None) -> int | None:
    return None if count is None else _whole(count)


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
