"""Values as JSON: what a demo, a default or a setting becomes in the canonical form, and back.

A value and the same value after a trip through JSON give the same form: tuples are lists, models are
objects, dates are their ISO text, enum members their values.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import hashlib
import re
from collections.abc import Mapping, MutableMapping, Set
from typing import Any, Final

import pydantic

from dspy_ledger.identity import canonical_json

__all__ = ["BYTES", "IMAGE", "docstring", "holds_image", "plain", "restore"]

BYTES: Final = "$bytes"
"""The one key of the object that stands for bytes; its value is their ``sha256:`` digest."""

IMAGE: Final = "$image"
"""The one key of the object that stands for an in-memory image, of which only the digest is kept."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
_MAX_DEPTH: Final = 100
_MAX_INT: Final = 2**63 - 1


def plain(  # noqa: C901 - a branch for each kind
    value: Any, blobs: MutableMapping[str, str] | None = None, *, depth: int = 0
) -> Any:
    """``value`` as JSON, never an error; bytes become a digest and go to ``blobs`` (digest → base64).

    Sets are sorted. What has no JSON form becomes its text without memory addresses, which is also what
    DSPy's adapters show the model.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value, blobs, depth=depth)
    if isinstance(value, str):
        return str(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int):
        return _integer(int(value))
    if isinstance(value, float):
        return _number(float(value))
    if depth > _MAX_DEPTH:
        return "…"
    if isinstance(value, bytes | bytearray | memoryview):
        return _binary(bytes(value), blobs)
    if isinstance(value, Mapping):
        return {_key(key): plain(item, blobs, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, blobs, depth=depth + 1) for item in value]
    if isinstance(value, Set):
        return sorted((plain(item, blobs, depth=depth + 1) for item in value), key=canonical_json)
    return _object(value, blobs, depth + 1)


def docstring(text: str) -> str:
    """A docstring without the indentation of its file: the same text in every Python.

    From 3.13 on the compiler strips it, and ``inspect.cleandoc`` strips spaces and tabs only. Before, it took
    any whitespace for indentation, also the space that begins a paragraph in Japanese.
    """
    first, *rest = text.expandtabs().split("\n")
    margin = min((len(line) - len(line.lstrip(" ")) for line in rest if line.strip(" ")), default=0)
    return "\n".join([first.lstrip(" "), *(line[margin:] for line in rest)]).strip("\n")


def restore(value: Any, blobs: Mapping[str, str]) -> Any:
    """The value that ``plain`` made JSON of, with its bytes again; other types stay JSON.

    Raises ValueError where bytes are missing or aren't those of their digest.
    """
    if isinstance(value, dict):
        if len(value) == 1 and str(value.get(BYTES)).startswith("sha256:"):
            return _bytes_of(value[BYTES], blobs)
        return {key: restore(item, blobs) for key, item in value.items()}
    if isinstance(value, list):
        return [restore(item, blobs) for item in value]
    return value


def holds_image(value: Any) -> bool:
    """Whether an in-memory image is in there, which no record can bring back."""
    if isinstance(value, dict):
        return (len(value) == 1 and IMAGE in value) or any(holds_image(item) for item in value.values())
    return isinstance(value, list) and any(holds_image(item) for item in value)


def _bytes_of(digest: str, blobs: Mapping[str, str]) -> bytes:
    content = base64.b64decode(blobs.get(digest, ""))
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        raise ValueError(f"the bytes of {digest} were not recorded whole")
    return content


def _integer(value: int) -> int | str:
    if -_MAX_INT <= value <= _MAX_INT:
        return value
    return str(value) if value.bit_length() < 10_000 else hex(value)


def _number(value: float) -> float | str:
    # NaN and the infinities are no JSON; canonical_json writes them as the same texts.
    if value != value:  # noqa: PLR0124 - the definition of NaN
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _key(key: Any) -> str:
    """A key as json.dumps writes it."""
    simple = plain(key)
    if isinstance(simple, str):
        return simple
    return canonical_json(simple).decode()


def _binary(value: bytes, blobs: MutableMapping[str, str] | None) -> dict[str, str]:
    digest = f"sha256:{hashlib.sha256(value).hexdigest()}"
    if blobs is not None:
        blobs[digest] = base64.b64encode(value).decode()
    return {BYTES: digest}


def _object(value: Any, blobs: MutableMapping[str, str] | None, depth: int) -> Any:
    try:
        if isinstance(value, type):
            return {"$type": value.__name__}
        if isinstance(value, pydantic.BaseModel):
            return plain(_dumped(value), blobs, depth=depth)
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        if dataclasses.is_dataclass(value):
            pairs = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return plain(pairs, blobs, depth=depth)
        for method in ("toDict", "tolist"):  # dspy.Example and Prediction; arrays and their scalars
            if callable(getattr(type(value), method, None)):
                return plain(getattr(value, method)(), blobs, depth=depth)
        if (
            callable(getattr(type(value), "tobytes", None))
            and hasattr(value, "mode")
            and hasattr(value, "size")
        ):
            content = f"{value.mode} {value.size} ".encode() + value.tobytes()
            return {IMAGE: f"sha256:{hashlib.sha256(content).hexdigest()}"}
        if callable(value) and hasattr(value, "__name__"):
            return {"$function": value.__name__}
        return _ADDRESS.sub("", str(value))
    except Exception:  # noqa: BLE001 - a foreign object's own code failed; its kind is all there is to say
        return {"$object": type(value).__name__}


def _dumped(value: pydantic.BaseModel) -> Any:
    try:
        return value.model_dump(mode="json", warnings=False)
    except ValueError:  # a field that pydantic has no JSON for, such as bytes that aren't UTF-8
        return value.model_dump(warnings=False)
