"""Producers and the projector read from the registry what the other wrote."""

from __future__ import annotations

import pytest

from dspy_ledger.errors import InvalidInput
from dspy_ledger.registry_format import decode_content, decode_known, encode_content, encode_known
from dspy_ledger.versions import Known

INTERFACE = {"inputs": [{"name": "q", "type": "str", "required": True}], "outputs": []}


@pytest.mark.parametrize("interface", [INTERFACE, None])
def test_a_known_content_comes_back_as_it_went(interface: dict | None) -> None:
    assert decode_known(encode_known("1.2.0", interface)) == Known("1.2.0", interface)


@pytest.mark.parametrize("state", [{"predict": {"demos": [{"q": "日本"}]}}, None])
def test_a_content_comes_back_with_its_state(state: object) -> None:
    assert decode_content(encode_content({"version": "1.0.0"}, state)) == ({"version": "1.0.0"}, state)


@pytest.mark.parametrize("interface", [[], {}, {"inputs": 1, "outputs": []}, {"inputs": [{}], "outputs": []}])
def test_an_interface_of_another_shape_is_read_as_none(interface: object) -> None:
    assert decode_known(encode_known("1.0.0", interface)).interface is None


def test_fields_that_a_later_release_adds_do_no_harm() -> None:
    assert decode_known(b'{"version":"1.0.0","interface":null,"later":1}') == Known("1.0.0", None)


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"version":1}', b'{"data":[]}'])
def test_what_is_no_registry_value_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_known(value)
    with pytest.raises(InvalidInput):
        decode_content(value)
