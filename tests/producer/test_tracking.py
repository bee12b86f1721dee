"""Recording what DSPy programs do by themselves: every root call of any module, or of one."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import json
import logging
import pickle
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from uuid import uuid4

import dspy
import pytest
from dspy.primitives.local_interpreter import LocalInterpreter
from dspy.utils import DummyLM
from dspy.utils.callback import BaseCallback

from dspy_ledger.cli.demo.model_server import ModelServer
from dspy_ledger.errors import InvalidInput
from dspy_ledger.producer import (
    Ledger,
    ModelManager,
    ProgramManager,
    instrument,
    session,
    track,
    uninstrument,
)
from dspy_ledger.producer.capture import Capture
from dspy_ledger.producer.dispatch import Mark
from dspy_ledger.producer.recognition import Recogniser
from dspy_ledger.settings import Settings
from producer.streams import entries
from servers import Valkey


class Answers(DummyLM):
    """Answers every request alike."""

    def __init__(self, model: str = "openai/gpt-4o-mini", **fields: str) -> None:
        super().__init__([{"answer": "a", "reasoning": "r", "score": "1.0", **fields}] * 1000)
        self.model = model


class Two(dspy.Module):
    """Two predictors, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.ChainOfThought("question -> answer")
        self.second = dspy.Predict("answer -> score: float")

    def forward(self, question: str):
        return self.second(answer=self.first(question=question).answer)

    async def aforward(self, question: str):
        return await self.second.acall(answer=(await self.first.acall(question=question)).answer)


class Calls(dspy.Module):
    """Does what it is given, with a predictor at hand."""

    def __init__(self, what: Callable[..., Any]) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")
        self.what = what

    def forward(self, **inputs: Any):
        return self.what(self.ask, **inputs)

    async def aforward(self, **inputs: Any):
        return await self.what(self.ask, **inputs)


class Whole(dspy.Module):
    """Drops nothing when it is copied, its callbacks neither."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Execution:
    data: dict[str, Any]
    body: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.data[name]

    @property
    def tree(self) -> list[str]:
        """Its calls in order, each below the call that it was made in."""
        lines: list[str] = []
        depths: list[int] = []
        for call in self.body["calls"]:
            depths.append(0 if call["parent"] is None else depths[call["parent"]] + 1)
            lines.append("  " * depths[-1] + call["name"])
        return lines


PREDICT = ["Predict", "  ChatAdapter.format", "  openai/gpt-4o-mini", "  ChatAdapter.parse"]


def below(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


TWO = ["Two", "  ChainOfThought", *below(below(PREDICT)), *below(PREDICT)]


@pytest.fixture
def make_ledger(settings: Settings) -> Iterator[Callable[..., Ledger]]:
    made: list[Ledger] = []

    def make(**given: Any) -> Ledger:
        made.append(Ledger.connect(**{"settings": settings, **given}))
        return made[-1]

    yield make
    uninstrument()
    for ledger in made:
        ledger.close()


@pytest.fixture
def ledger(make_ledger: Callable[..., Ledger]) -> Ledger:
    return make_ledger()


@pytest.fixture(autouse=True)
def lm() -> Iterator[Answers]:
    """What answers where a test says nothing else."""
    answers = Answers()
    with dspy.context(lm=answers):
        yield answers


Recorded = Callable[[], list[Execution]]


@pytest.fixture
def executions(ledger: Ledger, valkey: Valkey, settings: Settings) -> Recorded:
    """All executions in the stream, in the order of their ends."""

    def read() -> list[Execution]:
        assert ledger.flush(10)
        assert ledger.stats().dropped == 0
        return [
            Execution(entry.envelope["data"], json.loads(entry.body or b"{}"))
            for entry in entries(valkey, settings)
            if ".ExecutionCompleted." in entry.type
        ]

    return read


@pytest.fixture
def registrations(ledger: Ledger, valkey: Valkey, settings: Settings) -> Callable[[], list[dict[str, Any]]]:
    def read() -> list[dict[str, Any]]:
        assert ledger.flush(10)
        found = entries(valkey, settings)
        return [entry.envelope["data"] for entry in found if ".ProgramRegistered." in entry.type]

    return read


# --- root calls ---


def test_root_call_is_one_execution_with_the_tree_of_its_calls(ledger, executions):
    instrument(ledger)
    assert Two()(question="why?").score == 1.0
    [execution] = executions()
    assert execution["program_id"] == "two"
    assert (execution["status"], execution["error"]) == ("ok", None)
    assert execution["model_id"] == "openai/gpt-4o-mini"
    assert execution["model_info"] == {
        "provider": "openai",
        "base_model": "gpt-4o-mini",
        "model_name": "openai/gpt-4o-mini",
    }
    assert execution["call_counts"] == {"module": 4, "adapter": 4, "lm": 2}
    assert execution["latency_ms"] > 0
    assert execution.body["inputs"] == {"question": "why?"}
    assert execution.body["outputs"] == {"score": 1.0}
    assert execution.tree == TWO


async def test_awaited_root_call_is_one_execution_with_the_same_tree(ledger, executions):
    instrument(ledger)
    assert (await Two().acall(question="why?")).score == 1.0
    [execution] = executions()
    assert execution.tree == TWO


def test_inputs_given_by_position_have_their_names(ledger, executions):
    instrument(ledger)
    Two()("why?")
    assert executions()[0].body["inputs"] == {"question": "why?"}


async def test_inputs_given_by_position_are_recorded_whatever_takes_them(ledger, executions):
    class OnlyAwaited(dspy.Module):
        async def aforward(self, question: str):
            return dspy.Prediction(answer=question)

    class Any_(dspy.Module):
        def forward(self, *documents: str, k: int = 1):
            return dspy.Prediction(answer=documents[0])

    instrument(ledger)
    await OnlyAwaited().acall("Why?")
    Any_()("one", "two", k=3)
    untold = Any_()
    untold.forward = dict  # a class in C: it does not say what it takes
    untold([("answer", "a")])
    assert [execution.body["inputs"] for execution in executions()] == [
        {"question": "Why?"},
        {"args": ["one", "two"], "k": 3},
        {"args": [[["answer", "a"]]]},
    ]


def test_what_a_predictor_takes_beside_its_inputs_is_no_input(ledger, executions):
    instrument(ledger)
    dspy.Predict("question -> answer")(
        question="why?", config={"temperature": 1.0}, lm=Answers("openai/other")
    )
    [execution] = executions()
    assert execution.body["inputs"] == {"question": "why?"}
    assert (execution["model_id"], execution["models"]) == ("openai/other", ["openai/other"])


def test_exception_is_recorded_and_raised_unchanged(ledger, executions):
    problem = ValueError("no answer to that")

    def fail(ask):
        ask(question="why?")
        raise problem

    instrument(ledger)
    with pytest.raises(ValueError, match="no answer") as raised:
        Calls(fail)()
    assert raised.value is problem
    [execution] = executions()
    assert execution["status"] == "error"
    assert execution["error"] == {"type": "ValueError", "message": "no answer to that"}
    assert execution.body["outputs"] is None
    assert execution.body["calls"][0]["error"]["type"] == "ValueError"
    assert execution["call_counts"]["lm"] == 1


def test_exception_within_whose_text_raises_comes_unchanged(ledger, executions):
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def fail(ask):
        raise Odd

    instrument(ledger)
    with pytest.raises(Odd):
        Calls(lambda ask: Calls(fail)())()
    [execution] = executions()
    message = "(its text raises RuntimeError)"
    assert execution["error"] == {"type": "Odd", "message": message}
    assert [call["error"]["message"] for call in execution.body["calls"]] == [message, message]


async def test_cancelled_call_is_recorded_as_an_error(ledger, executions):
    began = asyncio.Event()

    async def wait(ask):
        began.set()
        await asyncio.Event().wait()

    instrument(ledger)
    task = asyncio.create_task(Calls(wait).acall())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [execution] = executions()
    assert (execution["status"], execution["error"]["type"]) == ("error", "CancelledError")


def test_failure_of_ours_is_counted_and_the_host_is_called_once(ledger, monkeypatch):
    calls = []
    instrument(ledger)
    program = Calls(lambda ask: calls.append(1) or "result")
    monkeypatch.setattr(Recogniser, "identity_of", lambda *_: 1 / 0)
    assert program() == "result"
    monkeypatch.undo()
    monkeypatch.setattr(Recogniser, "versioned", lambda *_: 1 / 0)
    assert program() == "result"
    assert calls == [1, 1]
    assert ledger.stats().dropped == 2


class Hostile:
    """Nothing can be known of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __eq__ = __hash__ = __repr__


def test_program_that_can_not_be_read_is_recorded_without_its_content(ledger, executions, caplog):
    instrument(ledger)
    program = dspy.Predict("question -> answer")
    program.config = Hostile()
    with caplog.at_level(logging.WARNING, "dspy_ledger"):
        with pytest.raises(TypeError):  # as without us
            program(question="why?")
        program = Two()
        program.second.fields = Hostile()
        program.first.predict.demos = [Hostile()]
        for _ in range(3):
            with pytest.raises(TypeError):
                program(question="why?")
    found = executions()
    assert [execution["content_hash"] for execution in found] == [None] * 4
    assert {execution["status"] for execution in found} == {"error"}
    assert found[-1]["program_id"] == "two"
    said = [record.args[0] for record in caplog.records if "can't tell the content" in record.message]
    assert said == ["Predict", "Two"]  # once each


def test_calls_beyond_ten_thousand_are_counted_and_not_kept():
    capture = Capture()
    for number in range(10_050):
        capture.on_module_start(str(number), None, {})
        capture.on_module_end(str(number), None)
    assert len(capture.as_dicts()) == 10_000
    assert capture.counts() == {"module": 10_050}
    assert capture._open == {}


# --- what is wrapped ---


def test_instrument_can_be_undone_and_repeated(make_ledger, ledger, executions):
    original = (dspy.Module.__call__, dspy.Module.acall)
    other = make_ledger()
    instrument(other)
    wrapped = dspy.Module.__call__
    instrument(ledger)
    assert dspy.Module.__call__ is wrapped
    dspy.Predict("question -> answer")(question="why?")
    assert (other.stats().recorded, len(executions())) == (0, 1)
    uninstrument()
    uninstrument()
    assert (dspy.Module.__call__, dspy.Module.acall) == original
    dspy.Predict("question -> answer")(question="why?")
    assert len(executions()) == 1


def test_what_another_tool_wraps_runs_before_and_after_us(ledger, executions, monkeypatch):
    def wrap(log: list[str]) -> None:
        called = dspy.Module.__call__

        @functools.wraps(called)
        def wrapper(self, *args, **kwargs):
            log.append(type(self).__name__)
            return called(self, *args, **kwargs)

        monkeypatch.setattr(dspy.Module, "__call__", wrapper)

    inside: list[str] = []
    outside: list[str] = []
    wrap(inside)
    instrument(ledger)
    wrap(outside)
    theirs = dspy.Module.__call__
    Two()(question="why?")
    assert inside == outside == ["Two", "ChainOfThought", "Predict", "Predict"]
    assert [execution.tree for execution in executions()] == [TWO]
    uninstrument()
    assert dspy.Module.__call__ is theirs
    Two()(question="why?")
    assert len(executions()) == 1
    instrument(ledger)
    Two()(question="why?")
    assert len(executions()) == 2
    monkeypatch.undo()
    uninstrument()


class Log(BaseCallback):
    """Another tool's callback."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str | None]] = []

    def on_module_start(self, call_id, instance, inputs):
        self.events.append(("start", type(instance).__name__))

    def on_module_end(self, call_id, outputs, exception=None):
        self.events.append(("end", None if exception is None else type(exception).__name__))


class Proxy:
    """A wrapper as ``wrapt`` makes them: it passes for what it wraps, its code included."""

    def __init__(self, wrapped: Any, told: list[str]) -> None:
        self.__wrapped__ = wrapped
        self.told = told

    @property
    def __class__(self) -> Any:
        return type(self.__wrapped__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, instance: Any, *args: Any, **kwargs: Any) -> Any:
        self.told.append(type(instance).__name__)
        return self.__wrapped__(instance, *args, **kwargs)


def test_proxy_of_another_tool_is_called_as_without_us(ledger, executions, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(dspy.Module, "__call__", Proxy(dspy.Module.__call__, told))
    instrument(ledger)
    Two()(question="?")
    assert told == ["Two", "ChainOfThought", "Predict", "Predict"]
    assert executions()[0].tree == TWO


def test_tracked_module_is_not_recorded_once_that_is_undone_be_our_wrapper_within_anothers(
    ledger, executions, monkeypatch
):
    tracked = track(dspy.Predict("question -> answer"), ledger)
    ours = dspy.Module.__call__

    @functools.wraps(ours)
    def around(self, **inputs):
        return ours(self, **inputs)

    with monkeypatch.context() as patch:
        patch.setattr(dspy.Module, "__call__", around)
        uninstrument()
        tracked(question="?")
    uninstrument()
    assert executions() == []


def test_callbacks_of_the_host_are_called_as_without_us(ledger, executions):
    logs = []
    for instrumented in (False, True):
        everywhere, own = Log(), Log()
        program = Two()
        program.first.callbacks = [own]
        if instrumented:
            instrument(ledger)
        with dspy.context(callbacks=[everywhere]):
            program(question="why?")
        logs.append((everywhere.events, own.events))
    assert logs[0] == logs[1]
    assert len(logs[1][0]) == 8
    assert len(logs[1][1]) == 2
    assert executions()[0].tree == TWO


def test_settings_that_the_host_configures_later_are_in_force_and_change_nothing(ledger, executions):
    instrument(ledger)
    log = Log()

    def configured() -> None:
        try:
            dspy.configure(lm=Answers("openai/later"), callbacks=[log])
            Two()(question="why?")
            assert dspy.settings.callbacks == [log]
        finally:
            dspy.configure(lm=None, callbacks=[])

    contextvars.Context().run(configured)  # where nothing stands above what is configured
    [execution] = executions()
    assert execution["model_id"] == "openai/later"
    assert len(execution.tree) == len(TWO)
    assert len(log.events) == 8


def test_nested_calls_are_seen_where_the_host_replaces_the_callbacks(ledger, executions):
    def without_callbacks(ask):
        with dspy.context(callbacks=[]):
            return ask(question="why?")

    instrument(ledger)
    Calls(without_callbacks)()
    assert executions()[0].tree == ["Calls", *below(PREDICT)]


# --- concurrency ---


MODELS = ("openai/gpt-4o-mini", "openai/gpt-4.1-nano")


@pytest.fixture(scope="module")
def model_server() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def real(model_server: ModelServer) -> Callable[..., Any]:
    """An LM that counts tokens and costs, over HTTP."""

    def make(model: str = MODELS[0], **more: Any) -> Any:
        given = {"cache": False, **more}
        return dspy.LM(model, api_base=model_server.url, api_key="sk-none", **given)

    return make


def assert_is_its_own(execution: Execution, model: str, question: str) -> None:
    lm_calls = [call for call in execution.body["calls"] if call["kind"] == "lm"]
    assert execution["models"] == [model] == list({call["model"] for call in lm_calls})
    assert execution.body["inputs"] == {"question": question}
    assert execution["call_counts"] == {"module": 3, "adapter": 4, "lm": 2}
    assert execution["usage"]["input_tokens"] == sum(call["usage"]["input_tokens"] for call in lm_calls) > 0
    assert execution["cost_usd"] == pytest.approx(sum(call["cost_usd"] for call in lm_calls))
    assert [call["parent"] for call in execution.body["calls"]] == [None, 0, 1, 1, 1, 0, 5, 5, 5]
    assert len({call["usage"]["input_tokens"] for call in lm_calls}) == 2


class Pair(dspy.Module):
    """Two predictors, of which the second is asked more than the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> answer")
        self.second = dspy.Predict("question, more -> answer")

    def forward(self, question: str):
        self.first(question=question)
        return self.second(question=question, more="and then?")

    async def aforward(self, question: str):
        await self.first.acall(question=question)
        return await self.second.acall(question=question, more="and then?")


async def test_64_concurrent_calls_on_different_models_have_each_its_own(ledger, executions, real):
    instrument(ledger)
    lms = {model: real(model) for model in MODELS}
    program = Pair()

    async def ask(number: int) -> None:
        with dspy.context(lm=lms[MODELS[number % 2]]):
            await program.acall(question=f"question {number}?")

    await asyncio.gather(*(ask(number) for number in range(64)))
    found = {execution.body["inputs"]["question"]: execution for execution in executions()}
    assert len(found) == 64
    for number in range(64):
        question = f"question {number}?"
        assert_is_its_own(found[question], MODELS[number % 2], question)
        assert found[question]["model_id"] == MODELS[number % 2]


def test_8_threads_of_parallel_on_different_models_have_each_its_own(ledger, executions, real):
    instrument(ledger)
    programs = [Pair(), Pair()]
    for program, model in zip(programs, MODELS, strict=True):
        program.set_lm(real(model))
    pairs = [(programs[n % 2], dspy.Example(question=f"{n}?").with_inputs("question")) for n in range(32)]
    dspy.Parallel(num_threads=8, disable_progress_bar=True)(pairs)
    found = {execution.body["inputs"]["question"]: execution for execution in executions()}
    assert len(found) == 32
    for number in range(32):
        execution = found[f"{number}?"]
        assert_is_its_own(execution, MODELS[number % 2], f"{number}?")
        assert execution["model_pinned"]
        assert execution["model_id"] == MODELS[number % 2]


def test_parallel_within_a_program_is_part_of_its_execution(ledger, executions):
    def at_once(ask):
        pairs = [(ask, dspy.Example(question=f"{n}?").with_inputs("question")) for n in range(8)]
        return dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)

    instrument(ledger)
    Calls(at_once)()
    [execution] = executions()
    assert execution["call_counts"] == {"module": 9, "adapter": 16, "lm": 8}
    parents = [call["parent"] for call in execution.body["calls"] if call["kind"] == "module"]
    assert parents == [None] + [0] * 8
    calls = execution.body["calls"]
    assert all(calls[call["parent"]]["kind"] == "module" for call in calls if call["kind"] == "lm")


async def test_gathered_calls_are_siblings_in_one_execution(ledger, executions):
    async def at_once(ask):
        return await asyncio.gather(*(ask.acall(question=f"{n}?") for n in range(8)))

    instrument(ledger)
    await Calls(at_once).acall()
    [execution] = executions()
    calls = execution.body["calls"]
    predicts = [place for place, call in enumerate(calls) if call["name"] == "Predict"]
    assert [calls[place]["parent"] for place in predicts] == [0] * 8
    assert sorted(call["parent"] for call in calls if call["kind"] == "lm") == predicts


def test_raw_thread_is_a_root_of_its_own_unless_it_gets_the_context(ledger, executions):
    def in_threads(ask, lm):
        def call():
            with dspy.context(lm=lm):
                ask(question="why?")

        with ThreadPoolExecutor(1) as pool:
            pool.submit(call).result()
            pool.submit(contextvars.copy_context().run, call).result()

    instrument(ledger)
    Calls(lambda ask: in_threads(ask, Answers()))()
    alone, whole = executions()
    assert alone.tree == PREDICT
    assert whole.tree == ["Calls", *below(PREDICT)]


def test_call_that_outlives_its_execution_is_one_of_its_own(ledger, executions):
    ended = threading.Event()
    threads = []

    def leave_behind(ask):
        context = contextvars.copy_context()

        def later():
            ended.wait()
            context.run(ask, question="later?")

        threads.append(threading.Thread(target=later))
        threads[0].start()

    instrument(ledger)
    Calls(leave_behind)()
    ended.set()
    threads[0].join()
    first, second = executions()
    assert first.tree == ["Calls"]
    assert second.tree == PREDICT


# --- models, tokens, messages ---


@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_tokens_and_cost_are_summed_and_a_cached_answer_costs_nothing(engine, ledger, executions, real):
    instrument(ledger)
    program = Pair()
    question = f"what does {uuid4()} cost?"  # DSPy's cache is on disk
    with dspy.context(lm=real(engine=engine, cache=True)):
        program(question=question)
        program(question=question)
    first, again = executions()
    assert_is_its_own(first, MODELS[0], question)
    assert (again["usage"], again["cost_usd"]) == ({}, None)
    assert [call["cached"] for call in again.body["calls"] if call["kind"] == "lm"] == [True, True]


def test_usage_is_found_behind_a_long_history_and_none_without_one(ledger, executions, real):
    instrument(ledger)
    lm = real()
    lm.history = [{"outputs": ["old"], "usage": {"prompt_tokens": 10**6}, "cost": 1.0}] * 10_000
    with dspy.context(lm=lm):
        dspy.Predict("question -> answer")(question="why?")
    with dspy.context(lm=lm, disable_history=True):
        dspy.Predict("question -> answer")(question="why?")
    known, unknown = executions()
    assert 0 < known["usage"]["input_tokens"] < 1000
    assert (unknown["usage"], unknown["cost_usd"]) == ({}, None)
    assert "cached" not in unknown.body["calls"][2]


def test_messages_are_recorded_only_where_the_setting_says_so(ledger, make_ledger, executions):
    for recording in (ledger, make_ledger(capture_messages=True)):
        instrument(recording)
        dspy.Predict("question -> answer")(question="why?")
        assert recording.flush(10)
    without, with_ = (execution.body["calls"][2] for execution in executions())
    assert "messages" not in without
    assert [message["role"] for message in with_["messages"]] == ["system", "user", "assistant"]
    assert "why?" in with_["messages"][1]["content"]
    assert "answer" in with_["messages"][2]["content"]


def test_interpreter_and_tool_calls_are_in_the_tree(ledger, executions):
    def compute(ask):
        with LocalInterpreter() as interpreter:
            interpreter.execute("x = 1")
        return dspy.Tool(max, name="largest", args={})()

    instrument(ledger)
    with pytest.raises(TypeError):
        Calls(compute)()
    [execution] = executions()
    assert execution["call_counts"]["interpreter"] >= 1
    assert "  LocalInterpreter.execute" in execution.tree
    assert execution.body["calls"][-1]["kind"] == "tool"
    assert execution.body["calls"][-1]["name"] == "largest"


# --- which program ---


class Question(dspy.Signature):
    """Answer."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


@pytest.mark.parametrize(
    ("program", "name", "program_id"),
    [
        (Two(), "Two", "two"),
        (dspy.Predict(Question), "Question", "question"),
        (dspy.Predict("question -> answer"), "question_to_answer", "question_to_answer"),
        (
            dspy.ChainOfThought("question -> answer"),
            "question_to_reasoning_answer",
            "question_to_reasoning_answer",
        ),
    ],
    ids=["module", "signature", "string", "chain of thought"],
)
def test_program_nobody_named_is_called_by_its_class_or_its_fields(
    program, name, program_id, ledger, executions
):
    instrument(ledger)
    program(question="why?")
    [execution] = executions()
    assert (execution["program_name"], execution["program_id"]) == (name, program_id)


def test_program_registers_itself_once_and_its_version_is_told_once_it_is_decided(
    ledger, executions, registrations
):
    instrument(ledger)
    program = Two()
    program(question="first")
    [registration] = registrations()
    assert (registration["program_id"], registration["version"]) == ("two", "1.0.0")
    program(question="second")
    Two()(question="another of the same content")
    assert len(registrations()) == 1
    assert [execution["program_version"] for execution in executions()][1:] == ["1.0.0", "1.0.0"]
    hashes = {execution["content_hash"] for execution in executions()}
    assert hashes == {registration["content_hash"]}


def test_changed_program_is_another_version(ledger, executions, registrations):
    instrument(ledger)
    program = Two()
    program(question="first")
    assert len(registrations()) == 1
    program.second.signature = program.second.signature.with_instructions("Be strict.")
    program(question="second")
    program.second.demos.append(dspy.Example(answer="a", score=0.0))
    program(question="third")
    assert [one["version"] for one in registrations()] == ["1.0.0", "1.0.1", "1.0.2"]
    assert len({execution["content_hash"] for execution in executions()}) == 3


def test_program_whose_tools_or_settings_change_is_another_version(ledger, executions):
    def find(query: str) -> str:
        """Find it."""
        return query

    def look(query: str) -> str:
        """Look for it."""
        return query

    agent = dspy.ReAct("question -> answer", tools=[find], max_iters=1)
    instrument(ledger)
    with dspy.context(lm=Answers(next_thought="t", next_tool_name="finish", next_tool_args="{}")):
        for _ in range(3):  # remembered, and watched from then on
            agent(question="?")
        agent.max_iters = 2
        agent(question="?")
        agent.tools["find"] = dspy.Tool(look, name="find")
        agent(question="?")
    hashes = [execution["content_hash"] for execution in executions()]
    assert len(set(hashes)) == 3
    assert hashes[0] == hashes[1] == hashes[2]


def test_program_the_host_registered_keeps_its_name_and_registers_no_other(ledger, executions, registrations):
    manager = ProgramManager(model_manager=ModelManager({"m": Answers()}), ledger=ledger)
    metadata = manager.register_program(Two(), name="The Two")
    instrument(ledger)
    Two()(question="why?")
    [execution] = executions()
    assert (execution["program_id"], execution["program_version"]) == ("the_two", metadata.version)
    assert execution["content_hash"] == metadata.content_hash
    assert len(registrations()) == 1
    dspy.Predict(Question)(question="why?")
    assert len(registrations()) == 2
    assert [one.id for one in manager.list_programs()] == ["question", "the_two"]


def test_programs_made_anew_at_every_request_are_read_once(ledger, executions, registrations, monkeypatch):
    from dspy_ledger.producer import recognition

    read = []
    canonicalize = recognition.canonicalize
    monkeypatch.setattr(
        recognition, "canonicalize", lambda program: read.append(program) or canonicalize(program)
    )
    instrument(ledger)
    for make in (lambda: dspy.Predict("question -> answer"), lambda: dspy.ChainOfThought(Question), Two):
        read.clear()
        for _ in range(10):
            make()(question="why?")
        assert len(read) == 2  # its content, and its registration
    assert len(registrations()) == 3
    assert len({execution["content_hash"] for execution in executions()}) == 3


def test_programs_that_are_gone_are_not_remembered(ledger):
    instrument(ledger)
    recogniser = Recogniser.of(ledger)
    with dspy.context(trace=None):  # which would keep them
        for _ in range(50):
            dspy.Predict("question -> answer")(question="why?")
    assert len(recogniser._remembered) < 10


def test_self_registrations_end_at_20_versions_and_say_so_once(ledger, executions, registrations, caplog):
    instrument(ledger)
    signature = dspy.Signature("question -> answer")
    with caplog.at_level(logging.WARNING, "dspy_ledger"):
        for number in range(25):
            dspy.Predict(signature.with_instructions(f"Today is day {number}."))(question="why?")
    assert len(registrations()) == 20
    late = executions()[20:]
    assert {execution["program_version"] for execution in late} == {None}
    assert len({execution["content_hash"] for execution in late}) == 5
    assert len([record for record in caplog.records if "registered 20 versions" in record.message]) == 1


def test_registration_does_not_wait_for_a_redis_that_hangs(own_valkey, make_settings, make_ledger):
    ledger = make_ledger(settings=make_settings(own_valkey.url))
    assert ledger.flush(10)
    own_valkey.freeze()
    instrument(ledger)
    began = perf_counter()
    for number in range(5):
        dspy.Predict(f"question, hint_{number} -> answer")(question="why?", **{f"hint_{number}": "none"})
    assert perf_counter() - began < 4
    own_valkey.thaw()


# --- track ---


def test_tracked_module_is_recorded_and_no_other(ledger, executions, registrations):
    program = track(Two(), ledger, name="My Two", tags=["mine"])
    assert program(question="why?").score == 1.0
    dspy.Predict("question -> answer")(question="not tracked")
    [execution] = executions()
    assert (execution["program_id"], execution["program_name"]) == ("my_two", "My Two")
    assert execution.tree == TWO
    [registration] = registrations()
    assert registration["tags"] == ["mine"]


async def test_tracked_module_is_recorded_when_awaited_and_when_it_raises(ledger, executions):
    program = track(Two(), ledger)
    await program.acall(question="why?")
    with pytest.raises(TypeError):
        await program.acall(nothing="known")
    ok, failed = executions()
    assert ok.tree == TWO
    assert (failed["status"], failed["error"]["type"]) == ("error", "TypeError")


def test_track_again_replaces_and_a_copy_is_not_tracked(ledger, executions):
    program = track(track(Two(), ledger, name="Before"), ledger, name="After")
    program(question="why?")
    program.deepcopy()(question="not tracked")
    assert [execution["program_name"] for execution in executions()] == ["After"]


def test_tracked_module_that_says_itself_what_is_pickled_is_copied_as_before(ledger):
    tracked = track(Whole(), ledger)
    for copied in (copy.deepcopy(tracked), tracked.deepcopy(), pickle.loads(pickle.dumps(tracked))):
        assert [type(callback) for callback in copied.callbacks] == [Mark]  # which nobody is told of


def test_tracked_module_within_another_is_part_of_it(ledger, executions):
    inner = track(dspy.Predict("question -> answer"), ledger)
    outer = track(Calls(lambda _: inner(question="why?")), ledger)
    outer()
    [execution] = executions()
    assert execution.tree == ["Calls", *below(PREDICT)]


def test_track_and_instrument_record_one_execution_by_the_tracked_name(ledger, executions):
    instrument(ledger)
    program = track(Two(), ledger, name="My Two")
    program(question="why?")
    assert [execution["program_name"] for execution in executions()] == ["My Two"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ledger: track(dspy.Predict, ledger), "takes a dspy.Module"),
        (lambda ledger: track(dspy.Predict("q -> a"), "redis://"), "pass a Ledger"),
        (lambda ledger: track(dspy.Predict("q -> a"), ledger, name=3), "name is a text"),
        (lambda ledger: instrument("redis://"), "pass a Ledger"),
    ],
)
def test_what_can_not_be_tracked_is_refused_with_one_line(call, message, ledger):
    with pytest.raises(InvalidInput, match=message) as refused:
        call(ledger)
    assert "\n" not in str(refused.value)


# --- execute_program ---


async def test_executed_program_is_one_execution_under_instrument(ledger, executions):
    manager = ProgramManager(model_manager=ModelManager({"m": Answers()}), ledger=ledger)
    program = track(Two(), ledger, name="Tracked")
    meta = manager.register_program(program, name="Executed")
    instrument(ledger)
    _, info = await manager.execute_program(meta.id, "m", {"question": "why?"})
    [execution] = executions()
    assert execution["execution_id"] == info.execution_id
    assert (execution["program_id"], execution["model_id"]) == ("executed", "m")
    assert execution.tree == TWO


async def test_executed_program_within_an_execution_records_its_own_calls(ledger, executions):
    manager = ProgramManager(model_manager=ModelManager({"m": Answers()}), ledger=ledger)
    meta = manager.register_program("question -> answer", name="Inner")

    async def execute(ask):
        await ask.acall(question="outside")
        await manager.execute_program(meta.id, "m", {"question": "inside"})

    instrument(ledger)
    await Calls(execute).acall()
    inner, outer = executions()
    assert (inner["program_id"], inner.tree) == ("inner", PREDICT)
    assert (outer["program_id"], outer.tree) == ("calls", ["Calls", *below(PREDICT)])


# --- generators ---


class Counting(dspy.Module):
    """A forward that yields."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, upto: int):
        try:
            for number in range(upto):
                try:
                    sent = yield f"{self.ask(question=str(number)).answer}{number}"
                except KeyError as error:
                    yield f"caught {error.args[0]}"
                else:
                    if sent is not None:
                        yield f"got {sent}"
        finally:
            self.ask(question="cleaning up")
        return "done"


def test_generator_is_one_execution_until_it_is_exhausted(ledger, executions):
    instrument(ledger)
    numbers = Counting()(upto=2)
    assert isinstance(numbers, types.GeneratorType)
    assert inspect.getgeneratorstate(numbers) == inspect.GEN_CREATED
    assert executions() == []
    assert next(numbers) == "a0"
    assert executions() == []
    assert list(numbers) == ["a1"]
    [execution] = executions()
    assert execution["status"] == "ok"
    assert execution.body["outputs"] == ["a0", "a1"]
    assert execution.tree == ["Counting", *below(PREDICT) * 3]
    root, *_, last = execution.body["calls"]
    assert root["start_ms"] + root["duration_ms"] >= last["start_ms"]


def test_generator_takes_what_is_sent_and_thrown_and_returns_its_value(ledger, executions):
    instrument(ledger)
    numbers = Counting()(upto=2)
    assert next(numbers) == "a0"
    assert numbers.send("this") == "got this"
    assert next(numbers) == "a1"
    assert numbers.throw(KeyError("that")) == "caught that"
    with pytest.raises(StopIteration) as stopped:
        next(numbers)
    assert stopped.value.value == "done"
    assert executions()[0].body["outputs"] == ["a0", "got this", "a1", "caught that"]


def test_generator_that_is_closed_or_raises_is_recorded_as_an_error(ledger, executions):
    instrument(ledger)
    numbers = Counting()(upto=2)
    next(numbers)
    numbers.close()
    numbers = Counting()(upto=2)
    next(numbers)
    with pytest.raises(LookupError):
        numbers.throw(IndexError("mine"))
    closed, raised = executions()
    assert (closed["status"], closed["error"]["type"]) == ("error", "GeneratorExit")
    assert closed.body["outputs"] == ["a0"]
    assert closed["call_counts"]["lm"] == 2  # one of them while it was closed
    assert raised["error"] == {"type": "IndexError", "message": "mine"}


def test_generator_keeps_what_it_puts_in_force(ledger, executions):
    def under_another_model(ask):
        with dspy.context(lm=Answers("openai/inner")):
            yield ask(question="1").answer
            yield ask(question="2").answer

    instrument(ledger)
    for _ in Calls(under_another_model)():
        assert dspy.settings.lm.model == "openai/gpt-4o-mini"
    [execution] = executions()
    assert execution["models"] == ["openai/inner"]


class Streaming(dspy.Module):
    """Async generator as forward."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def forward(self, upto: int):
        for number in range(upto):
            await asyncio.sleep(0)
            yield f"{(await self.ask.acall(question=str(number))).answer}{number}"


async def test_async_generator_is_one_execution(ledger, executions):
    instrument(ledger)
    numbers = Streaming()(upto=2)
    assert isinstance(numbers, types.AsyncGeneratorType)
    assert [number async for number in numbers] == ["a0", "a1"]
    left = Streaming()(upto=2)
    assert await anext(left) == "a0"
    await left.aclose()
    whole, closed = executions()
    assert whole.body["outputs"] == ["a0", "a1"]
    assert whole.tree == ["Streaming", *below(PREDICT) * 2]
    assert closed["error"]["type"] == "GeneratorExit"


async def test_forward_that_is_a_coroutine_is_one_execution(ledger, executions):
    async def later(ask):
        await asyncio.sleep(0)
        return await ask.acall(question="why?")

    instrument(ledger)
    assert (await Calls(later)()).answer == "a"
    [execution] = executions()
    assert execution.tree == ["Calls", *below(PREDICT)]
    assert execution.body["outputs"] == {"answer": "a"}


def test_the_name_that_the_host_registers_stands_above_the_one_a_program_gave_itself(ledger, executions):
    instrument(ledger)
    program = dspy.Predict("question -> answer")
    for _ in range(3):  # known by its instance by then
        program(question="why?")
    programs = ProgramManager(model_manager=ModelManager({"m": DummyLM([{"answer": "x"}])}), ledger=ledger)
    programs.register_program(program, name="Support answers")
    program(question="why?")
    dspy.Predict("question -> answer")(question="why?")
    names = [execution["program_id"] for execution in executions()]
    assert names == ["question_to_answer"] * 3 + ["support_answers"] * 2


def test_the_trace_of_a_session_stands_on_its_executions_unless_the_call_names_another(ledger, executions):
    instrument(ledger)
    with session(trace_id="request-1"), session("s"):
        dspy.Predict("question -> answer")(question="why?")
    dspy.Predict("question -> answer")(question="why?")
    assert [execution["trace_id"] for execution in executions()] == ["request-1", None]
