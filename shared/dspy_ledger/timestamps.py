"""Moments in one spelling: UTC, microseconds, ``Z`` — so that text order is time order."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from time import gmtime, strftime, time_ns

__all__ = ["canonical_time", "to_datetime", "utc_now"]


def utc_now() -> str:
    """This moment, e.g. ``2026-11-22T10:00:00.123456Z``."""
    now = time_ns()
    return f"{_spelled_second(now // 1_000_000_000)}.{now // 1000 % 1_000_000:06d}Z"


@lru_cache(maxsize=2)
def _spelled_second(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))


def canonical_time(text: str) -> str:
    """An RFC 3339 time in the one spelling.

    Raises:
        ValueError: not a time, or one without an offset.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset; write it in UTC with a Z at the end")
    # Of what can be read as a time, only the one spelling has these here; a third of what a pattern costs.
    if (
        len(text) == 27
        and text[4] == text[7] == "-"
        and text[10] == "T"
        and text[19] == "."
        and text[26] == "Z"
    ):
        return text
    try:
        return _spell(moment.astimezone(UTC))
    except OverflowError:
        raise ValueError(f"{text!r} lies outside the years 1 to 9999 in UTC") from None


def to_datetime(text: str) -> datetime:
    """The moment that a canonical time names, with its zone (UTC)."""
    return datetime.fromisoformat(text)


def _spell(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
