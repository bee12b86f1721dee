"""Where a question is asked: on the event loop while it is quick, else in a thread beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from time import monotonic, thread_time
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from dspy_ledger.api.reading import Sources, TookTooLong

__all__ = ["Lanes", "disconnected"]

T = TypeVar("T")

_AT_ONCE = 0.025
"""Seconds of the processor that a question may take on the loop, where all other clients wait for it. Most
take a fiftieth of that, and less than another thread takes to begin."""
_AT_MOST = 0.1
"""Seconds on the clock that it may, where it waits for the disk or for those beside it: these must not make
every quick question a slow one."""
_MOST_SLOW = 256
"""Questions that are known to be slow: asked again and again, as pages are, they are asked beside at once."""
_BESIDE = 4
"""Threads for slow questions. They share the interpreter's lock with the loop: more would slow all."""


class Lanes:
    """The loop's own sources, and others beside them for what takes long.

    Args:
        sources: those that are asked on the loop.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._seconds = sources.settings.api_query_seconds
        self._threads = ThreadPoolExecutor(_BESIDE, "slow-question")
        self._slow: dict[Hashable, None] = {}  # by name; the one found out last stands last

    async def ask(
        self, question: Callable[[Sources], T], receive: Receive | None = None, name: Hashable = None
    ) -> T:
        """What a question answers, within ``API_QUERY_SECONDS``, the wait for a thread included.

        Args:
            question: asks the sources that it is given. What has to be given up on the loop is asked again in
                a thread, from its beginning: it must change nothing that others see.
            receive: of the request, when nobody else listens to it: a client that leaves ends its question.
            name: by which it is known again, so that what was slow is not asked on the loop in vain.

        Raises:
            TookTooLong: it was not answered by then.
            ClientDisconnect: there is nobody to answer.
        """
        began, used = monotonic(), thread_time()
        if name in self._slow:
            return await self._ask_beside(question, began + self._seconds, receive, name)
        sources = self._sources
        sources.is_over = lambda: thread_time() - used > _AT_ONCE or monotonic() - began > _AT_MOST
        try:
            return question(sources)
        except TookTooLong:
            pass
        finally:
            sources.is_over = bool
        if name is not None:
            self._slow[name] = None
            if len(self._slow) > _MOST_SLOW:
                del self._slow[next(iter(self._slow))]
        return await self._ask_beside(question, began + self._seconds, receive, name)

    async def _ask_beside(
        self, question: Callable[[Sources], T], deadline: float, receive: Receive | None, name: Hashable
    ) -> T:
        # Sources of its own for each: what is opened is not held beside a view that has been replaced.
        sources = Sources(self._sources.settings)
        sources.deadline = deadline
        sources.is_over = lambda: monotonic() > deadline
        used = 0.0

        def ask() -> T:
            nonlocal used
            began = thread_time()
            try:
                with closing(sources):
                    return question(sources)
            finally:
                used = thread_time() - began

        answer = asyncio.get_running_loop().run_in_executor(self._threads, ask)
        gone = None if receive is None else asyncio.ensure_future(disconnected(receive))
        awaited: list[asyncio.Future[Any]] = [answer] if gone is None else [answer, gone]
        try:
            await asyncio.wait(awaited, timeout=deadline - monotonic(), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                if self._sources.take_over(sources) or used < _AT_ONCE / 2:
                    self._slow.pop(name, None)  # the next time it may be quick
                return answer.result()
            if gone is not None and gone.done():
                raise ClientDisconnect
            raise TookTooLong(self._seconds)
        finally:
            sources.is_over = lambda: True  # whoever leaves ends what is under way
            for each in awaited:
                each.cancel()

    def close(self) -> None:
        """Let go of the threads, whose questions have been given up by now."""
        self._threads.shutdown(cancel_futures=True)


async def disconnected(receive: Receive) -> None:
    """Wait until a client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
