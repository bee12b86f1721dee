"""Events as bytes: the fields of one stream entry, encoded and decoded.

An entry has ``__data__`` (one CloudEvent as UTF-8 JSON) and, optionally, ``body`` (JSON), bound to it by
``bodydigest``. The bytes of a decoded entry are kept as they came, so that unknown fields survive.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import msgspec
import orjson

from dspy_ledger.errors import InvalidEvent
from dspy_ledger.events import EVENT_MODELS, EVENT_TYPES, MOST
from dspy_ledger.keys import BODY_FIELD, DATA_FIELD
from dspy_ledger.timestamps import canonical_time
from dspy_ledger.upcasting import UPCASTERS, upcast

__all__ = [
    "Encoder",
    "Entry",
    "body_digest",
    "decode",
    "encode",
    "envelope_of",
    "pack",
    "peek_sequence",
    "too_deep",
    "unpack",
]

_MOST_LEVELS = 200
"""How deep an event or a body may nest: what is read must be writable again (orjson writes 254 levels)."""


@dataclass(slots=True)
class Entry:
    """One valid event as it arrived. Not to be changed; left unfrozen because that is faster.

    ``payload`` is the CloudEvent's bytes, ``type`` the newest that it is read as; ``time`` is its time in the
    one spelling, ``digest`` the SHA-256 of payload (which holds the body's digest): equal digests, equal
    events.
    """

    event_id: str
    type: str
    subject: str | None
    source: str
    sequence: int
    time: str
    payload: bytes
    body: bytes | None
    digest: str

    @property
    def envelope(self) -> dict[str, Any]:
        """What the payload says, in the newest type; decoded at each call.

        Not kept: the many small objects of thousands of events cost more than decoding those that are asked.
        """
        return envelope_of(self.payload)


def envelope_of(payload: bytes) -> dict[str, Any]:
    """What the payload of a valid event says, in the newest type."""
    envelope: dict[str, Any] = orjson.loads(payload)
    return upcast(envelope) if UPCASTERS else envelope


def body_digest(body: bytes) -> str:
    """``sha256:<hex>`` of a body's bytes."""
    return "sha256:" + sha256(body).hexdigest()


class Encoder:
    """Encodes one source's events, fast: what is the same in all of them is encoded once.

    Args:
        source: the CloudEvents source.
        context: further attributes of every event (environment, service, release).
    """

    def __init__(self, source: str, context: Mapping[str, str] | None = None) -> None:
        self._heads = {
            kind: orjson.dumps(
                {
                    "specversion": "1.0",
                    "source": source,
                    "type": type_,
                    "datacontenttype": "application/json",
                    **(context or {}),
                }
            )[:-1].decode()
            for kind, type_ in EVENT_TYPES.items()
        }

    def pieces(
        self,
        kind: str,
        data: bytes,
        *,
        event_id: str,
        time: str,
        subject: str | None = None,
        body: bytes | None = None,
    ) -> tuple[bytes, tuple[bytes, ...]]:
        """The ``__data__`` bytes before the digits of the sequence (ten or more), and the pieces after them.

        Args:
            kind: the short name, a key of ``EVENT_TYPES``.
            data: JSON of that event's fields.
            body: JSON of its body; what comes out holds its digest.
        """
        about = "" if subject is None else f',"subject":{_quoted(subject)}'
        digest = "" if body is None else f',"bodydigest":"sha256:{sha256(body).hexdigest()}"'
        named = f'"id":{orjson.dumps(event_id).decode()},"time":"{time}"{about}{digest}'
        return f'{self._heads[kind]},{named},"sequence":"'.encode(), (b'","data":', data, b"}")


@lru_cache(maxsize=256)
def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def encode(
    kind: str,
    data: Mapping[str, Any],
    *,
    event_id: str,
    source: str,
    sequence: int,
    time: str,
    subject: str | None = None,
    body: bytes | None = None,
    context: Mapping[str, str] | None = None,
) -> bytes:
    """The ``__data__`` bytes of one event.

    Args:
        kind: the short name, a key of ``EVENT_TYPES``.
        data: JSON-able fields of that event.
        context: further attributes (environment, service, release).
    """
    before, after = Encoder(source, context).pieces(
        kind, orjson.dumps(data), event_id=event_id, time=time, subject=subject, body=body
    )
    return b"".join((before, b"%010d" % sequence, *after))


def decode(fields: Mapping[bytes, bytes], *, body_may_be_gone: bool = False) -> Entry:
    """One stream entry's fields as an event, of an older type as the newest.

    Args:
        fields: the entry's.
        body_may_be_gone: whether the body that the event names may be missing, since it was erased.

    Raises:
        InvalidEvent: with a ``reason`` of ``no-data``, ``not-json``, ``unknown-type``, ``not-an-event``,
            ``body-digest`` or ``body-not-json``.
    """
    payload = fields.get(DATA_FIELD)
    if payload is None:
        raise InvalidEvent("no-data", f"the entry has no {DATA_FIELD.decode()} field")
    try:
        envelope = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent("not-json", str(error)) from None
    if not isinstance(envelope, dict):
        raise InvalidEvent("not-an-event", f"a CloudEvent is an object, not {type(envelope).__name__}")
    kind = envelope.get("type")
    if UPCASTERS and isinstance(kind, str) and kind in UPCASTERS:
        envelope = upcast(envelope)
        kind = envelope["type"]
    model = EVENT_MODELS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise InvalidEvent("unknown-type", f"this release does not know type {kind!r}")
    if too_deep(payload):
        raise InvalidEvent("not-an-event", f"it nests deeper than {_MOST_LEVELS} levels")
    try:
        msgspec.convert(envelope, model)
    except msgspec.ValidationError as error:
        raise InvalidEvent("not-an-event", str(error)) from None
    body = fields.get(BODY_FIELD)
    if body is not None or not body_may_be_gone:
        _check_body(envelope.get("bodydigest"), body)
    return Entry(
        event_id=envelope["id"],
        type=envelope["type"],
        subject=envelope.get("subject"),
        source=envelope["source"],
        sequence=int(envelope["sequence"]),
        time=canonical_time(envelope["time"]),
        payload=payload,
        body=body,
        digest=sha256(payload).hexdigest(),
    )


def peek_sequence(fields: Mapping[bytes, bytes]) -> tuple[str, int] | None:
    """Source and sequence of an entry that is no valid event, where they can be read at all."""
    try:
        envelope = orjson.loads(fields.get(DATA_FIELD, b""))
        source, digits = envelope["source"], envelope["sequence"]
        sequence = int(digits) if isinstance(digits, str) and digits.isdecimal() else 0
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    return (source, sequence) if isinstance(source, str) and 0 < sequence < MOST else None


def pack(fields: Mapping[bytes, bytes]) -> bytes:
    r"""An entry's fields as JSON that a person can read and :func:`unpack` turns back to the byte.

    Values that are no UTF-8 become ``{"base64": …}``; names that are none are spelled with ``\\x``.
    """
    return orjson.dumps({_text(name): _readable(value) for name, value in fields.items()})


def unpack(raw: bytes) -> dict[bytes, bytes]:
    """The fields that :func:`pack` wrote."""
    return {
        name.encode(): value.encode() if isinstance(value, str) else b64decode(value["base64"])
        for name, value in orjson.loads(raw).items()
    }


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _readable(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode("ascii")}


def _check_body(digest: object, body: bytes | None) -> None:
    if body is None:
        if digest is not None:
            raise InvalidEvent("body-digest", "the event names a body that did not come with it")
        return
    if digest != body_digest(body):
        raise InvalidEvent("body-digest", "the body is not the one whose digest the event carries")
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent("body-not-json", str(error)) from None
    if too_deep(body):
        raise InvalidEvent("body-not-json", f"the body nests deeper than {_MOST_LEVELS} levels")


def too_deep(raw: bytes, most: int = _MOST_LEVELS) -> bool:
    """Whether JSON nests deeper than ``most`` levels; text in it counts as what it is."""
    if raw.count(b"[") + raw.count(b"{") <= most:  # the cheap answer, right for nearly all
        return False
    level = [orjson.loads(raw)]
    for _ in range(most):
        level = [
            item
            for outer in level
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return False
    return True
