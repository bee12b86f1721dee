"""Everything that can be wrong with a Redis, under a host that goes on recording.

    python tests/soak/redis_faults.py [--down 60] [--others 5] [--rate 500] [--only NAME]

For each fault a real Valkey, a real projector and a host that records executions of about 1.4 kB at a
steady rate: before it, while it lasts, and after. Nothing may be lost, ``stats()`` must name the problem and
what became of the server, and the host's calls must take as long as before. Exit code 1 when anything
differs. The times are those of one ``record()`` on this machine, where Valkey and projector run too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from statistics import quantiles

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from dspy_ledger.settings import load_settings
from servers import Projector, Valkey
from soak.faults import FAULTS, Fault, Outcome, endure

AROUND = 5.0  # seconds before and after each fault


def soak(fault: Fault, folder: Path, *, lasts: float, rate: float) -> Outcome:
    """One fault in a world of its own."""
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
        return endure(fault, valkey, settings, rate=rate, lasts=lasts, around=AROUND, patience=120)
    finally:
        projector.end(signal.SIGTERM)
        valkey.stop()


def times(seconds: list[float]) -> str:
    """p50 and p99 in µs, and the longest in ms."""
    cuts = quantiles(seconds, n=100)
    return f"{cuts[49] * 1e6:.0f} / {cuts[98] * 1e6:.0f} / {max(seconds) * 1e3:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--down", type=float, default=60, help="seconds that Redis is down")
    parser.add_argument("--others", type=float, default=5, help="seconds that each other fault lasts")
    parser.add_argument("--rate", type=float, default=500, help="executions a second")
    parser.add_argument("--only", choices=[fault.name for fault in FAULTS], help="one fault alone")
    given = parser.parse_args()
    console = Console(highlight=False, width=140)
    table = Table("a Redis that is", "stats() said", "recorded", "sent again", "before", "during", "after")
    failed = False
    for fault in FAULTS:
        if given.only not in (None, fault.name):
            continue
        folder = Path(tempfile.mkdtemp(prefix="redis-faults-"))
        lasts = given.down if fault.name == "down" else given.others
        with Console(stderr=True).status(f"{fault.name}, for {lasts:.0f} s"):
            outcome = soak(fault, folder, lasts=lasts, rate=given.rate)
        table.add_row(
            fault.name,
            f"{fault.problem}; {outcome.stats.server}",
            str(outcome.recorded),
            str(max(0, outcome.sent - outcome.recorded)),
            *(times(outcome.seconds[phase]) for phase in ("before", "during", "after")),
        )
        for difference in outcome.differences:
            console.print(f"DIFFERENCE {fault.name}: {difference}")
        if outcome.differences:
            failed = True
            console.print(f"everything is kept in {folder}")
        else:
            shutil.rmtree(folder)
    console.print(table)
    console.print(f"record(): p50 / p99 in µs / longest in ms; load average {os.getloadavg()[0]:.1f}")
    if failed:
        raise SystemExit(1)
    console.print("nothing is lost: every recorded event is in the store once, and no account has a hole")


if __name__ == "__main__":
    main()
