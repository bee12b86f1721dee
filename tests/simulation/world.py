"""One seeded world: disk, broker, clock and dice stand in for the real ones around the projector."""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from random import Random
from types import FunctionType, SimpleNamespace
from typing import Any

import redis

from dspy_ledger import database, files, timestamps
from dspy_ledger.errors import FoldError, RequestFailed, StartupError, StoreError
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.files import write_atomically
from dspy_ledger.keys import DATA_FIELD, Keys
from dspy_ledger.projector import (
    catch_up,
    claims,
    directory,
    office,
    projection,
    reconcile,
    registry,
    verify_registry,
    view,
)
from dspy_ledger.settings import load_settings
from dspy_ledger.store import sqlite
from dspy_ledger.wire import pack
from simulation.broker import Client, Server
from simulation.databases import Databases
from simulation.disk import Disk
from simulation.fate import Crash, Fate
from simulation.process import Process
from simulation.producers import Producer

__all__ = ["KEYS", "Failure", "World"]

KEYS = Keys("test")
_EXECUTED = EVENT_TYPES["ExecutionCompleted"]
_START = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Failure(AssertionError):
    """The run showed something that must not be."""


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
        self.backup: tuple[bytes, int] | None = None
        """A copy of the store, and its last position."""
        self.restored = False
        self._seconds = 0.0
        self.back = 0.0
        self._ids = self._lives = self._boots = 0
        self.snapshots: list[dict[str, Any]] = []
        self._knobs = {
            "wal_autocheckpoint": dice.choice((1, 4, 16, 64, 1000)),
            "cache_size": dice.choice((4, 64, 2000)),
        }
        self.databases: Databases

    @contextmanager
    def installed(self) -> Iterator[None]:
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
            for module in (office, verify_registry):
                ours = SimpleNamespace(from_url=self._client)
                replace(module, "redis", SimpleNamespace(**{**vars(redis), "Redis": ours}))
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

    def pass_time(self, seconds: float) -> None:
        """Every clock goes on."""
        self._seconds += seconds
        self.server.milliseconds += int(seconds * 1000)

    def _sleep(self, seconds: float) -> None:
        """Who waits for the projector lets it work."""
        self.pass_time(seconds)
        if self.process is not None:
            self.process.live.tidy()

    def monotonic(self) -> float:
        """:func:`time.monotonic`."""
        self._seconds += 0.0001
        return self._seconds

    def now(self) -> str:
        """The time of day, as the clock at hand has it."""
        moment = _START + timedelta(seconds=self._seconds - self.back)
        return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"

    def _nanoseconds(self) -> int:
        return int((_START.timestamp() + self._seconds - self.back) * 1e9)

    def new_id(self) -> str:
        """For the events that the writer appends itself."""
        self._ids += 1
        return f"writer-{self._ids}"

    def guarded(self, act: Callable[[], object]) -> None:
        """Work that may crash or give up, for a reason."""
        refused = self.server.refused
        try:
            act()
            return
        except Crash:
            power = self.dice.random() < 0.7
        except FoldError as error:  # a replay met an event that is not parked yet, as it may
            if not self.poison:
                raise Failure(str(error)) from error
            return
        except RequestFailed as error:
            if not self.fate.blamed and self.server.refused == refused:
                raise Failure(f"a request failed for no reason: {error}") from error
            return
        except (OSError, sqlite3.Error, StoreError, StartupError) as error:
            if not self.fate.blamed:
                raise Failure(
                    f"the projector gives up for no reason: {type(error).__name__}: {error}"
                ) from error
            self.fate.note(f"gives up: {type(error).__name__}")
            self.fate.dead, power = True, False
        self._ended(power=power)

    def _ended(self, *, power: bool) -> None:
        self.process = None
        gc.collect()  # what it had open is closed now, and not when a number is another file's
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

    def start(self) -> None:
        """Start the projector, if it does not run."""
        if self.process is None:
            self._lives += 1
            self.process = Process(self)
            self._keep_promises()

    def stop(self) -> None:
        """End it in good order, if it runs."""
        if self.process is not None:
            self.process.close()
            self.process = None
            self.fate.reborn()

    def back_up(self) -> None:
        """Keep a copy of the store, taken while the projector does not run."""
        path = self.settings.store_path
        journal = path.with_name(f"{path.name}-wal")
        if path.exists() and not (journal.exists() and journal.stat().st_size):
            self.backup = path.read_bytes(), max(self.promised, default=0)

    def restore_backup(self) -> None:
        """Put it in place of the store; what is not in it is not promised any more."""
        assert self.backup is not None
        content, last = self.backup
        path = self.settings.store_path
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        write_atomically(path, content)
        self.promised = {at: event_id for at, event_id in self.promised.items() if at <= last}
        self.restored = True
        for producer in self.producers:  # what they forgot may be in the stream, or nowhere
            producer.given_up.update(range(1, producer.mark + 1))

    def promise(self) -> None:
        """What is stored now, after an append returned, stays."""
        assert self.process is not None
        for event in self.process.store.read(max(self.promised, default=0), 10_000):
            self.promised[event.position] = event.event_id

    def _keep_promises(self) -> None:
        assert self.process is not None
        for position in list(self.promised)[-3:]:
            found = self.process.store.event_at(position)
            if found is None or found.event_id != self.promised[position]:
                raise Failure(f"position {position} was stored as {self.promised[position]}, and is {found}")

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
