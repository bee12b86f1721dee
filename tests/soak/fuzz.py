"""Feed the projector mutilated entries: each must be stored or become a dead letter, and every view go on.

    python tests/soak/fuzz.py [--entries 100000] [--seed 1]

Valid entries of every kind are mutilated: bytes flipped, cut, doubled; values of their JSON replaced by
others of all types, huge, empty or nested; fields left out, renamed, added; bodies swapped, digests made to
fit what was mutilated. All go through decoding, the event store, the read models, the directory and the
registry, in batches. At the end each entry must be accounted for, no event may have broken a fold, and
the store must be sound. Exit code 1 when anything differs; the folder is then kept.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import fakeredis
import orjson
from rich.console import Console
from rich.progress import Progress

from dspy_ledger import wire
from dspy_ledger.keys import Keys
from dspy_ledger.projector import Directory, Live, Patience, Projection, Registry, SqlViews
from dspy_ledger.store import SqliteEventStore
from projector.ledgers import NOON, Fields, evaluation, event, execution, registration

BATCH = 200
KEYS = Keys()


@dataclass
class Outcome:
    """What became of the entries; ``differences`` is empty when all is well."""

    entries: int = 0
    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    differences: list[str] = field(default_factory=list)


def fuzz(folder: Path, entries: int, seed: int, on_batch: Callable[[int], None] = lambda _: None) -> Outcome:
    """Mutilate ``entries`` entries, take them in, and look at what became of each."""
    chance = random.Random(seed)
    outcome = Outcome(entries)
    store = SqliteEventStore(folder / "ledger.db")
    client = fakeredis.FakeRedis()
    projections: list[Projection] = [
        SqlViews(folder, store),
        Directory(folder / "programs", folder, store),
        Registry(client, KEYS, store),
    ]
    live = Live.over(store, KEYS, client, projections, Patience(threading.Event()))
    for start in range(0, entries, BATCH):
        numbers = range(start, min(start + BATCH, entries))
        ids = [f"{number + 1}-0".encode() for number in numbers]
        before = store.last_position(), store.dead_letter_count()
        live.take(ids, [mutilated(chance, number) for number in numbers])
        stored, dead = store.last_position() - before[0], store.dead_letter_count() - before[1]
        outcome.stored, outcome.dead_letters = outcome.stored + stored, outcome.dead_letters + dead
        outcome.duplicates += len(ids) - stored - dead
        on_batch(len(ids))
    for projection in projections:
        if projection.position() != store.last_position():
            outcome.differences.append(f"{projection.name} stands at {projection.position()}")
    outcome.differences += [f"{p.projection} broke at {p.position}: {p.detail}" for p in store.parked()]
    outcome.differences += store.check()
    known = {letter.stream_id for letter in store.dead_letters(limit=entries, raw=False)}
    known.update(str(stored.stream_id) for stored in store.read_all())
    lost = sum(f"{number + 1}-0" not in known for number in range(entries)) - outcome.duplicates
    if lost:
        outcome.differences.append(f"{lost} entries are neither stored nor dead letters")
    projections[0].close()
    projections[1].close()
    client.close()
    store.close()
    return outcome


def valid(chance: random.Random, number: int) -> Fields:
    """An entry as a producer writes it."""
    event_id, sequence = f"e{number if chance.random() < 0.98 else chance.randrange(number + 1)}", number + 1
    program, content = f"p{chance.randrange(4)}", f"c1:{chance.randrange(6)}"
    body: Any = {"inputs": {"q": number}, "outputs": {"a": "x" * chance.randrange(50)}, "calls": []}
    match chance.randrange(10):
        case 0 | 1:
            label = chance.choice(["1.0.0", "1.0.1", "2.0.0-rc.1", "v7"])
            state = {"predict": {"demos": [{"q": "1"}]}}
            return registration(
                event_id, sequence, program=program, content=content, version=label, body=state
            )
        case 2:
            return evaluation(event_id, sequence, program=program, content=content)
        case 3:
            about = f"e{chance.randrange(number + 1)}"
            feedback = {"program": None, "content": None, "model_id": None, "execution_id": about}
            return evaluation(event_id, sequence, **feedback)
        case 4:
            report = {"first": 1, "last": sequence, "dropped": [[1, 2]], "sampled_out": 3, "reason": "close"}
            return event("ProducerReported", report, event_id, sequence)
        case 5:
            erased = {"event_ids": [f"e{chance.randrange(number + 1)}"], "reason": "asked to"}
            return event("BodyErased", erased, event_id, sequence)
        case _:
            time = chance.choice([NOON, "2026-11-21T23:59:59.999999Z", "0001-01-01T00:00:00Z"])
            return execution(event_id, sequence, program=program, content=content, time=time, body=body)


def mutilated(chance: random.Random, number: int) -> Fields:
    """An entry with something wrong about it; three in ten are left as they are."""
    fields = dict(valid(chance, number))
    for _ in range(chance.choice((0, 0, 0, 1, 1, 1, 1, 1, 2, 4))):
        chance.choice(MUTILATIONS)(chance, fields)
    return fields


def flip(chance: random.Random, fields: Fields) -> None:
    for name, at in _somewhere(chance, fields):
        content = bytearray(fields[name])
        content[at] ^= 1 << chance.randrange(8)
        fields[name] = bytes(content)


def cut(chance: random.Random, fields: Fields) -> None:
    for name, at in _somewhere(chance, fields):
        fields[name] = fields[name][:at] if chance.random() < 0.5 else fields[name][at:]


def splice(chance: random.Random, fields: Fields) -> None:
    for name, at in _somewhere(chance, fields):
        fields[name] = fields[name][:at] + chance.choice(BYTES) + fields[name][at:]


def rename(chance: random.Random, fields: Fields) -> None:
    for name, _ in _somewhere(chance, fields):
        content = fields.pop(name)
        if chance.random() < 0.5:
            fields[chance.choice((b"body", b"__data__", b"", b"\xff", b"data"))] = content


def replace(chance: random.Random, fields: Fields) -> None:
    """Another value somewhere in the event's JSON, and everything else sound around it."""
    try:
        envelope = orjson.loads(fields[b"__data__"])
        data = envelope["data"] if isinstance(envelope["data"], dict) else {}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return
    places = [(part, key) for part in (envelope, data) for key in part]
    where, key = chance.choice(places)
    if chance.random() < 0.2:
        del where[key]
    else:
        where[key] = value(chance, where[key])
    fields[b"__data__"] = orjson.dumps(envelope)


def rewrite_body(chance: random.Random, fields: Fields) -> None:
    """Another body whose digest fits."""
    try:
        envelope = orjson.loads(fields[b"__data__"])
        body = orjson.dumps(value(chance, {"inputs": value(chance, 1)}))
        envelope["bodydigest"] = wire.body_digest(body)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return
    fields[b"__data__"], fields[b"body"] = orjson.dumps(envelope), body


def value(chance: random.Random, old: Any) -> Any:
    """Any JSON, more often one that may pass for the old one."""
    if chance.random() < 0.3:
        nested: Any = old if not isinstance(old, dict | list) else 0
        for _ in range(chance.choice((1, 3, 100, 150, 190))):
            nested = [nested] if chance.random() < 0.5 else {"k": nested}
        return nested
    return chance.choice(VALUES)


def _somewhere(chance: random.Random, fields: Fields) -> list[tuple[bytes, int]]:
    filled = [name for name, content in fields.items() if content]
    if not filled:
        return []
    name = chance.choice(filled)
    return [(name, chance.randrange(len(fields[name])))]


BYTES = (b"\0", b"\xff\xfe", b'"', b"{", b"[" * 300, b"\\ud800", b"1e999", b"\n", "日本".encode(), b"null")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), 1e308, -1e-308, 5e-324),
    *(
        "",
        " ",
        "x" * 600,
        "\0",
        "../../x",
        "日本",
        "\u202e",
        "con",
        "a" * 100_000,
        "1.0.0",
        "c1:0",
        "e1",
        "p1",
    ),
    *([], {}, [[]], [None], [1, 2], [[1, 1]], [[2, 1]], [[1, 10**17]], ["a", 1], {"": ""}, {"x": None}),
    *({"input_tokens": 1e300, "output_tokens": -5}, {"provider": "", "base_model": None}, {"name": 1}),
    *("9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+14:00", "2026-11-22", "2026-11-22T24:00:00Z"),
    *("9" * 18, "0000000000", "-1", "ok", "error", "org.dspy-ledger.BodyErased.v1", "/producers/other"),
)
MUTILATIONS = (flip, cut, splice, rename, replace, replace, replace, replace, rewrite_body)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("mutilating", total=given.entries)
        outcome = fuzz(folder, given.entries, given.seed, lambda count: progress.advance(bar, count))
    console.print(
        f"{outcome.entries} mutilated entries: {outcome.stored} stored, {outcome.dead_letters} dead letters,"
        f" {outcome.duplicates} seen before"
    )
    for difference in outcome.differences:
        console.print(f"DIFFERENCE {difference}")
    if outcome.differences:
        console.print(f"everything is kept in {folder}")
        raise SystemExit(1)
    console.print("each entry is accounted for, no fold broke, and the store is sound")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
