"""Programs: the list, and one with its version labels and totals."""

from __future__ import annotations

import sqlite3
from typing import Any

from dspy_ledger.api.parameters import ProgramQuery
from dspy_ledger.api.queries.paging import Item, items_of, page
from dspy_ledger.api.queries.totals import program_totals
from dspy_ledger.api.reading import fold_case
from dspy_ledger.errors import UnknownProgram

__all__ = ["one_program", "page_of_programs", "require_program"]

_COLUMNS = (
    "program_id AS id, name, description, tags, kind, parent_id, parent_version, latest_version, created_at,"
    " updated_at, position"
)


def page_of_programs(db: sqlite3.Connection, query: ProgramQuery) -> dict[str, Any]:
    """Programs by id, those that have all the tags and the text."""
    terms, values = ["1"], list[object]()
    if (after := query.after()) is not None:
        terms.append("program_id > ?")
        values.append(after)
    for tag in query.tag:
        terms.append(
            "EXISTS (SELECT 1 FROM program_tags t WHERE t.tag = ? AND t.program_id = programs.program_id)"
        )
        values.append(tag)
    if query.q is not None:
        searched = ("program_id", "name", "description")
        terms.append(f"({' OR '.join(f'instr(fold_case({name}), ?)' for name in searched)})")
        values += [fold_case(query.q)] * len(searched)
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM programs WHERE {' AND '.join(terms)} ORDER BY program_id LIMIT ?",  # noqa: S608
        (*values, query.limit + 1),
    )
    return page(items_of(rows, json=("tags",)), query, "id")


def one_program(db: sqlite3.Connection, program_id: str) -> Item:
    """A program with its version labels (in order of registration) and its totals.

    Raises:
        UnknownProgram: it is not registered.
    """
    rows = db.execute(f"SELECT {_COLUMNS} FROM programs WHERE program_id = ?", (program_id,))  # noqa: S608
    items = items_of(rows, json=("tags",))
    if not items:
        raise _unknown(db, program_id)
    labels = db.execute("SELECT version FROM versions WHERE program_id = ? ORDER BY position", (program_id,))
    return {
        **items[0],
        "versions": [label for (label,) in labels],
        "totals": program_totals(db, program_id),
    }


def require_program(db: sqlite3.Connection, program_id: str) -> None:
    """Raise UnknownProgram unless it is registered."""
    if not db.execute("SELECT 1 FROM programs WHERE program_id = ?", (program_id,)).fetchone():
        raise _unknown(db, program_id)


def _unknown(db: sqlite3.Connection, program_id: str) -> UnknownProgram:
    return UnknownProgram(program_id, [known for (known,) in db.execute("SELECT program_id FROM programs")])
