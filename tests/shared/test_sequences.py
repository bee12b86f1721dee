"""A producer's account: which of its numbers are settled, against a plain set of integers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.sequences import SequenceSet

ranges = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda r: (r[0], r[0] + r[1])))


def numbers(account: SequenceSet) -> set[int]:
    return {n for first, last in account.ranges for n in range(first, last + 1)}


@given(ranges)
def test_it_holds_what_was_added_as_sorted_ranges_that_do_not_touch(added) -> None:
    account = SequenceSet(added)
    plain = {n for first, last in added for n in range(first, last + 1)}
    assert numbers(account) == plain
    assert all(n in account for n in plain)
    assert all(n not in account for n in range(1, 80) if n not in plain)
    kept = account.ranges
    assert all(last + 1 < following for (_, last), (following, _) in itertools.pairwise(kept))


@given(ranges, st.randoms())
def test_the_order_of_adding_does_not_matter(added, random) -> None:
    shuffled = random.sample(added, len(added))
    assert SequenceSet(added).ranges == SequenceSet(shuffled).ranges


@given(ranges)
def test_the_mark_is_the_end_of_what_begins_at_1(added) -> None:
    account = SequenceSet(added)
    plain = numbers(account)
    assert set(range(1, account.mark + 1)) <= plain
    assert account.mark + 1 not in plain


@given(ranges, st.integers(1, 80))
def test_what_is_missing_and_what_is_there_are_everything(added, last) -> None:
    account = SequenceSet(added)
    missing = {n for first, end in account.missing(last) for n in range(first, end + 1)}
    assert missing == set(range(1, last + 1)) - numbers(account)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (3, 2), (-1, None)])
def test_what_is_no_range_of_numbers_from_1_is_refused(first, last) -> None:
    with pytest.raises(ValueError, match="start at 1"):
        SequenceSet().add(first, last)
