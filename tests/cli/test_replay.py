"""``replay`` and ``verify`` as real processes: beside a projector and an API at work, killed, and alone."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.processes import COMMAND, environment, kill_9, run
from cli.test_commands import answers, command, get
from dspy_ledger import wire
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.views import current_view
from projector.ledgers import execution, registration
from servers import Valkey, free_port


@pytest.fixture
def filled(make_settings: Callable[..., Settings], valkey: Valkey) -> Settings:
    """A store of 12,000 events and no view yet."""
    settings = make_settings(valkey.url)
    store = SqliteEventStore(settings.store_path)
    entries = [registration("r1", 1), *(execution(f"e{n}", n) for n in range(2, 12_001))]
    store.append([(f"0-{n}", wire.decode(fields)) for n, fields in enumerate(entries, 1)])
    store.close()
    return settings


@pytest.fixture
def sending(valkey: Valkey, filled: Settings) -> Iterator[Callable[[], int]]:
    """Sends some hundred events a second; tells how many so far."""
    sent, halt = 0, threading.Event()

    def send() -> None:
        nonlocal sent
        with valkey.client() as client:
            while not halt.wait(0.02):
                client.xadd(filled.keys.events, execution(f"s{sent}", 30_000 + sent, program="q"))
                sent += 1

    thread = threading.Thread(target=send)
    thread.start()
    yield lambda: sent
    halt.set()
    thread.join()


def test_replay_beside_a_projector_that_ingests_and_an_api_that_answers(
    filled: Settings, sending: Callable[[], int], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    port = free_port()
    env = environment(tmp_path, REDIS_URL=filled.redis_url, API_PORT=port)
    positions: list[int] = []
    halt = threading.Event()

    def ask() -> None:
        while not halt.wait(0.005):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/programs", timeout=5) as answer:
                positions.append(int(answer.headers["Ledger-Position"]))

    with (
        command("projector", env=env, cwd=tmp_path) as projector,
        command("api", env=env, cwd=tmp_path) as api,
    ):
        eventually(answers(port, "/health/ready"), within=60)
        eventually(lambda: positioned(port) >= 12_000, within=60)
        asker = threading.Thread(target=ask)
        asker.start()
        before = current_view(filled.data_dir)
        done = run("replay", env=env, cwd=tmp_path)
        verified = run("verify", "--json", env=env, cwd=tmp_path)
        halt.set()
        asker.join()
        assert done.returncode == 0, done.stderr
        assert "is in force" in done.stdout
        assert "0 files made, 0 mended" in done.stdout
        assert current_view(filled.data_dir) != before
        assert verified.returncode == 0, verified.stdout
        assert json.loads(verified.stdout)["clean"] is True
        assert positions == sorted(positions)  # nobody was answered from an older position than before
        assert positions[-1] > positions[0]
        for process in (projector, api):
            process.terminate()
            process.communicate(timeout=20)
    assert sending() > 0


def positioned(port: int) -> int:
    return int(get(port, "/health/ready")["position"])  # type: ignore[index]


def test_a_killed_replay_is_gone_on_with(
    filled: Settings, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    env = environment(tmp_path, REDIS_URL=filled.redis_url)
    with subprocess.Popen(
        [*COMMAND, "replay", "sql"],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as replay:
        eventually(lambda: built(filled) >= 5000, within=60)
        kill_9(replay.pid)
    at = built(filled)
    assert at >= 5000
    ended = run("replay", "sql", env=env, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "sql: 12,000 events" in ended.stdout
    assert run("verify", env=env, cwd=tmp_path).returncode == 1  # files and registry are empty
    assert run("replay", env=env, cwd=tmp_path).returncode == 0
    verified = run("verify", env=env, cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout


def test_an_interrupted_replay_is_gone_on_with(
    filled: Settings, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    env = environment(tmp_path, REDIS_URL=filled.redis_url)
    with command("replay", "sql", env=env, cwd=tmp_path) as replay:
        eventually(lambda: built(filled) >= 5000, within=60)
        replay.send_signal(signal.SIGINT)
        out, _ = replay.communicate(timeout=20)
    assert (replay.returncode, out) == (
        130, "interrupted; run it again to go on; the views in force are whole\n"
    )  # fmt: skip
    assert run("replay", "sql", env=env, cwd=tmp_path).returncode == 0


def built(settings: Settings) -> int:
    for path in settings.data_dir.glob("views-*.db"):
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
                row = db.execute("SELECT position FROM checkpoint").fetchone()
            db.close()
        except sqlite3.Error:
            continue
        return int(row[0]) if row else 0
    return 0


def test_a_projector_killed_while_it_puts_a_build_in_force_does_so_when_it_is_back(
    filled: Settings, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    """The request outlives the projector, and the command waits for the next one."""
    env = environment(tmp_path, REDIS_URL=filled.redis_url)
    with command("projector", env=env, cwd=tmp_path) as projector:
        eventually(lambda: built(filled) == 12_000, within=60)
        with command("replay", "sql", env=env, cwd=tmp_path) as replay:
            eventually((filled.data_dir / "sql.build").exists, within=60)
            kill_9(projector.pid)
            with command("projector", env=env, cwd=tmp_path) as again:
                out, _ = replay.communicate(timeout=60)
                again.terminate()
                again.communicate(timeout=20)
        assert replay.returncode == 0, out
        assert "is in force" in out


def test_what_can_not_be_replayed_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    for wrong in (["views"], ["sql", "--prune"]):
        ended = run("replay", *wrong, env=environment(tmp_path), cwd=tmp_path)
        assert ended.returncode == 2
        assert ended.stderr.count("\n") == 1


def test_without_a_store_each_command_says_so_in_one_line(tmp_path: Path) -> None:
    for wrong in (["replay", "registry"], ["verify"], ["deadletters", "list"]):
        ended = run(*wrong, env=environment(tmp_path), cwd=tmp_path)
        assert ended.returncode == 1
        assert "there is no event store" in ended.stderr
        assert ended.stderr.count("\n") == 1, ended.stderr


@pytest.mark.parametrize(
    "name", [["replay"], ["verify"], *(["deadletters", n] for n in ("list", "retry", "drop"))]
)
def test_every_command_has_help_with_an_example(name: list[str], tmp_path: Path) -> None:
    ended = run(*name, "--help", env=environment(tmp_path), cwd=tmp_path)
    assert ended.returncode == 0
    assert "Example: " in ended.stdout
