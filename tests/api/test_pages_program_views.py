"""What the pages of programs make of matrices and differences: pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.api.differences import line_differences
from dspy_ledger.api.matching import Effort
from dspy_ledger.api.pages.diff_view import blocks, field_changes, reasons, told_metrics
from dspy_ledger.api.pages.matrix_view import (
    SHADES,
    best_by_model,
    best_by_version,
    choices,
    heat,
    score,
    tradeoffs,
)

# --- the matrix ---


def cell(version, model_id, value, *, cost=None, executions=0, latency=None, evaluations=1):
    latest = {"value": value, "evaluation_id": "e", "position": 1, "created_at": "2026-11-22"}
    totals = {
        "executions": executions,
        "errors": 0,
        "cost_usd": cost,
        "cost_known": executions if cost is not None else 0,
        "mean_latency_ms": latency,
    }
    return {
        "version": version,
        "model_id": model_id,
        "evaluations": evaluations if value is not None else 0,
        "latest": None if value is None else latest,
        "best": None,
        "totals": totals,
    }


def table(*cells):
    return {"metric": "accuracy", "cells": list(cells)}


def test_the_best_version_is_told_for_each_model():
    matrix = table(
        cell("1.0.0", "mini", 0.5),
        cell("1.1.0", "mini", 0.9),
        cell("1.0.0", "nano", 0.7),
        cell("1.1.0", "nano", 0.6),
    )
    found = choices(matrix)
    assert [(c.model_id, c.version) for c in best_by_model(found, "higher")] == [
        ("mini", "1.1.0"),
        ("nano", "1.0.0"),
    ]
    assert [(c.model_id, c.version) for c in best_by_model(found, "lower")] == [
        ("mini", "1.0.0"),
        ("nano", "1.1.0"),
    ]
    assert best_by_version(found, "higher")["1.0.0"].model_id == "nano"


def test_of_equally_good_versions_the_cheaper_is_best_and_then_the_newer():
    cheap = cell("1.0.0", "m", 0.9, cost=1.0, executions=10)
    dear = cell("1.1.0", "m", 0.9, cost=5.0, executions=10)
    assert best_by_model(choices(table(cheap, dear)), "higher")[0].version == "1.0.0"
    same = cell("1.2.0", "m", 0.9, cost=1.0, executions=10)
    assert best_by_model(choices(table(cheap, same)), "higher")[0].version == "1.2.0"


def test_prices_are_of_one_execution():
    (choice,) = choices(table(cell("1.0.0", "m", 0.9, cost=5.0, executions=10, latency=120.0)))
    assert (choice.cost, choice.latency, choice.executions) == (0.5, 120.0, 10)


def test_what_was_never_executed_has_no_price_and_is_on_no_front():
    matrix = table(cell("1.0.0", "m", 0.99), cell("1.1.0", "m", 0.5, executions=1, latency=10.0))
    fronts = tradeoffs(choices(matrix), "higher")
    assert fronts["cost"] == []
    assert [choice.version for choice in fronts["latency"]] == ["1.1.0"]


def test_executions_of_contents_that_are_not_registered_are_no_choice():
    assert choices(table(cell(None, "m", 0.9), cell("1.0.0", None, 0.9), cell("1.0.0", "m", None))) == []


def test_shades_reach_from_the_worst_to_the_best_value():
    cells = heat(table(cell("a", "m", 10.0), cell("b", "m", 20.0), cell("c", "m", 15.0)), "higher")
    assert cells["a", "m"].shade == 1
    assert cells["b", "m"].shade == SHADES
    assert [cells[label, "m"].best for label in "abc"] == [False, True, False]
    lower = heat(table(cell("a", "m", 10.0), cell("b", "m", 20.0)), "lower")
    assert (lower["a", "m"].shade, lower["a", "m"].best) == (SHADES, True)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_every_value_has_a_shade_and_the_best_the_strongest(values):
    cells = heat(table(*(cell(str(at), "m", value) for at, value in enumerate(values))), "higher")
    assert all(1 <= told.shade <= SHADES for told in cells.values())
    assert cells[str(values.index(max(values))), "m"].shade == SHADES


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.95238, "0.9524"), (96.43, "96.43"), (12345.6, "12,346"), (1.2e9, "1.2e+09"), (0, "0")],
)
def test_scores_have_four_digits(value, text):
    assert score(value) == text


# --- differences ---

lines = st.lists(st.text(alphabet="ab \t<", max_size=8), max_size=12)


@given(lines, lines)
def test_blocks_hold_both_texts_whole_and_numbered(before, after):
    told = line_differences("\n".join(before), "\n".join(after))
    shown = [line for block in blocks(told["lines"], Effort()) for line in block.lines]

    def text(tag):
        return ["".join(part for part, _ in line.parts) for line in shown if line.tag in ("equal", tag)]

    assert text("removed") == "\n".join(before).splitlines()
    assert text("added") == "\n".join(after).splitlines()
    olds = [line.old for line in shown if line.old is not None]
    news = [line.new for line in shown if line.new is not None]
    assert olds == list(range(1, len(olds) + 1))
    assert news == list(range(1, len(news) + 1))


def test_only_the_words_that_differ_are_marked():
    told = line_differences("Answer the question briefly.", "Answer the question politely.")
    ((_, (old, new)),) = blocks(told["lines"], Effort())
    assert old.parts == [("Answer the question ", False), ("briefly", True), (".", False)]
    assert new.parts == [("Answer the question ", False), ("politely", True), (".", False)]


def test_lines_with_nothing_in_common_are_not_marked_within():
    told = line_differences("abc def", "12 34 56 78")
    ((_, (old, new)),) = blocks(told["lines"], Effort())
    assert (old.parts, new.parts) == ([("abc def", False)], [("12 34 56 78", False)])


def test_lines_of_words_that_are_all_alike_are_marked_as_a_whole_once_that_takes_long():
    """Four hundred pairs of such lines, well within a registration, had the API stand still for minutes."""
    alike, others = "x, " * 333, "x, y, " * 166
    told = line_differences("\n".join([alike] * 400), "\n".join([others] * 400))
    effort = Effort(1_000_000)
    ((_, lines),) = blocks(told["lines"], effort)
    assert 0 <= effort.left < 1_000_000
    assert lines[399].parts == [(alike, False)]
    assert lines[799].parts == [(others, False)]


def test_long_lines_of_prose_are_marked_by_word():
    words = [f"word{number}" for number in range(120)]
    told = line_differences(" ".join(words), " ".join([*words[:60], "new", *words[61:]]))
    effort = Effort()
    ((_, (old, new)),) = blocks(told["lines"], effort)
    assert [part for part, differs in old.parts if differs] == ["word60"]
    assert [part for part, differs in new.parts if differs] == ["new"]


def test_lines_far_from_a_change_are_folded():
    text = "\n".join(f"line {number}" for number in range(100))
    told = line_differences(text, text.replace("line 50", "line fifty"))
    found = blocks(told["lines"], Effort())
    assert [(block.is_folded, len(block.lines)) for block in found] == [(True, 47), (False, 8), (True, 46)]


def field(change, name, old=None, new=None):
    return {"name": name, "change": change, "from": old, "to": new}


def verdict(word, change, inputs=(), outputs=()):
    interface = {"change": change, "inputs": list(inputs), "outputs": list(outputs)}
    return {"verdict": word, "interface": interface}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            verdict("major", "major", [field("added", "q", None, {"type": "str", "required": True})]),
            "every caller",
        ),
        (
            verdict("minor", "minor", [field("added", "q", None, {"type": "str", "required": False})]),
            "left out",
        ),
        (verdict("major", "major", [], [field("removed", "a", {"type": "str"})]), "who reads it breaks"),
        (
            verdict("major", "major", [], [field("changed", "a", {"type": "str"}, {"type": "int"})]),
            "was str and is int",
        ),
        (verdict("minor", "none"), "optimized from the first by dspy.GEPA"),
        (verdict("patch", "none"), "the same fields as before"),
        ({"verdict": "none", "interface": None}, "the same content"),
        ({"verdict": "patch", "interface": None}, "not known of both"),
    ],
)
def test_the_verdict_is_told_in_words(found, said):
    assert said in " ".join(reasons(found, "dspy.GEPA"))


def test_changed_fields_tell_only_what_differs():
    (told,) = field_changes(
        [
            field(
                "changed",
                "a",
                {"type": "str", "desc": "x", "required": True},
                {"type": "str", "desc": "y", "required": False},
            )
        ]
    )
    assert told["parts"] == [
        {"name": "desc", "from": "x", "to": "y"},
        {"name": "required", "from": "yes", "to": "no"},
    ]


def test_the_latest_metrics_of_two_versions_stand_beside_one_another():
    def said(model_id, value):
        return {"model_id": model_id, "metrics": {"accuracy": value}}

    told = told_metrics([said("m", 0.5), said("m", 0.1)], [said("m", 0.75)])
    assert told == [{"model_id": "m", "metric": "accuracy", "from": 0.5, "to": 0.75, "difference": 0.25}]


def test_metrics_stand_in_the_order_of_the_newest_results():
    def said(**metrics):
        return {"model_id": "m", "metrics": metrics}

    told = told_metrics([said(older=1, failed=2, score=0.5)], [said(score=0.75, failed=1)])
    assert [row["metric"] for row in told] == ["score", "failed", "older"]
