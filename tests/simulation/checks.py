"""What must be true of a ledger and its views once everything has healed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dspy_ledger.database import connect
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.keys import DATA_FIELD
from dspy_ledger.projector import Catalog, Directory, SqlViews, catch_up
from dspy_ledger.projector.builds import directory_build, verify_scratch
from dspy_ledger.projector.claims import claimed, noted
from dspy_ledger.projector.parking import registrations
from dspy_ledger.registry_format import decode_content, decode_known
from dspy_ledger.sequences import SequenceSet
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.views import current_view
from dspy_ledger.wire import unpack
from projector.ledgers import tree
from simulation.producers import Producer
from simulation.world import KEYS, World


def problems(world: World) -> Iterator[str]:
    """Everything that is wrong, a sentence each."""
    assert world.process is not None
    store = world.process.store
    yield from (f"store: {problem}" for problem in store.check())
    yield from _history(world, store)
    for producer in world.producers:
        yield from _account(producer, store)
    yield from _erased(store)
    yield from _registry(world, store)
    yield from _replay(world, store)
    yield from _leftovers(world)


def _history(world: World, store: SqliteEventStore) -> Iterator[str]:
    events = list(store.read_all())
    for position, event_id in world.promised.items():
        if position > len(events) or events[position - 1].event_id != event_id:
            yield f"position {position} was stored as {event_id} and is no more"
    places: dict[tuple[str, int], int] = {}
    for event in events:
        first = places.setdefault((event.source, event.sequence), event.position)
        if first != event.position:
            yield f"{event.source} {event.sequence} is stored twice, at {first} and {event.position}"


def _account(producer: Producer, store: SqliteEventStore) -> Iterator[str]:
    """Every number is stored or dead-lettered with its own bytes, or was given up; the account says which."""
    source = producer.source
    stored = {event.sequence: event for event in store.read_all() if event.source == source}
    dropped = {
        number
        for (number,) in store._db.execute(
            "SELECT sequence FROM dead_letters WHERE dropped_at IS NOT NULL AND source = ?", (source,)
        )
    }
    dead = {d.sequence: unpack(d.raw) for d in store.dead_letters(limit=100_000) if d.source == source}
    for number, fields in producer.events.items():
        if number in stored:
            right = stored[number].payload == fields[DATA_FIELD]
        elif number in dead:
            right = dead[number] == fields
        else:
            right = number in producer.given_up or number in dropped
        if not right:
            seen = " after its producer saw it as stored" if number <= producer.mark else ""
            yield f"{source} {number} is lost{seen}"
    reports = [event.data for event in stored.values() if event.type == EVENT_TYPES["ProducerReported"]]
    known = max([0, *stored, *dead, *dropped, *(report["last"] for report in reports)])
    settled = SequenceSet((number, number) for number in stored.keys() | dead.keys() | dropped)
    for report in reports:
        for first, last in (*report["dropped"], *report["unconfirmed"]):
            settled.add(first, last)
    said = [gap for account in store.producers() if account.source == source for gap in account.missing]
    if said != settled.missing(known):
        yield f"{source} lacks {settled.missing(known)}, and is said to lack {said}"


def _erased(store: SqliteEventStore) -> Iterator[str]:
    """A body is gone if, and only if, the ledger says so."""
    erased: set[str] = set()
    for event in store.read_all(types=[EVENT_TYPES["BodyErased"]]):
        erased.update(event.data["event_ids"])
    for event in store.read_all():
        if event.envelope.get("bodydigest") and (event.body is None) != (event.event_id in erased):
            yield f"the body of {event.event_id} is {'gone' if event.body is None else 'still there'}"


def _registry(world: World, store: SqliteEventStore) -> Iterator[str]:
    catalog = Catalog(registrations(store, "registry", store.last_position()))
    for program in catalog.programs.values():
        known = world.server.keys.get(KEYS.program(program.program_id), {})
        for digest, content in program.contents.items():
            value = known.get(digest.encode())
            version = decode_known(value).version if value else None
            # After an older store was put back, labels stay that producers knew and the store does not.
            if version is None or (version != content.version and not world.restored):
                yield f"the registry has {version} for {digest}, the store {content.version}"
            held = world.server.keys.get(KEYS.contents(program.program_id), {}).get(digest.encode())
            first = store.event_at(content.position)
            assert first is not None
            state = decode_content(held)[1] if held else None
            if held is None or (state != first.body_json() and not world.restored):
                yield f"the registry has the state {state} for {digest}, the store {first.body_json()}"


def _replay(world: World, store: SqliteEventStore) -> Iterator[str]:
    scratch = world.scratch
    views = SqlViews(scratch, store)
    catch_up(store, views)
    views.position()
    directory = Directory(scratch / "programs", scratch, store)
    catch_up(store, directory)
    live, again = current_view(world.data), current_view(scratch)
    assert live is not None
    assert again is not None
    yield from _differences(_dump(live), _dump(again))
    yield from _differences(tree(world.programs), tree(scratch / "programs"))
    views.close()


def _dump(path: Path) -> dict[str, Any]:
    db: Any = connect(path, readonly=True)
    rows = {"integrity": db.execute("PRAGMA integrity_check").fetchall()}
    schema = db.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()
    rows["schema"] = schema
    for kind, name, _ in schema:
        if kind == "table":
            rows[name] = sorted(db.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
    db.close()
    return rows


def _differences(live: dict[str, Any], again: dict[str, Any]) -> Iterator[str]:
    for name in sorted(live.keys() | again.keys()):
        if live.get(name) != again.get(name):
            yield f"live and replay differ in {name}: {_first(live.get(name), again.get(name))}"


def _first(live: Any, again: Any) -> str:
    if isinstance(live, bytes) and isinstance(again, bytes):
        live, again = live.splitlines(), again.splitlines()
    if isinstance(live, list) and isinstance(again, list):
        for ours, theirs in zip(live, again, strict=False):
            if ours != theirs:
                return f"{ours!r} and {theirs!r}"
        return f"{len(live)} and {len(again)} entries"
    return f"{live!r:.200} and {again!r:.200}"


def _leftovers(world: World) -> Iterator[str]:
    for path in sorted((*world.data.glob("*.tmp"), *world.programs.rglob("*.tmp"))):
        yield f"{path} is left over"
    for path in sorted(world.data.glob("views-*.db")):
        if path not in (current_view(world.data), world.data / claimed(world.data, "sql").get("view", "")):
            yield f"{path} is left over"
    for kind, path in (("directory", directory_build(world.data)), ("verify", verify_scratch(world.data))):
        if path.exists() and not noted(world.data, kind):  # one that is noted may be gone on with
            yield f"{path} is left over"
