"""``deadletters``: what can't be folded is shown, tried again, and given up only when somebody agrees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from rich.console import Console

from cli.processes import environment, run
from dspy_ledger import wire
from dspy_ledger.cli import deadletters
from dspy_ledger.errors import InvalidInput, NotFound
from dspy_ledger.projector.asking import carried_out
from dspy_ledger.projector.ingest import decode_entries
from dspy_ledger.settings import Settings
from dspy_ledger.store import Appended, DeadLetter, SqliteEventStore
from projector.ledgers import Fields, append, execution
from projector.test_replay import SOME, break_position, executions, live


def bury(store: SqliteEventStore, stream_id: str, fields: Fields, reason: str = "unknown-type") -> None:
    raw = wire.pack(fields)
    peeked = wire.peek_sequence(fields) or (None, None)
    store.append(
        [], dead_letters=[DeadLetter(stream_id, reason, "[b]why[/b]", raw, sha256(raw).hexdigest(), *peeked)]
    )


def fill(settings: Settings) -> None:
    """Three dead letters: an event that this release knows by now, a conflict, and garbage."""
    store = SqliteEventStore(settings.store_path)
    append(store, [execution("e1", 1)])
    bury(store, "1-0", execution("e2", 2))
    store.append([("2-0", wire.decode(execution("e1", 3, program="other")))])
    decoded = decode_entries([b"3-0"], [{b"__data__": b"\xffgarbage"}])
    store.append([], dead_letters=decoded.dead_letters)
    store.close()


def letters(settings: Settings) -> list[tuple[int, str]]:
    found = deadletters.collect(settings, limit=100, before=None)["dead_letters"]
    return [(one["id"], one["reason"]) for one in found]


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=200)


def test_a_newer_release_stores_what_it_knows_and_the_rest_stays(
    settings: Settings, console: Console
) -> None:
    fill(settings)
    assert letters(settings) == [(3, "not-json"), (2, "conflict"), (1, "unknown-type")]
    deadletters.retry(settings, [], every=True, console=console)
    assert "1 stored, 0 stored before, 2 stay" in console.export_text()
    assert letters(settings) == [(3, "not-json"), (2, "conflict")]
    store = SqliteEventStore(settings.store_path, readonly=True)
    assert [event.event_id for event in store.read_all()] == ["e1", "e2"]
    assert list(store.check()) == []
    store.close()


@pytest.mark.parametrize("wanted", [None, [4, 3, 2, 1]])
def test_large_ones_are_tried_again_a_few_at_a_time_and_dropped_unread(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, wanted: list[int] | None
) -> None:
    """A hundred of 64 MiB at once ended the projector, which began them anew at each start."""
    monkeypatch.setattr("dspy_ledger.projector.deadletters.MOST_READ", 50_000)
    with closing(SqliteEventStore(settings.store_path)) as store:
        for n in range(1, 5):
            bury(store, f"{n}-0", execution(f"e{n}", n, body=["x" * 30_000]))
        bury(store, "5-0", {b"x": b"y" * 30_000})
    at_once: list[int] = []
    append = SqliteEventStore.append

    def counted(store: SqliteEventStore, entries: Sequence[object], **more: object) -> Appended:
        at_once.append(len(entries))
        return append(store, entries, **more)

    monkeypatch.setattr(SqliteEventStore, "append", counted)
    answer = carried_out(settings, "retry", {"ids": wanted}, "a test")
    assert answer == {"stored": 4, "duplicates": 0, "left": 1 if wanted is None else 0}
    assert max(at_once) == 2
    monkeypatch.setattr("dspy_ledger.projector.deadletters._chosen", None)
    assert carried_out(settings, "drop", {"ids": None}, "a test") == {"dropped": 1}


def test_dropped_ones_are_gone_and_their_places_stay_settled(settings: Settings, console: Console) -> None:
    fill(settings)
    deadletters.drop(settings, ["2", "3"], every=False, agreed=True, ask=lambda _: False, console=console)
    assert "2 dropped" in console.export_text()
    assert letters(settings) == [(1, "unknown-type")]
    store = SqliteEventStore(settings.store_path, readonly=True)
    assert [account.mark for account in store.producers()] == [3]
    store.close()


def test_nothing_is_dropped_unasked(settings: Settings, console: Console) -> None:
    fill(settings)
    with pytest.raises(InvalidInput, match="--yes"):
        deadletters.drop(settings, [], every=True, agreed=False, ask=lambda _: True, console=console)
    assert len(letters(settings)) == 3


def test_lists_come_in_pages(settings: Settings) -> None:
    fill(settings)
    page = deadletters.collect(settings, limit=2, before=None)
    assert [one["id"] for one in page["dead_letters"]] == [3, 2]
    page = deadletters.collect(settings, limit=2, before=page["next"])
    assert ([one["id"] for one in page["dead_letters"]], page["next"]) == ([1], None)


def test_what_came_over_the_wire_is_shown_as_it_is(settings: Settings, console: Console) -> None:
    fill(settings)
    deadletters.show(deadletters.collect(settings, limit=100, before=None), console)
    assert "[b]why[/b]" in console.export_text()
    assert '"execution_id": "e2"' in deadletters.raw(settings, "1")
    assert "\\xffgarbage" in deadletters.raw(settings, "3")
    with pytest.raises(NotFound, match="no dead letter 9"):
        deadletters.raw(settings, "9")


def test_on_a_narrow_terminal_nothing_of_a_dead_letter_is_cut(settings: Settings) -> None:
    fill(settings)
    narrow = Console(record=True, width=80, soft_wrap=True)
    deadletters.show(deadletters.collect(settings, limit=100, before=None), narrow)
    assert "…" not in narrow.export_text()


def test_a_left_out_event_is_listed_and_its_projection_replayed(
    settings: Settings, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_position(patch, 7)
        with live(settings, SOME):
            pass
    found = deadletters.collect(settings, limit=100, before=None)
    assert [(one["id"], one["detail"]) for one in found["parked"]] == [("sql:7", "ValueError: no")]
    assert '"execution_id": "e7"' in deadletters.raw(settings, "sql:7")
    with pytest.raises(InvalidInput, match="retry it instead"):
        deadletters.drop(settings, ["sql:7"], every=False, agreed=True, ask=lambda _: True, console=console)
    deadletters.retry(settings, ["sql:7"], every=False, console=console)
    assert executions(settings) == 18
    assert deadletters.collect(settings, limit=100, before=None)["parked"] == []


@pytest.mark.parametrize("wanted", [["9"], ["1", "9"], ["sql:1"], ["1", "sql:1"]])
def test_an_id_that_there_is_not_is_told_and_nothing_is_done(
    settings: Settings, console: Console, wanted: list[str]
) -> None:
    fill(settings)
    there_is = "there is no dead letter 9;" if "9" in wanted else "there is no event 1 that sql left out;"
    with pytest.raises(NotFound, match=there_is):
        deadletters.retry(settings, wanted, every=False, console=console)
    assert len(letters(settings)) == 3
    assert console.export_text() == ""


def test_nobody_is_asked_whether_to_drop_what_is_not_there(settings: Settings, console: Console) -> None:
    fill(settings)
    with pytest.raises(NotFound, match="no dead letter 8, no dead letter 9;"):
        deadletters.drop(
            settings, ["8", "1", "9"], every=False, agreed=False, ask=lambda _: True, console=console
        )
    assert len(letters(settings)) == 3


@pytest.mark.parametrize("wrong", [["x"], ["views:3"], ["sql:"], ["9" * 30], []])
def test_an_id_that_can_not_be_is_refused(settings: Settings, console: Console, wrong: list[str]) -> None:
    fill(settings)
    with pytest.raises(InvalidInput, match="deadletters list"):
        deadletters.retry(settings, wrong, every=False, console=console)


def test_the_command_lists_retries_and_drops(settings: Settings, tmp_path: Path) -> None:
    fill(settings)
    env = environment(tmp_path, REDIS_URL=settings.redis_url)
    listed = run("deadletters", "list", "--json", env=env, cwd=tmp_path)
    assert [one["id"] for one in json.loads(listed.stdout)["dead_letters"]] == [3, 2, 1]
    assert run("deadletters", "list", "--before", "9" * 30, env=env, cwd=tmp_path).returncode == 2
    assert "1 stored" in run("deadletters", "retry", "1", env=env, cwd=tmp_path).stdout
    asked = run("deadletters", "drop", "--all", env=env, cwd=tmp_path)
    assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
    assert "2 dropped" in run("deadletters", "drop", "--all", "--yes", env=env, cwd=tmp_path).stdout
    assert "no dead letters" in run("deadletters", "list", env=env, cwd=tmp_path).stdout
