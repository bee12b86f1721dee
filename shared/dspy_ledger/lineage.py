"""A program's tree: its versions under the versions they came from, derived programs under theirs.

Pure and without recursion: a chain of optimized variants may be longer than Python's stack, and what was
recorded may name parents that are not known, or one another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["program_tree", "programs_below"]

Row = dict[str, Any]


def programs_below(program_id: str, programs: Iterable[Row]) -> list[str]:
    """A program and all that derive from it, directly or not, parents first."""
    children: dict[str, list[str]] = {}
    for program in sorted(programs, key=_position):
        children.setdefault(program["parent_id"], []).append(program["program_id"])
    found = {program_id: None}  # a dict keeps the order
    for known in (below := [program_id]):
        for child in children.get(known, ()):
            if child not in found:
                found[child] = None
                below.append(child)
    return below


def program_tree(program_id: str, programs: Iterable[Row], versions: Iterable[Row]) -> Row:
    """The tree that starts at a program.

    Args:
        program_id: the root; it stands in ``programs``.
        programs: rows {program_id, name, parent_id, parent_version, position}, at least the program
            and those below it.
        versions: rows {program_id, version, content_hash, parent_id, parent_version, kind, optimizer,
            created_at, position}.

    Returns:
        {id, name, parent, versions, derived}: each version has ``children`` (versions of the same
        program) and ``derived`` (trees of programs that came from it); the program's own ``derived``
        has those that name no version known of it.
    """
    known = {program["program_id"]: program for program in programs}
    below = programs_below(program_id, known.values())
    trees = {
        each: {
            "id": each,
            "name": known[each]["name"],
            "parent": _parent(known[each]),
            "versions": [],
            "derived": [],
        }
        for each in below
    }
    nodes: dict[tuple[str, str], Row] = {}
    ordered = sorted((row for row in versions if row["program_id"] in trees), key=_position)
    for row in ordered:
        shown = {name: value for name, value in row.items() if name not in {"program_id", "position"}}
        nodes[row["program_id"], row["version"]] = {**shown, "children": [], "derived": []}
    parents = _parents_without_cycles(ordered)
    for row in ordered:
        key = (row["program_id"], row["version"])
        parent = parents.get(key)
        siblings = nodes[parent]["children"] if parent else trees[row["program_id"]]["versions"]
        siblings.append(nodes[key])
    for each in below[1:]:
        parent_id = known[each]["parent_id"]
        place = nodes.get((parent_id, known[each]["parent_version"]), trees[parent_id])
        place["derived"].append(trees[each])
    return trees[program_id]


def _parents_without_cycles(versions: list[Row]) -> dict[tuple[str, str], tuple[str, str]]:
    """Version → the version of the same program it came from; the earliest of a cycle has none."""
    ages = {(row["program_id"], row["version"]): age for age, row in enumerate(versions)}
    parents = {
        (row["program_id"], row["version"]): (row["program_id"], row["parent_version"])
        for row in versions
        if row["parent_id"] == row["program_id"] and (row["program_id"], row["parent_version"]) in ages
    }
    settled: set[tuple[str, str]] = set()
    for start in ages:
        path: list[tuple[str, str]] = []
        here: tuple[str, str] | None = start
        while here is not None and here not in settled:
            settled.add(here)
            path.append(here)
            here = parents.get(here)
        if here in path:  # the walk came back to itself: from there on it is a cycle
            del parents[min(path[path.index(here) :], key=ages.__getitem__)]
    return parents


def _parent(program: Row) -> Row | None:
    if program["parent_id"] is None:
        return None
    return {"id": program["parent_id"], "version": program["parent_version"]}


def _position(row: Row) -> int:
    return row["position"]  # type: ignore[no-any-return]
