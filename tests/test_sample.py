"""The repository's own dspy_programs/ is what its exported ledger says, to the byte.

In place::

    DSPY_LEDGER_DATA_DIR=$(mktemp -d) dspy-ledger import tests/sample/ledger.jsonl

and `git status` stays clean. How the ledger was recorded is in tests/sample/record.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dspy_ledger.projector.archive import Archive
from dspy_ledger.store import SqliteEventStore, StoredEvent

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "sample" / "ledger.jsonl"
PROGRAMS = ROOT / "dspy_programs"


def imported(folder: Path) -> Path:
    """The programs dir that the import command makes of the sample."""
    own = {"DATA_DIR": folder / "data", "PROGRAMS_DIR": folder / "dspy_programs"}
    ended = subprocess.run(
        [sys.executable, "-m", "dspy_ledger.cli.main", "import", str(SAMPLE)],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **{f"DSPY_LEDGER_{name}": str(path) for name, path in own.items()}},
    )
    assert ended.returncode == 0, ended.stderr
    return folder / "dspy_programs"


def events() -> list[StoredEvent]:
    with SAMPLE.open("rb") as file:
        return [event for batch in Archive(file).batches() for event in batch.events]


def kept_by_git(folder: Path) -> dict[str, bytes]:
    """Every file but executions, which the shipped .gitignore leaves out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "executions"
    }


def test_the_committed_programs_are_rebuilt_from_the_exported_ledger_to_the_byte(tmp_path: Path) -> None:
    rebuilt = kept_by_git(imported(tmp_path))
    listed = subprocess.run(
        ["git", "ls-files", "-z", "dspy_programs"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    committed = {name.removeprefix("dspy_programs/") for name in listed.stdout.split("\0") if name}
    assert committed == rebuilt.keys()
    assert kept_by_git(PROGRAMS) == rebuilt


def test_the_sample_shows_what_a_team_would_see() -> None:
    found = events()
    versions = {(e.data["program_id"], e.data["version"]) for e in found if "Registered" in e.type}
    assert versions >= {
        ("text_completion", "1.0.0"),
        ("text_completion", "1.1.0"),  # optimized
        ("contact_extractor", "1.0.0"),
        ("contact_extractor", "2.0.0"),  # another input: a breaking change
        ("topic_explainer", "1.0.0"),
    }
    executions = [e for e in found if "ExecutionCompleted" in e.type]
    assert len(executions) >= 39
    assert {e.time[:10] for e in executions} == {"2026-11-20", "2026-11-21"}
    assert [e.data["error"]["message"] for e in executions if e.data["status"] == "error"] == [
        "the topic is empty"
    ]
    said = [e for e in found if "EvaluationSaved" in e.type]
    assert {e.data["model_id"] for e in said if e.data.get("program_id")} == {"gpt-4o-mini", "gpt-4.1-nano"}
    assert sum(e.data.get("execution_id") is not None for e in said) == 3


def test_the_sample_is_a_sound_ledger(tmp_path: Path) -> None:
    imported(tmp_path)
    store = SqliteEventStore(tmp_path / "data" / "ledger.db", readonly=True)
    assert list(store.check()) == []
    assert store.dead_letter_count() == 0
    assert all(account.missing == [] for account in store.producers())
    store.close()


def test_no_host_path_or_user_of_a_machine_is_in_the_sample() -> None:
    text = SAMPLE.read_text("utf-8")
    assert {event.source.split("/")[2] for event in events()} == {"llm-1", "llm-2"}
    for word in ("127.0.0.1", "localhost", "/tmp", "/home", "site-packages", "offline"):
        assert word not in text
