"""Running one program once on one model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import dspy

from dspy_ledger.errors import InvalidFields
from dspy_ledger.identity import Interface
from dspy_ledger.producer.execution import Execution, ExecutionInfo, Identity

__all__ = ["ExecutionResult", "Run", "check_inputs"]


class ExecutionResult(NamedTuple):
    """The value of the program's ``process_output``, otherwise its Prediction; and what is known of it."""

    result: Any
    info: ExecutionInfo


@dataclass(frozen=True, slots=True)
class Run:
    """A program, its inputs and the LM that it is to run on.

    ``identity`` tells which program it is, and its version, once it ran.
    """

    execution: Execution
    identity: Callable[[], Identity]
    program: Any
    lm: Any
    inputs: Mapping[str, Any]
    process_output: Callable[[Any], Any] | None

    async def execute(self) -> ExecutionResult:
        """Call the program and record the execution.

        The LM is set for this call only, so that concurrent calls may use others. A module whose
        ``aforward`` belongs to its ``forward`` is awaited, another runs in DSPy's worker threads.

        Raises:
            Exception: whatever the program raised, unchanged, with the execution id in its notes.
        """
        execution, program = self.execution, self.program
        prediction = None
        try:
            token = execution.begin(lm=self.lm)
            try:
                called = program.acall if _is_async(program) else dspy.asyncify(program)
                prediction = await called(**self.inputs)
            finally:
                execution.leave(token)
            value = prediction if self.process_output is None else self.process_output(prediction)
        except BaseException as error:  # also cancellation
            execution.end(self.identity(), self.inputs, prediction, error)
            with suppress(Exception):  # the host's own class may refuse it
                error.add_note(f"execution_id={execution.execution_id}")
            raise
        identity = self.identity()
        data = execution.end(identity, self.inputs, prediction)
        return ExecutionResult(value, ExecutionInfo.of(data, identity, prediction))

    async def stream(self, **options: Any) -> AsyncGenerator[Any, None]:
        """Execute it, and yield what ``dspy.streamify`` with these options yields, then the ExecutionResult.

        DSPy's generator is left to a task of its own from its first step to its last: closed in another one,
        it would cancel whoever happened to read it.
        """
        chunks: asyncio.Queue[Any] = asyncio.Queue()

        async def read() -> None:
            async for chunk in dspy.streamify(_Streamed(self), is_async_program=True, **options)():
                chunks.put_nowait(chunk.result if isinstance(chunk, _StreamedResult) else chunk)

        reading = asyncio.create_task(read())
        reading.add_done_callback(lambda _: chunks.put_nowait(_END))
        try:
            while (chunk := await chunks.get()) is not _END:
                yield chunk
            await reading
        finally:
            reading.cancel()
            await asyncio.wait([reading])


_END = object()


class _Streamed:
    """A run as ``dspy.streamify`` takes a program."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def named_predictors(self) -> Any:
        """Where the stream's listeners look for their fields."""
        return self._run.program.named_predictors()

    async def acall(self) -> _StreamedResult:
        """Execute it; DSPy ends its stream with a Prediction."""
        return _StreamedResult(result=await self._run.execute())


class _StreamedResult(dspy.Prediction):
    """The ExecutionResult, as ``result``."""


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
