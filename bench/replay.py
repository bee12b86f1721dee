"""How many events a second a replay folds, against the limits of reading and of writing what it writes.

    python bench/replay.py [1000000]

A store is filled with events of the usual kinds; then each row of the table runs in a process of its own on
that store: the bare SELECT of every event, bare inserts of executions' rows into a view without indexes (and
the indexes), and the replays themselves as the command builds them. RSS is of that process, at each tenth of
the way; the growth is what was written per event.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import rig
from events import any_event

from dspy_ledger import wire
from dspy_ledger.projector.builds import BATCH, ReadingStore, build_directory, build_view
from dspy_ledger.projector.catalog import Catalog
from dspy_ledger.projector.claims import Claim
from dspy_ledger.projector.rows import fold
from dspy_ledger.requests import Progress
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.views import create_view

Tell = Callable[[Progress], None]


def fill(path: Path, events: int) -> None:
    rng = random.Random(1)
    with closing(SqliteEventStore(path)) as store:
        for start in range(0, events, BATCH):
            made = [any_event(n, rng) for n in range(start, min(start + BATCH, events))]
            store.append([(f"{start}-{n}", wire.decode(fields)) for n, fields in enumerate(made)])


def select(path: Path, _: Path, tell: Tell) -> None:
    """Every event and body, as Python's sqlite3 gives them."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT e.*, b.body FROM events e LEFT JOIN bodies b USING (position) ORDER BY position"
        )
        at = 0
        while batch := rows.fetchmany(BATCH):
            at += len(batch)
            tell(Progress(at, 0))


def insert(path: Path, folder: Path, tell: Tell) -> None:
    """As many executions as there are events, from rows that are ready."""
    with closing(ReadingStore(path)) as store:
        ready = fold(store.read(0, BATCH), Catalog()).executions
        events = store.last_position()
    marks = ",".join("?" * len(ready[0]))
    with closing(create_view(folder / "bare.db", indexes=False)) as db:
        db.execute("PRAGMA synchronous = OFF")
        for start in range(0, events, len(ready)):
            rows = [(start + n, *row[1:]) for n, row in enumerate(ready[: events - start], 1)]
            db.execute("BEGIN")
            db.executemany(f"INSERT INTO executions VALUES ({marks})", rows)
            db.execute("COMMIT")
            tell(Progress(start + len(rows), 0))


def read_models(path: Path, folder: Path, tell: Tell) -> None:
    with closing(ReadingStore(path)) as store, closing(Claim(folder, "sql")) as claim:
        build_view(folder, store, claim, fresh=True, tell=tell)


def directory(path: Path, folder: Path, tell: Tell) -> None:
    with closing(ReadingStore(path)) as store, closing(Claim(folder, "directory")) as claim:
        build_directory(folder, store, claim, fresh=True, tell=tell)


ROWS = {
    "limit: bare SELECT": select,
    "limit: bare inserts": insert,
    "read models, indexes included": read_models,
    "directory": directory,
}


def measured(name: str, path: Path, folder: Path, events: int, answer: Connection) -> None:
    """In the process: seconds on the wall and of the processor, RSS (MiB) at each tenth, bytes written."""
    gc.freeze()  # as the command does
    gc.set_threshold(50_000, 20, 20)
    rss: list[int] = []

    def tell(at: Progress) -> None:
        if at.done * 10 >= events * (len(rss) + 1):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            rss.append(pages * os.sysconf("SC_PAGE_SIZE") >> 20)

    wall, cpu = time.perf_counter(), time.process_time()
    ROWS[name](path, folder, tell)
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    answer.send((*seconds, rss, written))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("events", type=int, nargs="?", default=1_000_000)
    events = parser.parse_args().events
    context = get_context("spawn")
    table = rig.table(
        f"replay of {events:,} events", "", "events/s", "CPU µs/event", "bytes/event", "RSS MiB, by tenths"
    )
    with TemporaryDirectory(prefix="dspy-ledger-bench-") as name:
        path = Path(name) / "ledger.db"
        fill(path, events)
        for row in ROWS:
            folder = Path(name) / "out"
            folder.mkdir()
            here, there = context.Pipe()
            process = context.Process(target=measured, args=(row, path, folder, events, there))
            process.start()
            there.close()
            wall, cpu, rss, written = here.recv()
            process.join()
            shutil.rmtree(folder)
            shown = " ".join(map(str, rss))
            table.add_row(
                row, f"{events / wall:,.0f}", f"{cpu / events * 1e6:.1f}", f"{written / events:,.0f}", shown
            )
        store = path.stat().st_size / events
    rig.console.print(rig.machine("orjson"))
    rig.console.print(table)
    rig.console.print(f"the event store itself: {store:,.0f} bytes an event")


if __name__ == "__main__":
    main()
