"""How commands write: data on stdout, messages and errors on stderr; exit codes 0, 1 and 2.

Every line that a command writes goes through :func:`print_data`, :func:`print_json` or :func:`print_message`, and every
table through :func:`projections.cli.shared.console.new_console`: only these make text from outside safe to show.

Help and ``--version`` load this module, so it loads nothing that takes long: neither logging nor Rich.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum

from eventstore.errors import UsageError, describe, is_driver_error, unwrap_driver_error
from eventstore.redaction.redact import hide_secrets, redact
from projections.errors import ProjectionsError
from projections.json_value import json_value
from projections.terminal_text import json_text, replace_unencodable, traceback_lines, visible

FAILED = 1
USAGE_ERROR = 2
LACKS_PRIVILEGE = "42501"
"""The SQLSTATE of a role that lacks a privilege."""


class LogLevel(StrEnum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """Whether people or machines read stderr; see :mod:`projections.stderr_style`."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


class _Options:
    verbose = False
    wait_for_database: float | None = None
    in_json = False


def remember_output_options(
    *, verbose: bool = False, in_json: bool = False, wait_for_database: float | None = None
) -> None:
    """Remember the options of every command, for the whole process."""
    _Options.verbose = verbose
    _Options.in_json = in_json
    _Options.wait_for_database = wait_for_database
    replace_unencodable(sys.stdout, sys.stderr)


def wait_for_database_seconds() -> float | None:
    """Return the value of --wait-for-database; None when it wasn't given."""
    return _Options.wait_for_database


def stderr_gets_json() -> bool:
    """Whether each line on stderr is a JSON object."""
    return _Options.in_json


def stderr_is_interactive() -> bool:
    """Whether stderr is a terminal that people look at, where lines may be drawn again."""
    return not _Options.in_json and sys.stderr.isatty()


def print_data(line: str) -> None:
    """Write a line of the command's result to stdout."""
    _write_stdout(visible(line))


def print_candidate(value: str, meaning: str) -> None:
    """Write a candidate of shell completion to stdout: its value, and after a tab its meaning."""
    _write_stdout(f"{visible(value)}\t{visible(meaning)}" if meaning else visible(value))


def print_json(document: object) -> None:
    """Write the exact value to stdout, as one JSON document; see :func:`projections.json_value.json_value`."""
    _write_stdout(json_text(json_value(document), indent=2, stream=sys.stdout))


def print_json_line(document: object) -> None:
    """Write the exact value to stdout, as JSON in one line, for a command that writes one for each of its results."""
    _write_stdout(json_text(json_value(document), stream=sys.stdout))


def print_message(line: str, *, level: LogLevel = LogLevel.INFO, keep_secrets: bool = False) -> None:
    """Write a line to stderr; text from outside in it was redacted where it was received.

    Args:
        line: one line.
        level: how serious it is, for machines.
        keep_secrets: for a token that isn't secret.

    """
    _write_stderr(line if keep_secrets else hide_secrets(line), level)


def print_error(error: BaseException, *, of: str | None = None) -> None:
    """Write what went wrong (and with what) to stderr as one sentence, with --verbose after the traceback."""
    fields = {}
    if _Options.verbose:
        lines = [redact(line) for line in traceback_lines(error)]
        if _Options.in_json:
            fields["exception"] = "\n".join(lines)
        else:
            sys.stderr.write("\n".join(lines) + "\n")
    sentence = str(error) if isinstance(error, (ProjectionsError, UsageError)) else _describe_with_advice(error)
    line = f"projections: {sentence}" if of is None else f"projections: {of}: {sentence}"
    _write_stderr(hide_secrets(line), LogLevel.ERROR, **fields)


def print_left_out(reasons: Mapping[str, str]) -> None:
    """Write to stderr which projections are left out, and why."""
    for name, why in reasons.items():
        print_message(f"projections: {name} is left out: {why}", level=LogLevel.ERROR)


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number with what it counts: of one, or of several (``one`` with an s, if not given)."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _describe_with_advice(error: BaseException) -> str:
    cause = unwrap_driver_error(error)
    if is_driver_error(cause) and cause.sqlstate == LACKS_PRIVILEGE:
        return f"{describe(error)}; this role may not do that: see projections docs operations"
    return describe(error)


def _write_stdout(text: str) -> None:
    # Not typer.echo, which writes UTF-8 to a stdout that says it takes ASCII.
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _write_stderr(line: str, level: LogLevel, **fields: str) -> None:
    if _Options.in_json:
        timestamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        entry = {"event": line, "level": level.value, "timestamp": timestamp, **fields}
        sys.stderr.write(json_text(entry, stream=sys.stderr) + "\n")
    else:
        sys.stderr.write(visible(line) + "\n")
    sys.stderr.flush()
