"""Child processes kept running: restarted when they crash, stopped together, none left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from types import FrameType
from typing import IO

from dspy_ledger.errors import StartupError

__all__ = ["Child", "Supervisor", "on_termination"]

_SETTLED = 5.0  # seconds after which a child counts as having started well
_QUICK_FAILURES = 5  # in a row, and it is given up
_GRACE = 10.0  # seconds a child may take to stop before it is killed
_PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """One process.

    ``before`` runs ahead of every start (it may wait for what the child needs). ``log`` gets its output,
    line by line; without one it goes nowhere.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    log: Callable[[str, str], None] | None = None
    before: Callable[[], None] | None = None
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    last_line: str = ""
    started: float = 0.0
    failures: int = 0
    retry_at: float = 0.0


class Supervisor:
    """Starts children in order, watches them, stops them in the opposite order.

    A child that dies with an error is started again, after a pause that grows; one that keeps dying at
    once ends it all.

    Args:
        say: gets one line whenever something notable happens.
    """

    def __init__(self, children: Sequence[Child], say: Callable[[str], None]) -> None:
        self.children = list(children)
        self._say = say
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.failed: str | None = None

    def start(self) -> None:
        """Start all children; nothing is left running when one can't be.

        Raises:
            StartupError: a child could not be started.
        """
        try:
            for child in self.children:
                self._launch(child)
        except BaseException:
            self.stop()
            raise

    def watch_in_background(self) -> None:
        """Watch from a thread; for a caller with other things to do."""
        self._thread = threading.Thread(target=self.watch, name="supervisor", daemon=True)
        self._thread.start()

    def watch(self) -> None:
        """Restart what crashes, until ``stop`` is called or a child is given up (``failed`` says which)."""
        while not self._stop.wait(0.1):
            for child in self.children:
                if child.process is not None and child.process.poll() is not None:
                    self._died(child, child.process.returncode)
                if child.process is None and not self._stop.is_set() and monotonic() >= child.retry_at:
                    self._launch(child)
                if self.failed:
                    return

    def stop(self) -> None:
        """Stop all children, the last first; return when none is left."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for child in reversed(self.children):
            if child.process is not None:
                _end(child.process)
                child.process = None

    def _launch(self, child: Child) -> None:
        if child.before is not None:
            child.before()
        try:
            # Of its own process group: Ctrl-C in the terminal reaches this process only, which then stops
            # the children in order.
            child.process = subprocess.Popen(  # noqa: S603  our own commands
                list(child.command),
                env={**os.environ, **child.env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if child.log else subprocess.DEVNULL,
                stderr=subprocess.STDOUT if child.log else subprocess.DEVNULL,
                process_group=0,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  one system call, async-signal-safe enough
            )
        except OSError as error:
            raise StartupError(f"can't start {child.name} ({child.command[0]}): {error.strerror}") from None
        child.started = monotonic()
        if child.log is not None and child.process.stdout is not None:
            threading.Thread(target=_relay, args=(child, child.process.stdout), daemon=True).start()

    def _died(self, child: Child, code: int) -> None:
        child.process = None
        quick = monotonic() - child.started < _SETTLED
        child.failures = child.failures + 1 if quick else 1
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        if child.failures > _QUICK_FAILURES:
            self.failed = f"{child.name} {how} {child.failures} times in a row: {child.last_line}".strip(": ")
            return
        pause = min(5.0, 0.2 * 2 ** (child.failures - 1))
        child.retry_at = monotonic() + pause
        child.restarts += 1
        self._say(f"{child.name} {how}; starting it again")


def on_termination(action: Callable[[], None]) -> None:
    """Have SIGTERM and SIGINT call a function, once; a second one ends the process as usual."""

    def handle(signum: int, _frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        action()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def _relay(child: Child, stream: IO[bytes]) -> None:
    with stream:
        for raw in stream:
            line = raw.decode("utf-8", "replace").rstrip()
            if line:
                child.last_line = line
                if child.log is not None:
                    child.log(child.name, line)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    """In the child: get SIGTERM when the parent is gone, even by ``kill -9`` (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
