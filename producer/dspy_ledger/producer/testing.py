"""For tests of code that records: a ledger in memory, and assertions on what was recorded.

    from dspy_ledger.producer.testing import MemoryLedger

    def test_a_question_is_answered():
        with MemoryLedger() as ledger:
            instrument(ledger)
            answer(question="…")
            [execution] = ledger.assert_executed("question_answer", status="ok")
            assert execution.body["outputs"]["answer"]

Everything works as on a real ledger (versions, ``load_program``, redaction, sampling), on a Redis within the
process (``fakeredis``; install ``dspy-ledger[testing]``). No file is written, no thread runs, nothing waits:
what was recorded is there when the call returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock
from typing import Any

import orjson

from dspy_ledger import wire
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.producer.ledger import Ledger
from dspy_ledger.producer.outbox import Outbox
from dspy_ledger.producer.proposals import entry_fields
from dspy_ledger.producer.sender import Ask, Registrar, Sends
from dspy_ledger.producer.server import Found, Problem
from dspy_ledger.producer.wal import scan
from dspy_ledger.settings import Settings, load_settings

__all__ = ["MemoryLedger", "Recorded"]

_SHORT_NAMES = {type_: kind for kind, type_ in EVENT_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded event: ``kind`` is the short name, ``data`` and ``body`` are its fields as plain JSON."""

    kind: str
    event_id: str
    subject: str | None
    sequence: int
    data: dict[str, Any]
    body: Any


class MemoryLedger(Ledger):
    """A ledger for tests; use it wherever a :class:`Ledger` is taken.

    Args:
        given: any setting by its name, e.g. ``sample_rate=0.1``. The environment and ``.env`` are not read: a
            test gives the same everywhere.
    """

    def __init__(self, **given: Any) -> None:
        try:
            from fakeredis import FakeRedis  # noqa: PLC0415  an extra that only this needs
        except ImportError:
            raise ImportError("MemoryLedger needs fakeredis: pip install 'dspy-ledger[testing]'") from None
        self._client: Any = FakeRedis()
        defaults = {name: field.get_default() for name, field in Settings.model_fields.items()}
        super().__init__(
            load_settings(**{"_env_file": None, **defaults, **given, "redis_url": "redis://memory"})
        )

    @classmethod
    def connect(
        cls,
        url: str | None = None,  # noqa: ARG003  taken like there
        *,
        settings: Settings | None = None,
        **given: Any,
    ) -> MemoryLedger:
        """Like ``Ledger.connect``, but nothing is connected to."""
        kept = {} if settings is None else settings.model_dump(exclude_unset=True)
        return cls(**{**kept, **given})

    def _start(self) -> None:
        self._outbox = Outbox(self.source, self._commands, None, context=self._context)
        self._sender = _AtOnce(self._client, self._outbox, self.keys.events, self._registrar)

    # --- what was recorded ---

    def events(self, kind: str | None = None, **data: Any) -> list[Recorded]:
        """Everything recorded so far, in order.

        Args:
            kind: only of that kind: ``ExecutionCompleted``, ``EvaluationSaved``, ``ProgramRegistered`` ….
            data: only where the event's fields have these values.

        Raises:
            ValueError: there is no such kind.
        """
        if kind is not None and kind not in EVENT_TYPES:
            raise ValueError(f"there is no event {kind!r}; there are {', '.join(EVENT_TYPES)}")
        found = []
        for _, fields in self._client.xrange(self.keys.events):
            entry = wire.decode(fields)
            body = None if entry.body is None else orjson.loads(entry.body)
            one = Recorded(
                _SHORT_NAMES[entry.type],
                entry.event_id,
                entry.subject,
                entry.sequence,
                entry.envelope["data"],
                body,
            )
            if kind in (None, one.kind) and all(one.data.get(name) == value for name, value in data.items()):
                found.append(one)
        return found

    @property
    def executions(self) -> list[Recorded]:
        """All recorded executions."""
        return self.events("ExecutionCompleted")

    @property
    def evaluations(self) -> list[Recorded]:
        """All saved evaluations, feedback among them."""
        return self.events("EvaluationSaved")

    @property
    def registrations(self) -> list[Recorded]:
        """All registrations of programs, under the versions they got."""
        return self.events("ProgramRegistered")

    def assert_executed(
        self, program_id: str | None = None, *, times: int | None = None, **data: Any
    ) -> list[Recorded]:
        """Check that a program was executed; its executions.

        Args:
            times: exactly so often; None: at least once.
            data: with these values, e.g. ``status="error"``, ``model_id="gpt-4o-mini"``.

        Raises:
            AssertionError: it was not; the message lists what was executed.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        wanted = data if program_id is None else {"program_id": program_id, **data}
        found = self.events("ExecutionCompleted", **wanted)
        if bool(found) if times is None else len(found) == times:
            return found
        expected = "at least one execution" if times is None else f"{times} executions"
        raise AssertionError(
            f"expected {expected} with {wanted or 'anything'}, found {len(found)}; executed were:\n"
            + ("\n".join(map(_line, self.executions)) or "  nothing")
        )

    def assert_nothing_lost(self) -> None:
        """Check that recording never failed: what goes wrong in it is not raised, only counted.

        Raises:
            AssertionError: something was dropped.
        """
        __tracebackhide__ = True
        dropped = self.stats().dropped
        if dropped:
            raise AssertionError(
                f"{dropped} events could not be recorded; see the log of dspy_ledger.producer"
            )

    def clear(self) -> None:
        """Forget what was recorded; registered versions stay known."""
        self._client.delete(self.keys.events)


def _line(execution: Recorded) -> str:
    data = execution.data
    shown = {
        name: data.get(name) for name in ("program_id", "program_version", "model_id", "status", "error")
    }
    return "  " + ", ".join(f"{name}={value!r}" for name, value in shown.items() if value is not None)


class _AtOnce(Sends):
    """Sends in the caller's thread."""

    def __init__(self, client: Any, outbox: Outbox, stream: str, registrar: Registrar) -> None:
        self.state = "connected"
        self.problem: Problem | None = None
        self.found: Found | None = None
        self.last_error: str | None = None
        self.adopted_events = 0
        self._client = client
        self._outbox = outbox
        self._stream = stream
        self._registrar = registrar
        self._ahead: set[int] = set()
        self._lock = RLock()

    def start(self) -> None:
        """Nothing has to be started."""

    def wake(self) -> None:
        """Send what there is."""
        with self._lock:
            while chunks := self._outbox.unsent_chunks():
                for chunk in chunks:
                    for found in scan(chunk.read()):
                        self._send(found.record)
                self._outbox.was_sent(chunks)
                self._outbox.confirm(self._outbox.sent)

    def _send(self, record: Any) -> None:
        if record.proposal:
            if record.sequence not in self._ahead:
                self._registrar(self._client, record)
        else:
            self._client.xadd(self._stream, entry_fields(record.event, record.body))

    def ask(self, question: Ask, *, timeout: float) -> Any:  # noqa: ARG002
        """Ask the Redis in this process."""
        with self._lock:
            return question(self._client)

    def decided(self, sequence: int) -> None:
        """That registration was sent."""
        self._ahead.add(sequence)

    def wait(self, done: Callable[[], bool], timeout: float) -> bool:  # noqa: ARG002
        """Whether it is done: there is nothing to wait for."""
        self.wake()
        return done()

    def stop(self, timeout: float) -> None:
        """Nothing has to be stopped."""

    def abandon(self) -> None:
        """Nothing was inherited."""
