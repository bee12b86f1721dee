"""What a page makes of a program's matrix: shades, the best version for each model, quality against price.

Pure. The matrix is that of :func:`dspy_ledger.api.queries.matrix.matrix`; a cell's latest value counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from dspy_ledger.api.pages.pareto import pareto_front

__all__ = [
    "SHADES",
    "Better",
    "Choice",
    "HeatCell",
    "best_by_model",
    "best_by_version",
    "choices",
    "heat",
    "score",
    "tradeoffs",
]

Better = Literal["higher", "lower"]

SHADES = 7
"""The style sheet's ``.heat-1`` (worst) to ``.heat-7`` (best)."""


class HeatCell(NamedTuple):
    """One value with its shade; ``best`` among all versions on this model."""

    value: float
    evaluations: int
    shade: int
    best: bool
    evaluation_id: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A version on a model: how well it did, and what an execution takes (None where nobody told).

    ``cost`` is in USD and ``latency`` in ms, both means over ``executions``.
    """

    version: str
    model_id: str
    quality: float
    evaluations: int
    executions: int
    errors: int
    cost: float | None
    latency: float | None


def choices(matrix: dict[str, Any]) -> list[Choice]:
    """Every version on every model for which the matrix has a value, in the matrix's order."""
    return [_choice(cell) for cell in matrix["cells"] if _told(cell)]


def best_by_model(found: list[Choice], better: Better) -> list[Choice]:
    """The best version for each model, by model; of equal ones the cheaper, then the newer."""
    best: dict[str, Choice] = {}
    for choice in found:  # versions in order of registration
        rival = best.get(choice.model_id)
        if rival is None or _rank(choice, better) >= _rank(rival, better):
            best[choice.model_id] = choice
    return [best[model_id] for model_id in sorted(best)]


def best_by_version(found: list[Choice], better: Better) -> dict[str, Choice]:
    """The model on which each version did best."""
    best: dict[str, Choice] = {}
    for choice in found:
        rival = best.get(choice.version)
        if rival is None or _rank(choice, better) > _rank(rival, better):
            best[choice.version] = choice
    return best


def heat(matrix: dict[str, Any], better: Better) -> dict[tuple[str | None, str | None], HeatCell]:
    """The cells that have a value, by (version, model)."""
    told = [cell for cell in matrix["cells"] if cell["latest"] is not None]
    values = [cell["latest"]["value"] for cell in told]
    low, high = min(values, default=0), max(values, default=0)
    pick: Callable[[list[float]], float] = max if better == "higher" else min
    columns: dict[str | None, list[float]] = {}
    for cell in told:
        columns.setdefault(cell["model_id"], []).append(cell["latest"]["value"])
    best = {model_id: pick(column) for model_id, column in columns.items()}
    found = {}
    for cell in told:
        value = cell["latest"]["value"]
        found[cell["version"], cell["model_id"]] = HeatCell(
            value,
            cell["evaluations"],
            _shade(value, low, high, better),
            value == best[cell["model_id"]] and len(columns[cell["model_id"]]) > 1,
            cell["latest"]["evaluation_id"],
        )
    return found


def tradeoffs(found: list[Choice], better: Better) -> dict[str, list[Choice]]:
    """By ``cost`` and by ``latency``: the choices that no other beats in quality at that price or less."""
    fronts = {}
    for price in ("cost", "latency"):
        told = [choice for choice in found if getattr(choice, price) is not None]
        read = attrgetter("quality", price)
        fronts[price] = [told[at] for at in pareto_front([read(choice) for choice in told], better=better)]
    return fronts


def score(value: float | None) -> str:
    """A metric's value in four digits (``0.9524``, ``96.4``, ``1.2e+09``)."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def _told(cell: dict[str, Any]) -> bool:
    return cell["latest"] is not None and cell["version"] is not None and cell["model_id"] is not None


def _choice(cell: dict[str, Any]) -> Choice:
    totals = cell["totals"] or {}
    known = totals.get("cost_known")
    return Choice(
        version=cell["version"],
        model_id=cell["model_id"],
        quality=cell["latest"]["value"],
        evaluations=cell["evaluations"],
        executions=totals.get("executions", 0),
        errors=totals.get("errors", 0),
        cost=totals["cost_usd"] / known if known else None,
        latency=totals.get("mean_latency_ms"),
    )


def _rank(choice: Choice, better: Better) -> tuple[float, float]:
    quality = choice.quality if better == "higher" else -choice.quality
    return quality, -(choice.cost if choice.cost is not None else float("inf"))


def _shade(value: float, low: float, high: float, better: Better) -> int:
    if high == low:
        return SHADES
    # Halved first: the difference of two large numbers may be beyond the largest.
    share = (value / 2 - low / 2) / (high / 2 - low / 2)
    if better == "lower":
        share = 1 - share
    return 1 + min(SHADES - 1, int(share * SHADES))
