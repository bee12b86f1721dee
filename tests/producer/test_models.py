"""Models from a file or from LMs, and what is told of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspy_ledger.errors import InvalidModels, UnknownModel
from dspy_ledger.producer import ModelManager
from producer.test_programs import Answers

FILE = """
models:
  gpt-4o-mini:
    model_name: openai/gpt-4o-mini
    max_tokens: 3000
    additional_params: {api_key: secret, temperature: 0.2, cache: false}
  openai/gpt-4o:../../x:
    model_name: local
"""


@pytest.fixture
def models_file(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(FILE)
    return path


def test_a_file_gives_models_with_their_parameters(models_file: Path) -> None:
    manager = ModelManager.from_yaml(models_file)
    lm = manager.get_lm("gpt-4o-mini")
    assert lm.model == "openai/gpt-4o-mini"
    assert (lm.kwargs["max_tokens"], lm.kwargs["temperature"], lm.cache) == (3000, 0.2, False)
    assert manager.get_lm("gpt-4o-mini") is lm
    assert manager.id_of(lm) == "gpt-4o-mini"


def test_what_is_told_of_a_model_never_has_its_additional_parameters(models_file: Path) -> None:
    manager = ModelManager.from_yaml(models_file)
    described = [(m.model_id, m.provider, m.base_model) for m in manager.list_models()]
    assert described == [("gpt-4o-mini", "openai", "gpt-4o-mini"), ("openai/gpt-4o:../../x", None, "local")]
    assert "secret" not in repr(manager.list_models())
    assert "secret" not in repr(manager.describe("gpt-4o-mini").info())


def test_lms_can_be_given_instead_of_a_file() -> None:
    lm = Answers("anthropic/claude")
    manager = ModelManager({"mine": lm})
    assert manager.get_lm("mine") is lm
    assert manager.describe("mine").provider == "anthropic"
    assert manager.by_model_name() == {"anthropic/claude": lm}


def test_an_unknown_model_lists_the_known_ones(models_file: Path) -> None:
    with pytest.raises(UnknownModel, match=r"unknown model 'x' .known: gpt-4o-mini, openai"):
        ModelManager.from_yaml(models_file).get_lm("x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: [", "is not YAML"),
        ("", "needs a mapping 'models:'"),
        ("models: {}", "needs a mapping 'models:'"),
        ("- a", "needs a mapping 'models:'"),
        ("models: {a: 5}", "model 'a' in .* needs a 'model_name'"),
        ("models: {a: {model_name: 5}}", "needs a 'model_name'"),
        ("models: {a: {model_name: x/y, temperature: 1}}", r"unknown keys \['temperature'\]"),
        ("models: {a: {model_name: x/y, additional_params: 3}}", "additional_params is a mapping"),
        ("models: {a: {model_name: x/y, max_tokens: many}}", "max_tokens is a positive whole number"),
        ("models: {a: {model_name: x/y, max_tokens: true}}", "max_tokens is a positive whole number"),
        ("models: {a: {model_name: x/y, additional_params: {model: z}}}", "names its model twice"),
    ],
)
def test_a_malformed_file_says_in_one_line_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(InvalidModels, match=says) as error:
        ModelManager.from_yaml(path)
    assert "\n" not in str(error.value)


def test_a_malformed_file_is_not_quoted_because_it_may_hold_a_key(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("models:\n  a:\n    model_name: x/y\n    additional_params: {api_key: [sk-SECRET}\n")
    with pytest.raises(InvalidModels, match="is not YAML at line 4, column 44") as error:
        ModelManager.from_yaml(path)
    assert "SECRET" not in str(error.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidModels, match=r"can't read the models file .*: No such file"):
        ModelManager.from_yaml(tmp_path / "none.yaml")


def test_what_is_no_lm_is_refused() -> None:
    with pytest.raises(InvalidModels, match="model 'a' is str; pass"):
        ModelManager({"a": "openai/gpt-4o-mini"})
