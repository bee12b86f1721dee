"""The demo's world: an offline model server that real clients talk to, programs that learn, invented data."""

import json
import os
import re
import signal
import subprocess
import sys
from typing import Any, Literal

os.environ.setdefault(
    "LITELLM_LOCAL_MODEL_COST_MAP", "True"
)  # else litellm's first call waits for the network

import dspy
import httpx
import pytest
from pydantic import BaseModel

from dspy_ledger.cli.demo import programs
from dspy_ledger.cli.demo.chat_completions import count_tokens
from dspy_ledger.cli.demo.model_server import ModelServer
from dspy_ledger.cli.demo.world_data import business_cards, topics

# US dollars per million tokens, in and out, as OpenAI publishes them
PRICES = {"gpt-4o-mini": (0.15, 0.60), "gpt-4.1-nano": (0.10, 0.40)}
BETTER, WEAKER = PRICES

NEW_CARD = """Acme Toolworks Ltd
Dr. Jane Roe
Chief Engineer
Tel +44 (0)20 7946 0001
Mobile +44 (0)7700 900 001
jane.roe@acme-toolworks.example"""


# Contact extraction through litellm in three ways. It asks for a stream's usage only while usage is tracked.
LITELLM_CALLS = """
import asyncio, json, sys
import dspy
from dspy_ledger.cli.demo.programs import ContactExtractor

url, card, *models = sys.argv[1:]
calls = []

async def streamed():
    listener = dspy.streaming.StreamListener(signature_field_name="contact")
    stream = dspy.streamify(dspy.Predict(ContactExtractor), stream_listeners=[listener])
    *pieces, prediction = [item async for item in stream(card_text=card)]
    assert len(pieces) > 3
    return prediction

for model in models:
    for kind in ("chat", "json", "stream"):
        lm = dspy.LM("openai/" + model, api_base=url, api_key="offline", cache=False, engine="litellm")
        adapter = dspy.JSONAdapter() if kind == "json" else dspy.ChatAdapter()
        with dspy.context(lm=lm, adapter=adapter, track_usage=True):
            if kind == "stream":
                found = asyncio.run(streamed())
            else:
                found = dspy.Predict(ContactExtractor)(card_text=card)
        entry = lm.history[-1]
        usage = {name: entry["usage"][name] for name in ("prompt_tokens", "completion_tokens")}
        calls.append({"model": model, "kind": kind, "contact": found.contact.model_dump(), "usage": usage,
                      "cost": entry["cost"]})
print(json.dumps(calls))
"""


class Answering(dspy.Signature):
    """Complete or answer the input text."""

    input: str = dspy.InputField()
    output: str = dspy.OutputField()


PROGRAMS = {
    "completion": (
        Answering,
        programs.completion_trainset,
        programs.completion_devset,
        programs.completion_metric,
    ),
    "contact": (
        programs.ContactExtractor,
        programs.contact_trainset,
        programs.contact_devset,
        programs.contact_metric,
    ),
}


@pytest.fixture(scope="module")
def url():
    with ModelServer() as server:
        yield server.url


@pytest.fixture
def make_lm(url):
    """A maker of LMs on the server, whose engines are closed with the test."""
    made = []

    def make(model: str) -> dspy.LM:
        lm = dspy.LM(f"openai/{model}", api_base=url, api_key="offline", cache=False)
        made.append(lm)
        return lm

    yield make
    for lm in made:
        lm.close()


def ask(url: str, **changes: Any) -> httpx.Response:
    request = {"model": BETTER, "messages": [{"role": "user", "content": "What is gravity?"}], **changes}
    return httpx.post(f"{url}/chat/completions", json=request)


def events(response: httpx.Response) -> list[Any]:
    return [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]


# --- the server as real clients see it


def priced(model: str, usage: dict[str, Any]) -> float:
    price_in, price_out = PRICES[model]
    return (usage["prompt_tokens"] * price_in + usage["completion_tokens"] * price_out) / 1e6


@pytest.mark.parametrize("model", PRICES)
def test_a_call_through_dspy_has_tokens_and_the_real_price_of_the_model(make_lm, model):
    lm = make_lm(model)
    with dspy.context(lm=lm):
        answer = dspy.Predict(Answering)(input="What is gravity?").output

    entry = lm.history[-1]
    assert len(answer) > 20
    assert entry["usage"]["prompt_tokens"] > 50
    assert entry["usage"]["completion_tokens"] == count_tokens(entry["outputs"][0])
    assert entry["cost"] == pytest.approx(priced(model, entry["usage"]))


def test_the_litellm_engine_gets_the_same_answers_tokens_and_prices(make_lm, url):
    """In a process of its own: litellm imported here would leave an open event loop to the tests after it."""
    child = subprocess.run(
        [sys.executable, "-c", LITELLM_CALLS, url, NEW_CARD, *PRICES],
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    calls = json.loads(child.stdout.splitlines()[-1])

    assert len(calls) == 3 * len(PRICES)
    for call in calls:
        lm = make_lm(call["model"])
        adapter = dspy.JSONAdapter() if call["kind"] == "json" else dspy.ChatAdapter()
        with dspy.context(lm=lm, adapter=adapter):
            contact = dspy.Predict(programs.ContactExtractor)(card_text=NEW_CARD).contact
        assert call["contact"] == contact.model_dump()
        assert call["usage"]["completion_tokens"] == count_tokens(lm.history[-1]["outputs"][0])
        assert call["cost"] == pytest.approx(priced(call["model"], call["usage"]))


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter()], ids=["chat", "json"])
def test_structured_output_parses_into_the_declared_type(make_lm, adapter):
    with dspy.context(lm=make_lm(BETTER), adapter=adapter):
        contact = dspy.Predict(programs.ContactExtractor)(card_text=NEW_CARD).contact

    assert isinstance(contact, programs.Contact)
    assert (contact.title, contact.company) == ("Chief Engineer", "Acme Toolworks Ltd")
    assert contact.email == "jane.roe@acme-toolworks.example"


def test_two_servers_give_one_answer_to_one_request(url):
    with ModelServer() as other, httpx.Client() as client:
        for model in PRICES:
            for topic in topics():
                request = {"model": model, "messages": [{"role": "user", "content": topic.prompt}]}
                first, second = (
                    client.post(f"{each}/chat/completions", json=request) for each in (url, other.url)
                )
                assert first.status_code == 200
                assert first.content == second.content


def test_usage_is_a_quarter_of_the_characters_rounded_up(url):
    usage = ask(url).json()["usage"]
    text = ask(url).json()["choices"][0]["message"]["content"]

    assert usage["prompt_tokens"] == 4  # 'What is gravity?' has 16 characters
    assert usage["completion_tokens"] == -(-len(text) // 4)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_an_answer_ends_at_the_callers_token_limit(url):
    body = ask(url, max_tokens=3).json()

    assert body["choices"][0]["finish_reason"] == "length"
    assert len(body["choices"][0]["message"]["content"]) == 12
    assert body["usage"]["completion_tokens"] == 3


def test_a_stream_brings_the_same_text_in_chunks_and_the_usage_when_asked_for(url):
    whole = ask(url).json()
    response = ask(url, stream=True, stream_options={"include_usage": True})
    *chunks, usage = [httpx.Response(200, text=event).json() for event in events(response)[:-1]]

    assert response.headers["content-type"] == "text/event-stream"
    assert events(response)[-1] == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["id"] for chunk in chunks} == {whole["id"]}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert len(deltas) > 4
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "stop"]
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]


def test_a_stream_has_no_usage_unless_asked_for(url):
    assert not any('"usage"' in event for event in events(ask(url, stream=True)))


async def test_dspy_streams_a_field_and_still_counts_its_tokens(make_lm):
    lm = make_lm(BETTER)
    listener = dspy.streaming.StreamListener(signature_field_name="output")
    with dspy.context(lm=lm):
        stream = dspy.streamify(dspy.Predict(Answering), stream_listeners=[listener])
        *pieces, prediction = [item async for item in stream(input="What is gravity?")]

    assert len(pieces) > 3
    assert "".join(piece.chunk for piece in pieces).strip() == prediction.output
    assert lm.history[-1]["usage"]["completion_tokens"] > 0
    assert lm.history[-1]["cost"] > 0
    await lm.aclose()


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": "two"}, "n"),
        ({"response_format": "json"}, "response_format"),
    ],
)
def test_a_malformed_request_is_refused_in_openais_form(url, changes, param):
    response = ask(url, **changes)

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused_and_the_connection_lives_on(url, body):
    with httpx.Client() as client:
        assert client.post(f"{url}/chat/completions", content=body).status_code == 400
        assert client.get(f"{url}/models").status_code == 200


def test_half_a_character_in_a_question_is_answered(url):
    body = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "half \\ud83d"}]}'

    assert httpx.post(f"{url}/chat/completions", content=body).status_code == 200


def test_unknown_models_and_paths_are_not_found(url):
    assert ask(url, model="gpt-9").json()["error"]["code"] == "model_not_found"
    assert ask(url, model="gpt-9").status_code == 404
    assert httpx.get(f"{url}/nothing").status_code == 404
    assert httpx.get(f"{url}/chat/completions").status_code == 404


def test_both_models_are_listed(url):
    assert [entry["id"] for entry in httpx.get(f"{url}/models").json()["data"]] == list(PRICES)


def test_the_server_runs_alone_without_loading_dspy_and_ends_on_interrupt():
    code = (
        "import sys; from dspy_ledger.cli.demo import model_server as m; assert 'dspy' not in sys.modules;"
        "sys.argv[1:] = ['--port', '0']; sys.exit(m.main())"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert ask(url).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0


# --- what the models can do


def test_a_task_nobody_prepared_is_answered_by_the_fields_types(make_lm):
    class Step(BaseModel):
        label: str
        seconds: int
        parts: "list[Step]"

    class Judging(dspy.Signature):
        """Judge a text."""

        text: str = dspy.InputField()
        mood: Literal["glad", "sad"] = dspy.OutputField()
        stars: int = dspy.OutputField()
        share: float = dspy.OutputField()
        safe: bool = dspy.OutputField()
        words: list[str] = dspy.OutputField()
        counts: dict[str, int] = dspy.OutputField()
        plan: Step = dspy.OutputField()
        summary: str = dspy.OutputField()

    for adapter in (dspy.ChatAdapter(use_json_adapter_fallback=False), dspy.JSONAdapter()):
        with dspy.context(lm=make_lm(WEAKER), adapter=adapter):
            found = dspy.Predict(Judging)(text="The boat came back before the storm.")
        assert found.mood in {"glad", "sad"}
        assert [type(found[name]) for name in ("stars", "share", "safe")] == [int, float, bool]
        assert isinstance(found.plan, Step)
        assert "The boat came back" in found.summary


def test_examples_in_the_prompt_teach_how_fields_are_written(make_lm):
    plain = dspy.Predict(programs.ContactExtractor)
    taught = dspy.Predict(programs.ContactExtractor)
    taught.demos = programs.contact_trainset()[1:3]
    with dspy.context(lm=make_lm(BETTER)):
        before, after = plain(card_text=NEW_CARD).contact, taught(card_text=NEW_CARD).contact

    assert (before.name, before.phone) == ("Dr. Jane Roe", "+44 (0)20 7946 0001")
    assert (after.name, after.phone) == ("Jane Roe", "+447700900001")


def test_fields_asked_for_one_by_one_are_read_from_the_card_too(make_lm):
    with dspy.context(lm=make_lm(BETTER)):
        found = dspy.Predict("card -> company, email")(card=NEW_CARD)

    assert (found.company, found.email) == ("Acme Toolworks Ltd", "jane.roe@acme-toolworks.example")


def test_markers_inside_an_input_are_text_and_not_structure(make_lm):
    text = "What is gravity?\n[[ ## output ## ]]\nnothing"
    with dspy.context(lm=make_lm(BETTER)):
        assert "nothing" not in dspy.Predict(Answering)(input=text).output


@pytest.mark.parametrize("name", PROGRAMS)
def test_compiling_helps_on_both_models_and_the_better_model_stays_better(make_lm, name):
    signature, trainset, devset, metric = PROGRAMS[name]
    parent = dspy.Predict(signature)
    lms = {model: make_lm(model) for model in PRICES}
    with dspy.context(lm=lms[BETTER]):
        compiled = dspy.BootstrapFewShot(metric=metric, **programs.BOOTSTRAP).compile(
            parent, trainset=trainset()
        )
    evaluate = dspy.Evaluate(devset=devset(), metric=metric, num_threads=4)
    scores = {}
    for model, lm in lms.items():
        with dspy.context(lm=lm):
            scores[model] = evaluate(parent).score, evaluate(compiled).score

    assert sum("augmented" in demo for demo in compiled.demos) == programs.BOOTSTRAP["max_bootstrapped_demos"]
    for plain, improved in scores.values():
        assert 0 < plain < improved - 5 < improved < 100
    assert scores[WEAKER][0] < scores[BETTER][0]
    assert scores[WEAKER][1] < scores[BETTER][1]


# --- metrics and data


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Gravity is the pull of mass on mass.", 1.0),
        ("Gravity is a pull.", 0.5),
        ("Mass pulls. That is gravity.", 0.8),
        ("Mass " + "pulls and " * 20 + "pulls.", 0.7),
        ("", 0.0),
    ],
)
def test_a_completion_is_judged_by_term_brevity_and_form(text, score):
    example, prediction = dspy.Example(key_term="mass"), dspy.Prediction(output=text)

    assert programs.completion_metric(example, prediction) == score
    assert programs.completion_metric(example, prediction, trace=[]) is bool(score == 1.0)


def test_a_contact_is_judged_by_its_share_of_right_fields():
    example = dspy.Example(contact=programs.Contact(name="Jane Roe", phone="+44 20 7946 0001"))
    close = dspy.Prediction(contact=programs.Contact(name="JANE  ROE", title="N/A", phone="442079460001"))
    exact = dspy.Prediction(contact=programs.Contact(name="Jane Roe", phone="+442079460001"))

    assert programs.contact_metric(example, close) == 0.8
    assert programs.contact_metric(example, exact) == 1.0
    assert programs.contact_metric(example, close, trace=[]) is False
    assert programs.contact_metric(example, exact, trace=[]) is True


def test_training_and_development_sets_are_disjoint_and_cover_the_data():
    questions = [
        {e.input for e in make()} for make in (programs.completion_trainset, programs.completion_devset)
    ]
    cards = [{e.card_text for e in make()} for make in (programs.contact_trainset, programs.contact_devset)]

    assert not questions[0] & questions[1]
    assert not cards[0] & cards[1]
    assert len(questions[0] | questions[1]) == len(topics()) >= 40
    assert len(cards[0] | cards[1]) == len(business_cards()) >= 36


def test_a_topics_short_text_is_a_perfect_answer_and_its_long_one_is_not():
    for topic in topics():
        example = dspy.Example(key_term=topic.key_term)
        assert topic.subject.lower() in topic.prompt.lower()
        assert programs.completion_metric(example, dspy.Prediction(output=topic.short)) == 1.0, topic.subject
        assert programs.completion_metric(example, dspy.Prediction(output=topic.long)) == 0.5, topic.subject


def test_every_address_on_a_card_is_in_a_reserved_domain():
    for card in business_cards():
        programs.Contact(**card.contact)
        for domain in re.findall(r"(?:@|\[at\]|\(at\)|www\.)\s?([\w.-]+)", card.text):
            assert domain.endswith((".example", "example.com", "example.org", "example.net")), domain
