"""The one way an execution leaves this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy_ledger.producer.capture import NOT_CAPTURED
from dspy_ledger.producer.ledger import Ledger

__all__ = ["record_execution"]


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
        body: dict[str, Any] = {}
        if settings.capture_inputs and inputs is not None:
            body["inputs"] = dict(inputs)
        if settings.capture_outputs:
            body["outputs"] = outputs
        if not (settings.capture_inputs and settings.capture_outputs):
            calls = [_without_message(call) for call in calls]
            data = _without_message(data)
        body["calls"] = calls
        ledger.record(
            "ExecutionCompleted", data, body=body, subject=data["program_id"], event_id=data["execution_id"]
        )
    except Exception as error:  # noqa: BLE001  the host comes first: counted and said, never raised
        ledger.drop(error)


def _without_message(call: dict[str, Any]) -> dict[str, Any]:
    if call.get("error") is None:
        return call
    return {**call, "error": {"type": call["error"]["type"], "message": NOT_CAPTURED}}
