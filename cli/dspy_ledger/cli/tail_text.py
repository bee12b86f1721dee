"""The lines of ``dspy-ledger tail``, for people: who ran when on what, for how long and how much."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, tzinfo
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from dspy_ledger.cli.status import count_of
from dspy_ledger.cli.wording import counted
from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.store import StoredEvent
from dspy_ledger.timestamps import to_datetime

__all__ = ["Lines"]

_WORDS = {
    EVENT_TYPES["ExecutionCompleted"]: ("exec", "green"),
    EVENT_TYPES["ProgramRegistered"]: ("reg", "cyan"),
    EVENT_TYPES["EvaluationSaved"]: ("eval", "magenta"),
    EVENT_TYPES["ProducerReported"]: ("told", "dim"),
    EVENT_TYPES["BodyErased"]: ("gone", "yellow"),
}
_MODEL = 12  # columns
_LEAST = 60  # columns: a narrower terminal wraps
_INDENT = 14  # columns before what a second line says
_MOST_METRICS = 3


class Lines:
    """Turns events into lines, with a line of its own where another day begins.

    Args:
        width: columns to keep to; None for as many as it takes.
        zone: whose time to tell; the machine's by default.
        today: the day that goes without saying, as 2026-11-22; the current one by default.
    """

    def __init__(
        self, width: int | None = None, zone: tzinfo | None = None, today: str | None = None
    ) -> None:
        self._width = None if width is None else max(width, _LEAST)
        self._zone = zone
        self._day = today or f"{datetime.now(zone):%Y-%m-%d}"

    def of(self, event: StoredEvent, label: str | None) -> Iterator[Text]:
        """The lines of one event, whose content has that label."""
        moment = to_datetime(event.time).astimezone(self._zone)
        if (day := f"{moment:%Y-%m-%d}") != self._day:
            yield Text(f"— {day} —", style="dim")
            self._day = day
        word, style = _WORDS[event.type]
        error = event.data.get("error") if event.data.get("status") == "error" else None
        head = Text.assemble(f"{moment:%H:%M:%S} ", (f"{word:<4} ", "red" if error else style), no_wrap=True)
        rest = _printable(_details(event, fitted=self._width is not None))
        name = _printable(_name(event, label))
        if self._width is not None:
            name = _fitted(name, self._width - head.cell_len - 1 - cell_len(rest))
        yield self._cut(head.append(name, "bold").append(f" {rest}" if name else rest))
        if error:
            said = f"{error.get('type')}: {error.get('message')}"
            yield self._cut(Text(" " * _INDENT + _printable(said), "red", no_wrap=True))

    def _cut(self, line: Text) -> Text:
        line.rstrip()
        if self._width is not None:
            line.truncate(self._width, overflow="ellipsis")
        return line


def _name(event: StoredEvent, label: str | None) -> str:
    program_id = event.data.get("program_id")
    if not isinstance(program_id, str):
        return ""
    return f"{program_id}@{label}" if label else program_id


def _fitted(name: str, width: int) -> str:
    """A name in so many columns; of one that is too long the version stays, if there is room for both."""
    if not name or cell_len(name) <= width:
        return set_cell_size(name, max(width, 0)) if name else ""
    program_id, at, label = name.rpartition("@")
    room = width - cell_len(at + label) - 1
    if at and room > 0:
        return f"{set_cell_size(program_id, room)}…{at}{label}"
    return set_cell_size(name, max(0, width - 1)) + "…"


def _details(event: StoredEvent, *, fitted: bool) -> str:
    """What is told of an event after its program; in columns of their own when lines are to be fitted."""
    data = event.data
    match event.type.split(".")[-2]:
        case "ExecutionCompleted":
            tokens = sum(data.get("usage", {}).get(name) or 0 for name in ("input_tokens", "output_tokens"))
            told = [
                _model(data, fitted=fitted),
                f"{_duration(data['latency_ms']):>7}",
                f"{_counted(tokens):>8}",
                f"{_cost(data.get('cost_usd')):>8}",
            ]
            return " ".join(told if fitted else [text for text in map(str.strip, told) if text])
        case "EvaluationSaved":
            about = "feedback" if data.get("execution_id") else _model(data, fitted=False)
            return f"{about} {_metrics(data['results'])}".strip()
        case "ProgramRegistered":
            optimizer = data.get("optimizer")
            return f"by {optimizer['name'].rpartition('.')[2]}" if optimizer else data["kind"]
        case "ProducerReported":
            lost = {name: count_of(data.get(name, ())) for name in ("dropped", "unconfirmed")}
            lost["sampled out"] = data.get("sampled_out", 0)
            said = [counted(data["last"], "event"), *(f"{n:,} {name}" for name, n in lost.items() if n)]
            return f"{event.source.removeprefix('/producers/')} ({data['reason']}): {', '.join(said)}"
        case _:
            count = len(data["event_ids"])
            return f"{'1 body' if count == 1 else f'{count:,} bodies'}: {data['reason']}"


def _model(data: dict[str, Any], *, fitted: bool) -> str:
    model = data.get("model_id") or next(iter(data.get("models") or ()), "")
    if not fitted:
        return str(model)
    return set_cell_size(
        model if cell_len(model) <= _MODEL else set_cell_size(model, _MODEL - 1) + "…", _MODEL
    )


def _duration(milliseconds: float) -> str:
    """In three digits or so: ``0.4 ms``, ``38 ms``, ``1.25 s``, ``3.1 min``."""
    for unit, size, most in (("ms", 1.0, 1000.0), ("s", 1000.0, 100_000.0)):
        if milliseconds < most:
            value = milliseconds / size
            return f"{value:.{0 if value >= 10 else 1}f} {unit}"
    return f"{milliseconds / 60_000:.1f} min"


def _counted(tokens: float) -> str:
    """``551 tok``, ``1.2k tok``."""
    if not tokens:
        return ""
    for unit, size in (("", 1), ("k", 1e3), ("M", 1e6)):
        value = tokens / size
        if value < 1000 or unit == "M":
            break
    return f"{value:.{1 if unit and value < 100 else 0}f}{unit} tok"


def _cost(dollars: float | None) -> str:
    if dollars is None:
        return ""
    return f"${dollars:.2f}" if dollars >= 0.1 or dollars == 0 else f"${dollars:.5f}"


def _metrics(results: Any) -> str:
    """The first few numbers of results."""
    if not isinstance(results, dict):
        return str(results)
    numbers = [
        f"{name}={value:.4g}"
        for name, value in results.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return " ".join(numbers[:_MOST_METRICS])


def _printable(text: str) -> str:
    """What came over the wire moves no cursor and changes no colour."""
    return "".join(character if character.isprintable() else " " for character in text)
