"""Builds beside the live views: one of a kind at a time, claimed by a lock, kept for who goes on with it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from dspy_ledger.errors import StartupError
from dspy_ledger.files import make_folder

__all__ = ["Claim", "claimed", "drop_abandoned", "noted"]

_KEPT = 24 * 3600.0  # seconds: a build that nobody went on with for so long is removed
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Claim:
    """The right to build one kind of thing in a data dir, and a note of what is being built.

    The note outlives the process, so that the next one can go on; it counts as unwritten once the machine
    was started anew, because builds do not wait for the disk.

    Args:
        data_dir: the ledger's data dir.
        kind: a short word: ``sql``, ``directory``, ``verify``.

    Raises:
        StartupError: another process is building one.
    """

    def __init__(self, data_dir: Path, kind: str) -> None:
        make_folder(data_dir)
        self._path = _path(data_dir, kind)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise StartupError(
                f"another process is at it already (it holds {self._path}); wait for it, or end it"
            ) from None

    @property
    def note(self) -> dict[str, Any]:
        """What :meth:`write` noted last on this run of the machine; empty when nothing."""
        return _of_this_boot(_read(self._path))

    def write(self, **note: object) -> None:
        """Note what is being built; nothing, when it is done with."""
        raw = orjson.dumps({**note, "boot": _boot()}) if note else b""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, raw, 0)

    def close(self) -> None:
        """Let the next one build."""
        os.close(self._descriptor)


def claimed(data_dir: Path, kind: str) -> dict[str, Any]:
    """What is noted as being built, whether somebody is at it or may come back."""
    return _read(_path(data_dir, kind))


def noted(data_dir: Path, kind: str) -> dict[str, Any]:
    """What :attr:`Claim.note` tells, for whoever does not claim it."""
    return _of_this_boot(claimed(data_dir, kind))


def drop_abandoned(
    data_dir: Path,
    kind: str,
    remove: Callable[[dict[str, Any]], None],
    *,
    at_once: bool = False,
    now: Callable[[], float] = time.time,
) -> None:
    """Remove a build that nobody is at, unless it was noted within a day and may be gone on with.

    What can't be removed now stays for another time.

    Args:
        data_dir: the ledger's data dir.
        kind: as for :class:`Claim`.
        remove: removes what the note names.
        at_once: remove it also when it may be gone on with.
        now: seconds since 1970.
    """
    try:
        if not at_once and noted(data_dir, kind) and now() - _path(data_dir, kind).stat().st_mtime < _KEPT:
            return
        claim = Claim(data_dir, kind)
    except (OSError, StartupError):
        return
    try:
        note = claimed(data_dir, kind)
        claim.write()  # what is removed in part is nothing to go on with
        with suppress(OSError):
            remove(note)
    finally:
        claim.close()


def _path(data_dir: Path, kind: str) -> Path:
    return data_dir / f"{kind}.build"


def _read(path: Path) -> dict[str, Any]:
    try:
        note = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return note if isinstance(note, dict) else {}


def _of_this_boot(note: dict[str, Any]) -> dict[str, Any]:
    return note if note.pop("boot", None) == _boot() else {}


def _boot() -> str | None:
    """What tells this run of the machine from the one before; where nothing does, a note counts never."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return f"process {os.getpid()}"
