"""Events and ledgers for the projector's tests, made by hand and by hypothesis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, TypeVar

import orjson
from hypothesis import strategies as st

from dspy_ledger import wire
from dspy_ledger.store import SqliteEventStore, StoredEvent

NOON = "2026-11-22T12:00:00.000000Z"
SOURCE = "/producers/host/a"

Fields = dict[bytes, bytes]


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


def event(
    kind: str,
    data: dict,
    event_id: str,
    sequence: int,
    *,
    time: str = NOON,
    body: object = None,
    source: str = SOURCE,
    **context: str,
) -> Fields:
    """A stream entry's fields."""
    raw = None if body is None else orjson.dumps(body)
    payload = wire.encode(
        kind, data, event_id=event_id, source=source, sequence=sequence, time=time, body=raw, context=context
    )
    return {b"__data__": payload} | ({b"body": raw} if raw is not None else {})


def registration(
    event_id: str,
    sequence: int,
    *,
    program: str = "p",
    content: str = "c1:0",
    body: object = None,
    **data: object,
) -> Fields:
    fields = {
        "program_id": program,
        "name": program.title(),
        "version": "1.0.0",
        "content_hash": content,
        "kind": "signature",
        "created_at": NOON,
    }
    return event("ProgramRegistered", {**fields, **data}, event_id, sequence, body=body)


def execution(
    event_id: str,
    sequence: int,
    *,
    program: str = "p",
    content: str | None = "c1:0",
    time: str = NOON,
    body: object = None,
    source: str = SOURCE,
    **data: object,
) -> Fields:
    fields = {
        "execution_id": event_id,
        "program_id": program,
        "content_hash": content,
        "status": "ok",
        "started_at": NOON,
        "latency_ms": 1.5,
        "model_id": "m",
    }
    return event(
        "ExecutionCompleted", {**fields, **data}, event_id, sequence, time=time, body=body, source=source
    )


def evaluation(
    event_id: str, sequence: int, *, program: str | None = "p", content: str | None = "c1:0", **data: object
) -> Fields:
    fields = {
        "evaluation_id": event_id,
        "program_id": program,
        "content_hash": content,
        "model_id": "m",
        "results": {"accuracy": 0.5},
        "created_at": NOON,
    }
    return event("EvaluationSaved", {**fields, **data}, event_id, sequence)


def append(store: SqliteEventStore, entries: Iterable[Fields]) -> list[StoredEvent]:
    """Store entries as one batch; the events it added."""
    start = store.last_position()
    batch = [(f"{start}-{n}", wire.decode(fields)) for n, fields in enumerate(entries)]
    return store.append(batch).events


opened = ExitStack()
"""What a test opened and leaves to the suite to close; the suite's conftest does it after each test."""


def kept(resource: C) -> C:
    """The resource, to be closed after the test."""
    opened.callback(resource.close)
    return resource


def ledger(folder: Path, entries: Sequence[Fields] = ()) -> SqliteEventStore:
    store = kept(SqliteEventStore(folder / "ledger.db"))
    append(store, entries)
    return store


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


_INTERFACES = st.sampled_from(
    [
        None,
        {"inputs": [{"name": "q", "type": "str", "required": True}], "outputs": []},
        {"inputs": [{"name": n, "type": "str", "required": True} for n in "qr"], "outputs": []},
        {"inputs": 1},
    ]
)  # fmt: skip
_PROGRAMS = st.sampled_from(["p", "q", "日本", "../x"])
_CONTENTS = st.sampled_from([f"c1:{n}" for n in range(4)])
_LABELS = st.sampled_from(["1.0.0", "1.0.1", "1.1.0", "2.0.0-rc.1", "no semver", "../1"])
_WORDS = st.sampled_from([None, "", "one", "zwei"])
_TIMES = st.sampled_from([NOON, "2026-11-21T23:59:59.999999Z", "2026-11-23T01:00:00+02:00"])


@st.composite
def histories(draw: st.DrawFn, max_size: int = 40) -> list[Fields]:
    """Random ledgers: collisions, rewordings, unknown hashes, late registrations, feedback."""
    return [_any_event(draw, n) for n in range(1, draw(st.integers(1, max_size)) + 1)]


def _any_event(draw: st.DrawFn, n: int) -> Fields:
    kind = draw(st.sampled_from("rxxxef"))
    program, content = draw(_PROGRAMS), draw(_CONTENTS)
    if kind == "r":
        return registration(
            f"e{n}", n, program=program, content=content, version=draw(_LABELS), description=draw(_WORDS),
            tags=draw(st.lists(st.sampled_from("ab"), max_size=2)), interface=draw(_INTERFACES),
            parent_id=draw(st.sampled_from([None, "p", "q"])), body=draw(st.sampled_from([None, {"n": n}])),
        )  # fmt: skip
    if kind == "x":
        return execution(
            f"e{n}", n, program=program, content=draw(st.sampled_from([content, None])), time=draw(_TIMES),
            cost_usd=draw(st.sampled_from([None, 0.1, 0.2, 1e-9])),
            model_id=draw(st.sampled_from([None, "m", "n"])),
            model_info=draw(st.sampled_from([None, {"provider": "openai"}, {"base_model": f"b{n}"}])),
            usage=draw(st.sampled_from([{}, {"input_tokens": n, "output_tokens": 2.5}])),
            latency_ms=draw(st.sampled_from([0.1, 0.7, n])), status=draw(st.sampled_from(["ok", "error"])),
            body=draw(st.sampled_from([None, {"inputs": {"q": n}, "calls": []}, [n]])),
            execution_id=draw(st.sampled_from([f"e{n}", f"e{n}", "shared"])),  # of others, any id
        )  # fmt: skip
    if kind == "e":
        evaluation_id = draw(st.sampled_from(["a", "b_c"]))
        model = draw(st.sampled_from([None, "m", "c_m"]))
        return evaluation(
            f"e{n}",
            n,
            program=program,
            content=content,
            evaluation_id=evaluation_id,
            model_id=model,
            results=n,
        )
    about = draw(st.sampled_from([f"e{max(1, n - 1)}", f"e{n + 1}", "shared"]))  # it may come before that
    return evaluation(f"e{n}", n, program=None, content=None, model_id=None, execution_id=about)
