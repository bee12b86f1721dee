"""Statistics over time, held against executions in plain Python."""

from __future__ import annotations

import random
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from api.test_errors import check_problem
from dspy_ledger.api import schemas
from dspy_ledger.api.parameters import StatsQuery
from dspy_ledger.api.queries.stats import stats as answer
from dspy_ledger.histogram import RELATIVE_ERROR
from dspy_ledger.views import current_view

PATH = "/v1/stats"
BEGIN = datetime(2026, 10, 28, 22, tzinfo=UTC)


def stats(api, **asked):
    answer = api.get(PATH, **asked)
    assert answer.status_code == 200, answer.text
    schemas.Stats.model_validate_json(answer.content)
    return answer.json()


def spelled(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.fixture(scope="module")
def world(make_ledger_and_api):
    """400 executions over eight days at a month's end, and the same as plain dicts."""
    ledger, api = make_ledger_and_api()
    labels = {("p", "c1:00"): "1.0.0", ("p", "c1:01"): "1.1.0", ("q", "c1:00"): "1.0.0"}
    for (program_id, digest), label in labels.items():
        ledger.register(program_id, label, digest)
    chance, facts = random.Random(5), []
    for number in range(400):
        fact = {
            "program_id": chance.choice("pqr"),
            "content_hash": chance.choice(["c1:00", "c1:01", "c1:99", None]),
            "model_id": chance.choice(["a", "b", None]),
            "status": chance.choice(["ok", "ok", "error"]),
            "latency_ms": chance.lognormvariate(4, 1),
            "time": spelled(BEGIN + timedelta(minutes=chance.randrange(8 * 1440))),
        }
        usage = chance.choice([{}, {"input_tokens": 3}, {"input_tokens": 5, "output_tokens": 7}])
        cost, environment = chance.choice([None, 0.25]), chance.choice([None, "production"])
        ledger.execute(
            f"x{number}", usage=usage, cost_usd=cost, **fact,
            context={"environment": environment} if environment else None,
        )  # fmt: skip
        label = labels.get((fact["program_id"], fact["content_hash"]))
        facts.append({**fact, **usage, "cost_usd": cost, "environment": environment, "version": label})
    ledger.fold()
    return api, facts


def check(told, facts):
    """Numbers are those of the executions."""
    latencies = sorted(fact["latency_ms"] for fact in facts)
    errors = sum(fact["status"] == "error" for fact in facts)
    assert (told["executions"], told["errors"]) == (len(facts), errors)
    assert told["error_rate"] == (errors / len(facts) if facts else None)
    for name, known in (
        ("input_tokens", "input_known"),
        ("output_tokens", "output_known"),
        ("cost_usd", "cost_known"),
    ):
        values = [fact[name] for fact in facts if fact.get(name) is not None]
        assert told[known] == len(values)
        assert told[name] == (sum(values) if values else None)
    if not facts:
        assert told["mean_latency_ms"] is told["p50_latency_ms"] is told["p99_latency_ms"] is None
        return
    assert told["mean_latency_ms"] == pytest.approx(sum(latencies) / len(latencies), abs=1e-3)
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        exact = latencies[max(1, -int(-share * len(latencies) // 1)) - 1]
        assert told[f"{name}_latency_ms"] == pytest.approx(exact, rel=RELATIVE_ERROR, abs=1e-3)


FILTERS = [
    {},
    {"program_id": "p"},
    {"program_id": "q", "version": "1.0.0"},
    {"version": "1.0.0"},
    {"model_id": "a"},
    {"environment": "production", "model_id": "b"},
    {"program_id": "unheard-of"},
    {"version": "9.9.9"},
]


@pytest.mark.parametrize("filters", FILTERS, ids=repr)
def test_each_filter_leaves_the_executions_that_a_plain_filter_leaves(world, filters):
    api, facts = world
    kept = [fact for fact in facts if all(fact[name] == value for name, value in filters.items())]
    check(stats(api, **filters)["totals"], kept)


def bucket_of(unit, time):
    moment = datetime.fromisoformat(time).replace(minute=0, second=0)
    if unit != "hour":
        moment = moment.replace(hour=0)
    if unit == "week":
        moment -= timedelta(days=moment.weekday())
    return spelled(moment.replace(day=1) if unit == "month" else moment)


@pytest.mark.parametrize("unit", ["hour", "day", "week", "month"])
def test_buckets_follow_one_another_and_hold_their_executions_or_none(world, unit):
    api, facts = world
    told = stats(api, bucket=unit, program_id="p")
    of_p = [fact for fact in facts if fact["program_id"] == "p"]
    starts = [bucket["start"] for bucket in told["buckets"]]
    assert starts == sorted(set(starts))
    assert (told["since"], starts[-1]) == (starts[0], bucket_of(unit, max(fact["time"] for fact in of_p)))
    if unit == "hour":
        hours = (datetime.fromisoformat(told["until"]) - datetime.fromisoformat(told["since"])) / timedelta(
            hours=1
        )
        assert len(starts) == hours
    for bucket in told["buckets"]:
        check(bucket, [fact for fact in of_p if bucket_of(unit, fact["time"]) == bucket["start"]])


@pytest.mark.parametrize(
    ("group_by", "names"),
    [
        ("program", ["program_id"]),
        ("version", ["program_id", "version"]),
        ("model", ["model_id"]),
        ("environment", ["environment"]),
    ],
)
def test_groups_part_the_executions(world, group_by, names):
    api, facts = world
    told = stats(api, group_by=group_by, bucket="week")
    groups = [group["group"] for group in told["groups"]]
    assert all(list(group) == names for group in groups)
    assert {tuple(group.values()) for group in groups} == {
        tuple(fact[name] for name in names) for fact in facts
    }
    assert groups == sorted(groups, key=lambda group: [(part is None, part) for part in group.values()])
    for group in told["groups"]:
        of_group = [fact for fact in facts if all(fact[name] == group["group"][name] for name in names)]
        check(group["totals"], of_group)
        for bucket in group["buckets"]:
            check(bucket, [fact for fact in of_group if bucket_of("week", fact["time"]) == bucket["start"]])
        assert [bucket["start"] for bucket in group["buckets"]] == [b["start"] for b in told["buckets"]]


@pytest.mark.parametrize("group_by", [None, "program", "version", "model"])
@pytest.mark.parametrize("bucket", [None, "hour", "week"])
def test_in_brief_buckets_have_less_to_tell_and_all_else_is_the_same(world, group_by, bucket):
    api, _ = world
    query = StatsQuery(group_by=group_by, bucket=bucket, until="2026-11-03T12:00:00Z")
    with api.app.state.sources.question() as question:
        told, brief = answer(question, query), answer(question, query, brief=True)
    for part in (told, *told["groups"]):
        part["buckets"] = [
            {name: each[name] for name in ("start", "executions", "errors")} for each in part["buckets"]
        ]
    assert brief == told


@pytest.mark.parametrize(
    ("asked", "level"),
    [
        ({}, "all"),
        ({"bucket": "day"}, "all"),
        ({"model_id": "a"}, "model"),
        ({"group_by": "environment"}, "model"),
        ({"program_id": "p"}, "program"),
        ({"group_by": "program", "bucket": "hour"}, "program"),
        ({"group_by": "version"}, "content"),
        ({"version": "1.0.0", "group_by": "program"}, "content"),
        ({"program_id": "p", "group_by": "model"}, "finest"),
        ({"version": "1.0.0", "environment": "production"}, "finest"),
    ],
)
def test_a_question_reads_adjacent_rows_of_the_level_that_tells_what_it_asks(world, asked, level):
    """Those of everything were a row for each model, and those by version one for each of all there is."""
    api, _ = world
    read = statements(api, **asked, since="2026-10-30T12:00:00Z", until="2026-11-02T12:00:00Z")
    assert read
    for statement, plan in read:
        assert f"level = '{level}'" in statement
        assert "USING PRIMARY KEY (level=? AND program_id=? AND " in plan[0]


def test_the_day_that_goes_on_is_read_as_the_one_row_it_has(world):
    api, facts = world
    now = max(fact["time"] for fact in facts)
    ((statement, _),) = statements(api, since="2026-10-30", until=now)
    assert "FROM days" in statement


def statements(api, **asked):
    """What is asked of the roll-ups, with SQLite's plans."""
    traced = []
    with api.app.state.sources.question() as question:
        question.db.set_trace_callback(traced.append)
        answer(question, StatsQuery(**asked))
        question.db.set_trace_callback(None)
        return [
            (statement, [row[3] for row in question.db.execute(f"EXPLAIN QUERY PLAN {statement}")])
            for statement in traced
            if "merge_histograms" in statement
        ]


@pytest.mark.parametrize(
    ("asked", "since", "until"),
    [
        (
            {"since": "2026-10-30T10:59:59Z", "until": "2026-10-30T12:00:00Z"},
            "2026-10-30T10",
            "2026-10-30T12",
        ),
        (
            {"since": "2026-10-30T10:00:00Z", "until": "2026-10-30T12:00:00.000001Z"},
            "2026-10-30T10",
            "2026-10-30T13",
        ),
        (
            {"since": "2026-10-30T10:00:00Z", "until": "2026-10-31", "bucket": "day"},
            "2026-10-30T00",
            "2026-10-31T00",
        ),
        ({"since": "2026-10-30", "until": "2026-11-01", "bucket": "week"}, "2026-10-26T00", "2026-11-02T00"),
        ({"since": "2026-10-30", "until": "2026-11-01", "bucket": "month"}, "2026-10-01T00", "2026-11-01T00"),
        ({"since": "2026-10-30T02:00:00+02:00", "until": "2026-10-31"}, "2026-10-30T00", "2026-10-31T00"),
        ({"until": "2026-10-30"}, None, "2026-10-30T00"),
        ({"since": "2027-01-01"}, "2027-01-01T00", "2027-01-01T00"),
    ],
)
def test_a_window_reaches_out_to_whole_buckets_and_the_answer_says_so(world, asked, since, until):
    api, facts = world
    told = stats(api, **asked)
    since = f"{since}:00:00.000000Z" if since else bucket_of("hour", min(fact["time"] for fact in facts))
    until = f"{until}:00:00.000000Z"
    assert (told["since"], told["until"]) == (since, until)
    check(told["totals"], [fact for fact in facts if since <= fact["time"] < until])


def test_without_executions_there_is_no_window(ledger, api):
    ledger.register("p")
    ledger.fold()
    told = stats(api, bucket="day", group_by="model")
    assert (told["since"], told["until"], told["buckets"], told["groups"]) == (None, None, [], [])
    check(told["totals"], [])
    told = stats(api, bucket="day", since="2026-11-01", until="2026-11-03")
    assert [bucket["executions"] for bucket in told["buckets"]] == [0, 0]


def test_hosts_whose_clocks_stand_at_the_ends_of_the_calendar_are_counted(ledger, api):
    ledger.execute("first", time="0001-01-01T00:00:00.000000Z")
    ledger.execute("last", time="9999-12-31T23:59:59.999999Z")
    ledger.fold()
    for asked in ({}, {"since": "0001-01-01", "until": "9999-12-31T23:59:59Z"}):
        told = stats(api, **asked)
        assert told["totals"]["executions"] == 2
        assert (told["since"][:4], told["until"]) == ("0001", "9999-12-31T23:59:59.999999Z")
    for unit in ("hour", "day", "week", "month"):
        problem = check_problem(api.get(PATH, bucket=unit), 400, PATH)
        assert "narrow it with since and until" in problem["detail"]


def test_more_buckets_than_a_chart_shows_are_refused_with_the_one_to_take(ledger, api):
    for day in range(1, 29):
        for model in "ab":
            ledger.execute(f"{day}{model}", model_id=model, time=f"2026-02-{day:02d}T12:00:00.000000Z")
    ledger.fold()
    window = {"since": "2026-01-01", "until": "2026-04-11"}
    assert len(stats(api, bucket="hour", **window)["buckets"]) == 2400
    problem = check_problem(api.get(PATH, bucket="hour", group_by="model", **window), 400)
    (error,) = problem["errors"]
    assert error["parameter"] == "bucket"
    assert "2400 buckets by the hour in 3 series" in error["detail"]
    assert "take bucket=day, of which there are 100" in error["detail"]


def test_numbers_that_no_program_has_are_told_all_the_same(ledger, api):
    for number in range(3):
        ledger.execute(f"x{number}", usage={"input_tokens": 2**63, "output_tokens": 9e17}, cost_usd=1e300)
    ledger.fold()
    totals = stats(api)["totals"]
    assert (totals["input_known"], totals["output_tokens"]) == (3, 27 * 10**17)


def test_sums_of_days_may_go_beyond_64_bits(ledger, api):
    for number in range(20):
        time = f"2026-11-{1 + number // 5:02d}T12:00:00Z"
        ledger.execute(f"x{number}", usage={"input_tokens": 10**18}, cost_usd=10**6, time=time)
    ledger.fold()
    totals = stats(api)["totals"]
    assert (totals["executions"], totals["input_tokens"], totals["cost_usd"]) == (20, 2**63 - 1, 20 * 10**6)


@pytest.mark.parametrize("later", [False, True])
def test_a_window_that_ends_within_a_day_has_nothing_of_the_rest_of_it(ledger, api, later):
    """A clock may run ahead: a day's sums hold what is not over yet."""
    ledger.execute("before", time="2026-11-21T23:00:00Z")
    ledger.execute("inside", time="2026-11-22T10:59:00Z")
    if later:
        ledger.execute("after", program_id="of another", time="2026-11-22T23:00:00Z")
    ledger.fold()
    for since in ("2026-11-21T23:00:00Z", "2026-11-22T10:00:00Z"):
        totals = stats(api, since=since, until="2026-11-22T10:59:30Z")["totals"]
        assert totals["executions"] == 1 + (since < "2026-11-22")
    assert stats(api, since="2026-11-22T11:00:00Z", until="2026-11-22T12:00:00Z")["totals"]["executions"] == 0


def test_a_histogram_that_is_damaged_is_told_with_what_to_do(ledger, api):
    ledger.execute("x")
    ledger.fold()
    with sqlite3.connect(current_view(ledger.settings.data_dir)) as db:
        db.execute("UPDATE days SET latencies = x'0700'")
    db.close()
    assert "replay" in check_problem(api.get(PATH), 503, PATH)["detail"]


@pytest.mark.parametrize(
    ("parameter", "value", "told"),
    [
        ("as_of", "1", "it has no past; leave it out"),
        ("bucket", "minute", "'hour', 'day', 'week' or 'month'"),
        ("group_by", "models", "'program', 'version', 'model' or 'environment'"),
        ("since", "yesterday", "2026-11-22T10:00:00Z"),
        ("until", "12", "2026-11-22T10:00:00Z"),
        ("program_id", "", "is empty"),
        ("version", "", "is empty"),
        ("model_id", "", "is empty"),
        ("environment", "", "is empty"),
        ("buckets", "day", "did you mean bucket?"),
    ],
)
def test_a_parameter_that_cant_be_used_is_told(world, parameter, value, told):
    api, _ = world
    problem = check_problem(api.get(PATH, **{parameter: value}), 400, PATH)
    (error,) = problem["errors"]
    assert error["parameter"] == parameter
    assert told in error["detail"]
