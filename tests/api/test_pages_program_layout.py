"""The picture of a program's versions, and the front of its best: both pure."""

from __future__ import annotations

from time import thread_time

from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.api.pages.pareto import pareto_front
from dspy_ledger.api.pages.tree_layout import lay_out
from dspy_ledger.lineage import program_tree


def laid_out(parents):
    """The layout of versions v0, v1 …; ``parents`` says what each came from (None: nothing)."""
    versions = [
        {
            "program_id": "p",
            "version": f"v{row}",
            "content_hash": f"c1:{row}",
            "parent_id": None if parent is None else "p",
            "parent_version": None if parent is None else f"v{parent}",
            "kind": "signature",
            "optimizer": None,
            "created_at": "2026-11-22T12:00:00.000000Z",
            "position": row,
        }
        for row, parent in enumerate(parents)
    ]
    program = {"program_id": "p", "name": "P", "parent_id": None, "parent_version": None, "position": 0}
    tree = program_tree("p", [program], versions)
    return lay_out(tree["versions"], [version["version"] for version in versions])


def places(layout):
    return [(node.version, node.lane) for node in layout.nodes]


def test_successors_stand_in_one_lane_and_variants_beside_it():
    layout = laid_out([None, 0, None])
    assert places(layout) == [("v0", 0), ("v1", 1), ("v2", 0)]
    lines = {(edge.source.version, edge.target.version, edge.bus, edge.variant) for edge in layout.edges}
    assert lines == {("v0", "v2", 0, False), ("v0", "v1", 1, True)}
    assert layout.lanes == 2


def test_a_chain_of_single_variants_goes_straight_up():
    layout = laid_out([None, *range(179)])
    assert places(layout)[1:] == [(f"v{row}", 1) for row in range(1, 180)]
    assert layout.lanes == 2


def test_two_hundred_variants_of_one_version_share_a_line():
    layout = laid_out([None, *([0] * 200)])
    assert {edge.bus for edge in layout.edges} == {1}
    assert layout.lanes == 3


def test_a_variant_registered_before_its_parent_is_drawn_downwards():
    layout = laid_out([1, None])
    assert places(layout) == [("v0", 1), ("v1", 0)]


def test_a_thousand_releases_and_a_variant_of_each_are_laid_out_in_a_moment():
    """Each row of each lane was looked up by itself: eight times as long for twice as many."""
    began = thread_time()
    layout = laid_out([None] * 1000 + list(range(1000)))
    assert thread_time() - began < 5
    assert layout.lanes == 1001


def test_a_program_without_versions_is_an_empty_picture():
    assert lay_out([], []).lanes == 0


parent_lists = st.lists(st.none() | st.integers(0, 30), max_size=31).map(
    lambda parents: [None if p is None or p >= len(parents) else p for p in parents]
)


@given(parent_lists)
def test_every_version_has_a_place_of_its_own_and_no_line_runs_through_a_stranger(parents):
    layout = laid_out(parents)
    assert [node.version for node in layout.nodes] == [f"v{row}" for row in range(len(parents))]
    assert all(0 <= node.lane < layout.lanes for node in layout.nodes)
    lines: dict[tuple[int, int], str] = {}
    for edge in layout.edges:
        assert 0 <= edge.bus < layout.lanes
        low, high = sorted((edge.source.row, edge.target.row))
        for node in layout.nodes[low + 1 : high]:
            on_it = node.lane == edge.bus
            stem = not edge.variant and node.lane == 0
            assert not on_it or stem or node in (edge.source, edge.target)
        if edge.variant:
            for row in range(low + 1, high):
                owner = lines.setdefault((edge.bus, row), edge.source.version)
                assert owner == edge.source.version, "two families share a line"


points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30)


def beats(one, other, sign):
    at_least = sign * one[0] >= sign * other[0] and one[1] <= other[1]
    return at_least and one != other


@given(points, st.sampled_from(["higher", "lower"]))
def test_the_front_is_exactly_what_no_other_beats(choices, better):
    sign = 1 if better == "higher" else -1
    front = pareto_front(choices, better=better)
    unbeaten = {
        at for at, choice in enumerate(choices) if not any(beats(other, choice, sign) for other in choices)
    }
    assert set(front) == unbeaten
    assert len(front) == len(unbeaten)
    prices = [choices[at][1] for at in front]
    assert prices == sorted(prices)
