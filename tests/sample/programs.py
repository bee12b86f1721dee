"""The programs of the sample: what a small team might serve."""

from __future__ import annotations

import dspy

from dspy_ledger.cli.demo.programs import Contact


class TopicExplainer(dspy.Module):
    """Explains a topic, then says the same in one sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.explain = dspy.Predict("input -> output")
        self.shorten = dspy.Predict("input -> output")

    def forward(self, input: str) -> dspy.Prediction:  # noqa: A002  the field's name
        if not input.strip():
            raise ValueError("the topic is empty")
        long = self.explain(input=input).output
        return dspy.Prediction(output=self.shorten(input=f"{input} In one sentence: {long}").output)


class ContactExtractorByCountry(dspy.Signature):
    """Extract the contact details of the person on a business card, as they are written in its country.

    Copy what the card says and never guess: a field that the card does not show is null.
    """

    card_text: str = dspy.InputField(desc="the text on the card, line by line, as scanned")
    country: str = dspy.InputField(desc="where the card was handed over, ISO 3166")
    contact: Contact = dspy.OutputField(desc="the person's contact details")
