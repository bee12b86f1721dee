"""What the demo's two models answer: deterministic, read out of the prompt, better with examples in it.

A `Profile` is all that distinguishes the models. Without examples both ramble when a sentence was wanted,
and write contact fields down as printed. Examples in the prompt show how it is meant, and a model adopts what
enough of them show; its gaps (topics it does not know, `Skill`s it lacks) stay. Choices that a real model
would make by chance are made by a digest of model and question, never by a random number, so that the same
request has one answer everywhere.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from dspy_ledger.cli.demo.card_reader import CONTACT_KEYS, Habit, Skill, habits_shown, read_card
from dspy_ledger.cli.demo.prompt_reading import Demo, OutputField, Task, read_prompt
from dspy_ledger.cli.demo.world_data import Topic, topics

__all__ = ["PROFILES", "Profile", "answer", "luck"]


@dataclass(frozen=True)
class Profile:
    """One model's abilities. Shares are per cent of questions; latency is in milliseconds."""

    name: str
    skill: Skill
    innate: frozenset[Habit]  # kept up without any example
    lessons: int  # examples that must show a habit before the model adopts it
    unknown_topics: int  # share of topics that it can only talk around
    rambles: int  # share of questions answered at length when no example shows brevity
    rambles_after_examples: int
    latency: tuple[int, int]  # at least, at most


PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="gpt-4o-mini",
            skill=Skill(
                knows_many_languages=True,
                repairs_noise=True,
                splits_lines=True,
                knows_trunk_zero=True,
                uses_mail_domain=True,
            ),
            innate=frozenset({Habit.PERSON_LINE}),
            lessons=1,
            unknown_topics=12,
            rambles=60,
            rambles_after_examples=8,
            latency=(6, 15),
        ),
        Profile(
            name="gpt-4.1-nano",
            skill=Skill(
                knows_many_languages=False,
                repairs_noise=False,
                splits_lines=False,
                knows_trunk_zero=False,
                uses_mail_domain=False,
            ),
            innate=frozenset(),
            lessons=2,
            unknown_topics=25,
            rambles=80,
            rambles_after_examples=30,
            latency=(3, 8),
        ),
    )
}
_JSON_TYPES = {"int": "integer", "float": "number", "bool": "boolean"}
_DEEPEST = 6  # levels of a nested value; a type that contains itself would have no end
_BRIEF_WORDS = 30  # examples up to this many words teach brevity


def answer(
    model: str, messages: Sequence[Mapping[str, Any]], response_format: Mapping[str, Any] | None = None
) -> str:
    """Return the model's text for a request; `KeyError` when there is no such model."""
    profile = PROFILES[model]
    task = read_prompt(messages, response_format)
    flat_contact = _is_contact({output.name for output in task.outputs})
    read: dict[str, str | None] = {}
    if flat_contact:
        read = _read_contact(profile, task, [(demo.text, demo.outputs) for demo in task.demos])
    return task.render(
        {
            field.name: (read[field.name] or "") if field.name in read else _fill(profile, task, field)
            for field in task.outputs
        }
    )


def luck(*parts: str) -> int:
    """Return a number from 0 to 99 that depends on the parts alone: what chance is to a real model."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).digest()[:4]) % 100


def _is_contact(names: set[str]) -> bool:
    """Two fields of a contact, one of them a way to reach somebody, make a contact."""
    return len(names & set(CONTACT_KEYS)) >= 2 and bool(names & {"email", "phone"})


def _fill(profile: Profile, task: Task, field: OutputField) -> Any:
    if field.choices:
        return _choose(profile, task, field.name, field.choices)
    if field.schema is not None:
        properties = field.schema.get("properties", {})
        if not isinstance(properties, dict) or not _is_contact(set(properties)):
            return _generic(profile, task, field.schema, field.schema)
        examples = [(demo.text, demo.outputs.get(field.name)) for demo in task.demos]
        found = _read_contact(profile, task, [(text, out) for text, out in examples if isinstance(out, dict)])
        return {
            key: _fitting(found[key], part) if key in found else _generic(profile, task, part, field.schema)
            for key, part in properties.items()
        }
    if field.type_name in _JSON_TYPES:
        return _generic(profile, task, {"type": _JSON_TYPES[field.type_name], "title": field.name}, {})
    texts = [output for output in task.outputs if output.is_text]
    if field.is_text and field != texts[-1]:  # the last text is the answer; those before it lead up to it
        return f"The question is about {_gist(task.text)}, so I answer exactly that."
    return _say(profile, task.text, [demo for demo in task.demos if field.name in demo.outputs], field.name)


def _read_contact(
    profile: Profile, task: Task, examples: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, str | None]:
    seen = Counter(habit for card, contact in examples for habit in habits_shown(card, contact))
    learned = {habit for habit, times in seen.items() if times >= profile.lessons}
    return read_card(task.text, profile.skill, profile.innate | learned)


def _fitting(value: str | None, schema: Mapping[str, Any]) -> str | None:
    """A missing value is null where the schema takes null, and empty where it insists on a text."""
    return "" if value is None and schema.get("type") == "string" else value


def _say(profile: Profile, question: str, demos: Sequence[Demo], field_name: str) -> str:
    """Answer in prose: briefly when enough examples do, else as the model is inclined to."""
    lengths = [len(str(demo.outputs[field_name]).split()) for demo in demos]
    shown = len(lengths) >= profile.lessons and median(lengths) <= _BRIEF_WORDS
    share = profile.rambles_after_examples if shown else profile.rambles
    at_length = luck(profile.name, "rambles", question) < share
    topic = _topic_of(question)
    if topic is None:
        brief = f"It depends on what you need from {_gist(question)}, so start with a small example."
        return (
            f"{brief} Then look at what it shows. Much has been written about it since."
            if at_length
            else brief
        )
    if luck(profile.name, "knows", topic.subject) < profile.unknown_topics:
        subject = topic.subject[0].upper() + topic.subject[1:]
        brief = f"{subject} is something that many people talk about every day."
        return (
            f"{brief} Views differ a good deal. It is best to ask somebody who works with it."
            if at_length
            else brief
        )
    return topic.long if at_length else topic.short


def _topic_of(question: str) -> Topic | None:
    """Return the topic whose subject the question names; the longest, where one contains another."""
    lowered = question.lower()
    named = [topic for topic in topics() if re.search(rf"\b{re.escape(_bare(topic.subject))}\b", lowered)]
    return max(named, key=lambda topic: len(topic.subject), default=None)


def _bare(subject: str) -> str:
    return re.sub(r"^(?:a|an|the) ", "", subject.lower())


def _gist(text: str) -> str:
    """The first few words, for an answer that shows it has read the question."""
    first = " ".join(re.findall(r"\w+", text)[:6])
    return f"'{first}'" if first else "this"


def _choose(profile: Profile, task: Task, name: str, choices: Sequence[Any]) -> Any:
    """Pick one; an agent that may finish does, because this model has nothing to look up."""
    return "finish" if "finish" in choices else choices[luck(profile.name, name, task.text) % len(choices)]


def _generic(profile: Profile, task: Task, schema: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """Make a value that the JSON schema accepts, from the question's text and its digest."""

    def inner(part: Any) -> Any:
        return _generic(profile, task, part, root, depth + 1)

    if not isinstance(schema, dict) or depth > 3 * _DEEPEST:
        return None
    title = str(schema.get("title", ""))
    number = luck(profile.name, title, task.text)
    options = next((schema[union] for union in ("anyOf", "oneOf", "allOf") if schema.get(union)), None)
    value: Any
    match schema:
        case {"$ref": str(reference)}:
            value = inner(root.get("$defs", {}).get(reference.rpartition("/")[2]))
        case {"const": value}:
            pass
        case {"enum": [_, *_] as choices}:
            value = _choose(profile, task, title, choices)
        case _ if options:
            ends = depth > _DEEPEST and {"type": "null"} in options
            value = None if ends else inner(options[0])
        case {"type": "array"}:
            value = [] if depth > _DEEPEST else [inner(schema.get("items", {}))]
        case {"type": "object"}:
            value = {key: inner(part) for key, part in schema.get("properties", {}).items()}
        case _:
            scalars = {"integer": number % 10, "number": number / 100, "boolean": number < 50, "null": None}
            value = scalars.get(str(schema.get("type")), _gist(task.text).strip("'"))
    return value
