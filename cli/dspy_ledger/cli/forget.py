"""``dspy-ledger forget``: says what would be erased, asks, and has the ledger's writer do it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from dspy_ledger.cli.interrupting import interruptible
from dspy_ledger.cli.progress import progress_bar
from dspy_ledger.cli.wording import counted
from dspy_ledger.errors import InvalidInput, LedgerError
from dspy_ledger.projector.asking import carried_out
from dspy_ledger.projector.erasure import Selection, Tally, find
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.timestamps import canonical_time, to_datetime, utc_now

__all__ = ["forget_bodies", "moment_before"]

_WORDS = {
    "executions": ("inputs, outputs and nested calls of {}", "execution"),
    "evaluations": ("rows of {}", "evaluation"),
    "versions": ("recorded state (demos, configuration) of {}", "program version"),
    "dead_letters": ("{}", "dead letter"),
}


def moment_before(now: str, age: str) -> str:
    """The moment so long ago: ``30d``, ``12h`` or ``2w``.

    Raises:
        InvalidInput: that is no age.
    """
    match = re.fullmatch(r"(\d{1,6})([hdw])", age, re.ASCII)
    try:
        if match:
            hours = int(match[1]) * {"h": 1, "d": 24, "w": 24 * 7}[match[2]]
            return canonical_time((to_datetime(now) - timedelta(hours=hours)).isoformat())
    except OverflowError:
        pass
    raise InvalidInput(f"--older-than {age} is no age; write hours, days or weeks, for example 12h, 30d, 8w")


def forget_bodies(
    settings: Settings,
    given: dict[str, str | None],
    older_than: str | None,
    *,
    dry_run: bool,
    agreed: bool,
    ask: Callable[[str], bool],
    say: Callable[[str], None],
) -> None:
    """Erase the bodies for which everything that is given holds.

    Args:
        settings: where everything lies.
        given: ``execution``, ``user`` and ``program`` of a :class:`Selection`.
        older_than: an age.
        dry_run: only say what would be erased.
        agreed: do not ask.
        ask: puts a question; whether the answer is yes.
        say: prints a line.

    Raises:
        InvalidInput: nothing or an empty id is given, or nobody can be asked.
        Interrupted: by Ctrl-C, while it is done.
        RequestFailed, StartupError: it can't be done.
        LedgerError: it is done, but a view could not follow yet.
    """
    moment = None if older_than is None else moment_before(utc_now(), older_than)
    selection = Selection(**given, recorded_by=moment)
    counts = _survey(settings, selection)
    if not any(counts.values()):
        say("there is nothing to erase")
        return
    say(f"to erase: {_listed(counts)}")
    if counts["versions"]:
        say("what stays of programs, as facts: signatures (fields, instructions) and source code")
    if dry_run:
        return
    if not agreed:
        if not sys.stdin.isatty():
            raise InvalidInput("nobody can be asked here; add --yes to erase, or --dry-run to look only")
        if not ask("Erase this for good?"):
            say("nothing was erased")
            return
    arguments = {name: value for name, value in asdict(selection).items() if value is not None}
    who = f"forget (process {os.getpid()})"
    left = "what was asked for stays so: the projector erases the rest, now or when it starts next"
    with interruptible(left), progress_bar("erasing") as tell:
        answer = carried_out(settings, "forget", arguments, who, lambda p: tell(p.done, p.total, p.what))
    say(f"erased: {_listed(answer)}")
    if not answer["reclaimed"]:
        say("a reader holds the freed space; it is given back, and overwritten, once the reader is done")
    if answer["copies"]:
        folders = " and ".join(str(settings.data_dir / name) for name in answer["copies"])
        say(f"a verify or replay holds copies in {folders}; they go when it ends")
    if answer["behind"]:
        raise LedgerError(
            f"not erased yet in: {', '.join(answer['behind'])}; start Redis and the projector, which does it;"
            " if a disk is full, make room"
        )


def _survey(settings: Settings, selection: Selection) -> dict[str, int]:
    tally = Tally()
    with (
        closing(SqliteEventStore(settings.store_path, readonly=True)) as store,
        progress_bar("looking") as tell,
    ):
        for found in find(store, selection):
            tally.add(found)
            tell(found.at, found.end, "looking")
    return tally.counts


def _listed(counts: dict[str, Any]) -> str:
    said = [
        what.format(counted(counts[name], thing)) for name, (what, thing) in _WORDS.items() if counts[name]
    ]
    return ", ".join(said) or "nothing that was not erased already"
