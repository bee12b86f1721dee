"""Verify the JSON directory: scratch against the live files, which may grow meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import orjson

from dspy_ledger.errors import StoreError
from dspy_ledger.projector.builds import ReadingStore
from dspy_ledger.projector.comparing import digest_files, first_difference
from dspy_ledger.projector.directory import CHECKPOINT, DIRECTORY_VERSION, Directory
from dspy_ledger.projector.lease import WriterLease
from dspy_ledger.projector.projection import Checkpoint, catch_up
from dspy_ledger.projector.reconcile import files_below
from dspy_ledger.projector.verify_report import Part
from dspy_ledger.settings import Settings

__all__ = ["FilesCheck"]

_ROUNDS = 20
_WAIT = 10.0  # seconds for a running projector to come on
_LOOK_EVERY = 0.05


class FilesCheck:
    """The JSON directory: scratch, and the live one."""

    def __init__(self, settings: Settings, scratch: Path, store: ReadingStore, part: Part) -> None:
        self._store = store
        self._part = part
        self._data_dir = settings.data_dir
        self._live = settings.programs_dir
        self._scratch = scratch / "programs"
        self.built = Directory(self._scratch, scratch, store, durable=False)

    def target(self, end: int) -> int:
        """The position that scratch is to be folded to first."""
        try:
            return self._checkpoint()
        except StoreError as error:
            self._part.differs(f"{error}; start the projector, it writes the files anew")
            return end

    def compare(self) -> None:
        """Hold the files against each other until they agree, or do not and nobody writes any more."""
        differing = [name for name in self._names() if not self._equal(name)]
        for _ in range(_ROUNDS):
            if not differing or not self._followed():
                break
            differing = self._settle(differing)
        for name in differing:
            self._tell(name)
        self._part.position = self.built.position()
        self._part.digest = digest_files(self._scratch, files_below(self._scratch))

    def _names(self) -> Iterable[str]:
        yield from files_below(self._scratch)
        for name in files_below(self._live):
            if not (self._scratch / name).exists():
                yield name

    def _equal(self, name: str) -> bool:
        built, live = self._scratch / name, self._live / name
        return built.exists() and live.exists() and first_difference(built, live) is None

    def _followed(self) -> bool:
        """Whether the live checkpoint gets to where scratch is; False when nobody moves it there."""
        deadline = time.monotonic() + _WAIT
        while time.monotonic() < deadline:
            try:
                if self._checkpoint() >= self.built.position():
                    return True
            except StoreError:
                return False
            if not WriterLease.is_held(self._data_dir):
                return False
            time.sleep(_LOOK_EVERY)
        return False

    def _settle(self, names: list[str]) -> list[str]:
        """What still differs when each file may be of any moment between two positions.

        A live file is of a position between its checkpoint of before and the store's last of after: one of
        lines holds at least those of the former, and no others than the latter; any other is one of both.
        """
        catch_up(self._store, self.built, upto=self._checkpoint())
        least = {name: _size(self._scratch / name) for name in names}
        before = {name: _content(self._scratch / name) for name in names if not name.endswith(".jsonl")}
        found = {name: _content(self._live / name) for name in before}
        sizes = {name: _size(self._live / name) for name in names}
        catch_up(self._store, self.built)
        differing = []
        for name in names:
            built, live = self._scratch / name, self._live / name
            if name in before:
                equal = found[name] in (before[name], _content(built))
            else:
                size = sizes[name]
                equal = size >= least[name] and first_difference(built, live, size) is None
                equal = equal and (built.exists() or not live.exists())
            if not equal:
                differing.append(name)
        return differing

    def _tell(self, name: str) -> None:
        built, live = self._scratch / name, self._live / name
        if not live.exists():
            if built.exists():
                self._part.differs(f"{name} is missing")
        elif built.exists():
            line = first_difference(built, live)
            if line is not None:
                self._part.differs(f"{name}, line {line}: it is not what the ledger says")
        elif _is_of_a_ledger(name):
            self._part.differs(f"{name} is not of this ledger")
        else:
            self._part.note(f"{name} is not of this ledger")

    def _checkpoint(self) -> int:
        path = self._data_dir / CHECKPOINT
        try:
            raw = orjson.loads(path.read_bytes())
            checkpoint = Checkpoint(raw["ledger_id"], raw["position"], raw["event_id"])
            version, folder, passed = raw["version"], raw["programs_dir"], set(raw["left_out"])
        except FileNotFoundError:
            if self._store.last_position() == 0:
                return 0  # none was written yet
            raise StoreError(f"there is no checkpoint of the directory in {self._data_dir}") from None
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise StoreError(f"{path} can't be read") from None
        if version != DIRECTORY_VERSION:
            raise StoreError("the directory is of another version")
        if folder != str(self._live.absolute()):
            raise StoreError(f"the checkpoint in {self._data_dir} is that of {folder}, not of {self._live}")
        if problem := checkpoint.mismatch(self._store, Directory.name, passed):
            raise StoreError(f"the directory {problem}")
        return checkpoint.position


def _is_of_a_ledger(name: str) -> bool:
    """Whether a file could be taken for one that a ledger made; a README could not."""
    parts = name.split("/")
    if len(parts) == 2:
        return name.endswith(".json")
    return len(parts) == 3 and (parts[1], Path(name).suffix) in (
        ("evaluations", ".json"),
        ("executions", ".jsonl"),
    )


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
