"""The version rule: which SemVer label a content gets.

Pure functions over what is known of one program: its contents by hash, each with its label and
interface. A producer decides with them, and the fold settles two contents under one label with them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import total_ordering
from typing import Any, Final, Literal, Self

from dspy_ledger.errors import InvalidInput
from dspy_ledger.identity import Field, Interface, canonical_json

__all__ = [
    "FIRST_VERSION",
    "Change",
    "Decision",
    "Known",
    "Level",
    "Version",
    "compare_interfaces",
    "decide_version",
    "highest_release",
]

FIRST_VERSION: Final = "1.0.0"

Level = Literal["major", "minor", "patch"]
Change = Literal["first", "known", "given", "major", "minor", "patch"]

_LEVELS: Final[tuple[Level, ...]] = ("major", "minor", "patch")

_NUMBER: Final = r"0|[1-9][0-9]*"
_PRE: Final = rf"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
_SEMVER: Final = re.compile(
    rf"(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<prerelease>{_PRE}(?:\.{_PRE})*))?"
    r"(?:\+(?P<build>[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A version by Semantic Versioning 2.0.0; build metadata counts neither in order nor in equality."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()
    build: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a label strictly: no ``v`` in front, no missing part, no leading zero. Raises InvalidInput."""
        match = _SEMVER.fullmatch(text)
        if match is None:
            raise InvalidInput(
                f"version {text!r} is not SemVer 2.0.0; pass one such as '1.2.0' or '2.0.0-rc.1'"
            )
        try:
            core = (int(match["major"]), int(match["minor"]), int(match["patch"]))
        except ValueError:  # Python reads no number of more than 4,300 digits
            raise InvalidInput("the version has too long a number; pass one such as '1.2.0'") from None
        return cls(*core, _parts(match["prerelease"]), _parts(match["build"]))

    @property
    def is_prerelease(self) -> bool:
        """Whether it only announces the release of the same number."""
        return bool(self.prerelease)

    @property
    def core(self) -> tuple[int, int, int]:
        """Major, minor and patch."""
        return self.major, self.minor, self.patch

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        if self.prerelease:
            text += "-" + ".".join(self.prerelease)
        return text + "+" + ".".join(self.build) if self.build else text

    def __lt__(self, other: Version) -> bool:
        return self._precedence() < other._precedence()

    def _precedence(self) -> tuple[Any, ...]:
        # Numeric identifiers compare as numbers and come before alphanumeric ones; of two equal starts
        # the longer one is higher; a release is higher than all its pre-releases.
        identifiers = tuple((0, len(p), p) if p.isdigit() else (1, 0, p) for p in self.prerelease)
        return *self.core, not self.prerelease, identifiers


@dataclass(frozen=True, slots=True)
class Known:
    """One content of a program that has its label already; the interface is null where nobody noted it."""

    version: str
    interface: Interface | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The label of a content, why it is that one, and what the registrant should be told (or null)."""

    version: str
    already_known: bool
    change: Change
    warning: str | None = None


def highest_release(labels: Iterable[str]) -> str | None:
    """The highest label that is a release, or None; what is no SemVer is passed over."""
    releases = [(v, label) for v, label in _parsed(labels) if not v.is_prerelease]
    return max(releases)[1] if releases else None


def compare_interfaces(old: Interface | None, new: Interface | None) -> Level:
    """How far a change of interface reaches.

    ``major``: a field removed, renamed or retyped, or an input that callers must now pass. ``minor``: an
    output added, or an input they may pass. ``patch``: all else, descriptions and the order of fields or of
    allowed values included, and also when one of the two is unknown.
    """
    if old is None or new is None:
        return "patch"
    levels = {_compare_inputs(old["inputs"], new["inputs"]), _compare_outputs(old["outputs"], new["outputs"])}
    return "major" if "major" in levels else "minor" if "minor" in levels else "patch"


def decide_version(
    known: Mapping[str, Known],
    content_hash: str,
    interface: Interface | None,
    *,
    requested: str | None = None,
    base_version: str | None = None,
    parent_version: str | None = None,
) -> Decision:
    """The label of ``content_hash`` in a program that holds the contents ``known`` (by content hash).

    ``requested`` is the label that the caller gave, ``base_version`` the one to compare with (default: the
    highest release), ``parent_version`` says that the content is an optimized variant of that version.
    Never gives a label that other content holds, and gives the same answer for the same arguments. Raises
    InvalidInput when one of the three labels isn't SemVer 2.0.0, and nothing else.
    """
    for label in (requested, base_version, parent_version):
        if label is not None:
            Version.parse(label)
    held = known.get(content_hash)
    if held is not None:
        return Decision(held.version, True, "known", _known_warning(held.version, requested, parent_version))
    holders = {entry.version: digest for digest, entry in sorted(known.items())}
    if requested is not None and requested not in holders:
        return Decision(requested, False, "given")
    decision = _next(known, interface, base_version, parent_version)
    if requested is not None:
        taken = f"version {requested} is held by other content ({holders[requested]})"
        decision = replace(decision, warning=f"{taken}; this content became {decision.version}")
    return decision


def _next(
    known: Mapping[str, Known],
    interface: Interface | None,
    base_version: str | None,
    parent_version: str | None,
) -> Decision:
    labels = [entry.version for entry in known.values()]
    if parent_version is not None:
        return Decision(_next_free("minor", parent_version, labels), False, "minor")
    highest = highest_release(labels)
    base, warning = base_version or highest, None
    if base is not None and base not in labels:
        instead = f"compared with {highest}" if highest else "this is the first release"
        warning = f"version {base} is not known, so it can't be the base; {instead}"
        base = highest
    if base is None:
        return Decision(FIRST_VERSION, False, "first", warning)
    known_interface = next(
        known[digest].interface for digest in sorted(known) if known[digest].version == base
    )
    change = compare_interfaces(known_interface, interface)
    return Decision(_next_free(change, base, labels), False, change, warning)


def _next_free(level: Level, base_label: str, labels: Iterable[str]) -> str:
    """The lowest number of that line which is above the base and free.

    A major or minor number is free when no release at all begins with it: 1.1.0 below a 1.1.3 of other
    content would read as its predecessor. Pre-releases take nothing.
    """
    base = Version.parse(base_label)
    at = _LEVELS.index(level)
    line = base.core[:at]
    taken = {v.core[at] for v, _ in _parsed(labels) if not v.is_prerelease and v.core[:at] == line}
    numbers = (n for n in itertools.count(base.core[at]) if n not in taken)
    for number in numbers:
        major, minor, patch = (*line, number, 0, 0)[:3]
        candidate = Version(major, minor, patch)
        if candidate > base:
            break
    return str(candidate)


def _known_warning(version: str, requested: str | None, parent_version: str | None) -> str | None:
    if requested is not None and requested != version:
        return f"this content is version {version} already; {requested} was not used"
    if parent_version is not None and parent_version == version:
        return f"the optimizer changed nothing: the content is that of version {version}"
    return None


def _compare_inputs(old: list[Field], new: list[Field]) -> Level:
    before, after = {f["name"]: f for f in old}, {f["name"]: f for f in new}
    if _lost_or_retyped(before, after):
        return "major"
    demanded = {name for name, f in after.items() if f["required"]}
    if not demanded <= {name for name, f in before.items() if f["required"]}:
        return "major"
    offered = after.keys() - demanded
    return "minor" if offered - {name for name, f in before.items() if not f["required"]} else "patch"


def _compare_outputs(old: list[Field], new: list[Field]) -> Level:
    before, after = {f["name"]: f for f in old}, {f["name"]: f for f in new}
    if _lost_or_retyped(before, after):
        return "major"
    return "minor" if after.keys() - before.keys() else "patch"


def _lost_or_retyped(before: Mapping[str, Field], after: Mapping[str, Field]) -> bool:
    return any(
        name not in after or _shape(f["type"]) != _shape(after[name]["type"]) for name, f in before.items()
    )


_WORDING: Final = frozenset({"doc", "description"})


def _shape(type_form: Any) -> bytes:
    return canonical_json(_without_wording(type_form))


def _without_wording(form: Any) -> Any:
    """A type form without what only the reader sees: docs, descriptions, the order of allowed values."""
    if isinstance(form, list):
        return [_without_wording(item) for item in form]
    if not isinstance(form, dict):
        return form
    shape = {}
    for key, item in form.items():
        if key == "values" and isinstance(item, list):
            shape[key] = sorted(canonical_json(value).decode() for value in item)
        elif key not in _WORDING:
            # A default is data, it may have keys of any name.
            shape[key] = item if key == "default" else _without_wording(item)
    return shape


def _parts(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


def _parsed(labels: Iterable[str]) -> list[tuple[Version, str]]:
    result = []
    for label in labels:
        try:
            result.append((Version.parse(label), label))
        except InvalidInput:
            continue
    return result
