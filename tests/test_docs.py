"""The pages under docs/ say what the code does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import pytest
import yaml

from dspy_ledger import events, wire
from dspy_ledger.keys import BODY_FIELD, DATA_FIELD, Keys
from dspy_ledger.producer import ModelManager
from dspy_ledger.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md")), ROOT / "examples" / "README.md"]
JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def rows(text: str, first_column: str) -> list[list[str]]:
    """The rows of the first table whose first column is called that."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {first_column} |"):
            next(lines)
            return [_cells(line) for line in _until_no_row(lines)]
    raise AssertionError(f"no table of {first_column}")


def _until_no_row(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield line


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def code(text: str, language: str) -> str:
    return re.search(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1]


def section(title: str) -> str:
    return re.split(r"^## ", page("events.md").partition(f"## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[
        0
    ]


def json_type(annotation: Any) -> str:
    """What JSON calls values of this type."""
    if get_origin(annotation) is Annotated:
        return json_type(get_args(annotation)[0])
    if annotation is Any:
        return "any"
    if isinstance(annotation, type):
        return "object" if issubclass(annotation, msgspec.Struct) else JSON_TYPES[annotation]
    if get_origin(annotation) is Literal:
        return json_type(type(get_args(annotation)[0]))
    if get_origin(annotation) in (Union, types.UnionType):
        of = {json_type(part) for part in get_args(annotation) if part is not type(None)}
        return "number" if of == {"integer", "number"} else of.pop() if len(of) == 1 else "any"
    return JSON_TYPES.get(get_origin(annotation), "any")


def documented(model: type[msgspec.Struct]) -> list[tuple[str, str, str]]:
    """What the columns Field, JSON and Needed have to say of a model."""
    return [
        (f"`{field.name}`", json_type(field.type), "yes" if field.required else "no")
        for field in msgspec.structs.fields(model)
    ]


# --- settings.md ---


def _spelled(default: Any) -> str:
    if default in (None, ()):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_settings_page_lists_every_setting_with_its_default_and_description_and_no_other():
    said = {name: (default, meaning) for name, default, meaning, _ in rows(page("settings.md"), "Variable")}
    fields = Settings.model_fields.items()
    assert said == {
        f"`DSPY_LEDGER_{name.upper()}`": (_spelled(field.default), field.description)
        for name, field in fields
    }


def test_settings_page_says_for_each_setting_who_reads_it():
    for name, _, _, readers in rows(page("settings.md"), "Variable"):
        assert set(readers.split(", ")) <= {"producer", "projector", "api"}, name


# --- models.md ---


def test_models_file_of_the_page_and_of_the_examples_can_be_read(tmp_path):
    given = tmp_path / "models.yaml"
    given.write_text(code(page("models.md"), "yaml"), "utf-8")
    for path in (given, ROOT / "examples" / "models.yaml"):
        models = ModelManager.from_yaml(path).list_models()
        assert "gpt-4o-mini" in {model.model_id for model in models}


def test_models_page_names_every_key_of_its_example():
    keys = {
        key for entry in yaml.safe_load(code(page("models.md"), "yaml"))["models"].values() for key in entry
    }
    assert {name.strip("`") for name, *_ in rows(page("models.md"), "Key")} == keys


# --- events.md ---


@pytest.mark.parametrize("kind", sorted(events.EVENT_TYPES))
def test_events_page_lists_every_field_of_an_event(kind):
    text = section(kind)
    assert f"`{events.EVENT_TYPES[kind]}`" in text
    said = [(name, form, needed) for name, form, needed, _ in rows(text, "Field")]
    assert said == documented(getattr(events, kind))


def test_events_page_lists_every_field_of_the_envelope():
    said = [(name, form, needed) for name, form, needed, _ in rows(section("The envelope"), "Field")]
    assert said == documented(events.ExecutionCompletedEvent)


def test_events_page_names_the_stream_and_its_fields():
    text = section("Where they are")
    assert f"`{Keys().events}`" in text
    fields = [f"`{field.decode()}`" for field in (DATA_FIELD, BODY_FIELD)]
    assert [name for name, _ in rows(text, "Field")] == fields


def test_event_on_the_page_is_a_valid_one():
    payload = code(page("events.md"), "json").encode()
    assert wire.decode({DATA_FIELD: payload}).type == events.EVENT_TYPES["ExecutionCompleted"]


def test_consumer_on_the_page_reads_what_is_in_the_stream(valkey):
    body = b'{"outputs":{"output":"an opera"}}'
    envelope = json.loads(code(page("events.md"), "json")) | {"bodydigest": wire.body_digest(body)}
    client = valkey.client()
    client.xadd(Keys().events, {DATA_FIELD: json.dumps(envelope), BODY_FIELD: body})
    client.close()
    url = "redis://localhost:6379/0"
    consumer = code(page("events.md"), "python")
    assert url in consumer
    process = subprocess.Popen(
        [sys.executable, "-c", consumer.replace(url, valkey.url)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    with process:
        line = process.stdout.readline()
        process.kill()
    assert line.startswith(f"{envelope['id']} {envelope['type']} ")
    assert "{'outputs': {'output': 'an opera'}}" in line


# --- all pages ---


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_within_the_repository_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#\s]+)", path.read_text("utf-8")):
        assert "://" in link or (path.parent / link).exists(), link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_variables_that_a_page_names_are_settings(path):
    named = set(re.findall(r"\bDSPY_LEDGER_([A-Z][A-Z_]*[A-Z])\b", path.read_text("utf-8")))
    assert {name.lower() for name in named} <= set(Settings.model_fields)
