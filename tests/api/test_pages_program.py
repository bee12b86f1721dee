"""The pages of programs, versions and two versions compared, as a browser without scripts gets them."""

from __future__ import annotations

from urllib.parse import parse_qs, quote, urlsplit

import orjson
import pytest

from documents import Document, reader
from dspy_ledger.timestamps import utc_now

EVIL = "<script>alert(1)</script> " + "W" * 300 + " שלום \u202eevil"
FIELDS = [
    {"name": "question", "role": "input", "type": "str", "desc": "What is asked", "required": True},
    {"name": "answer", "role": "output", "type": "str", "desc": "Short", "required": True},
]


@pytest.fixture
def read(api):
    return reader(api)


def register(
    ledger, version, digest, *, program_id="qa", instructions="Answer.", demos=(), fields=FIELDS, **data
):
    sides = {
        f"{role}s": [
            {"name": f["name"], "type": f["type"], "required": True} for f in fields if f["role"] == role
        ]
        for role in ("input", "output")
    }
    parameter = {
        "path": "self",
        "kind": "Predict",
        "instructions": instructions,
        "fields": fields,
        "config": {},
    }
    state = {
        "form": {"form": 1, "modules": [], "parameters": [{**parameter, "demos": list(demos)}]},
        "blobs": {},
    }
    more = {"state": state, "signature": {"instructions": instructions, "fields": fields}, "interface": sides}
    return ledger.register(program_id, version, digest, **{**more, **data})


@pytest.fixture
def qa(ledger):
    """Two versions of one program: the second, optimized from the first, is better on mini, not on nano."""
    register(
        ledger, "1.0.0", "c1:0", source_code="class Qa:\n    pass\n", tags=["rag"], description="Answers"
    )
    register(
        ledger,
        "1.1.0",
        "c1:1",
        instructions="Answer briefly.",
        demos=[{"question": "Why?", "answer": "Because."}],
        parent_id="qa",
        parent_version="1.0.0",
        optimizer={"name": "dspy.teleprompt.MIPROv2", "params": {"auto": "light"}, "score": 71.5},
        source_code="class Qa:\n    ...\n",
    )
    for digest, model_id, accuracy in (
        ("c1:0", "mini", 0.5),
        ("c1:1", "mini", 0.9),
        ("c1:0", "nano", 0.8),
        ("c1:1", "nano", 0.7),
    ):
        ledger.evaluate(
            f"{digest}-{model_id}",
            program_id="qa",
            content_hash=digest,
            model_id=model_id,
            results={"accuracy": accuracy},
        )
        ledger.execute(
            f"x-{digest}-{model_id}",
            "qa",
            content_hash=digest,
            model_id=model_id,
            cost_usd=0.25,
            latency_ms=1500.0,
        )
    ledger.fold()
    return ledger


def test_a_program_tells_the_best_version_for_each_model_and_leads_to_what_changed(qa, read):
    page = read("/programs/qa")
    assert "mini 1.1.0 0.9 $0.25 1.5 s" in page.text
    assert "nano 1.0.0 0.8" in page.text
    assert "/programs/qa/compare?from=1.0.0&to=1.1.0" in page.links
    assert "from 1.0.0 by MIPROv2" in page.text
    assert "71.5" in page.text
    assert {"/programs/qa/versions/1.0.0", "/executions/x-c1%3A0-mini", "/executions?program_id=qa"} <= set(
        page.links
    )


def test_a_metric_may_be_better_when_lower_and_versions_be_weighed_on_one_model(qa, read):
    page = read("/programs/qa", better="lower", model_id="mini")
    assert "mini 1.0.0 0.5" in page.text
    assert "Quality against cost and latency on mini" in page.text
    assert page.all("option", value="lower")[0].keys() == {"value", "selected"}


def test_the_dots_of_trends_name_the_lines_that_the_charts_draw(ledger, read):
    """Executions without a version took a colour in the table, and none in the charts."""
    register(ledger, "1.0.0", "c1:0")
    register(ledger, "1.1.0", "c1:1")
    for number, digest in enumerate(["c1:unknown"] * 3 + ["c1:0"] * 2 + ["c1:1"]):
        ledger.execute(f"x{number}", "qa", content_hash=digest, time=utc_now())
    ledger.fold()
    page = read("/programs/qa")
    dots = [
        attrs["class"]
        for tag, attrs in page.elements
        if tag == "span" and "dot" in (attrs.get("class") or "")
    ]
    assert dots == ["dot", "dot series-1", "dot series-2"]
    drawn = page.html.split('id="trend-data">')[1].split("</script>")[0]
    assert orjson.loads(drawn)["lines"] == ["1.0.0", "1.1.0"]


def test_the_picture_of_versions_has_a_dot_and_a_row_for_each(qa, read):
    page = read("/programs/qa")
    assert len(page.all("circle", r="5")) == 2
    assert page.all("path", **{"class": "variant"})
    assert page.all("svg", **{"aria-hidden": "true"})
    assert page.all("ol", **{"class": "tree-rows"})


def test_every_link_of_these_pages_leads_somewhere(ledger, qa, read, api):
    register(ledger, "0.1.0-rc.1+b 1", "c1:j", program_id="日本語 & id?", name="日本語")
    register(ledger, "1.0.0", "c1:d", program_id="german", parent_id="qa", parent_version="1.1.0")
    ledger.fold()
    ours = ("/programs/", "/v1/", "/executions", "/static/")
    seen, waiting = set(), ["/programs/qa", f"/programs/{quote('日本語 & id?')}", "/programs/german?as_of=12"]
    for address in waiting:  # grows while it is walked
        parts = urlsplit(address)
        kind = (parts.path, *sorted(parse_qs(parts.query)))  # one of those that differ in their values only
        if kind in seen:
            continue
        seen.add(kind)
        answer = api.get(address)
        assert answer.status_code == 200, (address, answer.text[-600:])
        if address.startswith("/programs/"):
            found = [link.partition("#")[0] for link in Document(answer.text).links]
            waiting += [link for link in found if link.startswith(ours)]
    assert sum(path.startswith("/programs/") for path, *_ in seen) > 15


@pytest.mark.parametrize(
    "path", ["/programs/nope", "/programs/nope/compare", "/programs/nope/versions/1.0.0"]
)
def test_a_program_that_is_not_known_is_a_page_that_says_which_are(qa, read, path):
    assert "known: qa" in read(path, 404).text


@pytest.mark.parametrize("path", ["/programs/qa/versions/9.9.9", "/programs/qa/compare?from=9.9.9&to=1.0.0"])
def test_a_version_that_is_not_known_is_a_page_that_says_which_are(qa, read, path):
    assert "1.1.0" in read(path, 404).text


@pytest.mark.parametrize(
    "path",
    [
        "/programs/qa?better=best",
        "/programs/qa?window=1y",
        "/programs/qa?by=day",
        "/programs/qa?as_of=99999",
        "/programs/qa/versions/1.0.0?limit=3",
        "/programs/qa/compare?form=1.0.0",
        "/programs/qa/compare?from=1.0.0&from=1.1.0",
    ],
)
def test_parameters_that_can_not_be_used_are_a_page_that_says_so(qa, read, path):
    assert "Bad Request" in read(path, 400).text


def test_empty_choices_of_a_form_are_as_if_not_made(qa, read):
    assert "on mini" in read("/programs/qa?model_id=mini&metric=").text
    assert "Best version" in read("/programs/qa?model_id=&metric=").text


def test_a_metric_that_nobody_told_offers_the_way_back(qa, read):
    page = read("/programs/qa", metric="f1")
    assert "No evaluation tells “f1”" in page.text
    assert "/programs/qa" in page.links


def test_a_program_that_only_was_registered_says_what_to_do_next(ledger, read):
    ledger.register("bare")
    ledger.fold()
    page = read("/programs/bare")
    for words in (
        "No evaluations yet",
        "No executions yet",
        "Nothing to weigh yet",
        "save_evaluation_result",
    ):
        assert words in page.text
    assert "What it is made of is not known" in read("/programs/bare/versions/1.0.0").text
    assert "There is only one version" in read("/programs/bare/compare").text


def test_nothing_of_a_later_position_shows_as_of_an_earlier_one(ledger, read):
    first = register(ledger, "1.0.0", "c1:0", description="Then")
    ledger.evaluate("e", program_id="qa", content_hash="c1:0", model_id="mini", results={"accuracy": 0.25})
    at = ledger.execute("x-then", "qa", model_id="mini", cost_usd=1)
    register(ledger, "1.0.0", "c1:0", description="LATER")
    register(ledger, "7.7.7", "c1:1", parent_id="qa", parent_version="1.0.0", optimizer={"name": "LATER"})
    ledger.evaluate("e", program_id="qa", content_hash="c1:0", model_id="LATER", results={"LATER": 0.75})
    ledger.execute("x-LATER", "qa", content_hash="c1:1", model_id="LATER")
    register(
        ledger, "1.0.0", "c1:2", program_id="later", parent_id="qa", parent_version="1.0.0", name="LATER"
    )
    ledger.fold()
    for path in ("/programs/qa", "/programs/qa/versions/1.0.0", "/programs/qa/compare"):
        page = read(path, as_of=at)
        assert "Then" in page.text or path.endswith("compare")
        assert "LATER" not in page.html
        assert "7.7.7" not in page.html
        inner = [
            link for link in page.links if link.startswith(("/programs/", "/executions", "/v1/programs"))
        ]
        assert all("as_of" in parse_qs(urlsplit(link).query) for link in inner if link != path)
    page = read("/programs/qa", as_of=at)
    assert "mini 1.0.0 0.25" in page.text
    assert "so not told of the past" in page.text
    assert not page.all("div", **{"class": "chart"})
    assert "LATER" in read("/programs/qa").text
    read("/programs/qa", 404, as_of=first - 1)
    read("/programs/qa/versions/7.7.7", 404, as_of=at)


def test_a_version_shows_what_it_is_made_of_and_how_to_load_it(qa, read):
    page = read("/programs/qa/versions/1.1.0")
    for words in (
        "Answer briefly.",
        "What is asked",
        "1 demo",
        "Because.",
        "dspy.teleprompt.MIPROv2",
        "light",
        "pm.load_program('qa', '1.1.0', into=YourProgram)",
        "2 lines",
        "accuracy 0.9",
    ):
        assert words in page.text
    assert "/programs/qa/compare?from=1.0.0&to=1.1.0" in page.links
    assert "Optimized further 1.1.0" in read("/programs/qa/versions/1.0.0").text


def test_a_version_whose_class_is_known_is_loaded_into_it(ledger, read):
    register(ledger, "1.0.0", "c1:0", class_name="Qa", module_path="app.programs")
    register(ledger, "1.0.1", "c1:1", class_name="x)\nimport os", module_path="a b")
    ledger.fold()
    assert "from app.programs import Qa" in read("/programs/qa/versions/1.0.0").text
    assert "into=YourProgram)" in read("/programs/qa/versions/1.0.1").text


def test_a_version_says_whether_its_state_was_not_captured(ledger, read):
    register(ledger, "1.0.0", "c1:0", state=None)
    ledger.fold()
    page = read("/programs/qa/versions/1.0.0")
    assert "Not captured" in page.text
    assert "What is asked" in page.text, "the signature is told all the same"


def test_a_version_says_that_its_state_was_erased(qa, read):
    qa.store.erase([2], "asked")
    page = read("/programs/qa/versions/1.1.0")
    assert "Demos: erased" in page.text
    compared = read("/programs/qa/compare", **{"from": "1.0.0", "to": "1.1.0"})
    assert "those of 1.1.0 were erased" in compared.text


def test_two_versions_are_compared_in_words_lines_and_numbers(qa, read):
    page = read("/programs/qa/compare", **{"from": "1.0.0", "to": "1.1.0"})
    for words in (
        "minor Callers may stay as they are",
        "optimized from the first by dspy.teleprompt.MIPROv2",
        "mini accuracy 0.5 0.9 +0.4",
        "nano accuracy 0.8 0.7 \N{MINUS SIGN}0.1",
        "Demos: 0 → 1, 1 added, 0 removed",
        "removed: Answer.",
        "The same fields.",
    ):
        assert words in page.text
    assert page.all("mark")
    assert "/programs/qa/compare?from=1.1.0&to=1.0.0" in page.links, "the other way round"
    chosen = [attrs["value"] for attrs in page.all("option") if "selected" in attrs]
    assert chosen == ["1.0.0", "1.1.0"]


def test_much_feedback_hides_no_evaluation(qa, read, monkeypatch):
    """Feedback took the room of evaluations: a version that users spoke of was told as never evaluated."""
    monkeypatch.setattr("dspy_ledger.api.pages.compare._EVALUATIONS", 3)
    for number in range(25):
        results = {"score": number, "comment": f"said {number}"}
        qa.append(
            "EvaluationSaved",
            {
                "evaluation_id": f"f{number}",
                "results": results,
                "created_at": utc_now(),
                "execution_id": "x-c1:1-mini",
            },
        )
    of_both = {"program_id": "qa", "content_hash": "c1:1", "model_id": "mini", "execution_id": "x-c1:1-mini"}
    qa.evaluate("named", results={"score": 99}, **of_both)
    qa.fold()
    compared = read("/programs/qa/compare", **{"from": "1.0.0", "to": "1.1.0"})
    assert "mini accuracy 0.5 0.9 +0.4" in compared.text
    assert "mini score" not in compared.text
    page = read("/programs/qa/versions/1.1.0")
    assert "accuracy 0.9" in page.text
    assert "Feedback on its executions" in page.text
    assert "score 24 said 24" in page.text
    assert "score 99" in page.text
    assert "score 5 " not in page.text, "the newest twenty"
    assert "/executions/x-c1%3A1-mini" in page.links
    assert "Feedback" not in read("/programs/qa/versions/1.0.0").text
    assert "score 23" in read("/programs/qa/versions/1.1.0", as_of=qa.sequence - 2).text
    assert "score 24" not in read("/programs/qa/versions/1.1.0", as_of=qa.sequence - 2).text


def test_shares_of_errors_differ_by_points_and_hardly_any_difference_has_no_sign(ledger, read):
    """2 % that became 3 % stood as +50 %."""
    register(ledger, "1.0.0", "c1:0")
    register(ledger, "1.1.0", "c1:1")
    for digest, errors, latency in (("c1:0", 2, 1000.0), ("c1:1", 1, 1000.9)):
        for number in range(10):
            ledger.execute(
                f"{digest}-{number}",
                "qa",
                content_hash=digest,
                model_id="mini",
                status="error" if number < errors else "ok",
                latency_ms=latency,
                cost_usd=None,
            )
    ledger.fold()
    page = read("/programs/qa/compare", **{"from": "1.0.0", "to": "1.1.0"})
    assert "mini 10 10 20 % 10 % \N{MINUS SIGN}10 pp 1 s 1 s nearly the same" in page.text
    assert len(page.all("span", **{"class": "good-text"})) == 1


def test_what_was_nothing_and_is_something_counts_as_a_rise(ledger, read):
    """From no errors to some, and from free to paid, read as if nothing were known of the first."""
    register(ledger, "1.0.0", "c1:0")
    register(ledger, "1.1.0", "c1:1")
    for number, (digest, status, cost) in enumerate(
        [("c1:0", "ok", 0), ("c1:1", "ok", 0.01), ("c1:1", "error", 0.01)]
    ):
        ledger.execute(
            f"x{number}",
            "qa",
            content_hash=digest,
            model_id="mini",
            status=status,
            cost_usd=cost,
            latency_ms=9,
        )
    ledger.fold()
    page = read("/programs/qa/compare", **{"from": "1.0.0", "to": "1.1.0"})
    assert "mini 1 2 0 % 50 % +50 pp 9 ms 9 ms same $0 $0.010 from 0" in page.text
    assert len(page.all("span", **{"class": "bad-text"})) == 2
    same = read("/programs/qa/compare", **{"from": "1.0.0", "to": "1.0.0"})
    assert "mini 1 1 0 % 0 % same 9 ms 9 ms same $0 $0 same" in same.text


def test_without_a_choice_the_latest_version_is_compared_with_where_it_came_from(qa, read):
    assert "What changed from 1.0.0 to 1.1.0" in read("/programs/qa/compare").text
    assert "What changed from 1.0.0 to 1.0.0" in read("/programs/qa/compare", to="1.0.0").text


def test_a_change_that_breaks_callers_says_who_has_to_follow(ledger, read):
    register(ledger, "1.0.0", "c1:0")
    register(ledger, "2.0.0", "c1:1", fields=[{**FIELDS[0], "name": "query"}, {**FIELDS[1], "type": "int"}])
    ledger.fold()
    page = read("/programs/qa/compare")
    for words in (
        "major Callers have to follow",
        "The input question is gone",
        "The input query is new and required",
        "The output answer was str and is int",
    ):
        assert words in page.text


# One evaluation

ROWS = [
    {"score": 1, "inputs": {"question": "2 + 2?"}, "labels": {"answer": "4"}, "prediction": {"answer": "4"}},
    {"score": 0, "inputs": {"question": "2 + 3?"}, "labels": {"answer": "5"}, "prediction": {"answer": "6"}},
    {"score": 0, "inputs": {"question": "1 / 0?"}, "labels": {"answer": "no"}, "prediction": {}},
    {"score": 0.5, "feedback": "close", "example": {"question": "1 + 1?"}, "prediction": "two"},
]


@pytest.fixture
def evaluated(qa):
    """An evaluation with rows, on two models; that on nano has none."""
    of_it = {"evaluation_id": "sums/1", "program_id": "qa", "content_hash": "c1:1", "metric_name": "exact"}
    dataset = {"name": "sums", "size": 4, "digest": "sha256:0"}
    results = {"score": 37.5, "failed": 1}
    made = {**of_it, "results": results, "dataset": dataset, "created_at": utc_now()}
    qa.append("EvaluationSaved", {**made, "model_id": "mini"}, body={"scores": [1, 0, 0, 0.5], "rows": ROWS})
    qa.append("EvaluationSaved", {**made, "model_id": "nano", "results": 7})
    qa.fold()
    return qa


def test_an_evaluation_tells_what_it_found_and_its_rows_the_worst_first(evaluated, read):
    page = read("/programs/qa/evaluations/sums%2F1", model_id="mini")
    for words in (
        "Evaluation of 1.1.0 on mini",
        "score 37.5 failed 1",
        "Data sums",
        "Examples 4",
        "1 without a prediction",
        "3 0 question 1 / 0? answer no no prediction",
        "2 0 question 2 + 3? answer 5 answer 6",
        "4 0.5 question 1 + 1? feedback close prediction two",
    ):
        assert words in page.text
    order = [page.text.index(question) for question in ("1 / 0?", "2 + 3?", "1 + 1?", "2 + 2?")]
    assert order == sorted(order)
    assert "/programs/qa/versions/1.1.0" in page.links
    assert "/v1/programs/qa/evaluations/sums%2F1?model_id=mini" in page.links


def test_an_evaluation_is_reached_from_its_version_and_from_the_matrix(evaluated, read):
    address = "/programs/qa/evaluations/sums%2F1?model_id=mini"
    assert address in read("/programs/qa/versions/1.1.0").links
    assert address in read("/programs/qa", metric="score").links


def test_rows_that_were_not_saved_and_rows_that_were_erased_are_told_apart(evaluated, read):
    assert "None were saved" in read("/programs/qa/evaluations/sums%2F1", model_id="nano").text
    evaluated.store.erase([evaluated.sequence - 1], "asked")
    page = read("/programs/qa/evaluations/sums%2F1", model_id="mini")
    assert "Erased" in page.text
    assert "2 + 3?" not in page.html


def test_of_many_rows_those_with_the_lowest_scores_are_shown(qa, read):
    body = {"scores": list(range(150, 0, -1))}
    of_it = {"evaluation_id": "e", "program_id": "qa", "content_hash": "c1:1", "model_id": "m"}
    qa.append("EvaluationSaved", {**of_it, "results": {}, "created_at": utc_now()}, body=body)
    qa.fold()
    page = read("/programs/qa/evaluations/e")
    assert "The 100 with the lowest scores of 150" in page.text
    assert "150 1 149 2 148 3" in page.text
    assert "Scores only" in page.text


def test_an_evaluation_that_is_not_known_is_a_page_that_says_so(evaluated, read):
    assert "has no evaluation" in read("/programs/qa/evaluations/none", 404).text
    read("/programs/qa/evaluations/sums%2F1", 404, model_id="other")
    read("/programs/nope/evaluations/sums%2F1", 404)
    read("/programs/qa/evaluations/sums%2F1", 404, as_of=1)


@pytest.fixture(scope="module")
def read_hostile(make_ledger_and_api):
    """Two hundred versions of a program whose every text means harm, on forty models."""
    ledger, api = make_ledger_and_api()
    long = "x" * 200
    for number in range(200):
        register(
            ledger,
            f"1.{number}.0",
            f"c1:{number}",
            program_id="evil",
            name=EVIL,
            description=EVIL,
            tags=["<i>" + long],
            instructions=f"{EVIL}\n</script></textarea><img src=x onerror=alert({number})>",
            fields=[{**FIELDS[0], "name": long, "desc": EVIL, "type": EVIL}, FIELDS[1]],
            demos=[{"question": EVIL, "answer": {"nested": [number]}}] * (500 if number == 199 else 1),
            source_code=f"'''{EVIL}'''\n# {number}",
            class_name=EVIL,
            module_path=EVIL,
            parent_id="evil" if number else None,
            parent_version=f"1.{number // 2}.0" if number else None,
            optimizer={"name": EVIL, "params": {EVIL: EVIL}, "score": 1e300} if number else None,
        )
    for number in range(40):
        ledger.evaluate(
            EVIL,
            program_id="evil",
            content_hash="c1:199",
            model_id=f"{EVIL}{number}",
            results={EVIL: number, "nested": {"<b>": 1e308}},
            dataset={"name": EVIL, "size": EVIL},
            user_id=EVIL,
        )
        ledger.execute(
            f"<x>{number}",
            "evil",
            content_hash="c1:199",
            model_id=f"{EVIL}{number}",
            error={"type": EVIL, "message": EVIL},
            status="error",
        )
    rows = [{"score": EVIL, "inputs": {EVIL: EVIL}, "prediction": EVIL, EVIL: [EVIL]}, EVIL, 7]
    evil = {"evaluation_id": EVIL, "program_id": "evil", "results": EVIL, "created_at": utc_now()}
    ledger.append("EvaluationSaved", evil, body={"scores": EVIL, "rows": rows})
    ledger.fold()
    return reader(api)


@pytest.mark.parametrize(
    "path",
    [
        "/programs/evil",
        "/programs/evil?versions=all&by=model",
        "/programs/evil/versions/1.199.0",
        "/programs/evil/versions/1.0.0",
        "/programs/evil/compare?from=1.0.0&to=1.199.0",
        f"/programs/evil/evaluations/{quote(EVIL, safe='')}",
    ],
)
def test_what_means_harm_is_text_and_nothing_else(read_hostile, path):
    page = read_hostile(path)
    assert "<script>alert(1)</script>" in page.text
    assert "<script>alert" not in page.html
    assert not page.all("img")
    for tag, attrs in page.elements:
        assert not [name for name in attrs if name == "style" or name.startswith("on")], (tag, attrs)
        if tag == "script":
            assert attrs.get("src", "").startswith("/static/") or attrs.get("type") == "application/json"
    assert len(page.html) < 3_000_000


def test_of_many_versions_the_newest_are_shown_and_all_on_demand(read_hostile):
    page = read_hostile("/programs/evil")
    assert "The newest 40 of 200 versions" in page.text
    assert len(page.all("circle", r="5")) == 40
    assert len(read_hostile("/programs/evil", versions="all").all("circle", r="5")) == 200
