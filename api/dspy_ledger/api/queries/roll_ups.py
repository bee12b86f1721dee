"""The fewest rows of the roll-ups that answer a question about statistics.

Each question is answered at the level that tells apart no more than it asks about, so that an answer takes
some rows for each day, however many versions and models there are. Whole days are read from the roll-up by
the day, and only the parts of days at a window's ends from the one by the hour.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from dspy_ledger.api.parameters import StatsQuery
from dspy_ledger.api.queries.buckets import END_OF_TIME, bucket_number, bucket_start
from dspy_ledger.api.queries.sums import SUMS, Sums

__all__ = [
    "Labels",
    "Scope",
    "Span",
    "Sums",
    "outermost_hour",
    "scopes_of",
    "spans_of",
    "sums_of",
]

Labels = Mapping[tuple[str, str], str]
"""Program id and content hash → the version's label, in order of registration."""

_HOUR: Final = len("2026-11-22T10")
_DAY: Final = len("2026-11-22")
_AFTER_ALL: Final = "~"  # sorts behind every time


class Scope(NamedTuple):
    """Rows of either roll-up by what holds of them; of one level and one program ('' for all of them)."""

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
    by_model = query.model_id or query.environment or query.group_by in {"model", "environment"}
    by_version = query.version is not None or query.group_by == "version"
    by_program = by_version or query.program_id is not None or query.group_by == "program"
    if by_model:
        level = "finest" if by_program else "model"
    else:
        level = "content" if by_version else "program" if by_program else "all"
    named = {"model_id": query.model_id, "environment": query.environment}
    given = {name: value for name, value in named.items() if value is not None}
    if query.version is not None:
        return [
            _scope(level=level, program_id=program_id, content_hash=digest, **given)
            for (program_id, digest), label in labels.items()
            if label == query.version and query.program_id in (None, program_id)
        ]
    programs = [query.program_id or ""]
    if by_program and query.program_id is None:
        programs = [program_id for (program_id,) in db.execute("SELECT DISTINCT program_id FROM totals")]
    return [_scope(level=level, program_id=program_id, **given) for program_id in programs]


def spans_of(db: sqlite3.Connection, bucket: str | None, since: int | None, until: int | None) -> list[Span]:
    """The parts of a window.

    Args:
        db: where it is asked whether a window's last day has more than its part of it.
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
    if until is not None and end_day is not None and _is_last_of_its_day(db, until):
        end_day += 1
    if first_day is not None and end_day is not None and first_day > end_day:  # within one day
        return spans_of(db, "hour", since, until)
    spans = spans_of(db, "day", first_day, end_day)
    if since is not None and first_day is not None and since < first_day * 24:
        spans += spans_of(db, "hour", since, first_day * 24)
    if until is not None and end_day is not None and until > end_day * 24:
        spans += spans_of(db, "hour", end_day * 24, until)
    return spans


def sums_of(
    db: sqlite3.Connection,
    columns: Sequence[str],
    scopes: Iterable[Scope],
    spans: Iterable[Span],
    *,
    by_period: bool,
    numbers: str = SUMS,
) -> Iterator[tuple[str, tuple[str, ...], Sums]]:
    """The sums of all rows that agree in these columns, in each period or in all ('') of each span."""
    spans = list(spans)
    for scope in scopes:
        for period, first, end in spans:
            key = ("level", period, *columns) if by_period else ("level", *columns)
            names, size = ", ".join(key), len(key)
            rows = db.execute(
                f"SELECT {names}, {numbers} FROM {period}s"  # noqa: S608  names of our own
                f" WHERE {scope.terms} AND {period} >= ? AND {period} < ? GROUP BY {names}",
                (*scope.values, first, end),
            )
            rows.row_factory = None  # tuples, for speed
            for row in rows:
                yield row[1] if by_period else "", row[size - len(columns) : size], Sums.read(row[size:])


def outermost_hour(db: sqlite3.Connection, scopes: Iterable[Scope], *, last: bool) -> int | None:
    """The first hour with executions, or the last; None when there are none."""
    days = [(scope, _outermost(db, scope, Span("day", "", _AFTER_ALL), last=last)) for scope in scopes]
    hours = [
        _outermost(db, scope, Span("hour", day, day + _AFTER_ALL), last=last)
        for scope, day in days
        if day is not None
    ]
    found = [bucket_number("hour", hour) for hour in hours if hour is not None]
    return (max if last else min)(found, default=None)


def _outermost(db: sqlite3.Connection, scope: Scope, span: Span, *, last: bool) -> str | None:
    period, first, end = span
    row = db.execute(
        f"SELECT {period} FROM {period}s WHERE {scope.terms} AND {period} >= ? AND {period} < ?"  # noqa: S608
        f" ORDER BY {period} {'DESC' if last else 'ASC'} LIMIT 1",
        (*scope.values, first, end),
    ).fetchone()
    return row[0] if row else None


def _is_last_of_its_day(db: sqlite3.Connection, until: int) -> bool:
    """Whether nothing was executed on the day of an hour from that hour on: it may not be over yet."""
    first = _spelled("hour", "hour", until, _AFTER_ALL)
    rest = Span("hour", first, first[:_DAY] + _AFTER_ALL)
    return _outermost(db, _scope(level="all", program_id=""), rest, last=False) is None


def _scope(**same: str) -> Scope:
    return Scope(" AND ".join(f"{name} = ?" for name in same), tuple(same.values()))


def _spelled(period: str, unit: str, number: int | None, default: str) -> str:
    """When a bucket begins, as a roll-up spells its periods."""
    if number is None:
        return default
    start = bucket_start(unit, number)
    return _AFTER_ALL if start == END_OF_TIME else start[: _HOUR if period == "hour" else _DAY]
