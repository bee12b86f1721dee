"""Models: those of the models file and those that events named, as one list."""

from __future__ import annotations

import sqlite3
from typing import Any

from dspy_ledger.api.models_file import ConfiguredModels, split_model_name
from dspy_ledger.api.parameters import ModelQuery
from dspy_ledger.api.queries.paging import Item, page
from dspy_ledger.api.reading import Question

__all__ = ["page_of_models"]

_TABLES = ("executions", "evaluations")
# From one model's rows in the index straight to the next model's: as many steps as there are models.
_NAMED = """
WITH RECURSIVE named (model_id) AS (
    SELECT min(e.model_id) FROM {table} e WHERE e.model_id > :after
    UNION ALL
    SELECT (SELECT min(e.model_id) FROM {table} e WHERE e.model_id > named.model_id)
    FROM named WHERE named.model_id IS NOT NULL
)
SELECT model_id FROM named
WHERE EXISTS (SELECT 1 FROM {table} e WHERE e.model_id = named.model_id AND {seen}) LIMIT :limit
"""
_END = """
SELECT e.position, e.time, e.provider, e.base_model, e.model_name FROM {table} e
WHERE e.model_id = ? AND {seen} ORDER BY e.position {order} LIMIT 1
"""


def page_of_models(question: Question, configured: ConfiguredModels, query: ModelQuery) -> dict[str, Any]:
    """Models by id; what the file says of a model now stands above what events said of it.

    The file has no past: of the past, only what events said is told.
    """
    after = str(query.after() or "")
    if question.as_of is not None:
        configured = ConfiguredModels()
    ids = {model_id for model_id in configured.names if model_id > after}
    for table in _TABLES:
        named = _NAMED.format(table=table, seen=question.seen("e"))
        ids.update(row[0] for row in question.db.execute(named, {"after": after, "limit": query.limit + 1}))
    items = [
        _item(question, model_id, configured.names.get(model_id))
        for model_id in sorted(ids)[: query.limit + 1]
    ]
    return {**page(items, query, "model_id"), "warnings": configured.warnings}


def _item(question: Question, model_id: str, configured: str | None) -> Item:
    """A model as the file names it, else as the last execution that ran on it said (or evaluation)."""
    first, last = _ends(question, model_id, "ASC"), _ends(question, model_id, "DESC")
    names = {name: last[0][name] for name in ("provider", "base_model", "model_name")} if last else {}
    if configured is not None:
        provider, base_model = split_model_name(configured)
        names = {"provider": provider, "base_model": base_model, "model_name": configured}
    return {
        "model_id": model_id,
        **names,
        "first_seen": min(first, key=_position)["time"] if first else None,
        "last_seen": max(last, key=_position)["time"] if last else None,
        "configured": configured is not None,
    }


def _ends(question: Question, model_id: str, order: str) -> list[sqlite3.Row]:
    """The first or the last execution and evaluation that name a model."""
    asked = (
        question.db.execute(_END.format(table=table, seen=question.seen("e"), order=order), (model_id,))
        for table in _TABLES
    )
    return [row for rows in asked if (row := rows.fetchone())]


def _position(row: sqlite3.Row) -> int:
    return row["position"]  # type: ignore[no-any-return]
