"""How commands talk: data on stdout, progress and errors on stderr, exit codes 0, 1 and 2.

Every line that a command writes goes through :func:`echo` or :func:`say`, and every table through :func:`console`:
they are the one place where text from outside is made safe to show.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from eventstore.errors import UsageError, describe
from eventstore.redaction.redact import hide_secrets, redact
from projections import logs, signals
from projections.errors import ProjectionsError
from projections.terminal_text import json_text, replace_unencodable, traceback_lines, visible

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
ASKED_WRONGLY = 2
PIPE_WIDTH = 160
"""Columns of a table that goes into a file or a pipe, where nothing limits them."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


class LogLevel(StrEnum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """Who reads the log."""

    TEXT = "text"
    JSON = "json"


class _Settings:
    verbose = False
    wait_for_database: float | None = None
    style = LogFormat.TEXT


def set_up_output(*, verbose: bool, level: LogLevel, style: LogFormat, wait_for_database: float | None = None) -> None:
    """Remember the options of every command, for the whole process."""
    _Settings.verbose = verbose
    _Settings.style = style
    _Settings.wait_for_database = wait_for_database
    replace_unencodable(sys.stdout, sys.stderr)
    logs.configure(level.value, style.value)


def wait_for_database_seconds() -> float | None:
    """Return how long to wait for the database, as the option says; None when it wasn't given."""
    return _Settings.wait_for_database


def is_shown_to_people() -> bool:
    """Whether stderr is a terminal on which something may move, and not a log for machines."""
    return _Settings.style is LogFormat.TEXT and sys.stderr.isatty()


def echo(line: str) -> None:
    """Write a line of data to stdout."""
    _put(visible(line))


def echo_json(value: Any, default: Callable[[Any], Any] = str) -> None:  # noqa: ANN401 - any JSON
    """Write exactly this value to stdout, as JSON."""
    _put(json_text(value, indent=2, default=default, stream=sys.stdout))


def say(line: str, *, level: LogLevel = LogLevel.INFO, keep_secrets: bool = False) -> None:
    """Tell people something, on stderr; what it repeats from outside was redacted where it came in.

    Args:
        line: one line.
        level: how bad it is, for machines.
        keep_secrets: for a token that everybody may know.

    """
    _write(line if keep_secrets else hide_secrets(line), level)


def console(*, stderr: bool = False) -> Console:
    """Return what draws tables; text in them is shown as it is, after :func:`visible`."""
    from rich.console import Console  # noqa: PLC0415 - loaded when it runs

    is_cut_nowhere = not (sys.stderr if stderr else sys.stdout).isatty() and "COLUMNS" not in os.environ
    width = PIPE_WIDTH if is_cut_nowhere else None
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with what it counts: of one, or of several (``one`` with an s, if not given)."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


@contextmanager
def errors_said() -> Iterator[None]:
    """Turn an error into one sentence on stderr and an exit code; a traceback only when asked for."""
    signals.unwind_from_now()
    try:
        yield
    except UsageError as error:
        _end(error, ASKED_WRONGLY)
    except signals.Interrupted as interrupted:
        say(signals.SENTENCE, level=LogLevel.ERROR)
        raise typer.Exit(int(str(interrupted.code))) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):  # of the last, whoever read us has enough, typer says nothing
        raise
    except Exception as error:  # noqa: BLE001 - Python would show its values, phone numbers and tokens among them
        _end(error, FAILED)


def says_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a command with :func:`errors_said`."""

    @wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with errors_said():
            return command(*args, **kwargs)

    return wrapped


def say_error(error: BaseException, *, of: str | None = None) -> None:
    """Say what went wrong (and with what) in one sentence, after the traceback when that was asked for."""
    fields = {}
    if _Settings.verbose:
        lines = [redact(line) for line in traceback_lines(error)]
        if _Settings.style is LogFormat.JSON:
            fields["exception"] = "\n".join(lines)
        else:
            sys.stderr.write("\n".join(lines) + "\n")
    said = str(error) if isinstance(error, (ProjectionsError, UsageError)) else describe(error)
    _write(
        hide_secrets(f"projections: {said}" if of is None else f"projections: {of}: {said}"), LogLevel.ERROR, **fields
    )


def say_left_out(broken: Mapping[str, str]) -> None:
    """Say which projections are left out, and why."""
    for name, why in broken.items():
        say(f"projections: {name} is left out: {why}", level=LogLevel.ERROR)


def _put(text: str) -> None:
    # Not typer.echo, which writes UTF-8 to a stdout that says it takes ASCII.
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _write(line: str, level: LogLevel, **fields: str) -> None:
    if _Settings.style is LogFormat.JSON:
        sys.stderr.write(logs.json_line(level.value, line, **fields))
    else:
        sys.stderr.write(visible(line) + "\n")
    sys.stderr.flush()


def _end(error: BaseException, code: int) -> None:
    say_error(error)
    raise typer.Exit(code) from None
