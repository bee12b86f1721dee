"""What is known of a Redis stream: the order of its entry ids, and how the projector is reading it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Literal, get_args

import orjson

__all__ = ["Change", "Reading", "entry_order"]

Change = Literal["restarted", "set back", "empty", "another server", "older store"]
"""Why the stream has to be read again: what became of its server, or of the store."""

_SAID: dict[Change | None, str] = {
    None: "the broker was not known before",
    "restarted": "the broker restarted",
    "set back": "the broker was set back: it lacks entries that it had",
    "empty": "the broker is empty: it lost the stream",
    "another server": "the broker is another server",
    "older store": "the store is older than what producers were told is stored (was a backup restored?)",
}


def entry_order(entry_id: bytes | str) -> tuple[int, int]:
    """An entry id as Redis orders it: milliseconds and number; a bare number is milliseconds.

    Raises:
        ValueError: not an entry id.
    """
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number or 0)


@dataclass(frozen=True, slots=True)
class Reading:
    """One pass over a server's stream from its beginning, until the server changes; kept in the store.

    Attributes:
        server: the server's identity; None when it does not tell.
        began: when, canonical time.
        why: what made it begin; None when no earlier one is known.
        added: how many entries the stream was ever given, as last seen; None when the server does not tell.
        seen: some of the last entries that it had; a server that lacks them was set back.
        until: the last entry there was when the stream had to be read again; None once it was read.
        length: how many entries there were then.
        read: how many of them were read since.
        trimmed: how many entries were deleted since.
        cut: how many of those a consumer group had not done with (``STREAM_MAX_LENGTH``).
        ahead: how many events producers were told are stored that the store does not have: it is older.
    """

    server: str | None
    began: str
    why: Change | None = None
    added: int | None = None
    seen: tuple[str, ...] = ()
    until: str | None = None
    length: int = 0
    read: int = 0
    trimmed: int = 0
    cut: int = 0
    ahead: int = 0

    def encode(self) -> str:
        """As text, for :class:`~dspy_ledger.store.StreamCheckpoint`."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def decode(cls, text: str | None) -> Reading | None:
        """What :meth:`encode` wrote; None for anything else, so that the stream is read again."""
        try:
            told = orjson.loads(text or "")
            reading = cls(**{field.name: told[field.name] for field in fields(cls)})
            reading = replace(reading, seen=tuple(reading.seen))
            for entry_id in (*reading.seen, reading.until or "0"):
                entry_order(entry_id)
        except (TypeError, KeyError, ValueError, AttributeError):
            return None
        return reading if reading.why is None or reading.why in get_args(Change) else None

    @property
    def sentence(self) -> str:
        """What happened, and how far reading again is; for people."""
        lost = f", by {self.ahead:,} events" if self.ahead else ""
        if self.until is None:
            how = f"was read again from its beginning ({self.read:,} entries)"
        else:
            how = f"is being read again from its beginning ({self.read:,} of {self.length:,})"
        return f"{_SAID[self.why]}{lost}; the stream {how}"
