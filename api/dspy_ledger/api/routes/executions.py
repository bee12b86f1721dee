"""``/v1/programs/executions``: what ran, and one execution with its event."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from dspy_ledger.api import schemas
from dspy_ledger.api.parameters import ExecutionQuery, FeedbackQuery, PastQuery, described, read_query
from dspy_ledger.api.problems import UnknownExecution
from dspy_ledger.api.queries.evaluations import count_feedback, newest_feedback, page_of_feedback
from dspy_ledger.api.queries.executions import one_execution, page_of_executions, with_event
from dspy_ledger.api.reading import Question, answer_from_view, ask, sources_of
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.api.routes.documented import answers

__all__ = ["router"]

_MOST_FEEDBACK = 100
"""What one execution is told with; there is a list of all."""

router = APIRouter(prefix="/v1/programs/executions", tags=["executions"], route_class=DirectRoute)


@router.get(
    "",
    summary="Executions, newest first",
    responses=answers(schemas.ExecutionPage, 400, 503, from_view=True),
    openapi_extra=described(ExecutionQuery),
)
def list_executions(request: Request) -> Response:
    """Every filter narrows the list; unknown programs or versions match nothing."""
    query = read_query(request, ExecutionQuery)
    return answer_from_view(request, lambda question: page_of_executions(question, query), query)


@router.get(
    "/{execution_id}",
    summary="One execution with inputs, outputs, calls and the newest feedback",
    responses=answers(schemas.ExecutionDetail, 400, 404, 503),
    openapi_extra=described(PastQuery),
)
def get_execution(request: Request, execution_id: str) -> JSONResponse:
    """The row of the view, the event it came from, and what was said of it since."""
    with ask(request, read_query(request, PastQuery)) as question:
        execution = one_execution(question, execution_id)
        if execution is None:
            raise UnknownExecution(execution_id)
        event = sources_of(request).event_at(execution["position"], execution_id=execution_id)
        feedback = newest_feedback(question, execution_id, _MOST_FEEDBACK)
        count = len(feedback)
        if count == _MOST_FEEDBACK:
            count = count_feedback(question, execution_id)
        told = {**with_event(execution, event), "feedback": feedback, "feedback_count": count}
        return question.answer(told)


@router.get(
    "/{execution_id}/feedback",
    summary="What was said of one execution, newest first",
    responses=answers(schemas.EvaluationPage, 400, 404, 503, from_view=True),
    openapi_extra=described(FeedbackQuery),
)
def list_feedback(request: Request, execution_id: str) -> Response:
    """Feedback, and evaluations of programs that name the execution."""
    query = read_query(request, FeedbackQuery)

    def feedback(question: Question) -> dict[str, Any]:
        if one_execution(question, execution_id) is None:
            raise UnknownExecution(execution_id)
        return page_of_feedback(question, execution_id, query)

    return answer_from_view(request, feedback, query)
