"""A cheap key of a program's content, for programs that are made anew at every request."""

from __future__ import annotations

import enum
import functools
import types
from collections.abc import Hashable, Iterator
from typing import Any, Final

from pydantic_core import PydanticUndefined

from dspy_ledger.producer.programform import CALLED
from dspy_ledger.producer.structure import attributes, dspy_module, parameter_class
from dspy_ledger.producer.typeform import of_dspy

__all__ = ["likeness"]

_SCALARS: Final = (str, int, float, bool, enum.Enum, types.NoneType)
_WITHOUT_SETTINGS: Final = frozenset({"Module", "BaseModule", "Predict", "Parameter"})
_MOST_ITEMS: Final = 256


def likeness(program: Any) -> Hashable | None:
    """A key that two programs share only if their content is the same; None where it takes more to tell.

    It costs a small part of ``canonicalize``. It covers predictors without demos, and modules made of such
    and of tools whose functions are not made anew. Two programs of the same content may differ in it.
    """
    try:
        key = _key(program)
        hash(key)
    except Exception:  # noqa: BLE001  it takes more, or a type's own code raises
        return None
    return key


class _TakesMoreError(Exception):
    """The program has something that only its canonical form can compare."""


def _key(program: Any) -> Hashable:
    dspy = dspy_module()
    met: dict[int, int] = {}
    parts: list[Hashable] = []
    pending: list[tuple[str, Any]] = [("", program)]
    while pending:
        path, module = pending.pop()
        parts.append((path, type(module), met.get(id(module))))
        if id(module) in met:
            continue
        met[id(module)] = len(met)
        if isinstance(module, dspy.Predict):
            parts.append(_predictor(vars(module)))
        elif isinstance(module, parameter_class()):
            raise _TakesMoreError
        elif _has_settings(type(module)):  # type: ignore[arg-type]  # a class is hashable
            parts += _settings(module)
        pending += [(path + name, inner) for name, inner in _inner(module, parts)]
    return tuple(parts)


def _inner(module: Any, parts: list[Hashable]) -> Iterator[tuple[str, Any]]:
    """The modules that a module has; what else its content depends on is added to the parts."""
    dspy = dspy_module()
    for name, value in attributes(module):
        if name in CALLED:
            raise _TakesMoreError
        items: tuple[tuple[str, Any], ...] = ((name, value),)
        if isinstance(value, list | tuple | dict):
            if len(value) > _MOST_ITEMS:
                raise _TakesMoreError
            numbered = value.items() if isinstance(value, dict) else enumerate(value)
            items = tuple((f"{name}[{at!r}]", item) for at, item in numbered)
        for at, item in items:
            if isinstance(item, dspy.Module):
                yield f".{at}", item
            elif isinstance(item, dspy.Tool):
                parts.append((at, *_tool(item)))
            elif isinstance(item, types.FunctionType):
                parts.append((at, _function(item)))
            elif isinstance(item, types.FunctionType | functools.partial | parameter_class()):
                raise _TakesMoreError


def _tool(tool: Any) -> tuple[Hashable, ...]:
    types_of = tuple((name, _type(type_)) for name, type_ in (tool.arg_types or {}).items())
    return (tool.name, tool.desc, repr(tool.args), types_of, _function(tool.func))


def _function(function: Any) -> Hashable:
    """A function that is there once, or once in DSPy's code; one made anew each time takes more."""
    if isinstance(function, types.MethodType):
        function = function.__func__
    if not isinstance(function, types.FunctionType) or function.__closure__:
        raise _TakesMoreError
    return function.__code__ if of_dspy(function) else function


def _settings(module: Any) -> Iterator[Any]:
    for name, value in attributes(module):
        if isinstance(value, dspy_module().BaseLM):
            yield (name, value.model)
        elif isinstance(value, _SCALARS):
            yield (name, type(value), value)


@functools.lru_cache(maxsize=512)
def _has_settings(cls: Any) -> bool:
    """Whether a class of DSPy's may have taken settings that its content depends on."""
    return any(of_dspy(base) and base.__name__ not in _WITHOUT_SETTINGS for base in cls.__mro__)


def _predictor(held: dict[str, Any]) -> Hashable:
    lm = held.get("lm")
    if held.get("demos") or held.get("fields"):
        raise _TakesMoreError
    config = (held.get("config") or {}).items()
    return (
        *_signature(held["signature"]),
        tuple((name, *_scalar(value)) for name, value in config if name != "rollout_id"),
        None if lm is None else getattr(lm, "model", type(lm)),
    )


def _signature(signature: Any) -> Any:
    parts: list[Any] = [signature.__doc__]
    for name, field in signature.fields.items():
        extra = field.json_schema_extra
        if field.default_factory is not None:
            raise _TakesMoreError
        parts += (
            *(name, extra.get("__dspy_field_type"), _type(field.annotation), extra.get("desc")),
            *(extra.get("constraints"), repr(field.metadata) if field.metadata else None),
            *_scalar(field.default),
        )
    return tuple(parts)


def _type(annotation: Any) -> Hashable:
    """With its text, since Python takes Literals for equal that are in another order."""
    return annotation if isinstance(annotation, type) else (annotation, repr(annotation))


def _scalar(value: Any) -> Any:
    if value is PydanticUndefined or isinstance(value, _SCALARS):
        return type(value), value
    raise _TakesMoreError
