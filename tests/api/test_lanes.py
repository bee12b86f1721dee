"""Slow questions: asked again beside the loop, with the same answers, and given up by whoever leaves."""

from __future__ import annotations

import asyncio
import gc
import signal
import sqlite3
import threading
import weakref

import httpx
import pytest

from api.conftest import NOON, Api
from api.test_errors import check_problem
from api.test_server import running
from dspy_ledger.api import lanes
from dspy_ledger.api.problems import UnknownExecution

LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999) SELECT max(i) FROM n"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


class Endless:
    """A question without an end in place of the list of programs; tells where it was asked."""

    def __init__(self) -> None:
        self.beside, self.given_up = threading.Event(), threading.Event()

    def __call__(self, question, query):
        is_beside = threading.current_thread() is not threading.main_thread()
        if is_beside:
            self.beside.set()
        try:
            question.db.execute(ENDLESS).fetchone()
        except sqlite3.OperationalError:
            if is_beside:
                self.given_up.set()
            raise


@pytest.fixture
def endless(monkeypatch):
    endless = Endless()
    monkeypatch.setattr("dspy_ledger.api.routes.programs.page_of_programs", endless)
    return endless


@pytest.fixture
def all_on_loop(monkeypatch):
    """No question takes too long on the loop, however busy the machine is."""
    monkeypatch.setattr(lanes, "_AT_ONCE", 60)
    monkeypatch.setattr(lanes, "_AT_MOST", 60)


@pytest.fixture
def all_beside(monkeypatch):
    """As if every question took long on the loop."""
    monkeypatch.setattr(lanes, "_AT_ONCE", -1)


@pytest.fixture
def some(ledger):
    """A ledger with a program, executions and an evaluation."""
    ledger.register("p", state={"instructions": "Complete."})
    for n in range(3):
        ledger.execute(f"run-{n}", model_id="gpt", body={"inputs": {"n": n}})
    ledger.evaluate("ev", program_id="p", content_hash="c1:00", model_id="gpt")
    ledger.fold()
    return ledger


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 30)


def test_all_others_are_answered_while_a_slow_question_is_asked(some, api, endless):
    """It held the event loop for 5 s, and who asks whether the process lives took it for dead."""

    async def ask(client: httpx.AsyncClient) -> list[int]:
        slow = asyncio.create_task(client.get("/v1/programs"))
        await until(endless.beside)
        paths = "/health/live", "/health/ready", "/v1/programs/executions", "/metrics", "/executions"
        found = [(await client.get(path)).status_code for path in paths]
        assert not slow.done()
        slow.cancel()
        await asyncio.wait({slow})
        await until(endless.given_up)
        return found

    assert api.run(ask) == [200] * 5


def test_a_question_whose_client_has_left_is_given_up(some, api, endless, monkeypatch):
    monkeypatch.setattr(api.app.state.lanes, "_seconds", 600)  # not by this

    async def leave(_: httpx.AsyncClient) -> list[object]:
        sent: list[object] = []
        received = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive():
            if message := next(received, None):
                return message
            await until(endless.beside)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "GET", "path": "/v1/programs", "raw_path": b"/v1/programs"}
        scope |= {"query_string": b"", "headers": headers, "scheme": "http", "http_version": "1.1"}
        await api.app(scope, receive, send)
        await until(endless.given_up)
        return sent

    assert api.run(leave) == []


def test_who_waits_too_long_for_a_thread_is_told_so(some, api_settings, endless, monkeypatch):
    monkeypatch.setattr(lanes, "_BESIDE", 1)
    api = Api(api_settings)
    monkeypatch.setattr(api.app.state.lanes, "_seconds", 0.2)

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.get("/v1/programs") for _ in range(3)))

    for answer in api.run(ask):
        problem = check_problem(answer, 503, "/v1/programs")
        assert problem["type"] == "urn:dspy-ledger:problem:took-too-long"
        assert answer.headers["ledger-position"] == "5"
    monkeypatch.undo()
    assert len(api.items("/v1/programs")) == 1
    api.close()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/programs",
        "/v1/programs/p",
        "/v1/programs/p/versions/1.0.0",
        "/v1/programs/p/matrix",
        "/v1/programs/executions?limit=2",
        "/v1/programs/executions?as_of=3",
        f"/v1/programs/executions?as_of={NOON}",
        "/v1/programs/executions/run-1",
        "/v1/programs/executions/none",
        "/v1/programs/executions?as_of=99",
        "/v1/programs/executions?modle_id=a",
        "/v1/stats",
        "/v1/events?bodies=true",
        "/v1/producers",
        "/v1/deadletters",
        "/v1/nothing",
        "/health/ready",
        "/",
        "/programs/p/versions/1.0.0",
        "/executions",
        "/executions/run-1",
        "/executions/none",
        "/ledger",
    ],
)
def test_an_answer_from_a_thread_is_that_of_the_loop(some, api, path, all_on_loop, request):
    on_loop = api.get(path)
    assert not api.app.state.lanes._threads._threads
    request.getfixturevalue("all_beside")
    beside = api.get(path)
    assert (beside.status_code, beside.headers, beside.text) == (
        on_loop.status_code,
        on_loop.headers,
        on_loop.text,
    )


def test_an_answer_from_a_thread_that_is_there_already_is_not_sent_again(some, api, all_beside):
    answer = api.get("/v1/programs")
    again = api.request(method="GET", url="/v1/programs", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.headers["etag"]) == (304, answer.headers["etag"])
    assert api.app.state.lanes._threads._threads


def test_what_was_worked_out_in_a_thread_is_kept_for_the_loop(some, api, all_on_loop, monkeypatch):
    """A matrix that took long to find would have taken long for ever."""
    api.get("/v1/programs")
    with monkeypatch.context() as patch:
        patch.setattr(lanes, "_AT_ONCE", -1)
        matrix = api.get("/v1/programs/p/matrix")
    monkeypatch.setattr("dspy_ledger.api.queries.matrix.metrics_of", None)
    assert api.get("/v1/programs/p/matrix").json() == matrix.json()


def test_what_was_slow_is_asked_beside_at_once_until_it_is_quick(some, api, monkeypatch):
    """Each look at a page that takes long cost the loop all that a question may take there, in vain."""
    asked = []

    def page(question, query):
        asked.append("beside" if threading.current_thread().name.startswith("slow") else "loop")
        return {"items": [], "next_cursor": None} if question.db.execute(LONG).fetchone() else None

    monkeypatch.setattr("dspy_ledger.api.routes.programs.page_of_programs", page)
    monkeypatch.setattr(lanes, "_AT_ONCE", 1e-9)
    assert api.get("/v1/programs").status_code == 200
    asked.clear()
    monkeypatch.setattr(lanes, "_AT_ONCE", 60)
    monkeypatch.setattr(lanes, "_AT_MOST", 60)
    for _ in range(2):
        assert api.get("/v1/programs").status_code == 200
    assert asked == ["beside", "loop"]


@pytest.mark.parametrize("path", ["/v1/programs", "/v1/programs/unheard-of", "/v1/programs?limit=0"])
def test_what_is_quick_again_is_so_whatever_the_answer_is(some, api, monkeypatch, path):
    """Who had a slow answer already, and was told so with a 304, was told it from a thread for ever."""
    tag = api.get(path).headers.get("etag", "none")
    monkeypatch.setattr(lanes, "_AT_ONCE", -1)
    api.get(path)
    is_asked = "limit" not in path  # what is refused is refused before
    assert bool(api.app.state.lanes._slow) == is_asked
    monkeypatch.setattr(lanes, "_AT_ONCE", 60)
    monkeypatch.setattr(lanes, "_AT_MOST", 60)
    api.request(method="GET", url=path, headers={"If-None-Match": tag})
    assert not api.app.state.lanes._slow


def test_a_slow_question_that_ends_in_an_error_lets_go_of_what_it_read(some, api, all_beside, monkeypatch):
    """Error and future held one another, with all the frames between, until garbage was collected."""

    class Read:
        """What a question has read."""

    held = []

    def page(question, query):
        rows = Read()
        held.append(weakref.ref(rows))
        raise UnknownExecution("x")

    monkeypatch.setattr("dspy_ledger.api.routes.programs.page_of_programs", page)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            check_problem(api.get("/v1/programs"), 404)
        assert [read() for read in held] == [None] * len(held)
    finally:
        gc.enable()


def test_a_stream_whose_events_take_long_to_find_goes_on_beside_the_loop(some, api_settings):
    slow = "from dspy_ledger.api import lanes; lanes._AT_ONCE = -1"
    with running(api_settings.data_dir, slow) as (process, url):
        with httpx.stream("GET", f"{url}/v1/events/stream?after=0&type=ExecutionCompleted") as stream:
            lines = stream.iter_lines()
            ids = [next(line for line in lines if line.startswith("id: ")) for _ in range(4)]
            assert ids == ["id: 0", "id: 2", "id: 3", "id: 4"]
            some.execute("run-3")
            some.fold()
            assert next(line for line in lines if line.startswith("id: ")) == "id: 6"
        assert httpx.get(f"{url}/metrics").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
        assert process.stderr.read() == ""
