"""Whatever Redis does: nothing is lost, no call of the host takes longer, and stats() says what it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dspy_ledger.producer import Ledger
from dspy_ledger.projector import Worker
from dspy_ledger.settings import Settings
from servers import Valkey
from soak.faults import FAULTS, Fault, endure


@contextmanager
def projecting(settings: Settings) -> Iterator[None]:
    """A projector in a thread of this process."""
    worker = Worker(settings)
    thread = threading.Thread(target=worker.run, name="worker")
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(20)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_redis_that_fails_loses_nothing_and_holds_nobody_up(
    own_valkey: Valkey, make_settings: Callable[..., Settings], fault: Fault
) -> None:
    settings = make_settings(own_valkey.url)
    with projecting(settings):
        outcome = endure(fault, own_valkey, settings, rate=300, lasts=0.5, around=0.2)
    assert outcome.differences == []
    assert max(outcome.seconds["during"]) < 0.5  # a call that waited for Redis would take 3 s


def test_what_the_last_reconnect_found_stays_said_until_the_next(
    own_valkey: Valkey, make_settings: Callable[..., Settings], eventually: Callable[..., None]
) -> None:
    """The look that is taken now and then at a server we are connected to once overwrote it."""
    settings = make_settings(own_valkey.url)
    with Ledger.connect(settings=settings) as ledger:
        ledger.record("ExecutionCompleted", {"execution_id": "x"})  # nobody stores it: worth looking after
        assert ledger.flush(10)
        own_valkey.kill()
        own_valkey.start()
        eventually(lambda: ledger.stats().server == "restarted")
        look = ledger._sender._look
        look.at = 0.0
        eventually(lambda: look.at > 0.0)
        assert ledger.flush(10)
        assert ledger.stats().server == "restarted"
