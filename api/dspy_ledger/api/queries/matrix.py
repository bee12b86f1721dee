"""A program's matrix: what its evaluations found for each version on each model, beside what executions cost.

Feedback is not in it: it is said of single executions, of which nobody chose a fair sample, and there may be
as much of it as there are executions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from dspy_ledger.api.queries.paging import Item
from dspy_ledger.api.queries.programs import require_program
from dspy_ledger.api.queries.totals import matrix_totals
from dspy_ledger.api.reading import Question

__all__ = ["matrix", "metrics_of"]

_NEWEST = "SELECT max(ev.position) FROM evaluations ev WHERE ev.program_id = ? AND {seen}"
# Oldest first, so that the latest stands last.
_EVALUATIONS = """
SELECT ev.content_hash, ev.model_id, ev.metric_name, ev.results, ev.position, ev.evaluation_id, ev.created_at
FROM evaluations ev
WHERE ev.program_id = ? AND ev.execution_id IS NULL AND {valid} AND ev.position > ?
ORDER BY ev.position
"""
_IN_FORCE = (
    "SELECT count(*) FROM evaluations ev WHERE ev.program_id = ? AND ev.until IS NULL AND ev.position > ?"
)
_MOST_KEPT = 2000
"""Cells of all metrics of a program that are worth their memory."""
_MEASURED = ("value", "position", "evaluation_id", "created_at")
_LABELS = (
    "SELECT v.content_hash, v.version FROM versions v WHERE v.program_id = ? AND {seen} ORDER BY v.position"
)

_NUMBERS = frozenset({int, float})

Place = tuple[str | None, str | None]
"""A version's label and a model's id; None for what is not registered, or nobody named."""
Measured = tuple[float, int, str, str]
"""A value, and the evaluation that told it: its position, its id, and when it was made."""


@dataclass(slots=True)
class _Cell:
    """How many evaluations told a value, the latest of them and the best; None before the first."""

    evaluations: int = 0
    latest: Measured | None = None
    best: Measured | None = None

    def add(self, other: _Cell) -> None:
        if other.latest is None or other.best is None:
            return
        self.evaluations += other.evaluations
        if self.latest is None or other.latest[1] > self.latest[1]:
            self.latest = other.latest
        if self.best is None or other.best > self.best:
            self.best = other.best


_NOTHING = _Cell()


@dataclass(slots=True)
class _Found:
    """What a program's evaluations found, by content hash and model id: that there are any, and by metric.

    ``newest`` is the position of the last. ``in_force`` is how many are in force now, feedback included, and
    None where only the past was asked about.
    """

    newest: int = 0
    in_force: int | None = 0
    places: dict[Place, None] = field(default_factory=dict)
    metrics: dict[str, dict[Place, _Cell]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many evaluations told each metric, in the order in which they came first."""
        return {
            name: sum(cell.evaluations for cell in cells.values()) for name, cells in self.metrics.items()
        }

    @property
    def is_small(self) -> bool:
        return sum(map(len, self.metrics.values())) <= _MOST_KEPT


def matrix(question: Question, program_id: str, metric: str | None) -> dict[str, Any]:
    """The matrix of one metric; ``totals`` are null of the past.

    Without a metric it is the one that most evaluations tell, of several the one that came first.

    Raises:
        UnknownProgram: it is not registered.
    """
    require_program(question, program_id)
    labels = dict(question.db.execute(_LABELS.format(seen=question.seen("v")), (program_id,)).fetchall())
    found = _found(question, program_id)
    counts = found.counts
    if metric is None:
        metric = max(counts, key=counts.__getitem__, default=None)
    totals = matrix_totals(question, program_id)
    cells: dict[Place, _Cell] = {place: _Cell() for place in totals or ()}
    measured = found.metrics.get(metric, {}) if metric is not None else {}
    for digest, model_id in found.places:
        version = None if digest is None else labels.get(digest)
        cell = cells.setdefault((version, model_id), _Cell())
        cell.add(measured.get((digest, model_id), _NOTHING))
    versions = {
        label: age for age, label in enumerate([*labels.values(), *_null(version for version, _ in cells)])
    }
    models = sorted({model_id for _, model_id in cells if model_id is not None})
    return {
        "program_id": program_id,
        "metric": metric,
        "metrics": [{"name": name, "evaluations": count} for name, count in counts.items()],
        "versions": list(versions),
        "models": [*models, *_null(model_id for _, model_id in cells)],
        "cells": [
            _told(place, cells[place], None if totals is None else totals.get(place))
            for place in sorted(cells, key=lambda place: (versions[place[0]], place[1] is None, place[1]))
        ],
    }


def _found(question: Question, program_id: str) -> _Found:
    """It stays as it is until the program's next evaluation, which adds to it or replaces one before."""
    newest = question.db.execute(_NEWEST.format(seen=question.seen("ev")), (program_id,)).fetchone()[0] or 0

    def read() -> _Found:
        found = _before(question, program_id)
        rows = question.db.execute(
            _EVALUATIONS.format(valid=question.valid("ev")), (program_id, found.newest)
        )
        rows.row_factory = None  # tuples, for speed
        for digest, model_id, name, results, position, evaluation_id, created_at in rows:
            place = digest, model_id
            found.places[place] = None
            for metric, value in metrics_of(orjson.loads(results), name).items():
                told = value, position, evaluation_id, created_at
                found.metrics.setdefault(metric, {}).setdefault(place, _Cell()).add(_Cell(1, told, told))
        found.newest, found.in_force = newest, None
        return found

    found = question.kept.get(("matrix", program_id, newest), read, lambda found: found.is_small)
    if question.as_of is None and found.in_force is None:
        found.in_force = _in_force(question, program_id)
    return found


def _before(question: Question, program_id: str) -> _Found:
    """What was found last, to be added to, if all of it still counts; else nothing."""
    if question.as_of is not None:
        return _Found()
    in_force = _in_force(question, program_id)

    def still_counts(found: _Found) -> bool:
        return found.in_force == in_force - _in_force(question, program_id, found.newest)

    return question.kept.take("matrix", program_id, fits=still_counts) or _Found()


def _in_force(question: Question, program_id: str, after: int = 0) -> int:
    found = question.db.execute(_IN_FORCE, (program_id, after)).fetchone()
    return found[0]  # type: ignore[no-any-return]


def metrics_of(results: Any, metric_name: str | None = None) -> dict[str, float]:
    """Every number in the results of an evaluation by its name: ``{"a": {"b": 1}}`` tells ``a.b``.

    Booleans and what stands in lists are no metrics. Results that are one number go by ``metric_name``, else
    by ``value``.
    """
    if not isinstance(results, dict):
        return {metric_name or "value": results} if _is_number(results) else {}
    return _add_numbers({}, results, "")


def _add_numbers(found: dict[str, float], results: dict[str, Any], path: str) -> dict[str, float]:
    for name, value in results.items():
        if isinstance(value, dict):
            _add_numbers(found, value, f"{path}{name}.")
        elif _is_number(value):
            found[path + name] = value
    return found


def _is_number(value: Any) -> bool:
    return type(value) in _NUMBERS  # as JSON has them; a boolean is of another type


def _told(place: Place, cell: _Cell, totals: Item | None) -> Item:
    version, model_id = place
    return {
        "version": version,
        "model_id": model_id,
        "evaluations": cell.evaluations,
        "latest": None if cell.latest is None else dict(zip(_MEASURED, cell.latest, strict=True)),
        "best": None if cell.best is None else dict(zip(_MEASURED, cell.best, strict=True)),
        "totals": totals,
    }


def _null(names: Iterator[str | None]) -> list[None]:
    """One null when there is one among the names: it ends an axis."""
    return [None] if None in names else []
