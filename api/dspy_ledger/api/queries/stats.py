"""Statistics of executions over time, from the roll-ups by the hour that the projector keeps.

Roll-ups have no past, and know no moment finer than an hour. Hours, days, weeks and months are numbered from
the first of the calendar, in UTC, so that a window of them is a range.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date
from functools import lru_cache
from operator import add
from typing import Any, Final

from dspy_ledger.api.parameters import BUCKETS, BadParameters, StatsQuery
from dspy_ledger.api.queries.paging import Item
from dspy_ledger.api.reading import Question
from dspy_ledger.histogram import as_number, quantiles

__all__ = ["stats"]

_MOST_BUCKETS: Final = 2500
"""Buckets of all groups together in one answer; more than a chart can show."""
_MOST: Final = 2**63 - 1  # what JSON is written for
_END_OF_TIME: Final = "9999-12-31T23:59:59.999999Z"
_LABELS: Final = "SELECT program_id, content_hash, version FROM versions ORDER BY program_id, position"
_HOURS: Final = """
SELECT program_id, hour, content_hash, model_id, environment, executions, errors, input_known, input_tokens,
       output_known, output_tokens, cost_known, cost, latency, latencies
FROM hours
"""

Sums = list[int]
"""An hour's columns from executions to latency, and the histogram of its latencies as one number."""
Buckets = dict[int, Sums]
Group = tuple[str | None, ...]
Labels = dict[tuple[str, str], str]
"""Program id and content hash → the version's label, in order of registration."""


def stats(question: Question, query: StatsQuery) -> dict[str, Any]:
    """Totals over a window, in all and by group, and the same by bucket where it is asked for.

    A window without an end that was asked for reaches from the first to the last bucket with executions.

    Raises:
        BadParameters: there would be too many buckets.
    """
    unit = query.bucket or "hour"
    since = None if query.since is None else _number(unit, query.since)
    until = None if query.until is None else _end(unit, query.until)
    labels = {(program_id, digest): label for program_id, digest, label in question.db.execute(_LABELS)}
    found: defaultdict[Group, defaultdict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    group_of, order = _grouping(query, labels)
    for row in _rows(question.db, query, labels, _bounds(unit, since, until)):
        found[group_of(row)][_number(unit, row[1])].append(row)
    groups = {group: {at: _sum(rows) for at, rows in buckets.items()} for group, buckets in found.items()}
    every: Buckets = {}
    for buckets in groups.values():
        for at, sums in buckets.items():
            every[at] = list(map(add, every[at], sums)) if at in every else sums
    if since is None:
        since = min(every, default=until)
    if until is None:
        until = max(every) + 1 if every else since
    window = range(0) if since is None or until is None else range(since, until)
    if query.bucket is not None:
        _check(query.bucket, window, 1 + len(groups) if query.group_by else 1)
    told = window if query.bucket else range(0)
    return {
        "since": None if since is None else _start(unit, since),
        "until": None if until is None else _start(unit, until),
        "bucket": query.bucket,
        "group_by": query.group_by,
        **_told(every, unit, told),
        "groups": [
            {**_named(query, group), **_told(groups[group], unit, told)}
            for group in sorted(groups if query.group_by else (), key=order)
        ],
    }


def _rows(db: sqlite3.Connection, query: StatsQuery, labels: Labels, hours: tuple[str, str]) -> Iterator[Any]:
    """The rows of ``hours`` that fit, program by program as they lie."""
    contents = None
    if query.version is not None:
        contents = [content for content, label in labels.items() if label == query.version]
    if query.program_id is not None:
        programs = [query.program_id]
    elif contents is not None:
        programs = list(dict.fromkeys(program_id for program_id, _ in contents))
    else:
        programs = [row[0] for row in db.execute("SELECT DISTINCT program_id FROM totals")]
    for program_id in programs:
        terms, values = ["program_id = ?", "hour >= ?", "hour < ?"], [program_id, *hours]
        for name in ("model_id", "environment"):
            if (value := getattr(query, name)) is not None:
                terms.append(f"{name} = ?")
                values.append(value)
        if contents is not None:
            digests = [digest for program, digest in contents if program == program_id]
            terms.append(f"content_hash IN ({','.join('?' * len(digests))})")
            values += digests
        rows = db.execute(f"{_HOURS} WHERE {' AND '.join(terms)}", values)
        rows.row_factory = None  # tuples, for speed
        yield from rows


def _grouping(query: StatsQuery, labels: Labels) -> tuple[Callable[[Any], Group], Callable[[Group], Any]]:
    """What group a row of ``hours`` belongs to, and in what order groups are told: null last."""

    def by_name(group: Group) -> Any:
        return [(part is None, part) for part in group]

    match query.group_by:
        case None:
            return (lambda _: ()), by_name
        case "program":
            return (lambda row: (row[0],)), by_name
        case "model":
            return (lambda row: (row[3] or None,)), by_name
        case "environment":
            return (lambda row: (row[4] or None,)), by_name
    ages = {(program_id, label): age for age, ((program_id, _), label) in enumerate(labels.items())}
    return (
        lambda row: (row[0], labels.get((row[0], row[2]))),
        lambda group: (group[0], ages.get(group, len(ages))),
    )


def _named(query: StatsQuery, group: Group) -> Item:
    names = {"program": ("program_id",), "version": ("program_id", "version"), "model": ("model_id",)}
    return {"group": dict(zip(names.get(query.group_by or "", ("environment",)), group, strict=True))}


def _told(buckets: Buckets, unit: str, window: range) -> Item:
    """Totals of all buckets, and each bucket of a window, those without executions too."""
    return {
        "totals": _numbers([sum(column) for column in zip(*buckets.values(), strict=True)] or _nothing()),
        "buckets": [
            {"start": _start(unit, at), **_numbers(buckets[at] if at in buckets else _nothing())}
            for at in window
        ],
    }


def _numbers(sums: Sums) -> Item:
    executions, errors, input_known, inputs, output_known, outputs, cost_known, cost, latency, latencies = (
        sums
    )
    p50, p95, p99 = (
        None if number is None else number / 1e3 for number in quantiles(latencies, (0.5, 0.95, 0.99))
    )
    return {
        "executions": executions,
        "errors": errors,
        "input_tokens": min(inputs, _MOST) if input_known else None,
        "output_tokens": min(outputs, _MOST) if output_known else None,
        "cost_usd": cost / 1e12 if cost_known else None,
        "input_known": input_known,
        "output_known": output_known,
        "cost_known": cost_known,
        "mean_latency_ms": latency / 1e3 / executions if executions else None,
        "p50_latency_ms": p50,
        "p95_latency_ms": p95,
        "p99_latency_ms": p99,
        "error_rate": errors / executions if executions else None,
    }


def _sum(rows: list[Any]) -> Sums:
    """The sums of rows of ``hours``."""
    columns = list(zip(*rows, strict=True))
    return [*map(sum, columns[5:14]), sum(map(as_number, columns[14]))]


def _nothing() -> Sums:
    return [0] * 10


def _check(bucket: str, window: range, series: int) -> None:
    """Raise BadParameters when there are more buckets than an answer tells."""
    if len(window) * series <= _MOST_BUCKETS:
        return
    first, last = _start(bucket, window[0]), _start(bucket, window[-1])
    for wider in BUCKETS[BUCKETS.index(bucket) + 1 :]:
        count = _number(wider, last) - _number(wider, first) + 1
        if count * series <= _MOST_BUCKETS:
            advice = f"take bucket={wider}, of which there are {count}"
            break
    else:
        advice = "narrow it with since and until, or group by what has fewer"
    raise BadParameters.one(
        "bucket",
        f"the window has {len(window)} buckets by the {bucket} in {series} series, and an answer"
        f" {_MOST_BUCKETS} in all; {advice}",
    )


@lru_cache(maxsize=4096)
def _number(unit: str, time: str) -> int:
    """The bucket in which a time lies, or an hour as roll-ups spell it."""
    if unit == "month":
        return int(time[:4]) * 12 + int(time[5:7]) - 1
    day = date.fromisoformat(time[:10]).toordinal()  # day 1 is a Monday
    if unit == "week":
        return (day - 1) // 7
    return day if unit == "day" else day * 24 + int(time[11:13])


def _end(unit: str, time: str) -> int:
    """The first bucket that begins at a time or later."""
    number = _number(unit, time)
    return number if time == _start(unit, number) else number + 1


def _start(unit: str, number: int) -> str:
    """When a bucket begins; the calendar's end for one beyond it."""
    try:
        if unit == "month":
            day, hour = date(number // 12, number % 12 + 1, 1), 0
        else:
            days = {"hour": number // 24, "day": number, "week": number * 7 + 1}[unit]
            day, hour = date.fromordinal(days), number % 24 if unit == "hour" else 0
    except (ValueError, OverflowError):
        return _END_OF_TIME
    return f"{day.isoformat()}T{hour:02d}:00:00.000000Z"


def _bounds(unit: str, since: int | None, until: int | None) -> tuple[str, str]:
    """A window as roll-ups spell hours, the second not included."""
    first = "" if since is None else _start(unit, since)[:13]
    end = _END_OF_TIME if until is None else _start(unit, until)
    return first, "~" if end == _END_OF_TIME else end[:13]
