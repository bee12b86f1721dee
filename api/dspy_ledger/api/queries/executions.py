"""Executions: the filtered list, newest first, and one.

SQLite keeps no statistics of a view that changes all the time, so the index to walk is chosen here, by
what is known to be few; a unary ``+`` keeps it from using another. All walks but the first two read in
order of position and stop when the page is full.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from dspy_ledger.api.parameters import ExecutionQuery
from dspy_ledger.api.queries.paging import Item, items_of, page
from dspy_ledger.events import ExecutionCompleted
from dspy_ledger.store import StoredEvent

__all__ = ["one_execution", "page_of_executions", "with_event"]

_COLUMNS = (
    "e.position, e.execution_id, e.program_id, e.program_name, v.version AS program_version, e.content_hash,"
    " e.model_id, e.provider, e.base_model, e.status, e.error_type, e.error_message, e.started_at, e.time,"
    " e.latency_ms, e.input_tokens, e.output_tokens, e.cost_usd, e.model_pinned, e.trace_id, e.session_id,"
    " e.user_id, e.tags, e.environment, e.service, e.release"
)
_LABELLED = "LEFT JOIN versions v ON v.program_id = e.program_id AND v.content_hash = e.content_hash"
_NARROW_WINDOW = 5000
"""Executions between since and until that may be sorted for one page."""
_MOST_WALKS = 200
"""Contents of one program that are walked side by side; SQLite merges up to 500."""
_LEFT_OUT = {
    name: field.get_default(call_default_factory=True)
    for name, field in ExecutionCompleted.model_fields.items()
    if not field.is_required()
}
"""What a field says that an event of another producer left out."""

Term = tuple[str, list[object]]
"""SQL and its values."""


def page_of_executions(db: sqlite3.Connection, query: ExecutionQuery) -> dict[str, Any]:
    """Executions that match every filter, newest first by position."""
    after = query.after()
    walks = _walks(db, query)
    if not walks:
        return page([], query, "position")
    rest, rest_values = _rest(query, after)
    # Positions first: what is merged or sorted is then one number, not 25 columns.
    arms = " UNION ALL ".join(
        f"SELECT e.position FROM executions e WHERE {walk} AND {rest}"  # noqa: S608
        for walk, _ in walks
    )
    values = [value for _, own in walks for value in (*own, *rest_values)]
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM ({arms} ORDER BY position DESC LIMIT ?) w"  # noqa: S608
        f" CROSS JOIN executions e ON e.position = w.position {_LABELLED}",
        (*values, query.limit + 1),
    )
    newest_first = sorted(_items(rows), key=lambda item: item["position"], reverse=True)
    return page(newest_first, query, "position")


def one_execution(db: sqlite3.Connection, execution_id: str) -> Item | None:
    """One execution's row."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM executions e {_LABELLED} WHERE e.execution_id = ?",  # noqa: S608
        (execution_id,),
    )
    return next(iter(_items(rows)), None)


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


def _walks(db: sqlite3.Connection, query: ExecutionQuery) -> list[Term]:
    """What to walk: terms that an index serves; nothing, when nothing can match."""
    contents = _contents(db, query)
    if contents is not None and not contents:
        return []
    if query.trace_id is not None:
        return [("e.trace_id = ?", [query.trace_id])]
    if (window := _window(db, query)) is not None:
        return [window]
    if query.status == "error":
        return [("e.status = 'error'", [])]  # spelled as the partial index spells it
    if contents is not None and len(contents) <= _MOST_WALKS:
        return [("e.program_id = ? AND e.content_hash IS ?", list(content)) for content in contents]
    if query.model_id is not None:
        return [("e.model_id = ?", [query.model_id])]
    return [("1", [])]


def _contents(db: sqlite3.Connection, query: ExecutionQuery) -> list[tuple[str, str | None]] | None:
    """The (program_id, content_hash) that the filters leave; None when they leave all."""
    if query.version is not None:
        program = "" if query.program_id is None else " AND program_id = :program_id"
        rows = db.execute(
            f"SELECT program_id, content_hash FROM versions WHERE version = :version{program}",  # noqa: S608
            {"version": query.version, "program_id": query.program_id},
        )
    elif query.program_id is not None:
        rows = db.execute(
            "SELECT DISTINCT program_id, content_hash FROM totals"
            " WHERE program_id = ?1 AND ifnull(?2, model_id) = model_id",
            (query.program_id, query.model_id),
        )
    else:
        return None
    contents: list[tuple[str, str | None]] = [(program_id, content_hash) for program_id, content_hash in rows]
    # Totals spell "no hash" as ''; executions do so only where the event did.
    return contents + [(program_id, None) for program_id, content_hash in contents if content_hash == ""]


def _window(db: sqlite3.Connection, query: ExecutionQuery) -> Term | None:
    """The time window as a walk, when few executions lie in it."""
    terms, values = [], list[object]()
    for operator, bound in ((">=", query.since), ("<", query.until)):
        if bound is not None:
            terms.append(f"e.time {operator} ?")
            values.append(bound)
    if not terms:
        return None
    window = " AND ".join(terms)
    (found,) = db.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM executions e WHERE {window} LIMIT ?)",  # noqa: S608
        (*values, _NARROW_WINDOW + 1),
    ).fetchone()
    return (window, values) if found <= _NARROW_WINDOW else None


def _rest(query: ExecutionQuery, after: object) -> Term:
    """Every filter, once more, in a spelling that no index serves (but the position's)."""
    terms, values = [], list[object]()
    for term, value in (
        ("e.position < ?", after),
        ("+e.program_id = ?", query.program_id),
        ("+e.model_id = ?", query.model_id),
        ("+e.status = ?", query.status),
        ("+e.trace_id = ?", query.trace_id),
        ("+e.environment = ?", query.environment),
        ("+e.time >= ?", query.since),
        ("+e.time < ?", query.until),
    ):
        if value is not None:
            terms.append(term)
            values.append(value)
    if query.version is not None:
        terms.append(
            "? = (SELECT version FROM versions v"
            " WHERE v.program_id = e.program_id AND v.content_hash = e.content_hash)"
        )
        values.append(query.version)
    return " AND ".join(terms) or "1", values


def _items(rows: sqlite3.Cursor) -> list[Item]:
    items = items_of(rows, json=("tags",))
    for item in items:
        item["model_pinned"] = bool(item["model_pinned"])
    return items
