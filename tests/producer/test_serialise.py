"""Any value becomes valid JSON, in bounded time, and none of the host's code is run for it."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import hashlib
import json
import uuid
from collections import OrderedDict, UserDict, deque, namedtuple
from pathlib import PurePosixPath
from time import thread_time

import dspy
import numpy as np
import PIL.Image
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_ledger import wire
from dspy_ledger.keys import BODY_FIELD, DATA_FIELD
from dspy_ledger.producer.serialise import Walk, encode, json_bytes, plain

PIXEL = base64.b64encode(bytes(range(100))).decode()
DIGEST = "sha256:" + hashlib.sha256(bytes(range(100))).hexdigest()


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Loud(str):
    """A text whose every method tells that it was called."""

    __slots__ = ()

    def __str__(self):
        raise AssertionError("host code was run")

    __repr__ = __len__ = __getitem__ = encode = __hash__ = __str__


class Hostile:
    """Whatever is asked of it, it raises."""

    def __getattribute__(self, name):
        raise AssertionError(f"host code was run: {name}")

    def __str__(self):
        raise AssertionError("host code was run")

    __repr__ = __hash__ = __iter__ = __len__ = __eq__ = __str__


class Lazy(UserDict):
    """As a query set that asks a database once it is looked at."""

    def __iter__(self):
        raise AssertionError("it was evaluated")

    __len__ = keys = items = __repr__ = __iter__


class OddDict(dict):
    def items(self):
        raise AssertionError("host code was run")

    keys = values = __iter__ = __len__ = __getitem__ = get = items


class OddList(list):
    def __iter__(self):
        raise AssertionError("host code was run")

    __len__ = __getitem__ = __iter__


@dataclasses.dataclass
class Account:
    name: str
    pin: str = dataclasses.field(repr=False)


@dataclasses.dataclass(slots=True)
class Slotted:
    name: str


class Stubborn(pydantic.BaseModel):
    name: str
    kept_back: str = pydantic.Field("x", exclude=True)

    @pydantic.model_serializer
    def refuse(self):
        raise AssertionError("host code was run")


class Open(pydantic.BaseModel, extra="allow"):
    one: int


class Names(pydantic.RootModel[list[str]]):
    pass


class OddMeta(type):
    def __getattribute__(cls, name):
        raise AssertionError("host code was run")


class OddClass(metaclass=OddMeta):
    pass


Point = namedtuple("Point", "x y")

TELLING = {
    "none": (None, None),
    "enum": (Colour.RED, "red"),
    "int enum": (Level.HIGH, 3),
    "bytes": (b"ab", {"type": "bytes", "size": 2, "digest": "sha256:" + hashlib.sha256(b"ab").hexdigest()}),
    "date": (datetime.date(2026, 1, 2), "2026-01-02"),
    "datetime": (datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC), "2026-01-02T03:00:00+00:00"),
    "duration": (datetime.timedelta(seconds=5), "0:00:05"),
    "decimal": (decimal.Decimal("1.10"), "1.10"),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "path": (PurePosixPath("/a/b"), "/a/b"),
    "url": (pydantic.HttpUrl("https://a.b/c"), "https://a.b/c"),
    "set": ({2, 1}, [1, 2]),
    "frozen set": (frozenset("ba"), ["a", "b"]),
    "deque": (deque([1, "a"]), [1, "a"]),
    "tuple": ((1, (2,)), [1, [2]]),
    "named tuple": (Point(1, 2), [1, 2]),
    "ordered": (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "keys": (
        {1: 3, None: 2, (1, "a"): 4, Colour.RED: 5},
        {"1": 3, "null": 2, '[1,"a"]': 4, "red": 5},
    ),
    "colliding keys": ({1: "a", "1": "b", 1.5: "c"}, {"1": "a", "1 (2)": "b", "1.5": "c"}),
    "nan": ([float("nan"), float("inf"), -0.5], [None, None, -0.5]),
    "integers": ([2**63, 2**64, -(2**70)], [2**63, str(2**64), str(-(2**70))]),
    "no end of digits": (10**5000, {"type": "int", "bits": (10**5000).bit_length()}),
    "surrogates": ({"\ud800": "a\udfff"}, {"\\ud800": "a\\udfff"}),
    "text subclass": (Loud("abc"), "abc"),
    "dict subclass": (OddDict(a=OddList([1])), {"a": [1]}),
    "dataclass": (Account("Ada", "1234"), {"name": "Ada"}),
    "slots": (Slotted("Ada"), {"name": "Ada"}),
    "model": (Stubborn(name="Ada"), {"name": "Ada"}),
    "open model": (Open(one=1, two=2), {"one": 1, "two": 2}),
    "root model": (Names(["a"]), ["a"]),
    "secret": (pydantic.SecretStr("hush"), {"type": "pydantic.types.SecretStr"}),
    "example": (dspy.Example(q=1, a=[b""]).with_inputs("q"), None),
    "prediction": (dspy.Prediction(items="x", answer=Colour.RED), {"items": "x", "answer": "red"}),
    "hostile": ([Hostile()], [{"type": f"{__name__}.Hostile"}]),
    "lazy": (Lazy(a=1), {"type": f"{__name__}.Lazy"}),
    "odd class": (OddClass, {"type": f"{__name__}.OddMeta"}),
    "of an odd class": (OddClass(), {"type": "object"}),
    "generator": ((n for n in [1]), {"type": "builtins.generator"}),
    "function": (base64.b64encode, {"type": "builtins.function", "name": "base64.b64encode"}),
    "class": (Account, {"type": "builtins.type", "name": f"{__name__}.Account"}),
    "numpy": ([np.float32(0.5), np.int64(3), np.bool_(True), np.arange(3)], [0.5, 3, True, [0, 1, 2]]),
    "image": (
        dspy.Image(f"data:image/png;base64,{PIXEL}"),
        {"url": {"type": "image", "media_type": "image/png", "size": 100, "digest": DIGEST}},
    ),
    "audio": (
        dspy.Audio(data=PIXEL, audio_format="wav"),
        {
            "data": {"type": "audio", "media_type": "audio/wav", "size": 100, "digest": DIGEST},
            "audio_format": "wav",
        },
    ),
    "a model's message": (
        {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "mp3"}},
        {
            "type": "input_audio",
            "input_audio": {
                "data": {"type": "audio", "media_type": "audio/mp3", "size": 100, "digest": DIGEST},
                "format": "mp3",
            },
        },
    ),
}
TELLING["example"] = (TELLING["example"][0], {"q": 1, "a": [plain(b"")]})


@pytest.mark.parametrize("name", TELLING)
def test_a_value_becomes_what_it_says(name) -> None:
    value, expected = TELLING[name]
    assert json.loads(json_bytes(value)) == expected


def test_a_generator_is_not_consumed() -> None:
    numbers = iter([1, 2])
    plain({"a": numbers, "b": (n for n in numbers)})
    assert list(numbers) == [1, 2]


def test_an_array_is_written_out_or_told_by_shape_type_size_and_digest() -> None:
    found = plain(np.zeros((100, 100), dtype="float32"))
    digest = "sha256:" + hashlib.sha256(bytes(40_000)).hexdigest()
    about = {"type": "numpy.ndarray", "shape": [100, 100], "dtype": "float32"}
    assert found == {**about, "size": 40_000, "digest": digest}


def test_a_picture_in_memory_is_told_by_its_pixels_and_one_not_read_yet_is_left_alone(tmp_path) -> None:
    picture = PIL.Image.new("RGB", (3, 2), (1, 2, 3))
    digest = "sha256:" + hashlib.sha256(bytes([1, 2, 3] * 6)).hexdigest()
    about = {"type": "image", "mode": "RGB", "width": 3, "height": 2}
    assert plain(picture) == {**about, "size": 18, "digest": digest}
    picture.save(tmp_path / "a.png")
    with PIL.Image.open(tmp_path / "a.png") as unread:
        assert plain(unread) == about


def test_cycles_through_anything_end_and_say_so() -> None:
    around: dict[str, object] = {"list": []}
    around["list"].append(around)
    around["odd"] = OddDict(back=around)
    around["model"] = Open.model_construct(one=around)
    around["example"] = dspy.Example(back=around)
    cycle = {"type": "cycle"}
    assert plain(around) == {
        "list": [cycle],
        "odd": {"back": cycle},
        "model": {"one": cycle},
        "example": {"back": cycle},
    }


def test_what_is_met_twice_is_no_cycle() -> None:
    one = [1]
    assert plain([one, one]) == [[1], [1]]


def test_what_nests_too_deep_is_cut_and_readers_take_the_rest() -> None:
    value: object = "ground"
    for _ in range(5000):
        value = [value]
    raw = json_bytes(value)
    assert not wire.too_deep(raw, 70)
    assert b"deeper than 64" in raw


def test_a_value_that_shares_its_parts_without_end_takes_bounded_time() -> None:
    shared: object = "x" * 20
    for _ in range(40):
        shared = [shared, shared]  # 2⁴⁰ texts, if they were counted out
    walk = Walk(longest=1 << 20)
    began = thread_time()
    assert len(encode(walk.plain(shared))) < 1 << 24
    assert thread_time() - began < 10
    assert walk.cut


@pytest.mark.parametrize(
    "huge",
    [
        "x" * 10_000_000,
        "é" * 10_000_000,
        list(range(3_000_000)),
        {str(n): n for n in range(1_000_000)},
        set(range(1_000_000)),
        [["a" * 1000] * 1000] * 1000,
        [b"\0" * 10_000_000] * 100,
        [f"data:image/png;base64,{'A' * 10_000_000}"] * 100,
        np.zeros(100_000_000, dtype="int8"),
    ],
    ids=["text", "other text", "numbers", "fields", "set", "lines", "bytes", "files", "array"],
)
def test_what_is_huge_is_bounded_in_size_and_time(huge) -> None:
    began = thread_time()
    raw = encode(Walk(longest=1 << 20).plain(huge))
    assert thread_time() - began < 5
    assert len(raw) < 1 << 24


def with_property(getter):
    """An object whose one field is read through code of the host."""
    odd = dataclasses.make_dataclass("Odd", [("field", int)])
    odd.field = property(getter)
    return object.__new__(odd)


def test_an_interrupt_is_not_swallowed() -> None:
    def interrupt(self):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plain(with_property(interrupt))


def test_a_dict_that_changes_while_it_is_read_is_named() -> None:
    changing: dict[str, object] = {}
    changing["a"] = with_property(lambda self: changing.update(b=1))
    assert plain([changing, 1]) == [{"type": "builtins.dict"}, 1]


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(alphabet=st.characters(categories=["Cs"]))
    | st.binary()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals()
    | st.fractions()
    | st.complex_numbers()
    | st.uuids()
    | st.ip_addresses()
    | st.sampled_from([Colour.RED, Level.HIGH, np.float64("nan"), Account("a", "b"), len])
)
keys = st.text() | st.integers() | st.none() | st.tuples(st.text(), st.integers()) | st.binary() | st.floats()
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(keys, inner)
        | st.dictionaries(st.text(), inner).map(lambda fields: dspy.Prediction(**fields))
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(deque)
        | inner.map(lambda one: Open.model_construct(one=one))
        | inner.map(lambda one: OddDict(one=OddList([one])))
    ),
    max_leaves=30,
)


def event_with(body: bytes) -> dict[bytes, bytes]:
    data = {
        "execution_id": "e",
        "program_id": "p",
        "status": "ok",
        "started_at": "2026-11-22T10:00:00.000000Z",
        "latency_ms": 1,
    }
    event = wire.encode(
        "ExecutionCompleted",
        data,
        event_id="e",
        source="/producers/a/b",
        sequence=1,
        time="2026-11-22T10:00:00.000000Z",
        body=body,
    )
    return {DATA_FIELD: event, BODY_FIELD: body}


@given(values)
def test_any_value_is_a_body_that_readers_take(value) -> None:
    body = json_bytes({"inputs": value, "hostile": Hostile()})
    assert wire.decode(event_with(body)).body == body
    assert set(json.loads(body)) == {"inputs", "hostile"}
