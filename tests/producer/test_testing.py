"""The ledger for users' own tests: what it keeps, what its assertions say."""

from __future__ import annotations

import threading

import dspy
import pytest
from dspy.utils import DummyLM

from dspy_ledger.errors import InvalidInput
from dspy_ledger.producer import ModelManager, ProgramManager
from dspy_ledger.producer.testing import MemoryLedger
from dspy_ledger.settings import load_settings


class Answer(dspy.Signature):
    """Answer briefly."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger(_env_file=None)


@pytest.fixture
def programs(ledger: MemoryLedger) -> ProgramManager:
    models = ModelManager({"small": DummyLM([{"answer": "4"}] * 10)})
    return ProgramManager(model_manager=models, ledger=ledger)


async def test_an_execution_is_there_when_the_call_returns(ledger, programs) -> None:
    meta = programs.register_program(Answer, "Short answer")
    assert (meta.version, meta.provisional) == ("1.0.0", False)
    await programs.execute_program(meta.id, "small", {"question": "2 + 2?"})
    [execution] = ledger.assert_executed("short_answer", times=1, program_version="1.0.0", status="ok")
    assert execution.body["inputs"] == {"question": "2 + 2?"}
    assert execution.body["outputs"] == {"answer": "4"}
    [registration] = ledger.registrations
    assert registration.data["version"] == "1.0.0"
    assert [event.sequence for event in ledger.events()] == [1, 2]
    stats = ledger.stats()
    assert (stats.recorded, stats.stored, stats.dropped) == (2, 2, 0)


async def test_versions_are_decided_and_programs_loaded_as_on_a_real_ledger(ledger, programs) -> None:
    programs.register_program(Answer, "Short answer")
    changed = programs.register_program(Answer.with_instructions("Answer in one word."), "Short answer")
    assert changed.version == "1.0.1"
    loaded = programs.load_program("short_answer", "1.0.1", into=Answer)
    assert loaded.signature.instructions == "Answer in one word."


async def test_a_failed_assertion_lists_what_was_executed(ledger, programs) -> None:
    meta = programs.register_program(Answer, "Short answer")
    await programs.execute_program(meta.id, "small", {"question": "?"})
    with pytest.raises(AssertionError) as failed:
        ledger.assert_executed("short_answer", status="error")
    assert str(failed.value) == (
        "expected at least one execution with {'program_id': 'short_answer', 'status': 'error'}, found 0;"
        " executed were:\n  program_id='short_answer', program_version='1.0.0', model_id='small', status='ok'"
    )
    with pytest.raises(AssertionError, match="expected 2 executions with anything, found 1"):
        ledger.assert_executed(times=2)
    ledger.clear()
    with pytest.raises(AssertionError, match=r"nothing$"):
        ledger.assert_executed()


def test_feedback_and_evaluations_are_kept(ledger, programs) -> None:
    meta = programs.register_program(Answer, "Short answer")
    programs.save_evaluation_result(meta.id, "small", {"accuracy": 0.9})
    programs.save_feedback("some-execution", score=1)
    assert [one.data["results"] for one in ledger.evaluations] == [
        {"accuracy": 0.9},
        {"score": 1, "comment": None},
    ]
    with pytest.raises(ValueError, match="there is no event 'Executed'"):
        ledger.events("Executed")


def test_what_could_not_be_recorded_fails_the_test_that_asks(ledger) -> None:
    ledger.assert_nothing_lost()
    ledger.record("NoSuchEvent", {})
    with pytest.raises(AssertionError, match="1 events could not be recorded"):
        ledger.assert_nothing_lost()


def test_threads_share_one_ledger_and_its_end_is_quiet(ledger) -> None:
    threads = [
        threading.Thread(
            target=lambda: [ledger.record("BodyErased", {"event_ids": [], "reason": "x"}) for _ in range(50)]
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event.sequence for event in ledger.events()) == list(range(1, 201))
    assert ledger.flush(until="stored")
    ledger.close()


def test_it_stands_in_where_a_ledger_is_connected(monkeypatch) -> None:
    settings = load_settings(service="llm", _env_file=None)
    with MemoryLedger.connect("redis://anywhere", settings=settings, environment="test") as ledger:
        ledger.record("BodyErased", {"event_ids": [], "reason": "x"})
        assert len(ledger.events("BodyErased", reason="x")) == 1


def test_the_environment_decides_nothing_in_a_test(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DSPY_LEDGER_SAMPLE_RATE", "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("DSPY_LEDGER_CAPTURE_INPUTS=false\n")
    assert MemoryLedger().settings.sample_rate == 1
    assert MemoryLedger().settings.capture_inputs is True
    assert MemoryLedger(sample_rate=0.5).settings.sample_rate == 0.5
    with pytest.raises(InvalidInput, match=r"did you mean .capture_inputs"):
        MemoryLedger(capture_imputs=False)
