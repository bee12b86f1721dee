"""Numbers in sentences."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, thing: str) -> str:
    """``1 event``, ``1,200 events``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
