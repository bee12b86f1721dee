"""Statistics of executions over time: totals, groups, and what each hour, day, week or month had.

They come from roll-ups, which have no past and know no moment finer than an hour.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable
from operator import add
from typing import Any, Final

from dspy_ledger.api.parameters import BUCKETS, BadParameters, StatsQuery
from dspy_ledger.api.queries.buckets import bucket_end, bucket_number, bucket_start
from dspy_ledger.api.queries.paging import Item
from dspy_ledger.api.queries.roll_ups import Labels, outermost_hour, rows_of, scopes_of, spans_of
from dspy_ledger.api.reading import Question
from dspy_ledger.histogram import as_number, quantiles

__all__ = ["stats"]

_MOST_BUCKETS: Final = 2500
"""Buckets of all groups together in one answer; more than a chart can show."""
_MOST: Final = 2**63 - 1  # what JSON is written for
_LABELS: Final = "SELECT program_id, content_hash, version FROM versions ORDER BY program_id, position"

Sums = list[int]
"""The columns of a roll-up from executions to latency, and the histogram of its latencies as one number."""
Buckets = dict[int, Sums]
Group = tuple[str | None, ...]


def stats(question: Question, query: StatsQuery) -> dict[str, Any]:
    """Totals over a window, in all and by group, and the same by bucket where it is asked for.

    A window without an end that was asked for reaches from the first to the last bucket with executions.

    Raises:
        BadParameters: there would be too many buckets.
    """
    db, bucket, unit = question.db, query.bucket, query.bucket or "hour"
    since = None if query.since is None else bucket_number(unit, query.since)
    until = None if query.until is None else bucket_end(unit, query.until)
    labels = _labels(db, query)
    scopes = scopes_of(db, query, labels)
    found: defaultdict[Group, defaultdict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    group_of, order = _grouping(query, labels)
    for row in rows_of(db, scopes, spans_of(bucket, since, until)):
        found[group_of(row)][bucket_number(bucket, row[0]) if bucket else 0].append(row)
    groups = {group: {at: _sum(rows) for at, rows in buckets.items()} for group, buckets in found.items()}
    every: Buckets = {}
    for buckets in groups.values():
        for at, sums in buckets.items():
            every[at] = list(map(add, every[at], sums)) if at in every else sums
    if bucket is None:
        first, last = (outermost_hour(db, scopes, since, until, last=last) for last in (False, True))
    else:
        first, last = min(every, default=None), max(every, default=None)
    if since is None:
        since = until if first is None else first
    if until is None:
        until = since if last is None else last + 1
    window = range(0) if since is None or until is None else range(since, until)
    if bucket is not None:
        _check(bucket, window, 1 + len(groups) if query.group_by else 1)
    told = window if bucket else range(0)
    return {
        "since": None if since is None else bucket_start(unit, since),
        "until": None if until is None else bucket_start(unit, until),
        "bucket": bucket,
        "group_by": query.group_by,
        **_told(every, unit, told),
        "groups": [
            {**_named(query, group), **_told(groups[group], unit, told)}
            for group in sorted(groups if query.group_by else (), key=order)
        ],
    }


def _labels(db: sqlite3.Connection, query: StatsQuery) -> Labels:
    """Those of all versions, when the question is about versions."""
    if query.version is None and query.group_by != "version":
        return {}
    return {(program_id, digest): label for program_id, digest, label in db.execute(_LABELS)}


def _grouping(query: StatsQuery, labels: Labels) -> tuple[Callable[[Any], Group], Callable[[Group], Any]]:
    """What group a row of a roll-up belongs to, and in what order groups are told: null last."""

    def by_name(group: Group) -> Any:
        return [(part is None, part) for part in group]

    match query.group_by:
        case None:
            return (lambda _: ()), by_name
        case "program":
            return (lambda row: (row[1],)), by_name
        case "model":
            return (lambda row: (row[3] or None,)), by_name
        case "environment":
            return (lambda row: (row[4] or None,)), by_name
    ages = {(program_id, label): age for age, ((program_id, _), label) in enumerate(labels.items())}
    return (
        lambda row: (row[1], labels.get((row[1], row[2]))),
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
            {"start": bucket_start(unit, at), **_numbers(buckets[at] if at in buckets else _nothing())}
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
    """The sums of rows of a roll-up."""
    columns = list(zip(*rows, strict=True))
    return [*map(sum, columns[5:14]), as_number(columns[14])]


def _nothing() -> Sums:
    return [0] * 10


def _check(bucket: str, window: range, series: int) -> None:
    """Raise BadParameters when there are more buckets than an answer tells."""
    if len(window) * series <= _MOST_BUCKETS:
        return
    first, last = bucket_start(bucket, window[0]), bucket_start(bucket, window[-1])
    for wider in BUCKETS[BUCKETS.index(bucket) + 1 :]:
        count = bucket_number(wider, last) - bucket_number(wider, first) + 1
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
