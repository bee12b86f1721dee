"""An old snapshot of Redis under a running system: what producers hold arrives, the rest is named exactly."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dspy_ledger.cli.status import collect
from dspy_ledger.producer import Ledger
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.streams import entry_order
from projector.ledgers import NOON, event, execution
from projector.test_stream import add_to, restore, snapshot
from servers import Projector, Valkey

GONE = "/producers/gone/1"


@pytest.fixture
def projector(
    own_valkey: Valkey, make_settings: Callable[..., Settings], tmp_path: Path
) -> Iterator[Projector]:
    projector = Projector(make_settings(own_valkey.url, stream_keep=0), tmp_path / "projector.log").start()
    yield projector
    if projector.process is not None:
        projector.process.send_signal(signal.SIGCONT)
        projector.end(signal.SIGKILL)


def record(ledger: Ledger, *numbers: int) -> None:
    for n in numbers:
        data = {"program_id": "p", "status": "ok", "started_at": NOON, "latency_ms": 1}
        ledger.record("ExecutionCompleted", {**data, "execution_id": f"held-{n}"})


def stored(settings: Settings) -> list[str]:
    """The execution ids in the store."""
    store = SqliteEventStore(settings.store_path, readonly=True)
    try:
        return sorted(e.data["execution_id"] for e in store.read_all() if "execution_id" in e.data)
    finally:
        store.close()


def missing(status: dict[str, Any]) -> dict[str, list[list[int]]]:
    return {producer["source"]: producer["missing"] for producer in status["producers"]}


@pytest.mark.parametrize("clock_was_ahead", [False, True], ids=["higher ids", "lower ids"])
def test_what_producers_still_hold_arrives_and_the_rest_is_shown_as_exact_missing_ranges(
    clock_was_ahead: bool, projector: Projector, own_valkey: Valkey, eventually: Callable[..., None]
) -> None:
    settings = projector.settings
    stream = settings.keys.events
    client = own_valkey.client()
    with Ledger.connect(settings=settings) as ledger:
        record(ledger, *range(1, 51))
        add_to(client, stream, *[execution(f"gone-{n}", n, source=GONE) for n in range(1, 5)])
        assert ledger.flush(20, until="stored")
        old = snapshot(own_valkey)
        if clock_was_ahead:
            eventually(lambda: client.exists(stream))
            ahead = entry_order(client.xinfo_stream(stream)["last-generated-id"])[0] + 3_600_000
            add_to(client, stream, execution("ahead", 1, source="/producers/ahead/1"), ids=(f"{ahead}-0",))
        record(ledger, *range(51, 101))
        assert ledger.flush(20, until="stored")

        assert projector.process is not None
        projector.process.send_signal(signal.SIGSTOP)
        record(ledger, *range(101, 151))
        assert ledger.flush(20, until="sent")
        # This producer ended, and its files are gone: only the broker has these.
        add_to(client, stream, *[execution(f"gone-{n}", n, source=GONE) for n in range(5, 10)])
        restore(own_valkey, old)
        report = {"first": 1, "last": 12, "reason": "interval"}
        add_to(client, stream, event("ProducerReported", report, "r", 10, source=GONE))
        projector.process.send_signal(signal.SIGCONT)

        record(ledger, *range(151, 201))
        assert ledger.flush(30, until="stored")

    held = {f"held-{n}" for n in range(1, 201)} | {f"gone-{n}" for n in range(1, 5)}
    eventually(lambda: set(stored(settings)) - {"ahead"} == held)
    assert len(stored(settings)) == len(set(stored(settings)))
    eventually(lambda: collect(settings)["broker"]["reading"]["why"] == "set back")
    eventually(lambda: not collect(settings)["broker"]["reading"]["again"])
    status = collect(settings)
    assert missing(status).pop(GONE) == [[5, 9], [11, 12]]
    assert sum(map(bool, missing(status).values())) == 1
    assert "7 events are on their way or missing: gaps in producers' numbers" in status["problems"]
    assert status["broker"]["reading"]["said"].startswith("the broker was set back")
    assert "the broker was set back" in projector.log
    assert "Traceback" not in projector.log
    eventually(lambda: collect(settings)["broker"]["stream_length"] == 0)  # and trimming goes on
    assert projector.end(signal.SIGTERM) == 0
    client.close()
