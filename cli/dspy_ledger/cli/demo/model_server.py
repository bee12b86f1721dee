"""Serve the demo's two models on loopback as an OpenAI-compatible chat-completions API.

`POST /v1/chat/completions` (also streamed) and `GET /v1/models`, over real HTTP, so that clients count
tokens and costs the way they would with OpenAI. The same request gets the same body from every instance. Run
it alone with `python -m dspy_ledger.cli.demo.model_server --port 8399`.
"""

import argparse
import json
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from dspy_ledger.cli.demo.chat_completions import CREATED, Completion, RefusedError
from dspy_ledger.cli.demo.model_answers import PROFILES

__all__ = ["ModelServer", "main"]

_LARGEST_REQUEST = 8 * 1024 * 1024  # bytes


class ModelServer:
    """The model server in a daemon thread of this process, as a context manager; `port=0` takes a free one.

    Raises `OSError` when the port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="demo-model-server", daemon=True
        )

    @property
    def url(self) -> str:
        """The base address to give to a client as `api_base`; it ends in `/v1`."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """A threading server that can end the connections which clients keep open."""

    daemon_threads = True
    request_queue_size = 128  # the demo's replicas all connect at once

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._lock:
            self._open.add(connection)
        return connection, address

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about a client that went away; tell the rest as the base class does."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # the client was quicker
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # clients keep their connections
    disable_nagle_algorithm = True  # else a small answer may wait 40 ms for an acknowledgement
    wbufsize = -1  # headers and body leave in one packet
    server_version = "dspy-ledger-demo"

    def do_GET(self) -> None:
        self._answer({"/v1/models": self._models})

    def do_POST(self) -> None:
        self._answer({"/v1/chat/completions": self._complete})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, the base class's name for it
        """Keep quiet: the demo's terminal is for the demo."""

    def _answer(self, routes: Mapping[str, Any]) -> None:
        try:
            body = self._body()
            routes.get(self.path.partition("?")[0], self._unknown)(body)
        except RefusedError as refused:
            self._send(refused.body, refused.status)

    def _unknown(self, _body: bytes) -> None:
        raise RefusedError(f"Unknown request: {self.command} {self.path}", status=HTTPStatus.NOT_FOUND)

    def _body(self) -> bytes:
        """Read the whole body, also for requests that will be refused: the connection is used again."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > _LARGEST_REQUEST or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise RefusedError(f"A request needs a Content-Length of at most {_LARGEST_REQUEST} bytes.")
        return self.rfile.read(int(length))

    def _models(self, _body: bytes) -> None:
        data = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "dspy-ledger-demo"}
            for name in PROFILES
        ]
        self._send({"object": "list", "data": data})

    def _complete(self, body: bytes) -> None:
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            raise RefusedError("We could not parse the JSON body of your request.") from None
        if not isinstance(request, dict):
            raise RefusedError("The body of a request must be a JSON object.")
        completion = Completion.of(request)
        if request.get("stream"):
            options = request.get("stream_options")
            self._stream(
                completion, with_usage=isinstance(options, dict) and bool(options.get("include_usage"))
            )
        else:
            time.sleep(completion.delay)
            self._send(completion.whole())

    def _stream(self, completion: Completion, *, with_usage: bool) -> None:
        """Send server-sent events in HTTP/1.1 chunks: half of the delay first, the rest before the last."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(completion.delay / 2)
        for chunk in completion.chunks(with_usage=with_usage):
            self._send_event(json.dumps(chunk))
        time.sleep(completion.delay / 2)
        self._send_event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _send_event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
        self.wfile.flush()

    def _send(self, body: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)
        self.wfile.flush()


def main() -> int:
    """Serve until interrupted; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Serve the demo's offline models as an OpenAI-compatible API."
    )
    parser.add_argument("--port", type=int, default=8399, help="port on 127.0.0.1; 0 takes a free one")
    port = parser.parse_args().port
    try:
        server = ModelServer(port)
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"Port {port} cannot be used ({error}); choose another one with --port.\n")
        return 1
    with server:
        sys.stdout.write(f"{', '.join(PROFILES)} at {server.url}\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
