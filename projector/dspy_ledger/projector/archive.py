"""A ledger as JSON Lines: everything that can't be derived, and readable back to the byte.

The first line is a header, then one line per event in order of position, then the dead letters. At most
1,000 lines further, and as the last line of all, stands a digest of every byte before it: what is read is
handed on only once its digest was right. The format is described in docs/operating.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, BinaryIO

import orjson

from dspy_ledger.errors import InvalidEvent, InvalidInput
from dspy_ledger.keys import BODY_FIELD, DATA_FIELD
from dspy_ledger.store import DeadLetter, EventStore, StoredEvent
from dspy_ledger.timestamps import canonical_time
from dspy_ledger.upcasting import upcast_type
from dspy_ledger.wire import decode

__all__ = ["Archive", "Batch", "write_archive"]

_FORMAT = "dspy-ledger export"
_VERSION = 1
_MOST_LINES = 1000  # between two digests
_MOST_BYTES = 8 << 20  # likewise
_LONGEST_LINE = 1 << 30
_LETTERS_AT_ONCE = 10
_AGAIN = "get the file again, or export anew"


def write_archive(
    store: EventStore, write: Callable[[bytes], object], *, upto: int, progress: Callable[[int], None]
) -> int:
    """Write the ledger up to a position; the same ledger gives the same bytes.

    Dead letters belong to no position: all are written when ``upto`` is the last one, otherwise none.

    Args:
        store: where to read from; others may write to it meanwhile.
        write: called with a few lines at a time.
        upto: the last position to write.
        progress: called with the position reached.

    Returns:
        How many dead letters were written.
    """
    out = _Writer(write)
    with_letters = upto >= store.last_position()
    out.line({"format": _FORMAT, "version": _VERSION, "ledger_id": store.ledger_id, "upto": upto})
    for event in store.read_all(upto=upto):
        out.raw(_event_line(event))
        if event.position % _MOST_LINES == 0:
            progress(event.position)
    count = after = 0
    while with_letters and (letters := store.all_dead_letters(after, _LETTERS_AT_ONCE)):
        for letter in letters:
            out.raw(_letter_line(letter))
        count += len(letters)
        after = letters[-1].id or 0
    out.seal({"events": upto, "dead_letters": count})
    progress(upto)
    return count


class _Writer:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._digest = sha256()
        self._lines: list[bytes] = []
        self._size = 0

    def line(self, fields: dict[str, Any]) -> None:
        self.raw(orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))

    def raw(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        if len(self._lines) >= _MOST_LINES or self._size >= _MOST_BYTES:
            self.seal()

    def seal(self, counts: dict[str, int] | None = None) -> None:
        """Write a digest after what stands before it; ``counts`` make it the last one."""
        lines = b"".join(self._lines)
        self._digest.update(lines)
        seal = {**({} if counts is None else {"end": counts}), "digest": f"sha256:{self._digest.hexdigest()}"}
        line = orjson.dumps(seal, option=orjson.OPT_APPEND_NEWLINE)
        self._digest.update(line)
        self._write(lines + line)
        self._lines, self._size = [], 0


@dataclass(slots=True)
class Batch:
    """What stands between two digests."""

    events: list[StoredEvent] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)


class Archive:
    """What :func:`write_archive` wrote, read in batches.

    Args:
        file: the lines, open for reading; may be a pipe.

    Raises:
        InvalidInput: this is no export, or one of a newer format; from :meth:`batches`, it is damaged or
            was cut. The message has the number of the line and says what to do.
    """

    ledger_id: str
    upto: int

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._line = 0
        self._digest = sha256()
        header = self._next()
        if header.get("format") != _FORMAT:
            raise InvalidInput(
                "line 1 is no header of an export; name a file that `dspy-ledger export` wrote"
            )
        if header.get("version") != _VERSION:
            raise InvalidInput(
                f"this export has format version {header.get('version')}, this release reads {_VERSION};"
                " upgrade dspy-ledger"
            )
        try:
            self.ledger_id, self.upto = str(header["ledger_id"]), int(header["upto"])
        except (KeyError, TypeError, ValueError):
            raise self._damaged("the header lacks ledger_id or upto") from None

    def batches(self) -> Iterator[Batch]:
        """Every batch, each after its digest was right; ends only at the last line of a whole file."""
        batch, position, letters = Batch(), 0, 0
        while True:
            before = self._digest.hexdigest()
            fields = self._next()
            if "position" in fields:
                position += 1
                batch.events.append(self._event(fields, position))
            elif "dead_letter" in fields:
                letters += 1
                batch.dead_letters.append(self._letter(fields))
            elif "digest" in fields:
                if fields["digest"] != f"sha256:{before}":
                    raise self._damaged("a line since the digest before it is not as it was written")
                end = fields.get("end")
                if end is not None and end != {"events": position, "dead_letters": letters}:
                    raise self._damaged(f"it counts {end}, but {position} and {letters} stand before it")
                yield batch
                if end is not None:
                    self._expect_nothing_more()
                    return
                batch = Batch()
            else:
                raise self._damaged("it is no line of an export")

    def _next(self) -> dict[str, Any]:
        try:
            raw = self._file.readline(_LONGEST_LINE)
        except (OSError, EOFError, zlib.error) as error:  # what gzip raises
            raise self._damaged(f"it can't be read: {error}", after=1) from None
        self._line += 1
        if not raw.endswith(b"\n"):
            raise self._damaged("the file ends before its last line: it was cut")
        try:
            fields = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise self._damaged(f"it is no JSON: {error}") from None
        if not isinstance(fields, dict):
            raise self._damaged("it is no JSON object")
        self._digest.update(raw)
        return fields

    def _expect_nothing_more(self) -> None:
        if self._file.readline(1):
            self._line += 1
            raise self._damaged("the file goes on after its last line")

    def _event(self, fields: dict[str, Any], expected: int) -> StoredEvent:
        if fields["position"] != expected:
            raise self._damaged(f"position {fields['position']} stands where {expected} belongs")
        try:
            payload, body = _bytes(fields, "event"), _bytes(fields, "body")
            if payload is None:
                raise self._damaged("it has no event")
            recorded_at, stream_id = canonical_time(fields["recorded_at"]), fields["stream_id"]
            entry = decode(
                {DATA_FIELD: payload} | ({} if body is None else {BODY_FIELD: body}), body_may_be_gone=True
            )
        except (InvalidEvent, KeyError, TypeError, ValueError) as error:
            raise self._damaged(f"its event can't be read ({error})") from None
        return StoredEvent(
            expected, entry.event_id, stream_id, upcast_type(entry.type), entry.subject, entry.source,
            entry.sequence, entry.time, recorded_at, payload, entry.digest, body,
        )  # fmt: skip

    def _letter(self, fields: dict[str, Any]) -> DeadLetter:
        try:
            letter = DeadLetter(**fields["dead_letter"], raw=_bytes(fields, "entry") or b"")
        except TypeError:
            raise self._damaged("its dead letter can't be read") from None
        if not letter.raw and letter.dropped_at is None:
            raise self._damaged("it has no entry")
        return letter

    def _damaged(self, what: str, *, after: int = 0) -> InvalidInput:
        return InvalidInput(f"line {self._line + after} is damaged: {what}; {_AGAIN}")


def _event_line(event: StoredEvent) -> bytes:
    about = orjson.dumps(
        {"position": event.position, "recorded_at": event.recorded_at, "stream_id": event.stream_id}
    )
    body = b"" if event.body is None else b"," + _embedded("body", event.body)
    return b"%s,%s%s}\n" % (about[:-1], _embedded("event", event.payload), body)


def _letter_line(letter: DeadLetter) -> bytes:
    about = orjson.dumps({name: value for name, value in asdict(letter).items() if name not in ("id", "raw")})
    entry = b"" if letter.dropped_at is not None else b"," + _embedded("entry", letter.raw)
    return b'{"dead_letter":%s%s}\n' % (about, entry)


def _embedded(name: str, raw: bytes) -> bytes:
    """JSON as it is where writing it again gives the same bytes, otherwise its text, as ``<name>_text``."""
    if orjson.dumps(orjson.loads(raw)) == raw:
        return b'"%s":%s' % (name.encode(), raw)
    return b'"%s_text":%s' % (name.encode(), orjson.dumps(raw.decode()))


def _bytes(fields: dict[str, Any], name: str) -> bytes | None:
    if name in fields:
        return orjson.dumps(fields[name])
    text = fields.get(f"{name}_text")
    return None if text is None else text.encode()
