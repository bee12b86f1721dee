"""What a Redis can do to its clients, each as a context; and a host that records while it lasts."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from time import monotonic, perf_counter, sleep

from dspy_ledger.producer import Ledger, LedgerStats
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.timestamps import utc_now
from proxy import Proxy
from servers import Valkey

__all__ = ["FAULTS", "Fault", "Host", "Outcome", "endure"]

BODY = {
    "inputs": {"question": "What is the capital of the country with the most lakes? " * 4},
    "outputs": {"answer": "Ottawa", "reasoning": "Canada has more lakes than any other country. " * 6},
    "calls": [{"kind": "lm", "name": "Predict", "parent": None, "start_ms": 0.1, "duration_ms": 812.5}],
}


@contextmanager
def _down(valkey: Valkey, _: Proxy) -> Iterator[None]:
    valkey.kill()
    yield
    valkey.start()


@contextmanager
def _stopped(valkey: Valkey, _: Proxy) -> Iterator[None]:
    valkey.freeze()
    yield
    valkey.thaw()


@contextmanager
def _silent(_: Valkey, proxy: Proxy) -> Iterator[None]:
    proxy.silence()
    yield
    proxy.hear()


@contextmanager
def _resetting(_: Valkey, proxy: Proxy) -> Iterator[None]:
    proxy.resets = True
    yield
    proxy.resets = False


@contextmanager
def _read_only(valkey: Valkey, _: Proxy) -> Iterator[None]:
    with valkey.client() as client:
        client.replicaof("127.0.0.1", 1)  # nobody there
        yield
        client.replicaof("NO", "ONE")


@contextmanager
def _out_of_memory(valkey: Valkey, _: Proxy) -> Iterator[None]:
    with valkey.client() as client:
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


@contextmanager
def _password(valkey: Valkey, _: Proxy) -> Iterator[None]:
    with valkey.client() as client:
        client.config_set("requirepass", "secret")
        client.client_kill_filter(_type="normal", skipme=True)  # who is in stays in otherwise
        yield
        client.config_set("requirepass", "")


@contextmanager
def _not_permitted(valkey: Valkey, _: Proxy) -> Iterator[None]:
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-xadd")
        yield
        client.execute_command("ACL", "SETUSER", "default", "+xadd")


@contextmanager
def _emptied(valkey: Valkey, _: Proxy) -> Iterator[None]:
    valkey.kill()
    yield
    shutil.rmtree(valkey.folder / "appendonlydir")
    valkey.start()


@contextmanager
def _rolled_back(valkey: Valkey, _: Proxy) -> Iterator[None]:
    live, snapshot = valkey.folder / "appendonlydir", valkey.folder / "snapshot"
    shutil.copytree(live, snapshot)
    with valkey.client() as client:
        taken = client.info("stats")["total_commands_processed"]
        while client.info("stats")["total_commands_processed"] < taken + 50:
            sleep(0.02)  # it takes more, that the snapshot does not have
    valkey.kill()
    yield
    shutil.rmtree(live)
    snapshot.rename(live)
    valkey.start()


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and what ``stats()`` is to say of it: ``problem`` meanwhile, ``server`` afterwards."""

    name: str
    happens: Callable[[Valkey, Proxy], AbstractContextManager[None]]
    problem: str
    server: str
    between: bool = False
    """It happens on the way there, not to the server."""


FAULTS = [
    Fault("down", _down, "down", "restarted"),
    Fault("stopped, still accepting", _stopped, "hanging", "same"),
    Fault("accepting, never answering", _silent, "hanging", "same", between=True),
    Fault("resetting connections", _resetting, "reset", "same", between=True),
    Fault("read-only", _read_only, "read-only", "same"),
    Fault("out of memory", _out_of_memory, "out of memory", "same"),
    Fault("needing a password", _password, "needs a password", "same"),
    Fault("forbidding XADD", _not_permitted, "not permitted", "same"),
    Fault("back empty", _emptied, "down", "empty"),
    Fault("back from an older snapshot", _rolled_back, "down", "rolled back"),
]


class Host:
    """Records typical executions at a steady rate in a thread of its own, and times each call."""

    def __init__(self, ledger: Ledger, rate: float) -> None:
        self.ids: list[str] = []
        self.seconds: dict[str, list[float]] = {}
        self.phase = "before"
        self._ledger = ledger
        self._pause = 1 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="host")

    def __enter__(self) -> Host:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due = monotonic()
        while not self._stop.is_set():
            data = {
                "execution_id": str(len(self.ids)),
                "program_id": "p",
                "status": "ok",
                "started_at": utc_now(),
                "latency_ms": 812.5,
                "model_id": "gpt-4o-mini",
                "usage": {"input_tokens": 212, "output_tokens": 40},
            }
            begun = perf_counter()
            event_id = self._ledger.record("ExecutionCompleted", data, body=BODY, subject="p")
            took = perf_counter() - begun
            self.ids.append(event_id)
            self.seconds.setdefault(self.phase, []).append(took)
            due += self._pause
            sleep(max(0.0, due - monotonic()))


@dataclass
class Outcome:
    """What a fault did: seconds of each ``record()`` by phase, and what was found; ``differences`` is empty
    when all went as it should.
    """

    stats: LedgerStats
    recorded: int = 0
    sent: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


def endure(
    fault: Fault,
    valkey: Valkey,
    settings: Settings,
    *,
    rate: float,
    lasts: float,
    around: float,
    patience: float = 30,
) -> Outcome:
    """Record while a fault lasts, and for a while before and after; a projector must be running.

    Args:
        settings: of the projector.
        rate: events a second.
        lasts: seconds that the fault lasts at least; it lasts until ``stats()`` names it.
        around: seconds before and after it.
        patience: seconds within which what is awaited must come.
    """
    differences: list[str] = []

    def until(what: str, holds: Callable[[], bool]) -> None:
        deadline = monotonic() + patience
        while not holds():
            if monotonic() > deadline:
                differences.append(f"{what}: not within {patience:.0f} s; {ledger.stats()}")
                return
            sleep(0.01)

    with Proxy(valkey.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0" if fault.between else valkey.url
        ledger = Ledger.connect(url, settings=settings)
        with ledger:
            with Host(ledger, rate) as host:
                until("the first events are stored", lambda: ledger.stats().stored >= 10)
                sleep(around)
                with fault.happens(valkey, proxy):
                    begun, host.phase = monotonic(), "during"
                    until(
                        f"the problem is {fault.problem!r}", lambda: ledger.stats().problem == fault.problem
                    )
                    sleep(max(0.0, lasts - (monotonic() - begun)))
                host.phase = "after"
                until("all is well again", lambda: ledger.stats().problem is None)
                sleep(around)
            if not ledger.flush(patience, until="stored"):
                differences.append(f"not stored within {patience:.0f} s: {ledger.stats()}")
            stats = ledger.stats()
    if stats.server != fault.server:
        differences.append(f"the server is said to be {stats.server!r}, not {fault.server!r}")
    if stats.dropped or stats.unconfirmed:
        differences.append(f"{stats.dropped} events dropped, {stats.unconfirmed} unconfirmed")
    differences += _compare(settings, stats.source, host.ids)
    with valkey.client() as client:
        sent = client.xlen(settings.keys.events)
    return Outcome(stats, len(host.ids), sent, host.seconds, differences)


def _compare(settings: Settings, source: str, recorded: list[str]) -> list[str]:
    store = SqliteEventStore(settings.store_path, readonly=True)
    stored = Counter(event.event_id for event in store.read_all())
    accounts = {account.source: account for account in store.producers()}
    letters = store.dead_letter_count()
    store.close()
    found = []
    if lost := [event_id for event_id in recorded if event_id not in stored]:
        found.append(f"{len(lost)} of {len(recorded)} recorded events are lost, e.g. {lost[0]}")
    if twice := [event_id for event_id, count in stored.items() if count > 1]:
        found.append(f"{len(twice)} events are stored more than once")
    if letters:
        found.append(f"{letters} dead letters")
    if accounts[source].ranges != ((1, accounts[source].mark),):
        found.append(f"the account has holes: {accounts[source].ranges}")
    return found
