"""Program versions: the light list, one in full, and the rows that a tree is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from dspy_ledger.api.parameters import VersionQuery
from dspy_ledger.api.queries.paging import Item, items_of, page
from dspy_ledger.api.queries.programs import require_program
from dspy_ledger.api.queries.totals import version_totals
from dspy_ledger.api.reading import Question
from dspy_ledger.errors import UnknownVersion

__all__ = ["one_version", "page_of_versions", "recorded_version", "tree_programs", "tree_versions"]

_LIGHT = (
    "v.program_id AS id, v.version, v.content_hash, v.name, w.description, w.tags, v.kind, v.parent_id,"
    " v.parent_version, v.optimizer, v.class_name, v.module_path, v.code_hash, v.dspy_version, v.created_at,"
    " v.event_id, v.position"
)
_FULL = f"{_LIGHT}, v.proposed, v.signature, v.interface, v.source_code"
_WORDED = "versions v JOIN wordings w ON w.program_id = v.program_id AND w.content_hash = v.content_hash"
_JSON = ("tags", "optimizer", "signature", "interface")
_CHUNK = 500  # ids per IN (…): below every SQLite's limit of variables


def page_of_versions(question: Question, program_id: str, query: VersionQuery) -> dict[str, Any]:
    """A program's versions in order of registration, without source code.

    Raises:
        UnknownProgram: it is not registered.
    """
    after = query.after(program_id=program_id) or 0
    require_program(question, program_id)
    rows = question.db.execute(
        f"SELECT {_LIGHT} FROM {_WORDED}"  # noqa: S608
        f" WHERE v.program_id = ? AND v.position > ? AND {question.valid('w')} ORDER BY v.position LIMIT ?",
        (program_id, after, query.limit + 1),
    )
    items = items_of(rows, json=("tags", "optimizer"))
    return page(items, query, "position", program_id=program_id)


def one_version(question: Question, program_id: str, version: str) -> Item:
    """One version in full, with its totals per model (null of the past).

    Raises:
        UnknownProgram: it is not registered.
        UnknownVersion: it has no such version.
    """
    item = _found(question, program_id, version)
    for name in _JSON:
        if item[name] is not None:
            item[name] = orjson.Fragment(item[name])
    return {**item, "totals": version_totals(question, program_id, item["content_hash"])}


def recorded_version(question: Question, program_id: str, version: str) -> Item:
    """What was recorded of one version, its JSON decoded; without totals.

    Raises:
        UnknownProgram: it is not registered.
        UnknownVersion: it has no such version.
    """
    item = _found(question, program_id, version)
    return {**item, **{name: orjson.loads(item[name]) for name in _JSON if item[name] is not None}}


def _found(question: Question, program_id: str, version: str) -> Item:
    rows = question.db.execute(
        f"SELECT {_FULL} FROM {_WORDED} WHERE v.program_id = ? AND v.version = ? AND {question.valid('w')}",  # noqa: S608
        (program_id, version),
    )
    items = items_of(rows)
    if not items:
        require_program(question, program_id)
        labels = question.db.execute(
            f"SELECT v.version FROM versions v WHERE v.program_id = ? AND {question.seen('v')}",  # noqa: S608
            (program_id,),
        )
        raise UnknownVersion(program_id, version, [label for (label,) in labels])
    return items[0]


def tree_programs(question: Question) -> list[Item]:
    """Every program's id, name and parent."""
    rows = question.db.execute(
        "SELECT p.program_id, p.name, p.parent_id, p.parent_version, p.first_position AS position"  # noqa: S608
        f" FROM programs p WHERE {question.valid('p')}"
    )
    return items_of(rows)


def tree_versions(question: Question, program_ids: Sequence[str]) -> list[Item]:
    """The versions of these programs; ``optimizer`` is the optimizer's name."""
    items: list[Item] = []
    for at in range(0, len(program_ids), _CHUNK):
        chunk = program_ids[at : at + _CHUNK]
        rows = question.db.execute(
            "SELECT v.program_id, v.version, v.content_hash, v.parent_id, v.parent_version, v.kind,"  # noqa: S608
            " json_extract(v.optimizer, '$.name') AS optimizer, v.created_at, v.position FROM versions v"
            f" WHERE v.program_id IN ({','.join('?' * len(chunk))}) AND {question.seen('v')}",
            chunk,
        )
        items += items_of(rows)
    return items
