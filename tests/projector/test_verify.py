"""Verify finds every flipped byte, and nothing where there is nothing."""

from __future__ import annotations

import io
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from rich.console import Console

from dspy_ledger.cli.verify import show
from dspy_ledger.errors import LedgerError, StartupError, StoreError
from dspy_ledger.projector.asking import carried_out
from dspy_ledger.projector.claims import Claim
from dspy_ledger.projector.lease import WriterLease
from dspy_ledger.projector.office import open_office
from dspy_ledger.projector.projection import advance
from dspy_ledger.projector.replay import replay
from dspy_ledger.projector.verify import verify
from dspy_ledger.projector.verify_report import Report
from dspy_ledger.projector.view import View
from dspy_ledger.requests import Progress
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.views import current_view
from projector.ledgers import append, evaluation, execution, kept, registration, tree
from projector.test_replay import SOME, follow, live
from servers import Valkey


def all_of(report: Report) -> list[str]:
    return [line for part in report.parts.values() for line in part.differences]


def in_force(settings: Settings) -> Path:
    path = current_view(settings.data_dir)
    assert path is not None
    return path


def change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()


def test_a_body_that_is_gone_without_an_erasure_is_noted(settings: Settings) -> None:
    """As in an export up to a position before the erasure: no difference, and nothing to pass over."""
    with live(settings, [execution(f"e{n}", n, body={"inputs": n}) for n in range(1, 20)]):
        pass
    carried_out(settings, "forget", {"execution": "e3"}, "a test")
    report = verify(settings)
    assert (report.clean, report.ledger.notes) == (True, [])
    change(settings.store_path, "DELETE FROM bodies WHERE position IN (7, 16)")
    for folded in ("views.current", "directory.json"):
        (settings.data_dir / folded).unlink()
    with open_office(settings) as office:
        follow(office)
    report = verify(settings)
    assert report.clean, all_of(report)
    assert report.ledger.notes == [
        f"position {position}: its body is gone, and no erasure says so" for position in (7, 16)
    ]


def test_what_was_folded_live_is_clean_and_nothing_is_written(settings: Settings) -> None:
    with live(settings, SOME):
        pass
    before = tree(settings.programs_dir)
    report = verify(settings)
    assert report.clean, all_of(report)
    assert {name: part.position for name, part in report.parts.items()} == dict.fromkeys(report.parts, 20)
    assert all(part.digest for part in report.parts.values())
    assert tree(settings.programs_dir) == before
    assert not (settings.data_dir / "verify-scratch").exists()


def test_an_empty_ledger_is_clean(settings: Settings) -> None:
    with live(settings, []):
        pass
    assert verify(settings).clean


def test_the_same_ledger_in_other_folders_has_the_same_digests(
    settings: Settings, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with live(settings, SOME) as office:
        events = list(office.store.read_all())
        ledger_id = office.store.ledger_id
    other = make_settings(
        settings.redis_url,
        data_dir=tmp_path / "other",
        programs_dir=tmp_path / "files",
        stream_prefix="other",
    )
    store = SqliteEventStore.create(other.store_path, ledger_id=ledger_id)
    store.restore(events)
    store.close()
    with open_office(other) as office:
        follow(office)
    one, two = verify(settings), verify(other)
    assert two.clean, all_of(two)
    assert [p.digest for p in one.parts.values()] == [p.digest for p in two.parts.values()]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "UPDATE executions SET model_id = 'x' WHERE position = 5",
            "executions 5, column model_id: it is x, the",
        ),
        ("DELETE FROM executions WHERE position = 5", "executions 5: the row is missing"),
        ("UPDATE executions SET position = 99 WHERE position = 5", "executions 99: the row is not of this"),
        ("UPDATE totals SET executions = 7", "column executions: it is 7, the ledger says 18"),
        ("DROP INDEX executions_by_model", "its tables or indexes are not those of this release"),
    ],
)
def test_a_changed_row_is_told_by_table_key_and_column(settings: Settings, statement: str, told: str) -> None:
    with live(settings, SOME):
        pass
    change(in_force(settings), statement)
    report = verify(settings)
    assert any(told in line for line in report.sql.differences), report.sql.differences
    assert report.ledger.count == report.directory.count == 0


def test_a_changed_line_a_missing_file_and_one_of_another_ledger_are_told(settings: Settings) -> None:
    with live(settings, SOME):
        pass
    root = settings.programs_dir
    lines = root / "p/executions/2026-11-22.jsonl"
    lines.write_bytes(lines.read_bytes().replace(b'"e7"', b'"e8"'))
    (root / "p/evaluations/v1_m.json").unlink()
    (root / "p/9.9.9.json").write_text("{}")
    (root / "README.md").write_text("hello")
    report = verify(settings)
    assert sorted(report.directory.differences) == [
        "p/9.9.9.json is not of this ledger",
        "p/evaluations/v1_m.json is missing",
        "p/executions/2026-11-22.jsonl, line 6: it is not what the ledger says",
    ]
    assert report.directory.notes == ["README.md is not of this ledger"]
    assert report.sql.count == 0


def test_lines_that_a_crash_left_beyond_the_checkpoint_are_no_difference(settings: Settings) -> None:
    """The next start cuts them, or they are written again with the same bytes."""
    with live(settings, SOME) as office:
        checkpoint = (settings.data_dir / "directory.json").read_bytes()
        append(office.store, [execution("more", 80)])
        follow(office)
    (settings.data_dir / "directory.json").write_bytes(checkpoint)
    report = verify(settings)
    assert report.clean, all_of(report)


def test_the_registry_must_hold_at_least_what_the_store_knows(valkey: Valkey, settings: Settings) -> None:
    with live(settings, [*SOME, registration("r2", 21, content="c1:1", version="1.1.0")]):
        pass
    keys = settings.keys
    with valkey.client() as client:
        client.hset(keys.program("p"), "c1:of a producer", b'{"version":"9.0.0","interface":null}')
        assert verify(settings).clean
        client.hdel(keys.program("p"), "c1:0")
        client.hset(keys.program("p"), "c1:1", b'{"version":"1.2.0","interface":null}')
    assert verify(settings).registry.differences == [
        "p 1.0.0 (c1:0) is missing; run `dspy-ledger replay registry`",
        "p 1.1.0 (c1:1): it is 1.2.0 there, and stays: a producer may have decided it",
    ]


def test_a_registry_entry_that_cannot_be_read_is_told_and_mended_by_replay(
    valkey: Valkey, settings: Settings
) -> None:
    with live(settings, SOME):
        pass
    keys = settings.keys
    with valkey.client() as client:
        client.hset(keys.program("p"), "c1:0", b"junk")
        [told] = verify(settings).registry.differences
        assert "is no JSON" in told
        replay(settings, "registry")
        assert verify(settings).clean
        client.delete(keys.program("p"))
        client.set(keys.program("p"), "no hash")
        assert "WRONGTYPE" in verify(settings).registry.differences[0]


def test_a_content_that_cannot_be_read_is_told_and_mended_by_replay(
    valkey: Valkey, settings: Settings
) -> None:
    """Verify was content, replay left it, and every producer failed to read the registry."""
    with live(settings, [registration("r1", 1, body={"demos": ["a"]})]):
        pass
    with valkey.client() as client:
        right = client.hget(settings.keys.contents("p"), "c1:0")
        client.hset(settings.keys.contents("p"), "c1:0", b"junk")
        [told] = verify(settings).registry.differences
        assert "is no JSON" in told
        replay(settings, "registry")
        assert client.hget(settings.keys.contents("p"), "c1:0") == right
        assert verify(settings).clean


def test_a_state_that_was_erased_and_lies_in_redis_still_is_told_and_mended_by_replay(
    valkey: Valkey, settings: Settings
) -> None:
    with live(
        settings, [registration("r1", 1, body={"demos": ["a"]}), registration("r2", 2, content="c1:1")]
    ):
        pass
    with valkey.client() as client:
        kept_too_long = client.hget(settings.keys.contents("p"), "c1:0")
        carried_out(settings, "forget", {"program": "p"}, "a test")
        assert verify(settings).clean
        client.hset(settings.keys.contents("p"), "c1:0", kept_too_long)
        assert verify(settings).registry.differences == [
            "p 1.0.0 (c1:0): its state was erased, and is there; run `dspy-ledger replay registry`"
        ]
        replay(settings, "registry")
        assert verify(settings).clean
        assert b"demos" not in client.hget(settings.keys.contents("p"), "c1:0")


def test_a_redis_that_is_down_is_noted(settings: Settings, make_settings: Callable[..., Settings]) -> None:
    with live(settings, SOME):
        pass
    report = verify(make_settings("redis://127.0.0.1:1/0"))
    assert report.clean
    assert "Redis can't be asked" in report.registry.notes[0]
    out = io.StringIO()
    show(report, Console(file=out, width=200))
    assert "- registry  not compared\n" in out.getvalue()
    assert out.getvalue().count("✓") == 3


def test_a_disk_that_is_full_is_told_in_a_line(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with live(settings, SOME):
        pass

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(View, "apply", full)
    with pytest.raises(StoreError, match="can't go on: database or disk is full; see to the disk of"):
        verify(settings)
    with pytest.raises(StoreError, match="can't go on: database or disk is full; see to the disk of"):
        replay(settings, "sql")


def test_a_file_where_a_folder_belongs_and_a_folder_where_a_file_belongs_are_differences(
    settings: Settings,
) -> None:
    with live(settings, SOME):
        pass
    version = settings.programs_dir / "p" / "1.0.0.json"
    version.unlink()
    version.mkdir()
    assert verify(settings).directory.differences == ["p/1.0.0.json, line 1: it is not what the ledger says"]
    shutil.rmtree(settings.programs_dir / "p")
    (settings.programs_dir / "p").write_text("no folder")
    assert "p/1.0.0.json is missing" in verify(settings).directory.differences


def test_of_many_strangers_a_few_are_named(settings: Settings) -> None:
    with live(settings, SOME):
        pass
    for number in range(100):
        (settings.programs_dir / f"notes-{number}.md").write_text("mine")
    report = verify(settings)
    assert report.clean
    assert len(report.directory.notes) == 20


def test_a_view_that_is_not_there_is_a_difference(settings: Settings) -> None:
    with live(settings, SOME):
        pass
    in_force(settings).unlink()
    (settings.data_dir / "directory.json").unlink()
    report = verify(settings)
    assert "there is no view" in report.sql.differences[0]
    assert "there is no checkpoint" in report.directory.differences[0]
    assert report.sql.digest
    assert report.directory.digest


@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_byte_is_found_wherever_it_matters(
    valkey: Valkey, make_settings: Callable[..., Settings], tmp_path: Path, data: st.DataObject
) -> None:
    """In the store or in a view, a flip that no query can see (free space) leaves everything as it was."""
    settings = make_settings(valkey.url)
    if not settings.store_path.exists():
        with live(settings, [*SOME, evaluation("v2", 22, results={"text": "x" * 5000})]):
            pass
        for path in (settings.store_path, in_force(settings)):
            change(path, "PRAGMA user_version = 1")  # closing the last connection empties the WAL
    files = [settings.store_path, in_force(settings), *sorted(settings.programs_dir.rglob("*.json*"))]
    path = data.draw(st.sampled_from(files))
    right = path.read_bytes()
    at = data.draw(st.integers(0, len(right) - 1))
    seen = right[at] != 0 or path.suffix != ".db"
    flipped = bytearray(right)
    flipped[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(flipped)
    try:
        report = verify(settings)
        found = not report.clean
    except (LedgerError, sqlite3.Error):  # so damaged that it can't even be opened: told as well
        found = True
    finally:
        for leftover in path.parent.glob(f"{path.name}-*"):
            leftover.unlink()
        path.write_bytes(right)
    if seen and (path.suffix != ".db" or at >= 100):
        assert found or _unused(path, right, bytes(flipped)), at


def _unused(path: Path, right: bytes, flipped: bytes) -> bool:
    """Whether everything that SQL can read from two database files is the same."""
    dumps = []
    for n, content in enumerate((right, flipped)):
        copy = path.with_name(f"copy{n}.sqlite")
        copy.write_bytes(content)
        with sqlite3.connect(copy) as db:
            db.text_factory = bytes
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            dumps.append([db.execute(f"SELECT * FROM {name.decode()}").fetchall() for name in names])
        db.close()
        for leftover in path.parent.glob("copy*.sqlite*"):
            leftover.unlink()
    return dumps[0] == dumps[1]


def test_beside_a_projector_at_work_it_is_clean(settings: Settings) -> None:
    """Rows and files change all the time; each is compared at a position where it stood."""
    halt = threading.Event()
    with live(settings, SOME) as office:

        def write() -> None:
            n = 1000
            while not halt.is_set():
                n += 10  # with gaps, so that the producer's account is long to read
                append(
                    office.store,
                    [
                        execution(f"w{n}", n),
                        registration(f"r{n}", n + 1, description=str(n)),
                        evaluation("v", n + 2),
                    ],
                )
                for projection in (office.views, office.directory, office.registry):
                    advance(office.store, projection)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(3):
                report = verify(settings)
                assert report.clean, all_of(report)
        finally:
            halt.set()
            writer.join()
        assert WriterLease.is_held(settings.data_dir)


@pytest.mark.parametrize("moment", ["checking the event store", "folding", "comparing rows"])
def test_a_view_that_is_put_in_force_meanwhile_is_compared_in_place_of_the_old(
    settings: Settings, moment: str
) -> None:
    """The old one is removed then: it was said that it could not be read."""
    with live(settings, SOME):
        pass

    def swap(at: Progress) -> None:
        if at.what == moment and in_force(settings).name == "views-1.db":
            replay(settings, "sql")

    report = verify(settings, swap)
    assert report.clean, all_of(report)
    assert in_force(settings).name == "views-2.db"


def test_progress_is_told(settings: Settings) -> None:
    with live(settings, SOME):
        pass
    told: list[str] = []
    verify(settings, lambda at: told.append(at.what))
    assert {"checking the event store", "folding", "comparing rows", "comparing files"} <= set(told)


def test_a_second_verify_waits_for_nobody_and_says_so(settings: Settings) -> None:
    with live(settings, SOME):
        pass
    kept(Claim(settings.data_dir, "verify"))
    with pytest.raises(StartupError, match="at it already"):
        verify(settings)
