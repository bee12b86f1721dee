"""What watching a DSPy program costs its caller: nothing, DSPy's own hooks, ours, and others' when installed.

    python bench/hot_path.py [--quick] [--only WORD …] [--delivery] [--json FILE]
    uv run --group rivals python bench/hot_path.py        # with MLflow, Opik and OpenInference

The program is a ChainOfThought and a Predict on DummyLM. Every line is a process of its own; the lines
take turns in small blocks, so that whatever else the machine does hits all of them, and between blocks each
finishes its background work. A line's overhead is the median, over the rounds, of its block's p50 less the
floor's in the same round. The floor is DSPy's own callback dispatch with a callback that does nothing; for
lines whose host is async, the same program by ``acall``.

"CPU" is the calling thread's processor time of one call, which a busy machine stretches least, and again
what it is over the floor's. "peak" is what one call has allocated at once; "kept" how many objects stay after
it (DSPy's own history is in the floor's); "RSS" how much the process grew over all calls. Rivals write to a
file (MLflow's SQLite) or to a sink on loopback that takes everything at once.

``--delivery`` times nothing; it counts what arrives of 5 calls in a forked child, and of 50 in a process that
is killed with ``kill -9`` and started again. "hangs": it had not ended after a minute. Takes some minutes.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import statistics
import subprocess
import sys
import time
import tracemalloc
from argparse import SUPPRESS
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from arms import FLOOR, Arm, Place, arms, arrived, environment, floor_of, question, sink
from rich.table import Table
from rig import Bench, at, bench, console, machine, parser, table, write_json

WARM_UP = 30
CHILD, KILLED = 5, 50


# --- in an arm's process ---


class Runner:
    """Calls an arm's program, from a loop of its own where the arm is async."""

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        self.is_async = inspect.iscoroutinefunction(arm.call)
        self.loop = asyncio.new_event_loop()
        self.numbers = count()

    def block(self, calls: int) -> tuple[list[float], float]:
        """Milliseconds of each call, and of the calling thread's processor time for one."""
        questions = [question(f"bench-{next(self.numbers)}") for _ in range(calls)]
        cpu = time.thread_time()
        if self.is_async:
            samples = self.loop.run_until_complete(self._awaited(questions))
        else:
            samples = self._called(questions)
        cpu = time.thread_time() - cpu
        self.arm.settle()
        return samples, cpu / calls * 1000

    def call(self, text: str) -> None:
        if self.is_async:
            self.loop.run_until_complete(self.arm.call(text))
        else:
            self.arm.call(text)

    def _called(self, questions: list[str]) -> list[float]:
        samples, clock, call = [], time.perf_counter, self.arm.call
        for text in questions:
            start = clock()
            call(text)
            samples.append((clock() - start) * 1000)
        return samples

    async def _awaited(self, questions: list[str]) -> list[float]:
        samples, clock, call = [], time.perf_counter, self.arm.call
        for text in questions:
            start = clock()
            await call(text)
            samples.append((clock() - start) * 1000)
        return samples

    def memory(self, calls: int) -> dict[str, float]:
        """KiB that a call has allocated at once, and objects that stay after it."""
        gc.collect()
        before = sys.getallocatedblocks()
        self.block(calls)
        gc.collect()
        kept = (sys.getallocatedblocks() - before) / calls
        peaks = []
        tracemalloc.start()
        for number in range(calls):
            tracemalloc.reset_peak()
            held, _ = tracemalloc.get_traced_memory()
            self.call(question(f"memory-{number}"))
            peaks.append((tracemalloc.get_traced_memory()[1] - held) / 1024)
        tracemalloc.stop()
        return {"peak_kb": statistics.median(peaks), "kept": kept}


def work(name: str, place: Place, connection: Connection) -> None:
    """An arm's process: blocks on request, memory at the end."""
    os.environ.update(environment(place))
    with (place.folder / "log.txt").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    make, _ = arms()[name]
    runner = Runner(make(place))
    runner.block(WARM_UP)
    gc.collect()
    rss, calls = resident(), WARM_UP
    connection.send(None)
    while block := connection.recv():
        connection.send(runner.block(block))
        calls += block
    gc.collect()
    figures = {"rss_mb": (resident() - rss) / 1e6}
    if runner.arm.recorded is not None and runner.arm.recorded() < calls:
        raise AssertionError(f"{name}: {runner.arm.recorded()} events of {calls} calls")
    connection.send(figures | runner.memory(20))
    os._exit(0)  # how long an exit takes is another question, and some hang


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def act(name: str, place: Place, scene: str) -> None:
    """One scene of --delivery, in an arm's process."""
    runner = Runner(arms()[name][0](place))
    runner.call(question(f"{scene}before-0"))
    runner.arm.settle()
    if scene == "fork":
        child = os.fork()
        if child == 0:
            for number in range(CHILD):
                runner.call(question(f"child-{number}"))
            time.sleep(3)  # a worker that goes on living
            return
        os.waitpid(child, 0)
    elif scene == "kill":
        for number in range(KILLED):
            runner.call(question(f"killed-{number}"))
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    else:  # it is started again
        time.sleep(3)


# --- the bench's own process ---


class Worker:
    """An arm's process as the bench sees it."""

    def __init__(self, on: Bench, name: str, place: Place) -> None:
        self.place = place
        self.blocks: list[tuple[list[float], float]] = []
        self.connection, theirs = on.context.Pipe()
        self.process = on.context.Process(target=work, args=(name, place, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def answer(self) -> Any:
        """What the process sends next.

        Raises:
            SystemExit: it ended instead; its last words.
        """
        try:
            return self.connection.recv()
        except EOFError:
            words = (self.place.folder / "log.txt").read_text()[-2000:].strip()
            raise SystemExit(f"an arm ended early: {words}") from None


def measure(on: Bench, names: list[str], rounds: int, block: int) -> dict[str, dict[str, Any]]:
    """All arms' samples in milliseconds, by round, and their memory."""
    known = arms()
    with sink(on.folder) as url:
        workers = {
            name: Worker(on, name, Place(on.urls[known[name][1]], url, on.new_folder())) for name in names
        }
        for worker in workers.values():
            worker.answer()
        for _ in range(rounds):
            for worker in workers.values():
                worker.connection.send(block)
                worker.blocks.append(worker.answer())
        results = {}
        for name, worker in workers.items():
            worker.connection.send(0)
            results[name] = {"blocks": worker.blocks, **worker.answer()}
    return results


def summary(name: str, results: dict[str, dict[str, Any]]) -> dict[str, float]:
    blocks, floors = results[name]["blocks"], results[floor_of(name)]["blocks"]
    samples = sorted(sample for block, _ in blocks for sample in block)
    pairs = [
        (statistics.median(b), statistics.median(f)) for (b, _), (f, _) in zip(blocks, floors, strict=True)
    ]
    cpu = statistics.median(mine for _, mine in blocks)
    return {
        "p50": at(samples, 0.5),
        "p99": at(samples, 0.99),
        "max": samples[-1],
        "over": statistics.median(mine - floor for mine, floor in pairs),
        "ratio": statistics.median(mine / floor for mine, floor in pairs),
        "cpu": cpu,
        "cpu_over": cpu - statistics.median(floor for _, floor in floors),
        **{key: results[name][key] for key in ("peak_kb", "kept", "rss_mb")},
    }


def finished(name: str, place: Place, scene: str) -> bool:
    """Play a scene in an interpreter of its own; whether it ended by itself within a minute."""
    command = [sys.executable, __file__, "--scene", scene, name, place.url, place.sink, str(place.folder)]
    with (place.folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command, env=environment(place), cwd=place.folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        process.wait(60)
        return True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its forked child too
        process.wait()
        return False


def delivery(on: Bench, names: list[str]) -> dict[str, dict[str, Any]]:
    """What arrived of the calls in a forked child and in a killed process, and how the processes ended."""
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        results[name] = {}
        for scenes, prefix in ((("fork",), "child-"), (("kill", "again"), "killed-")):
            on.empty()
            folder = on.new_folder()
            with sink(folder) as url:
                place = Place(on.urls["up"], url, folder)
                slow = False
                for scene in scenes:
                    slow = not finished(name, place, scene) or slow
                time.sleep(1)
                got = [token for token in arrived(place) if token.startswith(prefix)]
            results[name][scenes[0]] = {"arrived": len(got), "hangs": slow}
    return results


def timed(figures: dict[str, dict[str, float]]) -> Table:
    report = table(
        "", "", "p50", "p99", "max", "over floor", "ratio", "CPU", "over", "peak KiB", "kept", "RSS MB"
    )
    for name, one in figures.items():
        times = (f"{one[key]:.2f}" for key in ("p50", "p99", "max"))
        memory = (f"{one['peak_kb']:.0f}", f"{one['kept']:.0f}", f"{one['rss_mb']:+.1f}")
        over = (f"{one['over']:+.2f}", f"{one['ratio']:.2f}", f"{one['cpu']:.2f}", f"{one['cpu_over']:+.2f}")
        report.add_row(name, *times, *over, *memory)
    return report


def delivered(arrivals: dict[str, dict[str, Any]]) -> Table:
    report = table("arrived", "", f"forked child, of {CHILD}", f"kill -9 and start, of {KILLED}")
    for name, scenes in arrivals.items():
        report.add_row(
            name, *(f"{one['arrived']}{', hangs' if one['hangs'] else ''}" for one in scenes.values())
        )
    return report


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--only", nargs="+", metavar="WORD", help="only lines that have one of the words")
    options.add_argument("--delivery", action="store_true", help="count what arrives instead, see above")
    options.add_argument("--rounds", type=int, help="blocks of each line (20, quick 5)")
    options.add_argument("--scene", nargs=5, help=SUPPRESS)  # an arm's process of --delivery
    given = options.parse_args()
    if given.scene is not None:
        scene, name, url, sink_url, folder = given.scene
        act(name, Place(url, sink_url, Path(folder)), scene)
        return
    rounds, block = given.rounds or (5 if given.quick else 20), 20
    names = [
        name
        for name in arms()
        if not given.only or "callback" in name or any(word in name for word in given.only)
    ]
    rivals = ("mlflow", "opik", "openinference-instrumentation-dspy", "opentelemetry-sdk")
    words = machine("dspy", "redis", *rivals)
    console.print(words)
    with bench("dspy", "dspy_ledger.producer.programs", "dspy_ledger.producer.instrument") as on:
        if given.delivery:
            watching = [name for name in names if not name.startswith(("bare", FLOOR))]
            arrivals = delivery(on, [name for name in watching if not name.endswith(("down", "hanging"))])
            console.print(delivered(arrivals))
            write_json(given.json, words, {"delivery": arrivals})
            return
        results = measure(on, names, rounds, block)
    figures = {name: summary(name, results) for name in names}
    console.print(f"{rounds} rounds of {block} calls each; ms; target: 0.15 over the floor\n")
    console.print(timed(figures))
    write_json(given.json, words, {"hot_path": figures})


if __name__ == "__main__":
    main()
