"""Differences as a page shows them: lines with marks within, what nobody changed folded, a verdict in words.

Pure. The differences are those of :func:`dspy_ledger.api.differences.differences`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any, Final, NamedTuple

from dspy_ledger.api.matching import Effort, matcher
from dspy_ledger.type_text import type_text

__all__ = ["Block", "Line", "blocks", "field_changes", "reasons", "told_metrics"]

_CONTEXT: Final = 3
"""Unchanged lines that are shown beside a change."""
_LONGEST: Final = 1000
"""Characters of a line that are compared word by word; longer ones are marked as a whole."""
_ALIKE: Final = 0.4
"""How much of two lines must be the same for one to count as the other, changed."""
_WORDS: Final = re.compile(r"\w+|\s+|[^\w\s]")

Row = dict[str, Any]


class Line(NamedTuple):
    """A line of either text or both; ``parts`` are its pieces, and whether each differs from its counterpart.

    ``old`` and ``new`` are its numbers in the two texts, None where it is not there.
    """

    tag: str
    old: int | None
    new: int | None
    parts: list[tuple[str, bool]]


class Block(NamedTuple):
    """Lines that stand together; ``is_folded`` when they are unchanged and far from any change."""

    is_folded: bool
    lines: list[Line]


def blocks(lines: list[Row], effort: Effort) -> list[Block]:
    """A text's differences, its unchanged stretches folded but for the lines beside a change.

    Args:
        lines: those of :func:`dspy_ledger.api.differences.line_differences`.
        effort: what marking words may take; where it does not suffice, lines are marked as a whole.
    """
    told = _numbered(_marked(lines, effort))
    changed = [at for at, line in enumerate(told) if line.tag != "equal"]
    near = {at + by for at in changed for by in range(-_CONTEXT, _CONTEXT + 1)}
    return [
        Block(is_folded, [told[at] for at in ats])
        for is_folded, ats in groupby(range(len(told)), key=lambda at: at not in near)
    ]


def _marked(lines: list[Row], effort: Effort) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Each line's tag and parts: a removed one is marked against the added one that took its place."""
    told: list[tuple[str, list[tuple[str, bool]]]] = []
    for is_equal, run in groupby(lines, key=lambda line: line["tag"] == "equal"):
        stretch = list(run)
        if is_equal:
            told += [("equal", [(line["text"], False)]) for line in stretch]
            continue
        removed = [line["text"] for line in stretch if line["tag"] == "removed"]
        added = [line["text"] for line in stretch if line["tag"] == "added"]
        pairs = [_words(*pair, effort) for pair in zip(removed, added, strict=False)]
        told += [("removed", old) for old, _ in pairs] + _whole("removed", removed[len(pairs) :])
        told += [("added", new) for _, new in pairs] + _whole("added", added[len(pairs) :])
    return told


def _whole(tag: str, texts: Iterable[str]) -> list[tuple[str, list[tuple[str, bool]]]]:
    return [(tag, [(text, False)]) for text in texts]


def _words(old: str, new: str, effort: Effort) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Two lines in pieces, those that differ marked; unmarked when they have little in common."""
    if max(len(old), len(new)) > _LONGEST:
        return [(old, False)], [(new, False)]
    before, after = _WORDS.findall(old), _WORDS.findall(new)
    words = matcher(before, after, effort, autojunk=False)
    # The first two are quick, and never less than the third.
    if any(ratio() < _ALIKE for ratio in (words.real_quick_ratio, words.quick_ratio, words.ratio)):
        return [(old, False)], [(new, False)]
    mine, others = [], []
    for tag, start, end, other_start, other_end in words.get_opcodes():
        mine.append(("".join(before[start:end]), tag != "equal"))
        others.append(("".join(after[other_start:other_end]), tag != "equal"))
    return [part for part in mine if part[0]], [part for part in others if part[0]]


def _numbered(lines: list[tuple[str, list[tuple[str, bool]]]]) -> list[Line]:
    old = new = 0
    told = []
    for tag, parts in lines:
        old, new = old + (tag != "added"), new + (tag != "removed")
        told.append(Line(tag, None if tag == "added" else old, None if tag == "removed" else new, parts))
    return told


def field_changes(changes: list[Row]) -> list[Row]:
    """Changed fields: {name, change, parts}, each part {name, from, to} as text, only those that differ."""
    return [
        {
            "name": each["name"],
            "change": each["change"],
            "parts": _parts(each["from"] or {}, each["to"] or {}),
        }
        for each in changes
    ]


def _parts(old: Row, new: Row) -> list[Row]:
    return [
        {"name": name, "from": _told(name, old), "to": _told(name, new)}
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _told(name: str, side: Row) -> Any:
    if name not in side:
        return None
    if name == "type":
        return type_text(side[name])
    return ("yes" if side[name] else "no") if name == "required" else side[name]


def reasons(differences: Row, optimizer: str | None) -> list[str]:
    """Why the verdict is what it is, in sentences; ``optimizer`` made the second version from the first."""
    verdict, interface = differences["verdict"], differences["interface"]
    if verdict == "none":
        return ["The two have the same content."]
    if interface is None:
        return ["What callers pass and get is not known of both, so nothing is said of it."]
    told = []
    if verdict == "minor" and interface["change"] == "none":
        told.append(f"The second was optimized from the first{f' by {optimizer}' if optimizer else ''}.")
    told += [_reason("input", each) for each in interface["inputs"]]
    told += [_reason("output", each) for each in interface["outputs"]]
    told = [reason for reason in told if reason]
    if interface["change"] in {"none", "patch"}:
        told.append("Callers pass and get the same fields as before.")
    return told


def _reason(role: str, change: Row) -> str:
    name, old, new = change["name"], change["from"] or {}, change["to"] or {}
    match change["change"], role:
        case "removed", "input":
            return f"The input {name} is gone: who passes it must stop."
        case "removed", _:
            return f"The output {name} is gone: who reads it breaks."
        case "added", "input" if new.get("required", True):
            return f"The input {name} is new and required: every caller must pass it."
        case "added", "input":
            return f"The input {name} is new and may be left out."
        case "added", _:
            return f"The output {name} is new."
    if type_text(old.get("type")) != type_text(new.get("type")):
        return f"The {role} {name} was {type_text(old.get('type'))} and is {type_text(new.get('type'))}."
    if old.get("required") != new.get("required"):
        return f"The {role} {name} is {'required now' if new.get('required') else 'no longer required'}."
    return f"The {role} {name} is described in other words."


def told_metrics(old: list[Row], new: list[Row]) -> list[Row]:
    """What evaluations found for both versions: {model_id, metric, from, to, difference}.

    Models are in order of their ids, and metrics in that of the newest results.

    Args:
        old: the first version's evaluations without feedback, newest first, each with its ``metrics``.
        new: those of the other version.
    """
    before, after = _latest(old), _latest(new)
    place = {metric: at for at, metric in enumerate(dict.fromkeys(metric for _, metric in (*after, *before)))}
    rows = []
    for model_id, metric in sorted(
        {*before, *after}, key=lambda at: (at[0] is None, at[0] or "", place[at[1]])
    ):
        mine, other = before.get((model_id, metric)), after.get((model_id, metric))
        difference = None if mine is None or other is None else other - mine
        rows.append(
            {"model_id": model_id, "metric": metric, "from": mine, "to": other, "difference": difference}
        )
    return rows


def _latest(evaluations: list[Row]) -> dict[tuple[str | None, str], float]:
    found: dict[tuple[str | None, str], float] = {}
    for evaluation in evaluations:
        for metric, value in evaluation["metrics"].items():
            found.setdefault((evaluation["model_id"], metric), value)
    return found
