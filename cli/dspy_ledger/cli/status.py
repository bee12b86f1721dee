"""What ``dspy-ledger status`` tells: how far everything is, and what is wrong."""

from __future__ import annotations

from typing import Any

import orjson
import redis
from rich.console import Console
from rich.table import Table

from dspy_ledger.errors import StoreError
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.views import ViewReader

__all__ = ["collect", "show"]


def collect(settings: Settings) -> dict[str, Any]:
    """Ledger, projections, broker and producers as one JSON-able object; ``problems`` in plain words.

    Raises:
        StoreError: there is no event store, or it can't be read.
    """
    store = SqliteEventStore(settings.store_path, readonly=True)
    problems: list[str] = []
    try:
        last = store.last_position()
        broker = _broker(settings, store, problems)
        dead = store.dead_letter_count()
        if dead:
            problems.append(f"{dead} dead letters: entries of the stream that are no valid events")
        accounts = store.producers()
        missing = sum(
            end - start + 1 for account in accounts for start, end in _gaps(account.ranges, account.mark)
        )
        if missing:
            problems.append(f"{missing} events are on their way or missing: gaps in producers' numbers")
        return {
            "ledger_id": store.ledger_id,
            "position": last,
            "dead_letters": dead,
            "broker": broker,
            "projections": _projections(settings, last, broker, problems),
            "producers": [
                {
                    "source": account.source,
                    "stored_mark": account.mark,
                    "settled": sum(end - start + 1 for start, end in account.ranges),
                    "missing": _gaps(account.ranges, account.mark),
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
        registry: Any = client.hget(settings.keys.registry_checkpoint, "position")
        broker |= {
            "up": True,
            "version": info.get("valkey_version") or info.get("redis_version"),
            "stream_length": length,
            "unread": len(unread),
            "registry_position": None if registry is None else int(registry),
        }
    except (redis.RedisError, OSError) as error:
        problems.append(f"the broker can't be asked: {error}")
    finally:
        client.close()
    return broker


def _projections(
    settings: Settings, last: int, broker: dict[str, Any], problems: list[str]
) -> dict[str, int | None]:
    positions: dict[str, int | None] = {"sql": None}
    reader = ViewReader(settings.data_dir)
    try:
        row = reader.connection().execute("SELECT position FROM checkpoint").fetchone()
        positions["sql"] = row["position"] if row else 0
    except StoreError as error:
        problems.append(str(error))
    finally:
        reader.close()
    try:
        positions["directory"] = orjson.loads((settings.data_dir / "directory.json").read_bytes())["position"]
    except FileNotFoundError:
        positions["directory"] = 0
    positions["registry"] = (broker.get("registry_position") or 0) if broker["up"] else None
    for name, position in positions.items():
        if position is not None and position < last:
            problems.append(f"projection {name} is {last - position} events behind")
    return positions


def _gaps(ranges: tuple[tuple[int, int], ...], mark: int) -> list[tuple[int, int]]:
    gaps, expected = [], mark + 1
    for first, last in ranges:
        if first > expected:
            gaps.append((expected, first - 1))
        expected = max(expected, last + 1)
    return gaps


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
        console.print(
            f"[bold]broker[/bold] {broker['url']} ({broker['version']}), {broker['stream_length']:,} entries,"
            f" {broker['unread']:,} not read yet"
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
