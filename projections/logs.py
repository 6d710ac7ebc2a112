"""Configures logging to stderr: plain lines for people, or one JSON object a line for machines, without secrets.

Invariants. Everything that is logged goes through here: our log lines, those of libraries, warnings, and errors that
nobody caught. Secrets are hidden in every line, and possible phone numbers in lines of libraries and in tracebacks;
in our own lines, texts from outside were redacted where they were received. Characters that control a terminal are
escaped.
"""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, LogLevelColumnFormatter

from eventstore.redaction.redact import hide_secrets, redact, redact_value
from projections.recent_log import recent_log
from projections.terminal_text import json_text, traceback_lines, visible

QUIET_LIBRARIES = ("httpx2", "httpcore2", "authlib", "asyncio", "grpc", "alembic", "psycopg", "psycopg.pq")
OUR_PACKAGES = ("eventstore", "projections")
_STRICTLY = ("exception", "stack")
_NEEDS_QUOTES = frozenset(" =\"'")


def configure(level: str = "info", style: Literal["text", "json"] = "text") -> None:
    """Write every log line and warning of the process, those of libraries included, to stderr, redacted.

    Args:
        level: debug, info, warning or error.
        style: ``text`` for people, ``json`` for one object a line.

    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_traceback),
        _redact,
    ]
    renderer: structlog.typing.Processor = _as_json if style == "json" else _text_renderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*shared, recent_log.remember, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_Logger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redact, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # We want the warnings of these libraries, but not their progress; at level debug, not each of their steps.
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(number, logging.WARNING) if number > logging.DEBUG else logging.INFO)
    # psycopg warns of errors that it "ignored" and raises them anyway; we log those ourselves.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)


def catch_everything() -> None:
    """Log what Python itself would print: uncaught errors, in any thread, and errors in code that can't raise."""

    def uncaught(kind: type[BaseException], error: BaseException, _where: TracebackType | None) -> None:
        structlog.get_logger("python").error("uncaught error", error=kind.__name__, exc_info=error)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            structlog.get_logger("python").error("uncaught error in a thread", exc_info=args.exc_value)

    def unraisable(args: Any) -> None:  # noqa: ANN401 - the type exists for type checkers only
        structlog.get_logger("python").error(str(args.err_msg or "ignored error"), exc_info=args.exc_value)

    sys.excepthook = uncaught
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable


class _Logger(structlog.WriteLogger):
    """A logger that writes to stderr and has a name: that of the module that logs."""

    def __init__(self, name: str = "") -> None:
        super().__init__(cast("TextIO", _Stderr()))
        self.name = name


class _Stderr:
    """Writes to the current ``sys.stderr``: a live view replaces it, and prints the lines above itself."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _redact(logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Hide secrets in every line; hide possible phone numbers only in lines of libraries and in tracebacks.

    Texts from outside were redacted where we received them, so the numbers in our own fields are positions and counts.
    """
    record = event.get("_record")
    name = getattr(logger, "name", "") if record is None else record.name
    clean = hide_secrets if name.partition(".")[0] in OUR_PACKAGES else redact
    return {
        key: value if key.startswith("_") else redact_value(value, redact if key in _STRICTLY else clean)
        for key, value in event.items()
    }


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    return "\n".join(traceback_lines(exc_info[1]))


def _as_json(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    return json_text(event, stream=sys.stderr, default=repr)


def _text_renderer(*, colors: bool) -> ConsoleRenderer:
    styles = ConsoleRenderer.get_default_column_styles(colors=colors)
    levels = ConsoleRenderer.get_default_level_styles(colors=colors)
    reset = styles.reset
    return ConsoleRenderer(
        columns=[
            Column("", KeyValueColumnFormatter(styles.kv_key, styles.kv_value, reset, value_repr=_shown)),
            Column("timestamp", KeyValueColumnFormatter(None, styles.timestamp, reset, value_repr=str)),
            Column("level", LogLevelColumnFormatter(levels, reset_style=reset)),
            Column("event", KeyValueColumnFormatter(None, styles.bright, reset, lambda text: visible(str(text)))),
        ],
        exception_formatter=structlog.dev.plain_traceback,
    )


def _shown(value: object) -> str:
    if not isinstance(value, str):
        return visible(repr(value))
    text = visible(value)
    if not _NEEDS_QUOTES & {*text}:
        return text
    quote = '"' if "'" in text and '"' not in text else "'"
    return f"{quote}{text.replace(quote, chr(92) + quote)}{quote}"
