"""Executions: the filtered list, newest first, and one.

SQLite keeps no statistics of a view that changes all the time, so the index to walk is chosen here, by
what is known to be few, and SQLite is told to use that one. All walks but that of a time window read in
order of position and stop when the page is full.
"""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

import msgspec
import orjson

from dspy_ledger.api.cursors import encode_cursor
from dspy_ledger.api.parameters import ExecutionQuery
from dspy_ledger.api.queries.execution_rows import encoded_executions, execution_at
from dspy_ledger.api.queries.paging import Item
from dspy_ledger.api.reading import Question
from dspy_ledger.events import ExecutionCompleted
from dspy_ledger.store import StoredEvent

__all__ = ["one_execution", "page_of_executions", "with_event"]

_VERSION = "v.program_id = e.program_id AND v.content_hash = e.content_hash"
_FEW = 5000
"""Executions of one environment, or between since and until, that may be gone through for one page."""
_MOST_WALKS = 200
"""Contents of one program that are walked side by side; SQLite merges up to 500."""
_LEFT_OUT = {
    field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    for field in msgspec.structs.fields(ExecutionCompleted)
    if not field.required
}
"""What a field says that an event of another producer left out."""


class _Walk(NamedTuple):
    """Executions to go through: by which index, the term that it serves, and the term's values."""

    by: str
    term: str
    values: list[object]


def page_of_executions(
    question: Question, query: ExecutionQuery, *, above: int | None = None
) -> dict[str, Any]:
    """Executions that match every filter, newest first by position; only those above a given one."""
    positions = _positions(question, query, above)
    more, positions = len(positions) > query.limit, positions[: query.limit]
    cursor = encode_cursor(query.name, query.filters(), positions[-1]) if more else None
    items = b",".join(encoded_executions(question, positions, query.fields))
    return {"items": orjson.Fragment(b"[%b]" % items), "next_cursor": cursor}


def _positions(question: Question, query: ExecutionQuery, above: int | None) -> list[int]:
    """Where a page's executions are, and one more when there is a next page."""
    walks = _walks(question, query)
    if not walks:
        return []
    rest, rest_values = _rest(question, query, query.after(), above)
    arms = " UNION ALL ".join(
        f"SELECT e.position FROM executions e {walk.by} WHERE {walk.term} AND {rest}"  # noqa: S608
        for walk in walks
    )
    values = [value for walk in walks for value in (*walk.values, *rest_values)]
    rows = question.db.execute(f"{arms} ORDER BY position DESC LIMIT ?", (*values, query.limit + 1))
    rows.row_factory = None
    return [position for (position,) in rows]


def one_execution(question: Question, execution_id: str) -> Item | None:
    """One execution's row; the first, should several events claim the id."""
    found = question.db.execute(
        f"SELECT min(e.position) FROM executions e WHERE e.execution_id = ? AND {question.seen('e')}",  # noqa: S608
        (execution_id,),
    ).fetchone()
    return None if found[0] is None else execution_at(question, found[0])


def with_event(execution: Item, event: StoredEvent) -> Item:
    """An execution's row and everything that its event says, in one.

    Where both know a field the row's counts: its version is the one in force, not the one its producer knew.
    """
    own = {name: value for name, value in {**_LEFT_OUT, **event.data}.items() if name not in execution}
    body = event.body_json()
    captured = body if isinstance(body, dict) else {}  # another producer's may be any JSON
    return {
        **execution,
        **own,
        "event_id": event.event_id,
        "source": event.source,
        "sequence": event.sequence,
        "recorded_at": event.recorded_at,
        **{name: captured.get(name) for name in ("inputs", "outputs", "calls")},
    }


def _walks(question: Question, query: ExecutionQuery) -> list[_Walk]:
    """What to walk, side by side; nothing, when nothing can match."""
    contents = _contents(question, query)
    if contents is not None and not contents:
        return []
    for name in ("trace", "session", "user"):
        if (value := getattr(query, f"{name}_id")) is not None:
            return [_Walk(f"INDEXED BY executions_by_{name}", f"e.{name}_id = ?", [value])]
    if (few := _few(question.db, query)) is not None:
        return [few]
    if query.status == "error":  # spelled as the partial index spells it
        return [_Walk("INDEXED BY executions_failed", "e.status = 'error'", [])]
    if contents is not None and len(contents) <= _MOST_WALKS:
        term = "e.program_id = ? AND e.content_hash IS ?"
        return [_Walk("INDEXED BY executions_by_program", term, list(content)) for content in contents]
    if query.model_id is not None:
        return [_Walk("INDEXED BY executions_by_model", "e.model_id = ?", [query.model_id])]
    return [_environment(query) or _Walk("NOT INDEXED", "1", [])]


def _contents(question: Question, query: ExecutionQuery) -> list[tuple[str, str | None]] | None:
    """The (program_id, content_hash) that the filters leave; None when they leave all."""
    if query.version is not None:
        program = "" if query.program_id is None else " AND v.program_id = :program_id"
        rows = question.db.execute(
            "SELECT v.program_id, v.content_hash FROM versions v"  # noqa: S608
            f" WHERE v.version = :version{program} AND {question.seen('v')}",
            {"version": query.version, "program_id": query.program_id},
        )
    elif query.program_id is not None:
        rows = question.db.execute(
            "SELECT DISTINCT program_id, content_hash FROM totals"
            " WHERE program_id = ? AND ifnull(?, model_id) = model_id",
            (query.program_id, query.model_id),
        )
    else:
        return None
    contents: list[tuple[str, str | None]] = [(program_id, content_hash) for program_id, content_hash in rows]
    # Totals spell "no hash" as ''; executions do so only where the event did.
    return contents + [(program_id, None) for program_id, content_hash in contents if content_hash == ""]


def _few(db: sqlite3.Connection, query: ExecutionQuery) -> _Walk | None:
    """The environment or the time window, when few executions (or none) lie in it."""
    counted = []
    for walk in filter(None, (_environment(query), _window(query))):
        (found,) = db.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM executions e {walk.by} WHERE {walk.term} LIMIT ?)",  # noqa: S608
            (*walk.values, _FEW + 1),
        ).fetchone()
        if found <= _FEW:
            counted.append((found, walk))
    return min(counted)[1] if counted else None


def _environment(query: ExecutionQuery) -> _Walk | None:
    if query.environment is None:
        return None
    return _Walk("INDEXED BY executions_by_environment", "e.environment = ?", [query.environment])


def _window(query: ExecutionQuery) -> _Walk | None:
    bounds = [(">=", query.since), ("<", query.until)]
    given = [(f"e.time {operator} ?", bound) for operator, bound in bounds if bound is not None]
    if not given:
        return None
    term = " AND ".join(term for term, _ in given)
    return _Walk("INDEXED BY executions_by_time", term, [bound for _, bound in given])


def _rest(
    question: Question, query: ExecutionQuery, after: object, above: object
) -> tuple[str, list[object]]:
    """Every filter, whether the walk keeps to it already or not, and its values."""
    terms, values = [question.seen("e")], list[object]()
    for term, value in (
        ("e.position < ?", after),
        ("e.position > ?", above),
        ("e.program_id = ?", query.program_id),
        ("e.model_id = ?", query.model_id),
        ("e.status = ?", query.status),
        ("e.trace_id = ?", query.trace_id),
        ("e.session_id = ?", query.session_id),
        ("e.user_id = ?", query.user_id),
        ("e.environment = ?", query.environment),
        ("e.service = ?", query.service),
        ("e.release = ?", query.release),
        ("e.latency_ms >= ?", query.min_latency_ms),
        ("e.time >= ?", query.since),
        ("e.time < ?", query.until),
    ):
        if value is not None:
            terms.append(term)
            values.append(value)
    for tag in query.tag:
        terms.append("e.tags <> '[]' AND EXISTS (SELECT 1 FROM json_each(e.tags) WHERE value = ?)")
        values.append(tag)
    if query.version is not None:
        terms.append(f"? = (SELECT v.version FROM versions v WHERE {_VERSION} AND {question.seen('v')})")  # noqa: S608
        values.append(query.version)
    return " AND ".join(terms), values
