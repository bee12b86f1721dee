"""``dspy-ledger verify``: what every view should hold and whether it does, for people and for scripts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console

from dspy_ledger.cli.progress import progress_bar
from dspy_ledger.cli.wording import counted
from dspy_ledger.projector.verify import verify
from dspy_ledger.projector.verify_report import Report
from dspy_ledger.requests import Progress
from dspy_ledger.settings import Settings

__all__ = ["as_json", "run_verify", "show"]


def run_verify(settings: Settings) -> Report:
    """Verify with a bar on the terminal; raises what :func:`~dspy_ledger.projector.verify.verify` does."""
    with progress_bar("verifying") as bar:

        def tell(at: Progress) -> None:
            bar(at.done, at.total, at.what)

        return verify(settings, tell)


def as_json(report: Report) -> dict[str, Any]:
    """One JSON-able object."""
    parts = {name: asdict(part) for name, part in report.parts.items()}
    return {"ledger_id": report.ledger_id, "clean": report.clean, **parts}


def show(report: Report, console: Console) -> None:
    """Print it for people."""
    for name, part in report.parts.items():
        mark = "[yellow]![/yellow]" if part.count else "[green]✓[/green]" if part.compared else "-"
        known = part.compared and part.digest
        at = f"at position {part.position:,}  {part.digest}" if known else "not compared"
        console.print(f"{mark} [bold]{name:<9}[/bold] {at}")
        for line in part.differences:
            console.print(f"    {line}", markup=False)
        if part.count > len(part.differences):
            console.print(f"    … and {counted(part.count - len(part.differences), 'more difference')}")
        for line in part.notes:
            console.print(f"    note: {line}", markup=False)
    if not report.clean:
        count = sum(part.count for part in report.parts.values())
        found = counted(count, "difference")
        console.print(f"{found}; `dspy-ledger replay` mends views, a backup the event store itself")
