"""``/v1/programs``: programs, their versions, evaluations and trees, and the models they ran on."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from dspy_ledger.api import schemas
from dspy_ledger.api.differences import differences
from dspy_ledger.api.parameters import (
    DiffQuery,
    EvaluationQuery,
    MatrixQuery,
    ModelQuery,
    OneEvaluationQuery,
    PastQuery,
    ProgramQuery,
    VersionQuery,
    described,
    read_query,
)
from dspy_ledger.api.queries.evaluations import one_evaluation, page_of_evaluations, with_rows
from dspy_ledger.api.queries.matrix import matrix
from dspy_ledger.api.queries.models import page_of_models
from dspy_ledger.api.queries.programs import one_program, page_of_programs, require_program
from dspy_ledger.api.queries.versions import (
    one_version,
    page_of_versions,
    recorded_version,
    tree_programs,
    tree_versions,
)
from dspy_ledger.api.reading import Question, answer_from_view, ask, sources_of
from dspy_ledger.api.responses import JSONResponse
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.api.routes.documented import answers
from dspy_ledger.lineage import program_tree, programs_below

__all__ = ["router"]

router = APIRouter(prefix="/v1/programs", tags=["programs"], route_class=DirectRoute)


@router.get(
    "",
    summary="Programs by id",
    responses=answers(schemas.ProgramPage, 400, 503, from_view=True),
    openapi_extra=described(ProgramQuery),
)
def list_programs(request: Request) -> Response:
    """Every program that was registered, or those with the tags and the text."""
    query = read_query(request, ProgramQuery)
    return answer_from_view(request, lambda question: page_of_programs(question, query), query)


@router.get(
    "/models",
    summary="Models by id",
    responses=answers(schemas.ModelPage, 400, 503),
    openapi_extra=described(ModelQuery),
)
def list_models(request: Request) -> JSONResponse:
    """The models of the models file and those that executions named; never their parameters."""
    query = read_query(request, ModelQuery)
    with ask(request, query) as question:
        configured = sources_of(request).models_file.models()
        return question.answer(page_of_models(question, configured, query))


@router.get(
    "/{program_id}",
    summary="One program with its version labels and totals",
    responses=answers(schemas.ProgramDetail, 400, 404, 503, from_view=True),
    openapi_extra=described(PastQuery),
)
def get_program(request: Request, program_id: str) -> Response:
    """What is known of a program as a whole."""
    query = read_query(request, PastQuery)
    return answer_from_view(request, lambda question: one_program(question, program_id), query)


@router.get(
    "/{program_id}/versions",
    summary="A program's versions in order of registration",
    responses=answers(schemas.VersionPage, 400, 404, 503, from_view=True),
    openapi_extra=described(VersionQuery),
)
def list_versions(request: Request, program_id: str) -> Response:
    """Without source code and state; ask for one version to have them."""
    query = read_query(request, VersionQuery)
    return answer_from_view(request, lambda question: page_of_versions(question, program_id, query), query)


@router.get(
    "/{program_id}/versions/{version}",
    summary="One version with source code, signature, state and totals per model",
    responses=answers(schemas.VersionDetail, 400, 404, 503),
    openapi_extra=described(PastQuery),
)
def get_version(request: Request, program_id: str, version: str) -> JSONResponse:
    """Everything that its registration recorded."""
    with ask(request, read_query(request, PastQuery)) as question:
        item = one_version(question, program_id, version)
        event = sources_of(request).event_at(
            item["position"], program_id=program_id, content_hash=item["content_hash"]
        )
        state = None if event.body is None else orjson.Fragment(event.body)
        return question.answer({**item, "state": state})


@router.get(
    "/{program_id}/evaluations",
    summary="A program's evaluations, newest first",
    responses=answers(schemas.EvaluationPage, 400, 404, 503, from_view=True),
    openapi_extra=described(EvaluationQuery),
)
def list_evaluations(request: Request, program_id: str) -> Response:
    """Feedback on its executions included, under the version and model that ran."""
    query = read_query(request, EvaluationQuery)
    return answer_from_view(request, lambda question: page_of_evaluations(question, program_id, query), query)


@router.get(
    "/{program_id}/evaluations/{evaluation_id:path}",  # hosts choose these ids, and may put a slash in
    summary="One evaluation with its scores and rows",
    responses=answers(schemas.EvaluationDetail, 400, 404, 503),
    openapi_extra=described(OneEvaluationQuery),
)
def get_evaluation(request: Request, program_id: str, evaluation_id: str) -> JSONResponse:
    """An id stands for one evaluation on each model: the newest is told unless `model_id` is given."""
    query = read_query(request, OneEvaluationQuery)
    with ask(request, query) as question:
        evaluation = one_evaluation(question, program_id, evaluation_id, query.model_id)
        event = sources_of(request).event_at(evaluation["position"], evaluation_id=evaluation_id)
        return question.answer(with_rows(evaluation, event))


@router.get(
    "/{program_id}/tree",
    summary="A program's versions and derived programs as one hierarchy",
    responses=answers(schemas.ProgramTree, 400, 404, 503, from_view=True),
    openapi_extra=described(PastQuery),
)
def get_program_tree(request: Request, program_id: str) -> Response:
    """Optimized variants lie under the version they came from, derived programs under theirs."""

    def tree(question: Question) -> dict[str, Any]:
        require_program(question, program_id)
        programs = tree_programs(question)
        versions = tree_versions(question, programs_below(program_id, programs))
        return program_tree(program_id, programs, versions)

    return answer_from_view(request, tree, read_query(request, PastQuery))


@router.get(
    "/{program_id}/matrix",
    summary="What a program's evaluations found, by version and model",
    responses=answers(schemas.Matrix, 400, 404, 503, from_view=True),
    openapi_extra=described(MatrixQuery),
)
def get_matrix(request: Request, program_id: str) -> Response:
    """The latest and the best value of one metric in each cell, with the totals of its executions."""
    query = read_query(request, MatrixQuery)
    return answer_from_view(request, lambda question: matrix(question, program_id, query.metric), query)


@router.get(
    "/{program_id}/diff",
    summary="What differs between two versions of a program",
    responses=answers(schemas.Differences, 400, 404, 503),
    openapi_extra=described(DiffQuery),
)
def diff_versions(request: Request, program_id: str) -> JSONResponse:
    """Interface, instructions, demos, settings and source code, and what the version rule makes of it."""
    query = read_query(request, DiffQuery)
    with ask(request, query) as question:
        sources = sources_of(request)
        sides = []
        for label in (query.before, query.after):
            version = recorded_version(question, program_id, label)
            event = sources.event_at(
                version["position"], program_id=program_id, content_hash=version["content_hash"]
            )
            sides.append({**version, "state": event.body_json()})
        return question.answer(differences(*sides))
