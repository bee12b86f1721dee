"""The API as a process: one socket, one line when it is ready, a clean end on a signal."""

from __future__ import annotations

import errno
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import uvicorn

from dspy_ledger.api.app import create_app
from dspy_ledger.api.connection import Connection
from dspy_ledger.errors import StartupError
from dspy_ledger.keyring import require_key
from dspy_ledger.logs import log_to_stderr
from dspy_ledger.settings import Settings

__all__ = ["run_api"]

_GRACE = 5  # seconds that answers under way have when the server ends


def run_api(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then return.

    Made for a process of its own: it sets signal handlers, the garbage collector's thresholds and how soon
    a thread lets others have their turn. Prints one line with the URL once requests are answered.
    ``api_port=0`` takes a free port.

    Raises:
        StartupError: the address can't be listened on, or others could reach it without a key; the message
            says what to do.
    """
    with closing(_listen(settings.api_host, settings.api_port)) as listener:
        require_key(settings)
        _log(settings)
        app = create_app(settings)
        # An answer is thousands of short-lived objects, and looking through all that stay takes 20 ms.
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        # A thread that is busy with a slow question lets the loop go on after 1 ms, not 5.
        sys.setswitchinterval(0.001)
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            log_config=None,
            access_log=settings.log_level == "debug",
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
        )
        host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
        url = f"http://{host}:{listener.getsockname()[1]}"
        _Server(config, url, app.state.streams.following.end).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Uvicorn, but a signal ends it with exit code 0: it would raise the signal again when done."""

    def __init__(self, config: uvicorn.Config, url: str, before_end: Callable[[], None]) -> None:
        super().__init__(config)
        self._url = url
        self._before_end = before_end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(
            f"dspy-ledger API: {self._url}/v1/programs (described at {self._url}/openapi.json)\n"
        )
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._before_end()  # streams: Uvicorn would wait for their end
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may listen to signals
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket: found out here, a taken port is one line instead of uvicorn's log."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise StartupError(
            f"can't listen on {host!r} ({error.strerror}); set DSPY_LEDGER_API_HOST to an address of this"
            " machine, e.g. 127.0.0.1"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise StartupError(_advice(host, port, error)) from None
    return listener


def _advice(host: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"port {port} on {host} is in use; end what listens there, or set DSPY_LEDGER_API_PORT to"
                " another port (0 takes a free one)"
            )
        case errno.EACCES:
            return f"port {port} needs more rights; set DSPY_LEDGER_API_PORT to one above 1023"
        case errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine; set DSPY_LEDGER_API_HOST, e.g. to 127.0.0.1"
        case _:
            return f"can't listen on {host}, port {port}: {error.strerror}"


def _log(settings: Settings) -> None:
    """Log to stderr; uvicorn's own account of starting, requests and ending only when debugging."""
    log_to_stderr(settings)
    level = settings.log_level
    quiet = level if level == "debug" else "error" if level == "error" else "warning"
    logging.getLogger("uvicorn").setLevel(quiet.upper())
