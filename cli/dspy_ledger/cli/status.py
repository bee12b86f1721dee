"""What ``dspy-ledger status`` tells: how far everything is, and what is wrong."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from time import monotonic, sleep
from typing import Any

import orjson
import redis
from rich.console import Console
from rich.table import Table

from dspy_ledger.errors import StoreError
from dspy_ledger.files import LEASE
from dspy_ledger.sequences import SequenceSet
from dspy_ledger.settings import Settings
from dspy_ledger.store import ProducerAccount, SqliteEventStore
from dspy_ledger.views import ViewReader

__all__ = ["collect", "show"]

_PATIENCE = 2.0  # seconds: an event that arrives right now is not a problem


def collect(settings: Settings) -> dict[str, Any]:
    """Ledger, projections, broker and producers as one JSON-able object; ``problems`` in plain words.

    Raises:
        StoreError: there is no event store, or it can't be read.
    """
    store = SqliteEventStore(settings.store_path, readonly=True)
    problems: list[str] = []
    try:
        last = store.last_position()
        running = _projector_runs(settings)
        if not running:
            problems.append("no projector is running here; start `dspy-ledger projector`")
        broker = _broker(settings, store, problems)
        dead = store.dead_letter_count()
        if dead:
            problems.append(f"{dead} dead letters: entries of the stream that are no valid events")
        accounts = store.producers()
        missing = sum(end - start + 1 for account in accounts for start, end in _gaps(account))
        if missing:
            problems.append(f"{missing} events are on their way or missing: gaps in producers' numbers")
        return {
            "ledger_id": store.ledger_id,
            "position": last,
            "projector_running": running,
            "dead_letters": dead,
            "broker": broker,
            "projections": _projections(settings, last, broker, problems, patient=running),
            "producers": [
                {
                    "source": account.source,
                    "stored_mark": account.mark,
                    "settled": sum(end - start + 1 for start, end in account.ranges),
                    "missing": _gaps(account),
                    "first_seen": account.first_seen,
                    "last_seen": account.last_seen,
                }
                for account in accounts
            ],
            "problems": problems,
        }
    finally:
        store.close()


def _broker(settings: Settings, store: SqliteEventStore, problems: list[str]) -> dict[str, Any]:
    client = redis.Redis.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2)
    broker: dict[str, Any] = {"url": _without_password(settings.redis_url), "up": False}
    try:
        info: Any = client.info("server")
        length: Any = client.xlen(settings.keys.events)
        checkpoint = store.stream_checkpoint(settings.keys.events)
        unread: Any = client.xrange(
            settings.keys.events, f"({checkpoint.last_id}" if checkpoint else "-", "+", count=10_000
        )
        owner: Any = client.hget(settings.keys.registry_checkpoint, "ledger_id")
        registry: Any = client.hget(settings.keys.registry_checkpoint, "position")
        if owner is not None and owner.decode() != store.ledger_id:
            problems.append(
                f"another ledger ({owner.decode()}) uses the same Redis and prefix; give one of them another"
                " DSPY_LEDGER_STREAM_PREFIX"
            )
            registry = None
        broker |= {
            "up": True,
            "version": info.get("valkey_version") or info.get("redis_version"),
            "stream_length": length,
            "unread": len(unread),
            "registry_position": None if registry is None and owner is not None else int(registry or 0),
        }
    except (redis.RedisError, OSError) as error:
        problems.append(
            f"the broker can't be asked ({error}); start it, or name another with DSPY_LEDGER_REDIS_URL"
        )
    finally:
        client.close()
    return broker


def _projections(
    settings: Settings, last: int, broker: dict[str, Any], problems: list[str], *, patient: bool
) -> dict[str, int | None]:
    """How far each projection is; a running projector has a moment to get where the store is."""
    deadline = monotonic() + (_PATIENCE if patient else 0)
    while True:
        positions = {**_positions_on_disk(settings), "registry": _registry_position(settings, broker)}
        behind = {name: last - at for name, at in positions.items() if at is not None and at < last}
        if not behind or monotonic() >= deadline:
            break
        sleep(0.05)
    problems += [f"projection {name} is {count} events behind" for name, count in behind.items()]
    if positions["sql"] is None:
        problems.append("there is no view yet")
    return positions


def _positions_on_disk(settings: Settings) -> dict[str, int | None]:
    positions: dict[str, int | None] = {"sql": None, "directory": 0}
    reader = ViewReader(settings.data_dir)
    with suppress(StoreError):  # not there yet
        row = reader.connection().execute("SELECT position FROM checkpoint").fetchone()
        positions["sql"] = row["position"] if row else 0
    reader.close()
    with suppress(FileNotFoundError):
        positions["directory"] = orjson.loads((settings.data_dir / "directory.json").read_bytes())["position"]
    return positions


def _registry_position(settings: Settings, broker: dict[str, Any]) -> int | None:
    if not broker["up"] or broker["registry_position"] is None:
        return None
    client = redis.Redis.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2)
    try:
        position: Any = client.hget(settings.keys.registry_checkpoint, "position")
    except (redis.RedisError, OSError):
        return None
    finally:
        client.close()
    return None if position is None else int(position)


def _projector_runs(settings: Settings) -> bool:
    """Whether a process holds the writer's lease."""
    try:
        descriptor = os.open(settings.data_dir / LEASE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _gaps(account: ProducerAccount) -> list[tuple[int, int]]:
    """The numbers below the highest known one that are not settled."""
    return SequenceSet(account.ranges).missing(account.ranges[-1][1]) if account.ranges else []


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def show(status: dict[str, Any], console: Console) -> None:
    """Print it for people."""
    broker = status["broker"]
    console.print(
        f"[bold]ledger[/bold] {status['ledger_id']}  at position [bold]{status['position']:,}[/bold]"
    )
    if broker["up"]:
        idle = "" if status["projector_running"] else " (no projector runs)"
        console.print(
            f"[bold]broker[/bold] {broker['url']} ({broker['version']}), {broker['stream_length']:,} entries,"
            f" {broker['unread']:,} not read yet{idle}"
        )
    table = Table("projection", "position", "behind", box=None, header_style="bold", pad_edge=False)
    for name, position in status["projections"].items():
        behind = "?" if position is None else f"{status['position'] - position:,}"
        table.add_row(name, "?" if position is None else f"{position:,}", behind)
    console.print(table)
    if status["producers"]:
        table = Table(
            "producer", "stored", "missing", "last seen", box=None, header_style="bold", pad_edge=False
        )
        recent = sorted(status["producers"], key=lambda p: p["last_seen"], reverse=True)
        for producer in recent[:20]:
            missing = sum(last - first + 1 for first, last in producer["missing"])
            table.add_row(
                producer["source"],
                f"{producer['settled']:,}",
                f"{missing:,}",
                producer["last_seen"][:19] + "Z",
            )
        console.print(table)
        if len(recent) > 20:
            console.print(f"… and {len(recent) - 20} more producers")
    for problem in status["problems"]:
        console.print(f"[yellow]![/yellow] {problem}")
    if not status["problems"]:
        console.print("[green]✓[/green] nothing missing, nothing behind")
