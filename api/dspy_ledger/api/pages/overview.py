"""The first page: the programs and how they do, and whether the ledger is well."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dspy_ledger.api.pages.bars import Bar, bars, together
from dspy_ledger.api.pages.health import health_of
from dspy_ledger.api.pages.layout import decoded, read_form, show
from dspy_ledger.api.parameters import Bucket, ProgramQuery, StatsQuery
from dspy_ledger.api.queries.programs import page_of_programs
from dspy_ledger.api.queries.stats import stats
from dspy_ledger.api.reading import Question, ask
from dspy_ledger.timestamps import canonical_time, to_datetime, utc_now

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_PROGRAMS: Final = 50
_SINCE: Final = {"24h": timedelta(hours=23), "7d": timedelta(days=6), "30d": timedelta(days=29)}
"""How long before now a window's first bucket lies."""


class OverviewQuery(ProgramQuery):
    """Which programs, over which time."""

    window: Literal["24h", "7d", "30d", "all"] = "7d"


@dataclass(frozen=True, slots=True)
class _Window:
    """What statistics are asked for: since when, and by which bucket."""

    since: str | None
    bucket: Bucket


@router.get("/")
async def overview(request: Request) -> HTMLResponse:
    """Programs with what became of them over a window."""
    query = read_form(request, OverviewQuery)
    query = query.model_copy(update={"limit": _PROGRAMS, "fields": None})
    with ask(request, query) as question:
        found = decoded(page_of_programs(question, query))
        programs, everything = found["items"], None
        if question.as_of is None:
            everything = _tell_statistics(question, programs, _window(query.window, programs))
        is_whole = query.cursor is None and found["next_cursor"] is None
        return show(
            request,
            "overview.html",
            question,
            section="/",
            query=query,
            programs=programs,
            next_cursor=found["next_cursor"],
            everything=everything if is_whole and programs else None,
            health=None if question.as_of is not None else health_of(request, question),
        )


def _window(name: str, programs: list[dict[str, Any]]) -> _Window:
    now = to_datetime(utc_now())
    if name in _SINCE:
        since = canonical_time((now - _SINCE[name]).isoformat())
        return _Window(since, "hour" if name == "24h" else "day")
    first = min((to_datetime(program["created_at"]) for program in programs), default=now)
    days = (now - first).days
    return _Window(None, "day" if days <= 60 else "week" if days <= 400 else "month")


def _tell_statistics(question: Question, programs: list[dict[str, Any]], window: _Window) -> dict[str, Any]:
    """Give each program its ``stats`` and ``bars``, and say what they come to; the busiest first."""
    for program in programs:
        asked = StatsQuery(
            program_id=program["id"], since=window.since, until=utc_now(), bucket=window.bucket
        )
        program["stats"] = stats(question, asked)
        program["bars"] = bars(program["stats"]["buckets"])
    programs.sort(key=lambda program: -program["stats"]["totals"]["executions"])
    totals = [program["stats"]["totals"] for program in programs]
    all_bars: list[Bar] = bars(together(program["stats"]["buckets"] for program in programs))
    executions, errors = _sum(totals, "executions") or 0, _sum(totals, "errors") or 0
    return {
        "executions": executions,
        "errors": errors,
        "error_rate": errors / executions if executions else None,
        "input_tokens": _sum(totals, "input_tokens"),
        "output_tokens": _sum(totals, "output_tokens"),
        "cost_usd": _sum(totals, "cost_usd"),
        "bars": all_bars,
        "bucket": window.bucket,
    }


def _sum(totals: list[dict[str, Any]], name: str) -> Any:
    """The sum of what is known; None when nothing is."""
    known = [total[name] for total in totals if total[name] is not None]
    return sum(known) if known else None
