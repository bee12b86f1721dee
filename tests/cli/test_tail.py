"""The tail of the ledger: every event once, in lines that fit, and a quiet end."""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from datetime import UTC
from itertools import islice, takewhile

import orjson
import pytest
from rich.cells import cell_len

from cli.processes import COMMAND, environment, run
from dspy_ledger.cli.tail import follow, full_types
from dspy_ledger.cli.tail_text import Lines
from dspy_ledger.errors import InvalidInput, StoreError
from dspy_ledger.store import SqliteEventStore
from projector.ledgers import append, event, execution

NOON = "2026-11-22T12:00:00.000000Z"
EXECUTION = {
    "execution_id": "x", "program_id": "text_completion", "program_version": "1.1.0",
    "model_id": "gpt-4o-mini",
    "status": "ok", "started_at": NOON, "latency_ms": 38.546, "cost_usd": 2.22e-05,
    "usage": {"input_tokens": 1112, "output_tokens": 9, "total_tokens": 1121},
}  # fmt: skip
FAILED = {"status": "error", "error": {"type": "ValueError", "message": "no\n\x1b[31mtopic " * 20}}


@pytest.fixture
def store(settings):
    settings.data_dir.mkdir()
    store = SqliteEventStore(settings.store_path)
    yield store
    store.close()


def lines(store, width=80):
    told = Lines(width, UTC, "2026-11-23")
    return [
        line.plain
        for event in store.read(0, 100)
        for line in told.of(event, event.data.get("program_version") or event.data.get("version"))
    ]


def positions(found):
    return [event.position for events in found for event in events]


def test_an_execution_is_one_line_of_80_columns_and_the_day_is_told_once(store):
    append(
        store,
        [event("ExecutionCompleted", EXECUTION, "x", 1), event("ExecutionCompleted", EXECUTION, "y", 2)],
    )
    first, *rest = lines(store)
    assert first.startswith("— 20")
    assert len(rest) == 2
    for line in rest:
        assert line[8:].rstrip() == (
            " exec text_completion@1.1.0       gpt-4o-mini    39 ms 1.1k tok $0.00002"
        )
        assert len(line) == 80


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"program_id": "日本語" * 20},
        {"program_id": "x" * 500},
        {"model_id": "provider/" + "m" * 100},
        {"program_version": "1.0.0-" + "rc" * 100},
        FAILED,
        {"latency_ms": 4e9, "usage": {"input_tokens": 10**12}, "cost_usd": 12345.678},
        {"model_id": None, "usage": {}, "cost_usd": None},
        {"program_id": "\x1b[2J[bold]evil[/bold]"},
    ],
)
@pytest.mark.parametrize("width", [60, 80, 200])
def test_whatever_ran_no_line_is_wider_than_the_terminal_nor_moves_its_cursor(store, more, width):
    append(store, [event("ExecutionCompleted", {**EXECUTION, **more}, "x", 1)])
    told = lines(store, width)
    assert len(told) == (3 if more is FAILED else 2)
    assert all(cell_len(line) <= width and line.isprintable() for line in told)
    if more is FAILED:
        assert told[2].startswith(" " * 14 + "ValueError: no  [31mtopic")


def test_every_type_has_its_line_and_nothing_is_cut_where_nobody_looks_at_a_terminal(store):
    registered = {
        "program_id": "p", "name": "P", "version": "1.2.0", "content_hash": "c1:00", "kind": "module",
        "created_at": NOON, "optimizer": {"name": "dspy.teleprompt.BootstrapFewShot"},
    }  # fmt: skip
    evaluated = {"evaluation_id": "e", "program_id": "p", "created_at": NOON, "model_id": "m"}
    report = {"first": 1, "last": 20, "dropped": [[6, 7]], "sampled_out": 40, "reason": "interval"}
    append(
        store,
        [
            event("ProgramRegistered", registered, "a", 1),
            event("EvaluationSaved", {**evaluated, "results": {"accuracy": 0.921, "ok": True}}, "b", 2),
            event("EvaluationSaved", {**evaluated, "results": "fine"}, "c", 3),
            event("ProducerReported", report, "d", 4),
            event("BodyErased", {"event_ids": ["a", "b"], "reason": "asked for"}, "e", 5),
            event("ExecutionCompleted", {**EXECUTION, "program_id": "x" * 100}, "f", 6),
        ],
    )
    told = [line[9:] for line in lines(store, None)[1:]]
    assert told[:3] == ["reg  p@1.2.0 by BootstrapFewShot", "eval p m accuracy=0.921", "eval p m fine"]
    assert told[3].startswith("told ")
    assert told[3].endswith("(interval): 20 events, 2 dropped, 40 sampled out")
    assert told[4] == "gone 2 bodies: asked for"
    assert told[5] == f"exec {'x' * 100}@1.1.0 gpt-4o-mini 39 ms 1.1k tok $0.00002"


def test_it_begins_with_the_last_few_and_goes_on_with_each_that_comes_once(settings, store):
    append(store, [execution(f"x{n}", n) for n in range(1, 21)])
    rounds = iter(range(21, 24))

    def comes(_):
        n = next(rounds)
        append(store, [execution(f"x{n}", n)])

    found = follow(settings, last=3, pause=comes)
    assert positions(islice(found, 5)) == [18, 19, 20, 21, 22, 23]


def test_it_goes_on_after_a_position_however_many_lie_behind_it(settings, store):
    append(store, [execution(f"x{n}", n) for n in range(1, 1300)])
    assert positions(islice(follow(settings, after=5, pause=lambda _: None), 5)) == list(range(6, 1300))
    assert positions(islice(follow(settings, after=2000, pause=lambda _: None), 5)) == []


def test_nothing_is_left_out_where_events_are_larger_than_one_read_may_be(settings, store, monkeypatch):
    """A read that was cut by its size was taken for the last one, or for the newest events."""
    for module in ("dspy_ledger.store.sqlite", "dspy_ledger.cli.tail"):
        monkeypatch.setattr(f"{module}.MOST_READ", 2000)
    append(store, [execution(f"x{n}", n) for n in range(1, 51)])
    found = follow(settings, after=0, pause=lambda _: None)
    assert len(first := next(found)) < 50
    rest = takewhile(bool, found)
    assert positions([first, *rest]) == list(range(1, 51))
    assert positions(islice(follow(settings, last=30), 1)) == list(range(21, 51))


def test_filters_hold_for_the_last_few_too_however_far_back_they_are(settings, store):
    report = {"first": 1, "last": 1, "reason": "start"}
    rare = [event("ProducerReported", report, f"r{n}", n) for n in (1, 2)]
    append(store, [*rare, *(execution(f"x{n}", n) for n in range(3, 900))])
    kinds = full_types(["ProducerReported"])
    assert positions(islice(follow(settings, types=kinds, last=5), 1)) == [1, 2]
    assert positions(islice(follow(settings, types=kinds, last=1), 1)) == [2]
    assert positions(islice(follow(settings, program_id="nobody", last=5), 1)) == []


def test_a_type_that_is_none_and_a_store_that_is_not_there_are_told(settings):
    with pytest.raises(InvalidInput, match="known: BodyErased, EvaluationSaved"):
        full_types(["Execution"])
    with pytest.raises(StoreError, match="start the projector first"):
        next(follow(settings))


def test_as_json_each_event_is_one_line_also_when_it_was_written_with_line_ends(tmp_path, settings, store):
    from dspy_ledger import wire

    append(store, [execution("x", 1)])
    envelope = orjson.loads(store.event_at(1).payload) | {"id": "y"}
    spaced = orjson.dumps(envelope, option=orjson.OPT_INDENT_2)
    store.append([("2-0", wire.decode({b"__data__": spaced}))])
    with tailing("--json", "--after", "0", cwd=tmp_path) as process:
        told = [orjson.loads(process.stdout.readline()) for _ in range(2)]
        assert [line["position"] for line in told] == [1, 2]
        assert told[1]["event"] == envelope


@contextmanager
def tailing(*arguments: str, cwd):
    command, env = [*COMMAND, "tail", *arguments], environment(cwd)
    with subprocess.Popen(
        command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_ctrl_c_ends_it_with_exit_code_0_and_not_a_word(tmp_path, store):
    append(store, [execution("x", 1)])
    with tailing(cwd=tmp_path) as process:
        while b" exec " not in process.stdout.readline():
            pass  # the day
        append(store, [execution("y", 2)])
        assert b" exec " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == (b"", b"")
        assert process.returncode == 0


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_it_ends_quietly_when_nobody_reads_any_further(tmp_path, store, form):
    append(store, [execution("x", 1)])
    with tailing(*form, cwd=tmp_path) as process:
        process.stdout.readline()
        process.stdout.close()
        for n in range(2, 5):
            append(store, [execution(f"x{n}", n)])
        assert process.stderr.read() == b""
        assert process.wait(20) == 0


def test_mistakes_are_one_line(tmp_path):
    done = run("tail", env=environment(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    done = run("tail", "--type", "Nothing", env=environment(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there is no event type 'Nothing'" in done.stderr
