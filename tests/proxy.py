"""A TCP relay on loopback between a client and a real server, that may misbehave as networks do."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
import threading
from contextlib import suppress

_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Relays to a port; with ``tls``, it speaks TLS to the client and plain TCP to the server.

    While ``resets`` is true, every connection is reset within its next few kilobytes, also in the middle of
    a command or between a command and its answer. After :meth:`silence`, it accepts and nothing answers.
    """

    def __init__(
        self, target: int, *, tls: ssl.SSLContext | None = None, chance: random.Random | None = None
    ) -> None:
        self.resets = False
        self.connections = 0
        self._target = target
        self._tls = tls
        self._random = chance or random.Random()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy")

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def silence(self) -> None:
        """Let nothing through from here on."""
        self._loop.call_soon_threadsafe(self._heard.clear)

    def hear(self) -> None:
        """Let everything through again, what was held back first."""
        self._loop.call_soon_threadsafe(self._heard.set)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard = asyncio.Event()
        self._heard.set()
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._accept, sock=self._listener, ssl=self._tls)
        self._ready.set()
        await self._stopped.wait()
        server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        relay = asyncio.ensure_future(self._relay(reader, writer))
        relay.add_done_callback(lambda _: _reset(writer))  # also when it was stopped before it began

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            return
        ways = [
            asyncio.ensure_future(self._pump(reader, server_writer)),
            asyncio.ensure_future(self._pump(server_reader, writer)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # the proxy is stopped
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            _reset(writer)  # before anything is awaited: there it may be stopped
            server_writer.close()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, server_writer):
                with suppress(OSError):
                    await end.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes one way until its end, or until this connection's luck is out."""
        budget = self._random.randrange(20_000)
        with suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(65536):
                await self._heard.wait()
                if self.resets:
                    data, budget = data[:budget], budget - len(data)
                writer.write(data)
                await writer.drain()
                if budget < 0:
                    return


def _reset(writer: asyncio.StreamWriter) -> None:
    if (client := writer.get_extra_info("socket")) is not None:  # None: it is gone already
        with suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    writer.transport.abort()
