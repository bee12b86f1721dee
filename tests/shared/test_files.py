"""Files are there whole or not at all, whatever their names are and whatever goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspy_ledger import files
from dspy_ledger.files import make_folder, sweep, write_atomically, write_together


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
