"""Decides whether stderr gets lines of text or of JSON, from the command line and the environment alone.

``--log-format`` decides, or else ``PROJECTIONS_LOG_FORMAT``. With ``auto``, the default, a command that runs until it
is stopped writes text on a terminal and JSON elsewhere, where a log collector reads it. The other commands write
sentences for people in both cases: in a pipe, too, mostly a person reads their errors, as the mail of a cron job or the
output of a build.

This module is loaded before all others, because an error may come early; so it imports nothing that loads slowly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

LONG_RUNNING = ("run", "ingest", "simulate", "dashboard")
"""The commands that run until they are stopped, and log meanwhile."""
VALUE_OPTIONS = ("--log-level", "--log-format", "--wait-for-database")
"""The options of every command that have a value."""
VARIABLE = "PROJECTIONS_LOG_FORMAT"


def writes_json_to_stderr(arguments: Sequence[str], environment: Mapping[str, str], *, is_terminal: bool) -> bool:
    """Return whether stderr gets JSON.

    Args:
        arguments: those of the command line, without the program's name; they may be invalid.
        environment: the environment.
        is_terminal: whether stderr is a terminal.

    """
    chosen = last_value(arguments, "--log-format") or environment.get(VARIABLE)
    if chosen in ("json", "text"):
        return chosen == "json"
    return not is_terminal and next(_words(arguments), None) in LONG_RUNNING


def last_value(arguments: Sequence[str], option: str) -> str | None:
    """Return the last value that the command line gives to an option; None without one."""
    found = None
    for number, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            found = argument.removeprefix(f"{option}=")
        elif argument == option:
            found = next(iter(arguments[number + 1 :]), None)
    return found


def _words(arguments: Iterable[str]) -> Iterator[str]:
    """Yield the arguments that are neither options nor values of the options of every command."""
    left = iter(arguments)
    for argument in left:
        if argument in VALUE_OPTIONS:
            next(left, None)
        elif not argument.startswith("-"):
            yield argument
