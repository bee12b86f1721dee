"""Models: the file's and the seen ones as one list, and nothing of the file but names."""

from __future__ import annotations

import os

import pytest

from dspy_ledger.api import schemas
from dspy_ledger.api.models_file import read_models

PATH = "/v1/programs/models"
SECRET = "sk-secret-1234"


@pytest.fixture
def write(api_settings):
    def write(text):
        path = api_settings.models_file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(0, hash(text) % 10**9 * 10**6))  # also a second write within one tick is seen

    return write


def test_models_are_those_of_the_file_and_those_seen(ledger, api, write):
    write(
        "models:\n"
        "  gpt: {model_name: openai/gpt-4o-mini, additional_params: {api_key: " + SECRET + "}}\n"
        "  router: {model_name: openrouter/meta/llama, max_tokens: 5}\n"
        "  7: {model_name: local}\n"
    )
    info = {"provider": "azure", "base_model": "old", "model_name": "azure/old"}
    ledger.execute("x1", model_id="gpt", model_info=info, time="2026-11-01T00:00:00.000000Z")
    ledger.execute("x2", model_id="gpt", model_info=info, time="2026-11-02T00:00:00.000000Z")
    ledger.execute("x3", model_id="ünseen", model_info=info)
    ledger.fold()
    answer = api.get(PATH)
    schemas.ModelPage.model_validate_json(answer.content)
    assert SECRET not in answer.text
    assert answer.json()["warnings"] == []
    rows = [
        (m["model_id"], m["provider"], m["base_model"], m["configured"], (m["first_seen"] or "")[:10])
        for m in answer.json()["items"]
    ]
    assert rows == [
        ("7", None, "local", True, ""),
        ("gpt", "openai", "gpt-4o-mini", True, "2026-11-01"),
        ("router", "openrouter", "meta/llama", True, ""),
        ("ünseen", "azure", "old", False, "2026-11-22"),
    ]
    assert [m["model_id"] for m in api.walk(PATH, limit=1)] == [row[0] for row in rows]


def test_a_model_is_named_as_its_last_execution_said_and_seen_by_evaluations_too(ledger, api):
    ledger.execute("x1", model_id="m", model_info={"provider": "openai", "base_model": "old"}, time=at(1))
    ledger.evaluate("e1", program_id="p", model_id="only evaluated", model_info={"base_model": "b"})
    ledger.execute("x2", model_id="m", model_info={"provider": "openai", "base_model": "new"}, time=at(9))
    ledger.execute("x3", model_id="m", model_info={"provider": "openai", "base_model": "newest"}, time=at(5))
    ledger.evaluate("e2", program_id="p", model_id="m")
    ledger.execute("x4", model_id="")
    ledger.fold()
    model, other = api.items(PATH)
    assert (model["provider"], model["base_model"], model["model_name"]) == ("openai", "newest", None)
    assert (model["first_seen"], model["last_seen"]) == (
        at(1),
        at(22),
    )  # in the ledger's order, not the clocks'
    assert (other["model_id"], other["base_model"]) == ("only evaluated", "b")


def at(day):
    return f"2026-11-{day:02d}T12:00:00.000000Z"


def test_without_a_file_the_models_seen_are_listed_and_a_file_put_there_is_read(ledger, api, write):
    ledger.execute("x", model_id="seen")
    ledger.fold()
    assert [m["model_id"] for m in api.items(PATH)] == ["seen"]
    write("models: {new: {model_name: a/b}}")
    assert [m["model_id"] for m in api.items(PATH)] == ["new", "seen"]
    write("models: {newer: {model_name: a/b}}")
    assert [m["model_id"] for m in api.items(PATH)] == ["newer", "seen"]


@pytest.mark.parametrize(
    "text",
    [
        f"models: {{a: {{api_key: {SECRET}",
        f"api_key: *{SECRET}",
        f"models: !!{SECRET} 1",
        f"{SECRET}",
        f"- {SECRET}",
        f"models: {SECRET}",
        f"models: [{SECRET}]",
        f"models: {{a: {SECRET}}}",
        f"models: {{a: {{model_name: [{SECRET}]}}}}",
        'models: {a: {model_name: "\\ud800"}}',
        "models: 2026-99-99",
        "models: {a: 2026-99-99}",
        "\x01",
        "[" * 5000,
        "",
    ],
)
def test_a_malformed_file_gives_one_line_of_warning_that_quotes_nothing(ledger, api, write, text):
    write(text)
    ledger.execute("x", model_id="seen")
    ledger.fold()
    answer = api.get(PATH)
    assert answer.status_code == 200, answer.text
    assert [m["model_id"] for m in answer.json()["items"]] == ["seen"]
    (warning,) = answer.json()["warnings"]
    assert "\n" not in warning
    assert SECRET not in answer.text


def test_a_folder_in_the_files_place_is_a_warning(ledger, api, api_settings):
    api_settings.models_file.mkdir(parents=True)
    ledger.fold()
    assert len(api.get(PATH).json()["warnings"]) == 1


def test_bytes_that_are_no_text_are_a_warning():
    assert len(read_models(b"\xff\xfe\x00\xd8\xff", "models.yaml").warnings) == 1
    assert len(read_models(b"models: \xff", "models.yaml").warnings) == 1


def test_sound_models_are_listed_beside_unsound_ones():
    models = read_models(b"models: {good: {model_name: a/b}, bad: {}}", "models.yaml")
    assert models.names == {"good": "a/b"}
    assert models.warnings == ["models.yaml: 1 of 2 models have no model_name"]
