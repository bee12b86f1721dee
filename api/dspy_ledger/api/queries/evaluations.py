"""Evaluations: a program's, newest first, those of one execution, and one with its rows.

Feedback names only its execution: program, content and (where it has none) model are the execution's.
"""

from __future__ import annotations

from typing import Any

from dspy_ledger.api.parameters import EvaluationQuery, FeedbackQuery
from dspy_ledger.api.queries.paging import Item, items_of, page
from dspy_ledger.api.queries.programs import require_program
from dspy_ledger.api.reading import Question
from dspy_ledger.errors import UnknownEvaluation
from dspy_ledger.store import StoredEvent

__all__ = [
    "count_feedback",
    "newest_feedback",
    "newest_feedback_on_version",
    "one_evaluation",
    "page_of_evaluations",
    "page_of_feedback",
    "with_rows",
]

# The execution is joined only where it is needed: to feedback.
_RESOLVED = """
    SELECT {position} AS position, ev.evaluation_id, {program} AS program_id, {content} AS content_hash,
           {model_id} AS model_id, {provider} AS provider, {base_model} AS base_model, ev.metric_name,
           ev.results, ev.dataset, ev.execution_id, ev.user_id, ev.event_id, ev.created_at
    FROM {source}
"""
_MODEL = ("model_id", "provider", "base_model")
_OF_EVALUATION = {"program": "ev.program_id", "content": "ev.content_hash"} | {
    name: f"ev.{name}" for name in _MODEL
}
_OF_EXECUTION = {"program": "x.program_id", "content": "x.content_hash"} | {
    name: f"iif(ev.model_id IS NULL, x.{name}, ev.{name})" for name in _MODEL
}
_EXECUTION = "x.position = (SELECT min(position) FROM executions WHERE execution_id = ev.execution_id)"
_OWN = _RESOLVED.format(position="ev.position", source="evaluations ev", **_OF_EVALUATION)
_FEEDBACK = _RESOLVED.format(position="ev.position", source="evaluations ev", **_OF_EXECUTION)
_OF_PROGRAM = f"CROSS JOIN evaluations ev ON ev.position = f.position CROSS JOIN executions x ON {_EXECUTION}"
_FEEDBACK_OF_PROGRAM = _RESOLVED.format(
    position="f.position", source=f"feedback f {_OF_PROGRAM}", **_OF_EXECUTION
)
_LATELY = 1000
"""Feedback on a program that is gone through for that on one version of it."""
_FEEDBACK_LATELY = _RESOLVED.format(
    position="f.position",
    source="(SELECT position FROM feedback f WHERE f.program_id = :program AND {seen}"  # noqa: S608
    f" ORDER BY position DESC LIMIT {_LATELY}) f {_OF_PROGRAM}",
    **_OF_EXECUTION,
)
_LABELLED = """
    SELECT r.position, r.evaluation_id, r.program_id, v.version AS program_version, r.content_hash,
           r.model_id, r.provider, r.base_model, r.metric_name, r.results, r.dataset, r.execution_id,
           r.user_id, r.event_id, r.created_at
    FROM ({resolved}) r
    LEFT JOIN versions v ON v.program_id = r.program_id AND v.content_hash = r.content_hash AND {seen}
    ORDER BY r.position DESC
"""


def page_of_evaluations(
    question: Question, program_id: str, query: EvaluationQuery, *, with_feedback: bool = True
) -> dict[str, Any]:
    """A program's evaluations, newest first by position, with or without feedback on its executions.

    Raises:
        UnknownProgram: it is not registered.
    """
    after = query.after(program_id=program_id)
    require_program(question, program_id)
    values: dict[str, object] = {"program": program_id, "limit": query.limit + 1, "after": after}
    values["model"] = query.model_id
    valid = question.valid("ev")
    own = [valid, "ev.program_id = :program"]
    feedback = [valid, "f.program_id = :program", question.seen("x")]
    if after is not None:
        own.append("ev.position < :after")
        feedback.append("f.position < :after")
    if query.version is not None:
        content = question.db.execute(
            "SELECT v.content_hash FROM versions v"  # noqa: S608
            f" WHERE v.program_id = ? AND v.version = ? AND {question.seen('v')}",
            (program_id, query.version),
        ).fetchone()
        if content is None:
            return page([], query, "position", program_id=program_id)
        values["content"] = content["content_hash"]
        own.append("ev.content_hash = :content")
        feedback.append("x.content_hash = :content")
    if query.model_id is not None:
        own.append("ev.model_id = :model")
        feedback.append("ifnull(ev.model_id, x.model_id) = :model")
    if with_feedback:
        rest = f"UNION ALL {_FEEDBACK_OF_PROGRAM} WHERE {' AND '.join(feedback)}"
    else:
        rest = "AND ev.execution_id IS NULL"
    resolved = f"{_OWN} WHERE {' AND '.join(own)} {rest} ORDER BY position DESC LIMIT :limit"
    items = _items(question, resolved, values)
    return page(items, query, "position", program_id=program_id)


def page_of_feedback(question: Question, execution_id: str, query: FeedbackQuery) -> dict[str, Any]:
    """Everything that was said of one execution, newest first by position."""
    after = query.after(execution_id=execution_id)
    items = _said(question, execution_id, after, query.limit + 1)
    return page(items, query, "position", execution_id=execution_id)


def newest_feedback(question: Question, execution_id: str, limit: int) -> list[Item]:
    """What was said last of one execution, newest first."""
    return _said(question, execution_id, None, limit)


def newest_feedback_on_version(
    question: Question, program_id: str, content_hash: str, limit: int
) -> list[Item]:
    """What was said last of a version's executions, of the last that was said of its program's."""
    valid = question.valid("ev")
    # A producer may have named the program too.
    own = (
        f"{valid} AND ev.program_id = :program AND ev.content_hash = :content AND ev.execution_id IS NOT NULL"
    )
    lately = _FEEDBACK_LATELY.format(seen=question.seen("f"))
    resolved = (
        f"{_OWN} WHERE {own} UNION ALL"
        f" {lately} WHERE {valid} AND x.content_hash = :content AND {question.seen('x')}"
        " ORDER BY position DESC LIMIT :limit"
    )
    return _items(question, resolved, {"program": program_id, "content": content_hash, "limit": limit})


def count_feedback(question: Question, execution_id: str) -> int:
    """How many evaluations are of one execution."""
    (count,) = question.db.execute(
        f"SELECT count(*) FROM evaluations ev WHERE ev.execution_id = ? AND {question.valid('ev')}",  # noqa: S608
        (execution_id,),
    ).fetchone()
    return count  # type: ignore[no-any-return]


def one_evaluation(question: Question, program_id: str, evaluation_id: str, model_id: str | None) -> Item:
    """One evaluation of a program or of its executions; the newest of those on any model.

    Raises:
        UnknownProgram: it is not registered.
        UnknownEvaluation: it has none of that id, on that model.
    """
    require_program(question, program_id)
    values: dict[str, object] = {"program": program_id, "id": evaluation_id, "model": model_id}
    same = f"{question.valid('ev')} AND ev.evaluation_id = :id"
    # Spelled as the index spells it.
    own = f"{same} AND ifnull(ev.program_id, '') = :program"
    feedback = f"{same} AND ifnull(ev.program_id, '') = '' AND x.program_id = :program"
    if model_id is not None:
        own += " AND ev.model_id = :model"
        feedback += " AND ifnull(ev.model_id, x.model_id) = :model"
    resolved = _resolved(question, own, feedback)
    for item in _items(question, f"{resolved} ORDER BY position DESC LIMIT 1", values):
        return item
    raise UnknownEvaluation(program_id, evaluation_id, model_id)


def with_rows(evaluation: Item, event: StoredEvent) -> Item:
    """An evaluation's row with what only its event tells: scores and rows are null once they are erased."""
    body = event.body_json()
    captured = body if isinstance(body, dict) else {}  # another producer's may be any JSON
    return {
        **evaluation,
        "truncated": event.data.get("truncated") or [],
        "source": event.source,
        "sequence": event.sequence,
        "recorded_at": event.recorded_at,
        **{name: captured.get(name) for name in ("scores", "rows")},
    }


def _said(question: Question, execution_id: str, after: object, limit: int) -> list[Item]:
    said = f"{question.valid('ev')} AND ev.execution_id = :execution"
    if after is not None:
        said += " AND ev.position < :after"
    resolved = _resolved(
        question, f"{said} AND ev.program_id IS NOT NULL", f"{said} AND ev.program_id IS NULL"
    )
    values = {"execution": execution_id, "after": after, "limit": limit}
    return _items(question, f"{resolved} ORDER BY position DESC LIMIT :limit", values)


def _resolved(question: Question, own: str, feedback: str) -> str:
    """Evaluations of programs and feedback that fit these terms, each with its program, content and model."""
    joined = f"LEFT JOIN executions x ON {_EXECUTION} AND {question.seen('x')}"
    return f"{_OWN} WHERE {own} UNION ALL {_FEEDBACK} {joined} WHERE {feedback}"


def _items(question: Question, resolved: str, values: dict[str, object]) -> list[Item]:
    labelled = _LABELLED.format(resolved=resolved, seen=question.seen("v"))
    return items_of(question.db.execute(labelled, values), json=("results", "dataset"))
