"""Redis's registry holds at least what the store knows, whatever happened to Redis."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import redis

from dspy_ledger.errors import LedgerUnavailable
from dspy_ledger.keys import Keys
from dspy_ledger.projector import Live, Patience, Registry, SqlViews, catch_up, project
from dspy_ledger.registry_format import decode_content, decode_known, encode_known
from dspy_ledger.store import SqliteEventStore
from dspy_ledger.versions import Known
from projector.ledgers import append, execution, kept, ledger, registration
from servers import Valkey

KEYS = Keys("test")
INTERFACE = {"inputs": [{"name": "q", "type": "str", "required": True}], "outputs": []}


@pytest.fixture
def store(tmp_path: Path) -> SqliteEventStore:
    return ledger(
        tmp_path,
        [
            execution("x", 1),
            registration("a", 2, interface=INTERFACE, body={"demos": [1]}),
            registration("b", 3, content="c1:1", version="1.0.0"),
            execution("y", 4),
        ],
    )


def known(client: redis.Redis) -> dict[bytes, Known]:
    return {digest: decode_known(value) for digest, value in client.hgetall(KEYS.program("p")).items()}


def test_every_content_is_there_with_its_label_its_interface_and_its_state(
    valkey: Valkey, store: SqliteEventStore
) -> None:
    with valkey.client() as client:
        registry = Registry(client, KEYS, store)
        assert catch_up(store, registry) == 4
        assert client.smembers(KEYS.programs) == {b"p"}
        assert known(client) == {b"c1:0": Known("1.0.0", INTERFACE), b"c1:1": Known("1.0.1", None)}
        data, state = decode_content(client.hget(KEYS.contents("p"), "c1:0"))
        assert (data["name"], state) == ("P", {"demos": [1]})
        data, state = decode_content(client.hget(KEYS.contents("p"), "c1:1"))
        assert (data["version"], state) == ("1.0.1", None)


def test_after_an_older_store_was_put_back_the_same_event_at_the_checkpoint_hides_no_other(
    valkey: Valkey, tmp_path: Path
) -> None:
    """Redis was away at the start, and producers sent the same events again in another order."""
    copy = tmp_path / "copy"
    ledger(tmp_path).close()
    copy.mkdir()
    shutil.copy(tmp_path / "ledger.db", copy / "ledger.db")
    lost, store = ledger(tmp_path), ledger(copy)
    append(lost, [execution("x", 1), execution("y", 2)])
    append(store, [registration("a", 1), execution("y", 2)])
    with valkey.client() as client:
        catch_up(lost, Registry(client, KEYS, lost))
        catch_up(store, Registry(client, KEYS, store))
        assert set(known(client)) == {b"c1:0"}


def test_what_a_producer_decided_stays(valkey: Valkey, store: SqliteEventStore) -> None:
    with valkey.client() as client:
        client.hset(KEYS.program("p"), "c1:1", encode_known("5.0.0", None))
        client.hset(KEYS.program("p"), "c1:2", encode_known("6.0.0", None))
        catch_up(store, Registry(client, KEYS, store))
        assert {digest: k.version for digest, k in known(client).items()} == {
            b"c1:0": "1.0.0",
            b"c1:1": "5.0.0",
            b"c1:2": "6.0.0",
        }


def test_description_and_tags_follow_the_last_registration(valkey: Valkey, store: SqliteEventStore) -> None:
    with valkey.client() as client:
        registry = Registry(client, KEYS, store)
        catch_up(store, registry)
        project(
            store, [registry], append(store, [registration("c", 5, description="new", tags=["t"], body={})])
        )
        data, state = decode_content(client.hget(KEYS.contents("p"), "c1:0"))
        assert (data["description"], data["tags"], state) == ("new", ["t"], {"demos": [1]})


@pytest.mark.parametrize("loss", ["everything", "checkpoint", "garbage", "another ledger's"])
def test_a_redis_that_lost_its_registry_gets_everything_again(
    valkey: Valkey, store: SqliteEventStore, loss: str
) -> None:
    with valkey.client() as client:
        registry = Registry(client, KEYS, store)
        catch_up(store, registry)
        before = known(client)
        client.delete(KEYS.program("p"), KEYS.contents("p"))
        if loss == "everything":
            client.flushall()
        elif loss == "checkpoint":
            client.delete(KEYS.registry_checkpoint)
        elif loss == "garbage":
            client.hset(KEYS.registry_checkpoint, "position", "many")
        else:
            client.hset(KEYS.registry_checkpoint, "ledger_id", "other")
        assert registry.position() == 0
        project(store, [registry], append(store, [execution("z", 5)]))
        assert known(client) == before
        assert registry.position() == 5


def test_another_ledgers_registry_is_not_written_to(valkey: Valkey, store: SqliteEventStore) -> None:
    """A command that runs without a projector does not ask whose Redis it is."""
    with valkey.client() as client:
        client.set(KEYS.owner, "another")
        with pytest.raises(LedgerUnavailable, match="the registry of another ledger"):
            catch_up(store, Registry(client, KEYS, store))
        assert client.keys("*") == [KEYS.owner.encode()]


def test_a_restart_goes_on_at_the_checkpoint_in_redis(valkey: Valkey, store: SqliteEventStore) -> None:
    with valkey.client() as client:
        catch_up(store, Registry(client, KEYS, store))
        again = Registry(client, KEYS, store)
        assert again.position() == 4
        project(store, [again], append(store, [registration("c", 5, content="c1:2", version="1.0.1")]))
        assert known(client)[b"c1:2"].version == "1.0.2", "the catalog was read up to the checkpoint"


def test_more_registrations_than_one_transaction_takes_all_arrive(valkey: Valkey, tmp_path: Path) -> None:
    many = [registration(f"e{n}", n, content=f"c1:{n}", version=f"1.0.{n}") for n in range(1, 251)]
    store = ledger(tmp_path, [*many, execution("x", 251)])
    with valkey.client() as client:
        assert catch_up(store, Registry(client, KEYS, store), batch=120) == 251
        assert client.hlen(KEYS.program("p")) == client.hlen(KEYS.contents("p")) == 250


def test_without_redis_the_registry_falls_behind_alone_and_catches_up_later(
    own_valkey: Valkey, store: SqliteEventStore, tmp_path: Path
) -> None:
    client = own_valkey.client()
    own_valkey.kill()
    registry, views = Registry(client, KEYS, store), kept(SqlViews(tmp_path, store))
    with pytest.raises(LedgerUnavailable):
        registry.position()
    now = [0.0]
    live = Live.over(
        store, KEYS, client, [registry, views], Patience(threading.Event()), clock=lambda: now[0]
    )
    live.tidy()
    append(store, [registration("c", 5, content="c1:2", version="2.0.0")])
    live.tidy()
    assert views.position() == 5
    own_valkey.start()
    now[0] += 60
    live.tidy()
    assert len(known(client)) == 3
    client.close()
