"""From a DSPy program to files, read models and REST, with everything real but the model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import dspy
import httpx
import pytest

from dspy_ledger.api import create_app
from dspy_ledger.producer import (
    Ledger,
    ModelManager,
    Predictor,
    ProgramManager,
    instrument,
    uninstrument,
)
from dspy_ledger.projector import Worker
from dspy_ledger.settings import Settings
from producer.test_programs import Answers, few_shot
from servers import Valkey

MODEL = "gpt-4o-mini"
HOSTILE_MODEL = "openai/gpt-4o:../../x"


@pytest.fixture
def projector() -> Iterator[Callable[[Settings], Worker]]:
    """Starts a projector in a thread of this process."""
    running: list[tuple[Worker, threading.Thread]] = []

    def start(settings: Settings) -> Worker:
        worker = Worker(settings)
        thread = threading.Thread(target=worker.run)
        thread.start()
        running.append((worker, thread))
        return worker

    yield start
    for worker, thread in running:
        worker.stop()
        thread.join(20)
        assert not thread.is_alive()


def manager_for(settings: Settings, *model_ids: str) -> ProgramManager:
    models = ModelManager({model_id: Answers() for model_id in model_ids or (MODEL,)})
    return ProgramManager(model_manager=models, ledger=Ledger.connect(settings=settings))


def ask(settings: Settings, path: str, **query: object) -> dict:
    async def get() -> httpx.Response:
        app = create_app(settings)
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://ledger")
        async with app.router.lifespan_context(app), client:
            return await client.get(path, params=query)

    answer = asyncio.run(get())
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask_until(
    settings: Settings, eventually, path: str, enough: Callable[[dict], bool], **query: object
) -> dict:
    """Ask until the views have followed."""
    answers: list[dict] = []

    def enough_now() -> bool:
        answers.append(ask(settings, path, **query))
        return enough(answers[-1])

    eventually(enough_now)
    return answers[-1]


def run(manager: ProgramManager, program_id: str, **more: object):
    arguments = {"model_id": MODEL, "input_data": {"input": "x"}, **more}
    return asyncio.run(manager.execute_program(program_id=program_id, **arguments))


NAMES = [
    "Models",
    "executions",
    "..",
    "日本語",
    "C++ review",
    "C review",
    "Long " * 60,
    "../../etc/passwd",
    "🙂",
]


def test_names_of_any_kind_get_an_id_of_their_own_stay_inside_and_are_found(
    settings, projector, eventually, tmp_path
) -> None:
    projector(settings)
    manager = manager_for(settings, HOSTILE_MODEL)
    ids = [manager.register_program(Predictor, name=name).id for name in NAMES]
    assert len(set(ids)) == len(NAMES)
    assert ids[3] == "日本語"
    assert ids[5] == "c_review"
    assert not {"models", "executions", "..", ""} & set(ids)
    for program_id in ids:
        run(manager, program_id, model_id=HOSTILE_MODEL)
        manager.save_evaluation_result(program_id, HOSTILE_MODEL, {"score": 1}, evaluation_id="../../e")
    assert manager.ledger.flush(20, until="stored")
    manager.ledger.close()
    ask_until(
        settings,
        eventually,
        "/v1/programs/executions",
        lambda page: len(page["items"]) == len(NAMES),
        limit=100,
    )
    listed = ask(settings, "/v1/programs")["items"]
    assert {item["id"]: item["name"] for item in listed} == dict(zip(ids, NAMES, strict=True))
    for program_id in ids:
        path = f"/v1/programs/{quote(program_id, safe='')}"
        assert ask(settings, path)["versions"] == ["1.0.0"]
        [evaluation] = ask(settings, f"{path}/evaluations", model_id=HOSTILE_MODEL)["items"]
        assert (evaluation["evaluation_id"], evaluation["program_version"]) == ("../../e", "1.0.0")
        [execution] = ask(settings, "/v1/programs/executions", program_id=program_id)["items"]
        assert execution["model_id"] == HOSTILE_MODEL
    assert {m["model_id"] for m in ask(settings, "/v1/programs/models")["items"]} == {HOSTILE_MODEL}
    eventually(lambda: len(list(settings.programs_dir.rglob("*.jsonl"))) == len(NAMES))
    folders = [path for path in settings.programs_dir.iterdir() if path.is_dir()]
    assert len(folders) == len(NAMES)
    assert all((folder / "1.0.0.json").is_file() for folder in folders)
    assert len(list(settings.programs_dir.glob("*/evaluations/*.json"))) == len(NAMES)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "dspy_programs", "wal"}


def test_what_was_recorded_while_redis_was_away_is_stored_once_under_one_version(
    tmp_path, make_settings, projector, eventually
) -> None:
    server = Valkey(tmp_path / "valkey")
    settings = make_settings(server.url)
    projector(settings)  # it waits for Redis too
    managers = [manager_for(settings) for _ in range(3)]
    try:
        for manager in managers:
            meta = manager.register_program(Predictor, name="Text Completion")
            assert (meta.version, meta.provisional) == ("1.0.0", True)
            for _ in range(5):
                run(manager, meta.id)
            manager.save_evaluation_result(meta.id, MODEL, {"accuracy": 0.95})
        server.start()
        assert all(manager.ledger.flush(30, until="stored") for manager in managers)
        page = ask_until(
            settings, eventually, "/v1/programs/executions", lambda page: len(page["items"]) == 15, limit=100
        )
        assert {item["program_version"] for item in page["items"]} == {"1.0.0"}
        assert ask(settings, "/v1/programs/text_completion")["versions"] == ["1.0.0"]
        assert len(ask(settings, "/v1/programs/text_completion/evaluations")["items"]) == 3
        eventually(lambda: sum(lines(path) for path in settings.programs_dir.rglob("*.jsonl")) == 15)
    finally:
        for manager in managers:
            manager.ledger.close()
        server.stop()


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def test_an_optimized_version_its_feedback_and_its_tree_are_told_alike_everywhere(
    settings, projector, eventually
) -> None:
    projector(settings)
    manager = manager_for(settings)
    parent = manager.register_program(Predictor, name="Text Completion", tags=["text"])
    optimized = manager.register_optimized_program(few_shot(), parent.id, optimizer_name="LabeledFewShot")
    manager.register_optimized_program(
        few_shot("c"), parent.id, parent_version="1.0.0", optimizer_name="LabeledFewShot", name="Brief"
    )
    _, info = run(manager, parent.id, trace_id="t-1")
    manager.save_feedback(info.execution_id, score=0.5, comment="so so", user="ada")
    assert manager.ledger.flush(20, until="stored")
    path = f"/v1/programs/executions/{info.execution_id}"
    ask_until(settings, eventually, "/v1/programs/executions", lambda p: p["items"], trace_id="t-1")
    detail = ask_until(settings, eventually, path, lambda d: d["feedback"])
    assert (detail["program_version"], detail["outputs"]) == ("1.1.0", {"output": "an answer"})
    assert detail["feedback"][0]["results"] == {"score": 0.5, "comment": "so so"}
    [feedback] = ask(settings, "/v1/programs/text_completion/evaluations", version="1.1.0")["items"]
    assert (feedback["execution_id"], feedback["user_id"]) == (info.execution_id, "ada")
    version = ask(settings, "/v1/programs/text_completion/versions/1.1.0")
    assert version["content_hash"] == optimized.content_hash
    tree = ask(settings, "/v1/programs/text_completion/tree")
    here = manager.get_program_tree("text_completion")
    optimizers = [each["versions"][0]["children"][0]["optimizer"] for each in (tree, here)]
    assert optimizers == ["LabeledFewShot"] * 2
    assert shape(tree) == shape(here) == ["1.0.0", ["1.1.0", []], ["brief 1.0.0", []]]
    file = json.loads((settings.programs_dir / "text_completion" / "1.1.0.json").read_text())
    assert file["state"] == version["state"]
    assert (file["id"], file["version"], file["parent_version"]) == ("text_completion", "1.1.0", "1.0.0")
    manager.ledger.close()


def shape(tree: dict) -> list:
    """A tree of one root version: its label, its variants, the programs derived from it."""
    [root] = tree["versions"]
    return [
        root["version"],
        *[[child["version"], child["children"]] for child in root["children"]],
        *[
            [f"{d['id']} {d['versions'][0]['version']}", d["versions"][0]["children"]]
            for d in root["derived"]
        ],
    ]


def test_an_evaluation_of_dspys_is_a_small_file_of_its_program_and_its_rows_stay_in_the_store(
    settings, projector, eventually
):
    projector(settings)
    ledger = Ledger.connect(settings=settings)
    devset = [dspy.Example(input=f"secret {n}", output="an answer").with_inputs("input") for n in range(50)]
    instrument(ledger)
    try:
        with dspy.context(lm=Answers()):
            dspy.Evaluate(devset=devset, num_threads=2)(
                dspy.Predict(Predictor), lambda example, prediction: example.output == prediction.output
            )
    finally:
        uninstrument()
    assert ledger.flush(20, until="stored")
    ledger.close()
    path = "/v1/programs/predictor/evaluations"
    eventually(lambda: list(settings.programs_dir.glob("predictor/evaluations/*.json")))
    [file] = settings.programs_dir.glob("predictor/evaluations/*.json")
    written = json.loads(file.read_text())
    [shown] = ask_until(settings, eventually, path, lambda page: page["items"])["items"]
    for one in (written, shown):
        assert (one["program_version"], one["results"]) == ("1.0.0", {"score": 100.0, "failed": 0})
        assert (one["model_id"], one["metric_name"]) == ("openai/gpt-4o-mini", "<lambda>")
        assert one["dataset"]["size"] == 50
    assert file.name == f"{written['evaluation_id']}_openai%2Fgpt-4o-mini.json"
    assert "secret" not in file.read_text()
    assert file.stat().st_size < 2000


def test_a_registry_that_was_lost_is_filled_again_from_the_store(
    own_valkey, make_settings, projector, eventually
):
    settings = make_settings(own_valkey.url)
    projector(settings)
    first = manager_for(settings)
    parent = first.register_program(Predictor, name="Text Completion")
    first.register_optimized_program(few_shot(), parent.id, optimizer_name="LabeledFewShot")
    assert first.ledger.flush(20, until="stored")
    first.ledger.close()
    client = own_valkey.client()
    eventually(lambda: client.hget(settings.keys.registry_checkpoint, "position") == b"2")
    registry = [settings.keys.programs, settings.keys.registry_checkpoint]
    client.delete(*registry, settings.keys.program(parent.id), settings.keys.contents(parent.id))
    eventually(lambda: client.hlen(settings.keys.program(parent.id)) == 2)
    client.close()
    second = manager_for(settings)
    program = second.load_program(parent.id, "1.1.0", into=Predictor)
    assert isinstance(program, dspy.Predict)
    assert second.register_program(Predictor, name="Text Completion").version == "1.0.0"
    second.ledger.close()
