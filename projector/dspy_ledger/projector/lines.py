"""Files of numbered lines: appended durably, cut back to a checkpoint after a crash, changed atomically."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Iterator, Set
from pathlib import Path

from dspy_ledger.files import sync_folder, write_atomically

__all__ = ["change_lines", "cut_lines", "first_line", "set_aside"]

_START = b'{"position":'
_LINE = re.compile(rb'\{"position":(\d+)[,}]')


def cut_lines(path: Path, upto: int) -> None:
    """Cut what comes after the last whole line with a position ≤ ``upto``; nothing left, no file.

    Lines are in position order, so what a crash left stands at the end. A file that does not begin as
    ours do is left alone.
    """
    size = path.stat().st_size
    keep = 0
    if size:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if not _is_ours(content[: len(_START)]):
                return
            keep = _end_of(content, upto)
    if keep == 0:
        path.unlink()
        sync_folder(path.parent)
    elif keep < size:
        os.truncate(path, keep)


def first_line(path: Path) -> bytes:
    """The first line without its end; it may be torn, or not one of ours."""
    with path.open("rb") as file:
        return file.readline().rstrip(b"\n")


def set_aside(path: Path) -> Path:
    """Rename a file, durably, to a name that nobody writes lines to; the new path."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}.aside")).exists():
        number += 1
    path.rename(aside)
    sync_folder(path.parent)
    return aside


def change_lines(
    path: Path, positions: Set[int], change: Callable[[bytes], bytes], *, durable: bool = True
) -> None:
    """Put ``change(line)`` in place of the lines at these positions, once and for all or not at all.

    A file that is not there, or whose lines are as they should be, is not written.
    """

    def changed() -> Iterator[tuple[bytes, bytes]]:
        with path.open("rb") as file:
            for line in file:
                match = _LINE.match(line)
                wanted = match is not None and int(match[1]) in positions
                yield line, change(line) if wanted else line

    if not path.exists():
        return
    if any(old != new for old, new in changed()):
        write_atomically(path, (new for _, new in changed()), durable=durable)
    elif durable:
        sync_folder(path.parent)  # a process may have been killed between the rename and this


def _is_ours(beginning: bytes) -> bool:
    # A torn first line is ours too, and so are the zeros that a power cut leaves in place of one.
    return _START.startswith(beginning) or not beginning.strip(b"\0")


def _end_of(content: mmap.mmap, upto: int) -> int:
    end = content.rfind(b"\n") + 1
    while end > 0:
        start = content.rfind(b"\n", 0, end - 1) + 1
        match = _LINE.match(content, start, end)
        if match and int(match[1]) <= upto:
            break
        end = start
    return end
