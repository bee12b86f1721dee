"""A program's matrix, held against evaluations in plain Python."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.api import schemas
from dspy_ledger.api.keeping import Kept
from dspy_ledger.api.queries import matrix
from dspy_ledger.api.queries.matrix import metrics_of

PATH = "/v1/programs/p/matrix"


def cells(api, **asked):
    answer = api.get(PATH, **asked)
    assert answer.status_code == 200, answer.text
    schemas.Matrix.model_validate_json(answer.content)
    return {(cell["version"], cell["model_id"]): cell for cell in answer.json()["cells"]}


def test_every_number_is_a_metric_and_nested_ones_have_dotted_names():
    results = {"a": 1, "b": {"c": 0.5, "d": {"e": -2}}, "ok": True, "name": "x", "list": [1, 2], "none": None}
    assert metrics_of(results) == {"a": 1, "b.c": 0.5, "b.d.e": -2}
    assert list(metrics_of({"z": {"y": 1, "x": {}}, "b": 2})) == ["z.y", "b"]
    assert metrics_of(0.5, "exact") == {"exact": 0.5}
    assert metrics_of(0.5) == {"value": 0.5}
    assert metrics_of([1]) == metrics_of(True) == metrics_of("1") == metrics_of(None) == {}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=2),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
        max_leaves=20,
    )
)
def test_any_results_have_their_numbers_read(results):
    def walk(value, path=()):
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from walk(inner, (*path, name))
        elif isinstance(value, int) and not isinstance(value, bool) and path:
            yield ".".join(path), value

    if isinstance(results, dict):
        assert metrics_of(results) == dict(walk(results))


def test_a_cell_tells_the_latest_and_the_best_value_and_where_they_are_from(ledger, api):
    ledger.register("p")
    first = ledger.evaluate("e1", program_id="p", content_hash="c1:00", model_id="m", results={"score": 3})
    last = ledger.evaluate("e2", program_id="p", content_hash="c1:00", model_id="m", results={"score": 2})
    ledger.evaluate("e3", program_id="p", content_hash="c1:00", model_id="m", results={"other": 1})
    ledger.fold()
    (cell,) = cells(api).values()
    assert cell["evaluations"] == 2
    assert {name: cell["latest"][name] for name in ("value", "evaluation_id", "position")} == {
        "value": 2, "evaluation_id": "e2", "position": last,
    }  # fmt: skip
    assert (cell["best"]["value"], cell["best"]["position"]) == (3, first)


def test_the_metric_is_the_one_that_most_evaluations_tell_unless_it_is_named(ledger, api):
    ledger.register("p")
    ledger.evaluate("e1", program_id="p", results={"rare": 1, "score": 1, "failed": 0})
    ledger.evaluate("e2", program_id="p", results={"score": 2, "failed": 0, "deep": {"er": 1}})
    ledger.fold()
    told = api.get(PATH).json()
    assert told["metric"] == "score"
    assert told["metrics"] == [
        {"name": "rare", "evaluations": 1},
        {"name": "score", "evaluations": 2},
        {"name": "failed", "evaluations": 2},
        {"name": "deep.er", "evaluations": 1},
    ]
    (cell,) = cells(api, metric="deep.er").values()
    assert (cell["evaluations"], cell["latest"]["value"]) == (1, 1)
    (cell,) = cells(api, metric="unheard-of").values()
    assert (cell["evaluations"], cell["latest"], cell["best"]) == (0, None, None)


def test_a_program_without_evaluations_has_an_empty_matrix_with_its_versions(ledger, api):
    ledger.register("p")
    ledger.fold()
    assert api.get(PATH).json() == {
        "program_id": "p", "metric": None, "metrics": [], "versions": ["1.0.0"], "models": [], "cells": [],
    }  # fmt: skip
    assert api.get("/v1/programs/q/matrix").status_code == 404


def test_executions_stand_beside_evaluations_and_feedback_is_left_out(ledger, api):
    ledger.register("p")
    ledger.execute("x", model_id="m", latency_ms=10, cost_usd=0.5)
    ledger.execute("y", model_id="m", latency_ms=30, status="error")
    ledger.execute("z", content_hash="c1:99")
    ledger.evaluate("f", execution_id="x", results={"score": 1})
    ledger.evaluate("g", program_id="p", execution_id="x", results={"score": 1})
    ledger.fold()
    told = api.get(PATH).json()
    assert (told["metrics"], told["versions"], told["models"]) == ([], ["1.0.0", None], ["m", None])
    found = cells(api)
    totals = found["1.0.0", "m"]["totals"]
    assert (totals["executions"], totals["errors"], totals["mean_latency_ms"]) == (2, 1, 20)
    assert (totals["cost_usd"], totals["cost_known"]) == (0.5, 1)
    assert found[None, None]["totals"]["executions"] == 1
    assert all(cell["totals"] is None for cell in cells(api, as_of=ledger.sequence).values())


def test_versions_stand_in_order_of_registration_and_models_by_id(ledger, api):
    for label, digest in (("2.0.0", "c1:02"), ("1.0.0", "c1:01"), ("1.10.0", "c1:10")):
        ledger.register("p", label, digest)
    for digest in ("c1:10", "c1:02"):
        for model_id in ("b", None, "a"):
            ledger.evaluate(f"{digest}{model_id}", program_id="p", content_hash=digest, model_id=model_id)
    ledger.fold()
    told = api.get(PATH).json()
    assert (told["versions"], told["models"]) == (["2.0.0", "1.0.0", "1.10.0"], ["a", "b", None])
    assert [(cell["version"], cell["model_id"]) for cell in told["cells"]] == [
        (version, model_id) for version in ("2.0.0", "1.10.0") for model_id in ("a", "b", None)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_any_moments_cells_are_those_of_the_evaluations_in_force_then(ledger, api, seed):
    chance = random.Random(seed)
    labels = {"c1:00": "1.0.0", "c1:01": "1.1.0"}
    for digest, label in labels.items():
        ledger.register("p", label, digest)
    in_force, moments = {}, {}

    def check(evaluations, **at):
        expected = {}
        for place, value, position in evaluations:
            expected.setdefault(place, []).append((value, position))
        found = cells(api, **at)
        assert found.keys() == expected.keys()
        for place, cell in found.items():
            told = expected[place]
            assert cell["evaluations"] == len(told)
            assert (cell["latest"]["value"], cell["latest"]["position"]) == told[-1]
            assert (cell["best"]["value"], cell["best"]["position"]) == max(told)

    for number in range(60):
        digest, model_id = chance.choice(["c1:00", "c1:01", "c1:99"]), chance.choice(["a", "b", None])
        name = chance.choice(["u", "v", "w", "x", f"new-{number}", f"other-{number}"])
        value = chance.choice([0, 1, 2, 0.5])
        position = ledger.evaluate(
            name, program_id="p", content_hash=digest, model_id=model_id, results={"score": value}
        )
        in_force.pop((name, model_id), None)  # saved again under the same id and model: replaced
        in_force[name, model_id] = (labels.get(digest), model_id), value, position
        moments[position] = list(in_force.values())
        if chance.random() < 0.5:  # what was found before is added to, or found anew
            ledger.fold()
            check(moments[position])
            at = chance.choice(list(moments))
            check(moments[at], as_of=at)
    ledger.fold()
    for position in chance.sample(sorted(moments), 10):
        check(moments[position], as_of=position)


def test_one_more_evaluation_is_added_without_reading_the_others_again(ledger, api):
    """Of 4,000 evaluations the matrix took 70 ms whenever one came."""
    ledger.register("p")
    for number in range(40):
        ledger.evaluate(
            f"e{number}", program_id="p", content_hash="c1:00", model_id="m", results={"score": 1}
        )
    ledger.fold()

    def read():
        with pytest.MonkeyPatch.context() as patch:
            numbers = []
            patch.setattr(matrix, "metrics_of", lambda *told: numbers.append(told) or metrics_of(*told))
            (cell,) = cells(api).values()
        return len(numbers), cell["evaluations"], cell["best"]["value"]

    assert read() == (40, 40, 1)
    ledger.evaluate("e40", program_id="p", content_hash="c1:00", model_id="m", results={"score": 2})
    ledger.fold()
    assert read() == (1, 41, 2)
    ledger.evaluate("e40", program_id="p", content_hash="c1:00", model_id="m", results={"score": 1})
    ledger.fold()
    assert read() == (41, 41, 1), "what was replaced counts no more"
    ledger.evaluate("e41", program_id="p", content_hash="c1:00", model_id="m", results={"score": 3})
    ledger.fold()
    assert cells(api, as_of=ledger.store.last_position())
    assert read() == (0, 42, 3), "as it was found for the past, of which nothing has changed since"
    ledger.evaluate("e42", program_id="p", content_hash="c1:00", model_id="m", results={"score": 3})
    ledger.fold()
    assert read() == (1, 43, 3)


def test_results_are_read_again_only_once_the_program_was_evaluated_again(ledger, api):
    ledger.register("p")
    ledger.register("q")
    first = ledger.evaluate("e1", program_id="p", content_hash="c1:00", model_id="m", results={"score": 1})
    ledger.fold()
    asked: list[str] = []

    def value(**at):
        asked.clear()
        with api.app.state.sources.question() as question:
            question.db.set_trace_callback(asked.append)
        (cell,) = cells(api, **at).values()
        return cell["latest"]["value"], cell["evaluations"], any("results" in sql for sql in asked)

    assert value() == (1, 1, True)
    assert value() == (1, 1, False)
    ledger.evaluate("e1", program_id="q", content_hash="c1:00", model_id="m", results={"score": 9})
    ledger.fold()
    assert value() == (1, 1, False)
    ledger.evaluate("e1", program_id="p", content_hash="c1:00", model_id="m", results={"score": 2})
    ledger.fold()
    assert value() == (2, 1, True)
    assert value(as_of=first) == (1, 1, False)
    ledger.register("p", "1.1.0", "c1:00b")
    ledger.fold()
    assert value() == (2, 1, False)


def test_the_answers_used_last_are_kept_and_none_that_is_too_large():
    kept, made = Kept(), []

    def get(key, fits=True):
        return kept.get(key, lambda: made.append(key) or key, lambda _: fits)

    for key in [*range(16), 0, 16, 0, 1, 1]:  # 16 takes the place of 1, and 1 that of 2
        assert get(key) == key
    assert made == [*range(16), 16, 1]
    get("large", fits=False)
    get("large", fits=False)
    get(0)
    assert made == [*range(16), 16, 1, "large", "large"]


def test_what_is_taken_over_is_kept_before_what_was_used_longest_ago():
    kept, other = Kept(), Kept()
    for key in range(16):
        kept.get(key, lambda: "mine")
    other.get("new", lambda: "other's")
    other.get(15, lambda: "other's")
    assert kept.take_over(other)
    assert not kept.take_over(other)
    assert kept.get("new", lambda: "made again") == "other's"
    assert kept.get(15, lambda: "made again") == "mine"
    assert kept.get(0, lambda: "made again") == "made again"
