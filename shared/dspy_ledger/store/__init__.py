"""The event store: the ledger itself, one ordered log that one writer appends to."""

from dspy_ledger.store.opening import SCHEMA_VERSION
from dspy_ledger.store.protocol import (
    MOST_ERASED,
    MOST_READ,
    Appended,
    DeadLetter,
    EventStore,
    Parked,
    ProducerAccount,
    StoredEvent,
    StreamCheckpoint,
)
from dspy_ledger.store.sqlite import SqliteEventStore

__all__ = [
    "MOST_ERASED",
    "MOST_READ",
    "SCHEMA_VERSION",
    "Appended",
    "DeadLetter",
    "EventStore",
    "Parked",
    "ProducerAccount",
    "SqliteEventStore",
    "StoredEvent",
    "StreamCheckpoint",
]
