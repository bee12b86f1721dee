"""The Redis that holds the stream: what one look at it shows, and what became of it since the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from dspy_ledger.errors import StartupError
from dspy_ledger.streams import Change, Reading, entry_order

__all__ = ["Sight", "change_of", "look_at"]


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a server and its stream.

    Attributes:
        server: run id and replication id; None when it does not tell.
        started: its start, milliseconds of its own clock; None when it does not tell.
        now: its clock, milliseconds.
        exists: whether there is a stream.
        last_id: the highest id that it ever gave.
        newest: the id of the last entry; None when there is none.
        added: how many entries it was ever given; None when it does not tell (Redis 6).
        length: how many entries there are.
        lacks: whether entries that were read from another server are not here, and were not deleted here.
    """

    server: str | None
    started: int | None
    now: int
    exists: bool = False
    last_id: str = "0-0"
    newest: str | None = None
    added: int | None = 0
    length: int = 0
    lacks: bool = False


def look_at(client: redis.Redis, stream: str, reading: Reading | None = None) -> Sight:
    """What is there now.

    Args:
        client: asked several times, on one connection if nothing happens.
        stream: the stream's key.
        reading: how the stream was read until now.

    Raises:
        RedisError: it could not be asked.
        StartupError: something that is no stream lies under that key.
    """
    server, started = _identity(client)
    seconds, micros = client.time()
    now = int(seconds) * 1000 + int(micros) // 1000
    if client.type(stream) not in (b"none", b"stream"):
        raise StartupError(
            f"Redis holds something else under {stream}; choose another DSPY_LEDGER_STREAM_PREFIX"
        )
    try:
        told: Any = client.xinfo_stream(stream)
    except redis.ResponseError as error:
        if "no such key" not in str(error):
            raise
        return Sight(server, started, now)
    newest = told.get("last-entry")
    return Sight(
        server,
        started,
        now,
        exists=True,
        last_id=told["last-generated-id"].decode(),
        newest=newest[0].decode() if newest else None,
        added=told.get("entries-added"),
        length=told["length"],
        lacks=reading is not None and reading.server != server and _lacks(client, stream, told, reading.seen),
    )


def change_of(reading: Reading, last_id: str, sight: Sight) -> Change | None:
    """What became of the server since a reading of it began; None when it has all that it had.

    Not by ids alone: a server that was set back goes on with higher ones, unless its clock is behind.

    Args:
        reading: the stream's, of now.
        last_id: the last entry that was read.
        sight: what is there.
    """
    other = sight.server != reading.server
    if not sight.exists and (last_id != "0" or reading.added):
        return "empty"
    fewer = None not in (sight.added, reading.added) and (sight.added or 0) < (reading.added or 0)
    if fewer or entry_order(sight.last_id) < entry_order(last_id) or (other and sight.lacks):
        return "set back"
    # It ran before the one that was read gave its last entry: it can't be that one after a restart.
    if other and sight.started is not None and sight.started + 1000 < entry_order(last_id)[0]:
        return "another server"
    return "restarted" if other else None


def _lacks(client: redis.Redis, stream: str, told: dict[str, Any], seen: Sequence[str]) -> bool:
    deleted_upto = told.get("max-deleted-entry-id")
    if deleted_upto is None:  # Redis 6
        return False
    return any(
        entry_order(entry_id) > entry_order(deleted_upto)
        and not client.xrange(stream, entry_id, entry_id, count=1)
        for entry_id in seen
    )


def _identity(client: redis.Redis) -> tuple[str | None, int | None]:
    try:
        server: Any = client.info("server")
        replication: Any = client.info("replication")
    except redis.ResponseError:  # forbidden, or a proxy that does not know it
        return None, None
    if "run_id" not in server:
        return None, None
    started = None
    if "server_time_usec" in server and "uptime_in_seconds" in server:
        started = server["server_time_usec"] // 1000 - server["uptime_in_seconds"] * 1000
    return f"{server['run_id']}/{replication.get('master_replid')}", started
