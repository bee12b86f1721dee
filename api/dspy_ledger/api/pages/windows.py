"""Windows that statistics are told over: so many whole hours or days, in UTC, up to the one that goes on.

Whole ones, because roll-ups know nothing finer: what one page tells of a window then is what any other tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dspy_ledger.api.parameters import Bucket
from dspy_ledger.api.queries.buckets import bucket_number, bucket_start

__all__ = ["WINDOWS", "Window"]


@dataclass(frozen=True, slots=True)
class Window:
    """What it is called, and how many of which bucket it has."""

    name: str
    length: int
    bucket: Bucket

    def since(self, now: str) -> str:
        """When the first bucket of the one that ends with ``now``'s begins."""
        return bucket_start(self.bucket, bucket_number(self.bucket, now) - self.length + 1)


WINDOWS: Final = {
    "24h": Window("24 hours", 24, "hour"),
    "7d": Window("7 days", 7, "day"),
    "30d": Window("30 days", 30, "day"),
    "90d": Window("90 days", 90, "day"),
}
"""By the word in the address."""
