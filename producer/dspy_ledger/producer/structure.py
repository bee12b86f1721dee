"""The structure of a program: its modules and parameters by path, frozen ones included.

Paths are DSPy's own (``self``, ``answer.predict``, ``steps[0]``, ``tools['find']``). DSPy's walks either
skip sub-modules that were compiled before, or follow what an optimizer left behind; this one does neither.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from dspy_ledger.errors import InvalidProgram
from dspy_ledger.producer.typeform import of_dspy

__all__ = [
    "Node",
    "as_program",
    "attributes",
    "children",
    "constructor_settings",
    "dspy_module",
    "held",
    "only_signature",
    "parameter_class",
    "settings_of",
    "walk",
]

_LEFTOVERS: Final = frozenset(
    {"candidate_programs", "mb_candidate_programs", "trial_logs", "detailed_results", "results_best"}
    | {"results_latest", "callbacks", "history"}
)
_OF_PREDICTOR: Final = _LEFTOVERS | frozenset(
    {"signature", "demos", "traces", "train", "config", "fields", "lm", "stage"}
)


@dataclass(frozen=True, slots=True)
class Node:
    """A module or parameter at its path; ``same_as`` is the path where the same object was met first."""

    path: str
    value: Any
    same_as: str | None = None


@functools.cache
def dspy_module() -> Any:
    """DSPy, imported when something first needs it: importing the producer takes no second."""
    return importlib.import_module("dspy")


@functools.cache
def parameter_class() -> Any:
    """The mark of what DSPy's optimizers tune: predictors, and a few other things with a state."""
    return importlib.import_module("dspy.predict.parameter").Parameter


def as_program(program_class: Any) -> Any:
    """The dspy.Module to call: the instance given, or one made from a signature, string or class.

    Raises InvalidProgram, whose message says what to pass.
    """
    dspy = dspy_module()
    if isinstance(program_class, dspy.Module):
        return program_class
    if isinstance(program_class, str):
        try:
            return dspy.Predict(program_class)
        except Exception as error:
            raise InvalidProgram(
                f"{program_class!r} is no signature ({error}); pass one such as 'question -> answer: int'"
            ) from error
    if isinstance(program_class, type) and issubclass(program_class, dspy.Signature):
        signature: Any = program_class
        if not signature.output_fields:
            raise InvalidProgram(f"{program_class.__name__} has no output field; pass a Signature with one")
        return dspy.Predict(program_class)
    if isinstance(program_class, type) and issubclass(program_class, dspy.Module):
        name = program_class.__name__
        try:
            return program_class()
        except Exception as error:
            raise InvalidProgram(
                f"{name} can't be built without arguments ({error}); pass an instance: {name}(…)"
            ) from error
    what = program_class.__name__ if isinstance(program_class, type) else type(program_class).__name__
    raise InvalidProgram(
        f"{what} is no program; pass a dspy.Signature class, a string such as 'question -> answer', "
        "a dspy.Module instance, or a dspy.Module class that builds without arguments"
    )


def walk(program: Any) -> list[Node]:
    """Every module and parameter once under its first path, attributes in alphabetical order.

    Where an object is met again, a cycle included, the second path is listed with ``same_as``. The result
    does not depend on the order in which attributes were set.
    """
    dspy = dspy_module()
    first: dict[int, str] = {}
    nodes: list[Node] = []
    pending = [("self", program)]
    while pending:
        path, value = pending.pop()
        seen = first.get(id(value))
        nodes.append(Node(path, value, seen))
        if seen is not None:
            continue
        first[id(value)] = path
        if isinstance(value, dspy.Module):
            prefix = "" if value is program else f"{path}."
            pending += reversed(
                [(prefix + name, item) for name, item in sorted(children(value), key=_by_path)]
            )
    return nodes


def attributes(module: Any) -> Iterator[tuple[str, Any]]:
    """A module's attributes without what DSPy keeps there of calls and compiles."""
    skipped = _OF_PREDICTOR if isinstance(module, dspy_module().Predict) else _LEFTOVERS
    return ((name, value) for name, value in list(vars(module).items()) if name not in skipped)


def children(module: Any, most: float = inf) -> Iterator[tuple[str, Any]]:
    """A module's own modules and parameters, one level of list, tuple or dict deep, in no fixed order.

    Containers of more than ``most`` items are passed over.
    """
    kinds = (dspy_module().Module, parameter_class())
    for name, value in attributes(module):
        yield from held(name, value, kinds, most)


def held(name: str, value: Any, kinds: Any, most: float = inf) -> Iterator[tuple[str, Any]]:
    """What of some classes an attribute is or holds, by path; one level of list, tuple or dict deep.

    Containers of more than ``most`` items are passed over.
    """
    if isinstance(value, kinds):
        yield name, value
    elif isinstance(value, list | tuple | dict) and len(value) <= most:
        by_key = dict(value) if isinstance(value, dict) else None  # a copy: another thread may change it
        items = list(value if by_key is None else by_key.values())
        # Their classes first: it may be a corpus of a million texts.
        if any(issubclass(kind, kinds) for kind in set(map(type, items))):
            keys = range(len(items)) if by_key is None else map("'{}'".format, by_key)
            found = zip(keys, items, strict=True)
            yield from ((f"{name}[{key}]", item) for key, item in found if isinstance(item, kinds))


def only_signature(program: Any, nodes: list[Node]) -> Any:
    """The signature a program as a whole has: its ``signature``, or its only predictor's, else None."""
    dspy = dspy_module()
    try:
        own = getattr(program, "signature", None)
    except Exception:  # noqa: BLE001 - a property of the host's own; without it there is just no signature
        own = None
    if isinstance(own, type) and issubclass(own, dspy.Signature):
        return own
    predictors = [node.value for node in nodes if isinstance(node.value, dspy.Predict) and not node.same_as]
    return predictors[0].signature if len(predictors) == 1 else None


def _by_path(item: tuple[str, Any]) -> tuple[int, str]:
    name = item[0]
    # list[10] comes after list[9]
    return (len(name), name) if name.endswith("]") and "['" not in name else (0, name)


@functools.lru_cache(maxsize=512)
def settings_of(cls: type) -> frozenset[str]:
    """Names of what DSPy's classes, among a class and its bases, take when they are made."""
    return frozenset(
        name
        for base in cls.__mro__
        if of_dspy(base) and "__init__" in vars(base)
        for name in inspect.signature(vars(base)["__init__"]).parameters
    )


def constructor_settings(module: Any) -> dict[str, Any]:
    """The scalar settings that DSPy's own classes took as arguments and kept: max_iters, N, an LM's name."""
    settings = {}
    names = settings_of(type(module))  # type: ignore[arg-type]  # a class is hashable
    for name in sorted(names & vars(module).keys()):
        value = vars(module)[name]
        if isinstance(value, dspy_module().BaseLM):
            settings[name] = value.model
        elif value is None or isinstance(value, str | int | float):
            settings[name] = value
    return settings
