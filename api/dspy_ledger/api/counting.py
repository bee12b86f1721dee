"""What this process answered: requests by path template and status, and how long they took."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from starlette.types import Scope

__all__ = ["BOUNDS", "Counts"]

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the buckets that durations are counted in, seconds; what is above all is counted last."""

_METHODS = {"GET", "POST"}
_OTHER = "other"


@dataclass(slots=True)
class Counts:
    """Since the process began. ``requests`` by (method, path template, status).

    ``durations`` by path template: how many in each bucket; ``seconds`` their sum. A duration ends where the
    answer begins, so that a stream is told like any other. Paths that are not there, and all that is refused
    before one is looked for, are ``other``.
    """

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    durations: dict[str, list[int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, scope: Scope, status: int, seconds: float) -> None:
        """One answer to what a scope asks."""
        method, path = scope["method"], getattr(scope.get("route"), "path", _OTHER)
        self.requests[method if method in _METHODS else _OTHER, path, status] += 1
        buckets = self.durations.get(path)
        if buckets is None:
            buckets = self.durations[path] = [0] * (len(BOUNDS) + 1)
            self.seconds[path] = 0.0
        buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds[path] += seconds
