"""Progress and trouble on stderr: plain lines for people, JSON for machines, nothing secret in either."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO, cast

import structlog

from eventstore.redact import hide_secrets, redact, redact_value

QUIET_LIBRARIES = ("httpx2", "httpcore2", "authlib", "asyncio", "grpc", "alembic", "psycopg", "psycopg.pq")

OUR_PACKAGES = ("eventstore", "projections")
_STRICTLY = ("exception", "stack")


def configure(level: str = "info", style: Literal["text", "json"] = "text") -> None:
    """Send every log line of the process, libraries' included, redacted to stderr.

    Args:
        level: debug, info, warning or error.
        style: ``text`` for people, ``json`` for one object a line.

    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[*shared, renderer],
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
    for name in QUIET_LIBRARIES:  # their trouble is of interest; their progress isn't, nor at debug their every step
        logging.getLogger(name).setLevel(max(number, logging.WARNING) if number > logging.DEBUG else logging.INFO)
    # It warns of errors "ignored" while it raises them all the same; we say those in our own words.
    logging.getLogger("psycopg").setLevel(logging.ERROR)


class _Logger(structlog.WriteLogger):
    """Writes to stderr, and knows whose logger it is."""

    def __init__(self, name: str = "") -> None:
        super().__init__(cast("TextIO", _Stderr()))
        self.name = name


class _Stderr:
    """Whatever ``sys.stderr`` is at the moment: a live view puts itself there, and shows lines above it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _redact(logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Hide secrets in everything; what may be a phone number only in what isn't ours, and in tracebacks.

    Texts in our own fields were redacted where they came in, and numbers in them are positions and counts.
    """
    record = event.get("_record")
    name = getattr(logger, "name", "") if record is None else record.name
    clean = hide_secrets if name.partition(".")[0] in OUR_PACKAGES else redact
    return {
        key: value if key.startswith("_") else redact_value(value, redact if key in _STRICTLY else clean)
        for key, value in event.items()
    }
