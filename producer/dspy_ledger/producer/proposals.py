"""Registrations on their way to a version: proposed by a producer, settled in one Redis transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import redis
import uuid_utils

from dspy_ledger import wire
from dspy_ledger.errors import LedgerUnavailable
from dspy_ledger.keys import BODY_FIELD, DATA_FIELD, Keys
from dspy_ledger.registry_format import decode_known, encode_content, encode_known
from dspy_ledger.timestamps import utc_now
from dspy_ledger.versions import Decision, Known, decide_version

__all__ = ["Proposal", "Settled", "as_proposed", "entry_fields", "is_passing", "settle"]

_ATTEMPTS = 100  # each failed one means that another replica's registration went through


@dataclass(frozen=True, slots=True)
class Proposal:
    """A registration whose version is not decided.

    ``data`` is ProgramRegistered with the proposed version; ``requested`` and ``base_version`` are what
    the caller asked for and decide what it becomes; ``parent_content`` is the parent's content hash, whose
    version may not be decided either; ``body`` is the state as JSON.
    """

    event_id: str
    time: str
    data: dict[str, Any]
    body: bytes | None
    requested: str | None
    base_version: str | None
    parent_content: str | None = None
    source: str = ""
    sequence: int = 0
    context: Mapping[str, str] | None = None

    @classmethod
    def make(
        cls,
        data: dict[str, Any],
        body: bytes | None,
        *,
        requested: str | None,
        base_version: str | None,
        parent_content: str | None,
    ) -> Proposal:
        """A new registration, now."""
        now = utc_now()
        return cls(
            str(uuid_utils.uuid7()),
            now,
            {**data, "created_at": now},
            body,
            requested=requested,
            base_version=base_version,
            parent_content=parent_content,
        )

    @property
    def program_id(self) -> str:
        """The program that is registered."""
        return str(self.data["program_id"])

    @property
    def is_variant(self) -> bool:
        """Whether it is an optimized variant, a version of the very program it came from."""
        return self.data.get("optimizer") is not None and self.data.get("parent_id") == self.program_id

    def with_parent(self, version: str) -> Proposal:
        """The proposal with its parent's version as it is decided now."""
        return replace(self, data={**self.data, "parent_version": version})

    def decide(self, known: Mapping[str, Known]) -> Decision:
        """The version rule, on what is known of the program."""
        data = self.data
        return decide_version(
            known,
            data["content_hash"],
            data.get("interface"),
            requested=self.requested,
            base_version=self.base_version,
            parent_version=data.get("parent_version") if self.is_variant else None,
        )

    def event(self, decision: Decision) -> bytes:
        """The final event under the decided version."""
        data = {**self.data, "version": decision.version}
        if decision.already_known and self.is_variant and decision.version == data.get("parent_version"):
            data["optimizer"] = {**data["optimizer"], "changed": False}
        return wire.encode(
            "ProgramRegistered",
            data,
            event_id=self.event_id,
            source=self.source,
            sequence=self.sequence,
            time=self.time,
            subject=data["program_id"],
            body=self.body,
            context=self.context,
        )

    def pieces(self, source: str, context: Mapping[str, str]) -> tuple[bytes, tuple[bytes, ...]]:
        """For the write-ahead file: the bytes before the digits of its sequence, and those after them."""
        kept = {
            "source": source,
            "id": self.event_id,
            "time": self.time,
            "context": dict(context),
            "requested": self.requested,
            "base_version": self.base_version,
            "parent_content": self.parent_content,
            "data": self.data,
        }
        return b'{"sequence":"', (b'",', orjson.dumps(kept)[1:])

    @classmethod
    def from_bytes(cls, raw: bytes, body: bytes | None) -> Proposal:
        """What :meth:`pieces` wrote."""
        kept = orjson.loads(raw)
        return cls(
            event_id=kept["id"],
            time=kept["time"],
            data=kept["data"],
            body=body,
            requested=kept["requested"],
            base_version=kept["base_version"],
            parent_content=kept.get("parent_content"),
            source=kept["source"],
            sequence=int(kept["sequence"]),
            context=kept["context"],
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """A registration whose version is decided; ``event`` is what was sent, ``entry_id`` the server's."""

    proposal: Proposal
    decision: Decision
    event: bytes
    entry_id: bytes


def entry_fields(event: bytes, body: bytes | None) -> dict[Any, Any]:
    """The fields of a stream entry."""
    return {DATA_FIELD: event} if body is None else {DATA_FIELD: event, BODY_FIELD: body}


def settle(client: redis.Redis, keys: Keys, proposal: Proposal) -> Settled:
    """Decide the version against the registry and send the event, in one transaction.

    Replicas that start at once race on the program's registry hash: ``WATCH`` makes all but one look
    again, and they then find the content known.

    Raises:
        RedisError: Redis could not be asked; nothing was decided, or it was and will be found known.
    """
    program_id, content_hash = proposal.program_id, proposal.data["content_hash"]
    key = keys.program(program_id)
    proposal = _with_parent_decided(client, keys, proposal)
    with client.pipeline() as pipeline:
        for _ in range(_ATTEMPTS):
            pipeline.watch(key)  # type: ignore[no-untyped-call]
            registered: dict[bytes, bytes] = pipeline.hgetall(key)  # type: ignore[assignment]  # immediate after WATCH
            known = {name.decode(): decode_known(value) for name, value in registered.items()}
            decision = proposal.decide(known)
            event = proposal.event(decision)
            pipeline.multi()
            if not decision.already_known:
                interface = proposal.data.get("interface")
                pipeline.hset(key, content_hash, encode_known(decision.version, interface))
            state = None if proposal.body is None else orjson.loads(proposal.body)
            pipeline.hsetnx(
                keys.contents(program_id),
                content_hash,
                encode_content({**proposal.data, "version": decision.version}, state),
            )
            pipeline.sadd(keys.programs, program_id)
            pipeline.xadd(keys.events, entry_fields(event, proposal.body))
            try:
                *_, entry_id = pipeline.execute()
            except redis.WatchError:
                continue
            return Settled(proposal, decision, event, entry_id)
    raise LedgerUnavailable(f"other replicas kept registering {program_id!r}; it is tried again")


def as_proposed(client: redis.Redis, keys: Keys, proposal: Proposal) -> Settled:
    """Send a registration under the version it proposed, past a registry that can't be used."""
    decision = Decision(str(proposal.data["version"]), already_known=False, change="given")
    event = proposal.event(decision)
    entry_id: bytes = client.xadd(keys.events, entry_fields(event, proposal.body))  # type: ignore[assignment]
    return Settled(proposal, decision, event, entry_id)


def is_passing(error: Exception) -> bool:
    """Whether a failure to settle may go by itself: Redis away, busy, full or read-only, or a race lost."""
    if isinstance(error, redis.ResponseError):
        return not str(error).startswith("WRONGTYPE")
    return isinstance(error, (redis.RedisError, OSError, LedgerUnavailable))


def _with_parent_decided(client: redis.Redis, keys: Keys, proposal: Proposal) -> Proposal:
    """The parent may have been provisional when the variant was proposed: its version is looked up now."""
    if proposal.parent_content is None:
        return proposal
    key = keys.program(str(proposal.data["parent_id"]))
    known: bytes | None = client.hget(key, proposal.parent_content)  # type: ignore[assignment]
    return proposal if known is None else proposal.with_parent(decode_known(known).version)
