"""Kill the projector, then Valkey, with SIGKILL, again and again under load, and verify all views after it.

    python tests/soak/kill_projector.py [--times 100] [--seed 1] [--only projector|valkey]

Two replicas record executions and registrations, some 700 a second together (which a broker that is down or
loading half of the time still passes on), and note each event's id once its record() has returned. At random
moments the projector (or the Valkey) is killed and started again. At the end every noted event must be in
the store, once, every producer's account must be without a hole, and `dspy-ledger verify` must find each
view as a replay makes it. Entries are trimmed a second after they were stored, so that trimming is killed
too. Exit code 1 when anything differs; the folder is then kept.
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
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.progress import Progress

from dspy_ledger.settings import Settings, load_settings
from servers import Projector, Valkey, environment, verify
from soak.kill_replicas import REPLICA, Outcome, account_for_the_last, compare

REPLICAS = 2
LONGEST = {"projector": 0.8, "valkey": 1.6}  # seconds between two kills
REST = 0.4  # seconds that a replica's thread rests at most between two bursts
VICTIMS = ("projector", "valkey")


def soak(
    folder: Path, victim: str, times: int, seed: int, on_kill: Callable[[], None] = lambda: None
) -> Outcome:
    """Kill one of the two ``times`` times, let the rest arrive, compare and verify."""
    chance = random.Random(seed)
    outcome = Outcome()
    valkey = Valkey(folder / "valkey").start()
    settings = load_settings(
        _env_file=None,
        redis_url=valkey.url,
        data_dir=folder / "data",
        programs_dir=folder / "dspy_programs",
        wal_dir=folder / "wal",
        stream_keep=1,
    )
    projector = Projector(settings, folder / "projector.log").start()
    notes = [folder / f"notes-{number}" for number in range(REPLICAS)]
    replicas = [start_replica(path, settings, chance) for path in notes]
    try:
        for _ in range(times):
            time.sleep(chance.uniform(0, LONGEST[victim]))
            if victim == "projector":
                projector.end(signal.SIGKILL)
                projector.start()
            else:
                valkey.kill()
                time.sleep(chance.uniform(0, 0.1))
                valkey.start()
            outcome.kills += 1
            on_kill()
        for replica in replicas:
            replica.kill()
            replica.wait()
        account_for_the_last(settings, outcome)
        outcome.differences += [f"verify: {line}" for line in verify(settings)]
    finally:
        for replica in replicas:
            replica.kill()
            replica.wait()
        projector.end(signal.SIGTERM)
        valkey.stop()
    lives = [(source, ids) for source, *ids in (path.read_text().split("\n")[:-1] for path in notes)]
    compare(settings, lives, outcome)
    return outcome


def start_replica(notes: Path, settings: Settings, chance: random.Random) -> subprocess.Popen[bytes]:
    """A replica that has begun to record."""
    env = {**os.environ, **environment(settings)}
    command = [sys.executable, str(REPLICA), str(notes), str(chance.random()), str(REST)]
    replica = subprocess.Popen(command, env=env)
    while not notes.exists() and replica.poll() is None:
        time.sleep(0.002)
    return replica


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=100, help="how many kills of each")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and of what is recorded")
    parser.add_argument("--only", choices=VICTIMS, help="kill this one alone")
    given = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    failed = False
    for victim in VICTIMS if given.only is None else (given.only,):
        folder = Path(tempfile.mkdtemp(prefix=f"kill-{victim}-"))
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task(f"killing the {victim}", total=given.times)
            outcome = soak(folder, victim, given.times, given.seed, lambda bar=bar: progress.advance(bar))
        console.print(
            f"{victim} killed {outcome.kills} times; {outcome.noted} recorded, {outcome.stored} stored,"
            f" {outcome.dead_letters} dead letters, {outcome.reported} reported as dropped"
        )
        for difference in outcome.differences:
            console.print(f"DIFFERENCE {difference}")
        if outcome.differences:
            failed = True
            console.print(f"everything is kept in {folder}")
        else:
            shutil.rmtree(folder)
    if failed:
        raise SystemExit(1)
    console.print("nothing is lost, nothing is stored twice, and every view is what a replay makes")


if __name__ == "__main__":
    main()
