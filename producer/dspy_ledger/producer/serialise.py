"""Any value as plain JSON: what JSON can't hold is described, nothing raises, and no host code is run.

Containers, dataclasses, attrs classes, pydantic models and DSPy's examples are read where their values lie,
not through methods or serialisers, so that nothing lazy is evaluated and nothing is waited for. Other objects
are named by their type only: what they hold was not meant to be data. BaseExceptions (an interrupt, a
``sys.exit`` in a signal handler) are not ours to swallow and pass.
"""

from __future__ import annotations

import binascii
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import re
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from itertools import islice
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any, Final

import orjson
from pydantic import AnyUrl, BaseModel, RootModel

__all__ = ["SHORT", "Cut", "LongText", "Walk", "encode", "json_bytes", "plain"]

SHORT: Final = 8
"""A text up to this length (characters) holds no secret that is looked for without being asked to."""

_ATOMS: Final = frozenset({int, float, bool, NoneType})
_MOST_DEPTH: Final = 64  # readers take 200 levels, and what is recorded lies within an event
_MOST_ROOM: Final = 1 << 28
_MOST_HASHED: Final = 32 << 20  # bytes of one event: a tenth of a second
_MOST_NUMBERS: Final = 4096  # of an array that is written out
_MOST_KEY: Final = 500  # characters of a field's name
_NODE: Final = 16  # what a value counts beside its text
_PLAIN_ONLY: Final = (
    orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_DATA_URL: Final = re.compile(r"data:([\w.+-]{1,100}/[\w.+-]{1,100})[^,]{0,200};base64,")


def json_bytes(value: Any) -> bytes:
    """JSON of a value; never raises.

    Bytes become their type, size and digest; text that is no Unicode is repaired; NaN and the infinities
    become null; cycles and what nests deeper than 64 levels are cut and say so.
    """
    try:
        raw = orjson.dumps(value, option=_PLAIN_ONLY)
    except TypeError:  # something that is no JSON
        return encode(Walk().plain(value))
    may_be_binary = b";base64," in raw or b'"data":"' in raw
    if may_be_binary or raw.count(b"[") + raw.count(b"{") > _MOST_DEPTH:
        return encode(Walk().plain(value))
    return raw


def plain(value: Any) -> Any:
    """The value as plain JSON types."""
    return orjson.loads(json_bytes(value))


def encode(value: Any) -> bytes:
    """JSON of what a :class:`Walk` gave; what else is in it is taken apart too."""
    try:
        return orjson.dumps(value, default=_taken_apart)
    except TypeError:  # a lone surrogate, an integer beyond 64 bits
        return orjson.dumps(_repaired(Walk().plain(value)))


def _taken_apart(value: Any) -> Any:
    return Walk().plain(value)


class LongText(str):
    """The beginning of a text that is too long to be looked at: its whole ``size`` and ``digest`` go with it.

    ``size`` is in characters; ``digest`` is None where so much is not hashed.
    """

    __slots__ = ("digest", "size")

    size: int
    digest: str | None


class Cut(dict[str, Any]):
    """Stands for what was left out for its size."""


class Walk:
    """Takes the values of one event apart.

    Args:
        keys: tells of a field's name what to write in place of its value; None leaves it, an empty text
            says that the name itself is to be looked at like a text.
        longest: characters of a text that are kept at most.
    """

    def __init__(self, keys: Mapping[str, str | None] | None = None, longest: int = _MOST_ROOM) -> None:
        self.texts: list[str] = []
        """Every text that may hold a secret."""
        self.cut = False
        """Whether a :class:`Cut` or a :class:`LongText` stands somewhere."""
        self._keys = keys
        self._longest = longest
        self._room = 2 * longest
        self._hashing = _MOST_HASHED
        self._within: set[int] = set()

    def plain(self, value: Any, depth: int = 0) -> Any:
        """The value as plain JSON types."""
        kind = type(value)
        if kind is str:
            return self._text(value) if len(value) > SHORT else value
        if kind in _ATOMS:
            return value
        if depth >= _MOST_DEPTH:
            return {"type": "cut", "reason": f"deeper than {_MOST_DEPTH}"}
        if (place := id(value)) in self._within:
            return {"type": "cycle"}
        self._within.add(place)
        try:
            if kind is dict:
                return self._fields(value, depth)
            if kind is tuple and len(value) == 2 and self._keys is not None and type(value[0]) is str:
                return self._pair(value, self._keys[value[0]], depth)
            if kind is list or kind is tuple:
                return self._items(value, len(value), depth)
            return self._object(value, kind, depth)
        except Exception:  # noqa: BLE001  it changes while it is read, or its class is odd: say what it was
            return {"type": _name(kind)}
        finally:
            self._within.discard(place)

    def _fields(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        depth += 1
        found: dict[str, Any] = {}
        keys, size = self._keys, dict.__len__(value)
        most = self._take(size)
        items: Iterable[tuple[Any, Any]] = dict.items(value)
        for key, item in items if most == size else islice(items, most):
            name = key if type(key) is str else self._key(key, depth)
            if keys is not None and (instead := keys[name]) is not None:
                if not instead:
                    name = name[:_MOST_KEY]
                    self.texts.append(name)
                elif item is not None and item is not True and item is not False:
                    found[name] = instead
                    continue
            if name in found:
                name = _another(name, found)
            kind = type(item)
            if kind is str:
                found[name] = item if len(item) <= SHORT else self._text(item)
            else:
                found[name] = item if kind in _ATOMS else self.plain(item, depth)
        if most < size:
            found[_another("…", found)] = self._left_out(size - most)
        if (
            keys is not None
            and "value" in found
            and type(header := found.get("name")) is str
            and keys[header]
        ):
            found["value"] = keys[header]  # a header as it is often written
        if type(encoded := dict.get(value, "data")) is str and len(encoded) > 64:
            self._encoded_field(encoded, found)
        return found

    def _pair(self, value: tuple[str, Any], instead: str | None, depth: int) -> list[Any]:
        """Such as a header: a name and its value."""
        hides = instead and type(value[1]) is str
        return self._items((value[0], instead) if hides else value, 2, depth)

    def _items(self, value: Iterable[Any], size: int, depth: int) -> list[Any]:
        depth += 1
        most = self._take(size)
        kept = list(value if most == size else islice(value, most))
        if size > 8 and _ATOMS.issuperset(map(type, kept)):
            found = kept
        else:
            found = [self.plain(item, depth) for item in kept]
        if most < size:
            found.append(self._left_out(size - most))
        return found

    def _text(self, value: str) -> Any:
        size = len(value)
        if size > 64 and value.startswith("data:") and (url := _DATA_URL.match(value)):
            return self._decoded(url[1], value[url.end() :])
        if size > self._longest or size > self._room:
            value = self._long(value)
        self._room -= len(value)
        self.texts.append(value)
        return value

    def _long(self, value: str) -> LongText:
        long = LongText(value[: self._longest] if self._longest <= self._room else "")
        long.size, long.digest = len(value), None
        if len(value) <= self._hashing:
            long.digest = self._digest(value.encode("utf-8", "surrogatepass"))
        self.cut = True
        return long

    def _take(self, size: int) -> int:
        """How many of so many values there is room for."""
        most = min(size, max(0, self._room // _NODE))
        self._room -= most * _NODE
        return most

    def _left_out(self, count: int) -> dict[str, Any]:
        self.cut = True
        return Cut(type="cut", items=count)

    def _key(self, key: Any, depth: int) -> str:
        simple = self.plain(key, depth)
        return simple if type(simple) is str else encode(simple).decode()

    def _digest(self, content: bytes | bytearray | memoryview) -> str | None:
        if len(content) > self._hashing:
            return None
        self._hashing -= len(content)
        return "sha256:" + sha256(content).hexdigest()

    # --- binaries ---

    def _binary(self, content: bytes | bytearray | memoryview, **about: Any) -> dict[str, Any]:
        size = content.nbytes if isinstance(content, memoryview) else len(content)
        return {"type": "bytes", **about, "size": size, "digest": self._digest(content)}

    def _decoded(self, media_type: str, encoded: str) -> dict[str, Any]:
        kind = media_type.partition("/")[0]
        about = {"type": kind if kind in ("image", "audio", "video") else "file", "media_type": media_type}
        if len(encoded) > self._hashing:
            return {**about, "size": len(encoded) * 3 // 4, "digest": None}
        try:
            return self._binary(binascii.a2b_base64(encoded), **about)
        except ValueError:  # no Base64 after all
            return {**about, "size": len(encoded), "digest": None}

    def _encoded_field(self, encoded: str, found: dict[str, Any]) -> None:
        """Base64 as DSPy and the models' APIs have it: ``data`` beside what it is."""
        if found.get("data") is not encoded:
            return
        if type(media_type := found.get("media_type")) is str:
            found["data"] = self._decoded(media_type, encoded)
        elif type(form := found.get("audio_format", found.get("format"))) is str:
            found["data"] = self._decoded(f"audio/{form}", encoded)

    # --- objects ---

    def _object(self, value: Any, kind: type, depth: int) -> Any:
        for base in kind.__mro__:
            if (read := _READERS.get(base)) is not None:
                return read(self, value, depth)
            if (fields := _declared(base)) is not None:
                return self._fields({name: object.__getattribute__(value, name) for name in fields}, depth)
            if (foreign := _FOREIGN.get(base.__module__.partition(".")[0])) is not None:
                found = foreign(self, value, depth)
                if found is not None:
                    return found
        return {"type": _name(kind)}

    def _sequence(self, value: Any, depth: int) -> Any:
        base = next(base for base in (list, tuple, deque, set, frozenset) if base in type(value).__mro__)
        found = self._items(base.__iter__(value), base.__len__(value), depth)
        if base not in (set, frozenset):
            return found
        try:
            return sorted(found)
        except TypeError:
            return found

    def _model(self, value: BaseModel, depth: int) -> Any:
        declared = type(value).__pydantic_fields__
        held = object.__getattribute__(value, "__dict__")
        extra = object.__getattribute__(value, "__pydantic_extra__")
        values = {
            name: item
            for name, item in held.items()
            if (field := declared.get(name)) is not None and not field.exclude and field.repr
        }
        return self._fields({**values, **(extra or {})}, depth)

    def _example(self, value: Any, depth: int) -> Any:
        """dspy.Example and dspy.Prediction."""
        store = object.__getattribute__(value, "__dict__").get("_store")
        return self._fields(store, depth) if type(store) is dict else None

    def _array(self, value: Any, depth: int) -> Any:
        """What NumPy has: a scalar, or an array, written out if it is short."""
        if not hasattr(value, "tolist"):
            return None
        if value.size <= _MOST_NUMBERS:
            return self.plain(value.tolist(), depth)
        about = {"type": _name(type(value)), "shape": list(value.shape), "dtype": str(value.dtype)}
        if value.nbytes > self._hashing:
            return {**about, "size": int(value.nbytes), "digest": None}
        return self._binary(value.tobytes(), **about)

    def _picture(self, value: Any, depth: int) -> Any:  # noqa: ARG002  one signature for all
        """A Pillow image; hashed only if its pixels are in memory already."""
        about = {"type": "image", "mode": value.mode, "width": value.width, "height": value.height}
        held = object.__getattribute__(value, "__dict__")
        if (held.get("_im") or held.get("im")) is None or value.width * value.height * 4 > self._hashing:
            return about
        return self._binary(value.tobytes(), **about)

    def _table(self, value: Any, depth: int) -> Any:  # noqa: ARG002
        """What has a shape: data frames, tensors."""
        if not hasattr(value, "shape"):
            return None
        return {"type": _name(type(value)), "shape": [int(size) for size in value.shape]}


_Reader = Callable[[Walk, Any, int], Any]


def _as_text(spell: Callable[[Any], str]) -> _Reader:
    return lambda walk, value, depth: walk.plain(spell(value), depth)


def _named(walk: Walk, value: Any, depth: int) -> Any:  # noqa: ARG001
    return {"type": _name(type(value)), "name": f"{value.__module__}.{value.__qualname__}"}


_READERS: Final[dict[type, _Reader]] = {
    str: _as_text(str.__str__),
    int: lambda walk, value, depth: int.__int__(value),  # noqa: ARG005
    float: lambda walk, value, depth: float.__float__(value),  # noqa: ARG005
    dict: Walk._fields,
    list: Walk._sequence,
    tuple: Walk._sequence,
    deque: Walk._sequence,
    set: Walk._sequence,
    frozenset: Walk._sequence,
    bytes: lambda walk, value, depth: walk._binary(value),  # noqa: ARG005
    bytearray: lambda walk, value, depth: walk._binary(value),  # noqa: ARG005
    memoryview: lambda walk, value, depth: walk._binary(value),  # noqa: ARG005
    enum.Enum: lambda walk, value, depth: walk.plain(object.__getattribute__(value, "_value_"), depth),
    RootModel: lambda walk, value, depth: walk.plain(object.__getattribute__(value, "root"), depth),
    BaseModel: Walk._model,
    AnyUrl: _as_text(AnyUrl.__str__),
    FunctionType: _named,
    BuiltinFunctionType: _named,
    type: _named,
    datetime.datetime: _as_text(datetime.datetime.isoformat),
    datetime.date: _as_text(datetime.date.isoformat),
    datetime.time: _as_text(datetime.time.isoformat),
    **{
        base: _as_text(base.__str__)
        for base in (
            *(uuid.UUID, decimal.Decimal, fractions.Fraction, complex, datetime.timedelta, pathlib.PurePath),
            *(ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network),
        )
    },
}
"""How the values of a class and of what is derived from it are read, without any code of a derived class."""

_FOREIGN: Final[dict[str, _Reader]] = {
    "dspy": Walk._example,
    "numpy": Walk._array,
    "PIL": Walk._picture,
    **dict.fromkeys(("pandas", "polars", "pyarrow", "torch", "jax", "tensorflow"), Walk._table),
}
"""The same by the package that a class comes from, so that none has to be imported."""


def _declared(base: type) -> list[str] | None:
    """Names of the fields that a dataclass or an attrs class shows of itself; None for another class."""
    held = vars(base)
    if "__dataclass_fields__" in held:
        return [field.name for field in dataclasses.fields(base) if field.repr]
    if (fields := held.get("__attrs_attrs__")) is not None:
        return [field.name for field in fields if field.repr]
    return None


def _name(kind: type) -> str:
    try:
        return f"{kind.__module__}.{kind.__qualname__}"[:200]
    except Exception:  # noqa: BLE001  its metaclass is the host's
        return "object"


def _another(name: str, taken: Mapping[str, Any]) -> str:
    """The name, ``name (2)`` or the next that is free: several keys may be one text."""
    if name not in taken:
        return name
    number = 2
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"


def _repaired(value: Any) -> Any:
    if type(value) is dict:
        return {_unicode(name): _repaired(item) for name, item in value.items()}
    if type(value) is list:
        return [_repaired(item) for item in value]
    if isinstance(value, str):
        return _unicode(value)
    if type(value) is int and not -(2**63) <= value < 2**64:
        return str(value) if value.bit_length() < 10_000 else {"type": "int", "bits": value.bit_length()}
    return value


def _unicode(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
