"""``dspy-ledger deadletters``: what is no event, and which events a projection left out."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dspy_ledger.cli.progress import progress_bar
from dspy_ledger.cli.replay import run_replay
from dspy_ledger.cli.wording import counted
from dspy_ledger.errors import InvalidInput, NotFound
from dspy_ledger.projector.asking import carried_out
from dspy_ledger.projector.replay import PROJECTIONS
from dspy_ledger.settings import Settings
from dspy_ledger.store import Parked, SqliteEventStore
from dspy_ledger.wire import unpack

__all__ = ["collect", "drop", "raw", "retry", "show"]

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)  # as large as an id can be in SQLite
_SHOWN = ("id", "recorded_at", "stream_id", "source", "sequence", "reason", "detail")


def collect(settings: Settings, *, limit: int, before: int | None) -> dict[str, Any]:
    """A page of dead letters, newest first, and all parked events, as one JSON-able object."""
    with closing(SqliteEventStore(settings.store_path, readonly=True)) as store:
        letters = store.dead_letters(limit=limit + 1, before=before, raw=False)
        return {
            "dead_letters": [{name: getattr(one, name) for name in _SHOWN} for one in letters[:limit]],
            "next": letters[limit - 1].id if len(letters) > limit else None,
            "parked": [{"id": _id(parked), **asdict(parked)} for parked in store.parked()],
        }


def show(found: dict[str, Any], console: Console) -> None:
    """Print a page for people."""
    if not found["dead_letters"] and not found["parked"]:
        console.print("no dead letters, and no projection left an event out")
    if found["dead_letters"]:
        table = _table("id", "recorded at", "stream id", "source", "reason", "detail")
        for one in found["dead_letters"]:
            told = (one["id"], one["recorded_at"], one["stream_id"], one["source"] or "?", one["reason"])
            table.add_row(*map(_plain, (*told, one["detail"])))
        console.print(table)
    if found["next"]:
        console.print(f"more: dspy-ledger deadletters list --before {found['next']}")
    if found["parked"]:
        table = _table("left out", "recorded at", "why")
        for one in found["parked"]:
            table.add_row(*map(_plain, (one["id"], one["recorded_at"], one["detail"])))
        console.print(table)


def raw(settings: Settings, name: str) -> str:
    """A dead letter's entry, or the event that was left out, readable.

    Raises:
        NotFound: there is none of that id.
    """
    with closing(SqliteEventStore(settings.store_path, readonly=True)) as store:
        letters, parked = _sorted([name])
        for projection, position in parked:
            event = store.event_at(position)
            if event is None or position not in {one.position for one in store.parked(projection)}:
                raise NotFound(
                    f"{projection} left no event {position} out; see `dspy-ledger deadletters list`"
                )
            return _readable({b"__data__": event.payload, **({b"body": event.body} if event.body else {})})
        letter = store.dead_letter(letters[0])
        if letter is None:
            raise NotFound(f"there is no dead letter {letters[0]}; see `dspy-ledger deadletters list`")
        return f"# {letter.reason}: {letter.detail}\n{_readable(unpack(letter.raw))}"


def retry(settings: Settings, names: Sequence[str], *, every: bool, console: Console) -> None:
    """Read dead letters again, and replay the projections that left events out.

    Raises:
        InvalidInput: an id can't be, or neither ids nor all are named.
        NotFound: there is none of an id; nothing was done.
    """
    letters, parked = _chosen(settings, names, every=every)
    if letters is None or letters:
        answer = _ask(settings, "retry", letters)
        console.print(
            f"{answer['stored']:,} stored, {answer['duplicates']:,} stored before, {answer['left']:,} stay"
        )
    for projection in PROJECTIONS:
        if positions := [position for name, position in parked if name == projection]:
            run_replay(settings, projection, fresh=False, prune=False, retry=positions, console=console)


def drop(
    settings: Settings,
    names: Sequence[str],
    *,
    every: bool,
    agreed: bool,
    ask: Callable[[str], bool],
    console: Console,
) -> None:
    """Give dead letters up for good; their sequence numbers stay settled.

    Raises:
        InvalidInput: an id can't be, neither ids nor all are named, or nobody can be asked.
        NotFound: there is none of an id; nothing was done.
    """
    if names and _sorted(names)[1]:
        raise InvalidInput("an event that a projection left out stays in the ledger; retry it instead")
    letters, _ = _chosen(settings, names, every=every)
    if not agreed:
        if not sys.stdin.isatty():
            raise InvalidInput("nobody can be asked here; add --yes to drop them")
        many = "all dead letters" if letters is None else counted(len(letters), "dead letter")
        if not ask(f"Drop {many} for good?"):
            return
    console.print(f"{_ask(settings, 'drop', letters)['dropped']:,} dropped")


def _chosen(
    settings: Settings, names: Sequence[str], *, every: bool
) -> tuple[list[int] | None, list[tuple[str, int]]]:
    """Ids of dead letters (None: all of them), and (projection, position) of parked events."""
    if every == bool(names):
        raise InvalidInput("write the ids, or --all; `dspy-ledger deadletters list` shows them")
    with closing(SqliteEventStore(settings.store_path, readonly=True)) as store:
        left_out = [(parked.projection, parked.position) for parked in store.parked()]
        if every:
            return None, left_out
        letters, parked = _sorted(names)
        missing = [
            f"no dead letter {letter}" for letter in letters if not store.dead_letter(letter, raw=False)
        ]
    missing += [f"no event {at} that {name} left out" for name, at in parked if (name, at) not in left_out]
    if missing:
        raise NotFound(f"there is {', '.join(missing)}; see `dspy-ledger deadletters list`")
    return letters, parked


def _sorted(names: Sequence[str]) -> tuple[list[int], list[tuple[str, int]]]:
    letters, parked = [], []
    for name in names:
        projection, _, position = name.rpartition(":")
        if not _NUMBER.fullmatch(position) or projection not in ("", *PROJECTIONS):
            raise InvalidInput(
                f"{name!r} is no id; write one of those that `dspy-ledger deadletters list` shows"
            )
        if projection:
            parked.append((projection, int(position)))
        else:
            letters.append(int(position))
    return letters, parked


def _ask(settings: Settings, action: str, letters: list[int] | None) -> dict[str, Any]:
    who = f"deadletters {action} (process {os.getpid()})"
    with progress_bar(action) as bar:
        return carried_out(
            settings, action, {"ids": letters}, who, lambda at: bar(at.done, at.total, at.what)
        )


def _id(parked: Parked) -> str:
    return f"{parked.projection}:{parked.position}"


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")  # on a narrow terminal too, nothing is cut
    return table


def _plain(value: object) -> Text:
    return Text(str(value))  # what came over the wire is no markup


def _readable(fields: dict[bytes, bytes]) -> str:
    """An entry's fields, each as JSON where it is, otherwise as it came."""
    told = []
    for name, value in fields.items():
        try:
            text = orjson.dumps(orjson.loads(value), option=orjson.OPT_INDENT_2).decode()
        except orjson.JSONDecodeError:
            text = value.decode("utf-8", "backslashreplace")
        told.append(f"{name.decode('utf-8', 'backslashreplace')}: {text}")
    return "\n".join(told)
