"""Whose call it is: session, user, tags and metadata for every execution within a ``with`` block."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from dspy_ledger.producer.arguments import id_text, plain_mapping, tag_list

__all__ = ["Ambient", "ambient", "session"]


class Ambient(NamedTuple):
    """What is in force here; ids are None and the rest is empty outside of every ``session``."""

    session_id: str | None = None
    user_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = MappingProxyType({})
    trace_id: str | None = None


_NOTHING = Ambient()
_ambient: ContextVar[Ambient] = ContextVar("dspy_ledger_ambient", default=_NOTHING)


_KEY: Final = "dspy_ledger_ambient"
"""Key of the same in DSPy's settings, which DSPy carries into the threads of ``dspy.Parallel``."""


def ambient() -> Ambient:
    """What is in force here: to be read where a root call starts, in the caller's own thread or task."""
    found = _ambient.get()
    if found is _NOTHING and (overrides := _dspy_overrides()) is not None:
        carried: Ambient = overrides.get().get(_KEY, _NOTHING)
        return carried
    return found


def _dspy_overrides() -> ContextVar[Any] | None:
    """DSPy's settings of this context; None as long as nobody imported it."""
    module = sys.modules.get("dspy.dsp.utils.settings")
    return getattr(module, "thread_local_overrides", None)


@contextmanager
def session(
    session_id: str | None = None,
    *,
    user: str | None = None,
    tags: Iterable[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    trace_id: str | None = None,
) -> Iterator[None]:
    """Say whose the executions in this block are.

    Blocks nest: an inner id stands above the outer one, tags add up, metadata is merged. It holds for
    root calls that start in this task or thread, in tasks started from it, and in the threads of
    ``dspy.Parallel`` and ``dspy.asyncify``. Another thread that the block starts has a context of its own:
    run its work with ``contextvars.copy_context().run``.

    Args:
        session_id: of a conversation, for example; None keeps the outer one.
        user: an id of yours; None keeps the outer one.
        trace_id: of the request, to find its executions by; sampling decides by it. None keeps the outer one.

    Raises:
        InvalidInput: an id is empty or longer than 512 characters, tags are no texts, or metadata is no
            mapping.
    """
    outer = ambient()
    inner = Ambient(
        outer.session_id if session_id is None else id_text("session_id", session_id),
        outer.user_id if user is None else id_text("user", user),
        tuple(dict.fromkeys((*outer.tags, *tag_list(tags)))),
        {**outer.metadata, **(plain_mapping("metadata", metadata) or {})},
        outer.trace_id if trace_id is None else id_text("trace_id", trace_id),
    )
    token = _ambient.set(inner)
    overrides = _dspy_overrides()
    carried = None if overrides is None else overrides.set({**overrides.get(), _KEY: inner})
    try:
        yield
    finally:
        with suppress(ValueError):  # left in another context than entered: there is nothing to take back
            _ambient.reset(token)
            if overrides is not None and carried is not None:
                overrides.reset(carried)
