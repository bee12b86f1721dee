"""The two cheap ways to tell a program's content without reading it again never tell it wrongly."""

from __future__ import annotations

import enum
import functools
import gc
import random
import types
import weakref
from contextlib import suppress
from itertools import combinations
from time import thread_time

import dspy
import pytest

from dspy_ledger.producer.canonical import canonicalize
from dspy_ledger.producer.likeness import likeness
from dspy_ledger.producer.recognition import Recogniser
from dspy_ledger.producer.testing import MemoryLedger
from dspy_ledger.producer.watching import Watch
from producer.programs import Ask, Looped, Nested, Rag, Simple, WithFrozen, agent, find

pytestmark = pytest.mark.filterwarnings("ignore:The 'prefix' argument")  # DSPy's own modules still use it


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Limited(dspy.Module):
    """Of the host's own: numbers among its attributes are its code's affair."""

    def __init__(self, limit: int = 3) -> None:
        super().__init__()
        self.limit = limit
        self.steps = {"one": dspy.Predict(Simple)}


def look(query: str, limit: int = 3) -> list[str]:
    """Find passages."""
    return [query] * (limit + 1)


class Shelf:
    def find(self, query: str, limit: int = 3) -> list[str]:
        """Find passages."""
        return [query]


def predict(signature="question -> answer", **config):
    return lambda: dspy.Predict(signature, **config)


MADE = {
    "string": predict(),
    "class": predict(Simple),
    "class with defaults": predict(Ask),
    "instructions": lambda: dspy.Predict(Simple.with_instructions("Answer at length.")),
    "type": predict("question -> answer: int"),
    "list type": predict("question -> answer: list[int]"),
    "literal": predict("question -> answer: Literal['yes', 'no']"),
    "literal in another order": predict("question -> answer: Literal['no', 'yes']"),
    "list of a literal": predict("question -> answer: list[Literal['yes', 'no']]"),
    "list of it in another order": predict("question -> answer: list[Literal['no', 'yes']]"),
    "order": predict("context, question -> answer"),
    "description": lambda: dspy.Predict(Simple.with_updated_fields("answer", desc="in one word")),
    "default": lambda: dspy.Predict(Simple.append("mood", dspy.InputField(default=Mood.GOOD), type_=Mood)),
    "other default": lambda: dspy.Predict(
        Simple.append("mood", dspy.InputField(default=Mood.BAD), type_=Mood)
    ),
    "constraint": lambda: dspy.Predict(Simple.append("score", dspy.OutputField(ge=1), type_=int)),
    "other constraint": lambda: dspy.Predict(Simple.append("score", dspy.OutputField(ge=2), type_=int)),
    "config": predict(temperature=0.5),
    "other config": predict(temperature=0.7),
    "config of another type": predict(n=1),
    "config that is true": predict(n=True),
    "chain of thought": lambda: dspy.ChainOfThought(Simple),
    "best of": lambda: dspy.MultiChainComparison(Simple, M=3),
    "best of more": lambda: dspy.MultiChainComparison(Simple, M=4),
    "module": Rag,
    "module with a frozen one": WithFrozen,
    "nested class": Nested.Inner,
    "cycle": Looped,
    "own": Limited,
    "agent": agent,
    "agent with another tool": lambda: dspy.ReAct("question -> answer", tools=[look], max_iters=4),
    "agent with more steps": lambda: dspy.ReAct("question -> answer", tools=[find], max_iters=5),
    "agent with a method": lambda: dspy.ReAct("question -> answer", tools=[Shelf().find], max_iters=4),
}


def test_programs_made_alike_have_one_key_and_one_content():
    for name, make in MADE.items():
        one, other = make(), make()
        assert likeness(one) == likeness(other) is not None, name
        assert canonicalize(one).content_hash == canonicalize(other).content_hash, name


def test_programs_of_different_content_have_different_keys():
    made = {name: make() for name, make in MADE.items()}
    contents = {name: canonicalize(program).content_hash for name, program in made.items()}
    for one, other in combinations(MADE, 2):
        if contents[one] != contents[other]:
            assert likeness(made[one]) != likeness(made[other]), (one, other)
    assert len(set(contents.values())) == len(MADE)


def with_demos():
    program = dspy.Predict(Simple)
    program.demos = [dspy.Example(question="q", answer="a")]
    return program


def with_its_own_forward():
    program = Rag()
    program.forward = lambda question: None
    return program


def with_a_bound_forward():
    """As ``KNNFewShot`` and ``dspy.syncify`` leave it."""
    program = Rag()
    program.forward = types.MethodType(lambda self, question: None, program)
    return program


def with_a_tool_made_anew():
    limit = 3

    def find(query: str) -> list[str]:
        return [query] * limit

    return dspy.ReAct("question -> answer", tools=[find])


def with_a_partial():
    program = Limited()
    program.tool = functools.partial(find, limit=1)
    return program


def with_criteria():
    program = dspy.Predict("question -> verdict: bool")
    program.fields = {"verdict": {"criteria": "be strict"}}
    return program


@pytest.mark.parametrize(
    "make",
    [
        with_a_tool_made_anew,
        with_demos,
        with_its_own_forward,
        with_a_bound_forward,
        with_a_partial,
        with_criteria,
        predict(stop=["\n"]),
    ],
    ids=["tool made anew", "demos", "own forward", "bound forward", "partial", "criteria", "nested config"],
)
def test_what_takes_more_to_compare_has_no_key(make):
    assert likeness(make()) is None


def set_model(program):
    program.query.lm.model = "openai/other"


CHANGES = {
    "signature": lambda p: setattr(p.query, "signature", p.query.signature.with_instructions("else")),
    "instructions in place": lambda p: setattr(p.query.signature, "__doc__", "else"),
    "demo appended": lambda p: p.query.demos.append(dspy.Example(query="q")),
    "demo replaced": lambda p: p.steps[0].demos.__setitem__(0, dspy.Example(query="q")),
    "demos replaced": lambda p: setattr(p.steps[0], "demos", []),
    "config in place": lambda p: p.query.config.update(temperature=1.0),
    "criteria in place": lambda p: p.query.fields.update(query={"criteria": "x"}),
    "lm": lambda p: p.steps[1].set_lm(dspy.LM("openai/new")),
    "lm's model in place": set_model,
    "module replaced": lambda p: setattr(p, "query", dspy.Predict("question -> query")),
    "module added": lambda p: setattr(p, "more", dspy.Predict("question -> query")),
    "module in a list replaced": lambda p: p.steps.__setitem__(0, dspy.Predict("query -> other")),
    "module in a list added": lambda p: p.steps.append(dspy.Predict("query -> other")),
    "own forward": lambda p: setattr(p, "forward", lambda question: None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_watch_sees_what_changed(change):
    program = Rag()
    program.steps[0].demos = [dspy.Example(query="q", rewritten="r")]
    program.query.lm = dspy.LM("openai/one")
    watch = Watch(program)
    assert watch.unchanged(program)
    change(program)
    assert not watch.unchanged(program)
    assert Watch(program).unchanged(program)


class Chooses(Limited):
    """Of the host's own, with functions."""

    def __init__(self) -> None:
        super().__init__()
        self.choose = find
        self.agent = dspy.ReAct(Simple, tools=[find], max_iters=4)


CHANGES_OF_CODE = {
    "setting": lambda p: setattr(p.agent, "max_iters", 5),
    "function": lambda p: setattr(p, "choose", look),
    "tool": lambda p: p.agent.tools.__setitem__("find", dspy.Tool(look, name="find")),
    "tool's description in place": lambda p: setattr(p.agent.tools["find"], "desc", "Find all."),
    "tool's function in place": lambda p: setattr(p.agent.tools["find"], "func", look),
    "method of its own": lambda p: setattr(p, "aforward", types.MethodType(lambda self: None, p)),
    "name of a module": lambda p: p.steps.update(first=p.steps.pop("one")),
    "name in a config": lambda p: p.steps["one"].config.update(
        top_p=p.steps["one"].config.pop("temperature")
    ),
}


@pytest.mark.parametrize("change", CHANGES_OF_CODE.values(), ids=CHANGES_OF_CODE.keys())
def test_watch_sees_what_a_module_was_given_beside_its_predictors(change):
    program = Chooses()
    program.steps["one"].config["temperature"] = 0.5
    before, watch = canonicalize(program).content_hash, Watch(program)
    assert watch.unchanged(program)
    change(program)
    assert canonicalize(program).content_hash != before
    assert not watch.unchanged(program)
    assert Watch(program).unchanged(program)


def test_recognised_content_is_always_the_one_read():
    """Programs made alike and changed at random between their calls: no cache ever tells an old hash."""
    chance = random.Random(1)

    def rag():
        program = Rag()
        program.query.lm = dspy.LM("openai/one")
        return program

    kinds = ((rag, list(CHANGES.values())), (Chooses, list(CHANGES_OF_CODE.values())))
    with MemoryLedger() as ledger:
        recogniser, programs = Recogniser.of(ledger), []
        for _ in range(300):
            if len(programs) < 4 or chance.random() < 0.2:
                make, changes = chance.choice(kinds)
                programs = [*programs, (make(), changes)][-4:]
            program, changes = chance.choice(programs)
            if chance.random() < 0.5:
                with suppress(AttributeError, IndexError, KeyError):  # it can't be changed so again
                    chance.choice(changes)(program)
            assert recogniser.identity_of(program).content_hash == canonicalize(program).content_hash


def test_watch_lets_the_hosts_own_attributes_change():
    program = Limited()
    watch = Watch(program)
    program.limit += 1
    program.seen = ["a question"]
    assert watch.unchanged(program)
    program.seen.append("another")
    assert watch.unchanged(program)
    program.steps["two"] = dspy.Predict(Simple)
    assert not watch.unchanged(program)


def test_a_large_list_of_texts_is_read_in_passing():
    program = Limited()
    program.corpus = [str(number) for number in range(300_000)]
    started = thread_time()
    canonicalize(program)
    assert thread_time() - started < 0.3


@pytest.mark.parametrize("make", [Rag, Chooses])
def test_watch_does_not_keep_its_program_alive(make):
    program = make()
    gone = weakref.ref(program)
    watch = Watch(program)
    del program
    gc.collect()
    assert gone() is None
    assert watch is not None
