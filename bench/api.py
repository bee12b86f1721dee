"""What the API answers, how fast and at what price, on a ledger of a million executions or more.

    python bench/api.py [--executions 10000000] [--keep FOLDER] [--ingest 1000] [--only WORD …]

A view of that many executions is built (30 programs of 6 versions on 5 models over 90 days, 5,000
evaluations, 20,000 feedbacks), with the events that details are read from; ``--keep`` builds it once and
finds it there the next time. Then the API runs as ``dspy-ledger api`` does, and one client asks one route
after the other over one connection, in rounds, of which the middle one is shown. Beside it stands a bare
route: FastAPI, sqlite3 and orjson, the same page of 100 from the same file. CPU is the server's processor
time for one answer, which other programs on the machine stretch less than the time on the wall; blocked is
how long, at most, a second client waited for ``/health/live`` meanwhile. ``--ingest`` has a projector take in
that many events a second all the time. An answer from the view is kept while the view stays at its position,
so most of those to the same address were worked out before: anew are those told with a position other than
the one before, all rounds together.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

import events
import redis
import rig
from rich.progress import track

from dspy_ledger import wire
from dspy_ledger.api.cursors import encode_cursor
from dspy_ledger.api.metrics import directory_position
from dspy_ledger.api.parameters import ExecutionQuery
from dspy_ledger.database import connect
from dspy_ledger.keys import Keys
from dspy_ledger.projector.rows import Rows
from dspy_ledger.projector.tables import prepare, write
from dspy_ledger.projector.view import View, sync_view
from dspy_ledger.store import SqliteEventStore, StoredEvent
from dspy_ledger.timestamps import canonical_time
from dspy_ledger.views import current_view, point_to

PROGRAMS, VERSIONS, DAYS = 30, 6, 90
MODELS = ("gpt-4o-mini", "gpt-4o", "claude-haiku", "claude-sonnet", "llama-3-8b")
EVALUATIONS, OF_THE_FIRST, FEEDBACK = 5_000, 4_000, 20_000
WALK = 500  # pages, more than the API keeps
TAIL = 2_000  # the newest executions, whose events are in the store

Fields = dict[bytes, bytes]


# The ledger


def build(folder: Path, executions: int) -> None:
    """A store and a view; of the executions the store holds the newest, the others leave a hole."""
    rng = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    path, ledger = folder / "views-1.db", folder / "ledger.db"
    head = [*registrations(), *evaluations(rng), *feedback(rng, executions)]
    last = len(head) + executions - TAIL
    with closing(SqliteEventStore(ledger)) as store, closing(View.create(path, store, indexes=False)) as view:
        view.hurry()
        view.apply(append(store, head))
        fill(path, range(len(head) + 1, last), rng)
        append(store, [events.execution(len(head), rng)])
        move(ledger, len(head) + 1, last)
        view.apply(store.read(len(head), 1))
        view.apply(append(store, [events.execution(len(head) + n, rng) for n in range(1, TAIL + 1)]))
        print("indexes …", flush=True)
        view.index()
        view.flush()
    sync_view(path)
    point_to(path)


def append(store: SqliteEventStore, entries: Sequence[Fields]) -> list[StoredEvent]:
    return store.append([(f"{n}-0", wire.decode(fields)) for n, fields in enumerate(entries)]).events


def move(ledger: Path, position: int, to: int) -> None:
    """Move the store's last event behind all that only the view has."""
    with closing(sqlite3.connect(ledger, isolation_level=None)) as db:
        for table in ("events", "bodies"):
            db.execute(f"UPDATE {table} SET position = ? WHERE position = ?", (to, position))


def registrations() -> list[Fields]:
    made = [(program, content) for content in range(VERSIONS) for program in range(PROGRAMS)]
    return [events.registration(n, program, content) for n, (program, content) in enumerate(made)]


def evaluations(rng: random.Random) -> list[Fields]:
    return [
        events.evaluation(
            PROGRAMS * VERSIONS + n,
            rng,
            program=0 if n < OF_THE_FIRST else 1 + n % (PROGRAMS - 1),
            evaluation_id=f"nightly-{n}",
            model=rng.choice(MODELS),
            content=rng.randrange(VERSIONS),
        )
        for n in range(EVALUATIONS)
    ]


def feedback(rng: random.Random, executions: int) -> list[Fields]:
    return [
        events.feedback(
            PROGRAMS * VERSIONS + EVALUATIONS + n, execution_id(rng.randrange(executions - TAIL)), rng
        )
        for n in range(FEEDBACK)
    ]


def execution_id(number: int) -> str:
    return f"01930000-0000-7000-8000-{number:012x}"


def fill(path: Path, positions: range, rng: random.Random) -> None:
    """Executions into the view, hour by hour, as the fold's rows."""
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
    hours = DAYS * 24
    with closing(connect(path)) as db:
        prepare(db)
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA wal_autocheckpoint = 50000")
        for hour in track(range(hours), f"{len(positions):,} executions"):
            share = positions[len(positions) * hour // hours : len(positions) * (hour + 1) // hours]
            rows = Rows()
            for n, position in enumerate(share):
                moment = start + timedelta(hours=hour, seconds=3599 * n / len(share))
                add(
                    rows,
                    position,
                    position - positions[0],
                    hour / hours,
                    canonical_time(moment.isoformat()),
                    rng,
                )
            db.execute("BEGIN")
            write(db, rows)
            db.execute("COMMIT")


def add(rows: Rows, position: int, number: int, age: float, moment: str, rng: random.Random) -> None:
    """One execution; versions follow each other, and some traffic stays with the one before."""
    bits = rng.getrandbits(64)
    program = bits % PROGRAMS
    content = max(0, int(age * VERSIONS) - (bits >> 8) % 5 // 4)
    model = MODELS[(bits >> 16) % len(MODELS)]
    failed = (bits >> 24) % 50 == 0
    environment = "staging" if (bits >> 32) % 10 == 0 else "production"
    digest = f"c1:{program:02}{content:062}"
    numbers = LATENCIES[(bits >> 40) % len(LATENCIES)], 100 + (bits >> 12) % 1900, 20 + (bits >> 20) % 380
    latency, inputs, outputs = numbers
    cost = (bits >> 28) % 100_000 / 1e8
    status = "error" if failed else "ok"
    of_program = f"program_{program}"
    rows.hours[of_program, moment[:13], digest, model, environment].append(
        (status, latency, inputs, outputs, cost)
    )
    rows.executions.append((
        position, execution_id(number), of_program, digest, f"Program {program}", model, "openai", model,
        f"openai/{model}", status, "TimeoutError" if failed else None, "no answer" if failed else None,
        moment, moment, latency, inputs, outputs, cost, False, f"{number // 3:032x}",
        f"session-{number // 50}", f"user-{(bits >> 36) % 1000}", '["live"]', environment, "llm-server",
        "0f3c9a1",
    ))  # fmt: skip


LATENCIES = [round(random.Random(n).lognormvariate(6, 0.6), 3) for n in range(4096)]


# The servers


@dataclass(frozen=True)
class Server:
    pid: int
    port: int

    def cpu(self) -> float:
        """Seconds of the processor."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self) -> float:
        """MiB that are the process's own and not the page cache's."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        kib = {name: value for name, _, value in (line.partition(":") for line in lines)}
        return (int(kib["VmRSS"].split()[0]) - int(kib["RssFile"].split()[0])) / 1024


def environment(folder: Path, url: str) -> dict[str, str]:
    return {
        **os.environ,
        "DSPY_LEDGER_DATA_DIR": str(folder),
        "DSPY_LEDGER_PROGRAMS_DIR": str(folder / "programs"),
        "DSPY_LEDGER_REDIS_URL": url,
        "DSPY_LEDGER_API_PORT": "0",
    }


@contextmanager
def command(name: str, folder: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    program = Path(sys.executable).with_name("dspy-ledger")
    process = subprocess.Popen(
        [program, name], cwd=folder, env=environment(folder, url), stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def api(folder: Path, url: str) -> Iterator[Server]:
    with command("api", folder, url) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().partition("/v1/")[0].rpartition(":")[2])
        yield Server(process.pid, port)


@contextmanager
def bare(view: Path) -> Iterator[Server]:
    """A page of executions as anybody would write it first."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_bare, args=(view, theirs), daemon=True)
    process.start()
    try:
        assert process.pid is not None
        yield Server(process.pid, ours.recv())
    finally:
        process.terminate()
        process.join()


def serve_bare(view: Path, tell: Connection) -> None:
    import orjson
    import uvicorn
    from fastapi import FastAPI, Response

    db = connect(view, readonly=True)
    db.row_factory = sqlite3.Row
    app = FastAPI()

    @app.get("/health/live")
    async def live() -> Response:
        return Response(b"{}")

    @app.get("/page")
    async def page(limit: int = 100, below: int = 2**62) -> Response:
        rows = db.execute(
            "SELECT e.*, v.version FROM executions e LEFT JOIN versions v USING (program_id, content_hash)"
            " WHERE e.position < ? ORDER BY e.position DESC LIMIT ?",
            (below, limit),
        )
        items = [{**dict(row), "tags": orjson.loads(row["tags"])} for row in rows]
        return Response(orjson.dumps({"items": items}), media_type="application/json")

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    tell.send(listener.getsockname()[1])
    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run(sockets=[listener])


@contextmanager
def ingest(folder: Path, url: str, rate: int) -> Iterator[None]:
    """A projector whose views have caught up with the store, and a host that records."""
    if not rate:
        yield
        return
    with closing(SqliteEventStore(folder / "ledger.db", readonly=True)) as store:
        last = store.last_position()
    with command("projector", folder, url) as projector, redis.Redis.from_url(url) as client:
        while (
            int(client.hget(Keys().registry_checkpoint, "position") or 0) < last
            or directory_position(folder).get("directory", 0) < last
        ):
            assert projector.poll() is None, "the projector ended"
            time.sleep(0.1)
        # A process of its own, as hosts are: a thread would hold up the client whose waiting is measured.
        host = get_context("spawn").Process(target=send, args=(url, rate), daemon=True)
        host.start()
        try:
            yield
            assert host.is_alive(), "the host ended"
        finally:
            host.terminate()
            host.join()


def send(url: str, rate: int) -> None:
    client, rng = redis.Redis.from_url(url), random.Random()
    sequence, began = 10**6, time.monotonic()
    while True:
        time.sleep(0.05)
        pipe = client.pipeline(transaction=False)
        while sequence < 10**6 + (time.monotonic() - began) * rate:
            pipe.xadd(Keys().events, events.any_event(sequence, rng))
            sequence += 1
        pipe.execute()


# The client


class Client:
    """One connection that is kept; as little as it takes not to be what is measured."""

    def __init__(self, port: int) -> None:
        self.position = b""
        """That the last answer told, where it told one."""
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str) -> bytes:
        """The body of a 200."""
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
        self._socket.sendall(head.encode())
        answer = self._socket.recv(1 << 18)
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._socket.recv(1 << 18)
        assert answer.startswith(b"HTTP/1.1 200"), (path, answer[:2000])
        low = answer[:end].lower()
        size = int(low.partition(b"content-length:")[2].split(b"\r\n")[0])
        self.position = low.partition(b"ledger-position:")[2].split(b"\r\n")[0]
        parts, left = [answer[end + 4 :]], size - (len(answer) - end - 4)
        while left > 0:
            parts.append(self._socket.recv(1 << 18))
            left -= len(parts[-1])
        return b"".join(parts)


def routes(view: Path, first: int) -> dict[str, list[str]]:
    """What is asked; several addresses of one route are asked in turn."""
    with closing(connect(view, readonly=True)) as db:
        last = db.execute("SELECT max(position) FROM executions").fetchone()[0]
        newest = [
            id_
            for (id_,) in db.execute("SELECT execution_id FROM executions ORDER BY position DESC LIMIT 50")
        ]
    deep = max(last - 100 * 100_000, first + 1000)
    middle = (first + last) // 2 - first
    now = datetime.now(UTC)

    def executions(**filters: object) -> str:
        return "/v1/programs/executions?" + urlencode({"limit": 100, **filters})

    def at(position: int) -> str:
        query = ExecutionQuery(limit=100)
        return executions(cursor=encode_cursor(query.name, query.filters(), position))

    def ago(days: float) -> str:
        return canonical_time((now - timedelta(days=days)).isoformat())

    month = {"since": ago(30)}
    return {
        "page of 100": [executions()],
        f"page {(last - deep) // 100:,}": [at(deep)],
        "page after page": [at(last - 100 * number) for number in range(WALK)],
        "of a program": [executions(program_id="program_7")],
        "of a version": [executions(program_id="program_7", version="1.0.3")],
        "of a model": [executions(model_id="claude-haiku")],
        "failed": [executions(status="error")],
        "of an environment": [executions(environment="staging")],
        "of an hour": [executions(since=ago(45), until=ago(45 - 1 / 24))],
        "of a trace": [executions(trace_id=f"{middle // 3:032x}")],
        "of a session": [executions(session_id=f"session-{middle // 50}")],
        "of a user": [executions(user_id="user-7")],
        # Without an index: all of the version are gone through.
        "of a service": [executions(program_id="program_7", version="1.0.3", service="none")],
        "one execution": [f"/v1/programs/executions/{id_}" for id_ in newest],
        "programs": ["/v1/programs"],
        "one program": ["/v1/programs/program_7"],
        "versions": ["/v1/programs/program_7/versions"],
        "models": ["/v1/programs/models"],
        "evaluations": ["/v1/programs/program_0/evaluations"],
        "evaluations, few": ["/v1/programs/program_7/evaluations"],
        "matrix of 4,000": ["/v1/programs/program_0/matrix"],
        "matrix of 34": ["/v1/programs/program_7/matrix"],
        "stats, 30 days": ["/v1/stats?" + urlencode(month)],
        "stats, all": ["/v1/stats"],
        "stats, 30 days by day": ["/v1/stats?" + urlencode({**month, "bucket": "day"})],
        "stats, 30 days, by program": ["/v1/stats?" + urlencode({**month, "group_by": "program"})],
        "stats, 30 days, by version": ["/v1/stats?" + urlencode({**month, "group_by": "version"})],
        "stats, all, by model": ["/v1/stats?group_by=model"],
        "stats of a program, 30 days by day": [
            "/v1/stats?"
            + urlencode({**month, "program_id": "program_7", "bucket": "day", "group_by": "version"})
        ],
        "stats of a program, all": ["/v1/stats?program_id=program_7"],
        "health/live": ["/health/live"],
        "/": ["/"],
        "/?window=30d": ["/?window=30d"],
        "/?window=all": ["/?window=all"],
        "/programs/{id}": ["/programs/program_7"],
        "/programs/{id} of 4,000": ["/programs/program_0?window=90d"],
        "/executions": ["/executions"],
        "/executions/{id}": [f"/executions/{id_}" for id_ in newest],
    }


@dataclass(frozen=True)
class Measured:
    """Seconds: of each answer, of those anew, of the processor for one, of the longest wait of another."""

    times: list[float]
    anew: list[float]
    cpu: float
    wait: float
    size: int

    def ms(self, share: float) -> float:
        return rig.at(self.times, share) * 1e3


def measure(server: Server, paths: Sequence[str], seconds: float) -> Measured:
    client = Client(server.port)
    size = len(client.get(paths[0]))
    wait, over = [0.0], threading.Event()
    other = threading.Thread(target=look, args=(server, wait, over))
    times, anew, position = list[float](), list[float](), client.position
    cpu, end = server.cpu(), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        began = time.perf_counter()
        client.get(paths[len(times) % len(paths)])
        times.append(time.perf_counter() - began)
        if client.position != position:
            anew.append(times[-1])
            position = client.position
    cpu = (server.cpu() - cpu) / len(times)
    other.start()
    for path in [*paths[:3]] * 3:
        client.get(path)
    over.set()
    other.join()
    return Measured(sorted(times), anew, cpu, wait[0], size)


def look(server: Server, wait: list[float], over: threading.Event) -> None:
    client = Client(server.port)
    while not over.is_set():
        began = time.perf_counter()
        client.get("/health/live")
        wait[0] = max(wait[0], time.perf_counter() - began)
        time.sleep(0.001)


def main() -> None:
    parser = rig.parser(__doc__ or "")
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="build it there, or find it there")
    parser.add_argument("--ingest", type=int, default=0, metavar="RATE", help="events a second meanwhile")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="routes with one of these in their name"
    )
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="dspy-ledger-bench-") as temporary:
        folder = (arguments.keep or Path(temporary)).absolute()
        if current_view(folder) is None:
            began = time.monotonic()
            build(folder, arguments.executions)
            print(f"built in {time.monotonic() - began:,.0f} s")
        run(folder, Path(temporary), arguments)


def run(folder: Path, temporary: Path, arguments: argparse.Namespace) -> None:
    view = current_view(folder)
    assert view is not None
    rounds, seconds = (1, 0.5) if arguments.quick else (3, 2.0)
    asked = routes(view, PROGRAMS * VERSIONS + EVALUATIONS + FEEDBACK + 1)
    asked = {
        name: paths
        for name, paths in asked.items()
        if not arguments.only or any(w in name for w in arguments.only)
    }
    found: dict[str, list[Measured]] = {}
    with closing(connect(view, readonly=True)) as db:
        last = db.execute("SELECT max(position) FROM executions").fetchone()[0]
    walk = [f"/page?below={last - 100 * number}" for number in range(WALK)]
    bare_pages = {"bare page of 100": ["/page"], "bare page after page": walk}
    with (
        rig.valkey(temporary / "valkey") as (url, _),
        ingest(folder, url, arguments.ingest),
        bare(view) as plain,
        api(folder, url) as server,
    ):
        for _ in range(rounds):
            for name, paths in bare_pages.items():
                found.setdefault(name, []).append(measure(plain, paths, seconds))
            for name, paths in asked.items():
                found.setdefault(name, []).append(measure(server, paths, seconds))
        rss = server.rss()
    report(found, rss, view, arguments)


def report(found: dict[str, list[Measured]], rss: float, view: Path, arguments: argparse.Namespace) -> None:
    columns = (
        "answers/s",
        "of bare",
        "p50 ms",
        "p95",
        "p99",
        "CPU ms",
        "blocked ms",
        "anew ms",
        "p99 anew",
        "kB",
    )
    table = rig.table(
        f"{view.stat().st_size / 2**30:,.1f} GiB view, ingest {arguments.ingest}/s", "", *columns
    )
    middle = {
        name: sorted(rounds, key=lambda one: sum(one.times) / len(one.times))
        for name, rounds in found.items()
    }
    figures = {}
    rate_of_bare = None
    for name, rounds in middle.items():
        one = rounds[len(rounds) // 2]
        rate = len(one.times) / sum(one.times)
        rate_of_bare = rate_of_bare or rate
        shown = [rate, rate / rate_of_bare, one.ms(0.5), one.ms(0.95), one.ms(0.99), one.cpu * 1e3]
        anew = sorted(seconds for each in rounds for seconds in each.anew)
        shown += [max(each.wait for each in rounds) * 1e3]
        shown += [rig.at(anew, share) * 1e3 if anew else 0.0 for share in (0.5, 0.99)] + [one.size / 1e3]
        figures[name] = dict(zip(columns, shown, strict=True))
        digits = (0, 2, 2, 2, 2, 2, 1, 2, 2, 1)
        table.add_row(name, *(f"{value:,.{places}f}" for value, places in zip(shown, digits, strict=True)))
    machine = rig.machine("fastapi", "starlette", "uvicorn", "httptools", "uvloop", "orjson")
    rig.console.print(f"{machine}, SQLite {sqlite3.sqlite_version}")
    rig.console.print(table)
    rig.console.print(f"the API's memory: {rss:,.0f} MiB")
    rig.write_json(arguments.json, machine, {"routes": figures, "rss_mib": rss, "ingest": arguments.ingest})


if __name__ == "__main__":
    main()
