"""A producer's account as ``status`` and the API tell it."""

from __future__ import annotations

from typing import Any

from dspy_ledger.store import ProducerAccount

__all__ = ["told"]


def told(account: ProducerAccount) -> dict[str, Any]:
    """The account as a JSON-able object.

    ``recorded`` is the highest number known to have been given. ``dropped``, ``unconfirmed`` and ``missing``
    are ranges [first, last] of numbers: what it wrote off, and what neither came nor was written off as far
    as its last report goes.
    """
    return {
        "source": account.source,
        "recorded": account.last,
        "stored": account.stored,
        "dead_lettered": account.dead_lettered,
        "dropped": [list(numbers) for numbers in account.dropped],
        "unconfirmed": [list(numbers) for numbers in account.unconfirmed],
        "sampled_out": account.sampled_out,
        "missing": [list(numbers) for numbers in account.missing],
        "stored_mark": account.mark,
        "first_seen": account.first_seen,
        "last_seen": account.last_seen,
    }
