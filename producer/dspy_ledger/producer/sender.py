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
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import hiredis
import redis

from dspy_ledger.errors import LedgerUnavailable
from dspy_ledger.keys import Keys
from dspy_ledger.producer.outbox import Chunk, Outbox
from dspy_ledger.producer.server import Found, Problem, Server, client_of_one_connection, problem_of
from dspy_ledger.producer.wal import Commands, Record, WalFolder, address_of, scan

__all__ = ["Ask", "Registrar", "Sender", "Sends"]

_log = logging.getLogger("dspy_ledger.producer")

_LINGER = 0.02  # seconds: gather what comes close together
_QUIET_ROUNDS = 10  # of that length without an event, until the thread waits to be woken
_POLL = (0.05, 1.0)  # seconds between looks at the stored mark, longer while it stands still
_ADOPT = 30.0  # seconds between looks for files of dead siblings
_LOOK = 30.0  # seconds between looks at whether the server still has what is not stored
_MOST_ADOPTED = 16  # dead processes whose files are taken over at a time: each costs descriptors
_REPORT = 30.0  # seconds between reports of what is missing, when something is
_BACKOFF = (0.05, 5.0)  # seconds: first and longest pause
_IMPORTED_TO_CONNECT = ("email.parser", "encodings.idna")  # by redis-py and the socket module

Ask = Callable[["redis.Redis"], Any]
Registrar = Callable[["redis.Redis", Record], Record | None]
"""Decides the version of a proposed registration and sends it in the same transaction; its final record,
or None when nothing can be made of it."""


class Sends(Protocol):
    """What a ledger needs of whoever sends its outbox."""

    state: str
    problem: Problem | None
    found: Found | None
    last_error: str | None
    adopted_events: int

    def start(self) -> None:
        """Begin."""

    def wake(self) -> None:
        """There is something new."""

    def ask(self, question: Ask, *, timeout: float) -> Any:
        """The answer to a question to Redis."""

    def decided(self, sequence: int) -> None:
        """A decision (made in ``ask``) sent that sequence already."""

    def wait(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until ``done()``; whether it is."""

    def stop(self, timeout: float) -> None:
        """End."""

    def abandon(self) -> None:
        """Close what was inherited by fork."""


@dataclass
class _Question:
    ask: Ask
    answer: Future[Any] = field(default_factory=Future)

    def refuse(self, reason: str) -> None:
        """Answer that Redis can't be asked; who gave up waiting is not told."""
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(LedgerUnavailable(reason))


class _Every:
    """Something that is due now and then; at once at first."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.at = 0.0

    def is_due(self) -> bool:
        """Whether it is time; if so, the next time is set."""
        now = monotonic()
        if now < self.at:
            return False
        self.at = now + self._seconds
        return True


class _Flag:
    """What threading.Event does, also in a signal handler that interrupts this very thread at it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # on a lock that its holder may take again
        self.is_set = False

    def set(self) -> None:
        """Let whoever waits go on."""
        with self._changed:
            self.is_set = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Wait for the next."""
        self.is_set = False

    def wait(self, timeout: float) -> None:
        """Return when it is set, or after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_set, timeout)


class Sender(Sends):
    """Sends one ledger's outboxes; see the module.

    Args:
        outbox: this process's own; further ones are adopted from dead processes.
        folder: where those lie.
        commands: builds the commands of the stream.
        registrar: settles proposals (given by the registry).
    """

    def __init__(
        self,
        redis_url: str,
        keys: Keys,
        outbox: Outbox,
        folder: WalFolder,
        commands: Commands,
        registrar: Registrar,
    ) -> None:
        self.state = "connecting"
        self.problem: Problem | None = None
        self.found: Found | None = None
        self.last_error: str | None = None
        self.adopted_events = 0
        self._redis_url = redis_url
        self._where = f"Redis at {address_of(redis_url)}"
        self._keys = keys
        self._outbox = outbox
        self._folder = folder
        self._commands = commands
        self._registrar = registrar
        self._server = Server(keys.events)
        self._adopted: dict[str, tuple[Outbox, int]] = {}
        self._adoption, self._look, self._report = _Every(_ADOPT), _Every(_LOOK), _Every(_REPORT)
        self._client: redis.Redis | None = None
        self._questions: deque[_Question] = deque()
        self._decided_ahead: set[int] = set()  # own sequences sent by a decision before their turn
        self._resting = False  # the thread waits to be woken
        self._wake = _Flag()  # there is something to send
        self._hurry = _Flag()  # somebody waits for it
        self._stop = threading.Event()
        self._quiet_rounds = 0
        self._progress = threading.Condition()
        self._failures = 0
        self._poll_at = 0.0
        self._poll_pause = _POLL[0]
        self._thread = threading.Thread(target=self._run, name="dspy-ledger-sender", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        # Not there: a child forked in the middle of an import has half a module for ever.
        for name in _IMPORTED_TO_CONNECT:
            import_module(name)
        self._thread.start()

    def wake(self) -> None:
        """There is something new: look after it within the linger time."""
        if self._resting:
            self._wake.set()

    def hurry(self) -> None:
        """Somebody waits: look after everything now."""
        self._hurry.set()
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
        self.hurry()
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
                self.hurry()
                self._progress.wait(min(left, 0.05))
        return True

    def stop(self, timeout: float) -> None:
        """End the thread, within ``timeout`` seconds or so; what is not sent stays in the outbox."""
        self._stop.set()
        self.hurry()
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
                self._disconnect()  # answers to what it asked may still come over this connection
                self._stop.wait(_BACKOFF[1])
        self._release()

    def _step(self) -> None:
        self._wait_for_work()
        if self._stop.is_set():
            return
        if self._report.is_due():
            self._outbox.report("interval")
        self._answer()
        client = self._connected()
        if self._adopt():
            self._learn_marks(client)  # most of it may be stored
        for outbox in self._outboxes():
            self._send(client, outbox)
        self._learn_marks(client)
        self._watch(client)
        self._say_well()

    def _wait_for_work(self) -> None:
        """Return when there is something to do, or it is time to look whether there is.

        A busy host is not asked to wake this thread for every event: the thread looks by itself until
        nothing came for a while.
        """
        if self._client is not None and not self._has_work():
            if self._quiet_rounds < _QUIET_ROUNDS and monotonic() < self._poll_at:
                self._quiet_rounds += 1
            else:
                self._resting = True
                if not self._has_work():
                    self._wake.wait(self._idle_seconds())
                self._resting = False
        if self._outbox.unsent:
            self._quiet_rounds = 0
        if not self._behind():
            self._hurry.wait(_LINGER)
        self._wake.clear()
        self._hurry.clear()

    def _has_work(self) -> bool:
        return bool(self._questions) or any(outbox.unsent for outbox in self._outboxes())

    def _behind(self) -> bool:
        """Whether more waits than one round sends: no need to gather."""
        return self._client is not None and any(outbox.is_behind for outbox in self._outboxes())

    def _idle_seconds(self) -> float:
        if all(outbox.done for outbox in self._outboxes()):
            return max(0.0, self._adoption.at - monotonic())
        return max(0.0, min(self._poll_at, self._adoption.at) - monotonic())

    def _connected(self) -> redis.Redis:
        if self._client is None:
            client = client_of_one_connection(self._redis_url)
            client.ping()
            self._client = client
            self._poll_at = 0.0
            self._learn_marks(client)
            self._send_again_what_is_lost(client, reconnected=True)
        return self._client

    def _send_again_what_is_lost(self, client: redis.Redis, *, reconnected: bool) -> None:
        """The server may not be the one that took our events, or not have them any more."""
        waiting = [entry_id for outbox in self._outboxes() for entry_id in outbox.waiting]
        found = self._server.look(client, waiting, reconnected=reconnected)
        if found is not None and (reconnected or found != "same"):
            self.found = found
        if found != "same":
            self._decided_ahead.clear()
            for outbox in self._outboxes():
                outbox.rewind()

    def _watch(self, client: redis.Redis) -> None:
        """A server that is emptied while we are connected to it says nothing: look now and then."""
        if any(outbox.waiting for outbox in self._outboxes()) and self._look.is_due():
            self._poll_at = 0.0
            self._learn_marks(client)
            self._send_again_what_is_lost(client, reconnected=False)

    def _outboxes(self) -> list[Outbox]:
        return [self._outbox, *(outbox for outbox, _ in self._adopted.values())]

    def _back_off(self, error: Exception) -> None:
        problem = problem_of(error)
        if self.problem != problem:
            _log.warning("%s takes no events (%s: %s); they are kept here", self._where, problem, error)
        self.problem, self.last_error = problem, f"{type(error).__name__}: {error}"
        self.state = "disconnected"
        self._disconnect()
        while self._questions:
            self._questions.popleft().refuse(str(error))
        pause = min(_BACKOFF[1], _BACKOFF[0] * 2**self._failures) * random.uniform(0.5, 1.0)  # noqa: S311  jitter
        self._failures = min(self._failures + 1, 10)
        self._notify()
        self._stop.wait(pause)

    def _say_well(self) -> None:
        if self.state == "disconnected":
            _log.warning("%s takes events again%s", self._where, _lost(self.found))
        self.state, self.problem, self.last_error, self._failures = "connected", None, None, 0

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

    def _send(self, client: redis.Redis, outbox: Outbox) -> None:
        """Send the next chunks."""
        chunks = outbox.unsent_chunks()
        if not chunks:
            return
        if chunks[0].proposal:
            self._send_registration(client, outbox, chunks[0])
        else:
            self._send_events(client, outbox, chunks)
        self._say_well()
        self._poll_pause = _POLL[0]
        self._notify()

    def _send_registration(self, client: redis.Redis, outbox: Outbox, chunk: Chunk) -> None:
        ahead = outbox is self._outbox and chunk.first in self._decided_ahead
        self._decided_ahead.discard(chunk.first)
        if not ahead:
            if (command := outbox.final(chunk.first)) is not None:
                [reply] = self._pass_on(client, [command], 1)
                if isinstance(reply, Exception):
                    raise reply
                outbox.was_sent([chunk], (reply, reply))
                return
            record = next((found.record for found in scan(chunk.read())), None)
            if record is None or (final := self._registrar(client, record)) is None:
                outbox.leave_out(chunk)
                return
            outbox.decided(final)
        outbox.was_sent([chunk])

    def _send_events(self, client: redis.Redis, outbox: Outbox, chunks: Sequence[Chunk]) -> None:
        replies = self._pass_on(client, [chunk.read() for chunk in chunks], sum(c.count for c in chunks))
        answered = iter(replies)
        for chunk in chunks:
            ids = [next(answered) for _ in range(chunk.count)]
            for reply in ids:
                if isinstance(reply, Exception):
                    raise reply
            outbox.was_sent([chunk], (ids[0], ids[-1]))
            self._server.taken_id = ids[-1]

    def _pass_on(self, client: redis.Redis, commands: Sequence[bytes], count: int) -> list[Any]:
        """Send commands as they are; the server's replies, its errors among them."""
        connection: Any = client.connection_pool.get_connection()
        try:
            connection.send_packed_command(commands, check_health=False)
            return _replies(connection, count)
        finally:
            client.connection_pool.release(connection)

    def _learn_marks(self, client: redis.Redis) -> None:
        outboxes = [outbox for outbox in self._outboxes() if not outbox.done]
        if not outboxes or (monotonic() < self._poll_at and not self._hurry.is_set):
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

    def _adopt(self) -> bool:
        """Take over what dead processes left, now and then; whether there was something."""
        if not self._adoption.is_due():
            return False
        before = self.adopted_events
        abandoned = self._folder.abandoned()
        try:
            while len(self._adopted) < _MOST_ADOPTED and (one := next(abandoned, None)) is not None:
                self._adopt_one(*one)
        except OSError as error:
            _log.warning("can't look for write-ahead files of other processes: %s", error)
        return self.adopted_events > before

    def _adopt_one(self, instance: str, lock: int, paths: list[Path]) -> None:
        try:
            outbox = Outbox.adopted(paths, self._commands)
        except Exception as error:  # noqa: BLE001  whatever stands in them: nothing else waits for it
            _log.warning("can't read the write-ahead files of %s: %s", instance, error)
            self._folder.unlock(instance, lock, remove=False)
            return
        self._adopted[instance] = (outbox, lock)
        self.adopted_events += outbox.count
        self._poll_at = 0.0
        if outbox.last:
            _log.info("sending %s events that a process gone left behind", outbox.count)
        else:
            self._let_go(instance, outbox, lock)

    def abandon(self) -> None:
        """After fork, in the child: close the descriptors; locks and files stay the parent's."""
        for outbox, lock in self._adopted.values():
            outbox.abandon()
            os.close(lock)

    def _let_go(self, instance: str, outbox: Outbox, lock: int) -> None:
        if len(self._adopted) == _MOST_ADOPTED:
            self._adoption.at = 0.0  # there may be more
        del self._adopted[instance]
        removed = outbox.close()
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


def _replies(connection: Any, count: int) -> list[Any]:
    """The answers to so many XADDs: entry ids and errors.

    Taken from hiredis at once where redis-py's connection has it: by its own method each takes some
    microseconds, all of them with the interpreter's lock held, for which one call of the host waits.
    """
    parser = getattr(connection, "_parser", None)
    reader = getattr(parser, "_reader", None)
    if parser is None or not isinstance(reader, hiredis.Reader):
        return [_reply(connection) for _ in range(count)]
    replies: list[Any] = []
    while len(replies) < count:
        reply = reader.gets(False)
        if isinstance(reply, bytes | Exception):
            replies.append(reply)
        else:
            parser.read_from_socket()
    return replies


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


def _lost(found: Found | None) -> str:
    return {"rolled back": ", from an older snapshot", "empty": ", but empty"}.get(found or "", "")
