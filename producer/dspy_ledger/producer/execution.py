"""Running one program once on one model, and what there is to record of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.dsp.utils.settings import settings as dspy_settings

from dspy_ledger.errors import InvalidFields
from dspy_ledger.identity import Interface
from dspy_ledger.producer.capture import NOT_CAPTURED, Capture
from dspy_ledger.producer.serialise import plain
from dspy_ledger.timestamps import utc_now

__all__ = ["ExecutionInfo", "Run", "check_inputs", "execution_body", "execution_data", "run"]


@dataclass(frozen=True, slots=True)
class ExecutionInfo:
    """What is known of one execution; ``execution_id`` is also its event's id.

    ``latency_ms`` is milliseconds, ``cost_usd`` US dollars (None when no price is known), ``usage`` token
    counts, ``models`` what answered (model ids where they are ours), ``prediction`` the raw Prediction.
    ``provisional``: Redis could not be asked yet, ``program_version`` may still become another.
    """

    execution_id: str
    program_id: str
    program_name: str
    program_version: str | None
    content_hash: str
    model_id: str
    model_info: dict[str, Any]
    models: list[str]
    model_pinned: bool
    timestamp: str
    latency_ms: float
    usage: dict[str, int | float]
    cost_usd: float | None
    trace_id: str | None
    prediction: Any = field(repr=False)
    provisional: bool = False


@dataclass(slots=True)
class Run:
    """One run: its capture and how it ended."""

    capture: Capture
    started_at: str
    prediction: Any = None
    value: Any = None
    error: BaseException | None = None
    latency_ms: float = 0.0
    adapter: str = "ChatAdapter"


def check_inputs(
    program_id: str, interface: Interface, given: Mapping[str, Any], *, takes_more: bool
) -> None:
    """Refuse unknown and missing inputs before any model is called.

    Args:
        takes_more: the program's ``forward(**kwargs)`` takes inputs that nothing declares.

    Raises:
        InvalidFields: the message names them all and lists what is expected.
    """
    if not isinstance(given, Mapping):
        raise InvalidFields(
            f"input_data for {program_id!r} is {type(given).__name__}; pass a dict of input fields"
        )
    inputs = interface["inputs"]
    names = [one["name"] for one in inputs]
    unknown = [] if takes_more else [str(name) for name in given if name not in names]
    missing = [one["name"] for one in inputs if one["required"] and one["name"] not in given]
    problems = [f"unknown {', '.join(unknown)}"] if unknown else []
    problems += [f"missing {', '.join(missing)}"] if missing else []
    if problems:
        raise InvalidFields(
            f"input fields of {program_id!r}: {'; '.join(problems)} (expected: {', '.join(names)})"
        )


async def run(
    program: Any, lm: Any, inputs: Mapping[str, Any], process_output: Callable[[Any], Any] | None
) -> Run:
    """Call a program on a model; the exception, if any, is in the result, not raised.

    The LM is set for this call only (``dspy.context``), so that concurrent calls may use others. A module
    whose ``aforward`` belongs to its ``forward`` is awaited, another runs in DSPy's worker threads.
    """
    capture = Capture()
    this = Run(capture, utc_now())
    try:
        # Of an execution within an execution, each records its own calls only.
        others = [other for other in dspy_settings.callbacks or () if not isinstance(other, Capture)]
        with dspy.context(lm=lm, callbacks=[*others, capture]):
            this.adapter = type(dspy_settings.adapter or dspy.ChatAdapter()).__name__
            if _is_async(program):
                this.prediction = await program.acall(**inputs)
            else:
                this.prediction = await dspy.asyncify(program)(**inputs)
        this.latency_ms = capture.elapsed_ms()
        this.value = this.prediction if process_output is None else process_output(this.prediction)
    except BaseException as error:  # noqa: BLE001  also cancellation: recorded, then raised by the caller
        this.latency_ms = this.latency_ms or capture.elapsed_ms()
        this.error = error
    return this


def _is_async(program: Any) -> bool:
    """Whether ``aforward`` does what ``forward`` does: it is defined in the same class, or in a nearer one.

    A subclass that overrides ``forward`` alone must not run its parent's ``aforward``.
    """
    if "forward" in vars(program):
        return False
    for cls in type(program).__mro__:
        if "aforward" in vars(cls):
            return True
        if "forward" in vars(cls):
            return False
    return False


def execution_data(
    info: ExecutionInfo,
    this: Run,
    metadata: Mapping[str, Any] | None,
    *,
    with_messages: bool,
    dspy_version: str,
) -> dict[str, Any]:
    """The fields of ExecutionCompleted; no version while it is provisional.

    Args:
        with_messages: an error's message may quote what went in or came out.
    """
    return {
        "execution_id": info.execution_id,
        "program_id": info.program_id,
        "program_version": None if info.provisional else info.program_version,
        "content_hash": info.content_hash,
        "program_name": info.program_name,
        "model_id": info.model_id,
        "model_info": info.model_info,
        "models": info.models,
        "model_pinned": info.model_pinned,
        "status": "ok" if this.error is None else "error",
        "error": None if this.error is None else _described(this.error, with_message=with_messages),
        "started_at": info.timestamp,
        "latency_ms": round(info.latency_ms, 3),
        "usage": info.usage,
        "cost_usd": info.cost_usd,
        "call_counts": dict(this.capture.counts),
        "trace_id": info.trace_id,
        "metadata": plain(metadata or {}),
        "adapter": this.adapter,
        "dspy_version": dspy_version,
    }


def execution_body(this: Run, inputs: Mapping[str, Any] | None, *, with_outputs: bool) -> dict[str, Any]:
    """The body of ExecutionCompleted: what is not to be captured is not in it."""
    body: dict[str, Any] = {} if inputs is None else {"inputs": dict(inputs)}
    if with_outputs:
        body["outputs"] = None if this.prediction is None else _fields(this.prediction)
    with_messages = inputs is not None and with_outputs
    body["calls"] = [call.as_dict(with_messages=with_messages) for call in this.capture.calls]
    return body


def _described(error: BaseException, *, with_message: bool) -> dict[str, str]:
    try:
        message = str(error) if with_message else NOT_CAPTURED
    except Exception as hostile:  # noqa: BLE001  the exception is the host's
        message = f"(its text raises {type(hostile).__name__})"
    kept: dict[str, str] = plain({"type": type(error).__name__, "message": message[:10_000]})
    return kept


def _fields(prediction: Any) -> Any:
    """What a program returned, one level taken apart: each field is serialised with care of its own."""
    try:
        return dict(prediction.items()) if isinstance(prediction, dspy.Example) else prediction
    except Exception:  # noqa: BLE001  the host's own class: described as a whole
        return prediction
