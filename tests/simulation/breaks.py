"""Faults planted into the product on purpose, to see that the simulation finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dspy_ledger.projector import Directory, Ingest
from dspy_ledger.projector.ingest import Decoded
from dspy_ledger.sequences import SequenceSet
from dspy_ledger.store import Appended
from simulation.disk import File, Folder
from simulation.world import KEYS, World

__all__ = ["BREAKS"]


@contextmanager
def no_file_fsync(world: World) -> Iterator[None]:
    """Whole files are renamed into place without having been synced."""
    world.disk.deaf_to = lambda path, node: isinstance(node, File) and path.endswith(".tmp")
    yield


@contextmanager
def no_line_fsync(world: World) -> Iterator[None]:
    """Lines are appended and not synced."""
    world.disk.deaf_to = lambda path, node: path.endswith(".jsonl")
    yield


@contextmanager
def no_folder_fsync(world: World) -> Iterator[None]:
    """Folders are never synced."""
    world.disk.deaf_to = lambda path, node: isinstance(node, Folder)
    yield


@contextmanager
def checkpoint_before_files(_: World) -> Iterator[None]:
    """The directory's checkpoint is written ahead of its files."""

    def apply(self: Any, batch: Any) -> None:
        late: list[Any] = []
        self._write = late.append
        try:
            whole(self, batch)
        finally:
            del self._write
        for pending in late:
            self._write(pending)

    with _patched(Directory, "apply", apply) as whole:
        yield


@contextmanager
def checkpoint_apart(_: World) -> Iterator[None]:
    """The stream's checkpoint is committed by itself, and the events after it."""

    def append(self: Any, decoded: Decoded, last_id: str) -> Appended:
        whole(self, Decoded(), last_id)
        return self._store.append(decoded.entries, dead_letters=decoded.dead_letters)

    with _patched(Ingest, "append", append) as whole:
        yield


@contextmanager
def store_not_synced(world: World) -> Iterator[None]:
    """The store is written with ``synchronous=OFF``."""
    rewrite = world.databases.rewrite
    world.databases.rewrite = lambda text: rewrite(text.replace("synchronous = FULL", "synchronous = OFF"))
    yield


@contextmanager
def store_synced_at_checkpoints(world: World) -> Iterator[None]:
    """The store is written with ``synchronous=NORMAL``."""
    rewrite = world.databases.rewrite
    world.databases.rewrite = lambda text: rewrite(text.replace("synchronous = FULL", "synchronous = NORMAL"))
    yield


@contextmanager
def marks_before_commit(world: World) -> Iterator[None]:
    """Producers are told that events are stored just before they are."""

    def append(self: Any, decoded: Decoded, last_id: str) -> Appended:
        settled = {a.source: SequenceSet(a.ranges) for a in self._store.producers()}
        for _, entry in decoded.entries:
            settled.setdefault(entry.source, SequenceSet()).add(entry.sequence)
        marks = {source: numbers.mark for source, numbers in settled.items()}
        if marks and not world.server.refuses:
            world.server._hset(KEYS.stored, mapping=marks)
            for producer in world.producers:
                producer.read_mark()
        return whole(self, decoded, last_id)

    with _patched(Ingest, "append", append) as whole:
        yield


@contextmanager
def _patched(owner: Any, name: str, value: Any) -> Iterator[Any]:
    whole = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield whole
    finally:
        setattr(owner, name, whole)


BREAKS: dict[str, Callable[[World], Any]] = {
    break_.__name__.replace("_", "-"): break_
    for break_ in (
        no_file_fsync,
        no_line_fsync,
        no_folder_fsync,
        checkpoint_before_files,
        checkpoint_apart,
        store_not_synced,
        store_synced_at_checkpoints,
        marks_before_commit,
    )
}
"""By name: a context manager that plants the fault for the length of a run."""
