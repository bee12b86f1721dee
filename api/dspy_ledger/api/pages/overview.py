"""The first page: the programs and how they do, and whether the ledger is well."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dspy_ledger.api.pages.layout import decoded, read_form, show
from dspy_ledger.api.parameters import ProgramQuery
from dspy_ledger.api.queries.programs import page_of_programs
from dspy_ledger.api.reading import ask

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@router.get("/")
async def overview(request: Request) -> HTMLResponse:
    """Every program."""
    query = read_form(request, ProgramQuery)
    with ask(request, query) as question:
        programs = decoded(page_of_programs(question, query))
        return show(request, "overview.html", question, section="/", programs=programs["items"])
