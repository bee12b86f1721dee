"""The crash simulation: ``python tests/simulation/run.py --seeds 1000``.

Each seed drives the real projector code through crashes, power cuts, full and failing disks and a broker that
forgets, lets everything heal, and compares what is there with a replay. The same seed is the same run.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simulation.breaks import BREAKS
from simulation.schedule import run
from simulation.world import World


class Outcome(NamedTuple):
    """What a seed came to. ``problem`` is None when all was well."""

    seed: int
    digest: str
    effects: int
    problem: str | None
    log: list[str]


def simulate(seed: int, broken: str | None = None, *, log: bool = False) -> Outcome:
    """Run one seed. It changes this process's working folder while it runs."""
    logging.disable(logging.CRITICAL)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="dspy-ledger-simulation-", dir=memory))
    before = Path.cwd()
    os.chdir(folder)
    world = World(seed, folder, log=log, broken=BREAKS[broken] if broken else lambda _: nullcontext())
    problem = None
    try:
        run(world)
    except AssertionError as error:
        problem = str(error) or repr(error)
    except Exception:  # noqa: BLE001  whatever it is, the seed found it
        problem = traceback.format_exc()
    finally:
        os.chdir(before)
        shutil.rmtree(folder)
    return Outcome(seed, world.fate.digest, world.fate.effects, problem, world.fate.log or [])


def outcomes(seeds: Sequence[int], broken: str | None, jobs: int) -> Iterator[Outcome]:
    """Run seeds, several at a time; in order."""
    if jobs == 1:
        yield from (simulate(seed, broken) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(simulate, seeds, [broken] * len(seeds), chunksize=4)


def command(seed: int, broken: str | None = None) -> str:
    """What reruns a seed."""
    return f"python tests/simulation/run.py --seed {seed} --verbose" + (
        f" --break {broken}" if broken else ""
    )


def main(
    seeds: Annotated[int, typer.Option(help="How many seeds to run.")] = 100,
    start: Annotated[int, typer.Option(help="The first of them.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Run this one only.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="With --seed: print every effect.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes.")] = os.cpu_count() or 1,
    broken: Annotated[
        str | None,
        typer.Option("--break", help="Plant a fault, stop where it is found: " + ", ".join(BREAKS)),
    ] = None,
) -> None:
    """Simulate crashes; exit 1 when a seed shows what must not be."""
    console = Console(highlight=False)
    if broken is not None and broken not in BREAKS:
        raise typer.BadParameter(f"there is no fault {broken!r}; choose one of {', '.join(BREAKS)}")
    began = time.monotonic()
    if seed is not None:
        only = simulate(seed, broken, log=verbose)
        sys.stdout.write("".join(f"{line}\n" for line in only.log))
        _tell(console, [only], broken)
        raise typer.Exit(1 if only.problem else 0)
    bar = Progress(
        TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )
    failed: list[Outcome] = []
    effects = done = 0
    with bar:
        task = bar.add_task("seeds", total=seeds)
        for outcome in outcomes(range(start, start + seeds), broken, jobs):
            bar.advance(task)
            done, effects = done + 1, effects + outcome.effects
            if outcome.problem:
                failed.append(outcome)
                _tell(console, [outcome], broken)
                if broken:
                    break
    took = time.monotonic() - began
    console.print(f"{done} seeds, {effects:,} effects in {took:.0f} s: {len(failed)} failed")
    raise typer.Exit(1 if failed else 0)


def _tell(console: Console, found: Iterable[Outcome], broken: str | None) -> None:
    for outcome in found:
        console.print(
            f"seed {outcome.seed}: {outcome.problem or 'all is well'} (run {outcome.digest})", markup=False
        )
        if outcome.problem:
            console.print(f"  rerun: {command(outcome.seed, broken)}", markup=False)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets have an order, then
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    typer.run(main)
