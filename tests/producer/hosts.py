"""Host programs: real processes that record, and end in every way a process can."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dspy_ledger.settings import Settings

PRELUDE = '''
import os, signal, sys, threading, time
from dspy_ledger.producer import Ledger

def execution(number=0):
    return {"execution_id": str(number), "program_id": "p", "status": "ok", "latency_ms": 1,
            "started_at": "2026-11-22T10:00:00.000000Z"}

def record(ledger, count=1):
    """Record, and note each id once its record() has returned."""
    for number in range(count):
        event_id = ledger.record("ExecutionCompleted", execution(number), subject="p")
        os.write(1, event_id.encode() + b"\\n")
'''


def environment(settings: Settings) -> dict[str, str]:
    """What a host's process needs to find the ledger."""
    return {
        **os.environ,
        "DSPY_LEDGER_REDIS_URL": settings.redis_url,
        "DSPY_LEDGER_STREAM_PREFIX": settings.stream_prefix,
        "DSPY_LEDGER_WAL_DIR": str(settings.wal_dir),
    }


class Host:
    """A Python process that runs ``code`` after the prelude; it writes the ids it recorded, one a line."""

    def __init__(self, settings: Settings, code: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PRELUDE + code, *map(str, arguments)],
            env=environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_for(self, line: str) -> list[str]:
        """Block until the process wrote that line; the lines before it."""
        before: list[str] = []
        for said in iter(self.read, ""):
            if said == line:
                return before
            before.append(said)
        raise AssertionError(f"ended with {self.process.wait()}: {self.process.communicate()[1]}")

    def read(self) -> str:
        """The next line it writes; empty at its end."""
        # Byte by byte: what a buffer had read ahead, ``communicate`` would not find.
        assert self.process.stdout is not None
        said = b""
        while (byte := os.read(self.process.stdout.fileno(), 1)) not in (b"", b"\n"):
            said += byte
        return said.decode().strip()

    def end(self, code: int = 0, *, say: str = "", timeout: float = 30) -> list[str]:
        """Wait for its end; what it wrote to stdout, by words. It must have nothing to complain of."""
        written, complaints = self.process.communicate(f"{say}\n" if say else None, timeout=timeout)
        assert (self.process.returncode, complaints) == (code, "")
        return written.split()


def wal_files(settings: Settings) -> list[Path]:
    """Every write-ahead file."""
    return sorted(settings.wal_dir.rglob("*.wal"))
