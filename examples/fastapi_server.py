"""An LLM server with FastAPI whose every answer is recorded: which program version, which model, how well.

Run it in this folder: ``uvicorn fastapi_server:app``. Redis may be down, before or meanwhile: the server
answers all the same, and the events are sent when it is back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import dspy
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from dspy_ledger.errors import InvalidInput, NotFound
from dspy_ledger.producer import (
    Ledger,
    MediaType,
    ModelManager,
    Pipeline,
    PipelineData,
    Predictor,
    ProgramManager,
    create_text_processor,
)
from dspy_ledger.settings import load_settings


class CustomExtractor(dspy.Signature):
    """Extract specific information from text."""

    input: str = dspy.InputField()
    entity: str = dspy.OutputField()
    attributes: list = dspy.OutputField()

    @classmethod
    def process_output(cls, result: dspy.Prediction) -> dict[str, Any]:
        """What callers get; what is recorded are the fields themselves."""
        return {"entity": result.entity, "attributes": result.attributes}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = load_settings()  # DSPY_LEDGER_REDIS_URL, DSPY_LEDGER_MODELS_FILE …
    model_manager = ModelManager.from_yaml(settings.models_file)
    with Ledger.connect(settings=settings) as ledger:  # closing it sends what is still to be sent
        program_manager = ProgramManager(model_manager=model_manager, ledger=ledger)
        # Every replica registers at every start; the same content always gets the same version.
        program_manager.register_program(
            program_class=Predictor,
            name="Text Completion",
            description="Complete or answer a text",
            tags=["text"],
        )
        app.state.extractor = program_manager.register_program(
            program_class=CustomExtractor,
            name="Custom Extractor",
            description="An entity and its attributes, out of a text",
            tags=["text", "extraction"],
        )
        app.state.model_manager = model_manager
        app.state.program_manager = program_manager
        yield


app = FastAPI(title="LLM server", lifespan=lifespan)


class Text(BaseModel):
    text: str = Field(min_length=1)


class Extraction(Text):
    model_id: str = "gpt-4o-mini"


class Feedback(BaseModel):
    execution_id: UUID  # as an answer of this server gave it
    score: float
    comment: str | None = None
    user: str | None = None


@app.post("/complete")
async def complete(request: Text) -> dict[str, Any]:
    """Text in, text out, by way of a pipeline."""
    processor = create_text_processor(
        model_manager=app.state.model_manager,
        model_id="gpt-4o-mini",
        program_manager=app.state.program_manager,
        metadata={"purpose": "text-summarization"},
    )
    data = PipelineData(media_type=MediaType.TEXT, content=request.text)
    out = await Pipeline([processor]).execute(data)
    info = out.metadata["execution_info"]
    return {
        "text": out.content,
        "execution_id": info.execution_id,
        "program_version": info.program_version,
    }


@app.post("/extract")
async def extract(request: Extraction) -> dict[str, Any]:
    """One program on the model that the caller names."""
    result, info = await app.state.program_manager.execute_program(
        program_id=app.state.extractor.id,
        model_id=request.model_id,
        input_data={"input": request.text},
    )
    return {**result, "execution_id": info.execution_id, "program_version": info.program_version}


@app.post("/feedback", status_code=201)
async def feedback(request: Feedback) -> dict[str, str]:
    """What somebody thought of an answer."""
    saved = app.state.program_manager.save_feedback(
        str(request.execution_id), score=request.score, comment=request.comment, user=request.user
    )
    return {"evaluation_id": saved.evaluation_id}


@app.exception_handler(NotFound)
async def not_found(_: Request, error: NotFound) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 404)


@app.exception_handler(InvalidInput)
async def invalid_input(_: Request, error: InvalidInput) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)
