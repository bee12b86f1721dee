"""What happens inside one execution: its nested module, LM, adapter and tool calls, tokens and cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter
from typing import Any

from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback

__all__ = ["NOT_CAPTURED", "Call", "Capture"]

NOT_CAPTURED = "(not captured)"
"""Stands for an error's message where inputs or outputs are not to be recorded."""

_MOST_CALLS = 10_000  # of one execution; more are counted, not kept
_TOKENS = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "total_tokens": "total_tokens",
}


@dataclass(slots=True)
class Call:
    """One call. Offsets and durations are milliseconds from the start of the execution."""

    kind: str
    name: str
    parent: int | None
    start_ms: float
    instance: Any = field(repr=False)
    duration_ms: float | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    cost_usd: float | None = None
    cached: bool | None = None
    error: dict[str, str] | None = None

    def as_dict(self, *, with_messages: bool = True) -> dict[str, Any]:
        """The call as an event's body holds it.

        Args:
            with_messages: an error's message may quote what went in or came out.
        """
        record: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "parent": self.parent,
            "start_ms": round(self.start_ms, 3),
            "duration_ms": None if self.duration_ms is None else round(self.duration_ms, 3),
        }
        for name in ("model", "usage", "cost_usd", "cached", "error"):
            if (value := getattr(self, name)) is not None:
                record[name] = value
        if self.error is not None and not with_messages:
            record["error"] = {"type": self.error["type"], "message": NOT_CAPTURED}
        return record


class Capture(BaseCallback):
    """A DSPy callback for one execution, put in force by ``dspy.context``.

    ``calls`` is in order of their starts; a call's ``parent`` is an index into it. DSPy runs the hooks
    synchronously and logs, never raises, what goes wrong in one.
    """

    def __init__(self) -> None:
        self.started = perf_counter()
        self.calls: list[Call] = []
        self.counts: Counter[str] = Counter()
        self.lms: list[Any] = []
        self._open: dict[str, int] = {}
        self._lock = Lock()  # dspy.Parallel calls the hooks from several threads

    def elapsed_ms(self) -> float:
        """Milliseconds since the execution began."""
        return (perf_counter() - self.started) * 1000

    def usage(self) -> dict[str, int | float]:
        """Tokens summed over the LM calls that were billed."""
        total: Counter[str] = Counter()
        for call in self._billed():
            for name, count in (call.usage or {}).items():
                total[name] += count
        return dict(total)

    def cost_usd(self) -> float | None:
        """US dollars of all billed LM calls; None when no price was known."""
        costs = [call.cost_usd for call in self._billed() if call.cost_usd is not None]
        return sum(costs) if costs else None

    def _billed(self) -> list[Call]:
        """LM calls with usage, without those that only pass on what an LM below them used."""
        wrappers: set[int] = set()
        billed = [index for index, call in enumerate(self.calls) if call.usage]
        for index in billed:
            above = self.calls[index].parent
            while above is not None:
                wrappers.add(above)
                above = self.calls[above].parent
        return [self.calls[index] for index in billed if index not in wrappers]

    # --- DSPy's hooks ---

    def _start(self, kind: str, call_id: str, instance: Any, name: str | None = None) -> None:
        with self._lock:
            self.counts[kind] += 1
            if len(self.calls) >= _MOST_CALLS:
                return
            parent = self._open.get(ACTIVE_CALL_ID.get() or "")
            self._open[call_id] = len(self.calls)
            self.calls.append(
                Call(kind, name or type(instance).__name__, parent, self.elapsed_ms(), instance)
            )

    def _end(self, call_id: str, exception: BaseException | None) -> Call | None:
        index = self._open.pop(call_id, None)
        if index is None:
            return None
        call = self.calls[index]
        call.duration_ms = self.elapsed_ms() - call.start_ms
        if exception is not None:
            call.error = {"type": type(exception).__name__, "message": str(exception)[:2000]}
        return call

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("module", call_id, instance)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id, exception)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("tool", call_id, instance, getattr(instance, "name", None))

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

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start("lm", call_id, instance, getattr(instance, "model", None))
        if not any(lm is instance for lm in self.lms):
            self.lms.append(instance)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        call = self._end(call_id, exception)
        if call is None or exception is not None:
            return
        call.model = call.name
        # The hook is not told the usage. The call's own history entry is the one that holds this very
        # list of outputs; another thread's has another list.
        history = getattr(call.instance, "history", ())
        entry = next((e for e in reversed(list(history)) if e.get("outputs") is outputs), None)
        if entry is None:
            return
        usage = entry.get("usage") or {}
        call.usage = {ours: usage[theirs] for theirs, ours in _TOKENS.items() if usage.get(theirs)}
        if usage and not call.usage:
            return  # zeros, as DSPy gives them for some streams: not known
        call.cached = not usage
        if usage and entry.get("cost") is not None:  # a cache hit repeats the cost of the first call
            call.cost_usd = float(entry["cost"])
