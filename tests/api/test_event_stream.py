"""Server-sent events over real connections: each event once, whoever comes, goes, or stands still."""

from __future__ import annotations

import re
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.conftest import Ledger
from api.test_errors import check_problem
from api.test_server import running
from dspy_ledger.projector import SqlViews
from dspy_ledger.settings import load_settings
from dspy_ledger.store import SqliteEventStore

STREAM = "/v1/events/stream"


class Event(NamedTuple):
    """One block of a stream; ``data`` is None where it only moves the id."""

    id: int | None
    type: str | None
    data: dict | None
    comment: str | None


def blocks(lines: Iterator[str]) -> Iterator[Event]:
    """As the specification reads them."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            assert name not in fields, "data of one event is one line"
            fields[name] = value.removeprefix(" ")
            continue
        data = fields.get("data")
        yield Event(
            int(fields["id"]) if "id" in fields else None,
            fields.get("event"),
            orjson.loads(data) if data else None,
            fields.get(""),
        )
        fields = {}


@contextmanager
def following(url: str, last_id: int | None = None, **params: object) -> Iterator[Iterator[Event]]:
    headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    with (
        httpx.Client(base_url=url, timeout=20) as client,
        client.stream("GET", STREAM, params=params, headers=headers) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield blocks(answer.iter_lines())


def events(stream: Iterator[Event], upto: int) -> list[int]:
    """The positions of events up to one; the ids between them only ever rise."""
    found, last = [], -1
    for block in stream:
        if block.id is not None:
            assert block.id >= last
            last = block.id
        if block.data is not None:
            assert block.data["position"] == block.id
            found.append(block.id)
        if last >= upto:
            return found
    raise AssertionError(f"ended at {last}")


def open_streams(url: str) -> int:
    told = httpx.get(f"{url}/metrics").text
    return int(float(re.search(r"^dspy_ledger_api_streams (\S+)$", told, re.MULTILINE)[1]))


COUNT = 300


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Iterator[str]:
    """The URL of a server over a ledger in which every fifth event is an evaluation."""
    folder = tmp_path_factory.mktemp("long")
    ledger = Ledger(load_settings(_env_file=None, data_dir=folder))
    for number in range(1, COUNT + 1):
        if number % 5 == 0:
            ledger.evaluate(f"e{number}", program_id="q")
        else:
            ledger.execute(f"x{number}", body={"inputs": {"n": number}})
    ledger.fold()
    with running(folder) as (_, url):
        yield url
    ledger.close()


FILTERS = {
    (): lambda _: True,
    ("bodies", "true"): lambda _: True,
    ("type", "EvaluationSaved"): lambda n: n % 5 == 0,
    ("program_id", "p"): lambda n: n % 5 != 0,
}


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_split_at_any_ids_a_stream_gives_each_event_once(long, data):
    given = data.draw(st.sampled_from(list(FILTERS)))
    start = data.draw(st.integers(0, COUNT - 5))
    wanted = [n for n in range(start + 1, COUNT + 1) if FILTERS[given](n)]
    stops = data.draw(st.sets(st.sampled_from(wanted), max_size=4)) | {wanted[-1]}
    found: list[int] = []
    last_id = None
    for stop in sorted(stops):
        with following(long, last_id, after=start, **dict([given] if given else [])) as stream:
            found += events(stream, stop)
            last_id = stop
    assert found == wanted


def test_it_begins_with_what_comes_from_now_on_and_what_came_can_be_asked_for(ledger, api_settings):
    ledger.register("p")
    ledger.fold()
    with running(api_settings.data_dir) as (_, url), following(url) as stream:
        first = next(stream)
        assert (first.id, first.data) == (1, None)
        for number in range(3):
            execution_id = f"x{number}"
            ledger.execute(execution_id, body={"inputs": {}})
            ledger.fold()
            event = next(stream)
            assert (event.id, event.type) == (2 + number, "ExecutionCompleted")
            assert event.data["program_version"] == "1.0.0"
            assert event.data["event"]["data"]["execution_id"] == execution_id
            assert "body" not in event.data
            assert httpx.get(f"{url}/v1/programs/executions/{execution_id}").status_code == 200


def test_what_is_stored_and_not_in_the_view_is_not_told_yet(ledger, api_settings):
    ledger.fold()
    with running(api_settings.data_dir) as (_, url), following(url, after=0) as stream:
        ledger.execute("x")
        assert httpx.get(f"{url}/v1/events").json()["items"] == []
        ledger.fold()
        assert events(stream, 1) == [1]


def test_an_event_that_was_written_with_line_ends_is_one_line_of_data(ledger, api_settings):
    from dspy_ledger import wire

    ledger.execute("x")
    [event] = ledger.store.read(0, 1)
    envelope = {**orjson.loads(event.payload), "id": "y"}
    spaced = orjson.dumps(envelope, option=orjson.OPT_INDENT_2).replace(b"\n", b"\r\n")
    ledger.store.append([("2-0", wire.decode({b"__data__": spaced}))])
    ledger.fold()
    with running(api_settings.data_dir) as (_, url), following(url, after=1) as stream:
        next(stream)
        assert next(stream).data["event"] == envelope


def test_a_reader_whose_filters_let_nothing_through_is_told_how_far_the_ledger_is(ledger, api_settings):
    ledger.fold()
    quick = "from dspy_ledger.api import streaming; streaming._HEARTBEAT = 0.2"
    with running(api_settings.data_dir, quick) as (_, url), following(url, program_id="nobody") as stream:
        for number in range(5):
            ledger.execute(f"x{number}")
        ledger.fold()
        block = next(block for block in stream if block.id == 5)
        assert (block.data, block.comment) == (None, "the ledger is at 5")


def test_only_so_many_may_read_and_one_that_leaves_makes_room(ledger, api_settings, eventually):
    ledger.fold()
    with running(api_settings.data_dir, DSPY_LEDGER_API_STREAMS="2") as (_, url):
        with following(url) as first, following(url) as second:
            next(first), next(second)
            answer = httpx.get(url + STREAM)
            problem = check_problem(answer, 503, STREAM)
            assert problem["type"] == "urn:dspy-ledger:problem:too-many-streams"
            assert "DSPY_LEDGER_API_STREAMS" in problem["detail"]
            assert answer.headers["retry-after"] == "10"
            assert httpx.get(f"{url}/v1/events").status_code == 200
        eventually(lambda: open_streams(url) == 0)
        with following(url) as third:
            assert next(third).id == 0


def test_head_is_answered_and_holds_no_place(ledger, api_settings, eventually):
    ledger.fold()
    with running(api_settings.data_dir) as (_, url):
        answer = httpx.head(url + STREAM)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
        eventually(lambda: open_streams(url) == 0)


def connect(url: str, target: str) -> socket.socket:
    """One whose kernel holds next to nothing for it."""
    host, port = url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    return client


@pytest.fixture
def large(ledger):
    """A ledger of 30 MB, more than any socket holds."""
    for number in range(60):
        ledger.execute(f"x{number}", body={"inputs": {"text": "x" * 500_000}})
    ledger.fold()
    return ledger


def test_a_reader_that_takes_nothing_is_let_go_and_holds_up_nobody(large, api_settings, eventually):
    quick = "from dspy_ledger.api import connection; connection._PATIENCE = 1.0"
    with running(api_settings.data_dir, quick) as (_, url):
        with connect(url, f"{STREAM}?after=0&bodies=true"):
            eventually(lambda: open_streams(url) == 1)
            with following(url, after=0) as stream:
                assert events(stream, 60) == list(range(1, 61))
            eventually(lambda: open_streams(url) == 0)
        with following(url, 7, bodies="true") as stream:
            assert events(stream, 60) == list(range(8, 61))


def test_a_reader_that_is_merely_slow_gets_everything(large, api_settings):
    quick = "from dspy_ledger.api import connection; connection._PATIENCE = 0.5"
    with (
        running(api_settings.data_dir, quick) as (_, url),
        connect(url, f"{STREAM}?after=50&bodies=true") as client,
    ):
        large.execute("late")
        large.fold()
        text = b""
        while b"\nid: 61\n" not in text[-100_000:]:
            more = client.recv(1 << 20)
            assert more, "ended"
            text += more
        assert [int(n) for n in re.findall(rb"\nid: (\d+)\nevent", text)] == list(range(51, 62))


@pytest.mark.parametrize("stalled", [False, True])
def test_a_signal_ends_the_server_and_tells_readers_where_to_go_on(large, api_settings, stalled):
    with running(api_settings.data_dir) as (process, url):
        with following(url) as stream:
            assert next(stream).id == 60
            extra = connect(url, f"{STREAM}?after=0&bodies=true") if stalled else None
            if extra is not None:
                extra.recv(1)
            process.send_signal(signal.SIGTERM)
            [last] = list(stream)
            assert last.comment == "this ends here; go on after 60"
        assert process.wait(15) == 0
        assert process.communicate() == ("", "")
        if extra is not None:
            extra.close()


def test_positions_of_another_ledger_end_the_stream(ledger, api_settings, request):
    from dspy_ledger.views import VIEW_VERSION, create_view, next_view, point_to

    ledger.execute("x")
    ledger.fold()
    with running(api_settings.data_dir) as (_, url), following(url) as stream:
        assert next(stream).id == 1
        path = next_view(api_settings.data_dir)
        view = create_view(path)
        view.execute("INSERT INTO checkpoint VALUES (1, ?, 'other', 9, NULL)", (VIEW_VERSION,))
        view.close()
        point_to(path)
        assert [block.comment for block in stream] == ["this ends here; go on after 1"]


@contextmanager
def moved_away(path: Path) -> Iterator[None]:
    """The store is not where it was; who has it open writes on."""
    aside = path.with_name("aside.db")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def test_while_only_the_store_cannot_be_read_others_are_answered_and_nothing_is_missed(ledger, api_settings):
    """A reader behind the view asked store and view in turn, for ever, and nobody else was answered."""
    ledger.fold()
    quick = "from dspy_ledger.api import streaming; streaming._HEARTBEAT = 0.3; streaming._IN_NEED = 0.1"
    with running(api_settings.data_dir, quick) as (_, url), following(url) as stream:
        next(stream)
        with moved_away(api_settings.store_path):
            ledger.execute("x")
            ledger.fold()
            for _ in range(2):
                assert next(stream).comment == "the ledger is at 0"
            assert httpx.get(f"{url}/v1/programs/executions").status_code == 200
            assert httpx.get(f"{url}/v1/events").status_code == 503
        assert events(stream, 1) == [1]


def test_a_signal_ends_the_server_also_while_only_the_store_cannot_be_read(ledger, api_settings):
    ledger.fold()
    quick = "from dspy_ledger.api import streaming; streaming._HEARTBEAT = 0.3"
    with running(api_settings.data_dir, quick) as (process, url), following(url) as stream:
        next(stream)
        with moved_away(api_settings.store_path):
            ledger.execute("x")
            ledger.fold()
            next(stream)
            process.send_signal(signal.SIGTERM)
            *_, last = stream
            assert last.comment == "this ends here; go on after 0"
            assert process.wait(15) == 0


def restore(ledger: Ledger, backup: Path) -> None:
    """Put an older copy of the ledger in its place, and build the view anew from it."""
    ledger.close()
    for part in ledger.settings.data_dir.glob("ledger.db*"):
        part.unlink()
    backup.rename(ledger.settings.store_path)
    ledger.store = SqliteEventStore(ledger.settings.store_path)
    ledger.views = SqlViews(ledger.settings.data_dir, ledger.store)
    ledger.fold()


def test_who_is_ahead_of_a_ledger_that_was_restored_is_told_where_it_ends(
    ledger, api, api_settings, tmp_path
):
    """They waited for the position that they were at, and never got what was stored until then."""
    backup = tmp_path / "backup.db"
    ledger.execute("x")
    with closing(sqlite3.connect(backup)) as copy:
        ledger.store._db.backup(copy)
    ledger.execute("y")
    ledger.fold()
    cursor = api.get("/v1/events", limit=1).json()["next_cursor"]
    quick = "from dspy_ledger.api import streaming; streaming._HEARTBEAT = 0.3"
    with running(api_settings.data_dir, quick) as (_, url), following(url) as stream:
        assert next(stream).id == 2
        restore(ledger, backup)
        assert list(islice(stream, 50))[-1].comment == "this ends here; go on after 2"
        for path, name, given in (
            ("/v1/events", "after", {"params": {"after": 2}}),
            (STREAM, "after", {"params": {"after": 2}}),
            (STREAM, "Last-Event-ID", {"headers": {"Last-Event-ID": "2"}}),
        ):
            told = check_problem(httpx.get(url + path, **given), 400, path)["errors"]
            assert told == [{"parameter": name, "detail": "the ledger ends at 1; give a position up to it"}]
        assert httpx.get(f"{url}/v1/events", params={"limit": 1, "cursor": cursor}).status_code == 200
        assert httpx.get(f"{url}/v1/events", params={"after": 1}).json()["last_position"] == 1


@pytest.mark.parametrize("given", ["x", "-1", "9" * 19, "1.5"])
def test_an_id_that_no_event_has_is_refused(ledger, api, given):
    ledger.fold()
    answer = api._loop.run_until_complete(api._client.get(STREAM, headers={"Last-Event-ID": given}))
    assert check_problem(answer, 400, STREAM)["errors"][0]["parameter"] == "Last-Event-ID"


def test_without_a_ledger_it_says_so(api):
    check_problem(api.get(STREAM), 503, STREAM)


def test_readers_at_one_place_with_the_same_filters_share_what_is_read(ledger, api, monkeypatch):
    from dspy_ledger.api.queries.events import EventFilter

    for number in range(5):
        ledger.execute(f"x{number}")
    ledger.fold()
    reads = []
    read = SqliteEventStore.read
    monkeypatch.setattr(
        SqliteEventStore,
        "read",
        lambda self, after, *args, **more: reads.append(after) or read(self, after, *args, **more),
    )
    streams, ledger_id = api.app.state.streams, ledger.store.ledger_id
    told = [api.run(lambda _: streams.read(EventFilter(), 2, ledger_id)) for _ in range(50)]
    assert len({id(frames) for frames, _, _ in told}) == 1
    assert reads == [2]
    ledger.execute("y")
    ledger.fold()
    reads.clear()
    frames, last, position = api.run(lambda _: streams.read(EventFilter(), 5, ledger_id))
    assert (frames.count(b"\nevent"), last, position, reads) == (1, 6, 6, [5])


def test_what_is_kept_for_other_readers_is_bounded_in_bytes_too(ledger, api):
    from dspy_ledger.api.queries.events import EventFilter

    for number in range(3):
        ledger.execute(f"x{number}", body={"inputs": {"text": "x" * 600_000}})
    ledger.fold()
    streams, ledger_id = api.app.state.streams, ledger.store.ledger_id
    query = EventFilter(bodies=True)
    few, many = (api.run(lambda _, at=at: streams.read(query, at, ledger_id))[0] for at in (2, 1))
    assert len(many) > 1 << 20
    assert list(streams._read.values()) == [(few, 3, 3)]
