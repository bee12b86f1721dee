"""SQLite on the recorded disk: a VFS that tells the record every effect, behind the interface of sqlite3.

Python's own sqlite3 can't be given a VFS; APSW's SQLite can. Shared memory and locks stay the real ones.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import apsw

from simulation.disk import Disk, File
from simulation.fate import Crash

T = TypeVar("T")

_VFS = "recorded"
_JOURNALS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL


class _Vfs(apsw.VFS):
    """The default VFS, with every effect on files below the disk's root told to the disk."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        super().__init__(_VFS, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        disk = self.disk
        spot = disk.spot(path) if path else None
        if spot is None:
            return super().xOpen(name, flags)
        folder, short = spot
        creates = bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and short not in folder.names

        def do() -> _VfsFile:
            file = _VfsFile(disk, name, path, flags)
            if creates:
                folder.change({short: File()})
            file.node = folder.names.get(short)
            # As unixSync does for a journal that it made.
            file.folder = folder if creates and flags[0] & _JOURNALS else None
            return file

        return _told(lambda: disk.act("create", path, do, grows=True)) if creates else do()

    def xDelete(self, name: str, sync: bool) -> None:
        disk = self.disk
        spot = disk.spot(name)
        if spot is None or spot[1] not in spot[0].names:
            return super().xDelete(name, sync)
        folder, short = spot

        def do() -> None:
            super(_Vfs, self).xDelete(name, sync)
            folder.change({short: None})
            if sync:
                folder.sync()

        return _told(lambda: disk.act("unlink", name, do))


class _VfsFile(apsw.VFSFile):
    node: Any = None
    folder: Any = None

    def __init__(self, disk: Disk, name: Any, path: str, flags: list[int]) -> None:
        self.disk = disk
        self.path = path
        super().__init__("", name, flags)

    def xWrite(self, content: bytes, offset: int) -> None:
        def do(part: bytes) -> int:
            super(_VfsFile, self).xWrite(part, offset)
            return len(part)

        def write() -> None:
            if self.disk.write(self.node, self.path, offset, content, do) < len(content):
                raise OSError(errno.ENOSPC, "short write")

        _told(write)

    def xTruncate(self, size: int) -> None:
        def do() -> None:
            super(_VfsFile, self).xTruncate(size)
            self.node.cut(size)

        _told(lambda: self.disk.act("truncate", self.path, do))

    def xSync(self, flags: int) -> None:
        def do() -> None:
            self.node.sync()
            if self.folder is not None:
                self.folder.sync()
                self.folder = None

        _told(lambda: self.disk.act("fsync", self.path, do))


def _told(effect: Callable[[], T]) -> T:
    """SQLite learns of a failure by its own codes; of a crash too, which the connection then raises."""
    try:
        return effect()
    except OSError as error:
        raise _as_apsw(apsw.FullError if error.errno == errno.ENOSPC else apsw.IOError, str(error)) from None
    except Crash:
        raise _as_apsw(apsw.IOError, "crashed") from None


def _as_apsw(kind: type[apsw.Error], text: str) -> apsw.Error:
    error = kind(text)
    error.result = apsw.SQLITE_FULL if kind is apsw.FullError else apsw.SQLITE_IOERR
    error.extendedresult = error.result
    return error


class Databases:
    """Connections to SQLite files on a disk, each with what sqlite3's has that the product uses.

    Args:
        disk: where the files lie.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._vfs = _Vfs(disk)
        self.open: list[Connection] = []
        self.rewrite: Callable[[str], str] = lambda statement: statement
        """What is executed in place of a statement: settings that make rare things frequent."""

    def connect(self, path: str | Path, *, uri: bool = False, **_: Any) -> Connection:
        """:func:`sqlite3.connect`."""
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        if uri:
            flags |= apsw.SQLITE_OPEN_URI
        return Connection(self, self._disk, str(path), flags)

    def end_process(self) -> None:
        """Close what the ended process left open, without any effect."""
        assert self._disk.fate.dead
        for connection in self.open:
            connection.abandon()
        self.open.clear()

    def unregister(self) -> None:
        """The VFS may be made anew."""
        self._vfs.unregister()


class Connection:
    """:class:`sqlite3.Connection`, as far as it is used."""

    def __init__(self, databases: Databases, disk: Disk, path: str, flags: int) -> None:
        self._databases, self._disk = databases, disk
        self._db = self.guarded(lambda: apsw.Connection(path, flags=flags, vfs=_VFS))
        self._db.set_busy_timeout(0)
        self._checkpoint_after(1000)
        self.text_factory: type[str] | type[bytes] = str
        databases.open.append(self)

    def guarded(self, act: Callable[[], T]) -> T:
        """Errors as sqlite3 raises them."""
        fate = self._disk.fate
        if fate.dead:
            raise Crash
        try:
            result = act()
        except apsw.Error as error:
            if fate.dead:
                raise Crash from None
            raise _as_sqlite3(error) from None
        if fate.dead:  # noticed by nobody, but nothing after it may happen
            raise Crash
        return result

    def execute(self, statement: str, values: Any = ()) -> Cursor:
        return Cursor(self).execute(statement, values)

    def executemany(self, statement: str, rows: Iterable[Any]) -> None:
        statement = self._databases.rewrite(statement)
        self.guarded(lambda: self._db.cursor().executemany(statement, rows).fetchall())

    def _checkpoint_after(self, pages: int) -> None:
        """``PRAGMA wal_autocheckpoint``: SQLite's own lets nobody know when it fails, APSW would raise."""

        def committed(db: apsw.Connection, name: str, waiting: int) -> int:
            if waiting >= pages:
                with suppress(apsw.Error):
                    db.wal_checkpoint(name)
            return apsw.SQLITE_OK

        self._db.set_wal_hook(committed)

    def executescript(self, script: str) -> None:
        if self.in_transaction:
            self.execute("COMMIT")
        self.guarded(lambda: self._db.cursor().execute(script).fetchall())

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    @property
    def total_changes(self) -> int:
        return self._db.total_changes()

    def create_function(self, name: str, arity: int, function: Any, *, deterministic: bool = False) -> None:
        self._db.create_scalar_function(name, function, arity, deterministic=deterministic)

    def close(self) -> None:
        if self in self._databases.open:
            with suppress(sqlite3.Error):  # sqlite3_close says nothing of a last checkpoint that failed
                self.guarded(self._db.close)
            self._databases.open.remove(self)

    def abandon(self) -> None:
        """Close without a word: the process is gone."""
        with suppress(apsw.ConnectionClosedError):
            self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            with suppress(apsw.IOError):
                self._db.close(True)


class Cursor:
    """:class:`sqlite3.Cursor`, as far as it is used."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cursor: Any = None

    def execute(self, statement: str, values: Any = ()) -> Cursor:
        connection = self._connection
        statement = connection._databases.rewrite(statement)
        if statement.startswith("PRAGMA wal_autocheckpoint ="):
            connection._checkpoint_after(int(statement.split("=")[1]))
            statement = "SELECT 1"
        self._cursor = connection.guarded(lambda: connection._db.cursor().execute(statement, values))
        return self

    def __iter__(self) -> Iterator[Any]:
        while (row := self.fetchone()) is not None:
            yield row

    def fetchone(self) -> Any:
        row = self._connection.guarded(self._cursor.fetchone)
        return row if row is None else self._spelled(row)

    def fetchall(self) -> list[Any]:
        return [self._spelled(row) for row in self._connection.guarded(self._cursor.fetchall)]

    def fetchmany(self, size: int) -> list[Any]:
        return list(islice(self, size))

    def _spelled(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._connection.text_factory is str:
            return row
        return tuple(value.encode() if isinstance(value, str) else value for value in row)

    @property
    def lastrowid(self) -> int:
        return self._connection._db.last_insert_rowid()


def _as_sqlite3(error: apsw.Error) -> sqlite3.Error:
    kinds: list[tuple[type[apsw.Error], type[sqlite3.Error]]] = [
        (apsw.ConstraintError, sqlite3.IntegrityError),
        (apsw.CorruptError, sqlite3.DatabaseError),
        (apsw.NotADBError, sqlite3.DatabaseError),
        (apsw.BindingsError, sqlite3.ProgrammingError),
        (apsw.ConnectionClosedError, sqlite3.ProgrammingError),
    ]
    kind = next((ours for theirs, ours in kinds if isinstance(error, theirs)), sqlite3.OperationalError)
    result = kind(str(error))
    result.sqlite_errorcode = getattr(error, "result", apsw.SQLITE_ERROR)
    return result
