"""Replay everything while events come in and the API is asked, then verify.

    python tests/soak/replay_under_load.py [--events 1000000] [--rate 2000]

A ledger of so many events is made, a real projector and a real API run on it, and a feeder adds events to the
stream at a steady rate. Meanwhile `dspy-ledger replay` builds the read models, the directory and the registry
anew, and the API is asked for a page of executions and for one program twenty times a second. No answer may
fail, none may be older than the one before, and `dspy-ledger verify` must find every view as a replay makes
it. Exit code 1 when anything differs; the folder is then kept.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx
import redis
from rich.console import Console
from rich.progress import Progress

from dspy_ledger import wire
from dspy_ledger.settings import Settings, load_settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.views import ViewReader
from projector.ledgers import Fields, evaluation, execution, registration
from servers import Valkey, environment, free_port, verify

BATCH = 1000
PROGRAMS, CONTENTS = 8, 3
SOURCE = "/producers/soak/feeder"


@dataclass
class Outcome:
    """What was seen; ``differences`` is empty when all is well. Times are seconds."""

    fed: int = 0
    position: int = 0
    replay_took: float = 0.0
    replay_said: str = ""
    verify_took: float = 0.0
    asked: list[float] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def any_event(number: int, chance: random.Random, sequence: int, source: str) -> Fields:
    program = f"program_{chance.randrange(PROGRAMS)}"
    content = f"c1:{chance.randrange(CONTENTS)}"
    about = {"program": program, "content": content}
    if number < PROGRAMS * CONTENTS:
        about = {"program": f"program_{number // CONTENTS}", "content": f"c1:{number % CONTENTS}"}
        state = {"predict": {"demos": [{"q": "1"}]}}
        return registration(f"r{number}", sequence, **about, version=f"1.{number % CONTENTS}.0", body=state)
    if chance.random() < 0.002:
        return evaluation(f"e{number}", sequence, **about, evaluation_id=f"nightly-{chance.randrange(50)}")
    body = {"inputs": {"q": "x" * chance.randrange(400)}, "outputs": {"a": "y" * 100}, "calls": []}
    day = f"2026-11-{1 + number * 20 // (number + 500_000):02}T12:00:00.000000Z"
    return execution(f"x{number}", sequence, **about, body=body, time=day, source=source)


def make(settings: Settings, events: int, progress: Callable[[int], None]) -> None:
    """A ledger of so many events, written as the projector writes it."""
    chance = random.Random(1)
    with closing(SqliteEventStore(settings.store_path)) as store:
        for start in range(0, events, BATCH):
            numbers = range(start, min(start + BATCH, events))
            made = [any_event(n, chance, n + 1, "/producers/soak/before") for n in numbers]
            store.append([(None, wire.decode(fields)) for fields in made])  # type: ignore[misc]
            progress(len(numbers))


def feed(settings: Settings, first: int, rate: float, ended: threading.Event, outcome: Outcome) -> None:
    """Add events at a steady rate until told to end."""
    chance = random.Random(2)
    began = time.monotonic()
    with redis.Redis.from_url(settings.redis_url) as client:
        while not ended.is_set():
            due = int((time.monotonic() - began) * rate)
            pipe = client.pipeline(transaction=False)
            for _ in range(outcome.fed, due):
                outcome.fed += 1
                pipe.xadd(settings.keys.events, any_event(first + outcome.fed, chance, outcome.fed, SOURCE))
            pipe.execute()
            ended.wait(0.02)


def ask(settings: Settings, ended: threading.Event, outcome: Outcome) -> None:
    """Ask the API twenty times a second; every answer must be one, and no older than the one before."""
    last = 0
    url = f"http://127.0.0.1:{settings.api_port}/v1/programs"
    with httpx.Client(timeout=30) as client:
        while not ended.wait(0.05):
            for path in ("/executions?limit=100", "/program_1"):
                began = time.perf_counter()
                try:
                    answer = client.get(url + path)
                    problem = None if answer.status_code == 200 else answer.text[:200]
                    position = int(answer.headers.get("Ledger-Position", 0))
                except httpx.HTTPError as error:
                    problem, position = repr(error), last
                outcome.asked.append(time.perf_counter() - began)
                if problem is not None:
                    outcome.differences.append(f"the API answered {path} with {problem}")
                elif position < last:
                    outcome.differences.append(f"the API went back from position {last} to {position}")
                last = max(last, position)


def soak(folder: Path, events: int, rate: float, console: Console) -> Outcome:
    """The whole run."""
    outcome = Outcome()
    valkey = Valkey(folder / "valkey").start()
    settings = load_settings(
        _env_file=None,
        redis_url=valkey.url,
        data_dir=folder / "data",
        programs_dir=folder / "dspy_programs",
        api_port=free_port(),
        log_level="warning",
    )
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("making the ledger", total=events)
        make(settings, events, lambda count: progress.advance(bar, count))
    servers = [command(settings, folder, name) for name in ("projector", "api")]
    ended = threading.Event()
    threads = [
        threading.Thread(target=feed, args=(settings, events, rate, ended, outcome)),
        threading.Thread(target=ask, args=(settings, ended, outcome)),
    ]
    try:
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("the projector catches up", total=events)
            for position in positions(settings, upto=events):
                progress.update(bar, completed=position)
        wait_for_api(settings)
        for thread in threads:
            thread.start()
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "dspy_ledger.cli.main", "replay"],
            env={**os.environ, **environment(settings)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        outcome.replay_took, outcome.replay_said = time.monotonic() - began, done.stdout
        if done.returncode:
            outcome.differences.append(f"replay ended with {done.returncode}: {done.stdout}")
        ended.set()
        for thread in threads:
            thread.join()
        for position in positions(settings, upto=events + outcome.fed):
            outcome.position = position
        began = time.monotonic()
        outcome.differences += [f"verify: {line}" for line in verify(settings)]
        outcome.verify_took = time.monotonic() - began
    finally:
        ended.set()
        for server in reversed(servers):
            server.send_signal(signal.SIGTERM)
            server.wait()
        valkey.stop()
    return outcome


def command(settings: Settings, folder: Path, name: str) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dspy_ledger.cli.main", name],
            env={**os.environ, **environment(settings)},
            stdout=log,
            stderr=log,
        )


def positions(settings: Settings, *, upto: int) -> Iterator[int]:
    """The read models' position again and again, until it is there."""
    reader = ViewReader(settings.data_dir)
    deadline = time.monotonic() + 1800
    with closing(reader):
        position = 0
        while position < upto:
            assert time.monotonic() < deadline, f"the read models stay at {position} of {upto}"
            time.sleep(0.1)
            if (settings.data_dir / "views.current").exists():
                row = reader.connection().execute("SELECT position FROM checkpoint").fetchone()
                position = row[0] if row else 0
                yield position


def wait_for_api(settings: Settings) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if httpx.get(f"http://127.0.0.1:{settings.api_port}/health/ready").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, "the API is not ready"
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=2000, help="events a second that come in meanwhile")
    given = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="replay-under-load-"))
    outcome = soak(folder, given.events, given.rate, Console(stderr=True))
    ordered = sorted(outcome.asked)
    console.print(outcome.replay_said.strip())
    console.print(
        f"{given.events:,} events; replay took {outcome.replay_took:.0f} s, in which {outcome.fed:,} came"
        f" ({outcome.fed / outcome.replay_took:,.0f}/s); the API answered {len(ordered):,} times:"
        f" p50 {ordered[len(ordered) // 2] * 1e3:.1f} ms, p99 {ordered[len(ordered) * 99 // 100] * 1e3:.1f},"
        f" most {ordered[-1] * 1e3:.0f}; verify took {outcome.verify_took:.0f} s"
    )
    for difference in outcome.differences[:20]:
        console.print(f"DIFFERENCE {difference}")
    if outcome.differences:
        console.print(f"everything is kept in {folder}")
        raise SystemExit(1)
    console.print("the API answered throughout, and every view is what a replay makes")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
