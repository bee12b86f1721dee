"""Results that go on after their call returned: generators and coroutines, as part of their execution."""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Protocol

from dspy.utils.callback import ACTIVE_CALL_ID

__all__ = ["drive", "outlives_its_call"]

_MOST_KEPT = 1_000  # of what one generator yielded

_KINDS = (types.GeneratorType, types.AsyncGeneratorType, types.CoroutineType)


class _Root(Protocol):
    def leave(self) -> None: ...

    def go_on(self) -> str | None: ...

    def end(self, outputs: Any, error: BaseException | None = None) -> None: ...


def outlives_its_call(outputs: Any) -> bool:
    """Whether the work is done only when the host iterates over it or awaits it."""
    return isinstance(outputs, _KINDS)


def drive(outputs: Any, root: _Root) -> Any:
    """The same kind of generator or coroutine, whose every step is part of the execution.

    The execution ends when it is exhausted, closed or raises. It runs in a copy of the context that the
    call was made in. What is never begun is never recorded.
    """
    context = copy_context()
    root.leave()
    context.run(ACTIVE_CALL_ID.set, root.go_on())
    if isinstance(outputs, types.GeneratorType):
        return _generator(outputs, root, context)
    if isinstance(outputs, types.AsyncGeneratorType):
        return _async_generator(outputs, root, context)
    return _coroutine(outputs, root, context)


def _generator(inner: Generator[Any, Any, Any], root: _Root, context: Context) -> Generator[Any, Any, Any]:
    kept: list[Any] = []
    step: Callable[[], Any] = partial(next, inner)
    try:
        while True:
            try:
                value = context.run(step)
            except StopIteration as stop:
                root.end(kept)
                return stop.value
            if len(kept) < _MOST_KEPT:
                kept.append(value)
            try:
                sent = yield value
            except GeneratorExit:
                context.run(inner.close)
                raise
            except BaseException as error:  # noqa: BLE001  for the host's generator to take
                step = partial(inner.throw, error)
            else:
                step = partial(inner.send, sent)
    except BaseException as error:
        root.end(kept, error)
        raise


async def _async_generator(
    inner: AsyncGenerator[Any, Any], root: _Root, context: Context
) -> AsyncGenerator[Any, Any]:
    kept: list[Any] = []
    step: Awaitable[Any] = anext(inner)
    try:
        while True:
            try:
                value = await _InContext(step, context)
            except StopAsyncIteration:
                root.end(kept)
                return
            if len(kept) < _MOST_KEPT:
                kept.append(value)
            try:
                sent = yield value
            except GeneratorExit:
                await _InContext(inner.aclose(), context)
                raise
            except BaseException as error:  # noqa: BLE001  for the host's generator to take
                step = inner.athrow(error)
            else:
                step = inner.asend(sent)
    except BaseException as error:
        root.end(kept, error)
        raise


async def _coroutine(inner: Coroutine[Any, Any, Any], root: _Root, context: Context) -> Any:
    try:
        value = await _InContext(inner, context)
    except BaseException as error:
        root.end(None, error)
        raise
    root.end(value)
    return value


class _InContext:
    """An awaitable whose every step runs in a context, in the task that awaits it."""

    def __init__(self, awaitable: Awaitable[Any], context: Context) -> None:
        self._awaitable = awaitable
        self._context = context

    def __await__(self) -> Generator[Any, Any, Any]:
        inner: Any = self._awaitable.__await__()
        step: Callable[[], Any] = partial(next, inner)
        while True:
            try:
                waited_for = self._context.run(step)
            except StopIteration as stop:
                return stop.value
            try:
                sent = yield waited_for
            except BaseException as error:  # noqa: BLE001  for the host's code to take
                step = partial(inner.throw, error)
            else:
                step = partial(inner.send, sent)
