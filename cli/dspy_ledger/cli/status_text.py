"""What ``dspy-ledger status`` found, printed for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from textwrap import fill
from typing import Any

from rich.console import Console
from rich.table import Table

from dspy_ledger.cli.status import count_of
from dspy_ledger.cli.wording import counted
from dspy_ledger.timestamps import canonical_time, to_datetime, utc_now

__all__ = ["show"]

_SILENT = timedelta(minutes=10)
_MOST_ROWS = 20
_MOST_RANGES = 3


def show(status: dict[str, Any], console: Console) -> None:
    """Print it: whether all is well, what is not, then how far everything is."""
    _show_health(status, console)
    console.print(f"[bold]ledger[/bold] {status['ledger_id']}")
    runs = "runs" if status["projector_running"] else "does not run"
    console.print(f"[bold]projector[/bold] {runs}")
    if status["broker"]["up"]:
        _show_broker(status["broker"], console, running=status["projector_running"])
    table = _table("projection", "position", "behind", "left out")
    for name, position in status["projections"].items():
        known = ("?", "?") if position is None else (f"{position:,}", f"{status['lag'][name]:,}")
        table.add_row(name, *known, f"{status['parked'].get(name, 0):,}")
    console.print(table)
    for request in status["requests"]:
        done, total, what = request["progress"] or (0, 0, "")
        how_far = f", {what} {done:,} of {total:,}" if total else ""
        _line(console, f"request {request['id']} {request['action']} by {request['who']}{how_far}")
    _show_producers(status["producers"], console)


def _show_health(status: dict[str, Any], console: Console) -> None:
    """One line that is green or red, and each problem."""
    events = counted(status["position"], "event")
    problems = status["problems"]
    if not problems:
        console.print(f"[green]✓[/green] [bold]{events}[/bold]: nothing missing, nothing behind\n")
        return
    console.print(f"[red]✗[/red] [bold]{events}[/bold], [red]{counted(len(problems), 'problem')}[/red]")
    for problem in problems:
        console.print("[red]-[/red] ", end="")
        _line(console, _hanging(problem, console.width) if console.is_terminal else problem)
    console.print()


def _hanging(text: str, width: int) -> str:
    """Text in lines of that width, all but the first indented; no word is broken."""
    return fill(
        text, max(width, 20), initial_indent="  ", subsequent_indent="  ", break_long_words=False,
        break_on_hyphens=False,
    ).removeprefix("  ")  # fmt: skip


def _show_broker(broker: dict[str, Any], console: Console, *, running: bool) -> None:
    idle = "" if running else " (no projector runs)"
    console.print("[bold]broker[/bold] ", end="")
    _line(
        console,
        f"{broker['url']} ({broker['version']}), {_entries(broker['stream_length'])},"
        f" {broker['unread']:,} not read yet{idle}",
    )
    reading = broker.get("reading")
    if reading is None:
        return
    if reading["said"] and not reading["again"]:  # else it is among the problems
        console.print(f"       {reading['began'][:19]}Z: {reading['said']}")
    if reading["trimmed"]:
        cut = f", {reading['cut']:,} of them unread by a consumer group" if reading["cut"] else ""
        console.print(
            f"       {reading['trimmed']:,} stored entries deleted since {reading['began'][:19]}Z{cut}"
        )


def _show_producers(producers: list[dict[str, Any]], console: Console) -> None:
    """Those that record or lack something, one a line; the silent and complete ones together."""
    if not producers:
        return
    before = canonical_time((to_datetime(utc_now()) - _SILENT).isoformat())
    shown = [producer for producer in producers if producer["last_seen"] >= before or not _complete(producer)]
    # What lacks something first: it must not be pushed out by those that merely run.
    shown.sort(key=lambda producer: producer["last_seen"], reverse=True)
    shown.sort(key=lambda producer: count_of(producer["missing"]) == 0)
    for producer in shown[:_MOST_ROWS]:
        _line(console, producer["source"])
        _line(console, f"  {_told(producer)}")
        if producer["missing"]:
            _line(console, f"  missing as of its last report: {_spelled(producer['missing'])}")
    if len(shown) > _MOST_ROWS:
        more = counted(len(shown) - _MOST_ROWS, "more producer")
        console.print(f"… and {more}; --json has all")
    silent = len(producers) - len(shown)
    if silent:
        events = sum(producer["stored"] for producer in producers) - sum(p["stored"] for p in shown)
        are = "is" if silent == 1 else "are"
        console.print(f"{counted(silent, 'silent producer')} {are} complete: {counted(events, 'event')}")


def _told(producer: dict[str, Any]) -> str:
    """An account's numbers, without those that are usually 0 and are."""
    told = {"recorded": producer["recorded"], "stored": producer["stored"]}
    rare = {
        "dead-lettered": producer["dead_lettered"],
        "dropped": count_of(producer["dropped"]),
        "unconfirmed": count_of(producer["unconfirmed"]),
        "sampled out": producer["sampled_out"],
    }
    told |= {what: count for what, count in rare.items() if count}
    numbers = ", ".join(f"{count:,} {what}" for what, count in told.items())
    return f"{numbers}; last seen {producer['last_seen'][:19]}Z"


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"


def _line(console: Console, text: str) -> None:
    """Print what may have come over the wire, which is no markup."""
    console.print(text, markup=False)


def _complete(producer: dict[str, Any]) -> bool:
    return not (
        producer["missing"] or producer["dead_lettered"] or producer["dropped"] or producer["unconfirmed"]
    )


def _spelled(ranges: Sequence[Sequence[int]]) -> str:
    """``12 (3–9, 12, 20–23)``; the first few ranges only."""
    spelled = [f"{first}" if first == last else f"{first}–{last}" for first, last in ranges[:_MOST_RANGES]]
    more = ["…"] if len(ranges) > _MOST_RANGES else []
    return f"{count_of(ranges):,} ({', '.join(spelled + more)})"


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, header_style="bold", pad_edge=False)
