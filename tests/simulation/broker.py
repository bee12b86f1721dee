"""A broker in memory that answers as Valkey does, and loses what a broker may lose.

Only the commands that the projector and the model producers use; another one is an AttributeError, and
``test_broker.py`` holds the answers against a real server's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import redis

from simulation.fate import Fate

Id = tuple[int, int]


@dataclass
class _Stream:
    entries: dict[Id, dict[bytes, bytes]] = field(default_factory=dict)
    last: Id = (0, 0)
    added: int = 0
    groups: dict[bytes, _Group] = field(default_factory=dict)


@dataclass
class _Group:
    delivered: Id = (0, 0)
    pending: set[Id] = field(default_factory=set)


class Server:
    """The data, the identity and the moods of one broker."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.keys: dict[str, Any] = {}
        self.milliseconds = 1_700_000_000_000
        self._runs = 0
        self.run_id = ""
        self.started = 0
        self.restart()
        self.on_delete: Callable[[str, dict[Id, dict[bytes, bytes]]], None] = lambda client, entries: None
        """Called with who deletes stream entries, and with the entries, before they go."""
        self.refuses = 0
        """How many more calls of clients fail."""
        self.refused = 0

    def restart(self) -> None:
        """The same data under a new identity."""
        self._runs += 1
        self.run_id = f"{self._runs:040x}"
        self.started = self.milliseconds

    def snapshot(self) -> dict[str, Any]:
        """What an AOF or a replica holds at this moment."""
        return deepcopy(self.keys)

    def restore(self, keys: dict[str, Any], *, back: int) -> None:
        """Restart with older data, and a clock that goes ``back`` by that many milliseconds."""
        self.keys = deepcopy(keys)
        self.milliseconds -= back
        self.restart()

    def stream(self, key: str) -> _Stream:
        """The stream of that name, made if missing."""
        found = self.keys.setdefault(key, _Stream())
        if not isinstance(found, _Stream):
            raise redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return found

    def call(self, client: str, command: str, *args: Any, **options: Any) -> Any:
        """One round trip: it may fail before or after it took effect."""
        dies = self.fate.before(f"{client}:{command}", "", disk=False)
        failing = self.refuses > 0
        if failing:
            self.refuses -= 1
            self.refused += 1
            if self.fate.dice.random() < 0.7:
                raise redis.ConnectionError("the broker does not answer")
        if command == "xdel" and args[0] in self.keys:
            entries = self.stream(args[0]).entries
            self.on_delete(client, {i: entries[i] for i in map(_id, args[1:]) if i in entries})
        result = getattr(self, f"_{command}")(*args, **options)
        if dies:
            self.fate.die()
        if failing:
            raise redis.ConnectionError("the answer is lost")
        return result

    def _pipeline(self, commands: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> list[Any]:
        return [getattr(self, f"_{name}")(*args, **options) for name, args, options in commands]

    def _ping(self) -> bool:
        return True

    def _info(self, section: str = "") -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "master_replid": self.run_id,
            "server_time_usec": self.milliseconds * 1000,
            "uptime_in_seconds": (self.milliseconds - self.started) // 1000,
        }

    def _time(self) -> tuple[int, int]:
        return self.milliseconds // 1000, self.milliseconds % 1000 * 1000

    def _type(self, key: str) -> bytes:
        found = self.keys.get(key)
        names = {_Stream: b"stream", dict: b"hash", set: b"set", bytes: b"string"}
        return b"none" if found is None else names[type(found)]

    def _exists(self, *keys: str) -> int:
        return sum(key in self.keys for key in keys)

    def _delete(self, *keys: str) -> int:
        return sum(self.keys.pop(key, None) is not None for key in keys)

    def _get(self, key: str) -> bytes | None:
        return self.keys.get(key)

    def _set(self, key: str, value: Any, nx: bool = False, **_: Any) -> bool | None:
        if nx and key in self.keys:
            return None
        self.keys[key] = _bytes(value)
        return True

    def _hset(
        self, key: str, name: Any = None, value: Any = None, mapping: Mapping[Any, Any] | None = None
    ) -> int:
        pairs = dict(mapping or {}) | ({name: value} if name is not None else {})
        fields = self.keys.setdefault(key, {})
        new = sum(_bytes(name) not in fields for name in pairs)
        fields.update({_bytes(name): _bytes(value) for name, value in pairs.items()})
        return new

    def _hsetnx(self, key: str, name: Any, value: Any) -> int:
        fields = self.keys.setdefault(key, {})
        if _bytes(name) in fields:
            return 0
        fields[_bytes(name)] = _bytes(value)
        return 1

    def _hget(self, key: str, name: Any) -> bytes | None:
        return self.keys.get(key, {}).get(_bytes(name))

    def _hmget(self, key: str, names: list[Any]) -> list[bytes | None]:
        return [self._hget(key, name) for name in names]

    def _hgetall(self, key: str) -> dict[bytes, bytes]:
        return dict(self.keys.get(key, {}))

    def _hdel(self, key: str, *names: Any) -> int:
        fields = self.keys.get(key, {})
        gone = sum(fields.pop(_bytes(name), None) is not None for name in names)
        if not fields:
            self.keys.pop(key, None)
        return gone

    def _hkeys(self, key: str) -> list[bytes]:
        return list(self.keys.get(key, {}))

    def _hlen(self, key: str) -> int:
        return len(self.keys.get(key, {}))

    def _sadd(self, key: str, *members: Any) -> int:
        found = self.keys.setdefault(key, set())
        new = {_bytes(member) for member in members} - found
        found |= new
        return len(new)

    def _smembers(self, key: str) -> set[bytes]:
        return set(self.keys.get(key, ()))

    def _xadd(self, key: str, fields: Mapping[bytes, bytes]) -> bytes:
        stream = self.stream(key)
        stream.last = max((self.milliseconds, 0), (stream.last[0], stream.last[1] + 1))
        stream.added += 1
        stream.entries[stream.last] = dict(fields)
        return _spelled(stream.last)

    def _xlen(self, key: str) -> int:
        return len(self.keys[key].entries) if key in self.keys else 0

    def _xdel(self, key: str, *ids: Any) -> int:
        entries = self.keys[key].entries if key in self.keys else {}
        return sum(entries.pop(_id(entry), None) is not None for entry in ids)

    def _xrange(self, key: str, min: Any = "-", max: Any = "+", count: int | None = None) -> list[Any]:  # noqa: A002
        if key not in self.keys:
            return []
        first, last = _bound(min, 1), _bound(max, -1)
        found = [(i, f) for i, f in self.stream(key).entries.items() if first <= i <= last]
        return [(_spelled(i), dict(fields)) for i, fields in found[:count]]

    def _xread(
        self, streams: Mapping[str, Any], count: int | None = None, block: int | None = None
    ) -> list[Any]:
        answer = []
        for key, after in streams.items():
            if found := self._xrange(key, f"({_spelled(_id(after)).decode()}", "+", count):
                answer.append([_bytes(key), found])
        return answer

    def _xinfo_stream(self, key: str, full: bool = False) -> dict[str, Any]:
        if key not in self.keys:
            raise redis.ResponseError("no such key")
        stream = self.stream(key)
        ids = list(stream.entries)
        return {
            "length": len(ids),
            "last-generated-id": _spelled(stream.last),
            "entries-added": stream.added,
            "max-deleted-entry-id": b"0-0",
            "recorded-first-entry-id": _spelled(ids[0]) if ids else b"0-0",
            "groups": len(stream.groups),
            "first-entry": None if not ids else (_spelled(ids[0]), dict(stream.entries[ids[0]])),
            "last-entry": None if not ids else (_spelled(ids[-1]), dict(stream.entries[ids[-1]])),
        }

    def _xinfo_groups(self, key: str) -> list[Any]:
        if key not in self.keys:
            raise redis.ResponseError("no such key")
        return [
            {"name": name, "last-delivered-id": _spelled(group.delivered), "pending": len(group.pending)}
            for name, group in self.stream(key).groups.items()
        ]

    def _xgroup_create(self, key: str, name: bytes) -> bool:
        self.stream(key).groups.setdefault(name, _Group())
        return True

    def _xreadgroup(self, key: str, name: bytes, count: int) -> list[bytes]:
        stream = self.stream(key)
        group = stream.groups[name]
        ids = [i for i in stream.entries if i > group.delivered][:count]
        if ids:
            group.delivered = ids[-1]
            group.pending.update(ids)
        return [_spelled(i) for i in ids]

    def _xack(self, key: str, name: bytes, *ids: bytes) -> int:
        if key not in self.keys or name not in self.stream(key).groups:
            return 0
        pending = self.stream(key).groups[name].pending
        done = pending & {_id(i) for i in ids}
        pending -= done
        return len(done)

    def _xpending_range(self, key: str, name: bytes, min: Any, max: Any, count: int) -> list[Any]:  # noqa: A002
        if key not in self.keys or name not in self.stream(key).groups:
            raise redis.ResponseError("NOGROUP")
        first, last = _bound(min, 1), _bound(max, -1)
        found = sorted(i for i in self.stream(key).groups[name].pending if first <= i <= last)
        return [{"message_id": _spelled(i)} for i in found[:count]]


class Client:
    """:class:`redis.Redis` without hidden retries, for one of the server's users."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name

    def __getattr__(self, command: str) -> Any:
        if not hasattr(Server, f"_{command}"):
            raise AttributeError(f"the simulated broker has no {command}")
        return lambda *args, **options: self.server.call(self.name, command, *args, **options)

    def pipeline(self, transaction: bool = True) -> Pipeline:
        return Pipeline(self)

    def close(self) -> None:
        """Nothing is held."""


class Pipeline:
    """:class:`redis.client.Pipeline`: everything at once, or nothing."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._commands: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, command: str) -> Any:
        getattr(self._client, command)

        def add(*args: Any, **options: Any) -> Pipeline:
            self._commands.append((command, args, options))
            return self

        return add

    def execute(self) -> list[Any]:
        commands, self._commands = self._commands, []
        return self._client.server.call(self._client.name, "pipeline", commands)

    def __len__(self) -> int:
        return len(self._commands)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands = []


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _spelled(entry: Id) -> bytes:
    return b"%d-%d" % entry


def _id(text: Any, sequence: int = 0) -> Id:
    first, _, second = _bytes(text).partition(b"-")
    return int(first), int(second or sequence)


def _bound(text: Any, step: int) -> Id:
    raw = _bytes(text)
    if raw in (b"-", b"+"):
        return (0, 0) if raw == b"-" else (2**64, 0)
    first, second = _id(raw.removeprefix(b"("), 0 if step > 0 else 2**64 - 1)
    return (first, second + step) if raw.startswith(b"(") else (first, second)
