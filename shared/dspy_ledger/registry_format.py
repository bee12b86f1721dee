"""The values of the Redis registry as bytes: what producers and the projector both write and read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from dspy_ledger.errors import InvalidInput
from dspy_ledger.identity import Interface
from dspy_ledger.versions import Known

__all__ = ["decode_content", "decode_known", "encode_content", "encode_known", "sound_interface"]


def sound_interface(value: object) -> Interface | None:
    """An interface as the version rule can read it; None when it is null or not of that shape."""
    if not isinstance(value, dict):
        return None
    for fields in (value.get("inputs"), value.get("outputs")):
        if not isinstance(fields, list) or not all(map(_is_field, fields)):
            return None
    return cast("Interface", value)


def _is_field(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("required"), bool)
        and "type" in value
    )


def encode_known(version: str, interface: Mapping[str, Any] | None) -> bytes:
    """A field's value in the hash ``Keys.program``: the label that a content has, and its interface."""
    return orjson.dumps({"version": version, "interface": interface})


def decode_known(value: bytes) -> Known:
    """What :func:`encode_known` wrote.

    Raises:
        InvalidInput: it wrote something else.
    """
    fields = _object(value)
    version = fields.get("version")
    if not isinstance(version, str):
        raise InvalidInput("a registry entry has no version")
    return Known(version, sound_interface(fields.get("interface")))


def encode_content(data: Mapping[str, Any], state: object) -> bytes:
    """A field's value in the hash ``Keys.contents``.

    Args:
        data: the ProgramRegistered event's own fields.
        state: its body, decoded; None when it came without one.
    """
    return orjson.dumps({"data": data, "state": state})


def decode_content(value: bytes) -> tuple[dict[str, Any], Any]:
    """What :func:`encode_content` wrote: data and state.

    Raises:
        InvalidInput: it wrote something else.
    """
    fields = _object(value)
    data = fields.get("data")
    if not isinstance(data, dict):
        raise InvalidInput("a registry content has no data")
    return data, fields.get("state")


def _object(value: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"a registry value is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidInput("a registry value is a JSON object")
    return fields
