"""An export holds everything that can't be derived, to the byte, and damage to it is noticed in time."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_ledger.errors import InvalidInput, StoreError
from dspy_ledger.projector import Directory, catch_up, decode_entries
from dspy_ledger.projector.archive import Archive, Batch, write_archive
from dspy_ledger.store import SqliteEventStore, StreamCheckpoint
from dspy_ledger.wire import body_digest
from projector.ledgers import (
    Fields,
    append,
    evaluation,
    execution,
    histories,
    kept,
    ledger,
    registration,
    tree,
)


def export(store: SqliteEventStore, upto: int | None = None) -> bytes:
    out = io.BytesIO()
    write_archive(
        store, out.write, upto=store.last_position() if upto is None else upto, progress=lambda _: None
    )
    return out.getvalue()


def bring_in(store: SqliteEventStore, content: bytes) -> int:
    return sum(store.restore(b.events, b.dead_letters) for b in Archive(io.BytesIO(content)).batches())


def imported(folder: Path, content: bytes) -> SqliteEventStore:
    """A new ledger, with the id and all else from an export."""
    store = kept(
        SqliteEventStore.create(folder / "ledger.db", ledger_id=Archive(io.BytesIO(content)).ledger_id)
    )
    bring_in(store, content)
    return store


def deliver(store: SqliteEventStore, entries: Sequence[Fields]) -> None:
    """As the stream does, the spoilt ones included."""
    ids = [b"%d-1" % (n + 1) for n in range(len(entries))]
    decoded = decode_entries(ids, entries)
    store.append(decoded.entries, dead_letters=decoded.dead_letters, checkpoint=StreamCheckpoint("s", "9-9"))


def rewritten(fields: Fields, **texts: tuple[bytes, bytes]) -> Fields:
    """The same entry in other bytes: spaces, numbers and escapes as another language may write them."""
    changed = dict(fields)
    for name, (old, new) in texts.items():
        field = {"data": b"__data__", "body": b"body"}[name]
        assert old in changed[field]
        changed[field] = changed[field].replace(old, new)
    if "body" in texts:
        digest = body_digest(fields[b"body"]).encode()
        changed[b"__data__"] = changed[b"__data__"].replace(digest, body_digest(changed[b"body"]).encode())
    return changed


FOREIGN = rewritten(
    execution("b", 2, body={"inputs": {"q": "é"}, "outputs": {}}, unknown=[1]),
    data=(b'"latency_ms":1.5', b' "latency_ms" : 1.50e0'),
    body=("é".encode(), b"\\u00e9"),
)
SPOILT = {b"__data__": b"\xff{no json", b"other": b"\x00"}


def state(store: SqliteEventStore) -> tuple[object, ...]:
    """Everything that an export is to bring back."""
    letters = [(d.stream_id, d.reason, d.detail, d.raw, d.recorded_at) for d in store.dead_letters()]
    settled = [(a.source, a.mark, a.ranges, a.stored) for a in store.producers()]
    return store.ledger_id, list(store.read_all()), letters, settled


@settings(deadline=None, max_examples=25)
@given(histories(), st.integers(1, 7))
def test_whatever_was_recorded_comes_back_to_the_byte(history: list[Fields], size: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = ledger(folder / "one")
        for at in range(0, len(history), size):
            append(store, history[at : at + size])
        again = imported(folder / "two", export(store))
        assert state(again) == state(store)
        assert export(again) == export(store)
        assert list(again.check()) == []
        store.close()
        again.close()


def test_bytes_that_another_language_wrote_unknown_fields_and_dead_letters_come_back_too(
    tmp_path: Path,
) -> None:
    store = ledger(tmp_path / "one")
    entries = [registration("a", 1, body=None), FOREIGN, SPOILT, execution("c", 4, body=[]), {b"x": b"y"}]
    deliver(store, entries)
    content = export(store)
    again = imported(tmp_path / "two", content)
    assert state(again) == state(store)
    assert again.event("b").payload == FOREIGN[b"__data__"]
    assert again.event("b").body == FOREIGN[b"body"]
    assert again.event("b").data["unknown"] == [1]
    assert len(again.dead_letters()) == 2


def test_a_dead_letter_that_was_dropped_stays_dropped_and_its_number_settled(tmp_path: Path) -> None:
    spoilt = {**execution("b", 2), b"body": b"[]"}
    store = ledger(tmp_path / "one", [execution("a", 1)])
    deliver(store, [spoilt, SPOILT])
    whole = export(store)
    [unreadable, dropped] = store.dead_letters()
    store.drop_dead_letters([dropped.id])
    again = imported(tmp_path / "two", export(store))
    assert state(again) == state(store)
    assert [account.missing for account in again.producers()] == [[]]
    assert [letter.raw for letter in again.dead_letters()] == [unreadable.raw]
    assert list(again.check()) == []
    before = imported(tmp_path / "three", whole)
    assert len(before.dead_letters()) == 2
    bring_in(before, export(store))
    assert state(before) == state(store)
    bring_in(store, whole)
    assert state(before) == state(store), "an older export brings nothing back"


def test_a_line_can_be_read_by_a_person_and_by_any_language(tmp_path: Path) -> None:
    store = ledger(tmp_path, [execution("a", 1, body={"inputs": {"q": 1}}), FOREIGN])
    header, first, second, end = map(orjson.loads, export(store).splitlines())
    assert header == {
        "format": "dspy-ledger export",
        "version": 1,
        "ledger_id": store.ledger_id,
        "upto": 2,
    }
    assert list(first) == ["position", "recorded_at", "stream_id", "event", "body"]
    assert first["event"]["data"]["execution_id"] == "a"
    assert first["body"] == {"inputs": {"q": 1}}
    assert list(second)[3:] == ["event_text", "body_text"], "kept as text: its bytes are not the usual ones"
    assert orjson.loads(second["event_text"])["id"] == "b"
    assert end["end"] == {"events": 2, "dead_letters": 0}


def test_an_erased_body_stays_away_and_an_empty_one_stays_one(tmp_path: Path) -> None:
    null = {"status": "ok", "execution_id": "b"}
    store = ledger(tmp_path / "one", [execution("a", 1, body={"q": 1}), execution("b", 2, **null)])
    fields = execution("c", 3, body=[])
    fields[b"__data__"] = fields[b"__data__"].replace(
        body_digest(fields[b"body"]).encode(), body_digest(b"null").encode()
    )
    append(store, [{**fields, b"body": b"null"}])
    store.erase([1], "asked")
    again = imported(tmp_path / "two", export(store))
    assert [event.body for event in again.read_all()] == [None, None, b"null", None]
    assert state(again) == state(store)


def test_an_export_up_to_a_position_is_a_ledger_of_its_own(tmp_path: Path) -> None:
    store = ledger(tmp_path / "one", [execution(f"e{n}", n) for n in range(1, 6)])
    deliver(store, [SPOILT])
    again = imported(tmp_path / "two", export(store, upto=3))
    assert again.last_position() == 3
    assert again.dead_letter_count() == 0
    assert bring_in(again, export(store)) == 2
    assert state(again) == state(store)


def test_the_same_ledger_gives_the_same_export_and_importing_it_again_changes_nothing(tmp_path: Path) -> None:
    store = ledger(tmp_path, [execution(f"e{n}", n) for n in range(1, 6)])
    deliver(store, [SPOILT])
    content, before = export(store), state(store)
    assert bring_in(store, content) == 0
    assert state(store) == before
    assert export(store) == content


def test_an_older_export_does_not_bring_back_what_was_erased_since(tmp_path: Path) -> None:
    store = ledger(tmp_path, [execution("a", 1, body={"q": "gone"})])
    content = export(store)
    store.erase([1], "asked")
    assert bring_in(store, content) == 0
    assert store.event("a").body is None


def test_a_newer_export_erases_what_was_erased_where_it_came_from(tmp_path: Path) -> None:
    store = ledger(tmp_path / "one", [execution("a", 1, body={"q": "gone"}), execution("b", 2, body=[])])
    again = imported(tmp_path / "two", export(store))
    assert again.event("a").body is not None
    store.erase([1], "asked")
    assert bring_in(again, export(store)) == 1
    assert again.event("a").body is None
    assert state(again) == state(store)


def test_another_history_of_the_ledger_is_refused(tmp_path: Path) -> None:
    store = ledger(tmp_path / "one", [execution("a", 1), execution("b", 2)])
    other = imported(tmp_path / "two", export(store, upto=1))
    append(other, [execution("other", 3)])
    with pytest.raises(StoreError, match="position 2 holds another event"):
        bring_in(other, export(store))
    assert other.last_position() == 2


@pytest.fixture(scope="module")
def long_export(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Three batches of a thousand lines."""
    store = SqliteEventStore(tmp_path_factory.mktemp("long") / "ledger.db")
    append(store, [execution(f"e{n}", n, body={"n": n}) for n in range(1, 2501)])
    content = export(store)
    store.close()
    return content


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_flipped_bit_is_noticed_before_its_batch_is_handed_on(
    long_export: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(long_export) - 1))
    spoilt = bytearray(long_export)
    spoilt[at] ^= 1 << data.draw(st.integers(0, 7))
    before = 1 + long_export[:at].count(b"\n") // 1001
    handed_on: list[Batch] = []
    with pytest.raises(InvalidInput, match=r"^(line \d+ is damaged: |line 1 is no header|this export has)"):
        handed_on.extend(Archive(io.BytesIO(bytes(spoilt))).batches())
    assert len(handed_on) < before
    assert [e.event_id for b in handed_on for e in b.events] == [
        f"e{n}" for n in range(1, sum(len(b.events) for b in handed_on) + 1)
    ]


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_file_that_was_cut_is_noticed(long_export: bytes, data: st.DataObject) -> None:
    cut = long_export[: data.draw(st.integers(0, len(long_export) - 1))]
    with pytest.raises(InvalidInput, match="line"):
        list(Archive(io.BytesIO(cut)).batches())


def lines_of(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


SPOIL = {
    "a line is gone": (lambda lines: lines[:5] + lines[6:], "line 6 is damaged: position 6 stands where 5"),
    "two are swapped": (
        lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]],
        "line 6 is damaged: position 6 stands where 5",
    ),
    "no JSON": (lambda lines: [*lines[:5], b"nonsense\n", *lines[6:]], "line 6 is damaged: it is no JSON"),
    "another line": (lambda lines: [*lines[:5], b"{}\n", *lines[5:]], "line 6 is damaged: it is no line of"),
    "no object": (lambda lines: [*lines[:5], b"[]\n", *lines[5:]], "line 6 is damaged: it is no JSON object"),
    "changed": (
        lambda lines: [*lines[:5], lines[5].replace(b'"n":5', b'"n":6'), *lines[6:]],
        "line 6 is damaged: its event can't be read .body-digest",
    ),
    "re-dated": (
        lambda lines: [*lines[:5], lines[5].replace(b'"0-4"', b'"0-5"'), *lines[6:]],
        "line 1001 is damaged: a line since the digest before it",
    ),
    "more": (lambda lines: [*lines, b"{}\n"], r"line 2505 is damaged: the file goes on"),
    "unended": (lambda lines: lines[:-1], "line 2504 is damaged: the file ends before its last line"),
    "empty": (lambda lines: [], "line 1 is damaged: the file ends"),
    "no header": (lambda lines: lines[1:], "line 1 is no header of an export"),
    "a newer format": (
        lambda lines: [lines[0].replace(b'"version":1', b'"version":2'), *lines[1:]],
        "format version 2, this release reads 1; upgrade",
    ),
    "a header without a ledger": (
        lambda lines: [lines[0].replace(b"ledger_id", b"other"), *lines[1:]],
        "line 1 is damaged: the header lacks",
    ),
}


@pytest.mark.parametrize("how", SPOIL)
def test_damage_is_told_with_its_line_and_what_to_do(long_export: bytes, how: str) -> None:
    spoil, told = SPOIL[how]
    with pytest.raises(InvalidInput, match=told):
        list(Archive(io.BytesIO(b"".join(spoil(lines_of(long_export))))).batches())


def test_what_stands_before_the_damage_can_be_kept_and_gone_on_from(
    tmp_path: Path, long_export: bytes
) -> None:
    store = kept(
        SqliteEventStore.create(tmp_path / "l.db", ledger_id=Archive(io.BytesIO(long_export)).ledger_id)
    )
    with pytest.raises(InvalidInput):
        bring_in(store, long_export[: len(long_export) // 2])
    assert store.last_position() == 999, "whole batches only"
    assert bring_in(store, long_export) == 1501
    assert export(store) == long_export


def test_the_views_of_an_imported_ledger_are_those_of_the_first(tmp_path: Path) -> None:
    entries = [
        registration("a", 1, body={"d": 1}),
        execution("b", 2, body={"inputs": {}}),
        evaluation("c", 3),
    ]
    store = ledger(tmp_path / "one", entries)
    again = imported(tmp_path / "two", export(store))
    for folder, one in (("one", store), ("two", again)):
        catch_up(one, Directory(tmp_path / folder / "programs", tmp_path / folder, one))
    assert tree(tmp_path / "one" / "programs") == tree(tmp_path / "two" / "programs")
