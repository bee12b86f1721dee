"""``dspy-ledger tail``: the events of the store on this machine as they come, a line each."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing

import orjson
from rich.console import Console
from rich.text import Text

from dspy_ledger.cli.tail_text import Lines
from dspy_ledger.errors import InvalidInput, StoreError, known_list
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.settings import Settings
from dspy_ledger.store import MOST_READ, SqliteEventStore, StoredEvent
from dspy_ledger.views import ViewReader

__all__ = ["follow", "full_types", "print_events"]

_EVERY = 0.1  # seconds between two looks at the store
_AT_ONCE = 500  # events
_LOOKED_BACK = 100_000  # positions gone through for the last few of a kind


def full_types(given: Sequence[str]) -> list[str]:
    """The types that these names, short or in full, stand for.

    Raises:
        InvalidInput: there is no such type.
    """
    kinds = [EVENT_TYPES.get(name, name) for name in given]
    for name in kinds:
        if name not in EVENT_TYPES.values():
            raise InvalidInput(f"there is no event type {name!r} ({known_list(EVENT_TYPES)})")
    return kinds


def follow(
    settings: Settings,
    *,
    types: Sequence[str] = (),
    program_id: str | None = None,
    after: int | None = None,
    last: int = 0,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[list[StoredEvent]]:
    """Events without their bodies, some at a time, for ever; an empty list after each look that found none.

    Args:
        settings: which store; it is only read.
        types: only of these, in full; all by default.
        program_id: only of this program.
        after: begin after this position; else with the ``last`` so many, looked for among 100,000.
        last: how many of those that are there already to begin with.
        pause: waits so many seconds.

    Raises:
        StoreError: there is no store, or it can't be read.
    """
    with closing(SqliteEventStore(settings.store_path, readonly=True)) as store:
        try:
            end = store.last_position()
            if after is None:
                after = end
                yield _last(store, end, last, types, program_id)
            while True:
                yield from _pages(store, after, end, types, program_id)
                after = max(after, end)
                pause(_EVERY)
                end = store.last_position()
        except sqlite3.Error as error:
            raise StoreError(f"the event store can't be read ({error}); see to its disk") from None


def _last(
    store: SqliteEventStore, end: int, count: int, types: Sequence[str], program_id: str | None
) -> list[StoredEvent]:
    """The last so many up to a position: the window they are looked for in doubles until it holds them."""
    window = max(count, 100)
    while count:
        after = max(0, end - window)
        found: deque[StoredEvent] = deque(maxlen=count)
        for page in _pages(store, after, end, types, program_id):
            found.extend(page)
        if len(found) >= count or after == 0 or window >= _LOOKED_BACK:
            return list(found)
        window *= 2
    return []


def _pages(
    store: SqliteEventStore, after: int, end: int, types: Sequence[str], program_id: str | None
) -> Iterator[list[StoredEvent]]:
    """All after one position and up to another, some at a time; an empty list where there are none."""
    while True:
        found = store.read(after, _AT_ONCE, types=types, program_id=program_id, upto=end, bodies=False)
        yield found
        if len(found) < _AT_ONCE and sum(event.size for event in found) < MOST_READ:
            return
        after = found[-1].position


def print_events(
    found: Iterable[list[StoredEvent]], settings: Settings, console: Console, *, as_json: bool
) -> None:
    """Print what :func:`follow` finds, each look's at once.

    Args:
        found: events, some at a time.
        settings: where the read models are, which know what versions are called.
        console: where to; lines are cut to its width if it is a terminal.
        as_json: the events themselves instead of lines for people.
    """
    with closing(_Labels(settings)) as labels:
        lines = Lines(console.width if console.is_terminal else None)
        for events in found:
            if as_json:
                sys.stdout.buffer.writelines(map(_as_json, events))
            for line in () if as_json else _lines(lines, labels, events):
                if console.is_terminal:
                    console.print(line, soft_wrap=True)
                else:
                    sys.stdout.write(f"{line.plain}\n")
            sys.stdout.flush()


def _lines(lines: Lines, labels: _Labels, events: list[StoredEvent]) -> Iterator[Text]:
    for event in events:
        yield from lines.of(event, labels.of(event))


def _as_json(event: StoredEvent) -> bytes:
    """One line: its position, when it was stored, and the CloudEvent as it came."""
    told = {
        "position": event.position,
        "recorded_at": event.recorded_at,
        "event": orjson.Fragment(event.payload.replace(b"\r", b" ").replace(b"\n", b" ")),
    }
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


class _Labels:
    """What versions are called: by the read models where they know, else as the event says."""

    def __init__(self, settings: Settings) -> None:
        self._views = ViewReader(settings.data_dir)
        self._known: dict[tuple[object, object], str] = {}

    def of(self, event: StoredEvent) -> str | None:
        """The label of an event's content; None when nobody knows."""
        data = event.data
        content = data.get("program_id"), data.get("content_hash")
        if content not in self._known:
            try:
                row = (
                    self._views.connection()
                    .execute(
                        "SELECT version FROM versions WHERE program_id = ? AND content_hash = ?", content
                    )
                    .fetchone()
                )
            except (StoreError, sqlite3.Error):  # there is none yet, or it is being built anew
                row = None
            if row is None:
                return data.get("program_version") or data.get("version")
            self._known[content] = row["version"]
        return self._known[content]

    def close(self) -> None:
        """Let go of the view."""
        self._views.close()
