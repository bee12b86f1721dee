"""A histogram of whole numbers that merges, with buckets of equal relative width.

Numbers below 64 have a bucket each; above, every doubling has 32. The bucket of a number is read from its
upper six bits, so that it is the same on every machine, and what stands for a bucket, its middle, is never
further than 1/64 from any number in it.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, repeat
from operator import add

from dspy_ledger.errors import StoreError

__all__ = [
    "HIGHEST",
    "RELATIVE_ERROR",
    "as_number",
    "bucket_of",
    "counted",
    "decode",
    "encode",
    "merge",
    "quantile",
    "quantiles",
]

RELATIVE_ERROR = 1 / 64
HIGHEST = 2**48 - 1
"""The highest number told apart from higher ones; in µs that is nine years."""

_KINDS = {1: "B", 2: "H", 4: "I", 8: "Q"}  # bytes of a count → its array type
_START = 2  # bytes of the first bucket's number
_DIGIT = 8  # bytes that a count has in a histogram that is one number


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


def as_number(histograms: Iterable[bytes]) -> int:
    """The sum of encoded histograms as one whole number: two such numbers add up to that of all of them.

    The count of bucket n is the number's n-th digit of 64 bits, so that the sum of many, which takes a tenth
    of the time of :func:`merge`, is right while each count stays below 2**64.

    Raises:
        StoreError: other bytes.
    """
    histograms = [encoded for encoded in histograms if encoded]
    lowest = min(map(_first, histograms), default=0)  # long numbers, all of zeros below, are slow to add
    return sum(map(_digits, histograms, repeat(lowest))) << lowest * _DIGIT * 8


def _digits(encoded: bytes, lowest: int) -> int:
    """The counts from bucket ``lowest`` on."""
    width, body = encoded[0], encoded[1 + _START :]
    if width not in _KINDS or not body or len(body) % width:
        raise _unreadable()
    digits = bytearray(len(body) // width * _DIGIT)
    for at in range(width):
        digits[at::_DIGIT] = body[at::width]
    return int.from_bytes(digits, "little") << (_first(encoded) - lowest) * _DIGIT * 8


def quantiles(number: int, shares: Sequence[float]) -> list[float | None]:
    """For each share what :func:`quantile` tells, of a sum of :func:`as_number`."""
    if not number:
        return [None] * len(shares)
    empty = ((number & -number).bit_length() - 1) // (_DIGIT * 8)  # buckets before the first count
    number >>= empty * _DIGIT * 8
    digits = -(-number.bit_length() // (_DIGIT * 8))
    counts = array(_KINDS[_DIGIT], number.to_bytes(digits * _DIGIT, "little"))
    reached = list(accumulate(_little_endian(counts)))
    return [_middle(empty + bisect_left(reached, max(1.0, share * reached[-1]))) for share in shares]


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
        raise _unreadable()
    counts = array(kind, body)
    return _first(encoded), _little_endian(counts).tolist()


def _first(encoded: bytes) -> int:
    return int.from_bytes(encoded[1 : 1 + _START], "little")


def _unreadable() -> StoreError:
    return StoreError("a histogram of the view can't be read; replay the view")


def _little_endian(counts: array[int]) -> array[int]:
    if sys.byteorder == "big":
        counts.byteswap()
    return counts
