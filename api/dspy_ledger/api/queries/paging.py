"""Pages: one row more than asked for tells whether there is a next page."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from itertools import repeat
from typing import Any

import orjson

from dspy_ledger.api.cursors import encode_cursor
from dspy_ledger.api.parameters import PageQuery

__all__ = ["Item", "items_of", "page"]

Item = dict[str, Any]
"""One row as it is answered."""


def page(items: Sequence[Item], query: PageQuery, key: str, **path: str) -> dict[str, Any]:
    """A list's answer, its items with the members that were asked for.

    Args:
        items: up to ``query.limit + 1`` items in the list's order.
        query: what was asked.
        key: the member that the list is ordered by.
        path: the filters that stand in the path.
    """
    more = len(items) > query.limit
    items = items[: query.limit]
    cursor = encode_cursor(query.name, {**query.filters(), **path}, items[-1][key]) if more else None
    if query.fields is not None:
        items = [{name: item[name] for name in query.fields} for item in items]
    return {"items": items, "next_cursor": cursor}


def items_of(rows: sqlite3.Cursor, json: Collection[str] = ()) -> list[Item]:
    """The rows of an answered question; those of its columns in ``json`` go out as they are, undecoded."""
    names = [column[0] for column in rows.description]
    json = [name for name in json if name in names]
    rows.row_factory = None  # tuples; all that follows, a row at a time, is in C
    items: list[Item] = list(map(dict, map(zip, repeat(names), rows)))
    for name in json:
        for item in items:
            if item[name] is not None:
                item[name] = orjson.Fragment(item[name])
    return items
