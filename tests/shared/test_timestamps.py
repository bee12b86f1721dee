"""One spelling for every moment, so that text order is time order."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.timestamps import canonical_time

CANONICAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


@pytest.mark.parametrize(
    "text",
    [
        "2026-W47-7T10:00:00.123456Z",
        "2026-11-22T10:00:00,123456Z",
        "2026-11-22t10:00:00.123456z",
        "2026-11-22 10:00:00.123456Z",
        "2026-11-22T100000.12345678Z",
        "20261122T100000.1234560000Z",
        "2026-11-22T10:00:00.123+00Z",
    ],
)
def test_what_only_looks_like_the_one_spelling_is_respelled_or_refused(text: str) -> None:
    try:
        spelled = canonical_time(text)
    except ValueError:
        return
    assert CANONICAL.fullmatch(spelled)


@given(st.from_regex(r"[0-9]{4}.[0-9W]{2}.?[0-9]{1,2}.[0-9:]{6,8}[.,0-9]{1,8}[Zz]", fullmatch=True))
def test_whatever_is_read_comes_out_in_the_one_spelling(text: str) -> None:
    try:
        spelled = canonical_time(text)
    except ValueError:
        return
    assert CANONICAL.fullmatch(spelled)
    assert datetime.fromisoformat(spelled) == datetime.fromisoformat(text.replace("z", "Z")).astimezone(UTC)


@pytest.mark.parametrize(
    "text", ["2026-11-22T10:00:00", "2026-02-30T10:00:00Z", "0001-01-01T00:00:00+01:00", ""]
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        canonical_time(text)
