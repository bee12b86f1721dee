"""What every path's OpenAPI entry has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dspy_ledger.api import schemas
from dspy_ledger.api.reading import AS_OF_HEADER, POSITION_HEADER

__all__ = ["PROBLEM_MEDIA_TYPE", "answers", "with_problem_media_type"]

PROBLEM_MEDIA_TYPE = "application/problem+json"

_PROBLEMS = {
    400: "A parameter or the cursor can't be used.",
    404: "There is no such thing, or it is not known yet.",
    503: "There is no view or event store to answer from yet; Retry-After says when to ask again.",
}
_HEADERS = {
    POSITION_HEADER: "Ledger position that the view is at.",
    AS_OF_HEADER: "Ledger position that as_of stands for; there when it was given.",
}


def answers(model: type[BaseModel], *problems: int, position: bool = True) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a path.

    Args:
        model: the shape of its success.
        problems: the statuses it may answer besides.
        position: whether answers carry the position header.
    """
    success: dict[str, Any] = {"model": model, "description": "Found."}
    if position:
        success["headers"] = {
            name: {"description": description, "schema": {"type": "integer", "minimum": 0}}
            for name, description in _HEADERS.items()
        }
    # "default" also keeps FastAPI from announcing a 422, which this API never answers.
    return {
        200: success,
        **{
            status: {"model": schemas.ProblemDetails, "description": _PROBLEMS[status]} for status in problems
        },
        "default": {"model": schemas.ProblemDetails, "description": "Any other error."},
    }


def with_problem_media_type(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document whose errors are described under their own media type."""
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if not status.startswith("2") and "application/json" in response.get("content", {}):
                    response["content"] = {PROBLEM_MEDIA_TYPE: response["content"]["application/json"]}
    return document
