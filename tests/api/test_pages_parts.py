"""What pages are made of: numbers as they are spelled, bars, and the calls of an execution as rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.api.pages import wording
from dspy_ledger.api.pages.bars import HEIGHT, STEP, bars, outlines
from dspy_ledger.api.pages.evaluation_rows import worst_first
from dspy_ledger.api.pages.waterfall import WIDTH, waterfall

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
CALL = st.fixed_dictionaries(
    {"kind": st.sampled_from(["module", "lm", "tool"]), "parent": st.none() | st.integers(-2, 12)},
    optional={
        "name": JSON,
        "start_ms": JSON,
        "duration_ms": JSON,
        "usage": JSON,
        "messages": JSON,
        "error": JSON,
    },
)


@pytest.mark.parametrize(
    ("filter_", "value", "text"),
    [
        ("count", None, "–"),
        ("count", 0, "0"),
        ("count", 9_999, "9,999"),
        ("count", 12_345, "12.3k"),
        ("count", 999_999, "1M"),
        ("count", 4_120_000, "4.12M"),
        ("duration", 0, "0 ms"),
        ("duration", 0.213, "213 µs"),
        ("duration", 73.305, "73.3 ms"),
        ("duration", 999.7, "1 s"),
        ("duration", -5000, "\N{MINUS SIGN}5 s"),
        ("duration", 59_990, "1 min 0 s"),
        ("duration", 12_000_000, "3 h 20 min"),
        ("money", 0, "$0"),
        ("money", 0.0012, "$0.0012"),
        ("money", 0.00000000012, "$1.2e-10"),
        ("money", 0.999, "$1.00"),
        ("money", 12_345.6, "$12.3k"),
        ("percent", 0, "0 %"),
        ("percent", 0.123, "12.3 %"),
        ("percent", 0.00001, "< 0.1 %"),
        ("percent", 1, "100 %"),
        ("bytes", 1_363_148, "1.3 MiB"),
        ("moment", "2026-11-22T10:00:00.123456Z", "2026-11-22 10:00:00 UTC"),
    ],
)
def test_numbers_are_short_and_have_their_unit(filter_, value, text):
    assert wording.FILTERS[filter_](value) == text


@given(st.floats(0, 1e15))
def test_a_longer_time_and_a_larger_count_are_never_told_without_digits(number):
    for told in (
        wording.duration(number),
        wording.count(number),
        wording.money(number),
        wording.size(number),
    ):
        assert any(character.isdigit() for character in told)
        assert len(told) < 24


@given(st.text(), st.integers(1, 20))
def test_text_that_is_cut_says_so_and_fits(text, length):
    cut = wording.cut(text, length)
    assert len(cut) <= length
    assert cut == text or cut == f"{text[: length - 1]}…"


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=50))
def test_bars_stand_side_by_side_within_the_picture_and_what_ran_can_be_seen(counts):
    buckets = [
        {"start": str(at), "executions": ran, "errors": min(ran, failed)}
        for at, (ran, failed) in enumerate(counts)
    ]
    drawn = bars(buckets)
    assert [bar.x for bar in drawn] == [at * STEP for at in range(len(buckets))]
    for bar in drawn:
        assert 0 <= bar.failed <= bar.height <= HEIGHT
        assert (bar.height > 0, bar.failed > 0) == (bar.executions > 0, bar.errors > 0)
    ran, failed = outlines(drawn)
    assert ran.count("M") == sum(bar.executions > 0 for bar in drawn)
    assert failed.count("M") == sum(bar.errors > 0 for bar in drawn)
    assert not any(bar.executions for bar in drawn) or max(bar.height for bar in drawn) == HEIGHT


@given(JSON | st.lists(JSON, max_size=6), JSON | st.lists(JSON, max_size=6))
def test_every_row_of_an_evaluation_is_told_once_whatever_its_producer_calls_a_row(scores, rows):
    told = worst_first(scores, rows)
    lengths = [len(part) for part in (scores, rows) if isinstance(part, list)]
    assert sorted(row.number for row in told) == list(range(1, max(lengths, default=0) + 1))
    numbers = [row.score for row in told if not row.failed and isinstance(row.score, int | float)]
    assert numbers == sorted(numbers)


def test_calls_stand_under_the_call_that_made_them_by_when_they_began():
    calls = [
        {"kind": "module", "name": "root", "parent": None, "start_ms": 0, "duration_ms": 100},
        {"kind": "tool", "name": "second", "parent": 0, "start_ms": 50, "duration_ms": 10},
        {"kind": "module", "name": "first", "parent": 0, "start_ms": 10, "duration_ms": 30},
        {"kind": "lm", "name": "inner", "parent": 2, "start_ms": 12, "duration_ms": 20},
    ]
    rows = waterfall(calls, 100)
    assert [(row.name, row.depth) for row in rows] == [("root", 0), ("first", 1), ("inner", 2), ("second", 1)]
    assert [(row.x, row.width) for row in rows] == [(0, WIDTH), (100, 300), (120, 200), (500, 100)]


def test_a_call_that_outlasts_the_execution_still_fits_the_picture():
    (row,) = waterfall([{"start_ms": 90, "duration_ms": 60}], 100)
    assert row.x + row.width == WIDTH


@given(st.lists(CALL | JSON, max_size=12) | JSON, st.floats(0, 1e9))
def test_whatever_another_producer_calls_a_call_can_be_drawn(calls, latency):
    rows = waterfall(calls, latency)
    assert len(rows) == (sum(isinstance(call, dict) for call in calls) if isinstance(calls, list) else 0)
    for row in rows:
        assert 0 <= row.x <= WIDTH
        assert 0 < row.width <= WIDTH
        assert row.depth >= 0
