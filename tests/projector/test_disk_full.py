"""A disk that fills up under the projector: it waits, says so, and goes on once there is room."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dspy_ledger.api.metrics import directory_position
from dspy_ledger.settings import Settings
from projector.ledgers import execution, registration
from projector.test_worker import projected, send, stored
from servers import Projector, Valkey, verify

EVENTS = 1500  # of four kilobytes: as much as the disk holds


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of six megabytes."""
    path = tmp_path / "disk"
    path.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(path)]
    if subprocess.run(mounting, check=False, capture_output=True).returncode:
        pytest.skip("nobody but root may mount a small disk")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def fill(path: Path, *, leave: int) -> Path:
    """A file that takes all of a disk but so many bytes."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        statistics = os.statvfs(path)
        os.posix_fallocate(file.fileno(), 0, statistics.f_bavail * statistics.f_frsize - leave)
    return filler


@pytest.mark.parametrize("full", ["data_dir", "programs_dir"])
def test_a_full_disk_stops_nothing_but_the_projector_which_goes_on_when_there_is_room(
    full: str,
    disk: Path,
    own_valkey: Valkey,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
    eventually: Callable[..., None],
) -> None:
    settings = make_settings(own_valkey.url, **{full: disk / "here"})
    projector = Projector(settings, tmp_path / "projector.log").start()
    try:
        with own_valkey.client() as client:
            send(client, settings, [registration("r", 1)])
            eventually(lambda: projected(settings) == 1)
            filler = fill(disk, leave=600_000)
            body = {"inputs": {"text": "x" * 4000}}
            send(client, settings, [execution(f"e{n}", n, body=body) for n in range(2, EVENTS)])
            eventually(lambda: "disk is full; nothing is lost, make room" in projector.log)
            assert projector.process.poll() is None
            if full == "programs_dir":  # the others go on
                eventually(lambda: projected(settings) == EVENTS - 1)
                assert directory_position(settings.data_dir)["directory"] < EVENTS - 1
            else:
                assert stored(settings) < EVENTS - 1
            filler.unlink()
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            eventually(lambda: projected(settings) == EVENTS - 1, within=30)
            eventually(lambda: directory_position(settings.data_dir)["directory"] == EVENTS - 1, within=30)
        assert verify(settings) == []
    finally:
        projector.end(signal.SIGTERM)
    assert verify(settings) == []
