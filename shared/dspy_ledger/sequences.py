"""The account of one producer's sequence numbers: which of 1, 2, 3 … are settled."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

__all__ = ["SequenceSet"]


class SequenceSet:
    """A set of positive integers, kept as sorted, disjoint, non-adjacent closed ranges.

    A sequence number is settled once its event is stored or dead-lettered, or its producer reported
    it dropped or unconfirmed.
    """

    __slots__ = ("_ranges",)

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges: list[tuple[int, int]] = []
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int | None = None) -> None:
        """Settle ``first`` … ``last``, both included.

        Raises:
            ValueError: not a range of positive numbers.
        """
        last = first if last is None else last
        if first < 1 or last < first:
            raise ValueError(f"{first}..{last} is not a range of sequence numbers, which start at 1")
        ranges = self._ranges
        if ranges and ranges[-1][1] + 1 == first:  # the common case: the next number
            ranges[-1] = (ranges[-1][0], last)
            return
        start = bisect_left(ranges, first - 1, key=lambda r: r[1])
        end = start
        while end < len(ranges) and ranges[end][0] <= last + 1:
            first, last = min(first, ranges[end][0]), max(last, ranges[end][1])
            end += 1
        ranges[start:end] = [(first, last)]

    def __contains__(self, number: int) -> bool:
        at = bisect_left(self._ranges, number, key=lambda r: r[1])
        return at < len(self._ranges) and self._ranges[at][0] <= number

    @property
    def mark(self) -> int:
        """The stored mark: the highest n such that each of 1 … n is settled; 0 when 1 is not."""
        return self._ranges[0][1] if self._ranges and self._ranges[0][0] == 1 else 0

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The settled ranges, in order."""
        return list(self._ranges)

    def without(self, other: SequenceSet) -> list[tuple[int, int]]:
        """The ranges of this set that are not in the other."""
        return [
            (max(first, start), min(last, end))
            for first, last in self._ranges
            for start, end in other.missing(last)
            if end >= first
        ]

    def missing(self, last: int) -> list[tuple[int, int]]:
        """The ranges within 1 … ``last`` that are not settled."""
        gaps, expected = [], 1
        for first, end in self._ranges:
            if first > last:
                break
            if first > expected:
                gaps.append((expected, first - 1))
            expected = end + 1
        if expected <= last:
            gaps.append((expected, last))
        return gaps
