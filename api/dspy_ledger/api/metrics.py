"""The ledger as Prometheus sees it: positions, lags, losses, and what producers recorded.

Everything about the ledger is read when it is asked for, from store, view and directory, so every API process
tells the same. What an API process answered is its own, and begins anew with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dspy_ledger.api.counting import BOUNDS, Counts
from dspy_ledger.files import LEASE, is_locked
from dspy_ledger.store import EventStore, ProducerAccount
from dspy_ledger.streams import Reading
from dspy_ledger.timestamps import to_datetime, utc_now

__all__ = ["Gauges", "directory_position", "exposition"]

_RECENT = 3600.0
"""Seconds after its last event that a producer which lost nothing has lines of its own."""

_MOST_PRODUCERS = 100
"""Producers with lines of their own: those seen last, first of those that lost something."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is told, read at one moment.

    ``running``: whether a projector writes. ``positions`` are those of the projections that could be asked,
    ``waiting`` how many seconds the first event that one has not folded is stored already (0: it has all);
    ``reading`` is how the stream is read, None when that is not known.
    """

    running: bool
    position: int
    recorded_at: str | None
    positions: dict[str, int]
    waiting: dict[str, float]
    parked: dict[str, int]
    dead_letters: int
    producers: list[ProducerAccount]
    reading: Reading | None

    @classmethod
    def read(cls, store: EventStore, data_dir: Path, stream: str, positions: dict[str, int]) -> Gauges:
        """Those of a store, of the projector on a data dir, and of the views that stand at ``positions``."""
        last = store.last_position()
        newest = store.event_at(last)
        checkpoint = store.stream_checkpoint(stream)
        return cls(
            running=is_locked(data_dir / LEASE),
            position=last,
            recorded_at=newest.recorded_at if newest else None,
            positions=positions,
            waiting={name: _waiting(store, at) for name, at in positions.items()},
            parked=dict(Counter(parked.projection for parked in store.parked())),
            dead_letters=store.dead_letter_count(),
            producers=store.producers(),
            reading=Reading.decode(checkpoint.server) if checkpoint else None,
        )


def directory_position(data_dir: Path) -> dict[str, int]:
    """How far the JSON directory is, by its name; empty when there is none."""
    with suppress(OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return {"directory": int(orjson.loads((data_dir / "directory.json").read_bytes())["position"])}
    return {}


def exposition(gauges: Gauges, counts: Counts, streams: int) -> bytes:
    """All of it in Prometheus's text format.

    Args:
        gauges: of the ledger.
        counts: of this process.
        streams: how many read its live stream.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(gauges))
    registry.register(_Answers(counts, streams))
    return generate_latest(registry)


def _waiting(store: EventStore, position: int) -> float:
    event = store.event_at(position + 1)
    if event is None:
        return 0.0
    return max(0.0, (to_datetime(utc_now()) - to_datetime(event.recorded_at)).total_seconds())


class _Answers(Collector):
    def __init__(self, counts: Counts, streams: int) -> None:
        self._counts = counts
        self._streams = streams

    def collect(self) -> Iterable[Metric]:
        yield _one("dspy_ledger_api_streams", "Readers of this process's live event stream.", self._streams)
        requests = CounterMetricFamily(
            "dspy_ledger_api_requests",
            "Answers of this process by method, path template and status.",
            labels=["method", "path", "status"],
        )
        for (method, path, status), count in self._counts.requests.items():
            requests.add_metric([method, path, str(status)], count)
        yield requests
        durations = HistogramMetricFamily(
            "dspy_ledger_api_request_seconds",
            "Seconds from a request to the beginning of its answer.",
            labels=["path"],
        )
        bounds = [*map(str, BOUNDS), "+Inf"]
        for path, buckets in self._counts.durations.items():
            cumulated = list(zip(bounds, accumulate(buckets), strict=True))
            durations.add_metric([path], cumulated, self._counts.seconds[path])
        yield durations


class _Collector(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        told = self._gauges
        yield _one(
            "dspy_ledger_projector_running", "1 while a projector (or a command) writes.", int(told.running)
        )
        yield _one("dspy_ledger_position", "Position of the last event in the store.", told.position)
        if told.recorded_at is not None:
            moment = to_datetime(told.recorded_at).timestamp()
            yield _one("dspy_ledger_last_recorded_seconds", "When it was stored, Unix time.", moment)
        yield _many(
            "dspy_ledger_projection_position",
            "Position up to which a projection is folded.",
            "projection",
            told.positions,
        )
        yield _many(
            "dspy_ledger_projection_lag_events",
            "Events in the store that a projection has not folded yet.",
            "projection",
            {name: max(0, told.position - at) for name, at in told.positions.items()},
        )
        yield _many(
            "dspy_ledger_projection_lag_seconds",
            "How long the first event that a projection has not folded is stored already; 0 when it has all.",
            "projection",
            self._gauges.waiting,
        )
        yield _many(
            "dspy_ledger_parked_events",
            "Events that a projection could not fold and left out.",
            "projection",
            {**dict.fromkeys(told.positions, 0), **told.parked},
        )
        yield _one(
            "dspy_ledger_dead_letters", "Entries of the stream that are no valid events.", told.dead_letters
        )
        yield from self._stream()
        yield from self._producers()

    def _stream(self) -> Iterator[Metric]:
        reading = self._gauges.reading
        if reading is not None:
            yield _one(
                "dspy_ledger_stream_read_again",
                "1 while the stream is read again from its beginning.",
                int(reading.until is not None),
            )
            yield _one(
                "dspy_ledger_stream_cut_entries",
                "Entries deleted before every consumer group was done with them, since reading began.",
                reading.cut,
            )

    def _producers(self) -> Iterator[Metric]:
        all_events = GaugeMetricFamily(
            "dspy_ledger_events",
            "Sequence numbers of all producers by what became of them; sampled_out never had one.",
            labels=["state"],
        )
        totals: Counter[str] = Counter()
        own = GaugeMetricFamily(
            "dspy_ledger_producer_events",
            "The same of one producer: at most 100 that lost events or were seen within the last hour.",
            labels=["source", "state"],
        )
        notable: list[tuple[bool, str, str, dict[str, int]]] = []
        for account in self._gauges.producers:
            states = _states(account)
            totals.update(states)
            lost = any(states[name] for name in ("dead_lettered", "dropped", "unconfirmed", "missing"))
            if lost or self._is_recent(account):
                notable.append((lost, account.last_seen, account.source, states))
        for _, _, source, states in sorted(notable, key=itemgetter(0, 1), reverse=True)[:_MOST_PRODUCERS]:
            for state, count in states.items():
                own.add_metric([source, state], count)
        for state, count in totals.items():
            all_events.add_metric([state], count)
        yield all_events
        yield own

    def _is_recent(self, account: ProducerAccount) -> bool:
        newest = self._gauges.recorded_at or account.last_seen
        return (to_datetime(newest) - to_datetime(account.last_seen)).total_seconds() <= _RECENT


def _states(account: ProducerAccount) -> dict[str, int]:
    return {
        "recorded": account.last,
        "stored": account.stored,
        "dead_lettered": account.dead_lettered,
        "dropped": _count(account.dropped),
        "unconfirmed": _count(account.unconfirmed),
        "missing": _count(account.missing),
        "sampled_out": account.sampled_out,
    }


def _count(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _one(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


def _many(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for of, value in values.items():
        family.add_metric([of], value)
    return family
