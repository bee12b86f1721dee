"""File names in the JSON directory: any id becomes one safe path part, and no two ids the same."""

from __future__ import annotations

import re
from hashlib import sha256

__all__ = ["evaluation_name", "folder_name", "version_name"]

_LONGEST = 200  # bytes; file systems take 255, and an ending comes after
_CUT_MARK = "~"  # itself encoded elsewhere, so that a cut name is never another one's whole name

# Separators, what Windows refuses, what could hide in a listing (controls, direction marks, zero width),
# the escape itself and the cut mark. Ranges are spelled out: Unicode categories vary with the Python.
_UNSAFE = re.compile(
    r'[/\\:*?"<>|%~\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\uffff]'
)
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


def folder_name(program_id: str) -> str:
    """The folder of a program."""
    return _fit(_encoded(program_id))


def version_name(version: str) -> str:
    """The file of a program version, within the program's folder."""
    return _fit(_encoded(version)) + ".json"


def evaluation_name(evaluation_id: str, model_id: str | None) -> str:
    """The file of an evaluation; ``_`` within the parts is encoded, because it stands between them."""
    parts = [evaluation_id] if model_id is None else [evaluation_id, model_id]
    return _fit("_".join(_encoded(part).replace("_", "%5F") for part in parts)) + ".json"


def _encoded(text: str) -> str:
    name = _UNSAFE.sub(lambda match: _percent(match[0]), text)
    if name.startswith(".") or _DEVICE.match(name):
        name = _percent(name[0]) + name[1:]
    if name.endswith((".", " ")):  # Windows drops them
        name = name[:-1] + _percent(name[-1])
    return name


def _percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _fit(name: str) -> str:
    raw = name.encode()
    if len(raw) <= _LONGEST:
        return name
    ending = _CUT_MARK + sha256(raw).hexdigest()[:16]
    return raw[: _LONGEST - len(ending)].decode(errors="ignore") + ending
