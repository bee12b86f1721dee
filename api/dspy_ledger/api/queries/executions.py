"""Executions: the filtered list, newest first, and one.

SQLite keeps no statistics of a view that changes all the time, so the index to walk is chosen here, by
what is known to be few, and SQLite is told to use that one. All walks read in order of position and stop
when the page is full; a time window is a range of positions, in which clocks that differ let others lie too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from time import monotonic
from typing import Any, NamedTuple

import msgspec
import orjson

from dspy_ledger.api.cursors import encode_cursor
from dspy_ledger.api.parameters import ExecutionQuery
from dspy_ledger.api.queries.execution_rows import Content, encoded_executions, execution_at
from dspy_ledger.api.queries.paging import Item
from dspy_ledger.api.reading import Question
from dspy_ledger.events import ExecutionCompleted
from dspy_ledger.store import StoredEvent

__all__ = ["one_execution", "page_of_executions", "with_event"]

_VERSION = "v.program_id = e.program_id AND v.content_hash = e.content_hash"
_HOUR = len("2026-11-22T10")
_FEW = 5000
"""Executions of one environment that may be gone through for one page."""
_LEAST_LOOK, _MOST_LOOK = 1_000, 20_000
"""Positions gone through at once for filters that the walk does not serve: some 10 ms in memory. Many times
that from a cold disk, which may begin anywhere: larger looks were hardly faster, and took all the time."""
_LOOK_TIME = 0.2
"""Seconds that a look should take; after one that took more, fewer positions are gone through."""
_PATIENCE = 1.5
"""Seconds after which a page is answered with what was found, or half of those that there are."""
_SIDE_BY_SIDE = 200
"""Contents that are walked at a time; SQLite merges up to 500."""
_LEFT_OUT = {
    field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    for field in msgspec.structs.fields(ExecutionCompleted)
    if not field.required
}
"""What a field says that an event of another producer left out."""


class _Walk(NamedTuple):
    """Executions to go through: by which index, the term that it serves, the term's values, its filters."""

    by: str
    term: str
    values: list[object]
    serves: frozenset[str]


def page_of_executions(
    question: Question, query: ExecutionQuery, *, above: int | None = None
) -> dict[str, Any]:
    """Executions that match every filter, newest first by position; only those above a given one.

    A page that takes long to fill is answered with what was found by then, and goes on with the next one.
    """
    filters = query.filters()
    positions, end = _positions(question, query, filters, above or 0)
    if len(positions) > query.limit:
        positions = positions[: query.limit]
        end = positions[-1]
    cursor = encode_cursor(query.name, filters, end) if end else None
    items = b",".join(encoded_executions(question, positions, query.fields))
    return {"items": orjson.Fragment(b"[%b]" % items), "next_cursor": cursor}


def _positions(
    question: Question, query: ExecutionQuery, filters: Mapping[str, object], above: int
) -> tuple[list[int], int]:
    """Where a page's executions are, and one more when there is a next page; 0, or where to go on below."""
    walks = _walks(question, query)
    given = {name for name, value in filters.items() if value != []} - {"as_of"}
    below = question.position + 1 if question.as_of is None else question.as_of + 1
    if (after := query.after()) is not None:
        below = min(below, int(after))
    look = below if walks and given <= walks[0].serves else _MOST_LOOK
    found, began = list[int](), monotonic()
    patience = min(_PATIENCE, (question.deadline - began) / 2)
    while True:
        low, high = _reach(question, query, below)
        low, below = max(low, above + 1), high + 1
        if not walks or high < low:
            return found, 0
        bottom = max(low - 1, high - look)
        looked = monotonic()
        found += _newest(question, query, walks, (bottom, below), query.limit + 1 - len(found))
        if len(found) > query.limit or bottom < low:
            return found, 0
        now = monotonic()
        if now - began > patience:
            return found, bottom + 1
        pace = _LOOK_TIME / max(now - looked, 1e-6)
        below, look = bottom + 1, max(_LEAST_LOOK, min(int(look * min(pace, 4)), _MOST_LOOK))


def _reach(question: Question, query: ExecutionQuery, below: int) -> tuple[int, int]:
    """The lowest and the highest position below that one where an execution of the window may lie."""
    if query.since is None and query.until is None:
        return 1, below - 1
    until = query.until or "~"  # which sorts behind every time
    low, high = question.db.execute(
        "SELECT min(first), max(min(last, ?)) FROM spans"
        " WHERE hour BETWEEN ? AND ? AND hour || ':00:00.000000Z' < ? AND first < ?",
        (below - 1, (query.since or "")[:_HOUR], until[:_HOUR], until, below),
    ).fetchone()
    return (1, 0) if low is None else (low, high)


def _newest(
    question: Question, query: ExecutionQuery, walks: list[_Walk], between: tuple[int, int], most: int
) -> list[int]:
    """Positions of what matches between two positions, the highest first."""
    rest, rest_values = _rest(question, query)
    found: list[int] = []
    for at in range(0, len(walks), _SIDE_BY_SIDE):
        some = walks[at : at + _SIDE_BY_SIDE]
        arms = " UNION ALL ".join(
            f"SELECT e.position FROM executions e {walk.by}"  # noqa: S608
            f" WHERE {walk.term} AND {rest} AND e.position > ? AND e.position < ?"
            for walk in some
        )
        values = [value for walk in some for value in (*walk.values, *rest_values, *between)]
        # All of them as one row: at each step SQLite lets go of the interpreter, which others may then keep.
        (told,) = question.db.execute(
            f"SELECT json_group_array(position) FROM ({arms} ORDER BY position DESC LIMIT ?)",  # noqa: S608
            (*values, most),
        ).fetchone()
        found += orjson.loads(told)
    return sorted(found, reverse=True)[:most]


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
    for name in ("trace_id", "session_id", "user_id"):
        if (value := getattr(query, name)) is not None:
            by = f"INDEXED BY executions_by_{name.removesuffix('_id')}"
            return [_Walk(by, f"e.{name} = ?", [value], frozenset({name}))]
    others = _long_walks(query, contents)
    if query.environment is not None:
        by = "INDEXED BY executions_by_environment"
        environment = _Walk(by, "e.environment = ?", [query.environment], frozenset({"environment"}))
        if not others or _is_short(question.db, environment):
            return [environment]
    return others or [_Walk("NOT INDEXED", "1", [], frozenset())]


def _long_walks(query: ExecutionQuery, contents: list[Content] | None) -> list[_Walk]:
    """Walks that serve some filter; none, when no index does."""
    if query.status == "error":  # spelled as the partial index spells it
        return [_Walk("INDEXED BY executions_failed", "e.status = 'error'", [], frozenset({"status"}))]
    if contents is not None:
        by, term = "INDEXED BY executions_by_program", "e.program_id = ? AND e.content_hash IS ?"
        serves = frozenset({"program_id", "version"})
        return [_Walk(by, term, list(content), serves) for content in contents]
    if query.model_id is not None:
        by = "INDEXED BY executions_by_model"
        return [_Walk(by, "e.model_id = ?", [query.model_id], frozenset({"model_id"}))]
    return []


def _contents(question: Question, query: ExecutionQuery) -> list[Content] | None:
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
    contents: list[Content] = [(program_id, content_hash) for program_id, content_hash in rows]
    # Totals spell "no hash" as ''; executions do so only where the event did.
    return contents + [(program_id, None) for program_id, content_hash in contents if content_hash == ""]


def _is_short(db: sqlite3.Connection, walk: _Walk) -> bool:
    found = db.execute(
        f"SELECT 1 FROM executions e {walk.by} WHERE {walk.term} LIMIT 1 OFFSET ?",  # noqa: S608
        (*walk.values, _FEW),
    ).fetchone()
    return found is None


def _rest(question: Question, query: ExecutionQuery) -> tuple[str, list[object]]:
    """Every filter, whether the walk keeps to it already or not, and its values."""
    terms, values = [question.seen("e")], list[object]()
    for term, value in (
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
