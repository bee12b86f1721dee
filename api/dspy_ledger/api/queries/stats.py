"""Statistics of executions over time: totals, groups, and what each hour, day, week or month had.

They come from roll-ups, which have no past and know no moment finer than an hour.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from dspy_ledger.api.parameters import BUCKETS, BadParameters, StatsQuery
from dspy_ledger.api.queries.buckets import bucket_end, bucket_number, bucket_start
from dspy_ledger.api.queries.paging import Item
from dspy_ledger.api.queries.roll_ups import Labels, Span, outermost_hour, scopes_of, spans_of, sums_of
from dspy_ledger.api.queries.sums import COUNTS, SUMS, Sums
from dspy_ledger.api.reading import Question
from dspy_ledger.histogram import quantiles

__all__ = ["stats"]

_MOST_BUCKETS: Final = 2500
"""Buckets of all groups together in one answer; more than a chart can show."""
_MOST: Final = 2**63 - 1  # what JSON is written for
_LABELS: Final = "SELECT program_id, content_hash, version FROM versions ORDER BY program_id, position"

_COLUMNS: Final[Mapping[str | None, tuple[str, ...]]] = {
    None: (),
    "program": ("program_id",),
    "version": ("program_id", "content_hash"),
    "model": ("model_id",),
    "environment": ("environment",),
}
"""What tells the groups apart in a roll-up."""

Buckets = dict[int, list[Sums]]
"""The parts of which the sum of each bucket is; 0 stands for all of them when none are asked for."""
Group = tuple[str | None, ...]


def stats(question: Question, query: StatsQuery, *, brief: bool = False) -> dict[str, Any]:
    """Totals over a window, in all and by group, and the same by bucket where it is asked for.

    A window without an end that was asked for reaches from the first to the last bucket with executions.

    Args:
        question: the view.
        query: what it is about.
        brief: tell of buckets their executions and errors only, which takes a fraction of the time.

    Raises:
        BadParameters: there would be too many buckets.
    """
    db, bucket, unit = question.db, query.bucket, query.bucket or "hour"
    since = None if query.since is None else bucket_number(unit, query.since)
    until = None if query.until is None else bucket_end(unit, query.until)
    labels = _labels(db, query)
    spans = spans_of(db, bucket, since, until)
    if bucket is None or not brief:
        groups = totals = _gathered(db, query, labels, spans, bucket, SUMS)
    else:
        groups = _gathered(db, query, labels, spans, bucket, COUNTS)
        totals = _gathered(db, query, labels, spans, None, SUMS)
    every = _together(groups.values())
    if since is None:
        first = min(every, default=None) if bucket else _outermost_hour(db, query, labels, last=False)
        since = min((at for at in (first, until) if at is not None), default=None)
    if until is None:
        last = max(every, default=None) if bucket else _outermost_hour(db, query, labels, last=True)
        until = since if since is None or last is None else max(since, last + 1)
    window = range(0) if since is None or until is None else range(since, until)
    if bucket is not None:
        _check(bucket, window, 1 + len(groups) if query.group_by else 1)
    told = window if bucket else range(0)
    order = _order(query, labels)
    return {
        "since": None if since is None else bucket_start(unit, since),
        "until": None if until is None else bucket_start(unit, until),
        "bucket": bucket,
        "group_by": query.group_by,
        **_told(_together(totals.values()), every, unit, told, brief),
        "groups": [
            {**_named(query, group), **_told(totals[group], groups[group], unit, told, brief)}
            for group in sorted(groups if query.group_by else (), key=order)
        ],
    }


def _gathered(
    db: sqlite3.Connection,
    query: StatsQuery,
    labels: Labels,
    spans: list[Span],
    bucket: str | None,
    numbers: str,
) -> dict[Group, Buckets]:
    """What is told of the spans, by group and bucket."""
    columns, scopes = _COLUMNS[query.group_by], scopes_of(db, query, labels)
    groups: defaultdict[Group, Buckets] = defaultdict(lambda: defaultdict(list))
    found = sums_of(db, columns, scopes, spans, by_period=bucket is not None, numbers=numbers)
    for period, of, sums in found:
        at = bucket_number(bucket, period) if bucket else 0
        groups[_group(query, labels, of)][at].append(sums)
    return groups


def _together(groups: Iterable[Buckets]) -> Buckets:
    every: Buckets = defaultdict(list)
    for buckets in groups:
        for at, parts in buckets.items():
            every[at] += parts
    return every


def _group(query: StatsQuery, labels: Labels, of: tuple[str, ...]) -> Group:
    """The name of a group of rows: null for what the events had none of."""
    match query.group_by:
        case "version":
            program_id, digest = of
            return program_id, labels.get((program_id, digest))
        case "model" | "environment":
            return (of[0] or None,)
    return of


def _outermost_hour(db: sqlite3.Connection, query: StatsQuery, labels: Labels, *, last: bool) -> int | None:
    """That of all groups together."""
    return outermost_hour(db, scopes_of(db, query.model_copy(update={"group_by": None}), labels), last=last)


def _labels(db: sqlite3.Connection, query: StatsQuery) -> Labels:
    """Those of all versions, when the question is about versions."""
    if query.version is None and query.group_by != "version":
        return {}
    return {(program_id, digest): label for program_id, digest, label in db.execute(_LABELS)}


def _order(query: StatsQuery, labels: Labels) -> Callable[[Group], Any]:
    """In what order groups are told: versions as they were registered, null last."""
    if query.group_by != "version":
        return lambda group: [(part is None, part) for part in group]
    ages: dict[Group, int] = {
        (program_id, label): age for age, ((program_id, _), label) in enumerate(labels.items())
    }
    return lambda group: (group[0], ages.get(group, len(ages)))


def _named(query: StatsQuery, group: Group) -> Item:
    names = {"program": ("program_id",), "version": ("program_id", "version"), "model": ("model_id",)}
    return {"group": dict(zip(names.get(query.group_by or "", ("environment",)), group, strict=True))}


def _told(totals: Buckets, buckets: Buckets, unit: str, window: range, brief: bool) -> Item:
    """Totals, and each bucket of a window, those without executions too."""
    tell = _counts if brief else _numbers
    return {
        "totals": _numbers([part for parts in totals.values() for part in parts]),
        "buckets": [{"start": bucket_start(unit, at), **tell(buckets.get(at, ()))} for at in window],
    }


def _counts(parts: Sequence[Sums]) -> Item:
    sums = Sums.of(parts)
    return {"executions": sums.executions, "errors": sums.errors}


def _numbers(parts: Sequence[Sums]) -> Item:
    sums = Sums.of(parts)
    p50, p95, p99 = (
        None if number is None else number / 1e3 for number in quantiles(sums.latencies, (0.5, 0.95, 0.99))
    )
    return {
        "executions": sums.executions,
        "errors": sums.errors,
        "input_tokens": min(sums.input_tokens, _MOST) if sums.input_known else None,
        "output_tokens": min(sums.output_tokens, _MOST) if sums.output_known else None,
        "cost_usd": sums.cost / 1e12 if sums.cost_known else None,
        "input_known": sums.input_known,
        "output_known": sums.output_known,
        "cost_known": sums.cost_known,
        "mean_latency_ms": sums.latency / 1e3 / sums.executions if sums.executions else None,
        "p50_latency_ms": p50,
        "p95_latency_ms": p95,
        "p99_latency_ms": p99,
        "error_rate": sums.errors / sums.executions if sums.executions else None,
    }


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
