"""Type forms as people read them; tests/producer/test_canonical.py holds those of real annotations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.type_text import type_text

LIST = {"kind": "generic", "origin": "list", "args": ["str"]}


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("str", "str"),
        ({"kind": "union", "of": [LIST, "None"]}, "list[str] | None"),
        ({"kind": "literal", "values": ["a", 1]}, "Literal['a', 1]"),
        ({"kind": "model", "name": "Contact", "fields": []}, "Contact"),
        ({"kind": "cycle", "up": 1}, "..."),
        ({"kind": "callable", "args": "...", "returns": "int"}, "Callable[..., int]"),
    ],
)
def test_a_form_reads_as_python_is_written(form, text):
    assert type_text(form) == text


def test_what_is_no_form_is_told_as_it_is():
    assert type_text({"type": "string"}) == '{"type": "string"}'
    assert type_text({"kind": "union", "of": 3}) == '{"kind": "union", "of": 3}'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["kind", "of", "name", "args"]), inner),
)


@given(json_values)
def test_any_json_has_a_text(form):
    assert isinstance(type_text(form), str)
