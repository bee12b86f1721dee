"""The whole system as child processes of one command: broker, projector, API."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EACCES
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlsplit

import redis

from dspy_ledger.cli.broker import broker_command, port_is_free
from dspy_ledger.cli.supervisor import Child
from dspy_ledger.errors import StartupError
from dspy_ledger.files import make_folder
from dspy_ledger.keyring import require_key
from dspy_ledger.settings import Settings
from dspy_ledger.store import SqliteEventStore

__all__ = ["alone", "environment", "stack", "wait_for_broker"]

_MODULE = "dspy_ledger.cli.main"
_READY = 15.0  # seconds a broker may take to load its file


def environment(settings: Settings) -> dict[str, str]:
    """The settings as the environment variables that give them to a child process."""
    return {
        f"DSPY_LEDGER_{name.upper()}": json.dumps(value) if isinstance(value, list) else str(value)
        for name, value in settings.model_dump(mode="json").items()
        if value is not None
    }


@contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """Be the only one who runs the system on a data dir: two brokers on one file would mix two streams.

    Raises:
        StartupError: another process does, or the data dir can't be written.
    """
    try:
        make_folder(data_dir)
        descriptor = os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _not_ours("DATA_DIR", data_dir, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            raise StartupError(
                f"`dspy-ledger up` or `demo` (process {holder}) runs on {data_dir} already; stop it, or"
                " choose another folder"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def stack(settings: Settings, *, embedded_broker: bool, log: Callable[[str, str], None]) -> list[Child]:
    """The children to supervise, in the order of their start.

    Raises:
        StartupError: a port is taken, no broker is to be found, or others could reach the API without a key.
    """
    if settings.api_port and not port_is_free(settings.api_host, settings.api_port):
        raise StartupError(
            f"port {settings.api_port} on {settings.api_host} is in use; set DSPY_LEDGER_API_PORT to another"
        )
    _check_folders(settings)
    require_key(settings)
    env = environment(settings)
    children = []
    if embedded_broker:
        port = urlsplit(settings.redis_url).port or 6379
        if not port_is_free("127.0.0.1", port):
            raise StartupError(
                f"port {port} is in use; if a Redis is there, set DSPY_LEDGER_REDIS_URL={settings.redis_url}"
                " to use it"
            )
        children.append(Child("broker", broker_command(port, settings.data_dir / "broker")))
    children.append(
        Child(
            "projector",
            [sys.executable, "-m", _MODULE, "projector"],
            env,
            log,
            before=(lambda: wait_for_broker(settings.redis_url)) if embedded_broker else None,
        )
    )
    children.append(Child("api", [sys.executable, "-m", _MODULE, "api"], env, log))
    return children


def _check_folders(settings: Settings) -> None:
    """Say at once what would make the projector fail at every start."""
    for name, folder in (("DATA_DIR", settings.data_dir), ("PROGRAMS_DIR", settings.programs_dir)):
        try:
            make_folder(folder)
            if not os.access(folder, os.W_OK):
                raise PermissionError(EACCES, os.strerror(EACCES))
        except OSError as error:
            raise _not_ours(name, folder, error) from None
    if settings.store_path.exists():
        SqliteEventStore(settings.store_path, readonly=True).close()


def _not_ours(name: str, folder: Path, error: OSError) -> StartupError:
    why = "it is a file" if isinstance(error, FileExistsError) else error.strerror
    return StartupError(f"can't write into {folder} ({why}); set DSPY_LEDGER_{name} to a folder of yours")


def wait_for_broker(url: str, timeout: float = _READY) -> None:
    """Return once the broker answers, or after ``timeout`` seconds: who needs it then says so itself."""
    client = redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)
    deadline = monotonic() + timeout
    while monotonic() < deadline:
        try:
            client.ping()
            break
        except redis.RedisError:
            sleep(0.02)
    client.close()
