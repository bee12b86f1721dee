"""The ``dspy-ledger`` command."""

from __future__ import annotations

import gc
import logging
import sys
import threading
from importlib.metadata import version as distribution_version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import orjson
import typer
from rich.console import Console
from rich.markup import escape

from dspy_ledger.cli.interrupting import Interrupted, interruptible, quietly_ended
from dspy_ledger.errors import InvalidInput, LedgerError, StartupError
from dspy_ledger.logs import log_to_stderr
from dspy_ledger.settings import Settings, load_settings

__all__ = ["app", "main"]

app = typer.Typer(
    help="dspy-ledger: exact program versions, executions and evaluations of DSPy programs in one ledger.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_console = Console(highlight=False, soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        _console.print(distribution_version("dspy-ledger"))
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where to work; kept, so that you can look at it.")
    ] = Path("dspy-ledger-demo"),
    exit_when_done: Annotated[
        bool, typer.Option("--exit", help="End when done instead of serving on.")
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="Use a real model, e.g. openai/gpt-4o-mini (needs its key).")
    ] = None,
) -> None:
    """See it all at work: a real DSPy pipeline on an offline model, recorded, versioned, evaluated.

    Example: dspy-ledger demo --exit
    """
    for needed in ("dspy", "faststream", "fastapi"):
        if find_spec(needed) is None:
            raise StartupError(f"the demo needs {needed}; install 'dspy-ledger[all]'")
    run = _extra("dspy_ledger.cli.demo.run", "all").run_demo
    raise typer.Exit(run(directory, exit_when_done=exit_when_done, model=model, console=_console))


_Insecure = Annotated[
    bool, typer.Option("--insecure", help="Let the API be open beyond this machine until a key is created.")
]


@app.command()
def up(insecure: _Insecure = False) -> None:
    """Run everything: a broker (unless DSPY_LEDGER_REDIS_URL names one), the projector and the API.

    Example: DSPY_LEDGER_API_PORT=9000 dspy-ledger up
    """
    from dspy_ledger.cli.stack import alone, stack  # noqa: PLC0415  the other commands start faster without
    from dspy_ledger.cli.supervisor import Supervisor, on_termination  # noqa: PLC0415

    settings = _api_settings(insecure=insecure)
    embedded = not settings.redis_url_given
    with alone(settings.data_dir):
        relay, say = (_relay_json, _say_json) if settings.log_format == "json" else (_relay, _say)
        supervisor = Supervisor(stack(settings, embedded_broker=embedded, log=relay), say)
        ended = threading.Event()
        on_termination(ended.set)
        supervisor.start()
        try:
            supervisor.watch_in_background()
            say(f"broker at {settings.redis_address}" + (" (our own)" if embedded else ""))
            while not ended.wait(0.1) and not supervisor.failed:
                pass
        finally:
            supervisor.stop()
    if supervisor.failed:
        raise StartupError(supervisor.failed)


@app.command()
def projector() -> None:
    """Read the stream into the event store and keep the views: SQL, JSON directory, registry.

    Example: DSPY_LEDGER_DATA_DIR=/var/lib/dspy-ledger dspy-ledger projector
    """
    settings = _settings()
    _extra("dspy_ledger.projector", "projector").run_worker(settings)


@app.command()
def api(insecure: _Insecure = False) -> None:
    """Serve the REST API.

    Example: DSPY_LEDGER_API_PORT=9000 dspy-ledger api
    """
    settings = _api_settings(insecure=insecure)
    _extra("dspy_ledger.api", "api").run_api(settings)


@app.command()
def replay(
    projection: Annotated[str, typer.Argument(help="sql, directory, registry, or all of them.")] = "all",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, not where a replay that was killed left off.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete files of the directory that the ledger did not make.")
    ] = False,
) -> None:
    """Build a view anew from the first event, beside the one in force, and put it in its place.

    Everything goes on meanwhile: ingest, the API and the old view. Example: dspy-ledger replay sql
    """
    settings = _settings()
    _collect_less()
    command = _extra("dspy_ledger.cli.replay", "projector")
    again = " without --fresh" if fresh else ""
    with interruptible(f"run it again{again} to go on; the views in force are whole"):
        command.run_replay(settings, projection, fresh=fresh, prune=prune, console=_console)


@app.command()
def export(
    file: Annotated[
        Path, typer.Argument(help="Where to; gzip when it ends in .gz, - is stdout.", allow_dash=True)
    ],
    until: Annotated[
        str | None,
        typer.Option(
            "--until", help="A position, a time or a date (its start, UTC): nothing that came after."
        ),
    ] = None,
) -> None:
    """Write the ledger as JSON Lines: everything that can't be derived, to the byte. Nothing stops for it.

    Example: dspy-ledger export ledger.jsonl.gz --until 2026-11-22T00:00:00Z
    """
    settings = _settings()
    command = _extra("dspy_ledger.cli.archive", "projector")
    with interruptible("the export is not complete; run it again"):
        _told(command.export_ledger(settings, file, until))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `export` wrote; - is stdin.", allow_dash=True)],
) -> None:
    """Take in an export, into a new ledger or the one that it came from, and bring the views up to it.

    May be repeated and goes on where it ended; no projector may run. Example: dspy-ledger import
    ledger.jsonl.gz
    """
    settings = _settings()
    command = _extra("dspy_ledger.cli.archive", "projector")
    with interruptible("run it again to go on"):
        _told(command.import_ledger(settings, file))


@app.command()
def forget(
    execution: Annotated[
        str | None, typer.Option("--execution", help="Of the execution with this id, and of its feedback.")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="Of executions for this user id, and of its feedback.")
    ] = None,
    program: Annotated[
        str | None,
        typer.Option(
            "--program", help="Of this program id: recorded state (demos, module configuration) too."
        ),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Stored so long ago: 12h, 30d, 8w.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be erased.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase bodies for good: inputs, outputs, nested calls, rows of evaluations; with --program, its demos.

    Where several options are given, all must hold. Ids, versions, times, metadata, error messages and
    comments are facts of the ledger, and stay; so do a program's signature (fields, instructions) and source
    code. Example: dspy-ledger forget --user u-4711 --older-than 30d
    """
    settings = _settings()
    command = _extra("dspy_ledger.cli.forget", "projector")
    with interruptible("nothing was erased"):
        command.forget_bodies(
            settings,
            {"execution": execution, "user": user, "program": program},
            older_than,
            dry_run=dry_run,
            agreed=yes,
            ask=typer.confirm,
            say=_console.print,
        )


@app.command()
def verify(as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """Fold the whole ledger anew and compare: rows, files, registry. Exit code 1 when anything differs.

    The live data is only read, also while the projector runs. Example: dspy-ledger verify --json
    """
    command = _extra("dspy_ledger.cli.verify", "projector")
    _collect_less()
    settings = _settings()
    with interruptible("nothing was changed; run it again for an answer"):
        report = command.run_verify(settings)
    if as_json:
        _print_json(command.as_json(report))
    else:
        command.show(report, _console)
    raise typer.Exit(0 if report.clean else 1)


deadletters = typer.Typer(
    help="Entries of the stream that are no events, and events that a projection could not fold.",
    no_args_is_help=True,
)
app.add_typer(deadletters, name="deadletters")

_Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]…", help="As `list` shows them.")]
_All = Annotated[bool, typer.Option("--all", help="All there are.")]


@deadletters.command("list")
def list_dead_letters(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most, the newest first.")] = 100,
    before: Annotated[int | None, typer.Option(max=2**63 - 1, help="Only those with an id below.")] = None,
) -> None:
    """Show what can't be folded: id, time, source, reason.

    Example: dspy-ledger deadletters list --limit 20
    """
    command = _extra("dspy_ledger.cli.deadletters", "projector")
    found = command.collect(_settings(), limit=limit, before=before)
    if as_json:
        _print_json(found)
    else:
        command.show(found, _console)


@deadletters.command("show")
def show_dead_letter(name: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")]) -> None:
    """Print an entry as it came.

    Example: dspy-ledger deadletters show 42
    """
    typer.echo(_extra("dspy_ledger.cli.deadletters", "projector").raw(_settings(), name))


@deadletters.command("retry")
def retry_dead_letters(ids: _Ids = None, every: _All = False) -> None:
    """Read them again: a newer release may know their type. A left-out event has its projection replayed.

    Example: dspy-ledger deadletters retry 42 sql:1234
    """
    command = _extra("dspy_ledger.cli.deadletters", "projector")
    command.retry(_settings(), ids or [], every=every, console=_console)


@deadletters.command("drop")
def drop_dead_letters(
    ids: _Ids = None,
    every: _All = False,
    agreed: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give dead letters up for good; their places in the producers' accounts stay.

    Example: dspy-ledger deadletters drop 42 --yes
    """
    command = _extra("dspy_ledger.cli.deadletters", "projector")
    command.drop(_settings(), ids or [], every=every, agreed=agreed, ask=typer.confirm, console=_console)


keys = typer.Typer(
    help="Keys of the API: once there is one, it answers nobody without.", no_args_is_help=True
)
app.add_typer(keys, name="keys")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option("--name", help="Whose it is, for you to know it again.")] = "",
    scope: Annotated[
        Literal["read", "admin"], typer.Option("--scope", help="admin may also retry and drop.")
    ] = "read",
    expires: Annotated[
        str | None, typer.Option("--expires", help="When it ends: 12h, 90d, 8w, or a date as 2027-01-31.")
    ] = None,
) -> None:
    """Create a key and print it, this once: only a hash is stored.

    Example: dspy-ledger keys create --name grafana --expires 90d
    """
    from dspy_ledger.cli.keys import create  # noqa: PLC0415  the other commands start faster without

    text, key = create(_settings(), name, scope, expires)
    typer.echo(text)
    until = f" until {key.expires_at}" if key.expires_at else ""
    _told(f"key {key.id} is good for {key.scope}{until}; keep it, it is not shown again")


@keys.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """Show all keys by their ids, the oldest first; not the keys themselves.

    Example: dspy-ledger keys list
    """
    from dspy_ledger.cli.keys import collect, show  # noqa: PLC0415

    found = collect(_settings())
    if as_json:
        _print_json(found)
    else:
        show(found, _console)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")]) -> None:
    """End a key for good, at once, and the sessions in browsers that it began.

    Example: dspy-ledger keys revoke 4k0w9xq2
    """
    from dspy_ledger.cli.keys import revoke  # noqa: PLC0415

    key = revoke(_settings(), key_id)
    _console.print(f"key {key.id} is revoked since {key.revoked_at}")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """Tell how far everything is and what is wrong. Exit code 1 when something is.

    Example: dspy-ledger status --json
    """
    from dspy_ledger.cli.status import collect  # noqa: PLC0415  the other commands start faster without
    from dspy_ledger.cli.status_text import show  # noqa: PLC0415

    found = collect(_settings())
    if as_json:
        _print_json(found)
    else:
        show(found, _console)
    raise typer.Exit(1 if found["problems"] else 0)


@app.command()
def tail(
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="Only this type, e.g. ExecutionCompleted; may be repeated."),
    ] = None,
    program: Annotated[str | None, typer.Option("--program", help="Only this program id.")] = None,
    last: Annotated[
        int, typer.Option("-n", "--last", min=0, max=10_000, help="Begin with the last so many.")
    ] = 10,
    after: Annotated[
        int | None, typer.Option("--after", min=0, max=2**63 - 1, help="Begin after this position instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The events themselves, one JSON a line.")] = False,
) -> None:
    """Follow the events of the store on this machine as they come, until Ctrl-C. The API need not run.

    Example: dspy-ledger tail --type ExecutionCompleted --program text_completion -n 20
    """
    from dspy_ledger.cli.tail import follow, full_types, print_events  # noqa: PLC0415

    settings = _settings()
    found = follow(settings, types=full_types(types or ()), program_id=program, after=after, last=last)
    with quietly_ended():
        print_events(found, settings, _console, as_json=as_json)


def _api_settings(*, insecure: bool) -> Settings:
    return _settings(**({"api_insecure": True} if insecure else {}))


def _settings(**given: object) -> Settings:
    settings = load_settings(**given)
    log_to_stderr(settings)
    return settings


def _extra(module: str, extra: str):  # type: ignore[no-untyped-def]  # noqa: ANN202  a module
    """A part that not every installation has."""
    from importlib import import_module  # noqa: PLC0415

    try:
        return import_module(module)
    except ImportError as error:
        if error.name and error.name.startswith("dspy_ledger"):
            raise
        raise StartupError(f"this needs {error.name}; install 'dspy-ledger[{extra}]'") from None


def _told(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")  # stdout may be the file


def _collect_less() -> None:
    """For folding in bulk: each batch is thousands of short-lived objects, none of them in a cycle."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _print_json(content: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _relay(name: str, line: str) -> None:
    _console.print(f"[dim]{name:>9}[/dim] {escape(line)}", soft_wrap=True)


def _say(line: str) -> None:
    _console.print(f"[bold]{'up':>9}[/bold] {escape(line)}", soft_wrap=True)


def _relay_json(name: str, line: str) -> None:
    if line.startswith("{"):  # it logs that way itself
        typer.echo(line, err=True)
    else:
        logging.getLogger(f"dspy_ledger.{name}").info("%s", line)


def _say_json(line: str) -> None:
    _relay_json("up", line)


def main() -> None:
    """Run the command line; a mistake of the user is one line on stderr, never a traceback."""
    try:
        app()
    except InvalidInput as error:
        _fail(error, 2)
    except LedgerError as error:
        _fail(error, 1)
    except Interrupted as interrupted:
        sys.stderr.write(f"{interrupted}\n")
        raise SystemExit(130) from None


def _fail(error: LedgerError, code: int) -> None:
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
