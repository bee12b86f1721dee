"""The demo's last page: what is in the ledger, asked over REST as anybody would, and where to look."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore

__all__ = ["Summary", "show_summary"]

_EXECUTION = "org.dspy-ledger.ExecutionCompleted.v1"


@dataclass
class Summary:
    """What the demo's processes say they did."""

    recorded: dict[str, int] = field(default_factory=dict)  # by producer
    dropped: int = 0
    executions: int = 0
    seconds: float = 0.0  # from the first to the last execution
    scores: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def add_producer(self, source: str, recorded: int, dropped: int) -> None:
        """One process ended having recorded so many events."""
        self.recorded[source] = recorded
        self.dropped += dropped


def show_summary(
    summary: Summary, settings: Settings, directory: Path, console: Console, *, serving: bool
) -> bool:
    """Print it; whether store, SQL, files and REST agree with what the processes recorded."""
    base = f"http://{settings.api_host}:{settings.api_port}"
    programs = list(_items(f"{base}/v1/programs"))
    console.print()
    console.print(_programs_table(base, programs))
    console.print(_scores_table(base, programs))
    rate = summary.executions / summary.seconds if summary.seconds else 0
    console.print(
        f"this run: {summary.executions} executions by replicas in {summary.seconds:.1f} s"
        f" ({rate:.0f}/s, each a real request to a model over HTTP)"
    )
    agree = _show_account(summary, settings, base, console)
    _show_files(directory, console)
    program = f"{directory}/dspy_programs/text_completion"
    console.print("\n[bold]Look[/bold]")
    console.print(f"      git diff --no-index {program}/1.0.0.json {program}/1.1.0.json", soft_wrap=True)
    for path in ("", "/text_completion/tree", "/executions?limit=10") if serving else ():
        console.print(f"      {base}/v1/programs{path}", soft_wrap=True)
    if not serving:
        console.print("      without --exit it keeps serving the REST API")
    return agree


def _programs_table(base: str, programs: list[dict[str, Any]]) -> Table:
    table = Table(
        "program", "versions", "executions", "errors", "tokens", "cost", box=None, header_style="bold"
    )
    for program in programs:
        detail = _get(f"{base}/v1/programs/{quote(program['id'])}")
        totals = detail["totals"]
        tokens = (totals["input_tokens"] or 0) + (totals["output_tokens"] or 0)
        table.add_row(
            detail["name"],
            ", ".join(detail["versions"]),
            f"{totals['executions']:,}",
            f"{totals['errors']:,}",
            f"{tokens:,}",
            f"${totals['cost_usd'] or 0:.4f}",
        )
    return table


def _scores_table(base: str, programs: list[dict[str, Any]]) -> Table:
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for program in programs:
        # Newest first, so that the first one seen is the one to show.
        for row in _items(f"{base}/v1/programs/{quote(program['id'])}/evaluations"):
            score = (row["results"] or {}).get("score")
            if row["model_id"] and score is not None:
                key = (program["name"], row["program_version"] or "?")
                scores.setdefault(key, {}).setdefault(row["model_id"], score)
    models = sorted({model for row in scores.values() for model in row})
    table = Table("evaluation", "version", *models, box=None, header_style="bold")
    for (name, version), row in sorted(scores.items()):
        table.add_row(name, version, *(f"{row[model]:.1f}" if model in row else "–" for model in models))
    return table


def _show_account(summary: Summary, settings: Settings, base: str, console: Console) -> bool:
    store = SqliteEventStore(settings.store_path, readonly=True)
    marks = {account.source: account.mark for account in store.producers()}
    in_store = sum(1 for event in store.read_all(types=[_EXECUTION]))
    store.close()
    recorded = sum(summary.recorded.values())
    stored = sum(min(marks.get(source, 0), count) for source, count in summary.recorded.items())
    over_rest = sum(1 for _ in _items(f"{base}/v1/programs/executions", limit=500))
    in_files = sum(
        path.read_bytes().count(b"\n") for path in settings.programs_dir.glob("*/executions/*.jsonl")
    )
    agree = stored == recorded and not summary.dropped and in_store == over_rest == in_files
    mark = "[green]✓[/green]" if agree else "[red]✗[/red]"
    console.print(
        f"{mark} {recorded} events recorded, {stored} stored, {summary.dropped} dropped"
        f" by this run; executions by all runs here: {in_store} in the store,"
        f" {over_rest} over REST, {in_files} in files"
    )
    return agree


def _show_files(directory: Path, console: Console) -> None:
    programs = directory / "dspy_programs"
    console.print(f"\n[bold]Files[/bold] {programs}/")
    for folder in sorted(path for path in programs.iterdir() if path.is_dir()):
        versions = sorted(path.name for path in folder.glob("*.json"))
        evaluations = len(list((folder / "evaluations").glob("*.json")))
        days = sorted(path.name for path in (folder / "executions").glob("*.jsonl"))
        console.print(f"      {folder.name}/ {' '.join(versions)}")
        console.print(
            f"      {' ' * len(folder.name)}  evaluations/ ({evaluations})  executions/ {' '.join(days)}"
        )


def _items(url: str, limit: int = 100) -> Iterator[dict[str, Any]]:
    """All items of a list, page by page."""
    cursor = None
    while True:
        query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
        page = _get(f"{url}?{urlencode(query)}")
        yield from page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _get(url: str) -> Any:
    with urlopen(url, timeout=30) as answer:  # noqa: S310  our own API on this machine
        return json.load(answer)
