"""DSPy's own evaluations and optimizers, watched: an evaluation is recorded, what is tried in one is not.

``dspy.Evaluate.__call__`` and every optimizer's ``compile`` get a wrapper around them. What DSPy or the host
wrapped around ours by the time of :func:`remove` stays, and ours does nothing within it from then on.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
from typing import Any, Protocol

import dspy
from dspy.dsp.utils.settings import settings as dspy_settings
from dspy.teleprompt import Teleprompter

from dspy_ledger.producer.evaluation import dataset_of, metric_name, record_evaluation, results_of, rows_of
from dspy_ledger.producer.execution import Identity
from dspy_ledger.producer.ledger import Ledger
from dspy_ledger.producer.models import ModelDescription
from dspy_ledger.producer.scope import current_execution, is_quiet, quiet
from dspy_ledger.producer.structure import walk

__all__ = ["Tracker", "install", "remove"]


class Tracker(Protocol):
    """Who records a program."""

    ledger: Ledger

    def identity_of(self, module: Any) -> Identity:
        """Which program a module is; registers it if nobody did."""


_ARGUMENTS = (
    *("program", "metric", "devset", "num_threads", "display_progress", "display_table"),
    "callback_metadata",
)
"""Of ``dspy.Evaluate.__call__`` by position: what somebody else put around it may not tell."""

_tracker_of: Callable[[Any], Tracker | None] | None = None
_wrappers: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()


def install(tracker_of: Callable[[Any], Tracker | None]) -> None:
    """Record evaluations from here on, and keep quiet within every evaluation and compile.

    Args:
        tracker_of: tells who records a program; None for one that nobody does.
    """
    global _tracker_of  # noqa: PLW0603  DSPy's classes are global too
    _tracker_of = tracker_of
    _wrap(dspy.Evaluate, "__call__", _evaluating)
    _wrap(Teleprompter, "__init_subclass__", _subclassing)
    for optimizer in _subclasses(Teleprompter):
        _wrap(optimizer, "compile", _compiling)


def remove() -> None:
    """Leave DSPy as it was."""
    global _tracker_of  # noqa: PLW0603
    _tracker_of = None
    _unwrap(dspy.Evaluate, "__call__")
    _unwrap(Teleprompter, "__init_subclass__")
    for optimizer in _subclasses(Teleprompter):
        _unwrap(optimizer, "compile")


def _wrap(cls: type, name: str, wrapper_of: Callable[[Any], Any]) -> None:
    own = vars(cls).get(name)
    function = own.__func__ if isinstance(own, classmethod) else own
    if not inspect.isfunction(function) or function in _wrappers:
        return
    wrapper = functools.wraps(function)(wrapper_of(function))
    _wrappers.add(wrapper)
    setattr(cls, name, classmethod(wrapper) if isinstance(own, classmethod) else wrapper)


def _unwrap(cls: type, name: str) -> None:
    own = vars(cls).get(name)
    wrapper = own.__func__ if isinstance(own, classmethod) else own
    if type(wrapper) is FunctionType and wrapper in _wrappers:  # a proxy of another tool passes for ours
        function = vars(wrapper)["__wrapped__"]
        setattr(cls, name, classmethod(function) if isinstance(own, classmethod) else function)


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


# The wrappers name functions of this module only, no values: a class of the host's that has one is pickled
# with all that it names.


def _evaluating(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_watched():
            return evaluate(self, *args, **kwargs)
        with quiet():
            result = evaluate(self, *args, **kwargs)
        _evaluated(self, args, kwargs, result)
        return result

    return call


def _compiling(compile_: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(compile_):

        async def acompile(*args: Any, **kwargs: Any) -> Any:
            with _quietly():
                return await compile_(*args, **kwargs)

        return acompile

    def compile_quietly(*args: Any, **kwargs: Any) -> Any:
        with _quietly():
            return compile_(*args, **kwargs)

    return compile_quietly


def _subclassing(init_subclass: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(cls: type, **kwargs: Any) -> None:
        init_subclass(cls, **kwargs)
        if _tracker_of is not None:
            _wrap(cls, "compile", _compiling)

    return wrapped


def _quietly() -> AbstractContextManager[None]:
    return nullcontext() if _tracker_of is None else quiet()


def _is_watched() -> bool:
    """Whether an evaluation is one of its own, and not part of a compile, of another or of an execution."""
    return _tracker_of is not None and not is_quiet() and current_execution() is None


def _evaluated(evaluate: Any, args: Any, kwargs: Any, result: Any) -> None:
    given = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
    program, metric = given.get("program"), given.get("metric")
    if not isinstance(program, dspy.Module):
        return  # a function can be evaluated too, and is no program
    tracker = None if _tracker_of is None else _tracker_of(program)
    if tracker is None:
        return
    try:
        identity = tracker.identity_of(program)
        model = getattr(_lm_of(program), "model", None)
        about = given.get("callback_metadata")
        name = about.get("dataset") if isinstance(about, dict) else None
        data = {
            "program_id": identity.program_id,
            "program_version": None if identity.provisional else identity.version,
            "content_hash": identity.content_hash,
            "model_id": model,
            "model_info": None if model is None else ModelDescription.of(model, model).info(),
            "results": results_of(result),
            "metric_name": metric_name(evaluate.metric if metric is None else metric),
            "dataset": dataset_of(result, name if isinstance(name, str) else None),
        }
        record_evaluation(tracker.ledger, data, rows_of(result))
    except Exception as error:  # noqa: BLE001  the host comes first: counted and said, never raised
        tracker.ledger.drop(error)


def _lm_of(program: Any) -> Any:
    """The LM that all of the program's predictors insist on, else the one in force."""
    predictors = [node.value for node in walk(program) if isinstance(node.value, dspy.Predict)]
    lms = {id(predictor.lm): predictor.lm for predictor in predictors}
    [lm] = lms.values() if len(lms) == 1 else [None]
    return dspy_settings.lm if lm is None else lm
