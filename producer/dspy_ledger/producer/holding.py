"""The contents that one process can run: what it registered or loaded, under which versions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from dspy_ledger.errors import VersionNotRunnable
from dspy_ledger.producer.canonical import Canonical, canonicalize, fingerprint
from dspy_ledger.producer.models import ModelManager
from dspy_ledger.producer.registry import ProgramMetadata, ProgramRegistry
from dspy_ledger.producer.state import load_checked
from dspy_ledger.producer.watching import Watch
from dspy_ledger.versions import Version

__all__ = ["HeldProgram", "HeldPrograms"]

_log = logging.getLogger("dspy_ledger.producer")

_MOST_REMEMBERED = 1000  # programs whose content is remembered between registrations
_LOAD = 5.0  # seconds that loading a program may wait for Redis: it is asked for, not in passing


@dataclass(frozen=True, slots=True)
class HeldProgram:
    """A content that this process can run."""

    program: Any
    canonical: Canonical
    process_output: Callable[[Any], Any] | None
    watch: Watch  # since ``canonical`` was made

    @classmethod
    def of(cls, canonical: Canonical, process_output: Callable[[Any], Any] | None) -> HeldProgram:
        """A content as it is now."""
        return cls(canonical.program, canonical, process_output, Watch(canonical.program))


class HeldPrograms:
    """What this process can run, by program id and content hash; safe to use from many threads."""

    def __init__(self, registry: ProgramRegistry, model_manager: ModelManager) -> None:
        self._registry = registry
        self._models = model_manager
        self._held: dict[tuple[str, str], HeldProgram] = {}
        self._latest: dict[str, str] = {}  # program id → content of the release registered or loaded last
        self._canonicals: dict[int, tuple[Any, Any, Canonical]] = {}  # of what was passed in, by its id()
        self._warned: set[str] = set()
        self._lock = Lock()

    def canonical(self, program_class: Any) -> Canonical:
        """``canonicalize``, remembered as long as nothing in the program changed."""
        kept = self._canonicals.get(id(program_class))
        if kept is not None and kept[0] is program_class and kept[1] == _token(program_class):
            return kept[2]
        canonical = canonicalize(program_class)
        with self._lock:
            while len(self._canonicals) >= _MOST_REMEMBERED:
                del self._canonicals[next(iter(self._canonicals))]
            self._canonicals[id(program_class)] = (program_class, _token(program_class), canonical)
        return canonical

    def hold(
        self,
        program_id: str,
        canonical: Canonical,
        process_output: Callable[[Any], Any] | None,
        metadata: ProgramMetadata,
    ) -> None:
        """Keep a content that was registered or loaded; if it is a release, ``latest`` means it now."""
        self._registry.holds(metadata)
        with self._lock:
            self._held[program_id, canonical.content_hash] = HeldProgram.of(canonical, process_output)
            if not Version.parse(metadata.version).is_prerelease:
                self._latest[program_id] = canonical.content_hash

    def get(self, program_id: str, content_hash: str) -> HeldProgram | None:
        """What runs that content here, if anything does."""
        return self._held.get((program_id, content_hash))

    def registration_of(self, program_class: Any) -> ProgramMetadata | None:
        """This process's registration of that content, under whatever name; None when there is none.

        Raises:
            InvalidProgram: it is no program.
        """
        content = self.canonical(program_class).content_hash
        with self._lock:
            program_id = next((held for held, hash_ in self._held if hash_ == content), None)
        return None if program_id is None else self._registry.of_content(program_id, content)

    def resolve(self, program_id: str, version: str) -> ProgramMetadata:
        """A version, ``latest`` being the release this process registered or loaded last.

        Raises:
            UnknownProgram, UnknownVersion: the message lists what is known.
        """
        content = self._latest.get(program_id) if version == "latest" else None
        if content is not None and (known := self._registry.of_content(program_id, content)) is not None:
            return known
        return self._registry.find(program_id, version)

    def at_hand(self, program_id: str, version: str) -> tuple[ProgramMetadata, HeldProgram] | None:
        """A version and the code for it, if both are in memory."""
        content = self._latest.get(program_id) if version == "latest" else None
        if content is not None:
            metadata = self._registry.of_content(program_id, content)
        elif version != "latest":
            metadata = self._registry.known(program_id, version)
        else:
            return None  # the registry may know a higher release
        held = self._held.get((program_id, metadata.content_hash)) if metadata else None
        return None if metadata is None or held is None else (self._as_it_is(metadata, held), held)

    def runnable(self, program_id: str, version: str) -> tuple[ProgramMetadata, HeldProgram]:
        """A version and the code this process runs for it; asks Redis where memory lacks something.

        Raises:
            UnknownProgram, UnknownVersion: the message lists what is known.
            VersionNotRunnable: this process has no code for it.
            LedgerUnavailable: it would have to be loaded, and Redis can't be asked.
        """
        metadata = self.resolve(program_id, version)
        held = self._held.get((program_id, metadata.content_hash)) or self._load_into_held(metadata)
        return self._as_it_is(metadata, held), held

    def _as_it_is(self, metadata: ProgramMetadata, held: HeldProgram) -> ProgramMetadata:
        """The version, or none when the host changed the instance since: what runs is what is recorded."""
        if held.watch.unchanged(held.program):
            return metadata
        content = self.canonical(held.program).content_hash
        if content == metadata.content_hash:
            return metadata
        if content not in self._warned:
            self._warned.add(content)
            _log.warning(
                "program %r was changed after it was registered; register it again to give it a version",
                metadata.id,
            )
        known = self._registry.of_content(metadata.id, content)
        return known or replace(metadata, content_hash=content, version="", provisional=True)

    def _load_into_held(self, metadata: ProgramMetadata) -> HeldProgram:
        """Code for a version that this process did not register: another version's, if it fits."""
        ours = [held for (program_id, _), held in list(self._held.items()) if program_id == metadata.id]
        if not ours:
            raise VersionNotRunnable(
                f"this process holds no code of {metadata.id!r}; register the program here, or pass its"
                f" class to load_program({metadata.id!r}, {metadata.version!r}, into=…)"
            )
        state = self._state(metadata)
        reasons = []
        for held in reversed(ours):
            try:
                program = self._load(state, metadata, held.program)
            except VersionNotRunnable as error:
                reasons.append(str(error))
            else:
                canonical = canonicalize(program)
                loaded = HeldProgram.of(canonical, canonical.process_output or held.process_output)
                with self._lock:
                    self._held[metadata.id, metadata.content_hash] = loaded
                return loaded
        raise VersionNotRunnable(reasons[0])

    def load(self, metadata: ProgramMetadata, into: Any) -> Any:
        """The recorded state of a version in the host's code.

        Raises:
            VersionNotRunnable: the code differs, or there is no state; the message says what.
            LedgerUnavailable: Redis can't be asked.
        """
        return self._load(self._state(metadata), metadata, into)

    def _state(self, metadata: ProgramMetadata) -> Any:
        state = self._registry.state(metadata.id, metadata.content_hash, timeout=_LOAD)
        if state is None:
            raise VersionNotRunnable(
                f"{metadata.id} {metadata.version} was recorded without its state (CAPTURE_DEMOS was off)"
            )
        return state

    def _load(self, state: Any, metadata: ProgramMetadata, into: Any) -> Any:
        return load_checked(state, metadata.content_hash, into, lms=self._models.by_model_name())


def _token(program_class: Any) -> Any:
    """What changes when the content of a program may have changed: compared, much cheaper than hashing."""
    if isinstance(program_class, type):
        return repr(program_class) if hasattr(program_class, "instructions") else None
    return program_class if isinstance(program_class, str) else fingerprint(program_class)
