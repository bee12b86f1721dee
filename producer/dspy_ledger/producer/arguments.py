"""Checks of what a caller passes: right kinds, or one line that says what to pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dspy_ledger.errors import InvalidInput
from dspy_ledger.producer.serialise import plain
from dspy_ledger.versions import Version

__all__ = ["id_text", "plain_mapping", "score_of", "tag_list", "text", "version_label"]

_LONGEST = 512  # characters of an id or version, as events allow


def text(what: str, value: Any) -> Any:
    """A text or None.

    Raises:
        InvalidInput: it is something else.
    """
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{what} is a text, not {type(value).__name__}")
    return value


def id_text(what: str, value: Any) -> str:
    """An id as text; numbers are taken too.

    Raises:
        InvalidInput: it is empty or too long.
    """
    found = str(value)
    if not 1 <= len(found) <= _LONGEST:
        raise InvalidInput(f"{what} has 1 to {_LONGEST} characters, not {len(found)}")
    return found


def version_label(value: str | None) -> str | None:
    """A SemVer or None.

    Raises:
        InvalidInput: it is no SemVer, or too long.
    """
    if value is not None:
        Version.parse(value)
        id_text("a version", value)
    return value


def score_of(value: Any) -> Any:
    """A number or None.

    Raises:
        InvalidInput: it is something else.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise InvalidInput(f"score is a number, not {value!r}")
    return value


def plain_mapping(what: str, value: Any) -> dict[str, Any] | None:
    """A mapping as plain JSON, or None.

    Raises:
        InvalidInput: it is something else.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{what} is a mapping, not {type(value).__name__}")
    found: dict[str, Any] = plain(dict(value))
    return found


def tag_list(tags: Iterable[str] | None) -> list[str]:
    """Tags as a list; one text is one tag.

    Raises:
        InvalidInput: they are no texts.
    """
    found = [] if tags is None else [tags] if isinstance(tags, str) else list(tags)
    if not all(isinstance(tag, str) for tag in found):
        raise InvalidInput(f"tags are texts, not {found!r}")
    return found
