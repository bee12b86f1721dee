"""How many stream entries to ask for at once: Redis counts entries, memory counts bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Portion", "in_pieces"]

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
        size = sum(map(_size, fields))
        fitting = _MOST_BYTES * len(fields) // max(size, 1)
        if fitting < self.count:
            self.count = max(1, fitting)
        elif len(fields) >= self.count:
            self.count = min(self._most, fitting, self.count * 2)


def in_pieces(fields: Sequence[Mapping[bytes, bytes]]) -> Iterator[slice]:
    """Where to cut what came after all: pieces of 8 MiB at most, or of one entry."""
    start = size = 0
    for at, entry in enumerate(fields):
        size += _size(entry)
        if size > _MOST_BYTES and at > start:
            yield slice(start, at)
            start, size = at, _size(entry)
    if fields:
        yield slice(start, len(fields))


def _size(entry: Mapping[bytes, bytes]) -> int:
    return sum(map(len, entry.values()))
