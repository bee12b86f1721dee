"""Replay: a view is built anew beside the live one, and handed to whoever writes the ledger."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from dspy_ledger.errors import InvalidInput
from dspy_ledger.projector.asking import carried_out, wait_for_others
from dspy_ledger.projector.builds import (
    ReadingStore,
    Tell,
    build_directory,
    build_view,
    directory_build,
    disk_told,
)
from dspy_ledger.projector.claims import Claim
from dspy_ledger.settings import Settings

__all__ = ["PROJECTIONS", "replay"]

PROJECTIONS = ("sql", "directory", "registry")
"""What can be replayed, in the order in which all of them are."""


def replay(
    settings: Settings,
    projection: str,
    *,
    fresh: bool = False,
    prune: bool = False,
    retry: Sequence[int] = (),
    tell: Tell = lambda _: None,
) -> dict[str, Any]:
    """Build a projection anew in this process and have the writer put it in force; what was done.

    Args:
        settings: where everything lies.
        projection: one of ``PROJECTIONS``.
        fresh: begin anew, rather than go on with what a killed replay left.
        prune: delete files that the ledger did not make (directory only).
        retry: positions of parked events to try again.
        tell: called with how far it is; may raise to stop in between.

    Raises:
        InvalidInput: there is no such projection, or it can't prune.
        StoreError: there is no event store, or the disk is full.
        FoldError: an event breaks the projection; the live view stays.
        StartupError: another process builds it already.
        RequestFailed: the writer could not put it in force.
    """
    if projection not in PROJECTIONS:
        raise InvalidInput(f"there is no projection {projection!r}; write one of {', '.join(PROJECTIONS)}")
    if prune and projection != "directory":
        raise InvalidInput("--prune is for the directory only; write `dspy-ledger replay directory --prune`")
    began = time.monotonic()
    data_dir = settings.data_dir

    def hand_over(**what: object) -> dict[str, Any]:
        asked = {"projection": projection, "retry": list(retry), **what}
        return carried_out(settings, "replay", asked, f"replay {projection} (process {os.getpid()})", tell)

    with disk_told(data_dir), closing(ReadingStore(settings.store_path, retry)) as store:
        wait_for_others(settings, "replay", {"projection": projection}, tell)
        if projection == "registry":
            answer = hand_over()
        else:
            fresh = fresh or bool(retry)  # what was begun before left those events out
            with closing(Claim(data_dir, projection)) as claim:
                if projection == "sql":
                    answer = hand_over(view=build_view(data_dir, store, claim, fresh=fresh, tell=tell).name)
                    claim.write()
                else:
                    build_directory(data_dir, store, claim, fresh=fresh, tell=tell)
                    answer = hand_over(prune=prune)
                    claim.write()
                    shutil.rmtree(directory_build(data_dir))
    return {"projection": projection, "seconds": round(time.monotonic() - began, 3), **answer}
