"""The registry in Redis, kept holding at least what the store knows; only what was erased is taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import orjson
import redis
from redis.client import Pipeline

from dspy_ledger.errors import InvalidInput, LedgerUnavailable
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.keys import DATA_FIELD, Keys
from dspy_ledger.projector.catalog import Catalog, Content
from dspy_ledger.projector.parking import left_out, registrations
from dspy_ledger.projector.projection import Checkpoint
from dspy_ledger.registry_format import decode_content, decode_known, encode_content, encode_known
from dspy_ledger.store import EventStore, StoredEvent
from dspy_ledger.streams import entry_order

__all__ = ["REGISTRY_VERSION", "Registry"]

REGISTRY_VERSION = 1

_REGISTERED = EVENT_TYPES["ProgramRegistered"]
_ERASED = EVENT_TYPES["BodyErased"]
_PER_TRANSACTION = 100  # registrations, or entries of the stream: each may carry a megabyte

T = TypeVar("T")
Field = tuple[str, str]
"""A hash's key, and the content hash within it."""


class Registry:
    """The projection that writes producers' registry.

    Its checkpoint lies in Redis too and is asked for each time, so that a Redis that was emptied, replaced
    or set back gets everything again. What a producer decided stays: entries are only added, or put right
    when nobody can read them. Descriptions and tags follow the last registration. An erased state is taken
    out of its entry, and an event whose body was erased out of the stream, where that entry is in it still.

    Args:
        client: a client without hidden retries; its time-outs bound every call.
        keys: the ledger's keys.
        store: the ledger.

    Raises:
        LedgerUnavailable: from :meth:`position` and :meth:`apply`, when Redis can't be asked, or is another
            ledger's.
    """

    name = "registry"
    version = REGISTRY_VERSION
    types: Sequence[str] = (_REGISTERED, _ERASED)
    bodies = True

    def __init__(self, client: redis.Redis, keys: Keys, store: EventStore) -> None:
        self._client = client
        self._keys = keys
        self._store = store
        self._catalog: Catalog | None = None
        self._checkpoint = Checkpoint(store.ledger_id, 0, None)
        self._left_out: set[int] = set()

    def position(self) -> int:
        """Everything up to here is in Redis, as Redis says now."""
        try:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.get(self._keys.owner)
                pipe.hgetall(self._keys.registry_checkpoint)
                owner, fields = pipe.execute()
        except redis.RedisError as error:
            raise LedgerUnavailable(f"the registry can't be read: {error}") from None
        if owner is not None and owner.decode(errors="replace") != self._store.ledger_id:
            raise LedgerUnavailable(
                f"this Redis holds the registry of another ledger ({owner.decode(errors='replace')}); set"
                " DSPY_LEDGER_REDIS_URL or DSPY_LEDGER_STREAM_PREFIX"
            )
        found, passed = self._read(fields)
        if (found, passed) != (self._checkpoint, self._left_out):
            self._checkpoint, self._left_out = Checkpoint(self._store.ledger_id, 0, None), set()
            self._catalog = None
            if found is not None and found.mismatch(self._store, self.name, passed) is None:
                catalog = Catalog(registrations(self._store, self.name, found.position))
                if self._holds(catalog):
                    self._checkpoint, self._left_out, self._catalog = found, passed, catalog
        return self._checkpoint.position

    def _holds(self, catalog: Catalog) -> bool:
        """Whether Redis has every content that was registered up to its checkpoint.

        After an older store was put back, the event at the checkpoint may be the same again, behind others.
        """
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for program in catalog.programs.values():
                    pipe.hkeys(self._keys.program(program.program_id))
                    pipe.hkeys(self._keys.contents(program.program_id))
                there = iter(pipe.execute())
        except redis.RedisError as error:
            raise LedgerUnavailable(f"the registry can't be read: {error}") from None
        return all(
            {digest.encode() for digest in program.contents} <= {*next(there)} & {*next(there)}
            for program in catalog.programs.values()
        )

    def apply(self, batch: Sequence[StoredEvent]) -> None:
        """Add what the events register, with the checkpoint in the same MULTI."""
        if not batch:
            return
        concerning = iter([event for event in batch if event.type in self.types])
        if self._catalog is None:
            self._catalog = Catalog(registrations(self._store, self.name, self._checkpoint.position))
        catalog, self._catalog = self._catalog, None  # until Redis has it: it may have run ahead
        passed = left_out(batch)
        try:
            for chunk in _chunks(concerning):
                self._write(chunk, catalog, chunk[-1], passed)
            self._write([], catalog, batch[-1], passed)
        except redis.RedisError as error:
            raise LedgerUnavailable(f"the registry can't be written: {error}") from None
        self._catalog = catalog

    def reset(self) -> None:
        """Begin anew at position 1: whatever Redis lacks is added."""
        try:
            self._client.delete(self._keys.registry_checkpoint)
        except redis.RedisError as error:
            raise LedgerUnavailable(f"the registry can't be written: {error}") from None

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _write(self, chunk: list[StoredEvent], catalog: Catalog, last: StoredEvent, passed: set[int]) -> None:
        checkpoint = Checkpoint.after(self._store, last)
        all_passed = self._left_out | {position for position in passed if position <= last.position}
        garbled = self._garbled(chunk)
        with self._client.pipeline(transaction=True) as pipe:
            for event in chunk:
                if event.type == _REGISTERED:
                    self._add(pipe, event, catalog, garbled)
                else:
                    self._erase(pipe, event, catalog)
            pipe.hset(
                self._keys.registry_checkpoint,
                mapping={
                    "version": self.version,
                    "ledger_id": checkpoint.ledger_id,
                    "position": checkpoint.position,
                    "event_id": checkpoint.event_id or "",
                    "left_out": orjson.dumps(sorted(all_passed)),
                },
            )
            pipe.execute()
        self._checkpoint, self._left_out = checkpoint, all_passed

    def _garbled(self, chunk: list[StoredEvent]) -> set[Field]:
        """Of what is registered, the fields that are there and can't be read."""
        registered = [event.data for event in chunk if event.type == _REGISTERED]
        readers: dict[Field, Callable[[bytes], object]] = {}
        for data in registered:
            readers[self._keys.program(data["program_id"]), data["content_hash"]] = decode_known
            readers[self._keys.contents(data["program_id"]), data["content_hash"]] = decode_content
        with self._client.pipeline(transaction=False) as pipe:
            for key, digest in readers:
                pipe.hget(key, digest)
            return {
                field
                for (field, read), value in zip(readers.items(), pipe.execute(), strict=True)
                if _is_garbled(value, read)
            }

    def _add(self, pipe: Pipeline, event: StoredEvent, catalog: Catalog, garbled: set[Field]) -> None:
        data = event.data
        registered = catalog.register(data, event.position)
        program, digest, content = registered.program, registered.content_hash, registered.content
        contents = self._keys.contents(program.program_id)
        if registered.new:
            known = encode_known(content.version, program.known[digest].interface)
            pipe.sadd(self._keys.programs, program.program_id)
            for key, value in (
                (self._keys.program(program.program_id), known),
                (contents, _content(data, event, content.version)),
            ):
                put = pipe.hset if (key, digest) in garbled else pipe.hsetnx
                put(key, digest, value)
        elif registered.reworded:
            first = self._store.event_at(content.position)
            assert first is not None
            pipe.hset(contents, digest, _reworded(first, content))

    def _erase(self, pipe: Pipeline, erasure: StoredEvent, catalog: Catalog) -> None:
        streamed: list[StoredEvent] = []
        for event_id in erasure.data["event_ids"]:
            event = self._store.event(event_id)
            if event is None or event.body is not None:
                continue
            if event.stream_id is not None:
                streamed.append(event)
            content = catalog.content_at(event.data, event.position) if event.type == _REGISTERED else None
            if content is not None:
                contents = self._keys.contents(event.data["program_id"])
                pipe.hset(contents, event.data["content_hash"], _reworded(event, content))
        gone = self._still_streamed(streamed)
        if gone:
            pipe.xdel(self._keys.events, *gone)

    def _still_streamed(self, events: list[StoredEvent]) -> list[str]:
        """The stream ids under which exactly these events lie in the stream still.

        Looked at, because another server, or one set back, may have given the same id to another entry.
        """
        oldest = _entries(self._client.xrange(self._keys.events, count=1))
        if not oldest:
            return []
        bound = _ordered(oldest[0][0].decode())
        wanted = [(e, e.stream_id) for e in events if e.stream_id and _ordered(e.stream_id) >= bound]
        still = []
        for chunk in _chunks(iter(wanted)):
            with self._client.pipeline(transaction=False) as pipe:
                for _, stream_id in chunk:
                    pipe.xrange(self._keys.events, stream_id, stream_id)
                found = pipe.execute()
            still += [
                stream_id
                for (event, stream_id), entries in zip(chunk, found, strict=True)
                if any(fields.get(DATA_FIELD) == event.payload for _, fields in _entries(entries))
            ]
        return still

    def _read(self, fields: dict[bytes, bytes]) -> tuple[Checkpoint | None, set[int]]:
        try:
            if int(fields[b"version"]) != self.version:
                return None, set()
            ledger_id, event_id = fields[b"ledger_id"].decode(), fields[b"event_id"].decode()
            passed = set(orjson.loads(fields[b"left_out"]))
            return Checkpoint(ledger_id, int(fields[b"position"]), event_id), passed
        except (KeyError, ValueError, TypeError):
            return None, set()


def _reworded(first: StoredEvent, content: Content) -> bytes:
    """A known content as its first registration says, but for description and tags."""
    data = {**first.data, "description": content.description, "tags": content.tags}
    return _content(data, first, content.version)


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """What XRANGE answers; the client's types are wider."""
    return answer  # type: ignore[no-any-return]


def _ordered(stream_id: str) -> tuple[int, int]:
    try:
        return entry_order(stream_id)
    except ValueError:  # what an import brought need not be one
        return -1, -1


def _content(data: dict[str, Any], event: StoredEvent, version: str) -> bytes:
    return encode_content({**data, "version": version}, event.body_json())


def _is_garbled(value: bytes | None, read: Callable[[bytes], object]) -> bool:
    try:
        return value is not None and not read(value)
    except InvalidInput:
        return True


def _chunks(things: Iterator[T]) -> Iterator[list[T]]:
    while chunk := list(islice(things, _PER_TRANSACTION)):
        yield chunk
