"""Models: those of the models file and those that executions named, as one list."""

from __future__ import annotations

import sqlite3
from typing import Any

from dspy_ledger.api.models_file import ConfiguredModels, split_model_name
from dspy_ledger.api.parameters import ModelQuery
from dspy_ledger.api.queries.paging import Item, page

__all__ = ["page_of_models"]


def page_of_models(db: sqlite3.Connection, configured: ConfiguredModels, query: ModelQuery) -> dict[str, Any]:
    """Models by id; what the file says of a model now stands above what events said of it."""
    models = {model_id: _item(model_id, name) for model_id, name in configured.names.items()}
    for row in db.execute(
        "SELECT model_id, provider, base_model, model_name, first_seen, last_seen FROM models_seen"
    ):
        seen = {**dict(row), "configured": False}
        told = models.get(row["model_id"])
        models[row["model_id"]] = (
            {**told, "first_seen": row["first_seen"], "last_seen": row["last_seen"]} if told else seen
        )
    after = query.after()
    ids = sorted(model_id for model_id in models if after is None or model_id > str(after))
    items = [models[model_id] for model_id in ids[: query.limit + 1]]
    return {**page(items, query, "model_id"), "warnings": configured.warnings}


def _item(model_id: str, model_name: str) -> Item:
    provider, base_model = split_model_name(model_name)
    return {
        "model_id": model_id,
        "provider": provider,
        "base_model": base_model,
        "model_name": model_name,
        "first_seen": None,
        "last_seen": None,
        "configured": True,
    }
