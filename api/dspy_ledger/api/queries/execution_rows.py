"""Executions as they are answered: their rows never change, so each is encoded once while it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import orjson

from dspy_ledger.api.queries.paging import Item
from dspy_ledger.api.reading import Question
from dspy_ledger.api.schemas import Execution

__all__ = ["Content", "encoded_executions", "execution_at"]

_ALL: Final = tuple(Execution.model_fields)
_MOST_ROWS: Final = 4096
_LONG: Final = 4096
"""Bytes; a longer row is not kept."""
_MOST_LABELS: Final = 10_000

Content = tuple[str, str | None]
"""Program id and content hash."""
Labels = dict[Content, tuple[str, int]]
"""A content's version, and the position at which it came to be known."""


def encoded_executions(
    question: Question, positions: Sequence[int], names: Sequence[str] | None = None
) -> list[bytes]:
    """The executions at these positions, each as JSON with the members of these names (None: all)."""
    kept: dict[int, bytes] = {}
    if names is None and question.as_of is None:
        kept = question.kept.get("executions", dict[int, bytes])
    missing = [position for position in positions if position not in kept]
    if not missing:
        return [kept[position] for position in positions]
    read: dict[int, bytes] = {}
    for position, row, is_final in _read(question, missing, tuple(names or _ALL)):
        read[position] = row
        if is_final and len(row) <= _LONG:
            kept[position] = row
    rows = [read.get(position) or kept[position] for position in positions]
    if len(kept) > _MOST_ROWS:
        kept.clear()
    return rows


def execution_at(question: Question, position: int) -> Item:
    """The execution at a position, as it is answered."""
    (row,) = encoded_executions(question, [position])
    item: Item = orjson.loads(row)
    return item


def _read(
    question: Question, positions: Sequence[int], names: tuple[str, ...]
) -> Iterator[tuple[int, bytes, bool]]:
    """Position, row, and whether the row stays as it is: its version may not be known yet.

    A row of many columns is encoded in a third of the time that it takes as a dict.
    """
    columns = dict.fromkeys(("position", *names))
    if "program_version" in columns:
        del columns["program_version"]
        columns |= {"program_id": None, "content_hash": None}
    rows = question.db.execute(
        f"SELECT {', '.join(f'e.{name}' for name in columns)}"  # noqa: S608  names of our own
        " FROM json_each(?) w CROSS JOIN executions e ON e.position = w.value",
        (orjson.dumps(positions).decode(),),
    )
    rows.row_factory = None  # tuples, for speed
    found: dict[str, Any] = dict(zip(columns, zip(*rows, strict=True), strict=True))
    is_final = [True] * len(positions)
    if "program_version" in names:
        contents = list(zip(found["program_id"], found["content_hash"], strict=True))
        versions = _versions(question, set(contents))
        found["program_version"] = list(map(versions.get, contents))
        is_final = [content in versions or content[1] is None for content in contents]
    if "tags" in names:
        found["tags"] = map(msgspec.Raw, found["tags"])
    if "model_pinned" in names:
        found["model_pinned"] = map(bool, found["model_pinned"])
    members = map(_shape(names), *map(found.__getitem__, names))
    return zip(found["position"], map(msgspec.json.encode, members), is_final, strict=True)


def _versions(question: Question, contents: set[Content]) -> dict[Content, str]:
    """The version of each content that has one. A label stays, once given."""
    labels: Labels = question.kept.get("versions", dict)
    for content in contents.difference(labels):
        known = question.db.execute(
            "SELECT v.version, v.position FROM versions v WHERE v.program_id = ? AND v.content_hash = ?",
            content,
        ).fetchone()
        if known:
            labels[content] = tuple(known)
    at = question.position if question.as_of is None else question.as_of
    told = {
        content: labels[content][0] for content in contents if content in labels and labels[content][1] <= at
    }
    if len(labels) > _MOST_LABELS:
        labels.clear()
    return told


@lru_cache(maxsize=64)
def _shape(names: tuple[str, ...]) -> type[msgspec.Struct]:
    return msgspec.defstruct("Row", names, gc=False)
