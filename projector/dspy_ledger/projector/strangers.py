"""Version files that a ledger did not make, or lacks: noticed on start, mended by replay."""

from __future__ import annotations

import logging
from pathlib import Path

from dspy_ledger.projector.catalog import Catalog
from dspy_ledger.projector.directory import Directory
from dspy_ledger.projector.names import folder_name, version_name
from dspy_ledger.projector.parking import registrations
from dspy_ledger.store import EventStore

__all__ = ["tell_of_strangers"]

_log = logging.getLogger(__name__)

_NAMED = 3


def tell_of_strangers(programs_dir: Path, directory: Directory, store: EventStore) -> None:
    """Log when the version files are not those of the ledger up to the directory's checkpoint.

    Versions are few, so that this may be asked at each start; ``verify`` looks at everything.
    """
    catalog = Catalog(registrations(store, directory.name, directory.position()))
    wanted = {
        f"{folder_name(program.program_id)}/{version_name(content.version)}"
        for program in catalog.programs.values()
        for content in program.contents.values()
    }
    found = {
        f"{path.parent.name}/{path.name}"
        for path in programs_dir.glob("*/*.json")
        if not path.name.startswith(".") and not path.parent.name.startswith(".")
    }
    for names, what in (
        (found - wanted, "are not of this ledger"),
        (wanted - found, "of this ledger are missing"),
    ):
        if names:
            listed = ", ".join(sorted(names)[:_NAMED]) + (", …" if len(names) > _NAMED else "")
            _log.warning(
                "%d version files in %s %s (%s); see `dspy-ledger verify` and `dspy-ledger replay directory`",
                len(names), programs_dir, what, listed,
            )  # fmt: skip
