"""Dead letters tried again or given up, by the ledger's writer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dspy_ledger.errors import InvalidEvent
from dspy_ledger.projector.office import Office
from dspy_ledger.projector.requests import Action, Work
from dspy_ledger.requests import Progress
from dspy_ledger.store import MOST_READ, DeadLetter, EventStore
from dspy_ledger.wire import Entry, decode, unpack

__all__ = ["deadletter_actions"]

_BATCH = 100
_CONFLICT = "conflict"  # the store holds its event id with other content: to read it again changes nothing


def deadletter_actions(office: Office) -> dict[str, Action]:
    """``retry`` and ``drop``: {ids: list of ids, or null for all}."""

    def retry(arguments: Mapping[str, Any]) -> Work:
        done, stored, duplicates, left = 0, 0, 0, 0
        total = _total(office.store, arguments["ids"])
        for letters in _chosen(office.store, arguments["ids"]):
            valid = [(letter, entry) for letter in letters if (entry := _entry(letter)) is not None]
            appended = office.store.append(
                [(letter.stream_id, entry) for letter, entry in valid],
                resolves=[letter.id for letter, _ in valid if letter.id is not None],
            )
            stored += len(appended.events)
            duplicates += appended.duplicates
            done += len(letters)
            left += len(letters) - len(valid) + appended.dead_letters
            yield Progress(done, total, "reading dead letters again")
        return {"stored": stored, "duplicates": duplicates, "left": left}

    def drop(arguments: Mapping[str, Any]) -> Work:
        done, dropped = 0, 0
        total = _total(office.store, arguments["ids"])
        for ids in _ids(office.store, arguments["ids"]):
            dropped += office.store.drop_dead_letters(ids)
            done += len(ids)
            yield Progress(done, total, "dropping dead letters")
        return {"dropped": dropped}

    return {"retry": retry, "drop": drop}


def _total(store: EventStore, ids: Sequence[int] | None) -> int:
    return store.dead_letter_count() if ids is None else len(ids)


def _ids(store: EventStore, ids: Sequence[int] | None) -> Iterator[Sequence[int]]:
    """Those ids, or those of all letters, some at a time."""
    if ids is not None:
        for at in range(0, len(ids), _BATCH):
            yield ids[at : at + _BATCH]
        return
    before: int | None = None
    while letters := store.dead_letters(limit=_BATCH, before=before, raw=False):
        before = letters[-1].id
        yield [letter.id for letter in letters if letter.id is not None]


def _chosen(store: EventStore, ids: Sequence[int] | None) -> Iterator[list[DeadLetter]]:
    """The letters of those ids that there are, or all, as many at a time as the memory is to hold."""
    for chunk in _ids(store, ids):
        letters: list[DeadLetter] = []
        for letter in filter(None, map(store.dead_letter, chunk)):
            letters.append(letter)
            if sum(len(one.raw) for one in letters) >= MOST_READ:
                yield letters
                letters = []
        yield letters


def _entry(letter: DeadLetter) -> Entry | None:
    """The event that it is to this release; None when it is none still."""
    if letter.reason == _CONFLICT:
        return None
    try:
        return decode(unpack(letter.raw))
    except InvalidEvent:
        return None
