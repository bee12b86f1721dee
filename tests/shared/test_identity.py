"""Names become ids, forms become hashes."""

import hashlib
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.identity import RESERVED_IDS, canonical_json, code_hash, content_hash, program_id

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Text Completion", "text_completion"),
        ("text-completion", "text_completion"),
        ("text_completion", "text_completion"),
        ("日本語 要約", "日本語_要約"),
        ("Größe 2", "größe_2"),
        ("x" * 100, "x" * 100),
    ],
)
def test_a_plain_name_becomes_a_readable_id(name, expected):
    assert program_id(name) == expected


def test_a_composed_and_a_decomposed_name_are_one_program():
    assert program_id("Café") == program_id(unicodedata.normalize("NFD", "Café")) == "café"


@pytest.mark.parametrize(
    "name",
    ["C++ review", "..", "a/b", "\u0939\u093f\u0928\u094d\u0926\u0940", "🙂🙂", "İstanbul", "tab\there"],
)
def test_a_name_that_lost_characters_ends_in_six_digits_of_its_hash(name):
    stem, _, digits = program_id(name).rpartition("_")
    assert len(digits) == 6
    assert set(digits) <= set("0123456789abcdef")
    assert program_id(name) != program_id(stem)


def test_two_names_that_differ_only_in_dropped_characters_stay_apart():
    ids = {program_id(name) for name in ["C review", "C++ review", "C# review", "C+ review"]}
    assert len(ids) == 4
    assert program_id("C review") == "c_review"


@pytest.mark.parametrize("name", ["models", "Models", "EXECUTIONS"])
def test_a_route_is_never_an_id(name):
    assert program_id(name) not in RESERVED_IDS
    assert program_id(name).startswith(name.lower() + "_")


def test_an_empty_name_has_an_id():
    assert program_id("") == "_e3b0c4"


def test_a_long_name_is_cut_at_a_character_and_told_apart_by_its_hash():
    one, other = program_id("語" * 300), program_id("語" * 301)
    assert one != other
    assert one.startswith("語" * 31 + "_")
    assert len(one.encode()) <= 100


@given(st.text(st.characters(exclude_categories=())))
def test_an_id_is_safe_stable_and_its_own_id(name):
    result = program_id(name)
    assert result == program_id(name)
    assert program_id(result) == result
    assert 0 < len(result.encode()) <= 100
    assert all(char == "_" or char.isalnum() for char in result)
    assert result not in RESERVED_IDS


@given(st.text(), st.text())
def test_an_id_depends_on_nothing_but_the_composed_name(one, other):
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        assert program_id(one) == program_id(other)


def test_the_canonical_text_is_sorted_tight_and_utf8():
    assert canonical_json({"b": [1, 2.5, True, None], "a": "é"}) == '{"a":"é","b":[1,2.5,true,null]}'.encode()


def test_the_canonical_text_composes_strings_and_keys():
    assert canonical_json({"e\u0301": "e\u0301"}) == canonical_json({"é": "é"})


def test_two_keys_that_are_one_when_composed_are_both_kept():
    both = canonical_json({"é": 1, "e\u0301": 2})
    assert both == canonical_json({"e\u0301": 2, "é": 1})
    assert len(json.loads(both)) == 2


@pytest.mark.parametrize(("one", "other"), [(1.0, 1), (-0.0, 0), (1e22, 10**22), ((1, 2), [1, 2])])
def test_values_that_json_can_not_tell_apart_are_one(one, other):
    assert canonical_json(one) == canonical_json(other)


@pytest.mark.parametrize(("one", "other"), [(True, 1), (None, "null"), ("1", 1), ([], {}), (0.1, 0.2)])
def test_values_of_different_kinds_stay_apart(one, other):
    assert canonical_json(one) != canonical_json(other)


def test_numbers_that_json_lacks_are_strings():
    assert canonical_json([float("nan"), float("inf"), -float("inf")]) == b'["NaN","Infinity","-Infinity"]'


@pytest.mark.parametrize("value", [{1: "a"}, {1, 2}, b"x", object()])
def test_what_is_not_json_is_refused(value):
    with pytest.raises(TypeError):
        canonical_json(value)


@given(json_values)
def test_the_canonical_text_survives_a_round_trip_through_json(value):
    once = canonical_json(value)
    assert canonical_json(json.loads(once)) == once
    assert canonical_json(json.loads(json.dumps(value))) == once


@given(st.dictionaries(st.text(max_size=5), st.integers()))
def test_the_hash_does_not_depend_on_the_order_of_keys(fields):
    backwards = dict(reversed(list(fields.items())))
    assert content_hash({"form": 1, "x": fields}) == content_hash({"x": backwards, "form": 1})


def test_a_content_hash_names_its_form_and_is_a_sha256():
    digest = content_hash({"form": 1})
    assert digest == "c1:" + hashlib.sha256(b'{"form":1}').hexdigest()
    assert digest != content_hash({"form": 1, "x": 1})


def test_a_form_of_another_version_has_no_hash_here():
    with pytest.raises(ValueError, match="'form': 1"):
        content_hash({"form": 2})


def test_a_code_hash_is_the_start_of_the_sources_sha256():
    assert code_hash("") == "e3b0c442"
    assert code_hash("class A: pass\n") != code_hash("class A: ...\n")
