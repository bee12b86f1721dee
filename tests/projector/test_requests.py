"""Requests are answered once, in order, in slices, and survive whoever works on them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dspy_ledger.errors import RequestFailed, StoreError
from dspy_ledger.projector import asking
from dspy_ledger.projector.asking import carried_out
from dspy_ledger.projector.lease import WriterLease
from dspy_ledger.projector.requests import Clerk, Work
from dspy_ledger.requests import REQUESTS, Desk, Progress
from dspy_ledger.settings import Settings
from projector.ledgers import execution, kept, ledger


def counting(steps: int, worked: list[int]) -> Callable[[Mapping[str, Any]], Work]:
    def count(arguments: Mapping[str, Any]) -> Work:
        for n in range(1, steps + 1):
            worked.append(n)
            yield Progress(n, steps, "counting")
        return {"counted": steps, **arguments}

    return count


class Clock:
    """Passes 0.1 s at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def test_a_request_is_answered_with_what_its_action_returns(tmp_path: Path) -> None:
    desk = kept(Desk(tmp_path))
    clerk = Clerk(desk, {"count": counting(3, [])})
    asked = desk.ask("count", {"a": 1}, "a test")
    assert clerk() is True
    assert clerk() is False
    request = desk.request(asked)
    assert request is not None
    assert (request.state, request.answer, request.problem) == ("done", {"counted": 3, "a": 1}, None)


def test_work_is_done_in_slices_and_its_progress_told(tmp_path: Path) -> None:
    desk, worked = kept(Desk(tmp_path)), []
    clerk = Clerk(desk, {"count": counting(100, worked)}, clock=Clock())
    asked = desk.ask("count", {}, "a test")
    assert clerk() is True
    assert 1 <= len(worked) <= 3
    request = desk.request(asked)
    assert request is not None
    assert request.progress == Progress(len(worked), 100, "counting")


def test_requests_are_answered_one_after_the_other_the_oldest_first(tmp_path: Path) -> None:
    desk, worked = kept(Desk(tmp_path)), []

    def note(arguments: Mapping[str, Any]) -> Work:
        for _ in range(5):
            worked.append(arguments["n"])
            yield Progress(0, 0)
        return {}

    clerk = Clerk(desk, {"note": note}, clock=Clock())
    for n in range(3):
        desk.ask("note", {"n": n}, "a test")
    while clerk():
        pass
    assert worked == [0] * 5 + [1] * 5 + [2] * 5


def test_a_request_that_was_in_work_is_begun_again_by_the_next_writer(tmp_path: Path) -> None:
    first, worked = kept(Desk(tmp_path)), []
    asked = first.ask("count", {}, "a test")
    Clerk(first, {"count": counting(10, worked)}, clock=Clock())()  # and its process is killed
    second = kept(Desk(tmp_path))
    clerk = Clerk(second, {"count": counting(10, worked)})
    while clerk():
        pass
    assert worked[-10:] == list(range(1, 11))
    request = first.request(asked)
    assert request is not None
    assert request.state == "done"


def test_what_an_action_raises_fails_its_request_only(tmp_path: Path) -> None:
    desk = kept(Desk(tmp_path))

    def broken(_: Mapping[str, Any]) -> Work:
        yield Progress(0, 0)
        raise StoreError("the disk is gone")

    clerk = Clerk(desk, {"broken": broken, "count": counting(1, [])})
    ids = [desk.ask(action, {}, "a test") for action in ("broken", "unheard of", "count")]
    while clerk():
        pass
    states = [desk.request(each) for each in ids]
    assert [request and request.state for request in states] == ["failed", "failed", "done"]
    assert states[0] is not None
    assert states[0].problem == "the disk is gone"
    assert states[1] is not None
    assert "restart it with this release" in str(states[1].problem)


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("replay", {}),
        ("replay", {"projection": "of a newer release", "retry": []}),
        ("replay", {"projection": "sql", "retry": []}),
        ("retry", {}),
        ("forget", {"colour": "red"}),
    ],
)
def test_a_request_of_another_release_fails_and_the_writer_goes_on(
    settings: Settings, action: str, arguments: dict[str, Any]
) -> None:
    """It was raised past the request, ended the projector, and was begun again at each start."""
    ledger(settings.data_dir, [execution("a", 1)])
    with pytest.raises(RequestFailed):
        carried_out(settings, action, arguments, "a test")


def test_a_row_that_can_not_be_read_fails_and_those_after_it_are_answered(tmp_path: Path) -> None:
    desk = kept(Desk(tmp_path))
    ids = [desk.ask("count", {}, "a test") for _ in range(2)]
    desk._db.execute("UPDATE requests SET arguments = '{' WHERE id = ?", (ids[0],))
    clerk = Clerk(desk, {"count": counting(1, [])})
    while clerk():
        pass
    torn, sound = (desk.request(each) for each in ids)
    assert torn is not None
    assert sound is not None
    assert (torn.state, sound.state) == ("failed", "done")
    assert "ask again" in str(torn.problem)


def test_requests_that_ended_a_week_ago_are_overwritten_though_nobody_asks_again(tmp_path: Path) -> None:
    """Whom a request to forget named stood there until the next request, and in free pages for ever."""
    now, seconds = "2026-11-01T00:00:00.000000Z", 0.0
    desk = kept(Desk(tmp_path, now=lambda: now))
    clerk = Clerk(desk, {"count": counting(1, [])}, clock=lambda: seconds)
    old = desk.ask("count", {"user": "Zaphod"}, "a test")
    new = desk.ask("count", {}, "a test")
    clerk()
    now, seconds = "2026-11-08T00:00:00.000000Z", 3599.0
    clerk()
    assert desk.request(old) is not None, "not before the hour is over"
    now, seconds = "2026-11-08T00:00:01.000000Z", 3600.0
    clerk()
    assert desk.request(old) is None
    assert desk.request(new) is not None
    assert [path for path in tmp_path.iterdir() if b"Zaphod" in path.read_bytes()] == []
    assert desk.ask("count", {}, "a test") > new


def test_a_damaged_file_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / REQUESTS).write_bytes(b"no database, but long enough to be looked at as one" * 100)
    desk = kept(Desk(tmp_path))
    assert desk.pending() == []
    assert "can't be read" in caplog.text


def test_a_writer_works_off_what_is_asked_in_the_file_that_another_made_anew(tmp_path: Path) -> None:
    """It stayed at the file that was not there any more, and did nothing that it was asked for."""
    clerk = Clerk(kept(Desk(tmp_path)), {"count": counting(3, [])})
    assert clerk() is False
    (tmp_path / REQUESTS).write_bytes(b"no database, but long enough to be looked at as one" * 100)
    asker = kept(Desk(tmp_path))
    asked = asker.ask("count", {}, "a test")
    while clerk():
        pass
    request = asker.request(asked)
    assert request is not None
    assert request.answer == {"counted": 3}


def test_a_desk_whose_disk_fails_does_not_stop_its_writer(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    clerk = Clerk(desk, {})
    desk.close()
    assert clerk() is False


def test_nobody_writing_the_asker_does_it_itself(settings: Settings) -> None:
    ledger(settings.data_dir, [execution("a", 1)])
    told: list[Progress] = []
    answer = carried_out(settings, "replay", {"projection": "registry", "retry": []}, "a test", told.append)
    assert answer["position"] == 1
    assert not WriterLease.is_held(settings.data_dir)


def test_a_request_that_fails_raises_its_reason(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    ledger(settings.data_dir, [execution("a", 1)])
    arguments = {"projection": "sql", "retry": [], "view": "views-99.db"}
    with pytest.raises(RequestFailed, match=r"views-99\.db is not there"), caplog.at_level(logging.INFO):
        carried_out(settings, "replay", arguments, "a test")
    assert caplog.text == ""  # the asker is told, once


def test_an_asker_waits_for_a_writer_that_is_there_and_takes_over_when_it_stays_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_GRACE", 0.3)
    ledger(settings.data_dir, [execution("a", 1)])
    lease = WriterLease(settings.data_dir)
    answers: list[dict[str, Any]] = []
    arguments = {"projection": "registry", "retry": []}
    asker = threading.Thread(
        target=lambda: answers.append(carried_out(settings, "replay", arguments, "a test"))
    )
    asker.start()
    asker.join(0.5)
    assert asker.is_alive()
    lease.close()
    asker.join(10)
    assert answers[0]["position"] == 1


@pytest.mark.parametrize(("writable", "free", "why"), [(False, 9**9, "read-only"), (True, 4096, "is full")])
def test_requests_that_can_not_be_laid_down_are_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool, free: int, why: str
) -> None:
    (tmp_path / REQUESTS).mkdir()  # SQLite says no more of a disk: unable to open database file
    monkeypatch.setattr("os.access", lambda *_: writable)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(StoreError, match=rf"can't open .*: unable to open database file; .*{why}"):
        Desk(tmp_path)
