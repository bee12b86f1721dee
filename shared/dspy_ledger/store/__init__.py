"""The event store: the ledger itself, one ordered log that one writer appends to."""

from dspy_ledger.store.protocol import (
    Appended,
    DeadLetter,
    EventStore,
    ProducerAccount,
    StoredEvent,
    StreamCheckpoint,
)
from dspy_ledger.store.sqlite import SCHEMA_VERSION, SqliteEventStore

__all__ = [
    "SCHEMA_VERSION",
    "Appended",
    "DeadLetter",
    "EventStore",
    "ProducerAccount",
    "SqliteEventStore",
    "StoredEvent",
    "StreamCheckpoint",
]
