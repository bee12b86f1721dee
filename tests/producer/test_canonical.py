"""What is one content, what is another, and what comes back from a recorded state."""
# ruff: noqa: UP006, UP007, UP035, UP045 - the old spellings of types are what is tested

import collections.abc
import copy
import dataclasses
import datetime
import enum
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Dict,
    Generic,
    List,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    Required,
    TypedDict,
    TypeVar,
    Union,
)

import dspy
import pydantic
import pytest
from dspy.retrievers.retrieve import Retrieve
from dspy.utils import DummyLM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspy_ledger.errors import InvalidProgram, VersionNotRunnable
from dspy_ledger.identity import content_hash
from dspy_ledger.producer import Predictor
from dspy_ledger.producer.canonical import canonicalize, fingerprint
from dspy_ledger.producer.state import explain_difference, load_checked, load_state
from dspy_ledger.producer.typeform import type_form
from dspy_ledger.type_text import type_text
from producer import programs

HERE = Path(__file__).parent
EVERY = [
    programs.Ask,
    programs.Rag,
    programs.WithFrozen,
    programs.Nested.Inner,
    programs.Looped,
    programs.agent,
    lambda: dspy.ChainOfThought(programs.Ask, temperature=0.5),
    lambda: dspy.BestOfN(programs.Rag(), N=3, reward_fn=reward, threshold=0.5),
]


def reward(args, pred):
    return 1.0


def make(shape):
    return (
        shape()
        if not (isinstance(shape, type) and issubclass(shape, dspy.Signature))
        else dspy.Predict(shape)
    )


def hash_of(program):
    return canonicalize(program).content_hash


def through_json(value):
    return json.loads(json.dumps(value))


def reloaded(program, into):
    canonical = canonicalize(program)
    return load_checked(through_json(canonical.state), canonical.content_hash, into)


def examples():
    return [
        dspy.Example(question=f"What is {n}?", answer=str(n), source="a dataset column").with_inputs(
            "question"
        )
        for n in range(3)
    ]


def compiled(program):
    optimizer = dspy.BootstrapFewShot(metric=lambda *_: True, max_bootstrapped_demos=2, max_labeled_demos=3)
    answers = [{"answer": "1", "query": "x", "rewritten": "y", "score": "1", "reasoning": "r"}] * 50
    with dspy.context(lm=DummyLM(answers)):
        return optimizer.compile(program, trainset=examples())


# One content


@pytest.mark.parametrize("shape", EVERY)
def test_a_copy_is_the_same_content(shape):
    program = make(shape)
    expected = hash_of(program)
    assert hash_of(copy.deepcopy(program)) == expected
    assert hash_of(program.deepcopy()) == expected
    assert hash_of(make(shape)) == expected


@pytest.mark.parametrize("seed", ["0", "77"])
def test_a_script_in_another_process_has_the_hashes_of_the_imported_module(seed):
    environment = {**os.environ, "PYTHONHASHSEED": seed, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    run = subprocess.run(
        [sys.executable, str(HERE / "programs.py")],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    shapes = (programs.Ask, programs.Rag, programs.WithFrozen, programs.Nested.Inner, programs.Looped)
    assert run.stdout.split() == [hash_of(shape) for shape in shapes] + [hash_of(programs.agent())]


@pytest.mark.parametrize("shape", EVERY)
def test_a_program_loaded_from_its_recorded_state_is_the_same_content(shape):
    program = make(shape)
    assert hash_of(reloaded(program, make(shape))) == hash_of(program)


@pytest.mark.parametrize("shape", [programs.Simple, programs.Rag, programs.WithFrozen])
def test_a_compiled_program_is_the_same_content_after_its_recorded_state_was_loaded(shape):
    program = compiled(make(shape))
    loaded = reloaded(program, shape)
    assert hash_of(loaded) == hash_of(program) == hash_of(copy.deepcopy(program))
    assert hash_of(program) != hash_of(shape)
    assert len(loaded.predictors()[0].demos) > 0


def test_a_compiled_program_is_the_same_content_after_dspys_own_save_and_load(tmp_path):
    program = compiled(programs.Rag())
    program.save(tmp_path / "rag.json")
    loaded = programs.Rag()
    loaded.load(tmp_path / "rag.json")
    assert hash_of(loaded) == hash_of(program)


def test_frozen_sub_modules_are_part_of_the_content_and_are_loaded():
    program = programs.WithFrozen()
    before = hash_of(program)
    program.inner._compiled = True
    assert hash_of(program) == before

    program.inner.query.demos = [dspy.Example(question="q", query="frozen")]
    assert hash_of(program) != before
    loaded = reloaded(program, programs.WithFrozen)
    assert loaded.inner.query.demos[0].query == "frozen"


def test_a_signature_is_the_content_of_its_plain_predictor():
    assert hash_of(programs.Ask) == hash_of(dspy.Predict(programs.Ask))
    assert hash_of("question -> answer") == hash_of(dspy.Signature("question -> answer"))


def test_what_an_optimizer_left_behind_is_not_content():
    program = programs.Rag()
    before = hash_of(program)
    program.candidate_programs = [{"score": 1.0, "program": programs.WithFrozen()}]
    program.mb_candidate_programs = [programs.WithFrozen()]
    program.trial_logs = {1: programs.Rag()}
    program.score = 0.7
    program.total_calls = 12
    assert hash_of(program) == before


def test_history_callbacks_and_traces_are_not_content():
    program = dspy.Predict(programs.Simple)
    before = hash_of(program)
    with dspy.context(lm=DummyLM([{"answer": "x"}])):
        program(question="q")
    program.callbacks.append(object())
    program.traces.append("x")
    program.train.append("y")
    assert hash_of(program) == before


def test_the_order_in_which_attributes_were_set_is_not_content():
    program = programs.Rag()
    attributes = dict(reversed(list(vars(program).items())))
    vars(program).clear()
    vars(program).update(attributes)
    assert hash_of(program) == hash_of(programs.Rag)


def test_a_prefix_a_name_and_an_undefined_type_are_not_content():
    class Renamed(dspy.Signature):
        """Answer shortly."""

        question = dspy.InputField()
        answer = dspy.OutputField()

    Renamed.fields["question"].json_schema_extra["prefix"] = "Q:"
    assert hash_of(Renamed) == hash_of(programs.Simple)


def test_a_rollout_id_and_credentials_are_neither_content_nor_state():
    with_all = dspy.Predict(programs.Simple, rollout_id=3, api_key="sk-1", temperature=1.0, max_tokens=9)
    canonical = canonicalize(with_all)
    assert canonical.content_hash == hash_of(dspy.Predict(programs.Simple, temperature=1, max_tokens=9))
    assert "sk-1" not in json.dumps(canonical.state)
    assert reloaded(with_all, with_all).config["api_key"] == "sk-1"


# Another content


def changed_instructions(program):
    program.signature = program.signature.with_instructions("Answer at length.")


def changed_description(program):
    program.signature = program.signature.with_updated_fields("question", desc="another")


def changed_type(program):
    program.signature = program.signature.with_updated_fields("answer", type_=int)


def added_field(program):
    program.signature = program.signature.append("why", dspy.OutputField())


def changed_temperature(program):
    program.config = {"temperature": 0.3}


def added_demo(program):
    program.demos = [*program.demos, dspy.Example(question="q", answer="b")]


def swapped_demos(program):
    program.demos = program.demos[::-1]


def pinned_lm(program):
    program.lm = dspy.LM("openai/gpt-4o-mini")


def changed_criteria(program):
    program.fields = {"answer": {"threshold": 0.4}}


CHANGES = [
    changed_instructions,
    changed_description,
    changed_type,
    added_field,
    changed_temperature,
    added_demo,
    swapped_demos,
    pinned_lm,
    changed_criteria,
]


def base_predictor():
    program = dspy.Predict(programs.Simple)
    program.demos = [dspy.Example(question="a", answer="1"), dspy.Example(question="b", answer="2")]
    return program


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_question_to_the_model_is_other_content(change):
    before, after = base_predictor(), base_predictor()
    change(after)
    assert hash_of(before) != hash_of(after)
    assert explain_difference(canonicalize(before).form, canonicalize(after).form) != "nothing differs"


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_sees_what_changed(change):
    program = base_predictor()
    before = fingerprint(program)
    assert fingerprint(program) == before
    assert hash(fingerprint(program)) == hash(before)
    change(program)
    assert fingerprint(program) != before


def test_a_fingerprint_sees_a_demo_appended_in_a_frozen_sub_module():
    program = programs.WithFrozen()
    program.inner._compiled = True
    before = fingerprint(program)
    program.inner.query.demos.append(dspy.Example(question="q", query="x"))
    assert fingerprint(program) != before


def test_a_fingerprint_sees_instructions_changed_in_place():
    program = dspy.Predict(dspy.Signature("a -> b"))
    before = fingerprint(program)
    program.signature.instructions = "Other."
    assert fingerprint(program) != before


def module_from(tmp_path, name, body):
    path = tmp_path / f"{name}.py"
    path.write_text(body)
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(body, str(path), "exec"), vars(module))
    return module


PLAIN = """import dspy
class P(dspy.Module):
    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict("q -> a")
    def forward(self, q):
        text = '''keep # this
   '''
        return self.predict(q=q + text)
"""
COMMENTED = """import dspy
if True:
    class P(dspy.Module):   # a comment

        # another
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict("q -> a")\x20\x20

        def forward(self, q):
            text = '''keep # this
       '''
            return self.predict(q=q + text)
"""


def test_comments_blank_lines_and_indentation_of_code_are_not_content(tmp_path):
    one, other = module_from(tmp_path, "plain_one", PLAIN), module_from(tmp_path, "plain_two", COMMENTED)
    assert hash_of(one.P) == hash_of(other.P)


@pytest.mark.parametrize(
    ("was", "now"), [("q=q + text", "q=text + q"), ("keep # this", "keep # that"), ("   '''", "    '''")]
)
def test_a_changed_forward_is_other_content(tmp_path, was, now):
    one = module_from(tmp_path, "changed_one", PLAIN)
    other = module_from(tmp_path, "changed_two", PLAIN.replace(was, now))
    assert hash_of(one.P) != hash_of(other.P)


def test_a_changed_base_class_is_other_content(tmp_path):
    body = PLAIN + "class Q(P):\n    pass\n"
    one = module_from(tmp_path, "base_one", body)
    other = module_from(tmp_path, "base_two", body.replace("q + text", "text"))
    assert hash_of(one.Q) != hash_of(other.Q)


def test_a_changed_tool_is_other_content(tmp_path):
    tool = "def find(q: str) -> str:\n    return q  # same\n"
    hashes = {
        hash_of(dspy.ReAct("question -> answer", tools=[module_from(tmp_path, f"tool_{n}", body).find]))
        for n, body in enumerate(
            [tool, tool.replace("  # same", ""), tool.replace("return q", "return q * 2")]
        )
    }
    assert len(hashes) == 2


# One content in every Python


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (Predictor, "c1:24ab7297c6a32a646bcb4fcf900d16e86868c3b66f07389f97a626705b08785b"),
        (programs.Ask, "c1:e01580d800062cbb1c99db7d9780e356ebeb883528556373a4be63eea3d479f1"),
        (programs.Nested.Inner, "c1:f5f8bc1c39f6a8509c534e54ea84625bc82a564ae636302f766f51d006b96f62"),
    ],
)
def test_a_content_hash_is_the_same_in_every_process_and_every_python(program, expected):
    assert hash_of(program) == expected


# As the compiler leaves a docstring before Python 3.13, and from it on; the last is another text.
IN_FILE = "Find passages.\n\n        Args:\n            query: what is \\1\n\n\ta tab\n    "
STRIPPED = "Find passages.\n\nArgs:\n    query: what is \\1\n\na tab\n"
OTHER = "Find passages.\n\nArgs:\n  query: what is \\1\n\na tab\n"


def with_tools(agent, *docs):
    tools = [dspy.Tool(programs.find, name=f"find{n}", desc=doc) for n, doc in enumerate(docs)]
    return agent("question -> answer", tools=tools)


@pytest.mark.parametrize("agent", [dspy.ReAct, dspy.RLM])
@pytest.mark.parametrize(
    ("before", "since"), [(IN_FILE, STRIPPED), (" Find. ", "Find. "), ("\n  A\n  B", "\nA\nB")]
)
def test_a_tools_docstring_counts_without_the_indentation_of_its_file(agent, before, since):
    one, other = with_tools(agent, before, "Find"), with_tools(agent, since, "Find")
    assert hash_of(one) == hash_of(other)
    assert hash_of(reloaded(one, other)) == hash_of(reloaded(other, one)) == hash_of(one)
    mine = [predictor.signature for predictor in one.predictors()]
    assert [predictor.signature for predictor in reloaded(other, one).predictors()] == mine


def test_another_docstring_of_a_tool_is_other_content():
    several = [
        with_tools(dspy.ReAct, *docs) for docs in ([STRIPPED], [OTHER], ["Find"], ["Find", "Find more"])
    ]
    assert len({hash_of(program) for program in several}) == len(several)
    quoted = json.dumps(canonicalize(several[-1]).form)
    assert "<desc>Find</desc>" in quoted
    assert "<desc>Find more</desc>" in quoted


def test_the_doc_of_a_type_counts_without_the_indentation_of_its_file():
    assert typed(model(IN_FILE)) == typed(model(STRIPPED)) != typed(model(OTHER))
    # A space that is no indentation: inspect.cleandoc strips it until Python 3.12.
    assert type_form(model("\n\u3000One.\n    \u3000Two."))["doc"] == "\u3000One.\n    \u3000Two."


TWICE = PLAIN.replace("q + text", "text + q") + PLAIN.replace("class P", "First = P\nclass P")


def test_of_two_classes_of_one_name_each_has_its_own_code(tmp_path):
    twice = module_from(tmp_path, "twice", TWICE)
    assert hash_of(twice.P) == hash_of(module_from(tmp_path, "once", PLAIN).P)
    assert hash_of(twice.First) != hash_of(twice.P)
    assert "text + q" in canonicalize(twice.First).source_code


def test_a_module_named_as_one_that_left_the_library_is_the_hosts(tmp_path):
    one = module_from(tmp_path, "chunk", PLAIN)
    before = hash_of(one.P)
    assert before != hash_of(module_from(tmp_path, "chunk", PLAIN.replace("q + text", "text")).P)
    del sys.modules["chunk"]


# Settings of wrappers


def test_a_setting_of_dspys_own_wrapper_is_content():
    def best(**changed):
        arguments = {"N": 3, "reward_fn": reward, "threshold": 0.5, **changed}
        return hash_of(dspy.BestOfN(programs.Rag(), **arguments))

    assert best() == best()
    assert (
        len({best(), best(N=4), best(threshold=0.6), best(reward_fn=test_a_fingerprint_sees_what_changed)})
        == 4
    )


# Types


def typed(annotation):
    return json.dumps(type_form(annotation))


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


def model(doc="A doc.", **fields):
    return pydantic.create_model("Made", __doc__=doc, **fields)


class Node(pydantic.BaseModel):
    value: int = 0
    kids: list["Node"] = []
    other: Optional["Node"] = None


class Row(TypedDict, total=False):
    a: Required[int]
    b: str


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str] = dataclasses.field(default_factory=list)


class Pair(NamedTuple):
    one: int
    two: str = "b"


T = TypeVar("T")


class Box(pydantic.BaseModel, Generic[T]):
    held: T


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Optional[int], int | None),
        (Optional[int], Union[None, int]),
        (Union[int, str], str | int),
        (Union[int, Union[str, None]], Optional[Union[str, int]]),
        (list[int], List[int]),
        (list, List),
        (dict[str, list[int]], Dict[str, List[int]]),
        (Sequence[int], collections.abc.Sequence[int]),
        (Callable[[int], str], collections.abc.Callable[[int], str]),
        (Annotated[int, None], int),
        (model(a=(int, 1)), model(a=(int, 1))),
        (model(a=(Optional[int], ...)), model(a=(int | None, ...))),
        (NewType("Id", int), NewType("Id", int)),
    ],
)
def test_annotations_that_accept_the_same_are_one_type(one, other):
    assert typed(one) == typed(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (int, str),
        (list, list[str]),
        (int, int | None),
        (Literal["a", "b"], Literal["b", "a"]),
        (Literal[1], Literal["1"]),
        (Color, programs.Mood),
        (Color, enum.Enum("Color", {"BLUE": "blue", "RED": "red"})),
        (model(a=(int, 1)), model(a=(int, 2))),
        (model(a=(int, 1)), model(a=(int, ...))),
        (model(a=(int, ...)), model(a=(str, ...))),
        (model(a=(int, ...)), model(b=(int, ...))),
        (model(a=(int, ...)), model("Another doc.", a=(int, ...))),
        (model(a=(int, pydantic.Field(gt=1))), model(a=(int, pydantic.Field(gt=2)))),
        (model(a=(int, pydantic.Field(description="x"))), model(a=(int, pydantic.Field(description="y")))),
        (Annotated[int, pydantic.Field(gt=1)], Annotated[int, pydantic.Field(gt=2)]),
        (Callable[[int], str], Callable[..., str]),
        (Box[int], Box[str]),
        (dspy.Image, dspy.Audio),
        (dspy.Code["java"], dspy.Code["python"]),
        (tuple[int, ...], tuple[int]),
    ],
)
def test_annotations_that_accept_something_else_are_two_types(one, other):
    assert typed(one) != typed(other)


def test_a_model_that_holds_itself_ends_in_a_cycle():
    assert type_form(Node)["fields"][1]["type"]["args"] == [{"kind": "cycle", "depth": 1}]
    assert programs.__name__ not in typed(programs.Review)


@pytest.mark.parametrize(
    "annotation", [Any, Row, Point, Pair, Node, dspy.History, dspy.Tool, Callable, T, "Later", object]
)
def test_every_annotation_has_a_form_and_a_text(annotation):
    assert type_text(type_form(annotation))
    assert "0x" not in typed(annotation)


def test_the_fields_of_typed_dicts_dataclasses_and_named_tuples_are_their_type():
    assert [(f["name"], f["required"]) for f in type_form(Row)["fields"]] == [("a", True), ("b", False)]
    assert [(f["name"], f["required"]) for f in type_form(Point)["fields"]] == [("x", True), ("tags", False)]
    assert type_form(Pair)["fields"][1] == {"name": "two", "type": "str", "required": False, "default": "b"}


def test_a_type_is_told_as_python_writes_it():
    texts = [
        type_text(type_form(t))
        for t in (Optional[List[str]], Literal["a", 1], Dict[str, Any], Callable[..., int])
    ]
    assert texts == ["list[str] | None", "Literal['a', 1]", "dict[str, Any]", "Callable[..., int]"]


# Demos


class Passage(dspy.Signature):
    passage: dict = dspy.InputField()
    answer: str = dspy.OutputField()


def with_demo(value):
    program = dspy.Predict(Passage)
    program.demos = [dspy.Example(passage=value, answer="x")]
    return program


REVIEW = programs.Review(stars=3, text="é", replies=[programs.Review(stars=1)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1.0, 1),
        ((1, 2), [1, 2]),
        ({3, 1, 2}, [1, 2, 3]),
        (REVIEW, REVIEW.model_dump(mode="json")),
        (datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC), "2026-01-02T03:04:00+00:00"),
        (programs.Mood.GOOD, "good"),
        ("e\u0301", "é"),
        ({1: "a"}, {"1": "a"}),
        (dspy.Example(a=1), {"a": 1}),
        (float("nan"), "NaN"),
    ],
)
def test_a_demo_value_is_what_json_makes_of_it(one, other):
    assert hash_of(with_demo(one)) == hash_of(with_demo(other))


def test_a_demos_columns_that_the_signature_lacks_are_not_content():
    program = base_predictor()
    program.demos = [
        {**dict(demo.items()), "augmented": True, "dspy_uuid": "1", "split": "train"}
        for demo in program.demos
    ]
    assert hash_of(program) == hash_of(base_predictor())


def test_bytes_in_a_demo_count_by_digest_and_come_back():
    program = with_demo({"raw": b"\xff\x00", "list": [b"x"]})
    canonical = canonicalize(program)
    assert canonical.content_hash != hash_of(with_demo({"raw": b"\xff\x01", "list": [b"x"]}))
    loaded = reloaded(program, Passage)
    assert loaded.demos[0]["passage"] == {"raw": b"\xff\x00", "list": [b"x"]}


@pytest.mark.parametrize("blobs", [{}, None, "other"])
def test_bytes_that_were_not_recorded_whole_are_never_loaded_as_something_else(blobs):
    canonical = canonicalize(with_demo({"raw": b"abc"}))
    if blobs == "other":
        blobs = dict.fromkeys(canonical.state["blobs"], "AAAA")
    with pytest.raises(VersionNotRunnable, match="not recorded whole"):
        load_checked({**canonical.state, "blobs": blobs}, canonical.content_hash, Passage)


def test_fields_named_like_arguments_of_example_come_back():
    program = dspy.Predict("base -> keys")
    program.demos = [dspy.Example({"base": "x", "keys": "y"})]
    loaded = reloaded(program, "base -> keys")
    assert (loaded.demos[0]["base"], loaded.demos[0]["keys"]) == ("x", "y")


class Retrieving(dspy.Module):
    def __init__(self, k=3):
        super().__init__()
        self.retrieve = Retrieve(k)
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question):
        return self.predict(question=question)


def test_another_parameters_state_is_content_and_is_loaded():
    assert hash_of(Retrieving(5)) != hash_of(Retrieving(3))
    assert reloaded(Retrieving(5), Retrieving).retrieve.k == 5


def test_a_demo_of_no_known_kind_is_its_text_without_addresses():
    assert hash_of(with_demo(object())) == hash_of(with_demo(object()))
    assert hash_of(reloaded(with_demo({"x": object()}), Passage)) == hash_of(with_demo({"x": object()}))


demo_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(max_size=4)
    | st.datetimes()
    | st.sampled_from(list(programs.Mood)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.sets(st.integers() | st.text(max_size=3), max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(demo_values)
def test_any_demo_comes_back_from_json_as_the_same_content(value):
    program = with_demo(value)
    assert hash_of(reloaded(program, Passage)) == hash_of(program) == hash_of(copy.deepcopy(program))


# Instructions


@pytest.mark.parametrize("text", ["", "One.", "A\n  B", "  A\nB", "A\n\n    B\n  C", "ends\n", "tab\there"])
def test_instructions_come_back_exactly(text):
    program = dspy.Predict(programs.Simple)
    program.signature = program.signature.with_instructions("\n" + text)
    loaded = reloaded(program, programs.Simple)
    assert loaded.signature.instructions == program.signature.instructions


# Loading


def test_a_loaded_signature_that_did_not_change_keeps_its_class():
    assert reloaded(dspy.Predict(programs.Ask), programs.Ask).signature is programs.Ask


def test_loading_into_an_instance_leaves_that_instance_alone():
    mine = programs.Rag()
    program = compiled(programs.Rag())
    loaded = reloaded(program, mine)
    assert loaded is not mine
    assert mine.query.demos == []
    assert hash_of(mine) == hash_of(programs.Rag)


def test_loading_keeps_config_that_is_no_data():
    program = dspy.Predict(programs.Simple, response_format=programs.Review)
    loaded = reloaded(
        program, dspy.Predict(programs.Simple, response_format=programs.Review, temperature=0.1)
    )
    assert loaded.config == {"response_format": programs.Review}
    with pytest.raises(VersionNotRunnable, match="response_format"):
        reloaded(program, programs.Simple)


def test_a_pinned_model_is_taken_from_the_host_and_never_made():
    program, lm = base_predictor(), dspy.LM("openai/gpt-4o-mini")
    program.lm = lm
    canonical = canonicalize(program)
    with pytest.raises(VersionNotRunnable, match="openai/gpt-4o-mini"):
        load_checked(canonical.state, canonical.content_hash, programs.Simple)
    loaded = load_checked(canonical.state, canonical.content_hash, programs.Simple, lms={lm.model: lm})
    assert loaded.lm is lm
    assert load_checked(canonical.state, canonical.content_hash, program).lm is lm


@pytest.mark.parametrize(
    ("into", "said"),
    [
        (programs.Rag, "parameter 'self' is not in the program here"),
        ("question -> reply", "field 'answer' of 'self' is not in the program here"),
        ("question -> answer: int", "type of field 'answer' of 'self' differs (str recorded, int here)"),
    ],
)
def test_another_structure_is_refused_in_one_line_that_says_what_differs(into, said):
    canonical = canonicalize(programs.Simple)
    with pytest.raises(VersionNotRunnable) as caught:
        load_state(canonical.state, into)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_code_of_the_same_structure_is_refused_by_its_digest(tmp_path):
    one = module_from(tmp_path, "digest_one", PLAIN)
    other = module_from(tmp_path, "digest_two", PLAIN.replace("q + text", "q"))
    canonical = canonicalize(one.P)
    with pytest.raises(VersionNotRunnable, match="the code of 'self' differs"):
        load_checked(canonical.state, canonical.content_hash, other.P)
    assert hash_of(load_state(canonical.state, other.P)) == hash_of(other.P)


def test_a_state_that_is_not_that_of_the_hash_is_refused():
    canonical = canonicalize(programs.Simple)
    with pytest.raises(VersionNotRunnable, match="cut or changed"):
        load_checked(canonical.state, hash_of(programs.Ask), programs.Simple)


@pytest.mark.parametrize("state", [None, {}, {"form": None}, {"form": {"form": 2}}])
def test_a_version_without_a_usable_state_is_refused(state):
    with pytest.raises(VersionNotRunnable):
        load_checked(state, "c1:0", programs.Simple)


# Opaque


def without_source():
    namespace = {"dspy": dspy}
    exec("class Typed(dspy.Module):\n    def forward(self, q):\n        return None\n", namespace)
    return namespace["Typed"]()


def with_own_forward():
    program = programs.Rag()
    program.forward = types.MethodType(lambda self, **kwargs: None, program)
    return program


@pytest.mark.parametrize("make_program", [without_source, with_own_forward])
def test_a_program_whose_code_can_not_be_read_is_tracked_but_not_loadable(make_program):
    canonical = canonicalize(make_program())
    assert canonical.opaque
    with pytest.raises(VersionNotRunnable, match="could not be read"):
        load_checked(canonical.state, canonical.content_hash, make_program())


def test_a_class_without_source_has_neither_source_nor_code_hash():
    canonical = canonicalize(without_source())
    assert (canonical.source_code, canonical.code_hash) == (None, None)


# What a registration says


def test_a_signature_class_is_described():
    canonical = canonicalize(programs.Ask)
    assert (canonical.kind, canonical.class_name, canonical.opaque) == ("signature", "Ask", False)
    assert canonical.module_path == programs.Ask.__module__
    assert canonical.source_code.startswith("class Ask(dspy.Signature):")
    assert len(canonical.code_hash) == 8
    fields = {field["name"]: field for field in canonical.signature["fields"]}
    assert [fields[name]["type"] for name in fields] == [
        "str",
        "list[str] | None",
        "Mood",
        "str",
        "Literal['yes', 'no']",
    ]
    assert fields["mood"]["default"] == "good"
    assert fields["question"]["desc"] == "what is asked"
    assert canonical.signature["instructions"] == "Answer the question."
    assert json.loads(json.dumps(canonical.interface)) == canonical.interface
    assert [field["required"] for field in canonical.interface["inputs"]] == [True, False, False]


def test_a_string_signature_has_no_source():
    canonical = canonicalize("question -> answer: int")
    assert (canonical.kind, canonical.source_code, canonical.code_hash) == ("signature", None, None)


def test_a_modules_inputs_are_those_of_its_forward():
    interface = canonicalize(programs.Rag).interface
    assert interface["inputs"] == [
        {"name": "question", "type": "str", "required": True},
        {"name": "k", "type": "int", "required": False},
    ]
    assert interface["outputs"] == []


def test_a_forward_of_keywords_only_takes_what_its_signature_or_only_predictor_takes():
    chain = canonicalize(dspy.ChainOfThought("question -> answer")).interface
    assert [field["name"] for field in chain["inputs"]] == ["question"]
    assert [field["name"] for field in chain["outputs"]] == ["reasoning", "answer"]
    agent = canonicalize(programs.agent()).interface
    assert [field["name"] for field in agent["outputs"]] == ["answer"]
    assert [
        field["name"] for field in canonicalize(programs.NeedsArguments("a -> b")).interface["inputs"]
    ] == ["a"]


def test_a_wrapper_takes_what_the_module_in_it_takes():
    wrapper = canonicalize(dspy.BestOfN(programs.Rag(), N=2, reward_fn=reward, threshold=1))
    assert wrapper.interface == canonicalize(programs.Rag).interface
    assert [field["name"] for field in canonicalize(dspy.RLM("q -> a")).interface["inputs"]] == ["q"]


class Open(dspy.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = dspy.Predict("a -> b"), dspy.Predict("b -> c")

    def forward(self, **kwargs):
        return self.two(b=self.one(**kwargs).b)


def test_a_forward_whose_inputs_nothing_declares_is_said_to_take_more():
    canonical = canonicalize(Open)
    assert (canonical.interface, canonical.takes_more) == ({"inputs": [], "outputs": []}, True)
    assert not any(canonicalize(shape).takes_more for shape in (programs.Rag, programs.Ask, programs.agent()))


def test_process_output_is_called_with_the_result_alone():
    result = dspy.Prediction(answer="x")
    assert canonicalize(programs.Ask).process_output(result) == "x"
    assert canonicalize(programs.Rag).process_output(result) == "X"
    assert canonicalize(programs.Simple).process_output is None


def test_reading_a_program_does_not_change_it():
    program = compiled(programs.Rag())
    before = (fingerprint(program), copy.deepcopy(vars(program)).keys())
    canonicalize(program)
    assert (fingerprint(program), vars(program).keys()) == before


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (programs.NeedsArguments, "pass an instance"),
        (42, "is no program; pass"),
        ("no arrow", "pass one such as"),
        (dspy.Signature, "no output field"),
        (dict, "dict is no program"),
    ],
)
def test_what_is_no_program_is_refused_with_what_to_pass(what, said):
    with pytest.raises(InvalidProgram, match=said):
        canonicalize(what)


def test_importing_the_module_does_not_import_dspy():
    code = "import sys, dspy_ledger.producer.state; sys.exit('dspy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_hash_is_that_of_the_form():
    canonical = canonicalize(programs.Rag)
    assert canonical.content_hash == content_hash(through_json(canonical.form))
