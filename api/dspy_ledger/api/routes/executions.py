"""``/v1/programs/executions``: what ran, and one execution with its event."""

from __future__ import annotations

from fastapi import APIRouter, Request

from dspy_ledger.api import schemas
from dspy_ledger.api.parameters import ExecutionQuery, PastQuery, described, read_query
from dspy_ledger.api.problems import UnknownExecution
from dspy_ledger.api.queries.evaluations import evaluations_of_execution
from dspy_ledger.api.queries.executions import one_execution, page_of_executions, with_event
from dspy_ledger.api.reading import ask, sources_of
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.api.routes.documented import answers

__all__ = ["router"]

router = APIRouter(prefix="/v1/programs/executions", tags=["executions"])


@router.get(
    "",
    summary="Executions, newest first",
    responses=answers(schemas.ExecutionPage, 400, 503),
    openapi_extra=described(ExecutionQuery),
)
async def list_executions(request: Request) -> JSONResponse:
    """Every filter narrows the list; unknown programs or versions match nothing."""
    query = read_query(request, ExecutionQuery)
    with ask(request, query) as question:
        return question.answer(page_of_executions(question, query))


@router.get(
    "/{execution_id}",
    summary="One execution with inputs, outputs, calls and feedback",
    responses=answers(schemas.ExecutionDetail, 400, 404, 503),
    openapi_extra=described(PastQuery),
)
async def get_execution(request: Request, execution_id: str) -> JSONResponse:
    """The row of the view, the event it came from, and what was said of it since."""
    with ask(request, read_query(request, PastQuery)) as question:
        execution = one_execution(question, execution_id)
        if execution is None:
            raise UnknownExecution(execution_id)
        event = sources_of(request).event_at(execution["position"], execution_id=execution_id)
        feedback = evaluations_of_execution(question, execution_id)
        return question.answer({**with_event(execution, event), "feedback": feedback})
