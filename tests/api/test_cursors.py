"""Cursors are opaque, and of use only where they were given."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.api.cursors import BadCursor, decode_cursor, encode_cursor

words = st.text(st.characters(codec="utf-8"), max_size=40)
filters = st.dictionaries(words, st.none() | words | st.integers(0, 9) | st.lists(words), max_size=4)
positions = st.integers(0, 2**63 - 1)


@given(words, filters, positions | words)
def test_a_cursor_gives_back_the_key_it_was_made_of(name, asked, after):
    assert decode_cursor(encode_cursor(name, asked, after), name, dict(asked), type(after)) == after


def test_a_page_that_ends_with_a_long_id_is_gone_on_after(ledger, api):
    """The cursor had more than the 4,096 characters that the API itself took."""
    names = sorted(["a", "b" * 3100, "c" + "\x01" * 500, "d" + "é" * 2000, "e"])
    for number, name in enumerate(names):
        ledger.execute(f"x{number}", model_id=name)
    ledger.fold()
    assert [item["model_id"] for item in api.walk("/v1/programs/models", limit=1)] == names


@given(words, words, filters, positions)
def test_a_cursor_of_another_list_is_refused(name, other, asked, after):
    if name != other:
        with pytest.raises(BadCursor, match="another list"):
            decode_cursor(encode_cursor(name, asked, after), other, asked, int)


@given(words, filters, filters, positions)
def test_a_cursor_of_other_filters_is_refused(name, asked, other, after):
    if asked != other:
        with pytest.raises(BadCursor, match="other filters"):
            decode_cursor(encode_cursor(name, asked, after), name, other, int)


@given(st.text() | st.binary().map(lambda raw: urlsafe_b64encode(raw).decode().rstrip("=")))
def test_garbage_is_refused(text):
    with pytest.raises(BadCursor, match="start again without it"):
        decode_cursor(text, "programs", {}, str)


@pytest.mark.parametrize("after", [-1, 2**63, 1.5, None, True, [1], "7", {"a": 1}])
def test_a_forged_key_that_is_no_position_is_refused(after):
    good = orjson.loads(urlsafe_b64decode_padded(encode_cursor("executions", {}, 1)))
    forged = urlsafe_b64encode(orjson.dumps({**good, "after": after})).decode().rstrip("=")
    with pytest.raises(BadCursor):
        decode_cursor(forged, "executions", {}, int)


@given(words, filters, positions | words)
def test_a_cursor_needs_no_escaping_in_a_url(name, asked, after):
    assert set(encode_cursor(name, asked, after)) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )


def urlsafe_b64decode_padded(text: str) -> bytes:
    from base64 import urlsafe_b64decode

    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
