"""DSPy programs of every shape that the canonical form must read; also run as a script by its own test."""

from __future__ import annotations

import enum
from typing import Literal

import dspy
import pydantic


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Review(pydantic.BaseModel):
    """A review."""

    stars: int = pydantic.Field(ge=1, le=5, description="how many")
    text: str = ""
    replies: list[Review] = []


class Ask(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField(desc="what is asked")
    context: list[str] | None = dspy.InputField(default=None)
    mood: Mood = dspy.InputField(default=Mood.GOOD)
    answer: str = dspy.OutputField()
    verdict: Literal["yes", "no"] = dspy.OutputField()

    @staticmethod
    def process_output(result):
        return result.answer


class Simple(dspy.Signature):
    """Answer shortly."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Rag(dspy.Module):
    """Two predictors and a list."""

    def __init__(self):
        super().__init__()
        self.answer = dspy.ChainOfThought(Simple)  # a comment
        self.query = dspy.Predict("question -> query: str")
        self.steps = [dspy.Predict("query -> rewritten"), dspy.Predict("query -> score: float")]

    def forward(self, question: str, k: int = 3):
        query = self.query(question=question).query
        return self.answer(question=f"{question} {query} {k}")

    def process_output(self, result):
        return result.answer.upper()


class WithFrozen(dspy.Module):
    def __init__(self):
        super().__init__()
        self.inner = Rag()
        self.last = dspy.Predict(Simple)

    def forward(self, question):
        return self.last(question=self.inner(question=question).answer)


class NeedsArguments(dspy.Module):
    def __init__(self, signature):
        super().__init__()
        self.predict = dspy.Predict(signature)

    def forward(self, **kwargs):
        return self.predict(**kwargs)


class Nested:
    class Inner(dspy.Module):
        """Docstrings stay.

        # also this line, which is no comment
        """

        def __init__(self):
            super().__init__()

            self.predict = dspy.Predict(Simple)  # one

        # two
        def forward(self, question):
            return self.predict(question=question)


def find(query: str, limit: int = 3) -> list[str]:
    """Find passages."""
    return [query] * limit  # a comment


class Looped(dspy.Module):
    def __init__(self):
        super().__init__()
        self.b = dspy.Predict(Simple)
        self.a = self.b
        self.parent = self
        self.tools = {"find": dspy.Predict("q -> a")}

    def forward(self, question):
        return self.a(question=question)


def agent():
    return dspy.ReAct("question -> answer", tools=[find], max_iters=4)


if __name__ == "__main__":
    from dspy_ledger.producer.canonical import canonicalize

    for program in (Ask, Rag, WithFrozen, Nested.Inner, Looped, agent()):
        print(canonicalize(program).content_hash)  # noqa: T201
