"""The tree of a program as it is answered; tests/shared/test_lineage.py holds how it grows."""

from __future__ import annotations

from dspy_ledger.api import schemas


def shape(tree):
    """A tree as nested names."""

    def version(node):
        return (
            node["version"],
            [version(child) for child in node["children"]],
            [shape(t) for t in node["derived"]],
        )

    return (
        tree["id"],
        [version(node) for node in tree["versions"]],
        [shape(each) for each in tree["derived"]],
    )


def variant(ledger, label, content_hash, parent_version, program_id="p", parent_id="p"):
    optimizer = {"name": "BootstrapFewShot"}
    ledger.register(
        program_id,
        label,
        content_hash,
        parent_id=parent_id,
        parent_version=parent_version,
        optimizer=optimizer,
    )


def test_variants_lie_under_their_version_and_successors_beside_it_in_order(ledger, api):
    ledger.register("p", "1.0.0", "c1:0")
    variant(ledger, "1.1.0", "c1:1", "1.0.0")
    variant(ledger, "1.2.0", "c1:2", "1.1.0")
    ledger.register("p", "2.0.0", "c1:3")
    variant(ledger, "1.3.0", "c1:4", "1.0.0")
    ledger.fold()
    answer = api.get("/v1/programs/p/tree")
    schemas.ProgramTree.model_validate_json(answer.content)
    tree = answer.json()
    assert shape(tree) == (
        "p",
        [("1.0.0", [("1.1.0", [("1.2.0", [], [])], []), ("1.3.0", [], [])], []), ("2.0.0", [], [])],
        [],
    )
    first = tree["versions"][0]
    assert (first["content_hash"], first["optimizer"]) == ("c1:0", None)
    assert first["children"][0]["optimizer"] == "BootstrapFewShot"
    assert first["children"][0]["parent_version"] == "1.0.0"


def test_derived_programs_hang_on_the_version_they_name(ledger, api):
    ledger.register("p", "1.0.0", "c1:0")
    ledger.register("p", "1.0.1", "c1:1")
    variant(ledger, "1.0.0", "c1:2", "1.0.1", program_id="d")
    variant(ledger, "1.0.0", "c1:3", "1.0.0", program_id="dd", parent_id="d")
    variant(ledger, "1.0.0", "c1:4", "8.8.8", program_id="lost")
    ledger.fold()
    tree = api.get("/v1/programs/p/tree").json()
    grandchild = ("dd", [("1.0.0", [], [])], [])
    child = ("d", [("1.0.0", [], [grandchild])], [])
    assert shape(tree) == (
        "p",
        [("1.0.0", [], []), ("1.0.1", [], [child])],
        [("lost", [("1.0.0", [], [])], [])],
    )
    below = api.get("/v1/programs/d/tree").json()
    assert shape(below) == child
    assert below["parent"] == {"id": "p", "version": "1.0.1"}
    assert tree["parent"] is None


def test_parents_that_are_not_known_leave_roots_that_still_name_them(ledger, api):
    variant(ledger, "1.1.0", "c1:1", "1.0.0")
    variant(ledger, "1.0.0", "c1:2", "3.0.0", program_id="orphan", parent_id="gone")
    ledger.fold()
    (root,) = api.get("/v1/programs/p/tree").json()["versions"]
    assert (root["version"], root["parent_id"], root["parent_version"]) == ("1.1.0", "p", "1.0.0")
    orphan = api.get("/v1/programs/orphan/tree").json()
    assert orphan["parent"] == {"id": "gone", "version": "3.0.0"}


def test_a_chain_of_a_hundred_and_eighty_optimizations_is_answered(ledger, api):
    ledger.register("p", "1.0.0", "c1:0")
    for number in range(1, 180):
        variant(ledger, f"1.{number}.0", f"c1:{number}", f"1.{number - 1}.0")
    ledger.fold()
    (node,) = api.get("/v1/programs/p/tree").json()["versions"]
    depth = 1
    while node["children"]:
        (node,) = node["children"]
        depth += 1
    assert (depth, node["version"]) == (180, "1.179.0")
