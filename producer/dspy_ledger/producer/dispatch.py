"""Calls of modules that are told to a capture without DSPy's dispatch, where nobody else would be told.

DSPy's dispatch takes the arguments apart, draws a random id and asks what kind of component it has, at every
call: some 70 µs, which a module that only our capture watches is spared.
"""

from __future__ import annotations

from inspect import iscoroutinefunction
from itertools import count
from types import FunctionType
from typing import Any

from dspy.dsp.utils.settings import settings as dspy_settings
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback, with_callbacks

from dspy_ledger.producer.capture import Capture
from dspy_ledger.producer.scope import current_execution

__all__ = ["Mark", "directly"]


class Mark(BaseCallback):
    """A callback that has nothing to be told; its copies mark nothing."""

    def __reduce__(self) -> Any:
        return Mark, ()


_NO_INPUTS: dict[str, Any] = {}

_numbers = count()


def directly(dispatched: Any) -> Any:
    """A method of ``dspy.Module`` that tells the capture in force itself where it is the only callback.

    The method as it is where somebody else has wrapped it: theirs must run too.
    """
    if type(dispatched) is not FunctionType or dispatched.__code__ not in _DISPATCH:
        return dispatched  # a proxy has the code of what it wraps
    return (_async_directly if iscoroutinefunction(dispatched) else _sync_directly)(dispatched)


def _sync_directly(dispatched: Any) -> Any:
    method = dispatched.__wrapped__

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807  tracebacks name it so
        if (capture := _only_callback(self)) is None:
            return dispatched(self, *args, **kwargs)
        call_id = f"dspy-ledger-{next(_numbers)}"
        capture.on_module_start(call_id, self, _NO_INPUTS)
        parent = ACTIVE_CALL_ID.get()
        ACTIVE_CALL_ID.set(call_id)
        try:
            outputs = method(self, *args, **kwargs)
        except BaseException as error:
            ACTIVE_CALL_ID.set(parent)
            capture.on_module_end(call_id, None, error)
            raise
        ACTIVE_CALL_ID.set(parent)
        capture.on_module_end(call_id, outputs)
        return outputs

    return __call__


def _async_directly(dispatched: Any) -> Any:
    method = dispatched.__wrapped__

    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (capture := _only_callback(self)) is None:
            return await dispatched(self, *args, **kwargs)
        call_id = f"dspy-ledger-{next(_numbers)}"
        capture.on_module_start(call_id, self, _NO_INPUTS)
        parent = ACTIVE_CALL_ID.get()
        ACTIVE_CALL_ID.set(call_id)
        try:
            outputs = await method(self, *args, **kwargs)
        except BaseException as error:
            ACTIVE_CALL_ID.set(parent)
            capture.on_module_end(call_id, None, error)
            raise
        ACTIVE_CALL_ID.set(parent)
        capture.on_module_end(call_id, outputs)
        return outputs

    return acall


def _only_callback(module: Any) -> Capture | None:
    """The capture in force, if it is all that DSPy would call."""
    capture: Capture | None = current_execution()
    callbacks = dspy_settings.callbacks
    if capture is None or len(callbacks) != 1 or callbacks[0] is not capture:
        return None
    return capture if all(isinstance(own, Mark) for own in vars(module).get("callbacks") or ()) else None


async def _coroutine_function(self: Any) -> None: ...


def _function(self: Any) -> None: ...


_DISPATCH = frozenset(with_callbacks(function).__code__ for function in (_function, _coroutine_function))
