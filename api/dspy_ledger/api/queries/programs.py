"""Programs: the list, and one with its version labels and totals."""

from __future__ import annotations

from typing import Any

from dspy_ledger.api.parameters import ProgramQuery
from dspy_ledger.api.queries.paging import Item, items_of, page
from dspy_ledger.api.queries.totals import program_totals
from dspy_ledger.api.reading import Question, fold_case
from dspy_ledger.errors import UnknownProgram

__all__ = ["one_program", "page_of_programs", "require_program"]

_COLUMNS = (
    "p.program_id AS id, p.name, p.description, p.tags, p.kind, p.parent_id, p.parent_version,"
    " p.latest_version, p.created_at, p.updated_at, p.first_position AS position"
)


def page_of_programs(question: Question, query: ProgramQuery) -> dict[str, Any]:
    """Programs by id, those that have all the tags and the text."""
    terms, values = [question.valid("p")], list[object]()
    if (after := query.after()) is not None:
        terms.append("p.program_id > ?")
        values.append(after)
    for tag in query.tag:
        terms.append(
            "EXISTS (SELECT 1 FROM program_tags t"
            " WHERE t.tag = ? AND t.program_id = p.program_id AND t.position = p.position)"
        )
        values.append(tag)
    if query.q is not None:
        searched = ("p.program_id", "p.name", "p.description")
        terms.append(f"({' OR '.join(f'instr(fold_case({name}), ?)' for name in searched)})")
        values += [fold_case(query.q)] * len(searched)
    rows = question.db.execute(
        f"SELECT {_COLUMNS} FROM programs p WHERE {' AND '.join(terms)} ORDER BY p.program_id LIMIT ?",  # noqa: S608
        (*values, query.limit + 1),
    )
    return page(items_of(rows, json=("tags",)), query, "id")


def one_program(question: Question, program_id: str) -> Item:
    """A program with its version labels (in order of registration) and its totals, null of the past.

    Raises:
        UnknownProgram: it is not registered.
    """
    rows = question.db.execute(
        f"SELECT {_COLUMNS} FROM programs p WHERE p.program_id = ? AND {question.valid('p')}",  # noqa: S608
        (program_id,),
    )
    items = items_of(rows, json=("tags",))
    if not items:
        raise _unknown(question, program_id)
    labels = question.db.execute(
        f"SELECT v.version FROM versions v WHERE v.program_id = ? AND {question.seen('v')}"  # noqa: S608
        " ORDER BY v.position",
        (program_id,),
    )
    return {
        **items[0],
        "versions": [label for (label,) in labels],
        "totals": program_totals(question, program_id),
    }


def require_program(question: Question, program_id: str) -> None:
    """Raise UnknownProgram unless it is registered."""
    registered = f"SELECT 1 FROM programs p WHERE p.program_id = ? AND {question.valid('p')}"  # noqa: S608
    if not question.db.execute(registered, (program_id,)).fetchone():
        raise _unknown(question, program_id)


def _unknown(question: Question, program_id: str) -> UnknownProgram:
    rows = question.db.execute(f"SELECT p.program_id FROM programs p WHERE {question.valid('p')}")  # noqa: S608
    return UnknownProgram(program_id, [known for (known,) in rows])
