"""The FastAPI example as a Modal deployment: ``modal deploy modal_app.py``, in this folder.

What runs here are LLM servers only: containers that come and go. The broker, the projector and the API run
where a disk stays, for example on one machine by compose.yaml. Three kinds of storage, not to be mixed up:

- ``DSPY_LEDGER_WAL_DIR``, the write-ahead files, has to be the container's own disk. They are locked, and
  written at every call; a network volume locks nothing across machines, and would make every call wait.
- ``DSPY_LEDGER_DATA_DIR``, the event store, is not here at all. It is SQLite, which no network volume can
  keep whole, and the container's disk goes with the container. So no projector runs on Modal.
- The volume holds ``dspy_programs``: files written by the projector, reviewed in git, and only read here.
  Put them there whenever a review was merged: ``modal volume put --force dspy-programs ./dspy_programs``

Before the first deployment, and with your own values:
``modal secret create dspy-ledger DSPY_LEDGER_REDIS_URL=rediss://… OPENAI_API_KEY=…``
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import modal

image = (
    modal.Image.debian_slim(python_version="3.12")
    .pip_install("dspy-ledger[producer]", "fastapi")
    .env(
        {
            "DSPY_LEDGER_WAL_DIR": "/dspy-ledger/wal",
            "DSPY_LEDGER_PROGRAMS_DIR": "/reviewed/dspy_programs",
            "DSPY_LEDGER_MODELS_FILE": "/etc/dspy-ledger/models.yaml",
            "DSPY_LEDGER_SERVICE": "llm-server",
            "DSPY_LEDGER_ENVIRONMENT": "production",
        }
    )
    .add_local_file(Path(__file__).with_name("models.yaml"), "/etc/dspy-ledger/models.yaml")
    .add_local_python_source("fastapi_server")
)
app = modal.App("dspy-ledger-llm-server", image=image)
reviewed = modal.Volume.from_name("dspy-programs", create_if_missing=True)

with image.imports():  # in the container only: whoever deploys needs nothing but modal
    import fastapi_server
    from fastapi import FastAPI

    from dspy_ledger.errors import LedgerError
    from dspy_ledger.producer import Predictor
    from dspy_ledger.settings import load_settings
    from dspy_ledger.versions import highest_release


@app.function(volumes={"/reviewed": reviewed}, secrets=[modal.Secret.from_name("dspy-ledger")])
@modal.concurrent(max_inputs=50)
@modal.asgi_app()
def serve() -> FastAPI:
    """One replica. What it has not sent when its container is killed, not ended, is lost with the disk."""
    web = fastapi_server.app

    @asynccontextmanager
    async def lifespan(started: FastAPI) -> AsyncIterator[None]:
        async with fastapi_server.lifespan(started):
            use_reviewed_version(started)
            yield

    web.router.lifespan_context = lifespan
    return web


def use_reviewed_version(web: FastAPI) -> None:
    """Serve the highest version of Text Completion whose file was merged, with the demos recorded for it.

    Where that can't be had, the server's own registration stays in force; every answer names its version.
    """
    program_id = "text_completion"
    files = (load_settings().programs_dir / program_id).glob("*.json")
    version = highest_release(path.stem for path in files)
    if version is None:
        return
    try:
        web.state.program_manager.load_program(program_id, version, into=Predictor)
    except LedgerError as error:
        print(f"{program_id} {version} is not served: {error}")
