"""When to try again: a full disk is waited for, any other failure a handful of times."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from dspy_ledger.errors import LedgerUnavailable

__all__ = ["Halted", "Patience", "is_disk_full"]

_log = logging.getLogger(__name__)

_ATTEMPTS = 6
_LONGEST_WAIT = 2.0
_SAY_AGAIN = 5.0

T = TypeVar("T")


class Halted(Exception):
    """Work was given up because the process is to end."""


def is_disk_full(error: BaseException) -> bool:
    """Whether a failure means that no space is left, whoever noticed."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Patience:
    """Retries in place, with back-off, until ``halt`` is set.

    Args:
        halt: set when the process is to end; waits end at once.
        first_wait: seconds before the second attempt; doubled each time, up to 2 s.
    """

    def __init__(self, halt: threading.Event, *, first_wait: float = 0.05) -> None:
        self._halt = halt
        self._first_wait = first_wait

    def insist(self, what: str, act: Callable[[], T], *, wait_for_room: bool = True) -> T:
        """Call ``act`` until it returns.

        Args:
            what: what is being done, for the log: "storing a batch".
            act: does all or nothing, or may at least be called again after it raised.
            wait_for_room: whether to wait for a full disk; else that is raised at once.

        Raises:
            Halted: the process is to end.
            LedgerUnavailable: at once.
            Exception: what ``act`` raised last, after six attempts; a full disk does not count as one.
        """
        attempts, wait, said = 0, self._first_wait, 0.0
        while True:
            try:
                return act()
            except (Halted, LedgerUnavailable):
                raise  # Redis is waited for elsewhere, where nothing else waits with it
            except Exception as error:
                full = is_disk_full(error)
                if full and not wait_for_room:
                    raise
                attempts += not full
                if attempts >= _ATTEMPTS:
                    raise
                now = time.monotonic()
                if not full:
                    _log.warning("%s failed, trying again: %s", what, error)
                elif now - said >= _SAY_AGAIN or not said:
                    said = now
                    _log.warning("%s waits: the disk is full; nothing is lost, make room", what)
            if self._halt.wait(wait):
                raise Halted
            wait = min(wait * 2, _LONGEST_WAIT)
