"""The README's own words, run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml
from typer.main import get_command

from cli.processes import environment
from dspy_ledger.cli.demo.model_server import ModelServer
from dspy_ledger.cli.main import app
from dspy_ledger.settings import load_settings
from producer.streams import entries

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def test_the_integration_works_as_written(valkey, tmp_path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert "redis://localhost:6379/0" in code
    with ModelServer() as server:
        reach = {"api_base": server.url, "api_key": "x", "cache": False}
        model = {"model_name": "openai/gpt-4o-mini", "additional_params": reach}
        (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": {"gpt-4o-mini": model}}))
        told = subprocess.run(
            [sys.executable, "-c", code.replace("redis://localhost:6379/0", valkey.url)],
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(tmp_path, REDIS_URL=valkey.url),
        )
    assert re.search(r" 1\.0\.0 [0-9.e-]+$", told.stdout.strip())
    settings = load_settings(redis_url=valkey.url, _env_file=None)
    assert [e.type.split(".")[2] for e in entries(valkey, settings)] == [
        "ProgramRegistered",
        "ExecutionCompleted",
    ]


def test_every_command_stands_in_the_table_and_the_other_way_round() -> None:
    told = set(re.findall(r"^\| `dspy-ledger (\w+)`", README, re.MULTILINE))
    assert told == set(get_command(app).commands)


def test_what_the_readme_points_to_is_there() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
