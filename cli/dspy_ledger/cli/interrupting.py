"""Ctrl-C in a command that takes its time: one line that says what is done and what is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["Interrupted", "interruptible"]


class Interrupted(Exception):
    """Somebody ended the command with Ctrl-C; the message says what that means."""


@contextmanager
def interruptible(what: str) -> Iterator[None]:
    """Tell whoever interrupts the block what that means.

    Raises:
        Interrupted: in place of the interrupt, also of one at a question.
    """
    try:
        yield
    except (KeyboardInterrupt, typer.Abort):
        raise Interrupted(f"interrupted; {what}") from None
