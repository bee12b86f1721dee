"""Rows into SQLite, many by one statement."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspy_ledger import database
from dspy_ledger.database import connect, insert


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "some.db")) as db:
        db.execute("CREATE TABLE things (number INTEGER PRIMARY KEY, name TEXT, times INTEGER DEFAULT 1)")
        yield db


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(0, 1300), at_once=st.sampled_from([(400, 40), (20,), ()]))
def test_however_many_rows_there_are_each_is_inserted_once_and_in_order(
    db: sqlite3.Connection, count: int, at_once: tuple[int, ...]
) -> None:
    rows = [(count - n, f"thing {n}", n) for n in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_ROWS_AT_ONCE", at_once)
        db.execute("PRAGMA synchronous = OFF")
        db.execute("DELETE FROM things")
        db.execute("CREATE TEMP TABLE IF NOT EXISTS came (number INTEGER)")
        db.execute("DELETE FROM came")
        db.execute(
            "CREATE TEMP TRIGGER IF NOT EXISTS noted AFTER INSERT ON things BEGIN"
            " INSERT INTO came VALUES (NEW.number); END"
        )
        db.execute("BEGIN")
        insert(db, "things", rows)
        db.execute("COMMIT")
    assert db.execute("SELECT * FROM things ORDER BY number DESC").fetchall() == rows
    assert [number for (number,) in db.execute("SELECT number FROM came ORDER BY rowid")] == [
        number for number, _, _ in rows
    ]


def test_some_columns_may_be_given_and_what_comes_of_a_row_that_is_there(db: sqlite3.Connection) -> None:
    rows = [(n % 50, "a thing") for n in range(500)]
    insert(db, "things (number, name)", rows, "ON CONFLICT DO UPDATE SET times = times + 1")
    assert set(db.execute("SELECT name, times FROM things")) == {("a thing", 10)}
    assert db.execute("SELECT count(*) FROM things").fetchone() == (50,)


def test_a_row_that_is_refused_undoes_the_transaction_it_is_in(db: sqlite3.Connection) -> None:
    db.execute("BEGIN")
    with pytest.raises(sqlite3.IntegrityError):
        insert(db, "things (number, name)", [(n % 450, "a thing") for n in range(500)])
    db.execute("ROLLBACK")
    assert db.execute("SELECT count(*) FROM things").fetchone() == (0,)
