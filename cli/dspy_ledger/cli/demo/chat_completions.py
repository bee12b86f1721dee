"""Answer one chat-completions request as OpenAI would: validate, ask the model, count, put into envelopes.

Tokens are counted by one rule for what goes in and what comes out: a text has ceil(characters / 4) of them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from dspy_ledger.cli.demo.model_answers import PROFILES, answer, luck

__all__ = ["CREATED", "Completion", "RefusedError", "count_tokens"]

CREATED = (
    1_767_225_600  # 2026-01-01 in Unix seconds: a clock here would make two answers to one request differ
)
_CHARACTERS_PER_TOKEN = 4
_STREAMED_CHARACTERS = 16  # in one chunk: about what a fast model sends at a time


def count_tokens(text: str) -> int:
    """Return ceil(characters / 4): near what tokenizers find in English, and the same everywhere."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


class RefusedError(Exception):
    """A request that is answered by an error in OpenAI's form."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        }


@dataclass(frozen=True)
class Completion:
    """One validated request and its answer."""

    model: str
    text: str
    finish_reason: str
    usage: Mapping[str, int]
    choices: int
    digest: str
    delay: float  # seconds

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> "Completion":
        """Answer a request body; raises `RefusedError` when it is not one OpenAI would take."""
        model, messages = request.get("model"), request.get("messages")
        if not isinstance(model, str):
            raise RefusedError("you must provide a model parameter", "model")
        if model not in PROFILES:
            raise RefusedError(
                f"The model '{model}' does not exist here; there are {', '.join(PROFILES)}.",
                "model",
                HTTPStatus.NOT_FOUND,
                "model_not_found",
            )
        if not isinstance(messages, list) or not messages:
            raise RefusedError("'messages' must be an array with at least one message", "messages")
        for index, message in enumerate(messages):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise RefusedError("a message must be an object with a role", f"messages[{index}]")
            if not isinstance(message.get("content"), str | list | None):
                raise RefusedError(
                    "content must be a text or an array of parts", f"messages[{index}].content"
                )
        response_format = request.get("response_format")
        if not isinstance(response_format, dict | None):
            raise RefusedError("'response_format' must be an object", "response_format")
        limit = _positive(request, "max_completion_tokens") or _positive(request, "max_tokens")
        choices = _positive(request, "n") or 1

        text = answer(model, messages, response_format)
        finish_reason = "stop"
        if limit is not None and count_tokens(text) > limit:
            text, finish_reason = text[: limit * _CHARACTERS_PER_TOKEN], "length"
        asked = json.dumps([messages, response_format], sort_keys=True)
        prompt_tokens = count_tokens("".join(_texts(messages)))
        completion_tokens = count_tokens(text) * choices
        # A real model takes time, and not the same for each request. A few milliseconds, differing by model
        # and by request, give the demo's latency figures a shape without making anybody wait.
        least, most = PROFILES[model].latency
        return cls(
            model=model,
            text=text,
            finish_reason=finish_reason,
            usage={
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
            choices=choices,
            digest="".join(f"{luck(model, asked, str(place)):02d}" for place in range(8)),
            delay=(least + (most - least) * luck(model, "latency", asked) / 99) / 1000,
        )

    def whole(self) -> dict[str, Any]:
        """Return the answer as one object."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {"message": message, "logprobs": None, "finish_reason": self.finish_reason}
        choices = [{"index": index, **choice} for index in range(self.choices)]
        return self._envelope("chat.completion", choices) | {"usage": self.usage}

    def chunks(self, *, with_usage: bool) -> Iterator[dict[str, Any]]:
        """Yield the answer as stream chunks: the role, the text in pieces, why it ends, the usage."""
        for index in range(self.choices):
            starts = range(0, len(self.text), _STREAMED_CHARACTERS)
            pieces = [{"content": self.text[start : start + _STREAMED_CHARACTERS]} for start in starts]
            for delta in ({"role": "assistant", "content": ""}, *pieces):
                yield self._envelope(
                    "chat.completion.chunk", [{"index": index, "delta": delta, "finish_reason": None}]
                )
            end = {"index": index, "delta": {}, "finish_reason": self.finish_reason}
            yield self._envelope("chat.completion.chunk", [end])
        if with_usage:
            yield self._envelope("chat.completion.chunk", []) | {"usage": self.usage}

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        name = f"chatcmpl-{self.digest}"
        return {"id": name, "object": kind, "created": CREATED, "model": self.model, "choices": choices}


def _positive(request: Mapping[str, Any], name: str) -> int | None:
    value = request.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise RefusedError(f"'{name}' must be a positive integer", name)


def _texts(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, str):
            yield content
        else:
            yield from (str(part.get("text", "")) for part in content if isinstance(part, dict))
