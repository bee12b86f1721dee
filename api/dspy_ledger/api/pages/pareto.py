"""Which of several choices are worth a look: those that no other beats in quality without costing more.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["pareto_front"]


def pareto_front(points: Sequence[tuple[float, float]], *, better: str = "higher") -> list[int]:
    """The points that no other beats, as indexes in order of price.

    One point beats another when it is at least as good in both and better in one; equal points stand
    together.

    Args:
        points: (quality, price) of each; a lower price is better.
        better: whether ``higher`` or ``lower`` quality is.
    """
    sign = 1 if better == "higher" else -1
    by_price = sorted(range(len(points)), key=lambda at: (points[at][1], -sign * points[at][0]))
    front: list[int] = []
    for at in by_price:
        best = points[front[-1]] if front else None
        if best is None or sign * points[at][0] > sign * best[0] or points[at] == best:
            front.append(at)
    return front
