"""What is in force around the current DSPy call.

It lies in DSPy's own settings, as ``dspy.context`` sets them: so it reaches wherever DSPy carries its
settings (tasks, ``dspy.Parallel``, ``dspy.asyncify``) and nothing else, and a host's ``dspy.configure``
can't take it away.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import dspy
from dspy.dsp.utils.settings import settings as dspy_settings

__all__ = ["EXECUTION", "QUIET", "current_execution", "is_quiet", "quiet"]

EXECUTION = "dspy_ledger_execution"
"""Key of the capture of the execution that the current call is part of."""
QUIET = "dspy_ledger_quiet"
"""Key that is true within an optimizer's compile and within an evaluation."""


def current_execution() -> Any:
    """The capture of the execution in force; None outside of one."""
    return dspy_settings.get(EXECUTION)


def is_quiet() -> bool:
    """Whether calls are part of a compile or an evaluation: no executions, no registrations of themselves."""
    return bool(dspy_settings.get(QUIET))


def quiet() -> AbstractContextManager[None]:
    """For the time of a compile or an evaluation."""
    held: AbstractContextManager[None] = dspy.context(**{QUIET: True})
    return held
