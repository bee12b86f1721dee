"""The shipped signature for plain text: one input, one output."""

import dspy

__all__ = ["Predictor"]


class Predictor(dspy.Signature):
    """Complete or answer the input text."""

    input: str = dspy.InputField(desc="the text to complete or the question to answer")
    output: str = dspy.OutputField(desc="the completion or the answer")
