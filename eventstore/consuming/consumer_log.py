"""The log of consumers: they run in programs of others, whose logging is their own affair.

Lines go to Python's logger ``eventstore.consumer``, as text, and not through structlog's
configuration, which is that of our own commands.
"""

from __future__ import annotations

import logging

import structlog


def _as_text(_logger: object, _level: str, fields: structlog.typing.EventDict) -> str:
    what = fields.pop("event")
    return " ".join([str(what), *(f"{name}={value!r}" for name, value in fields.items())])


log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger("eventstore.consumer"), processors=[_as_text], wrapper_class=structlog.stdlib.BoundLogger
)
