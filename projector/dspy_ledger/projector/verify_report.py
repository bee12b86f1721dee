"""What a verify found, part by part."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Part", "Report"]

_NAMED = 20  # differences and notes of each part that are told


@dataclass
class Part:
    """One thing that was compared: up to which position, the digest of what it should hold, what differs.

    ``differences`` are the first ones, a sentence each; ``count`` is how many there are. ``notes`` say
    what is no difference but worth knowing, the first ones too. ``compared`` is false for what could not be
    looked at.
    """

    position: int = 0
    digest: str | None = None
    differences: list[str] = field(default_factory=list)
    count: int = 0
    notes: list[str] = field(default_factory=list)
    compared: bool = True

    def differs(self, what: str) -> None:
        """Note a difference."""
        self.count += 1
        if len(self.differences) < _NAMED:
            self.differences.append(what)

    def note(self, what: str) -> None:
        """Note what is no difference."""
        if len(self.notes) < _NAMED:
            self.notes.append(what)


@dataclass
class Report:
    """What a verify found."""

    ledger_id: str
    ledger: Part = field(default_factory=Part)
    sql: Part = field(default_factory=Part)
    directory: Part = field(default_factory=Part)
    registry: Part = field(default_factory=Part)

    @property
    def parts(self) -> dict[str, Part]:
        """By name."""
        names = ("ledger", "sql", "directory", "registry")
        return {name: getattr(self, name) for name in names}

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return not any(part.count for part in self.parts.values())
