"""Sums of rows of the roll-ups: as SQLite tells them, and put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from dspy_ledger.histogram import merge

__all__ = ["COUNTS", "SUMS", "MergedHistograms", "Sums"]

_COUNTS: Final = ("executions", "errors", "input_known", "output_known", "cost_known")
_WHOLES: Final = ("input_tokens", "output_tokens", "cost", "latency")  # in halves: sum() ends at 64 bits
COUNTS: Final = "sum(executions), sum(errors)"
"""What is selected of rows when these are all that is to be told."""
SUMS: Final = ", ".join([
    *(f"sum({name})" for name in _COUNTS),
    *(f"sum({name} >> 32), sum({name} & {2**32 - 1})" for name in _WHOLES),
    "merge_histograms(latencies)",
])  # fmt: skip
"""What is selected of rows for all there is to tell; the connection has to know :class:`MergedHistograms`."""


class Sums(NamedTuple):
    """The sums of rows of a roll-up, and the histogram of their latencies."""

    executions: int = 0
    errors: int = 0
    input_known: int = 0
    output_known: int = 0
    cost_known: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    latency: int = 0
    latencies: bytes = b""

    @classmethod
    def read(cls, row: Sequence[Any]) -> Sums:
        """Those that :data:`SUMS` selects, or :data:`COUNTS`."""
        if len(row) == 2:
            return cls(*row)
        of = len(_COUNTS)
        wholes = ((row[at] << 32) + row[at + 1] for at in range(of, of + 2 * len(_WHOLES), 2))
        return cls._make((*row[:of], *wholes, row[-1]))

    @classmethod
    def of(cls, parts: Sequence[Sums]) -> Sums:
        """The sums of sums."""
        if len(parts) < 2:
            return parts[0] if parts else cls()
        *numbers, latencies = zip(*parts, strict=True)
        return cls._make((*map(sum, numbers), merge(latencies)))


class MergedHistograms:
    """``merge_histograms``, which in SQL is the histogram of all rows together."""

    def __init__(self) -> None:
        self._histograms: list[bytes] = []
        self.step: Callable[[Any], None] = self._histograms.append

    def finalize(self) -> Any:
        """The encoded histogram."""
        return merge(self._histograms)
