"""The tree of a program as a pure function: whatever the rows name, nothing is lost and nothing is twice."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.lineage import program_tree, programs_below


def rows(*given):
    """Rows with positions in the order they are given in."""
    return [{**row, "position": position} for position, row in enumerate(given, start=1)]


def program(program_id, parent_id=None, parent_version=None):
    return {
        "program_id": program_id,
        "name": program_id.upper(),
        "parent_id": parent_id,
        "parent_version": parent_version,
    }


def version(program_id, label, parent_version=None, *, parent_id=None):
    """A version; its parent is of the same program unless ``parent_id`` says another."""
    return {
        "program_id": program_id,
        "version": label,
        "content_hash": f"c1:{label}",
        "parent_id": parent_id or (program_id if parent_version else None),
        "parent_version": parent_version,
        "kind": "signature",
        "optimizer": "LabeledFewShot" if parent_version else None,
        "created_at": "2026-11-22T12:00:00.000000Z",
    }


def places(tree):
    """Each program ``(id, None)`` and version ``(id, label)`` of a tree with the one that it hangs on."""
    found = []
    waiting = deque([((tree["id"], None), None, tree)])
    while waiting:
        name, above, node = waiting.popleft()
        found.append((name, above))
        versions = node["versions"] if name[1] is None else node["children"]
        waiting += [((name[0], each["version"]), name, each) for each in versions]
        waiting += [((each["id"], None), name, each) for each in node["derived"]]
    return found


def hung(programs, versions, root="p"):
    found = places(program_tree(root, rows(*programs), rows(*versions)))
    assert len(found) == len(dict(found))
    return dict(found)


# versions


def test_a_version_hangs_on_the_one_it_came_from_and_a_successor_on_its_program():
    versions = [version("p", "1.0.0"), version("p", "1.1.0", "1.0.0"), version("p", "2.0.0")]
    assert hung([program("p")], versions) == {
        ("p", None): None,
        ("p", "1.0.0"): ("p", None),
        ("p", "1.1.0"): ("p", "1.0.0"),
        ("p", "2.0.0"): ("p", None),
    }


def test_a_program_says_its_name_and_parent_and_a_version_all_but_its_program_and_position():
    derived = program_tree("d", rows(program("d", "p", "1.0.0")), rows(version("d", "1.0.0")))
    assert (derived["id"], derived["name"], derived["parent"]) == ("d", "D", {"id": "p", "version": "1.0.0"})
    assert derived["versions"] == [
        {
            "version": "1.0.0",
            "content_hash": "c1:1.0.0",
            "parent_id": None,
            "parent_version": None,
            "kind": "signature",
            "optimizer": None,
            "created_at": "2026-11-22T12:00:00.000000Z",
            "children": [],
            "derived": [],
        }
    ]
    assert program_tree("p", rows(program("p")), [])["parent"] is None


def test_a_version_whose_parent_is_not_known_hangs_on_its_program_and_still_names_it():
    (node,) = program_tree("p", rows(program("p")), rows(version("p", "1.1.0", "1.0.0")))["versions"]
    assert (node["version"], node["parent_id"], node["parent_version"]) == ("1.1.0", "p", "1.0.0")


def test_a_version_that_came_from_another_program_hangs_on_its_own():
    versions = [version("p", "1.0.0"), version("d", "1.0.0"), version("d", "1.1.0", "1.0.0", parent_id="p")]
    found = hung([program("p"), program("d", "p", "1.0.0")], versions)
    assert found["d", "1.1.0"] == ("d", None)


@pytest.mark.parametrize(
    ("parents", "opened"),
    [
        ({"a": "a"}, "a"),
        ({"a": "b", "b": "a"}, "a"),
        ({"b": "a", "a": "b"}, "b"),
        ({"c": "a", "b": "c", "a": "b"}, "c"),
        ({"tail": "a", "a": "b", "b": "a"}, "a"),
        ({"tail": "b", "tip": "tail", "a": "b", "b": "a"}, "a"),
        ({"b": "a", "a": "b", "tail": "a"}, "b"),
    ],
)
def test_a_cycle_is_opened_at_its_earliest_version_and_only_there(parents, opened):
    found = hung([program("p")], [version("p", label, parent) for label, parent in parents.items()])
    wanted = {("p", label): ("p", parent) for label, parent in parents.items()}
    assert found == {("p", None): None, **wanted, ("p", opened): ("p", None)}


def test_two_cycles_of_one_program_are_opened_each():
    parents = {"a": "b", "x": "y", "b": "a", "y": "x"}
    found = hung([program("p")], [version("p", label, parent) for label, parent in parents.items()])
    assert [name for name, above in found.items() if above == ("p", None)] == [("p", "a"), ("p", "x")]


def test_a_long_chain_that_ends_in_a_cycle_is_told_at_once():
    """Each version walked up to the cycle anew and looked back at each step: 5,000 took minutes."""
    chain = [version("p", f"{number}", f"{number - 1}") for number in range(5000, 0, -1)]
    found = hung([program("p")], [*chain, version("p", "0", "1")])
    assert [name for name, above in found.items() if above == ("p", None)] == [("p", "1")]


@pytest.mark.parametrize("parents_first", [True, False])
def test_a_chain_longer_than_pythons_stack_is_one_branch(parents_first):
    chain = [version("p", f"{number}", f"{number - 1}") for number in range(20_000)]
    found = hung([program("p")], chain if parents_first else chain[::-1])
    assert found["p", "0"] == ("p", None)
    assert all(found["p", f"{number}"] == ("p", f"{number - 1}") for number in range(1, 20_000))


# programs


def test_a_derived_program_hangs_on_the_version_that_it_names():
    programs = [program("p"), program("d", "p", "1.0.1"), program("dd", "d", "1.0.0")]
    versions = [version("p", "1.0.0"), version("p", "1.0.1"), version("d", "1.0.0"), version("dd", "1.0.0")]
    found = hung(programs, versions)
    assert (found["d", None], found["dd", None]) == (("p", "1.0.1"), ("d", "1.0.0"))
    assert set(hung(programs, versions, root="d")) == {
        ("d", None), ("d", "1.0.0"), ("dd", None), ("dd", "1.0.0"),
    }  # fmt: skip


@pytest.mark.parametrize("named", [None, "8.8.8"])
def test_a_derived_program_that_names_no_known_version_hangs_on_the_program(named):
    found = hung([program("p"), program("d", "p", named)], [version("p", "1.0.0")])
    assert found["d", None] == ("p", None)


def test_a_program_whose_parent_is_not_known_is_a_root_that_still_names_it():
    tree = program_tree("d", rows(program("d", "gone", "3.0.0")), [])
    assert tree["parent"] == {"id": "gone", "version": "3.0.0"}


def test_programs_that_derive_from_one_another_are_a_tree_from_whichever_one_asks():
    programs = [program("p", "d", "1.0.0"), program("d", "p", "1.0.0"), program("own", "own", "1.0.0")]
    assert hung(programs, []) == {("p", None): None, ("d", None): ("p", None)}
    assert hung(programs, [], root="d") == {("d", None): None, ("p", None): ("d", None)}
    assert hung(programs, [], root="own") == {("own", None): None}


def test_programs_below_are_told_with_parents_first_and_siblings_in_order_of_position():
    programs = rows(program("c", "b"), program("z", "a"), program("b", "a"), program("a"), program("other"))
    assert programs_below("a", programs) == ["a", "z", "b", "c"]
    assert programs_below("nowhere", programs) == ["nowhere"]


def test_programs_five_thousand_deep_are_one_branch():
    programs = [program(f"{number}", f"{number - 1}") for number in range(5000)]
    assert len(hung(programs, [], root="0")) == 5000


# whatever was recorded

names = st.sampled_from("abcd")
labels = st.sampled_from(["1", "2", "3", "4"])


@st.composite
def recorded(draw):
    """Programs and versions that name anybody as their parents, in any order; the first is the root."""
    parents = st.tuples(st.none() | names, st.none() | labels)
    programs = draw(st.dictionaries(names, parents, min_size=1))
    versions = draw(st.dictionaries(st.tuples(st.sampled_from(list(programs)), labels), parents, max_size=12))
    return (
        rows(*(program(each, *parent) for each, parent in programs.items())),
        rows(
            *(
                {**version(*each), "parent_id": parent_id, "parent_version": parent_version}
                for each, (parent_id, parent_version) in versions.items()
            )
        ),
    )


@given(recorded())
def test_each_version_and_each_program_below_stands_in_the_tree_once(given_rows):
    programs, versions = given_rows
    root = programs[0]["program_id"]
    below = programs_below(root, programs)
    found = [name for name, _ in places(program_tree(root, programs, versions))]
    wanted = [(row["program_id"], row["version"]) for row in versions if row["program_id"] in below]
    assert sorted(found, key=repr) == sorted([*((each, None) for each in below), *wanted], key=repr)


@given(recorded())
def test_everything_hangs_on_what_it_names_if_that_is_known_and_no_cycle_is_left(given_rows):
    programs, versions = given_rows
    root = programs[0]["program_id"]
    found = dict(places(program_tree(root, programs, versions)))
    ages = {(row["program_id"], row["version"]): row["position"] for row in versions}
    parents = {
        (row["program_id"], row["version"]): (row["parent_id"], row["parent_version"]) for row in versions
    }

    def cycle(name):
        """The versions that lead from one back to itself; none when it is in no cycle."""
        passed, here = [name], parents[name]
        while here in parents and here[0] == name[0] and here not in passed:
            passed.append(here)
            here = parents[here]
        return passed if here == name else []

    for row in programs:
        name = (row["program_id"], None)
        if name in found and row["program_id"] != root:
            above = (row["parent_id"], row["parent_version"])
            assert found[name] == (above if above in ages else (row["parent_id"], None))
    for name in ages:
        if name in found:
            around = cycle(name)
            opened = bool(around) and min(around, key=ages.get) == name
            stays = parents[name] in ages and parents[name][0] == name[0] and not opened
            assert found[name] == (parents[name] if stays else (name[0], None))


@given(recorded(), st.randoms(use_true_random=False))
def test_siblings_are_in_order_of_position_in_whatever_order_the_rows_came(given_rows, chance):
    programs, versions = given_rows
    root = programs[0]["program_id"]
    tree = program_tree(root, programs, versions)
    mixed, mixed_versions = chance.sample(programs, len(programs)), chance.sample(versions, len(versions))
    assert program_tree(root, mixed, mixed_versions) == tree
    at = {(row["program_id"], row["version"]): row["position"] for row in versions}
    at |= {(row["program_id"], None): row["position"] for row in programs}
    siblings: dict[object, list[int]] = {}
    for name, above in places(tree):
        siblings.setdefault((above, name[1] is None), []).append(at[name])
    assert all(positions == sorted(positions) for positions in siblings.values())


@given(recorded())
def test_the_rows_are_left_as_they_were(given_rows):
    programs, versions = given_rows
    before = [dict(row) for row in (*programs, *versions)]
    program_tree(programs[0]["program_id"], programs, versions)
    assert [*programs, *versions] == before
