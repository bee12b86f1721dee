"""Numbers and times as pages spell them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

__all__ = [
    "FILTERS",
    "count",
    "cut",
    "duration",
    "exactly",
    "moment",
    "money",
    "percent",
    "size",
    "sum_of_ranges",
]

UNKNOWN: Final = "–"
_STEPS: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float | None) -> str:
    """A count: whole below 10,000, else in three digits (``12.3k``)."""
    if number is None:
        return UNKNOWN
    if abs(number) < 10_000:
        return f"{number:,.0f}"
    for step, letter in _STEPS:
        if abs(number) >= step * 0.9995:
            return f"{_three_digits(number / step)}{letter}"
    return f"{number:,.0f}"


def exactly(number: float | None) -> str:
    """A count with all its digits."""
    return UNKNOWN if number is None else f"{number:,.0f}"


def duration(milliseconds: float | None) -> str:
    """A duration given in milliseconds (``850 µs``, ``12 ms``, ``3.4 s``, ``2 min 5 s``, ``3 h 20 min``)."""
    if milliseconds is None:
        return UNKNOWN
    if milliseconds < 0:  # a clock went back
        return f"\N{MINUS SIGN}{duration(-milliseconds)}"
    if milliseconds < 0.9995:
        return f"{milliseconds * 1e3:.0f} µs" if milliseconds else "0 ms"
    if milliseconds < 999.5:
        return f"{_three_digits(milliseconds)} ms"
    seconds = milliseconds / 1e3
    if seconds < 59.95:
        return f"{_three_digits(seconds)} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def money(dollars: float | None) -> str:
    """An amount in US dollars: cents from a dollar on, below it two digits that count."""
    if dollars is None:
        return UNKNOWN
    if dollars == 0:
        return "$0"
    if abs(dollars) >= 10_000:
        return f"${count(dollars)}"
    if abs(dollars) >= 0.995:
        return f"${dollars:,.2f}"
    if abs(dollars) < 5e-7:
        return f"${dollars:.1e}"
    digits = next(digits for digits in range(2, 9) if abs(dollars) >= 0.995 * 10 ** (1 - digits))
    return f"${dollars:.{digits}f}"


def percent(share: float | None) -> str:
    """A share of 1 (``12.3 %``); what is there is never told as nothing."""
    if share is None:
        return UNKNOWN
    if share == 0:
        return "0 %"
    hundredth = share * 100
    return "< 0.1 %" if 0 < hundredth < 0.1 else f"{_three_digits(hundredth)} %"


def moment(time: str | None) -> str:
    """A ledger's time, to the second (``2026-11-22 10:00:00 UTC``)."""
    return UNKNOWN if time is None else f"{time[:10]} {time[11:19]} UTC"


def cut(text: str, length: int) -> str:
    """Text of at most that many characters, the last an ellipsis where some are left out."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def size(number: float | None) -> str:
    """A number of bytes (``12.3 MiB``)."""
    if number is None:
        return UNKNOWN
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 999.5 or unit == "TiB":
            break
        number /= 1024
    return f"{_three_digits(number)} {unit}"


def sum_of_ranges(ranges: Sequence[Sequence[int]]) -> int:
    """How many numbers lie in ranges [first, last]."""
    return sum(last - first + 1 for first, last in ranges)


def _three_digits(number: float) -> str:
    """Up to three digits, without zeros that only fill."""
    size = abs(number)
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    text = f"{number:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "bytes": size,
    "count": count,
    "cut": cut,
    "duration": duration,
    "exactly": exactly,
    "moment": moment,
    "money": money,
    "percent": percent,
    "sum_of_ranges": sum_of_ranges,
}
"""By the names that templates use."""
