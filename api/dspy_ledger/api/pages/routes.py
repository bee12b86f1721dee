"""The dashboard: pages for people over the same questions as the REST routes."""

from __future__ import annotations

from fastapi import APIRouter

from dspy_ledger.api.pages import assets, compare, evaluation, executions, ledger, overview, program, version

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
for pages in (overview, program, compare, version, evaluation, executions, ledger, assets):
    router.include_router(pages.router)
