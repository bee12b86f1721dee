"""What the ledger's one writer works with, and how a command gets at it when no projector runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dspy_ledger.errors import StartupError
from dspy_ledger.projector.builds import drop_copies
from dspy_ledger.projector.directory import Directory
from dspy_ledger.projector.erasure import Erasure
from dspy_ledger.projector.lease import WriterLease
from dspy_ledger.projector.registry import Registry
from dspy_ledger.projector.sql import SqlViews
from dspy_ledger.projector.strangers import tell_of_strangers
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore

__all__ = ["Office", "open_office"]

_REDIS_TIMEOUT = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Office:
    """The store and the views, as their one writer has them."""

    settings: Settings
    store: SqliteEventStore
    client: redis.Redis
    views: SqlViews
    directory: Directory
    registry: Registry
    erasure: Erasure


@contextmanager
def open_office(settings: Settings, *, quiet: bool = False) -> Iterator[Office]:
    """Write in place of the projector, until the block ends.

    Args:
        settings: where everything lies.
        quiet: say nothing of strangers in the directory: a command has its own things to tell.

    Raises:
        StartupError: another process writes, or the data dir can't be written.
        StoreError: the event store or a view can't be used.
    """
    with ExitStack() as stack:
        stack.enter_context(closing(WriterLease(settings.data_dir)))
        store = stack.enter_context(closing(SqliteEventStore(settings.store_path)))
        client = redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=_REDIS_TIMEOUT,
            socket_connect_timeout=_REDIS_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        stack.enter_context(closing(client))
        try:
            views = stack.enter_context(closing(SqlViews(settings.data_dir, store)))
            directory = Directory(settings.programs_dir, settings.data_dir, store)
            if not quiet:
                tell_of_strangers(settings.programs_dir, directory, store)
        except OSError as error:
            raise StartupError(
                f"the views can't be written ({error.strerror}: {error.filename}); look at"
                " DSPY_LEDGER_PROGRAMS_DIR and DSPY_LEDGER_DATA_DIR"
            ) from None
        registry = Registry(client, settings.keys, store)
        erasure = Erasure(
            store,
            [views, directory, registry],
            drop_copies=partial(drop_copies, settings.data_dir, at_once=True),
            retention_days=settings.retention_days,
        )
        yield Office(settings, store, client, views, directory, registry, erasure)
