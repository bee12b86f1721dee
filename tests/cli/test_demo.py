"""The demo, as somebody who has never seen it runs it."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest

from cli.processes import COMMAND, child, children, environment, is_running, kill_9, run
from servers import free_port


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One whole run, looked at by several tests."""
    folder = tmp_path_factory.mktemp("demo")
    return folder / "dspy-ledger-demo", run("demo", "--exit", env=demo_env(folder), cwd=folder)


def demo_env(folder: Path) -> dict[str, str]:
    """Nothing set: the demo takes its own folders. Only the port is the test's own."""
    env = {name: value for name, value in environment(folder).items() if not name.startswith("DSPY_LEDGER_")}
    return {**env, "DSPY_LEDGER_API_PORT": str(free_port())}


def version_files(programs: Path) -> list[str]:
    return sorted(str(path.relative_to(programs)) for path in programs.glob("*/*.json"))


def account(output: str) -> tuple[int, ...]:
    """recorded, stored, dropped, in the store, over REST, in files."""
    numbers = re.search(
        r"(\d+) events recorded, (\d+) stored, (\d+) dropped by this run;"
        r" executions by all runs here: (\d+) in the store, (\d+) over REST, (\d+) in files",
        output,
    )
    assert numbers, output
    return tuple(map(int, numbers.groups()))


def test_it_ends_well_and_every_event_is_where_it_belongs(finished) -> None:
    _, ended = finished
    assert (ended.returncode, ended.stderr) == (0, "")
    recorded, stored, dropped, in_store, over_rest, in_files = account(ended.stdout)
    assert recorded == stored > 200
    assert dropped == 0
    assert in_store == over_rest == in_files == 202


def test_it_leaves_the_files_of_a_users_project(finished) -> None:
    directory, _ = finished
    programs = directory / "dspy_programs"
    assert version_files(programs) == [
        "contact_extractor/1.0.0.json",
        "text_completion/1.0.0.json",
        "text_completion/1.1.0.json",
    ]
    optimized = json.loads((programs / "text_completion" / "1.1.0.json").read_text())
    assert (optimized["parent_id"], optimized["parent_version"]) == ("text_completion", "1.0.0")
    assert optimized["optimizer"]["name"] == "dspy.teleprompt.BootstrapFewShot"
    assert len(optimized["state"]["form"]["parameters"][0]["demos"]) >= 4
    evaluations = [json.loads(path.read_text()) for path in programs.glob("*/evaluations/*.json")]
    scored = {(e["program_id"], e["program_version"], e["model_id"]) for e in evaluations}
    assert scored == {
        (program, version, model)
        for program, version in (
            ("text_completion", "1.0.0"),
            ("text_completion", "1.1.0"),
            ("contact_extractor", "1.0.0"),
        )
        for model in ("gpt-4o-mini", "gpt-4.1-nano")
    }
    lines = [
        line for path in programs.glob("*/executions/*.jsonl") for line in path.read_bytes().splitlines()
    ]
    assert len({json.loads(line)["execution_id"] for line in lines}) == 202
    assert (directory / "models.yaml").is_file()
    assert (directory / ".dspy-ledger" / "ledger.db").is_file()


def test_it_shows_that_the_optimized_version_is_better_on_both_models(finished) -> None:
    scores = {
        version: [float(score) for score in re.findall(r"\d+\.\d+", row)]
        for version, row in re.findall(
            r"Text Completion\s+(\d\.\d\.\d) +([\d. ]+)$", finished[1].stdout, re.MULTILINE
        )
    }
    assert all(after > before for before, after in zip(scores["1.0.0"], scores["1.1.0"], strict=True))


def test_run_again_in_the_same_place_it_makes_no_new_program_or_version(finished) -> None:
    directory, _ = finished
    before = version_files(directory / "dspy_programs")
    content = {name: (directory / "dspy_programs" / name).read_bytes() for name in before}
    again = run("demo", "--exit", env=demo_env(directory.parent), cwd=directory.parent)
    assert again.returncode == 0, again.stdout + again.stderr
    assert version_files(directory / "dspy_programs") == before
    assert {name: (directory / "dspy_programs" / name).read_bytes() for name in before} == content
    assert account(again.stdout)[3:] == (404, 404, 404)


def test_projector_and_broker_killed_in_the_middle_cost_nothing(tmp_path, eventually) -> None:
    env = demo_env(tmp_path)
    demo = subprocess.Popen(
        [*COMMAND, "demo", "--exit"],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = tmp_path / "dspy-ledger-demo" / "dspy_programs" / "text_completion" / "executions"

    def recorded_bytes() -> int:
        return sum(path.stat().st_size for path in lines.glob("*.jsonl"))

    def strike(word: str) -> int:
        """Kill that child while work is under way, and wait for its successor."""
        seen = recorded_bytes()
        eventually(lambda: recorded_bytes() > seen, within=60)
        pid = child(demo.pid, word)
        assert pid is not None, children(demo.pid)
        kill_9(pid)
        eventually(lambda: child(demo.pid, word) not in (None, pid))
        return pid

    killed = [strike("projector"), strike("valkey-server")]
    started = list(children(demo.pid))
    out, err = demo.communicate(timeout=180)
    assert demo.returncode == 0, out + err
    recorded, stored, dropped, in_store, over_rest, in_files = account(out)
    assert (recorded, dropped) == (stored, 0)
    assert in_store == over_rest == in_files == 202
    assert "was killed (SIGKILL); starting it again" in out
    assert not [pid for pid in (*started, *killed) if is_running(pid)]


def test_served_on_it_answers_until_interrupted_and_leaves_no_process(tmp_path, eventually) -> None:
    env = demo_env(tmp_path)
    demo = subprocess.Popen(
        [*COMMAND, "demo", "--dir", "here"], env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if "Serving on" in line:
            break
    base = f"http://127.0.0.1:{env['DSPY_LEDGER_API_PORT']}/v1/programs"
    seen: list[str] = []
    cursor = ""
    while True:
        with urllib.request.urlopen(f"{base}/executions?limit=10{cursor}") as answer:
            page = json.load(answer)
        seen += [item["execution_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen)) == 202
    started = list(children(demo.pid))
    assert len(started) == 3
    demo.send_signal(2)
    demo.communicate(timeout=30)
    assert demo.returncode == 0
    assert not [pid for pid in started if is_running(pid)]


def test_a_real_model_without_its_key_is_one_line_and_exit_code_2(tmp_path) -> None:
    env = {name: value for name, value in demo_env(tmp_path).items() if name != "OPENAI_API_KEY"}
    ended = run("demo", "--model", "openai/gpt-4o-mini", env=env, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == "error: --model openai/gpt-4o-mini needs OPENAI_API_KEY in the environment\n"
