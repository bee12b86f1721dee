"""The rows of an evaluation as a page shows them: what went wrong first.

Pure. Scores and rows are what a producer's body says they are, which may be any JSON.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

__all__ = ["Row", "worst_first"]

_EXAMPLE = ("inputs", "labels", "example")


class Row(NamedTuple):
    """One example; ``number`` is its place in the data, from 1.

    ``score`` is None where there is none, and ``failed`` tells that there is no prediction. ``example`` and
    ``answer`` are what was given and what came of it, by name.
    """

    number: int
    score: Any
    failed: bool
    example: dict[str, Any]
    answer: dict[str, Any]


def worst_first(scores: Any, rows: Any) -> list[Row]:
    """Rows without a prediction, then by score from the lowest, those without a number last."""
    scores = scores if isinstance(scores, list) else []
    rows = rows if isinstance(rows, list) else []
    missing = [None] * abs(len(scores) - len(rows))
    if len(scores) < len(rows):
        scores = [*scores, *missing]
    else:
        rows = [*rows, *missing]
    told = [_row(number, *each) for number, each in enumerate(zip(scores, rows, strict=True), start=1)]
    return sorted(told, key=lambda row: (not row.failed, _order(row.score)))


def _row(number: int, score: Any, row: Any) -> Row:
    if not isinstance(row, dict):
        return Row(number, score, failed=False, example={}, answer={} if row is None else {"row": row})
    return Row(
        number,
        row.get("score", score),
        failed="prediction" in row and row["prediction"] in (None, {}),
        example={name: row[name] for name in _EXAMPLE if name in row},
        answer={name: value for name, value in row.items() if name not in {"score", *_EXAMPLE}},
    )


def _order(score: Any) -> float:
    return score if isinstance(score, int | float) else inf
