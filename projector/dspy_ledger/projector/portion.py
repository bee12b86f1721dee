"""How many stream entries to ask for at once: Redis counts entries, memory counts bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["Portion"]

_FIRST = 16
_MOST_BYTES = 8 << 20


class Portion:
    """Asks for as many entries as lately made 8 MiB, so that large ones don't fill the memory.

    Args:
        most: how many at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = min(_FIRST, most)

    def took(self, fields: Sequence[Mapping[bytes, bytes]]) -> None:
        """Learn from what came."""
        if not fields:
            return
        size = sum(len(value) for entry in fields for value in entry.values())
        fitting = _MOST_BYTES * len(fields) // max(size, 1)
        if fitting < self.count:
            self.count = max(1, fitting)
        elif len(fields) >= self.count:
            self.count = min(self._most, fitting, self.count * 2)
