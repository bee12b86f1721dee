"""What was recorded of a version: its row, the body of its registration, and how it relates to the others."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Request

from dspy_ledger.api.pages.layout import decoded
from dspy_ledger.api.parameters import VersionQuery
from dspy_ledger.api.queries.versions import page_of_versions, recorded_version
from dspy_ledger.api.reading import Question, sources_of
from dspy_ledger.errors import InvalidInput
from dspy_ledger.versions import Version

__all__ = ["Row", "all_versions", "form_of", "with_state"]

Row = dict[str, Any]
_PAGE: Final = 1000


def all_versions(question: Question, program_id: str) -> list[Row]:
    """A program's versions in order of registration.

    Each has its kind of ``change``, and in ``before`` the label of the version that it came from or followed:
    None for the first. An ``optimizer`` has its name, params, score and run_id, whatever was recorded of it.

    Raises:
        UnknownProgram: it is not registered.
    """
    found: list[Row] = []
    cursor = None
    while True:
        page = page_of_versions(question, program_id, VersionQuery(limit=_PAGE, cursor=cursor))
        found += decoded(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    known = {version["version"] for version in found}
    newest = None
    for version in found:
        version["optimizer"] = _optimizer(version["optimizer"])
        version["change"] = "first" if version is found[0] else _change(version["version"])
        is_variant = version["parent_id"] == program_id and version["parent_version"] in known
        version["before"] = version["parent_version"] if is_variant else newest
        if not is_variant:
            newest = version["version"]
    return found


def with_state(request: Request, question: Question, program_id: str, label: str) -> Row:
    """A version as it was recorded, its JSON decoded, and the ``state`` in its registration's body.

    ``state`` is None when there is none; ``is_erased`` tells whether there was one.

    Raises:
        UnknownProgram: it is not registered.
        UnknownVersion: it has no such version.
        StoreError: the registration can't be read.
    """
    version = recorded_version(question, program_id, label)
    event = sources_of(request).event_at(
        version["position"], program_id=program_id, content_hash=version["content_hash"]
    )
    is_erased = event.body is None and "bodydigest" in event.envelope
    return {**version, "state": event.body_json(), "is_erased": is_erased}


def form_of(version: Row) -> Row:
    """The canonical form in a version's state; empty where there is none that this release knows."""
    state = version["state"]
    form = state.get("form") if isinstance(state, dict) else None
    return form if isinstance(form, dict) else {}


def _optimizer(told: Any) -> Row | None:
    if not isinstance(told, dict):
        return None
    params = told.get("params")
    return {
        "name": str(told.get("name") or ""),
        "params": params if isinstance(params, dict) else {},
        "score": told.get("score"),
        "run_id": told.get("run_id"),
    }


def _change(label: str) -> str:
    """What a label says of its change: that of the lowest number that is not 0."""
    try:
        version = Version.parse(label)
    except InvalidInput:
        return "given"
    if version.is_prerelease:
        return "pre-release"
    return "patch" if version.patch else "minor" if version.minor else "major"
