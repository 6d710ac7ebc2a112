"""The top of the command line: the options of every command, help, and usage errors. Commands are loaded when needed.

Every command has a module of its own here; :mod:`projections.cli.lazy_commands` lists them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from eventstore.errors import UsageError
from projections.cli.lazy_commands import SUMMARIES, LazyCommands
from projections.cli.shared.argument_checks import seconds
from projections.cli.shared.completion import WORDS_VARIABLE, print_candidates
from projections.cli.shared.completion_scripts import INSTALL, SHOW, completion_arguments, run_completion_option
from projections.cli.shared.output import (
    FAILED,
    USAGE_ERROR,
    LogFormat,
    LogLevel,
    print_data,
    print_error,
    print_message,
    remember_output_options,
    stderr_gets_json,
)
from projections.stderr_style import VALUE_OPTIONS, VARIABLE, writes_json_to_stderr

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter


class CommandGroup(TyperGroup):
    """The group of all commands, which are loaded lazily. Reports usage errors like every other error."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - Typer's settings of a group
        super().__init__(**settings)
        # Nobody adds commands to it, and its keys are known without loading anything.
        self.commands = cast("dict[str, Command]", LazyCommands())

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002 - Typer's signature
        """Return the names of all commands, without loading them."""
        return list(SUMMARIES)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002 - Typer's signature
        """Write the list of commands, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))

    def invoke(self, ctx: Context) -> Any:  # noqa: ANN401 - what a command returns
        """Run the command that was asked for; its module and what that loads may already log."""
        options = dict(ctx.params)
        for name in ("_", "log_format", "install_completion", "show_completion"):  # main has read them
            options.pop(name, None)
        _configure_logging(**options)
        return super().invoke(ctx)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - Typer's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002 - Typer's signature
        **extra: Any,  # noqa: ANN401 - Typer's signature
    ) -> Any:  # noqa: ANN401 - Typer's signature
        """Run a command; exit code 2 after a usage error."""
        arguments = common_options_first(sys.argv[1:] if args is None else args)
        # The options themselves may be wrong, so the format of errors can't wait until they are parsed.
        in_json = writes_json_to_stderr(arguments, os.environ, is_terminal=sys.stderr.isatty())
        remember_output_options(in_json=in_json)
        if WORDS_VARIABLE in os.environ:
            print_candidates(self)
            sys.exit(0)
        if not standalone_mode:
            return super().main(arguments, prog_name, complete_var, standalone_mode, windows_expand_args, **extra)
        try:
            if option := completion_arguments(arguments):
                run_completion_option(option)
                sys.exit(0)
            code = super().main(arguments, prog_name, complete_var, False, windows_expand_args, **extra)  # noqa: FBT003 - Typer's signature
        except typer.Abort:
            print_message("projections: aborted", level=LogLevel.ERROR)
            code = FAILED
        except UsageError as error:
            print_error(error)
            code = USAGE_ERROR
        except Exception as error:  # noqa: BLE001 - Python would print its values, phone numbers and tokens among them
            if hasattr(error, "format_message"):  # as all of Typer's errors about a command line have
                _print_usage_error(error)
                code = USAGE_ERROR
            else:
                print_error(error)
                code = FAILED
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="projections",
    cls=CommandGroup,
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
        print_data(f"projections {version('projections-engine')}")
        raise typer.Exit


@app.callback()
def common_options(
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
        typer.Option(
            envvar=VARIABLE,
            help="Format of stderr. auto: run, ingest, simulate and dashboard write text on a terminal and JSON "
            "elsewhere, the other commands text.",
        ),
    ] = LogFormat.AUTO,
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
    install_completion: Annotated[
        bool, typer.Option(INSTALL, help="Let this shell (bash, zsh or fish) complete commands; or name one after it.")
    ] = False,
    show_completion: Annotated[
        bool, typer.Option(SHOW, help="Print the script that does so, for this shell or the one named after it.")
    ] = False,
) -> None:
    """Options of every command, before its name or after it. :meth:`CommandGroup.invoke` obeys them."""


def _configure_logging(*, verbose: bool, log_level: str, wait_for_database: float | None) -> None:
    from projections import logs  # noqa: PLC0415 - takes as long to load as all that help and --version need

    in_json = stderr_gets_json()
    remember_output_options(verbose=verbose, in_json=in_json, wait_for_database=wait_for_database)
    logs.configure(LogLevel(log_level).value, "json" if in_json else "text")
    logs.catch_everything()


def common_options_first(arguments: Iterable[str]) -> list[str]:
    """Move the options of every command to where Typer reads them: before the command's name."""
    common: list[str] = []
    rest: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--" or rest == ["db", "psql"]:  # the rest is for psql
            rest += [argument, *left]
        elif argument in ("-v", "--verbose") or argument.startswith(tuple(f"{name}=" for name in VALUE_OPTIONS)):
            common.append(argument)
        elif argument in VALUE_OPTIONS:
            common += [argument, *islice(left, 1)]
        else:
            rest.append(argument)
    return common + rest


def _print_usage_error(error: Any) -> None:  # noqa: ANN401 - of a private class of Typer's
    context, message = error.ctx, error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help())
        return
    print_message(f"projections: {message}", level=LogLevel.ERROR)
    if context is not None:
        print_message(f"{context.get_usage()} (see {context.command_path} --help)", level=LogLevel.ERROR)
