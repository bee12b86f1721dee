"""However a host's processes start, fork, nest and end: what they recorded arrives."""

from __future__ import annotations

import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from urllib.request import urlopen

import pytest
import trustme
import uvloop

from dspy_ledger.events import EVENT_TYPES
from dspy_ledger.producer import Ledger
from dspy_ledger.projector.ingest import Ingest
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore
from producer.hosts import Host, environment, wal_files
from producer.streams import entries
from proxy import Proxy
from servers import Valkey, free_port

Eventually = Callable[..., None]
MakeSettings = Callable[..., Settings]


def execution(number: int = 0) -> dict[str, object]:
    return {
        "execution_id": str(number),
        "program_id": "p",
        "status": "ok",
        "started_at": "2026-11-22T10:00:00.000000Z",
        "latency_ms": 1,
    }


def record(ledger: Ledger, count: int = 1) -> list[str]:
    return [ledger.record("ExecutionCompleted", execution(n), subject="p") for n in range(count)]


def once_each(ids: list[str]) -> Counter[str]:
    assert ids
    return Counter(dict.fromkeys(ids, 1))


Start = Callable[..., Host]
Stored = Callable[[Valkey, Settings], Counter[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts host programs, and kills those that a test left."""
    with ExitStack() as started:
        yield lambda *given: started.enter_context(Host(*given))


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """Tells the executions that a store has after the ingest took the whole stream.

    What was sent twice is there once; no producer's account may have a hole.
    """

    def take(valkey: Valkey, settings: Settings) -> Counter[str]:
        client = valkey.client()
        stream = client.xrange(settings.keys.events)
        client.close()
        store = SqliteEventStore(tmp_path / f"store-{valkey.port}-{settings.stream_prefix}.db")
        if stream:
            Ingest(store, settings.keys.events).take([i for i, _ in stream], [fields for _, fields in stream])
        found = Counter(e.event_id for e in store.read_all(types=[EVENT_TYPES["ExecutionCompleted"]]))
        holes = {account.source: account.ranges for account in store.producers() if len(account.ranges) > 1}
        store.close()
        assert not holes
        return found

    return take


# --- fork, spawn and workers ---


def test_events_of_five_forked_children_arrive_once_and_the_parent_goes_on(
    valkey, settings, stored: Stored, start: Start
) -> None:
    """A process that used the ledger forks; each child records a single event and ends at once."""
    ids = start(
        settings,
        """
ledger = Ledger.connect()
record(ledger, 3)
ledger.flush(10)
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside a thread
children = []
for _ in range(5):
    if (child := os.fork()) == 0:
        record(ledger)
        ledger.close()
        os._exit(0)
    children.append(child)
record(ledger, 2)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
record(ledger)
assert ledger.stats().recorded >= 6
""",
    ).end()
    assert len(ids) == 3 + 5 + 2 + 1
    assert stored(valkey, settings) == once_each(ids)
    by_source = Counter(source for source, _ in {(e.source, e.event_id) for e in entries(valkey, settings)})
    assert sorted(by_source.values()) == [1, 1, 1, 1, 1, 6]


def test_a_child_that_outlives_its_parent_does_not_keep_its_files_from_being_adopted(
    tmp_path: Path, make_settings: MakeSettings, eventually: Eventually, stored: Stored, start: Start
) -> None:
    """A lock that the child inherited would hold for as long as the child lives."""
    server = Valkey(tmp_path / "late")
    settings = make_settings(server.url)
    parent = start(
        settings,
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
ledger = Ledger.connect()
record(ledger, 20)
go, _ = os.pipe()
if os.fork() == 0:
    record(ledger)
    os.write(1, b"ready\\n")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for pipe in range(3):
        os.dup2(nowhere, pipe)  # the test waits for the parent's to be closed
    os.read(go, 1)  # for ever: it holds the other end itself
    os._exit(0)
signal.pause()
""",
    )
    parent.wait_for("ready")
    files = wal_files(settings)
    assert len(files) == 2
    parent.process.kill()
    parent.process.communicate()
    [child] = {int(path.name.split("-")[0]) for path in files} - {parent.process.pid}
    os.kill(child, signal.SIGSTOP)  # it would adopt its parent's file itself
    server.start()
    try:
        with Ledger.connect(settings=settings) as ledger:
            eventually(lambda: stored(server, settings).total() == 20)
            os.kill(child, signal.SIGCONT)
            eventually(lambda: stored(server, settings).total() == 21)
            assert ledger.stats().adopted == 20  # the child's own file stays the child's
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        server.stop()


def test_the_sender_imports_nothing_that_a_fork_could_tear(
    valkey: Valkey, settings: Settings, start: Start
) -> None:
    """A worker forked while its parent's first connection imported email.parser never sent anything."""
    host = start(
        settings,
        """
ledger = Ledger.connect()
known = set(sys.modules)
record(ledger)
assert ledger.flush(10)
assert set(sys.modules) == known, set(sys.modules) - known
""",
    )
    assert len(host.end()) == 1


WORKERS = """
import multiprocessing, os, sys
from dspy_ledger.producer import Ledger

ledger = None

def work(number):
    mine = ledger or Ledger.connect()
    event_id = mine.record("ExecutionCompleted", {"execution_id": str(number), "program_id": "p",
        "status": "ok", "latency_ms": 1, "started_at": "2026-11-22T10:00:00.000000Z"})
    os.write(1, event_id.encode() + b"\\n")

if __name__ == "__main__":
    ledger = Ledger.connect()
    work(0)
    context = multiprocessing.get_context(sys.argv[1])
    workers = [context.Process(target=work, args=(n,)) for n in range(int(sys.argv[2]))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {worker.exitcode for worker in workers} == {0}
"""


@pytest.mark.parametrize(("method", "workers"), [("fork", 5), ("spawn", 2), ("forkserver", 2)])
def test_events_of_multiprocessing_workers_arrive_once(
    valkey, settings, tmp_path: Path, method: str, workers: int, stored: Stored
) -> None:
    """multiprocessing ends a worker without running its exit handlers."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    ended = subprocess.run(
        [sys.executable, script, method, str(workers)],
        check=False,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    ids = ended.stdout.split()
    assert len(ids) == 1 + workers
    assert stored(valkey, settings) == once_each(ids)


SERVED = """
import os
from dspy_ledger.producer import Ledger

ledger = Ledger.connect()  # before the workers are forked
record = lambda: ledger.record("ExecutionCompleted", {"execution_id": "x", "program_id": "p", "status": "ok",
    "latency_ms": 1, "started_at": "2026-11-22T10:00:00.000000Z"})
record()

def wsgi(environ, start_response):
    answer = f"{os.getpid()} {record()}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{os.getpid()} {record()}".encode()})
"""


@pytest.mark.parametrize(
    ("command", "workers"),
    [
        (["gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:PORT", "served:wsgi"], 2),
        (["uvicorn", "--workers", "1", "--port", "PORT", "--log-level", "warning", "served:asgi"], 1),
    ],
    ids=["gunicorn --preload", "uvicorn"],
)
def test_a_server_of_workers_loses_nothing_up_to_its_graceful_end(
    valkey, settings, tmp_path: Path, eventually: Eventually, command: list[str], workers: int, stored: Stored
) -> None:
    (tmp_path / "served.py").write_text(SERVED)
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", *(part.replace("PORT", str(port)) for part in command)],
        cwd=tmp_path,
        env={**environment(settings), "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    answers: list[list[str]] = []

    def answered_by_all() -> bool:
        with suppress(OSError):
            answers.append(get(port).split())
        return len({pid for pid, _ in answers}) == workers and len(answers) >= 20

    try:
        eventually(answered_by_all, within=30)
        server.terminate()
        begun = monotonic()
        server.wait(20)
        assert monotonic() - begun < 10  # gunicorn would wait 30 s for a worker that hangs
    finally:
        server.kill()
        server.wait()
    arrived = stored(valkey, settings)
    assert arrived.keys() >= {event_id for _, event_id in answers}
    assert arrived.total() == len(arrived) == len(answers) + 1  # the one recorded before the fork, once


def get(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return answer.read().decode()


# --- event loops and notebooks ---


def test_under_uvloop_recording_neither_blocks_the_loop_nor_loses_anything(
    valkey, settings, stored: Stored
) -> None:
    import asyncio

    async def host(ledger: Ledger) -> list[str]:
        async def call(number: int) -> str:
            await asyncio.sleep(0)
            return ledger.record("ExecutionCompleted", execution(number), body={"inputs": {"n": number}})

        return await asyncio.gather(*(call(n) for n in range(500)))

    with Ledger.connect(settings=settings) as ledger:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            ids = runner.run(host(ledger))
        assert ledger.flush(10)
    assert stored(valkey, settings) == once_each(ids)


ASK = """
class Ask(dspy.Signature):
    "Answer."
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()
"""
ASKER = """
class Asker(dspy.Module):
    def __init__(self):
        super().__init__()
        self.ask = {}(Ask)
    def forward(self, question):
        return self.ask(question=question)
"""


def test_a_notebook_registers_classes_of_its_cells_and_runs_them_with_top_level_await(
    valkey, settings
) -> None:
    cells = [
        "import dspy; from dspy.utils import DummyLM",
        "from dspy_ledger.producer import Ledger, ModelManager, ProgramManager",
        "ledger = Ledger.connect()",
        'models = ModelManager({"m": DummyLM([{"answer": "42"}] * 3)})',
        "pm = ProgramManager(model_manager=models, ledger=ledger)",
        ASK,
        ASKER.format("dspy.Predict"),
        'one = pm.register_program(Ask, name="Ask"); two = pm.register_program(Asker, name="Asker")',
        'first, _ = await pm.execute_program("ask", "m", {"question": "?"})',
        'second, info = await pm.execute_program("asker", "m", {"question": "?"})',
        ASKER.format("dspy.ChainOfThought"),
        'three = pm.register_program(Asker, name="Asker")',
        'print("told", first.answer, second.answer, two.version, three.version, ledger.flush(10))',
    ]
    run = f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in {cells!r}:
    shell.run_cell(cell).raise_error()
"""
    ended = subprocess.run(
        [sys.executable, "-c", run],
        check=False,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = next(line for line in ended.stdout.splitlines() if line.startswith("told"))
    assert told == "told 42 42 1.0.0 1.1.0 True"
    types = Counter(e.type.split(".")[2] for e in entries(valkey, settings))
    assert (types["ProgramRegistered"], types["ExecutionCompleted"]) == (3, 2)


# --- the end of a process ---


@pytest.mark.parametrize("redis_is", ["down", "hanging"])
def test_a_process_ends_within_two_seconds_without_redis_and_its_events_come_with_the_next_start(
    own_valkey: Valkey,
    make_settings: MakeSettings,
    eventually: Eventually,
    redis_is: str,
    stored: Stored,
    start: Start,
) -> None:
    settings = make_settings(own_valkey.url)
    host = start(
        settings,
        """
import atexit
atexit.register(lambda: print(time.monotonic() - ended))  # runs after the ledger's own, in reverse
import dspy_ledger.producer.ledger
record(ledger := Ledger.connect(), 20)
os.write(1, b"now\\n")
sys.stdin.readline()
record(ledger, 5)
ended = time.monotonic()
""",
    )
    host.wait_for("now")
    if redis_is == "down":
        own_valkey.stop()
    else:
        own_valkey.freeze()
    written, complaints = host.process.communicate("go on\n")
    assert (host.process.returncode, "Traceback" in complaints) == (0, False)
    assert float(written.split()[-1]) < 3  # close() waits 2 s; the rest is the machine's
    if redis_is == "down":
        own_valkey.start()
    else:
        own_valkey.thaw()
    with Ledger.connect(settings=settings):
        eventually(lambda: len(stored(own_valkey, settings)) == 25)


def test_what_a_terminated_process_had_recorded_comes_with_the_next_start(
    valkey: Valkey, settings: Settings, eventually: Eventually, stored: Stored, start: Start
) -> None:
    """SIGTERM's own handling ends a process like kill -9: no exit handler runs."""
    host = start(settings, "ledger = Ledger.connect()\nwhile True: record(ledger)")
    ids = [host.read() for _ in range(500)]
    host.process.terminate()
    ids += host.end(-signal.SIGTERM)
    with Ledger.connect(settings=settings):
        eventually(lambda: stored(valkey, settings).keys() >= set(ids))
    assert len(ids) >= 500


def test_a_host_that_ends_gracefully_on_sigterm_sends_what_it_recorded(
    valkey, settings, stored: Stored, start: Start
) -> None:
    host = start(
        settings,
        """
def end(*_):
    record(ledger)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
ledger = Ledger.connect()
record(ledger, 100)
os.write(1, b"now\\n")
while True: time.sleep(60)
""",
    )
    host.wait_for("now")
    host.process.terminate()
    assert len(host.end()) == 1
    assert stored(valkey, settings).total() == 101


def test_a_signal_handler_may_record_while_its_thread_records(
    valkey, settings, stored: Stored, start: Start
) -> None:
    """Two thousand times a second: some interrupt record() where it holds its lock."""
    told = start(
        settings,
        """
handled = []
def record_too(*_):
    handled.append(ledger.record("ExecutionCompleted", execution()))
ledger = Ledger.connect()
signal.signal(signal.SIGALRM, record_too)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
recorded, longest = [], 0.0
while len(handled) < 500:
    begun = time.monotonic()
    recorded.append(ledger.record("ExecutionCompleted", execution()))
    longest = max(longest, time.monotonic() - begun)
signal.setitimer(signal.ITIMER_REAL, 0)
assert ledger.flush(20)
print(ledger.stats().dropped, longest < 5, len(recorded) + len(handled), len(set(recorded + handled)))
""",
    ).end()
    dropped, quick, calls, ids = told
    assert (dropped, quick) == ("0", "True")
    assert len(stored(valkey, settings)) == int(calls) == int(ids)


def test_exit_handlers_may_record_and_finalizers_of_the_very_end_are_told_that_it_is_too_late(
    valkey: Valkey, settings: Settings, stored: Stored, start: Start
) -> None:
    host = start(
        settings,
        """
import atexit
class Last:
    def __init__(self, ledger):
        self.ledger = ledger
    def __del__(self):
        record(self.ledger)
ledger = Ledger.connect()
atexit.register(record, ledger, 3)  # handlers run in reverse: before the ledger's own, which closes it
kept, gone = Last(ledger), Last(ledger)
del gone
record(ledger)
""",
    )
    written, complaints = host.process.communicate(timeout=30)
    assert host.process.returncode == 0
    assert complaints.count("the ledger is closed") == len(complaints.splitlines()) == 1
    *ids, _ = written.split()
    assert stored(valkey, settings) == once_each(ids)
    assert len(ids) == 5


def test_threads_that_still_record_when_the_main_thread_ends_are_waited_for(
    valkey, settings, stored: Stored, start: Start
) -> None:
    ids = start(
        settings,
        """
ledger = Ledger.connect()
def work():
    main.join()
    record(ledger, 50)
main = threading.main_thread()
for _ in range(4):
    threading.Thread(target=work).start()
""",
    ).end()
    assert len(ids) == 200
    assert stored(valkey, settings) == once_each(ids)


# --- where Redis is ---


def test_ledgers_of_one_process_keep_to_their_own_redis_and_prefix(
    valkey: Valkey, own_valkey: Valkey, make_settings: MakeSettings, stored: Stored
) -> None:
    places = [
        (valkey, make_settings(valkey.url)),
        (valkey, make_settings(valkey.url, stream_prefix="other")),
        (own_valkey, make_settings(own_valkey.url)),
    ]
    ledgers = [Ledger.connect(settings=settings) for _, settings in places]
    ids: list[list[str]] = [[] for _ in ledgers]
    for _ in range(50):
        for ledger, own in zip(ledgers, ids, strict=True):
            own.extend(record(ledger))
    own_valkey.kill()  # the trouble of one is not the others'
    for ledger, own in zip(ledgers, ids, strict=True):
        own.extend(record(ledger))
    assert all(ledger.flush(10) for ledger in ledgers[:2])
    own_valkey.start()
    assert ledgers[2].flush(10)
    for (server, settings), ledger, own in zip(places, ledgers, ids, strict=True):
        ledger.close()
        assert stored(server, settings) == once_each(own)


@pytest.fixture
def tls() -> Iterator[tuple[ssl.SSLContext, Path]]:
    """A server's TLS for ``localhost`` and the file of the authority that signed it, both thrown away."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with authority.cert_pem.tempfile() as path:
        yield context, Path(path)


def test_rediss_is_encrypted_and_checks_the_servers_certificate(
    valkey: Valkey,
    make_settings: MakeSettings,
    tls: tuple[ssl.SSLContext, Path],
    eventually: Eventually,
    stored: Stored,
) -> None:
    context, authority = tls
    with Proxy(valkey.port, tls=context) as proxy:
        settings = make_settings(f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={authority}")
        with Ledger.connect(settings=settings) as ledger:
            ids = record(ledger, 50)
            assert ledger.flush(10)
        with Ledger.connect(settings=make_settings(f"rediss://localhost:{proxy.port}/0")) as doubting:
            eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in (doubting.stats().last_error or ""))
            record(doubting)
            assert doubting.stats().recorded >= 1
    assert stored(valkey, settings) == once_each(ids)


def test_a_unix_socket_leads_there_too(make_settings: MakeSettings, stored: Stored) -> None:
    with tempfile.TemporaryDirectory() as short:  # such a path has at most 107 bytes
        server = Valkey(Path(short), "--unixsocket", f"{short}/s").start()
        try:
            settings = make_settings(f"unix://{short}/s?db=0")
            with Ledger.connect(settings=settings) as ledger:
                ids = record(ledger, 50)
                assert ledger.flush(10)
            assert stored(server, settings) == once_each(ids)
        finally:
            server.stop()


# --- the write-ahead folder ---


def test_a_write_ahead_folder_deleted_under_a_running_ledger_loses_nothing(
    valkey, settings, eventually, stored: Stored
) -> None:
    with Ledger.connect(settings=settings) as ledger:
        ids = record(ledger, 10)
        assert ledger.flush(10)
        shutil.rmtree(settings.wal_dir)
        ids += record(ledger, 10)
        assert ledger.flush(10)
        assert ledger.stats().dropped == 0
    assert stored(valkey, settings) == once_each(ids)


def test_a_write_ahead_folder_deleted_under_a_running_ledger_is_made_again_with_the_next_file(
    own_valkey: Valkey, make_settings: MakeSettings
) -> None:
    """Everything after the first file once went to memory, until that was full."""
    settings = make_settings(own_valkey.url, wal_max_bytes=1 << 20)
    own_valkey.kill()
    with Ledger.connect(settings=settings) as ledger:
        record(ledger)
        shutil.rmtree(settings.wal_dir)
        record(ledger, 1000)  # several files' worth
        assert (ledger.stats().memory_bytes, ledger.stats().dropped) == (0, 0)
        names = {path.name.removesuffix(".lock") for path in settings.wal_dir.rglob("*.lock")}
        assert names == {ledger.source.rpartition("/")[2]}


SMALL_DISK = """
import resource
def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
if sys.argv[1] == "limited":
    limit_files(100_000)

ledger = Ledger.connect()
body = {"inputs": "x" * 20_000}
took = []
def fill(count):
    for _ in range(count):
        begun = time.perf_counter()
        event_id = ledger.record("ExecutionCompleted", execution(), body=body)
        took.append(time.perf_counter() - begun)
        os.write(1, event_id.encode() + b"\\n")
def goes_to_memory():
    before = ledger.stats().memory_bytes
    fill(1)
    return ledger.stats().memory_bytes > before

fill(400)
assert goes_to_memory()
os.write(1, b"full\\n")
sys.stdin.readline()
limit_files(resource.RLIM_INFINITY)
deadline = time.monotonic() + 20
while goes_to_memory():
    assert time.monotonic() < deadline
    time.sleep(0.05)
assert ledger.flush(20), ledger.stats()
assert ledger.stats().dropped == 0, ledger.stats()
assert sorted(took)[-20] < 0.05, max(took)
"""


@pytest.fixture(params=["a small disk", "limited"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path, Callable[[], None]]]:
    """How a host is to run out of room, the folder where, and what makes room again.

    A disk of a megabyte; where none can be mounted, a limit on the size of the process's files.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = request.param != "limited" and not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", disk)
    yield (
        request.param if mounted else "limited",
        disk,
        lambda: mounted and mount("-o", "remount,size=64m", disk),
    )
    if mounted:
        subprocess.run(["umount", "-l", disk], check=True)


def mount(*how: object) -> int:
    return subprocess.run(["mount", *map(str, how)], check=False, capture_output=True).returncode


def test_a_full_disk_means_memory_until_there_is_room_and_nothing_is_lost(
    own_valkey: Valkey,
    make_settings: MakeSettings,
    small: tuple[str, Path, Callable[[], None]],
    stored: Stored,
    start: Start,
) -> None:
    """Eight megabytes of events with Redis away; then there is room again, and Redis."""
    how, folder, make_room = small
    own_valkey.stop()
    settings = make_settings(own_valkey.url, wal_dir=folder / "wal")
    host = start(settings, SMALL_DISK, how)
    ids = host.wait_for("full")
    assert len(ids) == 401
    make_room()
    own_valkey.start()
    written, complaints = host.process.communicate("go on\n", timeout=60)
    assert host.process.returncode == 0, complaints
    assert complaints.count("can't write the write-ahead file") == 1
    assert complaints.count("can be written again") == 1
    assert stored(own_valkey, settings) == once_each(ids + written.split())


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_write_ahead_file_costs_its_damaged_lines_and_leaves_no_hole(
    valkey: Valkey,
    settings: Settings,
    tmp_path: Path,
    eventually: Eventually,
    seed: int,
    stored: Stored,
    start: Start,
) -> None:
    """Whole pages of zeroes, flipped bytes and a torn end, as a crashed machine may leave them."""
    host = start(settings, "record(Ledger.connect(), 300)\nos.kill(os.getpid(), 9)")
    ids = host.end(-signal.SIGKILL)
    client = valkey.client()
    client.flushall()
    client.close()
    [path] = wal_files(settings)
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(5):
        content[chance.randrange(len(content))] ^= 0xFF
    at = chance.randrange(len(content) - 600)
    content[at : at + 600] = bytes(600)
    path.write_bytes(content[:-7])
    # Five flipped bytes touch at most ten lines (a newline belongs to two), the zeroes four, the end one.
    with Ledger.connect(settings=settings):
        eventually(lambda: len(stored(valkey, settings).keys() & set(ids)) >= 300 - 15)


def test_processes_that_start_at_once_adopt_each_dead_ones_file_once(
    valkey: Valkey, settings: Settings, stored: Stored, start: Start
) -> None:
    dying = """
for _ in range(8):
    if os.fork() == 0:
        record(Ledger.connect(), 25)
        os.kill(os.getpid(), signal.SIGKILL)
for _ in range(8):
    os.wait()
"""
    starting = """
go, all_ready = os.pipe()
for _ in range(6):
    if os.fork() == 0:
        os.read(go, 1)
        ledger = Ledger.connect()
        ledger.record("ExecutionCompleted", execution())  # sent after what was adopted
        assert ledger.flush(10)
        os.write(1, b"%d\\n" % ledger.stats().adopted)
        os.read(go, 1)  # nobody ends before all have looked
        ledger.close()
        os._exit(0)
os.write(all_ready, b"." * 6)
sys.stdin.readline()
os.write(all_ready, b"." * 6)
assert all(os.wait()[1] == 0 for _ in range(6))
"""
    ids = start(settings, dying).end()
    assert len(ids) == 200
    host = start(settings, starting)
    adopted = [int(host.read()) for _ in range(6)]
    host.end(say="go on")
    assert sum(adopted) == 200
    assert stored(valkey, settings).keys() >= set(ids)
    assert set(Counter(e.event_id for e in entries(valkey, settings) if e.event_id in ids).values()) <= {1, 2}
