"""``dspy-ledger keys``: who may ask the API."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dspy_ledger.errors import InvalidInput
from dspy_ledger.keyring import ApiKey, Keyring, Scope
from dspy_ledger.settings import Settings
from dspy_ledger.timestamps import canonical_time, to_datetime, utc_now

__all__ = ["collect", "create", "expiry", "revoke", "show"]

_DURATION = re.compile(r"([0-9]{1,6})([hdw])", re.ASCII)
_HOURS = {"h": 1, "d": 24, "w": 24 * 7}


def expiry(given: str, now: str) -> str:
    """The moment that a key ends: after ``12h``, ``90d``, ``8w``, or at a time or date (its start, UTC).

    Raises:
        InvalidInput: that is neither.
    """
    try:
        if match := _DURATION.fullmatch(given):
            ends = to_datetime(now) + timedelta(hours=int(match[1]) * _HOURS[match[2]])
            return canonical_time(ends.isoformat())
        moment = datetime.fromisoformat(given)
        return canonical_time((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat())
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"--expires {given} is no moment; write hours, days or weeks from now (12h, 90d, 8w), or a date"
            " as 2027-01-31"
        ) from None


def create(settings: Settings, name: str, scope: Scope, expires: str | None) -> tuple[str, ApiKey]:
    """A new key: its text, which nothing will tell again, and what is known of it.

    Raises:
        InvalidInput: the name or the moment can't be used.
        StoreError: the keys can't be read or written.
    """
    ends = None if expires is None else expiry(expires, utc_now())
    return Keyring(settings.data_dir).create(name, scope, ends)


def revoke(settings: Settings, key_id: str) -> ApiKey:
    """End a key, named by its id or by its whole text.

    Raises:
        NotFound: there is no such key.
        StoreError: the keys can't be read or written.
    """
    return Keyring(settings.data_dir).revoke(key_id.removeprefix("dlk_").partition("_")[0])


def collect(settings: Settings) -> list[dict[str, Any]]:
    """All keys, the oldest first, as JSON-able objects; nothing in them can be used as a key."""
    now = utc_now()
    return [
        {
            "id": key.id,
            "name": key.name,
            "scope": key.scope,
            "state": key.state(now),
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "revoked_at": key.revoked_at,
        }
        for key in Keyring(settings.data_dir).all_keys()
    ]


def show(found: list[dict[str, Any]], console: Console) -> None:
    """Print them for people."""
    if not found:
        console.print("no key was created yet; `dspy-ledger keys create` does")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("id", "name", "scope", "state", "created", "expires"):
        table.add_column(column, overflow="fold")
    for key in found:
        expires = key["expires_at"][:16] + "Z" if key["expires_at"] else "never"
        told = (key["id"], key["name"], key["scope"], key["state"], key["created_at"][:16] + "Z", expires)
        table.add_row(*map(Text, told), style=None if key["state"] == "valid" else "dim")
    console.print(table)
