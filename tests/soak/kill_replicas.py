"""Kill a busy replica with SIGKILL, again and again, and hold every event it recorded to account.

    python tests/soak/kill_replicas.py [--times 100] [--seed 1]

A real projector reads from a real Valkey. A replica's threads record executions and registrations and note
each event's id once its record() has returned; at a random moment the replica is killed, and the next one
starts and adopts what it left. At the end every noted event must be in the store, once, and every
producer's account must be without a hole. Exit code 1 when anything differs; the folder is then kept.
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
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.progress import Progress

from dspy_ledger.producer import Ledger
from dspy_ledger.settings import Settings, load_settings
from dspy_ledger.store import SqliteEventStore
from servers import Projector, Valkey
from soak.replica import THREADS

REPLICA = Path(__file__).with_name("replica.py")
LONGEST = 0.6  # seconds that a replica lives, once it records


@dataclass
class Outcome:
    """What was found; ``differences`` is empty when all is accounted for."""

    kills: int = 0
    noted: int = 0
    stored: int = 0
    sent: int = 0
    dead_letters: int = 0
    reported: int = 0
    adopted_by_last: int = 0
    differences: list[str] = field(default_factory=list)


def soak(folder: Path, times: int, seed: int, on_kill: Callable[[], None] = lambda: None) -> Outcome:
    """Kill replicas ``times`` times, let the rest arrive, and compare."""
    chance = random.Random(seed)
    outcome = Outcome()
    valkey = Valkey(folder / "valkey").start()
    settings = load_settings(
        _env_file=None,
        redis_url=valkey.url,
        data_dir=folder / "data",
        programs_dir=folder / "dspy_programs",
        wal_dir=folder / "wal",
    )
    projector = Projector(settings, folder / "projector.log").start()
    try:
        lives = []
        for number in range(times):
            lives.append(live_and_die(folder / f"notes-{number}", settings, chance))
            outcome.kills += 1
            on_kill()
        account_for_the_last(settings, outcome)
        with valkey.client() as client:
            outcome.sent = client.xlen(settings.keys.events)
    finally:
        projector.end(signal.SIGTERM)
        valkey.stop()
    compare(settings, lives, outcome)
    return outcome


def live_and_die(notes: Path, settings: Settings, chance: random.Random) -> tuple[str, list[str]]:
    """One replica's life: its source (empty when it died before it had one), and what it noted."""
    env = {
        **os.environ,
        "DSPY_LEDGER_REDIS_URL": settings.redis_url,
        "DSPY_LEDGER_WAL_DIR": str(settings.wal_dir),
    }
    replica = subprocess.Popen([sys.executable, str(REPLICA), str(notes), str(chance.random())], env=env)
    while not notes.exists() and replica.poll() is None:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, LONGEST))
    replica.kill()
    replica.wait()
    source, *ids = notes.read_text().split("\n")[:-1] or [""]
    return source, ids


def account_for_the_last(settings: Settings, outcome: Outcome) -> None:
    """Start once more, as the next replica would, and stay until nothing is left, or nothing moves."""
    with Ledger.connect(settings=settings) as ledger:
        left, deadline = set[Path](), 0.0
        while len(list(settings.wal_dir.rglob("*.lock"))) > 1:
            if (files := set(settings.wal_dir.rglob("*.wal"))) != left:
                left, deadline = files, time.monotonic() + 120
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        outcome.adopted_by_last = ledger.stats().adopted
    if left := [path.name for path in settings.wal_dir.rglob("*") if path.is_file()]:
        outcome.differences.append(f"write-ahead files are left: {', '.join(left)}")


def compare(settings: Settings, lives: list[tuple[str, list[str]]], outcome: Outcome) -> None:
    """The store against what the replicas noted."""
    store = SqliteEventStore(settings.store_path, readonly=True)
    accounts = {account.source: account for account in store.producers()}
    outcome.dead_letters = store.dead_letter_count()
    ids: Counter[str] = Counter()
    by_source: Counter[str] = Counter()
    for event in store.read_all():
        ids[event.event_id] += 1
        by_source[event.source] += 1
    store.close()
    written_off = {  # and did not arrive after all
        source: sum(last - first + 1 for first, last in (*account.dropped, *account.unconfirmed))
        for source, account in accounts.items()
    }
    outcome.noted = sum(len(noted) for _, noted in lives)
    outcome.stored, outcome.reported = ids.total(), sum(written_off.values())
    found = outcome.differences
    if outcome.dead_letters:
        found.append(f"{outcome.dead_letters} dead letters")
    found += [f"{event_id} is stored {count} times" for event_id, count in ids.items() if count > 1]
    for source, noted in lives:
        if lost := [event_id for event_id in noted if event_id not in ids]:
            found.append(f"{source}: {len(lost)} of {len(noted)} recorded events are lost, e.g. {lost[0]}")
        if source not in accounts:
            continue  # killed before its first event
        account = accounts[source]
        if account.ranges != ((1, account.mark),):
            found.append(f"{source}: its account has holes: {account.ranges}")
        if by_source[source] + written_off[source] != account.mark:
            found.append(
                f"{source}: recorded {account.mark}, but {by_source[source]} stored and"
                f" {written_off[source]} reported"
            )
        if not len(noted) <= account.mark <= len(noted) + THREADS + written_off[source]:
            found.append(f"{source}: recorded {account.mark}, but {len(noted)} noted by {THREADS} threads")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=100, help="how many replicas to kill")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and of what is recorded")
    given = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="kill-replicas-"))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("killing replicas", total=given.times)
        outcome = soak(folder, given.times, given.seed, on_kill=lambda: progress.advance(bar))
    console.print(
        f"{outcome.kills} replicas killed; {outcome.noted} events recorded (their record() had returned)\n"
        f"{outcome.stored} stored, {outcome.sent - outcome.stored} of them sent more than once,"
        f" {outcome.dead_letters} dead letters, {outcome.reported} reported as dropped"
    )
    for difference in outcome.differences:
        console.print(f"DIFFERENCE {difference}")
    if outcome.differences:
        console.print(f"everything is kept in {folder}")
        raise SystemExit(1)
    console.print("every recorded event is in the store once, and no producer's account has a hole")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
