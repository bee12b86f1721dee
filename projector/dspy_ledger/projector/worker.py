"""The projector process: reads the stream into the store and keeps the views up to it, until stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import TypeVar

import redis
from faststream.redis import RedisBroker

from dspy_ledger.errors import LedgerError
from dspy_ledger.projector.actions import all_actions
from dspy_ledger.projector.builds import drop_abandoned_builds
from dspy_ledger.projector.following import Followers, Handover
from dspy_ledger.projector.intake import Intake
from dspy_ledger.projector.live import Live
from dspy_ledger.projector.office import open_office
from dspy_ledger.projector.patience import Halted, Patience
from dspy_ledger.projector.portion import in_pieces
from dspy_ledger.projector.requests import Clerk
from dspy_ledger.projector.stream import OnBatch, subscribe
from dspy_ledger.projector.trimming import Trimming
from dspy_ledger.projector.watch import Watch
from dspy_ledger.requests import Desk
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore

__all__ = ["Worker", "run_worker"]

_log = logging.getLogger(__name__)

# Seconds.
_TIDY_EVERY = 1.0
_WAIT = 0.5
_FOLD_EVERY = 0.1

# Events.
_FEW = 200
_ALL = 1 << 31

T = TypeVar("T")


def run_worker(settings: Settings) -> None:
    """Run the projector until SIGTERM or SIGINT; the batch at hand is finished first.

    Made for a process of its own: it sets signal handlers and the garbage collector's thresholds.

    Raises:
        StartupError: another projector writes there, or a folder can't be written.
        StoreError: the event store or a view can't be used.
        SystemExit: 1, after one line in the log, when something failed that trying again did not mend.
    """
    # A batch is thousands of short-lived objects: collecting as often as by default costs 8 % of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    Worker(settings).run()


class Worker:
    """One run of the projector, on two threads away from the loop: one stores, the other follows."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._halt = threading.Event()
        self._failed = self._warned = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped, self._handed = asyncio.Event(), asyncio.Event()
        self._handover = Handover()
        self._resources = ExitStack()
        self._storing = ThreadPoolExecutor(1, thread_name_prefix="storing")
        self._following = ThreadPoolExecutor(1, thread_name_prefix="following")

    def run(self) -> None:
        """Block until stopped; see :func:`run_worker`."""
        try:
            asyncio.run(self._serve())
        finally:
            self._storing.shutdown(wait=True)
            self._following.shutdown(wait=True)
            self._resources.close()
        if self._failed:
            raise SystemExit(1)

    def stop(self) -> None:
        """Ask the run to end; from any thread."""
        self._halt.set()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self.stop)
        try:
            await self._keep_up(await self._work(self._storing, self._open))
        except Halted:
            pass
        except LedgerError:
            raise  # says what to do
        except Exception as error:  # noqa: BLE001  the process ends and starts again from its checkpoints
            self._give_up(error)
        _log.info("projector stopped")

    async def _keep_up(self, live: Live) -> None:
        """Both sides at work, until stopped."""
        following = asyncio.create_task(self._follow(live.followers))
        try:
            while not self._halt.is_set() and not await self._connected(live.intake):
                await self._pause(_WAIT)
            while not self._halt.is_set():
                await self._read(live.intake)
        finally:
            self.stop()
            await following
            if not self._failed:  # what was stored last
                with suppress(Exception):
                    last = self._handover.take(_ALL)
                    await self._work(self._following, lambda: live.followers.follow(last))

    async def _follow(self, followers: Followers) -> None:
        """Have the views follow what is handed over, and tidy once a second, until stopped."""
        ended = asyncio.ensure_future(self._stopped.wait())
        wanting, due = False, 0.0
        while not self._halt.is_set():
            self._handed.clear()
            began = time.monotonic()
            if events := self._handover.take():
                lags = await self._guarded(self._following, partial(followers.follow, events))
                wanting = wanting or bool(lags)
            if wanting or time.monotonic() >= due:
                wanting = bool(await self._guarded(self._following, followers.tidy))
                due = time.monotonic() + _TIDY_EVERY
            if wanting:
                continue
            if 0 < len(events) < _FEW:
                # A fold costs as much as a hundred events do: what comes in the meantime is folded as one.
                await self._pause(began + _FOLD_EVERY - time.monotonic())
            elif not events:
                handed = asyncio.ensure_future(self._handed.wait())
                rest = max(0.0, due - time.monotonic())
                await asyncio.wait({handed, ended}, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
                handed.cancel()
        ended.cancel()

    async def _read(self, intake: Intake) -> None:
        """Read the stream until stopped, or until it has to be read from its beginning."""
        reading = True

        async def on_batch(ids: Sequence[bytes], fields: Sequence[Mapping[bytes, bytes]]) -> None:
            for piece in in_pieces(fields):
                if reading and (
                    events := await self._guarded(
                        self._storing, partial(intake.take, ids[piece], fields[piece])
                    )
                ):
                    self._handover.put(events)
                    self._handed.set()

        await self._guarded(self._storing, intake.read_again)
        last_id = await self._work(self._storing, lambda: intake.last_id)
        broker = await self._subscribed(last_id, on_batch)
        if broker is None:
            return
        _log.info("reading stream %s after %s", self._settings.keys.events, last_id)
        try:
            wanting = None
            while not self._halt.is_set() and not intake.must_read_again:
                await self._pause(0 if wanting else _TIDY_EVERY)
                wanting = await self._guarded(self._storing, intake.tidy)
        finally:
            reading = False
            await broker.stop()

    async def _subscribed(self, last_id: str, on_batch: OnBatch) -> RedisBroker | None:
        """A broker that reads; None when the run is to end before Redis answers long enough to start."""
        while not self._halt.is_set():
            broker = subscribe(self._settings.redis_url, self._settings.keys.events, last_id, on_batch)
            starting = asyncio.ensure_future(broker.start())
            stopped = asyncio.ensure_future(self._stopped.wait())
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if starting.done() and starting.exception() is None:
                return broker
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await broker.stop()
            await self._pause(_WAIT)
        return None

    async def _connected(self, intake: Intake) -> bool:
        """Whether Redis answers; says so once when it does not."""
        try:
            await self._work(self._storing, intake.look)
        except redis.RedisError as error:
            if not self._warned:
                self._warned = True
                _log.warning("Redis can't be reached, waiting for it: %s", error)
            return False
        return True

    async def _guarded(self, thread: ThreadPoolExecutor, act: Callable[[], T]) -> T | None:
        """Work that ends the run when it fails (None then); after that, nothing more is done."""

        def act_unless_halted() -> T | None:
            if self._halt.is_set():
                return None
            try:
                return act()
            except Halted:
                pass
            except Exception as error:  # noqa: BLE001  the process ends and starts again from its checkpoints
                self._give_up(error)  # at once: the next batch must not be stored past this one
            return None

        done = await self._work(thread, act_unless_halted)
        if self._halt.is_set():
            self._stopped.set()
        return done

    def _give_up(self, error: Exception) -> None:
        _log.error("the projector gives up: %s: %s", type(error).__name__, error)
        self._failed = True
        self._halt.set()

    async def _work(self, thread: ThreadPoolExecutor, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, act)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _open(self) -> Live:
        settings, patience = self._settings, Patience(self._halt)
        office = self._resources.enter_context(open_office(settings))
        store = self._resources.enter_context(closing(SqliteEventStore(settings.store_path)))
        desk = self._resources.enter_context(closing(Desk(settings.data_dir)))
        watch = Watch(store, settings.keys, office.client)
        trimming = Trimming(
            office.client,
            settings.keys.events,
            watch,
            keep=settings.stream_keep,
            most=settings.stream_max_length,
        )
        _log.info("event store %s is at position %d", settings.store_path, store.last_position())
        return Live(
            Intake(store, settings.keys, office.client, patience, watch=watch, trim=trimming),
            Followers(
                office.store,
                [office.views, office.directory, office.registry],
                patience,
                chores=[
                    Clerk(desk, all_actions(office)),
                    office.erasure,
                    lambda: drop_abandoned_builds(settings.data_dir),
                ],
            ),
        )
