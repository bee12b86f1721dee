"""The README's own words, run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from cli.processes import environment
from dspy_ledger.cli.demo.model_server import ModelServer
from dspy_ledger.cli.main import app
from dspy_ledger.settings import load_settings
from producer.streams import entries

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


ROOT = Path(__file__).parent.parent


def code_of(page: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL))


@pytest.mark.parametrize(
    ("page", "kinds"),
    [
        ("README.md", ["ProgramRegistered", "ExecutionCompleted"]),
        (
            "docs/python.md",
            [
                *("ProgramRegistered", "ExecutionCompleted", "EvaluationSaved"),
                *("ProgramRegistered", "EvaluationSaved"),
            ],
        ),
        ("docs/evaluating.md", ["ProgramRegistered", *["EvaluationSaved"] * 3]),
    ],
)
def test_the_code_works_as_written(page, kinds, valkey, tmp_path) -> None:
    code = code_of(page)
    with ModelServer() as server:
        reach = {"api_base": server.url, "api_key": "x", "cache": False}
        model = {"model_name": "openai/gpt-4o-mini", "additional_params": reach}
        (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": {"gpt-4o-mini": model}}))
        (tmp_path / "code.py").write_text(code.replace("redis://localhost:6379/0", valkey.url))
        subprocess.run(
            [sys.executable, "code.py"],
            check=True,
            cwd=tmp_path,
            env=environment(tmp_path, REDIS_URL=valkey.url),
        )
    settings = load_settings(redis_url=valkey.url, _env_file=None)
    found = sorted(entries(valkey, settings), key=lambda entry: entry.sequence)
    assert [entry.type.split(".")[2] for entry in found] == kinds


def test_the_test_on_the_page_about_testing_passes(tmp_path) -> None:
    (tmp_path / "test_page.py").write_text(code_of("docs/testing.md"))
    ran = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "test_page.py")]
    subprocess.run(ran, check=True, cwd=tmp_path, env=environment(tmp_path))


def test_every_command_stands_in_the_table_and_the_other_way_round() -> None:
    told = set(re.findall(r"^\| `dspy-ledger (\w+)`", README, re.MULTILINE))
    assert told == set(get_command(app).commands)


def test_what_the_readme_points_to_is_there() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
