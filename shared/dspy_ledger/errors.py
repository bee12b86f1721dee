"""Every error that dspy-ledger raises on purpose.

LedgerError
├── InvalidInput (ValueError)       the caller's argument can't be used; the message says what to pass
│   ├── InvalidProgram              not a Signature, string signature, Module or argument-free Module class
│   ├── InvalidModels               a models file or mapping that can't be read
│   └── InvalidFields               unknown or missing input fields
├── NotFound (LookupError)          no such thing; the message lists what is known
│   ├── UnknownProgram
│   ├── UnknownVersion
│   ├── UnknownEvaluation
│   └── UnknownModel
├── VersionNotRunnable              a recorded version that this process holds no matching code for
├── LedgerUnavailable               the broker could not be asked within the time given
├── InvalidEvent (ValueError)       bytes that are not a valid event: they become a dead letter
├── StoreError                      the event store or a view can't be used (unreadable, newer, foreign)
├── FoldError                       an event that a view being built can't fold
├── RequestFailed                   the running projector could not do what a command asked for
└── StartupError                    a command can't start (port in use, another writer, no broker)
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "FoldError",
    "InvalidEvent",
    "InvalidFields",
    "InvalidInput",
    "InvalidModels",
    "InvalidProgram",
    "LedgerError",
    "LedgerUnavailable",
    "NotFound",
    "RequestFailed",
    "StartupError",
    "StoreError",
    "UnknownEvaluation",
    "UnknownModel",
    "UnknownProgram",
    "UnknownVersion",
    "VersionNotRunnable",
    "known_list",
]


def known_list(known: Iterable[str], *, most: int = 20) -> str:
    """``known: a, b, c`` for an error message, or ``none is known yet``."""
    names = sorted(known)
    if not names:
        return "none is known yet"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "known: " + ", ".join(names[:most]) + more


class LedgerError(Exception):
    """The root of all errors raised by dspy-ledger."""


class InvalidInput(LedgerError, ValueError):
    """An argument can't be used as it is."""


class InvalidProgram(InvalidInput):
    """Pass a Signature class, a string signature, a Module instance, or a Module class without arguments."""


class InvalidModels(InvalidInput):
    """The models file or mapping can't be read; see docs/models.md for its form."""


class InvalidFields(InvalidInput):
    """The input data has unknown fields or lacks required ones; no model was called."""


class NotFound(LedgerError, LookupError):
    """Nothing is known under that id."""


class UnknownProgram(NotFound):
    """No program of that id is known; register it first."""

    def __init__(self, program_id: str, known: Iterable[str], hint: str = "") -> None:
        self.program_id = program_id
        super().__init__(f"unknown program {program_id!r} ({known_list(known)}); register it first{hint}")


class UnknownVersion(NotFound):
    """The program has no such version."""

    def __init__(self, program_id: str, version: str, known: Iterable[str], hint: str = "") -> None:
        self.program_id, self.version = program_id, version
        if version == "latest":  # there are versions, but all are pre-releases
            hint = "; a pre-release is never the latest, name it" + hint
        super().__init__(f"program {program_id!r} has no version {version!r} ({known_list(known)}){hint}")


class UnknownEvaluation(NotFound):
    """The program has no such evaluation."""

    def __init__(self, program_id: str, evaluation_id: str, model_id: str | None = None) -> None:
        on_model = f" on model {model_id!r}" if model_id is not None else ""
        super().__init__(
            f"program {program_id!r} has no evaluation {evaluation_id!r}{on_model}; if it was just saved, ask"
            " again in a moment"
        )


class UnknownModel(NotFound):
    """No model of that id was configured."""

    def __init__(self, model_id: str, known: Iterable[str]) -> None:
        self.model_id = model_id
        super().__init__(f"unknown model {model_id!r} ({known_list(known)}); add it to the models file")


class VersionNotRunnable(LedgerError):
    """This process holds no code that matches the recorded version; the message says what differs."""


class LedgerUnavailable(LedgerError):
    """Redis could not be asked in time; try again, nothing was lost."""


class InvalidEvent(LedgerError, ValueError):
    """These bytes are not a valid event; ``reason`` is a short stable word, the message tells the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


class StoreError(LedgerError):
    """The event store or a view can't be used; the message says what to do."""


class FoldError(LedgerError):
    """An event breaks a fold; a running projector parks it, a rebuild stops at it."""

    def __init__(self, projection: str, position: int, event_id: str, detail: str) -> None:
        self.projection, self.position, self.event_id = projection, position, event_id
        super().__init__(
            f"{projection} can't fold event {position} ({event_id}): {detail}; the view in force stays as it"
            " is. Report this, and replay with a release that folds the event"
        )


class RequestFailed(LedgerError):
    """The ledger's writer could not do what was asked; the message says why."""


class StartupError(LedgerError):
    """A command can't start; the message says what to do."""
