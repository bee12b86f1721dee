"""Names and contents: the program id of a name, and the content hash of a canonical form.

Pure functions. Two processes, two Python versions and two years give the same answer for the same
argument; nothing here reads a clock, a file or a setting.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, TypedDict

__all__ = [
    "FORM_VERSION",
    "RESERVED_IDS",
    "Field",
    "Interface",
    "canonical_json",
    "code_hash",
    "content_hash",
    "program_id",
]

FORM_VERSION: Final = 1
"""Version of the canonical form; a content hash starts with ``c<FORM_VERSION>:``."""

RESERVED_IDS: Final = frozenset({"executions", "models"})
"""Ids that would hide a route of the REST API."""

_MAX_ID_BYTES: Final = 100
_MAX_STEM_BYTES: Final = 93
_SEPARATORS: Final = frozenset(" -_")


class Field(TypedDict):
    """One input or output of a program; ``type`` is its structural form, not a Python name."""

    name: str
    type: Any
    required: bool


class Interface(TypedDict):
    """What a caller of a program passes and gets: the base of the version rule."""

    inputs: list[Field]
    outputs: list[Field]


def program_id(name: str) -> str:
    """The id of a program's name: lower case, with ``_`` for spaces, ``-`` and ``_``.

    Letters and digits of every script stay. When another character had to be dropped, or the result is
    empty, longer than 100 bytes of UTF-8 or the name of a route, the first 6 hex digits of the name's
    SHA-256 are appended, so that two names do not meet by accident. The id holds neither dots nor path
    separators, and is its own id.
    """
    composed = unicodedata.normalize("NFC", name)
    kept: list[str] = []
    dropped = False
    for char in unicodedata.normalize("NFC", composed.lower()):
        if char in _SEPARATORS:
            kept.append("_")
        elif char.isalnum():
            kept.append(char)
        else:
            dropped = True
    stem = "".join(kept)
    encoded = stem.encode()
    if not dropped and encoded and len(encoded) <= _MAX_ID_BYTES and stem not in RESERVED_IDS:
        return stem
    digest = hashlib.sha256(composed.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{encoded[:_MAX_STEM_BYTES].decode('utf-8', 'ignore')}_{digest[:6]}"


def canonical_json(form: Any) -> bytes:
    """One JSON text per value: sorted keys, NFC strings, no whitespace, UTF-8.

    ``1.0`` is written as ``1`` and ``-0.0`` as ``0``, since JSON has one kind of number; NaN and the
    infinities, which it lacks, are the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``. A lone
    surrogate, which UTF-8 lacks, is written as its escape. Raises TypeError for anything that isn't JSON.
    """
    text = json.dumps(
        _normal(form), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return text.encode()


def content_hash(form: Mapping[str, Any]) -> str:
    """``c1:`` and the 64 hex digits of the SHA-256 of a canonical form, which says its version itself."""
    version = form.get("form")
    if version != FORM_VERSION:
        raise ValueError(f"a canonical form has 'form': {FORM_VERSION}, this one {version!r}")
    return f"c{FORM_VERSION}:{hashlib.sha256(canonical_json(form)).hexdigest()}"


def code_hash(source: str) -> str:
    """The first 8 hex digits of the SHA-256 of a class's source, as it stands in its file."""
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _normal(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return _object(value)
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    raise TypeError(f"{type(value).__name__} is not JSON")


def _text(value: str) -> str:
    composed = unicodedata.normalize("NFC", value)
    return composed.encode("utf-8", "backslashreplace").decode()


def _number(value: float) -> int | float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return int(value) if value.is_integer() else float(value)


def _object(value: Mapping[Any, Any]) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"the key {key!r} of a JSON object is not a string")
    result: dict[str, Any] = {}
    for key in sorted(value, key=lambda k: (k != _text(k), k)):
        composed = _text(key)
        # Two keys that are one after NFC: the decomposed one stays as it was written, so neither is lost.
        result[key if composed in result else composed] = _normal(value[key])
    return result
