"""What a stream holds, for assertions."""

from __future__ import annotations

from collections import Counter

from dspy_ledger import wire
from dspy_ledger.settings import Settings
from dspy_ledger.wire import Entry
from servers import Valkey


def entries(valkey: Valkey, settings: Settings) -> list[Entry]:
    """Every entry of the stream, decoded (each must be a valid event)."""
    client = valkey.client()
    found = [wire.decode(fields) for _, fields in client.xrange(settings.keys.events)]
    client.close()
    return found


def event_ids(valkey: Valkey, settings: Settings) -> Counter[str]:
    return Counter(entry.event_id for entry in entries(valkey, settings))


def store_up_to(valkey: Valkey, settings: Settings, source: str, mark: int) -> None:
    """Say what the ingest would say: the store has 1 … mark of that source."""
    client = valkey.client()
    client.hset(settings.keys.stored, source, mark)
    client.close()
