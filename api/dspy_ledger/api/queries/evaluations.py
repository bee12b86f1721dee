"""Evaluations: a program's, newest first, and those of one execution.

Feedback names only its execution: program, content and (where it has none) model are the execution's.
"""

from __future__ import annotations

from typing import Any

from dspy_ledger.api.parameters import EvaluationQuery
from dspy_ledger.api.queries.paging import Item, items_of, page
from dspy_ledger.api.queries.programs import require_program
from dspy_ledger.api.reading import Question

__all__ = ["evaluations_of_execution", "page_of_evaluations"]

# The execution is joined only where it is needed: to feedback.
_RESOLVED = """
    SELECT ev.position, ev.evaluation_id, {program} AS program_id, {content} AS content_hash,
           {model_id} AS model_id, {provider} AS provider, {base_model} AS base_model, ev.metric_name,
           ev.results, ev.dataset, ev.execution_id, ev.user_id, ev.event_id, ev.created_at
    FROM evaluations ev
"""
_MODEL = ("model_id", "provider", "base_model")
_OWN = _RESOLVED.format(
    program="ev.program_id", content="ev.content_hash", **{name: f"ev.{name}" for name in _MODEL}
)
_FEEDBACK = _RESOLVED.format(
    program="x.program_id",
    content="x.content_hash",
    **{name: f"iif(ev.model_id IS NULL, x.{name}, ev.{name})" for name in _MODEL},
)
_EXECUTION = "x.position = (SELECT min(position) FROM executions WHERE execution_id = ev.execution_id)"
_LABELLED = """
    SELECT r.position, r.evaluation_id, r.program_id, v.version AS program_version, r.content_hash,
           r.model_id, r.provider, r.base_model, r.metric_name, r.results, r.dataset, r.execution_id,
           r.user_id, r.event_id, r.created_at
    FROM ({resolved}) r
    LEFT JOIN versions v ON v.program_id = r.program_id AND v.content_hash = r.content_hash AND {seen}
    ORDER BY r.position DESC
"""


def page_of_evaluations(question: Question, program_id: str, query: EvaluationQuery) -> dict[str, Any]:
    """A program's evaluations, feedback on its executions included, newest first by position.

    Raises:
        UnknownProgram: it is not registered.
    """
    after = query.after(program_id=program_id)
    require_program(question, program_id)
    values: dict[str, object] = {"program": program_id, "limit": query.limit + 1, "after": after}
    values["model"] = query.model_id
    valid = question.valid("ev")
    own = [valid, "ev.program_id = :program"]
    feedback = [valid, "ev.program_id IS NULL", "x.program_id = :program"]
    if after is not None:
        own.append("ev.position < :after")
        feedback.append("ev.position < :after")
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
    resolved = _resolved(question, " AND ".join(own), " AND ".join(feedback))
    items = _items(question, f"{resolved} ORDER BY position DESC LIMIT :limit", values)
    return page(items, query, "position", program_id=program_id)


def evaluations_of_execution(question: Question, execution_id: str) -> list[Item]:
    """Everything that was said of one execution, newest first."""
    said = f"{question.valid('ev')} AND ev.execution_id = :execution"
    resolved = _resolved(
        question, f"{said} AND ev.program_id IS NOT NULL", f"{said} AND ev.program_id IS NULL"
    )
    return _items(question, resolved, {"execution": execution_id})


def _resolved(question: Question, own: str, feedback: str) -> str:
    """Evaluations of programs and feedback that fit these terms, each with its program, content and model."""
    joined = f"LEFT JOIN executions x ON {_EXECUTION} AND {question.seen('x')}"
    return f"{_OWN} WHERE {own} UNION ALL {_FEEDBACK} {joined} WHERE {feedback}"


def _items(question: Question, resolved: str, values: dict[str, object]) -> list[Item]:
    labelled = _LABELLED.format(resolved=resolved, seen=question.seen("v"))
    return items_of(question.db.execute(labelled, values), json=("results", "dataset"))
