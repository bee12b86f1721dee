"""The catalog: a pure fold of registrations into programs and the version label of each content.

Deterministic by position. The first label for a content stays, whatever later registrations of it
propose; of a known content only the description and the tags follow the last registration. A label that
other content holds already becomes what the version rule gives against its holder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dspy_ledger.errors import InvalidInput
from dspy_ledger.registry_format import sound_interface
from dspy_ledger.store import StoredEvent
from dspy_ledger.timestamps import canonical_time
from dspy_ledger.versions import Known, Version, decide_version, highest_release

__all__ = ["Catalog", "Content", "Program", "Registered"]


@dataclass(slots=True)
class Content:
    """One content of a program: its label in force, and where its first registration lies."""

    version: str
    position: int
    description: str | None
    tags: list[str]


@dataclass(slots=True)
class Program:
    """What is known of one program. ``position`` is that of its first registration."""

    program_id: str
    kind: str
    position: int
    created_at: str
    updated_at: str
    parent_id: str | None
    parent_version: str | None
    name: str = ""
    description: str | None = None
    tags: list[str] = field(default_factory=list)
    latest: str | None = None
    contents: dict[str, Content] = field(default_factory=dict)
    known: dict[str, Known] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Registered:
    """What one registration came to.

    ``new``: its content was not known before. ``reworded``: the content was known, and its description or
    tags are others now. ``program_changed``: the program's own facts changed.
    """

    program: Program
    content_hash: str
    content: Content
    new: bool
    reworded: bool
    program_changed: bool


class Catalog:
    """All programs and their versions, as the registrations up to a position tell."""

    def __init__(self, registrations: Iterable[StoredEvent] = ()) -> None:
        self.programs: dict[str, Program] = {}
        for event in registrations:
            self.register(event.data, event.position)

    def version_of(self, program_id: str | None, content_hash: str | None) -> str | None:
        """The label of a content, or None when no registration of it came yet."""
        program = self.programs.get(program_id) if program_id is not None else None
        content = program.contents.get(content_hash) if program and content_hash is not None else None
        return content.version if content else None

    def content_at(self, data: Mapping[str, Any], position: int) -> Content | None:
        """The content whose first registration is the one of these fields, at that position."""
        program = self.programs.get(data["program_id"])
        content = program.contents.get(data["content_hash"]) if program else None
        return content if content is not None and content.position == position else None

    def register(self, data: Mapping[str, Any], position: int) -> Registered:
        """Fold the next registration in; ``data`` are the fields of a valid ProgramRegistered event."""
        program = self.programs.get(data["program_id"])
        first = program is None
        if program is None:
            program = self.programs[data["program_id"]] = _begin(data, position)
        digest, description, tags = data["content_hash"], data.get("description"), list(data.get("tags", ()))
        content = program.contents.get(digest)
        new = content is None
        if content is None:
            interface = sound_interface(data.get("interface"))
            label = _label(program.known, digest, Known(data["version"], interface))
            content = program.contents[digest] = Content(label, position, description, tags)
            program.known[digest] = Known(label, interface)
            program.latest = highest_release(known.version for known in program.known.values())
        reworded = not new and (content.description, content.tags) != (description, tags)
        content.description, content.tags = description, tags
        own = (data["name"], description, tags)
        program_changed = first or new or own != (program.name, program.description, program.tags)
        program.name, program.description, program.tags = own
        if program_changed or reworded:
            program.updated_at = canonical_time(data["created_at"])
        return Registered(program, digest, content, new, reworded, program_changed or reworded)


def _begin(data: Mapping[str, Any], position: int) -> Program:
    # A parent within the program is the parent of one version; of another program, of all of this one.
    derived = data.get("parent_id") not in (None, data["program_id"])
    created_at = canonical_time(data["created_at"])
    return Program(
        program_id=data["program_id"],
        kind=data["kind"],
        position=position,
        created_at=created_at,
        updated_at=created_at,
        parent_id=data["parent_id"] if derived else None,
        parent_version=data.get("parent_version") if derived else None,
    )


def _label(known: Mapping[str, Known], digest: str, proposed: Known) -> str:
    """The proposed label when it is free, otherwise what the rule gives against its holder."""
    if all(other.version != proposed.version for other in known.values()):
        return proposed.version
    return decide_version(known, digest, proposed.interface, base_version=_readable(proposed.version)).version


def _readable(label: str) -> str | None:
    """A label that the rule can count from; one that is no SemVer leaves it to the highest release."""
    try:
        Version.parse(label)
    except InvalidInput:
        return None
    return label
