"""A run: steps in an order that the seed decides, then everything heals, drains and is looked at."""

from __future__ import annotations

from functools import partial

from dspy_ledger.projector.replay import replay
from dspy_ledger.projector.verify import verify
from dspy_ledger.sequences import SequenceSet
from dspy_ledger.store import SqliteEventStore
from simulation.checks import problems
from simulation.steps import STEPS, join, take, tidy
from simulation.world import Failure, World

__all__ = ["run"]


def run(world: World) -> None:
    """The whole run.

    Raises:
        Failure: something that must not be.
    """
    dice = world.dice
    with world.installed():
        for _ in range(dice.randrange(1, 4)):
            join(world)
        weights = [(0.1 + dice.random() ** 2) * weight for _, weight in STEPS]
        for _ in range(dice.randrange(20, 120)):
            [(step, _)] = dice.choices(STEPS, weights)
            world.fate.note(step.__name__)
            world.guarded(partial(step, world))
            if world.process is None and dice.random() < 0.7:
                world.guarded(world.start)
        _heal(world)
        _drain(world)
        if world.restored:  # of what the older store does not know, files are left: strangers
            replay(world.settings, "directory", prune=True)
        found = next(problems(world), None) or _verified(world)
        world.stop()
        if found is not None:
            raise Failure(found)


def _verified(world: World) -> str | None:
    """What ``dspy-ledger verify`` says, of some worlds: it is to see nothing wrong either."""
    if world.restored or world.dice.random() < 0.7:
        return None
    parts = verify(world.settings).parts
    differences = [f"{name}: {what}" for name, part in parts.items() for what in part.differences]
    return f"verify differs: {differences[0]}" if differences else None


def _heal(world: World) -> None:
    world.fate.note("heal")
    world.fate.heal()
    world.server.refuses = 0
    world.back = 0.0
    world.guarded(world.stop)
    if world.restored:  # what a producer sent, and no older store has, comes when its host starts again
        for producer in world.producers:
            producer.restart()


def _drain(world: World) -> None:
    """Nothing goes wrong any more: everything that anybody still holds has to arrive."""
    world.start()
    assert world.process is not None
    store = world.process.store
    for _ in range(200):
        for producer in world.producers:
            producer.send(10_000)
        tidy(world)
        while take(world, 1000):
            pass
        for producer in world.producers:
            producer.read_mark()
        last, due = store.last_position(), _due(world, store)
        if not due and all(view.position() == last for view in world.process.projections):
            return
    raise Failure(f"it does not come to rest: {due or 'a view does not follow'}")


def _due(world: World, store: SqliteEventStore) -> dict[str, list[int]]:
    """What producers hold and the store does not know; or knows, and they were not told."""
    accounts = {account.source: account for account in store.producers()}
    due = {}
    for producer in world.producers:
        account = accounts.get(producer.source)
        settled = SequenceSet(account.ranges if account else ())
        waiting = [n for n in sorted(producer.held) if n not in settled or n <= settled.mark]
        if waiting:
            due[producer.source] = waiting
    return due
