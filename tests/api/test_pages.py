"""What all pages have in common, and the overview, the executions and the ledger without scripts."""

from __future__ import annotations

import fcntl
import gzip
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from api.conftest import Api, Ledger
from documents import Document, reader
from dspy_ledger.api.pages import assets
from dspy_ledger.api.parameters import ExecutionQuery
from dspy_ledger.api.queries.executions import page_of_executions
from dspy_ledger.files import LEASE
from dspy_ledger.store import DeadLetter

EVIL = "<script>alert(1)</script> " + "W" * 300 + " שלום \u202eevil"
CALLS = [
    {"kind": "module", "name": "Predict", "parent": None, "start_ms": 0, "duration_ms": 100},
    {
        "kind": "lm",
        "name": "openai/gpt-4o-mini",
        "parent": 0,
        "start_ms": 10,
        "duration_ms": 80,
        "model": "openai/gpt-4o-mini",
        "usage": {"input_tokens": 812, "output_tokens": 33},
        "cost_usd": 0.0002,
        "cached": False,
        "messages": [{"role": "user", "content": "Where is it?"}],
    },
    {
        "kind": "tool",
        "name": "search",
        "parent": 0,
        "start_ms": 92,
        "duration_ms": 5,
        "error": {"type": "TimeoutError", "message": "no answer"},
    },
]
BODY = {"inputs": {"question": "Where is my parcel?"}, "outputs": {"answer": "On its way."}, "calls": CALLS}


def ago(**time):
    return (datetime.now(UTC) - timedelta(**time)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.fixture
def read(api):
    return reader(api)


@pytest.fixture
def own_api():
    """Makes a ledger and a reader of its pages under settings of the test's own."""
    made = []

    def make(settings):
        ledger, api = Ledger(settings), Api(settings)
        made.extend((api, ledger))
        return reader(api), ledger

    yield make
    for each in made:
        each.close()


@pytest.fixture
def busy(ledger):
    """Two programs: one that ran an hour ago and failed once, one that ran three days ago."""
    ledger.register(
        "qa", "1.0.0", "c1:0", name="Questions", description="Answers", tags=["rag"], created_at=ago(days=20)
    )
    ledger.register("triage", "1.0.0", "c1:1", name="Triage", created_at=ago(days=20))
    ran = {
        "program_name": "Questions",
        "model_id": "mini",
        "usage": {"input_tokens": 1000, "output_tokens": 200},
        "cost_usd": 0.002,
    }
    ledger.execute("x1", "qa", content_hash="c1:0", time=ago(hours=1), body=BODY, trace_id="t1", **ran)
    error = {"type": "RateLimitError", "message": "429 Too Many Requests"}
    ledger.execute(
        "x2", "qa", content_hash="c1:0", time=ago(hours=1), status="error", error=error, model_id="nano"
    )
    ledger.execute("x3", "triage", content_hash="c1:1", time=ago(days=3), **ran)
    ledger.fold()
    return ledger


# All pages


def test_an_error_is_a_page_for_a_browser_and_a_problem_for_everybody_else(api, busy):
    html = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    api._client.headers.update(html)
    page = api.get("/executions/nowhere")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "unknown execution &#39;nowhere&#39;" in page.text
    assert api.get("/v1/programs/nowhere").headers["content-type"] == "application/problem+json"
    api._client.headers["accept"] = "application/json"
    assert api.get("/executions/nowhere").headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/executions", "/ledger"])
def test_before_there_is_a_ledger_a_page_says_what_to_do(read, path):
    page = read(path, code=503)
    assert "start the projector" in page.text
    assert path in page.links  # try again


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/", {"window": "year"}),
        ("/", {"as_of": "yesterday"}),
        ("/executions", {"as_of": "99999"}),
        ("/executions", {"status": "fine"}),
        ("/executions", {"cursor": "x"}),
        ("/executions", {"programm_id": "qa"}),
        ("/ledger", {"cursor": "x"}),
    ],
)
def test_parameters_that_cant_be_used_are_told_with_a_way_back(read, busy, path, wrong):
    page = read(path, code=400, **wrong)
    assert next(iter(wrong)) in page.text
    assert path in page.links


def test_fields_of_a_form_that_are_left_empty_filter_nothing(read, busy):
    page = read("/executions?program_id=&status=&as_of=&tag=&since=")
    assert {"/executions/x1", "/executions/x2", "/executions/x3"} <= set(page.links)


def test_every_link_keeps_the_moment_that_is_asked_about(read, busy):
    for path in ("/", "/executions", "/executions/x1"):
        page = read(path, as_of="3")
        assert "As of position 3" in page.text
        inside = [link for link in page.links if not link.startswith(("#", "/v1/events", "/openapi.json"))]
        to_now = [link for link in inside if "as_of" not in parse_qs(urlsplit(link).query)]
        assert set(to_now) == {path}  # the banner's and the menu's way to now
        assert len(inside) > 5


def test_an_error_page_never_leads_to_another_host(read, busy):
    """Its links began with the two slashes of the path, which browsers take for a host's."""
    page = read("/%2Fevil.example/x?a=1", code=404)
    assert "/evil.example/x" in page.links
    assert not [link for link in page.links if link.startswith("//")]


def test_links_keep_every_tag_that_is_filtered_by(read, ledger):
    """Only the last of several tags was kept: the next page was refused, other links widened the list."""
    ledger.register("qa", "1.0.0", "c1:0", tags=["a", "b"])
    for number in range(3):
        ledger.execute(f"x{number}", "qa", content_hash="c1:0", model_id="m", tags=["a", "b"])
    ledger.fold()
    first = read("/executions?tag=a&tag=b&limit=2")
    assert "/executions?tag=a&tag=b&limit=2&model_id=m" in first.links
    (following,) = first.all("a", rel="next")
    assert "/executions/x0" in read(following["href"]).links
    overview = read("/?tag=a&tag=b")
    assert "/?tag=a&tag=b&window=30d" in overview.links
    assert overview.all("a", **{"aria-label": "Remove tag a"})[0]["href"] == "/?tag=b"
    assert read("/?tag=a").all("a", **{"aria-label": "Remove tag a"})[0]["href"] == "/"


def test_a_page_without_a_past_says_that_it_is_of_now(read, busy):
    page = read("/ledger", as_of="3")
    assert "You ask as of 3; this page is of now" in page.text
    assert "/executions?as_of=3" in page.links


def test_no_page_has_scripts_or_styles_in_line(read, busy):
    for path in ("/", "/executions", "/executions/x1", "/ledger", "/ledger/broker", "/executions/nowhere"):
        page = read(path, code=404 if "nowhere" in path else 200)
        for tag, attrs in page.elements:
            assert "style" not in attrs, (path, tag)
            assert not [name for name in attrs if name.startswith("on")], (path, tag)
            assert tag != "style"
            assert tag != "script" or "src" in attrs or attrs["type"] == "application/json"
            loaded = attrs.get("src") or (attrs.get("href") if tag == "link" else None)
            assert loaded is None or loaded.startswith("/static/")


def test_own_files_are_kept_for_good_under_an_address_that_names_their_content(api, read, busy):
    page = read("/executions")
    loaded = [attrs["src"] for attrs in page.all("script")] + [attrs["href"] for attrs in page.all("link")]
    assert len(loaded) >= 4
    for address in loaded:
        answer = api.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        _, _, digest, name = address.split("/")
        older = api.get(f"/static/{digest[::-1]}/{name}")  # what a page of another release asks for
        assert (older.content, older.headers["cache-control"]) == (answer.content, "no-cache")
    assert api.get(f"/static/{digest}/nothing.js").status_code == 404
    assert api.get(f"/static/{digest}/..%2Flayout.py").status_code == 404


def test_plotly_comes_from_its_package_compressed_where_that_is_taken(api):
    answer = api.get(assets.PLOTLY)
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]
    assert b"plotly.js v" in answer.content[:100]
    api._client.headers["accept-encoding"] = "identity"
    plain = api.get(assets.PLOTLY)
    assert "content-encoding" not in plain.headers
    assert plain.content == answer.content
    assert gzip.compress(plain.content[:10]) != plain.content[:10]


# The overview


def test_the_overview_of_an_empty_ledger_shows_how_to_record(read, ledger):
    ledger.fold()
    page = read("/")
    assert "Nothing has been recorded yet" in page.text
    assert 'instrument(Ledger.connect("redis://localhost:6379/0"))' in page.text


def test_the_overview_tells_each_program_over_the_window_the_busiest_first(read, busy):
    page = read("/", window="7d")
    names = [link for link in page.links if link in ("/programs/qa", "/programs/triage")]
    assert names == ["/programs/qa", "/programs/triage"]
    assert "Executions 3 Failed 33.3 % 1 executions" in page.text
    assert "2,400" in page.text  # tokens of both
    assert "/programs/qa/versions/1.0.0" in page.links


def test_a_shorter_window_leaves_out_what_ran_before_it(read, busy):
    page = read("/", window="24h")
    assert "Executions 2 Failed 50 %" in page.text
    assert not [link for link in page.links if link.startswith("/executions?program_id=triage")]


@pytest.mark.parametrize("window", ["24h", "7d", "30d", "all"])
def test_the_bars_of_a_window_tell_all_its_executions(read, busy, window):
    page = read("/", window=window)
    large = page.html.split('class="bars large"')[1].split("</svg>")[0]
    told = [int(line.split("UTC: ")[1].split(" ")[0]) for line in large.split("<title>")[1:]]
    assert sum(told) == (2 if window == "24h" else 3)


@pytest.mark.parametrize("window", ["24h", "7d", "30d"])
def test_a_window_is_the_same_for_all_programs_for_each_and_behind_its_links(read, ledger, window):
    """Of 7 days all programs began six days ago to the hour, a row at midnight, and its link ages ago."""
    now = datetime.now(UTC)
    hours = {"24h": 23, "7d": 24 * 6, "30d": 24 * 29}[window]
    first = now.replace(minute=0, second=0, microsecond=0, **({} if window == "24h" else {"hour": 0}))
    first -= timedelta(hours=hours)
    ledger.register("qa", "1.0.0", "c1:0", created_at=ago(days=40))
    error = {"type": "E", "message": "m"}
    for number, seconds in enumerate((-1, 0, 60)):
        time = (first + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ledger.execute(f"x{number}", "qa", content_hash="c1:0", time=time, status="error", error=error)
    ledger.fold()
    page = read("/", window=window)
    assert "Executions 2 Failed 100 % 2 executions" in page.text
    for link in [link for link in page.links if link.startswith("/executions?program_id=qa")]:
        found = [inner for inner in read(link).links if inner.startswith("/executions/")]
        assert found == ["/executions/x2", "/executions/x1"]
    (row,) = [attrs["aria-label"] for attrs in page.all("svg") if attrs.get("class") == "bars"]
    assert row == "2 executions, 2 failed"
    assert "1.0.0 2 100 %" in read("/programs/qa", window=window).text


@pytest.mark.parametrize(("time", "bars"), [("1970-01-01", True), ("0001-01-01", False)])
def test_an_execution_with_a_wrong_clock_does_not_take_the_overview_away(read, busy, time, bars):
    """Twenty thousand days were more than can be told, and the window of all time a problem for ever."""
    busy.execute("old", "qa", content_hash="c1:0", time=f"{time}T00:00:00.000000Z")
    busy.fold()
    page = read("/", window="all")
    assert "Executions 4 Failed 25 %" in page.text
    assert bool(page.all("svg", **{"class": "bars large"})) is bars


def test_of_more_programs_than_can_be_drawn_the_numbers_are_told(read, ledger):
    for number in range(110):
        ledger.register(f"p{number:03}", "1.0.0", "c1:0", created_at=ago(hours=1))
        ledger.execute(f"x{number}", f"p{number:03}", content_hash="c1:0", time=ago(hours=1))
    ledger.fold()
    page = read("/", window="24h")
    assert [link for link in page.links if link.startswith("/executions?program_id=p000&since=")]
    assert page.text.count("too many to draw") == 50
    assert "Executions 110 " in page.text
    (following,) = page.all("a", rel="next")
    second = read(following["href"])
    assert "the busiest of this page first" in second.text
    assert [link for link in second.links if link.startswith("/executions?program_id=p050&since=")]


def test_programs_are_found_by_text_and_by_tag(read, busy):
    assert "/programs/triage" not in read("/", q="quest").links
    assert "/programs/triage" not in read("/", tag="rag").links
    assert "No program fits" in read("/", q="nothing").text


def test_the_overview_of_the_past_tells_no_roll_ups_and_says_why(read, busy):
    page = read("/", as_of="1")
    assert "/programs/qa?as_of=1" in page.links
    assert "/programs/triage?as_of=1" not in page.links
    assert "not told of the past" in page.text
    assert "p95" not in page.text
    assert "No program was registered by then" in read("/", as_of="0").text


def test_the_overview_tells_at_a_glance_what_is_wrong_with_the_ledger(read, busy, api_settings):
    assert "no projector runs" in read("/").text
    with (api_settings.data_dir / LEASE).open("w") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        assert "all well" in read("/").text
        dead = DeadLetter("9-0", "invalid", "program_id: is empty", b"raw", "digest")
        busy.store.append([], dead_letters=[dead])
        page = read("/")
    assert "look at the ledger" in page.text
    assert "1 dead letter " in page.text


# Executions


def test_executions_are_listed_newest_first_with_what_failed_and_why(read, busy):
    page = read("/executions")
    assert [link for link in page.links if link.startswith("/executions/")] == [
        "/executions/x3",
        "/executions/x2",
        "/executions/x1",
    ]
    assert "RateLimitError: 429 Too Many Requests" in page.text
    assert "1,000 → 200" in page.text
    assert "$0.0020" in page.text


def test_filters_stand_in_the_address_and_in_the_form(read, busy):
    page = read("/executions", program_id="qa", status="error")
    assert [link for link in page.links if link.startswith("/executions/")] == ["/executions/x2"]
    assert page.all("input", name="program_id")[0]["value"] == "qa"
    assert [option["value"] for option in page.all("option") if "selected" in option] == ["error"]
    assert {"qa", "triage", "mini", "nano"} <= {option["value"] for option in page.all("option")}


def test_pages_of_executions_follow_one_another(read, busy):
    first = read("/executions", limit=2)
    (following,) = first.all("a", rel="next")
    second = read(following["href"])
    assert [link for link in second.links if link.startswith("/executions/")] == ["/executions/x1"]
    assert second.all("a", rel="next") == []
    assert "/executions?limit=2" in second.links  # the first page


def test_a_filter_keeps_how_many_executions_a_page_has(read, busy):
    page = read("/executions", limit=2, status="error")
    kept = [field for field in page.all("input", name="limit") if field["value"] == "2"]
    assert len(kept) == 2, "the filters and the moment"


def news(api, after, **filters):
    """What a list that is followed is given: its rows after a position."""
    api._client.headers.update({"accept": "text/html", "ledger-after": str(after)})
    try:
        answer = api.get("/executions", **filters)
    finally:
        del api._client.headers["ledger-after"]
    return answer, Document(answer.text)


def test_a_list_that_is_followed_is_given_what_came_since_and_nothing_else(api, busy):
    """All of the page was found anew, suggestions included, for whatever execution came in."""
    at = busy.sequence
    for number in range(3):
        fields = {"service": "web"} if number == 1 else {}
        busy.execute(f"new{number}", "qa", content_hash="c1:0", model_id="mini", context=fields)
    busy.fold()
    answer, part = news(api, at, service="web")
    assert answer.headers["cache-control"] == "no-store"
    (table,) = part.all("table")
    assert table == {"data-tail": str(at + 3)}
    assert [link for link in part.links if link.startswith("/executions/")] == ["/executions/new1"]
    assert "/executions?service=web&model_id=mini" in part.links
    assert part.all("option") == []
    _, part = news(api, at, limit=2)
    assert part.all("table") == [{"data-tail": str(at + 3), "data-more": None}]
    assert [link for link in part.links if link.startswith("/executions/new")] == [
        "/executions/new2",
        "/executions/new1",
    ]
    assert news(api, at + 3)[1].all("tr") == []
    assert news(api, "x")[0].status_code == 400


def test_a_list_that_takes_long_says_so_and_goes_on(api, busy, read, monkeypatch):
    monkeypatch.setattr("dspy_ledger.api.queries.executions._PATIENCE", -1)
    monkeypatch.setattr("dspy_ledger.api.queries.executions._MOST_LOOK", 1)
    page = read("/executions", service="none")
    assert "No execution that fits was found so far" in page.text
    assert any(link.startswith("/executions?service=none&cursor=") for link in page.links)
    page = read("/executions", min_latency_ms=0)
    assert "older ones that fit are on the next page" in page.text
    assert "older ones that fit" not in read("/executions").text


def test_what_came_since_is_found_without_going_through_all_that_was_before(api, busy):
    """A filter without an index took all of the executions, up to the limit of seconds, for each one."""
    with api.app.state.sources.question() as question:
        query = ExecutionQuery(service="none", min_latency_ms=1, tag=["none"])
        asked = []
        question.db.set_trace_callback(asked.append)
        page_of_executions(question, query, above=3)
        question.db.set_trace_callback(None)
        plan = [row[3] for row in question.db.execute(f"EXPLAIN QUERY PLAN {asked[-1]}")]
    assert "SEARCH e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in plan


def test_any_row_of_a_list_that_is_followed_leads_to_those_after_it(read, busy):
    """Rows that were cut off below were on no page: the next one still began where the first had ended."""
    rows = read("/executions?program_id=qa&limit=2&session_id=").all("tr", **{"data-position": "4"})
    (after_x2,) = [row["data-cursor"] for row in rows]
    following = read("/executions", program_id="qa", limit=2, cursor=after_x2)
    assert [link for link in following.links if link.startswith("/executions/")] == ["/executions/x1"]
    assert not [row for row in following.all("tr") if "data-cursor" in row]


def test_only_the_newest_of_now_are_kept_up_to_date(read, busy):
    live = read("/executions", program_id="qa")
    (table,) = [attrs for _, attrs in live.elements if "data-tail" in attrs]
    assert table["data-tail"] == str(busy.sequence)
    assert table["data-tail-program"] == "qa"
    for params in (
        {"as_of": "4"},
        {
            "cursor": parse_qs(urlsplit(read("/executions", limit=2).all("a", rel="next")[0]["href"]).query)[
                "cursor"
            ][0],
            "limit": 2,
        },
    ):
        page = read("/executions", **params)
        assert not [attrs for _, attrs in page.elements if "data-tail" in attrs]


def test_nothing_later_shows_as_of_a_moment(read, busy):
    page = read("/executions", as_of="3")
    assert "/executions/x1?as_of=3" in page.links
    assert "x2" not in page.text
    assert "x2" not in " ".join(page.links)
    read("/executions/x2", code=404, as_of="3")


def test_empty_lists_say_what_to_do(read, ledger):
    ledger.fold()
    assert "No execution has been recorded yet" in read("/executions").text
    page = read("/executions", program_id="nothing")
    assert "No execution fits" in page.text
    assert "/executions" in page.links


# One execution


def test_an_execution_tells_its_calls_and_what_went_in_and_came_out(read, busy):
    busy.append(
        "EvaluationSaved",
        {
            "evaluation_id": "f",
            "results": {"score": 1, "comment": "Right"},
            "created_at": ago(),
            "execution_id": "x1",
        },
    )
    busy.fold()
    page = read("/executions/x1")
    for fact in (
        "Questions",
        "Where is my parcel?",
        "On its way.",
        "812 → 33",
        "TimeoutError: no answer",
        "$0.00020",
        "Right",
        "Where is it?",
    ):
        assert fact in page.text, fact
    assert "/programs/qa/versions/1.0.0" in page.links
    assert "/executions?trace_id=t1" in page.links
    assert "/v1/programs/executions/x1" in page.links
    assert len(page.all("rect", **{"class": "rail"})) == len(CALLS)


def test_what_is_linked_as_json_and_as_event_is_that_execution(api, read, busy):
    page = read("/executions/x1")
    (event,) = [link for link in page.links if link.startswith("/v1/events")]
    (item,) = api.get(event).json()["items"]
    assert item["event"]["id"] == "x1"
    assert api.get("/v1/programs/executions/x1").json()["position"] == item["position"]


def test_what_was_not_captured_and_what_was_erased_are_told_apart(read, busy):
    assert "Not captured" in read("/executions/x3").text
    position = busy.store.event("x1").position
    busy.store.erase([position], "retention")
    busy.fold()
    page = read("/executions/x1")
    assert "Erased" in page.text
    assert "Not captured" not in page.text
    assert "Where is my parcel?" not in page.html


def test_feedback_is_told_as_of_its_moment(read, busy):
    busy.append(
        "EvaluationSaved",
        {"evaluation_id": "f", "results": {"score": 7}, "created_at": ago(), "execution_id": "x1"},
    )
    busy.fold()
    assert "score 7" in read("/executions/x1").text
    assert "None by then" in read("/executions/x1", as_of=str(busy.sequence - 1)).text


def test_hostile_names_and_bodies_are_only_text(read, ledger):
    ledger.register("a/b?<c>", "1.0.0", "c1:0", name=EVIL, description=EVIL, tags=[EVIL])
    body = {
        "inputs": {EVIL: EVIL},
        "outputs": EVIL,
        "calls": [{"kind": EVIL, "name": EVIL, "error": EVIL}, 7],
    }
    every = dict.fromkeys(("trace_id", "session_id", "user_id", "model_id", "program_name"), EVIL)
    ledger.execute(
        "x/1?<y>",
        "a/b?<c>",
        content_hash="c1:0",
        status="error",
        error={"type": EVIL, "message": EVIL},
        tags=[EVIL],
        metadata={EVIL: EVIL},
        body=body,
        context={"environment": EVIL, "service": EVIL},
        **every,
    )
    ledger.append(
        "EvaluationSaved",
        {"evaluation_id": EVIL, "results": EVIL, "created_at": ago(), "execution_id": "x/1?<y>"},
    )
    ledger.fold()
    (link,) = [link for link in read("/executions").links if link.startswith("/executions/")]
    for path in ("/", "/executions", link, "/ledger"):
        page = read(path)
        assert "<script>alert" not in page.html
        assert path == "/ledger" or "<script>alert(1)</script>" in page.text
    assert "/programs/a%2Fb%3F%3Cc%3E" in read("/").links


def test_an_execution_of_unknown_content_has_no_version_to_link_to(read, ledger):
    ledger.execute("x", "qa", content_hash="c1:unknown")
    ledger.fold()
    page = read("/executions/x")
    assert "no version" in page.text
    assert not [link for link in page.links if "/versions/" in link]


# The ledger


def test_the_ledger_tells_its_projections_and_what_became_of_each_producers_events(read, busy):
    last = busy.sequence + 11
    busy.append(
        "ProducerReported",
        {"first": 1, "last": last, "dropped": [[last - 5, last - 3]], "reason": "interval"},
    )
    busy.fold()
    page = read("/ledger")
    assert f"SQL read models {busy.sequence} 0 0" in page.text
    row = page.text.split("/producers/host/a")[1]
    assert f"{last - 5}–{last - 3}" in row
    assert "no projector runs" in page.text


def test_dead_letters_are_told_with_their_reason_and_by_pages(read, busy):
    for number in range(30):
        dead = DeadLetter(
            f"9-{number}", "unknown-type", f"no release knows type {number}", b"raw", f"d{number}"
        )
        busy.store.append([], dead_letters=[dead])
    page = read("/ledger")
    assert "no release knows type 29" in page.text
    assert "no release knows type 4 " not in page.text
    (following,) = page.all("a", rel="next")
    assert "no release knows type 4 " in read(following["href"]).text


def test_who_may_act_is_offered_to_retry_and_to_drop(read, busy):
    busy.store.append([], dead_letters=[DeadLetter("9-0", "invalid", "empty", b"raw", "digest")])
    buttons = [attrs for attrs in read("/ledger").all("button") if "data-act" in attrs]
    assert {(button["data-act"], button["data-letter"]) for button in buttons} == {
        ("retry", "1"),
        ("drop", "1"),
    }
    # Hidden until the script that makes them work is there.
    assert all("hidden" in button for button in buttons)


def test_a_broker_that_is_away_is_told_and_nothing_waits_for_it(read, busy):
    page = read("/ledger/broker")
    assert "not reachable" in page.text
    assert "redis://127.0.0.1:1/0" in page.text


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:hidden@127.0.0.1:1/0", "redis://127.0.0.1:1/0"),
        ("redis://127.0.0.1:1/0?password=hidden", "redis://127.0.0.1:1/0"),
        ("unix:///nowhere/redis.sock?db=0&password=hidden", "unix:///nowhere/redis.sock"),
    ],
)
def test_a_password_of_the_broker_is_told_to_nobody(make_settings, own_api, url, told):
    read, ledger = own_api(make_settings(url))
    ledger.fold()
    page = read("/ledger/broker")
    assert told in page.text
    assert "hidden" not in page.html


def test_a_broker_that_answers_is_told_as_it_is(valkey, make_settings, own_api):
    settings = make_settings(valkey.url)
    read, ledger = own_api(settings)
    ledger.fold()
    with valkey.client() as client:
        for _ in range(3):
            client.xadd(settings.keys.events, {"a": "b"})
        client.hset(
            settings.keys.registry_checkpoint, mapping={"ledger_id": ledger.store.ledger_id, "position": 7}
        )
        page = read("/ledger/broker")
        for fact in (
            f"Address {valkey.url}",
            "Server Valkey 9",
            "Entries in the stream 3",
            "Registry at position 7",
        ):
            assert fact in page.text
        client.hset(settings.keys.registry_checkpoint, "ledger_id", "another")
        assert "Another ledger uses the same Redis" in read("/ledger/broker").text
