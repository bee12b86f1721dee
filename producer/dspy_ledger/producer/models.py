"""The models that programs may run on, by id, from a YAML file or from LMs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Self

import yaml

from dspy_ledger.errors import InvalidModels, UnknownModel

__all__ = ["ModelDescription", "ModelManager"]


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What may be told of a model; its additional parameters (keys, addresses) never are."""

    model_id: str
    provider: str | None
    base_model: str | None
    model_name: str

    @classmethod
    def of(cls, model_id: str, model_name: str) -> Self:
        """``openai/gpt-4o-mini`` is base model ``gpt-4o-mini`` of provider ``openai``."""
        provider, slash, base_model = model_name.partition("/")
        return cls(
            model_id,
            provider if slash else None,
            base_model if slash else model_name,
            model_name,
        )

    def info(self) -> dict[str, Any]:
        """The ``model_info`` of an event."""
        return {"provider": self.provider, "base_model": self.base_model, "model_name": self.model_name}


class ModelManager:
    """LMs by model id. Each is built when it is first used, and shared by all calls.

    Args:
        models: model id → a ``dspy.LM``.

    Raises:
        InvalidModels: a value is no LM.
    """

    def __init__(self, models: Mapping[str, Any]) -> None:
        for model_id, lm in models.items():
            if not isinstance(model_id, str) or not isinstance(getattr(lm, "model", None), str):
                raise InvalidModels(
                    f"model {model_id!r} is {type(lm).__name__}; pass {{model_id: dspy.LM(…)}}"
                )
        self._lms: dict[str, Any] = dict(models)
        self._recipes: dict[str, dict[str, Any]] = {}
        self._descriptions = {
            model_id: ModelDescription.of(model_id, lm.model) for model_id, lm in models.items()
        }
        self._lock = Lock()

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Models from a file; only ``model_name`` is needed.

        The form is::

            models:
              gpt-4o-mini:
                model_name: openai/gpt-4o-mini
                max_tokens: 3000
                additional_params: {temperature: 0.2}

        Raises:
            InvalidModels: the file is missing or has another form; the message says where.
        """
        manager = cls({})
        for model_id, entry in _read_models(Path(path)).items():
            manager._recipes[model_id] = _recipe(path, model_id, entry)
            manager._descriptions[model_id] = ModelDescription.of(model_id, entry["model_name"])
        return manager

    def get_lm(self, model_id: str) -> Any:
        """The LM of that id.

        Raises:
            UnknownModel: there is none; the message lists the known ids.
        """
        self.describe(model_id)
        with self._lock:
            if model_id not in self._lms:
                import dspy  # noqa: PLC0415  not before it is needed: it takes a second

                self._lms[model_id] = dspy.LM(**self._recipes[model_id])
            return self._lms[model_id]

    def describe(self, model_id: str) -> ModelDescription:
        """What that model id stands for.

        Raises:
            UnknownModel: there is none; the message lists the known ids.
        """
        try:
            return self._descriptions[model_id]
        except (KeyError, TypeError):
            raise UnknownModel(str(model_id), self._descriptions) from None

    def by_model_name(self) -> dict[str, Any]:
        """LMs by what they are called at their provider; the first where several have one name."""
        described = reversed(self._descriptions.values())
        return {description.model_name: self.get_lm(description.model_id) for description in described}

    def id_of(self, lm: Any, asked: str | None = None) -> str:
        """The model id of an LM of ours or a copy of one, else the LM's own model name.

        Args:
            asked: the id that was asked for, when several of ours have one name.
        """
        for model_id, ours in list(self._lms.items()):
            if ours is lm:
                return model_id
        # DSPy's wrappers copy LMs: what has the name of exactly one of ours is ours.
        name = str(getattr(lm, "model", type(lm).__name__))
        same = [one.model_id for one in self._descriptions.values() if one.model_name == name]
        if asked in same:
            return str(asked)
        return same[0] if len(same) == 1 else name

    def list_models(self) -> list[ModelDescription]:
        """All models, in the order they were given."""
        return list(self._descriptions.values())


def _read_models(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidModels(f"can't read the models file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidModels(f"the models file {path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        # Only where: the parser's own words quote the line, which may hold a key.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidModels(f"the models file {path} is not YAML{where}") from None
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, dict) or not models:
        raise InvalidModels(f"the models file {path} needs a mapping 'models:' of model ids")
    return {str(model_id): entry for model_id, entry in models.items()}


def _recipe(path: str | Path, model_id: str, entry: Any) -> dict[str, Any]:
    where = f"model {model_id!r} in {path}"
    if not isinstance(entry, dict) or not isinstance(entry.get("model_name"), str):
        raise InvalidModels(f"{where} needs a 'model_name' such as openai/gpt-4o-mini")
    unknown = set(entry) - {"model_name", "max_tokens", "additional_params"}
    if unknown:
        raise InvalidModels(
            f"{where} has unknown keys {sorted(map(str, unknown))};"
            " put parameters of the LM under additional_params"
        )
    more = entry.get("additional_params") or {}
    if not isinstance(more, dict):
        raise InvalidModels(f"{where}: additional_params is a mapping")
    if "model" in more:
        raise InvalidModels(f"{where} names its model twice; leave 'model' out of additional_params")
    max_tokens = entry.get("max_tokens")
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
        raise InvalidModels(f"{where}: max_tokens is a positive whole number, not {max_tokens!r}")
    limits = {} if max_tokens is None else {"max_tokens": max_tokens}
    return {"model": entry["model_name"], **limits, **more}
