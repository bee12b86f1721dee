"""Read a chat request back into the DSPy task it was made from: fields, examples and the question asked.

DSPy's adapters write a signature into the messages; a language model has to read it out again, and so does
the demo's model server. Understood are the layouts of `ChatAdapter` and `JSONAdapter` (DSPy 3.4). A request
without them is a plain task: its last message in, one text out.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

__all__ = ["Demo", "OutputField", "Task", "read_prompt"]

_FIELD_LINE = re.compile(r"^\d+\. `(\w+)` \((.*?)\):", re.MULTILINE)
_NOTE = re.compile(r"# note: the value you produce (.*)")
_SCHEMA_NOTE = "must adhere to the JSON schema: "
_CHOICE_NOTES = ("must exactly match (no extra characters) one of: ", "must be one of: ")
_OBJECTIVE = "In adhering to this structure, your objective is:"
_JSON_OUTPUTS = "Outputs will be a JSON object with the following fields."
_REMINDERS = (
    "Respond with the corresponding output fields",
    "Respond with a JSON object in the following order",
)
_NOT_SUPPLIED = "Not supplied for this"


@dataclass(frozen=True)
class OutputField:
    """One field the caller wants: its name, its type's name, and what the prompt says about its values."""

    name: str
    type_name: str = "str"
    schema: Mapping[str, Any] | None = None
    choices: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether anything may be written here."""
        return self.type_name == "str" and self.schema is None and not self.choices


@dataclass(frozen=True)
class Demo:
    """One worked example from the prompt; values are the texts as they stood there, or parsed JSON."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, Any]

    @property
    def text(self) -> str:
        """All inputs as one text."""
        return "\n".join(self.inputs.values())


@dataclass(frozen=True)
class Task:
    """What a request asks for, and the layout in which the answer is expected."""

    layout: Literal["chat", "json", "plain"]
    inputs: Mapping[str, str]
    outputs: tuple[OutputField, ...]
    demos: tuple[Demo, ...] = ()

    @property
    def text(self) -> str:
        """All inputs as one text."""
        return "\n".join(self.inputs.values())

    def render(self, values: Mapping[str, Any]) -> str:
        """Write the values of the output fields down in the layout that the request asked for."""
        if self.layout == "json":
            return json.dumps(values, ensure_ascii=False, indent=2)
        if self.layout == "plain":
            return _as_text(next(iter(values.values())))
        sections = [f"[[ ## {name} ## ]]\n{_as_text(value)}" for name, value in values.items()]
        return "\n\n".join([*sections, "[[ ## completed ## ]]\n"])


def read_prompt(messages: Sequence[Mapping[str, Any]], response_format: Mapping[str, Any] | None) -> Task:
    """Read a request's messages; `response_format` is OpenAI's, or None."""
    turns = [(str(message["role"]), _content(message)) for message in messages]
    system = "\n".join(text for role, text in turns if role in {"system", "developer"})
    talk = [(role, text) for role, text in turns if role in {"user", "assistant"}]
    question = talk[-1][1] if talk else ""
    layout = _Layout.of(system)
    if layout is None:
        return _plain_task(question, response_format)
    examples = talk[:-1]
    demos = [
        Demo(layout.inputs_of(said), layout.outputs_of(answered))
        for (asker, said), (answerer, answered) in pairwise(examples)
        if (asker, answerer) == ("user", "assistant")
    ]
    for reminder in _REMINDERS:
        question = question.rpartition("\n\n" + reminder)[0] or question
    return Task(
        layout="json" if layout.is_json else "chat",
        inputs=layout.inputs_of(question),
        outputs=layout.outputs,
        demos=tuple(demos),
    )


@dataclass(frozen=True)
class _Layout:
    """The fields that a system message declares, and how their values are marked in the turns."""

    input_names: tuple[str, ...]
    outputs: tuple[OutputField, ...]
    is_json: bool

    @classmethod
    def of(cls, system: str) -> "_Layout | None":
        """Read the system message, or None when no DSPy adapter wrote it."""
        head, found, structure = system.partition("All interactions will be structured in the following way")
        inputs, _, outputs = head.partition("Your output fields are:")
        fields = _FIELD_LINE.findall(outputs)
        if not found or not fields:
            return None
        structure = structure.partition(_OBJECTIVE)[0]
        templates = _json_templates(structure) if _JSON_OUTPUTS in structure else _chat_templates(structure)
        return cls(
            input_names=tuple(name for name, _ in _FIELD_LINE.findall(inputs)),
            outputs=tuple(
                _output_field(name, type_name, templates.get(name, "")) for name, type_name in fields
            ),
            is_json=_JSON_OUTPUTS in structure,
        )

    def inputs_of(self, text: str) -> dict[str, str]:
        return _sections(text, self.input_names)

    def outputs_of(self, text: str) -> dict[str, Any]:
        names = tuple(output.name for output in self.outputs)
        values: Mapping[str, Any] = _sections(text, (*names, "completed"))
        if self.is_json:
            parsed = _json_or_none(text)
            values = parsed if isinstance(parsed, dict) else {}
        return {
            name: _json_or_none(value) or value if isinstance(value, str) else value
            for name, value in values.items()
            if name in names and not str(value).startswith(_NOT_SUPPLIED)
        }


def _sections(text: str, names: Sequence[str]) -> dict[str, str]:
    """Split at the first marker of each known field; a marker inside a user's own text stays text."""
    if not names:
        return {}
    marker = re.compile(rf"^\[\[ ## ({'|'.join(map(re.escape, names))}) ## \]\]$", re.MULTILINE)
    starts: dict[str, re.Match[str]] = {}
    for match in marker.finditer(text):
        starts.setdefault(match[1], match)
    ends = [*[match.start() for match in starts.values()][1:], len(text)]
    return {
        name: text[match.end() : end].strip() for (name, match), end in zip(starts.items(), ends, strict=True)
    }


def _chat_templates(structure: str) -> dict[str, str]:
    return {match[1]: match[0] for match in re.finditer(r"^\{(\w+)\}.*$", structure, re.MULTILINE)}


def _json_templates(structure: str) -> dict[str, str]:
    parsed = _json_or_none(structure.partition(_JSON_OUTPUTS)[2])
    return {name: str(value) for name, value in parsed.items()} if isinstance(parsed, dict) else {}


def _output_field(name: str, type_name: str, template: str) -> OutputField:
    match = _NOTE.search(template)
    note = match[1] if match else ""
    if note.startswith(_SCHEMA_NOTE):
        schema = _json_or_none(note.removeprefix(_SCHEMA_NOTE))
        return OutputField(name, type_name, schema=schema if isinstance(schema, dict) else None)
    for prefix in _CHOICE_NOTES:
        if note.startswith(prefix):
            return OutputField(name, type_name, choices=tuple(note.removeprefix(prefix).split("; ")))
    return OutputField(name, type_name)


def _plain_task(question: str, response_format: Mapping[str, Any] | None) -> Task:
    wanted = response_format or {}
    output = OutputField("text")
    if wanted.get("type") in {"json_object", "json_schema"}:
        described = wanted.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        output = OutputField(
            "json", "object", schema=schema if isinstance(schema, dict) else {"type": "object"}
        )
    return Task("plain", {"prompt": question}, (output,))


def _content(message: Mapping[str, Any]) -> str:
    """Return a message's text, also where it comes as a list of parts; images are not looked at."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
