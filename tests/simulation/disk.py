"""A disk that forgets what was not synced: real files below a folder, and a record of what is durable.

Effects go to real files (on tmpfs) and into a model. The model knows what each file held at its last fsync,
what each folder named at its own, and what was done since. A power cut builds a new disk of that: the durable
part, and as much of the rest as POSIX allows, which is any part of it, in any order, torn at sectors.
"""

from __future__ import annotations

import builtins
import fcntl
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar

from dspy_ledger import files
from simulation.fate import Fate

SECTOR = 512

T = TypeVar("T")

_NAMES = [
    *("open", "close", "write", "pwrite", "fsync", "truncate", "ftruncate", "replace", "rename"),
    *("unlink", "remove", "mkdir", "rmdir"),
    *(name for name in ("fdatasync",) if hasattr(os, name)),
]
_REAL = SimpleNamespace(**{name: getattr(os, name) for name in _NAMES}, file=io.open)


class File:
    """What a file held when it was last synced, and the writes and cuts since."""

    __slots__ = ("durable", "pending", "size")

    def __init__(self) -> None:
        self.durable = bytearray()
        self.size = 0
        self.pending: list[tuple[int, bytes | None]] = []

    def write(self, offset: int, content: bytes) -> None:
        self.pending.append((offset, content))
        self.size = max(self.size, offset + len(content))

    def cut(self, size: int) -> None:
        self.pending.append((size, None))
        self.size = size

    def sync(self) -> None:
        for offset, content in self.pending:
            _apply(self.durable, offset, content)
        self.pending.clear()

    def survives(self, dice: Random) -> None:
        """Make durable what a power cut leaves of the unsynced."""
        for offset, content in _kept(self.pending, dice):
            if content is None or dice.random() < 0.5:
                _apply(self.durable, offset, content)
                continue
            for start, piece in _sectors(offset, content):
                if dice.random() < 0.5:
                    _apply(self.durable, start, piece)
        self.pending.clear()
        self.size = len(self.durable)


class Folder:
    """The names in a folder when it was last synced, and the changes since; each change is atomic."""

    __slots__ = ("durable", "names", "pending")

    def __init__(self) -> None:
        self.durable: dict[str, Node] = {}
        self.names: dict[str, Node] = {}
        self.pending: list[dict[str, Node | None]] = []

    def change(self, names: dict[str, Node | None]) -> None:
        """Names now stand for other nodes, or for none."""
        _rename(self.names, names)
        self.pending.append(names)

    def sync(self) -> None:
        self.durable = dict(self.names)
        self.pending.clear()

    def survives(self, dice: Random) -> None:
        """Make durable what a power cut leaves of the unsynced, here and below."""
        for names in _kept(self.pending, dice):
            _rename(self.durable, names)
        self.pending.clear()
        self.names = dict(self.durable)
        for node in self.names.values():
            node.survives(dice)


Node = File | Folder


class Disk:
    """Everything below ``root``, for code that uses :mod:`os`, :func:`open`, :mod:`pathlib` or the VFS.

    Args:
        root: an empty folder in the working folder.
        fate: is asked before every effect.
    """

    def __init__(self, root: Path, fate: Fate) -> None:
        self.root = str(root)
        self._below = f"{root}/"
        self._here = str(root.parent)
        self.fate = fate
        self.tree = Folder()
        self.deaf_to: Callable[[str, Node], bool] = lambda path, node: False
        """Which fsyncs do nothing: the tests of the simulation itself remove some."""
        self._open: dict[int, tuple[str, Node]] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within the block, effects below the root are recorded, and come from one thread."""
        ours = {
            "open": self.open,
            "close": self.close,
            "write": self._write,
            "pwrite": self._pwrite,
            "fsync": self._fsync,
            "fdatasync": self._fsync,
            "truncate": self._truncate,
            "ftruncate": self._truncate,
            "replace": self._replace,
            "rename": self._replace,
            "unlink": self._unlink,
            "remove": self._unlink,
            "mkdir": self._mkdir,
            "rmdir": self._rmdir,
        }
        threads = files.SYNCS_AT_ONCE
        try:
            files.SYNCS_AT_ONCE = 1
            for name in _NAMES:
                setattr(os, name, ours[name])
            io.open = builtins.open = self._file  # type: ignore[assignment]
            yield
        finally:
            for name in _NAMES:
                setattr(os, name, getattr(_REAL, name))
            io.open = builtins.open = _REAL.file
            files.SYNCS_AT_ONCE = threads

    def end_process(self) -> None:
        """What the process had open is closed; nothing is lost by that."""
        for descriptor in self._open:
            _REAL.close(descriptor)
        self._open.clear()

    def lose_power(self) -> None:
        """The disk as it may be found after a power cut; the process has ended before."""
        self.tree.survives(self.fate.dice)
        _wipe(self.root)
        _build(self.root, self.tree)

    def difference(self) -> str | None:
        """Where files were changed past the record: there the simulation would be blind."""
        found = {path: size for path, size in _found(self.root) if not path.endswith("-shm")}
        known = dict(_known(self.root, self.tree))
        for path in sorted(found.keys() | known.keys()):
            if found.get(path) != known.get(path):
                return f"{self.short(path)} has {found.get(path)} bytes, {known.get(path)} are recorded"
        return None

    def node(self, path: Any) -> Node | None:
        """The file or folder of that path."""
        text = self._absolute(path)
        if text == self.root:
            return self.tree
        spot = self.spot(text)
        return spot[0].names.get(spot[1]) if spot else None

    def spot(self, path: Any, dir_fd: int | None = None) -> tuple[Folder, str] | None:
        """The folder of a path and the name in it; None for what lies elsewhere, or in no folder."""
        if isinstance(path, int):
            return None
        text = os.fsdecode(path)
        if dir_fd is not None and dir_fd in self._open:
            text = f"{self._open[dir_fd][0]}/{text}"
        text = self._absolute(text)
        if not text.startswith(self._below):
            return None
        folder = self.tree
        *parents, name = text[len(self.root) + 1 :].split("/")
        for parent in parents:
            below = folder.names.get(parent)
            if not isinstance(below, Folder):
                return None  # the call itself will say what is wrong
            folder = below
        return folder, name

    def act(self, kind: str, path: Any, do: Callable[[], T], *, more: str = "", grows: bool = False) -> T:
        """One effect, which ``do`` has on files and record."""
        dies = self.fate.before(kind, self.short(path) + more, grows=grows)
        result = do()
        if dies:
            self.fate.die()
        return result

    def write(self, file: File, path: str, offset: int, content: bytes, do: Callable[[bytes], int]) -> int:
        """A write, which a crash or the end of the disk may cut short; how many bytes were written."""
        fate = self.fate
        torn = fate.full and not fate.dead and len(content) > 1 and fate.dice.random() < 0.3
        dies = not torn and fate.before("write", f"{self.short(path)} {offset}+{len(content)}", grows=True)
        if torn:
            content = content[: len(content) // 2]
            fate.blamed = True
            fate.note("short write")
        elif dies and fate.dice.random() < 0.5:
            content = content[: fate.dice.randrange(len(content) + 1)]
        written = do(content)
        file.write(offset, content)
        if dies:
            fate.die()
        return written

    def short(self, path: Any) -> str:
        """The path below the root, for the log."""
        return self._absolute(path)[len(self._below) :] or "."

    def _absolute(self, path: Any) -> str:
        """Nobody goes up by ``..`` here, and :func:`os.path.abspath` takes its time."""
        text = os.fsdecode(path)
        return text if text.startswith("/") else f"{self._here}/{text}"

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """:func:`os.open`."""
        if self.node(path) is self.tree and dir_fd is None:
            return self._opened(self.root, self.tree, _REAL.open(path, flags))
        spot = self.spot(path, dir_fd)
        if spot is None:
            return _REAL.open(path, flags, mode, dir_fd=dir_fd)
        folder, name = spot
        where = path if dir_fd is None else f"{self._open[dir_fd][0]}/{name}"

        def do() -> int:
            descriptor = _REAL.open(path, flags, mode, dir_fd=dir_fd)
            if name not in folder.names:
                folder.change({name: File()})
            node = folder.names[name]
            if flags & os.O_TRUNC and isinstance(node, File) and node.size:
                node.cut(0)
            return self._opened(where, node, descriptor)

        creates = flags & os.O_CREAT and name not in folder.names
        if creates or flags & os.O_TRUNC:
            return self.act("create" if creates else "empty", where, do, grows=bool(creates))
        if name not in folder.names:  # it is not there, or is not ours to record
            return _REAL.open(path, flags, mode, dir_fd=dir_fd)
        return do()

    def _opened(self, path: Any, node: Node, descriptor: int) -> int:
        self._open[descriptor] = self._absolute(path), node
        return descriptor

    def close(self, descriptor: int) -> None:
        """:func:`os.close`."""
        self._open.pop(descriptor, None)
        _REAL.close(descriptor)

    def _write(self, descriptor: int, content: Any) -> int:
        if descriptor not in self._open:
            return _REAL.write(descriptor, content)
        path, node = self._open[descriptor]
        assert isinstance(node, File)
        offset = node.size if _appends(descriptor) else os.lseek(descriptor, 0, os.SEEK_CUR)
        return self.write(node, path, offset, bytes(content), lambda part: _REAL.write(descriptor, part))

    def _pwrite(self, descriptor: int, content: Any, offset: int) -> int:
        if descriptor not in self._open:
            return _REAL.pwrite(descriptor, content, offset)
        path, node = self._open[descriptor]
        assert isinstance(node, File)
        return self.write(
            node, path, offset, bytes(content), lambda part: _REAL.pwrite(descriptor, part, offset)
        )

    def _fsync(self, descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        if number in self._open:
            path, node = self._open[number]
            if not self.deaf_to(path, node):
                self.act("fsync", path, node.sync)
        else:
            _REAL.fsync(number)

    def _truncate(self, path: Any, size: int) -> None:
        where, node = self._open.get(path, ("", None)) if isinstance(path, int) else (path, self.node(path))
        if not isinstance(node, File):
            return _REAL.truncate(path, size)

        def do() -> None:
            _REAL.truncate(path, size)
            node.cut(size)

        return self.act("truncate", where, do)

    def _replace(self, source: Any, target: Any, **folders: Any) -> None:
        assert not folders, "a rename below open folders is not recorded"
        before, after = self.spot(source), self.spot(target)
        if before is None or after is None or before[1] not in before[0].names:
            return _REAL.replace(source, target)

        def do() -> None:
            _REAL.replace(source, target)
            node = before[0].names[before[1]]
            if before[0] is after[0]:
                before[0].change({before[1]: None, after[1]: node})
            else:  # POSIX promises no more for two folders
                after[0].change({after[1]: node})
                before[0].change({before[1]: None})

        return self.act("rename", source, do, more=f" to {self.short(target)}")

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._remove("unlink", path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._remove("rmdir", path, dir_fd)

    def _remove(self, kind: str, path: Any, dir_fd: int | None) -> None:
        spot = self.spot(path, dir_fd)
        real = getattr(_REAL, kind)
        if spot is None or spot[1] not in spot[0].names:
            return real(path, dir_fd=dir_fd)
        folder, name = spot

        def do() -> None:
            real(path, dir_fd=dir_fd)
            folder.change({name: None})

        return self.act(kind, path, do)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        spot = self.spot(path, dir_fd)
        if spot is None or spot[1] in spot[0].names:
            return _REAL.mkdir(path, mode, dir_fd=dir_fd)
        folder, name = spot

        def do() -> None:
            _REAL.mkdir(path, mode, dir_fd=dir_fd)
            folder.change({name: Folder()})

        return self.act("mkdir", path, do, grows=True)

    def _file(self, file: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+") or self.spot(file) is None:
            return _REAL.file(file, mode, buffering, *more, **options)
        assert "+" not in mode, "files are written or read, not both"
        made = {"w": os.O_CREAT | os.O_TRUNC, "a": os.O_CREAT | os.O_APPEND, "x": os.O_CREAT | os.O_EXCL}
        raw = _Raw(self.open(file, os.O_WRONLY | made[mode.strip("bt")], 0o666))
        if "b" in mode:
            return io.BufferedWriter(raw) if buffering else raw
        return io.TextIOWrapper(io.BufferedWriter(raw), *more, **options)


class _Raw(io.RawIOBase):
    """A file that Python code opened for writing: :class:`io.FileIO` would write past the record."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, content: Any) -> int:
        return os.write(self._descriptor, content)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


def _appends(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND)


def _apply(content: bytearray, offset: int, piece: bytes | None) -> None:
    if piece is None and offset < len(content):
        del content[offset:]
        return
    content.extend(bytes(max(offset - len(content), 0)))
    if piece is not None:
        content[offset : offset + len(piece)] = piece


def _sectors(offset: int, content: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    while start < len(content):
        end = min(start + SECTOR - (offset + start) % SECTOR, len(content))
        yield offset + start, content[start:end]
        start = end


def _rename(names: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _kept(pending: Sequence[T], dice: Random) -> Sequence[T]:
    """Which of the unsynced changes reach the disk: what the kernel wrote back by itself."""
    how = dice.choice(("all", "none", "first", "some", "some"))
    if how == "some":
        return [change for change in pending if dice.random() < 0.5]
    return pending[: {"all": len(pending), "none": 0, "first": dice.randrange(len(pending) + 1)}[how]]


def _wipe(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _wipe(entry.path)
                _REAL.rmdir(entry.path)
            else:
                _REAL.unlink(entry.path)


def _build(path: str, folder: Folder) -> None:
    for name, node in folder.names.items():
        if isinstance(node, Folder):
            _REAL.mkdir(f"{path}/{name}")
            _build(f"{path}/{name}", node)
        else:
            with _REAL.file(f"{path}/{name}", "wb") as file:
                file.write(node.durable)


def _found(folder: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield entry.path, -1
                yield from _found(entry.path)
            else:
                yield entry.path, entry.stat().st_size


def _known(path: str, folder: Folder) -> Iterator[tuple[str, int]]:
    for name, node in folder.names.items():
        if isinstance(node, Folder):
            yield f"{path}/{name}", -1
            yield from _known(f"{path}/{name}", node)
        else:
            yield f"{path}/{name}", node.size
