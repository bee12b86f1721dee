"""A program's versions as a picture: which row and lane each stands in, and the lines between them.

Pure. A row is one version, in order of registration; lane 0 holds what was registered on its own, one
after the other, and optimized variants stand to the right of what they came from. Variants of one version
share one line (a version may have hundreds), a chain of single variants goes straight up in its lane.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["Edge", "Node", "TreeLayout", "lay_out"]


@dataclass(frozen=True, slots=True)
class Node:
    """One version's place; ``row`` 0 is the first that was registered."""

    version: str
    row: int
    lane: int


@dataclass(frozen=True, slots=True)
class Edge:
    """A line from a version to what came of it.

    ``bus`` is the lane in which it climbs; it leaves ``source`` sideways and reaches ``target`` sideways
    where theirs is another. ``variant`` tells an optimized variant's from the line of successors.
    """

    source: Node
    target: Node
    bus: int
    variant: bool


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """Every version once, by row, and the lines; ``lanes`` is how many there are, 0 without versions."""

    nodes: list[Node]
    edges: list[Edge]
    lanes: int


def lay_out(roots: Iterable[dict[str, Any]], order: Iterable[str]) -> TreeLayout:
    """Places for all versions.

    Args:
        roots: the versions of a :func:`dspy_ledger.lineage.program_tree`, with their ``children``.
        order: the labels of all of them, in order of registration.
    """
    rows = {version: row for row, version in enumerate(order)}
    taken: defaultdict[int, int] = defaultdict(int)  # of each lane, a bit for each of its rows

    def free(lane: int, rows: int) -> bool:
        return lane > 0 and not taken[lane] & rows

    def first_free(lane: int, rows: int) -> int:
        while not free(lane, rows):
            lane += 1
        return lane

    families = sorted(roots, key=lambda version: rows[version["version"]])
    nodes = {root["version"]: Node(root["version"], rows[root["version"]], 0) for root in families}
    stem = list(nodes.values())
    edges = [Edge(older, newer, 0, False) for older, newer in pairwise(stem)]
    for parent in families:  # grows while it is walked: parents stand before their children
        children = sorted(parent["children"], key=lambda version: rows[version["version"]])
        if not children:
            continue
        families.extend(children)
        source = nodes[parent["version"]]
        ends = [rows[child["version"]] for child in children]
        # A parent may have been registered after its children.
        span = _bits(min(source.row + 1, *ends), max(source.row - 1, *ends))
        climb = span & ~_bits(source.row, source.row)
        bus = source.lane if free(source.lane, climb) else first_free(source.lane + 1, span)
        taken[bus] |= span
        for child, row in zip(children, ends, strict=True):
            lane = bus if len(children) == 1 else first_free(bus + 1, _bits(row, row))
            taken[lane] |= _bits(row, row)
            nodes[child["version"]] = target = Node(child["version"], row, lane)
            edges.append(Edge(source, target, bus, True))
    lanes = max((max(edge.bus, edge.target.lane) for edge in edges), default=0) + 1
    return TreeLayout(sorted(nodes.values(), key=lambda node: node.row), edges, lanes if nodes else 0)


def _bits(first: int, last: int) -> int:
    """A bit for each row from the first to the last."""
    return (1 << (last + 1)) - (1 << first)
