"""The histogram keeps its promise of precision, whatever it is fed and in how many parts."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.errors import StoreError
from dspy_ledger.histogram import (
    HIGHEST,
    RELATIVE_ERROR,
    as_number,
    bucket_of,
    counted,
    decode,
    encode,
    merge,
    quantile,
    quantiles,
)

NUMBERS = st.integers(0, 200) | st.integers(0, HIGHEST) | st.integers(0, 48).map(lambda bits: 2**bits - 1)


@given(st.lists(NUMBERS, min_size=1), st.floats(0, 1))
def test_a_quantile_is_within_the_relative_error_of_the_nearest_ranks_number(
    numbers: list[int], share: float
) -> None:
    exact = sorted(numbers)[max(1, math.ceil(share * len(numbers))) - 1]
    told = quantile(counted(numbers), share)
    assert told is not None
    assert abs(told - exact) <= exact * RELATIVE_ERROR


@given(st.integers(0, 63))
def test_small_numbers_are_exact(number: int) -> None:
    assert quantile(counted([number]), 0.5) == number


@given(NUMBERS, NUMBERS)
def test_a_higher_number_never_falls_in_a_lower_bucket(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert bucket_of(low) <= bucket_of(high)


def test_buckets_are_numbered_without_holes() -> None:
    buckets = [bucket_of(number) for number in range(100_000)]
    assert {after - before for before, after in pairwise(buckets)} == {0, 1}


def test_numbers_beyond_the_highest_fall_in_the_last_bucket() -> None:
    assert bucket_of(10**40) == bucket_of(HIGHEST)


@given(st.lists(NUMBERS), st.lists(NUMBERS))
def test_two_merged_are_the_one_of_all_numbers_to_the_byte(one: list[int], other: list[int]) -> None:
    merged = merge(encode(counted(one)), encode(counted(other)))
    assert merged == encode(counted(one + other))


@given(st.dictionaries(st.integers(0, bucket_of(HIGHEST)), st.integers(1, 2**64 - 1), max_size=20))
def test_counts_of_any_size_come_back_as_they_were(counts: dict[int, int]) -> None:
    assert decode(encode(counts)) == counts


COUNTS = st.dictionaries(st.integers(0, bucket_of(HIGHEST)), st.integers(1, 2**40), max_size=20)


@given(st.lists(COUNTS, max_size=4), st.lists(st.floats(0, 1), max_size=3))
def test_a_sum_of_histograms_as_numbers_tells_the_quantiles_of_all_merged(
    parts: list[dict[int, int]], shares: list[float]
) -> None:
    merged = b""
    for part in parts:
        merged = merge(merged, encode(part))
    half = len(parts) // 2
    number = as_number(map(encode, parts[:half])) + as_number(map(encode, parts[half:]))
    assert quantiles(number, shares) == [quantile(decode(merged), share) for share in shares]


def test_without_numbers_there_is_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert quantiles(as_number([encode({})]), [0.5, 0.9]) == [None, None]
    assert decode(encode({})) == {}


def test_an_hour_of_usual_latencies_takes_a_few_hundred_bytes() -> None:
    microseconds = [int(math.exp(6 + 0.6 * (n % 41 - 20) / 7) * 1000) for n in range(1000)]
    assert len(encode(counted(microseconds))) < 300


@pytest.mark.parametrize("spoiled", [b"\x01\x00\x00", b"\x03\x00\x00abc", b"\x02\x00\x00abc", b"\x01"])
def test_bytes_that_are_no_histogram_are_refused(spoiled: bytes) -> None:
    with pytest.raises(StoreError, match="replay"):
        decode(spoiled)
    with pytest.raises(StoreError, match="replay"):
        as_number([encode({7: 1}), spoiled])
