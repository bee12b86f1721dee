"""Hours, days, weeks and months (UTC), numbered from the first of the calendar: a window is a range."""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import Final

__all__ = ["END_OF_TIME", "bucket_end", "bucket_number", "bucket_start"]

END_OF_TIME: Final = "9999-12-31T23:59:59.999999Z"


@lru_cache(maxsize=4096)
def bucket_number(unit: str, time: str) -> int:
    """The bucket in which a time lies, or an hour or a day as roll-ups spell them."""
    if unit == "month":
        return int(time[:4]) * 12 + int(time[5:7]) - 1
    day = date.fromisoformat(time[:10]).toordinal()  # day 1 is a Monday
    if unit == "week":
        return (day - 1) // 7
    return day if unit == "day" else day * 24 + int(time[11:13])


def bucket_end(unit: str, time: str) -> int:
    """The first bucket that begins at a time or later."""
    number = bucket_number(unit, time)
    return number if time == bucket_start(unit, number) else number + 1


@lru_cache(maxsize=4096)
def bucket_start(unit: str, number: int) -> str:
    """When a bucket begins; the calendar's end for one beyond it."""
    try:
        if unit == "month":
            day, hour = date(number // 12, number % 12 + 1, 1), 0
        else:
            days = {"hour": number // 24, "day": number, "week": number * 7 + 1}[unit]
            day, hour = date.fromordinal(days), number % 24 if unit == "hour" else 0
    except (ValueError, OverflowError):
        return END_OF_TIME
    return f"{day.isoformat()}T{hour:02d}:00:00.000000Z"
