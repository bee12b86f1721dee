"""What status prints: the accounts that matter, and nobody's table flooded by processes long gone."""

from __future__ import annotations

import io
import sqlite3
from typing import Any

import orjson
import pytest
from rich.console import Console
from rich.text import Text

from dspy_ledger.cli.status import collect, count_of
from dspy_ledger.cli.status_text import show
from dspy_ledger.requests import Desk
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore, StreamCheckpoint
from dspy_ledger.streams import Reading
from dspy_ledger.timestamps import utc_now
from dspy_ledger.views import ViewReader
from projector.ledgers import append, event, execution

LONG_AGO = "2026-01-01T00:00:00.000000Z"


def told(status: dict[str, Any]) -> str:
    out = io.StringIO()
    show(status, Console(file=out, width=200, highlight=False, soft_wrap=True))
    return out.getvalue()


@pytest.fixture
def store(settings: Settings) -> SqliteEventStore:
    settings.data_dir.mkdir()
    return SqliteEventStore(settings.store_path)


def producer(name: str, **account: object) -> dict[str, Any]:
    complete = {
        "source": f"/producers/host/{name}", "recorded": 10, "stored": 10, "dead_lettered": 0, "dropped": [],
        "unconfirmed": [], "sampled_out": 0, "missing": [], "stored_mark": 10, "first_seen": LONG_AGO,
        "last_seen": LONG_AGO,
    }  # fmt: skip
    return {**complete, **account}


def status_of(*producers: dict[str, Any]) -> dict[str, Any]:
    return {
        "ledger_id": "x", "position": 0, "projector_running": True, "dead_letters": 0,
        "broker": {"url": "u", "up": False}, "projections": {}, "lag": {}, "parked": {}, "requests": [],
        "producers": list(producers), "problems": [],
    }  # fmt: skip


def test_producers_long_silent_and_complete_are_one_line() -> None:
    many = [producer(f"old-{n}") for n in range(1000)]
    text = told(status_of(*many, producer("now", last_seen=utc_now()), producer("lossy", missing=[[3, 4]])))
    assert "1,000 silent producers are complete: 10,000 events" in text
    rows = text.splitlines()
    assert [row for row in rows if row.startswith("/producers/")] == [
        "/producers/host/lossy", "/producers/host/now"
    ]  # fmt: skip
    assert "2 (3–4)" in rows[rows.index("/producers/host/lossy") + 2]


def test_a_producer_that_lacks_events_is_not_pushed_out_by_those_that_merely_run() -> None:
    busy = [producer(f"busy-{n:02}", last_seen=utc_now()) for n in range(30)]
    text = told(status_of(*busy, producer("lossy", missing=[[1, 1], [3, 5], [7, 7], [9, 9]])))
    assert "6 (1, 3–5, 7, …)" in text
    assert "… and 11 more producers" in text


def test_an_account_is_told_in_numbers_and_the_gaps_exactly(
    settings: Settings, store: SqliteEventStore
) -> None:
    report = {"first": 1, "last": 20, "dropped": [[6, 7]], "unconfirmed": [[9, 9]], "sampled_out": 40,
              "reason": "interval"}  # fmt: skip
    append(store, [execution("a", 1), execution("b", 2), event("ProducerReported", report, "r", 10)])
    store.close()
    status = collect(settings)
    [account] = status["producers"]
    assert account["missing"] == [[3, 5], [8, 8], [11, 20]]
    assert count_of(account["missing"]) == 14
    assert "14 events are on their way or missing: gaps in producers' numbers" in status["problems"]
    text = told(status)
    assert "20 recorded, 3 stored, 2 dropped, 1 unconfirmed, 40 sampled out; last seen" in text
    assert "14 (3–5, 8, 11–20)" in text
    assert orjson.loads(orjson.dumps(status)) == status


def test_what_became_of_the_broker_is_told_and_a_problem_while_it_is_read_again(
    settings: Settings, store: SqliteEventStore
) -> None:
    reading = Reading("a/b", LONG_AGO, "set back", added=9, until="9-0", length=1234, read=567)
    store.append((), checkpoint=StreamCheckpoint(settings.keys.events, "5-0", reading.encode()))
    again = collect(settings)
    sentence = "the broker was set back: it lacks entries that it had; the stream is being read again"
    assert f"{sentence} from its beginning (567 of 1,234)" in again["problems"]
    done = Reading("a/b", LONG_AGO, "set back", added=9, read=1234, trimmed=5000, cut=7)
    store.append((), checkpoint=StreamCheckpoint(settings.keys.events, "9-0", done.encode()))
    store.close()
    after = collect(settings)
    assert not [problem for problem in after["problems"] if "set back" in problem]
    text = told(after)
    assert (
        "2026-01-01T00:00:00Z: the broker was set back: it lacks entries that it had; the stream was" in text
    )
    assert "5,000 stored entries deleted since 2026-01-01T00:00:00Z, 7 of them unread by a consumer" in text


def test_a_stream_that_is_full_and_takes_from_a_group_is_a_problem(
    valkey, make_settings, store: SqliteEventStore
) -> None:
    settings = make_settings(valkey.url, stream_max_length=1)
    with valkey.client() as client:
        client.xadd(settings.keys.events, {"x": 1})
    cut = Reading("a/b", LONG_AGO, cut=7)
    store.append((), checkpoint=StreamCheckpoint(settings.keys.events, "9-0", cut.encode()))
    store.close()
    [problem] = [p for p in collect(settings)["problems"] if "stream is full" in p]
    assert "DSPY_LEDGER_STREAM_MAX_LENGTH=1" in problem
    assert "7 entries" in problem


def test_parked_events_and_requests_in_work_are_told(settings: Settings, store: SqliteEventStore) -> None:
    append(store, [execution("a", 1), execution("b", 2)])
    store.park("sql", 2, "it broke")
    store.close()
    desk = Desk(settings.data_dir)
    desk.ask("replay", {}, "replay (process 4711)")
    desk.close()
    status = collect(settings)
    assert status["parked"] == {"sql": 1}
    assert [request["who"] for request in status["requests"]] == ["replay (process 4711)"]
    assert "could not be folded were left out: 1 by sql" in " ".join(status["problems"])
    assert "replay by replay (process 4711)" in told(status)


def test_at_80_columns_no_number_and_no_name_is_cut() -> None:
    name = "llm-server-7d9f8b6c5-x2x9k/0193a5b2c4d57e8f9a0b1c2d3e4f5a6b"
    lossy = producer(
        name, recorded=1_234_567, stored=1_234_500, missing=[[3, 60], [70, 78]], dropped=[[1, 1]]
    )
    out = io.StringIO()
    show(status_of(lossy), Console(file=out, width=80, highlight=False, soft_wrap=True))
    rows = out.getvalue().splitlines()
    at = rows.index(f"/producers/host/{name}")
    assert rows[at + 1] == "  1,234,567 recorded, 1,234,500 stored, 1 dropped; last seen 2026-01-01T00:00:00Z"
    assert rows[at + 2] == "  missing as of its last report: 67 (3–60, 70–78)"


def test_a_producer_whose_name_looks_like_markup_is_printed_as_it_is() -> None:
    text = told(status_of(producer("[/bold][red]", last_seen=utc_now())))
    assert "/producers/host/[/bold][red]" in text


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"position": null}', b'{"position": "x"}', b"\xff"])
def test_a_checkpoint_or_view_that_cannot_be_read_is_a_problem_and_no_traceback(
    settings: Settings, store: SqliteEventStore, content: bytes
) -> None:
    append(store, [execution("a", 1)])
    store.close()
    (settings.data_dir / "directory.json").write_bytes(content)
    (settings.data_dir / "views-1.db").write_bytes(b"no database " * 1000)
    (settings.data_dir / "views.current").write_text("views-1.db\n")
    status = collect(settings)
    assert status["projections"]["sql"] is status["projections"]["directory"] is None
    problems = " ".join(status["problems"])
    assert "the view is damaged (file is not a database); run `dspy-ledger replay sql`" in problems
    assert "directory.json can't be read; restart the projector" in problems
    (settings.data_dir / "views.current").write_bytes(b"\xf6iews-1.db\n")
    assert "which is no view; delete it and restart the projector" in " ".join(collect(settings)["problems"])


@pytest.mark.parametrize(
    ("code", "said"),
    [(sqlite3.SQLITE_IOERR_SHMSIZE, "disk I/O error"), (sqlite3.SQLITE_FULL, "database or disk is full")],
)
def test_a_disk_that_fails_is_told_as_that_and_not_as_a_damaged_view(
    settings: Settings, store: SqliteEventStore, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    store.close()

    def fails(_: ViewReader) -> None:
        error = sqlite3.OperationalError(said)
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(ViewReader, "connection", fails)
    problems = " ".join(collect(settings)["problems"])
    assert f"the view can't be read: {said}; see to the disk of {settings.data_dir}" in problems
    assert "damaged" not in problems


def test_whether_all_is_well_is_told_first_and_then_what_is_not() -> None:
    assert told(status_of()).startswith("✓ 0 events: nothing missing, nothing behind\n\nledger x\n")
    ill = status_of() | {"position": 1, "projector_running": False, "problems": ["it is broken", "so is it"]}
    first, *rest = told(ill).splitlines()
    assert first == "✗ 1 event, 2 problems"
    assert rest[:5] == ["- it is broken", "- so is it", "", "ledger x", "projector does not run"]


def test_on_a_terminal_a_long_problem_hangs_below_its_mark_and_no_word_is_broken() -> None:
    out = io.StringIO()
    url = "redis://" + "x" * 90
    console = Console(file=out, width=80, force_terminal=True, no_color=True, highlight=False, soft_wrap=True)
    show(status_of() | {"problems": [f"{'word ' * 30}{url} end"]}, console)
    lines = [Text.from_ansi(line).plain for line in out.getvalue().splitlines()]
    at = lines.index(next(line for line in lines if line.startswith("- word")))
    assert [line[:2] for line in lines[at : at + 5]] == ["- ", "  ", "  ", "  ", ""]
    assert f"  {url}" in lines
    assert all(len(line) <= 80 for line in lines if url not in line)


def test_one_is_told_as_one_and_that_a_projector_runs() -> None:
    text = told(status_of(producer("old", stored=1)))
    assert "projector runs\n" in text
    assert "1 silent producer is complete: 1 event\n" in text


def test_views_ahead_of_an_older_store_are_a_problem(settings: Settings, store: SqliteEventStore) -> None:
    append(store, [execution("a", 1)])
    store.close()
    (settings.data_dir / "directory.json").write_bytes(b'{"position": 9}')
    status = collect(settings)
    assert status["lag"]["directory"] == 0
    assert "projection directory is at position 9, the event store ends at 1: an older one" in " ".join(
        status["problems"]
    )


def test_status_tells_no_password_of_the_broker(make_settings, store: SqliteEventStore) -> None:
    store.close()
    status = collect(make_settings("redis://127.0.0.1:1/0?password=hidden"))
    assert status["broker"]["url"] == "redis://127.0.0.1:1/0"
    assert "hidden" not in str(status)
