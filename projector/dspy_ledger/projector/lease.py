"""The writer's lease: at most one process writes into a data dir."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from dspy_ledger.errors import StartupError
from dspy_ledger.files import LEASE, is_locked, make_folder

__all__ = ["WriterLease"]

_ATTEMPTS = 5
_PAUSE = 0.01  # seconds
_GITIGNORE = "# What was asked and answered lies here: not for git.\n*\n"


class WriterLease:
    """An exclusive lock on ``<data_dir>/writer.lock``, held until closed or until the process ends.

    Raises:
        StartupError: another process holds it, or the data dir can't be written.
    """

    def __init__(self, data_dir: Path) -> None:
        path = data_dir / LEASE
        try:
            make_folder(data_dir)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not (data_dir / ".gitignore").exists():
                (data_dir / ".gitignore").write_text(_GITIGNORE, "utf-8")
        except OSError as error:
            raise StartupError(
                f"the data dir {data_dir} can't be written ({error.strerror}); set DSPY_LEDGER_DATA_DIR to"
                " another folder"
            ) from None
        if not self._lock():
            holder = os.read(self._descriptor, 20).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StartupError(
                f"another projector (process {holder}) writes into {data_dir}; stop it, or choose another"
                " DSPY_LEDGER_DATA_DIR"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let the next one write."""
        os.close(self._descriptor)

    @staticmethod
    def is_held(data_dir: Path) -> bool:
        """Whether a process writes there."""
        return is_locked(data_dir / LEASE)

    def _lock(self) -> bool:
        """Take the lock; whoever only asks :meth:`is_held` has it for a moment."""
        for _ in range(_ATTEMPTS):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(_PAUSE)
            else:
                return True
        return False
