"""Two versions of a program side by side: what changed, what it means to callers, and what came of it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import Field

from dspy_ledger.api.differences import differences
from dspy_ledger.api.matching import Effort
from dspy_ledger.api.pages.diff_view import blocks, field_changes, reasons, told_metrics
from dspy_ledger.api.pages.layout import decoded, read_form, show
from dspy_ledger.api.pages.matrix_view import score
from dspy_ledger.api.pages.recorded import Row, all_versions, with_state
from dspy_ledger.api.parameters import EvaluationQuery, Label, PastQuery
from dspy_ledger.api.queries.evaluations import page_of_evaluations
from dspy_ledger.api.queries.matrix import metrics_of
from dspy_ledger.api.queries.programs import one_program
from dspy_ledger.api.queries.totals import version_totals
from dspy_ledger.api.reading import Question, ask
from dspy_ledger.api.routes.direct import DirectRoute

__all__ = ["router"]

router = APIRouter(include_in_schema=False, route_class=DirectRoute)

_EVALUATIONS: Final = 500
"""The newest evaluations of a version that are looked at; feedback is none of them."""
_DEMOS: Final = 20
"""Demos that are shown as added or removed, of each predictor."""


class CompareQuery(PastQuery):
    """Which two; what is left out is the latest version, and what it came from or followed."""

    before: Label | None = Field(None, alias="from")
    after: Label | None = Field(None, alias="to")


@router.get("/programs/{program_id}/compare")
def compare_page(request: Request, program_id: str) -> HTMLResponse:
    """The page of two versions.

    Raises:
        UnknownProgram: it is not registered.
        UnknownVersion: it has no such version.
    """
    query = read_form(request, CompareQuery)
    with ask(request, query) as question:
        program = decoded(one_program(question, program_id))
        versions = all_versions(question, program_id)
        by_label = {version["version"]: version for version in versions}
        after = query.after or program["latest_version"] or versions[-1]["version"]
        before = query.before or by_label.get(after, {}).get("before") or after
        sides = [with_state(request, question, program_id, label) for label in (before, after)]
        effort = Effort()
        found = differences(*sides, effort=effort)
        at = versions.index(by_label[after])
        return show(
            request,
            "compare.html",
            question,
            section="/",
            score=score,
            program=program,
            versions=versions,
            old={**sides[0], **by_label[before]},
            new={**sides[1], **by_label[after]},
            earlier=versions[at - 1] if at > 1 else None,
            later=versions[at + 1] if at + 1 < len(versions) else None,
            verdict=found["verdict"],
            reasons=reasons(found, (by_label[after]["optimizer"] or {}).get("name")),
            interface=found["interface"],
            predictors=[_predictor(each, effort) for each in found["predictors"]],
            modules=found["modules"],
            source=None if found["source_code"] is None else _text(found["source_code"], effort),
            facts=found["facts"],
            demos_shown=_DEMOS,
            metrics=told_metrics(*(_evaluations(question, program_id, label) for label in (before, after))),
            totals=_totals(question, program_id, sides),
        )


def _predictor(told: Row, effort: Effort) -> Row:
    instructions = told["instructions"]
    return {
        **told,
        "instructions": None if instructions is None else _text(instructions, effort),
        "fields": [
            {"role": role, **change}
            for role in ("input", "output")
            for change in field_changes(told[f"{role}s"])
        ],
    }


def _text(told: Row, effort: Effort) -> Row:
    return {"changed": told["changed"], "blocks": blocks(told["lines"], effort)}


def _evaluations(question: Question, program_id: str, label: str) -> list[Row]:
    query = EvaluationQuery(version=label, limit=_EVALUATIONS)
    found: list[Row] = decoded(page_of_evaluations(question, program_id, query, with_feedback=False)["items"])
    return [{**each, "metrics": metrics_of(each["results"], each["metric_name"])} for each in found]


def _totals(question: Question, program_id: str, sides: list[Row]) -> list[dict[str, Any]] | None:
    """The executions of both by model: {model_id, from, to}; None of the past, which has no roll-ups."""
    found = []
    for side in sides:
        told = version_totals(question, program_id, side["content_hash"])
        if told is None:
            return None
        found.append({each["model_id"]: each for each in told})
    old, new = found
    models = sorted({*old, *new}, key=lambda model_id: (model_id is None, model_id or ""))
    return [{"model_id": model_id, "from": old.get(model_id), "to": new.get(model_id)} for model_id in models]
