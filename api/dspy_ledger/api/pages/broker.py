"""What the broker says of itself, to people; it is asked briefly, and only when somebody looks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from dspy_ledger.settings import Settings

__all__ = ["Broker", "broker_of"]

_PATIENCE: Final = 1.5  # seconds for all questions together


@dataclass(frozen=True, slots=True)
class Broker:
    """``url`` is without what may be secret; ``problem`` says why nothing else is known.

    ``entries``: how long the stream is. ``registry``: the position that the registry is at. ``memory`` and
    ``most_memory`` are bytes, the second 0 for no limit. ``is_others``: another ledger uses the same prefix.
    """

    url: str
    problem: str | None = None
    version: str = ""
    entries: int = 0
    clients: int = 0
    memory: int = 0
    most_memory: int = 0
    registry: int | None = None
    is_others: bool = False


async def broker_of(settings: Settings, ledger_id: str | None) -> Broker:
    """What it says now, or why it does not."""
    url = settings.redis_address
    client: Any = Redis.from_url(
        settings.redis_url,
        socket_timeout=_PATIENCE,
        socket_connect_timeout=_PATIENCE,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        async with asyncio.timeout(_PATIENCE), client:
            return await _asked(client, url, settings, ledger_id)
    except TimeoutError:
        return Broker(url, problem=f"it did not answer within {_PATIENCE} s")
    except (RedisError, OSError) as error:
        return Broker(url, problem=str(error).rstrip(".") or type(error).__name__)


async def _asked(client: Any, url: str, settings: Settings, ledger_id: str | None) -> Broker:
    keys = settings.keys
    pipeline = client.pipeline(transaction=False)
    pipeline.info()
    pipeline.xlen(keys.events)
    pipeline.hmget(keys.registry_checkpoint, "ledger_id", "position")
    info, entries, (owner, position) = await pipeline.execute()
    is_others = None not in (owner, ledger_id) and owner.decode(errors="replace") != ledger_id
    return Broker(
        url,
        version=_version(info),
        entries=entries,
        clients=info.get("connected_clients", 0),
        memory=info.get("used_memory", 0),
        most_memory=info.get("maxmemory", 0),
        registry=int(position) if position is not None and position.isdigit() and not is_others else None,
        is_others=is_others,
    )


def _version(info: dict[str, Any]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', 'of an unknown version')}"
