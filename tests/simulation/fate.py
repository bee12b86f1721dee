"""What is to go wrong, and when: every effect of a run asks here first."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from random import Random


class Crash(BaseException):
    """The process ends here. No effect of it happens after this one."""


class Fate:
    """Counts effects (writes, syncs, renames, broker calls …) and fails the ones it was told to.

    Args:
        dice: decides what the schedule leaves open.
    """

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.effects = 0
        self.dead = False
        self.full = False
        self.blamed = False
        """Whether the process at hand met a fault that it may give up over."""
        self._crash_at: int | None = None
        self._broken: range = range(0)
        self._waits = 0
        self._trace = sha256()
        self.log: list[str] | None = None

    @property
    def digest(self) -> str:
        """Of everything that happened: the same seed gives the same."""
        return self._trace.hexdigest()[:16]

    def note(self, what: str) -> None:
        """Something happened."""
        self._trace.update(what.encode("utf-8", "surrogateescape"))
        if self.log is not None:
            self.log.append(what)

    def crash_in(self, effects: int) -> None:
        """Crash at the n-th effect from now: before it, after it, or amid a write."""
        self._crash_at = self.effects + effects

    def break_in(self, effects: int, count: int) -> None:
        """``count`` effects on the disk fail with EIO, beginning with the n-th from now."""
        self._broken = range(self.effects + effects, self.effects + effects + count)

    def fill(self, waits: int) -> None:
        """The disk is full until the process waited that often for room."""
        self.full, self._waits = True, waits

    def waited(self) -> None:
        """The process waited before it tries again."""
        self._waits -= 1
        if self._waits <= 0:
            self.full = False

    def heal(self) -> None:
        """Nothing more goes wrong."""
        self._crash_at, self._broken, self.full = None, range(0), False

    @contextmanager
    def calm(self) -> Iterator[None]:
        """Nothing goes wrong within the block."""
        held = self._crash_at, self._broken, self.full
        self._crash_at, self._broken, self.full = None, range(0), False
        try:
            yield
        finally:
            self._crash_at, self._broken, self.full = held

    def reborn(self) -> None:
        """A new process starts, after a while."""
        self.waited()
        self.dead = self.blamed = False

    def die(self) -> None:
        """The process ends now."""
        self.dead = True
        self._crash_at = None
        self.note("crash")
        raise Crash

    def before(self, kind: str, name: str, *, disk: bool = True, grows: bool = False) -> bool:
        """An effect is about to happen; whether the process is to crash amid or after it.

        Raises:
            Crash: here it ends.
            OSError: ENOSPC or EIO.
        """
        if self.dead:
            raise Crash
        self.effects += 1
        self.note(f"{self.effects} {kind} {name}")
        dies = self.effects == self._crash_at
        if dies and self.dice.random() < 0.4:
            self.die()
        if disk and grows and self.full:
            self.blamed = True
            self.note("full")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        if disk and self.effects in self._broken:
            self.blamed = True
            self.note("EIO")
            raise OSError(errno.EIO, os.strerror(errno.EIO), name)
        return dies
