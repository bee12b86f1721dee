"""The one thread that talks to Redis: sends, learns what is stored, decides versions, backs off.

The host's threads only append to an outbox and wake this thread; they wait for it in two places, both
bounded: a registration's decision and ``flush``.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dspy_ledger.errors import LedgerUnavailable
from dspy_ledger.keys import Keys
from dspy_ledger.producer.outbox import Outbox
from dspy_ledger.producer.proposals import entry_fields
from dspy_ledger.producer.wal import Record, WalFolder

__all__ = ["Registrar", "Sender"]

_log = logging.getLogger("dspy_ledger.producer")

_BATCH = 500
_LINGER = 0.02  # seconds: gather what comes close together
_POLL = (0.05, 1.0)  # seconds between looks at the stored mark, longer while it stands still
_ADOPT = 30.0  # seconds between looks for files of dead siblings
_BACKOFF = (0.05, 5.0)  # seconds: first and longest pause
_TIMEOUT = 3.0  # seconds a socket may stay silent

Ask = Callable[["redis.Redis"], Any]
Registrar = Callable[["redis.Redis", Record], Record | None]
"""Decides the version of a proposed registration and sends it in the same transaction; its final record,
or None when nothing can be made of it."""


@dataclass
class _Question:
    ask: Ask
    answer: Future[Any] = field(default_factory=Future)

    def refuse(self, reason: str) -> None:
        """Answer that Redis can't be asked; who gave up waiting is not told."""
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(LedgerUnavailable(reason))


class Sender:
    """Sends one ledger's outboxes; see the module.

    Args:
        outbox: this process's own; further ones are adopted from dead processes.
        folder: where those lie; None adopts nothing.
        registrar: settles proposals (given by the registry).
    """

    def __init__(
        self, redis_url: str, keys: Keys, outbox: Outbox, folder: WalFolder | None, registrar: Registrar
    ) -> None:
        self.state = "connecting"
        self.last_error: str | None = None
        self.adopted_events = 0
        self._redis_url = redis_url
        self._keys = keys
        self._outbox = outbox
        self._folder = folder
        self._registrar = registrar
        self._adopted: dict[str, tuple[Outbox, int]] = {}
        self._adopt_at = 0.0 if folder is not None else inf
        self._client: redis.Redis | None = None
        self._questions: deque[_Question] = deque()
        self._decided_ahead: set[int] = set()  # own sequences sent by a decision before their turn
        self._wake = threading.Event()  # there is something to send
        self._hurry = threading.Event()  # somebody waits for it
        self._stop = threading.Event()
        self._behind = False  # a batch was full: more is waiting
        self._progress = threading.Condition()
        self._failures = 0
        self._poll_at = 0.0
        self._poll_pause = _POLL[0]
        self._thread = threading.Thread(target=self._run, name="dspy-ledger-sender", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self, *, urgent: bool = False) -> None:
        """There is something new; ``urgent`` does not wait for more to come."""
        if urgent:
            self._hurry.set()
        if not self._wake.is_set():
            self._wake.set()

    def ask(self, question: Ask, *, timeout: float) -> Any:
        """Let the thread ask Redis something, ahead of all sending.

        Raises:
            LedgerUnavailable: no answer within ``timeout`` seconds, or Redis is known to be down.
            RedisError: what Redis answered.
        """
        if self.state == "disconnected" or self._stop.is_set():
            raise LedgerUnavailable(f"Redis can't be asked now ({self.last_error or 'closing'})")
        asked = _Question(question)
        self._questions.append(asked)
        self.wake(urgent=True)
        try:
            return asked.answer.result(timeout)
        except TimeoutError:
            asked.answer.cancel()
            raise LedgerUnavailable(f"Redis did not answer within {timeout} s") from None

    def wait(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait for progress until ``done()`` or the timeout in seconds; whether it is done."""
        deadline = monotonic() + timeout
        with self._progress:
            while not done():
                left = deadline - monotonic()
                if left <= 0 or not self._thread.is_alive():
                    return done()
                self.wake(urgent=True)
                self._progress.wait(min(left, 0.05))
        return True

    def stop(self, timeout: float) -> None:
        """End the thread, within ``timeout`` seconds or so; what is not sent stays in the outbox."""
        self._stop.set()
        self.wake(urgent=True)
        if self._thread.is_alive():
            self._thread.join(timeout)

    # --- the thread ---

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                try:
                    self._step()
                except (redis.RedisError, OSError, LedgerUnavailable) as error:
                    self._back_off(error)
            except Exception:  # noqa: BLE001  the thread must outlive a bug; the WAL keeps what is not sent
                _log.exception("the sender of dspy-ledger failed; it will try again")
                self._stop.wait(_BACKOFF[1])
        self._release()

    def _step(self) -> None:
        if not (self._behind or self._hurry.is_set()):
            if not self._has_work():
                self._wake.wait(self._idle_seconds())
            self._hurry.wait(_LINGER)
        self._wake.clear()
        self._hurry.clear()
        if self._stop.is_set():
            return
        self._answer()
        client = self._connected()
        self._adopt()
        full = [self._send(client, outbox) for outbox in self._outboxes()]
        self._behind = any(full)
        self._learn_marks(client)

    def _has_work(self) -> bool:
        return (
            bool(self._questions) or self._outbox.unsent or any(o.unsent for o, _ in self._adopted.values())
        )

    def _idle_seconds(self) -> float:
        now = monotonic()
        if self._client is None:
            return 0.0
        if all(outbox.done for outbox in self._outboxes()):
            return max(0.0, min(_ADOPT, self._adopt_at - now))
        return max(0.0, min(self._poll_at, self._adopt_at) - now)

    def _connected(self) -> redis.Redis:
        if self._client is None:
            client = _client_of_one_connection(self._redis_url)
            client.ping()
            self._client = client
            # Whatever this server is, it may have lost what its predecessor took: send all that is not
            # stored again, and learn first what is.
            self._decided_ahead.clear()
            self._poll_at = 0.0
            self._learn_marks(client)
            for outbox in self._outboxes():
                outbox.rewind()
            if self.state == "disconnected":
                _log.warning("Redis answers again; sending what was kept")
        self.state, self._failures = "connected", 0
        return self._client

    def _outboxes(self) -> list[Outbox]:
        return [self._outbox, *(outbox for outbox, _ in self._adopted.values())]

    def _back_off(self, error: Exception) -> None:
        if self.state != "disconnected":
            _log.warning("Redis can't be reached (%s); events are kept in the write-ahead file", error)
        self.state, self.last_error = "disconnected", f"{type(error).__name__}: {error}"
        self._disconnect()
        while self._questions:
            self._questions.popleft().refuse(str(error))
        pause = min(_BACKOFF[1], _BACKOFF[0] * 2**self._failures) * random.uniform(0.5, 1.0)  # noqa: S311  jitter
        self._failures = min(self._failures + 1, 10)
        self._notify()
        self._stop.wait(pause)

    def _disconnect(self) -> None:
        if self._client is not None:
            try:
                self._client.close()
            except (redis.RedisError, OSError) as error:
                _log.debug("closing a broken connection: %s", error)
            self._client = None

    def _answer(self) -> None:
        while self._questions:
            worked_before = self._client is not None
            client = self._connected()
            question = self._questions.popleft()
            if not question.answer.set_running_or_notify_cancel():
                continue
            try:
                try:
                    answer = question.ask(client)
                except redis.ConnectionError:
                    if not worked_before:
                        raise
                    # The connection had died while nothing was said over it. Questions may be repeated.
                    self._disconnect()
                    answer = question.ask(self._connected())
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                question.answer.set_exception(LedgerUnavailable(str(error)))
                raise
            except Exception as error:  # noqa: BLE001  it belongs to whoever asked
                question.answer.set_exception(error)
            else:
                question.answer.set_result(answer)

    def decided(self, sequence: int) -> None:
        """A decision (made in ``ask``) sent that sequence already; don't send it in its turn."""
        self._decided_ahead.add(sequence)

    def _send(self, client: redis.Redis, outbox: Outbox) -> bool:
        """Send the next batch; whether it was full."""
        records = outbox.read(_BATCH)
        if not records:
            return False
        own = outbox is self._outbox
        pipeline = client.pipeline(transaction=False)
        for record in records:
            if own and record.sequence in self._decided_ahead:
                self._decided_ahead.discard(record.sequence)
            elif record.proposal:
                if (final := self._registrar(client, record)) is not None:
                    outbox.decided(final)
            else:
                pipeline.xadd(self._keys.events, entry_fields(record.event, record.body))
        if len(pipeline):
            pipeline.execute()
        outbox.sent = max(outbox.sent, records[-1].sequence)
        self._poll_pause = _POLL[0]
        self._notify()
        return len(records) >= _BATCH

    def _learn_marks(self, client: redis.Redis) -> None:
        outboxes = [outbox for outbox in self._outboxes() if not outbox.done]
        if not outboxes or (monotonic() < self._poll_at and not self._hurry.is_set()):
            return
        before = [outbox.mark for outbox in outboxes]
        marks = client.hmget(self._keys.stored, [outbox.source for outbox in outboxes])
        for outbox, mark in zip(outboxes, marks, strict=True):
            if mark is not None:
                outbox.confirm(int(mark))
        moved = before != [outbox.mark for outbox in outboxes]
        self._poll_pause = _POLL[0] if moved else min(_POLL[1], self._poll_pause * 1.5)
        self._poll_at = monotonic() + self._poll_pause
        for instance, (outbox, lock) in list(self._adopted.items()):
            if outbox.done:
                self._let_go(instance, outbox, lock)
        self._notify()

    def _adopt(self) -> None:
        if self._folder is None or monotonic() < self._adopt_at:
            return
        self._adopt_at = monotonic() + _ADOPT
        try:
            for instance, lock, paths in self._folder.abandoned():
                self._adopt_one(self._folder, instance, lock, paths)
        except OSError as error:
            _log.warning("can't look for write-ahead files of other processes: %s", error)

    def _adopt_one(self, folder: WalFolder, instance: str, lock: int, paths: list[Path]) -> None:
        try:
            outbox = Outbox.adopted(paths)
        except OSError as error:
            _log.warning("can't read the write-ahead files of %s: %s", instance, error)
            folder.unlock(instance, lock, remove=False)
            return
        self._adopted[instance] = (outbox, lock)
        self.adopted_events += outbox.last
        self._poll_at = 0.0
        if outbox.last:
            _log.info("sending %s events that a process gone left behind", outbox.last)
        else:
            self._let_go(instance, outbox, lock)

    def abandon(self) -> None:
        """After fork, in the child: close the descriptors; locks and files stay the parent's."""
        for outbox, lock in self._adopted.values():
            outbox.abandon()
            os.close(lock)

    def _let_go(self, instance: str, outbox: Outbox, lock: int) -> None:
        del self._adopted[instance]
        removed = outbox.close()
        if self._folder is not None:
            self._folder.unlock(instance, lock, remove=removed)

    def _release(self) -> None:
        for instance, (outbox, lock) in list(self._adopted.items()):
            self._let_go(instance, outbox, lock)
        while self._questions:
            self._questions.popleft().refuse("the ledger was closed")
        self._disconnect()
        self._notify()

    def _notify(self) -> None:
        with self._progress:
            self._progress.notify_all()


def _client_of_one_connection(url: str) -> redis.Redis:
    """A client that never connects a second time.

    redis-py replaces a broken connection without a word; but a new connection may lead to a server that
    lost what the old one took, so that it must be noticed: then everything not stored is sent again.
    """
    connected = False

    def connect_once(connection: Any) -> None:
        nonlocal connected
        if connected:
            raise redis.ConnectionError("the connection was lost")
        connection.on_connect()
        connected = True

    pool = redis.ConnectionPool.from_url(
        url,
        max_connections=1,
        socket_timeout=_TIMEOUT,
        socket_connect_timeout=_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        redis_connect_func=connect_once,
    )
    return redis.Redis.from_pool(pool)
