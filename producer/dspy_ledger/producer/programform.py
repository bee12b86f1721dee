"""The canonical form of a program's modules and parameters.

It holds what the model is asked and how, and nothing else: no history, no callbacks, no demos' dataset
columns, no Python paths of modules. ``{"form": 1, "modules": […], "parameters": […]}``, both by path.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Iterable, MutableMapping
from typing import Any, Final

from pydantic_core import PydanticUndefined

from dspy_ledger.identity import FORM_VERSION
from dspy_ledger.producer.source import class_digests, function_form
from dspy_ledger.producer.structure import Node, constructor_settings, dspy_module, held, parameter_class
from dspy_ledger.producer.typeform import metadata_form, of_dspy, type_form
from dspy_ledger.producer.valueform import docstring, plain

__all__ = [
    "CALLED",
    "config_form",
    "demos_form",
    "field_forms",
    "pinned_model",
    "program_form",
    "state_form",
    "tools_of",
]

_NOT_ASKED: Final = re.compile(
    r"rollout_id|.*(api_?key|secret|password|credential|authorization).*|(.*_)?token|(.*_)?headers",
    re.IGNORECASE,
)
"""Config that doesn't change what is asked: the cache's salt, and what lets one in."""

_QUOTES: Final = (("(?<=<desc>)", "(?=</desc>)"), ("(?<=` - )", "$"))
"""What stands around a tool's description in str(tool), and in the list of tools that RLM writes."""

CALLED: Final = ("forward", "aforward", "__call__", "acall")
"""What makes an instance opaque that has one of its own."""


def program_form(nodes: Iterable[Node], blobs: MutableMapping[str, str] | None = None) -> dict[str, Any]:
    """The form of a walked program; the bytes in its demos go to ``blobs`` (digest → base64)."""
    dspy = dspy_module()
    nodes = list(nodes)
    quoted = _quoted(nodes)
    modules: list[dict[str, Any]] = []
    parameters: list[dict[str, Any]] = []
    for node in nodes:
        if node.same_as is not None:
            modules.append({"path": node.path, "same_as": node.same_as})
            continue
        entry = {"path": node.path, **_code(node.value)}
        if isinstance(node.value, dspy.Predict):
            parameters.append(entry | _predictor(node.value, quoted, blobs))
        elif isinstance(node.value, parameter_class()):
            state = state_form(node.value)
            parameters.append(entry | ({"opaque": True} if state is None else {"state": state}))
        else:
            modules.append(entry)
    return {
        "form": FORM_VERSION,
        "modules": sorted(modules, key=_path),
        "parameters": sorted(parameters, key=_path),
    }


def field_forms(signature: Any) -> list[dict[str, Any]]:
    """A signature's fields in order, inputs first."""
    forms = []
    for role, fields in (("input", signature.input_fields), ("output", signature.output_fields)):
        for name, field in fields.items():
            extra = field.json_schema_extra
            form = {
                "name": name,
                "role": role,
                "type": type_form(field.annotation),
                "desc": plain(extra.get("desc")),
            }
            if extra.get("constraints"):
                form["constraints"] = plain(extra["constraints"])
            if field.metadata:
                form["metadata"] = metadata_form(field.metadata)
            form["required"] = field.is_required()
            if field.default_factory is not None:
                form["factory"] = getattr(field.default_factory, "__name__", "factory")
            elif field.default is not PydanticUndefined:
                form["default"] = plain(field.default)
            forms.append(form)
    return forms


def config_form(config: dict[str, Any]) -> dict[str, Any]:
    """A predictor's settings for its calls, without the cache's salt and without anything secret."""
    asked = {key: value for key, value in config.items() if not _NOT_ASKED.fullmatch(str(key))}
    return {
        str(key): {"$type": type_form(value)} if isinstance(value, type) else plain(value)
        for key, value in asked.items()
    }


def demos_form(predictor: Any, blobs: MutableMapping[str, str] | None = None) -> list[dict[str, Any]]:
    """A predictor's demos in order, each with the signature's fields only."""
    names = list(predictor.signature.fields)
    return [{name: plain(demo[name], blobs) for name in names if name in demo} for demo in predictor.demos]


def state_form(parameter: Any) -> dict[str, Any] | None:
    """What a parameter that is no predictor says of itself, without its LM; None where it says nothing."""
    try:
        state = dict(parameter.dump_state())
    except Exception:  # noqa: BLE001 - the host's own code; without its answer the parameter is opaque
        return None
    state.pop("lm", None)
    form: dict[str, Any] = plain(state)
    return form


def pinned_model(predictor: Any) -> str | None:
    """The model name of the LM a predictor keeps for itself, or None."""
    lm = predictor.lm
    return None if lm is None else str(getattr(lm, "model", type(lm).__name__))


def tools_of(module: Any) -> dict[str, Any]:
    """A module's dspy.Tool objects by path, one level of list, tuple or dict deep."""
    return dict(_attributes(module, dspy_module().Tool))


def _path(entry: dict[str, Any]) -> str:
    return str(entry["path"])


def _predictor(
    predictor: Any, quoted: Iterable[tuple[re.Pattern[str], str]], blobs: MutableMapping[str, str] | None
) -> dict[str, Any]:
    instructions = plain(predictor.signature.instructions)
    for told, clean in quoted:
        instructions = told.sub(clean.replace("\\", r"\\"), instructions)
    return {
        "instructions": instructions,
        "fields": field_forms(predictor.signature),
        "config": config_form(predictor.config),
        "criteria": plain(predictor.fields),
        "lm": pinned_model(predictor),
        "demos": demos_form(predictor, blobs),
    }


def _quoted(nodes: Iterable[Node]) -> list[tuple[re.Pattern[str], str]]:
    """How DSPy's agents quote their tools' descriptions in instructions, and what canonically stands there.

    A tool's description is its docstring as the compiler left it: before Python 3.13 with the indentation of
    its file.
    """
    quoted: list[tuple[re.Pattern[str], str]] = []
    for node in nodes:
        for tool in tools_of(node.value).values() if node.same_as is None else ():
            desc = tool.desc or ""
            told, clean = (plain(text).replace("\n", "  ") for text in (desc, docstring(desc)))
            if told != clean:
                # Any blanks, because DSPy expands tabs once the quote stands in its line.
                words = r"[ \t]+".join(map(re.escape, re.split(r"[ \t]+", told.strip(" \t"))))
                quoted += [
                    (re.compile(rf"{before}[ \t]*{words}[ \t]*{after}", re.MULTILINE), clean)
                    for before, after in _QUOTES
                ]
    return quoted


def _code(module: Any) -> dict[str, Any]:
    """What a module is by its code: DSPy's kind, digests of what is not DSPy's, settings and tools."""
    cls = type(module)
    digests, opaque = class_digests(cls)
    form: dict[str, Any] = {
        "kind": next((base.__name__ for base in cls.__mro__ if of_dspy(base)), cls.__name__)
    }
    if digests:
        form["code"] = digests
    if settings := constructor_settings(module):
        form["settings"] = settings
    if tools := tools_of(module):
        described = {path: _tool(tool) for path, tool in tools.items()}
        form["tools"] = {path: tool for path, (tool, _) in described.items()}
        opaque = opaque or any(unseen for _, unseen in described.values())
    functions = {
        path: function_form(item)
        for path, item in _attributes(module, types.FunctionType | functools.partial)
        if path not in CALLED
    }
    if functions:
        form["functions"] = {path: digest for path, (digest, _) in functions.items()}
        opaque = opaque or any(unseen for _, unseen in functions.values())
    if opaque or any(name in vars(module) for name in CALLED):
        form["opaque"] = True
        form["name"] = cls.__name__
    return form


def _tool(tool: Any) -> tuple[dict[str, Any], bool]:
    code, opaque = function_form(tool.func)
    types_of, args = tool.arg_types or {}, {}
    for name, schema in (tool.args or {}).items():
        # The JSON schema of a known type is pydantic's wording of it, and changes with its releases.
        known = name in types_of
        arg: dict[str, Any] = {"type": type_form(types_of[name])} if known else {"schema": plain(schema)}
        if known and isinstance(schema, dict):
            arg |= {key: plain(schema[key]) for key in ("description", "default") if key in schema}
        args[str(name)] = arg
    return {
        "name": plain(tool.name),
        "desc": tool.desc and plain(docstring(tool.desc)),
        "args": args,
        "code": code,
    }, opaque


def _attributes(module: Any, kinds: Any) -> Iterable[tuple[str, Any]]:
    for name, value in list(vars(module).items()):
        if name not in ("callbacks", "history", "demos", "traces", "train"):
            yield from held(name, value, kinds)
