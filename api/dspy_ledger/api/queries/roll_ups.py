"""The fewest rows of the roll-ups that answer a question about statistics.

Whole days are read from the roll-up by the day, and only the parts of days at a window's ends from the one
by the hour. What is asked of programs as a whole, or of all of them, is read from the rows that tell of
those, so that an answer takes some rows for each day, however many versions and models there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from dspy_ledger.api.parameters import StatsQuery
from dspy_ledger.api.queries.buckets import END_OF_TIME, bucket_number, bucket_start

__all__ = ["Labels", "Scope", "Span", "outermost_hour", "rows_of", "scopes_of", "spans_of"]

Labels = Mapping[tuple[str, str], str]
"""Program id and content hash → the version's label, in order of registration."""

_NUMBERS: Final = """
executions, errors, input_known, input_tokens, output_known, output_tokens, cost_known, cost, latency,
latencies
"""
_HOUR: Final = len("2026-11-22T10")
_DAY: Final = len("2026-11-22")
_AFTER_ALL: Final = "~"  # sorts behind every time


class Scope(NamedTuple):
    """Rows of either roll-up: the columns of program, content, model and environment, and which rows."""

    key: str
    terms: str
    values: tuple[str, ...]


class Span(NamedTuple):
    """A part of a window: hour or day, its first and the one after its last, as roll-ups spell them."""

    period: str
    first: str
    end: str


def scopes_of(db: sqlite3.Connection, query: StatsQuery, labels: Labels) -> list[Scope]:
    """The rows that a question is of; together they count each execution that fits once.

    Args:
        db: where the programs are asked for, when there are rows for each to be read.
        query: the question.
        labels: of all versions; needed only when it is about versions.
    """
    by_program = query.program_id is not None or query.group_by == "program"
    by_model = query.model_id or query.environment or query.group_by in {"model", "environment"}
    by_version = query.version is not None or query.group_by == "version"
    named = {"model_id": query.model_id, "environment": query.environment}
    given = {name: value for name, value in named.items() if value is not None}
    if not by_version and not (by_program and by_model):
        if not by_program:
            return [_scope({"program_id": "", "content_hash": "", **given})]
        key = "content_hash, '', '', ''"
        if query.program_id is not None:
            return [_scope({"program_id": "", "content_hash": query.program_id}, key)]
        return [Scope(key, "program_id = '' AND content_hash <> ''", ())]
    if query.version is None:
        if query.program_id is not None:
            return [_scope({"program_id": query.program_id, **given})]
        programs = db.execute("SELECT DISTINCT program_id FROM totals").fetchall()
        return [_scope({"program_id": program_id, **given}) for (program_id,) in programs]
    contents = [content for content, label in labels.items() if label == query.version]
    return [
        _scope({"program_id": program_id, "content_hash": digest, **given})
        for program_id, digest in contents
        if query.program_id in (None, program_id)
    ]


def spans_of(bucket: str | None, since: int | None, until: int | None) -> list[Span]:
    """The parts of a window.

    Args:
        bucket: what the window is counted in; None for hours of which only the sum is told.
        since: its first bucket; None for the first there is.
        until: the one after its last; None for the last there is.
    """
    if bucket is not None:
        period = "hour" if bucket == "hour" else "day"
        return [
            Span(period, _spelled(period, bucket, since, ""), _spelled(period, bucket, until, _AFTER_ALL))
        ]
    first_day = None if since is None else -(-since // 24)
    end_day = None if until is None else until // 24
    if first_day is not None and end_day is not None and first_day > end_day:  # within one day
        return spans_of("hour", since, until)
    spans = spans_of("day", first_day, end_day)
    if since is not None and first_day is not None and since < first_day * 24:
        spans += spans_of("hour", since, first_day * 24)
    if until is not None and end_day is not None and until > end_day * 24:
        spans += spans_of("hour", end_day * 24, until)
    return spans


def rows_of(db: sqlite3.Connection, scopes: Iterable[Scope], spans: Iterable[Span]) -> Iterator[Any]:
    """Period, program, content, model, environment, and the numbers from executions to latencies."""
    spans = list(spans)
    for scope in scopes:
        for period, first, end in spans:
            rows = db.execute(
                f"SELECT {period}, {scope.key}, {_NUMBERS} FROM {period}s"  # noqa: S608  names of our own
                f" WHERE {scope.terms} AND {period} >= ? AND {period} < ?",
                (*scope.values, first, end),
            )
            rows.row_factory = None  # tuples, for speed
            yield from rows


def outermost_hour(
    db: sqlite3.Connection, scopes: Iterable[Scope], since: int | None, until: int | None, *, last: bool
) -> int | None:
    """The first hour with executions in a window of hours, or the last; None when there are none."""
    first, end = _spelled("hour", "hour", since, ""), _spelled("hour", "hour", until, _AFTER_ALL)
    found = []
    for scope in scopes:
        days = Span("day", first[:_DAY], end[:_DAY] + _AFTER_ALL)
        if (day := _outermost(db, scope, days, last=last)) is not None:
            hours = Span("hour", max(first, day), min(end, day + _AFTER_ALL))
            found.append(_outermost(db, scope, hours, last=last))
    hours_found = [bucket_number("hour", hour) for hour in found if hour is not None]
    return (max if last else min)(hours_found, default=None)


def _outermost(db: sqlite3.Connection, scope: Scope, span: Span, *, last: bool) -> str | None:
    period, first, end = span
    row = db.execute(
        f"SELECT {period} FROM {period}s WHERE {scope.terms} AND {period} >= ? AND {period} < ?"  # noqa: S608
        f" ORDER BY {period} {'DESC' if last else 'ASC'} LIMIT 1",
        (*scope.values, first, end),
    ).fetchone()
    return row[0] if row else None


def _scope(same: Mapping[str, str], key: str = "program_id, content_hash, model_id, environment") -> Scope:
    return Scope(key, " AND ".join(f"{name} = ?" for name in same), tuple(same.values()))


def _spelled(period: str, unit: str, number: int | None, default: str) -> str:
    """When a bucket begins, as a roll-up spells its periods."""
    if number is None:
        return default
    start = bucket_start(unit, number)
    return _AFTER_ALL if start == END_OF_TIME else start[: _HOUR if period == "hour" else _DAY]
