"""What may happen in a simulated world, step by step."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from random import Random

from dspy_ledger.files import sync_folder
from dspy_ledger.projector.replay import PROJECTIONS, replay
from dspy_ledger.projector.verify import verify
from dspy_ledger.requests import Desk
from simulation.producers import SHARED_IDS, Producer
from simulation.world import KEYS, World

__all__ = ["STEPS", "join", "take", "tidy"]


def produce(world: World) -> None:
    producer = world.dice.choice(world.producers)
    others = [event_id for other in world.producers for event_id in other.ids]
    producer.record(world.dice.randrange(1, 15), others)
    producer.send(world.dice.randrange(1, 30))
    world.pass_time(world.dice.choice((0.0, 0.001, 0.1)))


def deliver(world: World) -> None:
    if world.process is None:
        return
    take(world, world.dice.choice((1, 5, 20, 100)))
    for producer in world.producers:
        if world.dice.random() < 0.5:
            producer.read_mark()


def redeliver(world: World) -> None:
    """The same entries come a second time, as they may after a lost connection."""
    if world.process is not None and world.process.cursor is not None:
        before = world.server._xrange(KEYS.events, "-", world.process.cursor)
        world.process.cursor = world.dice.choice(before)[0].decode() if before else world.process.cursor
        take(world, world.dice.randrange(1, 20))


def take(world: World, count: int) -> int:
    """One batch, read by a connection of its own; how many entries."""
    process = world.process
    assert process is not None
    if process.cursor is None:
        process.connect()
    if process.cursor is None or world.server.refuses:
        return 0
    entries = world.server._xrange(KEYS.events, f"({process.cursor}", "+", count)
    if not entries:
        return 0
    ids, fields = zip(*entries, strict=True)
    process.take(ids, fields)
    process.cursor = ids[-1].decode()
    world.promise()
    return len(ids)


def tidy(world: World) -> None:
    world.pass_time(1.0)
    if world.process is None:
        return
    for _ in range(20):
        wanting = world.process.live.tidy()
        world.process.follow()
        if world.process.live.intake.must_read_again and world.process.cursor is not None:
            if world.dice.random() < 0.3:
                take(world, world.dice.choice((1, 20)))  # a batch that was on its way already
            world.process.read_again()
        if not wanting:
            break


def arm_crash(world: World) -> None:
    world.fate.crash_in(world.dice.choice((1, 10, 40, 150)) + world.dice.randrange(1, 30))


def arm_errors(world: World) -> None:
    world.fate.break_in(world.dice.randrange(1, 60), world.dice.choice((1, 1, 3, 20)))


def fill_disk(world: World) -> None:
    world.fate.fill(world.dice.randrange(1, 12))


def restart(world: World) -> None:
    world.stop()
    world.start()


def turn_clock(world: World) -> None:
    world.back = world.dice.choice((0.0, 3600.0, 1e6, -1e6))


def silence_broker(world: World) -> None:
    world.server.refuses = world.dice.randrange(1, 25)


def snapshot_broker(world: World) -> None:
    world.snapshots.append(world.server.snapshot())


def restart_broker(world: World) -> None:
    world.pass_time(world.dice.choice((0.0, 2.0)))
    world.server.restart()


def set_broker_back(world: World) -> None:
    if world.snapshots:
        world.server.restore(
            world.dice.choice(world.snapshots), back=world.dice.choice((0, 0, 10_000, 10**9))
        )


def empty_broker(world: World) -> None:
    world.server.restore({}, back=world.dice.choice((0, 10**9)))


def join(world: World) -> None:
    name = chr(ord("a") + len(world.producers))
    world.producers.append(Producer(name, world.server, KEYS, Random(world.dice.random())))


def drop(world: World) -> None:
    world.dice.choice(world.producers).drop(
        world.dice.randrange(1, 5), world.dice.choice(("dropped", "unconfirmed"))
    )


def lose_host(world: World) -> None:
    world.dice.choice(world.producers).lose()


def lose_segment(world: World) -> None:
    world.dice.choice(world.producers).lose_some(world.dice.randrange(1, 4))


def litter(world: World) -> None:
    """Somebody else writes into the stream."""
    world.server._xadd(
        KEYS.events, world.dice.choice(({b"x": b"1"}, {b"__data__": b"\xff{"}, {b"__data__": b"[]"}))
    )


def other_consumer(world: World) -> None:
    """A consumer group of somebody else's reads and acknowledges, some."""
    name = world.dice.choice((b"bi", b"audit"))
    world.server._xgroup_create(KEYS.events, name)
    read = world.server._xreadgroup(KEYS.events, name, world.dice.randrange(1, 30))
    world.server._xack(KEYS.events, name, *(i for i in read if world.dice.random() < 0.7))


def build_anew(world: World) -> None:
    """An operator has a projection built anew, with the projector running or not."""
    if world.promised:
        dice = world.dice
        life = dice.choice((10**9, 10**9, dice.randrange(20)))
        what, fresh = dice.choice(PROJECTIONS), dice.random() < 0.3
        with suppress(_Killed):
            replay(world.settings, what, fresh=fresh, tell=partial(_live, [life]))
        gc.collect()  # what a killed one had open is closed now, and not when the number is another file's


class _Killed(BaseException):
    """A command was killed, and the projector was not."""


def _live(life: list[int], _: object) -> None:
    life[0] -= 1
    if life[0] < 0:
        raise _Killed


def look_it_over(world: World) -> None:
    """Somebody verifies, whatever there is to find; a crash ends that, too."""
    if world.promised:
        verify(world.settings)


def mend(world: World) -> None:
    """A release without the bug: what was parked is tried again."""
    world.poison = False
    if world.process is None:
        return
    for name in ("sql", "directory"):
        if parked := [event.position for event in world.process.store.parked(name)]:
            replay(world.settings, name, retry=parked)


def forget(world: World) -> None:
    """Somebody asks for an erasure, and does not wait for the answer."""
    if world.process is None:
        return
    producer = world.dice.choice(world.producers)
    selection = {
        "execution": world.dice.choice((*producer.ids, *SHARED_IDS)),
        "program": world.dice.choice(("p", "q")),
        "recorded_by": world.now(),
    }
    name = world.dice.choice(("execution", "execution", "program", "recorded_by"))
    with closing(Desk(world.data)) as desk:
        desk.ask("forget", {name: selection[name]}, "somebody")


def let_hours_pass(world: World) -> None:
    world.pass_time(world.dice.choice((3700.0, 90_000.0)))


def lose_files(world: World) -> None:
    """An operator deletes the JSON directory, with the projector stopped."""
    world.stop()
    if world.programs.exists():
        with world.fate.calm():
            shutil.rmtree(world.programs)
            sync_folder(world.programs.parent)
    world.start()


def restore_backup(world: World) -> None:
    """An operator puts an older ``ledger.db`` back: what was stored since may be lost, and is told."""
    if world.process is None:
        return
    world.stop()
    with world.fate.calm():
        if world.backup is None or world.dice.random() < 0.5:
            world.back_up()
        else:
            world.restore_backup()
    world.start()


def lose_views(world: World) -> None:
    """An operator deletes what is disposable, with the projector stopped."""
    world.stop()
    for path in world.data.glob(
        world.dice.choice(("views-*.db", "views.current", "directory.json", "views*"))
    ):
        path.unlink()
    world.start()


STEPS: list[tuple[Callable[[World], None], float]] = [
    (produce, 14),
    (deliver, 24),
    (redeliver, 2),
    (tidy, 5),
    (arm_crash, 5),
    (arm_errors, 2),
    (fill_disk, 2),
    (restart, 2),
    (turn_clock, 1),
    (silence_broker, 2),
    (snapshot_broker, 2),
    (restart_broker, 1),
    (set_broker_back, 1.5),
    (empty_broker, 0.5),
    (join, 1),
    (drop, 1),
    (lose_host, 0.3),
    (lose_segment, 0.3),
    (litter, 1),
    (lose_views, 1),
    (lose_files, 0.5),
    (restore_backup, 0.7),
    (other_consumer, 3),
    (build_anew, 1.5),
    (look_it_over, 0.5),
    (forget, 1.5),
    (mend, 0.5),
    (let_hours_pass, 1),
]
"""What may happen, and how often beside the others."""
