"""What was forgotten is nowhere any more, the ledger says so, and every view is as a replay would make it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from dspy_ledger.errors import InvalidInput
from dspy_ledger.keys import Keys
from dspy_ledger.projector import Directory, Registry, SqlViews, catch_up, decode_entries, erasure, project
from dspy_ledger.projector.asking import carried_out
from dspy_ledger.projector.builds import directory_build, drop_abandoned_builds, verify_scratch
from dspy_ledger.projector.claims import Claim
from dspy_ledger.projector.erasure import Erasure, Selection, expired_before, find
from dspy_ledger.projector.lines import change_lines
from dspy_ledger.projector.projection import SLICE
from dspy_ledger.projector.replay import replay
from dspy_ledger.projector.requests import Clerk, Work
from dspy_ledger.projector.verify import verify
from dspy_ledger.registry_format import decode_content
from dspy_ledger.requests import Desk, Progress
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore, StoredEvent, StreamCheckpoint, sqlite
from dspy_ledger.timestamps import to_datetime
from dspy_ledger.wire import decode
from projector.ledgers import (
    Fields,
    append,
    evaluation,
    event,
    execution,
    histories,
    kept,
    ledger,
    registration,
    tree,
)
from servers import Valkey

KEYS = Keys("test")
SECRET = "the patient is called Zaphod"
DAY = "p/executions/2026-11-22.jsonl"


def worked(work: Work) -> dict:
    """The answer, once all slices are done."""
    while True:
        try:
            next(work)
        except StopIteration as ended:
            return ended.value


def forget(store: SqliteEventStore, *projections: object, **selection: str) -> dict:
    return worked(Erasure(store, projections).forget(selection))


def holding(folder: Path, text: str) -> list[str]:
    """The files below a folder that hold a text."""
    return [name for name, content in tree(folder).items() if text.encode() in content]


def rows(event_id: str, sequence: int, **data: object) -> Fields:
    """An evaluation with rows."""
    fields = {
        "evaluation_id": event_id,
        "program_id": "p",
        "model_id": "m",
        "results": 1,
        "created_at": "2026-11-22T12:00:00Z",
    }
    return event("EvaluationSaved", {**fields, **data}, event_id, sequence, body={"rows": [SECRET]})


def story() -> list[Fields]:
    """Two programs, two users, and something said about an execution."""
    said = {"inputs": {"q": SECRET}, "outputs": {}, "calls": []}
    return [
        registration("reg", 1, body={"demos": [SECRET]}),
        execution("one", 2, body=said, user_id="alice"),
        execution("two", 3, body=said, user_id="bob"),
        execution("other", 4, program="q", body=said, user_id="alice"),
        rows("dataset", 5),
        rows("by-bob", 6, program_id=None, model_id=None, execution_id="one", user_id="bob"),
        evaluation("bare", 7),
    ]


@pytest.mark.parametrize(
    ("selection", "erased"),
    [
        ({"execution": "one"}, ["one", "by-bob"]),
        ({"user": "alice"}, ["one", "other", "by-bob"]),
        ({"user": "bob"}, ["two", "by-bob"]),
        ({"program": "p"}, ["reg", "one", "two", "dataset", "by-bob"]),
        ({"program": "p", "user": "alice"}, ["one", "by-bob"]),
        ({"program": "q", "execution": "one"}, []),
        ({"recorded_by": "2026-12-01T00:00:00.000000Z"}, ["one", "two", "other", "dataset", "by-bob"]),
        ({"recorded_by": "2020-12-01T00:00:00.000000Z"}, []),
        ({"recorded_by": "2026-12-01T00:00:00.000000Z", "program": "q"}, ["other"]),
    ],
)
def test_what_is_given_must_all_hold(tmp_path: Path, selection: dict[str, str], erased: list[str]) -> None:
    store = kept(SqliteEventStore(tmp_path / "ledger.db", now=lambda: "2026-11-22T12:00:01.000000Z"))
    append(store, story())
    bodies = {e.event_id for e in store.read_all() if e.body is not None}
    assert [e.event_id for found in find(store, Selection(**selection)) for e in found.events] == erased
    answer = forget(store, **selection)
    assert {e.event_id for e in store.read_all() if e.body is not None} == bodies - set(erased)
    assert answer["executions"] + answer["evaluations"] + answer["versions"] == len(erased)
    told = [i for e in store.read_all() if e.type.endswith("BodyErased.v1") for i in e.data["event_ids"]]
    assert told == erased
    assert list(store.check()) == []


def test_a_version_that_many_replicas_registered_is_counted_once(tmp_path: Path) -> None:
    state = {"body": {"demos": [SECRET]}}
    store = ledger(tmp_path, [registration(f"r{n}", n, **state) for n in range(3)])
    append(store, [registration("more", 9, content="c1:9", version="1.0.1", **state)])
    assert forget(store, program="p")["versions"] == 2


@pytest.mark.parametrize("what", ["execution", "user", "program"])
def test_an_empty_id_is_refused(what: str) -> None:
    with pytest.raises(InvalidInput, match=f"--{what} is empty"):
        Selection(**{what: ""})


def test_nothing_given_is_refused() -> None:
    with pytest.raises(InvalidInput, match="say what to erase"):
        Selection()


def test_the_ledger_tells_that_it_was_asked_but_not_who_was_meant(tmp_path: Path) -> None:
    store = ledger(tmp_path, story())
    forget(store, user="alice", program="p")
    assert store.event_at(store.last_position()).data["reason"] == "asked for: user, program"


def test_what_was_forgotten_is_in_no_file_registry_or_stream_any_more(tmp_path: Path, valkey: Valkey) -> None:
    store = ledger(tmp_path / "data")
    spoilt = {**execution("one", 2), b"body": orjson.dumps([SECRET])}
    with valkey.client() as client:
        entries = [*story(), spoilt]
        ids = [client.xadd(KEYS.events, fields) for fields in entries]
        decoded = decode_entries(ids, entries)
        store.append(
            decoded.entries,
            dead_letters=decoded.dead_letters,
            checkpoint=StreamCheckpoint(KEYS.events, ids[-1].decode()),
        )
        views = [
            kept(SqlViews(tmp_path / "data", store)),
            Directory(tmp_path / "programs", tmp_path / "data", store),
            Registry(client, KEYS, store),
        ]
        project(store, views, ())
        assert set(holding(tmp_path, SECRET)) >= {"programs/p/1.0.0.json", f"programs/{DAY}"}
        answer = forget(store, *views, program="p")
        assert answer == {
            "executions": 2, "evaluations": 2, "versions": 1, "dead_letters": 1,
            "reclaimed": True, "behind": [], "copies": [],
        }  # fmt: skip
        assert SECRET in (tmp_path / "programs/q/executions/2026-11-22.jsonl").read_text()
        answer = forget(store, *views, program="q")
        assert (answer["executions"], answer["behind"]) == (1, [])
        assert holding(tmp_path, SECRET) == []
        assert [fields[b"__data__"] for _, fields in client.xrange(KEYS.events)] == [
            entries[6][b"__data__"],  # had no body
            spoilt[b"__data__"],  # a dead letter is not looked for in the stream: trimming takes it
        ]
        data, state = decode_content(client.hget(KEYS.contents("p"), "c1:0"))
        assert (data["name"], state) == ("P", None)


def test_a_replay_of_what_is_left_gives_the_same_bytes(tmp_path: Path) -> None:
    store = ledger(tmp_path / "data", story())
    live = Directory(tmp_path / "programs", tmp_path / "data", store)
    catch_up(store, live)
    forget(store, live, user="alice")
    forget(store, live, program="p")
    catch_up(store, Directory(tmp_path / "again", tmp_path / "scratch", store))
    assert tree(tmp_path / "programs") == tree(tmp_path / "again")
    assert orjson.loads((tmp_path / "programs/p/1.0.0.json").read_bytes())["state"] is None


@profile(deadline=None, max_examples=25)
@given(histories(), st.lists(st.integers(1, 9), min_size=1), st.data())
def test_erasing_anything_at_any_time_leaves_what_a_replay_makes(
    history: list[Fields], sizes: list[int], data: st.DataObject
) -> None:
    """Also when a process is killed between the files and the checkpoint, and folds the same again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = ledger(folder / "data")
        live = Directory(folder / "programs", folder / "data", store)
        checkpoint = folder / "data" / "directory.json"
        rest = list(history)
        while rest:
            size = data.draw(st.sampled_from(sizes))
            batch, rest = append(store, rest[:size]), rest[size:]
            if data.draw(st.booleans()):
                project(store, [live], batch)
            before = checkpoint.read_bytes() if checkpoint.exists() else None
            positions = st.lists(st.integers(1, store.last_position()), max_size=5)
            store.erase(data.draw(positions), "drawn")
            if data.draw(st.booleans()):
                project(store, [live], ())
            if data.draw(st.booleans()):
                if before is not None:
                    checkpoint.write_bytes(before)
                live = Directory(folder / "programs", folder / "data", store)
        project(store, [live], ())
        catch_up(store, Directory(folder / "again", folder / "scratch", store), batch=7)
        store.close()
        assert tree(folder / "programs") == tree(folder / "again")


def test_an_erasure_that_came_in_by_the_stream_takes_nothing_that_the_store_still_has(tmp_path: Path) -> None:
    store = ledger(tmp_path / "data", story())
    live = Directory(tmp_path / "programs", tmp_path / "data", store)
    catch_up(store, live)
    project(
        store, [live], append(store, [event("BodyErased", {"event_ids": ["one"], "reason": "r"}, "z", 9)])
    )
    catch_up(store, Directory(tmp_path / "again", tmp_path / "scratch", store))
    assert tree(tmp_path / "programs") == tree(tmp_path / "again")
    assert SECRET in (tmp_path / "programs" / DAY).read_text()


def test_what_was_erased_stays_away_when_it_is_delivered_again(tmp_path: Path) -> None:
    entries = story()
    store = ledger(tmp_path / "data", entries)
    live = Directory(tmp_path / "programs", tmp_path / "data", store)
    forget(store, live, program="p")
    last = store.last_position()
    again = store.append([(f"9-{n}", decode(fields)) for n, fields in enumerate(entries)])
    assert (again.duplicates, again.dead_letters, store.last_position()) == (len(entries), 0, last)
    assert store.event("one").body is None
    renamed = registration("reg", 1, body={"demos": [SECRET]}, version="9.9.9")
    assert store.append([("10-0", decode(renamed))]).duplicates == 1
    project(store, [live], ())
    assert holding(tmp_path / "programs" / "p", SECRET) == []
    assert store.event("reg").body is None


def test_a_conflicting_copy_of_the_event_is_forgotten_with_it(tmp_path: Path) -> None:
    store = ledger(tmp_path, story())
    append(store, [execution("one", 9, body={"inputs": [SECRET]}, user_id="alice", latency_ms=9)])
    append(store, [execution("two", 10, body={"inputs": [SECRET]}, user_id="bob", latency_ms=9)])
    assert forget(store, user="alice")["dead_letters"] == 1
    assert [letter.sequence for letter in store.dead_letters()] == [10]


def test_the_stream_keeps_an_entry_of_the_same_id_that_is_another_event(
    tmp_path: Path, valkey: Valkey
) -> None:
    """A broker that was set back, or another one, may have given the id again."""
    with valkey.client() as client:
        store = ledger(tmp_path)
        client.xadd(KEYS.events, execution("unread", 1), id="5-0")
        store.append(
            [("5-0", decode(story()[1])), ("1-1", decode(story()[2])), ("no id", decode(story()[3]))]
        )
        forget(store, Registry(client, KEYS, store), recorded_by="2999-01-01T00:00:00.000000Z")
        assert [entry_id for entry_id, _ in client.xrange(KEYS.events)] == [b"5-0"]


def test_without_redis_the_answer_says_what_is_behind_and_it_follows_later(
    own_valkey: Valkey, tmp_path: Path
) -> None:
    store = ledger(tmp_path)
    client = own_valkey.client()
    stream_id = client.xadd(KEYS.events, story()[1])
    store.append([(stream_id.decode(), decode(story()[1]))])
    registry = Registry(client, KEYS, store)
    project(store, [registry], ())
    client.execute_command("WAITAOF", 1, 0, 5000)
    own_valkey.kill()
    assert forget(store, registry, execution="one")["behind"] == ["registry"]
    own_valkey.start()
    assert client.xlen(KEYS.events) == 1
    project(store, [registry], ())
    assert client.xlen(KEYS.events) == 0
    client.close()


@pytest.mark.parametrize("expired", [False, True])
def test_large_bodies_are_erased_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expired: bool
) -> None:
    """A day of them was one transaction of minutes: ingest waited, and gave up."""
    for module in (erasure, sqlite):
        monkeypatch.setattr(module, "MOST_ERASED", 500_000)
    entries = [execution(f"e{n}", n, body=["x" * 10_000], user_id="u") for n in range(1, 301)]
    store = ledger(tmp_path, entries)
    at_once, erase = [], store.erase

    def counted(positions: Sequence[int], reason: str) -> list[StoredEvent]:
        at_once.append(len(positions))
        return erase(positions, reason)

    monkeypatch.setattr(store, "erase", counted)
    if expired:
        settled(Erasure(store, retention_days=1, now=lambda: "2100-01-01T00:00:00.000000Z"))
    else:
        forget(store, user="u")
    assert sum(at_once) == 300
    assert max(at_once) <= 200  # as many as a search reads
    assert not any(event.body for event in store.read_all())


class Laggard:
    """A view that folds more slowly than another thread stores; its disk may be full."""

    name, version, types, bodies = "laggard", 1, (), False

    def __init__(self, other: SqliteEventStore, full: bool = False) -> None:
        self.other, self.full, self.at = other, full, 0

    def position(self) -> int:
        return self.at

    def apply(self, batch: Sequence[StoredEvent]) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.at > 6:
            pytest.fail("it is brought on for ever")
        time.sleep(SLICE)
        self.at = batch[0].position
        last = self.other.last_position()
        append(self.other, [execution(f"e{n}", n) for n in (last + 1, last + 2)])

    def close(self) -> None:
        pass


def test_an_erasure_is_answered_though_more_is_stored_than_its_views_fold(tmp_path: Path) -> None:
    """It followed the store's end, which the ingest moved on: no answer, and no other view, for ever."""
    store = ledger(tmp_path, [execution("e1", 1, body=[SECRET])])
    view = Laggard(ledger(tmp_path))
    assert forget(store, view, execution="e1")["behind"] == []
    assert view.at == 2


def test_a_view_whose_disk_is_full_is_behind_and_what_was_erased_is_told(tmp_path: Path) -> None:
    store = ledger(tmp_path, story())
    answer = forget(store, Laggard(store, full=True), execution="one")
    assert (answer["executions"], answer["behind"]) == (1, ["laggard"])


def test_a_request_that_was_cut_short_is_finished_when_it_is_begun_again(tmp_path: Path) -> None:
    store = ledger(tmp_path, [execution(f"e{n}", n, body=[SECRET], user_id="u") for n in range(1, 501)])
    work = Erasure(store).forget({"user": "u"})
    for _ in range(2):
        next(work)
    work.close()
    desk = kept(Desk(tmp_path))
    asked = desk.ask("forget", {"user": "u"}, "a test")
    clerk = Clerk(desk, {"forget": Erasure(store).forget})
    while clerk():
        pass
    answer = desk.request(asked).answer
    assert (answer["executions"], answer["reclaimed"]) == (500, True)
    assert not any(e.body for e in store.read_all())


class Killed(Exception):
    """A process ended here."""


def kill_at(what: str) -> Callable[[Progress], None]:
    def tell(at: Progress) -> None:
        if at.what == what:
            raise Killed

    return tell


def leave(settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str) -> Path:
    """The folder that a killed replay of the directory, or verify, leaves; it removes nothing at its end."""
    act, what = {
        "directory": (partial(replay, settings, "directory"), "folding directory"),
        "verify": (partial(verify, settings), "comparing rows"),
    }[kind]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            act(tell=kill_at(what))
    return verify_scratch(settings.data_dir) if kind == "verify" else directory_build(settings.data_dir)


@pytest.mark.parametrize("kind", ["directory", "verify"])
def test_what_a_killed_replay_or_verify_left_is_forgotten_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """They fold bodies into the data dir; it was said to be erased, and a copy lay there for good."""
    ledger(settings.data_dir, story())
    left = leave(settings, monkeypatch, kind)
    assert holding(left, SECRET)
    answer = carried_out(settings, "forget", {"program": "p"}, "a test")
    assert answer["copies"] == []
    assert not left.exists()


@pytest.mark.parametrize("kind", ["directory", "verify"])
def test_copies_of_who_is_at_it_still_are_told_and_left_alone(settings: Settings, kind: str) -> None:
    ledger(settings.data_dir, story())
    folder = {"directory": directory_build, "verify": verify_scratch}[kind](settings.data_dir)
    folder.mkdir()
    kept(Claim(settings.data_dir, kind))
    assert carried_out(settings, "forget", {"program": "p"}, "a test")["copies"] == [folder.name]
    assert folder.exists()


def test_the_projector_removes_what_a_killed_verify_left_and_what_nobody_goes_on_with(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was killed while it removed a build left it without a note: it stayed for ever."""
    ledger(settings.data_dir, story())
    scratch, build = (leave(settings, monkeypatch, kind) for kind in ("verify", "directory"))
    drop_abandoned_builds(settings.data_dir)
    assert not scratch.exists()
    assert build.exists(), "a replay may go on with it"
    os.truncate(settings.data_dir / "directory.build", 0)
    drop_abandoned_builds(settings.data_dir)
    assert not build.exists()


# --- retention ---


class Clocks:
    """The time of day and a monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.day, self.seconds = "2026-11-22", 0.0

    def now(self) -> str:
        return f"{self.day}T12:00:00.000000Z"

    def clock(self) -> float:
        return self.seconds


def settled(chore: Callable[[], bool]) -> None:
    while chore():
        pass


@given(st.datetimes(min_value=datetime(2000, 1, 1)), st.integers(1, 400))  # noqa: DTZ001  in UTC, as text
def test_bodies_are_kept_for_so_many_days_and_at_most_one_more(moment: datetime, days: int) -> None:
    now = moment.isoformat(timespec="microseconds") + "Z"
    age = to_datetime(now) - to_datetime(expired_before(now, days))
    assert timedelta(days=days) <= age < timedelta(days=days + 1)


def test_expired_bodies_of_executions_and_evaluations_go_and_the_state_of_programs_stays(
    tmp_path: Path,
) -> None:
    clocks = Clocks()
    store = kept(SqliteEventStore(tmp_path / "ledger.db", now=clocks.now))
    append(store, story())
    clocks.day = "2026-11-23"
    append(store, [execution("late", 8, body=[1])])
    chore = Erasure(store, retention_days=2, now=clocks.now, clock=clocks.clock)
    clocks.day = "2026-11-24"
    settled(chore)
    assert sum(e.body is not None for e in store.read_all()) == 7, "not a day too early"
    clocks.day = "2026-11-25"
    settled(chore)
    assert sum(e.body is not None for e in store.read_all()) == 7, "not before the hour is over"
    clocks.seconds += 3600
    settled(chore)
    assert [e.event_id for e in store.read_all() if e.body is not None] == ["reg", "late"]
    [told] = [e for e in store.read_all() if e.type.endswith("BodyErased.v1")]
    assert told.data["reason"] == "older than 2 days"
    clocks.seconds += 3600
    settled(chore)
    assert store.last_position() == 9, "nothing to erase, nothing to say"


def test_without_retention_everything_is_kept(tmp_path: Path) -> None:
    store = kept(SqliteEventStore(tmp_path / "ledger.db", now=lambda: "2001-01-01T00:00:00.000000Z"))
    append(store, story())
    settled(Erasure(store))
    assert store.last_position() == len(story())


def test_a_failing_store_does_not_end_retention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks()
    store = kept(SqliteEventStore(tmp_path / "ledger.db", now=clocks.now))
    append(store, story())
    clocks.day = "2026-12-22"
    chore = Erasure(store, retention_days=1, now=clocks.now, clock=clocks.clock)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "erase", full)
        with pytest.raises(OSError, match="No space left"):
            settled(chore)
    clocks.seconds += 3600
    settled(chore)
    assert [e.event_id for e in store.read_all() if e.body is not None] == ["reg"]


def test_a_day_of_expired_executions_is_written_again_once_and_not_for_every_thousand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ledger(tmp_path / "data")
    for start in range(0, 25_000, 5000):
        append(store, [execution(f"e{start + n}", start + n + 1, body=[n]) for n in range(5000)])
    live = Directory(tmp_path / "programs", tmp_path / "data", store)
    catch_up(store, live)
    written: list[int] = []

    def counted(path: Path, positions: set[int], change: Callable[[bytes], bytes], **more: bool) -> None:
        written.append(len(positions))
        change_lines(path, positions, change, **more)

    monkeypatch.setattr("dspy_ledger.projector.directory.change_lines", counted)
    chore = Erasure(store, retention_days=1, now=lambda: "2999-01-01T00:00:00.000000Z")
    more = True
    while more:
        more = chore()
        project(store, [live], ())
    assert written == [25_000]
    assert b'"inputs":null' in (tmp_path / "programs" / DAY).read_bytes()


def test_space_is_given_back_later_when_a_reader_is_in_the_way(tmp_path: Path) -> None:
    store = ledger(tmp_path, [execution(f"e{n}", n, body=["x" * 2000]) for n in range(1, 1001)])
    seconds = iter(range(0, 10_000, 5))
    erasure = Erasure(store, clock=lambda: float(next(seconds)))
    reader = SqliteEventStore(tmp_path / "ledger.db", readonly=True)
    reader._db.execute("BEGIN")
    reader.last_position()
    assert not worked(erasure.forget({"recorded_by": "2999-01-01T00:00:00.000000Z"}))["reclaimed"]
    reader.close()
    for _ in range(3):  # once a second, where it is a chore
        erasure()
    assert (tmp_path / "ledger.db-wal").stat().st_size == 0
    assert (tmp_path / "ledger.db").stat().st_size < 1_000_000, "two megabytes of bodies are gone"


def test_only_lines_that_change_make_a_file_be_written(tmp_path: Path) -> None:
    path = tmp_path / "2026-11-22.jsonl"
    path.write_bytes(b'{"position":1,"a":1}\n{"position":2,"a":1}\nforeign\n{"position":10,"a":1}\n')
    change_lines(path, {2, 3}, lambda line: line.replace(b'"a":1', b'"a":2'))
    assert path.read_bytes() == (
        b'{"position":1,"a":1}\n{"position":2,"a":2}\nforeign\n{"position":10,"a":1}\n'
    )
    before = path.stat()
    change_lines(path, {2}, lambda line: line.replace(b'"a":1', b'"a":2'))
    assert path.stat().st_ino == before.st_ino
    change_lines(tmp_path / "not there", {1}, lambda line: line)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
