"""Replay gives what live gave, whatever was there before, and goes on where it was cut short."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples

from dspy_ledger.errors import FoldError, InvalidInput, StartupError
from dspy_ledger.keys import Keys
from dspy_ledger.projector import Directory, SqlViews, catch_up
from dspy_ledger.projector.adoption import replay_actions
from dspy_ledger.projector.builds import (
    ReadingStore,
    build_directory,
    build_view,
    directory_build,
    drop_abandoned_builds,
)
from dspy_ledger.projector.claims import Claim, claimed
from dspy_ledger.projector.office import Office, open_office
from dspy_ledger.projector.projection import advance
from dspy_ledger.projector.replay import replay
from dspy_ledger.projector.verify import verify
from dspy_ledger.requests import Progress
from dspy_ledger.settings import Settings, load_settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.views import ViewReader, current_view
from projector.ledgers import (
    Fields,
    append,
    evaluation,
    execution,
    histories,
    kept,
    ledger,
    registration,
    tree,
)
from servers import Valkey

SOME = [registration("r1", 1), *(execution(f"e{n}", n) for n in range(2, 20)), evaluation("v1", 20)]


def dump(path: Path) -> list[str]:
    with sqlite3.connect(path) as db:
        lines = sorted(db.iterdump())
    db.close()
    return lines


def view(settings: Settings) -> list[str]:
    path = current_view(settings.data_dir)
    assert path is not None
    return dump(path)


def executions(settings: Settings) -> int:
    reader = ViewReader(settings.data_dir)
    try:
        return reader.connection().execute("SELECT count(*) FROM executions").fetchone()[0]
    finally:
        reader.close()


@contextmanager
def live(settings: Settings, entries: list[Fields]) -> Iterator[Office]:
    """A writer whose views follow a ledger of those entries."""
    with open_office(settings) as office:
        append(office.store, entries)
        follow(office)
        yield office


def follow(office: Office) -> None:
    for projection in (office.views, office.directory, office.registry):
        while advance(office.store, projection):
            pass


class Killed(BaseException):
    """Stands for kill -9 within one process: nothing of ours runs after it but what lets go of files."""


@examples(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories(max_size=25))
def test_replay_equals_live_to_the_byte(
    valkey: Valkey, tmp_path_factory: pytest.TempPathFactory, history: list[Fields]
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    settings = load_settings(
        redis_url=valkey.url, data_dir=folder / "data", programs_dir=folder / "programs", _env_file=None
    )
    with live(settings, history):
        pass
    before = view(settings), tree(settings.programs_dir)
    assert replay(settings, "sql")["position"] == len(history)
    done = replay(settings, "directory")
    assert (done["made"], done["changed"], done["strangers"]) == (0, 0, 0)
    assert (view(settings), tree(settings.programs_dir)) == before


def test_a_new_view_is_in_force_and_the_old_one_gone(settings: Settings) -> None:
    with live(settings, SOME):
        pass
    assert replay(settings, "sql")["view"] == "views-2.db"
    assert sorted(path.name for path in settings.data_dir.glob("views-*.db")) == ["views-2.db"]
    assert executions(settings) == 18
    assert claimed(settings.data_dir, "sql") == {}


def test_a_running_writer_catches_the_rest_up_and_swaps(settings: Settings) -> None:
    """The build ends at position 20; five more are stored before the writer takes it over."""
    with live(settings, SOME) as office:
        reader = kept(ViewReader(settings.data_dir))
        old = reader.connection()
        store = kept(ReadingStore(settings.store_path))
        claim = kept(Claim(settings.data_dir, "sql"))
        built = build_view(settings.data_dir, store, claim, fresh=False, tell=lambda _: None)
        append(office.store, [execution(f"more{n}", n) for n in range(30, 35)])
        follow(office)
        assert old.execute("SELECT count(*) FROM executions").fetchone()[0] == 23
        arguments = {"projection": "sql", "retry": [], "view": built.name}
        list(replay_actions(office)["replay"](arguments))
        assert office.views.position() == 25
        assert reader.connection().execute("SELECT count(*) FROM executions").fetchone()[0] == 23
        assert current_view(settings.data_dir) == built
        append(office.store, [execution("last", 40)])
        follow(office)
        assert executions(settings) == 24
        assert list(replay_actions(office)["replay"](arguments)) == []  # asked again after a crash


def test_a_build_that_was_killed_is_gone_on_with_and_a_fresh_one_is_not(settings: Settings) -> None:
    with live(settings, []) as office:
        append(office.store, [execution(f"e{n}", n) for n in range(1, 12_001)])
    seen: list[int] = []

    def kill(at: Progress) -> None:
        seen.append(at.done)
        raise Killed

    for fresh, first in ((False, 5000), (False, 10_000), (True, 5000)):
        with pytest.raises(Killed):
            replay(settings, "sql", fresh=fresh, tell=kill)
        assert seen.pop() == first
    assert replay(settings, "sql")["position"] == 12_000
    assert executions(settings) == 12_000
    assert len(list(settings.data_dir.glob("views-*.db"))) == 1


def test_a_killed_build_survives_a_projector_that_starts_and_goes_after_a_day(settings: Settings) -> None:
    with live(settings, SOME):
        pass

    def kill(_: Progress) -> None:
        raise Killed

    with pytest.raises(Killed):
        replay(settings, "sql", tell=kill)
    with open_office(settings):
        drop_abandoned_builds(settings.data_dir)
    build = settings.data_dir / claimed(settings.data_dir, "sql")["view"]
    assert build.exists()
    note = settings.data_dir / "sql.build"
    os.utime(note, (0, 0))
    drop_abandoned_builds(settings.data_dir)
    assert not build.exists()
    assert claimed(settings.data_dir, "sql") == {}
    assert executions(settings) == 18


def test_a_projector_does_not_go_on_with_a_build_that_nobody_notes_any_more(settings: Settings) -> None:
    """It did not wait for the disk: after a power cut it may hold anything."""
    with live(settings, SOME):
        pass

    def kill(_: Progress) -> None:
        raise Killed

    with pytest.raises(Killed):
        replay(settings, "sql", tell=kill)
    (settings.data_dir / "sql.build").unlink()
    in_force = current_view(settings.data_dir)
    assert in_force is not None
    in_force.unlink()
    with open_office(settings) as office:
        assert office.views.position() == 0
        follow(office)
    assert executions(settings) == 18
    assert len(list(settings.data_dir.glob("views-*.db"))) == 1


def test_a_second_replay_of_the_same_is_refused(settings: Settings) -> None:
    ledger(settings.data_dir, SOME)
    claim = Claim(settings.data_dir, "sql")
    with pytest.raises(StartupError, match="at it already"):
        replay(settings, "sql")
    claim.close()
    replay(settings, "sql")


def test_a_replay_of_nothing_known_is_refused(settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="sql, directory, registry"):
        replay(settings, "views")
    with pytest.raises(InvalidInput, match="directory only"):
        replay(settings, "sql", prune=True)


def test_the_directory_is_mended_in_place_and_strangers_are_told(settings: Settings) -> None:
    with live(settings, SOME):
        pass
    root, right = settings.programs_dir, tree(settings.programs_dir)
    (root / "p/1.0.0.json").write_text("changed")
    lines = root / "p/executions/2026-11-22.jsonl"
    lines.write_bytes(lines.read_bytes().replace(b'"e7"', b'"e8"'))
    (root / "p/evaluations/v1_m.json").unlink()
    untouched = root / ".gitignore"
    untouched.write_text("mine")
    (root / "p/9.9.9.json").write_text("{}")
    (root / "README.md").write_text("hello")
    done = replay(settings, "directory")
    assert {name: done[name] for name in ("made", "changed", "unchanged", "strangers", "pruned")} == {
        "made": 1,
        "changed": 2,
        "unchanged": 0,
        "strangers": 2,
        "pruned": 0,
    }
    assert sorted(done["named"]) == ["README.md", "p/9.9.9.json"]
    assert tree(root) == {**right, ".gitignore": b"mine", "p/9.9.9.json": b"{}", "README.md": b"hello"}
    assert replay(settings, "directory", prune=True)["pruned"] == 2
    assert tree(root) == {**right, ".gitignore": b"mine"}


@pytest.mark.parametrize("removed_by", ["the end of a replay", "a fresh start"])
def test_a_build_that_was_removed_in_part_is_not_gone_on_with(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, removed_by: str
) -> None:
    """The rest was filled up from its checkpoint, and the live files were cut to what it had."""
    with live(settings, SOME):
        pass
    right = tree(settings.programs_dir)
    folder = directory_build(settings.data_dir)

    def remove_in_part(_: Path) -> None:
        shutil_rmtree(folder / "programs" / "p")
        raise Killed

    def kill(_: Progress) -> None:
        raise Killed

    shutil_rmtree = shutil.rmtree
    if removed_by == "a fresh start":
        with pytest.raises(Killed):
            replay(settings, "directory", tell=kill)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", remove_in_part)
        with pytest.raises(Killed):
            replay(settings, "directory", fresh=True)
    replay(settings, "directory", prune=True)
    assert tree(settings.programs_dir) == right


def test_files_that_are_right_are_not_written(settings: Settings) -> None:
    with live(settings, SOME):
        pass
    before = {path: path.stat().st_mtime_ns for path in settings.programs_dir.rglob("*.json*")}
    replay(settings, "directory")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_directory_grows_while_it_is_mended(settings: Settings) -> None:
    with live(settings, SOME) as office:
        lines = settings.programs_dir / "p/executions/2026-11-22.jsonl"
        lines.write_bytes(lines.read_bytes().replace(b'"e7"', b'"e8"'))
        store = kept(ReadingStore(settings.store_path))
        claim = kept(Claim(settings.data_dir, "directory"))
        build_directory(settings.data_dir, store, claim, fresh=False, tell=lambda _: None)
        arguments = {"projection": "directory", "retry": [], "prune": False}
        for n, _ in enumerate(replay_actions(office)["replay"](arguments)):
            append(office.store, [execution(f"during{n}", 100 + n), registration(f"also{n}", 200 + n)])
            follow(office)
        rebuilt = Directory(settings.data_dir / "x", settings.data_dir / "y", office.store)
        catch_up(office.store, rebuilt)
        assert tree(settings.programs_dir) == tree(settings.data_dir / "x")


def test_the_registry_gets_everything_again(valkey: Valkey, settings: Settings) -> None:
    with live(settings, SOME):
        pass
    with valkey.client() as client:
        keys: Keys = settings.keys
        before = client.hgetall(keys.program("p"))
        client.delete(keys.program("p"), keys.contents("p"))
        replay(settings, "registry")
        assert client.hgetall(keys.program("p")) == before
        assert client.hlen(keys.contents("p")) == 1


def test_an_event_that_breaks_a_rebuild_stops_it_and_the_old_view_stays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live(settings, SOME):
        pass
    before = view(settings)
    with monkeypatch.context() as patch:
        break_position(patch, 7)
        with pytest.raises(FoldError, match=r"sql can't fold event 7 \(e7\): ValueError: no"):
            replay(settings, "sql")
    assert view(settings) == before


def test_a_left_out_event_is_in_the_view_once_it_can_be_folded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_position(patch, 7)
        with live(settings, SOME) as office:
            assert [(p.projection, p.position) for p in office.store.parked()] == [("sql", 7)]
    assert executions(settings) == 17
    replay(settings, "sql")
    assert executions(settings) == 17  # left out before, so left out again
    replay(settings, "sql", retry=[7])
    assert executions(settings) == 18
    store = kept(SqliteEventStore(settings.store_path, readonly=True))
    assert store.parked() == []


def break_position(patch: pytest.MonkeyPatch, position: int) -> None:
    from dspy_ledger.projector import view as module

    whole = module.fold

    def fold(batch, *rest):
        if any(event.position == position and event.type.startswith("org.") for event in batch):
            raise ValueError("no")
        return whole(batch, *rest)

    patch.setattr(module, "fold", fold)


def test_an_older_store_restored_is_said_and_every_view_follows_it(
    settings: Settings, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with live(settings, SOME):
        shutil.copytree(settings.data_dir, tmp_path / "backup")
    with live(settings, [execution(f"later{n}", 50 + n) for n in range(5)]):
        pass
    for ending in ("", "-wal", "-shm"):
        (settings.data_dir / f"ledger.db{ending}").unlink(missing_ok=True)
        backup = tmp_path / "backup" / f"ledger.db{ending}"
        if backup.exists():
            shutil.copy(backup, settings.data_dir)
    with open_office(settings) as office:
        assert "is at position 25, the event store ends at 20: an older one was restored" in caplog.text
        assert "the directory is at position 25, the event store ends at 20" in caplog.text
        follow(office)
    assert executions(settings) == 18
    replay(settings, "sql")
    assert replay(settings, "directory")["strangers"] == 0
    assert b"later" not in b"".join(tree(settings.programs_dir).values())


def test_a_directory_of_another_ledger_is_said_and_its_files_are_strangers(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with live(settings, [*SOME, registration("other", 60, program="other")]):
        pass
    (settings.data_dir / "ledger.db").unlink()
    with live(settings, SOME):
        assert "belongs to another ledger" in caplog.text
        assert "are not of this ledger (other/1.0.0.json, p/1.0.0.json)" in caplog.text
    named = replay(settings, "directory")["named"]
    assert named == ["other/1.0.0.json", "p/executions/2026-11-22.jsonl.1.aside"]


def test_files_that_were_swapped_under_a_checkpoint_are_said_on_start(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with live(settings, SOME):
        assert "version files" not in caplog.text
    with open_office(settings):
        assert "version files" not in caplog.text
    (settings.programs_dir / "p/1.0.0.json").rename(settings.programs_dir / "p/7.0.0.json")
    with open_office(settings):
        assert "1 version files" in caplog.text
        assert "are not of this ledger (p/7.0.0.json)" in caplog.text
        assert "of this ledger are missing (p/1.0.0.json)" in caplog.text
    done = replay(settings, "directory", prune=True)
    assert (done["made"], done["pruned"]) == (1, 1)
    assert verify(settings).clean


@pytest.mark.parametrize("damage", ["deleted", "cut", "overwritten"])
def test_a_lost_view_is_said_and_built_anew(
    settings: Settings, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    with live(settings, SOME):
        pass
    path = current_view(settings.data_dir)
    assert path is not None
    right = dump(path)
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:5000] if damage == "cut" else b"no database" * 1000)
    with open_office(settings) as office:
        assert "it is built anew" in caplog.text
        follow(office)
    assert view(settings) == right


def test_a_view_that_turns_out_damaged_while_it_is_written_is_built_anew(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with live(settings, SOME):
        pass
    path = current_view(settings.data_dir)
    assert path is not None
    content = bytearray(path.read_bytes())
    for at in range(4096 * 3, len(content), 4096):  # all pages but those read on opening
        content[at : at + 4096] = b"\xff" * 4096
    path.write_bytes(content)
    with open_office(settings) as office:
        append(office.store, [execution("more", 70)])
        for _ in range(10):
            try:
                if not advance(office.store, office.views):
                    break
            except sqlite3.DatabaseError:
                continue
    assert "is damaged" in caplog.text
    assert executions(settings) == 19


def test_a_view_of_an_older_version_is_built_anew_while_more_is_stored(settings: Settings) -> None:
    with live(settings, SOME):
        pass
    path = current_view(settings.data_dir)
    assert path is not None
    with sqlite3.connect(path) as db:
        db.execute("UPDATE checkpoint SET view_version = 1")
    db.close()
    store = kept(SqliteEventStore(settings.store_path))
    views = SqlViews(settings.data_dir, store)
    assert views.position() == 0
    assert current_view(settings.data_dir) == path  # until the new one is there
    catch_up(store, views, upto=10)
    views.close()
    views = kept(SqlViews(settings.data_dir, store))
    assert views.position() == 10  # gone on with after a restart
    append(store, [execution("more", 70)])
    while advance(store, views):
        pass
    assert executions(settings) == 19
    assert not path.exists()
