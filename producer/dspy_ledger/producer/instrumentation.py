"""Record what the host's DSPy programs do: every root call of any module, or of one."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Iterable
from contextvars import Token
from typing import Any, TypeVar

import dspy
from dspy.dsp.utils.settings import settings as dspy_settings

from dspy_ledger.errors import InvalidInput
from dspy_ledger.producer import evaluating
from dspy_ledger.producer.arguments import tag_list, text
from dspy_ledger.producer.capture import Capture
from dspy_ledger.producer.dispatch import Mark, directly
from dspy_ledger.producer.driving import drive, outlives_its_call
from dspy_ledger.producer.execution import Execution, Identity
from dspy_ledger.producer.ledger import Ledger
from dspy_ledger.producer.recognition import Recogniser
from dspy_ledger.producer.scope import current_execution, is_quiet, put_in_force, restore
from dspy_ledger.producer.typeform import of_dspy

__all__ = ["instrument", "track", "uninstrument"]

_Module = TypeVar("_Module")

_NO_INPUTS = frozenset({"config", "demos", "lm", "new_signature", "signature"})
"""What DSPy's predictors take beside their inputs."""

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def instrument(ledger: Ledger) -> None:
    """Record every root call of a ``dspy.Module`` in this process as one execution, from here on.

    It wraps ``dspy.Module.__call__`` and ``acall``, may be called from any thread, and needs no
    ``dspy.configure`` before or after it. Called again, it records to the ledger given last.

    Raises:
        InvalidInput: it is no ledger.
    """
    global _tracker  # noqa: PLW0603  dspy.Module is global too
    tracker = _Tracker(ledger)
    with _patching:
        _wrap()
        _tracker = tracker


def uninstrument() -> None:
    """Undo :func:`instrument`: DSPy is as it was. Nothing is recorded of tracked modules either.

    Where somebody wrapped DSPy's methods again since, theirs stay, and ours do nothing within them.
    """
    global _tracker, _recording
    with _patching:
        _tracker, _recording = None, False
        for name, (original, wrapper) in list(_wrapped.items()):
            if getattr(dspy.Module, name) is wrapper:
                setattr(dspy.Module, name, original)
                del _wrapped[name]
        evaluating.remove()


def track(
    module: _Module, ledger: Ledger, name: str | None = None, tags: Iterable[str] | None = None
) -> _Module:
    """Record every root call of one module as one execution; the module.

    The same as :func:`instrument` for one instance, which is marked in its ``callbacks``. Its copies are not:
    DSPy's ``deepcopy`` and ``compile`` drop callbacks, so track the compiled program again. Called again, it
    replaces what was given before.

    Args:
        name: what the program is called; None as for :func:`instrument`.
        tags: of the program.

    Raises:
        InvalidInput: it is no module, no ledger, or name or tags are no texts.
    """
    if not isinstance(module, dspy.Module):
        raise InvalidInput(f"track takes a dspy.Module, not {type(module).__name__}")
    mark = _Mark(_Tracker(ledger, text("name", name), tag_list(tags)))
    module.callbacks = [*(other for other in module.callbacks if not isinstance(other, Mark)), mark]
    with _patching:
        _wrap()
    return module


class _Tracker:
    """Begins executions on one ledger; its own failures stay its own."""

    def __init__(self, ledger: Ledger, name: str | None = None, tags: Iterable[str] = ()) -> None:
        if not isinstance(ledger, Ledger):
            raise InvalidInput(f"pass a Ledger, e.g. Ledger.connect(), not {type(ledger).__name__}")
        self.ledger = ledger
        self.recogniser = Recogniser.of(ledger)
        self._name = name
        self._tags = tags

    def identity_of(self, module: Any) -> Identity:
        """Which program a module is."""
        return self.recogniser.identity_of(module, self._name, self._tags)

    def begin(self, module: Any, args: Any, kwargs: Any) -> _Root | None:
        """A root call begins; None when it can't be recorded."""
        try:
            program = self.identity_of(module)
            return _Root(self, Execution(self.ledger), program, (module, args, kwargs))
        except Exception as error:  # noqa: BLE001  the host comes first: counted and said, never raised
            self.ledger.drop(error)
            return None


class _Root:
    """A root call: one execution, in force from here on."""

    def __init__(self, tracker: _Tracker, execution: Execution, program: Any, call: tuple[Any, ...]) -> None:
        self._tracker = tracker
        self._execution = execution
        self._program = program
        self._call = call
        self._token: Token[Any] = execution.begin()

    def leave(self) -> None:
        """What was in force before the call is so again."""
        self._execution.leave(self._token)

    def go_on(self) -> str | None:
        """Its work goes on after the call returned; the call's id."""
        return self._execution.go_on()

    def end(self, outputs: Any, error: BaseException | None = None) -> None:
        """The call ended: it is recorded."""
        try:
            program = self._tracker.recogniser.versioned(self._program)
            self._execution.end(program, _inputs(*self._call), outputs, error)
        except Exception as problem:  # noqa: BLE001  the host comes first: counted and said, never raised
            self._tracker.ledger.drop(problem)


class _Mark(Mark):
    """Stands among the callbacks of a tracked module."""

    def __init__(self, tracker: _Tracker) -> None:
        self.tracker = tracker


_tracker: _Tracker | None = None
_recording = False  # what somebody put around our wrappers may outlast uninstrument()
_wrapped: dict[str, tuple[Any, Any]] = {}  # name in dspy.Module → what it was, what it is
_patching = threading.Lock()


def _wrap() -> None:
    global _recording  # noqa: PLW0603
    _recording = True
    for name, wrapper_of in (("__call__", _calling), ("acall", _acalling)):
        original = getattr(dspy.Module, name)
        if not _has_ours(name, original):
            wrapper = functools.wraps(original)(wrapper_of(directly(original)))
            setattr(dspy.Module, name, wrapper)
            _wrapped[name] = (original, wrapper)
    evaluating.install(_tracker_of)


def _has_ours(name: str, method: Any) -> bool:
    """Whether our wrapper is there already, be it within others."""
    while method is not None:
        if name in _wrapped and method is _wrapped[name][1]:
            return True
        method = getattr(method, "__wrapped__", None)
    return False


def _calling(original: Any) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807  tracebacks name it so
        if (capture := current_execution()) is not None:
            if (token := _put_back(capture)) is None:
                return original(self, *args, **kwargs)
            try:
                return original(self, *args, **kwargs)
            finally:
                restore(token)
        if (root := _begin(self, args, kwargs)) is None:
            return original(self, *args, **kwargs)
        try:
            outputs = original(self, *args, **kwargs)
        except BaseException as error:
            root.leave()
            root.end(None, error)
            raise
        if outlives_its_call(outputs):
            return drive(outputs, root)
        root.leave()
        root.end(outputs)
        return outputs

    return __call__


def _acalling(original: Any) -> Any:
    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (capture := current_execution()) is not None:
            if (token := _put_back(capture)) is None:
                return await original(self, *args, **kwargs)
            try:
                return await original(self, *args, **kwargs)
            finally:
                restore(token)
        if (root := _begin(self, args, kwargs)) is None:
            return await original(self, *args, **kwargs)
        try:
            outputs = await original(self, *args, **kwargs)
        except BaseException as error:
            root.leave()
            root.end(None, error)
            raise
        if outlives_its_call(outputs):
            return drive(outputs, root)
        root.leave()
        root.end(outputs)
        return outputs

    return acall


def _begin(module: Any, args: Any, kwargs: Any) -> _Root | None:
    """A root call begins, unless it is not to be recorded."""
    if is_quiet() or (tracker := _tracker_of(module)) is None:
        return None
    return tracker.begin(module, args, kwargs)


def _tracker_of(module: Any) -> _Tracker | None:
    """That of a tracked module stands above the one of all modules."""
    if not _recording:
        return None
    for callback in vars(module).get("callbacks") or ():
        if isinstance(callback, _Mark):
            return callback.tracker
    return _tracker


def _put_back(capture: Capture) -> Token[Any] | None:
    """Where the host put other callbacks in force within the execution, also the execution's own."""
    callbacks = dspy_settings.callbacks or ()
    for callback in callbacks:
        if callback is capture:
            return None
    return put_in_force({"callbacks": [*callbacks, capture]})


def _inputs(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's inputs by name."""
    if not _NO_INPUTS.isdisjoint(kwargs) and of_dspy(type(module)):
        declared = getattr(getattr(module, "signature", None), "input_fields", ())
        kwargs = {name: value for name, value in kwargs.items() if name not in _NO_INPUTS or name in declared}
    if not args:
        return kwargs
    named = dict(zip(_positional(module), args, strict=False))
    rest = {"args": list(args[len(named) :])} if len(args) > len(named) else {}
    return {**named, **rest, **kwargs}


def _positional(module: Any) -> list[str]:
    """Names of what a module takes by position, as far as they can be told."""
    for name in ("forward", "aforward"):
        try:
            method = object.__getattribute__(module, name)  # DSPy logs a warning for module.forward
            parameters = inspect.signature(method).parameters.values()
        except (AttributeError, TypeError, ValueError):
            continue
        return [one.name for one in parameters if one.kind in _BY_POSITION]
    return []
