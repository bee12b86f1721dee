"""What ran: the list under filters that stand in its address, and one execution in full."""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dspy_ledger.api.cursors import encode_cursor
from dspy_ledger.api.models_file import ConfiguredModels
from dspy_ledger.api.pages.layout import decoded, read_form, show, show_part
from dspy_ledger.api.pages.waterfall import MOST, waterfall
from dspy_ledger.api.parameters import BadParameters, ExecutionQuery, ModelQuery, PastQuery, ProgramQuery
from dspy_ledger.api.problems import UnknownExecution
from dspy_ledger.api.queries.evaluations import count_feedback, newest_feedback
from dspy_ledger.api.queries.executions import one_execution, page_of_executions, with_event
from dspy_ledger.api.queries.models import page_of_models
from dspy_ledger.api.queries.programs import page_of_programs
from dspy_ledger.api.reading import Question, ask, sources_of
from dspy_ledger.api.routes.direct import DirectRoute

__all__ = ["router"]

router = APIRouter(prefix="/executions", include_in_schema=False, route_class=DirectRoute)

_ROWS: Final = 50
_SUGGESTED: Final = 200
_FEEDBACK: Final = 50
_AFTER: Final = "Ledger-After"
"""The header with which a script asks for the rows after a position, and nothing else of the page."""
_POSITION: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


@router.get("")
def executions(request: Request) -> HTMLResponse:
    """The newest that match, of which a script keeps the list up to date."""
    query = read_form(request, ExecutionQuery)
    rows = query.limit if "limit" in query.model_fields_set else _ROWS
    query = query.model_copy(update={"limit": rows, "fields": None})
    after = _after(request)
    with ask(request, query) as question:
        found = decoded(page_of_executions(question, query, above=after))
        is_live = question.as_of is None and query.cursor is None
        if is_live:
            for item in found["items"]:
                item["cursor"] = encode_cursor(query.name, query.filters(), item["position"])
        if after is not None:
            return show_part(
                request,
                "execution_news.html",
                position=question.position,
                executions=found["items"],
                has_more=found["next_cursor"] is not None,
            )
        return show(
            request,
            "executions.html",
            question,
            section="/executions",
            query=query,
            executions=found["items"],
            next_cursor=found["next_cursor"],
            is_live=is_live,
            **_suggested(question),
        )


@router.get("/{execution_id:path}")
def execution(request: Request, execution_id: str) -> HTMLResponse:
    """One execution with its calls, what went in and came out, and what was said of it.

    Raises:
        UnknownExecution: there is none of that id.
    """
    with ask(request, read_form(request, PastQuery)) as question:
        row = one_execution(question, execution_id)
        if row is None:
            raise UnknownExecution(execution_id)
        event = sources_of(request).event_at(row["position"], execution_id=execution_id)
        told = decoded(with_event(row, event))
        calls = waterfall(told["calls"], told["latency_ms"])
        return show(
            request,
            "execution.html",
            question,
            section="/executions",
            execution=told,
            calls=calls[:MOST],
            more_calls=max(0, len(calls) - MOST),
            is_erased=event.body is None and "bodydigest" in event.envelope,
            feedback=decoded(newest_feedback(question, execution_id, _FEEDBACK)),
            feedback_count=count_feedback(question, execution_id),
        )


def _after(request: Request) -> int | None:
    given = request.headers.get(_AFTER)
    if given is None:
        return None
    if not _POSITION.fullmatch(given):
        raise BadParameters.one(_AFTER, "give a position of the ledger, such as 42")
    return int(given)


def _suggested(question: Question) -> dict[str, Any]:
    """Programs and models to choose from, as many as a list of suggestions takes."""
    programs = page_of_programs(question, ProgramQuery(limit=_SUGGESTED))
    models = page_of_models(question, ConfiguredModels(), ModelQuery(limit=_SUGGESTED))
    return {
        "programs": [(program["id"], program["name"]) for program in programs["items"]],
        "models": [model["model_id"] for model in models["items"]],
    }
