"""The names of everything dspy-ledger keeps in Redis.

All keys of one ledger carry the same hash tag, so that on a cluster they share a slot and one
``MULTI`` may touch the registry and the stream together.
"""

from __future__ import annotations

from dataclasses import dataclass

from dspy_ledger.errors import InvalidInput

__all__ = ["BODY_FIELD", "DATA_FIELD", "Keys"]

DATA_FIELD = b"__data__"
"""The entry field that holds the CloudEvent as JSON."""
BODY_FIELD = b"body"
"""The optional entry field that holds the event's body as JSON."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one stream prefix.

    Raises:
        InvalidInput: the prefix is empty or has a brace, which would move the hash tag.
    """

    prefix: str = "dspy-ledger"

    def __post_init__(self) -> None:
        if not self.prefix or "{" in self.prefix or "}" in self.prefix:
            raise InvalidInput(f"stream prefix {self.prefix!r} can't be used; give a name without braces")

    @property
    def tag(self) -> str:
        """The hash tag that starts every key."""
        return f"{{{self.prefix}:0}}"

    @property
    def events(self) -> str:
        """Stream: all events, ``__data__`` and ``body``."""
        return f"{self.tag}:events"

    @property
    def stored(self) -> str:
        """Hash: event source → its stored mark, published by the ingest."""
        return f"{self.tag}:stored"

    @property
    def owner(self) -> str:
        """Text: the id of the one ledger that reads the stream into its store."""
        return f"{self.tag}:owner"

    @property
    def programs(self) -> str:
        """Set: every program id of the registry."""
        return f"{self.tag}:programs"

    @property
    def registry_checkpoint(self) -> str:
        """Hash: the registry projection's checkpoint (``ledger_id``, ``position``, ``event_id``)."""
        return f"{self.tag}:registry-checkpoint"

    def program(self, program_id: str) -> str:
        """Hash: content hash → JSON of its version and interface; what a version decision watches."""
        return f"{self.tag}:program:{program_id}"

    def contents(self, program_id: str) -> str:
        """Hash: content hash → JSON of the registration with its state; what ``load_program`` reads."""
        return f"{self.tag}:contents:{program_id}"
