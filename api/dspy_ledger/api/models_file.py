"""The models file as the API tells it: model id → model name, and nothing else that stands in it.

The file may hold keys, so no value but ``model_name`` leaves this module, and no error quotes the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["ConfiguredModels", "ModelsFile", "read_models", "split_model_name"]


@dataclass(frozen=True, slots=True)
class ConfiguredModels:
    """``names``: model id → model name. ``warnings``: at most one line, when something can't be read."""

    names: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class ModelsFile:
    """The file at a path, read again whenever it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._models = ConfiguredModels()

    def models(self) -> ConfiguredModels:
        """What the file says now; nothing when there is none."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if stamp != self._stamp:
                self._models = read_models(self._path.read_bytes(), self._path.name)
                self._stamp = stamp
        except FileNotFoundError:
            self._stamp, self._models = None, ConfiguredModels()
        except OSError as error:
            warning = f"{self._path.name} can't be read: {error.strerror}"
            self._stamp, self._models = None, ConfiguredModels(warnings=[warning])
        return self._models


def read_models(content: bytes, name: str) -> ConfiguredModels:
    """The models in a file's bytes.

    Args:
        content: YAML, ``models: {<model_id>: {model_name: …}}``.
        name: the file's name, for the warning.
    """
    try:
        document = yaml.safe_load(content)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return ConfiguredModels(warnings=[f"{name} is not YAML{where}"])
    except (yaml.YAMLError, ValueError, RecursionError):
        return ConfiguredModels(warnings=[f"{name} is not YAML"])
    models = document.get("models") if isinstance(document, dict) else None
    if not isinstance(models, dict):
        return ConfiguredModels(warnings=[f"{name} has no mapping called models; see docs/models.md"])
    names = {str(key): found for key, entry in models.items() if (found := _model_name(entry)) is not None}
    unusable = len(models) - len(names)
    warnings = [f"{name}: {unusable} of {len(models)} models have no model_name"] if unusable else []
    return ConfiguredModels(names, warnings)


def split_model_name(model_name: str) -> tuple[str | None, str]:
    """Provider and base model: ``openai/gpt-4o-mini`` → ``openai``, ``gpt-4o-mini``."""
    provider, slash, base_model = model_name.partition("/")
    return (provider, base_model) if slash else (None, model_name)


def _model_name(entry: Any) -> str | None:
    name = entry.get("model_name") if isinstance(entry, dict) else None
    # YAML can spell lone surrogates, JSON can't carry them.
    return name if isinstance(name, str) and name.isprintable() and name else None
