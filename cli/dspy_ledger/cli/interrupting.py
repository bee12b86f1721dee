"""Ctrl-C in a command that takes its time: one line that says what is done and what is left, or none."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["Interrupted", "interruptible", "quietly_ended"]


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


@contextmanager
def quietly_ended() -> Iterator[None]:
    """End a block that never ends by itself when somebody interrupts it, or reads no further."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Python would flush what is left when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
