"""Totals of executions, from the roll-up that the projector keeps."""

from __future__ import annotations

import sqlite3

from dspy_ledger.api.queries.paging import Item, items_of

__all__ = ["program_totals", "version_totals"]

_SUMS = (
    "coalesce(sum(executions), 0) AS executions, coalesce(sum(errors), 0) AS errors,"
    " coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,"
    " coalesce(sum(cost_usd), 0.0) AS cost_usd, sum(latency_ms) / sum(executions) AS mean_latency_ms"
)


def program_totals(db: sqlite3.Connection, program_id: str) -> Item:
    """All executions of a program; zeros (and no latency) when there are none."""
    rows = db.execute(f"SELECT {_SUMS} FROM totals WHERE program_id = ?", (program_id,))  # noqa: S608
    return items_of(rows)[0]


def version_totals(db: sqlite3.Connection, program_id: str, content_hash: str) -> list[Item]:
    """The executions of one content, per model; ``model_id`` is null where the event named none."""
    rows = db.execute(
        f"SELECT nullif(model_id, '') AS model_id, {_SUMS} FROM totals"  # noqa: S608
        " WHERE program_id = ? AND content_hash = ? GROUP BY totals.model_id ORDER BY totals.model_id",
        (program_id, content_hash),
    )
    return items_of(rows)
