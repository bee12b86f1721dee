"""What differs between two versions of a program; pure.

It reads what was recorded of them, which another producer may have spelled its own way: what has not the
form that this one gives is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any, Final

from dspy_ledger.api.matching import Effort, matcher
from dspy_ledger.identity import canonical_json
from dspy_ledger.registry_format import sound_interface
from dspy_ledger.versions import compare_interfaces

__all__ = ["differences", "line_differences"]

_FACTS: Final = (
    *("name", "description", "tags", "kind", "parent_id", "parent_version", "optimizer", "class_name"),
    *("module_path", "code_hash", "dspy_version"),
)
_TOLD_APART: Final = frozenset({"path", "instructions", "fields", "config", "demos"})

Json = dict[str, Any]


def differences(before: Json, after: Json, *, effort: Effort | None = None) -> Json:
    """What changes from one version to another of the same program.

    Args:
        before: a version's row, its JSON decoded, with ``state``: the body of its registration.
        after: the same of the other version.
        effort: what comparing their texts may take; where it does not suffice, lines are told as replaced.

    Returns:
        ``verdict``: what the version rule makes of the change, ``none`` when the content is the same.
        ``interface``: what its callers notice, and how far that reaches; null where one is not known.
        ``predictors``: those of both, by path, with what differs in each. Where a state is missing they are
        those of the signatures, and what only states tell is null, as ``modules`` are.
        ``source_code``: its lines. ``facts``: what else was recorded of the two.
    """
    effort = effort or Effort()
    forms = old, new = _form(before["state"]), _form(after["state"])
    whole = old is not None and new is not None
    if old is None or new is None:
        old, new = _form_of_signature(before), _form_of_signature(after)
    return {
        "program_id": before["id"],
        "from": _side(before, forms[0]),
        "to": _side(after, forms[1]),
        "verdict": _verdict(before, after),
        "interface": _interface(before, after),
        "predictors": [
            _predictor(path, mine, other, effort, whole=whole)
            for path, mine, other in _pairs(_keyed(old, "parameters"), _keyed(new, "parameters"))
        ],
        "modules": _changes(_keyed(old, "modules"), _keyed(new, "modules")) if whole else None,
        "source_code": line_differences(before["source_code"], after["source_code"], effort),
        "facts": _changes({name: before[name] for name in _FACTS}, {name: after[name] for name in _FACTS}),
    }


def line_differences(before: str | None, after: str | None, effort: Effort | None = None) -> Json | None:
    """Two texts as one list of lines; null when neither is there.

    Returns:
        {changed, lines}: each line {tag, text}, with the tag ``equal``, ``removed`` or ``added``.
    """
    if before is None and after is None:
        return None
    old, new = (before or "").splitlines(), (after or "").splitlines()
    head = sum(1 for _ in takewhile(_same, zip(old, new, strict=False)))
    rest = min(len(old), len(new)) - head
    tail = sum(1 for _ in takewhile(_same, zip(old[::-1][:rest], new[::-1][:rest], strict=False)))
    middle = old[head : len(old) - tail], new[head : len(new) - tail]
    lines = (
        _lines("equal", old[:head])
        + _compared(*middle, effort or Effort())
        + _lines("equal", old[len(old) - tail :])
    )
    return {"changed": before != after, "lines": lines}


def _compared(old: list[str], new: list[str], effort: Effort) -> list[Json]:
    lines = []
    for tag, start, end, other_start, other_end in matcher(old, new, effort).get_opcodes():
        if tag == "equal":
            lines += _lines("equal", old[start:end])
        else:
            lines += _lines("removed", old[start:end]) + _lines("added", new[other_start:other_end])
    return lines


def _lines(tag: str, texts: Iterable[str]) -> list[Json]:
    return [{"tag": tag, "text": text} for text in texts]


def _same(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def _verdict(before: Json, after: Json) -> str:
    if before["content_hash"] == after["content_hash"]:
        return "none"
    if (after["parent_id"], after["parent_version"]) == (before["id"], before["version"]):
        return "minor"  # an optimized variant
    return compare_interfaces(sound_interface(before["interface"]), sound_interface(after["interface"]))


def _interface(before: Json, after: Json) -> Json | None:
    old, new = sound_interface(before["interface"]), sound_interface(after["interface"])
    if old is None or new is None:
        return None
    return {
        "change": "none" if old == new else compare_interfaces(old, new),
        "inputs": _changes(_by_name(old["inputs"]), _by_name(new["inputs"])),
        "outputs": _changes(_by_name(old["outputs"]), _by_name(new["outputs"])),
    }


def _predictor(path: str, old: Json | None, new: Json | None, effort: Effort, *, whole: bool) -> Json:
    mine, other = old or {}, new or {}
    told: Json = {
        "path": path,
        "change": "added"
        if old is None
        else "removed"
        if new is None
        else "none"
        if _equal(old, new)
        else "changed",
        "instructions": line_differences(_text(mine), _text(other), effort),
    }
    for role in ("input", "output"):
        told[f"{role}s"] = _changes(_fields(mine, role), _fields(other, role))
    told["config"] = _changes(_object(mine.get("config")), _object(other.get("config"))) if whole else None
    told["demos"] = _demos(_list(mine.get("demos")), _list(other.get("demos"))) if whole else None
    told["settings"] = (
        _changes(
            *(
                {name: value for name, value in side.items() if name not in _TOLD_APART}
                for side in (mine, other)
            )
        )
        if whole
        else None
    )
    return told


def _demos(old: list[Any], new: list[Any]) -> Json:
    """Demos by their content: a changed one is one removed and one added."""
    before, after = [canonical_json(demo) for demo in old], [canonical_json(demo) for demo in new]
    kept = Counter(before) & Counter(after)
    return {
        "from": len(old),
        "to": len(new),
        "kept": kept.total(),
        "reordered": _only(before, kept) != _only(after, kept),
        "removed": _without(old, before, kept),
        "added": _without(new, after, kept),
    }


def _only(digests: list[bytes], kept: Counter[bytes]) -> list[bytes]:
    left = Counter(kept)
    return [digest for digest in digests if _take(left, digest)]


def _without(demos: list[Any], digests: list[bytes], kept: Counter[bytes]) -> list[Any]:
    left = Counter(kept)
    return [demo for demo, digest in zip(demos, digests, strict=True) if not _take(left, digest)]


def _take(left: Counter[bytes], digest: bytes) -> bool:
    left[digest] -= 1
    return left[digest] >= 0


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Json]:
    """What differs between two objects, member by member: {name, change, from, to}."""
    return [
        {
            "name": name,
            "change": "added" if name not in old else "removed" if name not in new else "changed",
            "from": old.get(name),
            "to": new.get(name),
        }
        for name, mine, other in _pairs(old, new)
        if not _equal(mine, other) or (name in old) != (name in new)
    ]


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; to Python, ``True`` is also 1."""
    match one, other:
        case (bool(), _) | (_, bool()):
            return one is other
        case dict(), dict():
            return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
        case list(), list():
            return len(one) == len(other) and all(map(_equal, one, other))
        case _:
            return bool(one == other)


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Each name of the two with its value in either, null where it has none; in the new one's order first."""
    return [(name, old.get(name), new.get(name)) for name in dict.fromkeys([*new, *old])]


def _side(version: Json, form: Json | None) -> Json:
    names = ("version", "content_hash", "position", "created_at")
    return {**{name: version[name] for name in names}, "has_state": form is not None}


def _form(state: Any) -> Json | None:
    form = state.get("form") if isinstance(state, dict) else None
    return form if isinstance(form, dict) else None


def _form_of_signature(version: Json) -> Json:
    """What a signature alone tells of a program that is one; types are the text that stood in the code."""
    signature = _object(version["signature"])
    return {"parameters": [{"path": "self", **signature}] if signature else []}


def _keyed(form: Json, name: str) -> dict[str, Json]:
    return {part["path"]: part for part in _objects(form.get(name)) if isinstance(part.get("path"), str)}


def _fields(predictor: Json, role: str) -> dict[str, Json]:
    return _by_name(field for field in _objects(predictor.get("fields")) if field.get("role") == role)


def _by_name(fields: Iterable[Mapping[str, Any]]) -> dict[str, Json]:
    return {
        field["name"]: {key: value for key, value in field.items() if key not in {"name", "role"}}
        for field in fields
        if isinstance(field.get("name"), str)
    }


def _text(predictor: Json) -> str | None:
    text = predictor.get("instructions")
    return text if isinstance(text, str) else None


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> list[Json]:
    return [item for item in _list(value) if isinstance(item, dict)]
