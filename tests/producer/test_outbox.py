"""Write-ahead files: what they keep, what they forget, what a torn or full one costs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger.producer.outbox import Outbox
from dspy_ledger.producer.wal import FileSegment, Record, WalFolder, format_line, parse_line

SOURCE = "/producers/host/a"


def record(sequence: int, *, proposal: bool = False, size: int = 10, what: str = "x") -> Record:
    event = orjson.dumps({"source": SOURCE, "sequence": sequence, "what": what * size})
    return Record(sequence, event, b'{"inputs":{}}' if sequence % 2 else None, proposal)


@pytest.fixture
def paths(tmp_path: Path) -> Callable[[int], Path]:
    return lambda number: tmp_path / f"a.{number:06d}.wal"


def sequences(records: list[Record]) -> list[int]:
    return [r.sequence for r in records]


json_text = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(sequence=st.integers(1, 2**60), event=json_text, body=st.none() | json_text, proposal=st.booleans())
def test_a_line_gives_back_its_record_whatever_the_text_in_it(sequence, event, body, proposal) -> None:
    body_bytes = None if body is None else orjson.dumps(body)
    kept = Record(sequence, orjson.dumps(event), body_bytes, proposal)
    line = format_line(kept)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert parse_line(line[:-1]) == kept


@pytest.mark.parametrize("line", [b"", b"E1", b"X1\t{}\t", b"Eone\t{}\t", b"E1\t{}", b"\x00\x00\x00"])
def test_a_damaged_line_is_no_record(line: bytes) -> None:
    assert parse_line(line) is None


def test_records_come_in_the_order_they_were_appended_and_only_once(paths) -> None:
    outbox = Outbox(SOURCE, paths)
    for n in range(1, 8):
        outbox.append(record(n))
    assert sequences(outbox.read(3))[:3] == [1, 2, 3]
    outbox.append(record(8))
    assert sequences(outbox.read(100))[-1] == 8
    assert outbox.read(100) == []
    assert not outbox.unsent


def test_segments_are_bounded_and_removed_once_the_store_has_all_in_them(paths, tmp_path: Path) -> None:
    outbox = Outbox(SOURCE, paths, segment_bytes=500)
    for n in range(1, 31):
        outbox.append(record(n, size=100))
    files = sorted(tmp_path.glob("*.wal"))
    assert len(files) > 3
    assert all(file.stat().st_size < 1000 for file in files)
    while outbox.read(100):
        pass
    outbox.confirm(29)
    assert len(list(tmp_path.glob("*.wal"))) == 1  # the one being written stays
    outbox.confirm(30)
    assert outbox.close()
    assert list(tmp_path.glob("*.wal")) == []


def test_rewinding_reads_again_what_is_above_the_mark(paths) -> None:
    outbox = Outbox(SOURCE, paths)
    for n in range(1, 11):
        outbox.append(record(n))
    outbox.read(100)
    outbox.confirm(6)
    outbox.rewind()
    assert sequences(outbox.read(100)) == [7, 8, 9, 10]


def test_a_final_registration_takes_its_proposals_place_and_is_read_once(paths) -> None:
    outbox = Outbox(SOURCE, paths)
    outbox.append(record(1, proposal=True))
    outbox.append(record(2))
    outbox.decided(record(1, what="final"))
    [first, second] = outbox.read(100)
    assert (first.sequence, first.proposal, b"final" in first.event) == (1, False, True)
    assert second.sequence == 2


def test_what_a_dead_process_left_is_read_by_the_next_finals_before_proposals(paths, tmp_path: Path) -> None:
    outbox = Outbox(SOURCE, paths, segment_bytes=300)
    outbox.append(record(1, proposal=True))
    for n in range(2, 9):
        outbox.append(record(n, size=50))
    outbox.decided(record(1, what="final"))
    outbox.append(record(9, proposal=True))
    adopted = Outbox.adopted(sorted(tmp_path.glob("*.wal")))
    assert (adopted.source, adopted.last) == (SOURCE, 9)
    records = adopted.read(100)
    assert sequences(records) == list(range(1, 10))
    assert [r.sequence for r in records if r.proposal] == [9]
    adopted.confirm(9)
    assert adopted.close()
    assert list(tmp_path.glob("*.wal")) == []


def test_a_torn_last_line_is_dropped_and_what_is_appended_then_is_whole(paths, tmp_path: Path) -> None:
    outbox = Outbox(SOURCE, paths)
    outbox.append(record(1, proposal=True))
    outbox.append(record(2))
    with (tmp_path / "a.000001.wal").open("ab") as file:
        file.write(format_line(record(3))[:-5])
    adopted = Outbox.adopted([tmp_path / "a.000001.wal"])
    adopted.decided(record(1, what="final"))
    assert sequences(adopted.read(100)) == [1, 2]
    again = Outbox.adopted([tmp_path / "a.000001.wal"])
    assert [r.proposal for r in again.read(100)] == [False, False]


def test_a_folder_that_can_not_be_written_means_memory_and_nothing_is_lost(tmp_path: Path, caplog) -> None:
    outbox = Outbox(SOURCE, lambda n: tmp_path / "missing" / f"{n}.wal", memory_bytes=10_000)
    for n in range(1, 21):
        outbox.append(record(n))
    assert sequences(outbox.read(100)) == list(range(1, 21))
    assert len(caplog.records) == 1
    with pytest.raises(OSError, match="memory for it is full"):
        outbox.append(record(21, size=10_000))


def test_a_full_disk_means_memory_until_there_is_room_again(paths, monkeypatch) -> None:
    """Half a line written before the disk was full must not stay in the file."""
    outbox = Outbox(SOURCE, paths)
    outbox.append(record(1))
    real_write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: real_write(fd, data[:5]))
        for n in (2, 3):
            outbox.append(record(n))
    for n in (4, 5):
        outbox.append(record(n))
    assert sequences(outbox.read(100)) == [1, 2, 3, 4, 5]
    assert all(line.endswith(b"\n") for line in paths(1).read_bytes().splitlines(keepends=True))


def test_a_line_longer_than_the_read_buffer_is_read_whole(tmp_path: Path) -> None:
    segment = FileSegment(tmp_path / "a.wal")
    for n in (1, 2):
        segment.append(format_line(record(n, size=5000)), n)
    lines, behind = segment.read_lines(0, most_bytes=64)
    assert parse_line(lines[0]) == record(1, size=5000)
    assert segment.read_lines(behind, most_bytes=1 << 20)[1] == segment.size


def test_a_living_instance_is_not_adopted_and_a_dead_one_by_one_process_only(tmp_path: Path) -> None:
    folder = WalFolder(tmp_path, "redis://localhost:6379/0", "dspy-ledger")
    folder.make()
    alive = folder.lock("alive")
    folder.segment("alive", 1).write_bytes(b"")
    folder.segment("dead", 1).write_bytes(format_line(record(1)))
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
    outbox = Outbox(SOURCE, lambda n: tmp_path / "missing" / f"{n}.wal", memory_bytes=4 << 20)
    for n in range(1, 41):
        outbox.append(record(n, size=500_000))
        while outbox.unsent:
            outbox.read(100)
        outbox.confirm(n)
    assert outbox.wal_bytes < 4 << 20


def test_files_whose_lock_is_gone_are_adopted_too(tmp_path: Path) -> None:
    folder = WalFolder(tmp_path, "redis://localhost:6379/0", "dspy-ledger")
    folder.make()
    folder.segment("7-abc", 1).write_bytes(format_line(record(1)))
    [(instance, lock, paths)] = folder.abandoned()
    assert (instance, paths) == ("7-abc", [folder.segment("7-abc", 1)])
    folder.unlock(instance, lock, remove=True)


def test_numbers_that_a_damaged_file_lost_are_reported_in_its_producers_name(tmp_path: Path) -> None:
    """Otherwise the stored mark stood still before them, and the file was sent again at every start."""
    lines = [format_line(record(n)) for n in range(3, 10)]
    lines[1] = b"\x00" * 20 + b"\n"
    lines[4] = lines[4].replace(b'"source"', b'"sauce" ')
    path = tmp_path / "a.000002.wal"
    path.write_bytes(b"".join(lines))
    *events, report = Outbox.adopted([path]).read(100)
    assert sequences(events) == [3, 5, 6, 7, 8, 9]  # 7 will be a dead letter: its bytes are not lost
    told = orjson.loads(report.event)
    assert (told["source"], report.sequence) == (SOURCE, 10)
    assert told["data"] == {"first": 1, "last": 9, "dropped": [[4, 4], [7, 7]], "reason": "start"}


def test_one_read_is_bounded_in_bytes_too(paths) -> None:
    outbox = Outbox(SOURCE, paths, segment_bytes=64 << 20)
    for n in range(1, 31):
        outbox.append(record(n, size=1 << 20))
    assert 1 <= len(outbox.read(500)) <= 8
