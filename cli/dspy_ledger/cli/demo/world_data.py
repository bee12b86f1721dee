"""Load the data that the demo ships: topics a model can talk about, business cards with what they say."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["BusinessCard", "Topic", "business_cards", "topics"]


@dataclass(frozen=True)
class Topic:
    """A subject, how a user asks about it, and what can be said: briefly, or at length."""

    subject: str
    prompt: str
    key_term: str
    short: str
    long: str


@dataclass(frozen=True)
class BusinessCard:
    """A card's text and the contact it shows: name, title, company, email, phone; null where it has none."""

    text: str
    contact: dict[str, str | None]


@cache
def topics() -> tuple[Topic, ...]:
    """Return all topics in file order."""
    return tuple(Topic(**entry) for entry in _load("topics.json"))


@cache
def business_cards() -> tuple[BusinessCard, ...]:
    """Return all cards in file order; the file keeps a card's lines apart so that its diffs can be read."""
    return tuple(
        BusinessCard("\n".join(entry["card"]), entry["contact"]) for entry in _load("business_cards.json")
    )


def _load(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads(
        (files("dspy_ledger.cli.demo") / "data" / name).read_text(encoding="utf-8")
    )
    return loaded
