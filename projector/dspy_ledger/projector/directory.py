"""The JSON directory: program versions and evaluations as files for git, executions as JSON Lines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from dspy_ledger.events import EVENT_TYPES, MOST
from dspy_ledger.files import (
    append_together,
    make_folder,
    sweep,
    sync_folder,
    write_atomically,
    write_together,
)
from dspy_ledger.projector.catalog import Catalog, Content
from dspy_ledger.projector.documents import (
    bodiless_line,
    evaluation_document,
    execution_line,
    version_document,
)
from dspy_ledger.projector.lines import change_lines, cut_lines, first_line, set_aside
from dspy_ledger.projector.names import evaluation_name, folder_name, version_name
from dspy_ledger.projector.parking import left_out, registrations
from dspy_ledger.projector.projection import Checkpoint
from dspy_ledger.store import EventStore, StoredEvent

__all__ = ["CHECKPOINT", "DIRECTORY_VERSION", "Directory"]

_log = logging.getLogger(__name__)

DIRECTORY_VERSION = 1
"""Raised with every change of what the files hold; an older directory is rewritten by replay."""

CHECKPOINT = "directory.json"
"""The checkpoint's file, in the data dir: the programs dir holds only what belongs into git."""

_REGISTERED = EVENT_TYPES["ProgramRegistered"]
_EXECUTED = EVENT_TYPES["ExecutionCompleted"]
_EVALUATED = EVENT_TYPES["EvaluationSaved"]
_ERASED = EVENT_TYPES["BodyErased"]
_DAY = len("2026-11-22")
_DAYS = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].jsonl"
_GITIGNORE = b"""\
# Executions are many, and stay out of git. Written once by dspy-ledger; change it as you like.
*/executions/
.*.tmp
"""


@dataclass(slots=True)
class _Pending:
    """What one batch adds: whole files; by (program id, day) lines, and positions that lose their bodies."""

    files: dict[Path, bytes] = field(default_factory=dict)
    lines: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)
    bodiless: dict[tuple[str, str], set[int]] = field(default_factory=dict)


class Directory:
    """The projection that writes ``programs_dir``.

    Files are on disk before the checkpoint says so. What a crash left beyond the checkpoint is cut (lines)
    or written again with the same bytes (files), so that two rebuilds of one ledger are equal to the byte.

    Args:
        programs_dir: where the files go; nothing is written outside it but the checkpoint.
        data_dir: where the checkpoint lies.
        store: the ledger.
        durable: false for a build: nothing waits for the disk, and a power cut takes it.

    Raises:
        OSError: a folder or file can't be written.
    """

    name = "directory"
    version = DIRECTORY_VERSION
    types: Sequence[str] = ()
    bodies = True

    def __init__(
        self, programs_dir: Path, data_dir: Path, store: EventStore, *, durable: bool = True
    ) -> None:
        self._root = programs_dir
        self._checkpoint_path = data_dir / CHECKPOINT
        self._store = store
        self._durable = durable
        self._folders: set[Path] = set()
        self._catalog: Catalog | None = None
        self._left_out: set[int] = set()
        self._event_id: str | None = None
        make_folder(data_dir)
        self._position = self._read_checkpoint() if programs_dir.is_dir() else 0
        self._prepare()
        self._resume()

    def _prepare(self) -> None:
        """Have the folders, without what a killed process left, and no checkpoint that does not count."""
        data_dir = self._checkpoint_path.parent
        if self._position == 0:  # gone before the files that it speaks of, however this ends
            self._checkpoint_path.unlink(missing_ok=True)
            sync_folder(data_dir)
        make_folder(self._root)
        if not (self._root / ".gitignore").exists():
            write_atomically(self._root / ".gitignore", _GITIGNORE)
        sweep(data_dir)
        for folder in (self._root, *self._root.glob("*/"), *self._root.glob("*/*/")):
            sweep(folder)

    def position(self) -> int:
        """Everything up to here is in the files; when somebody removed them, they are begun anew."""
        if self._position and not (self._root.is_dir() and self._checkpoint_path.exists()):
            self._begin_anew(f"{self._root} or its checkpoint is gone")
        return self._position

    def _begin_anew(self, why: str) -> None:
        _log.warning("%s; the directory is written anew", why)
        self._position, self._event_id, self._left_out = 0, None, set()
        self._prepare()
        self._resume()

    def apply(self, batch: Sequence[StoredEvent]) -> None:
        """Write what the events add, then the checkpoint."""
        if not batch:
            return
        catalog = self._catalog or self._resume()
        self._catalog = None  # until all is written: an exception leaves a catalog that ran ahead
        try:
            self._write(self._fold(batch, catalog))
        except FileNotFoundError as error:
            self._begin_anew(f"{error.filename} was removed")
            raise
        self._write_checkpoint(Checkpoint.after(self._store, batch[-1]), self._left_out | left_out(batch))
        self._catalog = catalog

    def replaced(self, built: Directory) -> None:
        """Its files are now those of a build, which stands where it does."""
        checkpoint = Checkpoint(self._store.ledger_id, self._position, self._event_id)
        self._write_checkpoint(checkpoint, built._left_out)

    def _write_checkpoint(self, checkpoint: Checkpoint, passed: set[int]) -> None:
        content = {
            "projection": self.name,
            "version": self.version,
            "programs_dir": str(self._root.absolute()),
            **asdict(checkpoint),
            "left_out": sorted(passed),
        }
        write_atomically(self._checkpoint_path, _document(content), durable=self._durable)
        self._position, self._event_id, self._left_out = checkpoint.position, checkpoint.event_id, passed

    def reread(self) -> None:
        """Before the next batch, read the registrations again: some were parked and no longer are."""
        self._catalog = None

    def close(self) -> None:
        """Nothing is held open between batches."""

    def _read_checkpoint(self) -> int:
        try:
            raw = orjson.loads(self._checkpoint_path.read_bytes())
            checkpoint = Checkpoint(raw["ledger_id"], raw["position"], raw["event_id"])
            version, programs_dir, passed = raw["version"], raw["programs_dir"], set(raw["left_out"])
        except FileNotFoundError:
            return 0
        except (orjson.JSONDecodeError, KeyError, TypeError):
            problem: str | None = "has a checkpoint that can't be read"
        else:
            problem = checkpoint.mismatch(self._store, self.name, passed)
            if version != self.version:
                problem = "is of another version"
            elif programs_dir != str(self._root.absolute()):
                problem = f"was in {programs_dir} before"
            if problem is None:
                self._event_id, self._left_out = checkpoint.event_id, passed
                return checkpoint.position
        _log.warning("the directory %s; it is written anew", problem)
        return 0

    def _resume(self) -> Catalog:
        """Put files and memory back to the checkpoint, wherever they are."""
        for path in self._root.glob(f"*/executions/{_DAYS}"):
            if self._position == 0 and self._is_foreign(path):
                aside = set_aside(path)
                _log.warning("%s holds another ledger's executions; it is %s now", path, aside.name)
            else:
                cut_lines(path, self._position)
        self._folders.clear()
        self._catalog = Catalog(registrations(self._store, self.name, self._position))
        return self._catalog

    def _is_foreign(self, path: Path) -> bool:
        """Whether lines tell of executions that this ledger has not at their positions."""
        try:
            line = orjson.loads(first_line(path))
            position, execution_id = int(line["position"]), line["execution_id"]
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return False
        event = self._store.event_at(position) if 0 < position < MOST else None
        return event is None or event.type != _EXECUTED or event.data["execution_id"] != execution_id

    def _fold(self, batch: Sequence[StoredEvent], catalog: Catalog) -> _Pending:
        pending = _Pending()
        for event in batch:
            if event.type == _EXECUTED:
                data = event.data
                program_id = data["program_id"]
                version = catalog.version_of(program_id, data.get("content_hash"))
                line = execution_line(event, version=version)
                pending.lines.setdefault((program_id, event.time[:_DAY]), []).append(line)
            elif event.type == _EVALUATED:
                self._fold_evaluation(event, catalog, pending)
            elif event.type == _REGISTERED:
                registered = catalog.register(event.data, event.position)
                if registered.new or registered.reworded:
                    content = registered.content
                    first = event if registered.new else self._first(content.position, batch)
                    self._fold_version(first, content, pending)
            elif event.type == _ERASED:
                self._fold_erasure(event, catalog, pending)
        return pending

    def _fold_evaluation(self, event: StoredEvent, catalog: Catalog, pending: _Pending) -> None:
        data = event.data
        program_id = data.get("program_id")
        if program_id is None or data.get("execution_id") is not None:
            return  # feedback of one execution: it goes to the read models only
        name = evaluation_name(data["evaluation_id"], data.get("model_id") or None)
        version = catalog.version_of(program_id, data.get("content_hash"))
        path = self._root / folder_name(program_id) / "evaluations" / name
        pending.files[path] = evaluation_document(event, version=version)

    def _fold_version(self, first: StoredEvent, content: Content, pending: _Pending) -> None:
        path = self._root / folder_name(first.data["program_id"]) / version_name(content.version)
        pending.files[path] = version_document(
            first, version=content.version, description=content.description, tags=content.tags
        )

    def _fold_erasure(self, erasure: StoredEvent, catalog: Catalog, pending: _Pending) -> None:
        """Bodies go where the store has them no more: whatever else an event may say, this is its view."""
        for event_id in erasure.data["event_ids"]:
            event = self._store.event(event_id)
            if event is None or event.body is not None:
                continue
            if event.type == _EXECUTED:
                day = event.data["program_id"], event.time[:_DAY]
                pending.bodiless.setdefault(day, set()).add(event.position)
            elif event.type == _REGISTERED:
                content = catalog.content_at(event.data, event.position)
                if content is not None:
                    self._fold_version(event, content, pending)

    def _day_file(self, program_id: str, day: str) -> Path:
        return self._root / folder_name(program_id) / "executions" / f"{day}.jsonl"

    def _first(self, position: int, batch: Sequence[StoredEvent]) -> StoredEvent:
        """The registration at a position, of this batch or an earlier one."""
        if position >= batch[0].position:
            return batch[position - batch[0].position]
        stored = self._store.event_at(position)
        assert stored is not None
        return stored

    def _write(self, pending: _Pending) -> None:
        lines = {self._day_file(*day): content for day, content in pending.lines.items()}
        for folder in {path.parent for path in (*lines, *pending.files)} - self._folders:
            make_folder(folder)
            self._folders.add(folder)
        append_together(lines, durable=self._durable)
        for day, positions in pending.bodiless.items():
            change_lines(self._day_file(*day), positions, bodiless_line, durable=self._durable)
        changed = {path: new for path, new in pending.files.items() if _differs(path, new)}
        write_together(changed, durable=self._durable)
        if not self._durable:
            return
        # A file that is as it should be may have been renamed by a process killed before it synced.
        for folder in {path.parent for path in pending.files.keys() - changed.keys()}:
            sync_folder(folder)


def _differs(path: Path, content: bytes) -> bool:
    """Whether a file must be written at all: a replay leaves those that git knows as they are."""
    try:
        return path.read_bytes() != content
    except FileNotFoundError:
        return True


def _document(fields: dict[str, Any]) -> bytes:
    return orjson.dumps(fields, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
