"""Tells, at every call, whether a program is still what it was when its content was read."""

from __future__ import annotations

from operator import is_
from typing import Any

from dspy_ledger.producer.canonical import fingerprint
from dspy_ledger.producer.structure import children, dspy_module, parameter_class

__all__ = ["Watch"]

_MOST_WATCHED = 256  # items of one container, as the fingerprint has it


class Watch:
    """A program's fingerprint, and the very objects that it was made of.

    As long as these are the same objects, the fingerprint is the same: comparing them takes a fifth of
    the time. They are not the program itself, which a watch does not keep alive.
    """

    __slots__ = ("_objects", "_print")

    def __init__(self, program: Any) -> None:
        self._objects = _objects(program)  # first: what changes meanwhile is seen
        self._print = fingerprint(program)

    def unchanged(self, program: Any) -> bool:
        """Whether the program, which is the one given before, has the same fingerprint."""
        if self._objects is not None and _are_same(self._objects):
            return True
        try:
            objects = _objects(program)
            if fingerprint(program) != self._print:
                return False
        except Exception:  # noqa: BLE001  the host's own attributes: read again what it is
            return False
        self._objects = objects
        return True


_Objects = list[tuple[Any, tuple[Any, ...]]]
"""Containers (instances' attributes, lists, dicts) and what was in them."""


def _objects(program: Any) -> _Objects | None:
    """What the fingerprint of a program depends on; None where that is more than can be compared so."""
    dspy = dspy_module()
    found: _Objects = []
    seen: set[int] = set()
    pending = [program]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        is_predictor = isinstance(value, dspy.Predict)
        if not is_predictor and isinstance(value, parameter_class()):
            return None  # its state is its own affair
        if not isinstance(value, dspy.Module):
            continue
        held = vars(value)
        found.append((held, tuple(held.values())))
        containers = [
            each
            for name, each in held.items()
            if isinstance(each, list | tuple | dict)
            and len(each) <= _MOST_WATCHED
            and name not in ("history", "callbacks", "demos", "traces", "train", "config", "fields")
        ]
        if is_predictor:
            own = [held[name] for name in ("config", "fields", "demos") if held.get(name) is not None]
            containers += own
            if any(
                isinstance(item, dict | list)
                for each in own
                if isinstance(each, dict)
                for item in each.values()
            ):
                return None  # what is within them can change too
            signature, lm = held.get("signature"), held.get("lm")
            found.append((_Named(signature, "__doc__"), (getattr(signature, "__doc__", None),)))
            if lm is not None:
                found.append((_Named(lm, "model"), (getattr(lm, "model", None),)))
        found += [(each, tuple(_items(each))) for each in containers]
        found += [(each.keys(), tuple(each)) for each in containers if isinstance(each, dict) and each]
        for items in (held.values(), *map(_items, containers)):
            found += [
                (vars(tool), tuple(vars(tool).values())) for tool in items if isinstance(tool, dspy.Tool)
            ]
        pending.extend(item for _, item in children(value, _MOST_WATCHED))
    return found


class _Named:
    """One attribute as if it were a container."""

    __slots__ = ("_name", "_owner")

    def __init__(self, owner: Any, name: str) -> None:
        self._owner = owner
        self._name = name

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        yield getattr(self._owner, self._name, None)


def _items(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container


def _are_same(objects: _Objects) -> bool:
    try:
        for container, items in objects:
            if len(container) != len(items) or not all(map(is_, _items(container), items)):
                return False
    except RuntimeError:  # another thread changes one of them right now
        return False
    return True
