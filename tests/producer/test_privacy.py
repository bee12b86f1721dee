"""What leaves the process is sampled, captured, redacted and cut as the settings say."""

from __future__ import annotations

import asyncio
import contextvars
import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import reduce
from time import thread_time

import dspy
import orjson
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from dspy_ledger.errors import InvalidInput
from dspy_ledger.producer import Ledger, ModelManager, ProgramManager, session
from dspy_ledger.producer.canonical import canonicalize
from dspy_ledger.producer.context import Ambient, ambient
from dspy_ledger.producer.limits import fit
from dspy_ledger.producer.recorder import is_sampled, record_execution
from dspy_ledger.producer.redaction import SECRETS, Redaction, rewrite, rewritten
from dspy_ledger.producer.serialise import Walk, encode
from dspy_ledger.settings import Settings, load_settings
from dspy_ledger.wire import Entry
from producer.streams import entries
from producer.test_programs import MODEL, Answers
from producer.test_serialise import Hostile, OddDict, Stubborn
from servers import Valkey

KEY = "sk-proj-abcDEF123456ghiJKL789012"
SECRET_TEXTS = [
    KEY,
    "sk-ant-api03-abcDEF123456ghiJKL789012_x",
    "gsk_abcDEF123456ghiJKL789012",
    "sk_live_abcDEF123456ghiJKL789012",
    "AIzaSyA-abcdefghijklmnopqrstuvwxyz01234",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcDEF123456ghiJKL789012abcDEF123456",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz",
    "glpat-abcDEF123456ghiJKL78",
    "xoxb-1234567890-abcdefGHIJ",
    "hf_abcDEF123456ghiJKL789012mnopqr",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/IBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
]


def secret_of(text: str) -> str:
    """The part of it that must never be seen."""
    return "MIIEow" if "PRIVATE" in text else text


@pytest.fixture
def make_manager(make_settings, valkey) -> Iterator[Callable[..., ProgramManager]]:
    """A manager of one program, ``odd``, that returns its inputs or does what ``forward`` does."""
    made: list[Ledger] = []

    def make(forward: Callable[..., object] | None = None, **given: object) -> ProgramManager:
        class Odd(dspy.Module):
            def forward(self, **inputs):
                return dspy.Prediction(**inputs) if forward is None else forward(**inputs)

        ledger = Ledger.connect(settings=make_settings(valkey.url), **given)
        made.append(ledger)
        manager = ProgramManager(model_manager=ModelManager({MODEL: Answers()}), ledger=ledger)
        manager.register_program(Odd(), name="Odd")
        return manager

    yield make
    for ledger in made:
        ledger.close()


def call(manager: ProgramManager, **inputs: object) -> object:
    return asyncio.run(manager.execute_program("odd", MODEL, inputs))[0]


def recorded(manager: ProgramManager, valkey: Valkey, kind: str = "ExecutionCompleted") -> list[Entry]:
    assert manager.ledger.flush(10)
    assert manager.ledger.stats().dropped == 0
    return [one for one in entries(valkey, manager.ledger.settings) if f".{kind}." in one.type]


def the_one(manager: ProgramManager, valkey: Valkey) -> tuple[dict, dict]:
    (entry,) = recorded(manager, valkey)
    return entry.envelope["data"], json.loads(entry.body)


# --- sessions ---


async def test_a_session_is_on_every_execution_within_it_also_in_tasks(make_manager, valkey) -> None:
    manager = make_manager()
    outer = session("s1", user="ada", tags=["beta"], metadata={"page": 1})
    with outer, session(tags="nested", metadata={"row": 2}):
        await asyncio.gather(*(manager.execute_program("odd", MODEL, {"n": n}) for n in range(3)))
    await manager.execute_program("odd", MODEL, {"n": 3}, metadata={"own": True})
    *within, after = [entry.envelope["data"] for entry in recorded(manager, valkey)]
    assert len(within) == 3
    for data in within:
        assert (data["session_id"], data["user_id"], data["tags"]) == ("s1", "ada", ["beta", "nested"])
        assert data["metadata"] == {"page": 1, "row": 2}
    assert (after["session_id"], after["tags"], after["metadata"]) == (None, [], {"own": True})


def test_sessions_nest_and_end_also_by_an_exception() -> None:
    seen = []
    with pytest.raises(ZeroDivisionError), session("a", user="u"), session("b", tags=["t", "t"]):
        seen.append(ambient()) or 1 / 0
    assert seen == [Ambient("b", "u", ("t",), {})]
    assert ambient() == Ambient()


def test_a_thread_has_no_session_unless_it_is_given_the_context() -> None:
    seen = []
    with session("s"):
        run = contextvars.copy_context().run
        for target in (
            lambda: seen.append(ambient().session_id),
            lambda: run(lambda: seen.append(ambient().session_id)),
        ):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert seen == [None, "s"]


def test_threads_of_dspy_parallel_have_the_session(make_manager, valkey) -> None:
    class Seeing(dspy.Module):
        def forward(self, n: int):
            return dspy.Prediction(session=ambient().session_id, tags=ambient().tags)

    pairs = [(Seeing(), {"n": n}) for n in range(8)]
    with session("s", tags=["a"]), dspy.context(lm=Answers()):
        seen = dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)
    assert {(one.session, one.tags) for one in seen} == {("s", ("a",))}
    assert ambient() == Ambient()


def test_leaving_a_session_in_another_context_than_it_was_entered_is_no_error() -> None:
    block = session("s")
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)
    assert ambient() == Ambient()


@pytest.mark.parametrize(
    "given", [{"session_id": ""}, {"user": "x" * 513}, {"tags": [1]}, {"metadata": ["a"]}]
)
def test_a_session_of_something_else_is_refused(given) -> None:
    with pytest.raises(InvalidInput), session(**given):
        pass


# --- sampling ---


def test_sampling_keeps_the_same_traces_everywhere_and_more_at_a_higher_rate() -> None:
    keys = [f"trace-{n}" for n in range(4000)]
    kept = {rate: {key for key in keys if is_sampled(key, rate)} for rate in (0, 0.1, 0.5, 1)}
    assert (len(kept[0]), len(kept[1])) == (0, 4000)
    assert kept[0.1] < kept[0.5]
    assert 300 < len(kept[0.1]) < 500
    assert sorted(kept[0.1])[:3] == ["trace-1001", "trace-1009", "trace-1013"]  # in every release


def test_errors_are_always_kept_and_the_rest_is_counted(make_manager, valkey) -> None:
    def forward(fail: bool):
        if fail:
            raise ValueError("no")

    manager = make_manager(forward, sample_rate=0)
    for fail in (False, True, False):
        try:
            call(manager, fail=fail)
        except ValueError:
            assert fail
    assert [entry.envelope["data"]["status"] for entry in recorded(manager, valkey)] == ["error"]
    assert manager.ledger.stats().sampled_out == 2


# --- capture ---


def test_a_callable_decides_what_is_captured_and_the_host_keeps_its_own(make_manager, valkey) -> None:
    manager = make_manager(
        capture_inputs=lambda inputs: {"length": len(inputs["text"])}, capture_outputs=lambda outputs: None
    )
    assert call(manager, text="abc").text == "abc"
    _, body = the_one(manager, valkey)
    assert (body["inputs"], body["outputs"]) == ({"length": 3}, None)


async def _async_choice(value):
    return value


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (lambda inputs: 1 / 0, "capture_inputs raised ZeroDivisionError"),
        (lambda inputs: 7, "capture_inputs returned int, no mapping"),
        (_async_choice, "capture_inputs is async"),
    ],
)
def test_a_callable_that_fails_leaves_a_mark(make_manager, valkey, choice, reason) -> None:
    manager = make_manager(capture_inputs=choice)
    assert call(manager, text="abc").text == "abc"
    assert the_one(manager, valkey)[1]["inputs"] == {"type": "not captured", "reason": reason}


class Asking(dspy.Module):
    """One LM call, which is asked what the input says."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("text -> output")

    def forward(self, text: str):
        return self.answer(text=text)


def messages_of(entry: Entry) -> list[object]:
    calls = json.loads(entry.body)["calls"]
    assert "lm" in {call["kind"] for call in calls}
    return [call["messages"] for call in calls if "messages" in call]


def test_messages_are_recorded_when_asked_for_and_redacted(make_manager, valkey) -> None:
    manager = make_manager(capture_messages=True)
    manager.register_program(Asking(), name="Asking")
    asyncio.run(manager.execute_program("asking", MODEL, {"text": f"my key is {KEY}, remember"}))
    (entry,) = recorded(manager, valkey)
    (messages,) = messages_of(entry)
    assert {message["role"] for message in messages} == {"system", "user", "assistant"}
    assert any("my key is [redacted: api key], remember" in str(message["content"]) for message in messages)
    assert KEY.encode() not in entry.body


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"capture_messages": True, "capture_inputs": False}, []),
        ({"capture_messages": True, "capture_outputs": dict}, []),
        ({"capture_messages": len, "capture_inputs": False}, [3]),
    ],
)
def test_messages_are_no_way_around_what_is_not_captured(make_manager, valkey, given, expected) -> None:
    manager = make_manager(**given)
    manager.register_program(Asking(), name="Asking")
    asyncio.run(manager.execute_program("asking", MODEL, {"text": "abcabc"}))
    (entry,) = recorded(manager, valkey)
    assert messages_of(entry) == expected
    assert (b"abcabc" in entry.body) == (given.get("capture_inputs", True) is True)


def test_a_callable_for_rows_is_given_each(make_manager, valkey) -> None:
    manager = make_manager(capture_rows=lambda row: {"score": row["score"], "length": len(row["said"])})
    manager.save_evaluation_result("odd", MODEL, {"em": 1}, rows=[{"said": "abc", "score": 1}, "odd"])
    body = json.loads(recorded(manager, valkey, "EvaluationSaved")[0].body)
    reason = "capture_rows raised TypeError"
    assert body["rows"] == [{"score": 1, "length": 3}, {"type": "not captured", "reason": reason}]


@pytest.mark.parametrize("choice", [False, lambda value: None])
def test_what_an_error_says_is_not_told_where_inputs_are_not(make_manager, valkey, choice) -> None:
    def forward(text: str):
        raise ValueError(f"can't read {text}")

    manager = make_manager(forward, capture_inputs=choice)
    with pytest.raises(ValueError, match="can't read abcabc"):
        call(manager, text="abcabc")
    (entry,) = recorded(manager, valkey)
    assert b"abcabc" not in entry.payload + entry.body
    assert entry.envelope["data"]["error"] == {"type": "ValueError", "message": "(not captured)"}


# --- redaction ---


@pytest.mark.parametrize("secret", SECRET_TEXTS)
def test_known_secrets_are_taken_out_wherever_they_are(make_manager, valkey, secret) -> None:
    def forward(fail: bool, **inputs):
        if fail:
            raise ValueError(f"refused: {secret}")
        return dspy.Prediction(answer={"deep": [f"it is {secret}."]})

    manager = make_manager(forward)
    with session("s", tags=[f"tag {secret}"], metadata={"note": secret, secret: 1}):
        call(manager, fail=False, text=f"use\n{secret}\nplease", field={secret: "as a name"})
        with pytest.raises(ValueError, match="refused"):
            call(manager, fail=True, text=Stubborn(name=secret))
    manager.save_evaluation_result("odd", MODEL, {"note": secret, "score": 1}, rows=[{"said": secret}])
    for entry in [*recorded(manager, valkey), *recorded(manager, valkey, "EvaluationSaved")]:
        seen = json.dumps([entry.envelope, json.loads(entry.body)])
        assert secret_of(secret) not in seen
        assert "[redacted: " in seen


def test_values_of_secret_fields_are_taken_out_by_name(make_manager, valkey) -> None:
    manager = make_manager(redact_fields="iban, Customer-Id")
    hidden = {
        "api_key": "a",
        "X-API-Key": ["b"],
        "accessToken": "c",
        "DB_PASSWORD": 1,
        "IBAN": "d",
        "customer_id": {"e": 1},
    }
    shown = {
        "max_tokens": 5,
        "token_count": 6,
        "usage": {"input_tokens": 7},
        "key": "f",
        "token": "g",
        "password": None,
        "secretary": "h",
    }
    call(manager, headers={**hidden, **shown})
    _, body = the_one(manager, valkey)
    assert body["inputs"]["headers"] == {**dict.fromkeys(hidden, "[redacted]"), **shown}


def test_assignments_within_a_text_are_taken_out_by_name() -> None:
    redaction = Redaction.of(True, (), ())
    for text, expected in {
        "GET /v1?api_key=abcdefgh&x=1": "GET /v1?api_key=[redacted]&x=1",
        '{"client_secret": "abc", "n": 1}': '{"client_secret": "[redacted]", "n": 1}',
        "{'Authorization': 'Basic abc=='}": "{'Authorization': '[redacted]'}",
        "redis://user:hunter2@host/0": "redis://user:[redacted: password]@host/0",
        "max_tokens=100000 and monkey=bananas": "max_tokens=100000 and monkey=bananas",
        "the bearer of good news, sk-learn, task-based": "the bearer of good news, sk-learn, task-based",
    }.items():
        assert rewritten(text, redaction.suspected([text])) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "Authorization: [redacted]"),
        ("GET /\nAuthorization: abcd\nAccept: */*", "GET /\nAuthorization: [redacted]\nAccept: */*"),
        ("curl -H 'X-API-Key: 9f8e7d6c5b' -d x", "curl -H 'X-API-Key: [redacted]' -d x"),
        ('curl -H "authorization: Token abcdef"', 'curl -H "authorization: [redacted]"'),
        ("Cookie: id=abc; theme=dark\n", "Cookie: [redacted]\n"),
        ("user: ada\n  api_key: abc123def\n", "user: ada\n  api_key: [redacted]\n"),
        ("the password: hunter2, said she", "the password: [redacted], said she"),
        ('password: "correct horse"\n', 'password: "[redacted]"\n'),
        ("openai_key: 0123456789", "openai_key: [redacted]"),
        ('API_KEY = "abcdef"', 'API_KEY = "[redacted]"'),
        ('password: str = "hunter"', 'password: str = "[redacted]"'),
    ],
)
def test_headers_and_yaml_within_a_text_are_taken_out_by_name(text, expected) -> None:
    assert rewritten(text, Redaction.of(True, (), ()).suspected([text])) == expected


@pytest.mark.parametrize(
    "text",
    [
        "password: must be long",
        "Password: required. Secret: none.",
        "Authorization: you must be logged in",
        "authorization: str\n    password: SecretStr\n    api_key: str | None = None\n",
        "def login(password: str, api_key: Optional[str] = None) -> Token: ...",
        'headers = {"X-Api-Key": key}; "Authorization: " + value + " or so"',
        "api_key: sha256(text)\npassword: ${DB_PASSWORD_1}\nsecret: {{ vault.secret1 }}",
        "question: what is a token: 12345678?\nversion: 1.2.3456\nmode: x86_64",
        "valid_token: abc12345 invalid_token=abcdefgh",
        "sk-learn-version-1-2 and sk-learn-compatibility-2024",
        "primary_key: users_2024 and foreign key: orders_2024",
    ],
)
def test_prose_and_code_that_only_name_a_secret_stay(text) -> None:
    assert rewritten(text, Redaction.of(True, (), ()).suspected([text])) == text


@pytest.mark.parametrize(
    "text", ["question: what?\nnext version: 1.2.3", "mode: a, word: b, base: c", "https://h/: 12:30"]
)
def test_a_colon_alone_raises_no_suspicion(text) -> None:
    assert Redaction.of(True, (), ()).suspected([text]) in ([], [r for r in SECRETS if r.name == "password"])


def test_plurals_and_keys_of_providers_are_secret_names_and_validity_is_none(make_manager, valkey) -> None:
    names = "passwords api_keys client_secret client_secrets openai_key ANTHROPIC_KEY passcode credential"
    hidden = dict.fromkeys(names.split(), "long enough")
    shown = dict.fromkeys(("valid_token", "invalid_token", "monkey", "primary_key"), "long enough")
    manager = make_manager()
    call(manager, given={**hidden, **shown})
    _, body = the_one(manager, valkey)
    assert body["inputs"]["given"] == {**dict.fromkeys(hidden, "[redacted]"), **shown}


def test_headers_given_as_pairs_or_as_names_and_values_are_taken_out_by_name(make_manager, valkey) -> None:
    manager = make_manager()
    call(
        manager,
        pairs=[("Authorization", "abcd"), ("Accept", "text/html")],
        named=[{"name": "Authorization", "value": "abcd"}, {"name": "Accept", "value": "text/html"}],
        columns=["password", "username"],
    )
    _, body = the_one(manager, valkey)
    assert body["inputs"] == {
        "pairs": [["Authorization", "[redacted]"], ["Accept", "text/html"]],
        "named": [
            {"name": "Authorization", "value": "[redacted]"},
            {"name": "Accept", "value": "text/html"},
        ],
        "columns": ["password", "username"],
    }


@pytest.mark.parametrize(
    "secret", ["it's-a-secret", 'with "quotes" in it', "back\\slash\\", "two words", "s" * 3000]
)
def test_a_named_value_is_taken_out_whole_however_it_is_quoted(secret) -> None:
    said = {"region": {"password": secret, "n": 1}, "text": "stays"}
    once = json.dumps(said)
    within = json.dumps({"body": once, "text": "stays"})
    for text in (
        once,
        within,
        repr(said),
        f"password={json.dumps(secret)} n=1 stays",
        f"password={'x' * 3000} stays",
    ):
        found = rewritten(text, SECRETS)
        assert "[redacted]" in found
        assert not any(
            part in found for part in (secret, json.dumps(secret)[1:-1], "-secret", "words", "xxx")
        )
        assert "stays" in found
    hidden = {"region": {"password": "[redacted]", "n": 1}, "text": "stays"}
    assert json.loads(rewritten(once, SECRETS)) == hidden
    assert json.loads(json.loads(rewritten(within, SECRETS))["body"]) == hidden


def test_a_name_that_is_none_hides_no_other_within_its_value() -> None:
    text = "next_region=https://h/?access_token=abcdefgh&password=ijklmnop"
    expected = "next_region=https://h/?access_token=[redacted]&password=[redacted]"
    assert rewritten(text, SECRETS) == expected


def test_short_texts_are_looked_at_too(make_manager, valkey) -> None:
    """With nothing long beside them, patterns were not tried on them."""
    manager = make_manager(redact_patterns=["[0-9]{3}-[0-9]{2}-[0-9]{4}", "^pin$"])
    call(manager, a="123-45-6789", b="pin", c="pwd=123456")
    _, body = the_one(manager, valkey)
    assert body["inputs"] == {"a": "[redacted]", "b": "[redacted]", "c": "pwd=[redacted]"}


def test_own_patterns_are_taken_out_and_without_redaction_nothing_is(make_manager, valkey) -> None:
    manager = make_manager(redact_patterns=["acct-[0-9]{6}"])
    call(manager, text="of acct-123456, please")
    assert the_one(manager, valkey)[1]["inputs"] == {"text": "of [redacted], please"}
    open_manager = make_manager(redact=False)
    call(open_manager, text=KEY, api_key="x")
    assert json.loads(recorded(open_manager, valkey)[-1].body)["inputs"] == {"text": KEY, "api_key": "x"}


def test_a_file_within_a_text_is_told_by_size_and_digest(make_manager, valkey) -> None:
    manager = make_manager(redact=False)
    call(manager, text="look: data:image/png;base64,aGVsbG8= there")
    _, body = the_one(manager, valkey)
    assert re.fullmatch(
        r"look: \[image/png, 5 bytes, sha256:2cf24d[0-9a-f]{58}\] there", body["inputs"]["text"]
    )


def test_program_state_is_recorded_as_it_is_and_a_secret_in_it_is_said_once(
    make_manager, valkey, caplog
) -> None:
    manager = make_manager()
    for _ in range(2):
        manager.register_program(dspy.Predict(dspy.Signature("q -> a", f"Use {KEY}.")), name="Leaky One")
    assert KEY in recorded(manager, valkey, "ProgramRegistered")[-1].body.decode()
    said = [record.message for record in caplog.records if "secret" in record.message]
    assert len(said) == 1
    assert "'leaky_one'" in said[0]


class Sourced(dspy.Module):
    """A program whose code holds a secret, beside what only names one."""

    def forward(self, settings):
        self.database = {"password": "hunter2", "max_tokens": 5}
        return dspy.LM("m", api_key=settings.api_key, password=ambient(), note="acct-123456")


def test_source_code_is_recorded_redacted_with_the_hashes_of_the_original(
    make_manager, valkey, caplog
) -> None:
    manager = make_manager(redact_patterns=["acct-[0-9]{6}"])
    known = manager.register_program(Sourced(), name="Sourced")
    data = recorded(manager, valkey, "ProgramRegistered")[-1].envelope["data"]
    original = canonicalize(Sourced())
    assert "hunter2" in original.source_code
    expected = original.source_code.replace("hunter2", "[redacted]").replace("acct-123456", "[redacted]")
    assert data["source_code"] == expected
    assert (data["code_hash"], data["content_hash"]) == (original.code_hash, original.content_hash)
    (said,) = [record.message for record in caplog.records if "secret" in record.message]
    assert said == "of program 'sourced': its source code holds what looks like a secret and was redacted"
    assert known
    open_manager = make_manager(redact=False)
    open_manager.register_program(Sourced(), name="Open")
    data = recorded(open_manager, valkey, "ProgramRegistered")[-1].envelope["data"]
    assert data["source_code"] == original.source_code


nested = st.recursive(
    st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@given(nested, st.sampled_from(SECRET_TEXTS), st.sampled_from(["", " ", "\n", '"', "\\", "é", "/", "—"]))
@budget(max_examples=200, deadline=None)
def test_no_secret_survives_in_the_bytes(around, secret, edge) -> None:
    redaction = Redaction.of(True, (), ())
    walk = Walk(redaction.keys)
    value = walk.plain([around, f"{edge}{secret}{edge}", {f"{secret}": around}])
    raw = encode(rewrite(value, redaction.suspected(walk.texts)))
    orjson.loads(raw)
    assert secret_of(secret).encode() not in raw


@pytest.mark.parametrize("rule", SECRETS, ids=lambda rule: f"{rule.name} {rule.anchors[0]}")
@given(data=st.data())
@budget(max_examples=15, deadline=None)
def test_a_pattern_takes_time_in_proportion_to_the_text(rule, data) -> None:
    atoms = [*rule.anchors, *"aA0-_. \n\"':=@/&", "key", "password", "PRIVATE KEY", "-----", "eyJ", "://a:"]
    unit = "".join(data.draw(st.lists(st.sampled_from(atoms), min_size=1, max_size=5)))

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        took = []
        for _ in range(2):
            began = thread_time()
            rewritten(text, [rule])
            took.append(thread_time() - began)
        return min(took)

    assert seconds(200_000) < 0.2 + 8 * seconds(50_000)


# --- limits ---


def test_large_values_are_cut_to_the_limit_and_said(make_manager, valkey) -> None:
    manager = make_manager(max_event_bytes=64 << 10)
    document, question = "word " * 1_000_000, "short?"
    call(manager, document=document, other="x" * 100_000, question=question)
    (entry,) = recorded(manager, valkey)
    assert len(entry.payload) + len(entry.body) <= 64 << 10
    body = json.loads(entry.body)
    assert body["inputs"]["question"] == question
    cut = body["inputs"]["document"]
    assert (cut["type"], cut["size"]) == ("cut", 5_000_000)
    assert document.startswith(cut["head"])
    assert len(cut["head"]) > 5_000
    assert entry.envelope["data"]["truncated"] == [
        *("inputs.document", "inputs.other", "outputs.document", "outputs.other")
    ]


def test_many_small_values_are_cut_by_field_and_calls_lose_their_end() -> None:
    calls = [{"kind": "lm", "parent": None, "n": n} for n in range(5000)]
    raw, paths = fit({"inputs": {"n": list(range(30_000)), "q": "?"}, "outputs": {}, "calls": calls}, 50_000)
    body = json.loads(raw)
    assert len(raw) <= 50_000
    assert paths == ["calls", "inputs.n"]
    assert body["inputs"]["q"] == "?"
    assert (body["inputs"]["n"]["type"], body["calls"]) == ("cut", calls[: len(body["calls"])])


sizes = st.integers(0, 30_000)
letters = st.sampled_from(["a", "é", "\n", "\U0001f600", '"', "\x00"])
large = st.builds(lambda letter, size: letter * size, letters, sizes)
sections = st.fixed_dictionaries(
    {
        "inputs": st.dictionaries(st.text(max_size=5), large | st.lists(large, max_size=3), max_size=5),
        "outputs": large | st.none() | st.lists(st.integers(), max_size=300),
        "calls": st.lists(st.fixed_dictionaries({"messages": st.lists(large, max_size=2)}), max_size=5),
    }
)


@given(sections, st.integers(4_000, 60_000))
@budget(max_examples=100, deadline=None)
def test_whatever_there_is_fits_and_what_is_gone_is_listed(given_sections, room) -> None:
    before = json.loads(encode(given_sections))
    raw, paths = fit(given_sections, room)
    after = json.loads(raw)
    assert len(raw) <= room
    assert set(after) == set(before)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {path.partition(".")[0] for path in paths}


def test_data_that_no_reader_would_take_does_not_leave(make_manager, valkey) -> None:
    def forward(**inputs):
        raise ValueError("m" * 1_000_000)

    manager = make_manager(forward)
    much = session("s", tags=["t" * 1000] * 1000, metadata={"note": "n" * 1_000_000, "few": 1})
    with much, pytest.raises(ValueError, match="m"):
        asyncio.run(manager.execute_program("odd", MODEL, {}, trace_id="t" * 1000))
    data, _ = the_one(manager, valkey)
    assert len(data["trace_id"]) == 512
    assert len(data["error"]["message"]) == 8000
    assert data["metadata"]["few"] == 1
    assert data["metadata"]["note"]["size"] == 1_000_000
    assert set(data["truncated"]) == {"trace_id", "error.message", "tags", "metadata.note"}


def test_a_text_too_long_to_be_looked_at_is_cut_though_what_is_left_is_short(make_manager, valkey) -> None:
    manager = make_manager()
    text = f"See data:image/png;base64,{'QUJD' * (1 << 20)} and read on."
    call(manager, text=text)
    data, body = the_one(manager, valkey)
    assert "inputs.text" in data["truncated"]
    assert body["inputs"]["text"]["size"] == len(text)
    assert body["inputs"]["text"]["head"].startswith("See [image/png, ")


def test_what_was_left_out_on_the_way_is_listed_too() -> None:
    walk = Walk(longest=5000)
    body = {"inputs": walk.plain({"numbers": [*range(400), "a"] * 2, "q": "?"})}
    raw, paths = fit(body, 100_000, cut=walk.cut)
    assert paths == ["inputs.numbers"]
    assert json.loads(raw)["inputs"]["numbers"][-1]["type"] == "cut"


def test_what_calls_quote_follows_the_settings_and_a_wrong_field_does_not_leave(
    make_manager, valkey, caplog
) -> None:
    manager = make_manager(capture_inputs=False)
    data = {
        "execution_id": "e",
        "program_id": "p",
        "status": "ok",
        "started_at": "2026-11-22T10:00:00.000000Z",
        "latency_ms": 1,
        "usage": {"input_tokens": "many"},
    }
    error = {"type": "ValueError", "message": "of abcabc"}
    tool = {"kind": "tool", "name": "look", "inputs": {"q": "abcabc"}, "outputs": "kept", "error": error}
    record_execution(manager.ledger, data, inputs={}, outputs=1, calls=[tool])
    (entry,) = recorded(manager, valkey)
    call_ = {"kind": "tool", "name": "look", "outputs": "kept"}
    left = {"type": "ValueError", "message": "(not captured)"}
    assert json.loads(entry.body) == {"outputs": 1, "calls": [{**call_, "error": left}]}
    assert "usage" not in entry.envelope["data"]
    assert "no reader would take it: usage" in caplog.text


# --- the hostile set ---


def hostile_inputs() -> dict[str, object]:
    cyclic: dict[str, object] = {}
    cyclic["again"] = cyclic
    return {
        "nan": [float("nan"), float("inf")],
        "bytes": b"\xff\x00",
        "cyclic": cyclic,
        "text": "x" * 10_000_000,
        "model": Stubborn(name="Ada"),
        "surrogate": "a\ud800b",
        "object": Hostile(),
        "odd": OddDict(a=1),
        "picture": PIL.Image.new("RGB", (2, 2)),
        "million": list(range(1_000_000)),
        "generator": (n for n in range(3)),
        "keys": {1: "a", "1": "b", (1, 2): "c"},
        "big": 2**100,
        "deep": reduce(lambda inner, _: [inner], range(500), 0),
    }


def test_hostile_inputs_leave_the_host_unaffected_and_the_event_valid(make_manager, valkey) -> None:
    manager = make_manager()
    inputs = hostile_inputs()
    result = call(manager, **inputs)
    assert all(result[name] is value for name, value in inputs.items())
    assert list(inputs["generator"]) == [0, 1, 2]
    data, body = the_one(manager, valkey)
    assert set(body["inputs"]) == set(inputs)
    assert {"inputs.text", "inputs.million"} <= set(data["truncated"])
    assert body["inputs"]["cyclic"] == {"again": {"type": "cycle"}}
    assert body["inputs"]["text"]["size"] == 10_000_000
    assert body["inputs"]["model"] == {"name": "Ada"}


def test_an_exception_whose_text_raises_comes_unchanged_and_is_recorded(make_manager, valkey) -> None:
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no")

    def forward(**inputs):
        raise Mute

    manager = make_manager(forward)
    with pytest.raises(Mute):
        call(manager)
    assert the_one(manager, valkey)[0]["error"]["type"] == "Mute"


# --- settings ---


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CAPTURE_INPUTS", "maybe", "DSPY_LEDGER_CAPTURE_INPUTS='maybe' can't be used: it is true or false"),
        ("SAMPLE_RATE", "2", "DSPY_LEDGER_SAMPLE_RATE='2' can't be used: "),
        ("REDACT_PATTERNS", "acct", "DSPY_LEDGER_REDACT_PATTERNS='acct' can't be used: write a JSON list"),
        ("REDACT_PATTERNS", '["("]', "'(' is no regular expression"),
        ("REDACT_PATTERNS", '["a*"]', "'a*' matches the empty text"),
        ("REDACT_FIELDS", "[1]", "DSPY_LEDGER_REDACT_FIELDS"),
        ("MAX_EVENT_BYTES", "10", "DSPY_LEDGER_MAX_EVENT_BYTES='10' can't be used: "),
    ],
)
def test_a_setting_that_can_not_be_used_is_refused_in_one_line(monkeypatch, name, value, says) -> None:
    monkeypatch.setenv(f"DSPY_LEDGER_{name}", value)
    with pytest.raises(InvalidInput) as error:
        load_settings(_env_file=None)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_lists_are_read_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("DSPY_LEDGER_REDACT_FIELDS", "iban, customer_id")
    monkeypatch.setenv("DSPY_LEDGER_REDACT_PATTERNS", '["a{1,3}", "b"]')
    found: Settings = load_settings(_env_file=None)
    assert (found.redact_fields, found.redact_patterns) == (("iban", "customer_id"), ("a{1,3}", "b"))
