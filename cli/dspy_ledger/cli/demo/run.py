"""The demo from start to end: the whole system, real programs on an offline model, and what came of it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import yaml
from rich.console import Console

from dspy_ledger.cli.broker import free_port, port_is_free
from dspy_ledger.cli.demo.summary import Summary, show_summary
from dspy_ledger.cli.stack import alone, environment, stack, wait_for_broker
from dspy_ledger.cli.status import collect
from dspy_ledger.cli.supervisor import Supervisor, on_termination
from dspy_ledger.errors import InvalidInput, LedgerError, StartupError, StoreError
from dspy_ledger.files import make_folder, write_atomically
from dspy_ledger.settings import Settings, load_settings

__all__ = ["run_demo"]

_SETTLE = 60.0  # seconds the views may take to catch up at the end


class _Interrupted(Exception):
    """Somebody wants the demo to end."""


def run_demo(directory: Path, *, exit_when_done: bool, model: str | None, console: Console) -> int:
    """Run the demo; the exit code.

    Args:
        directory: where to work; kept.
        exit_when_done: end when done, else serve on until Ctrl-C.
        model: a real model such as ``openai/gpt-4o-mini``; None uses the offline ones.

    Raises:
        StartupError: something it needs can't be started.
        InvalidInput: the model's key is not set.
    """
    _check_key(model)
    settings = _settings(directory)
    ended = threading.Event()
    on_termination(ended.set)
    logs = settings.data_dir / "logs"
    make_folder(logs)
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(alone(settings.data_dir))
        models = cleanup.enter_context(_models(settings.models_file, model))
        children = stack(settings, embedded_broker=True, log=_to_files(cleanup, logs))
        supervisor = Supervisor(children, lambda line: console.print(f"[yellow]![/yellow] {line}"))
        cleanup.callback(supervisor.stop)
        console.print(f"[bold]dspy-ledger demo[/bold] in {directory}/ on {models}")
        supervisor.start()
        supervisor.watch_in_background()
        wait_for_broker(settings.redis_url)
        try:
            summary = _act(settings, console, supervisor, ended, small=model is not None)
        except _Interrupted:
            console.print("interrupted")
            return 130
        complete = show_summary(summary, settings, directory, console, serving=not exit_when_done)
        if not complete:
            return 1
        if not exit_when_done:
            console.print("\nServing on; Ctrl-C ends it.")
            while not ended.wait(0.2) and not supervisor.failed:
                pass
        if supervisor.failed:
            raise StartupError(supervisor.failed)
    return 0


def _act(
    settings: Settings, console: Console, supervisor: Supervisor, ended: threading.Event, *, small: bool
) -> Summary:
    def check() -> None:
        if ended.is_set():
            raise _Interrupted
        if supervisor.failed:
            raise StartupError(supervisor.failed)

    # DSPy takes a second to import, and its progress bars are not the demo's.
    os.environ.update({name: value for name, value in _quiet().items() if name not in os.environ})
    from dspy_ledger.cli.demo.scenario import Scenario  # noqa: PLC0415

    with Scenario(settings, environment(settings) | _quiet(), console, check, small=small) as scenario:
        summary = scenario.play()
    _wait_for_views(settings, console, check)
    return summary


def _quiet() -> dict[str, str]:
    return {"TQDM_DISABLE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def _wait_for_views(settings: Settings, console: Console, check: Any) -> None:
    deadline = monotonic() + _SETTLE
    with console.status("waiting for the views"):
        while monotonic() < deadline:
            check()
            with contextlib.suppress(StoreError):  # not there yet
                status = collect(settings)
                positions = status["projections"].values()
                if status["broker"]["up"] and all(p == status["position"] for p in positions):
                    return
            sleep(0.05)
    raise LedgerError(f"the views did not catch up in {_SETTLE:.0f} s; see {settings.data_dir / 'logs'}")


def _settings(directory: Path) -> Settings:
    """As a user's project would be laid out, in the demo's own folder."""
    data_dir = directory / ".dspy-ledger"
    try:
        make_folder(data_dir)
    except OSError as error:
        raise StartupError(f"can't make {data_dir}: {error.strerror}; choose another --dir") from None
    given = load_settings()
    api_port = given.api_port
    if "api_port" not in given.model_fields_set and not port_is_free(given.api_host, api_port):
        api_port = free_port()  # nobody asked for this very port
    own = {
        "redis_url": f"redis://127.0.0.1:{_broker_port(data_dir)}/0",
        "data_dir": data_dir.absolute(),
        "programs_dir": (directory / "dspy_programs").absolute(),
        "wal_dir": (data_dir / "wal").absolute(),
        "models_file": (directory / "models.yaml").absolute(),
        "database_url": None,
        "api_port": api_port,
        "environment": given.environment or "demo",
        "service": given.service or "demo",
    }
    return load_settings(**{**given.model_dump(), **own})


def _broker_port(data_dir: Path) -> int:
    """The port of the last run here where it is free: what that run left unsent is meant for it."""
    remembered = data_dir / "broker-port"
    with contextlib.suppress(FileNotFoundError, ValueError):
        port = int(remembered.read_text("utf-8"))
        if port_is_free("127.0.0.1", port):
            return port
    port = free_port()
    write_atomically(remembered, f"{port}\n".encode())
    return port


@contextlib.contextmanager
def _models(models_file: Path, model: str | None) -> Iterator[str]:
    """Write models.yaml and serve what it names; what to call that."""
    if model is not None:
        _write_models(
            models_file, {model.partition("/")[2] or model: {"model_name": model, "max_tokens": 3000}}
        )
        yield f"the real {model}"
        return
    from dspy_ledger.cli.demo.model_server import ModelServer  # noqa: PLC0415  only when it is used

    with ModelServer() as server:
        entry = {"max_tokens": 3000, "additional_params": {"api_base": server.url, "api_key": "offline"}}
        entry["additional_params"]["cache"] = False  # type: ignore[index]  # every execution is to be a real call
        names = ("gpt-4o-mini", "gpt-4.1-nano")
        _write_models(models_file, {name: {"model_name": f"openai/{name}", **entry} for name in names})
        yield "offline stand-ins for gpt-4o-mini and gpt-4.1-nano"


def _write_models(path: Path, models: dict[str, Any]) -> None:
    write_atomically(path, yaml.dump({"models": models}, sort_keys=False, Dumper=_PlainDumper).encode())


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  PyYAML's hook
        return True


def _check_key(model: str | None) -> None:
    provider, slash, _ = (model or "").partition("/")
    if model is None:
        return
    if not slash:
        raise InvalidInput(f"--model {model} has no provider; write it like openai/gpt-4o-mini")
    name = f"{provider.upper()}_API_KEY"
    if not os.environ.get(name):
        raise InvalidInput(f"--model {model} needs {name} in the environment")


def _to_files(cleanup: contextlib.ExitStack, folder: Path) -> Any:
    files: dict[str, Any] = {}
    lock = threading.Lock()

    def log(name: str, line: str) -> None:
        with lock:
            if name not in files:
                files[name] = cleanup.enter_context((folder / f"{name}.log").open("a", encoding="utf-8"))
            if not files[name].closed:
                files[name].write(line + "\n")
                files[name].flush()

    return log
