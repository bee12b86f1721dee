"""Registering, running, loading and evaluating programs, as an LLM server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator

import dspy
import pytest
from dspy.utils import DummyLM

from dspy_ledger.errors import (
    InvalidFields,
    InvalidInput,
    InvalidProgram,
    UnknownModel,
    UnknownProgram,
    UnknownVersion,
    VersionNotRunnable,
)
from dspy_ledger.producer import Ledger, ModelManager, Predictor, ProgramManager
from dspy_ledger.settings import Settings
from dspy_ledger.wire import Entry
from producer.streams import entries
from servers import Valkey

MODEL = "gpt-4o-mini"


class Answers(DummyLM):
    """Answers every request alike; the adapter's markers are DummyLM's."""

    def __init__(self, model: str = "openai/gpt-4o-mini", **fields: object) -> None:
        super().__init__(
            [{name: str(value) for name, value in (fields or {"output": "an answer"}).items()}] * 1000
        )
        self.model = model


class CustomExtractor(dspy.Signature):
    """Extract specific information from text."""

    input: str = dspy.InputField()
    entity: str = dspy.OutputField()
    attributes: list = dspy.OutputField()

    @classmethod
    def process_output(cls, result):
        return {"entity": result.entity, "attributes": result.attributes}


class Failing(dspy.Module):
    def forward(self, question: str):
        raise RuntimeError(f"can't answer {question}")


class Slow(dspy.Module):
    """Only a ``forward``, with a predictor inside."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> output")

    def forward(self, question: str):
        return self.answer(question=question)


@pytest.fixture
def make_manager(settings: Settings) -> Iterator[Callable[..., ProgramManager]]:
    """A new process, as far as the ledger can tell: its own ledger and its own memory."""
    made: list[ProgramManager] = []

    def make(
        models: dict[str, object] | None = None, ledger_settings: Settings | None = None
    ) -> ProgramManager:
        ledger = Ledger.connect(settings=ledger_settings or settings)
        made.append(ProgramManager(model_manager=ModelManager(models or {MODEL: Answers()}), ledger=ledger))
        return made[-1]

    yield make
    for manager in made:
        manager.ledger.close()


@pytest.fixture
def manager(make_manager: Callable[..., ProgramManager]) -> ProgramManager:
    return make_manager()


def registered(manager: ProgramManager):
    return manager.register_program(
        program_class=Predictor,
        name="Text Completion",
        description="Basic text completion signature",
        tags=["text", "completion"],
    )


def run(manager: ProgramManager, **more):
    arguments = {"program_id": "text_completion", "model_id": MODEL, "input_data": {"input": "hello"}, **more}
    return asyncio.run(manager.execute_program(**arguments))


def few_shot(answer: str = "b"):
    example = dspy.Example(input="a", output=answer).with_inputs("input")
    return dspy.LabeledFewShot(k=1).compile(dspy.Predict(Predictor), trainset=[example])


def sent(manager: ProgramManager, valkey: Valkey, kind: str) -> list[Entry]:
    assert manager.ledger.flush(5)
    return [e for e in entries(valkey, manager.ledger.settings) if f".{kind}." in e.type]


# --- registering ---


def test_registering_gives_an_id_a_version_and_a_content_hash(manager, valkey) -> None:
    metadata = registered(manager)
    assert (metadata.id, metadata.version, metadata.provisional) == ("text_completion", "1.0.0", False)
    assert metadata.content_hash.startswith("c1:")
    [event] = sent(manager, valkey, "ProgramRegistered")
    assert event.event_id == metadata.event_id
    data = event.envelope["data"]
    assert data["tags"] == ["text", "completion"]
    assert data["signature"]["instructions"] == "Complete or answer the input text."
    assert data["source_code"].startswith("class Predictor(dspy.Signature)")
    assert len(data["code_hash"]) == 8
    assert json.loads(event.body)["form"]["form"] == 1


def test_registering_the_same_again_answers_from_memory_and_sends_nothing(
    own_valkey, make_settings, make_manager
) -> None:
    manager = make_manager(ledger_settings=make_settings(own_valkey.url))
    first = registered(manager)
    own_valkey.freeze()
    assert registered(manager) == first  # had Redis been asked, it would be provisional
    own_valkey.thaw()
    assert len(sent(manager, own_valkey, "ProgramRegistered")) == 1


def test_another_process_registering_the_same_gets_the_same_version(make_manager) -> None:
    assert registered(make_manager()).version == "1.0.0"
    assert registered(make_manager()).version == "1.0.0"


def test_only_a_new_description_keeps_the_version_and_sends_an_event(manager, valkey) -> None:
    registered(manager)
    again = manager.register_program(Predictor, name="Text Completion", description="better", tags=["text"])
    assert (again.version, again.description) == ("1.0.0", "better")
    assert len(sent(manager, valkey, "ProgramRegistered")) == 2


def test_changed_instructions_are_a_patch_and_a_new_output_is_a_minor(manager) -> None:
    registered(manager)
    reworded = manager.register_program(Predictor.with_instructions("Be brief."), name="Text Completion")
    wider = Predictor.append("reason", dspy.OutputField(), str).with_instructions("Be brief.")
    assert reworded.version == "1.0.1"
    assert manager.register_program(wider, name="Text Completion").version == "1.1.0"
    assert registered(manager).version == "1.0.0"  # rolling back is no new version


@pytest.mark.parametrize(
    "program", ["question -> answer", dspy.ChainOfThought("question -> answer"), Slow, Slow()]
)
def test_strings_modules_and_module_classes_are_programs_too(manager, program) -> None:
    assert manager.register_program(program, name="Other").version == "1.0.0"


@pytest.mark.parametrize("program", [5, None, "no arrow", dict, object()])
def test_what_is_no_program_is_refused_with_what_to_pass(manager, program) -> None:
    with pytest.raises(InvalidProgram, match="pass"):
        manager.register_program(program, name="X")


def test_a_given_version_is_taken_and_one_that_is_no_semver_is_refused(manager) -> None:
    assert manager.register_program(Predictor, name="A", version="2.3.4").version == "2.3.4"
    with pytest.raises(InvalidInput, match=r"'1\.x'"):
        manager.register_program(Predictor, name="B", version="1.x")


def test_a_given_version_taken_by_other_content_gives_the_next_with_a_warning(manager) -> None:
    manager.register_program(Predictor, name="A", version="1.0.0")
    with pytest.warns(UserWarning, match=r"1\.0\.0.*1\.0\.1"):
        other = manager.register_program(Predictor.with_instructions("x"), name="A", version="1.0.0")
    assert other.version == "1.0.1"


def test_the_name_of_the_class_is_taken_when_none_is_given(manager) -> None:
    assert manager.register_program(CustomExtractor).id == "customextractor"


def test_an_optimized_program_is_the_next_minor_of_its_parent(manager, valkey) -> None:
    parent = registered(manager)
    optimized = manager.register_optimized_program(
        program_class=few_shot(),
        parent_id=parent.id,
        optimizer_name="dspy.teleprompt.BootstrapFewShot",
        description="Optimized with bootstrapped few-shot examples",
    )
    assert (optimized.version, optimized.parent_id, optimized.parent_version) == ("1.1.0", parent.id, "1.0.0")
    data = sent(manager, valkey, "ProgramRegistered")[1].envelope["data"]
    assert data["optimizer"]["name"] == "dspy.teleprompt.BootstrapFewShot"
    assert data["optimizer"]["changed"] is True
    assert data["tags"] == ["text", "completion"]


def test_a_variant_registered_again_keeps_its_parent_and_each_run_is_an_event(manager, valkey) -> None:
    parent = registered(manager)
    for score in (1, 2, 2):
        again = manager.register_optimized_program(few_shot(), parent.id, optimizer_name="L", score=score)
        assert (again.version, again.parent_version) == ("1.1.0", "1.0.0")
    plain = manager.register_program(few_shot(), name="Text Completion")
    assert (plain.version, plain.parent_version) == ("1.1.0", "1.0.0")
    data = [e.envelope["data"] for e in sent(manager, valkey, "ProgramRegistered")]
    assert [(d["optimizer"] or {}).get("score") for d in data] == [None, 1, 2, None]
    assert {d["parent_version"] for d in data[1:3]} == {"1.0.0"}


def test_an_optimized_program_with_a_name_is_a_program_of_its_own(manager) -> None:
    parent = registered(manager)
    own = manager.register_optimized_program(
        few_shot(), parent_id=parent.id, optimizer_name="LabeledFewShot", name="Brief"
    )
    assert (own.id, own.version, own.parent_id, own.parent_version) == ("brief", "1.0.0", parent.id, "1.0.0")


def test_an_optimizer_that_changed_nothing_keeps_the_parents_version_and_says_so(manager, valkey) -> None:
    parent = registered(manager)
    with pytest.warns(UserWarning, match="changed nothing"):
        same = manager.register_optimized_program(
            dspy.Predict(Predictor), parent_id=parent.id, optimizer_name="LabeledFewShot"
        )
    assert same.version == "1.0.0"
    assert sent(manager, valkey, "ProgramRegistered")[1].envelope["data"]["optimizer"]["changed"] is False


def test_optimizing_an_unknown_parent_says_which_are_known(manager) -> None:
    registered(manager)
    with pytest.raises(UnknownProgram, match="known: text_completion"):
        manager.register_optimized_program(few_shot(), parent_id="nope", optimizer_name="X")


def test_demos_are_not_recorded_when_that_is_switched_off(make_manager, make_settings, valkey) -> None:
    manager = make_manager(ledger_settings=make_settings(valkey.url, capture_demos=False))
    registered(manager)
    assert sent(manager, valkey, "ProgramRegistered")[0].body is None
    other = make_manager()
    with pytest.raises(VersionNotRunnable, match="without its state"):
        other.load_program("text_completion", "1.0.0", into=Predictor)


# --- running ---


def test_running_returns_the_prediction_and_what_is_known_of_the_execution(manager, valkey) -> None:
    metadata = registered(manager)
    result, info = run(manager, trace_id="t-1")
    assert result.output == "an answer"
    assert (info.program_version, info.content_hash) == ("1.0.0", metadata.content_hash)
    assert (info.models, info.model_pinned, info.trace_id) == ([MODEL], False, "t-1")
    assert info.model_info == {"provider": "openai", "base_model": MODEL, "model_name": f"openai/{MODEL}"}
    assert info.latency_ms > 0
    [event] = sent(manager, valkey, "ExecutionCompleted")
    assert event.event_id == info.execution_id
    data, body = event.envelope["data"], json.loads(event.body)
    assert (data["status"], data["trace_id"], data["model_id"]) == ("ok", "t-1", MODEL)
    assert (body["inputs"], body["outputs"]) == ({"input": "hello"}, {"output": "an answer"})


def test_nested_calls_are_recorded_with_their_parents(manager, valkey) -> None:
    manager.register_program(Slow(), name="Slow")
    run(manager, program_id="slow", input_data={"question": "why"})
    [event] = sent(manager, valkey, "ExecutionCompleted")
    calls = json.loads(event.body)["calls"]
    shape = [(call["kind"], call["name"], call["parent"]) for call in calls]
    assert shape[:2] == [("module", "Slow", None), ("module", "Predict", 0)]
    assert ("lm", f"openai/{MODEL}", 1) in shape
    assert all(call["duration_ms"] >= 0 for call in calls)
    assert event.envelope["data"]["call_counts"]["lm"] == 1


def test_process_output_makes_the_result_and_the_raw_fields_are_recorded(make_manager, valkey) -> None:
    manager = make_manager({MODEL: Answers(entity="Ada", attributes='["mathematician"]')})
    manager.register_program(CustomExtractor, name="Custom Extractor")
    result, info = run(manager, program_id="custom_extractor", input_data={"input": "Ada was …"})
    assert result == {"entity": "Ada", "attributes": ["mathematician"]}
    assert info.prediction.entity == "Ada"
    body = json.loads(sent(manager, valkey, "ExecutionCompleted")[0].body)
    assert body["outputs"] == {"entity": "Ada", "attributes": ["mathematician"]}


def test_a_compiled_program_keeps_its_parents_process_output(make_manager) -> None:
    manager = make_manager({MODEL: Answers(entity="Ada", attributes="[]")})
    parent = manager.register_program(CustomExtractor, name="Custom Extractor")
    example = dspy.Example(input="a", entity="b", attributes=[]).with_inputs("input")
    compiled = dspy.LabeledFewShot(k=1).compile(dspy.Predict(CustomExtractor), trainset=[example])
    manager.register_optimized_program(compiled, parent_id=parent.id, optimizer_name="LabeledFewShot")
    result, info = run(manager, program_id=parent.id)
    assert (info.program_version, result["entity"]) == ("1.1.0", "Ada")


def test_a_program_that_raises_is_recorded_and_its_exception_comes_unchanged(manager, valkey) -> None:
    manager.register_program(Failing, name="Failing")
    with pytest.raises(RuntimeError, match="can't answer why") as raised:
        run(manager, program_id="failing", input_data={"question": "why"})
    data = sent(manager, valkey, "ExecutionCompleted")[0].envelope["data"]
    assert data["status"] == "error"
    assert data["error"] == {"type": "RuntimeError", "message": "can't answer why"}
    assert raised.value.__notes__ == [f"execution_id={data['execution_id']}"]


def test_a_cancelled_call_is_recorded_as_such_and_stays_cancelled(manager, valkey) -> None:
    entered = asyncio.Event()

    class Waiting(dspy.Module):
        async def aforward(self, question: str):
            entered.set()
            await asyncio.Event().wait()

    manager.register_program(Waiting(), name="Waiting")

    async def cancel() -> None:
        task = asyncio.create_task(manager.execute_program("waiting", MODEL, {"question": "x"}))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert (
        sent(manager, valkey, "ExecutionCompleted")[0].envelope["data"]["error"]["type"] == "CancelledError"
    )


def test_concurrent_calls_on_different_models_do_not_mix(make_manager, valkey) -> None:
    models = {f"m{n}": Answers(f"openai/m{n}", output=f"from m{n}") for n in range(8)}
    manager = make_manager(models)
    registered(manager)
    manager.register_program(Slow(), name="Slow")  # one in DSPy's worker threads

    async def all_at_once():
        return await asyncio.gather(
            *(
                manager.execute_program(program, f"m{n % 8}", {field: "x"})
                for n in range(64)
                for program, field in (("text_completion", "input"), ("slow", "question"))
            )
        )

    for result, info in asyncio.run(all_at_once()):
        assert result.output == f"from {info.model_id}"
        assert info.models == [info.model_id]
    for event in sent(manager, valkey, "ExecutionCompleted"):
        calls = [call for call in json.loads(event.body)["calls"] if call["kind"] == "lm"]
        assert [call["model"] for call in calls] == [event.envelope["data"]["model_info"]["model_name"]]


def test_a_pinned_model_answers_and_is_said_to(manager) -> None:
    program = dspy.Predict(Predictor)
    program.lm = Answers("openai/other", output="pinned")
    manager.register_program(program, name="Pinned")
    result, info = run(manager, program_id="pinned")
    assert (result.output, info.models, info.model_pinned) == ("pinned", ["openai/other"], True)


def test_inputs_and_outputs_are_not_recorded_when_that_is_switched_off(
    make_manager, make_settings, valkey
) -> None:
    settings = make_settings(valkey.url, capture_inputs=False, capture_outputs=False)
    manager = make_manager(ledger_settings=settings)
    registered(manager)
    run(manager)
    event = sent(manager, valkey, "ExecutionCompleted")[0]
    assert set(json.loads(event.body)) == {"calls"}
    assert b"hello" not in event.body
    assert b"an answer" not in event.body


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"program_id": "nope"}, UnknownProgram, "unknown program 'nope' .known: text_completion."),
        ({"model_id": "nope"}, UnknownModel, f"unknown model 'nope' .known: {MODEL}."),
        ({"program_version": "9.9.9"}, UnknownVersion, r"no version '9\.9\.9' .known: 1\.0\.0."),
        ({"input_data": {"inptu": "x"}}, InvalidFields, "unknown inptu; missing input .expected: input."),
        ({"input_data": {}}, InvalidFields, "missing input"),
        ({"input_data": "text"}, InvalidFields, "pass a dict"),
    ],
)
def test_a_wrong_call_says_what_was_wrong_before_any_model_is_called(
    make_manager, arguments, error, says
) -> None:
    lm = Answers()
    manager = make_manager({MODEL: lm})
    registered(manager)
    with pytest.raises(error, match=says):
        run(manager, **arguments)
    assert lm.history == []


def test_a_program_changed_after_it_was_registered_is_not_recorded_as_what_it_was(
    manager, valkey, caplog
) -> None:
    program = dspy.Predict(Predictor)
    manager.register_program(program, name="Changing")
    program.demos = [dspy.Example(input="a", output="b")]
    _, info = run(manager, program_id="changing")
    assert "changed after it was registered" in caplog.text
    assert info.program_version is None
    assert sent(manager, valkey, "ExecutionCompleted")[0].envelope["data"]["program_version"] is None
    assert manager.register_program(program, name="Changing").content_hash == info.content_hash


class Checked(dspy.ChainOfThought):
    """Overrides ``forward`` alone: its parent's ``aforward`` would pass it by."""

    def forward(self, **inputs):
        prediction = super().forward(**inputs)
        prediction.output = f"checked: {prediction.output}"
        return prediction


def test_a_subclass_that_overrides_forward_alone_is_not_passed_by(make_manager) -> None:
    manager = make_manager({MODEL: Answers(reasoning="r", output="raw")})
    manager.register_program(Checked("question -> output"), name="Checked")
    assert run(manager, program_id="checked", input_data={"question": "x"})[0].output == "checked: raw"


class Stubborn:
    def toDict(self):  # noqa: N802  DSPy's name for it
        raise RuntimeError("no")


def test_an_output_that_can_not_be_taken_apart_is_described_and_the_host_has_its_result(
    manager, valkey
) -> None:
    class Odd(dspy.Module):
        def forward(self, question: str):
            return dspy.Prediction(output=Stubborn(), other=1)

    manager.register_program(Odd(), name="Odd")
    result, _ = run(manager, program_id="odd", input_data={"question": "x"})
    assert isinstance(result.output, Stubborn)
    outputs = json.loads(sent(manager, valkey, "ExecutionCompleted")[0].body)["outputs"]
    assert outputs["other"] == 1
    assert "Stubborn" in outputs["output"]["type"]


def test_an_exception_that_takes_no_notes_comes_unchanged(manager, valkey) -> None:
    class Sealed(ValueError):
        __notes__ = "mine"

    class Raising(dspy.Module):
        def forward(self, question: str):
            raise Sealed("x")

    manager.register_program(Raising(), name="Raising")
    with pytest.raises(Sealed, match="x"):
        run(manager, program_id="raising", input_data={"question": "x"})
    assert len(sent(manager, valkey, "ExecutionCompleted")) == 1


def test_an_execution_within_an_execution_counts_its_own_calls_only(manager, valkey) -> None:
    class Outer(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = dspy.Predict("question -> output")

        async def aforward(self, question: str):
            await manager.execute_program("text_completion", MODEL, {"input": question})
            return await self.own.acall(question=question)

    registered(manager)
    manager.register_program(Outer(), name="Outer")
    run(manager, program_id="outer", input_data={"question": "x"})
    counts = [e.envelope["data"]["call_counts"]["lm"] for e in sent(manager, valkey, "ExecutionCompleted")]
    assert counts == [1, 1]


def test_a_model_copied_by_a_wrapper_is_still_that_model(make_manager) -> None:
    manager = make_manager({MODEL: Answers(), "same-name": Answers()})
    best = dspy.BestOfN(dspy.Predict(Predictor), N=2, reward_fn=lambda *_: 0.0, threshold=1.0)
    manager.register_program(best, name="Best")
    assert run(manager, program_id="best")[1].models == [MODEL]


def test_with_nothing_captured_an_error_does_not_quote_what_went_in(
    make_manager, make_settings, valkey
) -> None:
    manager = make_manager(ledger_settings=make_settings(valkey.url, capture_inputs=False))
    manager.register_program(Failing, name="Failing")
    with pytest.raises(RuntimeError):
        run(manager, program_id="failing", input_data={"question": "my secret"})
    [event] = sent(manager, valkey, "ExecutionCompleted")
    assert event.envelope["data"]["error"] == {"type": "RuntimeError", "message": "(not captured)"}
    assert b"my secret" not in event.payload + event.body


def test_metadata_that_is_no_mapping_is_refused_before_any_model_is_called(manager) -> None:
    registered(manager)
    with pytest.raises(InvalidInput, match="metadata is a mapping"):
        run(manager, metadata=["x"])


# --- loading and versions ---


def test_another_process_loads_the_optimized_version_and_runs_it(make_manager) -> None:
    first = make_manager()
    parent = registered(first)
    optimized = first.register_optimized_program(
        few_shot(), parent_id=parent.id, optimizer_name="LabeledFewShot"
    )
    second = make_manager()
    program = second.load_program(parent.id, "1.1.0", into=Predictor)
    assert [demo["output"] for demo in program.demos] == ["b"]
    _, info = run(second)
    assert (info.program_version, info.content_hash) == ("1.1.0", optimized.content_hash)


def test_latest_is_what_this_process_registered_last_even_if_others_went_on(make_manager) -> None:
    first, second = make_manager(), make_manager()
    registered(first)
    parent = registered(second)
    second.register_optimized_program(few_shot(), parent_id=parent.id, optimizer_name="LabeledFewShot")
    assert run(first)[1].program_version == "1.0.0"
    assert run(first, program_version="1.1.0")[1].program_version == "1.1.0"  # its code fits: loaded


def test_a_prerelease_is_never_latest(manager) -> None:
    registered(manager)
    manager.register_program(Predictor.with_instructions("x"), name="Text Completion", version="2.0.0-rc.1")
    assert manager.get_program("text_completion").version == "1.0.0"
    assert run(manager)[1].program_version == "1.0.0"
    manager.register_program(Predictor, name="Early", version="0.9.0-beta")
    with pytest.raises(UnknownVersion, match="a pre-release is never the latest, name it"):
        run(manager, program_id="early")
    assert run(manager, program_version="2.0.0-rc.1")[1].program_version == "2.0.0-rc.1"


def test_a_version_whose_code_this_process_lacks_says_what_differs(make_manager) -> None:
    make_manager().register_program(Slow(), name="Text Completion", version="5.0.0")
    with pytest.raises(VersionNotRunnable, match="holds no code"):
        run(make_manager())
    second = make_manager()
    registered(second)
    with pytest.raises(VersionNotRunnable):
        run(second, program_version="5.0.0")


def test_questions_are_answered_for_what_other_processes_registered(make_manager) -> None:
    first, second = make_manager(), make_manager()
    parent = registered(first)
    first.register_optimized_program(few_shot(), parent_id=parent.id, optimizer_name="LabeledFewShot")
    first.register_optimized_program(
        few_shot("c"),
        parent_id=parent.id,
        parent_version="1.0.0",
        optimizer_name="LabeledFewShot",
        name="Brief",
    )
    assert [m.id for m in second.list_programs()] == ["brief", "text_completion"]
    assert [m.id for m in second.list_programs(tags=["text", "completion"])] == ["brief", "text_completion"]
    assert second.list_programs(tags=["nope"]) == []
    assert [m.version for m in second.list_program_versions(parent.id)] == ["1.0.0", "1.1.0"]
    assert second.get_program(parent.id, "1.0.0").description == "Basic text completion signature"
    tree = second.get_program_tree(parent.id)
    assert [v["version"] for v in tree["versions"][0]["children"]] == ["1.1.0"]
    assert [m.model_id for m in second.get_available_models()] == [MODEL]
    with pytest.raises(UnknownProgram):
        second.get_program_tree("nope")


# --- evaluating ---


def test_evaluations_and_feedback_are_recorded(manager, valkey) -> None:
    metadata = registered(manager)
    saved = manager.save_evaluation_result(
        program_id=metadata.id,
        model_id=MODEL,
        results={"accuracy": 0.95, "latency_ms": 250, "test_cases": 100},
        rows=[{"score": 1}],
    )
    _, info = run(manager)
    feedback = manager.save_feedback(info.execution_id, score=1, comment="good", user="ada")
    evaluation, of_execution = sent(manager, valkey, "EvaluationSaved")
    assert (evaluation.event_id, of_execution.event_id) == (saved.event_id, feedback.event_id)
    data = evaluation.envelope["data"]
    assert (data["program_version"], data["content_hash"]) == ("1.0.0", metadata.content_hash)
    assert data["results"] == {"accuracy": 0.95, "latency_ms": 250, "test_cases": 100}
    assert json.loads(evaluation.body) == {"scores": [1], "rows": [{"score": 1}]}
    data = of_execution.envelope["data"]
    assert (data["execution_id"], data["results"]) == (info.execution_id, {"score": 1, "comment": "good"})
    assert "program_id" not in data


def test_an_evaluation_of_what_is_not_known_says_what_is(manager) -> None:
    registered(manager)
    for arguments, error in (
        ({"program_id": "nope", "model_id": MODEL}, UnknownProgram),
        ({"program_id": "text_completion", "model_id": "nope"}, UnknownModel),
        ({"program_id": "text_completion", "model_id": MODEL, "program_version": "7.0.0"}, UnknownVersion),
    ):
        with pytest.raises(error, match="known:"):
            manager.save_evaluation_result(results={}, **arguments)


def test_arguments_of_a_wrong_kind_are_refused_at_once_and_numbers_for_ids_are_taken(manager, valkey) -> None:
    registered(manager)
    for wrong in (
        lambda: manager.register_program(Predictor, name=5),
        lambda: manager.register_program(Predictor, name="A", description=5),
        lambda: manager.register_program(Predictor, name="A", tags=[5]),
        lambda: manager.register_optimized_program(few_shot(), "text_completion", optimizer_name=dict),
        lambda: manager.register_optimized_program(
            few_shot(), "text_completion", optimizer_name="X", score="1"
        ),
        lambda: manager.save_evaluation_result("text_completion", MODEL, {}, metric_name=len),
        lambda: manager.save_evaluation_result("text_completion", MODEL, {}, dataset="squad"),
        lambda: manager.save_evaluation_result("text_completion", MODEL, {}, evaluation_id="x" * 600),
    ):
        with pytest.raises(InvalidInput):
            wrong()
    manager.save_evaluation_result("text_completion", MODEL, {}, evaluation_id=7)
    manager.save_feedback(run(manager, trace_id=12)[1].execution_id, score=1, user=42)
    assert len(sent(manager, valkey, "EvaluationSaved")) == 2  # decoded: each is a valid event
    assert sent(manager, valkey, "ExecutionCompleted")[0].envelope["data"]["trace_id"] == "12"
