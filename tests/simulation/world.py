"""One seeded run: a projector on a disk, a broker and a clock that misbehave, until everything heals."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from random import Random
from threading import Event
from types import FunctionType, SimpleNamespace
from typing import Any

import redis

from dspy_ledger import database, files, timestamps
from dspy_ledger.errors import RequestFailed, StartupError, StoreError
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.keys import DATA_FIELD, Keys
from dspy_ledger.projector import (
    Live,
    Worker,
    catch_up,
    claims,
    directory,
    office,
    projection,
    reconcile,
    registry,
    view,
)
from dspy_ledger.projector.replay import PROJECTIONS, replay
from dspy_ledger.projector.requests import Desk
from dspy_ledger.sequences import SequenceSet
from dspy_ledger.settings import load_settings
from dspy_ledger.store import SqliteEventStore, sqlite
from dspy_ledger.wire import pack
from simulation.broker import Client, Server
from simulation.databases import Databases
from simulation.disk import Disk
from simulation.fate import Crash, Fate
from simulation.producers import Producer

__all__ = ["Failure", "World"]

KEYS = Keys("test")
_EXECUTED = EVENT_TYPES["ExecutionCompleted"]
_START = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Failure(AssertionError):
    """The run showed something that must not be."""


class _Halt(Event):
    """Waiting lets time pass, and may make room on a full disk."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def wait(self, timeout: float | None = None) -> bool:
        self._world.pass_time(timeout or 0.0)
        self._world.fate.waited()
        return False


class Process:
    """The projector, put together by the :class:`Worker` itself; its loop is the schedule's."""

    def __init__(self, world: World) -> None:
        self._worker = Worker(world.settings)
        self._worker._halt = _Halt(world)
        try:
            self.live: Live = self._worker._open()
        except BaseException:
            self.close()
            raise
        self.store: SqliteEventStore = self.live._store
        self.projections = self.live._projections
        self.cursor: str | None = None
        """After which entry it reads; None before it has looked at the stream."""

    def connect(self) -> None:
        """Look at the stream before reading it."""
        with suppress(redis.RedisError):
            self.live.look()
            self.read_again()

    def read_again(self) -> None:
        """Begin the stream anew where that is called for."""
        self.live.read_again()
        self.cursor = self.live.ingest.last_id

    def close(self) -> None:
        """End in good order."""
        self._worker._resources.close()


class World:
    """Everything that one seed makes happen.

    Args:
        seed: decides all of it.
        folder: an empty folder on a memory disk, which is the working folder too.
        log: whether to keep what happened.
        broken: plants a fault into the product for the length of the run.
    """

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        log: bool = False,
        broken: Callable[[World], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self.seed = seed
        self._broken = broken
        self.dice = dice = Random(seed)
        self.fate = Fate(Random(dice.random()))
        if log:
            self.fate.log = []
        self.disk = Disk(folder / "disk", self.fate)
        self.scratch = folder / "scratch"
        self.data, self.programs = Path("disk/state/data"), Path("disk/git/programs")
        self.server = Server(self.fate)
        self.server.on_delete = self._check_deletion
        self.producers: list[Producer] = []
        self.process: Process | None = None
        self.settings = load_settings(
            _env_file=None,
            data_dir=self.data,
            programs_dir=self.programs,
            stream_prefix=KEYS.prefix,
            stream_keep=dice.choice((0.0, 2.0, 600.0)),
            stream_max_length=dice.choice((0, 0, 10)),
            retention_days=dice.choice((None, None, 1)),
        )
        self.poison = True
        """Whether there are events that break a projection."""
        self.promised: dict[int, str] = {}
        """Position → event id, as it was after an append returned."""
        self._seconds = 0.0
        self._back = 0.0
        self._ids = self._lives = self._boots = 0
        self._snapshots: list[dict[str, Any]] = []
        self._silenced = False
        self._knobs = {
            "wal_autocheckpoint": dice.choice((1, 4, 16, 64, 1000)),
            "cache_size": dice.choice((4, 64, 2000)),
        }
        self.databases: Databases

    def run(self) -> None:
        """The whole run.

        Raises:
            Failure: something that must not be.
        """
        with self._installed():
            for _ in range(self.dice.randrange(1, 4)):
                self._join()
            steps = self._steps()
            weights = [(0.1 + self.dice.random() ** 2) * weight for _, weight in steps]
            for _ in range(self.dice.randrange(20, 120)):
                [(step, _)] = self.dice.choices(steps, weights)
                self.fate.note(step.__name__)
                self.guarded(step)
                if self.process is None and self.dice.random() < 0.7:
                    self.guarded(self._start)
            self._heal()
            self._drain()
            from simulation.checks import problems

            found = next(problems(self), None)
            self.stop()
            if found is not None:
                raise Failure(found)

    @contextmanager
    def _installed(self) -> Iterator[None]:
        """Disk, clock and dice in place of the real ones; what is bound already is replaced where it is."""
        ids = Random(self.dice.random())
        for folder in (Path(self.disk.root), self.scratch):
            folder.mkdir()
        self.databases = Databases(self.disk)
        self.databases.rewrite = self._rewrite
        with ExitStack() as stack:
            stack.enter_context(self.disk.installed())
            stack.callback(self.databases.unregister)
            replace = partial(_replaced, stack)
            replace(os, "urandom", ids.randbytes)
            replace(os, "getpid", lambda: self._lives)
            for module in (files, reconcile):
                replace(module, "threading", SimpleNamespace(get_ident=lambda: 1))
            replace(sys, "unraisablehook", lambda _: None)  # SQLite does not pass every failure on
            self._replace_clocks(stack)
            replace(sqlite, "uuid7", self.new_id)
            replace(claims, "_BOOT_ID", SimpleNamespace(read_text=lambda _: f"boot {self._boots}"))
            replace(office, "redis", SimpleNamespace(Redis=SimpleNamespace(from_url=self._client)))
            replace(view, "fold", self._poisoned(view.fold))
            replace(directory, "execution_line", self._poisoned(directory.execution_line))
            replace(database, "sqlite3", SimpleNamespace(connect=self.databases.connect))
            replace(registry, "_PER_TRANSACTION", self.dice.choice((1, 3, 100)))
            for function in (projection.advance, catch_up):
                changed = {"clock": self.monotonic, "batch": self.dice.choice((1, 7, 2000))}
                defaults = dict(function.__kwdefaults__)
                function.__kwdefaults__.update({n: v for n, v in changed.items() if n in defaults})
                stack.callback(function.__kwdefaults__.update, defaults)
            with self._broken(self):
                yield

    def _replace_clocks(self, stack: ExitStack) -> None:
        """Where a clock is a default argument it was bound long ago."""
        real = time.monotonic
        for function in _functions_with(real):
            held = function.__kwdefaults__ or {}
            for name in [name for name, value in held.items() if value is real]:
                held[name] = self.monotonic
                stack.callback(held.__setitem__, name, real)
            defaults = function.__defaults__ or ()
            if real in defaults:
                stack.callback(setattr, function, "__defaults__", defaults)
                function.__defaults__ = tuple(self.monotonic if v is real else v for v in defaults)
        _replaced(stack, time, "monotonic", self.monotonic)
        _replaced(stack, time, "sleep", self._sleep)
        _replaced(stack, timestamps, "time_ns", self._nanoseconds)

    def _client(self, _: str, **__: object) -> Client:
        return Client(self.server, "projector")

    def _poisoned(self, fold: Callable[..., Any]) -> Callable[..., Any]:
        """A fold with a bug that some events bring out."""

        def folding(events: Any, *args: Any, **options: Any) -> Any:
            for event in events if isinstance(events, list | tuple) else [events]:
                if self.poison and event.type == _EXECUTED and event.data.get("session_id") == fold.__name__:
                    raise ValueError("a bug")
            return fold(events, *args, **options)

        return folding

    def _rewrite(self, statement: str) -> str:
        if statement.startswith("PRAGMA ") and "=" in statement:
            name = statement.split()[1]
            if name in self._knobs:
                return f"PRAGMA {name} = {self._knobs[name]}"
        return statement

    # Time

    def pass_time(self, seconds: float) -> None:
        self._seconds += seconds
        self.server.milliseconds += int(seconds * 1000)

    def _sleep(self, seconds: float) -> None:
        """Who waits for the projector lets it work."""
        self.pass_time(seconds)
        if self.process is not None:
            self.process.live.tidy()

    def monotonic(self) -> float:
        self._seconds += 0.0001
        return self._seconds

    def now(self) -> str:
        moment = _START + timedelta(seconds=self._seconds - self._back)
        return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"

    def _nanoseconds(self) -> int:
        return int((_START.timestamp() + self._seconds - self._back) * 1e9)

    def new_id(self) -> str:
        self._ids += 1
        return f"writer-{self._ids}"

    # The process

    def guarded(self, act: Callable[[], object]) -> None:
        """Work that may crash or give up, for a reason."""
        try:
            act()
        except Crash:
            self._ended(power=self.dice.random() < 0.7)
        except RequestFailed as error:
            if not self.fate.blamed and not self._silenced:
                raise Failure(f"a request failed for no reason: {error}") from error
        except (OSError, sqlite3.Error, StoreError, StartupError) as error:
            if not self.fate.blamed:
                raise Failure(
                    f"the projector gives up for no reason: {type(error).__name__}: {error}"
                ) from error
            self.fate.note(f"gives up: {type(error).__name__}")
            self.fate.dead = True
            self._ended(power=False)

    def _ended(self, *, power: bool) -> None:
        self.process = None
        self.databases.end_process()
        self.disk.end_process()
        blind = self.disk.difference()
        if blind is not None:
            raise Failure(f"an effect was not recorded: {blind}")
        if power:
            self.fate.note("power cut")
            self._boots += 1
            self.disk.lose_power()
        self.fate.reborn()

    def _start(self) -> None:
        if self.process is None:
            self._lives += 1
            self.process = Process(self)
            self._keep_promises()

    def stop(self) -> None:
        if self.process is not None:
            self.process.close()
            self.process = None
            self.fate.reborn()

    def _keep_promises(self) -> None:
        store = self.process.store if self.process else None
        assert store is not None
        for position in list(self.promised)[-3:]:
            found = store.event_at(position)
            if found is None or found.event_id != self.promised[position]:
                raise Failure(f"position {position} was stored as {self.promised[position]}, and is {found}")

    # Steps

    def _steps(self) -> list[tuple[Callable[[], None], float]]:
        return [
            (self._produce, 14),
            (self._deliver, 24),
            (self._redeliver, 2),
            (self._tidy, 5),
            (self._arm_crash, 5),
            (self._arm_errors, 2),
            (self._fill_disk, 2),
            (self._restart, 2),
            (self._turn_clock, 1),
            (self._silence_broker, 2),
            (self._snapshot_broker, 2),
            (self._restart_broker, 1),
            (self._set_broker_back, 1.5),
            (self._empty_broker, 0.5),
            (self._join, 1),
            (self._drop, 1),
            (self._lose_host, 0.3),
            (self._lose_segment, 0.3),
            (self._litter, 1),
            (self._lose_views, 1),
            (self._other_consumer, 3),
            (self._replay, 1.5),
            (self._forget, 1.5),
            (self._mend, 0.5),
            (self._let_hours_pass, 1),
        ]

    def _produce(self) -> None:
        producer = self.dice.choice(self.producers)
        others = [event_id for other in self.producers for event_id in other.ids]
        producer.record(self.dice.randrange(1, 15), others)
        producer.send(self.dice.randrange(1, 30))
        self.pass_time(self.dice.choice((0.0, 0.001, 0.1)))

    def _deliver(self) -> None:
        if self.process is None:
            return
        self._take(self.dice.choice((1, 5, 20, 100)))
        for producer in self.producers:
            if self.dice.random() < 0.5:
                producer.read_mark()

    def _redeliver(self) -> None:
        """The same entries come a second time, as they may after a lost connection."""
        if self.process is not None and self.process.cursor is not None:
            before = self.server._xrange(KEYS.events, "-", self.process.cursor)
            self.process.cursor = self.dice.choice(before)[0].decode() if before else self.process.cursor
            self._take(self.dice.randrange(1, 20))

    def _take(self, count: int) -> int:
        """One batch, read by a connection of its own; how many entries."""
        process = self.process
        assert process is not None
        if process.cursor is None:
            process.connect()
        if process.cursor is None or self.server.refuses:
            return 0
        entries = self.server._xrange(KEYS.events, f"({process.cursor}", "+", count)
        if not entries:
            return 0
        ids, fields = zip(*entries, strict=True)
        process.live.take(ids, fields)
        process.cursor = ids[-1].decode()
        self._promise()
        return len(ids)

    def _promise(self) -> None:
        assert self.process is not None
        last = max(self.promised, default=0)
        for event in self.process.store.read(last, 10_000):
            self.promised[event.position] = event.event_id

    def _tidy(self) -> None:
        self.pass_time(1.0)
        if self.process is None:
            return
        for _ in range(20):
            wanting = self.process.live.tidy()
            if self.process.live.must_read_again and self.process.cursor is not None:
                if self.dice.random() < 0.3:
                    self._take(self.dice.choice((1, 20)))  # a batch that was on its way already
                self.process.read_again()
            if not wanting:
                break

    def _arm_crash(self) -> None:
        self.fate.crash_in(self.dice.choice((1, 10, 40, 150)) + self.dice.randrange(1, 30))

    def _arm_errors(self) -> None:
        self.fate.break_in(self.dice.randrange(1, 60), self.dice.choice((1, 1, 3, 20)))

    def _fill_disk(self) -> None:
        self.fate.fill(self.dice.randrange(1, 12))

    def _restart(self) -> None:
        self.stop()
        self._start()

    def _turn_clock(self) -> None:
        self._back = self.dice.choice((0.0, 3600.0, 1e6, -1e6))

    def _silence_broker(self) -> None:
        self.server.refuses = self.dice.randrange(1, 25)
        self._silenced = True

    def _snapshot_broker(self) -> None:
        self._snapshots.append(self.server.snapshot())

    def _restart_broker(self) -> None:
        self.pass_time(self.dice.choice((0.0, 2.0)))
        self.server.restart()

    def _set_broker_back(self) -> None:
        if self._snapshots:
            self.server.restore(
                self.dice.choice(self._snapshots), back=self.dice.choice((0, 0, 10_000, 10**9))
            )

    def _empty_broker(self) -> None:
        self.server.restore({}, back=self.dice.choice((0, 10**9)))

    def _join(self) -> None:
        name = chr(ord("a") + len(self.producers))
        self.producers.append(Producer(name, self.server, KEYS, Random(self.dice.random())))

    def _drop(self) -> None:
        self.dice.choice(self.producers).drop(
            self.dice.randrange(1, 5), self.dice.choice(("dropped", "unconfirmed"))
        )

    def _lose_host(self) -> None:
        self.dice.choice(self.producers).lose()

    def _lose_segment(self) -> None:
        self.dice.choice(self.producers).lose_some(self.dice.randrange(1, 4))

    def _litter(self) -> None:
        """Somebody else writes into the stream."""
        self.server._xadd(
            KEYS.events, self.dice.choice(({b"x": b"1"}, {b"__data__": b"\xff{"}, {b"__data__": b"[]"}))
        )

    def _other_consumer(self) -> None:
        """A consumer group of somebody else's reads and acknowledges, some."""
        name = self.dice.choice((b"bi", b"audit"))
        self.server._xgroup_create(KEYS.events, name)
        read = self.server._xreadgroup(KEYS.events, name, self.dice.randrange(1, 30))
        self.server._xack(KEYS.events, name, *(i for i in read if self.dice.random() < 0.7))

    def _check_deletion(self, client: str, entries: dict[Any, dict[bytes, bytes]]) -> None:
        """Only what is settled may leave the stream, and only what every group is done with."""
        assert self.process is not None
        db = self.process.store._db
        # The digest stays when a dead letter is dropped.
        buried = {digest for (digest,) in db.execute("SELECT digest FROM dead_letters")}
        for entry_id, fields in entries.items():
            payload = fields.get(DATA_FIELD, b"")
            digests = {sha256(raw).hexdigest() for raw in (payload, pack(fields))}
            stored = db.execute("SELECT 1 FROM events WHERE digest = ?", (sha256(payload).hexdigest(),))
            if not digests & buried and not stored.fetchone():
                raise Failure(f"entry {entry_id} was deleted, and is not stored")
            for name, group in self.server.stream(KEYS.events).groups.items():
                if not self.settings.stream_max_length and (
                    entry_id in group.pending or entry_id > group.delivered
                ):
                    raise Failure(f"entry {entry_id} was deleted, and group {name!r} was not done with it")

    def _replay(self) -> None:
        """An operator has a projection built anew, with the projector running or not."""
        if self.settings.store_path.exists():
            replay(self.settings, self.dice.choice(PROJECTIONS), fresh=self.dice.random() < 0.3)

    def _mend(self) -> None:
        """A release without the bug: what was parked is tried again."""
        self.poison = False
        if self.process is None:
            return
        for name in ("sql", "directory"):
            if parked := [event.position for event in self.process.store.parked(name)]:
                replay(self.settings, name, retry=parked)

    def _forget(self) -> None:
        """Somebody asks for an erasure, and does not wait for the answer."""
        if self.process is None:
            return
        producer = self.dice.choice(self.producers)
        selection = {
            "execution": self.dice.choice(producer.ids or ["none"]),
            "program": self.dice.choice(("p", "q")),
            "recorded_by": self.now(),
        }
        name = self.dice.choice(("execution", "execution", "program", "recorded_by"))
        with closing(Desk(self.data)) as desk:
            desk.ask("forget", {name: selection[name]}, "somebody")

    def _let_hours_pass(self) -> None:
        self.pass_time(self.dice.choice((3700.0, 90_000.0)))

    def _lose_views(self) -> None:
        """An operator deletes what is disposable, with the projector stopped."""
        self.stop()
        for path in self.data.glob(
            self.dice.choice(("views-*.db", "views.current", "directory.json", "views*"))
        ):
            path.unlink()
        self._start()

    # The end

    def _heal(self) -> None:
        self.fate.note("heal")
        self.fate.heal()
        self.server.refuses = 0
        self._back = 0.0

    def _drain(self) -> None:
        """Nothing goes wrong any more: everything that anybody still holds has to arrive."""
        self.guarded(self.stop)
        self.fate.heal()
        self._start()
        for _ in range(200):
            for producer in self.producers:
                producer.send(10_000)
            self._tidy()
            while self._take(1000):
                pass
            for producer in self.producers:
                producer.read_mark()
            assert self.process is not None
            store = self.process.store
            last, due = store.last_position(), self._due(store)
            if not due and all(p.position() == last for p in self.process.projections):
                return
        raise Failure(f"it does not come to rest: {due or 'a view does not follow'}")

    def _due(self, store: SqliteEventStore) -> dict[str, list[int]]:
        """What producers hold and the store does not know; or knows, and they were not told."""
        accounts = {account.source: account for account in store.producers()}
        due = {}
        for producer in self.producers:
            account = accounts.get(producer.source)
            settled = SequenceSet(account.ranges if account else ())
            waiting = [n for n in sorted(producer.held) if n not in settled or n <= settled.mark]
            if waiting:
                due[producer.source] = waiting
        return due


@cache
def _functions_with(default: object) -> list[FunctionType]:
    """Every function and method of the product with such a default argument."""
    found = []
    for module in [module for name, module in sys.modules.items() if name.startswith("dspy_ledger.")]:
        for value in list(vars(module).values()):
            members = vars(value).values() if isinstance(value, type) else [value]
            found += [member for member in members if isinstance(member, FunctionType)]
    return [f for f in found if default in (*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values())]


def _replaced(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
