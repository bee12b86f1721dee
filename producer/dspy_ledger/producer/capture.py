"""What happens inside one execution: its nested module, LM, adapter, tool and interpreter calls."""

from __future__ import annotations

from itertools import islice
from threading import Lock
from time import perf_counter
from typing import Any

from dspy.dsp.utils.settings import settings as dspy_settings
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback

__all__ = ["NOT_CAPTURED", "Call", "Capture", "described"]

NOT_CAPTURED = "(not captured)"
"""Stands for an error's message where inputs or outputs are not to be recorded."""

_MOST_CALLS = 10_000  # of one execution; more are counted, not kept
_MOST_LOOKED_AT = 1_000  # entries of an LM's history: a call's own is among the last, one a thread
_TOKENS = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "total_tokens": "total_tokens",
}

_counting = Lock()


class Call:
    """One call. ``started`` and ``ended`` are seconds on ``perf_counter``'s clock."""

    __slots__ = (
        *("kind", "name", "parent", "started", "ended", "instance", "model", "usage", "cost_usd"),
        *("cached", "error", "messages", "place"),
    )

    def __init__(self, kind: str, name: str, parent: Call | None, instance: Any) -> None:
        self.kind = kind
        self.name = name
        self.parent = parent
        self.instance = instance
        self.model: str | None = None
        self.usage: dict[str, Any] | None = None
        self.cost_usd: float | None = None
        self.cached: bool | None = None
        self.error: dict[str, str] | None = None
        self.messages: Any = None
        self.ended: float | None = None
        self.place: int | None = None  # among the calls of its execution, once that ended
        self.started = perf_counter()

    def as_dict(self, began: float) -> dict[str, Any]:
        """The call as an event's body holds it; times in milliseconds.

        Args:
            began: when the execution did, on the same clock.
        """
        record: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "parent": None if self.parent is None else self.parent.place,
            "start_ms": round((self.started - began) * 1000, 3),
            "duration_ms": None if self.ended is None else round((self.ended - self.started) * 1000, 3),
        }
        if self.kind == "lm":
            for name in ("model", "usage", "cost_usd", "cached", "messages"):
                if (value := getattr(self, name)) is not None:
                    record[name] = value
        if self.error is not None:
            record["error"] = self.error
        return record


class Capture(BaseCallback):
    """A DSPy callback for one execution, in force for the time of its root call.

    ``calls`` is in order of their starts. DSPy runs the hooks synchronously, in whatever thread the call
    is made, and logs, never raises, what goes wrong in one.

    Args:
        messages: keep what each LM call was asked and what it answered.
    """

    def __init__(self, *, messages: bool = False) -> None:
        self.started = perf_counter()
        self.calls: list[Call] = []
        self.lms: list[Any] = []
        self.ended = False
        self._messages = messages
        self._root_id: str | None = None
        self._open: dict[str | None, Call] = {}
        self._left_out: dict[str, int] = {}

    def reopen(self) -> str | None:
        """Let the root call go on until the execution's end; its call id."""
        if self._root_id is not None:
            self.calls[0].ended = None
            self._open[self._root_id] = self.calls[0]
        return self._root_id

    def end(self) -> None:
        """The execution ended: what is still called on its behalf is no part of it."""
        self.ended = True
        if self.calls and self.calls[0].ended is None:
            self.calls[0].ended = perf_counter()

    def elapsed_ms(self) -> float:
        """Milliseconds since the execution began."""
        return (perf_counter() - self.started) * 1000

    def counts(self) -> dict[str, int]:
        """How many calls there were of each kind, those that were not kept included."""
        counts = dict(self._left_out)
        for call in self.calls:
            counts[call.kind] = counts.get(call.kind, 0) + 1
        return counts

    def usage(self) -> dict[str, int | float]:
        """Tokens summed over the LM calls that were billed."""
        total: dict[str, int | float] = {}
        for call in self._billed():
            for name, count in (call.usage or {}).items():
                total[name] = total.get(name, 0) + count
        return total

    def cost_usd(self) -> float | None:
        """US dollars of all billed LM calls; None when no price was known."""
        costs = [call.cost_usd for call in self._billed() if call.cost_usd is not None]
        return sum(costs) if costs else None

    def as_dicts(self) -> list[dict[str, Any]]:
        """The calls as an event's body holds them; a ``parent`` is an index into this list."""
        calls = list(self.calls)  # a call left behind in a thread may still add to it
        for place, call in enumerate(calls):
            call.place = place
        return [call.as_dict(self.started) for call in calls]

    def _billed(self) -> list[Call]:
        """LM calls with usage, without those that only pass on what an LM below them used."""
        billed = [call for call in list(self.calls) if call.usage]
        wrappers: set[Call] = set()
        for call in billed:
            above = call.parent
            while above is not None and above not in wrappers:
                wrappers.add(above)
                above = above.parent
        return [call for call in billed if call not in wrappers]

    def _start(self, kind: str, call_id: str, instance: Any, name: str) -> None:
        calls = self.calls
        if len(calls) >= _MOST_CALLS:
            with _counting:  # dspy.Parallel calls the hooks from several threads
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        call = Call(kind, name, self._open.get(ACTIVE_CALL_ID.get()), instance)
        if not calls:
            self._root_id = call_id
        self._open[call_id] = call
        calls.append(call)

    def _end(self, call_id: str, exception: BaseException | None) -> Call | None:
        call = self._open.pop(call_id, None)
        if call is None:
            return None
        call.ended = perf_counter()
        if exception is not None:
            call.error = described(exception, 2000)
        return call

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("module", call_id, instance, type(instance).__name__)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id, exception)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("tool", call_id, instance, getattr(instance, "name", None) or type(instance).__name__)

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id, exception)

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("adapter", call_id, instance, f"{type(instance).__name__}.format")

    def on_adapter_format_end(
        self, call_id: str, outputs: Any, exception: BaseException | None = None
    ) -> None:
        self._end(call_id, exception)

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("adapter", call_id, instance, f"{type(instance).__name__}.parse")

    def on_adapter_parse_end(
        self, call_id: str, outputs: Any, exception: BaseException | None = None
    ) -> None:
        self._end(call_id, exception)

    def on_interpreter_execute_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("interpreter", call_id, instance, f"{type(instance).__name__}.execute")

    def on_interpreter_tool_call_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("interpreter", call_id, instance, f"{type(instance).__name__}.invoke_tool")

    def on_interpreter_startup_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("interpreter", call_id, instance, f"{type(instance).__name__}.start")

    def on_interpreter_shutdown_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("interpreter", call_id, instance, f"{type(instance).__name__}.shutdown")

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("compile", call_id, instance, type(instance).__name__)

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("evaluate", call_id, instance, type(instance).__name__)

    on_compile_end = on_tool_end
    on_evaluate_end = on_tool_end
    on_interpreter_execute_end = on_tool_end
    on_interpreter_tool_call_end = on_tool_end
    on_interpreter_startup_end = on_tool_end
    on_interpreter_shutdown_end = on_tool_end

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("lm", call_id, instance, getattr(instance, "model", None) or type(instance).__name__)
        if not any(lm is instance for lm in self.lms):
            self.lms.append(instance)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        call = self._end(call_id, exception)
        if call is None or exception is not None:
            return
        call.model = call.name
        if dspy_settings.disable_history:
            return
        # The hook is not told the usage. The call's own history entry is the one that holds this very
        # list of outputs; another thread's has another list.
        last = islice(reversed(getattr(call.instance, "history", ())), _MOST_LOOKED_AT)
        entry = next((entry for entry in last if entry.get("outputs") is outputs), None)
        if entry is None:
            return
        if self._messages:
            call.messages = _conversation(entry, outputs)
        usage = entry.get("usage") or {}
        call.usage = {
            ours: count
            for theirs, ours in _TOKENS.items()
            if isinstance(count := usage.get(theirs), int | float) and count
        }
        if usage and not call.usage:
            return  # zeros, as DSPy gives them for some streams: not known
        call.cached = not usage
        if usage and entry.get("cost") is not None:  # a cache hit repeats the cost of the first call
            call.cost_usd = float(entry["cost"])


def described(error: BaseException, most: int | None = None) -> dict[str, str]:
    """An exception's type and message, of which at most so many characters."""
    try:
        message = str(error)[:most]
    except Exception as hostile:  # noqa: BLE001  the exception is the host's
        message = f"(its text raises {type(hostile).__name__})"
    return {"type": type(error).__name__, "message": message}


def _conversation(entry: dict[str, Any], outputs: Any) -> list[Any]:
    """What an LM call was asked and what it answered, as messages."""
    asked = entry.get("messages") or [{"role": "user", "content": entry.get("prompt")}]
    answers = outputs if isinstance(outputs, list) else [outputs]
    return [*asked, *({"role": "assistant", "content": answer} for answer in answers)]
