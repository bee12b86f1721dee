"""Files are there whole or not at all, whatever their names are and whatever goes wrong."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest

from dspy_ledger import files
from dspy_ledger.files import append_together, make_folder, sweep, write_atomically, write_together

MANY = 150


def test_a_name_as_long_as_a_name_can_be_is_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "日" * 85):
        write_atomically(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"


def test_when_one_of_many_cant_be_written_none_is_half_written_and_no_temp_file_stays(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        write_together({tmp_path / "a": b"new", tmp_path / "missing" / "b": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_each_folder_is_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    make_folder(tmp_path / "one")
    synced.clear()
    write_together({tmp_path / "a": b"", tmp_path / "b": b"", tmp_path / "one" / "c": b""})
    assert sorted(synced) == [tmp_path, tmp_path / "one"]


@pytest.mark.parametrize("threads", [1, 4])
def test_many_files_are_synced_each_before_one_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    fsync, replace = os.fsync, Path.replace
    synced: set[int] = set()
    missing: list[Path] = []

    def syncing(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def replacing(temp: Path, path: Path) -> Path:
        if temp.stat().st_ino not in synced or len(synced) < MANY:
            missing.append(path)
        return replace(temp, path)

    monkeypatch.setattr(files, "SYNCS_AT_ONCE", threads)
    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    contents = {tmp_path / str(n): str(n).encode() for n in range(MANY)}
    write_together(contents)
    assert not missing
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents


@pytest.mark.parametrize("threads", [1, 4])
def test_when_one_of_many_cant_be_synced_none_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    fsync = os.fsync
    contents = {tmp_path / str(n): b"new" for n in range(MANY)}
    write_together(dict.fromkeys(contents, b"old"))
    calls = count()

    def failing(descriptor: int) -> None:
        if next(calls) == 100:
            raise OSError("no")
        fsync(descriptor)

    monkeypatch.setattr(files, "SYNCS_AT_ONCE", threads)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="no"):
        write_together(contents)
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"old"}
    assert len(list(tmp_path.iterdir())) == MANY


def test_what_is_appended_to_many_files_stands_after_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    synced: list[int] = []

    def syncing(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", syncing)
    paths = [tmp_path / str(n) for n in range(MANY)]
    paths[7].write_bytes(b"before\n")
    append_together({path: [b"one\n", b"two\n"] for path in paths})
    assert paths[7].read_bytes() == b"before\none\ntwo\n"
    assert {path.read_bytes() for path in paths if path != paths[7]} == {b"one\ntwo\n"}
    assert sorted(synced) == sorted(path.stat().st_ino for path in (*paths, tmp_path))


def test_a_sweep_removes_our_temp_files_only(tmp_path: Path) -> None:
    for name in (".1.2.3.tmp", ".mine.tmp", "1.2.3.tmp"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "1.2.3.tmp"]


def test_a_folder_that_is_there_is_made_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed between mkdir and fsync left a data dir that a power cut took away, ledger and all."""
    (tmp_path / "one").mkdir()
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    make_folder(tmp_path / "one" / "two")
    assert synced == [tmp_path, tmp_path / "one"]
