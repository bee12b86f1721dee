"""Cursors: opaque text that says where the next page of one list, under one set of filters, begins."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256

import orjson

from dspy_ledger.errors import InvalidInput

__all__ = ["BadCursor", "Key", "decode_cursor", "encode_cursor"]

Key = int | str
"""What a list is ordered by: a position or an id."""

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_HIGHEST = 2**63 - 1  # SQLite's


class BadCursor(InvalidInput):
    """The cursor is not one that this list gave under these filters; start again without it."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cursor: {reason}; start again without it")


def encode_cursor(name: str, filters: Mapping[str, object], after: Key) -> str:
    """The cursor of the page that follows the item with key ``after``.

    Args:
        name: which list.
        filters: the JSON-able filters that the list was asked with, those of its path included.
        after: the last key given out.
    """
    content = {"list": name, "filters": _digest(filters), "after": after}
    return urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode("ascii")


def decode_cursor(cursor: str, name: str, filters: Mapping[str, object], kind: type[Key]) -> Key:
    """The key after which a list goes on.

    Args:
        cursor: what :func:`encode_cursor` gave.
        name: the list it is used for.
        filters: the filters it is used with.
        kind: what that list's keys are.

    Raises:
        BadCursor: garbage, or the cursor of another list or of other filters.
    """
    content = _content(cursor)
    if content.get("list") != name:
        raise BadCursor("it belongs to another list")
    if content.get("filters") != _digest(filters):
        raise BadCursor("it was given for other filters")
    after = content.get("after")
    if type(after) is not kind or (isinstance(after, int) and not 0 <= after <= _HIGHEST):
        raise BadCursor("it is not one that this API gave")
    return after


def _content(cursor: str) -> dict[str, object]:
    content = None
    if _BASE64URL.fullmatch(cursor):
        with suppress(ValueError):  # binascii's and orjson's errors are ValueErrors too
            content = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    if not isinstance(content, dict):
        raise BadCursor("it is not one that this API gave")
    return content


def _digest(filters: Mapping[str, object]) -> str:
    return sha256(orjson.dumps(filters, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
