"""The in-process client of one replica: records events so that none is lost and the host never waits."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, Self

import redis
import uuid_utils

from dspy_ledger import wire
from dspy_ledger.errors import InvalidInput, LedgerUnavailable
from dspy_ledger.producer.outbox import Outbox
from dspy_ledger.producer.proposals import Proposal, Settled, as_proposed, is_passing, settle
from dspy_ledger.producer.sender import Ask, Sender
from dspy_ledger.producer.serialise import json_bytes, plain
from dspy_ledger.producer.wal import Record, WalFolder
from dspy_ledger.settings import Settings, load_settings
from dspy_ledger.timestamps import utc_now

__all__ = ["Ledger", "LedgerStats"]

_log = logging.getLogger("dspy_ledger.producer")

_LOCK = 2.0  # seconds: longer than any other thread takes to append

_open_ledgers: weakref.WeakSet[Ledger] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class LedgerStats:
    """What became of this process's events.

    ``state``: ``connecting`` at first, then ``connected`` or ``disconnected`` (``last_error`` says why).
    ``stored``: the stored mark. ``adopted``: events of dead processes on this
    machine that this one took over.
    """

    source: str
    recorded: int
    sent: int
    stored: int
    dropped: int
    wal_bytes: int
    adopted: int
    state: str
    last_error: str | None


class Ledger:
    """Records events: in this host's write-ahead file when ``record`` returns, in the store soon after.

    Make it with :meth:`connect`. Safe to use from any thread and after ``fork``.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = settings.keys
        self._context = {
            name: value
            for name in ("environment", "service", "release")
            if (value := getattr(settings, name)) is not None
        }
        self._on_settled: list[weakref.WeakMethod[Callable[[Settled], None]]] = []
        self._waiting: dict[str, Settled | None] = {}  # registrations somebody waits for, by event id
        self._open()
        _open_ledgers.add(self)

    @classmethod
    def connect(cls, url: str | None = None, *, settings: Settings | None = None) -> Self:
        """A ledger on the Redis at ``url``, or on that of the settings (environment variables).

        Returns at once, whether Redis is up or not.

        Raises:
            InvalidInput: the URL or a setting can't be used at all.
        """
        if settings is None:
            settings = load_settings() if url is None else load_settings(redis_url=url)
        elif url is not None:
            settings = load_settings(**{**settings.model_dump(exclude_unset=True), "redis_url": url})
        return cls(settings)

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._sequence = 0
        self._dropped = 0
        self._dropped_warned = False
        self._closed = False
        try:
            folder = WalFolder(self.settings.wal_dir, self.settings.redis_url, self.settings.stream_prefix)
        except ValueError as error:
            raise InvalidInput(f"DSPY_LEDGER_REDIS_URL can't be used: {error}") from None
        self._folder: WalFolder | None = folder
        self._wal_lock: int | None = None
        self._instance = _new_instance()
        try:
            folder.make()
            # A sibling that looks for dead processes may hold the new file's lock for a moment: another name.
            while (lock := folder.lock(self._instance)) is None:
                self._instance = _new_instance()
            self._wal_lock = lock
        except OSError as error:
            self._folder = None
            _log.warning(
                "can't use the write-ahead folder %s (%s): events are kept in memory only", folder.path, error
            )
        instance = self._instance
        self.source = f"/producers/{socket.gethostname()}/{instance}"
        self._outbox = Outbox(
            self.source, None if self._folder is None else lambda n: folder.segment(instance, n)
        )
        self._sender = Sender(self.settings.redis_url, self.keys, self._outbox, self._folder, self._registrar)
        self._sender.start()

    # --- recording ---

    def record(
        self,
        kind: str,
        data: Mapping[str, Any],
        *,
        body: Any = None,
        subject: str | None = None,
        event_id: str | None = None,
    ) -> str:
        """Record one event; its id. Never raises, never waits for Redis.

        Args:
            kind: ``ExecutionCompleted``, ``EvaluationSaved`` …: a key of ``EVENT_TYPES``.
            data: the event's fields, JSON-able.
            body: what travels and is stored apart (any value; what is not JSON is described).
            subject: the program id, where there is one.
            event_id: a UUIDv7 minted before; else one is minted here.
        """
        event_id = event_id or str(uuid_utils.uuid7())
        try:
            body_bytes = None if body is None else json_bytes(body)

            def event(sequence: int) -> bytes:
                envelope: dict[str, Any] = {
                    "event_id": event_id,
                    "source": self.source,
                    "sequence": sequence,
                    "time": utc_now(),
                    "subject": subject,
                    "body": body_bytes,
                    "context": self._context,
                }
                try:
                    return wire.encode(kind, data, **envelope)
                except TypeError:  # a value that is no JSON: described instead
                    return wire.encode(kind, plain(data), **envelope)

            self._append(event, body_bytes, proposal=False)
        except Exception as error:  # noqa: BLE001  the host comes first: counted and said, never raised
            self.drop(error)
        return event_id

    def _append(self, event: Callable[[int], bytes], body: bytes | None, *, proposal: bool) -> Record:
        # Bounded: a signal handler may record while the thread it interrupted holds the lock.
        if not self._lock.acquire(timeout=_LOCK):
            raise RuntimeError("the thread that records was interrupted by a signal handler that records")
        try:
            if self._closed:
                raise RuntimeError("the ledger is closed; open another with Ledger.connect")
            sequence = self._sequence + 1
            record = Record(sequence, event(sequence), body, proposal)
            self._outbox.append(record)
            self._sequence = sequence  # a number is taken once its event is kept: no hole is left
        finally:
            self._lock.release()
        self._sender.wake()
        return record

    def drop(self, error: Exception) -> None:
        """Count an event that could not be recorded, and say so once."""
        self._dropped += 1
        if not self._dropped_warned:
            self._dropped_warned = True
            _log.warning(
                "an event could not be recorded and was dropped: %s: %s", type(error).__name__, error
            )

    # --- registrations ---

    def register(self, proposal: Proposal, *, timeout: float) -> Settled | None:
        """Record a registration and have its version decided within ``timeout`` seconds.

        None when Redis could not be asked in time: the version is decided when it is sent, and whoever
        gave :meth:`on_settled` hears of it.
        """
        waiting = self._waiting
        waiting[proposal.event_id] = None
        try:
            record = self._append(
                lambda sequence: proposal.with_sequence(sequence, self.source, self._context).to_bytes(),
                proposal.body,
                proposal=True,
            )

            def decide_now(client: Any) -> None:
                if waiting.get(proposal.event_id) is not None:
                    return  # its turn came first
                if (final := self._registrar(client, record)) is not None:
                    self._outbox.decided(final)
                    self._sender.decided(record.sequence)

            self._sender.ask(decide_now, timeout=timeout)
        except (LedgerUnavailable, redis.RedisError) as error:  # provisional: the write-ahead file has it
            _log.debug("a registration stays provisional for now: %s", error)
        except Exception as error:  # noqa: BLE001  the host comes first
            self.drop(error)
        return waiting.pop(proposal.event_id, None)

    def on_settled(self, hear: Callable[[Settled], None]) -> None:
        """Have a method called, in the sender's thread, whenever a version was decided.

        Its object is not kept alive for it.
        """
        self._on_settled.append(weakref.WeakMethod(hear))

    def _registrar(self, client: Any, record: Record) -> Record | None:
        try:
            proposal = Proposal.from_bytes(record.event, record.body)
        except (ValueError, KeyError, TypeError) as error:
            _log.error("a registration in a write-ahead file can't be read, it is left out: %s", error)
            return None
        try:
            settled = settle(client, self.keys, proposal)
        except Exception as error:
            if is_passing(error):
                raise
            # Whatever stands in the registry, nothing else must wait for it: the fold settles labels.
            _log.error(
                "the registry can't decide for %s, sending it as proposed: %s", proposal.program_id, error
            )
            settled = as_proposed(client, self.keys, proposal)
        event_id = settled.proposal.event_id
        if event_id in self._waiting:
            self._waiting[event_id] = settled
        for reference in self._on_settled:
            if (hear := reference()) is not None:
                hear(settled)
        return Record(record.sequence, settled.event, record.body, proposal=False)

    def ask(self, question: Ask, *, timeout: float) -> Any:
        """Let the sender ask Redis something.

        Raises:
            LedgerUnavailable: no answer within ``timeout`` seconds.
        """
        return self._sender.ask(question, timeout=timeout)

    # --- account and end ---

    def stats(self) -> LedgerStats:
        """What became of this process's events so far."""
        outbox, sender = self._outbox, self._sender
        return LedgerStats(
            source=self.source,
            recorded=self._sequence,
            sent=max(outbox.sent, outbox.mark),
            stored=outbox.mark,
            dropped=self._dropped,
            wal_bytes=outbox.wal_bytes,
            adopted=sender.adopted_events,
            state=sender.state,
            last_error=sender.last_error if sender.state == "disconnected" else None,
        )

    def flush(self, timeout: float = 5.0, until: Literal["sent", "stored"] = "sent") -> bool:
        """Wait until everything recorded so far is in Redis (``sent``) or in the event store (``stored``).

        Args:
            timeout: seconds to wait at most.
            until: what to wait for; ``stored`` needs a running projector.

        Returns:
            Whether it is so; False when the time was up first.

        Raises:
            InvalidInput: ``until`` is neither.
        """
        if until not in ("sent", "stored"):
            raise InvalidInput(f"flush(until={until!r}): pass 'sent' or 'stored'")
        target, outbox = self._sequence, self._outbox
        if until == "stored":
            return self._sender.wait(lambda: outbox.mark >= target, timeout)
        return self._sender.wait(lambda: max(outbox.sent, outbox.mark) >= target, timeout)

    def close(self, timeout: float = 2.0) -> None:
        """Send what can be sent within ``timeout`` seconds; the rest stays for the next start here."""
        deadline = monotonic() + timeout
        if self._closed:
            return
        self._closed = True
        if self._sender.state != "disconnected":
            self.flush(max(0.0, timeout - 0.5))
        self._sender.stop(max(0.1, deadline - monotonic()))
        stored = self._outbox.close()
        if self._folder is not None and self._wal_lock is not None:
            self._folder.unlock(self._instance, self._wal_lock, remove=stored)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _reopen_in_child(self) -> None:
        """After fork: the parent goes on with its files and numbers, the child starts its own."""
        if self._closed:
            return
        if self._wal_lock is not None:
            os.close(self._wal_lock)  # closing leaves the parent's lock; unlocking would not
        self._outbox.abandon()
        self._sender.abandon()
        self._open()


def _new_instance() -> str:
    return f"{os.getpid()}-{uuid_utils.uuid4().hex[:12]}"


def _close_all() -> None:
    for ledger in list(_open_ledgers):
        ledger.close()


def _after_fork_in_child() -> None:
    for ledger in list(_open_ledgers):
        ledger._reopen_in_child()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
