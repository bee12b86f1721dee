"""Two views of one ledger compared, in constant memory: tables row by row, files byte by byte."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["compare_tables", "digest_files", "first_difference"]

_ROWS = 500
_CHUNK = 1 << 20
_SHOWN = 80  # characters of a value

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    columns: tuple[str, ...]
    key: tuple[int, ...]  # columns of the primary key, in its order

    @property
    def select(self) -> str:
        order = ", ".join(self.columns[at] for at in self.key)
        return f"SELECT {', '.join(self.columns)} FROM {self.name} ORDER BY {order}"  # noqa: S608  the schema's names


def compare_tables(expected: sqlite3.Connection, found: sqlite3.Connection) -> Generator[str, None, str]:
    """Differences between two databases of one schema, a sentence each; returns the digest of ``expected``.

    Args:
        expected: how it should be; its texts come as bytes (``text_factory``), as those of the other do.
        found: what is compared with it.
    """
    digest = sha256()
    for table in _tables(expected):
        digest.update(f"{table.name}\n".encode())
        ours, theirs = expected.execute(table.select), found.execute(table.select)
        while True:
            one, other = ours.fetchmany(_ROWS), theirs.fetchmany(_ROWS)
            digest.update("".join(f"{row!r}\n" for row in one).encode())
            if one != other:
                rest = _noted(ours, digest)
                yield from _row_by_row(table, chain(one, rest), chain(other, theirs))
                break
            if not one:
                break
    return digest.hexdigest()


def _tables(db: sqlite3.Connection) -> list[_Table]:
    listed = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    tables = []
    for (name,) in db.execute(listed).fetchall():
        info = db.execute(f"PRAGMA table_info({name.decode()})").fetchall()
        key = sorted((row[5], row[0]) for row in info if row[5])
        tables.append(
            _Table(name.decode(), tuple(row[1].decode() for row in info), tuple(at for _, at in key))
        )
    return tables


def _noted(rows: Iterator[Row], digest: Any) -> Iterator[Row]:
    for row in rows:
        digest.update(f"{row!r}\n".encode())
        yield row


def _row_by_row(table: _Table, expected: Iterator[Row], found: Iterator[Row]) -> Iterator[str]:
    """Merge two row sources that are in order of their key."""
    one, other = next(expected, None), next(found, None)
    while one is not None or other is not None:
        if one == other:
            one, other = next(expected, None), next(found, None)
        elif other is None or (one is not None and _order(table, one) < _order(table, other)):
            assert one is not None
            yield f"{table.name} {_key(table, one)}: the row is missing"
            one = next(expected, None)
        elif one is None or _order(table, one) > _order(table, other):
            yield f"{table.name} {_key(table, other)}: the row is not of this ledger"
            other = next(found, None)
        else:
            for column, wanted, there in zip(table.columns, one, other, strict=True):
                if wanted != there:
                    at = f"{table.name} {_key(table, one)}, column {column}"
                    yield f"{at}: it is {_shown(there)}, the ledger says {_shown(wanted)}"
            one, other = next(expected, None), next(found, None)


def _order(table: _Table, row: Row) -> list[tuple[int, Any]]:
    """As SQLite orders values of mixed kinds: a damaged one may be of any."""
    kinds = {type(None): 0, int: 1, float: 1}
    return [(kinds.get(type(row[at]), 2), row[at] if row[at] is not None else 0) for at in table.key]


def _key(table: _Table, row: Row) -> str:
    return ", ".join(_shown(row[at]) for at in table.key)


def _shown(value: object) -> str:
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return f"{text[:_SHOWN]}…" if len(text) > _SHOWN else text


def first_difference(expected: Path, found: Path, size: int | None = None) -> int | None:
    """The line (from 1) in which two files differ first; None when they are equal.

    One that is missing, or no file, is empty.

    Args:
        expected: one file.
        found: the other.
        size: how many bytes to look at; all by default.
    """
    line, left = 1, size
    with _opened(expected) as one, _opened(found) as other:
        while left is None or left > 0:
            most = _CHUNK if left is None else min(_CHUNK, left)
            ours, theirs = one.read(most), other.read(most)
            if ours != theirs:
                pairs = enumerate(zip(ours, theirs, strict=False))
                same = next((at for at, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
                return line + ours.count(b"\n", 0, same)
            if not ours:
                return None if left is None else line
            line += ours.count(b"\n")
            left = None if left is None else left - len(ours)
    return None


def digest_files(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over names and contents, in the order given."""
    digest = sha256()
    for name in names:
        with (folder / name).open("rb") as file:
            content = sha256()
            while chunk := file.read(_CHUNK):
                content.update(chunk)
        digest.update(f"{name}\n{content.hexdigest()}\n".encode())
    return digest.hexdigest()


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return Path(os.devnull).open("rb")
