"""``dspy-ledger replay``: projections built anew, one after the other, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from dspy_ledger.cli.progress import progress_bar
from dspy_ledger.cli.wording import counted
from dspy_ledger.projector.replay import PROJECTIONS, replay
from dspy_ledger.requests import Progress
from dspy_ledger.settings import Settings

__all__ = ["run_replay"]

_NAMED = 10  # strangers that are listed


def run_replay(
    settings: Settings,
    projection: str,
    *,
    fresh: bool,
    prune: bool,
    retry: Sequence[int] = (),
    console: Console,
) -> None:
    """Replay a projection, or ``all``; see :func:`dspy_ledger.projector.replay` for what it raises."""
    for name in PROJECTIONS if projection == "all" else (projection,):
        pruning = prune and name == "directory" if projection == "all" else prune
        with progress_bar(name) as bar:

            def tell(at: Progress, name: str = name) -> None:
                bar(at.done, at.total, f"{name}: {at.what}")

            answer = replay(settings, name, fresh=fresh, prune=pruning, retry=retry, tell=tell)
        console.print(_told(answer))
        for stranger in answer.get("named", [])[:_NAMED]:
            console.print(f"  {stranger}", markup=False)


def _told(answer: dict[str, Any]) -> str:
    position, seconds = answer["position"], answer["seconds"]
    rate = position / seconds if seconds else 0
    events = counted(position, "event")
    line = f"[bold]{answer['projection']}[/bold]: {events} in {seconds:,.1f} s ({rate:,.0f}/s)"
    if "view" in answer:
        return f"{line}; {answer['view']} is in force"
    if "changed" in answer:
        made = counted(answer["made"], "file")
        line += f"; {made} made, {answer['changed']:,} mended, {answer['unchanged']:,} kept"
        if answer["pruned"]:
            return f"{line}, {counted(answer['pruned'], 'stranger')} deleted:"
        if answer["strangers"]:
            strangers = answer["strangers"]
            are, them = ("is", "it") if strangers == 1 else ("are", "them")
            return (
                f"{line}; {counted(strangers, 'file')} {are} not of this ledger"
                f" (`dspy-ledger replay directory --prune` deletes {them}):"
            )
    return line
