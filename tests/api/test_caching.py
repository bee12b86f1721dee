"""What a client has already is not sent again; what goes out is small; HEAD tells what GET would."""

from __future__ import annotations

import pytest

from dspy_ledger.api import reading
from dspy_ledger.api.queries.executions import page_of_executions
from dspy_ledger.api.routes import executions
from dspy_ledger.views import create_view, current_view, next_view, point_to

FROM_VIEW = (
    "/v1/programs",
    "/v1/programs/p",
    "/v1/programs/p/versions",
    "/v1/programs/p/evaluations",
    "/v1/programs/p/tree",
    "/v1/programs/p/matrix",
    "/v1/programs/executions",
    "/v1/programs/executions/x/feedback",
    "/v1/stats",
)
FROM_ELSEWHERE = (
    "/v1/programs/models",
    "/v1/programs/p/versions/1.0.0",
    "/v1/programs/p/diff?from=1.0.0&to=1.0.0",
    "/v1/programs/p/evaluations/e",
    "/v1/programs/executions/x",
    "/v1/producers",
    "/v1/deadletters",
)


@pytest.fixture
def filled(ledger, api):
    ledger.register("p", state={"form": {}})
    ledger.execute("x", body={"inputs": {"q": "?"}})
    ledger.evaluate("e", program_id="p")
    ledger.fold()
    return api


@pytest.mark.parametrize("path", FROM_VIEW)
def test_what_has_not_changed_is_not_sent_again_and_what_has_is(filled, ledger, path):
    first = filled.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    for held in (tag, f'"other", {tag}', f'{tag},W/"x"'):
        again = filled.request(method="GET", url=path, headers={"If-None-Match": held})
        assert (again.status_code, again.content) == (304, b"")
        assert (again.headers["etag"], again.headers["ledger-position"]) == (tag, "3")
        assert again.headers["cache-control"] == "private, no-cache"
    ledger.execute("y")
    ledger.fold()
    fresh = filled.request(method="GET", url=path, headers={"If-None-Match": tag})
    assert fresh.status_code == 200
    assert fresh.headers["etag"] != tag


@pytest.mark.parametrize("path", [path for path in FROM_VIEW if path != "/v1/stats"])
def test_the_past_keeps_its_tag_whatever_comes(filled, ledger, path):
    at_three = filled.get(path, as_of=3).headers["etag"]
    assert filled.get(path).headers["etag"] != at_three
    ledger.register("p", "1.1.0", "c1:01")
    ledger.fold()
    again = filled.request(method="GET", url=path, params={"as_of": 3}, headers={"If-None-Match": at_three})
    assert (again.status_code, again.headers["ledger-position"], again.headers["ledger-as-of"]) == (
        304,
        "4",
        "3",
    )
    assert (
        filled.request(
            method="GET", url=path, params={"as_of": 4}, headers={"If-None-Match": at_three}
        ).status_code
        == 200
    )


@pytest.fixture
def worked_out(monkeypatch):
    """The pages of executions that were not only told again."""
    pages = []

    def page(question, query):
        pages.append(page_of_executions(question, query))
        return pages[-1]

    monkeypatch.setattr(executions, "page_of_executions", page)
    return pages


def test_what_is_asked_again_is_worked_out_once_until_something_comes(filled, ledger, worked_out):
    path = "/v1/programs/executions"
    answers = [filled.get(path) for _ in range(3)]
    assert len(worked_out) == 1
    assert len({(answer.content, answer.headers["etag"]) for answer in answers}) == 1
    past = filled.get(path, as_of=3)
    assert (past.json()["items"], past.headers["ledger-as-of"]) == (answers[0].json()["items"], "3")
    filled.get(path, limit=1)
    assert len(worked_out) == 3
    ledger.execute("y")
    ledger.fold()
    assert [item["execution_id"] for item in filled.get(path).json()["items"]] == ["y", "x"]
    again = filled.get(path, as_of=3)
    assert (again.content, again.headers["ledger-position"]) == (past.content, "4")


def test_a_long_answer_is_worked_out_each_time(filled, worked_out, monkeypatch):
    monkeypatch.setattr(reading, "_LONGEST_KEPT", 10)
    for _ in range(2):
        filled.get("/v1/programs/executions")
    assert len(worked_out) == 2


@pytest.mark.parametrize("path", FROM_ELSEWHERE)
def test_what_may_change_under_a_position_is_never_kept(filled, path):
    answer = filled.get(path)
    assert (answer.status_code, "etag" in answer.headers) == (200, False)
    assert answer.headers["cache-control"] == "no-store"
    assert filled.request(method="GET", url=path, headers={"If-None-Match": "*"}).status_code == 200


def test_a_view_that_was_built_anew_has_other_tags(filled, ledger, api_settings):
    tag = filled.get("/v1/programs").headers["etag"]
    built = next_view(api_settings.data_dir)
    create_view(built).close()
    built.write_bytes(current_view(api_settings.data_dir).read_bytes())
    point_to(built)
    fresh = filled.request(method="GET", url="/v1/programs", headers={"If-None-Match": tag})
    assert (fresh.status_code, fresh.headers["etag"] != tag) == (200, True)


def test_bad_input_and_unknown_things_have_no_tag(filled):
    for path in ("/v1/programs?limit=0", "/v1/programs/none", "/v1/programs/p/matrix?as_of=99"):
        answer = filled.request(method="GET", url=path, headers={"If-None-Match": "*"})
        assert answer.status_code in (400, 404)
        assert "etag" not in answer.headers


def test_large_answers_are_compressed_for_who_takes_that(filled, ledger):
    for number in range(20):
        ledger.execute(f"more{number}")
    ledger.fold()
    plain = filled.request(
        method="GET", url="/v1/programs/executions", headers={"Accept-Encoding": "identity"}
    )
    small = filled.request(method="GET", url="/v1/programs/executions", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < len(plain.content) / 3
    assert small.content == plain.content  # which httpx has unpacked
    assert (small.headers["etag"], small.headers["vary"]) == (plain.headers["etag"], "Accept-Encoding")
    tiny = filled.request(
        method="GET", url="/v1/programs/executions?limit=1", headers={"Accept-Encoding": "gzip"}
    )
    assert "content-encoding" not in tiny.headers


@pytest.mark.parametrize(
    "path",
    [
        *FROM_VIEW,
        *FROM_ELSEWHERE,
        "/health/live",
        "/metrics",
        "/openapi.json",
        "/v1/none",
        "/v1/programs/none",
    ],
)
def test_head_tells_what_get_would_without_its_body(filled, path):
    got, head = filled.send("GET", path), filled.send("HEAD", path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    differing = {"content-length"} if path == "/metrics" else set()
    assert {name: head.headers[name] for name in head.headers if name not in differing} == {
        name: got.headers[name] for name in got.headers if name not in differing
    }


def test_head_of_the_live_stream_ends(filled):
    head = filled.send("HEAD", "/v1/events/stream")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
