"""Pipelines and the text factory, as the README shows them."""

from __future__ import annotations

import asyncio

import dspy
import pytest

from dspy_ledger.errors import InvalidFields, InvalidInput, UnknownModel
from dspy_ledger.producer import (
    DSPyModelBackend,
    MediaType,
    ModelProcessor,
    Pipeline,
    PipelineData,
    Predictor,
    create_text_processor,
)
from producer.test_programs import MODEL, Answers, CustomExtractor, make_manager, manager, registered, sent

__all__ = ["make_manager", "manager"]  # fixtures


def text_processor(manager, **more):
    return create_text_processor(
        model_manager=manager.model_manager,
        model_id=MODEL,
        program_manager=manager,
        metadata={"purpose": "text-summarization"},
        **more,
    )


def execute(pipeline: Pipeline, content: object, media_type: MediaType = MediaType.TEXT) -> PipelineData:
    return asyncio.run(pipeline.execute(PipelineData(media_type=media_type, content=content)))


def test_text_goes_in_and_the_only_output_comes_out_with_its_execution(manager, valkey) -> None:
    out = execute(Pipeline([text_processor(manager)]), "Explain quantum computing in simple terms")
    assert out.content == "an answer"
    info = out.metadata["execution_info"]
    assert (info.program_id, info.program_version) == ("text_completion", "1.0.0")
    [event] = sent(manager, valkey, "ExecutionCompleted")
    assert event.event_id == info.execution_id
    assert event.envelope["data"]["metadata"] == {"purpose": "text-summarization"}


def test_the_factory_runs_what_this_process_registered_whatever_its_name(manager) -> None:
    manager.register_program(Predictor, name="My Completion", tags=["mine"])
    out = execute(Pipeline([text_processor(manager)]), "hi")
    assert out.metadata["execution_info"].program_id == "my_completion"
    assert [m.id for m in manager.list_programs()] == ["my_completion"]


def test_steps_follow_each_other_and_the_data_given_stays_as_it_was(manager) -> None:
    step = text_processor(manager)
    given = PipelineData(media_type=MediaType.TEXT, content="a", metadata={"trace_id": "t"})
    out = asyncio.run(Pipeline([step, step]).execute(given))
    assert (given.content, given.metadata) == ("a", {"trace_id": "t"})
    assert (out.content, out.metadata["trace_id"]) == ("an answer", "t")
    assert out.metadata["execution_info"].trace_id == "t"


def test_process_output_is_the_content(make_manager) -> None:
    manager = make_manager({MODEL: Answers(entity="Ada", attributes="[]")})
    out = execute(
        Pipeline([text_processor(manager, program_class=CustomExtractor, name="Extractor")]), "Ada …"
    )
    assert out.content == {"entity": "Ada", "attributes": []}


def test_several_outputs_come_as_a_dict_and_several_inputs_go_in_as_one(make_manager) -> None:
    manager = make_manager({MODEL: Answers(a="1", b="2")})
    program = manager.register_program(dspy.Signature("x, y -> a, b"), name="Two")
    pipeline = Pipeline([ModelProcessor(DSPyModelBackend(manager, MODEL, program.id))])
    assert execute(pipeline, {"x": "1", "y": "2"}, MediaType.JSON).content == {"a": "1", "b": "2"}
    with pytest.raises(InvalidFields, match="inputs x, y"):
        execute(pipeline, "text")


def test_media_that_a_step_does_not_take_and_an_empty_pipeline_are_refused(manager) -> None:
    with pytest.raises(InvalidInput, match="takes text, not image"):
        execute(Pipeline([text_processor(manager)]), b"", MediaType.IMAGE)
    with pytest.raises(InvalidInput, match="at least one"):
        Pipeline([])


def test_an_unknown_model_is_refused_when_the_processor_is_made(manager) -> None:
    with pytest.raises(UnknownModel, match=f"known: {MODEL}"):
        create_text_processor(model_manager=manager.model_manager, model_id="x", program_manager=manager)


def test_the_backend_can_be_used_alone(manager) -> None:
    backend = DSPyModelBackend(manager, MODEL, registered(manager).id)
    result, info = asyncio.run(backend.predict({"input": "x"}, trace_id="t"))
    assert (result.output, info.trace_id) == ("an answer", "t")
