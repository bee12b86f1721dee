"""What is too long, too slow or stands still is ended with an answer that says so, where one can be given."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from http.client import HTTPConnection

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from api.test_errors import check_problem
from api.test_server import running
from dspy_ledger.api import connection, reading


@pytest.fixture
def url(ledger, api_settings):
    ledger.register("p")
    ledger.fold()
    with running(api_settings.data_dir) as (_, url):
        yield url


@pytest.mark.parametrize("path", ["/v1/programs", "/v1/programs/executions", "/health/live"])
def test_a_query_that_nobody_means_is_a_problem_and_the_connection_goes_on(url, path):
    with httpx.Client(base_url=url) as client:
        problem = check_problem(client.get(path, params={"q": "x" * 16_000}), 414, path)
        assert problem["type"] == "urn:dspy-ledger:problem:too-long"
        assert "at most 8192" in problem["detail"]
        check_problem(client.get(f"/v1/programs/{'x' * 40_000}"), 414)
        assert client.get("/v1/programs", params={"q": "x" * 8000}).status_code == 200


@pytest.mark.parametrize("size", [300_000, 5_000_000])
def test_a_head_that_is_too_large_is_answered_before_the_connection_ends(url, size):
    """Uvicorn ended the connection while the client still wrote, which never saw the answer."""
    for target, headers in ((f"/v1/programs?q={'x' * size}", {}), ("/v1/programs", {"X-Much": "x" * size})):
        client = HTTPConnection(url.removeprefix("http://"), timeout=20)
        client.request("GET", target, headers=headers)
        answer = client.getresponse()
        problem = json.load(answer)
        assert (answer.status, problem["status"]) == (431, 431)
        assert answer.getheader("Content-Type") == "application/problem+json"
        assert "larger than 65536 bytes" in problem["detail"]
        client.close()
    assert httpx.get(f"{url}/v1/programs").status_code == 200


def test_what_is_no_http_is_answered_as_such(url):
    with socket.create_connection(address(url)) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = b""
        while more := client.recv(4096):
            answer += more
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n")
    assert b'"status":400' in answer


def test_a_question_that_takes_too_long_says_to_narrow_it_and_the_next_is_answered(ledger, api, monkeypatch):
    ledger.register("p")
    ledger.fold()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

    def ask_for_ever(question, query):
        question.db.execute(endless).fetchone()

    monkeypatch.setattr(api.app.state.lanes, "_seconds", 0.2)
    monkeypatch.setattr("dspy_ledger.api.routes.programs.page_of_programs", ask_for_ever)
    answer = api.get("/v1/programs")
    problem = check_problem(answer, 503, "/v1/programs")
    assert problem["type"] == "urn:dspy-ledger:problem:took-too-long"
    assert "narrow the question" in problem["detail"]
    assert "DSPY_LEDGER_API_QUERY_SECONDS" in problem["detail"]
    assert answer.headers["ledger-position"] == "1"
    monkeypatch.undo()
    assert len(api.items("/v1/programs")) == 1
    monkeypatch.setattr(api.app.state.lanes, "_seconds", 0.2)

    async def ask_the_store(_: httpx.AsyncClient) -> None:
        await api.app.state.lanes.ask(
            lambda sources: sources.ask_store(lambda store: store._db.execute(endless).fetchone())
        )

    with pytest.raises(reading.TookTooLong):
        api.run(ask_the_store)


class Transport(asyncio.Transport):
    """Holds so many bytes at each look."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes, self.aborted = list(sizes), asyncio.Event()

    def get_write_buffer_size(self) -> int:
        return self.sizes.pop(0)

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        pass


async def test_a_client_that_takes_some_of_what_it_is_sent_has_more_time(monkeypatch):
    monkeypatch.setattr(connection, "_PATIENCE", 0.01)
    config = uvicorn.Config(lambda: None, http=connection.Connection, log_config=None)
    transport = Transport(9, 8, 7, 1, 1, 0)
    client = connection.Connection(config, ServerState(), {})
    client.connection_made(transport)
    client.pause_writing()
    await transport.aborted.wait()
    assert transport.sizes == [0]


@pytest.fixture
def impatient(ledger, api_settings):
    """Waits for a request as long as for one that takes nothing: half a second."""
    ledger.fold()
    quick = "from dspy_ledger.api import connection, streaming; connection._PATIENCE = 0.5"
    with running(api_settings.data_dir, f"{quick}; streaming._HEARTBEAT = 0.2") as (process, url):
        yield url
        process.send_signal(signal.SIGTERM)
        assert "ERROR" not in process.communicate(timeout=15)[1]


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"GET /health/live HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 408 Request Timeout\r\ncontent-type: "),
        (b"POST /signin HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nkey=", b""),
    ],
)
def test_a_connection_on_which_no_whole_request_comes_is_ended(impatient, sent, answer):
    """It stayed for ever, and enough of them left none for others."""
    for before in (b"", b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"):
        if before and not sent:
            continue
        told = answered(impatient, before, sent) if before else answered(impatient, sent)
        *_, last = told.rpartition(b'{"status":"live"}')
        assert last.startswith(answer)
        assert bool(last) is bool(answer)


def test_a_client_whose_request_is_whole_is_not_hurried(impatient):
    for offer in (b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"):
        with socket.create_connection(address(impatient), timeout=20) as client:
            client.sendall(b"GET /v1/events/stream HTTP/1.1\r\nHost: a\r\n" + offer + b"\r\n")
            told = b""
            while told.count(b"the ledger is at") < 5:
                more = client.recv(4096)
                assert more, "ended"
                told += more


@pytest.mark.parametrize(
    "head",
    [
        "GET /health/live HTTP/1.1\r\n\r\n",
        "GET /health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /health/\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /health/live HTTP/1.1\r\nHost a\r\n\r\n",
    ],
)
def test_a_head_that_no_sound_client_sends_is_refused(url, head):
    assert answered(url, head.encode("latin-1")).startswith(
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n"
    )


def test_an_offer_to_speak_another_protocol_is_passed_over_and_the_connection_goes_on(url):
    offer = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n"
    last = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for protocol in (b"h2c", b"websocket"):
        assert answered(url, offer % protocol, last).count(b"HTTP/1.1 200 OK") == 2


def answered(url, *sent):
    """All that comes, each part of what is sent after the answer to the one before."""
    answer = b""
    with socket.create_connection(address(url), timeout=20) as client:
        for part in sent[:-1]:
            client.sendall(part)
            answer += client.recv(65536)
        client.sendall(sent[-1])
        while more := client.recv(65536):
            answer += more
    return answer


def address(url):
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)
