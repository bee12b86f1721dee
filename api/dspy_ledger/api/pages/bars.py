"""Statistics by bucket as a picture of bars, in the units of an SVG's view box.

Pure. A bar is a bucket's executions, its foot those that failed; the highest bar fills the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["HEIGHT", "STEP", "Bar", "bars"]

HEIGHT: Final = 40
STEP: Final = 10
"""From one bar to the next; a bar is narrower."""
_LOWEST: Final = 1.5
"""What is not nothing can be seen."""


@dataclass(frozen=True, slots=True)
class Bar:
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


def _height(count: int, most: int) -> float:
    return round(max(_LOWEST, HEIGHT * count / most), 1) if count else 0
