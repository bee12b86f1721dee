"""Query parameters: which each path takes, what their values may be, and how they are read.

They are read here and not by FastAPI, whose way through a query model took longer than the answer.
"""

from __future__ import annotations

import re
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_args

from fastapi import Request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import ErrorDetails
from starlette.datastructures import QueryParams

from dspy_ledger.api import schemas
from dspy_ledger.api.cursors import Key, decode_cursor
from dspy_ledger.errors import InvalidInput
from dspy_ledger.timestamps import canonical_time

__all__ = [
    "BUCKETS",
    "BadParameters",
    "DeadLetterQuery",
    "DiffQuery",
    "EvaluationQuery",
    "ExecutionQuery",
    "FeedbackQuery",
    "MatrixQuery",
    "ModelQuery",
    "OneEvaluationQuery",
    "PageQuery",
    "PastQuery",
    "ProducerQuery",
    "ProgramQuery",
    "StatsQuery",
    "VersionQuery",
    "described",
    "moment",
    "read_query",
]

_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:\d\d))?", re.ASCII | re.IGNORECASE
)
_POSITION = re.compile(r"[0-9]{1,100}", re.ASCII)
_LOST_PLUS = re.compile(r" (?=\d\d:\d\d$)")
_MOST_TAGS = 20


class BadParameters(InvalidInput):
    """Query parameters can't be used. ``errors``: one {parameter, detail} each."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{error['parameter']}: {error['detail']}" for error in errors))

    @classmethod
    def one(cls, parameter: str, detail: str) -> BadParameters:
        """One parameter can't be used."""
        return cls([_error(parameter, detail)])


def moment(text: str) -> str:
    """A parameter's time in the ledger's spelling; a date alone is its midnight, UTC.

    Raises:
        ValueError: not RFC 3339.
    """
    # A + that was not percent-encoded arrives as a space; a time can have none there.
    text = _LOST_PLUS.sub("+", text)
    if _MOMENT.fullmatch(text):
        with suppress(ValueError, OverflowError):  # no such day, or beyond the calendar in UTC
            return canonical_time(f"{text}T00:00:00Z" if len(text) == 10 else text.upper())
    raise ValueError("write a time as 2026-11-22T10:00:00Z or a date as 2026-11-22")


def _position_or_moment(text: str) -> int | str:
    if _POSITION.fullmatch(text):
        return int(text)
    try:
        return moment(text)
    except ValueError as error:
        raise ValueError(f"{error}, or a position of the ledger as 42") from None


def _with_plus(label: str) -> str:
    """A version's build part (``1.0.0+build``) whose + arrived as a space."""
    return label.replace(" ", "+")


def _few(tags: list[str]) -> list[str]:
    distinct = sorted(set(tags))
    if len(distinct) > _MOST_TAGS:
        raise ValueError(f"give at most {_MOST_TAGS} tags")
    return distinct


Given = Annotated[str, Field(min_length=1)]
Moment = Annotated[str, BeforeValidator(moment)]
AsOf = Annotated[int | str, BeforeValidator(_position_or_moment), WithJsonSchema({"type": "string"})]
Tags = Annotated[list[Given], AfterValidator(_few)]
Label = Annotated[Given, AfterValidator(_with_plus)]
Bucket = Literal["hour", "day", "week", "month"]

BUCKETS: Final[tuple[str, ...]] = get_args(Bucket)
"""What statistics may be told by, from narrow to wide; in UTC, weeks from Monday."""


_CONFIG = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class PastQuery(BaseModel):
    """What every question about what has a past takes."""

    model_config = _CONFIG

    as_of: AsOf | None = Field(
        None,
        description="Answer as the ledger was at this position, or at this time (RFC 3339, or a date).",
    )


class PageQuery(BaseModel):
    """What every list takes; ``item`` is the shape of what it lists."""

    model_config = _CONFIG

    name: ClassVar[str]
    item: ClassVar[type[BaseModel]]
    key: ClassVar[type[Key]] = int

    limit: int = Field(100, ge=1, le=1000, description="How many items a page has at most.")
    cursor: Given | None = Field(None, description="next_cursor of the page before, with the same filters.")
    fields: Annotated[tuple[str, ...], WithJsonSchema({"type": "string"})] | None = Field(
        None, description="The members that items are told with, with commas between them; all when left out."
    )

    @field_validator("fields", mode="before")
    @classmethod
    def _known(cls, names: str) -> tuple[str, ...]:
        known = cls.item.model_fields
        for name in (asked := dict.fromkeys(names.split(","))):
            if name not in known:
                raise ValueError(f"items have no {name!r}; they have {', '.join(known)}")
        return tuple(asked)

    def filters(self) -> dict[str, object]:
        """The filters that were given."""
        return self.model_dump(exclude={"limit", "cursor", "fields"}, exclude_none=True)

    def after(self, **path: str) -> Key | None:
        """The last key of the page before; None on the first page.

        Raises:
            BadCursor: the cursor is not this list's.
        """
        if self.cursor is None:
            return None
        return decode_cursor(self.cursor, self.name, {**self.filters(), **path}, self.key)


class ProgramQuery(PageQuery, PastQuery):
    """Filters of the programs."""

    name = "programs"
    item = schemas.Program
    key = str

    tag: Tags = Field([], description="Has this tag. Repeat it for more: all must be there.")
    q: Given | None = Field(None, description="Text in id, name or description; upper or lower case.")


class VersionQuery(PageQuery, PastQuery):
    """A program's versions have no filters."""

    name = "versions"
    item = schemas.Version


class ModelQuery(PageQuery, PastQuery):
    """Models have no filters."""

    name = "models"
    item = schemas.Model
    key = str


class ProducerQuery(PageQuery):
    """Producers have no filters, and are told as they are now."""

    name = "producers"
    item = schemas.Producer
    key = str


class DeadLetterQuery(PageQuery):
    """Dead letters have no filters, and are told as they are now."""

    name = "deadletters"
    item = schemas.DeadLetter


class ExecutionQuery(PageQuery, PastQuery):
    """Filters of the executions."""

    name = "executions"
    item = schemas.Execution

    program_id: Given | None = None
    version: Label | None = Field(
        None, description="Version label, e.g. 1.0.0; of any program unless program_id is given."
    )
    model_id: Given | None = None
    status: Literal["ok", "error"] | None = None
    trace_id: Given | None = None
    session_id: Given | None = None
    user_id: Given | None = None
    environment: Given | None = None
    service: Given | None = None
    release: Given | None = None
    tag: Tags = Field([], description="Has this tag. Repeat it for more: all must be there.")
    min_latency_ms: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="Took this many milliseconds or more."
    )
    since: Moment | None = Field(
        None, description="Recorded by the host at this time or later (RFC 3339, or a date)."
    )
    until: Moment | None = Field(
        None, description="Recorded by the host before this time (RFC 3339, or a date)."
    )


class EvaluationQuery(PageQuery, PastQuery):
    """Filters of a program's evaluations."""

    name = "evaluations"
    item = schemas.Evaluation

    version: Label | None = Field(None, description="Version label, e.g. 1.0.0.")
    model_id: Given | None = None


class FeedbackQuery(PageQuery, PastQuery):
    """What was said of one execution has no filters."""

    name = "feedback"
    item = schemas.Evaluation


class OneEvaluationQuery(PastQuery):
    """Which of the evaluations under one id is meant."""

    model_id: Given | None = Field(None, description="The one on this model; the newest when left out.")


class MatrixQuery(PastQuery):
    """What a program's matrix is about."""

    metric: Given | None = Field(
        None, description="A metric of the results; the one that most evaluations tell when left out."
    )


class DiffQuery(PastQuery):
    """The two versions of a program that are compared."""

    before: Label = Field(alias="from", description="Version label, e.g. 1.0.0.")
    after: Label = Field(alias="to", description="Version label, e.g. 1.1.0.")


class StatsQuery(BaseModel):
    """What statistics are about: roll-ups by the hour, which have no past."""

    model_config = _CONFIG

    program_id: Given | None = None
    version: Label | None = Field(
        None, description="Version label, e.g. 1.0.0; of any program unless program_id is given."
    )
    model_id: Given | None = None
    environment: Given | None = None
    since: Moment | None = Field(
        None, description="From the bucket in which this time lies (RFC 3339, or a date)."
    )
    until: Moment | None = Field(
        None, description="To the end of the bucket in which this time lies (RFC 3339, or a date)."
    )
    bucket: Bucket | None = Field(None, description="Tell the totals of each hour, day, week or month too.")
    group_by: Literal["program", "version", "model", "environment"] | None = Field(
        None, description="Tell the totals of each program, version, model or environment too."
    )


Q = TypeVar("Q", bound=BaseModel)


def read_query(request: Request, model: type[Q]) -> Q:
    """The query parameters of a question.

    Raises:
        BadParameters: one can't be used, is not known, or is given twice where one value counts.
    """
    query: Q = _query(model, request.scope["query_string"])
    return query


@lru_cache(maxsize=256)  # of those asked again and again; none is longer than a target may be
def _query(model: type[BaseModel], query_string: bytes) -> Any:
    given: dict[str, Any] = {}
    repeated: set[str] = set()
    for name, value in QueryParams(query_string).multi_items():
        if name == "tag":
            given.setdefault(name, []).append(value)
        elif name in given:
            repeated.add(name)
        else:
            given[name] = value
    if repeated:
        raise BadParameters([_error(name, "is given more than once") for name in sorted(repeated)])
    try:
        return model.model_validate(given)
    except ValidationError as error:
        told = error.errors(include_url=False, include_context=False, include_input=False)
        known = sorted(field.alias or name for name, field in model.model_fields.items())
        raise BadParameters([_told(one, known) for one in told]) from None


def described(model: type[BaseModel]) -> dict[str, Any]:
    """The parameters of a question for its OpenAPI entry."""
    parameters = []
    document = model.model_json_schema()
    for name, told in document["properties"].items():
        # null is how the model says "not given"; on the wire there is no such value.
        kinds = [kind for kind in told.pop("anyOf", []) if kind != {"type": "null"}]
        schema = {**told, **(kinds[0] if kinds else {})}
        parameter = {"name": name, "in": "query", "required": name in document.get("required", ())}
        if "description" in schema:
            parameter["description"] = schema.pop("description")
        if schema.get("default", ()) is None:
            del schema["default"]
        parameters.append({**parameter, "schema": schema})
    return {"parameters": parameters}


def _told(error: ErrorDetails, known: list[str]) -> dict[str, str]:
    """One pydantic error in the words of this API."""
    name = str(error["loc"][0])
    match error["type"]:
        case "extra_forbidden" if name == "as_of":
            return _error(name, "what this path tells is of now only, it has no past; leave it out")
        case "extra_forbidden":
            close = get_close_matches(name, known, 1)
            advice = f"did you mean {close[0]}?" if close else f"this path knows {', '.join(known)}"
            return _error(name, f"unknown parameter; {advice}")
        case "missing":
            return _error(name, "is needed; give one")
        case "string_too_short":
            return _error(name, "is empty; give a value or leave it out")
        case _:
            message = error["msg"].removeprefix("Value error, ")
            return _error(name, f"{message[:1].lower()}{message[1:]}")


def _error(name: str, detail: str) -> dict[str, str]:
    return {"parameter": name[:100], "detail": detail}
