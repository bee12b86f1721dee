"""The version rule, row by row, and what holds for all of it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.errors import InvalidInput
from dspy_ledger.versions import (
    Decision,
    Known,
    Version,
    compare_interfaces,
    decide_version,
    highest_release,
)


def interface(inputs="q", outputs="a", optional=""):
    def fields(names, required):
        pairs = (name.partition(":") for name in names.split())
        return [{"name": name, "type": kind or "str", "required": required} for name, _, kind in pairs]

    return {"inputs": fields(inputs, True) + fields(optional, False), "outputs": fields(outputs, True)}


def known(*labels, of=None):
    return {f"c1:{number}": Known(label, of or interface()) for number, label in enumerate(labels)}


# SemVer


def test_versions_are_ordered_as_semver_says():
    before_release = "alpha alpha.1 alpha.beta beta beta.2 beta.11 rc.1"
    labels = [f"1.0.0-{label}" for label in before_release.split()] + ["1.0.0", "1.2.0", "1.10.0", "2.0.0"]
    versions = [Version.parse(label) for label in labels]
    assert all(lower < higher for lower, higher in itertools.pairwise(versions))
    assert len(set(versions)) == len(versions)


def test_build_metadata_does_not_count_in_order():
    assert Version.parse("1.0.0+a") == Version.parse("1.0.0+b")
    assert str(Version.parse("1.0.0-rc.1+b.2")) == "1.0.0-rc.1+b.2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.0",
        "1.0.0.0",
        "v1.0.0",
        "01.0.0",
        "1.0.0-",
        "1.0.0-01",
        "1.0.0-a..b",
        "1.0.0+",
        " 1.0.0",
        "1.0.0\n",
        "1.0.٣",
        "1.0.-1",
    ],
)
def test_a_label_that_is_not_semver_is_refused_with_an_example(text):
    with pytest.raises(InvalidInput, match="pass one such as"):
        Version.parse(text)


def test_a_number_too_long_to_read_is_refused_too():
    with pytest.raises(InvalidInput):
        Version.parse("9" * 5000 + ".0.0")


semver = st.builds(
    lambda core, pre: Version(*core, tuple(pre)),
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    st.lists(st.sampled_from(["rc", "alpha", "0", "1", "2", "10", "x-1"]), max_size=2),
)


@given(semver)
def test_a_version_is_read_back_as_it_was_written(version):
    assert Version.parse(str(version)) == version
    assert version.is_prerelease == ("-" in str(version))


def test_the_highest_release_is_never_a_prerelease():
    assert highest_release(["1.2.0", "1.10.0", "2.0.0-rc.1", "no version"]) == "1.10.0"
    assert highest_release(["2.0.0-rc.1"]) is None
    assert highest_release([]) is None


# Interfaces


@pytest.mark.parametrize(
    ("new", "level"),
    [
        (interface(), "patch"),
        (interface(inputs="q context"), "major"),
        (interface(optional="context"), "minor"),
        (interface(outputs="a b"), "minor"),
        (interface(inputs=""), "major"),
        (interface(inputs="question"), "major"),
        (interface(inputs="q:int"), "major"),
        (interface(outputs="a:int"), "major"),
        (interface(outputs="b"), "major"),
        (interface(outputs="a b", inputs="q c"), "major"),
        (interface(outputs="a b", optional="c"), "minor"),
        (interface(inputs="", optional="q"), "minor"),
        (None, "patch"),
    ],
)
def test_a_change_of_interface_has_a_level(new, level):
    assert compare_interfaces(interface(), new) == level


def test_an_input_that_must_now_be_passed_is_a_major_change():
    assert compare_interfaces(interface(optional="c"), interface(inputs="q c")) == "major"


def test_the_order_of_fields_is_a_patch():
    assert compare_interfaces(interface(inputs="a b"), interface(inputs="b a")) == "patch"


def test_the_wording_inside_a_type_is_a_patch_but_its_structure_is_major():
    def of(**model):
        kind = {"kind": "model", "name": "M", "doc": "x", "fields": [], **model}
        return {"inputs": [{"name": "q", "type": kind, "required": True}], "outputs": []}

    assert compare_interfaces(of(), of(doc="y")) == "patch"
    assert compare_interfaces(of(), of(fields=[{"name": "n", "type": "int"}])) == "major"
    literal = {"kind": "literal", "values": ["a", "b"]}
    swapped = {"kind": "literal", "values": ["b", "a"]}
    assert compare_interfaces(of(fields=[literal]), of(fields=[swapped])) == "patch"


def test_a_default_that_has_a_doc_key_is_data():
    def of(default):
        kind = {"kind": "model", "name": "M", "fields": [{"name": "f", "default": default}]}
        return {"inputs": [{"name": "q", "type": kind, "required": True}], "outputs": []}

    assert compare_interfaces(of({"doc": 1}), of({"doc": 2})) == "major"


# The rule


def test_the_first_content_is_one_zero_zero():
    assert decide_version({}, "c1:n", interface()) == Decision("1.0.0", False, "first")


def test_known_content_keeps_its_version_even_below_the_highest():
    assert decide_version(known("1.0.0", "1.0.1"), "c1:0", interface()) == Decision("1.0.0", True, "known")


@pytest.mark.parametrize(
    ("new", "version"),
    [(interface(), "1.2.4"), (interface(outputs="a b"), "1.3.0"), (interface(inputs="x"), "2.0.0")],
)
def test_new_content_is_compared_with_the_highest_release(new, version):
    assert decide_version(known("1.0.0", "1.2.3", "3.0.0-rc.1"), "c1:n", new).version == version


def test_the_next_number_is_the_next_free_one_above_the_base():
    held = known("1.0.0", "1.0.1", "1.1.0", "2.0.0")
    assert decide_version(held, "c1:n", interface(), base_version="1.0.0").version == "1.0.2"
    assert decide_version(held, "c1:n", interface(outputs="a b"), base_version="1.0.0").version == "1.2.0"
    assert decide_version(held, "c1:n", interface(inputs="x"), base_version="1.0.0").version == "3.0.0"


def test_a_new_line_never_begins_below_a_release_of_that_line():
    held = known("1.0.0", "1.1.3", "2.4.0")
    assert decide_version(held, "c1:n", interface(outputs="a b"), base_version="1.0.0").version == "1.2.0"
    assert decide_version(held, "c1:n", interface(inputs="x"), base_version="1.0.0").version == "3.0.0"


def test_a_prerelease_takes_no_number():
    held = known("1.0.0", "1.1.0-rc.1", "1.0.1-a", "2.0.0-b")
    assert decide_version(held, "c1:n", interface()).version == "1.0.1"
    assert decide_version(held, "c1:n", interface(outputs="a b")).version == "1.1.0"
    assert decide_version(held, "c1:n", interface(inputs="x")).version == "2.0.0"


def test_what_follows_a_prerelease_is_above_it():
    held = known("1.1.0-rc.1")
    assert decide_version(held, "c1:n", interface(), base_version="1.1.0-rc.1").version == "1.1.0"
    assert (
        decide_version(known("1.1.1-rc.1"), "c1:n", interface(), parent_version="1.1.1-rc.1").version
        == "1.2.0"
    )


def test_only_prereleases_known_is_still_a_first_release():
    assert decide_version(known("2.0.0-rc.1"), "c1:n", interface()) == Decision("1.0.0", False, "first")


@pytest.mark.parametrize("label", ["0.1.0", "9.9.9", "1.0.0-rc.1", "1.0.0+build.7"])
def test_a_given_version_is_taken_when_free(label):
    assert decide_version(known("1.0.0"), "c1:n", interface(), requested=label) == Decision(
        label, False, "given"
    )


def test_a_given_version_that_other_content_holds_gives_the_next_and_names_both():
    decision = decide_version(known("1.0.0", "2.0.0"), "c1:n", interface(), requested="1.0.0")
    assert (decision.version, decision.change) == ("2.0.1", "patch")
    assert "1.0.0 is held by other content (c1:0)" in decision.warning
    assert "2.0.1" in decision.warning


def test_known_content_under_another_number_keeps_its_own_with_a_warning():
    decision = decide_version(known("1.0.0"), "c1:0", interface(), requested="3.0.0")
    assert (decision.version, decision.already_known) == ("1.0.0", True)
    assert "1.0.0" in decision.warning
    assert "3.0.0" in decision.warning


def test_known_content_under_its_own_number_needs_no_warning():
    assert decide_version(known("1.0.0"), "c1:0", interface(), requested="1.0.0").warning is None


@pytest.mark.parametrize("argument", ["requested", "base_version", "parent_version"])
def test_a_label_that_is_no_semver_is_refused(argument):
    with pytest.raises(InvalidInput, match="1\\.0"):
        decide_version(known("1.0.0"), "c1:0", interface(), **{argument: "1.0"})


def test_an_optimized_variant_is_the_next_free_minor_of_its_parents_line():
    held = known("1.0.0", "1.1.0", "2.0.0")
    assert decide_version(held, "c1:n", interface(), parent_version="1.0.0") == Decision(
        "1.2.0", False, "minor"
    )
    assert decide_version(held, "c1:n", interface(), parent_version="2.0.0").version == "2.1.0"
    assert decide_version({}, "c1:n", interface(), parent_version="1.3.0").version == "1.4.0"


def test_an_optimizer_that_changed_nothing_gives_the_parents_version_and_says_so():
    decision = decide_version(known("1.0.0", "1.1.0"), "c1:0", interface(), parent_version="1.0.0")
    assert (decision.version, decision.already_known, decision.change) == ("1.0.0", True, "known")
    assert "changed nothing" in decision.warning


def test_an_optimized_variant_registered_again_keeps_its_version_silently():
    decision = decide_version(known("1.0.0", "1.1.0"), "c1:1", interface(), parent_version="1.0.0")
    assert decision == Decision("1.1.0", True, "known")


def test_a_base_that_nobody_knows_is_replaced_by_the_highest_release_and_named():
    decision = decide_version(known("1.0.0"), "c1:n", interface(), base_version="7.0.0")
    assert decision.version == "1.0.1"
    assert "7.0.0 is not known" in decision.warning


def test_a_label_collision_is_settled_against_the_labels_holder():
    held = known("1.0.0", "1.1.0", "3.0.0")
    assert decide_version(held, "c1:late", interface(), base_version="1.1.0").version == "1.1.1"


interfaces = st.none() | st.builds(
    interface,
    st.sampled_from(["q", "q c", "q:int", ""]),
    st.sampled_from(["a", "a b", "a:int"]),
    st.sampled_from(["", "o"]),
)
hashes = st.sampled_from([f"c1:{letter}" for letter in "abcdefgh"])


@st.composite
def programs(draw):
    labels = draw(st.lists(semver.map(str), unique=True, max_size=6))
    return {
        f"c1:{letter}": Known(label, draw(interfaces))
        for letter, label in zip("abcdef", labels, strict=False)
    }


labels = st.none() | semver.map(str)


@given(programs(), hashes, interfaces, labels, labels, labels)
def test_a_decision_never_gives_a_label_that_other_content_holds(held, digest, of, requested, base, parent):
    arguments = {"requested": requested, "base_version": base, "parent_version": parent}
    decision = decide_version(held, digest, of, **arguments)
    assert decision.version not in {entry.version for other, entry in held.items() if other != digest}
    assert decision == decide_version(dict(reversed(list(held.items()))), digest, of, **arguments)
    assert decision.already_known == (digest in held)
    chosen = Version.parse(decision.version)
    if decision.change not in ("given", "known"):
        assert not chosen.is_prerelease
        if parent is not None:
            assert chosen > Version.parse(parent)

    later = {**held, digest: Known(decision.version, of)}
    assert decide_version(later, digest, of).version == decision.version


@given(st.lists(st.tuples(hashes, interfaces), max_size=12))
def test_registering_in_any_repetition_gives_each_content_one_version(registrations):
    held = {}
    for digest, of in registrations:
        decision = decide_version(held, digest, of)
        assert decision.already_known == (digest in held)
        held.setdefault(digest, Known(decision.version, of))
        assert held[digest].version == decision.version
    versions = [entry.version for entry in held.values()]
    assert len(set(versions)) == len(versions)
    assert versions == sorted(versions, key=Version.parse)
