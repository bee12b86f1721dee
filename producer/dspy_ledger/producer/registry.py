"""What this process knows of programs and versions: a cache of the registry in Redis."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version as distribution_version
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

import orjson

from dspy_ledger.errors import LedgerError, LedgerUnavailable, UnknownProgram, UnknownVersion
from dspy_ledger.lineage import program_tree
from dspy_ledger.producer.canonical import Canonical
from dspy_ledger.producer.ledger import Ledger
from dspy_ledger.producer.proposals import Proposal, Settled
from dspy_ledger.producer.recorder import captured
from dspy_ledger.producer.redaction import Redaction, warn_of_secrets
from dspy_ledger.producer.serialise import encode, plain
from dspy_ledger.registry_format import decode_content, decode_known
from dspy_ledger.versions import Known, highest_release

if TYPE_CHECKING:
    import redis

__all__ = ["ProgramMetadata", "ProgramRegistry"]

_log = logging.getLogger("dspy_ledger.producer")

_DECIDE = 0.2  # seconds a registration may wait for Redis; 250 ms with everything around it
_LOOK = 0.2  # seconds a look at Redis may take when the cache lacks something
_FRESH = 2.0  # seconds for which a look is not repeated

# By the ledger's id(), which can't be another's as long as the registry keeps the ledger alive.
_shared: weakref.WeakValueDictionary[int, ProgramRegistry] = weakref.WeakValueDictionary()
_sharing = threading.Lock()


@dataclass(frozen=True)
class ProgramMetadata:
    """One version of one program, as this process knows it.

    ``provisional`` is true while Redis could not be asked: the version may still become another.
    """

    id: str
    name: str
    version: str
    content_hash: str
    event_id: str
    provisional: bool
    description: str | None = None
    tags: tuple[str, ...] = ()
    kind: str = "signature"
    parent_id: str | None = None
    parent_version: str | None = None
    optimizer: dict[str, Any] | None = None
    class_name: str | None = None
    module_path: str | None = None
    code_hash: str | None = None
    source_code: str | None = None
    signature: dict[str, Any] | None = None
    interface: dict[str, Any] | None = None
    created_at: str | None = None

    @classmethod
    def of(
        cls, data: dict[str, Any], *, event_id: str = "", provisional: bool = False, version: str = ""
    ) -> ProgramMetadata:
        """From a ProgramRegistered event's fields."""
        return cls(
            id=data["program_id"],
            version=version or data["version"],
            event_id=event_id,
            provisional=provisional,
            tags=tuple(data.get("tags") or ()),
            **{
                name: data.get(name)
                for name in (
                    *("name", "content_hash", "description", "kind", "parent_id", "parent_version"),
                    *("optimizer", "class_name", "module_path", "code_hash", "source_code", "signature"),
                    *("interface", "created_at"),
                )
            },  # type: ignore[arg-type]
        )


@dataclass
class _Program:
    known: dict[str, Known] = field(default_factory=dict)  # by content hash
    metadata: dict[str, ProgramMetadata] = field(default_factory=dict)


class ProgramRegistry:
    """Programs and their versions; every answer comes from memory, looked up in Redis at most every 2 s."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._programs: dict[str, _Program] = {}
        self._lock = threading.RLock()
        self._looked_at = -_FRESH
        self._here: dict[str, str] = {}  # contents that this process registered or loaded → program id
        ledger.on_settled(self._settled)

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        """The one that all who record to this ledger share in this process."""
        with _sharing:
            registry = _shared.get(id(ledger))
            if registry is None:
                registry = _shared[id(ledger)] = cls(ledger)
        return registry  # type: ignore[return-value]

    def offer(
        self,
        canonical: Canonical,
        program_id: str,
        name: str,
        *,
        description: str | None = None,
        tags: Iterable[str] = (),
        requested: str | None = None,
        base_version: str | None = None,
        parent: ProgramMetadata | None = None,
        optimizer: dict[str, Any] | None = None,
        timeout: float = _DECIDE,
    ) -> tuple[ProgramMetadata, str | None]:
        """Register a content; see :meth:`register`."""
        data = {
            **canonical.description(),
            "source_code": self._source(program_id, canonical),
            "program_id": program_id,
            "name": name,
            "description": description,
            "tags": list(tags),
            "parent_id": parent.id if parent else None,
            "parent_version": parent.version if parent else None,
            "optimizer": optimizer,
            "dspy_version": distribution_version("dspy"),
        }
        proposal = Proposal.make(
            plain(data),
            self._state(canonical),
            requested=requested,
            base_version=base_version,
            parent_content=parent.content_hash if parent else None,
        )
        return self.register(proposal, timeout=timeout)

    def _source(self, program_id: str, canonical: Canonical) -> str | None:
        """The source code as it is recorded. Hashes are of the original, so it may be redacted."""
        settings, source = self._ledger.settings, canonical.source_code
        if settings.redact:
            redaction = Redaction.of(settings.redact, settings.redact_fields, settings.redact_patterns)
            source = source and redaction.source(source)
            state = canonical.state if settings.capture_demos else None
            warn_of_secrets(program_id, state, source=source != canonical.source_code)
        return source

    def _state(self, canonical: Canonical) -> bytes | None:
        """What a registration's body holds. It is what the hash is about, so nothing is redacted or cut."""
        settings = self._ledger.settings
        if not settings.capture_demos:
            return None
        return encode(captured(settings, "demos", canonical.state))

    def register(self, proposal: Proposal, *, timeout: float = _DECIDE) -> tuple[ProgramMetadata, str | None]:
        """Record a registration and have its version decided, or decide it provisionally.

        Args:
            timeout: seconds to wait for Redis at most; with 0 the version is decided when it is sent.

        Returns:
            The version, and a warning that the version rule gave.
        """
        data = proposal.data
        with self._lock:
            local = proposal.decide(self._program(data["program_id"]).known)
        data["version"] = local.version
        settled = self._ledger.register(proposal, timeout=timeout)
        decision = local if settled is None else settled.decision
        with self._lock:
            current = self._program(data["program_id"]).metadata.get(data["content_hash"])
            undecided = settled is None and (current is None or current.provisional)
            kept = self._keep(
                ProgramMetadata.of(
                    data, event_id=proposal.event_id, provisional=undecided, version=decision.version
                )
            )
            self._here.setdefault(kept.content_hash, kept.id)
        return kept, decision.warning

    def holds(self, metadata: ProgramMetadata) -> None:
        """Note that the host registered or loaded that content, under a name that it chose."""
        with self._lock:
            self._here[metadata.content_hash] = metadata.id

    def held(self, content_hash: str) -> ProgramMetadata | None:
        """What the host registered or loaded that content as, last; else what it registered itself as."""
        with self._lock:
            program_id = self._here.get(content_hash)
            return None if program_id is None else self.of_content(program_id, content_hash)

    def _settled(self, settled: Settled) -> None:
        """A version was decided, now or long after it was provisional (called in the sender's thread)."""
        data = settled.proposal.data
        with self._lock:
            self._keep(
                ProgramMetadata.of(data, event_id=settled.proposal.event_id, version=settled.decision.version)
            )

    def _keep(self, metadata: ProgramMetadata) -> ProgramMetadata:
        """Of a content registered again, description and tags are the last's, all else the first's."""
        program = self._program(metadata.id)
        first = program.metadata.get(metadata.content_hash)
        if first is not None:
            metadata = replace(
                first,
                event_id=metadata.event_id,
                version=metadata.version,
                provisional=metadata.provisional,
                description=metadata.description,
                tags=metadata.tags,
                parent_version=metadata.parent_version if first.provisional else first.parent_version,
            )
        program.metadata[metadata.content_hash] = metadata
        program.known[metadata.content_hash] = Known(metadata.version, metadata.interface)  # type: ignore[arg-type]
        return metadata

    def _program(self, program_id: str) -> _Program:
        return self._programs.setdefault(program_id, _Program())

    # --- questions ---

    def of_content(self, program_id: str, content_hash: str) -> ProgramMetadata | None:
        """The version of that content, from memory only."""
        program = self._programs.get(program_id)  # without the lock: at every call, and a look takes no harm
        return program.metadata.get(content_hash) if program else None

    def known(self, program_id: str, version: str) -> ProgramMetadata | None:
        """One version, from memory only; ``latest`` is the highest release."""
        return self._find(program_id, version)

    def find(self, program_id: str, version: str = "latest", *, from_redis: bool = False) -> ProgramMetadata:
        """One version; ``latest`` is the highest release, never a pre-release.

        Args:
            from_redis: what memory lacks must be asked for, not guessed to be unknown.

        Raises:
            LedgerUnavailable: with ``from_redis``, when Redis can't be asked.
            UnknownProgram: the message lists the known ids.
            UnknownVersion: the message lists the known versions.
        """
        found = self._find(program_id, version)
        if found is None or version == "latest":
            looked = self.look(program_id)
            found = self._find(program_id, version)
        if found is None:
            if from_redis and not looked:
                raise LedgerUnavailable(
                    f"{program_id!r} {version} is not known here, and Redis can't be asked now"
                )
            hint = "" if looked else "; Redis can't be asked now, others may know it"
            versions = [m.version for m in self.versions(program_id)]
            if not versions:
                raise UnknownProgram(program_id, self.program_ids(), hint)
            raise UnknownVersion(program_id, version, versions, hint)
        return found

    def _find(self, program_id: str, version: str) -> ProgramMetadata | None:
        with self._lock:
            program = self._programs.get(program_id)
            if program is None or not program.metadata:
                return None
            by_version = {m.version: m for m in program.metadata.values()}
            if version == "latest":
                version = highest_release(by_version) or ""
            return by_version.get(version)

    def versions(self, program_id: str) -> list[ProgramMetadata]:
        """All versions of a program that are known, oldest first."""
        with self._lock:
            program = self._programs.get(program_id)
            found = list(program.metadata.values()) if program else []
        return sorted(found, key=lambda m: (m.created_at or "", m.version))

    def program_ids(self) -> list[str]:
        """The ids of all programs that are known."""
        with self._lock:
            return sorted(name for name, program in self._programs.items() if program.metadata)

    def latest(self) -> list[ProgramMetadata]:
        """The highest release of every program, by id; its newest version while it has no release."""
        found = []
        for program_id in self.program_ids():
            versions = self.versions(program_id)
            label = highest_release(m.version for m in versions)
            found.append(next((m for m in versions if m.version == label), versions[-1]))
        return found

    def tree(self, program_id: str) -> dict[str, Any]:
        """A program's versions and what derives from them, as the REST route gives it."""
        programs: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        for known in self.program_ids():
            versions = self.versions(known)
            programs.append(_program_row(versions, len(programs)))
            rows += [_version_row(metadata, len(rows) + n) for n, metadata in enumerate(versions)]
        return program_tree(program_id, programs, rows)

    def look(self, program_id: str | None = None) -> bool:
        """Learn what other processes registered, if Redis answers soon; otherwise the cache must do.

        Args:
            program_id: only this program, at once; None looks at all, at most every two seconds.

        Returns:
            Whether the cache is fresh.
        """
        if program_id is None:
            if monotonic() - self._looked_at < _FRESH:
                return True
            self._looked_at = monotonic()
        try:
            self._ledger.ask(lambda client: self._learn(client, program_id), timeout=_LOOK)
        except LedgerError as error:
            _log.debug("answering from the cache: %s", error)
            return False
        except Exception as error:  # noqa: BLE001  Redis answered with an error: the cache must do
            _log.warning("can't read the registry: %s", error)
            return False
        return True

    def _learn(self, client: redis.Redis, program_id: str | None) -> None:
        keys = self._ledger.keys
        if program_id is None:
            wanted: list[str] = [name.decode() for name in client.smembers(keys.programs)]  # type: ignore[union-attr]
        else:
            wanted = [program_id]
        for name in wanted:
            registered: dict[bytes, bytes] = client.hgetall(keys.program(name))  # type: ignore[assignment]
            known = {content.decode(): decode_known(value) for content, value in registered.items()}
            with self._lock:
                cached = self._program(name) if known else _Program()
                new = [content for content in known if content not in cached.metadata]
                for content, metadata in list(cached.metadata.items()):
                    if content in known and known[content].version != metadata.version:
                        # Another replica decided what was provisional here.
                        self._keep(replace(metadata, version=known[content].version, provisional=False))
            if not new:
                continue
            contents: list[bytes | None] = client.hmget(keys.contents(name), new)  # type: ignore[assignment]
            for content, value in zip(new, contents, strict=True):
                if value is not None:
                    data, _ = decode_content(value)
                    with self._lock:
                        self._keep(ProgramMetadata.of(data, version=known[content].version))

    def state(self, program_id: str, content_hash: str, *, timeout: float) -> Any:
        """The recorded state of a content, from Redis; None when it was recorded without one.

        Raises:
            LedgerUnavailable: Redis can't be asked.
            UnknownVersion: the registry does not hold that content.
        """
        key = self._ledger.keys.contents(program_id)
        value: bytes | None = self._ledger.ask(lambda client: client.hget(key, content_hash), timeout=timeout)
        if value is None:
            raise UnknownVersion(program_id, content_hash, ())
        return orjson.loads(value)["state"]


def _program_row(versions: list[ProgramMetadata], position: int) -> dict[str, Any]:
    first, last = versions[0], versions[-1]
    derived = first.parent_id not in (None, first.id)
    return {
        "program_id": first.id,
        "name": last.name,
        "parent_id": first.parent_id if derived else None,
        "parent_version": first.parent_version if derived else None,
        "position": position,
    }


def _version_row(metadata: ProgramMetadata, position: int) -> dict[str, Any]:
    return {
        "program_id": metadata.id,
        "version": metadata.version,
        "content_hash": metadata.content_hash,
        "parent_id": metadata.parent_id,
        "parent_version": metadata.parent_version,
        "kind": metadata.kind,
        "optimizer": (metadata.optimizer or {}).get("name"),
        "created_at": metadata.created_at,
        "position": position,
    }
