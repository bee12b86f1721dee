"""Recorded states back into programs: only data is applied, to code that the host already has.

Nothing that a state names is imported, built or run. What the host's code doesn't match is said in one line.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dspy_ledger.errors import VersionNotRunnable
from dspy_ledger.identity import FORM_VERSION, canonical_json, content_hash
from dspy_ledger.producer.programform import (
    config_form,
    demos_form,
    field_forms,
    pinned_model,
    program_form,
    state_form,
)
from dspy_ledger.producer.structure import as_program, dspy_module, walk
from dspy_ledger.producer.valueform import holds_image, plain, restore
from dspy_ledger.type_text import type_text

__all__ = ["explain_difference", "load_checked", "load_state"]

_MOST: Final = 3
_STRUCTURE: Final = frozenset({"path", "same_as", "kind", "fields"})
_FIELD_STRUCTURE: Final = frozenset({"name", "role", "type", "required", "metadata", "constraints"})


def load_checked(
    state: Mapping[str, Any] | None, recorded: str, into: Any, *, lms: Mapping[str, Any] | None = None
) -> Any:
    """``load_state``, and the proof: the loaded program's content hash is ``recorded``.

    Raises VersionNotRunnable, naming what differs, also where the state is not the one of that hash, or part
    of the recorded program's code could not be read.
    """
    form = _form_of(state)
    if content_hash(form) != recorded:
        raise VersionNotRunnable(f"the recorded state is not that of {recorded}: it was cut or changed")
    unread = [entry["path"] for entry in form["modules"] + form["parameters"] if entry.get("opaque")]
    if unread:
        raise VersionNotRunnable(
            f"code of {', '.join(map(repr, unread))} could not be read when it was recorded"
        )
    program = load_state(state, into, lms=lms)
    here = program_form(walk(program))
    if content_hash(here) != recorded:
        raise VersionNotRunnable(
            f"the code here is not that of the version: {explain_difference(form, here)}"
        )
    return program


def load_state(state: Mapping[str, Any] | None, into: Any, *, lms: Mapping[str, Any] | None = None) -> Any:
    """A fresh program with the recorded instructions, descriptions, demos, config and criteria.

    ``into`` is what ``canonicalize`` takes; an instance is copied. Frozen sub-modules are loaded too. A
    predictor that pinned a model gets it from ``into``'s own predictor, else from ``lms`` (model name → LM),
    else from ``dspy.settings``. Raises VersionNotRunnable where the structures differ, InvalidProgram where
    ``into`` is no program.
    """
    form = _form_of(state)
    program = _fresh(into)
    nodes = walk(program)
    here = program_form(nodes)
    recorded_structure, structure = _structure(form), _structure(here)
    if canonical_json(recorded_structure) != canonical_json(structure):
        raise VersionNotRunnable(
            f"the program here has another structure: {explain_difference(recorded_structure, structure)}"
        )
    blobs = dict((state or {}).get("blobs") or {})
    live = {node.path: node.value for node in nodes if node.same_as is None}
    asked = {entry["path"]: entry.get("instructions") for entry in here["parameters"]}
    predict = dspy_module().Predict
    for entry in form["parameters"]:
        parameter = live[entry["path"]]
        if isinstance(parameter, predict):
            if not _same_question(entry, asked[entry["path"]], parameter.signature):
                parameter.signature = _signature(entry, parameter.signature)
            _apply(entry, parameter, blobs, dict(lms or {}))
        elif "state" in entry:
            _apply_other(entry, parameter)
    return program


def explain_difference(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """One line that says in which paths, fields and types two forms differ."""
    found = list(_differences(recorded, here))
    if not found:
        return "nothing differs"
    more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return "; ".join(found[:_MOST]) + more


def _form_of(state: Mapping[str, Any] | None) -> dict[str, Any]:
    form = (state or {}).get("form")
    if not isinstance(form, dict):
        raise VersionNotRunnable(
            "no state was recorded with this version; record demos to be able to load it"
        )
    if not isinstance(form.get("modules"), list) or not isinstance(form.get("parameters"), list):
        raise VersionNotRunnable("the recorded state has no modules and parameters: it was cut or changed")
    if form.get("form") != FORM_VERSION:
        raise VersionNotRunnable(
            f"the state has form {form.get('form')!r}, this release reads {FORM_VERSION}"
        )
    return form


def _fresh(into: Any) -> Any:
    program = as_program(into)
    if program is not into:
        return program
    fresh = program.deepcopy()
    originals = {node.path: node.value for node in walk(program)}
    for node in walk(fresh):
        original = originals.get(node.path)
        if node.value is original:
            # DSPy falls back to sharing what it can't copy; loading would change the host's own program.
            raise VersionNotRunnable(f"{node.path!r} can't be copied; pass the class or a new instance")
        if original is not None and hasattr(original, "lm"):
            node.value.lm = original.lm
    return fresh


def _structure(form: Mapping[str, Any]) -> dict[str, Any]:
    def part(entry: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in entry.items() if key in _STRUCTURE}
        if "fields" in kept:
            kept["fields"] = [
                {key: value for key, value in field.items() if key in _FIELD_STRUCTURE}
                for field in kept["fields"]
            ]
        return kept

    return {key: [part(entry) for entry in form[key]] for key in ("modules", "parameters")}


def _apply(entry: Mapping[str, Any], predictor: Any, blobs: dict[str, str], lms: dict[str, Any]) -> None:
    # What is the same already stays the object it is: a class keeps its name, a demo its types.
    path = entry["path"]
    if not _same(entry["config"], config_form(predictor.config)):
        predictor.config = _config(entry, predictor.config)
    if not _same(entry["criteria"], plain(predictor.fields)):
        predictor.fields = copy.deepcopy(entry["criteria"])
    if not _same(entry["demos"], demos_form(predictor)):
        if holds_image(entry["demos"]):
            raise VersionNotRunnable(
                f"demos of {path!r} hold an in-memory image, of which only a digest is recorded"
            )
        example = dspy_module().Example
        try:
            predictor.demos = [example(restore(demo, blobs)) for demo in entry["demos"]]
        except ValueError as error:
            raise VersionNotRunnable(f"demos of {path!r} can't be loaded: {error}") from error
    _pin(entry, predictor, lms)


def _same_question(entry: Mapping[str, Any], instructions: str, signature: Any) -> bool:
    descs, here = (
        [field["desc"] for field in fields] for fields in (entry["fields"], field_forms(signature))
    )
    return _same([entry["instructions"], descs], [instructions, here])


def _signature(entry: Mapping[str, Any], signature: Any) -> Any:
    descs = [field["desc"] for field in entry["fields"]]
    prefixes = [field.json_schema_extra["prefix"] for field in signature.fields.values()]
    fields = [{"prefix": prefix, "description": desc} for prefix, desc in zip(prefixes, descs, strict=True)]
    text = entry["instructions"]
    loaded = signature.load_state({"instructions": text, "fields": fields})
    if inspect.cleandoc(text) != text:
        # DSPy cleans instructions at every reading, which strips the indent of all but the first line once
        # more; a first line of its own keeps the text as it was recorded.
        loaded.instructions = "\n" + text
    return loaded


def _config(entry: Mapping[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    here = config_form(config)
    loaded = {key: value for key, value in config.items() if key not in here}
    for key, value in entry["config"].items():
        if key in here and _same(here[key], value):
            loaded[key] = config[key]
        elif isinstance(value, dict) and len(value) == 1 and ("$type" in value or "$function" in value):
            raise VersionNotRunnable(
                f"config {key!r} of {entry['path']!r} is code; set it in the program you pass"
            )
        else:
            loaded[key] = value
    return loaded


def _pin(entry: Mapping[str, Any], predictor: Any, lms: dict[str, Any]) -> None:
    model = entry["lm"]
    if pinned_model(predictor) == model:
        return
    default = dspy_module().settings.lm
    if model is not None and model not in lms and getattr(default, "model", None) != model:
        raise VersionNotRunnable(
            f"{entry['path']!r} pins the model {model!r}; pass a program that has it set"
        )
    predictor.lm = None if model is None else lms.get(model, default)


def _apply_other(entry: Mapping[str, Any], parameter: Any) -> None:
    here = state_form(parameter) or {}
    if _same(entry["state"], here):
        return
    path = entry["path"]
    if entry["state"].keys() != here.keys() or "module_src" in here:
        raise VersionNotRunnable(
            f"the state of {path!r} is code or has other parts; pass a program that has it set"
        )
    kept = {"lm": None} if isinstance(parameter, dspy_module().Module) else {}
    parameter.load_state({**kept, **entry["state"]})


def _same(one: Any, other: Any) -> bool:
    return canonical_json(one) == canonical_json(other)


def _differences(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    kinds = (("modules", "module"), ("parameters", "parameter"))
    for key, word in kinds:
        before = {entry["path"]: entry for entry in recorded[key]}
        after = {entry["path"]: entry for entry in here[key]}
        yield from (f"{word} {path!r} is not in the program here" for path in before if path not in after)
        for path in sorted(before.keys() & after.keys()):
            yield from _entry_differences(path, before[path], after[path])
    for key, word in kinds:
        paths = {entry["path"] for entry in recorded[key]}
        added = [entry["path"] for entry in here[key] if entry["path"] not in paths]
        yield from (f"{word} {path!r} is only in the program here" for path in added)


def _entry_differences(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for part in sorted(before.keys() | after.keys()):
        one, other = before.get(part), after.get(part)
        if _same(one, other):
            continue
        if part == "fields" and one is not None and other is not None:
            yield from _field_differences(path, one, other)
        elif part == "code":
            yield f"the code of {path!r} differs ({_short(one)} recorded, {_short(other)} here)"
        elif part == "tools":
            names = sorted(
                name
                for name in (one or {}).keys() | (other or {}).keys()
                if not _same((one or {}).get(name), (other or {}).get(name))
            )
            yield f"{', '.join(names)} of {path!r} differ"
        elif isinstance(one, str | int | float | None) and isinstance(other, str | int | float | None):
            yield f"{part} of {path!r} differs ({_cut(one)} recorded, {_cut(other)} here)"
        else:
            yield f"{part} of {path!r} differ"


def _field_differences(path: str, one: list[Any], other: list[Any]) -> Iterator[str]:
    before, after = {f["name"]: f for f in one}, {f["name"]: f for f in other}
    for name in before.keys() - after.keys():
        yield f"field {name!r} of {path!r} is not in the program here"
    for name in after.keys() - before.keys():
        yield f"field {name!r} of {path!r} is only in the program here"
    if before.keys() == after.keys() and list(before) != list(after):
        yield f"the fields of {path!r} have another order"
    for name in before.keys() & after.keys():
        for part in sorted(before[name].keys() | after[name].keys()):
            was, now = before[name].get(part), after[name].get(part)
            if _same(was, now):
                continue
            shown = (type_text(was), type_text(now)) if part == "type" else (_cut(was), _cut(now))
            yield f"{part} of field {name!r} of {path!r} differs ({shown[0]} recorded, {shown[1]} here)"


def _short(digests: list[str] | None) -> str:
    return "+".join(digest[:8] for digest in digests or ()) or "none"


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
