"""A histogram of whole numbers that merges, with buckets of equal relative width.

Numbers below 64 have a bucket each; above, every doubling has 32. The bucket of a number is read from its
upper six bits, so that it is the same on every machine, and what stands for a bucket, its middle, is never
further than 1/64 from any number in it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping
from operator import add

from dspy_ledger.errors import StoreError

__all__ = ["HIGHEST", "RELATIVE_ERROR", "bucket_of", "counted", "decode", "encode", "merge", "quantile"]

RELATIVE_ERROR = 1 / 64
HIGHEST = 2**48 - 1
"""The highest number told apart from higher ones; in µs that is nine years."""

_KINDS = {1: "B", 2: "H", 4: "I", 8: "Q"}  # bytes of a count → its array type
_START = 2  # bytes of the first bucket's number


def bucket_of(number: int) -> int:
    """The bucket that a number ≥ 0 falls in; those above :data:`HIGHEST` share the last."""
    if number < 64:
        return number
    number = min(number, HIGHEST)
    shift = number.bit_length() - 6
    return (shift << 5) + (number >> shift)


def counted(numbers: Iterable[int]) -> dict[int, int]:
    """How many of the numbers fall in each bucket."""
    counts: dict[int, int] = {}
    for number in numbers:
        bucket = bucket_of(number)
        counts[bucket] = counts.get(bucket, 0) + 1
    return counts


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """The number that this share (0 to 1) of all numbers does not exceed; None when there are none.

    It is the nearest rank's, within :data:`RELATIVE_ERROR`.
    """
    rank = max(1.0, share * sum(counts.values()))
    reached = 0
    for bucket in sorted(counts):
        reached += counts[bucket]
        if reached >= rank:
            return _middle(bucket)
    return None


def encode(counts: Mapping[int, int]) -> bytes:
    """Counts by bucket as bytes, the same for the same counts.

    They are the bytes that a count takes, the first bucket's number in two, and the counts from there to
    the last bucket's, little-endian; no counts at all are no bytes.
    """
    if not counts:
        return b""
    first = min(counts)
    dense = [0] * (max(counts) - first + 1)
    for bucket, count in counts.items():
        dense[bucket - first] = count
    return _pack(first, dense)


def decode(encoded: bytes) -> dict[int, int]:
    """What :func:`encode` encoded.

    Raises:
        StoreError: other bytes.
    """
    first, counts = _unpack(encoded)
    return {bucket: count for bucket, count in enumerate(counts, first) if count}


def merge(one: bytes, other: bytes) -> bytes:
    """The encoded histogram of all numbers in two of them."""
    if not one or not other:
        return one or other
    (first, counts), (start, more) = _unpack(one), _unpack(other)
    if start < first:
        counts = [0] * (first - start) + counts
        first = start
    at, end = start - first, start - first + len(more)
    counts += [0] * (end - len(counts))
    counts[at:end] = map(add, counts[at:end], more)
    return _pack(first, counts)


def _middle(bucket: int) -> float:
    if bucket < 64:
        return float(bucket)
    shift = (bucket >> 5) - 1
    lowest = (bucket - (shift << 5)) << shift
    return lowest + ((1 << shift) - 1) / 2


def _pack(first: int, counts: list[int]) -> bytes:
    highest = max(counts)
    width = 1 if highest < 1 << 8 else 2 if highest < 1 << 16 else 4 if highest < 1 << 32 else 8
    body = _little_endian(array(_KINDS[width], counts)).tobytes()
    return bytes((width,)) + first.to_bytes(_START, "little") + body


def _unpack(encoded: bytes) -> tuple[int, list[int]]:
    if not encoded:
        return 0, []
    kind = _KINDS.get(encoded[0])
    body = encoded[1 + _START :]
    if kind is None or not body or len(body) % encoded[0]:
        raise StoreError("a histogram of the view can't be read; replay the view")
    counts = array(kind, body)
    return int.from_bytes(encoded[1 : 1 + _START], "little"), _little_endian(counts).tolist()


def _little_endian(counts: array[int]) -> array[int]:
    if sys.byteorder == "big":
        counts.byteswap()
    return counts
