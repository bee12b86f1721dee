"""The SQL read models: a view file kept up to the store, and built anew beside the one in force."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from dspy_ledger.database import closed_on_error, connect
from dspy_ledger.errors import StoreError
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.projector.catalog import Catalog
from dspy_ledger.projector.projection import Checkpoint
from dspy_ledger.projector.rows import Rows, Total, TotalKey, fold, program_row, total_key
from dspy_ledger.store import EventStore, StoredEvent
from dspy_ledger.views import VIEW_VERSION, create_view, current_view, next_view, point_to

__all__ = ["SqlViews"]

_log = logging.getLogger(__name__)

_REGISTERED = EVENT_TYPES["ProgramRegistered"]
_CACHE_KIB = 64 * 1024  # pages of random indexes stay in memory while a batch is written
_WAL_PAGES = 8192  # 32 MiB between checkpoints: each one waits for the disk

_SEE_MODEL = """
INSERT INTO models_seen (provider, base_model, model_name, first_seen, last_seen, model_id)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (model_id) DO UPDATE SET
    provider = ifnull(excluded.provider, provider),
    base_model = ifnull(excluded.base_model, base_model),
    model_name = ifnull(excluded.model_name, model_name),
    first_seen = min(excluded.first_seen, first_seen),
    last_seen = max(excluded.last_seen, last_seen)
"""


class SqlViews:
    """The projection that writes ``views-<n>.db``.

    When there is no view in force, or one of another version or another ledger, a new file is filled
    beside it: without indexes first, and put in force once it reaches what the store held at the start.
    Readers keep the old one until then.

    Args:
        data_dir: where the view files and the pointer lie.
        store: the ledger.

    Raises:
        StoreError: the view can't be made.
    """

    name = "sql"
    version = VIEW_VERSION
    types: Sequence[str] = ()

    def __init__(self, data_dir: Path, store: EventStore) -> None:
        self._data_dir = data_dir
        self._store = store
        self._catalog: Catalog | None = None
        self._totals: dict[TotalKey, Total] = {}
        self._position = self._target = 0
        self._path: Path | None = None  # of the view being built
        self._indexed = False
        try:
            self._old = _pointed(data_dir)
            self._remove_strays()
            db = self._reopen(self._old) if self._old else None
            self._db = db or self._begin()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"can't make a view in {data_dir}: {error}") from None

    def position(self) -> int:
        """Everything up to here is in the view."""
        self._settle()  # here too, because it may have failed after the last batch was committed
        return self._position

    def apply(self, batch: Sequence[StoredEvent]) -> None:
        """Fold a batch in one transaction with its checkpoint."""
        if not batch:
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._write(self._fold(batch))
            self._set_checkpoint(Checkpoint.after(self._store, batch[-1]))
            self._db.execute("COMMIT")
        except BaseException:
            # The catalog and the totals ran ahead: both are read again from where the view stands.
            self._catalog = None
            self._totals.clear()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._position = batch[-1].position
        self._settle()

    def close(self) -> None:
        """Let go of the view file."""
        self._db.close()

    def _fold(self, batch: Sequence[StoredEvent]) -> Rows:
        if self._catalog is None:
            registrations = self._store.read_all(types=[_REGISTERED], upto=self._position)
            self._catalog = Catalog(registrations)
        for key in {total_key(event) for event in batch}:
            if key is not None and key not in self._totals:
                row = self._db.execute(
                    "SELECT executions, errors, input_tokens, output_tokens, cost_usd, latency_ms FROM totals"
                    " WHERE program_id = ? AND content_hash = ? AND model_id = ?",
                    key,
                ).fetchone()
                self._totals[key] = Total(*row) if row else Total()
        return fold(batch, self._catalog, self._totals)

    def _write(self, rows: Rows) -> None:
        db = self._db
        programs = rows.programs.values()
        db.executemany(_insert("programs", 11, replace=True), [program_row(p) for p in programs])
        db.executemany("DELETE FROM program_tags WHERE program_id = ?", [(p.program_id,) for p in programs])
        db.executemany(
            "INSERT OR IGNORE INTO program_tags VALUES (?, ?)",
            [(tag, p.program_id) for p in programs for tag in p.tags],
        )
        db.executemany(_insert("versions", 21), rows.versions)
        db.executemany(
            "UPDATE versions SET description = ?, tags = ? WHERE program_id = ? AND content_hash = ?",
            rows.rewordings,
        )
        db.executemany(_insert("executions", 25), rows.executions)
        db.executemany(_insert("evaluations", 14, replace=True), rows.evaluations)
        db.executemany(_SEE_MODEL, [(*seen.row(), model) for model, seen in rows.models.items()])
        db.executemany(
            _insert("totals", 9, replace=True),
            [(*key, *total.row()) for key, total in rows.totals.items()],
        )

    def _set_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?, ?, ?)",
            (self.version, checkpoint.ledger_id, checkpoint.position, checkpoint.event_id),
        )

    def _reopen(self, path: Path) -> sqlite3.Connection | None:
        """The view in force, or None when it must be built anew."""
        try:
            with closed_on_error(connect(path)) as db:
                select = "SELECT view_version, ledger_id, position, event_id FROM checkpoint"
                row = db.execute(select).fetchone()
                if row and row[0] == self.version and Checkpoint(*row[1:]).matches(self._store):
                    db.execute("PRAGMA synchronous = NORMAL")
                    self._position = row[2]
                    return _tuned(db)
        except sqlite3.DatabaseError as error:
            _log.warning("view %s can't be read (%s); it is built anew", path.name, error)
            return None
        db.close()
        _log.info("view %s is of another version or ledger; it is built anew", path.name)
        return None

    def _begin(self) -> sqlite3.Connection:
        self._target = self._store.last_position()
        self._path = next_view(self._data_dir)
        with closed_on_error(create_view(self._path, indexes=False)) as db:
            self._db = _tuned(db)
            self._set_checkpoint(Checkpoint(self._store.ledger_id, 0, None))
            self._settle()
        return db

    def _settle(self) -> None:
        """Put a view that is being built in force once it has reached its target; may be called again."""
        if self._path is None or self._position < self._target:
            return
        if not self._indexed:
            indexes = files("dspy_ledger.views").joinpath("indexes.sql").read_text("utf-8")
            try:
                self._db.executescript(f"BEGIN; {indexes} COMMIT;")
            except sqlite3.Error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._indexed = True
        # NORMAL syncs at checkpoints only: without this one a power cut could leave a view without indexes.
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        point_to(self._path)
        self._path = None
        if self._old is not None:
            _remove(self._old)
            self._old = None

    def _remove_strays(self) -> None:
        """Remove view files that are not in force: a build that was cut short left them."""
        for path in self._data_dir.glob("views-*.db"):
            if path != self._old:
                _remove(path)


def _pointed(data_dir: Path) -> Path | None:
    try:
        return current_view(data_dir)
    except StoreError as error:
        _log.warning("%s: it is built anew", error)
        return None


def _tuned(db: sqlite3.Connection) -> sqlite3.Connection:
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    return db


def _insert(table: str, columns: int, *, replace: bool = False) -> str:
    marks = ",".join("?" * columns)
    return f"INSERT {'OR REPLACE ' if replace else ''}INTO {table} VALUES ({marks})"  # noqa: S608  names from here only


def _remove(view: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        view.with_name(view.name + ending).unlink(missing_ok=True)
