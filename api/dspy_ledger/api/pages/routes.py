"""The dashboard: pages for people over the same questions as the REST routes."""

from __future__ import annotations

from dspy_ledger.api.pages import assets, compare, evaluation, executions, ledger, overview, program, version

__all__ = ["routes"]

routes = [
    route
    for pages in (overview, program, compare, version, evaluation, executions, ledger, assets)
    for route in pages.router.routes
]
