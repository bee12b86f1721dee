"""The FastStream edge: one subscriber that reads the stream by plain XREAD from a given id."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.annotations import RedisBatchStreamMessage
from faststream.redis.parser import BinaryMessageFormatV1
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from dspy_ledger.projector.portion import Portion

__all__ = ["OnBatch", "subscribe"]

OnBatch = Callable[[Sequence[bytes], Sequence[Mapping[bytes, bytes]]], Awaitable[None]]
"""Called with a batch's entry ids and fields, one batch after the other; must not raise."""

_log = logging.getLogger(__name__)
_log.setLevel(logging.ERROR)  # FastStream tells of every message

_MOST_ENTRIES = 1000
_BLOCK_MS = 1000
_FINISH = 600.0  # seconds for the batch at hand when told to stop; the handler ends by itself before


class _Portions(StreamSub):
    """A stream that is asked for as many entries at a time as a portion says, each time anew."""

    __slots__ = ("_count",)

    def __init__(self, stream: str, last_id: str, portion: Portion) -> None:
        self._count: Callable[[], int] = lambda: (
            portion.count
        )  # a function, because FastStream copies what it is given
        super().__init__(stream, last_id=last_id, batch=True, polling_interval=_BLOCK_MS)

    @property
    def max_records(self) -> int:
        return self._count()

    @max_records.setter
    def max_records(self, _: object) -> None:
        """FastStream would set it once and for all."""


class _RawEntries(BinaryMessageFormatV1):
    """Leaves entries as they are: the envelope is ours, not FastStream's."""

    @classmethod
    def parse(cls, data: bytes) -> tuple[bytes, dict[str, Any]]:  # noqa: ARG003  the interface
        return b"0", {}


async def _undecoded(message: object) -> None:
    """No body is made: the handler takes the raw entries."""


def subscribe(redis_url: str, stream: str, last_id: str, on_batch: OnBatch) -> RedisBroker:
    """A broker, not yet started, that delivers the stream after ``last_id``.

    No consumer group: the store keeps the checkpoint, and a group would lose or strand entries. XREAD may
    be repeated without harm, so the client itself waits out a lost connection (50 ms to 1 s between
    attempts, for as long as it takes) and FastStream's fixed five seconds are never reached.
    """
    broker = RedisBroker(
        redis_url,
        logger=_log,
        graceful_timeout=_FINISH,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=-1),
        socket_connect_timeout=2.0,
    )

    portion = Portion(_MOST_ENTRIES)

    async def handle(message: RedisBatchStreamMessage) -> None:
        raw = message.raw_message
        portion.took(raw["data"])
        await on_batch(raw["message_ids"], raw["data"])

    # Spelled out because annotations are text in this module, and FastStream resolves them by globals.
    handle.__annotations__ = {"message": RedisBatchStreamMessage, "return": None}
    broker.subscriber(
        stream=_Portions(stream, last_id, portion),
        ack_policy=AckPolicy.MANUAL,
        message_format=_RawEntries,
        decoder=_undecoded,
    )(handle)
    return broker
