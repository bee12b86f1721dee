"""The lines and dots of a version tree as SVG attributes, newest on top; the words beside it are HTML.

Pure. Everything is measured in px at a root font of 16 px; the page scales it in rem, so that rows stay
beside their words whatever font size a reader has.
"""

from __future__ import annotations

from dataclasses import dataclass

from dspy_ledger.api.pages.tree_layout import Edge, Node, TreeLayout

__all__ = ["ROW", "Dot", "Line", "TreePicture", "draw"]

ROW = 44
"""Height of a row in px; the style sheet's ``.tree-rows li`` has the same in rem."""
_PITCH = 20  # px between two lanes while they are few
_WIDEST = 120  # px that all lanes take at most
_EDGE = 12  # px beside the outer lanes


@dataclass(frozen=True, slots=True)
class Line:
    """One path; ``variant`` tells an optimized variant's from the line of successors."""

    d: str
    variant: bool


@dataclass(frozen=True, slots=True)
class Dot:
    """Where a version stands."""

    version: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class TreePicture:
    """What an ``<svg>`` of this size in px holds; lines first, dots on top."""

    width: int
    height: int
    lines: list[Line]
    dots: list[Dot]


def draw(layout: TreeLayout, rows: int) -> TreePicture:
    """The newest ``rows`` rows of a layout; lines that go on below run out at the lower edge."""
    shown = min(rows, len(layout.nodes))
    newest = len(layout.nodes) - 1
    pitch = min(_PITCH, _WIDEST / max(layout.lanes, 1))

    def x(lane: int) -> float:
        return _EDGE + lane * pitch

    def y(row: int) -> float:
        return (newest - row) * ROW + ROW / 2

    def line(edge: Edge) -> Line:
        start, end = edge.source, edge.target
        up = 1 if end.row > start.row else -1
        d = f"M{x(start.lane):g} {y(start.row):g}"
        if edge.bus != start.lane:  # an S into the lane in which it climbs
            d += _curve(x(start.lane), y(start.row), x(edge.bus), y(start.row + up))
        if edge.bus == end.lane:
            d += f"V{y(end.row):g}"
        else:
            corner = y(end.row) + up * pitch / 2  # just short of the target's row
            d += f"V{corner:g}Q{x(edge.bus):g} {y(end.row):g} {x(edge.bus) + pitch / 2:g} {y(end.row):g}"
            d += f"H{x(end.lane):g}"
        return Line(d, edge.variant)

    def seen(node: Node) -> bool:
        return node.row > newest - shown

    return TreePicture(
        width=round(2 * _EDGE + max(layout.lanes - 1, 0) * pitch),
        height=shown * ROW,
        lines=[line(edge) for edge in layout.edges if seen(edge.source) or seen(edge.target)],
        dots=[Dot(node.version, x(node.lane), y(node.row)) for node in layout.nodes if seen(node)],
    )


def _curve(x1: float, y1: float, x2: float, y2: float) -> str:
    middle = (y1 + y2) / 2
    return f"C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}"
