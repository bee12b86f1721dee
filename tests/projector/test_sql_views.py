"""The SQL read models: what they hold, and that they are the same however they came about."""

from __future__ import annotations

import errno
import math
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_ledger import histogram
from dspy_ledger import views as views_module
from dspy_ledger.errors import StoreError
from dspy_ledger.projector import SqlViews, catch_up, project
from dspy_ledger.projector import sql as sql_module
from dspy_ledger.projector.view import View
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.views import POINTER, ViewReader, current_view
from projector.ledgers import (
    NOON,
    Fields,
    append,
    evaluation,
    event,
    execution,
    histories,
    kept,
    ledger,
    registration,
)

TABLES = (
    "programs", "program_tags", "versions", "wordings", "executions", "evaluations", "totals", "hours",
    "days", "spans", "feedback", "checkpoint",
)  # fmt: skip


def content(folder: Path) -> dict[str, list[tuple]]:
    view = current_view(folder)
    assert view is not None
    db = sqlite3.connect(view)
    try:
        return {table: sorted(db.execute(f"SELECT * FROM {table}"), key=repr) for table in TABLES}
    finally:
        db.close()


def rows(folder: Path, query: str) -> list[tuple]:
    reader = ViewReader(folder)
    try:
        return [tuple(row) for row in reader.connection().execute(query)]
    finally:
        reader.close()


def views_of(folder: Path, *entries: Fields) -> SqliteEventStore:
    store = ledger(folder, entries)
    views = SqlViews(folder, store)
    catch_up(store, views)
    views.close()
    return store


def environmental(event_id: str, sequence: int, environment: str, **more: object) -> Fields:
    fields = execution(event_id, sequence, **more)
    envelope = {**orjson.loads(fields[b"__data__"]), "environment": environment}
    return {**fields, b"__data__": orjson.dumps(envelope)}


def test_an_execution_keeps_its_hash_and_finds_its_label_when_the_registration_comes_later(
    tmp_path: Path,
) -> None:
    store = ledger(tmp_path)
    views = kept(SqlViews(tmp_path, store))
    joined = (
        "SELECT execution_id, version FROM executions LEFT JOIN versions USING (program_id, content_hash)"
    )
    project(store, [views], append(store, [execution("a", 1)]))
    assert rows(tmp_path, joined) == [("a", None)]
    project(store, [views], append(store, [registration("b", 2, version="1.4.0")]))
    assert rows(tmp_path, joined) == [("a", "1.4.0")]


def test_totals_add_up_per_program_content_and_model_and_tell_of_how_many_they_know(tmp_path: Path) -> None:
    views_of(
        tmp_path,
        execution("a", 1, usage={"input_tokens": 3, "output_tokens": 4}, cost_usd=0.5),
        execution("b", 2, status="error", error={"type": "ValueError", "message": "no"}, latency_ms=2),
        execution("c", 3, content=None, model_id=None, usage={"output_tokens": 0}),
    )
    assert rows(tmp_path, "SELECT * FROM totals ORDER BY model_id") == [
        ("p", "", "", 1, 0, 0, 0, 1, 0, 0, 0, 1500),
        ("p", "c1:0", "m", 2, 1, 1, 3, 1, 4, 1, 500_000_000_000, 3500),
    ]


def test_hours_are_of_the_events_time_and_of_one_environment(tmp_path: Path) -> None:
    views_of(
        tmp_path,
        execution("a", 1, time="2026-11-22T12:59:59.999999Z", latency_ms=1),
        execution("b", 2, time="2026-11-22T13:00:00Z", latency_ms=0.02),
        execution("c", 3, time="2026-11-22T14:30:00+01:00", latency_ms=0.03),
        environmental("d", 4, "staging", time="2026-11-22T13:00:00Z"),
    )
    found = rows(
        tmp_path,
        "SELECT hour, environment, executions, latency, latencies FROM hours WHERE level = 'finest'",
    )
    assert [row[:4] for row in found] == [
        ("2026-11-22T12", "", 1, 1000),
        ("2026-11-22T13", "", 2, 50),
        ("2026-11-22T13", "staging", 1, 1500),
    ]
    assert [histogram.decode(row[4]) for row in found] == [
        {histogram.bucket_of(1000): 1},
        {20: 1, 30: 1},
        {histogram.bucket_of(1500): 1},
    ]


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_each_level_of_hours_and_days_counts_each_execution_once_however_events_are_batched(
    size: int, chance: random.Random
) -> None:
    facts = [
        (
            f"2026-11-2{chance.randrange(1, 4)}T{chance.randrange(10, 14)}",
            *map(chance.choice, ("pq", "ab", "cd")),
        )
        for _ in range(40)
    ]
    entries = [
        execution(f"e{n}", n, time=f"{hour}:00:00Z", program=program, model_id=model, content=digest)
        for n, (hour, program, model, digest) in enumerate(facts, 1)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with closing(ledger(folder)) as store, closing(SqlViews(folder, store)) as views:
            for at in range(0, len(entries), size):
                project(store, [views], append(store, entries[at : at + size]))
        found = content(folder)
    for table, length in (("hours", 13), ("days", 10)):
        expected = Counter[tuple[str, ...]]()
        for hour, program, model, digest in facts:
            period = hour[:length]
            expected.update({
                ("all", "", period, "", ""),
                ("model", "", period, "", model),
                ("program", program, period, "", ""),
                ("content", program, period, digest, ""),
                ("finest", program, period, digest, model),
            })  # fmt: skip
        assert {row[:5]: row[6] for row in found[table]} == expected
        for row in found[table]:
            assert sum(histogram.decode(row[-1]).values()) == row[6]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60), st.integers(1, 9), st.floats(0, 1))
def test_quantiles_come_from_the_roll_ups_within_a_sixty_fourth(
    latencies: list[float], size: int, share: float
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, entries = (
            ledger(folder),
            [execution(f"e{n}", n, latency_ms=ms) for n, ms in enumerate(latencies, 1)],
        )
        views = SqlViews(folder, store)
        for at in range(0, len(entries), size):
            project(store, [views], append(store, entries[at : at + size]))
        views.close()
        found = {
            encoded
            for table in ("hours", "days")
            for (encoded,) in rows(folder, f"SELECT latencies FROM {table}")
        }
        store.close()
    (told,) = histogram.quantiles(*found, [share])
    exact = sorted(latencies)[max(1, math.ceil(share * len(latencies))) - 1] * 1000
    assert told == pytest.approx(exact, rel=histogram.RELATIVE_ERROR, abs=0.5)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.randoms(use_true_random=False))
def test_feedback_is_of_the_program_of_its_first_execution_however_events_are_batched(
    size: int, chance: random.Random
) -> None:
    entries, first, given_on = [], dict[str, str](), list[tuple[int, str]]()
    for n in range(1, 31):
        name, program = f"x{chance.randrange(6)}", chance.choice("pq")
        if chance.random() < 0.5:
            first.setdefault(name, program)
            entries.append(execution(f"e{n}", n, execution_id=name, program=program))
        else:
            given_on.append((n, name))
            entries.append(evaluation(f"e{n}", n, program=None, content=None, execution_id=name))
    expected = sorted((first[name], position) for position, name in given_on if name in first)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with closing(ledger(folder)) as store, closing(SqlViews(folder, store)) as views:
            for at in range(0, len(entries), size):
                project(store, [views], append(store, entries[at : at + size]))
            assert sorted(content(folder)["feedback"]) == expected
            with closing(View.create(folder / "built.db", store, indexes=False)) as built:
                catch_up(store, built)
                built.index()
                assert sorted(built._db.execute("SELECT * FROM feedback")) == expected


def test_saving_an_evaluation_again_under_the_same_id_and_model_closes_the_row_before(tmp_path: Path) -> None:
    views_of(
        tmp_path,
        evaluation("a", 1, evaluation_id="x", results=1),
        evaluation("b", 2, evaluation_id="x", results=2),
        evaluation("c", 3, evaluation_id="x", model_id="other"),
        evaluation("d", 4, evaluation_id="x", program="q"),
        evaluation("e", 5, evaluation_id="x", results=3),
    )
    query = "SELECT event_id, until, results FROM evaluations WHERE model_id = 'm' AND program_id = 'p'"
    assert rows(tmp_path, query) == [("a", 2, "1"), ("b", 5, "2"), ("e", None, "3")]
    assert rows(tmp_path, "SELECT count(*) FROM evaluations WHERE until IS NULL") == [(3,)]


def test_feedback_keeps_its_execution_and_null_for_all_else(tmp_path: Path) -> None:
    views_of(tmp_path, evaluation("a", 1, program=None, content=None, model_id=None, execution_id="e"))
    assert rows(tmp_path, "SELECT program_id, content_hash, model_id, execution_id FROM evaluations") == [
        (None, None, None, "e")
    ]


def test_a_reworded_version_shows_the_last_words_and_the_first_everything_else(tmp_path: Path) -> None:
    views_of(
        tmp_path,
        registration("a", 1, description="old", tags=["x", "y"], name="First", source_code="1"),
        registration(
            "b", 2, description="new", tags=["y", "z", "z"], name="Second", source_code="2", version="9.0.0"
        ),
    )
    assert rows(tmp_path, "SELECT position, version, name, source_code, event_id FROM versions") == [
        (1, "1.0.0", "First", "1", "a")
    ]
    assert rows(tmp_path, "SELECT position, until, description, tags FROM wordings") == [
        (1, 2, "old", '["x","y"]'),
        (2, None, "new", '["y","z","z"]'),
    ]
    columns = "position, until, name, description, latest_version, first_position"
    assert rows(tmp_path, f"SELECT {columns} FROM programs") == [
        (1, 2, "First", "old", "1.0.0", 1),
        (2, None, "Second", "new", "1.0.0", 1),
    ]
    assert rows(tmp_path, "SELECT tag, position FROM program_tags ORDER BY position, tag") == [
        *(("x", 1), ("y", 1), ("y", 2), ("z", 2))
    ]


def test_a_registration_that_changes_nothing_leaves_no_row(tmp_path: Path) -> None:
    views_of(tmp_path, registration("a", 1, tags=["x"]), registration("b", 2, tags=["x"]))
    for table in ("programs", "program_tags", "versions", "wordings"):
        assert rows(tmp_path, f"SELECT position FROM {table}") == [(1,)], table


def test_numbers_beyond_64_bits_and_doubled_execution_ids_do_not_stop_the_fold(tmp_path: Path) -> None:
    huge = {"input_tokens": 2**64 - 1, "output_tokens": 1e300}
    hostile = [
        execution(f"e{n}", n, execution_id="same", usage=huge, latency_ms=2**64 - 1, cost_usd=2**64 - 1)
        for n in range(1, 30)
    ]
    views_of(tmp_path, *hostile, execution("minus", 30, cost_usd=-1e300, usage={"input_tokens": -1e300}))
    assert rows(tmp_path, "SELECT count(*) FROM executions WHERE execution_id = 'same'") == [(29,)]


def test_sums_beyond_64_bits_stay_at_the_highest_number_in_one_batch_or_in_many(tmp_path: Path) -> None:
    store = ledger(tmp_path)
    views = kept(SqlViews(tmp_path, store))
    huge = [execution(f"e{n}", n, cost_usd=1e300, usage={"input_tokens": 1e300}) for n in range(1, 31)]
    for at in range(0, 30, 10):
        project(store, [views], append(store, huge[at : at + 10]))
    assert rows(tmp_path, "SELECT executions, cost, input_tokens FROM totals") == [(30, 2**63 - 1, 2**63 - 1)]


def test_a_failing_batch_changes_nothing_and_can_be_applied_again(tmp_path: Path) -> None:
    store = ledger(tmp_path, [registration("a", 1), execution("b", 2)])
    views = kept(SqlViews(tmp_path, store))
    catch_up(store, views)
    before = content(tmp_path)
    batch = append(store, [execution("c", 3), registration("d", 4, content="c1:1")])
    views._view._db.execute(
        "CREATE TRIGGER no BEFORE INSERT ON versions BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with pytest.raises(sqlite3.IntegrityError):
        views.apply(batch)
    assert content(tmp_path) == before
    views._view._db.execute("DROP TRIGGER no")
    views.apply(batch)
    assert content(tmp_path)["totals"][0][3] == content(tmp_path)["hours"][0][6] == 2
    assert views.position() == 4


def test_a_view_of_another_ledger_or_version_or_a_broken_one_is_built_anew_beside_the_old(
    tmp_path: Path,
) -> None:
    store = views_of(tmp_path, registration("a", 1), execution("b", 2))
    for spoil in (
        "UPDATE checkpoint SET view_version = 0",
        "UPDATE checkpoint SET ledger_id = 'other'",
        "UPDATE checkpoint SET event_id = 'other'",
        "DELETE FROM checkpoint",
    ):
        old = current_view(tmp_path)
        assert old is not None
        with sqlite3.connect(old) as db:
            db.execute(spoil)
        db.close()
        views = kept(SqlViews(tmp_path, store))
        assert current_view(tmp_path) == old, "readers keep the old view until the new one is complete"
        catch_up(store, views)
        views.close()
        assert current_view(tmp_path) != old
        assert [path.name for path in tmp_path.glob("views-*.db")] == [current_view(tmp_path).name]
        assert rows(tmp_path, "SELECT execution_id FROM executions") == [("b",)]
    current_view(tmp_path).write_bytes(b"no database at all" * 1000)
    views = kept(SqlViews(tmp_path, store))
    assert catch_up(store, views) == 2


def test_a_flipped_byte_in_the_pointer_is_repaired_by_a_view_built_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = views_of(tmp_path, execution("a", 1))
    (tmp_path / POINTER).write_bytes(b"\xf6iews-1.db\n")
    views = kept(SqlViews(tmp_path, store))
    catch_up(store, views)
    assert "which is no view" in caplog.text
    assert rows(tmp_path, "SELECT execution_id FROM executions") == [("a",)]


def test_a_histogram_that_is_damaged_has_the_view_built_anew_and_parks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ledger(tmp_path)
    views = kept(SqlViews(tmp_path, store))
    project(store, [views], append(store, [execution("a", 1)]))
    db = sqlite3.connect(tmp_path / "views-1.db")
    db.execute("UPDATE hours SET latencies = x'0700'")
    db.commit()
    db.close()
    batch = append(store, [execution("b", 2)])
    with pytest.raises(sqlite3.DatabaseError):
        project(store, [views], batch)
    project(store, [views], batch)  # as the next attempt does
    assert "it is built anew" in caplog.text
    assert store.parked() == []
    assert rows(tmp_path, "SELECT DISTINCT executions FROM hours") == [(2,)]


def test_a_damaged_view_is_built_anew_once_there_is_room_and_parks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was closed before the new one could be made: every event was then found to break it, and parked."""
    store = ledger(tmp_path)
    views = kept(SqlViews(tmp_path, store))
    project(store, [views], append(store, [execution("a", 1)]))
    with sqlite3.connect(tmp_path / "views-1.db") as db:
        db.execute("UPDATE hours SET latencies = x'0700'")
    db.close()
    batch = append(store, [execution("b", 2), execution("c", 3)])

    def full(path: Path, **_: object) -> sqlite3.Connection:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dspy_ledger.projector.view.create_view", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                project(store, [views], batch)
    assert [path.name for path in tmp_path.glob("views-*.db")] == ["views-1.db"]
    with pytest.raises(sqlite3.DatabaseError):
        project(store, [views], batch)
    project(store, [views], batch)
    assert store.parked() == []
    assert rows(tmp_path, "SELECT DISTINCT executions FROM hours") == [(3,)]


def test_a_rebuilt_view_has_the_same_indexes_as_a_live_one(tmp_path: Path) -> None:
    store = views_of(tmp_path / "live", registration("a", 1))
    indexes = "SELECT sql FROM sqlite_schema WHERE type = 'index' ORDER BY name"
    views = kept(SqlViews(tmp_path / "rebuilt", store))
    assert not (tmp_path / "rebuilt" / POINTER).exists()
    catch_up(store, views)
    assert rows(tmp_path / "live", indexes) == rows(tmp_path / "rebuilt", indexes)


def test_a_build_cut_short_leaves_the_old_view_in_force_and_its_file_is_removed(tmp_path: Path) -> None:
    store = views_of(tmp_path, registration("a", 1), execution("b", 2))
    (tmp_path / "views-7.db").write_bytes(b"half")
    (tmp_path / "views-7.db-wal").write_bytes(b"half")
    views = kept(SqlViews(tmp_path, store))
    assert views.position() == 2
    assert sorted(path.name for path in tmp_path.glob("views-7*")) == []


def test_events_of_no_interest_move_the_checkpoint_only(tmp_path: Path) -> None:
    report = event("ProducerReported", {"first": 1, "last": 1, "reason": "start"}, "r", 1)
    erased = event("BodyErased", {"event_ids": ["r"], "reason": "asked"}, "s", 2)
    views_of(tmp_path, report, erased)
    assert rows(tmp_path, "SELECT position, event_id FROM checkpoint") == [(2, "s")]


@settings(deadline=None, max_examples=25)
@given(histories(), st.lists(st.integers(1, 7), min_size=1))
def test_live_in_any_batches_and_with_a_restart_equals_a_rebuild_to_the_last_bit(
    history: list[Fields], sizes: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = ledger(folder)
        views = SqlViews(folder, store)
        rest = list(history)
        for size in sizes * len(history):
            if not rest:
                break
            project(store, [views], append(store, rest[:size]))
            rest = rest[size:]
            if size == 3:
                views.close()
                views = SqlViews(folder, store)
        project(store, [views], append(store, rest))
        views.close()
        rebuilt = SqlViews(folder / "again", store)
        catch_up(store, rebuilt)
        rebuilt.close()
        store.close()
        assert content(folder) == content(folder / "again")


def test_times_are_spelled_in_one_way_so_that_text_order_is_time_order(tmp_path: Path) -> None:
    views_of(tmp_path, execution("a", 1, started_at="2026-11-22T14:00:00+02:00", time="2026-11-22T12:00:00Z"))
    assert rows(tmp_path, "SELECT started_at, time FROM executions") == [(NOON, NOON)]


def test_a_view_that_could_not_be_put_in_force_is_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch is committed then: catching up finds nothing to do, and must settle all the same."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    store = ledger(tmp_path, [execution("a", 1)])
    views = kept(SqlViews(tmp_path, store))
    with monkeypatch.context() as patch:
        patch.setattr(sql_module, "point_to", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                catch_up(store, views)
        assert current_view(tmp_path) is None
    assert catch_up(store, views) == 1
    assert rows(tmp_path, "SELECT execution_id FROM executions") == [("a",)]


@pytest.mark.parametrize("broken", ["point_to", "create_view"])
def test_a_view_that_can_not_be_made_is_refused_and_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_below: Callable[[], list[str]], broken: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    store = ledger(tmp_path / "store")
    where, name = (sql_module, "point_to") if broken == "point_to" else (views_module, "files")
    monkeypatch.setattr(where, name, full)
    with pytest.raises(StoreError, match="No space") as refused:
        SqlViews(tmp_path / "views", store)
    assert [name for name in open_below() if name.startswith("views/")] == [], refused


def test_a_reader_follows_the_swap_to_a_view_built_anew(tmp_path: Path) -> None:
    store = views_of(tmp_path, execution("a", 1))
    reader = kept(ViewReader(tmp_path))
    assert reader.connection().execute("SELECT count(*) FROM executions").fetchone()[0] == 1
    with sqlite3.connect(current_view(tmp_path)) as db:
        db.execute("UPDATE checkpoint SET view_version = 0")
    db.close()
    append(store, [execution("b", 2)])
    catch_up(store, kept(SqlViews(tmp_path, store)))
    assert reader.connection().execute("SELECT count(*) FROM executions").fetchone()[0] == 2
    reader.close()


@pytest.mark.parametrize("gone", ["views-*", "views.current"])
def test_a_view_that_is_removed_under_a_running_projector_is_there_again(tmp_path: Path, gone: str) -> None:
    store = ledger(tmp_path, [registration("a", 1), execution("b", 2)])
    views = kept(SqlViews(tmp_path, store))
    project(store, [views], ())
    for path in tmp_path.glob(gone):
        path.unlink()
    project(store, [views], append(store, [execution("c", 3)]))
    with closing(sqlite3.connect(current_view(tmp_path))) as db:
        rows = db.execute("SELECT execution_id FROM executions ORDER BY position").fetchall()
    assert rows == [("b",), ("c",)]
