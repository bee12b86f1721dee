"""A histogram of whole numbers that merges, with buckets of equal relative width.

Numbers below 64 have a bucket each; above, every doubling has 32. The bucket of a number is read from its
upper six bits, so that it is the same on every machine, and what stands for a bucket, its middle, is never
further than 1/64 from any number in it.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import accumulate

from dspy_ledger.errors import StoreError

__all__ = [
    "HIGHEST",
    "RELATIVE_ERROR",
    "bucket_of",
    "decode",
    "encode",
    "merge",
    "quantiles",
]

RELATIVE_ERROR = 1 / 64
HIGHEST = 2**48 - 1
"""The highest number told apart from higher ones; in µs that is nine years."""

_KINDS = {1: "B", 2: "H", 4: "I", 8: "Q"}  # bytes of a count → its array type
_AT_ONCE = 256  # so many times the highest count fits twice its bytes
_HEAD = struct.Struct("<BH")  # the bytes of a count, and the first bucket


def bucket_of(number: int) -> int:
    """The bucket that a number ≥ 0 falls in; those above :data:`HIGHEST` share the last."""
    if number < 64:
        return number
    number = min(number, HIGHEST)
    shift = number.bit_length() - 6
    return (shift << 5) + (number >> shift)


def encode(counts: Mapping[int, int]) -> bytes:
    """Counts by bucket as bytes, the same for the same counts.

    They are the bytes that a count takes, the first bucket's number in two, and the counts from there to
    the last bucket's, little-endian; no counts at all are no bytes.
    """
    if not counts:
        return b""
    first, highest = min(counts), max(counts.values())
    dense = [0] * (max(counts) - first + 1)
    for bucket, count in counts.items():
        dense[bucket - first] = count
    width = next(width for width in _KINDS if highest < 1 << width * 8)
    return _packed(width, first, _little_endian(array(_KINDS[width], dense)).tobytes())


def decode(encoded: bytes) -> dict[int, int]:
    """What :func:`encode` encoded.

    Raises:
        StoreError: other bytes.
    """
    if not encoded:
        return {}
    first, counts = _counts(encoded)
    return {bucket: count for bucket, count in enumerate(counts, first) if count}


def merge(histograms: Iterable[bytes]) -> bytes:
    """The encoded histogram of all numbers in encoded histograms; none of no numbers is no bytes.

    Their counts are added up as the digits of two long numbers, every other count in either: so a digit has
    twice the bytes of a count and, of 256 at once, none runs over into the next.

    Raises:
        StoreError: other bytes.
    """
    told = [encoded for encoded in histograms if encoded]
    while len(told) > _AT_ONCE:
        told = [merge(told[at : at + _AT_ONCE]) for at in range(0, len(told), _AT_ONCE)]
    if len(told) < 2:
        return told[0] if told else b""
    parts = [_read(encoded) for encoded in told]
    width, first = max(part[0] for part in parts), min(part[1] for part in parts)
    if width == max(_KINDS):  # counts of billions
        return encode(sum(map(Counter, map(decode, told)), Counter()))
    length = max(start - first + len(body) // size for size, start, body in parts)
    bits, every_other = width * 8, _every_other(width, length)
    even = odd = 0
    for size, start, body in parts:
        number = int.from_bytes(_resized(body, size, width), "little") << (start - first) * bits
        even += number & every_other
        odd += number >> bits & every_other
    digit, half = 2 * width, -(-length // 2)
    counts = array(_KINDS[digit], bytes(2 * half * digit))
    counts[0::2], counts[1::2] = (
        array(_KINDS[digit], number.to_bytes(half * digit, "little")) for number in (even, odd)
    )
    body = counts.tobytes()[: length * digit]
    if any(body[at::digit].strip(b"\0") for at in range(width, digit)):
        width = digit
    return _packed(width, first, _resized(body, digit, width))


@lru_cache(maxsize=1024)
def _every_other(width: int, length: int) -> int:
    """Of so many counts, the bits of the first, the third and so on."""
    return int.from_bytes((b"\xff" * width + bytes(width)) * -(-length // 2), "little")


def quantiles(encoded: bytes, shares: Iterable[float]) -> list[float | None]:
    """For each share (0 to 1) the number that it does not exceed of all numbers in a histogram.

    It is the nearest rank's, within :data:`RELATIVE_ERROR`; None when there are none.

    Raises:
        StoreError: the bytes are no encoded histogram.
    """
    if not encoded:
        return [None for _ in shares]
    first, counts = _counts(encoded)
    reached = list(accumulate(counts))
    return [_middle(first + bisect_left(reached, max(1.0, share * reached[-1]))) for share in shares]


def _middle(bucket: int) -> float:
    if bucket < 64:
        return float(bucket)
    shift = (bucket >> 5) - 1
    lowest = (bucket - (shift << 5)) << shift
    return lowest + ((1 << shift) - 1) / 2


def _packed(width: int, first: int, body: bytes | bytearray) -> bytes:
    return _HEAD.pack(width, first) + body


def _read(encoded: bytes) -> tuple[int, int, bytes]:
    """The bytes of a count, the first bucket, and the counts from there on."""
    body = encoded[_HEAD.size :]
    if not body or (width := encoded[0]) not in _KINDS or len(body) % width:
        raise _unreadable()
    return width, encoded[1] | encoded[2] << 8, body


def _counts(encoded: bytes) -> tuple[int, list[int]]:
    """The first bucket, and the counts from there on."""
    width, first, body = _read(encoded)
    return first, _little_endian(array(_KINDS[width], body)).tolist()


def _unreadable() -> StoreError:
    return StoreError("a histogram of the view can't be read; replay the view")


def _resized(body: bytes, width: int, to: int) -> bytes | bytearray:
    """Counts of so many bytes in so many others; what does not fit is cut off."""
    if width == to:
        return body
    resized = bytearray(len(body) // width * to)
    for at in range(min(width, to)):
        resized[at::to] = body[at::width]
    return resized


def _little_endian(counts: array[int]) -> array[int]:
    if sys.byteorder == "big":
        counts.byteswap()
    return counts
