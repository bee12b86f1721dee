"""Real servers and throw-away folders for every suite."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from dspy_ledger.settings import Settings, load_settings
from servers import Valkey

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
for name in [name for name in os.environ if name.startswith("DSPY_LEDGER_")]:
    del os.environ[name]


# What a test takes depends on what else the machine does, and is no failure.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("long", hypothesis.settings.get_profile("suite"), max_examples=4000)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--browser", action="store_true", help="run the tests of the pages in Chromium, too")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without ``--browser``, nothing of Playwright needs to be there."""
    in_browser = collection_path == Path(__file__).parent / "browser"
    return True if in_browser and not config.getoption("browser") else None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Most tests wait for servers: two processes a core. What is named on the command line runs in one."""
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    return 2 * min(os.cpu_count() or 1, 4) if whole else 0


@pytest.fixture(scope="session")
def _shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.stop()


@pytest.fixture
def valkey(_shared_valkey: Valkey) -> Valkey:
    """The session's server, emptied. Leave it running."""
    client = _shared_valkey.client()
    client.flushall()
    client.close()
    return _shared_valkey


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A server of the test's own, started, that it may kill and start again."""
    server = Valkey(tmp_path / "valkey").start()
    yield server
    if server.process is not None:
        server.thaw()
    server.stop()


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings whose every folder lies under the test's own."""

    def make(redis_url: str, **more: object) -> Settings:
        folders = {
            "data_dir": tmp_path / "data",
            "programs_dir": tmp_path / "dspy_programs",
            "wal_dir": tmp_path / "wal",
            "models_file": tmp_path / "models.yaml",
        }
        return load_settings(**{"redis_url": redis_url, "_env_file": None, **folders, **more})

    return make


@pytest.fixture
def settings(valkey: Valkey, make_settings: Callable[..., Settings]) -> Settings:
    """Settings for the session's server."""
    return make_settings(valkey.url)


@pytest.fixture
def open_below(tmp_path: Path) -> Callable[[], list[str]]:
    """Tells which files below the test's folder this process has open."""

    def names() -> list[str]:
        return sorted(
            target.removeprefix(f"{tmp_path}/")
            for link in Path("/proc/self/fd").iterdir()
            if link.is_symlink() and (target := str(link.readlink())).startswith(f"{tmp_path}/")
        )

    return names


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until a condition holds; fail with its last error when it does not in time."""

    def wait(condition: Callable[[], object], *, within: float = 15.0) -> None:
        deadline = time.monotonic() + within
        while True:
            try:
                if condition():
                    return
                problem: object = "still false"
            except AssertionError as error:
                problem = error
            assert time.monotonic() < deadline, f"not within {within} s: {problem}"
            time.sleep(0.02)

    return wait
