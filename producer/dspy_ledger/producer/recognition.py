"""Which program it is that runs: its content, told again cheaply, and its registration if nobody made one."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from dspy_ledger.identity import program_id as id_of
from dspy_ledger.producer.canonical import Canonical, canonicalize
from dspy_ledger.producer.execution import Identity
from dspy_ledger.producer.ledger import Ledger
from dspy_ledger.producer.likeness import likeness
from dspy_ledger.producer.registry import ProgramRegistry
from dspy_ledger.producer.scope import is_quiet
from dspy_ledger.producer.structure import only_signature, walk
from dspy_ledger.producer.typeform import of_dspy
from dspy_ledger.producer.watching import Watch

__all__ = ["Recogniser"]

_log = logging.getLogger("dspy_ledger.producer")

_MOST_REMEMBERED = 1000  # instances, and contents
_MOST_REGISTERED = 20  # versions of one program that register themselves in one process

# By the ledger's id(), which can't be another's as long as the recogniser keeps the ledger alive.
_shared: weakref.WeakValueDictionary[int, Recogniser] = weakref.WeakValueDictionary()
_sharing = threading.Lock()


@dataclass(slots=True)
class _Remembered:
    instance: weakref.ref[Any]
    watch: Watch | None  # none at the first call: many a program is made for one
    name: str | None
    identity: Identity


@dataclass(frozen=True, slots=True)
class _Content:
    hash: str
    model_pinned: bool
    name: str  # if nobody gave one

    @classmethod
    def of(cls, canonical: Canonical) -> _Content:
        return cls(canonical.content_hash, canonical.model_pinned, _name_of(canonical))


class Recogniser:
    """Tells which program an instance is; safe to use from many threads.

    A program that nobody registered in this process registers itself: without waiting, at most
    20 versions of one program, and not within an optimizer's compile or an evaluation.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.registry = ProgramRegistry.of(ledger)
        self._remembered: dict[int, _Remembered] = {}
        self._contents: dict[Any, _Content] = {}  # by likeness
        self._registered: Counter[str] = Counter()  # versions by program id
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        """The one that all who record to this ledger share in this process."""
        with _sharing:
            recogniser = _shared.get(id(ledger))
            if recogniser is None:
                recogniser = _shared[id(ledger)] = cls(ledger)
        return recogniser  # type: ignore[return-value]

    def identity_of(self, program: Any, name: str | None = None, tags: Iterable[str] = ()) -> Identity:
        """Which program a module is, now.

        Args:
            name: what it is called; None takes the name under which this process registered that content,
                else the class's, the signature's, or the names of its fields.
            tags: of its registration, if it registers itself.
        """
        remembered = self._remembered.get(id(program))
        if remembered is not None and (remembered.instance() is not program or remembered.name != name):
            remembered = None
        if remembered is not None and remembered.watch is not None and remembered.watch.unchanged(program):
            identity = self.versioned(remembered.identity)
            if name is not None or not self._has_another_name(identity):
                remembered.identity = identity
                return identity
        watch = None
        with suppress(Exception):  # the host's own attributes: then it is read at every call
            # First: what changes meanwhile is seen next.
            watch = None if remembered is None else Watch(program)
        identity, lasting = self._identify(program, name, tags)
        if lasting:
            self._remember(program, watch, name, identity)
        return self.versioned(identity)

    def versioned(self, identity: Identity) -> Identity:
        """The same with the version as it is known by now."""
        if identity.content_hash is None:
            return identity
        known = self.registry.of_content(identity.program_id, identity.content_hash)
        if known is None or (known.version, known.provisional) == (identity.version, identity.provisional):
            return identity
        return replace(identity, version=known.version, provisional=known.provisional)

    def _has_another_name(self, identity: Identity) -> bool:
        """Whether the host registered that content since, under a name that it chose."""
        held = None if identity.content_hash is None else self.registry.held(identity.content_hash)
        return held is not None and held.id != identity.program_id

    def _identify(self, program: Any, name: str | None, tags: Iterable[str]) -> tuple[Identity, bool]:
        """Which program it is, and whether that may be remembered."""
        try:
            content = self._content_of(program)
        except Exception as error:  # noqa: BLE001  the host's own class: recorded without its content
            called = name or type(program).__name__
            self._warn(called, "can't tell the content of program %r: %s", called, error)
            return Identity(id_of(called), called, None), True
        held = self.registry.held(content.hash) if name is None else None
        if held is not None:
            return Identity(held.id, held.name, content.hash, content.model_pinned), True
        called = name or content.name
        identity = Identity(id_of(called), called, content.hash, content.model_pinned)
        if is_quiet():
            return identity, False
        with self._lock:
            if self.registry.of_content(identity.program_id, content.hash) is None:
                self._register(program, identity, tags)
        return identity, True

    def _content_of(self, program: Any) -> _Content:
        key = likeness(program)
        content = None if key is None else self._contents.get(key)
        if content is None:
            content = _Content.of(canonicalize(program))
            if key is not None:
                with self._lock:
                    _make_room(self._contents)
                    self._contents[key] = content
        return content

    def _register(self, program: Any, identity: Identity, tags: Iterable[str]) -> None:
        if self._registered[identity.program_id] >= _MOST_REGISTERED:
            self._warn(
                identity.program_id,
                "program %r registered %d versions of itself in this process; further ones are recorded by"
                " their content hash only (a module built with changing instructions or demos?)",
                identity.program_id,
                _MOST_REGISTERED,
            )
            return
        self._registered[identity.program_id] += 1
        self.registry.offer(canonicalize(program), identity.program_id, identity.name, tags=tags, timeout=0)

    def _remember(self, program: Any, watch: Watch | None, name: str | None, identity: Identity) -> None:
        key = id(program)
        remembered = self._remembered

        def forget(gone: weakref.ref[Any]) -> None:
            if (entry := remembered.get(key)) is not None and entry.instance is gone:
                remembered.pop(key, None)

        with self._lock:
            _make_room(remembered)
        remembered[key] = _Remembered(weakref.ref(program, forget), watch, name, identity)

    def _warn(self, once: str, message: str, *args: Any) -> None:
        if once not in self._warned:
            self._warned.add(once)
            _log.warning(message, *args)


def _make_room(remembered: dict[Any, Any]) -> None:
    with suppress(RuntimeError):  # another thread forgets something right now: the next call makes room
        while len(remembered) >= _MOST_REMEMBERED:
            remembered.pop(next(iter(remembered)), None)


def _name_of(canonical: Canonical) -> str:
    """The host's class, else the signature's, else what goes in and comes out."""
    program = canonical.program
    if not of_dspy(type(program)):
        return canonical.class_name
    signature = only_signature(program, walk(program))
    if signature is None:
        return canonical.class_name
    if not of_dspy(signature):
        return str(signature.__name__)
    return f"{'_'.join(signature.input_fields)}_to_{'_'.join(signature.output_fields)}"
