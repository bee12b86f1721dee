"""The writer's lease: at most one process writes into a data dir."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dspy_ledger.errors import StartupError
from dspy_ledger.files import LEASE

__all__ = ["WriterLease"]

_GITIGNORE = "# What was asked and answered lies here: not for git.\n*\n"


class WriterLease:
    """An exclusive lock on ``<data_dir>/writer.lock``, held until closed or until the process ends.

    Raises:
        StartupError: another process holds it, or the data dir can't be written.
    """

    def __init__(self, data_dir: Path) -> None:
        path = data_dir / LEASE
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not (data_dir / ".gitignore").exists():
                (data_dir / ".gitignore").write_text(_GITIGNORE, "utf-8")
        except OSError as error:
            raise StartupError(
                f"the data dir {data_dir} can't be written ({error.strerror}); set DSPY_LEDGER_DATA_DIR to"
                " another folder"
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
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
