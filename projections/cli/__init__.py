"""The command ``projections``: each command has a module of its own here, and loads what it needs when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from itertools import islice
from typing import Annotated

import typer

from projections.cli import apps, cursor, db, explain, ingest, manage, migrate, rebuild, run, simulate, transfer
from projections.cli.asked import seconds
from projections.cli.output import LogFormat, LogLevel, set_up_output

_WITH_VALUE = ("--log-level", "--log-format", "--wait-for-database")

app = typer.Typer(
    name="projections",
    help="Send-request events from gRPC into Postgres: never lost, never twice, as they came.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"projections {version('projections')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")] = False,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="PROJECTIONS_LOG_LEVEL", help="The least important that is told on stderr.")
    ] = LogLevel.INFO,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="PROJECTIONS_LOG_FORMAT", help="For people, or for machines.")
    ] = LogFormat.TEXT,
    wait_for_database: Annotated[
        float | None,
        typer.Option(
            envvar="PROJECTIONS_WAIT_FOR_DATABASE",
            min=0.0,
            callback=seconds,
            metavar="SECONDS",
            help="Wait so long for a database that isn't available yet. Default: 60, but 0 for status, pause, resume "
            "and skip.",
        ),
    ] = None,
) -> None:
    """Options of every command, before its name or behind it."""
    set_up_output(verbose=verbose, level=log_level, style=log_format, wait_for_database=wait_for_database)


app.command()(migrate.migrate)
app.command()(run.run)
app.command()(ingest.ingest)
app.command()(manage.status)
app.command("list")(manage.list_)
app.command()(manage.pause)
app.command()(manage.resume)
app.command()(manage.wait)
app.command()(manage.skip)
app.command()(rebuild.rebuild)
app.command()(rebuild.verify)
app.command()(explain.explain)
app.command()(transfer.redecode)
app.add_typer(transfer.exporting, name="export")
app.add_typer(transfer.importing, name="import")
app.command()(simulate.simulate)
app.add_typer(cursor.app, name="cursor")
app.add_typer(apps.app, name="apps")
app.add_typer(db.app, name="db")


def main() -> None:
    """Run the command; exit code 0 (done), 1 (it failed), 2 (asked wrongly), or 130 and 143 (SIGINT, SIGTERM)."""
    # Its lines would come in between, in a form of its own; what fails is said by those who called.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app(_common_first(sys.argv[1:]))


def _common_first(arguments: Sequence[str]) -> list[str]:
    """Move the options of every command to where they are read, which is before its name."""
    common: list[str] = []
    rest: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--" or rest == ["db", "psql"]:  # the rest is others'
            rest += [argument, *left]
        elif argument in ("-v", "--verbose") or argument.startswith(tuple(f"{name}=" for name in _WITH_VALUE)):
            common.append(argument)
        elif argument in _WITH_VALUE:
            common += [argument, *islice(left, 1)]
        else:
            rest.append(argument)
    return common + rest
