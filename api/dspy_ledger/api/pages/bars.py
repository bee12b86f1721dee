"""Statistics by bucket as a picture of bars, in the units of an SVG's view box.

Pure. A bar is a bucket's executions, its foot those that failed; the highest bar fills the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["HEIGHT", "STEP", "Bar", "bars", "outlines"]

HEIGHT: Final = 40
STEP: Final = 10
"""From one bar to the next."""
_EDGE: Final = 1.5
_WIDTH: Final = 7
_LOWEST: Final = 1.5
"""What is not nothing can be seen."""


class Bar(NamedTuple):
    """One bucket; ``height`` and ``failed`` are from the ground up."""

    start: str
    executions: int
    errors: int
    x: int
    height: float
    failed: float


def bars(buckets: Sequence[dict[str, Any]]) -> list[Bar]:
    """The bars of buckets that have ``start``, ``executions`` and ``errors``, in their order."""
    most = max((bucket["executions"] for bucket in buckets), default=0)
    return [
        Bar(
            start=bucket["start"],
            executions=bucket["executions"],
            errors=bucket["errors"],
            x=at * STEP,
            height=_height(bucket["executions"], most),
            failed=_height(bucket["errors"], most),
        )
        for at, bucket in enumerate(buckets)
    ]


def outlines(drawn: Iterable[Bar]) -> tuple[str, str]:
    """All bars as one SVG path, and their feet as another: a page may have thousands."""
    drawn = list(drawn)
    return (
        "".join(_outline(bar.x, bar.height) for bar in drawn if bar.height),
        "".join(_outline(bar.x, bar.failed) for bar in drawn if bar.failed),
    )


def _outline(x: int, height: float) -> str:
    return f"M{x + _EDGE} {HEIGHT}v-{height}h{_WIDTH}V{HEIGHT}z"


def _height(count: int, most: int) -> float:
    return round(max(_LOWEST, HEIGHT * count / most), 1) if count else 0
