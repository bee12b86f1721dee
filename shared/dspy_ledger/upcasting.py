"""Upcasting: events of older types, read as the types that this release knows.

A type on the wire is never changed: an incompatible change is a new one, ``ExecutionCompleted.v2``, and an
upcaster here that makes the new data of the old. What is stored stays as it came; only readers see the
new form, wherever an event is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["UPCASTERS", "Upcaster", "Upcasters", "older_types", "upcast", "upcast_type"]

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""An event's fields of one type → its fields of the next; pure, and leaves alone what it was given."""

Upcasters = Mapping[str, tuple[str, Upcaster]]
"""Old type → the next type, and what makes its fields."""

UPCASTERS: dict[str, tuple[str, Upcaster]] = {}
"""Every step there is; none was needed yet."""


def upcast(envelope: dict[str, Any], upcasters: Upcasters = UPCASTERS) -> dict[str, Any]:
    """The CloudEvent in its newest type, by as many steps as it takes; itself when it is of one already."""
    while (step := upcasters.get(envelope["type"])) is not None:
        kind, make = step
        envelope = {**envelope, "type": kind, "data": make(envelope["data"])}
    return envelope


def upcast_type(kind: str, upcasters: Upcasters = UPCASTERS) -> str:
    """The type that events of this type are read as."""
    while (step := upcasters.get(kind)) is not None:
        kind = step[0]
    return kind


def older_types(kind: str, upcasters: Upcasters = UPCASTERS) -> list[str]:
    """Every type whose events are read as this one, without itself."""
    return [older for older in upcasters if older != kind and upcast_type(older, upcasters) == kind]
