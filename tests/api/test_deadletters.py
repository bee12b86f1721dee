"""Dead letters are told newest first, without what they hold."""

from __future__ import annotations

from hashlib import sha256

from dspy_ledger import wire
from dspy_ledger.api import schemas
from dspy_ledger.store import DeadLetter


def bury(ledger, count: int) -> None:
    for n in range(count):
        raw = wire.pack({b"__data__": b"secret %d" % n})
        letter = DeadLetter(
            f"{n}-0", "not-json", "line 1", raw, sha256(raw).hexdigest(), "/producers/a", n + 1
        )
        ledger.store.append([], dead_letters=[letter])


def test_dead_letters_come_newest_first_in_pages_without_their_bytes(ledger, api) -> None:
    bury(ledger, 25)
    ledger.fold()
    told = list(api.walk("/v1/deadletters", limit=10))
    assert [item["stream_id"] for item in told] == [f"{n}-0" for n in reversed(range(25))]
    for item in told:
        schemas.DeadLetter.model_validate(item)
    assert "secret" not in api.get("/v1/deadletters").text


def test_no_dead_letters_are_an_empty_page(ledger, api) -> None:
    ledger.fold()
    assert api.get("/v1/deadletters").json() == {"items": [], "next_cursor": None}
