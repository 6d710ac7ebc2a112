"""How a command ends after an error: one sentence on stderr, and an exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import typer

from eventstore.errors import UsageError
from projections import signals
from projections.cli.shared.output import FAILED, USAGE_ERROR, LogLevel, print_error, print_message

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def errors_handled() -> Iterator[None]:
    """Turn an error into one sentence on stderr and an exit code; a traceback is printed only with --verbose."""
    signals.unwind_from_now()
    try:
        yield
    except UsageError as error:
        print_error(error)
        raise typer.Exit(USAGE_ERROR) from None
    except signals.Interrupted as interrupted:
        print_message(signals.SENTENCE, level=LogLevel.ERROR)
        raise typer.Exit(int(str(interrupted.code))) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):  # the last: our reader has read enough; Typer ends silently
        raise
    except Exception as error:  # noqa: BLE001 - Python would print its values, phone numbers and tokens among them
        print_error(error)
        raise typer.Exit(FAILED) from None


def handles_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a command with :func:`errors_handled`."""

    @wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with errors_handled():
            return command(*args, **kwargs)

    return wrapped
