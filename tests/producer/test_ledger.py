"""The client in the host: what it recorded arrives once, whatever happens to Redis or to the process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from dspy_ledger.errors import InvalidInput, LedgerUnavailable
from dspy_ledger.producer import Ledger
from dspy_ledger.producer.proposals import Proposal
from dspy_ledger.producer.wal import Commands, WalFolder
from dspy_ledger.settings import Settings
from dspy_ledger.timestamps import utc_now
from producer.streams import entries, event_ids, store_up_to
from servers import Valkey, free_port


def execution(number: int = 0) -> dict[str, object]:
    return {
        "execution_id": f"x{number}",
        "program_id": "p",
        "status": "ok",
        "started_at": utc_now(),
        "latency_ms": 1.5,
    }


def record(ledger: Ledger, count: int) -> list[str]:
    return [
        ledger.record("ExecutionCompleted", execution(n), body={"inputs": {"n": n}}, subject="p")
        for n in range(count)
    ]


@pytest.fixture
def open_ledger() -> Iterator[Callable[[Settings], Ledger]]:
    ledgers: list[Ledger] = []

    def connect(settings: Settings) -> Ledger:
        ledgers.append(Ledger.connect(settings=settings))
        return ledgers[-1]

    yield connect
    for ledger in ledgers:
        ledger.close()


def wal_files(settings: Settings) -> list[Path]:
    return sorted(path for path in settings.wal_dir.rglob("*") if path.is_file())


def test_recorded_events_arrive_once_in_order_with_their_bodies(valkey, settings, open_ledger) -> None:
    ledger = open_ledger(settings)
    ids = record(ledger, 1200)
    assert ledger.flush(10)
    found = entries(valkey, settings)
    assert [e.event_id for e in found] == ids
    assert [e.sequence for e in found] == list(range(1, 1201))
    assert {e.source for e in found} == {ledger.source}
    assert json.loads(found[7].body) == {"inputs": {"n": 7}}
    stats = ledger.stats()
    assert (stats.recorded, stats.sent, stats.dropped, stats.state) == (1200, 1200, 0, "connected")


def test_environment_service_and_release_stand_on_every_event(valkey, make_settings, open_ledger) -> None:
    settings = make_settings(valkey.url, environment="test", service="llm", release="abc")
    ledger = open_ledger(settings)
    record(ledger, 1)
    ledger.flush(5)
    envelope = entries(valkey, settings)[0].envelope
    assert (envelope["environment"], envelope["service"], envelope["release"]) == ("test", "llm", "abc")


def test_flush_until_stored_waits_for_the_mark_and_close_then_leaves_no_file(
    valkey, settings, open_ledger
) -> None:
    ledger = open_ledger(settings)
    record(ledger, 10)
    assert not ledger.flush(0.2, until="stored")
    store_up_to(valkey, settings, ledger.source, 10)
    assert ledger.flush(5, until="stored")
    ledger.close()
    assert wal_files(settings) == []


def test_flush_until_something_else_says_what_to_pass(settings, open_ledger) -> None:
    with pytest.raises(InvalidInput, match="'sent' or 'stored'"):
        open_ledger(settings).flush(until="done")  # type: ignore[arg-type]


def test_recording_while_redis_is_down_is_quick_and_arrives_when_it_comes_up(
    tmp_path, make_settings, open_ledger
) -> None:
    server = Valkey(tmp_path / "late")
    settings = make_settings(server.url)
    ledger = open_ledger(settings)
    begun = monotonic()
    ids = record(ledger, 500)
    assert monotonic() - begun < 5
    assert not ledger.flush(0.1)
    assert "ConnectionError" in (ledger.stats().last_error or "")
    server.start()
    try:
        assert ledger.flush(15)
        assert event_ids(server, settings) == dict.fromkeys(ids, 1)
        assert ledger.stats().state == "connected"
    finally:
        ledger.close()
        server.stop()


def test_a_redis_that_accepts_and_does_not_answer_holds_nobody_up(
    own_valkey, make_settings, open_ledger
) -> None:
    settings = make_settings(own_valkey.url)
    ledger = open_ledger(settings)
    record(ledger, 1)
    assert ledger.flush(5)
    own_valkey.freeze()
    begun = monotonic()
    ids = record(ledger, 100)
    with pytest.raises(LedgerUnavailable, match="did not answer"):
        ledger.ask(lambda client: client.ping(), timeout=0.1)
    assert monotonic() - begun < 4
    own_valkey.thaw()
    assert ledger.flush(15)
    assert set(ids) <= set(event_ids(own_valkey, settings))


def test_what_redis_lost_is_sent_again_and_what_is_stored_is_not(
    own_valkey, make_settings, open_ledger
) -> None:
    """After an emptied server everything above the stored mark comes again, nothing below it."""
    settings = make_settings(own_valkey.url)
    ledger = open_ledger(settings)
    ids = record(ledger, 100)
    assert ledger.flush(5)
    store_up_to(own_valkey, settings, ledger.source, 40)
    assert not ledger.flush(0.3, until="stored")
    assert ledger.stats().stored == 40
    own_valkey.kill()
    shutil.rmtree(own_valkey.folder / "appendonlydir")
    own_valkey.start()
    more = record(ledger, 5)
    assert ledger.flush(15)
    assert event_ids(own_valkey, settings) == dict.fromkeys([*ids[40:], *more], 1)


def test_what_is_not_sent_at_close_is_sent_by_the_next_start_on_this_machine(
    tmp_path, make_settings, open_ledger, eventually
) -> None:
    server = Valkey(tmp_path / "late")
    settings = make_settings(server.url)
    first = open_ledger(settings)
    ids = record(first, 50)
    begun = monotonic()
    first.close()
    assert monotonic() - begun < 4
    assert len(wal_files(settings)) == 2
    server.start()
    try:
        second = open_ledger(settings)
        eventually(lambda: event_ids(server, settings) == dict.fromkeys(ids, 1))
        assert second.stats().adopted == 50
        store_up_to(server, settings, first.source, 50)
        eventually(lambda: wal_files(settings) == [second_lock(settings, second)])
        second.close()
    finally:
        server.stop()


def second_lock(settings: Settings, ledger: Ledger) -> Path:
    return next(settings.wal_dir.rglob(f"{ledger.source.rpartition('/')[2]}.lock"))


KILLED = """
import os, sys
from dspy_ledger.producer import Ledger
ledger = Ledger.connect()
for n in range(int(sys.argv[1])):
    event_id = ledger.record("ExecutionCompleted", {"execution_id": str(n), "program_id": "p", "status": "ok",
        "started_at": "2026-11-22T10:00:00.000000Z", "latency_ms": 1})
    os.write(1, event_id.encode() + b"\\n")
os.kill(os.getpid(), 9)
"""


def test_every_event_whose_record_had_returned_survives_kill_9(
    valkey, settings, open_ledger, eventually
) -> None:
    env = {**os.environ, "DSPY_LEDGER_REDIS_URL": valkey.url, "DSPY_LEDGER_WAL_DIR": str(settings.wal_dir)}
    died = subprocess.run(
        [sys.executable, "-c", KILLED, "3000"], check=False, env=env, capture_output=True, text=True
    )
    assert died.returncode == -9
    ids = died.stdout.split()
    assert len(ids) == 3000
    open_ledger(settings)
    eventually(lambda: set(event_ids(valkey, settings)) == set(ids))


def test_threads_share_one_gapless_sequence(valkey, settings, open_ledger) -> None:
    ledger = open_ledger(settings)
    threads = [threading.Thread(target=record, args=(ledger, 200)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.flush(10)
    assert [e.sequence for e in entries(valkey, settings)] == list(range(1, 1601))


# Python warns of it since 3.12; the ledger's thread is the one that the library starts anew in the child.
@pytest.mark.filterwarnings(r"ignore:This process \(pid=\d+\) is multi-threaded:DeprecationWarning")
def test_a_forked_child_records_under_its_own_source_and_the_parent_goes_on(
    valkey, settings, open_ledger
) -> None:
    ledger = open_ledger(settings)
    record(ledger, 3)
    child = os.fork()
    if child == 0:
        record(ledger, 5)
        sent = ledger.flush(10)
        ledger.close()
        os._exit(0 if sent else 1)
    assert os.waitpid(child, 0)[1] == 0
    record(ledger, 3)
    assert ledger.flush(10)
    by_source: dict[str, set[int]] = {}
    for entry in entries(valkey, settings):
        by_source.setdefault(entry.source, set()).add(entry.sequence)
    assert by_source.pop(ledger.source) == {1, 2, 3, 4, 5, 6}
    # The parent may have adopted the child's file by now and sent it again: the store takes each once.
    assert list(by_source.values()) == [{1, 2, 3, 4, 5}]
    assert len({e.event_id for e in entries(valkey, settings)}) == 11


def test_a_process_that_just_ends_sends_what_it_recorded(valkey, settings) -> None:
    env = {**os.environ, "DSPY_LEDGER_REDIS_URL": valkey.url, "DSPY_LEDGER_WAL_DIR": str(settings.wal_dir)}
    code = KILLED.replace("os.kill(os.getpid(), 9)", "")
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "200"],
        check=False,
        env=env,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert event_ids(valkey, settings) == dict.fromkeys(ended.stdout.split(), 1)


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_values_that_are_no_json_are_described_and_never_raise(valkey, settings, open_ledger) -> None:
    ledger = open_ledger(settings)
    cycle: list[object] = []
    cycle.append(cycle)
    body = {
        "a": Hostile(),
        "b": b"\x00",
        "c": cycle,
        "d": "\ud800",
        "e": float("nan"),
        5: {1, 2},
        "big": 2**80,
    }
    ledger.record("ExecutionCompleted", execution(), body=body)
    assert ledger.flush(5)
    kept = json.loads(entries(valkey, settings)[0].body)
    assert kept["a"] == {"type": f"{__name__}.Hostile"}
    assert kept["b"]["type"] == "bytes"
    assert kept["c"] == [{"type": "cycle"}]
    assert (kept["d"], kept["e"], kept["5"], kept["big"]) == ("\\ud800", None, [1, 2], str(2**80))


def test_an_event_that_can_not_be_recorded_is_counted_and_said_once(settings, open_ledger, caplog) -> None:
    ledger = open_ledger(settings)
    for _ in range(3):
        ledger.record("NoSuchEvent", {})
    assert ledger.stats().dropped == 3
    assert [r.message for r in caplog.records if "dropped" in r.message] == [
        "an event could not be recorded and was dropped: KeyError: 'NoSuchEvent'"
    ]


def test_recording_after_close_is_counted_as_dropped_and_closing_twice_is_fine(settings, open_ledger) -> None:
    ledger = open_ledger(settings)
    ledger.close()
    ledger.close()
    record(ledger, 2)
    assert ledger.stats().dropped == 2


def test_connecting_never_fails_for_a_redis_or_folder_that_is_not_there(
    tmp_path, make_settings, caplog
) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = make_settings(f"redis://127.0.0.1:{free_port()}/0", wal_dir=tmp_path / "file" / "wal")
    with Ledger.connect(settings=settings) as ledger:
        record(ledger, 3)
        assert ledger.stats().recorded == 3
    assert any("kept in memory only" in r.message for r in caplog.records)


def test_a_url_that_can_not_be_one_is_refused_in_one_line() -> None:
    with pytest.raises(
        InvalidInput, match=r"DSPY_LEDGER_REDIS_URL='localhost' can't be used: start it with redis://"
    ):
        Ledger.connect("localhost")


def test_the_sender_outlives_a_redis_that_hangs_while_questions_time_out(
    own_valkey, make_settings, open_ledger
) -> None:
    """Refusing a question that nobody waited for any more once ended the thread for good."""
    ledger = open_ledger(make_settings(own_valkey.url))
    record(ledger, 1)
    assert ledger.flush(5)
    own_valkey.freeze()
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            ledger.ask(lambda client: client.ping(), timeout=0.05)
    assert ledger._sender.wait(lambda: ledger.stats().state == "disconnected", 10)
    own_valkey.thaw()
    record(ledger, 1)
    assert ledger.flush(15)
    assert ledger.ask(lambda client: client.ping(), timeout=2)


def test_a_question_over_a_connection_that_died_unnoticed_is_asked_again(
    valkey, settings, open_ledger
) -> None:
    ledger = open_ledger(settings)
    assert ledger.ask(lambda client: client.ping(), timeout=2)
    admin = valkey.client()
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    admin.close()
    assert ledger.ask(lambda client: client.ping(), timeout=2)


def test_an_event_that_could_not_be_made_is_reported_under_its_number(valkey, settings, open_ledger) -> None:
    """A number without an event or a report would hold the stored mark for ever."""
    ledger = open_ledger(settings)
    record(ledger, 2)
    for _ in range(3):
        ledger.record("NoSuchEvent", {})
    record(ledger, 1)
    assert ledger.flush(5)
    *events, report = entries(valkey, settings)
    assert [e.sequence for e in events] == [1, 2, 6]
    assert report.envelope["data"] == {
        "first": 1,
        "last": 6,
        "dropped": [[3, 5]],
        "unconfirmed": [],
        "sampled_out": 0,
        "reason": "interval",
    }
    assert (ledger.stats().recorded, ledger.stats().dropped) == (7, 3)


def test_a_signal_handler_that_closes_while_its_thread_records_does_not_hang(valkey, settings) -> None:
    env = {**os.environ, "DSPY_LEDGER_REDIS_URL": valkey.url, "DSPY_LEDGER_WAL_DIR": str(settings.wal_dir)}
    code = """
import os, signal, sys, threading
from dspy_ledger.producer import Ledger
ledger = Ledger.connect()
def end(*_):
    ledger.close()
    os._exit(0)
signal.signal(signal.SIGTERM, end)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
while True:
    ledger.record("ExecutionCompleted", {"execution_id": "x"})
"""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=20)


def test_what_nests_too_deeply_for_a_reader_is_cut_and_said_to_be(valkey, settings, open_ledger) -> None:
    deep: list[object] = []
    for _ in range(190):
        deep = [deep]
    ledger = open_ledger(settings)
    ledger.record("ExecutionCompleted", execution(), body={"inputs": deep})
    assert ledger.flush(5)
    assert b'"type":"cut"' in entries(valkey, settings)[0].body


def look_again(ledger: Ledger, eventually: Callable[..., None]) -> None:
    """Have the sender look now whether the server still has what is not stored."""
    look = ledger._sender._look
    look.at = 0.0
    eventually(lambda: ledger._sender.wait(lambda: look.at > 0.0, 1))
    ledger._sender.wait(lambda: False, 0.2)


def test_what_a_server_lost_when_it_was_emptied_is_found_missing_behind_what_came_after(
    valkey, settings, open_ledger, eventually
) -> None:
    """On a busy replica the last event is always there: only that one was looked for."""
    ledger = open_ledger(settings)
    ids = record(ledger, 5)
    assert ledger.flush(5)
    with valkey.client() as client:
        client.flushall()
    ids += record(ledger, 5)
    assert ledger.flush(5)
    look_again(ledger, eventually)
    eventually(lambda: event_ids(valkey, settings).keys() == set(ids))


def test_registrations_that_a_server_lost_are_found_missing(
    valkey, settings, open_ledger, eventually
) -> None:
    """A process that only registers never noticed."""
    ledger = open_ledger(settings)
    proposal = Proposal.make(
        {"program_id": "p", "content_hash": "c1:x", "version": "1.0.0", "name": "P"},
        None,
        requested=None,
        base_version=None,
        parent_content=None,
    )
    assert ledger.register(proposal, timeout=5)
    assert ledger.flush(5)
    with valkey.client() as client:
        client.flushall()
    look_again(ledger, eventually)
    with valkey.client() as client:
        eventually(lambda: client.xlen(settings.keys.events) == 1)


def die_recording(settings: Settings, processes: int, count: int) -> list[str]:
    """What was recorded by processes that then died at once, without a Redis."""
    code = f"""
import os, signal
from dspy_ledger.producer import Ledger
for _ in range({processes}):
    if os.fork() == 0:
        ledger = Ledger.connect("redis://127.0.0.1:1/0")
        for n in range({count}):
            print(ledger.record("ExecutionCompleted", {execution()!r}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
"""
    env = {**os.environ, "DSPY_LEDGER_WAL_DIR": str(settings.wal_dir)}
    ids = subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True, text=True)
    [folder] = settings.wal_dir.iterdir()
    folder.rename(WalFolder(settings.wal_dir, settings.redis_url, settings.stream_prefix).path)
    return ids.stdout.split()


def test_what_a_server_lost_of_a_dead_process_is_found_missing_though_this_one_recorded_nothing(
    valkey, settings, open_ledger, eventually
) -> None:
    ids = die_recording(settings, 1, 5)
    ledger = open_ledger(settings)
    eventually(lambda: event_ids(valkey, settings).keys() == set(ids))
    with valkey.client() as client:
        client.flushall()
    look_again(ledger, eventually)
    eventually(lambda: event_ids(valkey, settings).keys() == set(ids))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_many_dead_processes_are_taken_over_a_few_at_a_time(
    valkey, settings, open_ledger, eventually
) -> None:
    """One that crashed all night left thousands of files: the host needs descriptors too."""
    ids = die_recording(settings, 40, 1)
    before = open_files()
    ledger = open_ledger(settings)
    eventually(lambda: ledger.stats().adopted >= 16)
    assert ledger.flush(5)
    assert ledger.stats().adopted == 16
    assert open_files() - before < 50

    def take_all() -> bool:
        for entry in entries(valkey, settings):
            store_up_to(valkey, settings, entry.source, 1)
        ledger.flush(0.2, until="stored")
        return ledger.stats().adopted == 40

    eventually(take_all)
    assert event_ids(valkey, settings) == dict.fromkeys(ids, 1)


def test_a_server_that_tells_nothing_of_itself_is_not_sent_everything_again_and_again(
    own_valkey, make_settings, open_ledger, eventually
) -> None:
    """With INFO and XINFO forbidden and no projector, each look sent the whole write-ahead file."""
    with own_valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "-info", "-xinfo")
    settings = make_settings(own_valkey.url.replace("redis://", "redis://u:p@"))
    ledger = open_ledger(settings)
    ids = record(ledger, 50)
    assert ledger.flush(5)
    for _ in range(3):
        look_again(ledger, eventually)
    assert event_ids(own_valkey, settings) == dict.fromkeys(ids, 1)


def test_options_for_other_clients_in_the_url_do_no_harm(valkey, make_settings, open_ledger) -> None:
    settings = make_settings(f"{valkey.url}?decode_responses=true&protocol=3&max_connections=9")
    ledger = open_ledger(settings)
    ids = record(ledger, 5)
    assert ledger.flush(5)
    with valkey.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    ids += record(ledger, 5)
    assert ledger.flush(10)
    assert event_ids(valkey, settings) == dict.fromkeys(ids, 1)


def test_files_that_hold_nonsense_are_left_alone_and_hold_nobody_up(
    valkey, settings, open_ledger, caplog
) -> None:
    folder = WalFolder(settings.wal_dir, settings.redis_url, settings.stream_prefix)
    folder.make()
    event = (
        b'{"source":"s","type":"org.dspy-ledger.ProducerReported.v1","sequence":"3","data":{"dropped":[[1]]}}'
    )
    folder.segment("1-dead", 1).write_bytes(Commands(settings.keys.events).whole(event))
    ledger = open_ledger(settings)
    record(ledger, 1)
    assert ledger.flush(5)
    assert sum("can't read the write-ahead files of 1-dead" in m for m in caplog.messages) == 1
