"""Commands as real processes, and what they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "dspy_ledger.cli.main"]


def environment(folder: Path, **settings: object) -> dict[str, str]:
    """A clean environment whose every folder lies under the test's own."""
    own = {"DATA_DIR": folder / "data", "PROGRAMS_DIR": folder / "dspy_programs", "WAL_DIR": folder / "wal"}
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("DSPY_LEDGER_")},
        "COLUMNS": "200",
        **{f"DSPY_LEDGER_{name}": str(value) for name, value in {**own, **settings}.items()},
    }


def run(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], check=False, env=env, cwd=cwd, capture_output=True, text=True, timeout=120
    )


def children(parent: int) -> dict[int, str]:
    """Process id → command line of everything that a process started and that still runs."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(stat[1]) == parent and stat[0] != "Z":
            found[int(entry.name)] = command
    return found


def child(parent: int, word: str) -> int | None:
    """The child whose command line has that word."""
    return next((pid for pid, command in children(parent).items() if word in command), None)


def is_running(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_9(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
