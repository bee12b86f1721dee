"""The first page: the programs and how they do, and whether the ledger is well."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dspy_ledger.api.pages.bars import bars, outlines
from dspy_ledger.api.pages.health import health_of
from dspy_ledger.api.pages.layout import decoded, read_form, show
from dspy_ledger.api.pages.windows import WINDOWS
from dspy_ledger.api.parameters import BUCKETS, BadParameters, Bucket, ProgramQuery, StatsQuery
from dspy_ledger.api.queries.programs import page_of_programs
from dspy_ledger.api.queries.stats import stats
from dspy_ledger.api.reading import Question, ask
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.timestamps import to_datetime, utc_now

__all__ = ["router"]

router = APIRouter(include_in_schema=False, route_class=DirectRoute)

_PROGRAMS: Final = 50


class OverviewQuery(ProgramQuery):
    """Which programs, over which time."""

    window: Literal["24h", "7d", "30d", "all"] | None = None


@dataclass(frozen=True, slots=True)
class _Window:
    """What statistics are asked for: since when, by which bucket in all, and by which of each program."""

    name: str
    since: str | None
    bucket: Bucket
    coarse: Bucket


@router.get("/")
def overview(request: Request) -> HTMLResponse:
    """Programs with what became of them over a window."""
    query = read_form(request, OverviewQuery)
    query = query.model_copy(update={"limit": _PROGRAMS, "fields": None})
    with ask(request, query) as question:
        found = decoded(page_of_programs(question, query))
        programs, is_past = found["items"], question.as_of is not None
        window = _window(query.window, programs)
        return show(
            request,
            "overview.html",
            question,
            section="/",
            query=query,
            window=window,
            programs=programs if is_past else _with_statistics(question, programs, window),
            next_cursor=found["next_cursor"],
            everything=None if is_past or not programs else _everything(question, window),
            health=None if is_past else health_of(request, question),
        )


def _window(name: str | None, programs: list[dict[str, Any]]) -> _Window:
    """The window of that name; by default the last day while no program is older, else the last week."""
    now = utc_now()
    first = min((program["created_at"] for program in programs), default=now)
    days = (to_datetime(now) - to_datetime(first)).days
    name = name or ("7d" if days else "24h")
    if name in WINDOWS:
        window = WINDOWS[name]
        return _Window(name, window.since(now), "hour" if name == "7d" else window.bucket, window.bucket)
    bucket: Bucket = "day" if days <= 60 else "week" if days <= 400 else "month"
    coarse: Bucket = "day" if days <= 30 else "week" if days <= 200 else "month"
    return _Window(name, None, bucket, coarse)


def _everything(question: Question, window: _Window) -> dict[str, Any]:
    """Totals of all programs, their ``bars`` by the ``bucket`` and the ``outlines`` of these.

    The buckets are wider where there would be too many (one execution may say that it is of 1970), and there
    are no bars where even months are.
    """
    asked = StatsQuery(since=window.since, until=utc_now())
    for bucket in BUCKETS[BUCKETS.index(window.bucket) :]:
        with suppress(BadParameters):
            told = stats(question, asked.model_copy(update={"bucket": bucket}), brief=True)
            break
    else:
        told = stats(question, asked)
    drawn = bars(told["buckets"])
    return {**told["totals"], "bucket": told["bucket"], "bars": drawn, "outlines": outlines(drawn)}


def _with_statistics(
    question: Question, programs: list[dict[str, Any]], window: _Window
) -> list[dict[str, Any]]:
    """The programs with ``totals`` and the ``outlines`` of their ``bars`` (how many), the busiest first."""
    asked = StatsQuery(since=window.since, until=utc_now(), group_by="program")
    try:
        told = stats(question, asked.model_copy(update={"bucket": window.coarse}), brief=True)
    except BadParameters:  # more programs, or a longer time, than can be drawn
        told = stats(question, asked)
    groups = {group["group"]["program_id"]: group for group in told["groups"]}
    nobody = asked.model_copy(update={"program_id": "", "group_by": None})
    idle = stats(question, nobody)
    found = []
    for program in programs:
        of_it = groups.get(program["id"], idle)
        drawn = bars(of_it["buckets"])
        found.append({**program, "totals": of_it["totals"], "outlines": outlines(drawn), "bars": len(drawn)})
    return sorted(found, key=lambda program: -program["totals"]["executions"])
