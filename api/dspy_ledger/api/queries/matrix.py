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
SELECT ev.position, ev.evaluation_id, v.version, ev.model_id, ev.metric_name, ev.results, ev.created_at
FROM evaluations ev
LEFT JOIN versions v ON v.program_id = ev.program_id AND v.content_hash = ev.content_hash AND {seen}
WHERE ev.program_id = ? AND ev.execution_id IS NULL AND {valid}
ORDER BY ev.position
"""
_LABELS = "SELECT v.version FROM versions v WHERE v.program_id = ? AND {seen} ORDER BY v.position"

Place = tuple[str | None, str | None]
"""A version's label and a model's id; None for what is not registered, or nobody named."""


def matrix(question: Question, program_id: str, metric: str | None) -> dict[str, Any]:
    """The matrix of one metric; ``totals`` are null of the past.

    Without a metric it is the one that most evaluations tell, of several the one that came first.

    Raises:
        UnknownProgram: it is not registered.
    """
    require_program(question, program_id)
    rows = question.db.execute(
        _EVALUATIONS.format(seen=question.seen("v"), valid=question.valid("ev")), (program_id,)
    )
    counts: dict[str, int] = {}
    found: list[tuple[Place, dict[str, float], Item]] = []
    for position, evaluation_id, version, model_id, metric_name, results, created_at in rows:
        values = metrics_of(orjson.loads(results), metric_name)
        for name in values:
            counts[name] = counts.get(name, 0) + 1
        evaluation = {"evaluation_id": evaluation_id, "position": position, "created_at": created_at}
        found.append(((version, model_id), values, evaluation))
    if metric is None:
        metric = max(counts, key=counts.__getitem__, default=None)
    totals = matrix_totals(question, program_id)
    cells: dict[Place, Item] = {place: _empty(place, totals) for place in totals or ()}
    for place, values, evaluation in found:
        cell = cells.get(place) or cells.setdefault(place, _empty(place, totals))
        value = values.get(metric) if metric is not None else None
        if value is not None:
            cell["evaluations"] += 1
            cell["latest"] = {"value": value, **evaluation}
            if cell["best"] is None or value >= cell["best"]["value"]:
                cell["best"] = cell["latest"]
    labels = [
        label for (label,) in question.db.execute(_LABELS.format(seen=question.seen("v")), (program_id,))
    ]
    versions = {label: age for age, label in enumerate([*labels, *_null(version for version, _ in cells)])}
    models = sorted({model_id for _, model_id in cells if model_id is not None})
    return {
        "program_id": program_id,
        "metric": metric,
        "metrics": [{"name": name, "evaluations": count} for name, count in counts.items()],
        "versions": list(versions),
        "models": [*models, *_null(model_id for _, model_id in cells)],
        "cells": [
            cells[place]
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
    return dict(_numbers(results, ""))


def _numbers(results: dict[str, Any], path: str) -> Iterator[tuple[str, float]]:
    for name, value in results.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{path}{name}.")
        elif _is_number(value):
            yield path + name, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _empty(place: Place, totals: dict[Place, Item] | None) -> Item:
    version, model_id = place
    told = None if totals is None else totals.get(place)
    return {
        "version": version,
        "model_id": model_id,
        "evaluations": 0,
        "latest": None,
        "best": None,
        "totals": told,
    }


def _null(names: Iterator[str | None]) -> list[None]:
    """One null when there is one among the names: it ends an axis."""
    return [None] if None in names else []
