"""A DSPy program as one value: form, content hash, interface and loadable state, read without changing it."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal

from dspy_ledger import identity
from dspy_ledger.identity import Interface
from dspy_ledger.producer.interface import interface_of
from dspy_ledger.producer.programform import CALLED, field_forms, program_form, state_form
from dspy_ledger.producer.source import source_of
from dspy_ledger.producer.structure import (
    as_program,
    attributes,
    children,
    dspy_module,
    only_signature,
    parameter_class,
    settings_of,
    walk,
)
from dspy_ledger.producer.valueform import plain
from dspy_ledger.type_text import type_text

__all__ = ["Canonical", "canonicalize", "fingerprint"]


_MOST_WATCHED = 256
_SCALARS = (str, int, float, types.NoneType)


@dataclass(frozen=True, slots=True)
class Canonical:
    """All that a registration says of a program, and the live objects that answer for it.

    ``state`` is ``{"form": form, "blobs": {digest: base64}}``: the form is itself what can be loaded, once
    the bytes in its demos are put back. ``opaque`` programs are tracked but can't be loaded: some of their
    code could not be read. ``takes_more`` says that the program takes inputs beside those of its interface.
    """

    form: dict[str, Any]
    content_hash: str
    interface: Interface
    takes_more: bool
    kind: Literal["signature", "module"]
    signature: dict[str, Any] | None
    state: dict[str, Any]
    class_name: str
    module_path: str
    source_code: str | None
    code_hash: str | None
    opaque: bool
    program: Any
    process_output: Callable[[Any], Any] | None

    @property
    def model_pinned(self) -> bool:
        """Whether a predictor keeps an LM of its own."""
        return any(parameter.get("lm") is not None for parameter in self.form["parameters"])

    def description(self) -> dict[str, Any]:
        """What a ProgramRegistered event says of the content."""
        return {
            "content_hash": self.content_hash,
            "code_hash": self.code_hash,
            "class_name": self.class_name,
            "module_path": self.module_path,
            "source_code": self.source_code,
            "signature": self.signature,
            "interface": self.interface,
            "kind": self.kind,
        }


def canonicalize(program_class: Any) -> Canonical:
    """Read a Signature class, string signature, Module instance, or Module class that needs no arguments.

    A signature is the program ``dspy.Predict(signature)``; a plain Predict is named after its signature.
    Raises InvalidProgram, whose message says what to pass instead.
    """
    program = as_program(program_class)
    nodes = walk(program)
    blobs: dict[str, str] = {}
    form = program_form(nodes, blobs)
    plain_predict = type(program) is dspy_module().Predict
    named = program.signature if plain_predict else type(program)
    signature = only_signature(program, nodes)
    source = source_of(named)
    interface, takes_more = interface_of(program, signature)
    return Canonical(
        form=form,
        content_hash=identity.content_hash(form),
        interface=interface,
        takes_more=takes_more,
        kind="signature" if plain_predict else "module",
        signature=None if signature is None else _signature_text(signature),
        state={"form": form, "blobs": blobs},
        class_name=named.__name__,
        module_path=named.__module__,
        source_code=source,
        code_hash=None if source is None else identity.code_hash(source),
        opaque=any(entry.get("opaque", False) for entry in form["modules"] + form["parameters"]),
        program=program,
        process_output=_process_output(program, named),
    )


def fingerprint(program: Any) -> Hashable:
    """A value that changes when what ``canonicalize`` reads of a program did.

    That is: a predictor's signature, demos (identity, length), fields, config or lm; a module's settings,
    tools, functions, methods of its own, and what its modules are called.
    Some ten microseconds a module: it tells when ``canonicalize`` must run again for that program. It keeps
    what it compares alive (not the program itself), so that an address used again can't pass for no change.
    What lies within a container of more than 256 items is not watched: it may as well be a cache of a
    million, and this runs at every call.
    """
    dspy = dspy_module()
    parts: list[Hashable] = []
    seen: set[int] = set()
    pending = [program]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dspy.Predict):
            parts.append(_predictor_print(value))
        else:
            itself = None if value is program else _Same(value)
            parts.append((itself, value.__doc__ if isinstance(value, type) else None))
            if isinstance(value, parameter_class()):
                parts.append(repr(state_form(value)))
        if isinstance(value, dspy.Module):
            parts.append(_code_print(value))
            pending.extend(item for _, item in children(value, _MOST_WATCHED))
    return tuple(parts)


class _Same:
    """An object compared by identity and kept alive."""

    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


def _code_print(module: Any) -> Hashable:
    """What a module was given beside its class: settings, tools, functions, methods, names of its modules."""
    parts: list[Hashable] = []
    settings = settings_of(type(module))  # type: ignore[arg-type]  # a class is hashable
    for name, value in attributes(module):
        if name in settings or name in CALLED:
            parts.append((name, _Same(value)))
        if isinstance(value, _SCALARS):
            continue
        if isinstance(value, list | tuple | dict):
            items = value if len(value) <= _MOST_WATCHED else ()
            inner = items.items() if isinstance(items, dict) else enumerate(items)
            parts += [(name, at, told) for at, item in inner if (told := _item_print(item)) is not None]
        elif (told := _item_print(value)) is not None:
            parts.append((name, told))
    return tuple(parts)


def _item_print(item: Any) -> Hashable:
    dspy = dspy_module()
    if isinstance(item, dspy.Module | parameter_class()):
        return ""  # it tells of itself
    if isinstance(item, types.FunctionType | functools.partial):
        return _Same(item)
    if isinstance(item, dspy.Tool):
        return (item.name, item.desc, repr(item.args), repr(item.arg_types), _Same(item.func))
    return None


def _predictor_print(predictor: Any) -> Hashable:
    # Through its dict: a module's attributes go through Python code of DSPy's at every access.
    held = vars(predictor)
    demos, signature, lm = held.get("demos"), held.get("signature"), held.get("lm")
    return (
        _Same(signature),
        signature.__doc__,
        _Same(demos),
        tuple(map(_Same, demos or ())),
        repr(held.get("fields")),
        repr(held.get("config")),
        _Same(lm),
        getattr(lm, "model", None),
    )


def _signature_text(signature: Any) -> dict[str, Any]:
    fields = []
    for form in field_forms(signature):
        shown = {key: form[key] for key in ("name", "role", "desc", "required")}
        shown["type"] = type_text(form["type"])
        shown |= {key: form[key] for key in ("default", "constraints") if key in form}
        fields.append(shown)
    return {"instructions": plain(signature.instructions), "fields": fields}


def _process_output(program: Any, owner: Any) -> Callable[[Any], Any] | None:
    """The class's ``process_output``, to be called with the result alone, however it was declared."""
    declared = inspect.getattr_static(owner, "process_output", None)
    if declared is None:
        return None
    target = owner if owner is not type(program) else program
    if not inspect.isfunction(declared):
        bound = getattr(target, "process_output", None)
        return bound if callable(bound) else None
    required = [
        p
        for p in inspect.signature(declared).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return declared if len(required) < 2 else functools.partial(declared, target)
