"""How the ledger is: what the overview tells at one glance, and the page of the ledger in full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request

from dspy_ledger.api.metrics import Gauges, directory_position
from dspy_ledger.api.pages.wording import sum_of_ranges
from dspy_ledger.api.reading import Question, sources_of
from dspy_ledger.producers import told
from dspy_ledger.timestamps import to_datetime, utc_now

__all__ = ["Health", "health_of"]

_RECENT = 600.0  # seconds since a producer's last event within which it counts as running


@dataclass(frozen=True, slots=True)
class Health:
    """The ledger at one moment; ``producers`` are as the API tells them, with ``lost``, ``recent``."""

    gauges: Gauges
    producers: list[dict[str, Any]]

    @property
    def lag(self) -> int:
        """Events that the projection which is farthest behind has not folded."""
        return max((self.gauges.position - at for at in self.gauges.positions.values()), default=0)

    @property
    def missing(self) -> int:
        """Numbers of producers that are on their way, or lost."""
        return sum(sum_of_ranges(producer["missing"]) for producer in self.producers)

    @property
    def dropped(self) -> int:
        """Events that producers gave up."""
        return sum(sum_of_ranges(producer["dropped"]) for producer in self.producers)

    @property
    def running(self) -> int:
        """Producers that were seen lately."""
        return sum(producer["recent"] for producer in self.producers)

    @property
    def parked(self) -> int:
        """Events that a projection left out."""
        return sum(self.gauges.parked.values())


def health_of(request: Request, question: Question) -> Health:
    """Of now, from store, view and directory."""
    sources = sources_of(request)
    positions = {"sql": question.position, **directory_position(sources.data_dir)}
    gauges = sources.ask_store(lambda store: Gauges.read(store, sources.data_dir, sources.stream, positions))
    now = to_datetime(utc_now())
    producers = [told(account) for account in gauges.producers]
    for producer in producers:
        silent = (now - to_datetime(producer["last_seen"])).total_seconds()
        producer["recent"] = silent <= _RECENT
        producer["lost"] = sum(
            sum_of_ranges(producer[name]) for name in ("dropped", "unconfirmed", "missing")
        )
    return Health(gauges, producers)
