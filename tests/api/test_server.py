"""The API as a process of its own: ready line, health, signals, and a taken port."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from starlette.middleware.cors import CORSMiddleware

from dspy_ledger.api import run_api
from dspy_ledger.errors import StartupError

RUN = "from dspy_ledger.api import run_api; from dspy_ledger.settings import load_settings; "
RUN += "run_api(load_settings(_env_file=None))"


@contextmanager
def running(folder, before: str = "", **more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, which does something before it serves, and the URL that it printed."""
    env = {"DSPY_LEDGER_DATA_DIR": str(folder), "DSPY_LEDGER_API_PORT": "0", **more}
    process = subprocess.Popen(
        [sys.executable, "-c", f"{before}\n{RUN}"],
        env=env,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://\S+:\d+", line)
        assert match, line
        yield process, match[0]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_it_prints_its_url_answers_and_reads_the_ledger_made_later(api_settings, request):
    api_settings.data_dir.mkdir()
    with running(api_settings.data_dir) as (_, url), httpx.Client(base_url=url) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503
        ledger = request.getfixturevalue("ledger")
        ledger.register("日本語")
        ledger.fold()
        assert client.get("/health/ready").json() == {"status": "ready", "position": 1}
        assert client.get("/v1/programs/日本語").json()["id"] == "日本語"
        assert client.get("/v1/programs/%E6%97%A5%E6%9C%AC%E8%AA%9E/versions").status_code == 200
        problem = client.get("/v1/programs/..%2f..%2fetc%2fpasswd")
        assert (problem.status_code, problem.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0_also_with_a_client_connected(tmp_path, number):
    with running(tmp_path) as (process, url), httpx.Client(base_url=url) as client:
        client.get("/health/live")
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert (out, err) == ("", "")  # nothing beside the line that was read: no access log, no farewell


def test_an_offer_to_speak_another_protocol_is_no_reason_to_warn(tmp_path):
    """Java's HTTP client makes one with every connection, and each was told in two lines."""
    offer = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    }
    with running(tmp_path) as (process, url), httpx.Client(base_url=url) as client:
        assert client.get("/health/live", headers=offer).status_code == 200
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=10)
    assert err == ""


def test_debugging_logs_more(tmp_path):
    with running(tmp_path, DSPY_LEDGER_LOG_LEVEL="debug") as (process, _):
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=10)
    assert "Started server process" in err


def test_a_taken_port_is_one_line_that_says_what_to_do(make_settings, capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            StartupError, match=f"port {port} on 127.0.0.1 is in use; .*DSPY_LEDGER_API_PORT"
        ) as told:
            run_api(make_settings("redis://127.0.0.1:1/0", api_port=port))
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_an_address_of_elsewhere_is_one_line_that_says_what_to_do(make_settings, host):
    with pytest.raises(StartupError, match="DSPY_LEDGER_API_HOST"):
        run_api(make_settings("redis://127.0.0.1:1/0", api_host=host, api_port=0))


def test_a_layer_that_was_added_to_the_app_stands_before_all_of_it(api):
    """CORS for a dashboard of one's own, say."""
    api.app.add_middleware(CORSMiddleware, allow_origins=["https://own.example"])
    for path in ("/health/live", "/v1/nowhere"):
        answer = api.request(method="GET", url=path, headers={"Origin": "https://own.example"})
        assert answer.headers["access-control-allow-origin"] == "https://own.example"
