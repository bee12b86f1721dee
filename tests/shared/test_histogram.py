"""The histogram keeps its promise of precision, whatever it is fed and in how many parts."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.errors import StoreError
from dspy_ledger.histogram import HIGHEST, RELATIVE_ERROR, bucket_of, decode, encode, merge, quantiles

NUMBERS = st.integers(0, 200) | st.integers(0, HIGHEST) | st.integers(0, 48).map(lambda bits: 2**bits - 1)


def of(numbers: list[int]) -> bytes:
    return encode(Counter(map(bucket_of, numbers)))


@given(st.lists(NUMBERS, min_size=1), st.lists(st.floats(0, 1), max_size=3))
def test_a_quantile_is_within_the_relative_error_of_the_nearest_ranks_number(
    numbers: list[int], shares: list[float]
) -> None:
    told = quantiles(of(numbers), shares)
    assert len(told) == len(shares)
    for number, share in zip(told, shares, strict=True):
        exact = sorted(numbers)[max(1, math.ceil(share * len(numbers))) - 1]
        assert number is not None
        assert abs(number - exact) <= exact * RELATIVE_ERROR


@given(st.integers(0, 63))
def test_small_numbers_are_exact(number: int) -> None:
    assert quantiles(of([number]), [0.5]) == [number]


@given(NUMBERS, NUMBERS)
def test_a_higher_number_never_falls_in_a_lower_bucket(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert bucket_of(low) <= bucket_of(high)


def test_buckets_are_numbered_without_holes() -> None:
    buckets = [bucket_of(number) for number in range(100_000)]
    assert {after - before for before, after in pairwise(buckets)} == {0, 1}


def test_numbers_beyond_the_highest_fall_in_the_last_bucket() -> None:
    assert bucket_of(10**40) == bucket_of(HIGHEST)


@given(st.lists(st.lists(NUMBERS), max_size=4))
def test_merged_they_are_the_one_of_all_numbers_to_the_byte(parts: list[list[int]]) -> None:
    assert merge(map(of, parts)) == of([number for part in parts for number in part])


BUCKETS = st.integers(0, 3) | st.integers(0, bucket_of(HIGHEST))
EDGES = st.sampled_from([2**bits + more for bits in (7, 8, 15, 16, 31, 32, 60) for more in (-1, 0)])
COUNTS = st.dictionaries(BUCKETS, st.integers(1, 3) | EDGES | st.integers(1, 2**60), max_size=20)


@given(st.lists(COUNTS, max_size=8))
def test_counts_of_any_size_add_up_in_each_bucket_to_the_byte(parts: list[dict[int, int]]) -> None:
    merged = merge(map(encode, parts))
    assert merged == encode(sum(map(Counter, parts), Counter()))
    assert decode(merged) == {
        bucket: sum(part.get(bucket, 0) for part in parts) for part in parts for bucket in part
    }


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("parts", [1, 2, 255, 256, 257, 258, 65536, 65538])
def test_as_many_of_the_highest_counts_as_fill_a_digit_run_over_into_no_other(size: int, parts: int) -> None:
    most = 2**size - 1
    assert decode(merge([encode({7: most, 8: most})] * parts)) == {7: parts * most, 8: parts * most}


@given(st.dictionaries(BUCKETS, st.integers(1, 2**64 - 1), max_size=20))
def test_counts_of_any_size_come_back_as_they_were(counts: dict[int, int]) -> None:
    assert decode(encode(counts)) == counts


def test_without_numbers_there_is_no_quantile() -> None:
    assert quantiles(merge([encode({})]), [0.5, 0.9]) == [None, None]
    assert decode(encode({})) == {}


def test_an_hour_of_usual_latencies_takes_a_few_hundred_bytes() -> None:
    assert len(of([int(math.exp(6 + 0.6 * (n % 41 - 20) / 7) * 1000) for n in range(1000)])) < 300


@pytest.mark.parametrize("spoiled", [b"\x01\x00\x00", b"\x03\x00\x00abc", b"\x02\x00\x00abc", b"\x01"])
def test_bytes_that_are_no_histogram_are_refused(spoiled: bytes) -> None:
    for read in (decode, lambda encoded: merge([encode({7: 1}), encoded]), lambda one: quantiles(one, [0.5])):
        with pytest.raises(StoreError, match="replay"):
            read(spoiled)
