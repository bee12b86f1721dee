"""The account of one producer: which of its sequence numbers came, and which it wrote off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dspy_ledger.sequences import SequenceSet

__all__ = ["Account"]


@dataclass(slots=True)
class Account:
    """What a store keeps of one producer, folded from its events, dead letters and reports.

    ``arrived``: stored or dead-lettered. ``dropped`` and ``unconfirmed``: as reported, whether or not they
    arrived after all. ``reported``: the highest number that a report named. ``stored``: count of events.
    """

    arrived: SequenceSet = field(default_factory=SequenceSet)
    dropped: SequenceSet = field(default_factory=SequenceSet)
    unconfirmed: SequenceSet = field(default_factory=SequenceSet)
    sampled_out: int = 0
    reported: int = 0
    stored: int = 0

    def arrive(self, sequence: int) -> None:
        """An event or a dead letter came; one without a sequence number of its own has 0."""
        if sequence > 0:
            self.arrived.add(sequence)

    def report(self, data: Mapping[str, Any]) -> None:
        """The producer told of itself: the fields of a ``ProducerReported`` event."""
        for written_off, ranges in (
            (self.dropped, data.get("dropped", ())),
            (self.unconfirmed, data.get("unconfirmed", ())),
        ):
            for first, last in ranges:
                if 1 <= first <= last:
                    written_off.add(first, last)
                    self.reported = max(self.reported, last)
        self.sampled_out = max(self.sampled_out, data.get("sampled_out", 0))
        self.reported = max(self.reported, data["last"])

    @property
    def settled(self) -> SequenceSet:
        """The numbers that nobody waits for any more."""
        return _union(self.arrived, self.dropped, self.unconfirmed)


def _union(*sets: SequenceSet) -> SequenceSet:
    filled = [s for s in sets if s.ranges]
    if len(filled) == 1:
        return filled[0]
    return SequenceSet(_ranges(filled))


def _ranges(sets: Iterable[SequenceSet]) -> Iterable[tuple[int, int]]:
    return sorted(r for s in sets for r in s.ranges)
