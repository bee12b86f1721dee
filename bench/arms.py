"""The ways to watch one DSPy program that bench/hot_path.py compares: none, DSPy's own, ours, and rivals."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import decompress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dspy
import redis
from dspy.utils import DummyLM
from dspy.utils.callback import BaseCallback
from rig import STATES, open_ledger

from dspy_ledger.keys import Keys
from dspy_ledger.producer import Ledger, ModelManager, ProgramManager, instrument, track

ANSWERS = (
    {"reasoning": "Capitals are known for every country of that kind.", "answer": "It is the largest city."},
    {"verdict": "plausible"},
)

OTLP = "/v1/traces"
TOKEN = re.compile(rb"country ([a-z]+-\d+)\b")


def question(token: str) -> str:
    """A question that is found again wherever its trace arrives."""
    return f"What is the capital of the country {token}, and since when has it been the capital?"


class Answer(dspy.Module):
    """The program: a ChainOfThought and a Predict."""

    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought("question -> answer")
        self.judge = dspy.Predict("question, answer -> verdict")

    def forward(self, question: str) -> dspy.Prediction:
        thought = self.think(question=question)
        return self.judge(question=question, answer=thought.answer)

    async def aforward(self, question: str) -> dspy.Prediction:
        thought = await self.think.acall(question=question)
        return await self.judge.acall(question=question, answer=thought.answer)


def lm() -> DummyLM:
    """A model that answers the two calls in turn, for ever."""
    model = DummyLM([])
    model.model = "openai/gpt-4o-mini"  # Opik's hooks fail on a name without a provider
    model.answers = cycle(ANSWERS)
    return model


@dataclass(frozen=True)
class Place:
    """Where an arm works: the broker's URL (ours), the sink's (rivals'), and a folder for its files."""

    url: str
    sink: str
    folder: Path


@dataclass(frozen=True)
class Arm:
    """``call`` runs the program once on a question (a coroutine function where the host is async);
    ``settle`` waits, untimed, until what is left to do in the background is done."""

    call: Callable[[str], Any]
    settle: Callable[[], object] = lambda: None
    recorded: Callable[[], int] | None = None


def _program() -> Answer:
    dspy.configure(lm=lm())
    return Answer()


def _sync(program: dspy.Module, *more: Any) -> Arm:
    return Arm(lambda text: program(question=text), *more)


def _async(program: dspy.Module) -> Arm:
    async def call(text: str) -> None:
        await program.acall(question=text)

    return Arm(call)


def bare(_: Place) -> Arm:
    return _sync(_program())


def bare_async(_: Place) -> Arm:
    return _async(_program())


def floor(_: Place) -> Arm:
    program = _program()
    dspy.configure(callbacks=[BaseCallback()])
    return _sync(program)


def floor_async(_: Place) -> Arm:
    program = _program()
    dspy.configure(callbacks=[BaseCallback()])
    return _async(program)


def _ledger(place: Place) -> tuple[Ledger, Callable[[], object], Callable[[], int]]:
    ledger = open_ledger(place.url, place.folder)

    def settle() -> None:
        if ledger.stats().state == "connected":
            ledger.flush(2)

    return ledger, settle, lambda: ledger.stats().recorded


def by_execute_program(place: Place) -> Arm:
    ledger, *rest = _ledger(place)
    manager = ProgramManager(model_manager=ModelManager({"dummy": lm()}), ledger=ledger)
    program_id = manager.register_program(program_class=Answer(), name="Answer").id

    async def call(text: str) -> None:
        await manager.execute_program(program_id=program_id, model_id="dummy", input_data={"question": text})

    return Arm(call, *rest)


def by_track(place: Place) -> Arm:
    ledger, *rest = _ledger(place)
    return _sync(track(_program(), ledger, name="Answer"), *rest)


def by_instrument(place: Place) -> Arm:
    ledger, *rest = _ledger(place)
    instrument(ledger)
    return _sync(_program(), *rest)


def by_mlflow(place: Place) -> Arm:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{place.folder}/mlflow.db")
    mlflow.set_experiment("bench")
    mlflow.dspy.autolog()
    return _sync(_program(), mlflow.flush_trace_async_logging)


def by_opik(_: Place) -> Arm:
    import opik
    from opik.integrations.dspy.callback import OpikCallback

    program = _program()
    dspy.configure(callbacks=[OpikCallback(project_name="bench")])
    return _sync(program, opik.flush_tracker)


def _openinference(place: Place, processor: str) -> Arm:
    from openinference.instrumentation.dspy import DSPyInstrumentor
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider, export

    provider = TracerProvider()
    provider.add_span_processor(getattr(export, processor)(OTLPSpanExporter(f"{place.sink}{OTLP}")))
    DSPyInstrumentor().instrument(tracer_provider=provider)
    return _sync(_program(), provider.force_flush)


def by_openinference(place: Place) -> Arm:
    return _openinference(place, "BatchSpanProcessor")


def by_openinference_simple(place: Place) -> Arm:
    return _openinference(place, "SimpleSpanProcessor")


FLOOR, FLOOR_ASYNC = "no-op callback", "no-op callback, acall"
OURS = {"execute_program": by_execute_program, "track": by_track, "instrument": by_instrument}
RIVALS = {
    "MLflow": ("mlflow", by_mlflow),
    "Opik": ("opik", by_opik),
    "OpenInference, batching": ("openinference.instrumentation.dspy", by_openinference),
    "OpenInference, its default": ("openinference.instrumentation.dspy", by_openinference_simple),
}


def floor_of(name: str) -> str:
    """The line that an arm's overhead is counted from."""
    return FLOOR_ASYNC if name.startswith("execute_program") or "acall" in name else FLOOR


def arms() -> dict[str, tuple[Callable[[Place], Arm], str]]:
    """Every arm that can run here, and the state of Redis that it meets."""
    own = {f"{name}, Redis {state}": (make, state) for name, make in OURS.items() for state in STATES}
    plain = {"bare": bare, FLOOR: floor, "bare, acall": bare_async, FLOOR_ASYNC: floor_async}
    return (
        {name: (make, "up") for name, make in plain.items()}
        | own
        | {name: (make, "up") for name, (module, make) in RIVALS.items() if _is_installed(module)}
    )


def _is_installed(module: str) -> bool:
    return find_spec(module.partition(".")[0]) is not None and find_spec(module) is not None


def environment(place: Place) -> dict[str, str]:
    """For an arm's process: nothing asks the internet, nothing lands in the user's own folders."""
    return {
        **os.environ,
        "HOME": str(place.folder),
        "DO_NOT_TRACK": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OPIK_CONSOLE_LOGGING_LEVEL": "CRITICAL",
        "OPIK_SENTRY_ENABLE": "false",
        "OPIK_URL_OVERRIDE": f"{place.sink}/api",
        "OPIK_WORKSPACE": "default",
        "PYTHONWARNINGS": "ignore",
    }


def arrived(place: Place) -> set[str]:
    """The tokens of all questions whose trace lies in the broker, the sink or a file of the arm's."""
    with redis.Redis.from_url(place.url) as client:
        texts = [value for _, entry in client.xrange(Keys().events) for value in entry.values()]
    texts += [
        path.read_bytes()  # MLflow's database and artifacts, the sink's bodies
        for path in place.folder.rglob("*")
        if path.is_file() and path.suffix not in (".wal", ".txt")  # not what waits, and not the log
    ]
    return {token.decode() for text in texts for token in TOKEN.findall(text)}


@contextmanager
def sink(folder: Path) -> Iterator[str]:
    """A server in a process of its own that takes whatever is posted and keeps it in a file; its URL."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, folder), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(connection: Any, folder: Path) -> None:
    kept = (folder / "sink").open("ab", buffering=0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept.write(decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            answer = b"" if self.path == OTLP else b"{}"  # protobuf's empty answer, and JSON's
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    connection.send(server.server_port)
    server.serve_forever()
