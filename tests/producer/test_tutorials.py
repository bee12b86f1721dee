"""DSPy's own tutorials, written anew after its documentation, run unchanged under ``instrument``.

Only the model is another: DSPy's DummyLM, which answers from a list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Literal

import dspy
import pytest
from dspy.teleprompt import (
    COPRO,
    GEPA,
    BootstrapFewShot,
    BootstrapFewShotWithRandomSearch,
    Ensemble,
    LabeledFewShot,
)
from dspy.utils import DummyLM

from dspy_ledger.producer import Ledger, instrument, uninstrument
from dspy_ledger.producer.canonical import canonicalize
from dspy_ledger.settings import Settings
from dspy_ledger.wire import Entry
from producer.streams import entries
from servers import Valkey

Recorded = Callable[[str], list[Entry]]


@pytest.fixture
def recorded(settings: Settings, valkey: Valkey) -> Iterator[Recorded]:
    """All DSPy is recorded; gives the events of a kind so far."""
    ledger = Ledger.connect(settings=settings)
    instrument(ledger)

    def of_kind(kind: str) -> list[Entry]:
        assert ledger.flush(10)
        assert ledger.stats().dropped == 0
        return [entry for entry in entries(valkey, settings) if f".{kind}." in entry.type]

    yield of_kind
    uninstrument()
    ledger.close()


def tree(execution: Entry) -> list[str]:
    """The calls of an execution in order, each indented below the call that it was made in."""
    lines: list[str] = []
    depths: list[int] = []
    for call in json.loads(execution.body)["calls"]:
        depths.append(0 if call["parent"] is None else depths[call["parent"]] + 1)
        lines.append(f"{'  ' * depths[-1]}{call['kind']} {call['name']}")
    return lines


def below(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


PREDICT = ["module Predict", "  adapter ChatAdapter.format", "  lm dummy", "  adapter ChatAdapter.parse"]
CHAIN_OF_THOUGHT = ["module ChainOfThought", *below(PREDICT)]


# --- classification ---


class Ticket(dspy.Signature):
    """Sort a customer's message into the team that answers it."""

    message: str = dspy.InputField()
    team: Literal["billing", "shipping", "returns"] = dspy.OutputField()
    confidence: float = dspy.OutputField()


def test_classification(recorded) -> None:
    with dspy.context(lm=DummyLM([{"team": "billing", "confidence": "0.9"}])):
        classify = dspy.Predict(Ticket)
        assert classify(message="I was charged twice").team == "billing"
    [execution] = recorded("ExecutionCompleted")
    assert tree(execution) == PREDICT
    assert execution.envelope["data"]["program_id"] == "ticket"
    body = json.loads(execution.body)
    assert body["inputs"] == {"message": "I was charged twice"}
    assert body["outputs"] == {"team": "billing", "confidence": 0.9}
    [registered] = recorded("ProgramRegistered")
    assert registered.envelope["data"]["name"] == "Ticket"


def test_classification_with_labels_that_the_data_gives_and_with_reasons(recorded) -> None:
    labels = Literal[tuple(f"intent_{n}" for n in range(20))]
    signature = dspy.Signature("text -> label").with_updated_fields("label", type_=labels)
    with dspy.context(lm=DummyLM([{"reasoning": "it says so", "label": "intent_7"}])):
        assert dspy.ChainOfThought(signature)(text="where is my card?").label == "intent_7"
    [execution] = recorded("ExecutionCompleted")
    assert tree(execution) == CHAIN_OF_THOUGHT
    assert json.loads(execution.body)["outputs"] == {"reasoning": "it says so", "label": "intent_7"}


# --- retrieval-augmented generation ---


class Retriever(dspy.Module):
    """Stands for a vector store: the passages that share most words with the query."""

    PASSAGES = ("Valkey is a key-value store.", "DSPy programs language models.", "Bread needs yeast.")

    def forward(self, query: str):
        words = set(query.lower().split())
        ranked = sorted(self.PASSAGES, key=lambda passage: -len(words & set(passage.lower().split())))
        return dspy.Prediction(passages=ranked[:2])


class Rag(dspy.Module):
    def __init__(self, search: Callable) -> None:
        super().__init__()
        self.search = search
        self.respond = dspy.ChainOfThought("context, question -> response")

    def forward(self, question: str):
        context = self.search(question).passages
        return self.respond(context=context, question=question)


RESPONSE = [{"reasoning": "the passage says so", "response": "a key-value store"}]


def test_rag_with_a_retriever_that_is_a_module(recorded) -> None:
    with dspy.context(lm=DummyLM(RESPONSE)):
        assert Rag(Retriever())(question="what is valkey").response == "a key-value store"
    [execution] = recorded("ExecutionCompleted")
    assert tree(execution) == ["module Rag", "  module Retriever", *below(CHAIN_OF_THOUGHT)]


def test_rag_with_a_retriever_that_is_a_function(recorded) -> None:
    with dspy.context(lm=DummyLM(RESPONSE)):
        Rag(lambda query: dspy.Prediction(passages=[query]))("what is valkey")
    [execution] = recorded("ExecutionCompleted")
    assert tree(execution) == ["module Rag", *below(CHAIN_OF_THOUGHT)]
    assert json.loads(execution.body)["inputs"] == {"question": "what is valkey"}


# --- agents with tools ---


def look_up(topic: str) -> list[str]:
    """Abstracts about a topic."""
    return [f"{topic} was built in 1889"]


def divide(dividend: float, divisor: float) -> float:
    """One number by another."""
    return dividend / divisor


def step(tool: str, **arguments: object) -> dict[str, str]:
    """What the model answers to choose a tool."""
    return {
        "next_thought": f"{tool} helps",
        "next_tool_name": tool,
        "next_tool_args": json.dumps(arguments),
    }


STEPS = [
    step("look_up", topic="the tower"),
    step("divide", dividend=1889, divisor=0),
    step("divide", dividend=1889, divisor=2),
    step("finish"),
    {"reasoning": "half of it", "answer": "944.5"},
]
REACT = [
    "module ReAct",
    *(
        line
        for tool in ("look_up", "divide", "divide", "finish")
        for line in (*below(PREDICT), f"  tool {tool}")
    ),
    *below(CHAIN_OF_THOUGHT),
]


def agent() -> dspy.ReAct:
    return dspy.ReAct("question -> answer: float", tools=[look_up, divide])


def test_react_with_tools(recorded) -> None:
    with dspy.context(lm=DummyLM(STEPS)):
        assert agent()(question="half of the tower's year?").answer == 944.5
    [execution] = recorded("ExecutionCompleted")
    assert tree(execution) == REACT
    failed = [call for call in json.loads(execution.body)["calls"] if "error" in call]
    assert [(call["name"], call["error"]["type"]) for call in failed] == [("divide", "ZeroDivisionError")]
    assert execution.envelope["data"]["status"] == "ok"
    assert execution.envelope["data"]["call_counts"] == {"module": 7, "lm": 5, "adapter": 10, "tool": 4}


async def test_react_with_tools_awaited(recorded) -> None:
    with dspy.context(lm=DummyLM(STEPS)):
        assert (await agent().acall(question="half of the tower's year?")).answer == 944.5
    [execution] = recorded("ExecutionCompleted")
    assert tree(execution) == REACT


# --- programs of several modules ---


class Outline(dspy.Signature):
    """Outline an article on a topic."""

    topic: str = dspy.InputField()
    title: str = dspy.OutputField()
    sections: list[str] = dspy.OutputField()


class Section(dspy.Signature):
    """Write one section of an article."""

    topic: str = dspy.InputField()
    heading: str = dspy.InputField()
    content: str = dspy.OutputField()


class Article(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.outline = dspy.ChainOfThought(Outline)
        self.write = dspy.Predict(Section)

    def forward(self, topic: str):
        outline = self.outline(topic=topic)
        sections = [self.write(topic=outline.title, heading=heading) for heading in outline.sections]
        return dspy.Prediction(title=outline.title, sections=[section.content for section in sections])


class ParallelArticle(Article):
    """Writes all sections at once."""

    def forward(self, topic: str):
        outline = self.outline(topic=topic)
        inputs = [{"topic": outline.title, "heading": heading} for heading in outline.sections]
        sections = dspy.Parallel(num_threads=3, disable_progress_bar=True)(
            [(self.write, dspy.Example(**one).with_inputs(*one)) for one in inputs]
        )
        return dspy.Prediction(title=outline.title, sections=[section.content for section in sections])


OUTLINED = {"reasoning": "…", "title": "Bread", "sections": json.dumps(["Flour", "Yeast", "Heat"])}
WRITTEN = [OUTLINED, *[{"content": "a paragraph"}] * 3]


def test_article_of_an_outline_and_its_sections(recorded) -> None:
    with dspy.context(lm=DummyLM(WRITTEN)):
        assert Article()(topic="bread").sections == ["a paragraph"] * 3
    [execution] = recorded("ExecutionCompleted")
    assert tree(execution) == ["module Article", *below(CHAIN_OF_THOUGHT), *below(PREDICT) * 3]
    assert json.loads(execution.body)["outputs"]["title"] == "Bread"


def test_article_whose_sections_are_written_at_once(recorded) -> None:
    with dspy.context(lm=DummyLM(WRITTEN)):
        assert ParallelArticle()(topic="bread").sections == ["a paragraph"] * 3
    [execution] = recorded("ExecutionCompleted")
    calls = json.loads(execution.body)["calls"]
    predicts = [n for n, call in enumerate(calls) if call["name"] == "Predict" and call["parent"] == 0]
    assert len(predicts) == 3
    below_each = [[call["kind"] for call in calls if call["parent"] == n] for n in predicts]
    assert below_each == [["adapter", "lm", "adapter"]] * 3


class MultiHop(dspy.Module):
    """Asks for what is missing, searches for it, notes it, and answers at last."""

    def __init__(self, hops: int = 2) -> None:
        super().__init__()
        self.hops = hops
        self.search = Retriever()
        self.ask = dspy.ChainOfThought("claim, notes -> query")
        self.note = dspy.ChainOfThought("claim, notes, context -> new_notes: list[str]")
        self.judge = dspy.Predict("claim, notes -> verdict: bool")

    def forward(self, claim: str):
        notes: list[str] = []
        for _ in range(self.hops):
            query = self.ask(claim=claim, notes=notes).query
            found = self.search(query=query).passages
            notes += self.note(claim=claim, notes=notes, context=found).new_notes
        return dspy.Prediction(notes=notes, verdict=self.judge(claim=claim, notes=notes).verdict)


def test_multi_hop_research(recorded) -> None:
    hop = [{"reasoning": "…", "query": "valkey"}, {"reasoning": "…", "new_notes": '["it is a store"]'}]
    with dspy.context(lm=DummyLM([*hop, *hop, {"verdict": "True"}])):
        assert MultiHop()(claim="Valkey stores keys").verdict is True
    [execution] = recorded("ExecutionCompleted")
    one_hop = below([*CHAIN_OF_THOUGHT, "module Retriever", *CHAIN_OF_THOUGHT])
    assert tree(execution) == ["module MultiHop", *one_hop, *one_hop, *below(PREDICT)]


# --- optimizers ---


class Capitals(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought("question -> answer")

    def forward(self, question: str):
        return self.answer(question=question)


EXAMPLES = [
    dspy.Example(question=f"the capital of {country}?", answer=capital).with_inputs("question")
    for country, capital in {"France": "Paris", "Texas": "Austin", "Gabon": "Libreville"}.items()
] * 3


def exact(example, prediction, trace=None, *_):
    return example.answer == prediction.answer


def model() -> DummyLM:
    """Right for a third of the examples; it also has what optimizers ask a model for."""
    said = {
        "reasoning": "known from school",
        "answer": "Paris",
        "proposed_instruction": "Name the capital.",
        "new_instruction": "Name the capital city.",
        "proposed_prefix_for_output_field": "Capital:",
        "natural_language_rules": "Capitals are cities.",
    }
    return DummyLM([said] * 5000)


def random_search(program):
    optimizer = BootstrapFewShotWithRandomSearch(
        metric=exact, max_bootstrapped_demos=2, max_labeled_demos=2, num_candidate_programs=3, num_threads=2
    )
    return optimizer.compile(program, trainset=EXAMPLES)


def bootstrap(program):
    return BootstrapFewShot(metric=exact, max_bootstrapped_demos=1).compile(program, trainset=EXAMPLES)


def labeled(program):
    return LabeledFewShot(k=2).compile(program, trainset=EXAMPLES)


def copro(program):
    optimizer = COPRO(metric=exact, breadth=2, depth=1)
    evaluation = {"num_threads": 2, "display_progress": False}
    return optimizer.compile(program, trainset=EXAMPLES, eval_kwargs=evaluation)


def gepa(program):
    optimizer = GEPA(metric=exact, max_metric_calls=30, reflection_lm=model(), num_threads=2)
    return optimizer.compile(program, trainset=EXAMPLES, valset=EXAMPLES)


def ensemble(program):
    return Ensemble(reduce_fn=dspy.majority).compile([program, labeled(program)])


OPTIMIZERS = [random_search, bootstrap, labeled, copro, gepa, ensemble]


@pytest.mark.parametrize("optimize", OPTIMIZERS)
def test_optimizer_registers_no_candidate_and_its_evaluated_result_is_registered(optimize, recorded) -> None:
    with dspy.context(lm=model()):
        compiled = optimize(Capitals())
        for kind in ("ProgramRegistered", "ExecutionCompleted", "EvaluationSaved"):
            assert recorded(kind) == []
        content = canonicalize(compiled).content_hash
        result = dspy.Evaluate(devset=EXAMPLES, metric=exact, num_threads=2)(compiled)
    [registered] = recorded("ProgramRegistered")
    [evaluation] = recorded("EvaluationSaved")
    assert recorded("ExecutionCompleted") == []
    assert registered.envelope["data"]["content_hash"] == content
    assert evaluation.envelope["data"]["content_hash"] == content
    assert evaluation.envelope["data"]["results"]["score"] == result.score
    assert evaluation.envelope["data"]["dataset"]["size"] == len(EXAMPLES)


class LearningAtEachCall(dspy.Module):
    """Compiles and tries a program before it answers, as what KNNFewShot makes does."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str):
        compiled = BootstrapFewShot(metric=exact, max_bootstrapped_demos=1, max_labeled_demos=0).compile(
            self.answer, trainset=EXAMPLES[:1]
        )
        dspy.Evaluate(devset=EXAMPLES[:2], metric=exact, num_threads=1)(compiled)
        return compiled(question=question)


def test_what_is_optimized_within_an_execution_is_part_of_it(recorded) -> None:
    with dspy.context(lm=model()):
        LearningAtEachCall()(question="the capital of France?")
    [execution] = recorded("ExecutionCompleted")
    assert recorded("EvaluationSaved") == []
    [registered] = recorded("ProgramRegistered")
    assert registered.envelope["data"]["name"] == "LearningAtEachCall"
    assert tree(execution) == [
        "module LearningAtEachCall",
        *below(["compile BootstrapFewShot", *below(PREDICT)]),
        *below(["evaluate Evaluate", *below(PREDICT), *below(PREDICT)]),
        *below(PREDICT),
    ]


def test_optimized_program_that_answers_is_the_one_that_was_evaluated(recorded) -> None:
    with dspy.context(lm=model()):
        compiled = random_search(Capitals())
        dspy.Evaluate(devset=EXAMPLES, metric=exact, num_threads=2)(compiled)
        compiled(question="the capital of France?")
    [registered] = recorded("ProgramRegistered")
    [evaluation] = recorded("EvaluationSaved")
    [execution] = recorded("ExecutionCompleted")
    told = {
        (one.envelope["data"]["program_id"], one.envelope["data"]["content_hash"])
        for one in (registered, evaluation, execution)
    }
    assert len(told) == 1
    assert tree(execution) == ["module Capitals", *below(CHAIN_OF_THOUGHT)]
