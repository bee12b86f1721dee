"""The asker's side of a request: waits for the running projector, or writes itself when none runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Any

from dspy_ledger.errors import RequestFailed, StartupError
from dspy_ledger.projector.actions import all_actions
from dspy_ledger.projector.lease import WriterLease
from dspy_ledger.projector.office import open_office
from dspy_ledger.projector.requests import Clerk
from dspy_ledger.requests import Desk, Progress
from dspy_ledger.settings import Settings

__all__ = ["carried_out", "wait_for_others"]

_LOOK_EVERY = 0.1  # seconds
_GRACE = 5.0  # seconds that a projector which was there may take to start again


def carried_out(
    settings: Settings,
    action: str,
    arguments: Mapping[str, Any],
    who: str,
    tell: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Have the ledger's writer do something; its answer.

    A projector that is started anew meanwhile goes on with it; a caller that goes away does not end it.

    Args:
        settings: where everything lies.
        action: its name, of :func:`all_actions`.
        arguments: JSON-able.
        who: who asks, for the log.
        tell: called with how far it is; may raise to wait no longer.

    Raises:
        RequestFailed: it could not be done.
        StartupError: nobody writes, and this process can't.
    """
    with closing(Desk(settings.data_dir)) as desk:
        return _wait(settings, desk, desk.ask(action, arguments, who), tell)


def wait_for_others(
    settings: Settings, action: str, of: Mapping[str, Any], tell: Callable[[Progress], None]
) -> None:
    """Return once no earlier request for that action with those arguments is left unanswered."""
    with closing(Desk(settings.data_dir)) as desk:
        for request in desk.pending():
            if request.action == action and of.items() <= request.arguments.items():
                with suppress(RequestFailed):  # that is for its asker
                    _wait(settings, desk, request.id, tell)


def _wait(
    settings: Settings, desk: Desk, request_id: int, tell: Callable[[Progress], None]
) -> dict[str, Any]:
    vacant_since = -_GRACE  # nobody was ever seen writing: no need to wait for anyone
    while True:
        if WriterLease.is_held(settings.data_dir):
            vacant_since = time.monotonic()
        elif time.monotonic() - vacant_since >= _GRACE:
            _work(settings, desk, request_id, tell)
        request = desk.request(request_id)
        if request is None:
            raise RequestFailed("the request was removed; ask again")
        if request.answer is not None:
            return request.answer
        if request.problem is not None:
            raise RequestFailed(request.problem)
        if request.progress is not None:
            tell(request.progress)
        time.sleep(_LOOK_EVERY)


def _work(settings: Settings, desk: Desk, request_id: int, tell: Callable[[Progress], None]) -> None:
    """Be the writer until the request is answered, unless another is by now."""
    try:
        with open_office(settings, quiet=True) as office:
            clerk = Clerk(desk, all_actions(office), own=request_id)
            while (request := desk.request(request_id)) and request.state in ("asked", "working"):
                clerk()
                if request.progress is not None:
                    tell(request.progress)
    except StartupError:
        if not WriterLease.is_held(settings.data_dir):
            raise
