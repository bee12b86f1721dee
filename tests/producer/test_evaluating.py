"""Evaluations: what is recorded of them, whoever starts them, and the quiet while they run."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import dspy
import pytest
from dspy.evaluate import EvaluationResult
from dspy.teleprompt import Teleprompter
from dspy.utils import DummyLM

from dspy_ledger.producer import Ledger, ModelManager, ProgramManager, instrument, track, uninstrument
from dspy_ledger.producer.evaluation import dataset_digest, metric_name, results_of, rows_of
from dspy_ledger.producer.recognition import Recogniser
from dspy_ledger.producer.scope import is_quiet
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
    body = json.loads(event.body)
    assert body["scores"] == [1, 0, 0]
    assert body["rows"] == [
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
    manager.save_evaluation_result("capitals", MODEL, {"em": 1}, rows=["Ada", "Bob"])
    of_dspy, of_host = sent(manager, valkey, "EvaluationSaved")
    assert json.loads(of_dspy.body) == {"scores": [1, 0, 0]}
    assert of_host.body is None


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


def test_evaluation_that_is_too_large_keeps_every_score(make_manager, valkey) -> None:
    manager = make_manager(max_event_bytes=64 << 10)
    manager.register_program(QA, name="Capitals")
    example = dspy.Example(question="a long question " * 100, answer="Paris").with_inputs("question")
    rows = [(example, dspy.Prediction(answer="Paris"), n % 7) for n in range(2000)]
    manager.save_evaluation_result("capitals", MODEL, EvaluationResult(score=42.0, results=rows))
    [event] = sent(manager, valkey, "EvaluationSaved")
    assert len(event.payload) + len(event.body) <= 64 << 10
    body = json.loads(event.body)
    assert body["scores"] == [n % 7 for n in range(2000)]
    assert 10 < len(body["rows"]) < 2000
    assert body["rows"][0]["labels"] == {"answer": "Paris"}
    assert "rows" in event.envelope["data"]["truncated"]
    assert event.envelope["data"]["dataset"]["size"] == 2000


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


# --- DSPy's Evaluate and optimizers, watched ---


@pytest.fixture
def watched(make_manager) -> Iterator[ProgramManager]:
    manager = make_manager()
    instrument(manager.ledger)
    yield manager
    uninstrument()


@pytest.fixture
def unwatched() -> Iterator[None]:
    yield
    uninstrument()


class Capitals(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought(QA)

    def forward(self, question: str):
        return self.answer(question=question)


class Listening(dspy.Module):
    """Tells whether it was quiet in each of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bool] = []

    def forward(self, question: str):
        self.heard.append(is_quiet())
        return dspy.Prediction(answer="Paris")


def test_evaluation_is_recorded_with_its_program_model_metric_dataset_and_rows(watched, valkey) -> None:
    result = evaluated(dspy.Predict(QA), metric=functools.partial(exact, trace=None))
    [event] = sent(watched, valkey, "EvaluationSaved")
    [registered] = sent(watched, valkey, "ProgramRegistered")
    data = event.envelope["data"]
    assert event.envelope["subject"] == data["program_id"] == registered.envelope["data"]["program_id"]
    assert data["content_hash"] == registered.envelope["data"]["content_hash"]
    assert data["program_id"] == "question_to_answer"
    assert data["program_version"] is None  # decided when it was sent; the content hash tells
    assert data["model_id"] == "dummy"
    assert data["model_info"] == {"provider": None, "base_model": "dummy", "model_name": "dummy"}
    assert data["metric_name"] == "exact"
    assert data["results"] == {"score": result.score, "failed": 0}
    assert data["dataset"] == {"name": None, "size": 3, "digest": dataset_digest(questions())}
    rows = json.loads(event.body)["rows"]
    assert [row["score"] for row in rows] == [1, 0, 0]
    assert rows[0]["inputs"] == {"question": "France"}


def test_dataset_is_named_by_the_callers_metadata_and_the_model_by_what_is_pinned(watched, valkey) -> None:
    program = Capitals()
    program.set_lm(Answers("openai/gpt-4.1", answer="Rome", reasoning="…"))
    evaluate = dspy.Evaluate(devset=[], num_threads=1)
    with dspy.context(lm=DummyLM(LM)):
        evaluate(program, exact, questions(2), callback_metadata={"dataset": "two countries"})
    [event] = sent(watched, valkey, "EvaluationSaved")
    data = event.envelope["data"]
    assert data["dataset"]["name"] == "two countries"
    assert data["dataset"]["size"] == 2
    assert data["metric_name"] == "exact"
    assert data["model_id"] == "openai/gpt-4.1"
    assert data["results"]["score"] == 50.0


@pytest.mark.parametrize("threads", [1, 4])
def test_all_is_quiet_within_an_evaluation_in_every_thread(watched, threads) -> None:
    program = Listening()
    dspy.Evaluate(devset=questions() * 5, metric=exact, num_threads=threads)(program)
    assert program.heard == [True] * 15
    program(question="Italy")
    assert program.heard[-1] is False


def test_evaluation_that_fails_raises_what_it_raises_and_is_not_recorded(watched, valkey) -> None:
    with pytest.raises(ValueError, match="at least one example"):
        dspy.Evaluate(devset=[], metric=exact)(Capitals())
    failure = KeyboardInterrupt()

    def interrupted(example, prediction, trace=None):
        raise failure

    with pytest.raises(KeyboardInterrupt) as raised:
        dspy.Evaluate(devset=questions(), metric=interrupted, num_threads=1)(Listening())
    assert raised.value is failure
    assert not is_quiet()
    assert not sent(watched, valkey, "EvaluationSaved")
    assert not sent(watched, valkey, "ProgramRegistered")


def test_evaluation_is_recorded_and_returned_whatever_another_tool_put_around_it(
    unwatched, make_manager, valkey, monkeypatch
) -> None:
    """One that did not tell what it takes had a KeyError of ours raised into the host."""
    theirs = dspy.Evaluate.__call__

    def around(*args, **kwargs):
        return theirs(*args, **kwargs)

    monkeypatch.setattr(dspy.Evaluate, "__call__", around)
    manager = make_manager()
    instrument(manager.ledger)
    assert dspy.Evaluate(devset=questions())(Listening(), exact).score == 33.33
    assert dspy.Evaluate(devset=questions(), metric=exact)(program=Listening()).score == 33.33
    names = [event.envelope["data"]["metric_name"] for event in sent(manager, valkey, "EvaluationSaved")]
    assert names == ["exact", "exact"]
    uninstrument()


def test_evaluation_of_what_is_no_program_goes_by_unrecorded(watched, valkey) -> None:
    result = dspy.Evaluate(devset=questions(), metric=exact, num_threads=1)(
        lambda question: dspy.Prediction(answer="Paris")
    )
    assert result.score == 33.33
    assert not sent(watched, valkey, "EvaluationSaved")
    assert watched.ledger.stats().dropped == 0


def test_evaluated_program_is_called_what_it_is_tracked_as_and_recorded_there(
    watched, make_manager, valkey
) -> None:
    other = make_manager()
    track(program := Listening(), other.ledger, name="Geography")
    dspy.Evaluate(devset=questions(), metric=exact)(program)
    assert watched.ledger.stats().recorded == 0
    [event] = sent(other, valkey, "EvaluationSaved")
    assert event.envelope["data"]["program_id"] == "geography"


def test_evaluation_tells_the_version_that_its_program_was_given(watched, valkey) -> None:
    program = Listening()
    program(question="Italy")
    assert sent(watched, valkey, "ProgramRegistered")
    dspy.Evaluate(devset=questions(), metric=exact)(program)
    [event] = sent(watched, valkey, "EvaluationSaved")
    assert event.envelope["data"]["program_version"] == "1.0.0"


def test_error_of_ours_is_counted_and_the_host_gets_its_result(watched, monkeypatch) -> None:
    def broken(self, program):
        raise RuntimeError("the ledger's own bug")

    monkeypatch.setattr(Recogniser, "identity_of", broken)
    assert evaluated().score == 33.33
    assert watched.ledger.stats().dropped == 1


class Sync(Teleprompter):
    def compile(self, student, *, trainset=None):
        student(question="x")
        return student


class Async(Teleprompter):
    async def compile(self, student, *, trainset=None):
        await asyncio.sleep(0)
        student(question="x")
        return student


def compiled(optimizer: Teleprompter, program) -> object:
    made = optimizer.compile(program, trainset=[])
    return asyncio.run(made) if asyncio.iscoroutine(made) else made


@pytest.mark.parametrize("optimizer", [Sync, Async])
def test_all_is_quiet_within_the_compile_of_an_optimizer(watched, optimizer) -> None:
    class Later(optimizer):
        """Defined under watch, with nothing of its own."""

    class Own(optimizer):
        if optimizer is Sync:

            def compile(self, student, *, trainset=None):
                student(question="y")
                return super().compile(student)

        else:

            async def compile(self, student, *, trainset=None):
                student(question="y")
                return await super().compile(student)

    for one, calls in ((optimizer, 1), (Later, 1), (Own, 2)):
        program = Listening()
        assert compiled(one(), program) is program
        assert program.heard == [True] * calls
        assert not is_quiet()


def test_evaluations_of_an_optimizer_are_not_recorded_and_that_of_its_result_is(watched, valkey) -> None:
    class Trying(Teleprompter):
        def compile(self, student, *, trainset):
            dspy.Evaluate(devset=trainset, metric=exact, num_threads=2)(student)
            return student

    program = Trying().compile(Listening(), trainset=questions())
    assert not sent(watched, valkey, "EvaluationSaved")
    dspy.Evaluate(devset=questions(), metric=exact, num_threads=2)(program)
    assert len(sent(watched, valkey, "EvaluationSaved")) == 1


def test_model_configured_within_a_compile_is_in_force_as_it_is_without_us(watched) -> None:
    class Configuring(Teleprompter):
        def compile(self, student, *, trainset=None):
            dspy.configure(lm=lm)
            return student(question="France")

    lm, before = DummyLM(LM), dspy.settings.lm
    try:
        assert Configuring().compile(dspy.Predict(QA)).answer == "Paris"
    finally:
        dspy.configure(lm=before)


def patched() -> dict[tuple[type, str], object]:
    """Everything that is to be as before, by class and name; a classmethod is made anew at every look."""
    found: dict[tuple[type, str], object] = {(dspy.Evaluate, "__call__"): dspy.Evaluate.__call__}
    pending: list[type] = [Teleprompter]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        for name in ("compile", "__init_subclass__"):
            if (own := vars(cls).get(name)) is not None:
                found[cls, name] = getattr(own, "__func__", own)
    return found


def test_dspy_is_as_before_when_no_longer_watched(make_manager) -> None:
    before = patched()
    signatures = {name: inspect.signature(function) for name, function in before.items()}
    instrument(make_manager().ledger)
    instrument(make_manager().ledger)
    during = patched()
    changed = {name for name in before if during[name] is not before[name]}
    assert set(before) - changed == {(Teleprompter, "compile")}
    assert {name: inspect.signature(function) for name, function in during.items()} == signatures

    class Between(Teleprompter):
        def compile(self, student):
            return is_quiet()

    assert Between().compile(None) is True
    uninstrument()
    after = patched()
    assert {name: after[name] for name in before} == before
    assert Between().compile(None) is False


def test_what_another_tool_wrapped_around_ours_stays_and_ours_does_nothing_in_it(
    make_manager, monkeypatch
) -> None:
    manager = make_manager()
    evaluate = dspy.Evaluate.__call__
    instrument(manager.ledger)
    ours = dspy.Evaluate.__call__

    def theirs(*args, **kwargs):
        return ours(*args, **kwargs)

    monkeypatch.setattr(dspy.Evaluate, "__call__", theirs)
    uninstrument()
    assert dspy.Evaluate.__call__ is theirs
    program = Listening()
    dspy.Evaluate(devset=questions(), metric=exact, num_threads=1)(program)
    assert program.heard == [False] * 3
    assert manager.ledger.stats().recorded == 0
    monkeypatch.undo()
    dspy.Evaluate.__call__ = evaluate


def test_optimizer_of_the_host_can_be_pickled_while_it_is_watched(watched) -> None:
    class Local(Teleprompter):
        def compile(self, student, *, trainset=None):
            return "compiled"

    again = cloudpickle.loads(cloudpickle.dumps(Local()))
    assert again.compile(None) == "compiled"


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("threads", [1, 4])
def test_of_a_tracked_module_its_evaluation_is_recorded_and_nothing_within_it_or_a_compile(
    make_manager, valkey, threads
) -> None:
    manager = make_manager()
    tracked = track(Listening(), manager.ledger, name="Geography")

    def judged(example, prediction, trace=None):
        return tracked(question=prediction.answer).answer == example.answer

    dspy.Evaluate(devset=questions(), metric=judged, num_threads=threads)(tracked)
    compiled(Sync(), tracked)
    compiled(Async(), tracked)
    dspy.Evaluate(devset=questions(), metric=exact, num_threads=threads)(Listening())  # nobody's
    [evaluation] = sent(manager, valkey, "EvaluationSaved")
    assert evaluation.envelope["data"]["program_id"] == "geography"
    assert sent(manager, valkey, "ExecutionCompleted") == []
    tracked(question="Italy")
    assert len(sent(manager, valkey, "ExecutionCompleted")) == 1
