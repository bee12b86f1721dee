"""The commands: what they start, how they end, and what they say when something is wrong."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.processes import COMMAND, child, children, environment, is_running, kill_9, run
from dspy_ledger.producer import Ledger
from dspy_ledger.settings import Settings
from dspy_ledger.timestamps import utc_now
from servers import free_port


@contextmanager
def command(*arguments: str, env: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *arguments], env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def record(settings: Settings, count: int) -> str:
    """So many executions, until they are stored; their source."""
    with Ledger.connect(settings=settings) as ledger:
        for n in range(count):
            data = {"program_id": "p", "status": "ok", "started_at": utc_now(), "latency_ms": 1}
            ledger.record("ExecutionCompleted", {**data, "execution_id": f"{ledger.source}-{n}"})
        assert ledger.flush(30, until="stored")
        return ledger.source


def get(port: int, path: str) -> object:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return json.load(answer)


def answers(port: int, path: str) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            get(port, path)
        except OSError:
            return False
        return True

    return ask


def test_up_runs_all_restarts_what_is_killed_and_ctrl_c_leaves_no_process(
    valkey, make_settings, tmp_path, eventually
) -> None:
    port = free_port()
    env = environment(tmp_path, REDIS_URL=valkey.url, API_PORT=port)
    settings = make_settings(valkey.url)
    with command("up", env=env, cwd=tmp_path) as up:
        eventually(answers(port, "/health/ready"))
        record(settings, 20)
        projector = child(up.pid, "projector")
        assert projector is not None
        kill_9(projector)
        record(settings, 30)
        eventually(lambda: len(get(port, "/v1/programs/executions?limit=100")["items"]) == 50)
        started = list(children(up.pid))
        assert len(started) == 2
        up.send_signal(signal.SIGINT)
        out, _ = up.communicate(timeout=30)
    assert up.returncode == 0, out
    assert "projector was killed (SIGKILL); starting it again" in out
    assert not [pid for pid in (*started, projector) if is_running(pid)]


def test_up_killed_with_9_takes_its_children_along(valkey, tmp_path, eventually) -> None:
    port = free_port()
    with command("up", env=environment(tmp_path, REDIS_URL=valkey.url, API_PORT=port), cwd=tmp_path) as up:
        eventually(answers(port, "/health/live"))
        started = list(children(up.pid))
        kill_9(up.pid)
        up.communicate(timeout=30)
        eventually(lambda: not [pid for pid in started if is_running(pid)])


def test_a_second_up_or_demo_on_a_folder_is_refused_at_once(valkey, tmp_path, eventually) -> None:
    """Two brokers wrote into one append-only file, and the demo's events became the ledger's."""
    port = free_port()
    folder = tmp_path / "shared"
    env = environment(folder, REDIS_URL=valkey.url, API_PORT=port, DATA_DIR=folder / ".dspy-ledger")
    folder.mkdir()
    with command("up", env=env, cwd=tmp_path) as up:
        eventually(answers(port, "/health/ready"))
        for other in (["up"], ["demo", "--exit", "--dir", str(folder)]):
            done = run(*other, env=env | {"DSPY_LEDGER_API_PORT": str(free_port())}, cwd=tmp_path)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith(f"error: `dspy-ledger up` or `demo` (process {up.pid}) runs on ")
            assert done.stderr.count("\n") == 1
        up.send_signal(signal.SIGINT)
        assert up.wait(20) == 0


def test_up_gives_up_on_what_keeps_failing_and_says_why(valkey, tmp_path, eventually) -> None:
    env = environment(tmp_path, REDIS_URL=valkey.url, API_PORT=free_port())
    with command("projector", env=env, cwd=tmp_path) as other:
        eventually((tmp_path / "data" / "ledger.db").exists)
        ended = run("up", env=env, cwd=tmp_path)
        other.terminate()
        other.communicate(timeout=20)
    assert ended.returncode == 1
    assert "projector ended with exit code 1 6 times in a row" in ended.stderr
    assert f"another projector (process {other.pid})" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("variable", ["DATA_DIR", "PROGRAMS_DIR"])
def test_up_says_at_once_which_folder_it_can_not_write(variable, valkey, tmp_path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    own = {"REDIS_URL": valkey.url, "API_PORT": free_port(), variable: tmp_path / "file"}
    ended = run("up", env=environment(tmp_path, **own), cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"error: can't write into {tmp_path / 'file'} (it is a file);"
        f" set DSPY_LEDGER_{variable} to a folder of yours\n"
    )


@pytest.mark.parametrize("name", ["api", "up"])
def test_a_port_in_use_is_one_line_and_exit_code_1(name, valkey, tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run(name, env=environment(tmp_path, REDIS_URL=valkey.url, API_PORT=port), cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert f"port {port}" in ended.stderr
    assert "in use" in ended.stderr


def test_an_unusable_data_folder_is_one_line_and_exit_code_1(valkey, tmp_path) -> None:
    (tmp_path / "data").write_text("a file where a folder should be")
    env = environment(tmp_path, REDIS_URL=valkey.url)
    for name in ("projector", "status"):
        ended = run(name, env=env, cwd=tmp_path)
        assert ended.returncode == 1
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert ended.stderr.startswith("error: ")


def test_a_setting_that_can_not_be_is_one_line_and_exit_code_2(tmp_path) -> None:
    ended = run("status", env=environment(tmp_path, API_PORT="lots"), cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: DSPY_LEDGER_API_PORT='lots' can't be used: ")
    assert ended.stderr.count("\n") == 1


def test_an_unknown_command_is_a_usage_error(tmp_path) -> None:
    assert run("nope", env=environment(tmp_path), cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("name", ["demo", "up", "projector", "api", "status", "export", "import", "forget"])
def test_every_command_has_help_with_an_example(name, tmp_path) -> None:
    ended = run(name, "--help", env=environment(tmp_path), cwd=tmp_path)
    assert ended.returncode == 0
    assert "Example: " in ended.stdout


def test_status_tells_that_nothing_is_missing_or_what_is(valkey, make_settings, tmp_path, eventually) -> None:
    env = environment(tmp_path, REDIS_URL=valkey.url)
    before = run("status", env=env, cwd=tmp_path)
    assert before.returncode == 1
    assert "start the projector" in before.stderr
    with command("projector", env=env, cwd=tmp_path) as projector:
        source = record(make_settings(valkey.url), 12)
        eventually(lambda: run("status", env=env, cwd=tmp_path).returncode == 0)
        projector.terminate()
        projector.communicate(timeout=20)
    assert projector.returncode == 0
    status = json.loads(run("status", "--json", env=env, cwd=tmp_path).stdout)
    assert (status["position"], status["dead_letters"], status["projector_running"]) == (12, 0, False)
    assert status["problems"] == ["no projector is running here; start `dspy-ledger projector`"]
    assert status["projections"] == {"sql": 12, "directory": 12, "registry": 12}
    assert [(p["source"], p["stored_mark"], p["missing"]) for p in status["producers"]] == [(source, 12, [])]
    client = valkey.client()
    client.xadd(make_settings(valkey.url).keys.events, {"unread": "entry"})
    client.close()
    told = run("status", env=env, cwd=tmp_path)
    assert told.returncode == 1
    assert "1 not read yet (no projector runs)" in told.stdout
    assert "nothing missing" not in told.stdout


def test_a_second_ledger_on_a_prefix_is_refused_in_one_line_and_status_says_it(
    valkey, make_settings, tmp_path, eventually
) -> None:
    one, two = (environment(tmp_path / name, REDIS_URL=valkey.url) for name in ("one", "two"))
    with command("projector", env=one, cwd=tmp_path) as projector:
        record(make_settings(valkey.url, wal_dir=tmp_path / "wal"), 3)
        refused = run("projector", env=two, cwd=tmp_path)
        told = run("status", env=two, cwd=tmp_path)
        projector.terminate()
        projector.communicate(timeout=20)
    assert refused.returncode == 1
    [error] = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert "owns this Redis under the prefix dspy-ledger" in error
    assert "redis-cli DEL '{dspy-ledger:0}:owner'" in error
    assert "Traceback" not in refused.stderr
    assert "uses the same Redis and prefix" in told.stdout
    assert "DSPY_LEDGER_STREAM_PREFIX" in told.stdout


def test_status_of_an_empty_ledger_has_no_question_marks(valkey, tmp_path, eventually) -> None:
    env = environment(tmp_path, REDIS_URL=valkey.url)
    with command("projector", env=env, cwd=tmp_path) as projector:
        eventually(lambda: run("status", env=env, cwd=tmp_path).returncode == 0)
        told = run("status", env=env, cwd=tmp_path)
        projector.terminate()
        projector.communicate(timeout=20)
    assert "?" not in told.stdout
    assert "registry" in told.stdout


def test_what_lies_in_the_data_folder_stays_out_of_git(valkey, make_settings, tmp_path, eventually) -> None:
    with command("projector", env=environment(tmp_path, REDIS_URL=valkey.url), cwd=tmp_path) as projector:
        eventually((tmp_path / "data" / "ledger.db").exists)
        projector.terminate()
        projector.communicate(timeout=20)
    subprocess.run(["git", "init", "-q"], check=True, cwd=tmp_path)
    listed = subprocess.run(
        ["git", "add", "-n", "."], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert "data/" not in listed.stdout


def test_a_misspelt_setting_is_told(tmp_path) -> None:
    told = run("--version", env=environment(tmp_path, API_PROT=9000), cwd=tmp_path).stderr
    assert told == ""  # nothing was read
    told = run("status", env=environment(tmp_path, API_PROT=9000), cwd=tmp_path).stderr
    assert "DSPY_LEDGER_API_PROT is no setting; did you mean DSPY_LEDGER_API_PORT?" in told


def test_the_version_can_be_asked(tmp_path) -> None:
    assert run("--version", env=environment(tmp_path), cwd=tmp_path).stdout.strip() == "0.1.0"


def test_the_command_starts_without_dspy_or_fastapi() -> None:
    heavy = "{'dspy', 'fastapi', 'faststream', 'litellm'}"
    code = f"import sys, dspy_ledger.cli.main; print(sorted({heavy} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout == "[]\n"
