"""What two sequences have in common, found within a bound: many equal items take too long.

``difflib`` looks at every pair of equal items, anew for each match. A thousand lines (or words) that say the
same would hold up everybody else's answers for seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import Match, SequenceMatcher

__all__ = ["Effort", "matcher"]


class Effort:
    """What all comparisons of one answer may take together, in steps of about 0.3 µs.

    Attributes:
        left: the steps that nobody has taken yet.
    """

    def __init__(self, steps: int = 2_000_000) -> None:
        self.left = steps


def matcher(
    old: Sequence[str], new: Sequence[str], effort: Effort, *, autojunk: bool = True
) -> SequenceMatcher[str]:
    """A matcher that takes from the effort, and finds nothing equal where that does not suffice."""
    return _Bounded(old, new, effort, autojunk=autojunk)


class _Bounded(SequenceMatcher[str]):
    a: Sequence[str]
    b2j: dict[str, list[int]]  # where each item of the other one is

    def __init__(self, old: Sequence[str], new: Sequence[str], effort: Effort, *, autojunk: bool) -> None:
        super().__init__(None, old, new, autojunk)
        self._effort = effort

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> Match:
        places = self.b2j
        steps = sum(1 + len(places.get(item, ())) for item in self.a[alo:ahi])
        if steps > self._effort.left:
            return Match(alo, blo, 0)
        self._effort.left -= steps
        return super().find_longest_match(alo, ahi, blo, bhi)
