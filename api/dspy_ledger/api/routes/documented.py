"""What every path's OpenAPI entry has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from dspy_ledger.api import schemas
from dspy_ledger.api.reading import AS_OF_HEADER, POSITION_HEADER

__all__ = [
    "PROBLEM_MEDIA_TYPE",
    "answers",
    "with_conditions",
    "with_optional_members",
    "with_problem_media_type",
]

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


_TAG = {
    "ETag": {
        "description": "Sent back as If-None-Match, it is answered with 304 while there is nothing new.",
        "schema": {"type": "string"},
    }
}


def answers(
    model: type[BaseModel], *problems: int, position: bool = True, from_view: bool = False
) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a path.

    Args:
        model: the shape of its success.
        problems: the statuses it may answer besides.
        position: whether answers carry the position header.
        from_view: whether they come from the view alone, and so have a tag.
    """
    success: dict[str, Any] = {"model": model, "description": "Found."}
    if position:
        success["headers"] = {
            name: {"description": description, "schema": {"type": "integer", "minimum": 0}}
            for name, description in _HEADERS.items()
        }
    unchanged: dict[int | str, dict[str, Any]] = {}
    if from_view:
        success["headers"] |= _TAG
        unchanged[304] = {
            "description": "What If-None-Match names holds still.",
            "headers": success["headers"],
        }
    # "default" also keeps FastAPI from announcing a 422, which this API never answers.
    return {
        200: success,
        **unchanged,
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


def with_conditions(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document whose questions that may be answered with 304 take the header that asks for it."""
    header = {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "ETags of answers that are there already.",
        "schema": {"type": "string"},
    }
    for path in document["paths"].values():
        for operation in path.values():
            if "304" in operation["responses"]:
                operation.setdefault("parameters", []).append(header)
    return document


def with_optional_members(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document in which the items of a list that takes ``fields`` may lack any member."""
    shapes = document["components"]["schemas"]
    for path in document["paths"].values():
        for operation in path.values():
            if any(parameter["name"] == "fields" for parameter in operation.get("parameters", ())):
                content = operation["responses"]["200"]["content"]["application/json"]
                page = shapes[_name(content["schema"])]
                shapes[_name(page["properties"]["items"]["items"])].pop("required", None)
    return document


def _name(reference: dict[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]
