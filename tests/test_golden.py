"""Every event that was ever released is read, and folded to what was agreed; see tests/golden/corpus.py."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from dspy_ledger import events
from dspy_ledger.projector.archive import Archive
from dspy_ledger.store import StoredEvent
from golden.corpus import HERE, folded

PINNED = {
    "0.1.0": "11429eb51b6d7808b57361d7be0710dc00ce1682c0be86f821d8894d43585b4c",
}
"""Release → SHA-256 of its ledger: what was released is not changed, only added to."""


def released() -> list[StoredEvent]:
    found = []
    for release in PINNED:
        with (HERE / release / "ledger.jsonl").open("rb") as file:
            found += [event for batch in Archive(file).batches() for event in batch.events]
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".gitignore"
    }


def test_no_ledger_of_the_corpus_is_changed_or_left_out() -> None:
    digests = {
        path.parent.name: sha256(path.read_bytes()).hexdigest() for path in HERE.glob("*/ledger.jsonl")
    }
    assert digests == PINNED


@pytest.mark.parametrize("release", PINNED)
def test_a_released_ledger_folds_to_the_agreed_files_and_rows(release: str, tmp_path: Path) -> None:
    directory, rows = folded(HERE / release / "ledger.jsonl", tmp_path)
    assert tree(directory) == tree(HERE / release / "directory")
    assert rows.decode().splitlines() == (HERE / release / "rows.json").read_text("utf-8").splitlines()


@pytest.mark.parametrize("kind", events.EVENT_TYPES)
def test_every_field_of_every_event_is_in_the_corpus_with_a_value_and_left_out(kind: str) -> None:
    told = [event.data for event in released() if event.type == events.EVENT_TYPES[kind]]
    assert _lacking(getattr(events, kind), told, kind) == []


def test_every_field_of_the_envelope_is_in_the_corpus_with_a_value_and_left_out() -> None:
    assert _lacking(events.Envelope, [event.envelope for event in released()], "envelope") == []


def test_the_corpus_holds_what_our_producer_writes_bodies_erased_ones_and_unknown_fields() -> None:
    found = released()
    assert {e.source.split("/")[1] for e in found} == {"producers", "projector"}
    assert (
        sum(e.source.startswith("/producers/golden/") and e.source != "/producers/golden/1" for e in found)
        >= 6
    )
    for kind in ("ProgramRegistered", "ExecutionCompleted", "EvaluationSaved"):
        with_digest = [e for e in found if kind in e.type and e.envelope.get("bodydigest")]
        assert any(e.body is not None for e in with_digest)
    assert any(e.body is None for e in found if e.envelope.get("bodydigest")), "an erased one"
    assert {e.type for e in found if "from_a_later_release" in e.data} == set(events.EVENT_TYPES.values())


def _lacking(model: type[msgspec.Struct], examples: list[dict], where: str) -> list[str]:
    """The fields of a model, and of the models in it, that no example has, or none leaves out."""
    lacking = []
    for field in msgspec.structs.fields(model):
        path = f"{where}.{field.name}"
        values = [example[field.name] for example in examples if example.get(field.name) is not None]
        if not values:
            lacking.append(f"{path} never has a value")
        if not field.required and all(field.name in example for example in examples):
            lacking.append(f"{path} is never left out")
        for inner in _structs(field.type):
            lacking += _lacking(inner, [value for value in values if isinstance(value, dict)], path)
    return lacking


def _structs(annotation: object) -> list[type[msgspec.Struct]]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return [annotation]
    return [inner for part in getattr(annotation, "__args__", ()) for inner in _structs(part)]
