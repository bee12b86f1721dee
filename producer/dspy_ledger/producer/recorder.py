"""The one way executions and evaluations leave this process: captured, redacted, cut, recorded."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct

from dspy_ledger.events import EvaluationSaved, ExecutionCompleted
from dspy_ledger.producer.capture import NOT_CAPTURED
from dspy_ledger.producer.ledger import Ledger
from dspy_ledger.producer.limits import fit, shorten
from dspy_ledger.producer.redaction import Redaction, rewrite
from dspy_ledger.producer.serialise import Walk, encode
from dspy_ledger.settings import Settings

__all__ = ["captured", "is_sampled", "record_execution", "save_evaluation"]

_log = logging.getLogger("dspy_ledger.producer")

_NAMES: Final = 16 << 10  # bytes kept for the ids and names of an event
_MOST_METADATA: Final = 16 << 10  # bytes
_LONGEST_MESSAGE: Final = 8_000  # characters of an error's message
_LONGEST_NAME: Final = 512  # characters
_LONGEST_TAG: Final = 256  # characters
_MOST_TAGS: Final = 100
_WRONG_FIELD: Final = re.compile(r"`\$\.(\w+)")  # in what msgspec says of data that it refuses

_QUOTING: Final = frozenset({"error", "messages", "inputs", "outputs"})
"""Keys of a call that may hold the host's data; all else in a call is said by the tracker itself."""


def record_execution(
    ledger: Ledger,
    data: dict[str, Any],
    *,
    inputs: Mapping[str, Any] | None,
    outputs: Any,
    calls: list[dict[str, Any]],
) -> None:
    """Record one execution as the settings want it; never raises.

    Args:
        data: the fields of ExecutionCompleted, with session_id, user_id, tags and metadata as they were
            when the call began.
        inputs: what the root call was given; None counts as nothing.
        outputs: what it returned.
        calls: its nested calls as dicts. ``messages``, ``inputs`` and ``outputs`` in them, and what errors
            say, are left out where they are not to be recorded.
    """
    try:
        settings = ledger.settings
        if _is_left_out(settings, data):
            ledger.sample_out()
            return
        quotes = settings.capture_inputs is True and settings.capture_outputs is True
        body: dict[str, Any] = {}
        if settings.capture_inputs:
            body["inputs"] = captured(settings, "inputs", {} if inputs is None else dict(inputs))
        if settings.capture_outputs:
            body["outputs"] = captured(settings, "outputs", outputs)
        body["calls"] = [
            call if _QUOTING.isdisjoint(call) else _call(settings, call, quotes=quotes) for call in calls
        ]
        if not quotes and data.get("error") is not None:
            data = {**data, "error": {**data["error"], "message": NOT_CAPTURED}}
        _record(ledger, ExecutionCompleted, data, ("error", "metadata", "tags"), body, data["execution_id"])
    except Exception as problem:  # noqa: BLE001  the host comes first: counted and said, never raised
        ledger.drop(problem)


def save_evaluation(
    ledger: Ledger,
    data: dict[str, Any],
    rows: list[Any] | None,
    *,
    scores: list[Any] | None = None,
    event_id: str,
) -> None:
    """Record one evaluation as the settings want it; never raises.

    Args:
        data: the fields of EvaluationSaved.
        rows: one value per example; a callable as CAPTURE_ROWS is given each.
        scores: one number per example, recorded whatever CAPTURE_ROWS is.
    """
    try:
        settings = ledger.settings
        body: dict[str, Any] = {} if scores is None else {"scores": scores}
        if rows is not None and settings.capture_rows:
            body["rows"] = [captured(settings, "rows", row) for row in rows]
        _record(ledger, EvaluationSaved, data, ("results", "dataset"), body or None, event_id)
    except Exception as problem:  # noqa: BLE001  the host comes first
        ledger.drop(problem)


def _is_left_out(settings: Settings, data: dict[str, Any]) -> bool:
    if settings.sample_rate == 1 or data["status"] != "ok":
        return False
    return not is_sampled(data.get("trace_id") or data["execution_id"], settings.sample_rate)


def is_sampled(key: str, rate: float) -> bool:
    """Whether a trace or an execution is kept at this rate (0 … 1): the same answer in every process.

    What is kept at a rate is kept at every higher one.
    """
    digest = blake2b(key.encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return int.from_bytes(digest) < rate * 2**64


def captured(settings: Settings, what: str, value: Any) -> Any:
    """What a callable ``capture_<what>`` makes of a value; as it is where there is none.

    One that raises, or that returns what can't stand there, leaves a mark in its place.
    """
    choice = getattr(settings, f"capture_{what}")
    if isinstance(choice, bool):
        return value
    try:
        kept = choice(value)
    except Exception as error:  # noqa: BLE001  the callable is the host's
        return _not_captured(f"capture_{what} raised {type(error).__name__}")
    if inspect.iscoroutine(kept):
        kept.close()
        return _not_captured(f"capture_{what} is async")
    if what == "inputs" and kept is not None and not isinstance(kept, Mapping):
        return _not_captured(f"capture_inputs returned {type(kept).__name__}, no mapping")
    return kept


def _not_captured(reason: str) -> dict[str, str]:
    return {"type": "not captured", "reason": reason}


def _call(settings: Settings, call: dict[str, Any], *, quotes: bool) -> dict[str, Any]:
    kept = dict(call)
    for name, choice in (("inputs", settings.capture_inputs), ("outputs", settings.capture_outputs)):
        if choice is not True:  # a callable is for those of the root call
            kept.pop(name, None)
    if settings.capture_messages is False or (settings.capture_messages is True and not quotes):
        kept.pop("messages", None)
    elif "messages" in kept:
        kept["messages"] = captured(settings, "messages", kept["messages"])
    if not quotes and kept.get("error") is not None:
        kept["error"] = {**kept["error"], "message": NOT_CAPTURED}
    return kept


def _record(
    ledger: Ledger,
    model: type[Struct],
    data: dict[str, Any],
    free: tuple[str, ...],
    body: dict[str, Any] | None,
    event_id: str,
) -> None:
    """Record an event.

    Args:
        free: the fields of its data that the host fills.
    """
    settings = ledger.settings
    most = settings.max_event_bytes
    redaction = Redaction.of(settings.redact, settings.redact_fields, settings.redact_patterns)
    walk = Walk(redaction.keys, longest=2 * most)
    said = {name: walk.plain(data[name]) for name in free if data.get(name)}
    if body is not None:
        body = {name: _taken_apart(walk, name, value) for name, value in body.items()}
    if rules := redaction.suspected(walk.texts):
        said, body = rewrite(said, rules), rewrite(body, rules)
    data, truncated = _bounded({**data, **said}, most // 4, cut=walk.cut)
    raw = None
    if body is not None:
        room = most - _NAMES - (len(encode(said)) if said else 0)
        raw, cut = fit(body, room, cut=walk.cut)
        truncated += cut
    if truncated:
        data["truncated"] = truncated
    ledger.record_encoded(
        model.__name__, _valid(model, data), raw, subject=data.get("program_id"), event_id=event_id
    )


def _taken_apart(walk: Walk, name: str, value: Any) -> Any:
    if name != "calls":
        return walk.plain(value)
    return [
        call
        if _QUOTING.isdisjoint(call)
        else {key: walk.plain(item) if key in _QUOTING else item for key, item in call.items()}
        for call in value
    ]


def _bounded(data: dict[str, Any], most_results: int, *, cut: bool) -> tuple[dict[str, Any], list[str]]:
    """An event's data with nothing in it longer than readers take; the paths of what was cut."""
    truncated = [name for name, value in data.items() if type(value) is str and len(value) > _LONGEST_NAME]
    for name in truncated:
        data[name] = shorten(data[name], _LONGEST_NAME)
    if (error := data.get("error")) and len(error["message"]) > _LONGEST_MESSAGE:
        data["error"] = {**error, "message": shorten(error["message"], _LONGEST_MESSAGE)}
        truncated.append("error.message")
    for name in ("tags", "models"):
        if (values := data.get(name)) and (len(values) > _MOST_TAGS or max(map(len, values)) > _LONGEST_TAG):
            data[name] = [shorten(value, _LONGEST_TAG) for value in values[:_MOST_TAGS]]
            truncated.append(name)
    for name, most in (("metadata", _MOST_METADATA), ("dataset", _MOST_METADATA), ("results", most_results)):
        if data.get(name):
            raw, paths = fit({name: data[name]}, most, cut=cut)
            if paths:
                data[name] = orjson.loads(raw)[name]
                truncated += paths
    return data, truncated


def _valid(model: type[Struct], data: dict[str, Any]) -> dict[str, Any]:
    """The data without optional fields that no reader would take: better less than a dead letter."""
    left_out: list[str] = []
    while True:
        try:
            msgspec.convert(data, model)
        except msgspec.ValidationError as error:
            wrong = _WRONG_FIELD.search(str(error))
            if wrong is None or wrong[1] not in data or wrong[1] in _required(model):
                raise
            left_out.append(wrong[1])
            data = {name: value for name, value in data.items() if name != wrong[1]}
        else:
            break
    if left_out:
        _log.warning("left out of an event, since no reader would take it: %s", ", ".join(sorted(left_out)))
    return data


def _required(model: type[Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(model) if field.required}
