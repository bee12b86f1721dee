"""One evaluation: what it found, on what data, and each of its rows."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dspy_ledger.api.pages.evaluation_rows import worst_first
from dspy_ledger.api.pages.layout import decoded, read_form, show
from dspy_ledger.api.pages.matrix_view import score
from dspy_ledger.api.parameters import OneEvaluationQuery
from dspy_ledger.api.queries.evaluations import one_evaluation, with_rows
from dspy_ledger.api.queries.matrix import metrics_of
from dspy_ledger.api.queries.programs import one_program
from dspy_ledger.api.reading import ask, sources_of
from dspy_ledger.api.routes.direct import DirectRoute

__all__ = ["router"]

router = APIRouter(include_in_schema=False, route_class=DirectRoute)

_ROWS: Final = 100
"""Rows that are shown; the JSON has all."""


@router.get("/programs/{program_id}/evaluations/{evaluation_id:path}")
def evaluation_page(request: Request, program_id: str, evaluation_id: str) -> HTMLResponse:
    """The page of one evaluation; of those under one id that of a model, or the newest.

    Raises:
        UnknownProgram: it is not registered.
        UnknownEvaluation: it has none of that id, on that model.
    """
    query = read_form(request, OneEvaluationQuery)
    with ask(request, query) as question:
        row = one_evaluation(question, program_id, evaluation_id, query.model_id)
        event = sources_of(request).event_at(row["position"], evaluation_id=evaluation_id)
        told = decoded(with_rows(row, event))
        rows = worst_first(told["scores"], told["rows"])
        return show(
            request,
            "evaluation.html",
            question,
            section="/",
            score=score,
            program=decoded(one_program(question, program_id)),
            evaluation=told,
            metrics=metrics_of(told["results"], told["metric_name"]),
            rows=rows[:_ROWS],
            row_count=len(rows),
            is_told=any(each.example or each.answer for each in rows),
            failed=sum(each.failed for each in rows),
            is_erased=event.body is None and "bodydigest" in event.envelope,
        )
