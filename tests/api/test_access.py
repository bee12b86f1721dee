"""Nobody asks without a valid key once one was created; before, only this machine under its own names."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from api.conftest import Api
from api.test_server import running
from dspy_ledger import wire
from dspy_ledger.api import run_api, schemas
from dspy_ledger.api.access import cookie_of, is_foreign, is_own_name
from dspy_ledger.api.routes.signin import local_path
from dspy_ledger.api.security_headers import CONTENT_SECURITY_POLICY
from dspy_ledger.errors import StartupError
from dspy_ledger.files import LEASE
from dspy_ledger.keyring import KEYRING, Keyring, may_be_open
from dspy_ledger.projector.actions import all_actions
from dspy_ledger.projector.office import Office, open_office
from dspy_ledger.projector.requests import Action, Clerk
from dspy_ledger.requests import Desk
from dspy_ledger.settings import Settings
from dspy_ledger.store import DeadLetter

PATHS = ("/v1/programs", "/v1/programs/p", "/v1/deadletters", "/metrics", "/openapi.json", "/v1/nowhere", "/")
PAGE = {"Accept": "text/html"}


@pytest.fixture
def keyring(api_settings: Settings) -> Keyring:
    return Keyring(api_settings.data_dir)


@pytest.fixture
def read_key(keyring: Keyring) -> str:
    return keyring.create("reader", "read")[0]


@pytest.fixture
def admin_key(keyring: Keyring) -> str:
    return keyring.create("admin", "admin")[0]


def ask(
    api: Api, path: str, key: str | None = None, *, method: str = "GET", **headers: str
) -> httpx.Response:
    bearer = {} if key is None else {"Authorization": f"Bearer {key}"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.request(method=method, url=path, headers={**bearer, **named})


def check_refused(answer: httpx.Response, status: int, word: str) -> str:
    """Its detail."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    told = answer.json()
    schemas.ProblemDetails.model_validate(told)
    assert told["type"] == f"urn:dspy-ledger:problem:{word}"
    return told["detail"]


# --- keys ---


def test_every_path_but_health_needs_the_key_from_when_it_is_created_until_it_is_revoked(
    ledger, api, keyring
):
    ledger.register("p")
    ledger.fold()
    for path in PATHS:
        assert ask(api, path).status_code in (200, 404), path
    text, key = keyring.create("", "read")
    for path in PATHS:
        detail = check_refused(ask(api, path), 401, "key")
        assert "dspy-ledger keys create" in detail
        assert ask(api, path, text).status_code in (200, 404), path
    for path in ("/health/live", "/health/ready"):
        assert ask(api, path).status_code == 200
    keyring.revoke(key.id)
    for path in PATHS:
        check_refused(ask(api, path, text), 401, "key")


def test_whoever_is_refused_is_told_how_to_send_a_key_and_nothing_of_the_ledger(ledger, api, read_key):
    ledger.register("p")
    ledger.fold()
    without, wrong = ask(api, "/v1/programs/p"), ask(api, "/v1/programs/p", "x")
    assert without.headers["www-authenticate"] == "Bearer"
    assert wrong.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    for answer in (without, wrong):
        assert "ledger-position" not in answer.headers
    assert ask(api, "/v1/programs/p", read_key).headers["ledger-position"] == "1"


def test_all_that_is_no_valid_key_gets_the_same_answer(api, keyring, monkeypatch, read_key):
    revoked, key = keyring.create("", "admin")
    keyring.revoke(key.id)
    expired, _ = keyring.create("", "admin", "2098-01-01T00:00:00.000000Z")
    monkeypatch.setattr("dspy_ledger.keyring.utc_now", lambda: "2099-01-01T00:00:00.000000Z")
    assert ask(api, "/v1/programs", read_key).status_code == 503  # it has none to tell of yet
    unknown = "dlk_aaaaaaaa_" + "b" * 43
    swapped = read_key[:13] + revoked[13:]
    given = [
        f"Bearer {each}"
        for each in (revoked, expired, unknown, swapped, read_key + "x", "", "é", "x" * 30_000)
    ]
    given += [read_key, f"Basic {read_key}", "Bearer", "Bearer " * 9, f"Bearer {read_key},Bearer {read_key}"]
    answers = [
        api.request(method="GET", url="/v1/programs", headers={"Authorization": each.encode("latin-1")})
        for each in given
    ]
    twice = [("Authorization", f"Bearer {read_key}")] * 2
    answers.append(api.request(method="GET", url="/v1/programs", headers=twice))
    assert {answer.status_code for answer in answers} == {401}
    assert len({(answer.content, tuple(answer.headers.items())) for answer in answers}) == 1
    assert ask(api, "/v1/programs", Authorization=f"bearer  {read_key}").status_code == 503


def test_a_key_for_reading_does_not_act(api, read_key, admin_key):
    detail = check_refused(ask(api, "/v1/deadletters/1/drop", read_key, method="POST"), 403, "scope")
    assert "--scope admin" in detail
    answer = ask(api, "/v1/deadletters/1/drop", read_key, method="POST")
    assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="admin"'
    for method in ("PUT", "DELETE", "PATCH"):
        assert ask(api, "/v1/programs", read_key, method=method).status_code == 403
        assert ask(api, "/v1/programs", admin_key, method=method).status_code == 405
    assert ask(api, "/v1/deadletters/1/drop", admin_key, method="POST").status_code == 503  # no store yet


def test_another_method_is_told_which_one_is_meant(api, admin_key):
    told = ask(api, "/v1/deadletters/1/drop", admin_key).json()["detail"]
    assert told == "GET is not for this path; POST is"


def test_without_a_key_nobody_learns_by_waiting_which_events_there_are(ledger, api, read_key, monkeypatch):
    """Where anybody may ask, one that was there was answered at once, and another after 5 s."""
    monkeypatch.setattr("dspy_ledger.api.consistency._PATIENCE", 0.01)
    ledger.execute("x")
    ledger.fold()
    for path in ("/health/live", "/signin", "/static/nothing"):
        told = {ask(api, path, Ledger_Min_Event=event).status_code for event in ("x", "never")}
        assert told == {ask(api, path).status_code}
    assert ask(api, "/v1/programs", read_key, Ledger_Min_Event="x").status_code == 200
    assert ask(api, "/v1/programs", read_key, Ledger_Min_Position="x").status_code == 400


def test_keys_that_cannot_be_read_let_nobody_in(ledger, api, api_settings, read_key):
    ledger.fold()
    (api_settings.data_dir / KEYRING).write_bytes(b"{")
    for key in (None, read_key):
        answer = ask(api, "/v1/programs", key)
        assert "keyring.json can't be read" in check_refused(answer, 503, "not-ready")
    assert ask(api, "/health/live").status_code == 200


def test_the_document_tells_which_paths_take_a_key_and_how_they_refuse(api):
    document = api.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["security"] == [{}, {"key": []}]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_health = path.startswith("/health/")
            assert (operation.get("security") == []) == is_health
            assert ({"401", "403"} <= set(operation["responses"])) != is_health
            if not is_health:
                assert set(operation["responses"]["401"]["content"]) == {"application/problem+json"}


# --- without keys ---


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8321", "localhost", "LOCALHOST:1", "[::1]:8321", "10.1.2.3", "api"]
)
def test_without_keys_it_answers_under_names_that_are_its_own(ledger, api, host):
    ledger.fold()
    assert ask(api, "/v1/programs", Host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8321", "localhost.evil.example", "127.0.0.1.nip.io", "a b.c", "[x]"],
)
def test_without_keys_a_name_that_anybody_may_own_is_refused(ledger, api, keyring, host):
    ledger.fold()
    detail = check_refused(ask(api, "/v1/programs", Host=host), 403, "foreign-host")
    assert "DSPY_LEDGER_API_HOSTS" in detail
    assert ask(api, "/", Host=host, **PAGE).status_code == 403
    assert ask(api, "/health/live", Host=host).status_code == 200  # a probe asks as it likes
    text, _ = keyring.create("", "read")
    assert ask(api, "/v1/programs", text, Host=host).status_code == 200


def test_names_can_be_added(ledger, make_settings):
    ledger.fold()
    settings = make_settings("redis://127.0.0.1:1/0", api_hosts="ledger.example,b.example")
    with closing(Api(settings)) as api:
        assert ask(api, "/v1/programs", Host="ledger.example:80").status_code == 200
        assert ask(api, "/v1/programs", Host="x.ledger.example").status_code == 403


@given(st.text(max_size=30))
def test_no_host_header_breaks_the_check_and_no_name_with_a_dot_passes(host):
    if is_own_name(host, frozenset()):
        name = re.sub(r":[0-9]*$", "", host.lower())
        assert "." not in name or name.endswith(".localhost") or re.fullmatch(r"[0-9.]+|\[.*\]", name)


@pytest.mark.parametrize(
    ("host", "insecure", "is_open"),
    [
        *((host, False, True) for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost", "::ffff:127.0.0.1")),
        *(
            (host, False, False)
            for host in ("0.0.0.0", "::", "10.0.0.1", "ledger.example", "localhost.example")
        ),
        ("0.0.0.0", True, True),
    ],
)
def test_only_this_machine_may_ask_without_a_key_unless_that_is_wished(
    make_settings, host, insecure, is_open
):
    settings = make_settings("redis://127.0.0.1:1/0", api_host=host, api_insecure=insecure)
    assert may_be_open(settings) is is_open


def test_beyond_this_machine_it_refuses_to_start_without_a_key(make_settings, capfd):
    settings = make_settings("redis://127.0.0.1:1/0", api_host="0.0.0.0", api_port=0)
    with pytest.raises(StartupError, match="run `dspy-ledger keys create` first, or pass --insecure") as told:
        run_api(settings)
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("command", ["api", "up"])
def test_commands_say_so_in_one_line(tmp_path, command):
    env = {
        "DSPY_LEDGER_DATA_DIR": str(tmp_path),
        "DSPY_LEDGER_API_HOST": "0.0.0.0",
        "DSPY_LEDGER_API_PORT": "0",
    }
    env["DSPY_LEDGER_REDIS_URL"] = "redis://127.0.0.1:1/0"
    run = [sys.executable, "-m", "dspy_ledger.cli.main", command]
    done = subprocess.run(run, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"error: other machines may reach 0\.0\.0\.0, .*`dspy-ledger keys create`.*\n", done.stderr
    )


def test_beyond_this_machine_keys_hold_from_the_start_and_when_their_file_is_gone(tmp_path):
    text, _ = Keyring(tmp_path).create("", "read")
    with running(tmp_path, DSPY_LEDGER_API_HOST="127.0.0.1", DSPY_LEDGER_API_INSECURE="true") as (_, url):
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {text}"}).status_code == 503
    with running(tmp_path, DSPY_LEDGER_API_HOST="0.0.0.0") as (_, url):
        metrics = url.replace("0.0.0.0", "127.0.0.1") + "/metrics"
        assert httpx.get(metrics).status_code == 401
        (tmp_path / KEYRING).unlink()
        assert httpx.get(metrics).status_code == 401
        assert httpx.get(metrics, headers={"Authorization": f"Bearer {text}"}).status_code == 401


@pytest.mark.parametrize("end", ["revoke", "sign out"])
def test_a_stream_under_way_tells_nothing_after_its_key_or_session_ended(
    ledger, api_settings, keyring, read_key, end
):
    ledger.register("p")
    ledger.fold()
    key = keyring.all_keys()[0]
    token = keyring.begin_session(key)
    cookie = f"{cookie_of(keyring)}={token}"
    headers = {"Authorization": f"Bearer {read_key}"} if end == "revoke" else {"Cookie": cookie}
    with running(api_settings.data_dir) as (_, url), httpx.Client(base_url=url, timeout=20) as client:
        with client.stream("GET", "/v1/events/stream?after=0", headers=headers) as answer:
            lines = answer.iter_lines()
            assert next(line for line in lines if line.startswith("event:")) == "event: ProgramRegistered"
            if end == "revoke":
                keyring.revoke(key.id)
            else:
                assert client.post("/signout", headers=headers).status_code == 303
            ledger.register("secret", content_hash="c1:02")
            ledger.fold()
            assert "secret" not in "".join(lines)  # and it has an end
        assert client.get("/v1/programs", headers=headers).status_code == 401


# --- pages of other sites ---


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-site"}, True),  # another port of this machine
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://api"}, True),
        ({"origin": "http://api"}, False),
        ({"origin": "https://API"}, False),
        ({"origin": "http://api:81"}, True),
        ({"origin": "http://evil.example"}, True),
        ({"origin": "null"}, True),
    ],
)
def test_what_another_sites_page_sends_is_told_apart(headers, foreign):
    assert is_foreign(Headers({"host": "api", **headers})) is foreign


@pytest.mark.parametrize("path", ["/v1/deadletters/1/drop", "/signin", "/signout"])
def test_no_other_sites_page_acts_with_or_without_keys(api, keyring, path):
    for _ in range(2):
        for headers in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
            check_refused(ask(api, path, method="POST", **headers), 403, "foreign-origin")
        keyring.create("", "admin")


def test_a_session_of_the_browser_does_not_act_for_another_sites_page(api, keyring, admin_key):
    cookie = f"{cookie_of(keyring)}={keyring.begin_session(keyring.all_keys()[0])}"
    path = "/v1/deadletters/1/drop"
    assert ask(api, path, method="POST", Cookie=cookie, Sec_Fetch_Site="same-origin").status_code == 503
    for headers in ({"Origin": "http://localhost:3000"}, {"Sec_Fetch_Site": "same-site"}):
        check_refused(ask(api, path, method="POST", Cookie=cookie, **headers), 403, "foreign-origin")


# --- signing in ---


def sign_in(api: Api, key: str, going_on: str = "/", **more: Any) -> httpx.Response:
    return api.request(method="POST", url="/signin", data={"key": key, "next": going_on}, **more)


def test_a_browser_without_a_session_is_sent_to_sign_in_and_back(ledger, api, read_key):
    ledger.register("日本 & b")
    ledger.fold()
    asked = f"/programs/{quote('日本 & b')}?as_of=1"
    sent = ask(api, asked, **PAGE)
    assert sent.status_code == 303
    form = ask(api, sent.headers["location"], **PAGE)
    assert form.status_code == 200
    going_on = re.search(r'name="next" value="([^"]*)"', form.text)[1].replace("&amp;", "&")
    assert going_on == asked
    done = sign_in(api, read_key, going_on)
    assert (done.status_code, done.headers["location"]) == (303, asked)
    # The client keeps the cookie.
    assert api.request(method="GET", url=asked, headers=PAGE).status_code == 200
    assert api.get("/v1/programs").status_code == 200


def test_the_cookie_is_for_this_host_and_no_script_and_is_not_the_key(api, read_key):
    given = sign_in(api, read_key).headers["set-cookie"]
    value, *attributes = [part.strip().lower() for part in given.split(";")]
    assert set(attributes) == {"httponly", "samesite=lax", "path=/", "max-age=604800"}
    assert read_key.rpartition("_")[2].lower() not in value


def test_the_cookie_is_secure_where_the_page_is(api, read_key):
    given = api.request(method="POST", url="https://api/signin", data={"key": read_key})
    assert "; secure" in given.headers["set-cookie"].lower()


def test_a_session_ends_with_its_key_and_by_signing_out(api, keyring, read_key):
    sign_in(api, read_key)
    assert api.get("/v1/programs").status_code == 503
    cookie = cookie_of(keyring)
    old = api._client.cookies[cookie]
    done = api.request(method="POST", url="/signout")
    assert (done.status_code, done.headers["location"]) == (303, "/signin")
    assert cookie not in api._client.cookies
    assert ask(api, "/v1/programs", Cookie=f"{cookie}={old}").status_code == 401  # not in the browser only
    sign_in(api, read_key)
    keyring.revoke(keyring.all_keys()[0].id)
    assert api.get("/v1/programs").status_code == 401


def test_signing_in_to_another_ledger_on_this_host_signs_out_of_none(api, make_settings, read_key, tmp_path):
    """A browser has the same cookies for all ports of a host, and the name was the same too."""
    settings = make_settings("redis://127.0.0.1:1/0", data_dir=tmp_path / "other")
    other_key, _ = Keyring(settings.data_dir).create("", "read")
    with closing(Api(settings)) as other:
        other._client.cookies = api._client.cookies
        for one, key in ((api, read_key), (other, other_key)):
            assert sign_in(one, key).status_code == 303
        assert api.get("/v1/programs").status_code == other.get("/v1/programs").status_code == 503
        api.request(method="POST", url="/signout")
        assert (api.get("/v1/programs").status_code, other.get("/v1/programs").status_code) == (401, 503)


def test_what_is_no_valid_key_does_not_sign_in_and_is_not_told_back(api, read_key, monkeypatch):
    monkeypatch.setattr("dspy_ledger.api.routes.signin._DELAY", 0)
    for wrong in ("", "x", read_key[:-1], "<script>", "é" * 9000):
        answer = sign_in(api, wrong)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert 'role="alert"' in answer.text
        assert "<script>" not in answer.text.replace("<script src", "").replace("<script type", "")
    assert read_key[:-1] not in sign_in(api, read_key[:-1]).text


def test_many_wrong_keys_are_held_up_and_a_valid_one_is_not(api, read_key, monkeypatch):
    monkeypatch.setattr("dspy_ledger.api.routes.signin._MOST_WAITING", 0)
    answer = sign_in(api, "wrong")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert sign_in(api, read_key).status_code == 303


def test_while_no_key_is_needed_there_is_nothing_to_sign_in_to(api):
    assert (ask(api, "/signin?next=/executions").headers["location"]) == "/executions"


ELSEWHERE = [
    "//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "evil.example", "",
    "/\t/evil.example", "/\n/evil.example", "\\\\evil.example", "/ok\r\nSet-Cookie: a=b", "/a\\b",
    " //evil.example",
]  # fmt: skip


@pytest.mark.parametrize("given", ELSEWHERE)
def test_signing_in_leads_to_no_other_site(api, read_key, given):
    assert local_path(given) == "/"
    assert sign_in(api, read_key, given).headers["location"] == "/"


@given(st.text(max_size=30) | st.builds("/{}".format, st.text(alphabet="/\\\t.:@e%", max_size=8)))
def test_where_one_goes_on_is_always_a_path_here(given):
    path = local_path(given)
    assert path.isascii()
    assert path.isprintable()
    parts = urlsplit(path)
    assert (parts.scheme, parts.netloc, path[0]) == ("", "", "/")
    assert not path.startswith(("//", "/\\"))


# --- actions ---


@contextmanager
def writer(
    settings: Settings, actions: Callable[[Office], dict[str, Action]] = all_actions
) -> Iterator[None]:
    """Whoever holds the lease works off requests, as the projector does."""
    ready, ended = threading.Event(), threading.Event()

    def work() -> None:
        with open_office(settings, quiet=True) as office, closing(Desk(settings.data_dir)) as desk:
            clerk = Clerk(desk, actions(office))
            ready.set()
            while not ended.wait(0.01):
                clerk()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        ended.set()
        thread.join()


def bury(ledger, stream_id: str, fields: dict[bytes, bytes]) -> int:
    raw = wire.pack(fields)
    letter = DeadLetter(stream_id, "unknown-type", "why", raw, sha256(raw).hexdigest(), "/producers/a", 99)
    ledger.store.append([], dead_letters=[letter])
    return ledger.store.dead_letters(limit=1)[0].id


def an_event() -> dict[bytes, bytes]:
    data = {
        "execution_id": "late",
        "program_id": "p",
        "content_hash": "c1:00",
        "status": "ok",
        "latency_ms": 1.0,
    }
    data["started_at"] = "2026-11-22T12:00:00.000000Z"
    payload = wire.encode(
        "ExecutionCompleted", data, event_id="late", source="/producers/b", sequence=1,
        time="2026-11-22T12:00:00.000000Z", subject="p", body=None, context=None,
    )  # fmt: skip
    return {b"__data__": payload}


def act(api: Api, letter: object, action: str, key: str | None = None) -> httpx.Response:
    return ask(api, f"/v1/deadletters/{letter}/{action}", key, method="POST")


def test_a_dead_letter_is_retried_and_dropped_by_the_writer(ledger, api, api_settings, admin_key):
    ledger.fold()
    event, garbage = bury(ledger, "1-0", an_event()), bury(ledger, "2-0", {b"__data__": b"\xff"})
    with writer(api_settings):
        retried = act(api, event, "retry", admin_key)
        assert (retried.status_code, retried.json()) == (200, {"stored": 1, "duplicates": 0, "left": 0})
        schemas.Retried.model_validate(retried.json())
        assert act(api, garbage, "retry", admin_key).json() == {"stored": 0, "duplicates": 0, "left": 1}
        dropped = act(api, garbage, "drop", admin_key)
        assert (dropped.status_code, dropped.json()) == (200, {"dropped": 1})
        schemas.Dropped.model_validate(dropped.json())
    assert ask(api, "/v1/deadletters", admin_key).json()["items"] == []
    assert ledger.store.last_position() == 1
    with closing(Desk(api_settings.data_dir)) as desk:
        assert re.fullmatch(r"API, key [a-z0-9]{8} admin", desk.request(1).who)


@pytest.mark.parametrize("letter", ["7", "0", "x", "-1", "1e3", "9" * 30, "%2e%2e", "%D9%A1"])
def test_a_dead_letter_that_is_not_there_is_404(ledger, api, letter):
    ledger.fold()
    for action in ("retry", "drop"):
        assert "GET /v1/deadletters lists" in check_refused(act(api, letter, action), 404, "not-found")


def test_where_no_projector_runs_the_answer_says_what_to_do(ledger, api):
    ledger.fold()
    letter = bury(ledger, "1-0", an_event())
    detail = check_refused(act(api, letter, "retry"), 503, "no-projector")
    assert f"`dspy-ledger deadletters retry {letter}`" in detail
    assert len(ledger.store.dead_letters(limit=9)) == 1


def test_a_writer_that_is_busy_is_waited_for_a_while_only(ledger, api, api_settings, monkeypatch):
    monkeypatch.setattr("dspy_ledger.api.routes.admin._PATIENCE", 0.2)
    monkeypatch.setattr("dspy_ledger.api.routes.admin.is_locked", lambda path: path.name == LEASE)
    ledger.fold()
    answer = act(api, bury(ledger, "1-0", an_event()), "drop")
    assert (answer.status_code, answer.json()) == (202, {"request": 1})
    schemas.Asked.model_validate(answer.json())
    with writer(api_settings), closing(Desk(api_settings.data_dir)) as desk:
        done = threading.Event()
        while not done.wait(0.01) and desk.request(1).state != "done":
            pass
    assert ledger.store.dead_letters(limit=9) == []


def test_what_the_writer_could_not_do_is_told(ledger, api, api_settings):
    ledger.fold()
    letter = bury(ledger, "1-0", an_event())

    def fail(arguments: object) -> Iterator[None]:
        raise OSError("disk on fire")
        yield

    with writer(api_settings, lambda _: {"drop": fail}):
        assert "disk on fire" in check_refused(act(api, letter, "drop"), 503, "request-failed")


# --- headers ---


def test_every_answer_has_the_headers_and_keeps_its_own(ledger, api):
    ledger.fold()
    answers = [
        ask(api, path)
        for path in ("/health/live", "/v1/programs", "/v1/nowhere", "/metrics", "/openapi.json")
    ]
    answers += [
        ask(api, "/", **PAGE),
        ask(api, "/v1/programs", Host="a.b"),
        ask(api, "/v1/programs?" + "x" * 9000),
    ]
    answers.append(ask(api, "/v1/programs", method="DELETE"))
    for answer in answers:
        headers = answer.headers
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert (
            headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
        )
        assert headers["cache-control"] in ("no-store", "private, no-cache")  # never without asking again
        assert "server" not in headers
        assert len(headers.get_list("x-content-type-options")) == 1
    asset = re.search(r'href="(/static/[^"]*\.css)"', ask(api, "/", **PAGE).text)[1]
    assert "immutable" in ask(api, asset).headers["cache-control"]


def test_nothing_in_line_and_nothing_from_elsewhere_is_allowed():
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "http" not in CONTENT_SECURITY_POLICY
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'; ")
