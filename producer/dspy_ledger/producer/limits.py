"""What is too large is cut, the largest first, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final, NamedTuple

from dspy_ledger.producer.serialise import Cut, LongText, encode

__all__ = ["fit", "shorten"]

_MARK: Final = 200  # bytes of what stands for a value that was cut, beside its head
_LEAST: Final = 256  # bytes that every text keeps as long as anything else can be cut
_MOST_PATHS: Final = 100


def shorten(text: str, most: int) -> str:
    """At most so many characters, the last of them ``…`` where some were left out."""
    return text if len(text) <= most else text[: most - 1] + "…"


def fit(sections: dict[str, Any], room: int, *, cut: bool = False) -> tuple[bytes, list[str]]:
    """The JSON of an event's sections within ``room`` bytes, and what was cut to get there.

    Long texts keep their beginnings, all of the same length. If that does not do, the largest fields are
    cut whole, and lists of calls or rows lose their ends. In place of a value stands
    ``{"type": "cut", "size": …, "digest": …, "head": …}``: its size in characters of a text, in bytes of
    the JSON of anything else.

    Args:
        sections: what a Walk gave; changed in place where it has to be.
        cut: whether the Walk left something out already.

    Returns:
        The JSON, and paths such as ``inputs.document`` or ``calls``, sorted.
    """
    raw = encode(sections)
    if len(raw) <= room and not cut:
        return raw, []
    paths: set[str] = set()
    leaves = list(_leaves(sections))
    for leaf in leaves:
        if isinstance(leaf.value, Cut):
            paths.add(leaf.path)
        elif isinstance(leaf.value, LongText):
            _cut(leaf, 1, paths)
    raw = encode(sections)
    if len(raw) > room:
        _cut_texts(leaves, len(raw) - room, paths)
        raw = encode(sections)
    if len(raw) > room:
        _cut_fields(sections, len(raw) - room, paths)
        raw = encode(sections)
    if len(raw) > room:
        paths = set(sections)
        sections = {name: _mark(encode(value), len(encode(value)), b"") for name, value in sections.items()}
        raw = encode(sections)
    if len(paths) > _MOST_PATHS:
        paths = {path.partition(".")[0] for path in paths}
    return raw, sorted(paths)


class _Leaf(NamedTuple):
    """A text, or what stands for a cut, where it lies."""

    holder: Any
    place: Any
    path: str
    value: Any


def _leaves(sections: dict[str, Any]) -> Iterator[_Leaf]:
    """Every text longer than the least that is kept, and everything that was cut."""
    stack: list[tuple[Any, str, int]] = [(sections, "", 0)]
    while stack:
        holder, path, depth = stack.pop()
        for place, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(value, (Cut, LongText)) or (type(value) is str and len(value) > _LEAST):
                yield _Leaf(holder, place, _path(path, place, depth), value)
            elif type(value) is dict or type(value) is list:
                stack.append((value, _path(path, place, depth), depth + 1))


def _path(path: str, place: Any, depth: int) -> str:
    """Section and field: no deeper, and no place in a list."""
    if depth == 0:
        return str(place)
    return f"{path}.{shorten(place, 200)}" if depth == 1 and isinstance(place, str) else path


def _cut_texts(leaves: list[_Leaf], excess: int, paths: set[str]) -> None:
    """Cut the longest texts to one length, so that ``excess`` bytes are saved if they can be."""
    sized = sorted(((len(encode(leaf.value)), leaf) for leaf in leaves), key=lambda one: -one[0])
    total, level = 0, 0
    for count, (size, _) in enumerate(sized, 1):
        total += size
        level = (total - excess) // count - _MARK
        if count == len(sized) or level + _MARK >= sized[count][0]:
            break
    level = max(level, _LEAST)
    for size, leaf in sized:
        if size <= level + _MARK:
            break
        _cut(leaf, level / size, paths)


def _cut(leaf: _Leaf, part: float, paths: set[str]) -> None:
    text = leaf.value
    paths.add(leaf.path)
    if isinstance(text, Cut):
        return
    raw = text.encode("utf-8", "backslashreplace")
    head = raw[: int(len(raw) * part)]
    if isinstance(text, LongText):
        leaf.holder[leaf.place] = Cut(type="cut", size=text.size, digest=text.digest, head=_decoded(head))
    else:
        leaf.holder[leaf.place] = _mark(raw, len(text), head)


def _cut_fields(sections: dict[str, Any], excess: int, paths: set[str]) -> None:
    """Cut the largest fields whole, and the ends of lists, until ``excess`` bytes are saved."""
    sized = [
        (len(encode(value)), holder, place, path)
        for name, section in sections.items()
        for holder, place, value, path in (
            [(section, key, value, _path(name, key, 1)) for key, value in section.items()]
            if type(section) is dict
            else [(sections, name, section, name)]
        )
    ]
    for size, holder, place, path in sorted(sized, key=lambda one: -one[0]):
        if excess <= 0 or size <= _MARK:
            return
        paths.add(path)
        value = holder[place]
        if holder is sections and type(value) is list:
            while value and excess > 0:
                excess -= len(encode(value.pop())) + 1
        else:
            raw = encode(value)
            holder[place] = _mark(raw, size, b"")
            excess -= size - len(encode(holder[place]))


def _mark(raw: bytes, size: int, head: bytes) -> Cut:
    return Cut(type="cut", size=size, digest="sha256:" + sha256(raw).hexdigest(), head=_decoded(head))


def _decoded(head: bytes) -> str:
    return head.decode("utf-8", "ignore")
