"""What ``dspy-ledger status`` tells: how far everything is, and what is wrong."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from time import monotonic, sleep
from typing import Any

import orjson
import redis

from dspy_ledger.cli.wording import counted
from dspy_ledger.database import connect, is_of_disk, told_of_disk
from dspy_ledger.errors import StoreError
from dspy_ledger.files import LEASE, is_locked
from dspy_ledger.producers import told
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.streams import Reading
from dspy_ledger.views import ViewReader

__all__ = ["collect", "count_of"]

_PATIENCE = 2.0  # seconds: an event that arrives right now is not a problem
_MOST_COUNTED = 10_000
_NO_EVENTS = "entries of the stream that are no valid events"


def collect(settings: Settings) -> dict[str, Any]:
    """Ledger, projections, broker and producers as one JSON-able object; ``problems`` in plain words.

    Raises:
        StoreError: there is no event store, or it can't be read.
    """
    store = SqliteEventStore(settings.store_path, readonly=True)
    problems: list[str] = []
    try:
        last = store.last_position()
        running = is_locked(settings.data_dir / LEASE)
        if not running:
            problems.append("no projector is running here; start `dspy-ledger projector`")
        broker = _broker(settings, store, problems)
        dead = store.dead_letter_count()
        if dead:
            are = "an entry of the stream that is no valid event" if dead == 1 else _NO_EVENTS
            problems.append(f"{counted(dead, 'dead letter')}: {are}")
        parked = Counter(parked.projection for parked in store.parked())
        if parked:
            left_out = ", ".join(f"{count} by {name}" for name, count in parked.items())
            problems.append(f"events that could not be folded were left out: {left_out}; see `deadletters`")
        producers = [told(account) for account in store.producers()]
        missing = sum(count_of(producer["missing"]) for producer in producers)
        if missing:
            are = "is on its" if missing == 1 else "are on their"
            problems.append(f"{counted(missing, 'event')} {are} way or missing: gaps in producers' numbers")
        projections = _projections(settings, store, broker, problems, patient=running)
        return {
            "ledger_id": store.ledger_id,
            "position": last,
            "projector_running": running,
            "dead_letters": dead,
            "broker": broker,
            "projections": projections,
            "lag": {name: None if at is None else max(0, last - at) for name, at in projections.items()},
            "parked": dict(parked),
            "requests": _requests(settings),
            "producers": producers,
            "problems": problems,
        }
    finally:
        store.close()


def _broker(settings: Settings, store: SqliteEventStore, problems: list[str]) -> dict[str, Any]:
    client: Any = redis.Redis.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2)
    broker: dict[str, Any] = {"url": settings.redis_address, "up": False}
    keys = settings.keys
    checkpoint = store.stream_checkpoint(keys.events)
    reading = Reading.decode(checkpoint.server) if checkpoint else None
    try:
        info = client.info("server")
        length = client.xlen(keys.events)
        if reading is not None:
            broker["reading"] = _told_reading(reading, length, settings, problems)
        owner = client.get(keys.owner) or client.hget(keys.registry_checkpoint, "ledger_id")
        told_owner = None if owner is None else owner.decode(errors="replace")
        if told_owner not in (None, store.ledger_id):
            problems.append(
                f"another ledger ({told_owner}) uses the same Redis and prefix; give one of them another"
                " DSPY_LEDGER_STREAM_PREFIX"
            )
        broker |= {
            "up": True,
            "version": info.get("valkey_version") or info.get("redis_version"),
            "owner": told_owner,
            "stream_length": length,
            "unread": _unread(client, keys.events, checkpoint.last_id if checkpoint else "0"),
        }
    except (redis.RedisError, OSError) as error:
        problems.append(
            f"the broker can't be asked ({error}); start it, or name another with DSPY_LEDGER_REDIS_URL"
        )
    finally:
        client.close()
    return broker


def _told_reading(reading: Reading, length: int, settings: Settings, problems: list[str]) -> dict[str, Any]:
    again = reading.until is not None
    if again:
        problems.append(reading.sentence)
    if reading.cut and length >= settings.stream_max_length:
        problems.append(
            f"the stream is full (DSPY_LEDGER_STREAM_MAX_LENGTH={settings.stream_max_length}):"
            f" {reading.cut:,} entries were deleted before every consumer group was done with them"
        )
    return {
        "why": reading.why,
        "began": reading.began,
        "again": again,
        "said": reading.sentence if again or reading.why else None,
        "read": reading.read,
        "length": reading.length,
        "older_by": reading.ahead,
        "trimmed": reading.trimmed,
        "cut": reading.cut,
    }


def _unread(client: Any, stream: str, last_id: str) -> int:
    """How many entries wait, counted up to a limit and a few at a time: they may be large."""
    count, after = 0, last_id
    while count < _MOST_COUNTED:
        entries = client.xrange(stream, f"({after}", "+", count=100)
        count += len(entries)
        if len(entries) < 100:
            break
        after = entries[-1][0].decode()
    return count


def _requests(settings: Settings) -> list[dict[str, Any]]:
    """What the writer was asked and has not answered yet."""
    path = settings.data_dir / "requests.db"
    if not path.exists():
        return []
    names = ("id", "action", "who", "state", "progress")
    with suppress(sqlite3.Error), closing(connect(path, readonly=True)) as db:
        rows = db.execute(
            "SELECT id, action, who, state, progress FROM requests WHERE state IN ('asked', 'working')"
        )
        return [
            dict(zip(names, row, strict=True)) | {"progress": orjson.loads(row[4] or "null")} for row in rows
        ]
    return []


def _projections(
    settings: Settings, store: SqliteEventStore, broker: dict[str, Any], problems: list[str], *, patient: bool
) -> dict[str, int | None]:
    """How far each projection is; a running projector has a moment to get where the store is."""
    last = store.last_position()
    deadline = monotonic() + (_PATIENCE if patient else 0)
    while True:
        registry = _registry_position(settings, store.ledger_id, broker)
        on_disk, unread = _positions_on_disk(settings)
        positions = {**on_disk, "registry": registry}
        behind = {name: last - at for name, at in positions.items() if at is not None and at < last}
        if not behind or monotonic() >= deadline:
            break
        sleep(0.05)
    problems += [f"projection {name} is {counted(count, 'event')} behind" for name, count in behind.items()]
    end = store.last_position()  # of now: what came meanwhile may be folded
    problems += [
        f"projection {name} is at position {at}, the event store ends at {end}: an older one was restored;"
        " restart the projector, it builds it anew"
        for name, at in positions.items()
        if at is not None and at > end
    ]
    problems += unread
    return positions


def _positions_on_disk(settings: Settings) -> tuple[dict[str, int | None], list[str]]:
    """How far the views in files are, None for one that can't tell; and why it can't."""
    positions: dict[str, int | None] = {"sql": None, "directory": None}
    unread = []
    with closing(ViewReader(settings.data_dir)) as reader:
        try:
            row = reader.connection().execute("SELECT position FROM checkpoint").fetchone()
            positions["sql"] = int(row["position"]) if row else 0
        except StoreError as error:
            unread.append(str(error))
        except (sqlite3.Error, UnicodeDecodeError, TypeError, ValueError) as error:
            if is_of_disk(error):
                unread.append(f"the view can't be read: {told_of_disk(error, settings.data_dir)}")
            else:
                unread.append(f"the view is damaged ({error}); run `dspy-ledger replay sql`")
    path = settings.data_dir / "directory.json"
    try:
        positions["directory"] = int(orjson.loads(path.read_bytes())["position"])
    except FileNotFoundError:
        positions["directory"] = 0
    except OSError as error:
        unread.append(f"{path} can't be read: {told_of_disk(error, settings.data_dir)}")
    except (KeyError, TypeError, ValueError):
        unread.append(f"{path} can't be read; restart the projector, it writes the files anew")
    return positions, unread


def _registry_position(settings: Settings, ledger_id: str, broker: dict[str, Any]) -> int | None:
    """What Redis says; None when it can't be asked, or is another ledger's."""
    if not broker["up"]:
        return None
    client: Any = redis.Redis.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2)
    try:
        owner, position = client.hmget(settings.keys.registry_checkpoint, "ledger_id", "position")
    except (redis.RedisError, OSError):
        return None
    finally:
        client.close()
    if owner is None or position is None:
        return 0
    of_ours = owner == ledger_id.encode() and position.isdigit()
    return int(position) if of_ours else None


def count_of(ranges: Sequence[Sequence[int]]) -> int:
    """How many numbers lie in ranges [first, last]."""
    return sum(last - first + 1 for first, last in ranges)
