"""What differs between two versions."""

from __future__ import annotations

import string
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.test_errors import check_problem
from dspy_ledger.api import schemas
from dspy_ledger.api.differences import differences, line_differences
from dspy_ledger.api.matching import Effort

PATH = "/v1/programs/p/diff"
QUESTION = {"name": "question", "role": "input", "type": "str", "desc": "asked", "required": True}
ANSWER = {"name": "answer", "role": "output", "type": "str", "desc": "told", "required": True}


def predictor(path="self", **more):
    plain = {"path": path, "kind": "Predict", "instructions": "Answer.", "fields": [QUESTION, ANSWER]}
    return {**plain, "config": {}, "criteria": {}, "lm": None, "demos": [], **more}


def state(*parameters, modules=()):
    return {"form": {"form": 1, "modules": list(modules), "parameters": list(parameters)}, "blobs": {}}


def interface(*inputs, outputs=("answer",)):
    return {
        "inputs": [{"name": name, "type": "str", "required": required} for name, required in inputs],
        "outputs": [{"name": name, "type": "str", "required": True} for name in outputs],
    }


def diff(api, before="1.0.0", after="1.1.0", **asked):
    answer = api.get(PATH, **{"from": before, "to": after, **asked})
    assert answer.status_code == 200, answer.text
    schemas.Differences.model_validate_json(answer.content)
    return answer.json()


def registered(ledger, *contents):
    """Contents of the program p, from 1.0.0 on."""
    for number, content in enumerate(contents):
        ledger.register("p", f"1.{number}.0", f"c1:{number:02d}", **content)
    ledger.fold()


def test_a_version_is_none_other_than_itself(ledger, api):
    registered(ledger, {"state": state(predictor(demos=[{"question": "?"}])), "source_code": "class P: ..."})
    told = diff(api, after="1.0.0")
    assert (told["verdict"], told["facts"], told["modules"]) == ("none", [], [])
    (only,) = told["predictors"]
    assert (only["change"], only["inputs"], only["config"], only["settings"]) == ("none", [], [], [])
    assert only["demos"] == {"from": 1, "to": 1, "kept": 1, "reordered": False, "removed": [], "added": []}
    assert told["source_code"] == {"changed": False, "lines": [{"tag": "equal", "text": "class P: ..."}]}


@pytest.mark.parametrize(
    ("after", "verdict", "change"),
    [
        ({"interface": interface(("question", True))}, "patch", "none"),
        ({"interface": interface(("question", True), ("hint", False))}, "minor", "minor"),
        ({"interface": interface(("question", True), ("hint", True))}, "major", "major"),
        ({"interface": interface(("question", True), outputs=())}, "major", "major"),
        ({"interface": interface(("question", True), outputs=("answer", "why"))}, "minor", "minor"),
        ({"interface": None}, "patch", None),
        (
            {
                "interface": interface(),
                "parent_id": "p",
                "parent_version": "1.0.0",
                "optimizer": {"name": "o"},
            },
            "minor",
            "major",
        ),
        (
            {"interface": interface(("question", True)), "parent_id": "p", "parent_version": "0.9.0"},
            "patch",
            "none",
        ),
    ],
)
def test_the_verdict_is_that_of_the_version_rule(ledger, api, after, verdict, change):
    registered(ledger, {"interface": interface(("question", True))}, after)
    told = diff(api)
    assert told["verdict"] == verdict
    assert told["interface"] == change or told["interface"]["change"] == change


def test_fields_are_told_as_added_removed_and_changed(ledger, api):
    hint = {**QUESTION, "name": "hint", "default": None, "required": False}
    sure = {"name": "sure", "role": "output", "type": "bool", "desc": "", "required": True}
    registered(
        ledger,
        {
            "state": state(predictor(fields=[QUESTION, ANSWER, sure])),
            "interface": interface(("question", True)),
        },
        {
            "state": state(predictor(fields=[{**QUESTION, "desc": "put"}, hint, ANSWER])),
            "interface": interface(("question", True), ("hint", False)),
        },
    )
    told = diff(api)
    (only,) = told["predictors"]
    question, added = only["inputs"]
    assert (question["name"], question["change"]) == ("question", "changed")
    assert (question["from"]["desc"], question["to"]["desc"]) == ("asked", "put")
    assert (added["name"], added["change"], added["from"], added["to"]["default"]) == (
        "hint",
        "added",
        None,
        None,
    )
    (removed,) = only["outputs"]
    assert (removed["name"], removed["change"], removed["to"]) == ("sure", "removed", None)
    assert [(each["name"], each["change"]) for each in told["interface"]["inputs"]] == [("hint", "added")]


def test_true_is_not_one_and_what_only_its_spelling_tells_apart_is_the_same(ledger, api):
    """To Python, True == 1: a setting that became another was told as unchanged."""
    before, after = ({"config": {"n": n, "deep": [{"x": x}]}} for n, x in ((1, 0), (True, False)))
    same = {"config": {"n": 1.0, "deep": [{"x": 0}]}}
    registered(ledger, *({"state": state(predictor(**each))} for each in (before, after, same)))
    (told,) = diff(api)["predictors"]
    assert told["change"] == "changed"
    assert [(each["name"], each["from"], each["to"]) for each in told["config"]] == [
        ("n", 1, True),
        ("deep", [{"x": 0}], [{"x": False}]),
    ]
    (told,) = diff(api, after="1.2.0")["predictors"]
    assert (told["change"], told["config"]) == ("none", [])


def test_each_predictor_of_a_module_is_told_with_its_instructions_and_demos(ledger, api):
    one, two = {"question": "1", "answer": "1"}, {"question": "2", "answer": "2"}
    registered(
        ledger,
        {"state": state(predictor("a", demos=[one, two, one]), predictor("b"), predictor("c"))},
        {
            "state": state(
                predictor("a", demos=[two, one, {"question": "3"}]),
                predictor("b", instructions="Answer.\nBe brief.", config={"temperature": 1}, lm="openai/gpt"),
                predictor("d"),
            )
        },
    )
    told = {each["path"]: each for each in diff(api)["predictors"]}
    assert {path: each["change"] for path, each in told.items()} == {
        "a": "changed", "b": "changed", "d": "added", "c": "removed",
    }  # fmt: skip
    assert told["a"]["demos"] == {
        "from": 3, "to": 3, "kept": 2, "reordered": True, "removed": [one], "added": [{"question": "3"}],
    }  # fmt: skip
    assert told["b"]["instructions"] == {
        "changed": True,
        "lines": [{"tag": "equal", "text": "Answer."}, {"tag": "added", "text": "Be brief."}],
    }
    assert told["b"]["config"] == [{"name": "temperature", "change": "added", "from": None, "to": 1}]
    assert told["b"]["settings"] == [{"name": "lm", "change": "changed", "from": None, "to": "openai/gpt"}]
    assert told["d"]["inputs"][0]["change"] == "added"
    assert {line["tag"] for line in told["c"]["instructions"]["lines"]} == {"removed"}


def test_source_code_modules_and_facts_are_told(ledger, api):
    module = {"path": "self", "kind": "Module", "code": ["aa"]}
    registered(
        ledger,
        {"state": state(modules=[module]), "source_code": "a\nb\nc", "class_name": "P"},
        {
            "state": state(modules=[{**module, "code": ["bb"]}]),
            "source_code": "a\nB\nc",
            "class_name": "P",
            "optimizer": {"name": "o", "params": {}, "changed": True},
        },
    )
    told = diff(api)
    assert [(line["tag"], line["text"]) for line in told["source_code"]["lines"]] == [
        ("equal", "a"), ("removed", "b"), ("added", "B"), ("equal", "c"),
    ]  # fmt: skip
    assert [(each["name"], each["change"]) for each in told["modules"]] == [("self", "changed")]
    assert [(each["name"], each["to"]["name"]) for each in told["facts"]] == [("optimizer", "o")]


def test_where_a_state_is_missing_signatures_are_compared_and_the_rest_is_null(ledger, api):
    signature = {"instructions": "Answer.", "fields": [QUESTION, ANSWER]}
    registered(
        ledger,
        {"signature": signature, "state": state(predictor(demos=[{}]))},
        {"signature": {**signature, "instructions": "Answer well."}},
    )
    told = diff(api)
    assert (told["from"]["has_state"], told["to"]["has_state"]) == (True, False)
    (only,) = told["predictors"]
    assert (only["path"], only["demos"], only["config"], only["settings"]) == ("self", None, None, None)
    assert [line["tag"] for line in only["instructions"]["lines"]] == ["removed", "added"]
    assert (only["inputs"], told["modules"]) == ([], None)


@pytest.mark.parametrize(
    "foreign",
    [
        *([], "text", 7, {}, {"form": []}, {"form": {"parameters": 1, "modules": [1, {"path": 2}]}}),
        {"form": {"parameters": [1, {}, {"path": "x", "instructions": 3, "fields": [1, {"name": 4}, {}]}]}},
        {"form": {"parameters": [{"path": "x", "config": [], "demos": {}, "fields": {"a": 1}}]}},
    ],
    ids=repr,
)
def test_what_another_producer_spelled_its_own_way_is_no_fault(ledger, api, foreign):
    registered(
        ledger,
        {"state": foreign, "signature": {"fields": "none", "instructions": []}, "interface": {"inputs": 1}},
        {"state": state(predictor("x", demos=[1, None, "two"]))},
    )
    for before, after in (("1.0.0", "1.1.0"), ("1.1.0", "1.0.0"), ("1.0.0", "1.0.0")):
        diff(api, before, after)


def test_versions_that_came_later_are_not_known_and_words_are_those_of_then(ledger, api):
    ledger.register("p", "1.0.0", "c1:00", description="old")
    at = ledger.register("p", "1.1.0", "c1:01", description="new")
    ledger.register("p", "1.0.0", "c1:00", description="newer")
    ledger.register("p", "1.2.0", "c1:02")
    ledger.fold()
    (description,) = diff(api, as_of=at)["facts"]
    assert (description["name"], description["from"], description["to"]) == ("description", "old", "new")
    problem = check_problem(api.get(PATH, **{"from": "1.0.0", "to": "1.2.0", "as_of": at}), 404, PATH)
    assert "has no version '1.2.0' (known: 1.0.0, 1.1.0)" in problem["detail"]


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ({}, 400, "from: is needed; give one; to: is needed; give one"),
        ({"from": "1.0.0"}, 400, "to: is needed; give one"),
        ({"from": "", "to": "1.0.0"}, 400, "from: is empty"),
        ({"from": "1.0.0", "to": "1.0.0", "form": "1"}, 400, "did you mean from?"),
        ({"before": "1.0.0", "after": "1.0.0"}, 400, "before: unknown parameter"),
        ({"from": "1.0.0", "to": "latest"}, 404, "has no version 'latest'"),
        ({"from": "9.9.9", "to": "1.0.0"}, 404, "has no version '9.9.9' (known: 1.0.0)"),
    ],
)
def test_what_cant_be_compared_is_told(ledger, api, asked, status, told):
    registered(ledger, {})
    assert told in check_problem(api.get(PATH, **asked), status, PATH)["detail"]
    check_problem(api.get("/v1/programs/q/diff", **{"from": "1.0.0", "to": "1.0.0"}), 404)


LINES = st.lists(st.sampled_from(string.ascii_lowercase[:4]), max_size=30).map("\n".join)


@given(LINES, LINES)
def test_the_lines_of_two_texts_are_those_of_each_in_order(before, after):
    told = line_differences(before, after)
    assert told["changed"] == (before != after)
    of = {
        tag: [line["text"] for line in told["lines"] if line["tag"] in (tag, "equal")]
        for tag in ("removed", "added")
    }
    assert (of["removed"], of["added"]) == (before.splitlines(), after.splitlines())


def test_texts_that_take_too_long_to_compare_are_told_as_replaced_between_their_equal_ends():
    """Twenty thousand equal lines against two hundred, 40 kB, had the API stand still for half a minute."""
    before = ["same", "old", *["x"] * 20_000, "old", "end"]
    after = ["same", "new", *["x", "y"] * 90, "new", "end"]
    effort = Effort()
    lines = line_differences("\n".join(before), "\n".join(after), effort)["lines"]
    assert effort.left >= 0
    assert {(line["tag"], line["text"]) for line in lines} >= {("equal", "same"), ("equal", "end")}
    of = {
        tag: [line["text"] for line in lines if line["tag"] in (tag, "equal")] for tag in ("removed", "added")
    }
    assert (of["removed"], of["added"]) == (before, after)
    few = line_differences("\n".join(before), "\n".join(after), Effort(100))["lines"]
    tags = [line["tag"] for line in few]
    assert tags == ["equal", *["removed"] * 20_002, *["added"] * 182, "equal"]


def test_what_comparing_takes_is_bounded_for_all_texts_of_two_versions_together():
    """The bound was each text's: a thousand predictors, each within it, took minutes."""
    sides = [{"path": f"p{number}", "instructions": "\n".join(["x"] * 190)} for number in range(50)]
    others = [{**side, "instructions": "z\n" + "x\ny\n" * 95} for side in sides]
    effort = Effort(1_000_000)
    told = differences(
        *(
            defaultdict(lambda: None, content_hash=digest, state={"form": {"parameters": parts}})
            for digest, parts in (("c1:0", sides), ("c1:1", others))
        ),
        effort=effort,
    )
    assert 0 <= effort.left < 1_000_000
    equal = [
        sum(line["tag"] == "equal" for line in predictor["instructions"]["lines"])
        for predictor in told["predictors"]
    ]
    assert equal[0] > 0
    assert equal[-1] == 0
