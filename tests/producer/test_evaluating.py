"""Evaluations: what is recorded of them, whoever starts them, and the quiet while they run."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dspy
import pytest
from dspy.evaluate import EvaluationResult
from dspy.utils import DummyLM

from dspy_ledger.producer import Ledger, ModelManager, ProgramManager
from dspy_ledger.producer.evaluation import dataset_digest, metric_name, results_of, rows_of
from dspy_ledger.settings import Settings
from producer.test_programs import MODEL, Answers, sent


@pytest.fixture
def make_manager(settings: Settings) -> Iterator:
    ledgers: list[Ledger] = []

    def make(**given: object) -> ProgramManager:
        ledgers.append(Ledger.connect(settings=settings.model_copy(update=given)))
        return ProgramManager(model_manager=ModelManager({MODEL: Answers()}), ledger=ledgers[-1])

    yield make
    for ledger in ledgers:
        ledger.close()


QA = "question -> answer"
LM = [{"answer": "Paris"}] * 50
COUNTRIES = {"France": "Paris", "Italy": "Rome", "Gabon": "Libreville"}


def questions(count: int = 3) -> list[dspy.Example]:
    return [
        dspy.Example(question=country, answer=capital).with_inputs("question")
        for country, capital in list(COUNTRIES.items())[:count]
    ]


def exact(example, prediction, trace=None) -> bool:
    return example.answer == prediction.answer


def evaluated(program=None, *, metric=exact, **more: object) -> EvaluationResult:
    """What DSPy itself returns."""
    with dspy.context(lm=DummyLM(LM)):
        return dspy.Evaluate(devset=questions(), metric=metric, num_threads=1, **more)(
            program or dspy.Predict(QA)
        )


# --- what is recorded ---


def test_result_of_evaluate_is_saved_with_its_score_dataset_and_rows(make_manager, valkey) -> None:
    manager = make_manager()
    manager.register_program(QA, name="Capitals")
    saved = manager.save_evaluation_result(
        "capitals", MODEL, evaluated(), metric_name="exact", dataset={"name": "countries"}
    )
    [event] = sent(manager, valkey, "EvaluationSaved")
    data = event.envelope["data"]
    assert event.event_id == saved.event_id == data["evaluation_id"]
    assert data["results"] == {"score": 33.33, "failed": 0}
    assert data["metric_name"] == "exact"
    assert data["dataset"] == {"name": "countries", "size": 3, "digest": dataset_digest(questions())}
    assert json.loads(event.body)["rows"] == [
        {
            "score": int(capital == "Paris"),
            "inputs": {"question": country},
            "labels": {"answer": capital},
            "prediction": {"answer": "Paris"},
        }
        for country, capital in COUNTRIES.items()
    ]


def test_without_capture_rows_only_scores_are_recorded(make_manager, valkey) -> None:
    manager = make_manager(capture_rows=False)
    manager.register_program(QA, name="Capitals")
    manager.save_evaluation_result("capitals", MODEL, evaluated())
    manager.save_evaluation_result("capitals", MODEL, {"em": 1}, rows=[{"score": 0.5, "who": "Ada"}, "Bob"])
    of_dspy, of_host = sent(manager, valkey, "EvaluationSaved")
    assert json.loads(of_dspy.body) == {"rows": [{"score": 1}, {"score": 0}, {"score": 0}]}
    assert json.loads(of_host.body) == {"rows": [{"score": 0.5}, {}]}


def test_row_whose_program_raised_is_counted_as_failed_and_has_no_prediction() -> None:
    class Fussy(dspy.Module):
        def forward(self, question: str):
            if question == "Italy":
                raise RuntimeError("not Italy")
            return dspy.Prediction(answer="Paris")

    result = evaluated(Fussy(), failure_score=0.0)
    assert results_of(result) == {"score": 33.33, "failed": 1}
    assert [row["prediction"] for row in rows_of(result)] == [{"answer": "Paris"}, {}, {"answer": "Paris"}]


def test_metric_that_answers_more_than_a_score_keeps_its_words_beside_it() -> None:
    def judged(example, prediction, trace=None):
        return dspy.Prediction(score=0.5, feedback="half right")

    result = evaluated(metric=judged)
    assert results_of(result)["score"] == 50.0
    assert [(row["score"], row["feedback"]) for row in rows_of(result)] == [(0.5, "half right")] * 3


class Judge:
    def score(self, example, prediction, trace=None):
        return 1.0

    def __call__(self, example, prediction, trace=None):
        return 1.0


class Graded(dspy.Module):
    def forward(self, example, prediction, trace=None):
        return 1.0


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (exact, "exact"),
        (functools.partial(functools.partial(exact), trace=None), "exact"),
        (lambda example, prediction: 1, "<lambda>"),
        (Judge().score, "Judge.score"),
        (functools.partial(Judge().score, trace=None), "Judge.score"),
        (Judge(), "Judge"),
        (Graded(), "Graded"),
        (dspy.evaluate.answer_exact_match, "answer_exact_match"),
        (max, "max"),
        (None, None),
    ],
)
def test_metric_is_called_by_its_function_or_class(metric, name) -> None:
    assert metric_name(metric) == name


# --- the dataset's digest ---


def hard_examples() -> list[dspy.Example]:
    """What Python shows in another order, or at another address, in each process."""

    class Odd:
        pass

    return [
        dspy.Example(
            tags={"red", "green", "blue"}, image=b"\x00" * 100, odd=Odd(), at=1.0, dspy_uuid=os.urandom(4)
        ),
        dspy.Example(question="é", more={"b": [1, 2], "a": float("nan")}),
    ]


def test_digest_is_the_same_in_every_process() -> None:
    script = (
        "from producer.test_evaluating import hard_examples;"
        "from dspy_ledger.producer.evaluation import dataset_digest; print(dataset_digest(hard_examples()))"
    )
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])}
        found.add(subprocess.check_output([sys.executable, "-c", script], env=environment, text=True).strip())
    assert len(found) == 1
    assert found.pop().startswith("sha256:")


def test_digest_tells_what_is_evaluated_and_in_which_order() -> None:
    one, two, three = questions()
    digests = [
        dataset_digest(examples)
        for examples in ([one, two], [two, one], [one, two, three], [one, two.copy(answer="Milan")], [])
    ]
    assert len(set(digests)) == len(digests)


def test_digest_holds_bytes_by_their_digest_and_not_which_fields_are_inputs() -> None:
    [example] = questions(1)
    assert dataset_digest([example]) == dataset_digest([example.with_inputs("answer")])
    images = [dspy.Example(image=bytes([n]) * 10_000) for n in range(2)]
    assert dataset_digest(images[:1]) != dataset_digest(images[1:])
