"""The content of the JSON directory's files: pure, byte for byte the same for the same events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from dspy_ledger.store import StoredEvent
from dspy_ledger.timestamps import canonical_time

__all__ = ["bodiless_line", "evaluation_document", "execution_line", "version_document"]

_BODY = ("inputs", "outputs", "calls")


def version_document(first: StoredEvent, *, version: str, description: str | None, tags: list[str]) -> bytes:
    """A version file: the content's first registration, under its label in force.

    The first twelve keys are those of the seed's files, in their order; ours come after them.

    Args:
        first: the first registration of this content, with its body.
        version: the label in force.
        description: that of the last registration of this content.
        tags: likewise.
    """
    data = first.data
    return _document(
        {
            "id": data["program_id"],
            "name": data["name"],
            "description": description,
            "tags": tags,
            "version": version,
            "code_hash": data.get("code_hash"),
            "parent_id": data.get("parent_id"),
            "parent_version": data.get("parent_version"),
            "class_name": data.get("class_name"),
            "module_path": data.get("module_path"),
            "created_at": canonical_time(data["created_at"]),
            "source_code": data.get("source_code"),
            "content_hash": data["content_hash"],
            "kind": data["kind"],
            "signature": data.get("signature"),
            "interface": data.get("interface"),
            "optimizer": data.get("optimizer"),
            "dspy_version": data.get("dspy_version"),
            "state": first.body_json(),
        }
    )


def evaluation_document(event: StoredEvent, *, version: str | None) -> bytes:
    """An evaluation file; ``version`` is what its position knew of its content hash."""
    data = event.data
    return _document(
        {
            "evaluation_id": data["evaluation_id"],
            "program_id": data["program_id"],
            "program_version": version,
            "content_hash": data.get("content_hash"),
            "model_id": data.get("model_id"),
            "model_info": data.get("model_info"),
            "results": data["results"],
            "metric_name": data.get("metric_name"),
            "dataset": data.get("dataset"),
            "created_at": canonical_time(data["created_at"]),
        }
    )


def execution_line(event: StoredEvent, *, version: str | None) -> bytes:
    """A line of an executions file, newline included; ``version`` as for an evaluation."""
    envelope = event.envelope
    line: dict[str, Any] = {"position": event.position}
    line.update(envelope["data"])
    # Set after the event's own fields, of which a later release may have some with these names.
    line["position"] = event.position
    line["program_version"] = version
    for name in ("environment", "service", "release"):
        line[name] = envelope.get(name)
    body = event.body_json()
    captured: Mapping[str, Any] = body if isinstance(body, dict) else {}
    for name in _BODY:
        line[name] = captured.get(name)
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def bodiless_line(line: bytes) -> bytes:
    """What :func:`execution_line` writes for the same event once its body was erased."""
    return orjson.dumps({**orjson.loads(line), **dict.fromkeys(_BODY)}, option=orjson.OPT_APPEND_NEWLINE)


def _document(fields: dict[str, Any]) -> bytes:
    return orjson.dumps(fields, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
