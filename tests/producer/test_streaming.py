"""Streams of DSPy programs: what comes when, and one execution for each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import dspy
import pytest
from dspy.streaming import StatusMessage, StatusMessageProvider, StreamListener, StreamResponse

from dspy_ledger.cli.demo.model_server import ModelServer
from dspy_ledger.errors import InvalidFields, UnknownProgram
from dspy_ledger.producer import (
    ExecutionResult,
    Ledger,
    ModelManager,
    ProgramManager,
    instrument,
    uninstrument,
)
from dspy_ledger.settings import Settings
from producer.streams import entries
from servers import Valkey


@pytest.fixture(scope="module")
def lm() -> Iterator[Any]:
    with ModelServer() as server:
        yield dspy.LM("openai/gpt-4o-mini", api_base=server.url, api_key="sk-none", cache=False)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    ledger = Ledger.connect(settings=settings)
    yield ledger
    uninstrument()
    ledger.close()


@pytest.fixture
def manager(ledger: Ledger, lm: Any) -> ProgramManager:
    manager = ProgramManager(model_manager=ModelManager({"mini": lm}), ledger=ledger)
    manager.register_program(Question, name="QA")
    return manager


@pytest.fixture
def executions(ledger: Ledger, valkey: Valkey, settings: Settings) -> Callable[[], list[dict[str, Any]]]:
    """The data of all executions, each with its body."""

    def read() -> list[dict[str, Any]]:
        assert ledger.flush(10)
        assert ledger.stats().dropped == 0
        return [
            {**entry.envelope["data"], "body": json.loads(entry.body or b"{}")}
            for entry in entries(valkey, settings)
            if ".ExecutionCompleted." in entry.type
        ]

    return read


class Question(dspy.Signature):
    """Answer."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()

    @staticmethod
    def process_output(result):
        return result.answer.upper()


class Awaited(dspy.Module):
    """Its ``aforward`` is awaited, not run in a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str):
        return await self.ask.acall(question=question)


class Failing(dspy.Module):
    async def aforward(self, question: str):
        raise ZeroDivisionError(question)


async def test_stream_ends_with_what_execute_program_returns(manager, executions):
    items = [item async for item in manager.stream_program("qa", "mini", {"question": "why?"}, trace_id="t1")]
    *chunks, last = items
    assert chunks
    assert isinstance(last, ExecutionResult)
    result, info = last
    assert result == info.prediction.answer.upper()
    [execution] = executions()
    assert execution["execution_id"] == info.execution_id
    assert (execution["program_id"], execution["program_version"]) == ("qa", "1.0.0")
    assert (execution["model_id"], execution["trace_id"]) == ("mini", "t1")
    assert 0 < execution["time_to_first_chunk_ms"] <= execution["latency_ms"]
    assert execution["usage"] == info.usage != {}
    assert execution["body"]["outputs"] == {"answer": info.prediction.answer}


async def test_stream_of_one_field_comes_through_its_listener(manager, executions):
    stream = manager.stream_program(
        "qa", "mini", {"question": "why?"}, stream_listeners=[StreamListener(signature_field_name="answer")]
    )
    *chunks, (_, info) = [item async for item in stream]
    assert {type(chunk) for chunk in chunks} == {StreamResponse}
    assert "".join(chunk.chunk for chunk in chunks) == info.prediction.answer
    assert len(executions()) == 1


async def test_status_messages_are_no_first_chunk(manager, executions):
    class Status(StatusMessageProvider):
        def lm_start_status_message(self, instance, inputs):
            return "asking"

    stream = manager.stream_program("qa", "mini", {"question": "why?"}, status_message_provider=Status())
    first, second, *_ = [item async for item in stream]
    assert isinstance(first, StatusMessage)
    assert not isinstance(second, StatusMessage)
    [execution] = executions()
    starts = [call["start_ms"] for call in execution["body"]["calls"] if call["kind"] == "lm"]
    assert execution["time_to_first_chunk_ms"] > starts[0]


@pytest.mark.parametrize("program", ["qa", "awaited"])
async def test_stream_that_is_left_cancels_the_program_and_is_recorded_as_an_error(
    program, manager, executions
):
    manager.register_program(Awaited(), name="Awaited")
    async with aclosing(manager.stream_program(program, "mini", {"question": "why?"})) as stream:
        async for _ in stream:
            break
    [execution] = executions()
    assert (execution["status"], execution["error"]["type"]) == ("error", "CancelledError")
    assert execution["time_to_first_chunk_ms"] > 0


async def test_exception_of_the_program_is_raised_unchanged_and_recorded(manager, executions):
    manager.register_program(Failing(), name="Failing")
    with pytest.raises(ZeroDivisionError, match="why") as raised:
        async for _ in manager.stream_program("failing", "mini", {"question": "why?"}):
            pass
    [execution] = executions()
    assert raised.value.__notes__ == [f"execution_id={execution['execution_id']}"]
    assert execution["error"]["type"] == "ZeroDivisionError"


@pytest.mark.parametrize(
    ("program", "inputs", "error"),
    [("unknown", {"question": "why?"}, UnknownProgram), ("qa", {"query": "why?"}, InvalidFields)],
)
async def test_what_can_not_run_is_said_before_any_model_is_called(
    program, inputs, error, manager, executions
):
    with pytest.raises(error):
        await anext(manager.stream_program(program, "mini", inputs))
    assert executions() == []


async def test_concurrent_streams_do_not_mix(manager, executions):
    async def stream(number: int) -> tuple[str, str]:
        async for item in manager.stream_program("qa", "mini", {"question": f"what is {number}?"}):
            last = item
        return last.info.execution_id, last.info.prediction.answer

    told = dict(await asyncio.gather(*(stream(number) for number in range(8))))
    assert {one["execution_id"]: one["body"]["outputs"]["answer"] for one in executions()} == told
    assert {one["call_counts"]["lm"] for one in executions()} == {1}


@pytest.mark.parametrize("listeners", [[], ["answer"]])
@pytest.mark.parametrize("is_async", [False, True])
async def test_streamified_program_is_one_execution_under_instrument(
    is_async, listeners, ledger, lm, executions
):
    instrument(ledger)
    streamed = dspy.streamify(
        dspy.Predict(Question),
        is_async_program=is_async,
        stream_listeners=[StreamListener(signature_field_name=name) for name in listeners],
    )
    with dspy.context(lm=lm):
        items = [item async for item in streamed(question="why?")]
    assert isinstance(items[-1], dspy.Prediction)
    [execution] = executions()
    assert (execution["status"], execution["program_id"]) == ("ok", "question")
    assert 0 < execution["time_to_first_chunk_ms"] <= execution["latency_ms"]
    assert execution["call_counts"] == {"module": 1, "adapter": 2, "lm": 1}
    assert execution["usage"]["input_tokens"] > 0


def test_program_streamified_for_synchronous_readers_is_one_execution(ledger, lm, executions):
    instrument(ledger)
    streamed = dspy.streamify(dspy.Predict(Question), async_streaming=False)
    with dspy.context(lm=lm):
        items = list(streamed(question="why?"))
    assert isinstance(items[-1], dspy.Prediction)
    assert [execution["status"] for execution in executions()] == ["ok"]
    assert executions()[0]["time_to_first_chunk_ms"] > 0
