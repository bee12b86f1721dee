"""The Redis at the other end: one connection to it, what is wrong with it, and is it still the same."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["Found", "Problem", "Server", "client_of_one_connection", "problem_of"]

Problem = Literal[
    "down",
    "hanging",
    "reset",
    "read-only",
    "out of memory",
    "needs a password",
    "loading",
    "not permitted",
    "other",
]
Found = Literal["same", "restarted", "rolled back", "empty"]

_TIMEOUT = 3.0  # seconds a socket may stay silent

_BY_TYPE: tuple[tuple[tuple[type[BaseException], ...], Problem], ...] = (
    ((redis.ReadOnlyError,), "read-only"),
    ((redis.OutOfMemoryError,), "out of memory"),
    ((redis.AuthenticationError, redis.AuthenticationWrongNumberOfArgsError), "needs a password"),
    ((redis.exceptions.NoPermissionError,), "not permitted"),
    ((redis.BusyLoadingError,), "loading"),
    ((redis.TimeoutError, TimeoutError), "hanging"),
    ((ConnectionRefusedError, FileNotFoundError, socket.gaierror), "down"),
    ((ConnectionResetError, BrokenPipeError, ssl.SSLEOFError), "reset"),
)
_BY_TEXT: tuple[tuple[str, Problem], ...] = (
    ("NOAUTH", "needs a password"),
    ("WRONGPASS", "needs a password"),
    ("Authentication required", "needs a password"),
    ("NOPERM", "not permitted"),
    ("OOM ", "out of memory"),
    ("READONLY", "read-only"),
    ("NOREPLICAS", "read-only"),
    ("MISCONF", "read-only"),
    ("LOADING", "loading"),
    ("MASTERDOWN", "loading"),
    ("Timeout", "hanging"),
    ("refused", "down"),
    ("No such file", "down"),
    ("not known", "down"),
    ("name resolution", "down"),
    ("unreachable", "down"),
    ("closed by server", "reset"),
    ("reset by peer", "reset"),
    ("Broken pipe", "reset"),
    ("connection was lost", "reset"),
)


def problem_of(error: BaseException) -> Problem:
    """What keeps events from being taken, in a word that an operator can act on."""
    causes: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in causes:
        causes.append(at)
        at = at.__cause__ or at.__context__
    for cause in causes:
        for types, problem in _BY_TYPE:
            if isinstance(cause, types):
                return problem
        for part, problem in _BY_TEXT:
            if part in str(cause):
                return problem
    return "other"


def client_of_one_connection(url: str) -> redis.Redis:
    """A client that never connects a second time.

    redis-py replaces a broken connection without a word; but a new connection may lead to a server that
    lost what the old one took, so that it must be noticed.
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
    pool.connection_kwargs["decode_responses"] = False  # whatever the URL says for others
    return redis.Redis.from_pool(pool)


@dataclass(slots=True)
class Server:
    """What is known of the server that took our events, to see whether it still has them.

    Args:
        stream: the stream's key.
    """

    stream: str
    run_id: str | None = None
    taken_id: bytes | None = None
    """The id it gave to the last of our entries."""

    def look(self, client: redis.Redis, waiting: Collection[bytes], *, reconnected: bool) -> Found | None:
        """What became of the server since the last look.

        Args:
            waiting: ids of entries that the store does not have yet, so that nobody may have trimmed them.
            reconnected: over a new connection, which may lead elsewhere.

        Returns:
            ``same``: it has all that it acknowledged. ``restarted``: another process (or it does not tell
            which), as far as can be seen with everything. ``rolled back`` and ``empty``: it lost some or
            all. None at the first look.
        """
        before, self.run_id = self.run_id, _run_id(client)
        if self.taken_id is None and not waiting:
            return None if before is None else "restarted" if before != self.run_id else "same"
        if not client.exists(self.stream):
            return "empty"
        if self._went_back(client) or not all(client.xrange(self.stream, i, i, count=1) for i in waiting):
            return "rolled back"
        return "restarted" if before != self.run_id or (reconnected and before is None) else "same"

    def _went_back(self, client: redis.Redis) -> bool:
        if self.taken_id is None:
            return False
        try:
            told = client.xinfo_stream(self.stream)
        except redis.ResponseError:  # forbidden, or a proxy that does not know it
            return False
        return _parts(told["last-generated-id"]) < _parts(self.taken_id)


def _run_id(client: redis.Redis) -> str | None:
    try:
        told: dict[str, Any] = client.info("server")
    except redis.ResponseError:  # forbidden, or a proxy that does not know it
        return None
    return told.get("run_id")


def _parts(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number or 0)
