"""Types as JSON: what an annotation demands, without Python names of modules.

Two annotations that accept the same values have one form, in any process and any version of Python or
pydantic: ``Optional[X]`` is ``X | None``, ``List[X]`` is ``list[X]``, and a model is its fields.
"""

from __future__ import annotations

import builtins
import collections.abc
import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any, Final

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dspy_ledger.identity import canonical_json
from dspy_ledger.producer.valueform import docstring, plain

__all__ = ["metadata_form", "of_dspy", "of_python", "type_form"]

_Stack = tuple[Any, ...]
_REMOVED: Final = frozenset(
    {
        "aifc",
        "asynchat",
        "asyncore",
        "audioop",
        "cgi",
        "cgitb",
        "chunk",
        "crypt",
        "distutils",
        "imghdr",
        "imp",
    }
    | {"lib2to3", "mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "pipes", "smtpd", "sndhdr", "spwd"}
    | {"sunau", "telnetlib", "uu", "xdrlib"}
)
"""In Python 3.11's library, gone from 3.13's: a module of that name can be the host's own (``chunk.py``)."""

_WRAPPERS: Final = ("Required", "NotRequired", "ReadOnly", "ClassVar", "Final", "Unpack")


def of_dspy(thing: Any) -> bool:
    """Whether a class or function is DSPy's own."""
    module = getattr(thing, "__module__", None) or ""
    return module == "dspy" or module.startswith("dspy.")


def of_python(thing: Any) -> bool:
    """Whether a class or function is Python's own, whose source changes with its releases."""
    root = (getattr(thing, "__module__", None) or "").partition(".")[0]
    if root == "builtins":  # also the module of what was made by exec
        return getattr(builtins, thing.__name__, None) is thing
    return root in sys.stdlib_module_names and root not in _REMOVED and root != "__main__"


def type_form(annotation: Any) -> Any:
    """The structural form of an annotation: a string for what Python has built in, else ``{"kind": …}``.

    Models, typed dicts, dataclasses and named tuples are their name, doc and fields; a type that holds itself
    is ``cycle`` with the number of levels to go up. Members of a union are sorted, ``None`` last; those of
    Literal and Enum stay in order.
    """
    return _form(annotation, ())


def metadata_form(metadata: Iterable[Any]) -> list[Any]:
    """Constraints as pydantic keeps them beside a type: ``[[name, {argument: value}], …]``."""
    return [form for item in metadata if (form := _constraint(item, ())) is not None]


def _form(annotation: Any, stack: _Stack) -> Any:  # noqa: C901 - a branch for each kind
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is Any:
        return "Any"
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, typing.ForwardRef):
        return _reference(annotation.__forward_arg__, stack)
    if isinstance(annotation, str):
        return _reference(annotation, stack)
    if isinstance(annotation, list | tuple):
        return [_form(item, stack) for item in annotation]
    if typing.get_origin(annotation) is not None:
        return _generic(annotation, stack)
    if isinstance(annotation, type):
        return _class(annotation, stack)
    if isinstance(annotation, typing.NewType):
        of = _form(annotation.__supertype__, stack)
        return {"kind": "newtype", "name": annotation.__name__, "of": of}
    if hasattr(annotation, "__value__"):  # the ``type X = …`` statement of Python 3.12
        if annotation in stack:
            return _cycle(annotation, stack)
        return _form(annotation.__value__, (*stack, annotation))
    name = getattr(annotation, "__name__", None) or getattr(annotation, "_name", None)
    return {"kind": "special", "name": name or type(annotation).__name__}


def _generic(annotation: Any, stack: _Stack) -> Any:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Union or origin is types.UnionType:
        return _union(args, stack)
    if origin is typing.Literal:
        return {"kind": "literal", "values": [plain(value) for value in args]}
    if origin is typing.Annotated:
        base = _form(args[0], stack)
        notes = [form for item in args[1:] if (form := _constraint(item, stack)) is not None]
        return {"kind": "annotated", "type": base, "constraints": notes} if notes else base
    if origin is collections.abc.Callable and args:
        return {"kind": "callable", "args": _form(args[0], stack), "returns": _form(args[1], stack)}
    if getattr(origin, "_name", None) in _WRAPPERS and args:
        return _form(args[0], stack)
    if not args:
        return _form(origin, stack)
    return {"kind": "generic", "origin": _form(origin, stack), "args": [_form(item, stack) for item in args]}


def _union(args: tuple[Any, ...], stack: _Stack) -> Any:
    # typing caches unions without regard to order, so their order isn't the same in every process.
    members: dict[bytes, Any] = {}
    for arg in args:
        form = _form(arg, stack)
        nested = form["of"] if isinstance(form, dict) and form["kind"] == "union" else [form]
        members.update((canonical_json(item), item) for item in nested)
    ordered = [members[key] for key in sorted(members, key=lambda key: (key == b'"None"', key))]
    return {"kind": "union", "of": ordered} if len(ordered) > 1 else ordered[0]


def _class(cls: Any, stack: _Stack) -> Any:
    if cls in stack:
        return _cycle(cls, stack)
    if of_dspy(cls):
        return _dspy_type(cls)
    if cls.__module__ == "builtins" and of_python(cls):
        return cls.__name__
    if issubclass(cls, enum.Enum):
        values = [[name, plain(member.value)] for name, member in cls.__members__.items()]
        return {"kind": "enum", "name": cls.__name__, "values": values}
    inner = (*stack, cls)
    if issubclass(cls, pydantic.BaseModel):
        return _model(cls, inner)
    if issubclass(cls, dict) and hasattr(cls, "__required_keys__"):
        fields = [
            {"name": name, "type": _form(hint, inner), "required": name in cls.__required_keys__}
            for name, hint in _hints(cls).items()
        ]
        return {"kind": "typeddict", "name": cls.__name__, "doc": _doc(cls), "fields": fields}
    if dataclasses.is_dataclass(cls):
        return _dataclass(cls, inner)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        hints = _hints(cls)
        fields = [
            _with_default(
                {"name": name, "type": _form(hints.get(name, Any), inner)},
                cls._field_defaults.get(name, PydanticUndefined),
                None,
            )
            for name in cls._fields
        ]
        return {"kind": "namedtuple", "name": cls.__name__, "fields": fields}
    return {"kind": "class", "name": cls.__name__}


def _dspy_type(cls: Any) -> Any:
    """DSPy's own types are known by name, not by fields, which change with its releases."""
    form = {"kind": "dspy", "name": cls.__name__}
    criteria, language = getattr(cls, "criteria", None), getattr(cls, "language", None)
    if callable(criteria):
        form["criteria"] = plain(criteria())
    if isinstance(language, str):
        form["language"] = language
    return form


def _model(cls: Any, inner: _Stack) -> dict[str, Any]:
    generic = cls.__pydantic_generic_metadata__
    name = generic["origin"].__name__ if generic["origin"] else cls.__name__
    fields = []
    for field_name, field in cls.model_fields.items():
        entry = {"name": field_name, "type": _form(field.annotation, inner)}
        if field.description:
            entry["description"] = field.description
        if field.alias:
            entry["alias"] = field.alias
        if field.metadata:
            entry["constraints"] = metadata_form(field.metadata)
        fields.append(_with_default(entry, field.default, field.default_factory))
    form = {"kind": "model", "name": name, "doc": _doc(cls), "fields": fields}
    if generic["args"]:
        form["args"] = [_form(arg, inner) for arg in generic["args"]]
    describe = getattr(cls, "description", None)
    if any(of_dspy(base) for base in cls.__mro__) and callable(describe):
        form["description"] = plain(describe())
    return form


def _dataclass(cls: Any, inner: _Stack) -> dict[str, Any]:
    hints, fields = _hints(cls), []
    for field in dataclasses.fields(cls):
        default = PydanticUndefined if field.default is dataclasses.MISSING else field.default
        factory = None if field.default_factory is dataclasses.MISSING else field.default_factory
        entry = {"name": field.name, "type": _form(hints.get(field.name, field.type), inner)}
        fields.append(_with_default(entry, default, factory))
    return {"kind": "dataclass", "name": cls.__name__, "doc": _doc(cls), "fields": fields}


def _with_default(entry: dict[str, Any], default: Any, factory: Any) -> dict[str, Any]:
    entry["required"] = default is PydanticUndefined and factory is None
    if factory is not None:
        entry["factory"] = getattr(factory, "__name__", type(factory).__name__)
    elif not entry["required"]:
        entry["default"] = plain(default)
    return entry


def _constraint(item: Any, stack: _Stack) -> Any:
    if item is None:
        return None
    if isinstance(item, FieldInfo):
        notes = {"description": item.description} if item.description else {}
        return ["Field", {**notes, "constraints": metadata_form(item.metadata)}]
    if isinstance(item, type):
        return _form(item, stack)
    if isinstance(item, str):
        return item
    if dataclasses.is_dataclass(item):
        arguments = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    else:
        arguments = vars(item) if hasattr(item, "__dict__") else {}
    return [type(item).__name__.lstrip("_"), {name: plain(value) for name, value in arguments.items()}]


def _reference(name: str, stack: _Stack) -> dict[str, Any]:
    named = [item for item in stack if getattr(item, "__name__", None) == name]
    return _cycle(named[-1], stack) if named else {"kind": "ref", "name": name}


def _cycle(item: Any, stack: _Stack) -> dict[str, Any]:
    return {"kind": "cycle", "depth": len(stack) - stack.index(item)}


def _doc(cls: Any) -> str | None:
    doc = vars(cls).get("__doc__")
    # A dataclass without a docstring gets its signature as one, worded differently by each Python.
    if not doc or doc.startswith(f"{cls.__name__}("):
        return None
    return docstring(doc)


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception:  # noqa: BLE001 - a hint that can't be evaluated here stays the text it is
        return dict(getattr(cls, "__annotations__", {}))
