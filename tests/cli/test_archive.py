"""export, import and forget as a person runs them: beside a projector and without one."""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cli.processes import COMMAND, environment, run
from dspy_ledger.cli.archive import import_ledger
from dspy_ledger.cli.forget import moment_before
from dspy_ledger.cli.main import main
from dspy_ledger.errors import InvalidInput, StoreError
from dspy_ledger.producer import Ledger
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.timestamps import utc_now
from projector.ledgers import append, execution, registration
from projector.test_replay import break_position

SECRET = "the patient is called Zaphod"


@contextmanager
def projector(env: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, "projector"], env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=20)


def record(settings: Settings, count: int, user: str = "alice") -> None:
    """So many executions with bodies, until they are stored."""
    with Ledger.connect(settings=settings) as ledger:
        for n in range(count):
            data = {"program_id": "p", "status": "ok", "started_at": utc_now(), "latency_ms": 1}
            ledger.record(
                "ExecutionCompleted",
                {**data, "execution_id": f"{user}-{n}", "user_id": user},
                body={"inputs": {"q": SECRET}, "outputs": {}, "calls": []},
            )
        assert ledger.flush(30, until="stored")


def made(folder: Path, count: int = 5, now: str | None = None) -> dict[str, str]:
    """A ledger without a broker; the environment that names it."""
    with closing(SqliteEventStore(folder / "data" / "ledger.db", now=lambda: now or utc_now())) as store:
        append(store, [registration("r", 1, body={"demos": [SECRET]})])
        body = {"inputs": {"q": SECRET}}
        append(store, [execution(f"e{n}", n, body=body, user_id="alice") for n in range(2, count + 2)])
    return environment(folder, REDIS_URL="redis://127.0.0.1:1/0")


def holding(folder: Path, text: str) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    }


def in_one_line(ended: subprocess.CompletedProcess[str], code: int) -> str:
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("error: ")
    return ended.stderr.removeprefix("error: ")


@pytest.mark.parametrize("name", ["ledger.jsonl", "ledger.jsonl.gz"])
def test_an_export_goes_to_another_machine_and_back(tmp_path: Path, name: str) -> None:
    home, other = made(tmp_path / "home"), environment(tmp_path / "other")
    told = run("export", name, env=home, cwd=tmp_path)
    assert (told.returncode, told.stdout) == (0, "")
    assert told.stderr == "exported 6 events and 0 dead letters\n"
    assert [path.name for path in tmp_path.glob("*ledger*")] == [name], "no temp file is left"
    content = (tmp_path / name).read_bytes()
    lines = (gzip.decompress(content) if name.endswith(".gz") else content).splitlines()
    assert len(lines) == 8
    assert run("import", name, env=other, cwd=tmp_path).stderr == "imported 6 events\n"
    assert run("import", name, env=other, cwd=tmp_path).stderr == "imported 0 events; 6 were there already\n"
    assert run("export", "again.jsonl", env=other, cwd=tmp_path).returncode == 0
    assert (tmp_path / "again.jsonl").read_bytes().splitlines() == lines
    assert holding(tmp_path / "other", SECRET) >= {
        "dspy_programs/p/1.0.0.json",
        "dspy_programs/p/executions/2026-11-22.jsonl",
    }


def test_a_pipe_does_as_well_as_a_file(tmp_path: Path) -> None:
    exported = subprocess.run(
        [*COMMAND, "export", "-"], check=True, capture_output=True, env=made(tmp_path / "home"), cwd=tmp_path
    )
    imported = subprocess.run(
        [*COMMAND, "import", "-"],
        check=True,
        capture_output=True,
        env=environment(tmp_path / "other"),
        cwd=tmp_path,
        input=exported.stdout,
    )
    assert imported.stderr == b"imported 6 events\n"


def test_an_export_ends_where_it_is_told_to(tmp_path: Path) -> None:
    env = made(tmp_path, now="2026-11-22T12:00:00.000000Z")
    moments = {"2026-11-22T13:00:00+00:00": 6, "2026-11-22T11:00:00Z": 0, "2026-11-22": 0, "2026-11-23": 6}
    for until, events in {"3": 3, "6": 6, **moments}.items():
        told = run("export", "-", "--until", until, env=env, cwd=tmp_path)
        assert json.loads(told.stdout.splitlines()[-1])["end"]["events"] == events
    ended = run("export", "x", "--until", "yesterday", env=env, cwd=tmp_path)
    assert "neither a position nor a time" in in_one_line(ended, 2)
    for until in ("7", "9" * 5000):
        ended = run("export", "x", "--until", until, env=env, cwd=tmp_path)
        assert "its last position is 6" in in_one_line(ended, 2)
    assert not (tmp_path / "x").exists()


def test_what_can_not_be_written_or_read_is_one_line(tmp_path: Path) -> None:
    env = made(tmp_path / "home")
    assert "name another file" in in_one_line(run("export", "no/where", env=env, cwd=tmp_path), 2)
    assert "it is a folder" in in_one_line(run("export", ".", env=env, cwd=tmp_path), 2)
    assert "start the projector" in in_one_line(
        run("export", "x", env=environment(tmp_path), cwd=tmp_path), 1
    )
    assert "No such file" in in_one_line(run("import", "nothing", env=env, cwd=tmp_path), 2)
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8bnonsense")
    assert "line 1" in in_one_line(run("import", "broken.gz", env=env, cwd=tmp_path), 2)


def test_a_file_that_was_cut_makes_no_ledger_and_another_ledgers_is_refused(tmp_path: Path) -> None:
    env = made(tmp_path / "home")
    assert run("export", "whole", env=env, cwd=tmp_path).returncode == 0
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-20])
    told = run("import", "cut", env=environment(tmp_path / "other"), cwd=tmp_path)
    assert in_one_line(told, 2).startswith(
        "line 8 is damaged: the file ends before its last line: it was cut; "
    )
    assert not (tmp_path / "other" / "data" / "ledger.db").exists()
    told = run("import", "whole", env=made(tmp_path / "third"), cwd=tmp_path)
    assert "holds another ledger" in in_one_line(told, 1)
    assert "DSPY_LEDGER_DATA_DIR" in told.stderr


def test_an_import_does_not_write_beside_a_projector(
    valkey, make_settings, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    env = environment(tmp_path, REDIS_URL=valkey.url)
    with projector(env, tmp_path):
        record(make_settings(valkey.url), 3)
        assert run("export", "whole", env=env, cwd=tmp_path).returncode == 0
        assert "another projector" in in_one_line(run("import", "whole", env=env, cwd=tmp_path), 1)
    assert run("import", "whole", env=env, cwd=tmp_path).stderr.startswith("imported 0 events")


def test_a_running_projector_forgets_when_asked_and_everything_is_gone(
    valkey, make_settings, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    env = environment(tmp_path, REDIS_URL=valkey.url)
    client, keys = valkey.client(), make_settings(valkey.url).keys
    with projector(env, tmp_path):
        record(make_settings(valkey.url), 3)
        record(make_settings(valkey.url), 2, user="bob")
        eventually(lambda: list((tmp_path / "dspy_programs").glob("p/executions/*.jsonl")))
        told = run("forget", "--user", "alice", "--dry-run", env=env, cwd=tmp_path)
        assert told.stdout == "to erase: inputs, outputs and nested calls of 3 executions\n"
        assert "add --yes" in in_one_line(run("forget", "--user", "alice", env=env, cwd=tmp_path), 2)
        told = run("forget", "--user", "alice", "--yes", env=env, cwd=tmp_path)
        assert told.returncode == 0, told.stderr
        assert told.stdout.endswith("erased: inputs, outputs and nested calls of 3 executions\n")
        assert client.xlen(keys.events) == 2
        told = run("forget", "--program", "p", "--yes", env=env, cwd=tmp_path)
        assert told.returncode == 0, told.stderr
        assert client.xlen(keys.events) == 0
        # The producers' write-ahead files keep what is stored until their segment ends: closed ones are gone.
        eventually(lambda: holding(tmp_path, SECRET) == set())
        told = run("forget", "--program", "p", "--yes", env=env, cwd=tmp_path)
        assert told.stdout == "there is nothing to erase\n"
    client.close()


def test_without_a_projector_the_command_erases_itself(valkey, tmp_path: Path) -> None:
    env = {**made(tmp_path), "DSPY_LEDGER_REDIS_URL": valkey.url}
    told = run("forget", "--execution", "e2", "--yes", env=env, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    with closing(SqliteEventStore(tmp_path / "data" / "ledger.db", readonly=True)) as store:
        assert [event.event_id for event in store.read_all() if event.body is None][:1] == ["e2"]
        assert list(store.check()) == []
    lines = (tmp_path / "dspy_programs/p/executions/2026-11-22.jsonl").read_text().splitlines()
    assert [json.loads(line)["inputs"] is None for line in lines] == [True, *[False] * 4]


def test_without_redis_it_says_what_is_not_erased_yet(tmp_path: Path) -> None:
    env = made(tmp_path)
    told = run("forget", "--older-than", "0h", "--program", "p", "--yes", env=env, cwd=tmp_path)
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1] == (
        "error: not erased yet in: registry; start Redis and the projector, which does it; if a disk is full,"
        " make room"
    )
    assert holding(tmp_path, SECRET) == set()


def digests(env: dict[str, str], cwd: Path) -> list[str]:
    """What verify tells of ledger, rows and files; the registry is not part of an export."""
    told = run("verify", env=env, cwd=cwd)
    return [
        line for line in told.stdout.splitlines() if line.split()[1:2] in (["ledger"], ["sql"], ["directory"])
    ]


def test_an_imported_ledger_verifies_to_the_same_digests_also_after_an_erasure(
    valkey, tmp_path: Path
) -> None:
    home = {**made(tmp_path / "home"), "DSPY_LEDGER_REDIS_URL": valkey.url}
    assert run("forget", "--program", "p", "--yes", env=home, cwd=tmp_path).returncode == 0
    assert run("verify", env=home, cwd=tmp_path).returncode == 0
    assert run("export", "x", env=home, cwd=tmp_path).returncode == 0
    other = environment(tmp_path / "other", REDIS_URL=valkey.url, STREAM_PREFIX="other")
    assert run("import", "x", env=other, cwd=tmp_path).returncode == 0
    at_home = digests(home, tmp_path)
    assert len(at_home) == 3
    assert all(line.startswith("✓") for line in at_home)
    assert digests(other, tmp_path) == at_home


@pytest.mark.parametrize("age", ["30", "3x", "-1d", "999999w", ""])
def test_an_age_that_is_none_is_told_how_to_be_one(age: str) -> None:
    with pytest.raises(InvalidInput, match="write hours, days or weeks, for example 12h, 30d, 8w"):
        moment_before("2026-11-22T12:00:00.000000Z", age)


@pytest.mark.parametrize(
    ("age", "moment"), [("36h", "2026-11-21T00"), ("2d", "2026-11-20T12"), ("1w", "2026-11-15T12")]
)
def test_an_age_is_in_hours_days_or_weeks(age: str, moment: str) -> None:
    assert moment_before("2026-11-22T12:00:00.000000Z", age) == f"{moment}:00:00.000000Z"


def test_forgetting_a_program_says_what_goes_and_what_stays(tmp_path: Path) -> None:
    told = run("forget", "--program", "p", "--dry-run", env=made(tmp_path, 1), cwd=tmp_path)
    assert told.stdout == (
        "to erase: inputs, outputs and nested calls of 1 execution,"
        " recorded state (demos, configuration) of 1 program version\n"
        "what stays of programs, as facts: signatures (fields, instructions) and source code\n"
    )


def test_an_empty_id_is_a_usage_error(tmp_path: Path) -> None:
    env = made(tmp_path)
    for name in ("--user", "--program", "--execution"):
        told = in_one_line(run("forget", name, "", env=env, cwd=tmp_path), 2)
        assert told == f"{name} is empty; write an id, or leave the option out\n"


@pytest.mark.parametrize(
    ("interrupted", "arguments", "told"),
    [
        ("replay.replay", ["replay"], "run it again to go on; the views in force are whole"),
        ("replay.replay", ["replay", "--fresh"], "run it again without --fresh to go on; the views"),
        ("verify.verify", ["verify"], "nothing was changed; run it again for an answer"),
        ("archive.write_archive", ["export", "x"], "the export is not complete; run it again"),
        ("archive.WriterLease", ["import", "x"], "run it again to go on"),
        ("forget.find", ["forget", "--user", "alice"], "nothing was erased"),
        ("forget.carried_out", ["forget", "--user", "alice", "--yes"], "what was asked for stays so: the"),
    ],
)
def test_ctrl_c_is_one_line_that_says_what_is_left(
    interrupted: str,
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ctrl_c(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    env = made(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    if arguments[0] == "import":
        assert run("export", "x", env=env, cwd=tmp_path).returncode == 0
    monkeypatch.setattr(f"dspy_ledger.cli.{interrupted}", ctrl_c)
    monkeypatch.setattr("dspy_ledger.cli.main._collect_less", lambda: None)
    monkeypatch.setattr("sys.argv", ["dspy-ledger", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert said.startswith(f"interrupted; {told}")
    assert said.count("\n") == 1


def test_nothing_said_is_a_usage_error(tmp_path: Path) -> None:
    assert "say what to erase" in in_one_line(run("forget", env=made(tmp_path), cwd=tmp_path), 2)


def test_a_running_projector_erases_what_has_expired(
    valkey, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    made(tmp_path, now="2020-01-01T00:00:00.000000Z")
    env = environment(tmp_path, REDIS_URL=valkey.url, RETENTION_DAYS=1)

    def with_bodies() -> list[str]:
        with closing(SqliteEventStore(tmp_path / "data" / "ledger.db", readonly=True)) as store:
            return [event.event_id for event in store.read_all() if event.body is not None]

    with projector(env, tmp_path):
        eventually(lambda: with_bodies() == ["r"])
        eventually(lambda: holding(tmp_path / "dspy_programs", SECRET) == {"p/1.0.0.json"})


def test_an_event_that_cannot_be_folded_is_left_out_by_an_import_and_the_rest_is_there(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("export", "ledger", env=made(tmp_path / "home"), cwd=tmp_path).returncode == 0
    break_position(monkeypatch, 2)
    assert import_ledger(settings, tmp_path / "ledger") == "imported 6 events"
    with closing(SqliteEventStore(settings.store_path, readonly=True)) as store:
        assert [(one.projection, one.position) for one in store.parked()] == [("sql", 2)]


def test_an_import_onto_a_full_disk_says_so(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("export", "ledger", env=made(tmp_path / "home"), cwd=tmp_path).returncode == 0

    def full(*_: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(SqliteEventStore, "restore", full)
    with pytest.raises(StoreError, match="can't go on: database or disk is full; see to the disk of"):
        import_ledger(settings, tmp_path / "ledger")
