"""The demo's DSPy programs, the data they learn from and the metrics they are judged by.

Replica processes import this module, so everything in it is at module level. *Text Completion* itself is
`dspy_ledger.producer.Predictor` (`input -> output`); here are its examples and its metric.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import dspy
from pydantic import BaseModel, Field

from dspy_ledger.cli.demo.card_reader import CONTACT_KEYS
from dspy_ledger.cli.demo.world_data import business_cards, topics

__all__ = [
    "BOOTSTRAP",
    "Contact",
    "ContactExtractor",
    "completion_devset",
    "completion_metric",
    "completion_trainset",
    "contact_devset",
    "contact_metric",
    "contact_trainset",
]

BOOTSTRAP: Final[Mapping[str, int]] = {"max_bootstrapped_demos": 4, "max_labeled_demos": 8}
"""Parameters for `dspy.BootstrapFewShot` under which both programs improve on both models."""

_TRAINING_EXAMPLES = 16  # the first so many of each data set; the others are the development set
_MOST_WORDS = 25


class Contact(BaseModel):
    """A person's contact details as printed on a business card; null for what the card does not show."""

    name: str | None = Field(default=None, description="given name first, without honorifics and degrees")
    title: str | None = Field(default=None, description="job title as printed")
    company: str | None = Field(default=None, description="company or organisation as printed")
    email: str | None = Field(default=None, description="e-mail address")
    phone: str | None = Field(
        default=None, description="digits only, with a leading + where the card has one"
    )


class ContactExtractor(dspy.Signature):
    """Extract the contact details of the person on a business card.

    Copy what the card says and never guess: a field that the card does not show is null. Write the name with
    the given name first, without honorifics and academic degrees. Where there are several telephone numbers
    take the mobile one, else the first that is not a fax. Write it as digits, with the leading + if the card
    prints one and without a trunk zero in brackets or an extension. Repair scanning errors in addresses and
    numbers.
    """

    card_text: str = dspy.InputField(desc="the text on the card, line by line, as scanned")
    contact: Contact = dspy.OutputField(desc="the person's contact details")


def completion_trainset() -> list[dspy.Example]:
    """Return the examples from which Text Completion is compiled."""
    return _completion_examples()[:_TRAINING_EXAMPLES]


def completion_devset() -> list[dspy.Example]:
    """Return the examples on which Text Completion is judged; none of them is in the training set."""
    return _completion_examples()[_TRAINING_EXAMPLES:]


def contact_trainset() -> list[dspy.Example]:
    """Return the cards from which the Contact Extractor is compiled."""
    return _contact_examples()[:_TRAINING_EXAMPLES]


def contact_devset() -> list[dspy.Example]:
    """Return the cards on which the Contact Extractor is judged; none of them is in the training set."""
    return _contact_examples()[_TRAINING_EXAMPLES:]


def completion_metric(
    example: dspy.Example, prediction: dspy.Prediction, trace: object = None
) -> float | bool:
    """Judge an answer from 0 to 1: names the key term (0.5), at most 25 words (0.3), one sentence (0.2).

    While bootstrapping (`trace` is given) the answer must be right in all three.
    """
    text = str(prediction.output).strip()
    names_it = re.search(rf"\b{re.escape(example.key_term)}", text, re.IGNORECASE) is not None
    is_brief = 0 < len(text.split()) <= _MOST_WORDS
    is_one_sentence = re.fullmatch(r"[^.!?]+[.!?]", text) is not None
    if trace is not None:
        return names_it and is_brief and is_one_sentence
    return round(0.5 * names_it + 0.3 * is_brief + 0.2 * is_one_sentence, 2)


def contact_metric(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> float | bool:
    """Return the share of the five fields that are right, whatever their case, spacing and punctuation.

    While bootstrapping (`trace` is given) all five must be right.
    """
    wanted, got = example.contact, prediction.contact
    right = [_normal(key, getattr(wanted, key)) == _normal(key, getattr(got, key)) for key in CONTACT_KEYS]
    return all(right) if trace is not None else sum(right) / len(right)


def _normal(key: str, value: str | None) -> str:
    if value is None:
        return ""
    if key == "phone" and any(character.isdigit() for character in value):
        return "".join(character for character in value if character.isdigit())
    return " ".join(value.split()).casefold()


def _completion_examples() -> list[dspy.Example]:
    return [_example(("input",), input=t.prompt, output=t.short, key_term=t.key_term) for t in topics()]


def _contact_examples() -> list[dspy.Example]:
    return [
        _example(("card_text",), card_text=c.text, contact=Contact(**c.contact)) for c in business_cards()
    ]


def _example(inputs: tuple[str, ...], **values: Any) -> dspy.Example:
    return dspy.Example(**values).with_inputs(*inputs)
