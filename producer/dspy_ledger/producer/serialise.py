"""Any value as JSON bytes: what JSON can't hold is described, and nothing raises."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson
from pydantic import BaseModel

from dspy_ledger.wire import too_deep

__all__ = ["json_bytes", "plain"]

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_MOST_DEPTH = 64  # what is cut down to
_MOST_LEVELS = 150  # more than that is cut: readers take 200, and what is recorded lies within an event
_MOST_REPR = 500


def json_bytes(value: Any) -> bytes:
    """JSON of a value; never raises.

    Models, predictions and other objects become what they hold; bytes become their type, size and
    digest; text that is no Unicode is repaired; cycles and great depths are cut and say so.
    """
    try:
        raw = orjson.dumps(value, default=_default, option=_OPTIONS)
        if raw.count(b"[") + raw.count(b"{") <= _MOST_DEPTH or not too_deep(raw, _MOST_LEVELS):
            return raw
        return orjson.dumps(_clean(value, ()), option=_OPTIONS)
    except Exception:  # noqa: BLE001  lone surrogates, cycles, depth, hostile objects: take it apart by hand
        return orjson.dumps(_clean(value, ()), option=_OPTIONS)


def plain(value: Any) -> Any:
    """The value as plain JSON types."""
    return orjson.loads(json_bytes(value))


def _default(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", warnings=False)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _binary(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if callable(to_dict := getattr(type(value), "toDict", None)):  # dspy.Example and Prediction
        return to_dict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (list, tuple)):
        return list(value)
    return _described(value)


def _binary(value: bytes | bytearray | memoryview) -> dict[str, Any]:
    return {"type": "bytes", "size": len(value), "digest": "sha256:" + sha256(value).hexdigest()}


def _described(value: Any) -> dict[str, Any]:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    try:
        text = _text(repr(value))[:_MOST_REPR]
    except Exception as error:  # noqa: BLE001  a hostile __repr__ is the host's, not ours to raise
        text = f"(its repr raises {type(error).__name__})"
    return {"type": kind, "repr": text}


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _clean(value: Any, within: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, str):
        return _text(value)
    if id(value) in within:
        return {"type": "cycle"}
    if len(within) >= _MOST_DEPTH:
        return {"type": "cut", "reason": f"deeper than {_MOST_DEPTH}"}
    inner = (*within, id(value))
    try:
        if isinstance(value, Mapping):
            return {_text(str(key)): _clean(item, inner) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [_clean(item, inner) for item in value]
        try:
            return orjson.loads(orjson.dumps(value, option=_OPTIONS))  # dates, UUIDs, enums, dataclasses
        except TypeError:
            return _clean(_default(value), inner)
    except Exception:  # noqa: BLE001  a hostile object: say what it was
        return _described(value)
