"""The writer's part of a replay: what was built elsewhere is brought up to the store and put in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dspy_ledger.errors import StoreError
from dspy_ledger.projector.builds import directory_build
from dspy_ledger.projector.claims import noted
from dspy_ledger.projector.directory import Directory
from dspy_ledger.projector.office import Office
from dspy_ledger.projector.projection import BATCH, advance, catch_up
from dspy_ledger.projector.reconcile import reconcile
from dspy_ledger.projector.requests import Action, Work
from dspy_ledger.requests import Progress

__all__ = ["replay_actions"]


def replay_actions(office: Office) -> dict[str, Action]:
    """``replay``: {projection, retry: positions that are not parked any more} and what that projection needs.

    sql: {view: the file's name}; directory: {prune}; registry: nothing.
    """
    works = {"sql": _adopt_view, "directory": _adopt_directory, "registry": _refill_registry}

    def replay(arguments: Mapping[str, Any]) -> Work:
        name = arguments["projection"]
        return _retrying(office, name, arguments["retry"], works[name](office, arguments))

    return {"replay": replay}


def _retrying(office: Office, projection: str, positions: list[int], work: Work) -> Work:
    """The work, with some events not parked any more; when it fails they are again."""
    parked = [event for event in office.store.parked(projection) if event.position in positions]
    office.store.unpark(projection, positions)
    try:
        return (yield from work)
    except Exception:
        for event in parked:
            office.store.park(projection, event.position, event.detail)
        raise


def _adopt_view(office: Office, arguments: Mapping[str, Any]) -> Work:
    path = office.settings.data_dir / Path(arguments["view"]).name
    for position in office.views.adopt(path):
        yield Progress(position, office.store.last_position(), "catching up")
    return {"position": office.views.position(), "view": path.name}


def _adopt_directory(office: Office, arguments: Mapping[str, Any]) -> Work:
    folder = directory_build(office.settings.data_dir)
    if not noted(office.settings.data_dir, "directory") or not folder.is_dir():
        raise StoreError("the build is gone, or the machine was started anew; replay the directory again")
    store, live = office.store, office.directory
    live.reread()
    built = Directory(folder / "programs", folder, store, durable=False)

    def level() -> bool:
        advance(store, live)
        catch_up(store, built, upto=min(live.position(), built.position() + BATCH))
        return built.position() == live.position()

    done = yield from reconcile(
        folder / "programs", office.settings.programs_dir, level, prune=bool(arguments["prune"])
    )
    live.replaced(built)
    return {"position": live.position(), **asdict(done)}


def _refill_registry(office: Office, _: Mapping[str, Any]) -> Work:
    store, registry = office.store, office.registry
    registry.reset()
    while advance(store, registry):
        yield Progress(registry.position(), store.last_position(), "filling the registry")
    return {"position": registry.position()}
