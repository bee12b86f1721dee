"""The tables of the SQL read models, as the fold's rows are written into them."""

from __future__ import annotations

import sqlite3

from dspy_ledger.database import insert
from dspy_ledger.histogram import merge
from dspy_ledger.projector.rows import Rows

__all__ = ["prepare", "write"]


def _adding(*, more: str = "") -> str:
    """Add a row's sums to those of its key; what would not fit 64 bits turns real, and is cut."""
    counts = ("executions", "errors", "input_known", "output_known", "cost_known")
    sums = ("input_tokens", "output_tokens", "cost", "latency")
    added = [f"{name} = {name} + excluded.{name}" for name in counts]
    added += [f"{name} = min({name} + excluded.{name}, {2**63 - 1})" for name in sums]
    return f"ON CONFLICT DO UPDATE SET {', '.join(added)}{more}"


_TOTALS = _adding()
# Of the executions just written, which lie side by side.
_SPANS = """
INSERT INTO spans SELECT substr(time, 1, 13), position >> 16, min(position), max(position) FROM executions
WHERE position BETWEEN ? AND ? GROUP BY 1, 2
ON CONFLICT DO UPDATE SET first = min(first, excluded.first), last = max(last, excluded.last)
"""
_PERIODS = _adding(more=", latencies = merge_histograms(latencies, excluded.latencies)")


def prepare(db: sqlite3.Connection) -> None:
    """Give a connection the function that :func:`write` needs; once."""
    db.create_function("merge_histograms", 2, lambda *histograms: merge(histograms), deterministic=True)


def write(db: sqlite3.Connection, rows: Rows) -> None:
    """Write a batch's rows, in the transaction that is open."""
    for table in ("programs", "program_tags", "versions", "wordings", "executions", "evaluations"):
        insert(db, table, getattr(rows, table))
    if rows.executions:
        db.execute(_SPANS, (rows.executions[0][0], rows.executions[-1][0]))
    totals, hours, days = rows.roll_ups()
    insert(db, "totals", totals, _TOTALS)
    insert(db, "hours", hours, _PERIODS)
    insert(db, "days", days, _PERIODS)
