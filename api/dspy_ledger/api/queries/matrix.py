"""A program's matrix: what its evaluations found for each version on each model, beside what executions cost.

Feedback is not in it: it is said of single executions, of which nobody chose a fair sample, and there may be
as much of it as there are executions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from dspy_ledger.api.queries.paging import Item
from dspy_ledger.api.queries.programs import require_program
from dspy_ledger.api.queries.totals import matrix_totals
from dspy_ledger.api.reading import Question

__all__ = ["matrix", "metrics_of"]

# Oldest first, so that the latest stands last.
_EVALUATIONS = """
SELECT ev.position, ev.evaluation_id, ev.content_hash, ev.model_id, ev.metric_name, ev.results, ev.created_at
FROM evaluations ev
WHERE ev.program_id = ? AND ev.execution_id IS NULL AND {valid}
ORDER BY ev.position
"""
_NAME, _RESULTS = 4, 5
_MEASURED = ("value", "position", "evaluation_id", "created_at")
_LABELS = (
    "SELECT v.content_hash, v.version FROM versions v WHERE v.program_id = ? AND {seen} ORDER BY v.position"
)

_NUMBERS = frozenset({int, float})

Place = tuple[str | None, str | None]
"""A version's label and a model's id; None for what is not registered, or nobody named."""
Measured = tuple[float, int, str, str]
"""A value, and the evaluation that told it: its position, its id, and when it was made."""


def matrix(question: Question, program_id: str, metric: str | None) -> dict[str, Any]:
    """The matrix of one metric; ``totals`` are null of the past.

    Without a metric it is the one that most evaluations tell, of several the one that came first.

    Raises:
        UnknownProgram: it is not registered.
    """
    require_program(question, program_id)
    labels = dict(question.db.execute(_LABELS.format(seen=question.seen("v")), (program_id,)).fetchall())
    rows = question.db.execute(_EVALUATIONS.format(valid=question.valid("ev")), (program_id,))
    rows.row_factory = None  # tuples, for speed
    counts: dict[str, int] = {}
    found = [(metrics_of(orjson.loads(row[_RESULTS]), row[_NAME]), row) for row in rows]
    for values, _ in found:
        for name in values:
            counts[name] = counts.get(name, 0) + 1
    if metric is None:
        metric = max(counts, key=counts.__getitem__, default=None)
    totals = matrix_totals(question, program_id)
    cells: dict[Place, list[Measured]] = {place: [] for place in totals or ()}
    for values, (position, evaluation_id, digest, model_id, _, _, created_at) in found:
        measured = cells.setdefault((labels.get(digest), model_id), [])
        if metric is not None and metric in values:
            measured.append((values[metric], position, evaluation_id, created_at))
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
            _cell(place, cells[place], None if totals is None else totals.get(place))
            for place in sorted(cells, key=lambda place: (versions[place[0]], place[1] is None, place[1]))
        ],
    }


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


def _cell(place: Place, measured: list[Measured], totals: Item | None) -> Item:
    version, model_id = place
    return {
        "version": version,
        "model_id": model_id,
        "evaluations": len(measured),
        "latest": dict(zip(_MEASURED, measured[-1], strict=True)) if measured else None,
        "best": dict(zip(_MEASURED, max(measured), strict=True)) if measured else None,
        "totals": totals,
    }


def _null(names: Iterator[str | None]) -> list[None]:
    """One null when there is one among the names: it ends an axis."""
    return [None] if None in names else []
