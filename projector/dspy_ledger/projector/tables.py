"""The tables of the SQL read models, as the fold's rows are written into them."""

from __future__ import annotations

import sqlite3

from dspy_ledger.histogram import merge
from dspy_ledger.projector.rows import Rows

__all__ = ["prepare", "write"]


def _insert(table: str, columns: int) -> str:
    return f"INSERT INTO {table} VALUES ({','.join('?' * columns)})"  # noqa: S608  names from here only


def _add(table: str, keys: int, *, more: str = "") -> str:
    """Add a row's sums to those of its key; what would not fit 64 bits turns real, and is cut."""
    counts = ("executions", "errors", "input_known", "output_known", "cost_known")
    sums = ("input_tokens", "output_tokens", "cost", "latency")
    added = [f"{name} = {name} + excluded.{name}" for name in counts]
    added += [f"{name} = min({name} + excluded.{name}, {2**63 - 1})" for name in sums]
    columns = keys + len(added) + bool(more)
    return f"{_insert(table, columns)} ON CONFLICT DO UPDATE SET {', '.join(added)}{more}"


_PROGRAM = _insert("programs", 13)
_TAG = _insert("program_tags", 3)
_VERSION = _insert("versions", 19)
_WORDING = _insert("wordings", 6)
_EXECUTION = _insert("executions", 26)
_EVALUATION = _insert("evaluations", 17)
_TOTAL = _add("totals", 3)
_HOUR = _add("hours", 5, more=", latencies = merge_histograms(latencies, excluded.latencies)")


def prepare(db: sqlite3.Connection) -> None:
    """Give a connection the function that :func:`write` needs; once."""
    db.create_function("merge_histograms", 2, merge, deterministic=True)


def write(db: sqlite3.Connection, rows: Rows) -> None:
    """Write a batch's rows, in the transaction that is open."""
    db.executemany(_PROGRAM, rows.programs)
    db.executemany(_TAG, rows.program_tags)
    db.executemany(_VERSION, rows.versions)
    db.executemany(_WORDING, rows.wordings)
    db.executemany(_EXECUTION, rows.executions)
    db.executemany(_EVALUATION, rows.evaluations)
    totals, hours = rows.roll_ups()
    db.executemany(_TOTAL, totals)
    db.executemany(_HOUR, hours)
