"""What there is to record of an evaluation: its scores, its dataset, its metric's name, its rows."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

import dspy
import uuid_utils

from dspy_ledger.identity import canonical_json
from dspy_ledger.producer.ledger import Ledger
from dspy_ledger.producer.recorder import save_evaluation
from dspy_ledger.producer.valueform import plain
from dspy_ledger.timestamps import utc_now

__all__ = ["dataset_digest", "dataset_of", "metric_name", "record_evaluation", "results_of", "rows_of"]


def record_evaluation(
    ledger: Ledger, data: Mapping[str, Any], rows: Iterable[Any] | None, *, evaluation_id: str | None = None
) -> str:
    """Record an EvaluationSaved event; its id, which is also the evaluation's when none is given.

    Args:
        data: the event's fields, without its id and date.
        rows: one value per example. Where each has a ``score``, the scores are also recorded by themselves:
            they stay whole where the rows are cut, or not to be recorded.
    """
    event_id = str(uuid_utils.uuid7())
    fields = {"evaluation_id": evaluation_id or event_id, **data, "created_at": utc_now()}
    rows = None if rows is None else list(rows)
    scores = [row["score"] for row in rows or () if isinstance(row, Mapping) and "score" in row]
    whole = rows is not None and len(scores) == len(rows)
    save_evaluation(ledger, fields, rows, scores=scores if whole else None, event_id=event_id)
    return event_id


def results_of(result: Any) -> dict[str, Any]:
    """The results of an EvaluationResult: its score (percent), and how many rows have no prediction.

    DSPy gives a row an empty prediction where the program or the metric raised.
    """
    failed = sum(
        isinstance(prediction, dspy.Prediction) and not len(prediction) for _, prediction, _ in result.results
    )
    return {**_scored(result.score), "failed": failed}


def dataset_of(result: Any, name: str | None = None) -> dict[str, Any]:
    """The ``dataset`` of an event, from the examples of an EvaluationResult."""
    return {
        "name": name,
        "size": len(result.results),
        "digest": dataset_digest(example for example, *_ in result.results),
    }


def dataset_digest(examples: Iterable[Any]) -> str:
    """SHA-256 over the canonical JSON of the examples in their order, each with a newline after it.

    The same in every process: binaries count by their digest, sets are sorted, and what DSPy itself adds
    to an example (its ``dspy_`` fields, one of which is random) is left out.
    """
    digest = sha256()
    for example in examples:
        digest.update(canonical_json(plain(_fields(example))) + b"\n")
    return f"sha256:{digest.hexdigest()}"


def metric_name(metric: Callable[..., Any] | None) -> str | None:
    """What a metric is called: a function's name, ``Class.method``, or the class of another callable."""
    while isinstance(metric, functools.partial):
        metric = metric.func
    if metric is None:
        return None
    if inspect.ismethod(metric):
        owner = metric.__self__ if isinstance(metric.__self__, type) else type(metric.__self__)
        return f"{owner.__name__}.{metric.__name__}"
    if inspect.isroutine(metric) or isinstance(metric, type):
        return metric.__name__
    return type(metric).__name__


def rows_of(result: Any) -> list[dict[str, Any]]:
    """The rows of an EvaluationResult, in the order of its examples."""
    return [
        {**_scored(score), **_asked(example), "prediction": _fields(prediction)}
        for example, prediction, score in result.results
    ]


def _scored(score: Any) -> dict[str, Any]:
    """A metric's answer; one that tells more than its score (a Prediction) tells it beside the score."""
    if isinstance(score, dspy.Prediction) and "score" in score:
        return {**_fields(score), "score": _number(score["score"])}
    return {"score": _number(score)}


def _number(score: Any) -> Any:
    """DSPy adds scores up, so that ``True`` is 1 and an array's scalar a number."""
    if isinstance(score, bool):
        return int(score)
    if isinstance(score, int | float):
        return score
    try:
        return float(score)
    except (TypeError, ValueError):
        return plain(score)


def _asked(example: Any) -> dict[str, Any]:
    """What the program was given, and what the metric compared its prediction with."""
    try:
        inputs = _fields(example.inputs())
    except (AttributeError, ValueError):  # no Example, or one that does not say which fields are inputs
        return {"example": _fields(example)}
    return {"inputs": inputs, "labels": {name: item for name, item in example.items() if name not in inputs}}


def _fields(value: Any) -> Any:
    return dict(value.items()) if isinstance(value, dspy.Example) else value
