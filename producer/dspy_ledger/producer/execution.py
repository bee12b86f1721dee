"""One execution of a program, from its beginning to its record, however the program is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version as distribution_version
from typing import Any, Self

import uuid_utils
from dspy.dsp.utils.settings import settings as dspy_settings
from dspy.streaming.messages import StatusMessage

from dspy_ledger.producer.capture import Capture, described
from dspy_ledger.producer.context import ambient
from dspy_ledger.producer.ledger import Ledger
from dspy_ledger.producer.models import ModelDescription
from dspy_ledger.producer.recorder import record_execution
from dspy_ledger.producer.scope import EXECUTION, put_in_force, restore
from dspy_ledger.timestamps import utc_now

__all__ = ["Execution", "ExecutionInfo", "Identity"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Which program runs. ``content_hash`` is None where it can't be told.

    ``provisional``: Redis could not be asked yet, ``version`` may still become another.
    """

    program_id: str
    name: str
    content_hash: str | None
    model_pinned: bool = False
    version: str | None = None
    provisional: bool = True


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

    @classmethod
    def of(cls, data: Mapping[str, Any], program: Identity, prediction: Any) -> Self:
        """From an ExecutionCompleted event's fields."""
        return cls(
            program_version=program.version,
            timestamp=data["started_at"],
            prediction=prediction,
            provisional=program.provisional,
            **{
                name: data[name]
                for name in (
                    *("execution_id", "program_id", "program_name", "content_hash", "model_id"),
                    *("model_info", "models", "model_pinned", "latency_ms", "usage", "cost_usd", "trace_id"),
                )
            },
        )


class Execution:
    """One execution: put in force around a root call, then ended and recorded.

    Args:
        model: what was asked for; None takes the LM that DSPy's settings say, or what answered.
        id_of: the model id of an LM; None takes its model's name.
        trace_id: the host's own, to find the execution by; None takes that of ``session(…)``.
        metadata: kept with the execution.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        model: ModelDescription | None = None,
        id_of: Callable[[Any], str] | None = None,
        trace_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.execution_id = str(uuid_utils.uuid7())
        self.started_at = utc_now()
        self.capture = Capture(messages=bool(ledger.settings.capture_messages))
        self.latency_ms: float | None = None
        self.first_chunk_ms: float | None = None
        self._ledger = ledger
        self._model = model
        self._id_of = id_of or _name_of
        self._around = ambient()
        self._trace_id = self._around.trace_id if trace_id is None else str(trace_id)
        self._metadata = {**self._around.metadata, **(metadata or {})}
        self._lm: Any = None
        self._adapter: Any = None

    def begin(self, **more: Any) -> Any:
        """Put this execution in force; a token for :meth:`leave`.

        Args:
            more: further settings of DSPy for its time.
        """
        # Of an execution within an execution, each records its own calls only.
        callbacks = [other for other in dspy_settings.callbacks or () if not isinstance(other, Capture)]
        settings = {**more, "callbacks": [*callbacks, self.capture], EXECUTION: self.capture}
        if (stream := dspy_settings.send_stream) is not None:
            settings["send_stream"] = _NotedStream(stream, self)
        token = put_in_force(settings)
        self._lm = dspy_settings.lm
        self._adapter = dspy_settings.adapter
        return token

    def leave(self, token: Any) -> None:
        """The program returned: what was in force before is so again, and its time is taken."""
        self.latency_ms = self.capture.elapsed_ms()
        with suppress(ValueError):  # a coroutine that is closed elsewhere than it ran: nothing is in force
            restore(token)

    def go_on(self) -> str | None:
        """What the program returned has its work still to do: it takes until :meth:`end`; the call's id."""
        self.latency_ms = None
        return self.capture.reopen()

    def end(
        self,
        program: Identity,
        inputs: Mapping[str, Any] | None,
        outputs: Any,
        error: BaseException | None = None,
    ) -> dict[str, Any]:
        """Record what there is to record; the event's data. Never raises."""
        capture = self.capture
        capture.end()
        models = list(dict.fromkeys(map(self._id_of, capture.lms)))
        data = {
            "execution_id": self.execution_id,
            "program_id": program.program_id,
            "program_version": None if program.provisional else program.version,
            "content_hash": program.content_hash,
            "program_name": program.name,
            **self._model_in_force(models),
            "models": models,
            "model_pinned": program.model_pinned,
            "status": "ok" if error is None else "error",
            "error": None if error is None else described(error),
            "started_at": self.started_at,
            "latency_ms": round(capture.elapsed_ms() if self.latency_ms is None else self.latency_ms, 3),
            "time_to_first_chunk_ms": self.first_chunk_ms,
            "usage": capture.usage(),
            "cost_usd": capture.cost_usd(),
            "call_counts": capture.counts(),
            "trace_id": self._trace_id,
            "session_id": self._around.session_id,
            "user_id": self._around.user_id,
            "tags": list(self._around.tags),
            "metadata": self._metadata,
            "adapter": "ChatAdapter" if self._adapter is None else type(self._adapter).__name__,
            "dspy_version": _dspy_version(),
        }
        record_execution(self._ledger, data, inputs=inputs, outputs=outputs, calls=capture.as_dicts())
        return data

    def _model_in_force(self, answered: list[str]) -> dict[str, Any]:
        """The model asked for; without one, the LM in force if it answered, else what did."""
        if self._model is not None:
            return {"model_id": self._model.model_id, "model_info": self._model.info()}
        name = None if self._lm is None else self._id_of(self._lm)
        if answered and name not in answered:
            name = answered[0]
        if name is None:
            return {"model_id": None, "model_info": None}
        return {"model_id": name, "model_info": ModelDescription.of(name, name).info()}


class _NotedStream:
    """DSPy's stream of chunks, of which the first one's moment is noted."""

    def __init__(self, stream: Any, execution: Execution) -> None:
        self._stream = stream
        self._execution = execution

    async def send(self, chunk: Any) -> None:
        execution = self._execution
        if execution.first_chunk_ms is None and not isinstance(chunk, StatusMessage):
            execution.first_chunk_ms = round(execution.capture.elapsed_ms(), 3)
        await self._stream.send(chunk)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _name_of(lm: Any) -> str:
    return str(getattr(lm, "model", None) or type(lm).__name__)


@cache
def _dspy_version() -> str:
    return distribution_version("dspy")
