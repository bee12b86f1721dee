"""JSON answers, encoded by orjson."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from fastapi import Response

__all__ = ["JSONResponse", "dump"]


class JSONResponse(Response):
    """Any JSON-able content, ``orjson.Fragment`` included."""

    media_type = "application/json"

    def __init__(
        self,
        content: Any,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(content, status_code, headers, media_type)

    def render(self, content: Any) -> bytes:
        """The content as JSON."""
        return dump(content)

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """The headers given, which are other ones, and those of any JSON."""
        told = {**(headers or {}), "content-length": str(len(self.body)), "content-type": self.media_type}
        self.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in told.items()
        ]


def dump(content: Any) -> bytes:
    """JSON of any depth: orjson stops at 254 levels, and a tree of versions has two per generation."""
    try:
        return orjson.dumps(content)
    except orjson.JSONEncodeError:
        return _dump_deep(content)


def _dump_deep(content: Any) -> bytes:
    """Containers encoded one by one, the innermost first, so that nothing is nested when it is encoded."""
    containers = [content]
    for container in containers:  # grows while it is walked: parents stand before their children
        containers.extend(value for value in _values(container) if isinstance(value, dict | list))
    encoded: dict[int, orjson.Fragment] = {}

    def shallow(value: Any) -> Any:
        return encoded[id(value)] if isinstance(value, dict | list) else value

    for container in reversed(containers):
        flat = (
            {key: shallow(value) for key, value in container.items()}
            if isinstance(container, dict)
            else [shallow(value) for value in container]
        )
        encoded[id(container)] = orjson.Fragment(orjson.dumps(flat))
    return orjson.dumps(encoded[id(content)])


def _values(container: Any) -> Iterator[Any]:
    return iter(container.values() if isinstance(container, dict) else container)
