"""Requests worked off by the ledger's one writer, a slice at a time.

What is asked lies at the :class:`~dspy_ledger.requests.Desk`; the :class:`Clerk` of whoever holds the
writer's lease answers, the oldest request first. What an action is::

    def forget(arguments: Mapping[str, Any]) -> Work:
        for n, chunk in enumerate(chunks, 1):
            ...                                       # at most 0.2 s
            yield Progress(n, len(chunks), "erasing")
        return {"erased": 12}                         # the answer, JSON-able

It runs on the writer's thread between two batches of ingest, and is begun again with the same arguments when
its process ended in between: so it is idempotent. What it raises fails the request and goes to the asker.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

from dspy_ledger.errors import LedgerError, RequestFailed, StoreError
from dspy_ledger.requests import Desk, Progress, Request

__all__ = ["Action", "Clerk", "Work"]

_log = logging.getLogger(__name__)

_SLICE = 0.2  # seconds of work between two batches of ingest
_TIDY_EVERY = 3600.0  # seconds

Work = Generator[Progress, None, dict[str, Any]]
"""Work in slices of at most 0.2 s; what it returns is the answer."""

Action = Callable[[Mapping[str, Any]], Work]
"""What a request can ask for, by its arguments; idempotent."""


class Clerk:
    """Works off the requests; a chore for :class:`~dspy_ledger.projector.live.Live`, or for a loop.

    Args:
        desk: where requests lie.
        actions: what can be asked for, by name.
        own: the request of this very process, whose user is told and needs no log.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        desk: Desk,
        actions: Mapping[str, Action],
        *,
        own: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk = desk
        self._actions = actions
        self._own = own
        self._clock = clock
        self._at_work: tuple[Request, Work] | None = None
        self._troubled = False
        self._tidy_due = clock()

    def __call__(self) -> bool:
        """One slice of work (0.2 s); whether it wants to be called again at once."""
        try:
            more = self._work()
        except (sqlite3.Error, StoreError, OSError) as error:  # of the desk: ingest does not stop for it
            if not self._troubled:
                _log.warning("requests can't be answered for now: %s", error)
            self._troubled = True
            return False
        self._troubled = False
        return more

    def _work(self) -> bool:
        if self._at_work is None:
            if self._clock() >= self._tidy_due:
                self._tidy_due = self._clock() + _TIDY_EVERY
                self._desk.tidy()
            pending = self._desk.pending()
            if not pending:
                return False
            request = pending[0]
            self._desk.begin(request.id)
            self._at_work = request, self._begin(request)
        request, work = self._at_work
        deadline = self._clock() + _SLICE
        try:
            progress = next(work)
            while self._clock() < deadline:
                progress = next(work)
        except StopIteration as ended:
            self._at_work = None
            self._desk.done(request.id, ended.value or {})
        except Exception as error:  # noqa: BLE001  the asker is told; the writer goes on
            self._at_work = None
            problem = str(error) if isinstance(error, LedgerError) else f"{type(error).__name__}: {error}"
            level = logging.DEBUG if request.id == self._own else logging.WARNING
            _log.log(level, "request %d (%s) failed: %s", request.id, request.action, problem)
            self._desk.fail(request.id, problem)
        else:
            self._desk.tell(request.id, progress)
        return True

    def _begin(self, request: Request) -> Work:
        level = logging.DEBUG if request.id == self._own else logging.INFO
        _log.log(level, "%s asks for %s %s", request.who, request.action, request.arguments)
        return _worked(self._actions.get(request.action), request)


def _worked(action: Action | None, request: Request) -> Work:
    """The action's work; what it raises before its first slice fails the request, too."""
    if action is None:
        raise RequestFailed(
            f"the running projector does not know {request.action!r}; restart it with this release"
        )
    return (yield from action(request.arguments))
