"""Verify the registry: it must hold each content as the store tells it, nothing erased, and may hold more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from hashlib import sha256

import redis

from dspy_ledger.errors import InvalidInput
from dspy_ledger.projector.builds import ReadingStore
from dspy_ledger.projector.catalog import Catalog
from dspy_ledger.projector.lease import WriterLease
from dspy_ledger.projector.parking import registrations
from dspy_ledger.projector.verify_report import Part
from dspy_ledger.registry_format import decode_content, decode_known
from dspy_ledger.settings import Settings
from dspy_ledger.store import StoredEvent

__all__ = ["check_registry"]

_WAIT = 10.0  # seconds for a running projector to come on
_LOOK_EVERY = 0.05
_REDIS_TIMEOUT = 5.0
_MEND = "run `dspy-ledger replay registry`"


def check_registry(settings: Settings, store: ReadingStore, end: int, part: Part) -> None:
    """Compare with the store up to position ``end``; a Redis that can't be asked is noted only."""
    catalog = Catalog(registrations(store, "registry", end))
    wanted = {
        (program.program_id, digest): content.version
        for program in catalog.programs.values()
        for digest, content in program.contents.items()
    }
    lines = (
        f"{program_id}\n{digest}\n{version}\n" for (program_id, digest), version in sorted(wanted.items())
    )
    part.position, part.digest = end, sha256("".join(lines).encode()).hexdigest()
    client = redis.Redis.from_url(
        settings.redis_url, socket_timeout=_REDIS_TIMEOUT, socket_connect_timeout=_REDIS_TIMEOUT
    )
    try:
        deadline = time.monotonic() + _WAIT
        while True:
            differing = list(_registry_differences(client, settings, store, catalog))
            if not differing or time.monotonic() >= deadline or not WriterLease.is_held(settings.data_dir):
                break
            time.sleep(_LOOK_EVERY)
    except redis.ResponseError as error:
        part.differs(f"the registry is not as the projector wrote it: {error}")
        return
    except redis.RedisError as error:
        part.compared = False
        part.note(f"Redis can't be asked ({error})")
        return
    finally:
        client.close()
    for sentence in differing:
        part.differs(sentence)


def _registry_differences(
    client: redis.Redis, settings: Settings, store: ReadingStore, catalog: Catalog
) -> Iterator[str]:
    for program in catalog.programs.values():
        name = program.program_id
        there: dict[bytes, bytes] = client.hgetall(settings.keys.program(name))  # type: ignore[assignment]
        for digest, content in program.contents.items():
            what = f"{name} {content.version} ({digest})"
            value = there.get(digest.encode())
            held: bytes | None = client.hget(settings.keys.contents(name), digest)  # type: ignore[assignment]
            if value is None or held is None:
                yield f"{what} is missing; {_MEND}"
                continue
            try:
                version = decode_known(value).version
                _, state = decode_content(held)
            except InvalidInput as error:
                yield f"{what}: {error}; {_MEND}"
                continue
            if version != content.version:
                yield f"{what}: it is {version} there, and stays: a producer may have decided it"
            if state is not None and _is_erased(store.event_at(content.position)):
                yield f"{what}: its state was erased, and is there; {_MEND}"


def _is_erased(registration: StoredEvent | None) -> bool:
    return (
        registration is not None
        and registration.body is None
        and registration.envelope.get("bodydigest") is not None
    )
