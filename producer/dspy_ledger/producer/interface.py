"""The interface of a program: what its callers pass and what they get."""

from __future__ import annotations

import inspect
import typing
from typing import Any, Final

from dspy_ledger.identity import Field, Interface
from dspy_ledger.producer.programform import field_forms
from dspy_ledger.producer.structure import dspy_module, only_signature, walk
from dspy_ledger.producer.typeform import of_dspy, type_form

__all__ = ["interface_of"]

_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def interface_of(program: Any, signature: Any) -> tuple[Interface, bool]:
    """A program's interface, and whether it takes other inputs too that nothing declares.

    Inputs are the parameters that ``forward`` names; where it only takes keywords, those of ``signature``,
    the one that the program as a whole has, or None. DSPy's wrappers of one module (BestOfN) have that
    module's interface. Outputs are those of the signature, else none.
    """
    declared = _of_signature(signature)
    if isinstance(program, dspy_module().Predict):
        return declared, False
    inputs, more = _of_forward(program)
    if inputs:
        return Interface(inputs=inputs, outputs=declared["outputs"]), more
    wrapped = vars(program).get("module")
    if of_dspy(type(program)) and signature is None and isinstance(wrapped, dspy_module().Module):
        return interface_of(wrapped, only_signature(wrapped, walk(wrapped)))
    return declared, more and signature is None


def _of_signature(signature: Any) -> Interface:
    fields: dict[str, list[Field]] = {"input": [], "output": []}
    for form in [] if signature is None else field_forms(signature):
        fields[form["role"]].append(Field(name=form["name"], type=form["type"], required=form["required"]))
    return Interface(inputs=fields["input"], outputs=fields["output"])


def _of_forward(program: Any) -> tuple[list[Field], bool]:
    """What ``forward`` (else ``aforward``) takes by name, and whether it takes any other keyword."""
    name = next((name for name in ("forward", "aforward") if hasattr(type(program), name)), "forward")
    declared = vars(program).get(name) or inspect.getattr_static(type(program), name, None)
    unbound = name not in vars(program) or hasattr(declared, "__func__")
    function = getattr(declared, "__func__", declared)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return [], True
    if unbound and not isinstance(declared, staticmethod):
        parameters = parameters[1:]
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - a hint that can't be evaluated here stays the text it is
        hints = dict(getattr(function, "__annotations__", {}))
    takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters if p.kind not in (*_VARIADIC, p.POSITIONAL_ONLY)]
    if takes_more and of_dspy(function):
        # DSPy's own modules take fields as keywords; what they name beside them with a default is a setting.
        named = [p for p in named if p.default is p.empty]
    fields = [
        Field(name=p.name, type=type_form(hints.get(p.name, Any)), required=p.default is p.empty)
        for p in named
    ]
    return fields, takes_more
