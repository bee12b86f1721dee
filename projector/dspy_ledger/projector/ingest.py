"""Stream → event store: entries become events or dead letters, in one transaction with the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from dspy_ledger.errors import InvalidEvent
from dspy_ledger.store import Appended, DeadLetter, EventStore, StreamCheckpoint
from dspy_ledger.wire import Entry, decode, pack, peek_sequence

__all__ = ["Decoded", "Ingest", "decode_entries"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A batch of stream entries, told apart."""

    entries: list[tuple[str, Entry]] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)


def decode_entries(ids: Sequence[bytes], fields: Sequence[Mapping[bytes, bytes]]) -> Decoded:
    """Decode entries by their stream ids and fields; never raises for what an entry holds."""
    decoded = Decoded()
    for raw_id, entry_fields in zip(ids, fields, strict=True):
        stream_id = raw_id.decode()
        try:
            decoded.entries.append((stream_id, decode(entry_fields)))
        except InvalidEvent as error:
            decoded.dead_letters.append(_bury(stream_id, entry_fields, error.reason, error.detail))
        except Exception as error:  # noqa: BLE001  the same bytes would fail for ever: better dead than stuck
            detail = f"{type(error).__name__}: {error}"
            decoded.dead_letters.append(_bury(stream_id, entry_fields, "not-decodable", detail))
    return decoded


class Ingest:
    """Appends what the stream delivers to the store.

    Args:
        store: the ledger; this is its one writer.
        stream: the stream's key, under which the checkpoint is kept.

    Attributes:
        server: what the checkpoint is to say of the server it belongs to.
    """

    def __init__(self, store: EventStore, stream: str) -> None:
        self._store = store
        self._stream = stream
        self.server: str | None = None

    @property
    def last_id(self) -> str:
        """The entry id to read after; ``0`` before the first."""
        checkpoint = self._store.stream_checkpoint(self._stream)
        return checkpoint.last_id if checkpoint else "0"

    def take(self, ids: Sequence[bytes], fields: Sequence[Mapping[bytes, bytes]]) -> Appended:
        """Store a batch: events, dead letters and checkpoint at once, or nothing.

        Raises:
            sqlite3.Error: the store could not commit; the same call may be made again.
        """
        return self.append(decode_entries(ids, fields), ids[-1].decode())

    def append(self, decoded: Decoded, last_id: str) -> Appended:
        """The second half of :meth:`take`, to be repeated without decoding anew."""
        return self._store.append(
            decoded.entries,
            dead_letters=decoded.dead_letters,
            checkpoint=StreamCheckpoint(self._stream, last_id, self.server),
        )


def _bury(stream_id: str, fields: Mapping[bytes, bytes], reason: str, detail: str) -> DeadLetter:
    raw = pack(fields)
    source, sequence = peek_sequence(fields) or (None, None)
    return DeadLetter(stream_id, reason, detail, raw, sha256(raw).hexdigest(), source, sequence)
