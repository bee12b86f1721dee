"""Program versions: the light list, one in full, and the rows that a tree is made of."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from dspy_ledger.api.parameters import VersionQuery
from dspy_ledger.api.queries.paging import Item, items_of, page
from dspy_ledger.api.queries.programs import require_program
from dspy_ledger.api.queries.totals import version_totals
from dspy_ledger.errors import UnknownVersion

__all__ = ["one_version", "page_of_versions", "tree_programs", "tree_versions"]

_LIGHT = (
    "program_id AS id, version, content_hash, name, description, tags, kind, parent_id, parent_version,"
    " optimizer, class_name, module_path, code_hash, dspy_version, created_at, event_id, position"
)
_FULL = f"{_LIGHT}, proposed, signature, interface, source_code"
_CHUNK = 500  # ids per IN (…): below every SQLite's limit of variables


def page_of_versions(db: sqlite3.Connection, program_id: str, query: VersionQuery) -> dict[str, Any]:
    """A program's versions in order of registration, without source code.

    Raises:
        UnknownProgram: it is not registered.
    """
    after = query.after(program_id=program_id) or 0
    require_program(db, program_id)
    rows = db.execute(
        f"SELECT {_LIGHT} FROM versions WHERE program_id = ? AND position > ? ORDER BY position LIMIT ?",  # noqa: S608
        (program_id, after, query.limit + 1),
    )
    items = items_of(rows, json=("tags", "optimizer"))
    return page(items, query, "position", program_id=program_id)


def one_version(db: sqlite3.Connection, program_id: str, version: str) -> Item:
    """One version in full, with its totals per model.

    Raises:
        UnknownProgram: it is not registered.
        UnknownVersion: it has no such version.
    """
    rows = db.execute(
        f"SELECT {_FULL} FROM versions WHERE program_id = ? AND version = ?",  # noqa: S608
        (program_id, version),
    )
    items = items_of(rows, json=("tags", "optimizer", "signature", "interface"))
    if not items:
        require_program(db, program_id)
        labels = db.execute("SELECT version FROM versions WHERE program_id = ?", (program_id,))
        raise UnknownVersion(program_id, version, [label for (label,) in labels])
    (item,) = items
    return {**item, "totals": version_totals(db, program_id, item["content_hash"])}


def tree_programs(db: sqlite3.Connection) -> list[Item]:
    """Every program's id, name and parent."""
    rows = db.execute("SELECT program_id, name, parent_id, parent_version, position FROM programs")
    return items_of(rows)


def tree_versions(db: sqlite3.Connection, program_ids: Sequence[str]) -> list[Item]:
    """The versions of these programs; ``optimizer`` is the optimizer's name."""
    items: list[Item] = []
    for at in range(0, len(program_ids), _CHUNK):
        chunk = program_ids[at : at + _CHUNK]
        rows = db.execute(
            "SELECT program_id, version, content_hash, parent_id, parent_version, kind,"  # noqa: S608
            " json_extract(optimizer, '$.name') AS optimizer, created_at, position"
            f" FROM versions WHERE program_id IN ({','.join('?' * len(chunk))})",
            chunk,
        )
        items += items_of(rows)
    return items
