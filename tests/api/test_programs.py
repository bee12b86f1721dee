"""Programs, versions, evaluations and models over what the projector writes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import product
from urllib.parse import quote

import pytest

from dspy_ledger.api import schemas


def ids(items):
    return [item["id"] for item in items]


def test_programs_are_listed_by_id_with_what_is_known_of_them(ledger, api):
    ledger.register("b", name="Bee", description="Hums", tags=["y", "x"])
    ledger.register("a", "2.0.0-rc.1", kind="module")
    ledger.fold()
    answer = api.get("/v1/programs")
    schemas.ProgramPage.model_validate_json(answer.content)
    page = answer.json()
    assert (ids(page["items"]), page["next_cursor"]) == (["a", "b"], None)
    assert page["items"][0]["latest_version"] is None  # a pre-release is never the latest
    assert page["items"][1] == {
        "id": "b",
        "name": "Bee",
        "description": "Hums",
        "tags": ["y", "x"],
        "kind": "signature",
        "parent_id": None,
        "parent_version": None,
        "latest_version": "1.0.0",
        "created_at": "2026-11-22T12:00:00.000000Z",
        "updated_at": "2026-11-22T12:00:00.000000Z",
        "position": 1,
    }


@pytest.fixture(scope="module")
def shelf(make_ledger_and_api):
    ledger, api = make_ledger_and_api()
    facts = [
        ("c_review_1a2b3c", "C++ review", "Finds faults in C++", ["code", "review"]),
        ("c_review", "C review", None, ["code"]),
        ("summary", "Summary", "ÉTÉ in one line", ["text"]),
        ("日本語", "日本語", "要約", ["text", "code", "review"]),
        ("straße", "Straße", "", []),
    ]
    for program_id, name, description, tags in facts:
        ledger.register(program_id, name=name, description=description, tags=tags)
    ledger.fold()
    return api, facts


@pytest.mark.parametrize(
    ("q", "tags"),
    list(
        product(
            (None, "review", "C++", "été", "E\u0301TE\u0301", "STRASSE", "要", "%", "_", "'; --", "\x00"),
            ((), ("code",), ("code", "review"), ("text", "nothing"), ("code", "code")),
        )
    ),
)
def test_programs_are_found_by_text_and_all_of_the_tags(shelf, q, tags):
    api, facts = shelf
    spelled = {"été": "été", "E\u0301TE\u0301": "été", "STRASSE": "strasse"}.get(q, (q or "").lower())
    wanted = [
        program_id
        for program_id, name, description, own in sorted(facts)
        if set(tags) <= set(own)
        and any(spelled in (text or "").casefold() for text in (program_id, name, description))
    ]
    params = {"tag": list(tags)} | ({} if q is None else {"q": q})
    assert ids(api.items("/v1/programs", **params)) == wanted


def test_walking_the_programs_gives_each_once_while_new_ones_are_registered(ledger, api):
    before = [f"p{number:02d}" for number in range(20)]
    for program_id in before:
        ledger.register(program_id, tags=["t"])
    ledger.fold()
    names = iter(f"{letter}{number}" for number in range(99) for letter in "az")

    def arrive():
        ledger.register(next(names), tags=["t"])
        ledger.fold()

    for filters in ({}, {"tag": "t"}, {"q": "p"}):
        found = ids(api.walk("/v1/programs", limit=3, between=arrive, **filters))
        assert len(found) == len(set(found))
        assert [each for each in found if each.startswith("p")] == before


def test_one_program_has_its_labels_in_order_of_registration_and_its_totals(ledger, api):
    ledger.register("p", "1.0.0", "c1:00", tags=["a"])
    ledger.register("p", "2.0.0", "c1:02")
    ledger.register("p", "1.1.0", "c1:01", parent_id="p", parent_version="1.0.0")
    ledger.execute("x1", usage={"input_tokens": 10, "output_tokens": 5}, cost_usd=0.5, latency_ms=10)
    ledger.execute("x2", status="error", content_hash=None, latency_ms=30)
    ledger.execute("other", "q")
    ledger.fold()
    answer = api.get("/v1/programs/p")
    schemas.ProgramDetail.model_validate_json(answer.content)
    found = answer.json()
    assert found["versions"] == ["1.0.0", "2.0.0", "1.1.0"]
    assert found["latest_version"] == "2.0.0"
    assert found["totals"] == {
        "executions": 2,
        "errors": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "cost_usd": 0.5,
        "input_known": 1,
        "output_known": 1,
        "cost_known": 1,
        "mean_latency_ms": 20.0,
    }


def test_a_program_that_never_ran_has_counts_of_zero_and_no_sums(ledger, api):
    ledger.register("p")
    ledger.fold()
    answer = api.get("/v1/programs/p")
    schemas.ProgramDetail.model_validate_json(answer.content)
    known = {"executions": 0, "errors": 0, "input_known": 0, "output_known": 0, "cost_known": 0}
    assert {name: value for name, value in answer.json()["totals"].items() if value is not None} == known


def test_tokens_and_costs_that_nobody_told_are_null_and_those_told_as_zero_are_zero(ledger, api):
    ledger.register("p")
    ledger.execute("x1", usage={"output_tokens": 0})
    ledger.execute("x2", cost_usd=0)
    ledger.fold()
    totals = api.get("/v1/programs/p").json()["totals"]
    assert (totals["input_tokens"], totals["output_tokens"], totals["cost_usd"]) == (None, 0, 0.0)
    assert (totals["input_known"], totals["output_known"], totals["cost_known"]) == (0, 1, 1)


def test_sums_of_several_rows_beyond_64_bits_are_answered(ledger, api):
    ledger.register("p")
    for number in range(3):
        usage = {"input_tokens": 1e300}
        ledger.execute(f"x{number}", model_id=f"m{number}", cost_usd=1e300, usage=usage, latency_ms=1e300)
    with closing(
        sqlite3.connect(next(ledger.settings.data_dir.glob("views-*.db")), isolation_level=None)
    ) as db:
        ledger.fold()
        db.execute(f"UPDATE totals SET input_tokens = {2**63 - 1}, cost = {2**63 - 1}, latency = {2**63 - 1}")
    answer = api.get("/v1/programs/p")
    schemas.ProgramDetail.model_validate_json(answer.content)
    assert answer.json()["totals"]["input_tokens"] == 2**63 - 1


@pytest.mark.parametrize("program_id", ["日本語", "c_review_1a2b3c", "x" * 300, "a b", "50%", "ü?#&", "~"])
def test_an_id_of_any_letters_is_found_percent_encoded(ledger, api, program_id):
    ledger.register(program_id, "1.0.0+build.5")
    ledger.execute("x", program_id)
    ledger.fold()
    path = f"/v1/programs/{quote(program_id, safe='')}"
    assert api.get(path).json()["id"] == program_id
    for below in ("versions", "evaluations", "tree", "versions/1.0.0+build.5", "versions/1.0.0%2Bbuild.5"):
        assert api.get(f"{path}/{below}").status_code == 200
    found = api.items("/v1/programs/executions", program_id=program_id, version="1.0.0+build.5")
    assert [item["execution_id"] for item in found] == ["x"]
    assert api.items("/v1/programs/executions?version=1.0.0+build.5") == found


def test_executions_and_models_are_lists_and_never_taken_for_programs(ledger, api):
    ledger.register("p")
    ledger.fold()
    assert api.get("/v1/programs/executions").json() == {"items": [], "next_cursor": None}
    assert api.get("/v1/programs/models").json() == {"items": [], "next_cursor": None, "warnings": []}


def test_versions_are_light_rows_in_order_of_registration(ledger, api):
    optimizer = {"name": "BootstrapFewShot", "params": {"k": 2}, "score": 0.9}
    ledger.register("p", "1.0.0", "c1:00", source_code="class P: ...", state={"demos": []})
    ledger.register("p", "1.1.0", "c1:01", parent_id="p", parent_version="1.0.0", optimizer=optimizer)
    ledger.register("q", "1.0.0", "c1:01")
    ledger.fold()
    answer = api.get("/v1/programs/p/versions")
    schemas.VersionPage.model_validate_json(answer.content)
    items = answer.json()["items"]
    assert [(item["id"], item["version"]) for item in items] == [("p", "1.0.0"), ("p", "1.1.0")]
    assert (items[0]["optimizer"], items[1]["optimizer"]["score"]) == (None, 0.9)
    assert not {"source_code", "state", "signature"} & set(items[0])


def test_walking_the_versions_gives_each_once_while_new_ones_are_registered(ledger, api):
    numbers = iter(range(100))

    def arrive(count=2):
        for number in [next(numbers) for _ in range(count)]:
            ledger.register("p", f"1.0.{number}", f"c1:{number}")
        ledger.fold()

    arrive(10)
    found = api.walk("/v1/programs/p/versions", limit=4, between=arrive)
    assert [item["version"] for item in found] == [f"1.0.{number}" for number in range(len(found))]
    assert len(found) >= 10


def test_one_version_has_source_signature_state_and_totals_per_model(ledger, api):
    state = {"form": {"predictors": []}, "blobs": {}}
    ledger.register("p", "1.0.0", "c1:00", state=state, source_code="class P: ...", signature={"i": "Do."})
    ledger.register("p", "1.0.0", "c1:00", description="said later", state=state)
    ledger.execute("x1", model_id="a", cost_usd=1.5)
    ledger.execute("x2", model_id="b", status="error")
    ledger.execute("x3")
    ledger.execute("x4", content_hash="c1:99", model_id="a")
    ledger.fold()
    answer = api.get("/v1/programs/p/versions/1.0.0")
    schemas.VersionDetail.model_validate_json(answer.content)
    found = answer.json()
    assert (found["state"], found["source_code"], found["signature"]) == (state, "class P: ...", {"i": "Do."})
    assert (found["id"], found["version"]) == ("p", "1.0.0")
    assert (found["content_hash"], found["event_id"], found["position"]) == ("c1:00", "event-1", 1)
    totals = [
        (each["model_id"], each["executions"], each["errors"], each["cost_usd"]) for each in found["totals"]
    ]
    assert totals == [(None, 1, 0, None), ("a", 1, 0, 1.5), ("b", 1, 1, None)]


def test_a_version_whose_state_was_not_captured_has_null(ledger, api):
    ledger.register("p")
    ledger.fold()
    assert api.get("/v1/programs/p/versions/1.0.0").json()["state"] is None


@pytest.mark.parametrize(
    ("path", "word", "told"),
    [
        ("/v1/programs/nope", "unknown-program", "known: p"),
        ("/v1/programs/nope/versions", "unknown-program", "register it first"),
        ("/v1/programs/nope/evaluations", "unknown-program", "known: p"),
        ("/v1/programs/nope/tree", "unknown-program", "known: p"),
        ("/v1/programs/nope/versions/1.0.0", "unknown-program", "known: p"),
        ("/v1/programs/p/versions/9.9.9", "unknown-version", "known: 1.0.0"),
        ("/v1/programs/executions/nope", "unknown-execution", "in a moment"),
        (f"/v1/programs/{'x' * 300}", "unknown-program", "known: p"),
        ("/v1/programs/p'%20OR%20'1'='1", "unknown-program", "known: p"),
    ],
)
def test_what_is_not_known_is_a_404_that_says_what_is(ledger, api, path, word, told):
    ledger.register("p")
    ledger.fold()
    answer = api.get(path)
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (404, f"urn:dspy-ledger:problem:{word}")
    assert told in problem["detail"]
    assert answer.headers["ledger-position"] == "1"
