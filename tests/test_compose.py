"""The files for containers hold together: with one another, with the commands, with the settings."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from dspy_ledger.cli.main import app
from dspy_ledger.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE_TEXT = (ROOT / "compose.yaml").read_text("utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)

DURATION = {"type": "string", "pattern": r"^([0-9]+(us|ms|s|m|h))+$"}
TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image", "restart", "stop_grace_period"],
    "properties": {
        "image": {"type": "string"},
        "build": {
            "type": "object",
            "additionalProperties": False,
            "required": ["context"],
            "properties": {
                "context": {"type": "string"},
                "args": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
        "init": {"type": "boolean"},
        "command": TEXTS,
        "environment": {"type": "object", "additionalProperties": {"type": "string"}},
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "stop_grace_period": DURATION,
        "cap_drop": TEXTS,
        "security_opt": TEXTS,
        "ports": {**TEXTS, "items": {"type": "string", "pattern": r"^([0-9.]+:)?[0-9]+:[0-9]+$"}},
        "volumes": {**TEXTS, "items": {"type": "string", "pattern": r"^[^:]+:/[^:]+(:(ro|rw))?$"}},
        "healthcheck": {
            "type": "object",
            "additionalProperties": False,
            "required": ["test", "interval", "timeout", "retries"],
            "properties": {
                "test": {"type": "array", "prefixItems": [{"const": "CMD"}], "items": {"type": "string"}},
                "interval": DURATION,
                "timeout": DURATION,
                "start_period": DURATION,
                "retries": {"type": "integer", "minimum": 1},
            },
        },
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["condition"],
                "properties": {
                    "condition": {
                        "enum": ["service_started", "service_healthy", "service_completed_successfully"]
                    }
                },
            },
        },
    },
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["services"],
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {"type": "object", "additionalProperties": SERVICE},
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
    },
}


def service(name: str) -> dict[str, Any]:
    return COMPOSE["services"][name]


def volumes(name: str) -> dict[str, str]:
    """Where a service's volumes lie in it → what is mounted there."""
    parts = (volume.split(":") for volume in service(name).get("volumes", []))
    return {target: source for source, target, *_ in parts}


def instructions(keyword: str, text: str = DOCKERFILE) -> list[str]:
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line.removeprefix(f"{keyword} ") for line in lines if line.startswith(f"{keyword} ")]


def image_environment() -> dict[str, str]:
    pairs = " ".join(instructions("ENV")).split()
    return dict(pair.split("=", 1) for pair in pairs)


def test_compose_file_has_the_form_that_compose_reads():
    jsonschema.validate(COMPOSE, SCHEMA)


def test_there_are_a_broker_a_projector_and_an_api():
    assert set(COMPOSE["services"]) == {"valkey", "projector", "api"}


def test_every_command_of_our_image_is_one_of_the_command_line():
    commands = typer.main.get_command(app).commands
    for name in ("projector", "api"):
        program, command, *rest = service(name)["command"]
        assert (program, rest) == ("dspy-ledger", [])
        assert command in commands
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert "dspy-ledger" in scripts


@pytest.mark.parametrize("name", ["compose.yaml", "Dockerfile"])
def test_every_variable_is_a_setting(name):
    used = re.findall(r"\bDSPY_LEDGER_([A-Z_]+)", (ROOT / name).read_text("utf-8"))
    assert used
    assert {variable.lower() for variable in used} <= set(Settings.model_fields)


@pytest.mark.parametrize("name", ["projector", "api"])
def test_settings_inside_the_containers_can_be_used(name, monkeypatch):
    variables = image_environment() | service(name)["environment"]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    settings = Settings(_env_file=None)
    assert settings.redis_url == "redis://valkey:6379/0"
    assert str(settings.data_dir) in volumes(name)


def test_ports_are_published_on_this_machine_only():
    published = [port for one in COMPOSE["services"].values() for port in one.get("ports", [])]
    assert sorted(published) == ["127.0.0.1:6379:6379", "127.0.0.1:8321:8321"]


def test_api_listens_where_its_port_is_published_and_its_health_is_asked():
    environment = service("api")["environment"]
    assert environment["DSPY_LEDGER_API_HOST"] == "0.0.0.0"
    assert environment["DSPY_LEDGER_API_INSECURE"] == "true"
    port = environment["DSPY_LEDGER_API_PORT"]
    assert service("api")["ports"] == [f"127.0.0.1:{port}:{port}"]
    probe = service("api")["healthcheck"]["test"][-1]
    assert f"http://127.0.0.1:{port}/health/ready" in probe
    compile(probe, "healthcheck", "exec")


def test_named_volumes_are_declared_and_used():
    sources = {source for name in COMPOSE["services"] for source in volumes(name).values()}
    assert {source for source in sources if not source.startswith(".")} == set(COMPOSE["volumes"])


def test_projector_and_api_see_the_same_data_and_the_projector_writes_programs_beside_the_compose_file():
    settings = image_environment()
    data, programs = settings["DSPY_LEDGER_DATA_DIR"], settings["DSPY_LEDGER_PROGRAMS_DIR"]
    assert volumes("projector")[data] == volumes("api")[data]
    assert volumes("projector")[programs] == "./dspy_programs"
    made = next(run for run in instructions("RUN") if "install --directory" in run)
    assert {data, programs} <= set(made.split())


def test_services_are_waited_for_in_the_order_of_the_data():
    assert service("projector")["depends_on"] == {"valkey": {"condition": "service_healthy"}}
    assert service("api")["depends_on"] == {"projector": {"condition": "service_started"}}
    assert "healthcheck" in service("valkey")


def test_broker_writes_every_second_and_evicts_nothing():
    command = service("valkey")["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options == {
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--maxmemory-policy": "noeviction",
    }
    assert re.fullmatch(r"valkey/valkey:\d+", service("valkey")["image"])
    assert volumes("valkey") == {"/data": "valkey-data"}


def test_image_is_built_from_files_that_exist_and_are_not_ignored():
    ignored, *kept = [
        line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] not in ("#", "")
    ]
    allowed = {line[1:] for line in kept if line.startswith("!")}
    assert ignored == "*"
    copies = [copy.split() for copy in instructions("COPY") if not copy.startswith("--from=build ")]
    sources = {source for *names, _ in copies for source in names}
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)


def test_image_has_every_folder_of_the_wheel_and_only_extras_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folders = {
        package.split("/")[0] for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    }
    copied = {name for copy in instructions("COPY") for name in copy.split()}
    assert folders <= copied
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= copied
    extras = re.search(r'install "\.\[([a-z,]+)\]"', DOCKERFILE)[1].split(",")
    assert extras == ["projector", "api"]
    assert set(extras) <= set(project["project"]["optional-dependencies"])


def test_arguments_of_the_build_are_declared_and_the_last_stage_does_not_run_as_root():
    last_stage = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    declared = dict(argument.split("=") for argument in instructions("ARG", last_stage))
    assert set(service("projector")["build"]["args"]) == set(declared)
    assert int(declared["HOST_UID"]) > 0
    assert instructions("USER", last_stage) == ["$HOST_UID:$HOST_GID"]
    assert "pip install" not in last_stage
