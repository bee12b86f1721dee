"""The in-process client of one replica: records events so that none is lost and the host never waits."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import EWOULDBLOCK
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Self

import orjson
import redis
import uuid_utils

from dspy_ledger.errors import InvalidInput, LedgerUnavailable
from dspy_ledger.producer.outbox import Outbox
from dspy_ledger.producer.proposals import Proposal, Settled, as_proposed, is_passing, settle
from dspy_ledger.producer.sender import Ask, Sender, Sends
from dspy_ledger.producer.serialise import json_bytes
from dspy_ledger.producer.server import Found, Problem
from dspy_ledger.producer.wal import Commands, Record, WalFolder
from dspy_ledger.settings import Settings, load_settings
from dspy_ledger.timestamps import utc_now

__all__ = ["Ledger", "LedgerStats"]

_log = logging.getLogger("dspy_ledger.producer")

_EXIT = 2.0  # seconds that the end of a process may take for all its ledgers

_open_ledgers: weakref.WeakSet[Ledger] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class LedgerStats:
    """What became of this process's events.

    ``recorded``: the sequence numbers given, those of dropped events among them. ``sent``: the highest that
    Redis took. ``stored``: the stored mark. ``dropped``: events that were not kept. ``unconfirmed``: events
    that were sent and let go of before the store confirmed them (WAL_MAX_BYTES). ``sampled_out``: executions
    left out by SAMPLE_RATE; they take no number. ``wal_bytes``: bytes kept until they are stored;
    ``memory_bytes``: those of them that no file holds. ``adopted``: events of dead processes on this machine
    that this one took over.

    ``state``: ``connecting`` at first, then ``connected`` or ``disconnected``. ``problem``: why Redis takes
    nothing now, in a word, and ``last_error`` in its own. ``server``: what the last reconnect found: the
    ``same`` server, one that was ``restarted``, ``rolled back`` to an older snapshot, or came back ``empty``.
    """

    source: str
    recorded: int
    sent: int
    stored: int
    dropped: int
    unconfirmed: int
    sampled_out: int
    wal_bytes: int
    memory_bytes: int
    adopted: int
    state: str
    problem: Problem | None
    server: Found | None
    last_error: str | None


class Ledger:
    """Records events: in this host's write-ahead file when ``record`` returns, in the store soon after.

    Make it with :meth:`connect`. Safe to use from any thread and after ``fork``.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = settings.keys
        self._commands = Commands(self.keys.events)
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
    def connect(cls, url: str | None = None, *, settings: Settings | None = None, **given: Any) -> Self:
        """A ledger on the Redis at ``url``, or on that of the settings (environment variables).

        Returns at once, whether Redis is up or not.

        Args:
            given: any setting by its name, e.g. ``service="llm-server"``; it stands above the environment.

        Raises:
            InvalidInput: the URL or a setting can't be used at all.
        """
        if url is not None:
            given["redis_url"] = url
        if settings is not None and given:
            given = {**settings.model_dump(exclude_unset=True), **given}
        return cls(settings if settings is not None and not given else load_settings(**given))

    def _open(self) -> None:
        self._unnumbered = 0  # dropped without a number
        self._drop_warned = False
        self._closed = False
        self._wal_lock: int | None = None
        self._instance = _new_instance()
        self.source = f"/producers/{socket.gethostname()}/{self._instance}"
        self._start()

    def _start(self) -> None:
        """Open what keeps and what sends."""
        try:
            folder = WalFolder(self.settings.wal_dir, self.settings.redis_url, self.settings.stream_prefix)
        except ValueError as error:
            raise InvalidInput(f"DSPY_LEDGER_REDIS_URL can't be used: {error}") from None
        self._folder = folder
        try:
            self._claim()
        except OSError as error:
            _log.warning(
                "can't use the write-ahead folder %s (%s): events are kept in memory only, for now",
                folder.path,
                error,
            )
        self._outbox = Outbox(
            self.source,
            self._commands,
            self._next_path,
            context=self._context,
            most_bytes=self.settings.wal_max_bytes,
        )
        self._sender: Sends = Sender(
            self.settings.redis_url, self.keys, self._outbox, folder, self._commands, self._registrar
        )
        self._sender.start()
        _close_with_worker()

    def _claim(self) -> None:
        """Own this instance's name in the write-ahead folder.

        Raises:
            OSError: it can't be written.
        """
        self._folder.make()
        # A sibling that looks for dead processes may hold the new file's lock for a moment: look again.
        for _ in range(100):
            if (lock := self._folder.lock(self._instance)) is not None:
                self._wal_lock = lock
                return
        raise BlockingIOError(EWOULDBLOCK, "another process holds the lock of this write-ahead file")

    def _next_path(self, number: int) -> Path:
        if self._wal_lock is not None and not os.fstat(self._wal_lock).st_nlink:  # the folder was deleted
            os.close(self._wal_lock)
            self._wal_lock = None
        if self._wal_lock is None:
            self._claim()
        return self._folder.segment(self._instance, number)

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
            self._record(kind, data, None if body is None else json_bytes(body), subject, event_id)
        except Exception as error:  # noqa: BLE001  the host comes first: counted and said, never raised
            self.drop(error)
        return event_id

    def record_encoded(
        self,
        kind: str,
        data: Mapping[str, Any],
        body: bytes | None,
        *,
        subject: str | None = None,
        event_id: str | None = None,
    ) -> str:
        """Record one event whose body is JSON already; else like :meth:`record`."""
        event_id = event_id or str(uuid_utils.uuid7())
        try:
            self._record(kind, data, body, subject, event_id)
        except Exception as error:  # noqa: BLE001  the host comes first: counted and said, never raised
            self.drop(error)
        return event_id

    def _record(
        self, kind: str, data: Mapping[str, Any], body: bytes | None, subject: str | None, event_id: str
    ) -> None:
        try:
            data_json = orjson.dumps(data)
        except TypeError:  # a value that is no JSON: described instead
            data_json = json_bytes(data)
        event = self._outbox.encoder.pieces(
            kind, data_json, event_id=event_id, time=utc_now(), subject=subject, body=body
        )
        self._append(*self._commands.pieces(*event, body))

    def _append(self, before: tuple[bytes, ...], after: tuple[bytes, ...], *, proposal: bool = False) -> int:
        if self._closed:
            raise RuntimeError("the ledger is closed; open another with Ledger.connect")
        sequence = self._outbox.append(before, after, proposal=proposal)
        self._sender.wake()
        return sequence

    def drop(self, error: Exception) -> None:
        """Count an event that could not be recorded, and say so once.

        Its number is taken and reported, so that the store's account says it too.
        """
        if self._closed:
            self._unnumbered += 1
        else:
            self._outbox.drop()
        if not self._drop_warned:
            self._drop_warned = True
            _log.warning(
                "an event could not be recorded and was dropped: %s: %s", type(error).__name__, error
            )

    def sample_out(self) -> None:
        """Count an execution that sampling left out; it takes no sequence number."""
        self._outbox.sample_out()

    # --- registrations ---

    def register(self, proposal: Proposal, *, timeout: float) -> Settled | None:
        """Record a registration and have its version decided within ``timeout`` seconds.

        None when Redis could not be asked in time (with 0 it is not even asked): the version is decided
        when it is sent, and whoever gave :meth:`on_settled` hears of it.
        """
        waiting = self._waiting
        if timeout > 0:
            waiting[proposal.event_id] = None
        try:
            event = proposal.pieces(self.source, self._context)
            sequence = self._append(
                *self._commands.pieces(*event, proposal.body, proposal=True), proposal=True
            )
            if timeout > 0 and sequence > 0:
                self._decide_now(proposal, sequence, timeout)
        except (LedgerUnavailable, redis.RedisError) as error:  # provisional: the write-ahead file has it
            _log.debug("a registration stays provisional for now: %s", error)
        except Exception as error:  # noqa: BLE001  the host comes first
            self.drop(error)
        return waiting.pop(proposal.event_id, None)

    def _decide_now(self, proposal: Proposal, sequence: int, timeout: float) -> None:
        before, after = proposal.pieces(self.source, self._context)
        record = Record(
            self.source, sequence, b"".join((before, b"%d" % sequence, *after)), proposal.body, proposal=True
        )

        def decide(client: Any) -> None:
            if self._waiting.get(proposal.event_id) is not None:
                return  # its turn came first
            if (final := self._registrar(client, record)) is not None:
                self._outbox.decided(final)
                self._sender.decided(sequence)

        self._sender.ask(decide, timeout=timeout)

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
        return record._replace(event=settled.event, proposal=False, entry_id=settled.entry_id)

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
            recorded=outbox.last,
            sent=max(outbox.sent, outbox.mark),
            stored=outbox.mark,
            dropped=outbox.dropped + self._unnumbered,
            unconfirmed=outbox.unconfirmed,
            sampled_out=outbox.sampled_out,
            wal_bytes=outbox.wal_bytes,
            memory_bytes=outbox.memory_bytes,
            adopted=sender.adopted_events,
            state=sender.state,
            problem=sender.problem,
            server=sender.found,
            last_error=sender.last_error,
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
        outbox = self._outbox
        outbox.report("interval")  # of dropped events nothing else will come
        target = outbox.last
        if until == "stored":
            return self._sender.wait(lambda: outbox.mark >= target, timeout)
        return self._sender.wait(
            lambda: max(outbox.sent, outbox.mark) >= target or not outbox.unsent, timeout
        )

    def close(self, timeout: float = 2.0) -> None:
        """Send what can be sent within ``timeout`` seconds; the rest stays for the next start here."""
        deadline = monotonic() + timeout
        if self._closed:
            return
        self._closed = True
        self._outbox.report("close")
        if self._sender.state != "disconnected":
            self.flush(max(0.0, timeout - 0.5))
        self._sender.stop(max(0.1, deadline - monotonic()))
        stored = self._outbox.close()
        if self._wal_lock is not None:
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
    deadline = monotonic() + _EXIT
    for ledger in list(_open_ledgers):
        ledger.close(max(0.1, deadline - monotonic()))


def _close_with_worker(*_: object) -> None:
    """A worker of multiprocessing ends without exit handlers, but runs these finalizers."""
    process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, _close_all, exitpriority=0)


def _after_fork_in_child() -> None:
    for ledger in list(_open_ledgers):
        ledger._reopen_in_child()
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util.register_after_fork(_open_ledgers, _close_with_worker)  # it knows later that it is a worker


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
