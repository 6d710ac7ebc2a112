"""How commands talk: data on stdout, progress and errors on stderr, exit codes 0, 1 and 2."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from functools import wraps
from typing import ParamSpec, TypeVar

import typer

from eventstore.errors import ConfigurationError, describe
from eventstore.redact import hide_secrets, redact
from projections import logs
from projections.errors import ProjectionsError, UsageError

FAILED = 1
ASKED_WRONGLY = 2

_P = ParamSpec("_P")
_R = TypeVar("_R")


class LogLevel(StrEnum):
    """The least important thing that is still told."""

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


def set_up_output(*, verbose: bool, level: LogLevel, style: LogFormat, wait_for_database: float | None = None) -> None:
    """Remember the options of every command, for the whole process."""
    _Settings.verbose = verbose
    _Settings.wait_for_database = wait_for_database
    logs.configure(level.value, style.value)


def wait_for_database_seconds() -> float | None:
    """Return how long to wait for the database, as the option says; None when it wasn't given."""
    return _Settings.wait_for_database


def say(line: str) -> None:
    """Tell people something, on stderr; what it repeats from outside was redacted where it came in."""
    sys.stderr.write(hide_secrets(line) + "\n")
    sys.stderr.flush()


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with what it counts: of one, or of several (``one`` with an s, if not given)."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


@contextmanager
def errors_said() -> Iterator[None]:
    """Turn an error into one sentence on stderr and an exit code; a traceback only when asked for."""
    try:
        yield
    except (ConfigurationError, UsageError) as error:
        _end(error, ASKED_WRONGLY)
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
    if _Settings.verbose:
        say(redact("".join(traceback.format_exception(error)).rstrip()))
    said = str(error) if isinstance(error, ProjectionsError) else describe(error)
    say(f"projections: {said}" if of is None else f"projections: {of}: {said}")


def say_left_out(broken: Mapping[str, str]) -> None:
    """Say which projections don't get their turn, and why."""
    for name, why in broken.items():
        say(f"projections: {name} is left out: {why}")


def _end(error: BaseException, code: int) -> None:
    say_error(error)
    raise typer.Exit(code) from None
