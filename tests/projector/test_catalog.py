"""The catalog is one pure fold of the registrations, whoever runs it and in how many steps."""

from __future__ import annotations

from collections.abc import Iterable

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_ledger.projector import Catalog
from dspy_ledger.versions import highest_release
from projector.ledgers import Fields, histories, registration


def data_of(entries: Iterable[Fields]) -> list[dict]:
    envelopes = [orjson.loads(fields[b"__data__"]) for fields in entries]
    return [e["data"] for e in envelopes if e["type"].endswith("ProgramRegistered.v1")]


def fold(*registrations: Fields) -> Catalog:
    catalog = Catalog()
    for position, data in enumerate(data_of(registrations), 1):
        catalog.register(data, position)
    return catalog


def test_the_first_label_of_a_content_stays() -> None:
    catalog = fold(registration("a", 1, version="1.0.0"), registration("b", 2, version="3.0.0"))
    assert catalog.version_of("p", "c1:0") == "1.0.0"
    assert catalog.version_of("p", "c1:1") is None
    assert catalog.version_of("unknown", "c1:0") is catalog.version_of(None, None) is None


def test_of_a_known_content_only_description_and_tags_follow_the_last_registration() -> None:
    catalog = Catalog()
    first, last = data_of(
        [
            registration(
                "a", 1, description="old", tags=["x"], name="Old", created_at="2026-11-22T10:00:00Z"
            ),
            registration("b", 2, description="new", tags=[], name="New", created_at="2026-11-22T11:00:00Z"),
        ]
    )
    assert catalog.register(first, 1).new
    again = catalog.register(last, 2)
    assert (again.new, again.reworded, again.program_changed) == (False, True, True)
    assert (again.content.description, again.content.tags, again.content.position) == ("new", [], 1)
    assert (again.program.name, again.program.description, again.program.tags) == ("New", "new", [])
    assert again.program.created_at == "2026-11-22T10:00:00.000000Z"
    assert again.program.updated_at == "2026-11-22T11:00:00.000000Z"
    same = catalog.register(last, 3)
    assert (same.new, same.reworded, same.program_changed) == (False, False, False)


def test_a_label_that_other_content_holds_becomes_what_the_rule_gives_against_its_holder() -> None:
    narrow = {"inputs": [{"name": "q", "type": "str", "required": True}], "outputs": []}
    wide = {"inputs": [{"name": name, "type": "str", "required": True} for name in "qr"], "outputs": []}
    catalog = fold(
        registration("a", 1, content="c1:0", version="1.0.0", interface=narrow),
        registration("b", 2, content="c1:1", version="1.0.0", interface=narrow),
        registration("c", 3, content="c1:2", version="1.0.0", interface=wide),
        registration("d", 4, content="c1:3", version="1.0.0", interface={"inputs": "hostile"}),
    )
    assert [catalog.version_of("p", f"c1:{n}") for n in range(4)] == ["1.0.0", "1.0.1", "2.0.0", "1.0.2"]
    assert catalog.programs["p"].latest == "2.0.0"


def test_a_label_that_is_no_semver_is_kept_and_its_collision_settled() -> None:
    catalog = fold(
        registration("a", 1, version="../../x"), registration("b", 2, content="c1:1", version="../../x")
    )
    assert [catalog.version_of("p", f"c1:{n}") for n in range(2)] == ["../../x", "1.0.0"]


def test_latest_is_the_highest_release_and_never_a_pre_release() -> None:
    assert fold(registration("a", 1, version="2.0.0-rc.1")).programs["p"].latest is None
    catalog = fold(
        registration("a", 1, content="c1:0", version="1.10.0"),
        registration("b", 2, content="c1:1", version="1.9.0"),
        registration("c", 3, content="c1:2", version="2.0.0-rc.1"),
    )
    assert catalog.programs["p"].latest == "1.10.0"


def test_a_program_has_a_parent_when_its_first_registration_names_another_program() -> None:
    named = fold(registration("a", 1, program="child", parent_id="p", parent_version="1.0.0"))
    assert (named.programs["child"].parent_id, named.programs["child"].parent_version) == ("p", "1.0.0")
    variant = fold(registration("a", 1, parent_id="p", parent_version="1.0.0"))
    assert variant.programs["p"].parent_id is variant.programs["p"].parent_version is None
    later = fold(registration("a", 1), registration("b", 2, content="c1:1", parent_id="q"))
    assert later.programs["p"].parent_id is None


@settings(deadline=None, max_examples=50)
@given(histories(max_size=60), st.data())
def test_the_same_events_give_the_same_catalog_in_one_go_or_in_two(
    history: list[Fields], data: st.DataObject
) -> None:
    registrations = data_of(history)
    whole, halves = Catalog(), Catalog()
    for position, fields in enumerate(registrations, 1):
        whole.register(fields, position)
    cut = data.draw(st.integers(0, len(registrations)))
    for part, start in ((registrations[:cut], 1), (registrations[cut:], cut + 1)):
        for position, fields in enumerate(part, start):
            halves.register(orjson.loads(orjson.dumps(fields)), position)
    assert whole.programs == halves.programs


@settings(deadline=None, max_examples=50)
@given(histories(max_size=60))
def test_no_two_contents_share_a_label_and_none_ever_loses_its_own(history: list[Fields]) -> None:
    catalog = Catalog()
    given_labels: dict[tuple[str, str], str] = {}
    for position, fields in enumerate(data_of(history), 1):
        key = fields["program_id"], fields["content_hash"]
        label = catalog.register(fields, position).content.version
        assert given_labels.setdefault(key, label) == label
    for program in catalog.programs.values():
        labels = [content.version for content in program.contents.values()]
        assert len(set(labels)) == len(labels)
        assert program.latest == highest_release(labels)
