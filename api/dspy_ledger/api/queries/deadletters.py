"""Dead letters, as the event store keeps them: without their bytes."""

from __future__ import annotations

from typing import Any

from dspy_ledger.api.parameters import DeadLetterQuery
from dspy_ledger.api.queries.paging import page
from dspy_ledger.api.reading import Sources

__all__ = ["page_of_dead_letters"]

_TOLD = ("id", "recorded_at", "stream_id", "source", "sequence", "reason", "detail")


def page_of_dead_letters(sources: Sources, query: DeadLetterQuery) -> dict[str, Any]:
    """Dead letters, newest first, of now."""
    after = query.after()
    before = None if after is None else int(after)
    letters = sources.ask_store(
        lambda store: store.dead_letters(limit=query.limit + 1, before=before, raw=False)
    )
    return page([{name: getattr(letter, name) for name in _TOLD} for letter in letters], query, "id")
