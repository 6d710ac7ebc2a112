"""The commands of ``projections``: each has a module of its own here, and loads what it needs when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import islice
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from projections.cli import apps, cursor, db, explain, ingest, manage, migrate, rebuild, run, simulate, transfer
from projections.cli.shared.argument_checks import seconds
from projections.cli.shared.output import ASKED_WRONGLY, FAILED, LogFormat, LogLevel, echo, say, set_up_output

_WITH_VALUE = ("--log-level", "--log-format", "--wait-for-database")


class Commands(TyperGroup):
    """Says what is wrong with a command line as every other error is said: in the log's format, and safe to show."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - Typer's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002
        **extra: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Run a command; exit code 2 when it was asked wrongly."""
        arguments = common_first(sys.argv[1:] if args is None else args)
        if not standalone_mode:
            return super().main(arguments, prog_name, complete_var, standalone_mode, windows_expand_args, **extra)
        # What is wrong with the options may have to be said before they are read.
        style = _last_of(arguments, "--log-format") or os.environ.get("PROJECTIONS_LOG_FORMAT")
        set_up_output(verbose=False, level=LogLevel.INFO, style=LogFormat("json" if style == "json" else "text"))
        try:
            code = super().main(arguments, prog_name, complete_var, False, windows_expand_args, **extra)  # noqa: FBT003
        except typer.Abort:
            say("projections: aborted", level=LogLevel.ERROR)
            code = FAILED
        except Exception as error:
            if not hasattr(error, "format_message"):  # as every error about a command line has, of whatever class
                raise
            _say_wrong(error)
            code = ASKED_WRONGLY
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="projections",
    cls=Commands,
    help="Store a messaging platform's events in Postgres, and keep query tables up to date.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: it wraps at any width, and reads the same in a pipe.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, wanted: bool) -> None:
    if wanted:
        echo(f"projections {version('projections')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")] = False,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="PROJECTIONS_LOG_LEVEL", help="Minimum log level.")
    ] = LogLevel.INFO,
    log_format: Annotated[
        LogFormat,
        typer.Option(envvar="PROJECTIONS_LOG_FORMAT", help="Format of stderr: lines of text, or of JSON."),
    ] = LogFormat.TEXT,
    wait_for_database: Annotated[
        float | None,
        typer.Option(
            envvar="PROJECTIONS_WAIT_FOR_DATABASE",
            min=0.0,
            callback=seconds,
            metavar="SECONDS",
            help="How long to wait for a database that isn't available yet. Default: 60, but 0 for status, pause, "
            "resume and skip.",
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


def common_first(arguments: Iterable[str]) -> list[str]:
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


def _last_of(arguments: Sequence[str], option: str) -> str | None:
    found = None
    for number, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            found = argument.removeprefix(f"{option}=")
        elif argument == option:
            found = next(iter(arguments[number + 1 :]), None)
    return found


def _say_wrong(error: Any) -> None:  # noqa: ANN401 - of a private class of Typer's
    context, message = error.ctx, error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help())
        return
    say(f"projections: {message}", level=LogLevel.ERROR)
    if context is not None:
        say(f"{context.get_usage()} (see {context.command_path} --help)", level=LogLevel.ERROR)
