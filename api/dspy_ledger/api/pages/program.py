"""One program: its versions as a tree and a table, which is best on which model, and how it runs."""

from __future__ import annotations

from typing import Any, Final, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import Field

from dspy_ledger.api.pages.assets import sheets_of_plotly
from dspy_ledger.api.pages.layout import decoded, read_form, show
from dspy_ledger.api.pages.matrix_view import (
    Better,
    Choice,
    best_by_model,
    best_by_version,
    choices,
    heat,
    score,
    tradeoffs,
)
from dspy_ledger.api.pages.recorded import all_versions
from dspy_ledger.api.pages.tree_layout import lay_out
from dspy_ledger.api.pages.tree_picture import draw
from dspy_ledger.api.pages.windows import WINDOWS
from dspy_ledger.api.parameters import ExecutionQuery, Given, MatrixQuery, StatsQuery
from dspy_ledger.api.queries.executions import page_of_executions
from dspy_ledger.api.queries.matrix import matrix
from dspy_ledger.api.queries.programs import one_program
from dspy_ledger.api.queries.stats import stats
from dspy_ledger.api.queries.versions import tree_programs, tree_versions
from dspy_ledger.api.reading import Question, ask
from dspy_ledger.api.routes.direct import DirectRoute
from dspy_ledger.lineage import program_tree, programs_below
from dspy_ledger.timestamps import utc_now

__all__ = ["router"]

router = APIRouter(include_in_schema=False, route_class=DirectRoute)

_SHOWN: Final = 40
"""Versions that are shown at first, the newest."""
_LINES: Final = 6
"""Lines in a chart of trends: those with the most executions."""
_LATEST: Final = 10


class ProgramPageQuery(MatrixQuery):
    """What a reader chose to see of a program."""

    better: Better = Field("higher", description="Which values of the metric are better.")
    model_id: Given | None = Field(None, description="Weigh versions on this model only.")
    window: Literal["24h", "7d", "30d", "90d"] = "7d"
    by: Literal["version", "model"] = "version"
    versions: Literal["newest", "all"] = "newest"


@router.get("/programs/{program_id}")
def program_page(request: Request, program_id: str) -> HTMLResponse:
    """The page of one program.

    Raises:
        UnknownProgram: it is not registered.
    """
    query = read_form(request, ProgramPageQuery)
    with ask(request, query) as question:
        program = decoded(one_program(question, program_id))
        versions = all_versions(question, program_id)
        return show(
            request,
            "program.html",
            question,
            section="/",
            query=query,
            score=score,
            program=program,
            versions=_shown(versions, query),
            version_count=len(versions),
            by_label={version["version"]: version for version in versions},
            tree=_tree(question, program_id, versions, query),
            trends=_trends(question, program_id, query),
            latest=decoded(
                page_of_executions(question, ExecutionQuery(program_id=program_id, limit=_LATEST))["items"]
            ),
            windows=WINDOWS,
            sheets_of_plotly=sheets_of_plotly(),
            **_quality(question, program_id, versions, query),
        )


def _shown(versions: list[dict[str, Any]], query: ProgramPageQuery) -> list[dict[str, Any]]:
    """The versions to show, newest first."""
    newest_first = versions[::-1]
    return newest_first if query.versions == "all" else newest_first[:_SHOWN]


def _tree(
    question: Question, program_id: str, versions: list[dict[str, Any]], query: ProgramPageQuery
) -> dict[str, Any]:
    """The picture of the shown versions, and the programs derived from each or from none known."""
    programs = tree_programs(question)
    below = programs_below(program_id, programs)
    tree = program_tree(program_id, programs, tree_versions(question, below))
    derived: dict[str, list[dict[str, Any]]] = {}
    nodes = list(tree["versions"])
    for node in nodes:  # grows while it is walked
        nodes.extend(node["children"])
        derived[node["version"]] = node["derived"]
    layout = lay_out(tree["versions"], [version["version"] for version in versions])
    return {
        "picture": draw(layout, len(_shown(versions, query))),
        "derived": derived,
        "elsewhere": tree["derived"],
        "parent": tree["parent"],
        "variants": {edge.target.version: edge.source.version for edge in layout.edges if edge.variant},
    }


def _quality(
    question: Question, program_id: str, versions: list[dict[str, Any]], query: ProgramPageQuery
) -> dict[str, Any]:
    """The matrix, the best version for each model, and quality against price."""
    table = matrix(question, program_id, query.metric)
    found = choices(table)
    weighed = [choice for choice in found if query.model_id in (None, choice.model_id)]
    newest_first = [None] * (None in table["versions"]) + [v["version"] for v in _shown(versions, query)]
    totals: dict[str | None, dict[str, Any]] = {}
    for cell in table["cells"]:
        if cell["totals"] is not None:
            _add(totals.setdefault(cell["version"], {}), cell["totals"])
    cells = heat(table, query.better)
    rows = [label for label in newest_first if any((label, model) in cells for model in table["models"])]
    fronts = tradeoffs(weighed, query.better)
    worth = {choice: None for front in fronts.values() for choice in front}
    return {
        "matrix": table,
        "rows": rows,
        "columns": [model for model in table["models"] if any(at[1] == model for at in cells)],
        "heat": cells,
        "best": best_by_model(found, query.better),
        "best_of": best_by_version(found, query.better),
        "weighed": weighed,
        "fronts": fronts,
        "worth": sorted(worth, key=lambda choice: choice.quality, reverse=query.better == "higher"),
        "plotted": _plotted(table["metric"], weighed, fronts),
        "totals": totals,
    }


def _plotted(metric: str | None, weighed: list[Choice], fronts: dict[str, list[Choice]]) -> dict[str, Any]:
    """What the charts of quality against price draw; ``fronts`` are places in ``choices``."""
    priced = [choice for choice in weighed if choice.cost is not None or choice.latency is not None]
    places = {choice: at for at, choice in enumerate(priced)}
    names = ("version", "model_id", "quality", "cost", "latency")
    return {
        "metric": metric,
        "choices": [{name: getattr(choice, name) for name in names} for choice in priced],
        "fronts": {price: [places[choice] for choice in front] for price, front in fronts.items()},
    }


def _add(sums: dict[str, Any], totals: dict[str, Any]) -> None:
    """Add the totals of one model to a version's."""
    for name in ("executions", "errors", "cost_usd", "cost_known"):
        sums[name] = sums.get(name, 0) + (totals[name] or 0)
    latency = (totals["mean_latency_ms"] or 0) * totals["executions"]
    sums["latency_ms"] = sums.get("latency_ms", 0) + latency


def _trends(question: Question, program_id: str, query: ProgramPageQuery) -> dict[str, Any] | None:
    """The window's totals by version or model, most executions first; None of the past, which has none."""
    if question.as_of is not None:
        return None
    window, now = WINDOWS[query.window], utc_now()
    since = window.since(now)
    asked = StatsQuery(program_id=program_id, since=since, until=now, group_by=query.by)
    told = stats(question, asked)
    groups = sorted(told["groups"], key=lambda group: -group["totals"]["executions"])
    by = "version" if query.by == "version" else "model_id"
    named = [group["group"][by] for group in groups if group["group"][by] is not None]
    return {
        "name": window.name,
        "groups": groups,
        "asked": {"program_id": program_id, "since": since, "until": now, "bucket": window.bucket},
        "by": by,
        "drawn": named[:_LINES],
    }
