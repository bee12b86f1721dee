"""What is in force around the current DSPy call.

It lies in DSPy's own settings, as ``dspy.context`` sets them: so it reaches wherever DSPy carries its
settings (tasks, ``dspy.Parallel``, ``dspy.asyncify``) and nothing else, and a host's ``dspy.configure``
can't take it away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Token
from typing import Any

from dspy.dsp.utils.settings import thread_local_overrides

__all__ = ["EXECUTION", "QUIET", "current_execution", "is_quiet", "put_in_force", "quiet", "restore"]

EXECUTION = "dspy_ledger_execution"
"""Key of the capture of the execution that the current call is part of."""
QUIET = "dspy_ledger_quiet"
"""Key that is true within an optimizer's compile and within an evaluation."""


def current_execution() -> Any:
    """The capture of the execution in force; None outside of one, and once it ended."""
    capture = thread_local_overrides.get().get(EXECUTION)
    return None if capture is None or capture.ended else capture


def is_quiet() -> bool:
    """Whether calls are part of a compile or an evaluation: no executions, no registrations of themselves."""
    return bool(thread_local_overrides.get().get(QUIET))


@contextmanager
def quiet() -> Iterator[None]:
    """For the time of a compile or an evaluation.

    Unlike ``dspy.context``, it leaves what the host configures meanwhile in force.
    """
    token = put_in_force({QUIET: True})
    try:
        yield
    finally:
        restore(token)


def put_in_force(settings: dict[str, Any]) -> Token[Any]:
    """Set DSPy's settings here, as ``dspy.context`` does, until :func:`restore` is given the token."""
    token: Token[Any] = thread_local_overrides.set({**thread_local_overrides.get(), **settings})
    return token


def restore(token: Token[Any]) -> None:
    """Back to the settings before; in the context that they were set in."""
    thread_local_overrides.reset(token)
