"""Everything that can be asked of the writer, by name."""

from __future__ import annotations

from dspy_ledger.projector.adoption import replay_actions
from dspy_ledger.projector.deadletters import deadletter_actions
from dspy_ledger.projector.office import Office
from dspy_ledger.projector.requests import Action

__all__ = ["all_actions"]


def all_actions(office: Office) -> dict[str, Action]:
    """For the :class:`~dspy_ledger.projector.requests.Clerk`."""
    return {**replay_actions(office), **deadletter_actions(office), "forget": office.erasure.forget}
