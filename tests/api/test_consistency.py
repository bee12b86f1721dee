"""A request that names what it must not miss waits for it, and nobody else does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import httpx
import pytest

from api.test_errors import check_problem
from api.test_server import running
from dspy_ledger.api import consistency
from dspy_ledger.api.following import Ended, Following
from dspy_ledger.errors import StoreError
from dspy_ledger.producer import Ledger as Recording
from dspy_ledger.projector import Worker
from dspy_ledger.timestamps import utc_now

PATHS = ("/v1/programs", "/v1/programs/executions", "/v1/programs/p", "/v1/events", "/v1/producers")


def ask(api, path: str, **headers: str) -> httpx.Response:
    return api._loop.run_until_complete(_get(api, path, **headers))


async def _get(api, path: str, **headers: str) -> httpx.Response:
    return await api._client.get(path, headers={n.replace("_", "-"): v for n, v in headers.items()})


@pytest.fixture
def filled(ledger, api):
    ledger.register("p")
    ledger.execute("x")
    ledger.fold()
    return api


@pytest.mark.parametrize("path", PATHS)
def test_what_is_there_is_answered_at_once(filled, path):
    for headers in ({"Ledger_Min_Event": "x"}, {"Ledger_Min_Position": "2"}, {"Ledger_Min_Position": "0"}):
        assert ask(filled, path, **headers).status_code == 200


@pytest.mark.parametrize("headers", [{"Ledger_Min_Event": "late"}, {"Ledger_Min_Position": "3"}])
@pytest.mark.parametrize("stored_before", [True, False])
def test_what_is_not_folded_yet_is_waited_for_and_others_are_answered_meanwhile(
    filled, ledger, headers, stored_before
):
    async def both() -> None:
        if stored_before:
            ledger.execute("late")
        waiting = asyncio.create_task(_get(filled, "/v1/programs/executions/late", **headers))
        other = await _get(filled, "/v1/programs/executions")
        assert [item["execution_id"] for item in other.json()["items"]] == ["x"]
        assert not waiting.done()
        if not stored_before:
            ledger.execute("late")
        ledger.fold()
        answer = await waiting
        assert (answer.status_code, answer.headers["ledger-position"]) == (200, "3")

    filled._loop.run_until_complete(both())


@pytest.mark.parametrize("headers", [{"Ledger_Min_Event": "never"}, {"Ledger_Min_Position": "99"}])
def test_what_never_comes_is_given_up_with_when_to_ask_again(filled, monkeypatch, headers):
    monkeypatch.setattr(consistency, "_PATIENCE", 0.05)
    answer = ask(filled, "/v1/programs", **headers)
    problem = check_problem(answer, 503, "/v1/programs")
    assert problem["type"] == "urn:dspy-ledger:problem:not-yet"
    assert next(iter(headers.values())) in problem["detail"]
    assert (answer.headers["retry-after"], answer.headers["ledger-position"]) == ("1", "2")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Ledger-Min-Position", "x"),
        ("Ledger-Min-Position", "-1"),
        ("Ledger-Min-Position", ""),
        ("Ledger-Min-Position", "9" * 30),
        ("Ledger-Min-Event", ""),
        ("Ledger-Min-Event", "x" * 513),
    ],
)
def test_a_header_that_cant_be_used_is_told(filled, name, value):
    problem = check_problem(ask(filled, "/v1/programs", **{name: value}), 400, "/v1/programs")
    assert [error["parameter"] for error in problem["errors"]] == [name]


def test_two_different_ones_are_refused(filled):
    request = filled._client.build_request("GET", "/v1/programs")
    request.headers = httpx.Headers([("Ledger-Min-Event", "x"), ("Ledger-Min-Event", "y")])
    answer = filled._loop.run_until_complete(filled._client.send(request))
    assert "more than once" in check_problem(answer, 400)["detail"]


def test_without_a_view_it_says_so_at_once(api):
    check_problem(ask(api, "/v1/programs", Ledger_Min_Position="1"), 503)


async def test_a_thousand_who_wait_are_one_that_looks_and_nobody_looks_once_they_have_gone(
    filled_following, ledger
):
    following, looks = filled_following
    waiting = [asyncio.create_task(following.reach(f"new-{n}")) for n in range(500)]
    waiting += [asyncio.create_task(following.reach(3)) for _ in range(500)]
    await asyncio.sleep(0)
    assert len(following._waiting) == 1000
    before = len(looks)
    for number in range(500):
        ledger.execute(f"new-{number}")
    ledger.fold()
    assert set(await asyncio.gather(*waiting)) == {502}
    assert len(looks) - before < 100
    if following._looking is not None:
        await following._looking  # ends by itself
    assert not following._waiting


async def test_one_that_gives_up_leaves_nothing_behind_and_the_end_is_told_to_the_others(filled_following):
    following, _ = filled_following
    first, second = (asyncio.create_task(following.reach(99)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    assert len(following._waiting) == 1
    following.end()
    with pytest.raises(Ended):
        await second
    with pytest.raises(Ended):
        await following.reach(1)
    assert not following._waiting


async def test_a_view_that_cannot_be_read_for_a_while_is_waited_for(filled_following, ledger, monkeypatch):
    from dspy_ledger.api import following as module

    monkeypatch.setattr(module, "_IN_NEED", 0.01)
    following, looks = filled_following
    waiting = asyncio.create_task(following.reach(3))
    await asyncio.sleep(0)
    looks.failing = True
    await looks.failed.wait()
    looks.failing = False
    ledger.execute("y")
    ledger.fold()
    assert await waiting == 3


@pytest.fixture
def filled_following(filled, monkeypatch):
    class Looks(list):
        failing = False
        failed = asyncio.Event()

    looks = Looks()
    sources = filled.app.state.sources
    question = sources.question

    def looking():
        looks.append(1)
        if looks.failing:
            looks.failed.set()
            raise StoreError("swapped")
        return question()

    monkeypatch.setattr(sources, "question", looking)
    return Following(sources), looks


@pytest.fixture
def projector(settings) -> Iterator[None]:
    worker = Worker(settings)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield
    worker.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_what_a_replica_has_just_recorded_is_read_without_asking_twice_and_reaches_the_stream(
    settings, projector, eventually
):
    from api.test_event_stream import following

    with (
        running(settings.data_dir) as (_, url),
        Recording.connect(settings=settings) as recording,
        httpx.Client(base_url=url) as client,
    ):
        eventually(lambda: client.get("/health/ready").status_code == 200)
        with following(url, type="ExecutionCompleted") as stream:
            next(stream)
            for number in range(20):
                path = f"/v1/programs/executions/x{number}"
                data = {"execution_id": f"x{number}", "program_id": "p", "status": "ok"}
                event_id = recording.record(
                    "ExecutionCompleted", {**data, "started_at": utc_now(), "latency_ms": 1}
                )
                answer = client.get(path, headers={"Ledger-Min-Event": event_id})
                assert answer.status_code == 200, answer.text
                event = next(block for block in stream if block.data is not None)
                assert event.data["event"]["id"] == event_id
