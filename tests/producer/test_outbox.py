"""Write-ahead files: what they keep, what they forget, what a torn or full one costs."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_ledger.producer.outbox import Outbox
from dspy_ledger.producer.wal import Commands, Pieces, Record, WalFolder, scan
from dspy_ledger.sequences import SequenceSet
from dspy_ledger.timestamps import utc_now
from dspy_ledger.wire import encode

SOURCE = "/producers/host/a"
COMMANDS = Commands("{x:0}:events")


def pieces(*, size: int = 10, proposal: bool = False, body: bytes | None = b'{"inputs":{}}') -> Pieces:
    rest = orjson.dumps({"source": SOURCE, "what": "x" * size})[1:]
    return COMMANDS.pieces(b'{"sequence":"', (b'",', rest), body, proposal=proposal)


def put(outbox: Outbox, count: int = 1, *, size: int = 10, proposal: bool = False) -> list[int]:
    return [outbox.append(*pieces(size=size, proposal=proposal), proposal=proposal) for _ in range(count)]


def command(sequence: int, *, proposal: bool = False) -> bytes:
    before, after = pieces(proposal=proposal)
    return b"".join((*before, b"%010d" % sequence, *after))


def final(sequence: int) -> Record:
    event = encode(
        "ProgramRegistered", {"what": "final"}, event_id="r", source=SOURCE, sequence=sequence, time=utc_now()
    )
    return Record(SOURCE, sequence, event, None, proposal=False)


def box(next_path: Callable[[int], Path] | None, **given: Any) -> Outbox:
    return Outbox(SOURCE, COMMANDS, next_path, **given)


def send(outbox: Outbox) -> list[Record]:
    """Send the next chunks; what they hold, finals in their proposals' place."""
    chunks = outbox.unsent_chunks()
    commands = [(outbox.final(chunk.first) if chunk.proposal else None) or chunk.read() for chunk in chunks]
    outbox.was_sent(chunks)
    records = [found.record for one in commands for found in scan(one)]
    assert all(records)
    return records  # type: ignore[return-value]


def send_all(outbox: Outbox) -> list[Record]:
    records = []
    while outbox.unsent:
        records += send(outbox)
    return records


@pytest.fixture
def paths(tmp_path: Path) -> Callable[[int], Path]:
    return lambda number: tmp_path / f"a.{number:06d}.wal"


def sequences(records: list[Record]) -> list[int]:
    return [r.sequence for r in records]


json_text = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    what=st.lists(st.tuples(json_text, st.none() | json_text, st.booleans()), min_size=1, max_size=5),
    torn=st.integers(0, 200),
)
def test_a_file_gives_back_what_was_written_whatever_the_text_and_wherever_it_was_torn(what, torn) -> None:
    commands, expected, ends = b"", [], []
    for sequence, (event, body, proposal) in enumerate(what, 1):
        after = b'","source":"s","event":' + orjson.dumps(event) + b"}"
        body_bytes = None if body is None else orjson.dumps(body)
        before, pieces_after = COMMANDS.pieces(b'{"sequence":"', (after,), body_bytes, proposal=proposal)
        commands += b"".join((*before, b"%010d" % sequence, *pieces_after))
        ends.append(len(commands))
        expected.append((sequence, event, body_bytes, proposal))
    length = len(commands) - torn % len(commands)
    found = [one.record for one in scan(commands[:length])]
    whole = sum(end <= length for end in ends)
    assert [(r.sequence, orjson.loads(r.event)["event"], r.body, r.proposal) for r in found] == expected[
        :whole
    ]


@given(where=st.integers(0, 10_000), junk=st.binary(min_size=1, max_size=30))
def test_damage_costs_the_commands_it_hits_and_their_neighbour_at_most(where, junk) -> None:
    one = len(command(1))
    commands = bytearray(b"".join(command(n) for n in range(1, 21)))
    at = where % (len(commands) - len(junk))
    commands[at : at + len(junk)] = junk
    found = {one.record.sequence for one in scan(bytes(commands)) if one.record}
    hit = set(range(at // one + 1, (at + len(junk) - 1) // one + 2))
    assert set(range(1, 21)) - found <= hit | {max(hit) + 1}


def test_records_come_in_the_order_they_were_appended_and_only_once(paths) -> None:
    outbox = box(paths)
    put(outbox, 7)
    assert sequences(send(outbox)) == [1, 2, 3, 4, 5, 6, 7]
    put(outbox)
    assert sequences(send(outbox)) == [8]
    assert send(outbox) == []
    assert not outbox.unsent


def test_segments_are_bounded_and_removed_once_the_store_has_all_in_them(paths, tmp_path: Path) -> None:
    outbox = box(paths, segment_bytes=600)
    put(outbox, 30, size=100)
    files = sorted(tmp_path.glob("*.wal"))
    assert len(files) > 3
    assert all(file.stat().st_size < 1200 for file in files)
    send_all(outbox)
    outbox.confirm(29)
    assert len(list(tmp_path.glob("*.wal"))) == 1  # the one being written stays
    outbox.confirm(30)
    assert outbox.close()
    assert list(tmp_path.glob("*.wal")) == []


def test_rewinding_reads_again_what_is_above_the_mark_and_nothing_below(paths) -> None:
    outbox = box(paths)
    put(outbox, 10)
    send(outbox)
    outbox.confirm(6)
    outbox.rewind()
    assert sequences(send_all(outbox)) == [7, 8, 9, 10]
    put(outbox, 2)
    outbox.rewind()
    assert sequences(send_all(outbox)) == [7, 8, 9, 10, 11, 12]


def test_many_small_sends_are_remembered_as_few_chunks(paths) -> None:
    outbox = box(paths)
    for _ in range(1000):
        put(outbox)
        send(outbox)
    assert len(outbox._chunks) <= 10
    outbox.rewind()
    assert sequences(send_all(outbox)) == list(range(1, 1001))


def test_a_final_registration_takes_its_proposals_place_and_is_read_once(paths) -> None:
    outbox = box(paths)
    put(outbox, proposal=True)
    put(outbox)
    outbox.decided(final(1))
    first, second = send_all(outbox)
    assert (first.sequence, first.proposal, b"final" in first.event) == (1, False, True)
    assert second.sequence == 2


def test_what_a_dead_process_left_is_read_by_the_next_finals_before_proposals(paths, tmp_path: Path) -> None:
    outbox = box(paths, segment_bytes=600)
    put(outbox, proposal=True)
    put(outbox, 7, size=50)
    outbox.decided(final(1))
    put(outbox, proposal=True)
    adopted = Outbox.adopted(sorted(tmp_path.glob("*.wal")), COMMANDS)
    assert (adopted.source, adopted.last, adopted.count) == (SOURCE, 9, 9)
    records = send_all(adopted)
    assert sequences(records) == list(range(1, 10))
    assert [r.sequence for r in records if r.proposal] == [9]
    adopted.confirm(9)
    assert adopted.close()
    assert list(tmp_path.glob("*.wal")) == []


def test_a_decided_registration_whose_proposal_is_gone_does_not_make_who_adopts_it_report_a_gap(
    paths,
) -> None:
    outbox = box(paths, segment_bytes=600)
    put(outbox, proposal=True)
    put(outbox, 8, size=50)
    outbox.decided(final(1))
    put(outbox, 3, size=50)
    send_all(outbox)
    outbox.confirm(6)
    outbox.abandon()
    adopted = Outbox.adopted(sorted(paths(1).parent.glob("*.wal")), COMMANDS)
    records = send_all(adopted)
    assert sequences(records)[0] > 2  # the first files are gone, the registration's final event is not
    assert 1 in sequences(records)
    assert not [r for r in records if b"ProducerReported" in r.event]


def test_a_torn_end_is_dropped_and_what_is_appended_then_is_whole(paths, tmp_path: Path) -> None:
    outbox = box(paths)
    put(outbox, proposal=True)
    put(outbox)
    with (tmp_path / "a.000001.wal").open("ab") as file:
        file.write(command(3)[:-5])
    adopted = Outbox.adopted([tmp_path / "a.000001.wal"], COMMANDS)
    adopted.decided(final(1))
    assert sequences(send_all(adopted)) == [1, 2]
    again = Outbox.adopted([tmp_path / "a.000001.wal"], COMMANDS)
    assert [r.proposal for r in send_all(again)] == [False, False]


def test_a_folder_that_can_not_be_written_means_memory_then_counted_drops(tmp_path: Path, caplog) -> None:
    outbox = box(lambda n: tmp_path / "missing" / f"{n}.wal", memory_bytes=10_000)
    assert put(outbox, 20) == list(range(1, 21))
    assert outbox.memory_bytes == outbox.wal_bytes > 0
    assert sequences(send_all(outbox)) == list(range(1, 21))
    assert len(caplog.records) == 1
    assert put(outbox, size=10_000) == [0]
    assert put(outbox) == [22]  # the dropped one keeps its number
    outbox.report("interval")
    *_, report = send_all(outbox)
    assert orjson.loads(report.event)["data"]["dropped"] == [[21, 21]]


def test_a_full_disk_means_memory_until_there_is_room_again(paths, monkeypatch, caplog) -> None:
    """Half a command written before the disk was full must not stay in the file."""
    outbox = box(paths)
    put(outbox)
    real_write = os.pwrite
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda fd, data, at: real_write(fd, data[:5], at))
        put(outbox, 2)
    assert outbox.memory_bytes > 0
    outbox._retry_at = 0
    put(outbox, 2)
    assert sequences(send_all(outbox)) == [1, 2, 3, 4, 5]
    assert all(found.record for number in (1, 2) for found in scan(paths(number).read_bytes()))
    assert ["only, for now" in caplog.messages[0], "again" in caplog.messages[1]] == [True, True]
    outbox.confirm(3)
    assert outbox.memory_bytes == 0


def test_over_the_cap_what_was_sent_goes_first_and_is_reported_as_unconfirmed(paths, tmp_path) -> None:
    outbox = box(paths, most_bytes=80_000, segment_bytes=10_000)
    put(outbox, 100, size=500)
    send_all(outbox)
    outbox.confirm(5)
    kept = put(outbox, 100, size=500)
    assert kept[-1] > 0
    assert 0 not in kept
    assert outbox.dropped == 0
    assert outbox.wal_bytes <= 80_000
    assert sum(file.stat().st_size for file in tmp_path.glob("*.wal")) <= 80_000
    told = [orjson.loads(r.event)["data"] for r in send_all(outbox) if b"ProducerReported" in r.event]
    ranges = [tuple(one) for data in told for one in data["unconfirmed"]]
    assert min(first for first, _ in ranges) == 6  # what is stored is not unconfirmed
    assert sum(last - first + 1 for first, last in ranges) == outbox.unconfirmed


def test_over_the_cap_what_was_not_sent_stays_and_the_newest_is_dropped_and_reported(paths) -> None:
    outbox = box(paths, most_bytes=80_000, segment_bytes=10_000)
    kept = put(outbox, 300, size=500)
    refused = [n for n, sequence in enumerate(kept, 1) if sequence == 0]
    assert refused
    assert outbox.dropped == len(refused)
    outbox.report("close")
    *events, report = send_all(outbox)
    assert sequences(events) == [n for n in kept if n]
    assert orjson.loads(report.event)["data"]["dropped"] == [[refused[0], refused[-1]]]
    assert report.sequence == outbox.last == 301


@settings(max_examples=60)
@given(
    steps=st.lists(st.sampled_from(["put", "put", "put", "send", "confirm", "rewind", "report"]), max_size=60)
)
def test_every_number_is_stored_or_reported_in_the_end_whatever_happens_in_which_order(steps) -> None:
    with TemporaryDirectory() as folder:
        outbox = box(lambda n: Path(folder) / f"a.{n:06d}.wal", most_bytes=20_000, segment_bytes=3_000)
        stored = SequenceSet()
        do = {
            "put": lambda: put(outbox, 5, size=300),
            "send": lambda: [_store(stored, r) for r in send_all(outbox) if r.sequence % 7],  # some get lost
            "confirm": lambda: outbox.confirm(stored.mark),
            "rewind": outbox.rewind,
            "report": lambda: outbox.report("interval"),
        }
        for step in steps:
            do[step]()
        for _ in range(3):  # what was lost on the way comes again until all is settled
            outbox.report("interval")
            outbox.rewind()
            for record in send_all(outbox):
                _store(stored, record)
            outbox.confirm(stored.mark)
        assert stored.missing(outbox.last) == []
        outbox.close()


@settings(max_examples=60)
@given(
    steps=st.lists(st.sampled_from(["put", "put", "send", "confirm"]), max_size=40), mark=st.integers(0, 100)
)
def test_who_adopts_the_files_of_a_dead_process_knows_of_every_number_above_the_mark(steps, mark) -> None:
    with TemporaryDirectory() as folder:
        outbox = box(lambda n: Path(folder) / f"a.{n:06d}.wal", most_bytes=20_000, segment_bytes=3_000)
        last_kept = 0
        for step in steps:
            if step == "put":
                last_kept = max(last_kept, *put(outbox, 5, size=300))
            elif step == "send":
                send_all(outbox)
            else:
                outbox.confirm(min(mark, outbox.sent))
        outbox.abandon()
        adopted = Outbox.adopted(sorted(Path(folder).glob("*.wal")), COMMANDS)
        settled = SequenceSet([(1, outbox.mark)] if outbox.mark else [])
        for record in send_all(adopted):
            _store(settled, record)
        assert settled.missing(last_kept) == []
        adopted.close()


def _store(stored: SequenceSet, record: Record) -> None:
    stored.add(record.sequence)
    if b"ProducerReported" in record.event:
        data = orjson.loads(record.event)["data"]
        for first, last in (*data["dropped"], *data["unconfirmed"]):
            stored.add(first, last)


def test_a_living_instance_is_not_adopted_and_a_dead_one_by_one_process_only(tmp_path: Path) -> None:
    folder = WalFolder(tmp_path, "redis://localhost:6379/0", "dspy-ledger")
    folder.make()
    alive = folder.lock("alive")
    folder.segment("alive", 1).write_bytes(b"")
    folder.segment("dead", 1).write_bytes(command(1))
    (folder.path / "dead.lock").touch()
    (folder.path / "empty.lock").touch()
    found = list(folder.abandoned())
    assert [instance for instance, _, _ in found] == ["dead"]
    assert list(folder.abandoned()) == []  # still locked by the first who looked
    assert not (folder.path / "empty.lock").exists()
    assert alive is not None
    folder.unlock("dead", found[0][1], remove=True)
    folder.unlock("alive", alive, remove=True)


def test_files_for_one_redis_are_not_seen_by_a_ledger_on_another(tmp_path: Path) -> None:
    urls = [
        "redis://a:6379/0",
        "redis://a:6379/1",
        "redis://b:6379/0",
        "unix:///run/redis.sock",
        "rediss://a:1/0",
    ]
    folders = {WalFolder(tmp_path, url, prefix).path for url in urls for prefix in ("x", "y")}
    assert len(folders) == 10
    assert (
        WalFolder(tmp_path, "redis://me:secret@a:6379/0", "x").path == WalFolder(tmp_path, urls[0], "x").path
    )
    assert all(folder.parent == tmp_path for folder in folders)


def test_memory_is_freed_as_the_store_takes_what_is_in_it(tmp_path: Path) -> None:
    """The last memory segment was never let go, so that 32 MiB were the end although all was stored."""
    outbox = box(lambda n: tmp_path / "missing" / f"{n}.wal", memory_bytes=4 << 20)
    for n in range(1, 41):
        assert put(outbox, size=500_000) == [n]
        send_all(outbox)
        outbox.confirm(n)
    assert outbox.memory_bytes < 4 << 20


def test_files_whose_lock_is_gone_are_adopted_too(tmp_path: Path) -> None:
    folder = WalFolder(tmp_path, "redis://localhost:6379/0", "dspy-ledger")
    folder.make()
    folder.segment("7-abc", 1).write_bytes(command(1))
    [(instance, lock, paths)] = folder.abandoned()
    assert (instance, paths) == ("7-abc", [folder.segment("7-abc", 1)])
    folder.unlock(instance, lock, remove=True)


def test_numbers_that_a_damaged_file_lost_are_reported_in_its_producers_name(tmp_path: Path) -> None:
    """Otherwise the stored mark stood still before them, and the file was sent again at every start."""
    commands = [command(n) for n in range(3, 10)]
    commands[1] = b"\x00" * 20 + b"\r\n"
    commands[4] = commands[4].replace(b'"source"', b'"sauce" ')
    path = tmp_path / "a.000002.wal"
    path.write_bytes(b"".join(commands))
    *events, report = send_all(Outbox.adopted([path], COMMANDS))
    assert sequences(events) == [3, 5, 6, 8, 9]
    told = orjson.loads(report.event)
    assert (told["source"], report.sequence) == (SOURCE, 10)
    assert (told["data"]["last"], told["data"]["dropped"], told["data"]["reason"]) == (
        9,
        [[4, 4], [7, 7]],
        "start",
    )


def test_one_batch_is_bounded_in_bytes(paths) -> None:
    outbox = box(paths, segment_bytes=64 << 20)
    put(outbox, 30, size=1 << 20)
    assert 1 <= len(send(outbox)) <= 2
    assert len(send_all(outbox)) >= 28


def test_a_signal_handler_that_records_within_an_append_loses_nothing_and_does_not_wait(paths) -> None:
    outbox = box(paths)
    put(outbox)
    real_write = os.pwrite
    late: list[int] = []

    def interrupted(fd: int, data: bytes, at: int) -> int:
        if not late:
            late.append(outbox.append(*pieces()))
        return real_write(fd, data, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", interrupted)
        assert put(outbox) == [2]
    assert late == [-1]
    assert sequences(send_all(outbox)) == [1, 2, 3]


def test_a_signal_handler_that_raises_within_an_append_leaves_no_hole_and_no_lock(paths) -> None:
    """Where Ctrl-C hit, a number was missing for ever, or nobody else got the lock any more."""
    outbox = box(paths, segment_bytes=600)
    put(outbox)

    def interrupt_after(left: int) -> Callable[..., None]:
        def profile(frame: Any, event: str, _: object) -> None:
            nonlocal left
            # Where the interpreter looks for signals: as a function begins, and after a call into C.
            if "dspy_ledger" in frame.f_code.co_filename and event in ("call", "c_return"):
                left -= 1
                if left < 0:
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        return profile

    command = pieces()
    for calls in range(40):
        sys.setprofile(interrupt_after(calls))
        try:
            outbox.append(*command)
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        other = threading.Thread(target=put, args=(outbox,))
        other.start()
        other.join(1)
        assert not other.is_alive(), calls
    outbox.report("interval")
    stored = SequenceSet()
    while chunks := outbox.unsent_chunks():
        found = [one.record for chunk in chunks for one in scan(chunk.read())]
        assert len(found) == sum(chunk.count for chunk in chunks)  # as many answers are waited for
        for record in found:
            assert record is not None
            _store(stored, record)
        outbox.was_sent(chunks)
    assert stored.missing(outbox.last) == []


def test_an_event_that_comes_while_another_thread_waits_for_the_disk_is_kept_after_it(paths) -> None:
    """It was dropped, and dropping it raised into the host."""
    outbox = box(paths)
    go, inside = threading.Event(), threading.Event()
    real_write = os.pwrite

    def hang(fd: int, data: bytes, at: int) -> int:
        inside.set()
        go.wait(20)
        return real_write(fd, data, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", hang)
        patch.setattr("dspy_ledger.producer.outbox._LOCK", 0.1)
        hung = threading.Thread(target=put, args=(outbox,))
        hung.start()
        inside.wait(20)
        assert put(outbox, 3) == [-1, -1, -1]
        outbox.drop()
        outbox.sample_out()
        outbox.report("interval")
        go.set()
        hung.join()
    put(outbox)
    outbox.report("interval")
    *events, report = send_all(outbox)
    told = orjson.loads(report.event)["data"]
    assert len(events) == 5
    assert (outbox.dropped, told["dropped"], told["sampled_out"]) == (1, [[5, 5]], 1)


def test_reports_do_not_grow_over_the_cap_and_come_when_there_is_room(paths) -> None:
    outbox = box(paths, most_bytes=20_000, segment_bytes=3_000)
    while put(outbox, size=300)[0]:
        pass
    for _ in range(100):
        put(outbox, size=300)
        outbox.report("interval")
    assert outbox.wal_bytes < 21_000
    outbox.confirm(send_all(outbox)[-2].sequence)
    outbox.report("interval")
    assert orjson.loads(send_all(outbox)[-1].event)["data"]["dropped"][-1][1] == outbox.last - 1


def test_what_a_thread_appends_after_the_close_is_counted_as_dropped(paths, caplog) -> None:
    outbox = box(paths)
    put(outbox, 2)
    outbox.close()
    assert put(outbox, 2) == [0, 0]
    assert (outbox.dropped, caplog.records) == (2, [])


def test_a_file_that_can_not_be_removed_costs_a_warning_and_no_account(paths, monkeypatch, caplog) -> None:
    outbox = box(paths, most_bytes=20_000, segment_bytes=3_000)
    put(outbox, 30, size=300)
    send_all(outbox)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    outbox.confirm(9)
    assert 0 not in put(outbox, 20, size=300)
    assert "can't remove" in caplog.messages[0]
    assert outbox.unconfirmed > 0
    stored = SequenceSet([(1, outbox.mark)])
    for chunk in outbox._chunks:
        for found in scan(chunk.read()):
            assert found.record is not None
            _store(stored, found.record)
    assert stored.missing(outbox.last) == []


def test_a_proposal_that_can_not_be_read_is_reported_and_holds_nothing_up(paths) -> None:
    outbox = box(paths)
    put(outbox, proposal=True)
    put(outbox, 2)
    [chunk] = outbox.unsent_chunks()
    outbox.leave_out(chunk)
    *events, report = send_all(outbox)
    assert sequences(events) == [2, 3]
    assert orjson.loads(report.event)["data"]["dropped"] == [[1, 1]]


def test_a_small_memory_is_freed_while_events_are_dropped(tmp_path: Path) -> None:
    """What was dropped waited for a report, the report for room, and the room for what was dropped."""
    outbox = box(lambda n: tmp_path / "missing" / f"{n}.wal", memory_bytes=20_000)
    for _ in range(2):
        while put(outbox, size=300)[0]:
            pass
        outbox.report("interval")
    told = send_all(outbox)[-1].sequence
    put(outbox, size=20_000)
    outbox.confirm(told)
    assert put(outbox) == [outbox.last]
