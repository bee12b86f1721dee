"""One version of a program: what it is made of, where it came from, and how it does."""

from __future__ import annotations

import keyword
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dspy_ledger.api.pages.layout import decoded, read_form, show
from dspy_ledger.api.pages.matrix_view import score
from dspy_ledger.api.pages.recorded import Row, all_versions, form_of, with_state
from dspy_ledger.api.parameters import EvaluationQuery, PastQuery
from dspy_ledger.api.queries.evaluations import newest_feedback_on_version, page_of_evaluations
from dspy_ledger.api.queries.matrix import metrics_of
from dspy_ledger.api.queries.programs import one_program
from dspy_ledger.api.queries.totals import version_totals
from dspy_ledger.api.queries.versions import tree_programs
from dspy_ledger.api.reading import ask
from dspy_ledger.api.responses import dump
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.type_text import type_text

__all__ = ["router"]

router = APIRouter(include_in_schema=False, route_class=DirectRoute)

_EVALUATIONS: Final = 20
_FEEDBACK: Final = 20
_DEMOS: Final = 50
"""Demos of a predictor that are shown; the state has them all."""
_STATE: Final = 200_000
"""Bytes of JSON that a page shows of a state; a larger one is left to the API."""


@router.get("/programs/{program_id}/versions/{version}")
def version_page(request: Request, program_id: str, version: str) -> HTMLResponse:
    """The page of one version.

    Raises:
        UnknownProgram: it is not registered.
        UnknownVersion: it has no such version.
    """
    with ask(request, read_form(request, PastQuery)) as question:
        found = with_state(request, question, program_id, version)
        versions = all_versions(question, program_id)
        at = next(at for at, other in enumerate(versions) if other["version"] == version)
        evaluations = page_of_evaluations(
            question, program_id, EvaluationQuery(version=version, limit=_EVALUATIONS), with_feedback=False
        )
        feedback = newest_feedback_on_version(question, program_id, found["content_hash"], _FEEDBACK)
        return show(
            request,
            "version.html",
            question,
            section="/",
            score=score,
            program=decoded(one_program(question, program_id)),
            version={**found, **versions[at]},
            earlier=versions[at - 1] if at else None,
            later=versions[at + 1] if at + 1 < len(versions) else None,
            variants=[other for other in versions if _came_from(other, program_id, version)],
            derived=[other for other in tree_programs(question) if _came_from(other, program_id, version)],
            predictors=_predictors(found),
            demos_shown=_DEMOS,
            source=(found["source_code"] or "").splitlines(),
            loading=_loading(found),
            state_fits=len(dump(found["state"])) <= _STATE,
            totals=decoded(version_totals(question, program_id, found["content_hash"])),
            evaluations=[_evaluation(each) for each in decoded(evaluations["items"])],
            more_evaluations=evaluations["next_cursor"] is not None,
            most_feedback=_FEEDBACK,
            feedback=[_evaluation(each) for each in decoded(feedback)],
        )


def _came_from(other: Row, program_id: str, version: str) -> bool:
    return (other["parent_id"], other["parent_version"]) == (program_id, version)


def _predictors(version: Row) -> list[Row]:
    """What each predictor is told and shown; of the signature alone where the state is not there."""
    form = form_of(version)
    parts = _objects(form.get("parameters"))
    if not parts and isinstance(version["signature"], dict):
        parts = [{"path": "self", **version["signature"]}]
    return [
        {
            "path": str(part.get("path", "self")),
            "kind": part.get("kind"),
            "instructions": part.get("instructions"),
            "fields": [_field(field) for field in _objects(part.get("fields"))],
            "config": part.get("config") or None,
            "lm": part.get("lm"),
            "demos": part["demos"] if isinstance(part.get("demos"), list) else None,
        }
        for part in parts
    ]


def _field(field: Row) -> Row:
    more = {name: value for name, value in field.items() if name not in _FIELD}
    return {
        "name": str(field.get("name", "")),
        "role": field.get("role"),
        "type": type_text(field.get("type")),
        "desc": field.get("desc"),
        "required": field.get("required", True),
        "more": more or None,
    }


_FIELD: Final = frozenset({"name", "role", "type", "desc", "required"})


def _objects(value: Any) -> list[Row]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _loading(version: Row) -> str:
    """How a host loads this version, as Python."""
    name, module = version["class_name"] or "", version["module_path"] or ""
    lines = []
    if not _is_name(name):
        name = "YourProgram"
    elif module != "__main__" and all(_is_name(part) for part in module.split(".")):
        lines = [f"from {module} import {name}", ""]
    call = f"program = pm.load_program({version['id']!r}, {version['version']!r}, into={name})"
    return "\n".join([*lines, call])


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _evaluation(evaluation: Row) -> Row:
    return {**evaluation, "metrics": metrics_of(evaluation["results"], evaluation["metric_name"])}
