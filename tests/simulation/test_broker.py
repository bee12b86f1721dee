"""The simulation's broker answers as a real one does, to whatever is asked of it in a row."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servers import Valkey
from simulation.broker import Client, Server
from simulation.fate import Fate

_IDS = [f"{ms}-{n}" for ms in (1, 2, 9) for n in range(2)]
_names = st.sampled_from([b"a", b"b", "c"])
_ids = st.sampled_from([*_IDS, "-", "+"])
_bounds = st.one_of(_ids, st.sampled_from([f"({i}" for i in _IDS]))


def _call(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    return st.tuples(st.just(name), st.tuples(*arguments))


_CALLS = st.one_of(
    _call("hset", st.just("hash"), _names, st.integers(0, 9)),
    _call("hsetnx", st.just("hash"), _names, st.integers(0, 9)),
    _call("hget", st.just("hash"), _names),
    _call("hgetall", st.just("hash")),
    _call("hdel", st.just("hash"), _names),
    _call("sadd", st.just("set"), _names),
    _call("smembers", st.just("set")),
    _call("set", st.just("text"), _names),
    _call("get", st.just("text")),
    _call("delete", st.sampled_from(["hash", "set", "text", "stream"])),
    _call("type", st.sampled_from(["hash", "set", "text", "stream"])),
    _call("xlen", st.just("stream")),
    _call("xdel", st.just("stream"), st.sampled_from(_IDS)),
    _call("xrange", st.just("stream"), _bounds, _bounds, st.integers(1, 3)),
    _call("xinfo_stream", st.just("stream")),
    _call("xinfo_groups", st.just("stream")),
    _call("xread", st.fixed_dictionaries({"stream": st.sampled_from(_IDS)}), st.integers(1, 3)),
    _call("add", st.sampled_from(_IDS)),
    _call("read_as_group", st.integers(1, 3)),
    _call("ack", st.sampled_from(_IDS)),
    _call("xpending_range", st.just("stream"), st.just(b"g"), _bounds, _bounds, st.integers(1, 3)),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(calls=st.lists(_CALLS, max_size=25))
def test_a_row_of_commands_is_answered_as_valkey_answers_it(
    calls: list[tuple[str, Any]], valkey: Valkey
) -> None:
    server = Server(Fate(Random(0)))
    simulated = Client(server, "test")
    with valkey.client() as real:
        real.flushall()
        for name, arguments in calls:
            answers = [_ask(client, server, name, arguments) for client in (real, simulated)]
            assert answers[0] == answers[1], (name, arguments)


def test_a_command_that_is_not_simulated_is_refused() -> None:
    client: Any = Client(Server(Fate(Random(0))), "test")
    with pytest.raises(AttributeError, match="has no xtrim"):
        client.xtrim("stream", maxlen=1)


def _ask(client: Any, server: Server, name: str, arguments: tuple[Any, ...]) -> Any:
    """The answer, in what both tell; an error by its kind."""
    try:
        if name == "add":
            return _add(client, server, *arguments)
        if name == "read_as_group":
            return _read_as_group(client, *arguments)
        if name == "ack":
            return client.xack("stream", b"g", *arguments)
        answer = getattr(client, name)(*arguments)
    except redis.ResponseError:
        return "refused"
    if name == "xinfo_stream":
        told = ("length", "last-generated-id", "entries-added", "groups", "first-entry", "last-entry")
        return [answer[key] for key in told]
    if name == "xinfo_groups":
        return [[group[key] for key in ("name", "last-delivered-id", "pending")] for group in answer]
    if name == "xpending_range":
        return [entry["message_id"] for entry in answer]
    return answer


def _add(client: Any, server: Server, entry_id: str) -> Any:
    """An entry under an id of the test's: the simulated broker takes it from its clock."""
    if isinstance(client, redis.Redis):
        return client.xadd("stream", {b"a": b"1"}, id=entry_id)
    wanted = tuple(map(int, entry_id.split("-")))
    stream = server.stream("stream")
    if stream.last >= wanted:
        if not stream.added:
            del server.keys["stream"]
        return "refused"
    server.milliseconds = wanted[0]
    stream.last = (wanted[0], wanted[1] - 1)
    return client.xadd("stream", {b"a": b"1"})


def _read_as_group(client: Any, count: int) -> list[bytes]:
    if not client.exists("stream"):
        return []
    if isinstance(client, redis.Redis):
        if not client.xinfo_groups("stream"):
            client.xgroup_create("stream", b"g", "0")
        found = client.xreadgroup(b"g", b"one", {"stream": ">"}, count=count)
        return [entry_id for _, entries in found for entry_id, _ in entries]
    client.xgroup_create("stream", b"g")
    return client.xreadgroup("stream", b"g", count)
